"""Make `modelux/pricing/data/prices.json` from the package `genai-prices`.

Run it in an environment that holds the version named below; raise that version to follow the
prices. Kept are token prices, fees a request and a web search, context tiers, dates and hours,
and the rules by which a model's name is found, for the vendors that modelux can speak to. Left
out is what modelux does not count: hours of audio, pages, characters, and the variants of a
price, as those of service tiers, of which `scripts/update_models.py` knows more.

What this script does not understand stops it: a price must never go missing in silence.
"""

import argparse
import datetime
import json
import re
import sys
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, Decimal
from importlib import metadata
from pathlib import Path
from typing import Final, TypeAlias

from genai_prices import types
from genai_prices.data import providers

Json: TypeAlias = "None | bool | int | str | list[Json] | dict[str, Json]"

PACKAGE: Final = "genai-prices"
VERSION: Final = "0.2.3"
DATA: Final = Path(__file__).resolve().parents[1] / "modelux" / "pricing" / "data"

# Our name of a vendor and theirs. What follows the first gap is only there as the fallback of
# another: Azure serves Moonshot's models.
VENDORS: Final = {
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
# Models whose empty price list means free of charge, as their vendors' pages say. Of all others
# it means that the price is not known, and what is not known is never free.
FREE: Final = {
    "google": {"gemma-3", "gemma-3n", "gemma-4-26b-a4b-it", "gemma-4-31b-it"},
    "openai": {"moderation"},
}
FREE_SUFFIX: Final = ":free"

# Their price keys, by the million tokens, and our parts of a usage.
RATES: Final = {
    "input_mtok": "input",
    "cache_read_mtok": "cached",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "input_image_mtok": "image_input",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
    "output_image_mtok": "image_output",
}
# Fees by the thousand, and ours by the one.
FEES: Final = {"requests_kcount": "request", "web_searches_kcount": "search"}
NOT_COUNTED: Final = {
    "audio_hours",
    "cache_audio_read_mtok",
    "cache_image_read_mtok",
    "input_annotated_document_kpages",
    "input_audio_hours",
    "input_document_kpages",
    "input_mchars",
    "input_text_messages_kcount",
    "input_video_mtok",
    "output_citation_mtok",
    "output_video_mtok",
    "storage_searches_kcount",
}

NUSD_PER_USD: Final = 1_000_000_000
PRICE_NUSD_MAX: Final = 2**53
TIERS_MAX: Final = 2
NO_TTS: Final = "^(?!.*-[tT][tT][sS](?:$|-))"


def nusd(price: Decimal, per: int = 1) -> int:
    """Nano-USD, rounded up: a few prices are thirds, and none may become cheaper here."""
    amount = (price * NUSD_PER_USD / per).to_integral_value(ROUND_CEILING)
    if not 0 <= amount <= PRICE_NUSD_MAX:
        raise ValueError(f"{price} USD by {per} is no price")
    return int(amount)


# --- names ---------------------------------------------------------------------------------


def clause(rule: object) -> Json:
    """Write one rule of a model's names; texts in lower case, as names are looked up so."""
    match rule:
        case types.ClauseEquals(equals=text):
            return {"equals": text.lower()}
        case types.ClauseStartsWith(starts_with=text):
            return {"starts_with": text.lower()}
        case types.ClauseEndsWith(ends_with=text):
            return {"ends_with": text.lower()}
        case types.ClauseContains(contains=text):
            return {"contains": text.lower()}
        case types.ClauseOr(or_=rules):
            return {"or": [part for rule in rules for part in alternatives(clause(rule))]}
        case types.ClauseAnd(and_=rules):
            return {"and": [clause(rule) for rule in rules]}
        case types.ClauseRegex(regex=regex):
            parts = list(digit_patterns(regex))
            return parts[0] if len(parts) == 1 else {"or": parts}
        case _:
            raise ValueError(f"unknown rule {rule!r}")


def alternatives(written: Json) -> list[Json]:
    """The parts of an `or`, or the rule alone: an `or` in an `or` says no more than one."""
    if isinstance(written, dict) and isinstance(inner := written.get("or"), list):
        return inner
    return [written]


def digit_patterns(regex: str) -> Iterator[Json]:
    """Write a regex as texts in which `#` stands for a digit; that is all that is used."""
    if regex == NO_TTS:
        yield {"not": {"or": [{"ends_with": "-tts"}, {"contains": "-tts-"}]}}
        return
    if not regex.startswith("^") or "#" in regex:
        raise ValueError(f"a regex that is not understood: {regex!r}")
    kind = "digits" if regex.endswith("$") else "digits_start"
    texts = [""]
    rest = regex.removeprefix("^").removesuffix("$")
    while rest:
        token = re.match(r"\\d\{(\d)\}|\\d|\\\.|\[-?[\w@.]+\]|[\w@:/-]", rest)
        if token is None:
            raise ValueError(f"a regex that is not understood: {regex!r} at {rest!r}")
        rest = rest[token.end() :]
        text = token[0]
        if text.startswith("\\d"):
            choices: Sequence[str] = ["#" * int(token[1] or "1")]
        elif text.startswith("["):
            choices = text[1:-1]
        else:
            choices = [text.removeprefix("\\")]
        texts = [start + choice for start in texts for choice in choices]
    for text in texts:
        yield {kind: text.lower()}


def callable_name(model: types.ModelInfo) -> str:
    """The name to show for a model: its id, unless only another one is known to be called."""
    if model.is_match(model.id):
        return model.id
    rules = model.match.or_ if isinstance(model.match, types.ClauseOr) else [model.match]
    names = [rule.equals for rule in rules if isinstance(rule, types.ClauseEquals)]
    return names[0] if names else model.id


# --- prices --------------------------------------------------------------------------------


def model_prices(vendor: str, model: types.ModelInfo) -> list[Json]:
    """Write all prices of a model; of those that hold at an instant the last one counts."""
    is_free = model.id.endswith(FREE_SUFFIX) or model.id in FREE.get(vendor, ())
    if isinstance(model.prices, types.ModelPrice):
        return [price(model.prices, is_free=is_free)]
    return [
        {**when(conditional.constraint), **price(conditional.prices, is_free=is_free)}
        for conditional in model.prices
    ]


def when(constraint: object) -> dict[str, Json]:
    """Write since when, or between which seconds of a day in UTC, a price holds."""
    match constraint:
        case None:
            return {}
        case types.StartDateConstraint(start_date=day):
            midnight = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
            return {"from_s": int(midnight.timestamp())}
        case types.TimeOfDateConstraint(start_time=start, end_time=end):
            return {"daily_s": [second_of_day(start), second_of_day(end)]}
        case _:
            raise ValueError(f"unknown constraint {constraint!r}")


def second_of_day(instant: datetime.time) -> int:
    """Seconds since midnight in UTC."""
    if instant.utcoffset() != datetime.timedelta() or instant.microsecond:
        raise ValueError(f"{instant} is not a whole second in UTC")
    return instant.hour * 3600 + instant.minute * 60 + instant.second


def price(prices: types.ModelPrice, *, is_free: bool) -> dict[str, Json]:
    """Write one set of prices: the rates, and for each tier all rates that hold beyond it."""
    values = {key: value for key, value in vars(prices).items() if value is not None}
    if is_free and not values:
        return {"rates": {"input": 0, "output": 0}}
    unknown = values.keys() - RATES.keys() - NOT_COUNTED - FEES.keys()
    if unknown:
        raise ValueError(f"unknown price keys: {sorted(unknown)}")
    starts = sorted(
        {
            tier.start
            for key, value in values.items()
            if isinstance(value, types.TieredPrices) and key in RATES
            for tier in value.tiers
        }
    )
    if len(starts) > TIERS_MAX:
        raise ValueError(f"more than {TIERS_MAX} tiers: {starts}")
    written: dict[str, Json] = {"rates": rates(values, -1)}
    if starts:
        written["tiers"] = [{"over": start, "rates": rates(values, start)} for start in starts]
    written |= {ours: nusd(values[fee], 1000) for fee, ours in FEES.items() if fee in values}
    return written


def rates(values: dict[str, Decimal | types.TieredPrices], start: int) -> dict[str, Json]:
    """The rates for prompts longer than `start` tokens and no longer than the next tier."""
    written: dict[str, Json] = {}
    for key, name in RATES.items():
        value = values.get(key)
        if isinstance(value, types.TieredPrices):
            reached = [tier.price for tier in value.tiers if tier.start <= start]
            value = reached[-1] if reached else value.base
        if value is not None:
            written[name] = nusd(value)
    return written


# --- the file ------------------------------------------------------------------------------


def catalogue() -> str:
    """Write the whole catalogue, one model a line, so that a change of price is seen as one."""
    by_id = {provider.id: provider for provider in providers}
    ours = {theirs: vendor for vendor, theirs in VENDORS.items()}
    vendors = []
    for vendor, theirs in VENDORS.items():
        provider = by_id[theirs]
        fallback = [ours[name] for name in provider.fallback_model_providers or []]
        models = ",\n".join(
            line(
                {
                    "id": callable_name(model),
                    "match": clause(model.match),
                    "prices": model_prices(vendor, model),
                }
            )
            for model in provider.models
        )
        vendors.append(f'"{vendor}":{{"fallback":{line(fallback)},"models":[\n{models}\n]}}')
    all_vendors = ",\n".join(vendors)
    head = f'{{"format":1,"version":"{PACKAGE} {VERSION}"'
    return f'{head},"vendors":{{\n{all_vendors}\n}}}}\n'


def line(value: object) -> str:
    """JSON without white space."""
    return json.dumps(value, separators=(",", ":"))


def licence() -> str:
    """The licence text as the package carries it."""
    for path in metadata.files(PACKAGE) or []:
        if path.name == "LICENSE":
            return path.read_text()
    raise ValueError(f"{PACKAGE} carries no licence text")


def main() -> int:
    """Write both files, or say with `--check` whether they are as they would be written."""
    parser = argparse.ArgumentParser(description="Make the price data from genai-prices.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on change")
    arguments = parser.parse_args()
    installed = metadata.version(PACKAGE)
    if installed != VERSION:
        sys.stderr.write(f"{PACKAGE} {VERSION} is wanted, {installed} is installed\n")
        return 1
    changed = False
    for name, text in (("prices.json", catalogue()), ("LICENSE.genai-prices", licence())):
        path = DATA / name
        if not path.exists() or path.read_text() != text:
            changed = True
            if not arguments.check:
                DATA.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    return 1 if changed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
