"""Prices beside those that genai-prices computes, over all models and over recorded traffic."""

import itertools
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Final, cast

import pytest
from genai_prices import types as genai
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from modelux.pricing.catalogue import catalogue, known_models, model_facts
from tests import corpus

# Our names of vendors and those of the corpus and of genai-prices.
RECORDED: Final[Mapping[str, str]] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "vertex": "google",
    "azure-openai": "azure_openai",
}
VENDORS: Final[Mapping[str, str]] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "google",
    "mistral": "mistral",
    "groq": "groq",
    "deepseek": "deepseek",
    "together": "together",
    "fireworks": "fireworks",
    "xai": "x-ai",
    "openrouter": "openrouter",
    "cerebras": "cerebras",
    "azure_openai": "azure",
    "moonshotai": "moonshotai",
}
# The day after the costs were computed; the catalogue knows no later price.
NOW: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)
LINES_MAX: Final = 9

# Parts of a usage, ours to theirs. Text is what is left; tools and text are counted in it.
PARTS: Final[Mapping[str, str]] = {
    "cached_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "audio_input_tokens": "input_audio_tokens",
    "image_input_tokens": "input_image_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
    "audio_output_tokens": "output_audio_tokens",
}
INPUT_PARTS: Final = tuple(PARTS)[:5]
PLAIN: Final = {
    "input_tokens",
    "output_tokens",
    "cache_write_5m_tokens",
    "input_text_tokens",
    "output_text_tokens",
    "cache_text_read_tokens",
    "input_tool_tokens",
    "input_text_tool_tokens",
    *PARTS.values(),
}


def ours(theirs: Mapping[str, int]) -> dict[str, int]:
    """A usage in disjoint parts, from one whose parts lie in one another."""
    parts = {mine: theirs.get(name, 0) for mine, name in PARTS.items()}
    parts["cache_write_tokens"] -= parts["cache_write_1h_tokens"]
    rest_of_input = sum(parts[name] for name in INPUT_PARTS)
    rest_of_output = parts["reasoning_tokens"] + parts["audio_output_tokens"]
    parts["input_tokens"] = theirs.get("input_tokens", 0) - rest_of_input
    parts["output_tokens"] = theirs.get("output_tokens", 0) - rest_of_output
    return parts


def is_plain(usage: Mapping[str, int]) -> bool:
    """Whether we count all of it: not searches or video, nor media that came from a cache."""
    media = usage.get("input_image_tokens", 0) + usage.get("input_audio_tokens", 0)
    return usage.keys() <= PLAIN and not (media and usage.get("cache_read_tokens", 0))


def agrees(cost: tuple[int, int] | None, usd: Decimal) -> bool:
    """Whether a cost is the exact one, rounded up by less than one nano-USD a line."""
    return cost is not None and 0 <= sum(cost) - usd * 10**9 < LINES_MAX


# --- recorded traffic ----------------------------------------------------------------------


def expected_costs(which: str) -> Iterator[tuple[dict[str, object], int, Decimal]]:
    """Records with their instant and cost, of those that hold only what we count."""
    path = corpus.directory() / "expected_costs.jsonl"
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record[which] is not None and is_plain(record["usage"]):
            at = NOW if which == "usd_now" else parsedate_to_datetime(record["date"])
            yield record, int(at.timestamp()), Decimal(record[which])


@pytest.mark.parametrize(("which", "at_least"), [("usd_now", 1_400), ("usd_at_date", 1_000)])
def test_recorded_answers_cost_what_they_should(which: str, at_least: int) -> None:
    wrong, seen = [], 0
    for record, at_s, usd in expected_costs(which):
        usage = cast("dict[str, int]", record["usage"])
        vendor = RECORDED[cast("str", record["provider"])]
        cost = catalogue().cost(vendor, cast("str", record["model"]), at_s, ours(usage))
        seen += 1
        if not agrees(cost, usd):
            wrong.append((record["id"], record["model"], cost, usd))
    assert wrong == []
    assert seen >= at_least


# --- all models ----------------------------------------------------------------------------


def provider(vendor: str) -> genai.Provider:
    return next(item for item in providers if item.id == VENDORS[vendor])


def names_in(rule: object) -> Iterator[str]:
    """Names that a rule tells: whole ones, and starts and ends and middles made whole."""
    for attribute in ("equals", "starts_with", "ends_with", "contains"):
        text = getattr(rule, attribute, None)
        if text is not None:
            yield from (
                text,
                f"{text}-x",
                f"x-{text}",
                f"{text}-2025-01-31",
                f"{text}-20250131",
            )
    for inner in [*(getattr(rule, "or_", None) or ()), *(getattr(rule, "and_", None) or ())]:
        yield from names_in(inner)


def their_names(vendor: str) -> list[str]:
    """Every name that their data tells for a vendor, and near misses of them."""
    names = {
        name
        for model in provider(vendor).models
        for name in itertools.chain([model.id, model.id.upper()], names_in(model.match))
    }
    return sorted(names)


def their_model(vendor: str, name: str) -> genai.ModelInfo | None:
    return provider(vendor).find_model(name, all_providers=providers)


def their_prices(model: genai.ModelInfo, at: datetime) -> genai.ModelPrice:
    return model.get_prices(at)


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_name_finds_what_it_finds_there(vendor: str) -> None:
    different = [
        name
        for name in their_names(vendor)
        if catalogue().knows(vendor, name) != (their_model(vendor, name) is not None)
    ]
    assert different == []


