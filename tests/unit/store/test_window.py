"""Windows against a second judge: Python's `zoneinfo` with the data of `tzdata`."""

import importlib.resources
from bisect import bisect_right
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelux._native import is_timezone, window

# Half an hour of summer time, days that begin late, a day that was left out, a clock turned
# back over midnight, offsets of minutes, and some where nothing happens.
ZONES: Final = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "America/St_Johns",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Africa/Cairo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Antarctica/Troll",
)
PERIODS: Final = ("daily", "weekly", "monthly")
FIRST_S: Final = int(datetime(1975, 1, 1, tzinfo=UTC).timestamp())
LAST_S: Final = int(datetime(2036, 1, 1, tzinfo=UTC).timestamp())

zones = st.sampled_from(ZONES)
periods = st.sampled_from(PERIODS)
seconds = st.integers(FIRST_S, LAST_S)


def zone_of(name: str) -> ZoneInfo:
    """Return the zone of the `tzdata` package: the machine's own data may be old."""
    path = importlib.resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with path.open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


JUDGES: Final = {name: zone_of(name) for name in ZONES}


def local(zone: ZoneInfo, unix_s: int) -> datetime:
    """Return what a clock on the wall shows."""
    return datetime.fromtimestamp(unix_s, zone).replace(tzinfo=None)


def first_at(zone: ZoneInfo, day: date) -> int:
    """Return the first second at which the clock shows 00:00 of `day` or later, by looking.

    No zone is more than 14 hours ahead, and none keeps an offset for less than five minutes.
    """
    midnight = datetime.combine(day, time())
    step_s = 300
    unix_s = int(midnight.replace(tzinfo=UTC).timestamp()) - 15 * 3600
    while local(zone, unix_s) < midnight:
        unix_s += step_s
    low, high = unix_s - step_s, unix_s
    while high - low > 1:
        middle = (low + high) // 2
        if local(zone, middle) < midnight:
            low = middle
        else:
            high = middle
    return high


def first_days(near: date, period: str) -> list[date]:
    """Return the days on which periods begin, from well before `near` to well after it."""
    days = [near + timedelta(days=number) for number in range(-40, 41)]
    if period == "weekly":
        return [day for day in days if day.weekday() == 0]
    if period == "monthly":
        return [day for day in days if day.day == 1]
    return [day for day in days if abs(day - near) <= timedelta(days=2)]


def judged(name: str, period: str, unix_s: int) -> tuple[int, int]:
    """Return the window by the second judge."""
    zone = JUDGES[name]
    near = local(zone, unix_s).date()
    begins = sorted({first_at(zone, day) for day in first_days(near, period)})
    place = bisect_right(begins, unix_s)
    return begins[place - 1], begins[place]


@given(name=zones, period=periods, unix_s=seconds)
# Brazil's summer time began at 00:00: that day began at 01:00.
@example("America/Sao_Paulo", "daily", 1541300400)
@example("America/Sao_Paulo", "daily", 1541300399)
# Cuba turned back from 01:00 to 00:00: the day has two midnights and begins with the first.
@example("America/Havana", "daily", 1541310000)
# Newfoundland turned back at 00:01 to 23:01 of the day before, until 2011.
@example("America/St_Johns", "daily", 1289098860)
@example("America/St_Johns", "monthly", 1162347660)
# Samoa left out 30 December 2011.
@example("Pacific/Apia", "daily", 1325239200)
@example("Pacific/Apia", "daily", 1325239199)
def test_a_window_is_what_the_second_judge_finds(name: str, period: str, unix_s: int) -> None:
    assert window(name, period, unix_s) == judged(name, period, unix_s)


@pytest.mark.parametrize("name", ZONES)
def test_every_turn_of_the_clock_is_judged_alike(name: str) -> None:
    """Goal: no special day is missed by chance. Method: find all turns, look around each."""
    zone = JUDGES[name]
    hour_s = 3600
    offsets = [
        (unix_s, datetime.fromtimestamp(unix_s, zone).utcoffset())
        for unix_s in range(FIRST_S, LAST_S, 24 * hour_s)
    ]
    turns = [before for before, after in pairwise(offsets) if before[1] != after[1]]
    for turn_s, _ in turns[-16:]:
        for unix_s in range(turn_s - 3 * hour_s, turn_s + 27 * hour_s, hour_s // 2 * 5):
            assert window(name, "daily", unix_s) == judged(name, "daily", unix_s), unix_s


@given(name=zones, period=periods, unix_s=seconds)
def test_windows_follow_each_other_without_gap_or_overlap(
    name: str, period: str, unix_s: int
) -> None:
    start_s, end_s = window(name, period, unix_s)
    assert end_s is not None
    assert start_s <= unix_s < end_s
    assert window(name, period, start_s) == (start_s, end_s)
    assert window(name, period, end_s - 1) == (start_s, end_s)
    assert window(name, period, start_s - 1)[1] == start_s
    assert window(name, period, end_s)[0] == end_s


@given(name=zones, period=periods, jumps=st.lists(seconds, min_size=2, max_size=6))
def test_a_window_depends_on_nothing_that_was_asked_before(
    name: str, period: str, jumps: list[int]
) -> None:
    """Goal: a clock that is set back finds its old window, one set forward a later one."""
    forward = {unix_s: window(name, period, unix_s) for unix_s in jumps}
    assert {unix_s: window(name, period, unix_s) for unix_s in reversed(jumps)} == forward
    for earlier, later in pairwise(sorted(jumps)):
        assert forward[earlier][0] <= forward[later][0]


@pytest.mark.parametrize(
    ("moment", "period", "start", "end"),
    [
        ("2026-12-31T23:59:59", "monthly", "2026-12-01", "2027-01-01"),
        ("2027-01-01T00:00:00", "monthly", "2027-01-01", "2027-02-01"),
        ("2028-02-29T12:00:00", "monthly", "2028-02-01", "2028-03-01"),
        ("2026-11-22T23:59:59", "weekly", "2026-11-16", "2026-11-23"),
        ("2026-11-23T00:00:00", "weekly", "2026-11-23", "2026-11-30"),
        ("2026-12-31T23:59:59", "daily", "2026-12-31", "2027-01-01"),
    ],
)
def test_weeks_begin_on_mondays_and_months_on_the_first(
    moment: str, period: str, start: str, end: str
) -> None:
    def unix_s(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())

    assert window("UTC", period, unix_s(moment)) == (unix_s(start), unix_s(end))


@given(unix_s=st.integers(-(2**63), 2**63 - 1), name=zones)
def test_a_total_has_one_window_whatever_the_clock(unix_s: int, name: str) -> None:
    assert window(name, "total", unix_s) == (0, None)


@given(unix_s=st.integers(-(2**63), 2**63 - 1), name=zones, period=periods)
def test_no_clock_is_too_wrong(unix_s: int, name: str, period: str) -> None:
    start_s, end_s = window(name, period, unix_s)
    assert end_s is not None
    assert start_s < end_s


def test_a_zone_that_is_not_known_is_named() -> None:
    assert is_timezone("Europe/Berlin")
    for name in (
        "Europe/Berlim",
        "europe/berlin",
        "",
        "../etc/passwd",
        "Etc/Unknown",
        "+02:00",
    ):
        assert not is_timezone(name)
        with pytest.raises(ValueError, match="is not a time zone"):
            window(name, "daily", 0)
    with pytest.raises(ValueError, match="`hourly`"):
        window("UTC", "hourly", 0)
