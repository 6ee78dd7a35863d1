"""Reading requests: bytes of a caller until the gate can decide.

The common case is one read that holds a whole request: one native call. Everything else here
is for callers that send in pieces: a head or a body in several reads, a chunked body,
`Expect: 100-continue`, several requests at once. Slow ones are answered 408 and closed.
"""

from modelux import clock
from modelux._native import ChunkedDecoder, Local, Need, Plan, Refused
from modelux.limits import KIB
from modelux.proxy import reply
from modelux.proxy.connection import ClientConnection
from modelux.proxy.resumable import FAR_FUTURE_US, NOTHING, REQUEST, ROOM, Exchange
from modelux.proxy.shell import Shell

PROGRESS_BYTES: int = 64 * KIB
"""A body earns another `client_body_timeout_s` with each of these: a drip does not."""


def read_request(caller: ClientConnection, shell: Shell) -> Exchange[Plan | None]:
    """Read until one request is let in. Refusals and local answers are written in here.

    Returns:
        The plan of the request; None when the connection is to end or has ended.
    """
    while True:
        if caller.write_paused and not (yield from _room(caller, shell)):
            return None
        if caller.buffered_bytes:
            caller.unread(caller.input)
        data = caller.input
        if not data:
            caller.set_deadline(shell.wheel.now_us + shell.times.client_keepalive_us)
            caller.waits_for = REQUEST
            happened = yield
            caller.waits_for = NOTHING
            if type(happened) is not bytes:
                if not caller.closed:
                    caller.close()
                return None
            caller.input = data = happened
        begun = shell.gate.begin(data, None, caller.peer)
        if isinstance(begun, Plan):
            caller.unread(data[begun.consumed :])
            return begun
        whole: Plan | Local | Refused | None
        if isinstance(begun, Need):
            whole = yield from _read_on(caller, shell, begun)
        else:
            whole = begun
        if whole is None or isinstance(whole, Plan):
            return whole
        if not _answer(caller, shell, whole):
            return None


def _read_on(
    caller: ClientConnection, shell: Shell, need: Need
) -> Exchange[Plan | Local | Refused | None]:
    """Read on until the request is whole, refused, or its caller gone (None)."""
    head_until_us = clock.mono_us() + shell.times.client_header_timeout_us
    while True:
        if need.expect_continue:
            caller.transport.write(reply.continue_wire())
        if need.head_bytes:
            return (yield from _read_chunked(caller, shell, need.head_bytes))
        if need.total_bytes:
            whole = yield from _read_length(caller, shell, need.total_bytes)
        else:
            caller.set_deadline(head_until_us)
            whole = yield from _data(caller)
            if whole is not None:
                caller.input += whole
        if whole is None:
            return _too_slow(caller, shell)
        begun = shell.gate.begin(caller.input, None, caller.peer)
        if isinstance(begun, Need):
            need = begun
            continue
        if isinstance(begun, Plan):
            caller.unread(caller.input[begun.consumed :])
        return begun


def _read_length(
    caller: ClientConnection, shell: Shell, total_bytes: int
) -> Exchange[bytes | None]:
    """Read until `total_bytes` are there, however many reads it takes."""
    # One buffer: a part for each read would cost a caller's drip fifty times its bytes.
    buffer = bytearray(caller.input)
    have_bytes = len(buffer)
    progress_bytes = have_bytes
    caller.set_deadline(clock.mono_us() + shell.times.client_body_timeout_us)
    while have_bytes < total_bytes:
        data = yield from _data(caller)
        if data is None:
            return None
        buffer += data
        have_bytes += len(data)
        if have_bytes - progress_bytes >= PROGRESS_BYTES:
            progress_bytes = have_bytes
            caller.set_deadline(clock.mono_us() + shell.times.client_body_timeout_us)
    caller.input = bytes(buffer)
    return caller.input


