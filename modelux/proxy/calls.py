"""Calls that one request makes beside others: an ensemble's members, its judge, a mirror.

A call runs the same attempts as a request of its own would (`exchange.attempts`), over its own
connection and with its own hold; only nobody reads what it writes. When it is over, whoever
began it takes it in. A request never waits for a call that it does not need: what is late is
cancelled, and what it has used is settled like any other answer that was cut.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, final

from modelux._native import Plan
from modelux.proxy.resumable import CALLS, NOTHING, Event, Exchange, Resumable

if TYPE_CHECKING:
    from modelux.proxy.shell import Shell


@final
class Call(Resumable):
    """One call and what it waits for."""

    __slots__ = ("_ended", "_is_over", "_run_attempts")

    def __init__(
        self,
        plan: Plan,
        shell: "Shell",
        run_attempts: "Callable[[Resumable, Plan], Exchange[int]]",
        ended: Callable[[Plan], object],
    ) -> None:
        """Make a call that has not begun.

        Args:
            plan: What it does.
            shell: Of this worker.
            run_attempts: The generator that runs the attempts of a plan.
            ended: Told once, when the call is over.
        """
        super().__init__(shell)
        self.plan = plan
        self._run_attempts = run_attempts
        self._ended = ended
        self._is_over = False

    def begin(self) -> None:
        """Run up to the first thing that it has to wait for."""
        self._shell.calls.add(self)
        assert self.plan is not None
        self._exchange = self._alone(self.plan)
        self._run(None)

    def cancel(self) -> None:
        """End it: nobody needs its answer any more."""
        if not self._is_over:
            self._run(Event.CALLER_GONE)

    def shut_down(self) -> None:
        """End it: this process has to go."""
        if not self._is_over:
            self._run(Event.SHUTDOWN)

    def send(self, data: bytes) -> None:
        """Drop what nobody reads; the plan keeps the answer."""

    def abort(self) -> None:
        """Do nothing: there is no connection to close."""

    def is_over(self) -> bool:
        """Return whether this call needs no more watching."""
        return self._is_over

    def deadline_passed(self) -> None:
        """End a wait that took too long."""
        if not self._is_over and self.waits_for != NOTHING:
            self._run(Event.TIMEOUT)

    def _alone(self, plan: Plan) -> Exchange[None]:
        yield from self._run_attempts(self, plan)

    def _over(self) -> None:
        self._is_over = True
        self.closed = True
        self._shell.calls.discard(self)
        if self._shell.gate.has_due:
            self._shell.turns.settle_soon()
        assert self.plan is not None
        self._ended(self.plan)

    def _failed(self, bug: BaseException) -> None:
        plan = self.plan
        assert plan is not None
        self._shell.report_bug(self, bug)
        self.plan = plan
        self._over()


@final
class Calls:
    """The calls that one exchange runs side by side and waits for."""

    __slots__ = ("_begun", "_caller", "_over", "_run_attempts", "_shell")

    def __init__(
        self,
        caller: Resumable,
        shell: "Shell",
        run_attempts: "Callable[[Resumable, Plan], Exchange[int]]",
    ) -> None:
        """Wait for calls in the name of `caller`; see `Call` for the rest."""
        self._caller = caller
        self._shell = shell
        self._run_attempts = run_attempts
        self._begun: dict[Plan, Call] = {}
        self._over: list[Plan] = []

    def begin(self, plan: Plan) -> None:
        """Begin one more."""
        call = Call(plan, self._shell, self._run_attempts, self._take)
        self._begun[plan] = call
        call.begin()

    def wait(self, take: Callable[[Plan], bool]) -> Exchange[Event | None]:
        """Hand each call that is over to `take`, until it needs no other; cancel the rest.

        Returns:
            What ended the wait before that: the time is up, or the caller has gone.
        """
        caller = self._caller
        fault: Event | None = None
        is_enough = False
        while fault is None and not is_enough and (self._begun or self._over):
            if not self._over:
                caller.waits_for = CALLS
                happened = yield
                caller.waits_for = NOTHING
                fault = happened if isinstance(happened, Event) else None
            while self._over and not is_enough:
                is_enough = take(self._over.pop(0))
        for call in list(self._begun.values()):
            call.cancel()
        while self._over:
            take(self._over.pop(0))
        return fault

    def _take(self, plan: Plan) -> None:
        del self._begun[plan]
        self._over.append(plan)
        self._caller.call_over()
