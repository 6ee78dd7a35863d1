from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from modelux.trace.files import US_A_DAY, BodyPart, day_of, hour_of, trace_files
from modelux.units import UnixUs
from tests.traces import NOON

INSTANTS = st.integers(min_value=0, max_value=200 * 365 * US_A_DAY)


def test_a_day_is_named_by_its_date(tmp_path: Path) -> None:
    files = trace_files(tmp_path)
    assert files.day_path(day_of(NOON)) == tmp_path / "traces" / "2026-01-31.db"
    assert BodyPart(hour_of(NOON), 7).name() == "2026-01-31T12.7"


@given(INSTANTS)
def test_hours_make_up_days(ts_us: int) -> None:
    part = BodyPart(hour_of(UnixUs(ts_us)), 3)
    assert part.hour // 24 == day_of(ts_us)


def test_only_files_of_the_store_are_listed(tmp_path: Path) -> None:
    files = trace_files(tmp_path)
    assert files.days() == []
    assert files.body_parts() == []
    files.bodies.mkdir(parents=True)
    names = ("2026-01-31.db", "2026-01-30.db", "2026-13-31.db", "2026-01-31.db-wal", "x.db")
    for name in names:
        (files.root / name).touch()
    for name in ("2026-01-31T12.10", "2026-01-31T12.9", "2026-01-31T25.1", "2026-01-31T12"):
        (files.bodies / name).touch()
    assert files.days() == [day_of(NOON) - 1, day_of(NOON)]
    assert files.body_parts() == [BodyPart(hour_of(NOON), 9), BodyPart(hour_of(NOON), 10)]
