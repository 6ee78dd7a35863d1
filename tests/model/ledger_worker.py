"""What a worker does with the ledger, in this process or as one that can be killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from modelux._native import Ledger, Slots

SLOTS: Final = 8


class Row(NamedTuple):
    """A row as a hold names it, with what may be spent on it at most."""

    key: str
    subject: str
    end_s: int | None
    cap_nusd: int


class Reserve(NamedTuple):
    """Hold an amount on every row, or on none."""

    seq: int
    slot: int
    amount_nusd: int
    rows: Sequence[Row]


class Settle(NamedTuple):
    """End a hold."""

    seq: int
    charge_nusd: int


class SlotStep(NamedTuple):
    """Call one method of the slots, after the turn has committed."""

    method: str
    arguments: Sequence[int]


LedgerRow: TypeAlias = tuple[
    bytes, str, int, int | None, int, int, int, int, int, int, int, int
]
Command: TypeAlias = Reserve | Settle | SlotStep


class KilledError(Exception):
    """The worker is gone before the step that it was to be killed at."""


def steps_of(
    commands: Sequence[Command], answers: list[object]
) -> Generator[tuple[object, ...], object]:
    """Yield the steps of one turn: check every row, then hold, as a worker does."""
    for command in commands:
        match command:
            case Reserve(seq, slot, amount_nusd, rows):
                fits = True
                for row in rows:
                    balance = yield "balance", bytes.fromhex(row.key)
                    assert isinstance(balance, tuple)
                    spent, held, credits_nusd = balance[4:7]
                    fits &= spent + held + amount_nusd <= row.cap_nusd + credits_nusd
                if fits:
                    keys = [(bytes.fromhex(row.key), row.subject, row.end_s) for row in rows]
                    yield "hold", seq, slot, amount_nusd, keys
                answers.append(fits)
            case Settle(seq, charge_nusd):
                found = yield "settle", seq, charge_nusd
                answers.append(found is not None)
            case SlotStep():
                pass


def slots_of(state_dir: Path, generation: int) -> Slots:
    """Return slots that are all taken."""
    slots = Slots(state_dir, generation, SLOTS)
    assert [slots.take() for _ in range(SLOTS)] == list(range(SLOTS))
    return slots


def run(
    ledger: Ledger, slots: Slots, commands: Sequence[Command], die: Callable[[], None]
) -> list[object]:
    """Do one turn and what follows it; `die` is called before every single step."""
    answers: list[object] = []

    def guarded() -> Generator[tuple[object, ...], object]:
        inner = steps_of(commands, answers)
        answer: object = None
        with contextlib.suppress(StopIteration):
            while True:
                step = inner.send(answer)
                die()
                answer = yield step
        # The last moment inside the transaction.
        die()

    ledger.turn(guarded())  # type: ignore[arg-type]  # Steps that the match above has built.
    for command in commands:
        if isinstance(command, SlotStep):
            die()
            getattr(slots, command.method)(*command.arguments)
            if command.method == "free":
                # Which slot is next the model says: it stays taken here.
                assert [slots.take()] == command.arguments
    return answers


def countdown(kill_at: int | None, kill: Callable[[], None]) -> Callable[[], None]:
    """Return what calls `kill` the `kill_at`-th time that it is called."""
    left = [kill_at]

    def die() -> None:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                kill()

    return die


class NearWorker:
    """A worker in this process: its death is a turn that is abandoned and a lock let go."""

    def __init__(self, keeper: Ledger, state_dir: Path, generation: int) -> None:
        self._ledger = keeper.as_worker(generation)
        self._slots = slots_of(state_dir, generation)

    def run(self, commands: Sequence[Command], kill_at: int | None) -> list[object] | None:
        """Return the answers; None if it died on the way."""

        def kill() -> None:
            raise KilledError

        try:
            return run(self._ledger, self._slots, commands, countdown(kill_at, kill))
        except KilledError:
            self.close()
            return None

    def close(self) -> None:
        """Die between two turns."""
        self._slots.close()
        self._ledger.close()


class FarWorker:
    """A worker in a process of its own, killed with SIGKILL."""

    def __init__(self, keeper: Ledger, state_dir: Path, generation: int) -> None:
        del keeper
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.model.ledger_worker",
                str(state_dir),
                str(generation),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def run(self, commands: Sequence[Command], kill_at: int | None) -> list[object] | None:
        """Return the answers; None if it died on the way."""
        named = [(type(command).__name__, *command) for command in commands]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([kill_at, named]) + "\n")
        self._process.stdin.flush()
        answers = self._read()
        if answers is None:
            self.close()
        return answers

    def close(self) -> None:
        """Die between two turns."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        assert self._process.returncode == -signal.SIGKILL

    def _read(self) -> list[object] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: list[object] | None = json.loads(line) if line else None
        return found


def decode(named: Sequence[object]) -> Command:
    """Make a command again of what went over the pipe."""
    match named:
        case ["Reserve", int(seq), int(slot), int(amount_nusd), list(rows)]:
            return Reserve(seq, slot, amount_nusd, [Row(*row) for row in rows])
        case ["Settle", int(seq), int(charge_nusd)]:
            return Settle(seq, charge_nusd)
        case ["SlotStep", str(method), list(arguments)]:
            return SlotStep(method, arguments)
        case _:
            raise AssertionError(named)


def main() -> None:
    """Do what comes on stdin until killed."""
    state_dir, generation = Path(sys.argv[1]), int(sys.argv[2])
    ledger = Ledger.open(state_dir, generation)
    slots = slots_of(state_dir, generation)
    sys.stdout.write("[]\n")
    sys.stdout.flush()
    for line in sys.stdin:
        kill_at, named = json.loads(line)
        die = countdown(kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
        answers = run(ledger, slots, [decode(command) for command in named], die)
        sys.stdout.write(json.dumps(answers) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
