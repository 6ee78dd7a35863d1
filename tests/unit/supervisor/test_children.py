"""A child runs with what it was given, dies with a reason, and is due again after a pause."""

import os
import signal

import pytest

from modelux.clock import mono_us, pause_s
from modelux.supervisor.children import Child, Death, Program, is_stopped
from modelux.supervisor.restart import PAUSE_US_MIN

# Modules of the standard library serve as programs: they are always there and do one thing.
PRINTS_AND_ENDS = Program(module="this", arguments=(), fds=())
READS_STANDARD_INPUT = Program(module="base64", arguments=("-e", "-"), fds=())
FAILS = Program(module="no_such_module_anywhere", arguments=(), fds=())


def reaped(child: Child) -> Death:
    for _ in range(3_000):
        death = child.reap(mono_us())
        if death is not None:
            return death
        pause_s(0.01)
    raise AssertionError("did not die")


def test_a_child_that_fails_is_due_again_after_its_pause() -> None:
    child = Child("worker.0")
    child.start(FAILS, dict(os.environ), mono_us())
    death = reaped(child)
    assert (death.name, death.why) == ("worker.0", "exit code 1")
    assert child.pid is None
    assert child.due_us is not None
    assert child.due_us - child.started_us - death.lived_us == PAUSE_US_MIN


def test_standard_input_of_a_child_is_empty() -> None:
    child = Child("x")
    child.start(READS_STANDARD_INPUT, dict(os.environ), mono_us())
    assert reaped(child).code == 0


def test_a_killed_child_names_the_signal() -> None:
    child = Child("x")
    child.start(PRINTS_AND_ENDS, dict(os.environ), mono_us())
    child.tell(signal.SIGSTOP)
    child.tell(signal.SIGKILL)
    assert reaped(child).why == "killed by SIGKILL"
    child.tell(signal.SIGKILL)  # Nobody is there any more: no harm.


def test_a_stopped_child_is_seen_as_stopped() -> None:
    child = Child("x")
    child.start(PRINTS_AND_ENDS, dict(os.environ), mono_us())
    assert child.pid is not None
    assert not is_stopped(child.pid)
    child.tell(signal.SIGSTOP)
    for _ in range(3_000):
        if is_stopped(child.pid):
            break
        pause_s(0.01)
    assert is_stopped(child.pid)
    child.tell(signal.SIGKILL)
    reaped(child)


def test_a_child_that_cannot_be_started_is_due_again() -> None:
    child = Child("x")
    with pytest.raises(OSError, match="too long"):
        child.start(
            Program(module="x" * 10_000_000, arguments=(), fds=()), dict(os.environ), mono_us()
        )
    assert child.pid is None
    assert child.due_us is not None


def test_a_real_time_signal_is_named_by_its_number() -> None:
    assert Death(name="x", pid=1, lived_us=0, code=-40).why == "killed by signal 40"


def test_a_process_that_is_gone_is_not_stopped() -> None:
    assert not is_stopped(2**22 + 1)
