"""What the script makes of the package, and what ships: nothing that would hold too little."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import pytest
from genai_prices import types
from genai_prices.data import providers

from modelux.pricing.catalogue import catalogue, model_info
from scripts import update_models as script
from scripts import update_prices

SHIPPED: Final[dict[str, Any]] = json.loads((update_prices.DATA / "models.json").read_text())
NOW: Final = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp())


def infos(vendor: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every model of a vendor that ships."""
    yield from SHIPPED["vendors"][vendor]["models"].items()
    yield from SHIPPED["vendors"][vendor]["priced_as"].items()


# --- what ships ----------------------------------------------------------------------------


def test_the_file_says_what_it_was_made_from_and_when() -> None:
    version = catalogue().models_version
    assert version == SHIPPED["version"]
    assert f"litellm {script.VERSION}" in version
    assert f"{update_prices.PACKAGE} {update_prices.VERSION}" in version
    assert date.fromisoformat(version.split()[0]) <= datetime.now(UTC).date()
    assert "MIT License" in (update_prices.DATA / script.LICENCE_NAME).read_text()
    assert (update_prices.DATA / "models.json").stat().st_size < 400_000


def test_every_vendor_of_the_prices_that_is_called_directly_is_there() -> None:
    assert SHIPPED["vendors"].keys() == script.VENDORS.keys()
    assert script.VENDORS.keys() <= update_prices.VENDORS.keys()
    for vendor in script.VENDORS:
        assert sum("context_tokens" in info for _, info in infos(vendor)) >= 5, vendor


@pytest.mark.parametrize("vendor", script.VENDORS)
def test_every_figure_is_one_that_can_be(vendor: str) -> None:
    for name, info in infos(vendor):
        assert name == name.lower() or name in SHIPPED["vendors"][vendor]["priced_as"]
        assert 256 <= info.get("context_tokens", 256) <= 20_000_000, name
        assert 1 <= info.get("max_output_tokens", 1) <= 2_000_000, name
        assert info.get("tier") in {None, "economy", "standard", "premium", "frontier"}, name
        assert 1_000_000 <= info.get("search_nusd", 1_000_000) <= 10**9, name
        for factor in info.get("service_tiers", {}).values():
            assert all(100 <= each <= 10_000 for each in script.each_of(factor)), name


@pytest.mark.parametrize("vendor", script.VENDORS)
def test_no_window_is_smaller_than_the_price_catalogue_knows(vendor: str) -> None:
    provider = next(one for one in providers if one.id == update_prices.VENDORS[vendor])
    for model in provider.models:
        name = update_prices.callable_name(model)
        if not catalogue().knows(vendor, name) or model.context_window is None:
            continue
        info = model_info(vendor, name)
        assert info is not None, name
        # A window is left out only where one of the names under that price has none.
        assert (info.context_tokens or model.context_window) >= model.context_window, name


def variants(model: types.ModelInfo, tier: str) -> Iterator[types.ModelPrice]:
    """What a model costs at a service tier, as the price package has it."""
    for variant in getattr(model, "price_variants", None) or ():
        start = getattr(variant.constraint, "start_date", date.min)
        if variant.when == {"service_tier": tier} and start <= date(2026, 11, 22):
            yield variant.prices


@pytest.mark.parametrize("tier", ["flex", "priority"])
@pytest.mark.parametrize("vendor", ["openai", "google"])
def test_the_service_tiers_agree_with_those_of_the_price_catalogue(
    vendor: str, tier: str
) -> None:
    provider = next(one for one in providers if one.id == update_prices.VENDORS[vendor])
    usage = {"input_tokens": 1_000, "output_tokens": 1_000}
    wrong, seen = [], 0
    for model in provider.models:
        for price in variants(model, tier):
            if not isinstance(price.input_mtok, Decimal) or not price.output_mtok:
                continue
            assert isinstance(price.output_mtok, Decimal)
            name = update_prices.callable_name(model)
            cost = catalogue().cost(vendor, name, NOW, usage, tier)
            if cost is None or not catalogue().knows(vendor, name):
                continue
            seen += 1
            exact = (price.input_mtok + price.output_mtok) * 10**6
            # Factors are rounded up to a thousandth; nothing may be cheaper than it is.
            if not exact <= sum(cost) <= exact * Decimal("1.01"):
                wrong.append((name, sum(cost), exact))
    assert wrong == []
    assert seen >= {"openai": 10, "google": 2}[vendor]


# --- how it is made ------------------------------------------------------------------------