def instants(model: genai.ModelInfo) -> list[datetime]:
    """Now, long ago, and a second before and at each change of a model's price."""
    found = [NOW, datetime(2020, 1, 1, tzinfo=UTC)]
    for conditional in model.prices if isinstance(model.prices, list) else []:
        constraint = conditional.constraint
        if isinstance(constraint, genai.StartDateConstraint):
            midnight = datetime.combine(constraint.start_date, datetime.min.time(), UTC)
            found += [midnight, midnight - timedelta(seconds=1)]
        elif isinstance(constraint, genai.TimeOfDateConstraint):
            for end in (constraint.start_time, constraint.end_time):
                edge = datetime.combine(NOW.date(), end)
                found += [edge, edge - timedelta(seconds=1)]
    return found


# What genai-prices can price by these parts alone: it refuses a usage that leaves out a part
# which overlaps two that are there, and we do not count cached audio or images.
USAGES: Final = (
    {"input_tokens": 1_001, "output_tokens": 37},
    {"input_tokens": 0, "output_tokens": 0},
    {"input_tokens": 128_000, "cache_read_tokens": 127_999, "output_tokens": 3},
    {"input_tokens": 200_000, "cache_read_tokens": 7, "output_tokens": 1},
    {"input_tokens": 200_001, "cache_read_tokens": 199_000, "output_tokens": 1},
    {"input_tokens": 272_001, "cache_write_tokens": 1_003, "output_tokens": 999},
    {"input_tokens": 3_000_000, "output_tokens": 9, "output_reasoning_tokens": 7},
    {
        "input_tokens": 5_000,
        "cache_read_tokens": 1_111,
        "cache_write_tokens": 2_222,
        "cache_write_5m_tokens": 1_111,
        "cache_write_1h_tokens": 1_111,
        "output_tokens": 77,
    },
)  # fmt: skip


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_model_costs_what_it_costs_there(vendor: str) -> None:
    wrong = []
    for model in provider(vendor).models:
        name = next((name for name in [model.id, *names_in(model.match)]
                     if their_model(vendor, name) is model), None)  # fmt: skip
        if name is None:
            continue
        for at, usage in itertools.product(instants(model), USAGES):
            prices = their_prices(model, at)
            cost = catalogue().cost(vendor, name, int(at.timestamp()), ours(usage))
            usd = prices.calc_price(genai.Usage(**usage))["total_price"]
            if not agrees(cost, usd) and not is_unpriced(cost, prices, usage):
                wrong.append((name, at.isoformat(), usage, cost, usd))
    assert wrong[:5] == []


def is_unpriced(
    cost: tuple[int, int] | None, prices: genai.ModelPrice, usage: Mapping[str, int]
) -> bool:
    """Whether we refuse where they say 0, as nothing prices what was used."""
    unpriced = [prices.input_mtok is None, prices.output_mtok is None]
    used = [usage["input_tokens"] > 0, usage["output_tokens"] > 0]
    missing = any(a and b for a, b in zip(unpriced, used, strict=True))
    return cost is None and (missing or all(unpriced))


def test_a_model_without_a_price_is_known_and_not_free() -> None:
    assert catalogue().knows("openai", "whisper-1")
    assert not catalogue().has_price("openai", "whisper-1", 0)
    assert catalogue().cost("openai", "whisper-1", 0, {}) is None


# --- names ---------------------------------------------------------------------------------


def test_models_are_known_by_all_their_names_and_shown_by_one() -> None:
    models = known_models("anthropic")
    assert "claude-3-5-haiku-latest" in list(models)
    assert "claude-3-5-haiku-20241022" in models
    assert "claude-3-5-haiku-20241022" not in list(models)
    assert len(models) == len(list(models)) > 20
    assert "gpt-4o" not in models


def test_what_a_choice_by_price_needs_is_known_of_a_model() -> None:
    small, large = model_facts("openai", "gpt-4o-mini"), model_facts("openai", "gpt-4o")
    embedding = model_facts("openai", "text-embedding-3-small")
    unknown = model_facts("openai", "nobody-has-it")

    # 0.15 and 0.60 USD a million tokens.
    assert small.mix_nusd == 1_050_000
    assert (small.tier, small.calls_tools) == ("economy", True)
    assert large.mix_nusd is not None
    assert large.mix_nusd > small.mix_nusd
    assert not embedding.calls_tools
    assert (unknown.tier, unknown.calls_tools, unknown.mix_nusd) == (None, False, None)


def test_a_vendor_out_of_the_catalogue_has_no_models() -> None:
    assert len(known_models("vllm")) == 0
    assert "llama" not in known_models("vllm")


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_model_that_is_shown_can_be_called(vendor: str) -> None:
    models = known_models(vendor)
    assert len(models) > 0
    assert [name for name in models if name not in models] == []


@given(
    vendor=st.sampled_from([*VENDORS, ""]),
    name=st.text(),
    at_s=st.integers(-(2**63), 2**63 - 1),
)
def test_any_name_at_any_time_has_a_price_or_none(vendor: str, name: str, at_s: int) -> None:
    assert catalogue().has_price(vendor, name, at_s) <= catalogue().knows(vendor, name)
