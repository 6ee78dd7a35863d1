"""The Python face of the ledger: what it gives, and how its faults arrive."""

from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from modelux._native import (
    Cells,
    Ledger,
    LedgerError,
    LedgerFullError,
    LedgerInconsistentError,
    LedgerNotOursError,
    Slots,
    row_key,
)

MAP_BYTES: Final = 4 << 20
BUDGET: Final = bytes(range(16))
KEY: Final = row_key(BUDGET, None, 86_400)


def hold(ledger: Ledger, seq: int, amount_nusd: int, subject: str = "") -> None:
    key = row_key(BUDGET, [subject], 86_400) if subject else KEY

    def steps() -> Generator[tuple[object, ...], object]:
        yield "hold", seq, 0, amount_nusd, [(key, subject, 172_800)]

    ledger.turn(steps())  # type: ignore[arg-type]  # A step as the stub lists it.


@pytest.fixture
def ledger(tmp_path: Path) -> Generator[Ledger]:
    made = Ledger.create(tmp_path, map_bytes=MAP_BYTES, stamp="boot")
    yield made
    made.close()


def test_a_row_has_the_fields_of_its_copy(ledger: Ledger) -> None:
    hold(ledger, 1, 70)
    ledger.set_credits(KEY, "", 172_800, 5)
    row = (KEY, "", 86_400, 172_800, 0, 70, 5, 0, 0, 0, 0, 0)
    assert ledger.rows() == [row]
    assert ledger.row(KEY) == row
    assert ledger.row(row_key(BUDGET, ["a"], 0)) is None
    seen, rows = ledger.changed_since(0)
    assert rows == [row]
    assert ledger.changed_since(seen) == (seen, [])


def test_keys_are_of_budget_subject_and_window() -> None:
    assert KEY[:16] == BUDGET
    assert KEY[16:32] == bytes(16)
    assert int.from_bytes(KEY[32:], "big") == 86_400 + (1 << 63)
    assert row_key(BUDGET, None, 0, overflow=True)[16:32] == b"\xff" * 16
    keys = {row_key(BUDGET, values, 0) for values in (None, [], [""], ["a", "b"], ["ab"])}
    assert len(keys) == 5
    with pytest.raises(ValueError, match="16 bytes"):
        row_key(b"short", None, 0)


def test_a_generator_that_fails_leaves_no_turn(ledger: Ledger) -> None:
    def steps() -> Generator[tuple[object, ...], object]:
        yield "hold", 1, 0, 70, [(KEY, "", None)]
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        ledger.turn(steps())  # type: ignore[arg-type]
    assert ledger.rows() == []
    hold(ledger, 1, 70)


def test_faults_arrive_by_their_kind(ledger: Ledger, tmp_path: Path) -> None:
    hold(ledger, 1, 70)
    with pytest.raises(LedgerInconsistentError, match="hold 1 exists already"):
        hold(ledger, 1, 70)
    with pytest.raises(LedgerInconsistentError, match="while it holds"):
        ledger.import_rows(ledger.rows())
    with pytest.raises(LedgerInconsistentError, match="import was not finished"):
        ledger.verify()
    with pytest.raises(LedgerNotOursError, match="there is no ledger"):
        Ledger.open(tmp_path / "nowhere")
    # One process opens a map once; further views come from the first.
    with pytest.raises(LedgerError, match="already open in this program"):
        Ledger.open(tmp_path)
    ledger.as_worker(3).close()
    for error in (LedgerFullError, LedgerInconsistentError, LedgerNotOursError):
        assert issubclass(error, LedgerError)


def test_a_full_ledger_says_so(ledger: Ledger) -> None:
    def fill() -> None:
        for number in range(100_000):
            hold(ledger, number, 1, f"user-{number}-{'x' * 200}")

    with pytest.raises(LedgerFullError, match="full"):
        fill()
    ledger.verify()


def test_what_is_closed_is_named(ledger: Ledger, tmp_path: Path) -> None:
    slots = Slots(tmp_path, 1, 4)
    slots.close()
    ledger.close()
    with pytest.raises(ValueError, match="the ledger is closed"):
        ledger.rows()
    with pytest.raises(ValueError, match="the slots are closed"):
        slots.take()
    Ledger.create(tmp_path, map_bytes=MAP_BYTES, stamp="boot").close()


def test_a_discarded_map_is_gone_and_its_name_is_free(ledger: Ledger, tmp_path: Path) -> None:
    hold(ledger, 1, 70)
    identity = ledger.info()["identity"]
    ledger.close()
    Ledger.discard(tmp_path)
    assert list(tmp_path.iterdir()) == []
    made = Ledger.create(tmp_path, map_bytes=MAP_BYTES, stamp="another boot")
    assert made.rows() == []
    assert made.stamp == "another boot"
    assert made.info()["identity"] != identity
    made.close()


def test_the_lock_shows_in_the_cells(ledger: Ledger, tmp_path: Path) -> None:
    cells = Cells.create(tmp_path / "cells", 2)
    ledger.watch(tmp_path / "cells", 1)
    states: list[int] = []

    def steps() -> Generator[tuple[object, ...], object]:
        states.append(cells.get("ledger_state", 1))
        yield "balance", KEY

    ledger.turn(steps())  # type: ignore[arg-type]
    assert states == [2]
    assert cells.get("ledger_state", 1) == 0
    assert cells.get("ledger_turns", 1) == 1
    with pytest.raises(ValueError, match="slot `2`"):
        ledger.watch(tmp_path / "cells", 2)


def test_bounds_are_raised_by_three_overruns_and_reset(ledger: Ledger) -> None:
    answers: list[object] = []

    def steps() -> Generator[tuple[object, ...], object]:
        for number in range(3):
            answer = yield "overrun", "openai/m", 150, 100, 1_000_000 + number
            answers.append(answer)

    ledger.turn(steps())  # type: ignore[arg-type]
    assert answers == [None, None, 1_650]
    assert ledger.bound_factors() == (1, [("openai/m", 1_650, 1_500)])
    assert ledger.reset_bound("openai/m")
    assert ledger.bound_factors() == (2, [])
