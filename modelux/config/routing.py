"""Routing configs: read in both spellings, kept in one.

A config is stored as it was meant, with model names and not with providers, so that a version
stays what it is when providers change. What the names come to is worked out at every activation
(`config/resolve.py`).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, NewType

from modelux import limits
from modelux.config.model import (
    OUTPUT_LIMITS,
    RETRY_ON_WORDS,
    STRATEGIES,
    TIME_LIMITS,
    RoutingConfig,
    Target,
)
from modelux.config.read import (
    Reading,
    build,
    check_keys,
    hint,
    join,
    nearest,
    read_options,
    read_table,
    shown,
)
from modelux.config.strategies import (
    encode_parts,
    encode_shadow,
    number,
    read_params,
    read_parts,
    read_shadow,
)
from modelux.units import NUSD_PER_USD, usd_text

ContentHash = NewType("ContentHash", str)
"""SHA-256 of a routing config's canonical JSON, in hex."""

REFERENCE: Final = re.compile(r"@(?P<slug>[A-Za-z0-9_][A-Za-z0-9_.-]*)(@(?P<version>[0-9]+))?")
_STATUS: Final = re.compile(r"[45][0-9][0-9]")
_STRATEGIES: Final = {**{name: name for name in STRATEGIES}, "fallback_chain": "fallback"}
_MODEL_BYTES_MAX: Final = 256


# --- reading -------------------------------------------------------------------------------


def read_routing(
    value: object, place: str, reading: Reading, *, besides: Sequence[str] = (), depth: int = 1
) -> RoutingConfig | None:
    """Read a routing config in either spelling; None with faults noted.

    Args:
        value: A table.
        place: Its key path.
        reading: The pass it belongs to.
        besides: Keys that are the caller's own (`project`).
        depth: How deep it is nested; the outermost is 1.
    """
    if depth > limits.ROUTE_DEPTH_MAX:
        reading.faults.add(place, f"is nested deeper than {limits.ROUTE_DEPTH_MAX}")
        return None
    data = read_table(value, place, reading)
    named = "strategy"
    if "policy" in data:
        named = "policy"
        check_keys(data, {"policy", "config", *besides}, place, reading, table="routes")
        written = data["policy"]
        place = join(place, "config")
        data = read_table(data.get("config", {}), place, reading)
        besides = ()
    else:
        written = data.get("strategy")
        besides = ("strategy", *besides)
    strategy = _read_strategy(written, place, named, reading)
    if strategy is None:
        return None

    def read(item: object, at: str) -> Target | RoutingConfig | None:
        return read_target(item, at, reading, depth)

    parts = read_parts(strategy, data, place, reading, read)
    values = read_options(RoutingConfig, _with_fit_word(data), place, reading)
    known = {*parts.keys, *besides, *values, "shadow"}
    check_keys(data, known, place, reading, table="routes")
    _check_limits(values, place, reading)
    values["retry_on"] = _read_retry_on(values["retry_on"], place, reading)
    if "shadow" in data:
        values["shadow"] = read_shadow(data["shadow"], join(place, "shadow"), reading, read)
    named_parts = {"strategy": strategy, "targets": parts.targets, "own": parts.own}
    return build(RoutingConfig, {**values, **named_parts, "place": place})


def _with_fit_word(data: Mapping[str, object]) -> Mapping[str, object]:
    fit = data.get("fit_to_budget")
    if not isinstance(fit, bool):
        return data
    return {**data, "fit_to_budget": "auto" if fit else "never"}


def _check_limits(values: Mapping[str, object], place: str, reading: Reading) -> None:
    most, least = values["max_output_tokens"], values["min_output_tokens"]
    if isinstance(most, int) and isinstance(least, int) and least > most:
        reading.faults.add(
            join(place, "min_output_tokens"),
            f"{least} is above `max_output_tokens`, {most}; lower it",
        )


def _read_strategy(written: object, place: str, named: str, reading: Reading) -> str | None:
    place = join(place.removesuffix(".config") if named == "policy" else place, named)
    if isinstance(written, str) and written in _STRATEGIES:
        return _STRATEGIES[written]
    if written is None:
        message = f"is missing: one of {', '.join(STRATEGIES)}"
    elif isinstance(written, str):
        message = f"unknown strategy {shown(written)}{hint(written, _STRATEGIES)}"
    else:
        message = f"must be a string, not {shown(written)}"
    reading.faults.add(place, message)
    return None


