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
    VERDICT_GATHER,
    VERDICT_GO,
    VERDICT_PAUSE,
    VERDICT_STOPPED,
    VERDICT_WAIT,
    Plan,
)
from modelux.limits import MIRRORED_COUNT_MAX
from modelux.proxy import reply
from modelux.proxy.calls import Call, Calls
from modelux.proxy.connection import ClientConnection
from modelux.proxy.intake import read_request
from modelux.proxy.resumable import (
    ANSWER,
    CONNECTION,
    LEDGER,
    NOTHING,
    PAUSE,
    Event,
    Exchange,
    Happening,
    Resumable,
)
from modelux.proxy.shell import Shell
from modelux.proxy.upstream import Pool, UpstreamConnection


def serve(caller: ClientConnection, shell: Shell) -> Exchange[None]:
    """Serve one caller's connection, request after request, until one of the two ends it."""
    while True:
        # 1 read, 2 identify, 3 understand, 4 route. A refusal has been answered in there.
        plan = yield from read_request(caller, shell)
        if plan is None:
            return
        # What a reload changes meanwhile is not this request's: its record waits for a mirror.
        pools, has_mirrors = shell.pools, shell.times.mirrors
        caller.plan = plan
        if shell.draining:
            plan.forbid_keep_alive()
        step = yield from attempts(caller, plan, pools, shell)
        if step == STEP_FAILED:
            _give_up(caller, plan)
        caller.plan = None
        if shell.gate.has_due:
            shell.turns.settle_soon()
        if has_mirrors and plan.mirrors:
            mirror(plan, pools, shell)
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


def attempts(caller: Resumable, plan: Plan, pools: list[Pool], shell: Shell) -> Exchange[int]:
    """Try one target after another. Returns the step that ended it; STEP_FAILED: nobody can."""
    while True:
        # 5 reserve: nothing of an attempt leaves before its worst case is held.
        verdict = plan.verdict
        step = (yield from _reserve(caller, plan, verdict, shell)) if verdict else STEP_MORE
        if step == STEP_MORE and plan.verdict == VERDICT_GATHER:
            step = yield from gather(caller, plan, pools, shell)
            if step == STEP_MORE:
                # A budget sent it elsewhere.
                continue
        elif step == STEP_MORE:
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
                step = _not_connected(plan, reached)
        if step != STEP_FAILED:
            return step
        if plan.verdict == VERDICT_STOPPED or not plan.next():
            # An answer that was not good enough is better than none.
            step, out = plan.stand()
            if out:
                caller.send(out)
            return step


def _reserve(caller: Resumable, plan: Plan, verdict: int, shell: Shell) -> Exchange[int]:
    """Wait until the attempt may be sent: STEP_MORE. STEP_FAILED: it never may."""
    while verdict not in (VERDICT_GO, VERDICT_GATHER):
        if verdict == VERDICT_STOPPED:
            return STEP_FAILED
        if verdict == VERDICT_PAUSE:
            caller.waits_for = PAUSE
            caller.set_deadline(plan.not_before_us)
        else:
            caller.waits_for = LEDGER
            if verdict == VERDICT_COUNT:
                if shell.turns.count(caller, plan):
                    caller.waits_for = NOTHING
                    verdict = plan.verdict
                    continue
            else:
                shell.turns.join(caller)
            caller.set_deadline(plan.deadline_us)
        happened = yield
        caller.waits_for = NOTHING
        if verdict == VERDICT_PAUSE and happened is Event.TIMEOUT:
            plan.resume()
        elif isinstance(happened, Event):
            shell.turns.leave(caller)
            return plan.fault(int(happened))[0]
        verdict = plan.verdict
    return STEP_MORE


def gather(caller: Resumable, plan: Plan, pools: list[Pool], shell: Shell) -> Exchange[int]:
    """Run the calls of an ensemble side by side. STEP_MORE: a budget sent it elsewhere."""
    members, least, has_judge = plan.members()
    caller.set_deadline(plan.gather_deadline_us)
    if any(member.verdict == VERDICT_WAIT for member in members):
        shell.turns.join_group(caller, (members, least, has_judge))
        caller.waits_for = LEDGER
        happened = yield
        caller.waits_for = NOTHING
        if isinstance(happened, Event):
            shell.turns.leave(caller)
            for member in members:
                if member.verdict in (VERDICT_GO, VERDICT_WAIT):
                    # What the turn may have held for it is free again.
                    member.fault(FAULT_CALLER_GONE)
            return plan.fault(int(happened))[0]
    judge = members.pop() if has_judge else None
    if all(member.verdict == VERDICT_STOPPED for member in members):
        plan.adopt_stop(members if judge is None else [*members, judge])
        return STEP_MORE
    calls = Calls(caller, shell, lambda call, own: attempts(call, own, pools, shell))
    for member in members:
        if member.verdict == VERDICT_STOPPED:
            plan.take_member(member)
        else:
            calls.begin(member)
    fault = yield from calls.wait(plan.take_member)
    if fault is None and judge is not None and plan.brief_judge(judge):
        calls.begin(judge)
        fault = yield from calls.wait(lambda _: True)
        plan.take_judge(judge)
    elif judge is not None:
        # It was never asked: what was held for it is free again.
        judge.fault(FAULT_CALLER_GONE)
    if fault is not None and fault is not Event.TIMEOUT:
        return plan.fault(int(fault))[0]
    step, out = plan.gathered()
    if out:
        caller.send(out)
    return step


def mirror(plan: Plan, pools: list[Pool], shell: Shell) -> None:
    """Mirror a request whose caller has its answer: its record waits for what becomes of it."""
    shadow = plan.mirror() if len(shell.calls) < MIRRORED_COUNT_MAX else None
    if shadow is None:
        plan.mirrored()
        return
    Call(
        shadow, shell, lambda call, own: attempts(call, own, pools, shell), plan.mirrored
    ).begin()


def _connect(caller: Resumable, plan: Plan, pool: Pool) -> Exchange[Happening]:
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


def _release(caller: Resumable, plan: Plan, pool: Pool, upstream: UpstreamConnection) -> None:
    """Part with the attempt's connection: kept warm if it may serve again, else closed."""
    caller.upstream = None
    if caller.write_paused and not upstream.closed:
        upstream.transport.resume_reading()
    if plan.reusable:
        pool.give_back(upstream)
    else:
        upstream.abort()


def _send(caller: Resumable, plan: Plan, upstream: UpstreamConnection) -> None:
    upstream.owner = caller
    caller.upstream = upstream
    caller.set_deadline(plan.deadline_us)
    if caller.write_paused:
        upstream.transport.pause_reading()
    upstream.transport.write(plan.send())


def _relay(caller: Resumable, plan: Plan, upstream: UpstreamConnection) -> Exchange[int]:
    """Pass the answer on as it comes. Returns the step that ended it."""
    write = caller.send
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
        if out:
            write(out)
        if step >= STEP_DONE:
            break
        caller.set_deadline(plan.deadline_us)
    caller.waits_for = NOTHING
    return step


def _not_connected(plan: Plan, happened: object) -> int:
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
    is_stopped = plan.verdict == VERDICT_STOPPED
    answer = (reply.stopped if is_stopped else reply.failure)(plan, clock.unix_us())
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
