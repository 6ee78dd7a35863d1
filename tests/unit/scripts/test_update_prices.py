"""The shipped prices are what the script makes of its package; nothing is left out quietly."""

from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from genai_prices import types

from scripts import update_prices as script


def test_the_shipped_files_are_as_the_script_writes_them() -> None:
    assert (script.DATA / "prices.json").read_text() == script.catalogue()
    assert (script.DATA / "LICENSE.genai-prices").read_text() == script.licence()


def test_a_price_finer_than_a_nano_usd_is_rounded_up() -> None:
    assert script.nusd(Decimal("0.0833333333333333")) == 83_333_334
    assert script.nusd(Decimal(5), 1000) == 5_000_000
    assert script.nusd(Decimal(0)) == 0


@pytest.mark.parametrize("price", [Decimal(-1), Decimal(10**10)])
def test_what_is_no_price_stops_the_script(price: Decimal) -> None:
    with pytest.raises(ValueError, match="is no price"):
        script.nusd(price)


def test_a_price_key_that_is_not_understood_stops_the_script() -> None:
    with pytest.raises(ValueError, match="dreams_mtok"):
        script.price(types.ModelPrice(dreams_mtok=Decimal(1)), is_free=False)


def test_an_empty_price_is_free_only_where_that_is_known() -> None:
    nothing = types.ModelPrice()
    assert script.price(nothing, is_free=False) == {"rates": {}}
    assert script.price(nothing, is_free=True) == {"rates": {"input": 0, "output": 0}}


def test_each_tier_holds_all_rates_that_apply_there() -> None:
    tiered = types.TieredPrices(
        base=Decimal(1), tiers=[types.Tier(start=200_000, price=Decimal(2))]
    )
    assert script.price(
        types.ModelPrice(input_mtok=tiered, output_mtok=Decimal(3)), is_free=False
    ) == {
        "rates": {"input": 10**9, "output": 3 * 10**9},
        "tiers": [{"over": 200_000, "rates": {"input": 2 * 10**9, "output": 3 * 10**9}}],
    }


@pytest.mark.parametrize(
    ("regex", "written"),
    [
        (r"^a\.b-\d{4}-\d{2}$", [{"digits": "a.b-####-##"}]),
        (r"^A-\d", [{"digits_start": "a-#"}]),
        (r"^a[-@]\d{2}$", [{"digits": "a-##"}, {"digits": "a@##"}]),
    ],
)
def test_a_regex_of_digits_becomes_a_pattern(regex: str, written: list[script.Json]) -> None:
    assert list(script.digit_patterns(regex)) == written


@pytest.mark.parametrize("regex", ["a", "^a.b$", "^a+$", "^(a)?b$", "^[a-z]$", "^a#", "^a|b$"])
def test_a_regex_that_says_more_stops_the_script(regex: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        list(script.digit_patterns(regex))


def test_a_rule_of_an_unknown_kind_stops_the_script() -> None:
    with pytest.raises(ValueError, match="unknown rule"):
        script.clause(object())


def test_dates_and_hours_are_seconds() -> None:
    midnight = int(datetime(2026, 8, 17, tzinfo=UTC).timestamp())
    assert script.when(types.StartDateConstraint(start_date=date(2026, 8, 17))) == {
        "from_s": midnight
    }
    hours = types.TimeOfDateConstraint(
        start_time=time(0, 30, tzinfo=UTC), end_time=time(16, 0, 1, tzinfo=UTC)
    )
    assert script.when(hours) == {"daily_s": [1800, 57_601]}
    with pytest.raises(ValueError, match="not a whole second in UTC"):
        script.second_of_day(time(1, 0))
