"""The grammar of the stand-in provider's settings."""

import contextlib
import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.simulator.settings import (
    FIELDS,
    Chance,
    Fault,
    Settings,
    SettingsError,
    Spread,
    parse_settings,
    split_model,
)

words = st.sampled_from([*FIELDS, "hang", "cut", "=", ";", "@", ":", "1", "lognormal", "reset"])


@given(st.one_of(st.text(), st.lists(words).map("".join)))
def test_any_text_gives_settings_or_our_error(text: str) -> None:
    with contextlib.suppress(SettingsError):
        assert isinstance(parse_settings(text, Settings()), Settings)


def test_what_is_not_named_stays_as_it_was() -> None:
    base = parse_settings("tokens=7; status=503", Settings())
    changed = parse_settings("status=429", base)
    assert (changed.tokens, changed.status) == (Spread(7), 429)


def test_no_text_changes_nothing() -> None:
    base = Settings()
    assert parse_settings(" ; ", base) is base


@pytest.mark.parametrize(
    ("text", "fault", "at"),
    [
        ("hang=head", Fault.STALL_HEADERS, None),
        ("hang=mid", Fault.SSE_STALL_MID, None),
        ("cut=reset@3", Fault.SSE_RESET_MID, 3),
        ("cut=fin", Fault.SSE_FIN_MID, None),
        ("fault=garbage; at=2", Fault.GARBAGE, 2),
    ],
)
def test_short_forms_name_a_fault(text: str, fault: Fault, at: int | None) -> None:
    settings = parse_settings(text, Settings())
    assert (settings.fault, settings.at) == (fault, at)


@pytest.mark.parametrize(
    "text",
    ["tokens=-1", "status=99", "error_rate=1.5", "token_ms=nan", "fault=boom", "cut=reset@x"],
)
def test_a_value_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_settings(text, Settings())


def test_settings_stand_behind_the_name_of_a_model() -> None:
    assert split_model("gpt-4o?tokens=3;at=1") == ("gpt-4o", "tokens=3;at=1")
    assert split_model("sim:status=500") == ("sim", "status=500")
    assert split_model("gpt-4o") == ("gpt-4o", "")


def test_chance_repeats_and_spreads_evenly() -> None:
    first, second = Chance(b"seed"), Chance(b"seed")
    shares = [first.share() for _ in range(2000)]
    assert shares == [second.share() for _ in range(2000)]
    assert all(0 < share < 1 for share in shares)
    assert 0.45 < sum(shares) / len(shares) < 0.55


def test_a_lognormal_spread_has_its_median_and_sigma() -> None:
    chance = Chance(b"seed")
    drawn = [Spread(100, 0.5).draw(chance) for _ in range(2000)]
    assert 95 < median(drawn) < 105
    logs = sorted(map(math.log, drawn))
    # Half of all values lie within 0.674 sigma of the median.
    assert 0.6 < (logs[1500] - logs[500]) / (2 * 0.674 * 0.5) < 1.4


def test_a_fixed_spread_draws_no_chance() -> None:
    chance = Chance(b"seed")
    assert Spread(5).draw(chance) == 5
    assert chance.share() == Chance(b"seed").share()