def read_target(
    value: object, place: str, reading: Reading, depth: int
) -> Target | RoutingConfig | None:
    """Read one target: a model's name, a table around one, or a routing config inside.

    Args:
        value: What stands there.
        place: Its key path.
        reading: The pass it belongs to.
        depth: How deep the config around it is nested; 0 for none.
    """
    if isinstance(value, str):
        return Target(model=value, place=place) if _is_model(value, place, reading) else None
    if not isinstance(value, dict):
        reading.faults.add(place, f"must be a model or a table, not {shown(value)}")
        return None
    data = read_table(value, place, reading)
    if "strategy" in data or "policy" in data:
        return read_routing(data, place, reading, depth=depth + 1)
    values = read_options(Target, data, place, reading)
    known = {"model", "provider_credential_id", *values}
    check_keys(data, known, place, reading, table="targets")
    at = join(place, "model")
    if "model" not in data:
        reading.faults.add(at, "is missing")
        return None
    model = data["model"]
    if not isinstance(model, str):
        reading.faults.add(at, f"must be a string, not {shown(model)}")
        return None
    if not _is_model(model, at, reading):
        return None
    credential = data.get("provider_credential_id")
    credential_at = join(place, "provider_credential_id")
    if credential is not None and not isinstance(credential, str):
        reading.faults.add(credential_at, f"must be a string, not {shown(credential)}")
        credential = None
    if credential is not None and model.startswith("@"):
        reading.faults.add(credential_at, "has no meaning for a routing config; take it out")
    if values["max_cost_usd"] is not None and model.startswith("@"):
        reading.faults.add(
            join(place, "max_cost_usd"),
            "has no meaning for a routing config; give it to the targets inside",
        )
    params_at = join(place, "params")
    values["params"] = read_params(values["params"], params_at, reading)
    if "params" in data and model.startswith("@"):
        reading.faults.add(
            params_at, "has no meaning for a routing config; give it to the targets inside"
        )
    _check_limits(values, place, reading)
    return build(Target, {**values, "model": model, "credential": credential, "place": at})


def _is_model(text: str, place: str, reading: Reading) -> bool:
    if text.startswith("@"):
        match = REFERENCE.fullmatch(text)
        if match and match["version"] != "0":
            return True
        reading.faults.add(place, f"{shown(text)} is not @SLUG or @SLUG@VERSION")
    elif not text or not text.isprintable() or " " in text:
        reading.faults.add(place, f"{shown(text)} is not a model's name")
    elif len(text.encode()) > _MODEL_BYTES_MAX:
        reading.faults.add(place, f"is longer than {_MODEL_BYTES_MAX} bytes")
    else:
        return True
    return False


def _read_retry_on(value: object, place: str, reading: Reading) -> tuple[str, ...] | None:
    if not isinstance(value, tuple):
        return None
    for index, word in enumerate(value):
        if word in RETRY_ON_WORDS or _STATUS.fullmatch(word):
            continue
        near = nearest(word, RETRY_ON_WORDS)
        words = ", ".join(f'"{known}"' for known in RETRY_ON_WORDS)
        reading.faults.add(
            f"{join(place, 'retry_on')}[{index}]",
            f"{shown(word)} is none of {words}, nor a status from 400 to 599"
            + (f', nearest "{near}"' if near else ""),
        )
    return value


# --- the stored form -----------------------------------------------------------------------


def encode(config: RoutingConfig) -> dict[str, object]:
    """Return a config as the plain data that is stored and shown: only what was said."""
    data = {"strategy": config.strategy, **encode_parts(config, encode_target)}
    said = {
        **{name: getattr(config, name) for name in TIME_LIMITS},
        "retry_on": None if config.retry_on is None else list(config.retry_on),
        "max_retries_per_attempt": config.max_retries_per_attempt,
        "fit_to_budget": config.fit_to_budget,
        **{name: getattr(config, name) for name in OUTPUT_LIMITS},
        "embedding_dimensions": config.embedding_dimensions,
        "shadow": None
        if config.shadow is None
        else encode_shadow(config.shadow, encode_target),
    }
    return data | {name: value for name, value in said.items() if value is not None}


def encode_target(target: Target | RoutingConfig) -> object:
    """Return a target as the plain data that is stored and shown: only what was said."""
    if isinstance(target, RoutingConfig):
        return encode(target)
    said = {
        "provider_credential_id": target.credential,
        "timeout_ms": target.timeout_ms,
        **{name: getattr(target, name) for name in OUTPUT_LIMITS},
        "max_cost_usd": None
        if target.max_cost_usd is None
        else usd_number(target.max_cost_usd),
        "weight": None if target.weight is None else number(target.weight, 2),
        "params": None if target.params is None else dict(target.params),
    }
    extra = {name: value for name, value in said.items() if value is not None}
    return {"model": target.model, **extra} if extra else target.model


def usd_number(amount_nusd: int) -> int | float:
    """Return an amount as a number of USD, for JSON; exact up to `MAX_COST_NUSD_MOST`."""
    whole, rest = divmod(amount_nusd, NUSD_PER_USD)
    return float(usd_text(amount_nusd)) if rest else whole


def canonical(value: object) -> str:
    """Return plain data as JSON that does not depend on the order of its keys."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def content_hash(content: str) -> ContentHash:
    """Return the hash of a canonical text, in hex."""
    return ContentHash(hashlib.sha256(content.encode()).hexdigest())
