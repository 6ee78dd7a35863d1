"""What survives power loss, and which events a copy makes of what it sees."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux._native import row_key
from modelux.errors import StoreError
from modelux.store.copy import (
    DamagedCopyError,
    LedgerCopy,
    Named,
    events_between,
    set_copy_aside,
)
from modelux.store.row import FLAG_EXCEEDED, FLAG_SOFT, FLAG_SUBJECTS_FULL, LedgerRow
from modelux.trace.events import EventKind
from modelux.units import UnixUs

NOW = UnixUs(1_800_000_000_000_000)
BUDGET = b"b" * 16
NAMED = {BUDGET: Named(name="team-ml", cap_nusd=100)}


def row(
    spent: int = 0,
    *,
    held: int = 0,
    subject: str = "",
    end: int | None = None,
    overrun: int = 0,
    overruns: int = 0,
    flags: int = 0,
    start: int = 0,
) -> LedgerRow:
    return LedgerRow(
        row_key(BUDGET, [subject], start),
        subject,
        start,
        end,
        spent,
        held,
        0,
        overrun,
        0,
        1,
        overruns,
        flags,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[LedgerCopy]:
    found = LedgerCopy(tmp_path)
    yield found
    found.close()


def test_what_was_copied_is_there_when_it_is_opened_again(
    copy: LedgerCopy, tmp_path: Path
) -> None:
    copy.write([row(5, held=3)], NAMED, NOW)
    copy.write([row(9, held=1)], NAMED, NOW)
    copy.close()
    assert LedgerCopy(tmp_path).rows(0) == [row(9, held=1)]


def test_each_copy_is_flushed_to_the_disk_and_private(copy: LedgerCopy) -> None:
    assert copy._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert copy._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert copy.path.stat().st_mode & 0o777 == 0o600


def test_spent_never_falls_whoever_copies(copy: LedgerCopy) -> None:
    copy.write([row(9), row(1, subject="s")], NAMED, NOW)
    written = copy.write([row(8), row(2, subject="s")], NAMED, NOW)
    assert (written.rows, written.fallen) == (1, (row(8),))
    assert sorted(one.spent_nusd for one in copy.rows(0)) == [2, 9]


def test_windows_that_are_over_are_not_asked_for_and_dropped_when_they_are_old(
    copy: LedgerCopy,
) -> None:
    rows = [row(1, start=0, end=10), row(2, start=10, end=20), row(3, start=20)]
    copy.write(rows, NAMED, NOW)
    assert copy.rows(cutoff_s=10) == rows[1:]
    assert copy.drop_before(15) == 1
    assert copy.rows(cutoff_s=0) == rows[1:]


def test_many_rows_are_copied_in_one_go(copy: LedgerCopy) -> None:
    rows = [row(n, subject=f"{n:05}") for n in range(1_300)]
    assert copy.write(rows, NAMED, NOW).rows == 1_300
    assert copy.write(rows, NAMED, NOW).fallen == ()
    assert sorted(copy.rows(0), key=lambda one: one.spent_nusd) == rows


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        (FLAG_SOFT, EventKind.THRESHOLD_REACHED),
        (FLAG_EXCEEDED, EventKind.EXCEEDED),
        (FLAG_SUBJECTS_FULL, EventKind.SUBJECTS_FULL),
    ],
)
def test_a_flag_that_appears_makes_one_event_with_the_amounts(
    copy: LedgerCopy, flag: int, kind: EventKind
) -> None:
    copy.write([row(5)], NAMED, NOW)
    copy.write([row(80, held=4, flags=flag)], NAMED, NOW)
    copy.write([row(90, flags=flag)], NAMED, NOW)
    (event,) = copy.events()
    assert event.kind is kind
    assert (event.budget, event.cap_nusd) == ("team-ml", 100)
    assert (event.spent_nusd, event.held_nusd, event.overrun_nusd) == (80, 4, 0)


def test_overruns_between_two_looks_make_one_event_with_their_sum(copy: LedgerCopy) -> None:
    copy.write([row(5)], NAMED, NOW)
    copy.write([row(30, overrun=20, overruns=2)], NAMED, NOW)
    copy.write([row(40, overrun=25, overruns=3)], NAMED, NOW)
    assert [event.overrun_nusd for event in copy.events()] == [20, 5]
    assert {event.kind for event in copy.events()} == {EventKind.OVERRUN}


def test_a_row_that_is_new_with_everything_makes_all_of_its_events(copy: LedgerCopy) -> None:
    copy.write([row(200, flags=7, overruns=1, overrun=100)], {}, NOW)
    assert [event.kind for event in copy.events()] == [
        EventKind.THRESHOLD_REACHED,
        EventKind.EXCEEDED,
        EventKind.SUBJECTS_FULL,
        EventKind.OVERRUN,
    ]
    assert {(event.budget, event.cap_nusd) for event in copy.events()} == {("", None)}


def test_the_name_of_a_budget_that_is_gone_stays_with_its_rows(copy: LedgerCopy) -> None:
    copy.write([row(1)], NAMED, NOW)
    copy.write([row(2)], {}, NOW)
    found = copy._connection.execute("SELECT budget FROM rows").fetchall()
    assert found == [("team-ml",)]


def test_events_wait_until_they_are_forgotten(copy: LedgerCopy, tmp_path: Path) -> None:
    copy.write([row(1, flags=3)], NAMED, NOW)
    first, second = copy.events()
    copy.forget_events([first])
    copy.close()
    again = LedgerCopy(tmp_path)
    assert again.events() == [second]
    # The same rows again are no news.
    again.write([row(1, flags=3)], NAMED, NOW)
    assert again.events() == [second]


@given(looks=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 7))))
def test_however_rows_are_looked_at_no_event_is_lost_or_doubled(
    looks: list[tuple[int, int, int]],
) -> None:
    """A row only grows; however often it is looked at, the sums of its events are its own."""
    now, events = row(), []
    for spent, overruns, flags in looks:
        later = replace(
            now,
            spent_nusd=now.spent_nusd + spent + overruns,
            overrun_nusd=now.overrun_nusd + overruns,
            overruns=now.overruns + overruns,
            flags=now.flags | flags,
        )
        events += events_between(now, later, None, NOW)
        now = later
    assert sum(event.overrun_nusd for event in events) == now.overrun_nusd
    kinds = [event.kind for event in events if event.kind is not EventKind.OVERRUN]
    assert len(kinds) == len(set(kinds)) == now.flags.bit_count()
    assert len({event.id for event in events}) == len(events)


def test_budgets_that_were_taken_in_are_remembered(copy: LedgerCopy, tmp_path: Path) -> None:
    copy.note_known([BUDGET, b"c" * 16])
    copy.note_known([BUDGET])
    copy.set_meta("resets", "7")
    copy.close()
    again = LedgerCopy(tmp_path)
    assert again.known() == {BUDGET, b"c" * 16}
    assert (again.meta("resets"), again.meta("other")) == ("7", None)


def test_a_disk_that_takes_nothing_is_said_and_the_copy_stays_whole(copy: LedgerCopy) -> None:
    copy.write([row(5)], NAMED, NOW)
    pages = copy._connection.execute("PRAGMA page_count").fetchone()[0]
    copy._connection.execute(f"PRAGMA max_page_count = {pages}")
    many = [row(9, subject=f"{n:05}") for n in range(5_000)]
    with pytest.raises(StoreError, match="full"):
        copy.write(many, NAMED, NOW)
    assert copy.rows(0) == [row(5)]
    copy._connection.execute("PRAGMA max_page_count = 1000000")
    assert copy.write(many, NAMED, NOW).rows == 5_000


def test_a_writer_waits_for_another_one(copy: LedgerCopy, tmp_path: Path) -> None:
    """The supervisor copies once more while the trace writer may still be ending."""
    code = (
        "import sys, sqlite3\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('BEGIN IMMEDIATE'); print('has it', flush=True)\n"
        "sys.stdin.read(1); db.execute('COMMIT')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(copy.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        other.stdin.write(b"x")
        other.stdin.flush()
        assert copy.write([row(5)], NAMED, NOW).rows == 1


def test_a_broken_file_is_told_from_other_failures_and_can_be_set_aside(
    tmp_path: Path,
) -> None:
    (tmp_path / "ledger.db").write_bytes(b"torn" * 4_096)
    with pytest.raises(DamagedCopyError, match="ledger.db"):
        LedgerCopy(tmp_path)
    aside = set_copy_aside(tmp_path, NOW)
    assert aside.read_bytes() == b"torn" * 4_096
    assert LedgerCopy(tmp_path).rows(0) == []
    with pytest.raises(StoreError) as other:
        LedgerCopy(tmp_path / "nowhere")
    assert not isinstance(other.value, DamagedCopyError)


def test_a_copy_of_a_later_release_is_refused_by_name(copy: LedgerCopy, tmp_path: Path) -> None:
    copy._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="layout 99"):
        LedgerCopy(tmp_path)


def test_no_negative_amount_gets_into_the_copy(copy: LedgerCopy) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        copy._connection.execute(
            "INSERT INTO rows VALUES (x'00', '', 0, NULL, -1, 0, 0, 0, 0, 0, 0, 0, '', 0)"
        )
