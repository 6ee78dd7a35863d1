"""One request's way, top to bottom.

`serve` is the whole of it; what it calls computes and returns, or waits for the peer. Two
coarse native calls carry a request: `gate.begin` makes of its bytes everything up to the
outgoing head (steps 1 to 4), `plan.answer` makes of the answer's bytes everything after it
(steps 7 and 8). Where a budget matches, step 5 waits for a turn of the ledger that all requests
of the moment share (`turns`). Whatever happens to an exchange, exactly one record of it is
written: by the native call that ends it, by `give_up`, or by `record_refused`.
"""

from modelux import clock
from modelux._native import (
    FAULT_CALLER_GONE,
    FAULT_CONNECT,
    FAULT_SHUTDOWN,
    FAULT_TIMEOUT,
    STEP_CUT,
    STEP_DONE,
    STEP_FAILED,
    STEP_MORE,
    VERDICT_COUNT,
    VERDICT_GO,
    VERDICT_STOPPED,
    Plan,
)
from modelux.proxy import reply
from modelux.proxy.connection import (
    ANSWER,
    CONNECTION,
    LEDGER,
    NOTHING,
    ClientConnection,
    Event,
    Exchange,
    Happening,
)
from modelux.proxy.intake import read_request
from modelux.proxy.shell import Shell
from modelux.proxy.upstream import Pool, UpstreamConnection


def serve(caller: ClientConnection, shell: Shell) -> Exchange[None]:
    """Serve one caller's connection, request after request, until one of the two ends it."""
    while True:
        # 1 read, 2 identify, 3 understand, 4 route. A refusal has been answered in there.
        plan = yield from read_request(caller, shell)
        if plan is None:
            return
        pools = shell.pools
        caller.plan = plan
        if shell.draining:
            plan.forbid_keep_alive()
        while True:
            # 5 reserve: nothing of an attempt leaves before its worst case is held.
            step = (yield from _reserve(caller, plan, shell)) if plan.verdict else STEP_MORE
            if step == STEP_MORE:
                # 6 send: the first byte leaves in here.
                pool = pools[plan.provider_index]
                reached: Happening | None = None if plan.wants_fresh_connection else pool.take()
                if reached is None:
                    reached = yield from _connect(caller, plan, pool)
                if isinstance(reached, UpstreamConnection):
                    _send(caller, plan, reached)
                    step = yield from _relay(caller, plan, reached)
                    # 7 relay, 8 settle: the answer is out and recorded, or the attempt failed.
                    _release(caller, plan, pool, reached)
                else:
                    step = _not_connected(caller, plan, reached)
            if step != STEP_FAILED:
                break
            if not plan.next():
                _give_up(caller, plan)
                break
        caller.plan = None
        if shell.gate.has_due:
            shell.turns.settle_soon()
        if shell.times.access_log and plan.recorded is not None:
            status, total_us = plan.recorded
            shell.log.info("request", request_id=plan.id, status=status, total_us=total_us)
        if step == STEP_CUT:
            _cut(caller, plan)
            return
        if caller.closed or not plan.keep_alive:
            if caller.closed or not (caller.input or caller.buffered_bytes):
                caller.close()
            else:
                # More was sent than is answered: closed at once, it could cost the answer.
                caller.close_lingering()
            return


def _reserve(caller: ClientConnection, plan: Plan, shell: Shell) -> Exchange[int]:
    """Wait until the attempt's worst case is held. Returns STEP_MORE once it may be sent."""
    while (verdict := plan.verdict) != VERDICT_GO:
        if verdict == VERDICT_STOPPED:
            _refuse(caller, plan)
            return STEP_DONE
        caller.waits_for = LEDGER
        if verdict == VERDICT_COUNT:
            if shell.turns.count(caller, plan):
                caller.waits_for = NOTHING
                continue
        else:
            shell.turns.join(caller)
        caller.set_deadline(plan.deadline_us)
        happened = yield
        caller.waits_for = NOTHING
        if isinstance(happened, Event):
            shell.turns.leave(caller)
            return plan.fault(int(happened))[0]
    return STEP_MORE


def _refuse(caller: ClientConnection, plan: Plan) -> None:
    """Tell a caller that a budget stops its request."""
    answer = reply.stopped(plan, clock.unix_us())
    plan.give_up(answer.status, answer.type, answer.code, answer.message)
    caller.transport.write(answer.wire)


def _connect(caller: ClientConnection, plan: Plan, pool: Pool) -> Exchange[Happening]:
    """Wait for a new connection. Returns it, or what happened instead."""
    now_us = clock.mono_us()
    plan.connecting()
    caller.set_deadline(min(now_us + plan.connect_timeout_us, plan.deadline_us))
    ticket = pool.connect(caller, plan.connect_timeout_us)
    caller.waits_for = CONNECTION
    happened = yield
    caller.waits_for = NOTHING
    if not isinstance(happened, UpstreamConnection):
        pool.leave(ticket)
    return happened


def _release(
    caller: ClientConnection, plan: Plan, pool: Pool, upstream: UpstreamConnection
) -> None:
    """Part with the attempt's connection: kept warm if it may serve again, else closed."""
    caller.upstream = None
    if caller.write_paused and not upstream.closed:
        upstream.transport.resume_reading()
    if plan.reusable:
        pool.give_back(upstream)
    else:
        upstream.abort()


def _send(caller: ClientConnection, plan: Plan, upstream: UpstreamConnection) -> None:
    upstream.owner = caller
    caller.upstream = upstream
    caller.set_deadline(plan.deadline_us)
    if caller.write_paused:
        upstream.transport.pause_reading()
    upstream.transport.write(plan.send())


def _relay(caller: ClientConnection, plan: Plan, upstream: UpstreamConnection) -> Exchange[int]:
    """Pass the answer on as it comes. Returns the step that ended it."""
    write = caller.transport.write
    caller.waits_for = ANSWER
    while True:
        happened = yield
        if type(happened) is bytes:
            step, out = plan.answer(happened)
        else:
            assert isinstance(happened, Event), happened
            step, out = plan.fault(int(happened))
            if plan.drains:
                # Nobody reads it any more, so nobody can be too slow for it.
                upstream.transport.resume_reading()
            elif happened is not Event.EOF:
                upstream.abort()
        if out and not caller.closed:
            write(out)
        if step >= STEP_DONE:
            break
        caller.set_deadline(plan.deadline_us)
    caller.waits_for = NOTHING
    return step


def _not_connected(caller: ClientConnection, plan: Plan, happened: object) -> int:
    """Tell the plan why there is no connection; nothing was sent."""
    now_us = clock.mono_us()
    if happened is Event.CALLER_GONE:
        return plan.fault(FAULT_CALLER_GONE)[0]
    if happened is Event.SHUTDOWN:
        return plan.fault(FAULT_SHUTDOWN)[0]
    if happened is Event.TIMEOUT and now_us >= plan.deadline_us:
        return plan.fault(FAULT_TIMEOUT)[0]
    return plan.fault(FAULT_CONNECT)[0]


def _give_up(caller: ClientConnection, plan: Plan) -> None:
    answer = reply.failure(plan, clock.unix_us())
    # The record first: written before it, an answer could outlive a kill without a trace.
    plan.give_up(answer.status, answer.type, answer.code, answer.message)
    caller.transport.write(answer.wire)


def _cut(caller: ClientConnection, plan: Plan) -> None:
    """Close so that the caller sees that the answer is not whole."""
    if caller.closed:
        caller.abort()
    elif plan.ends_by_close:
        caller.reset()
    else:
        caller.close()
