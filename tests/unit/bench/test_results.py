from dataclasses import replace
from pathlib import Path

import pytest

from bench import results
from tests.unit.bench.rows import CONTEXT, rows


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for row in rows():
        results.write_row(path, CONTEXT, row)

    assert results.read_rows(path) == (CONTEXT, rows())


def test_a_file_that_mixes_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    results.write_row(path, CONTEXT, rows()[0])
    results.write_row(path, replace(CONTEXT, seed=8), rows()[1])

    with pytest.raises(ValueError, match="mixes runs"):
        results.read_rows(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.touch()

    with pytest.raises(ValueError, match="empty"):
        results.read_rows(path)


def test_a_full_run_is_shown_rather_than_a_newer_quick_one() -> None:
    old, full = Path("20260101T000000-a.jsonl"), Path("20260201T000000-b.jsonl")
    quick = Path("20260301T000000-c-quick.jsonl")

    assert results.latest([quick, full, old]) == full
    assert results.latest([quick]) == quick
    assert results.latest([]) is None
