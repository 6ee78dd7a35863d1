"""Make `modelux/pricing/data/models.json` from the packages `litellm` and `genai-prices`.

What each model can take and give: its window, its longest answer, what it reads, what its
service tiers and its web searches cost. Facts only. `litellm` need not be installed, its wheel
is enough:

    pip download --no-deps litellm==VERSION && python -m scripts.update_models litellm-*.whl

Where the two packages differ the larger window counts, and of several names under one price
the safest of each figure: what is held for a request must never be less than what it is billed.
"""

import argparse
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, TypeAlias

from genai_prices import types
from genai_prices.data import providers

from scripts import update_prices
from scripts.update_prices import DATA, NUSD_PER_USD, Json, callable_name, line

# As the package writes it: prices are decimals.
Entry: TypeAlias = "Mapping[str, object]"
Info: TypeAlias = "dict[str, Json]"

VERSION: Final = "1.109.1"
DATE: Final = "2026-11-22"
PRICES_PATH: Final = "litellm/model_prices_and_context_window_backup.json"
LICENCE_PATH: Final = f"litellm-{VERSION}.dist-info/licenses/LICENSE"
LICENCE_NAME: Final = "LICENSE.litellm"

# Our name of a vendor, and theirs with what they write before a model's name.
VENDORS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "openai": (("openai", ""), ("text-completion-openai", "")),
    "anthropic": (("anthropic", ""),),
    "google": (("gemini", "gemini/"),),
    "mistral": (("mistral", "mistral/"),),
    "groq": (("groq", "groq/"),),
    "deepseek": (("deepseek", "deepseek/"),),
    "together": (("together_ai", "together_ai/"),),
    "fireworks": (("fireworks_ai", "fireworks_ai/"),),
    "xai": (("xai", "xai/"),),
    "openrouter": (("openrouter", "openrouter/"),),
    "cerebras": (("cerebras", "cerebras/"),),
}
# What is asked over the OpenAI protocol; pictures, speech and video have other paths.
MODES: Final = {"chat", "completion", "responses", "embedding"}

# The tier goes by the price in USD of a million tokens, three of input to one of output, as
# prompts usually exceed answers. The first bound that the price is below counts.
TIERS: Final = (
    ("economy", Decimal(1)),
    ("standard", Decimal(5)),
    ("premium", Decimal(12)),
    ("frontier", None),
)

# The most tokens of one image, where the vendor's page bounds them; by the start of a name, the
# longest that fits. Seen 2026-11-22.
# OpenAI: tiles of 512 pixels, at most 8, or patches of 32, at most 1,536, times a factor;
# of later models no bound is stated (developers.openai.com/api/docs/guides/images-vision).
# Anthropic: patches of 28 pixels, at most 4,784
# (platform.claude.com/docs/en/build-with-claude/vision).
# Google: by the resolution asked for, from Gemini 3 on; before, tiles without a bound
# (ai.google.dev/gemini-api/docs/media-resolution).
IMAGE_TOKENS: Final[Mapping[str, Mapping[str, int | None]]] = {
    "openai": {
        "gpt-4-turbo": 1_445,
        "gpt-4-vision": 1_445,
        "gpt-4.5": 1_445,
        "gpt-4o": 1_445,
        "chatgpt-4o": 1_445,
        "gpt-4o-mini": 48_169,
        "gpt-4.1": 1_536,
        "gpt-4.1-mini": 2_489,
        "gpt-4.1-nano": 3_779,
        "o1": 1_275,
        "o3": 1_275,
        "o4-mini": 2_642,
        "gpt-5": 1_536,
        "gpt-5-mini": 2_489,
        "gpt-5-nano": 3_779,
        # Newer ones that begin alike.
        "gpt-5.": None,
        "gpt-5-image": None,
    },
    "anthropic": {"claude-": 4_784},
    "google": {"gemini-3": 2_240},
}

# Where a package is known to be wrong, or a limit can be raised by a header that no body shows.
CORRECTIONS: Final[Mapping[str, Mapping[str, Mapping[str, Json]]]] = {
    "openai": {
        # Its page: 8,192 tokens, all of which may be output.
        "gpt-4": {"max_output_tokens": 8_192},
        "gpt-4-0613": {"max_output_tokens": 8_192},
    },
    "anthropic": {
        # The header `anthropic-beta: context-1m-2025-08-07` opens a window of a million.
        "claude-sonnet-4-5": {"context_tokens": 1_000_000},
        "claude-sonnet-4-0": {"context_tokens": 1_000_000},
        "claude-sonnet-4": {"context_tokens": 1_000_000},
        # The header `anthropic-beta: output-128k-2025-02-19` allows twice the stated output.
        "claude-3-7-sonnet": {"max_output_tokens": 128_000},
    },
    "groq": {
        # They search and run code whenever they see fit.
        "groq/compound": {"searches": True},
        "groq/compound-mini": {"searches": True},
        "compound-beta": {"searches": True},
        "compound-beta-mini": {"searches": True},
    },
}

