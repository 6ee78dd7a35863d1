"""The copy of the ledger: whole within a second, whatever the disk does."""

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from modelux._native import Ledger, row_key
from modelux.clock import pause_s
from modelux.errors import StoreError
from modelux.limits import MIB
from modelux.log import Log
from modelux.store.copy import LedgerCopy
from modelux.store.env import create_env
from modelux.store.row import LedgerRow
from modelux.store.snapshot import SnapshotStore
from modelux.trace.events import EventKind
from modelux.units import US_PER_S, MonoUs, UnixUs
from modelux.writer.copier import (
    COMPLAINT_US,
    COPY_US,
    S_A_DAY,
    LedgerCopier,
    named_budgets,
)

BUDGET: Final = b"b" * 16
KEY: Final = row_key(BUDGET, None, 0)
NOON_S: Final = 1_800_000_000
SNAPSHOT: Final = {"budgets": [{"id": BUDGET.hex(), "name": "team-ml", "cap_nusd": 100}]}


class Place:
    """Two directories with a ledger in one of them, a clock, and what was logged."""

    def __init__(self, root: Path) -> None:
        self.state, self.data = root / "state", root / "data"
        for folder in (self.state, self.data):
            folder.mkdir()
        Ledger.create(self.state, map_bytes=4 * MIB, stamp="s").close()
        self.mono_us = 10**9
        self.lines: list[dict[str, Any]] = []
        self.seq = 0
        log = Log("writer", human=False, write=self.note, now=lambda: UnixUs(0))
        self.copier = LedgerCopier(
            self.state,
            self.data,
            400,
            log,
            lambda: UnixUs(NOON_S * US_PER_S),
            lambda: MonoUs(self.mono_us),
        )

    def note(self, line: bytes) -> None:
        self.lines.append(json.loads(line))

    def change(self, *steps: tuple[object, ...]) -> None:
        """Do a worker's turn; the copier has the map open for this process."""
        assert self.copier._ledger is not None

        def turn() -> Generator[Any, object, None]:
            for step in steps:  # noqa: UP028 - a tuple cannot take what is sent back.
                yield step

        self.copier._ledger.as_worker(1).turn(turn())

    def spend(self, amount: int, key: bytes = KEY, end_s: int | None = None) -> None:
        self.seq += 1
        hold = ("hold", self.seq, 0, amount, [(key, "", end_s)])
        self.change(hold, ("settle", self.seq, amount))

    def copied(self) -> list[LedgerRow]:
        copy = LedgerCopy(self.data)
        rows = copy.rows(0)
        copy.close()
        return rows


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.copier.finish()


def test_rows_that_changed_are_copied_and_others_are_not_touched(place: Place) -> None:
    place.copier.turn()
    place.spend(5)
    place.spend(3, row_key(BUDGET, ["alice"], 0))
    assert place.copier.turn() == 2
    place.spend(5)
    assert place.copier.turn() == 1
    assert place.copier.turn() == 0
    assert sorted(row.spent_nusd for row in place.copied()) == [3, 10]


def test_what_is_held_is_copied_too(place: Place) -> None:
    place.copier.turn()
    place.change(("hold", 1, 0, 7, [(KEY, "", None)]))
    place.copier.turn()
    assert [row.held_nusd for row in place.copied()] == [7]


def test_the_age_grows_only_while_something_is_not_copied(place: Place) -> None:
    place.copier.turn()
    assert place.copier.age_us() == 0
    place.mono_us += COPY_US
    assert place.copier.age_us() == COPY_US
    place.copier.turn()
    assert place.copier.age_us() == 0


def test_a_disk_that_takes_nothing_is_told_now_and_then_and_nothing_is_lost(
    place: Place,
) -> None:
    place.copier.turn()
    place.spend(5)
    blocker = place.data / "ledger.db"
    blocker.mkdir()
    for _ in range(3):
        place.copier._try()
        place.mono_us += COMPLAINT_US // 2
    assert [line["event"] for line in place.lines] == ["ledger_not_copied"] * 2
    assert place.copier.age_us() >= COMPLAINT_US
    blocker.rmdir()
    assert place.copier.turn() == 1
    assert place.copier.age_us() == 0
    assert [row.spent_nusd for row in place.copied()] == [5]


def test_a_ledger_that_is_not_there_yet_is_opened_when_it_is(place: Place) -> None:
    Ledger.discard(place.state)
    with pytest.raises(StoreError, match="there is no ledger"):
        place.copier.turn()
    Ledger.create(place.state, map_bytes=4 * MIB, stamp="s").close()
    place.copier.turn()


def test_events_carry_the_budgets_name_and_cap_of_the_snapshot(place: Place) -> None:
    env = create_env(place.state, MIB)
    SnapshotStore(env).publish(json.dumps(SNAPSHOT).encode())
    env.close()  # One process, one opening of the map.
    place.copier.turn()
    place.spend(90)
    place.change(("flag", KEY, "", None, 1))
    place.copier.turn()
    copy = LedgerCopy(place.data)
    (event,) = copy.events()
    copy.close()
    assert event.kind is EventKind.THRESHOLD_REACHED
    assert (event.budget, event.cap_nusd, event.spent_nusd) == ("team-ml", 100, 90)


def test_windows_over_for_longer_than_the_retention_go(place: Place) -> None:
    place.copier.turn()
    over_s = NOON_S - 400 * S_A_DAY
    place.spend(1, row_key(BUDGET, None, 1), over_s - 1)
    place.spend(1, row_key(BUDGET, None, 2), over_s)
    place.spend(1)
    place.copier.turn()
    assert sorted(row.window_start_s for row in place.copied()) == [0, 2]


def test_a_row_that_says_less_than_its_copy_is_told_and_changes_nothing(place: Place) -> None:
    copy = LedgerCopy(place.data)
    copy.write([LedgerRow(KEY, "", 0, None, spent_nusd=9)], {}, UnixUs(0))
    copy.close()
    place.copier.turn()
    place.spend(5)
    assert place.copier.turn() == 0
    assert [row.spent_nusd for row in place.copied()] == [9]
    assert place.lines[0]["event"] == "ledger_says_less_than_its_copy"


def test_a_thread_copies_by_itself_and_once_more_at_its_end(place: Place) -> None:
    place.copier.start()
    assert not place.copier.has_died()
    while place.copier._ledger is None:
        pause_s(0.01)
    place.spend(5)
    place.copier.finish()
    assert [row.spent_nusd for row in place.copied()] == [5]
    assert place.lines == []


def test_a_snapshot_that_cannot_be_read_costs_the_names_and_not_the_copy(place: Place) -> None:
    env = create_env(place.state, MIB)
    SnapshotStore(env).publish(b"no JSON")
    env.close()
    place.copier.turn()
    place.spend(5)
    assert place.copier.turn() == 1


def test_a_snapshot_without_budgets_names_none() -> None:
    assert named_budgets(b"{}") == {}
    assert named_budgets(b'{"budgets": []}') == {}