def entry(**members: object) -> Mapping[str, object]:
    return {"mode": "chat", "litellm_provider": "openai", **members}


def test_what_is_not_known_is_left_out() -> None:
    assert script.info("openai", "x", entry()) == {}
    strange = entry(max_input_tokens="many", max_output_tokens=0, supports_vision="yes")
    with pytest.raises(ArithmeticError):
        script.info("openai", "x", strange)
    assert script.info("openai", "x", entry(max_output_tokens=0)) == {}
    known = entry(max_input_tokens="8192", max_output_tokens=Decimal("4096.0"))
    assert script.info("openai", "x", known) == {
        "context_tokens": 8192,
        "max_output_tokens": 4096,
    }


@pytest.mark.parametrize(
    ("input_usd", "output_usd", "tier"),
    [
        ("0", "0", "economy"),
        ("0.00000015", "0.0000006", "economy"),
        ("0.000001", "0.000001", "standard"),
        ("0.0000025", "0.00001", "standard"),
        ("0.000003", "0.000015", "premium"),
        ("0.000015", "0.000075", "frontier"),
    ],
)
def test_the_tier_goes_by_three_tokens_of_input_to_one_of_output(
    input_usd: str, output_usd: str, tier: str
) -> None:
    assert script.tier_of(Decimal(input_usd), Decimal(output_usd)) == tier
    assert script.tier_of(None, Decimal(1)) is None


def test_a_service_tier_is_as_dear_as_any_of_its_prices() -> None:
    written = script.service_tiers(
        entry(
            input_cost_per_token=Decimal("0.003"),
            input_cost_per_token_priority=Decimal("0.005"),
            input_cost_per_token_above_200k_tokens=Decimal("0.006"),
            input_cost_per_token_above_200k_tokens_priority=Decimal("0.018"),
            cache_read_input_token_cost=Decimal("0.001"),
            cache_read_input_token_cost_priority=Decimal("0.001"),
            output_cost_per_token=Decimal("0.002"),
            output_cost_per_token_priority=Decimal("0.003"),
            input_cost_per_token_flex=Decimal("0.001"),
            output_cost_per_token_flex=Decimal("0.001"),
        )
    )
    assert written == {"priority": [3000, 1000, 1500], "flex": [334, 334, 500]}


def test_of_several_names_under_one_price_the_safest_counts() -> None:
    small: script.Info = {
        "context_tokens": 1000,
        "max_output_tokens": 10,
        "tools": True,
        "tier": "economy",
        "service_tiers": {"flex": 500, "priority": 2000},
    }
    large: script.Info = {
        "context_tokens": 2000,
        "max_output_tokens": 20,
        "tools": False,
        "tier": "economy",
        "service_tiers": {"priority": [1500, 1500, 3000]},
    }
    assert script.safest([small, large], None) == {
        "context_tokens": 2000,
        "max_output_tokens": 20,
        "tier": "economy",
        "service_tiers": {"priority": [2000, 2000, 3000]},
    }
    assert script.safest([small, large], 5000)["context_tokens"] == 5000
    assert "max_output_tokens" not in script.safest([small, {}], None)
    assert script.safest([], 700) == {"context_tokens": 700}


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("gpt-4o-2024-08-06", 1_445),
        ("gpt-4o-mini-2024-07-18", 48_169),
        ("ft:gpt-4o-2024-08-06", 1_445),
        ("gpt-5-mini", 2_489),
        ("gpt-5.4", None),
        ("gpt-6-sol", None),
    ],
)
def test_the_longest_start_of_a_name_tells_how_large_an_image_can_be(
    name: str, most: int | None
) -> None:
    assert script.image_tokens("openai", name) == most


def test_only_a_day_makes_a_name_another_of_the_same_model() -> None:
    assert script.is_dated("claude-sonnet-4-5-20250929", "claude-sonnet-4-5")
    assert script.is_dated("gpt-4-latest", "gpt-4")
    assert not script.is_dated("gpt-4-turbo", "gpt-4")
    assert not script.is_dated("gpt-4", "gpt-4")


def test_the_wheel_is_read_and_not_run(tmp_path: Path) -> None:
    wheel = tmp_path / "litellm.whl"
    with ZipFile(wheel, "w") as files:
        files.writestr(script.PRICES_PATH, '{"gpt-x": {"input_cost_per_token": 1e-07}}')
        files.writestr(script.LICENCE_PATH, "MIT")
    package = script.load_package(wheel)
    assert package.models["gpt-x"]["input_cost_per_token"] == Decimal("1e-07")
    assert package.licence == "MIT"