INPUT_COSTS: Final = (
    "input_cost_per_token",
    "input_cost_per_audio_token",
    "input_cost_per_image_token",
    "cache_creation_input_token_cost",
)
CACHED_COSTS: Final = ("cache_read_input_token_cost",)
OUTPUT_COSTS: Final = (
    "output_cost_per_token",
    "output_cost_per_audio_token",
    "output_cost_per_reasoning_token",
)
LONG_CONTEXTS: Final = ("", "_above_128k_tokens", "_above_200k_tokens", "_above_272k_tokens")
# Their word at the end of a price key, and ours for the service tier.
SERVICE_TIERS: Final = {"flex": "flex", "priority": "priority", "ultrafast": "fast"}
STANDARD: Final = 1000


@dataclass(frozen=True, slots=True)
class Package:
    """What the wheel holds that is used here."""

    models: Mapping[str, Entry]
    licence: str


def load_package(wheel: Path) -> Package:
    """Read the two files out of the wheel; nothing of it is run."""
    with zipfile.ZipFile(wheel) as files:
        models = json.loads(files.read(PRICES_PATH), parse_float=Decimal)
        return Package(models, files.read(LICENCE_PATH).decode())


# --- one model -----------------------------------------------------------------------------


def info(vendor: str, name: str, entry: Entry) -> Info:
    """Write what is known of one model; what is not known is left out."""
    written: Info = {}
    for theirs, ours in (
        ("max_input_tokens", "context_tokens"),
        ("max_output_tokens", "max_output_tokens"),
    ):
        if count := whole(entry.get(theirs)):
            written[ours] = count
    if tier := tier_of(number(entry, INPUT_COSTS[0]), number(entry, OUTPUT_COSTS[0])):
        written["tier"] = tier
    for theirs, ours in (
        ("supports_function_calling", "tools"),
        ("supports_vision", "images"),
        ("supports_response_schema", "json_schema"),
    ):
        # Left out may mean "no" there as well as "not known".
        if isinstance(known := entry.get(theirs), bool):
            written[ours] = known
    if (most := image_tokens(vendor, name)) is not None:
        written["image_tokens_max"] = most
    if fee := search_nusd(entry):
        written["search_nusd"] = fee
    special = entry.get("provider_specific_entry")
    if isinstance(special, dict) and isinstance(region := special.get("us"), Decimal):
        written["region_permille"] = math.ceil(region * STANDARD)
    if tiers := service_tiers(entry):
        written["service_tiers"] = tiers
    for start, corrected in CORRECTIONS.get(vendor, {}).items():
        if name == start or is_dated(name, start):
            written.update(corrected)
    return written


def is_dated(name: str, start: str) -> bool:
    """Whether that is `start` as of a day: `-20250929`, `-2024-08-06` or `-latest`."""
    rest = name.removeprefix(start)
    return rest != name and (rest == "-latest" or rest.replace("-", "").isdecimal())


