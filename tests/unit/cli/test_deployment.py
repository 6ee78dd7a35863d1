"""Instants as operators write and read them."""

import pytest

from modelux.cli.deployment import instant_text, login, parse_since
from modelux.units import US_PER_S, UnixUs

NOW = UnixUs(1_800_000_000 * US_PER_S)


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [("90s", 90), ("5m", 300), ("1h", 3600), ("7d", 604_800), ("2w", 1_209_600), ("0h", 0)],
)
def test_a_time_ago_is_counted_from_now(text: str, ago_s: int) -> None:
    assert parse_since(text, NOW) == NOW - ago_s * US_PER_S


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2027-01-31", "2027-01-31T00:00:00Z"),
        ("2027-01-31T12:30:00", "2027-01-31T12:30:00Z"),
        ("2027-01-31T12:30:00+02:00", "2027-01-31T10:30:00Z"),
        ("1969-12-31T23:59:59Z", "1969-12-31T23:59:59Z"),
    ],
)
def test_a_date_without_an_offset_is_utc(text: str, written: str) -> None:
    assert instant_text(parse_since(text, NOW)) == written


@pytest.mark.parametrize("text", ["", "h", "1x", "-1h", "soon", "2027-13-01", "١h"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a time ago"):
        parse_since(text, NOW)


@pytest.mark.parametrize("at", [2**62, -(2**62), 0])
def test_any_instant_can_be_written(at: int) -> None:
    assert instant_text(UnixUs(at))


def test_there_is_always_a_login_name() -> None:
    assert login()
