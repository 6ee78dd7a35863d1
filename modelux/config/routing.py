"""Routing configs: read in both spellings, kept in one.

A config is stored as it was meant, with model names and not with providers, so that a version
stays what it is when providers change. What the names come to is worked out at every activation
(`config/resolve.py`).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, NewType

from modelux import limits
from modelux.config.choosing import (
    COMMON_KEYS,
    LIST_KEYS,
    OWN_KEYS,
    Choosing,
    encode_own,
    read_own,
)
from modelux.config.model import (
    OUTPUT_LIMITS,
    RETRY_ON_WORDS,
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
    read_list,
    read_options,
    read_table,
    shown,
)
from modelux.config.strategies import SCORE_ONE
from modelux.units import NUSD_PER_USD, usd_text

ContentHash = NewType("ContentHash", str)
"""SHA-256 of a routing config's canonical JSON, in hex."""

REFERENCE: Final = re.compile(r"@(?P<slug>[A-Za-z0-9_][A-Za-z0-9_.-]*)(@(?P<version>[0-9]+))?")
_STATUS: Final = re.compile(r"[45][0-9][0-9]")
_STRATEGIES: Final = {
    "single": "single",
    "fallback_chain": "fallback",
    **{name: name for name in LIST_KEYS},
}
_PARAMS_REFUSED: Final = {
    "model": "`model` of the target",
    "stream": "what the caller asks for",
    "stream_options": "`stream_usage` of the provider",
    "messages": "what the caller asks for",
    "input": "what the caller asks for",
    "prompt": "what the caller asks for",
    "n": "what the caller asks for",
    "best_of": "what the caller asks for",
    "tools": "what the caller asks for",
    "metadata": "what the caller asks for",
    "max_tokens": "`max_output_tokens` of the target",
    "max_completion_tokens": "`max_output_tokens` of the target",
}
"""What a target's `params` may not name, and what settles it instead."""
_PARAMS_BYTES_MAX: Final = 16 * 1024
_MEMBER_WEIGHT_MOST: Final = 1_000_000 * SCORE_ONE
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
    key = "model" if strategy == "single" else LIST_KEYS[strategy]
    if strategy == "fallback" and "attempts" not in data and "models" in data:
        data["attempts"] = data.pop("models")
        key = "models"
    values = read_options(RoutingConfig, _with_fit_word(data), place, reading)
    own_keys = (*COMMON_KEYS, *OWN_KEYS.get(strategy, ()))
    known = {LIST_KEYS.get(strategy, "model"), *own_keys, *besides, *values}
    check_keys(data, known, place, reading, table="routes")
    _check_limits(values, place, reading)

    def read_child(value: object, at: str) -> Target | RoutingConfig | None:
        return read_target(value, at, reading, depth)

    if strategy == "single":
        items = [data["model"]] if "model" in data else []
        if not items:
            reading.faults.add(join(place, "model"), "is missing")
    else:
        items = _items(data, strategy, join(place, key), reading)
    choosing = Choosing(
        strategy=strategy, data=data, place=place, reading=reading, read_child=read_child
    )
    if strategy == "single":
        at = join(place, "model")
        found = [read_child(item, at) for item in items]
        _, own = read_own(choosing, [])
        targets = tuple(target for target in found if target is not None)
    else:
        targets, own = read_own(choosing, items)
    values["retry_on"] = _read_retry_on(values["retry_on"], place, reading)
    return build(
        RoutingConfig,
        {**values, "strategy": strategy, "targets": targets, "own": own, "place": place},
    )


def _items(
    data: Mapping[str, object], strategy: str, place: str, reading: Reading
) -> list[object]:
    key = LIST_KEYS[strategy]
    if key not in data:
        if strategy != "cost_optimized":
            reading.faults.add(place, "is missing")
        return []
    items = read_list(data[key], place, reading)
    if not items:
        what = "rule" if strategy == "custom_rules" else "target"
        reading.faults.add(place, f"needs at least one {what}")
    if len(items) > limits.ROUTE_TARGETS_MAX:
        reading.faults.add(
            place, f"has {len(items)} targets; at most {limits.ROUTE_TARGETS_MAX}"
        )
        return []
    return items


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
        message = f"is missing: one of {', '.join(_shown_strategies())}"
    elif isinstance(written, str):
        message = f"unknown strategy {shown(written)}{hint(written, _STRATEGIES)}"
    else:
        message = f"must be a string, not {shown(written)}"
    reading.faults.add(place, message)
    return None


def _shown_strategies() -> list[str]:
    return [f'"{name}"' for name in _STRATEGIES if name != "fallback_chain"]


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
    known = {"model", "provider_credential_id", "weight", "params", *values}
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
    _check_limits(values, place, reading)
    return build(
        Target,
        {
            **values,
            "model": model,
            "credential": credential,
            "weight": _read_weight(data, place, reading),
            "params": _read_params(data, model, place, reading),
            "place": at,
        },
    )


def _read_weight(data: Mapping[str, object], place: str, reading: Reading) -> int | None:
    value = data.get("weight")
    if value is None:
        return None
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        number = Decimal(str(value)) * SCORE_ONE
        if number.is_finite() and 0 <= number <= _MEMBER_WEIGHT_MOST and number == int(number):
            return int(number)
    reading.faults.add(
        join(place, "weight"),
        f"{shown(value)} is not a number from 0 on with at most three decimals",
    )
    return None


def _read_params(
    data: Mapping[str, object], model: str, place: str, reading: Reading
) -> str | None:
    """Read what a target sets in the request's body, as canonical JSON."""
    if "params" not in data:
        return None
    at = join(place, "params")
    params = read_table(data["params"], at, reading)
    if model.startswith("@"):
        reading.faults.add(at, "has no meaning for a routing config; give it to its targets")
        return None
    for name in params:
        instead = _PARAMS_REFUSED.get(name)
        if instead is not None:
            reading.faults.add(join(at, name), f"may not be set here; {instead} settles it")
        elif name.startswith("mlx:"):
            reading.faults.add(join(at, name), "is ours and never goes to a provider")
    try:
        text = canonical(params)
    except (TypeError, ValueError):
        reading.faults.add(at, "holds a value that JSON cannot write, such as a date")
        return None
    if len(text.encode()) > _PARAMS_BYTES_MAX:
        reading.faults.add(at, f"is longer than {_PARAMS_BYTES_MAX} bytes")
    return text


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
    targets = [encode_target(target) for target in config.targets]
    data: dict[str, object] = {"strategy": config.strategy}
    data |= encode_own(config.strategy, targets, config.own, encode_target)
    said = {
        **{name: getattr(config, name) for name in TIME_LIMITS},
        "retry_on": None if config.retry_on is None else list(config.retry_on),
        "max_retries_per_attempt": config.max_retries_per_attempt,
        "fit_to_budget": config.fit_to_budget,
        **{name: getattr(config, name) for name in OUTPUT_LIMITS},
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
        "weight": None if target.weight is None else _weight_number(target.weight),
        "params": None if target.params is None else json.loads(target.params),
    }
    extra = {name: value for name, value in said.items() if value is not None}
    return {"model": target.model, **extra} if extra else target.model


def _weight_number(weight: int) -> int | float:
    whole, rest = divmod(weight, SCORE_ONE)
    return weight / SCORE_ONE if rest else whole


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