def whole(value: object) -> int | None:
    """A count of tokens; some are written as decimals or as texts."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    count = Decimal(value)
    return int(count) if count > 0 and count == int(count) else None


def number(entry: Entry, key: str) -> Decimal | None:
    """A price, in USD."""
    value = entry.get(key)
    return Decimal(value) if isinstance(value, int | Decimal) else None


def tier_of(input_usd: Decimal | None, output_usd: Decimal | None) -> str | None:
    """The tier of a model by the rule above, from USD a token."""
    if input_usd is None or output_usd is None:
        return None
    mtok_usd = (3 * input_usd + output_usd) / 4 * 1_000_000
    return next(tier for tier, below in TIERS if below is None or mtok_usd < below)


def image_tokens(vendor: str, name: str) -> int | None:
    """The most tokens of one image, if the vendor states it."""
    known = IMAGE_TOKENS.get(vendor, {})
    starts = [start for start in known if name.removeprefix("ft:").startswith(start)]
    return known[max(starts, key=len)] if starts else None


def search_nusd(entry: Entry) -> int | None:
    """Nano-USD of one web search, at the largest context that can be asked for."""
    fees = entry.get("search_context_cost_per_query")
    if not isinstance(fees, dict):
        return None
    amounts = [Decimal(fee) for fee in fees.values() if isinstance(fee, int | Decimal)]
    return math.ceil(max(amounts) * NUSD_PER_USD) if amounts else None


def service_tiers(entry: Entry) -> Info:
    """What each service tier makes of the standard price, by the thousand, rounded up."""
    tiers: Info = {}
    for theirs, ours in SERVICE_TIERS.items():
        factors = [
            dearest_factor(entry, keys, theirs)
            for keys in (INPUT_COSTS, CACHED_COSTS, OUTPUT_COSTS)
        ]
        of_input, cached, of_output = factors
        if of_input is None and of_output is None:
            continue
        of_input = of_input or of_output or STANDARD
        tiers[ours] = factor((of_input, cached or of_input, of_output or of_input))
    special = entry.get("provider_specific_entry")
    if isinstance(special, dict) and isinstance(speed := special.get("fast"), int | Decimal):
        tiers["speed"] = math.ceil(Decimal(speed) * STANDARD)
    return tiers


def dearest_factor(entry: Entry, keys: Sequence[str], tier: str) -> int | None:
    """The largest factor of any of these prices, at any length of the prompt."""
    factors = []
    for key in keys:
        for context in LONG_CONTEXTS:
            standard = number(entry, f"{key}{context}")
            price = number(entry, f"{key}{context}_{tier}")
            if standard and price is not None:
                factors.append(math.ceil(price / standard * STANDARD))
    return max(factors, default=None)


def factor(each: tuple[int, int, int]) -> Json:
    """One number where input, cached input and output have the same."""
    return each[0] if len(set(each)) == 1 else list(each)


def each_of(written: Json) -> tuple[int, int, int]:
    """The factors of input, cached input and output."""
    if isinstance(written, list):
        of_input, cached, of_output = (int(str(part)) for part in written)
        return (of_input, cached, of_output)
    all_three = int(str(written))
    return (all_three, all_three, all_three)


# --- several models under one price --------------------------------------------------------


def safest(infos: Sequence[Info], window: int | None) -> Info:
    """Of each figure the one that never holds too little, if all names of a price say one."""
    written: Info = {}
    windows = [whole(one.get("context_tokens")) for one in infos]
    known = [*windows, window] if window else windows
    if known and None not in known:
        written["context_tokens"] = max(count for count in known if count)
    for key in ("max_output_tokens", "image_tokens_max", "search_nusd"):
        counts = [whole(one.get(key)) for one in infos]
        if counts and None not in counts:
            written[key] = max(count for count in counts if count)
    for key in ("tier", "tools", "images", "json_schema"):
        values = [one.get(key) for one in infos]
        if values and values[0] is not None and all(value == values[0] for value in values):
            written[key] = values[0]
    if regions := [count for one in infos if (count := whole(one.get("region_permille")))]:
        written["region_permille"] = max(regions)
    if tiers := dearest_tiers(infos):
        written["service_tiers"] = tiers
    return written


def dearest_tiers(infos: Sequence[Info]) -> Info:
    """Each service tier at its dearest; a cheaper one only where all have it."""
    tiers: Info = {}
    for name in (*SERVICE_TIERS.values(), "speed"):
        having = [
            each_of(have[name])
            for one in infos
            if isinstance(have := one.get("service_tiers"), dict) and name in have
        ]
        if having and (name != "flex" or len(having) == len(infos)):
            of_input, cached, of_output = (max(parts) for parts in zip(*having, strict=True))
            tiers[name] = factor((of_input, cached, of_output))
    return tiers


# --- the file ------------------------------------------------------------------------------


def vendor_models(vendor: str, models: Mapping[str, Entry]) -> Iterator[tuple[str, Info]]:
    """What is known of each model of a vendor, by its name in lower case."""
    prefixes = dict(VENDORS[vendor])
    for key, entry in models.items():
        theirs = str(entry.get("litellm_provider"))
        if theirs not in prefixes or entry.get("mode") not in MODES:
            continue
        name = key.removeprefix(prefixes[theirs]).lower()
        if written := info(vendor, name, entry):
            yield name, written


def corrected_alone(
    vendor: str, named: Mapping[str, Info], priced: Sequence[types.ModelInfo]
) -> Iterator[tuple[str, Info]]:
    """Corrections of models that neither package knows."""
    for name, corrected in CORRECTIONS.get(vendor, {}).items():
        if name not in named and not any(model.is_match(name) for model in priced):
            yield name, dict(corrected)


def own_price(model: types.ModelInfo) -> str | None:
    """The tier of a model by the first price that it has here."""
    prices = model.prices
    first = prices if isinstance(prices, types.ModelPrice) else prices[0].prices
    rates = [
        value.base if isinstance(value, types.TieredPrices) else value
        for value in (first.input_mtok, first.output_mtok)
    ]
    return tier_of(*(None if rate is None else rate / 1_000_000 for rate in rates))


def own_service_tiers(model: types.ModelInfo) -> Info:
    """The service tiers of a model by the other package, where its prices have no steps.

    Of prices that follow one another the lowest is the base: a factor is never too small then.
    """
    prices = model.prices
    known = [prices] if isinstance(prices, types.ModelPrice) else [one.prices for one in prices]
    tiers: Info = {}
    for variant in model.price_variants or ():
        tier = variant.when.get("service_tier")
        if tier not in {"flex", "priority"}:
            continue
        parts = [
            math.ceil(theirs / standard * STANDARD)
            for base in known
            for theirs, standard in (
                (variant.prices.input_mtok, base.input_mtok),
                (variant.prices.output_mtok, base.output_mtok),
            )
            if isinstance(theirs, Decimal) and isinstance(standard, Decimal) and standard
        ]
        if parts:
            tiers[tier] = max(parts)
    return tiers


def written_vendor(vendor: str, models: Mapping[str, Entry]) -> str:
    """Write one vendor: its names, and what holds for one that is only known by its price."""
    named = dict(vendor_models(vendor, models))
    by_id = {provider.id: provider for provider in providers}
    priced = by_id[update_prices.VENDORS[vendor]].models
    first: dict[str, str] = {}
    for name in named:
        found = next((model for model in priced if model.is_match(name)), None)
        if found is not None:
            first[name] = callable_name(found)
    # What only a few models have, by request, is not assumed of one that nobody knows.
    dearest = dearest_tiers(list(named.values()))
    tiers = {tier: value for tier, value in dearest.items() if tier == "priority"}
    priced_as: dict[str, Info] = {}
    for model in priced:
        key = callable_name(model)
        names = [name for name, found in first.items() if found == key]
        written = safest([named[name] for name in names], model.context_window)
        if not names:
            if (most := image_tokens(vendor, key)) is not None:
                written["image_tokens_max"] = most
            if own := tiers | own_service_tiers(model):
                written["service_tiers"] = own
        if "tier" not in written and (tier := own_price(model)):
            written["tier"] = tier
        for start, corrected in CORRECTIONS.get(vendor, {}).items():
            if key == start or is_dated(key, start):
                written.update(corrected)
        if written and key not in priced_as:
            priced_as[key] = written
    for name, written in named.items():
        # The price catalogue counts the whole window where the other counts its input.
        window = whole(priced_as.get(first.get(name, ""), {}).get("context_tokens"))
        stated = whole(written.get("context_tokens"))
        if window and (stated is None or window > stated):
            written["context_tokens"] = window
    named.update(corrected_alone(vendor, named, priced))
    same = {name for name, found in first.items() if named[name] == priced_as.get(found)}
    rows = {name: written for name, written in sorted(named.items()) if name not in same}
    return (
        f'"{vendor}":{{"service_tiers":{line(tiers)},"models":{table(rows)},'
        f'"priced_as":{table(priced_as)}}}'
    )


def table(rows: Mapping[str, Info]) -> str:
    """One model a line, so that a change is seen as one."""
    lines = ",\n".join(f"{line(name)}:{line(written)}" for name, written in rows.items())
    return f"{{\n{lines}\n}}"


def catalogue(models: Mapping[str, Entry]) -> str:
    """Write the whole file."""
    version = f"{DATE} from litellm {VERSION}, {update_prices.PACKAGE} {update_prices.VERSION}"
    vendors = ",\n".join(written_vendor(vendor, models) for vendor in VENDORS)
    return f'{{"format":1,"version":{line(version)},"vendors":{{\n{vendors}\n}}}}\n'


def main() -> int:
    """Write both files, or say with `--check` whether they are as they would be written."""
    parser = argparse.ArgumentParser(description="Make the model data from litellm's wheel.")
    parser.add_argument("wheel", type=Path, help=f"the wheel of litellm {VERSION}")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on change")
    arguments = parser.parse_args()
    package = load_package(arguments.wheel)
    changed = False
    for name, text in (
        ("models.json", catalogue(package.models)),
        (LICENCE_NAME, package.licence),
    ):
        path = DATA / name
        if not path.exists() or path.read_text() != text:
            changed = True
            if not arguments.check:
                path.write_text(text)
    return 1 if changed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