def _read_chunked(
    caller: ClientConnection, shell: Shell, head_bytes: int
) -> Exchange[Plan | Local | Refused | None]:
    head, data = caller.input[:head_bytes], caller.input[head_bytes:]
    decoder = ChunkedDecoder()
    body = bytearray()
    progress_bytes = 0
    received_bytes = 0
    caller.set_deadline(clock.mono_us() + shell.times.client_body_timeout_us)
    while True:
        try:
            payload, consumed, done = decoder.feed(data)
        except ValueError as fault:
            return _refuse(caller, shell, head, "invalid_request", str(fault))
        body += payload
        received_bytes += len(data)
        if len(body) > shell.times.body_bytes_max:
            message = (
                f"the body has more than {shell.times.body_bytes_max} bytes, `body_bytes_max`"
            )
            return _refuse(caller, shell, head, "body_too_large", message)
        if done:
            begun = shell.gate.begin(head, bytes(body), caller.peer)
            assert not isinstance(begun, Need), "a head with its whole body needs nothing more"
            caller.input = data[consumed:]
            if isinstance(begun, Plan):
                caller.unread(caller.input)
            else:
                # `_answer` cuts off what the request took: here that is cut off already.
                caller.input = head + caller.input
            return begun
        if received_bytes - progress_bytes >= PROGRESS_BYTES:
            progress_bytes = received_bytes
            caller.set_deadline(clock.mono_us() + shell.times.client_body_timeout_us)
        more = yield from _data(caller)
        if more is None:
            caller.input = head
            return _too_slow(caller, shell)
        data = more


def _too_slow(caller: ClientConnection, shell: Shell) -> Refused | None:
    """Refuse a caller that stopped sending; None if it left."""
    if caller.closed:
        return None
    if not caller.input.strip(b"\r\n"):
        # An empty line behind the last request is no request: nobody waits for an answer.
        caller.close()
        return None
    message = (
        "the request did not arrive in time; see `client_header_timeout_s` and "
        "`client_body_timeout_s`"
    )
    return _refuse(caller, shell, caller.input, "client_timeout", message)


def _refuse(
    caller: ClientConnection, shell: Shell, data: bytes, code: str, message: str
) -> Refused:
    refused = shell.gate.refuse(data, code, message)
    assert isinstance(refused, Refused), refused
    caller.input = b""
    return refused


def _answer(caller: ClientConnection, shell: Shell, begun: Local | Refused) -> bool:
    """Write an answer that no provider gave. Returns whether the connection goes on."""
    keep_alive = begun.keep_alive and not shell.draining
    if isinstance(begun, Local):
        wire = reply.local(begun, clock.unix_us(), keep_alive=keep_alive)
        caller.transport.write(wire)
    else:
        answer = reply.refusal(begun, clock.unix_us(), keep_alive=keep_alive)
        body = caller.input[: begun.consumed] if begun.keep_alive else b""
        body = body.partition(b"\r\n\r\n")[2]
        # The record first: written before it, an answer could outlive a kill without a trace.
        shell.gate.record_refused(begun, answer.status, answer.type, body)
        caller.transport.write(answer.wire)
        if shell.times.access_log:
            shell.log.info(
                "request", request_id=begun.id, status=answer.status, error=answer.code
            )
    if keep_alive:
        caller.unread(caller.input[begun.consumed :])
        return True
    caller.close_lingering()
    return False


def _data(caller: ClientConnection) -> Exchange[bytes | None]:
    """Wait for bytes of the caller; None when its time is up or it left."""
    caller.waits_for = REQUEST
    happened = yield
    caller.waits_for = NOTHING
    if type(happened) is bytes:
        return happened
    caller.deadline_us = FAR_FUTURE_US
    return None


def _room(caller: ClientConnection, shell: Shell) -> Exchange[bool]:
    """Wait until a caller that reads slowly has room for another answer."""
    caller.set_deadline(clock.mono_us() + shell.times.client_body_timeout_us)
    caller.waits_for = ROOM
    happened = yield
    caller.waits_for = NOTHING
    return type(happened) is bytes
