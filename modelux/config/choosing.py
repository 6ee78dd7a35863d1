"""What each strategy has of its own, read and written: `config/strategies.py` has the nouns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeAlias

from modelux._native import check_rule
from modelux.config.read import (
    Reading,
    check_keys,
    hint,
    join,
    read_table,
    shown,
)
from modelux.config.strategies import (
    AGGREGATIONS,
    METRICS,
    SCORE_ONE,
    STICKY,
    TIERS,
    VALIDITIES,
    Expression,
    Judged,
    Own,
    Rule,
    Shadow,
    Variant,
)

if TYPE_CHECKING:
    from modelux.config.model import RoutingConfig, Target

    Child: TypeAlias = Target | RoutingConfig
    """What stands where a target may."""

ONE_PERCENT: Final = 100
ALL_PERCENT: Final = 100 * ONE_PERCENT
WEIGHT_MOST: Final = 1_000_000
DIMENSIONS_MOST: Final = 100_000
NAME_BYTES_MAX: Final = 64
REASON_BYTES_MAX: Final = 1024

LIST_KEYS: Final = {
    "fallback": "attempts",
    "cost_optimized": "allowed_models",
    "latency_optimized": "models",
    "ensemble": "members",
    "ab_test": "variants",
    "cascade": "steps",
    "custom_rules": "rules",
}
"""Where each strategy's targets stand; `single` has one, under `model`."""

COMMON_KEYS: Final = ("shadow", "embedding_dimensions")
OWN_KEYS: Final = {
    "cost_optimized": ("quality_tier",),
    "latency_optimized": ("metric", "tolerance_pct", "explore_pct"),
    "ensemble": ("aggregation", "min_responses", "judge", "validate"),
    "ab_test": ("sticky_by", "salt"),
}
"""Keys that only one strategy has."""


def path_of(strategy: str, index: int, *, is_else: bool = False) -> str:
    """Return where a config's child stands in its JSON."""
    if strategy == "single":
        return "model"
    at = f"{LIST_KEYS[strategy]}[{index}]"
    match strategy:
        case "ab_test" | "cascade":
            return f"{at}.target"
        case "custom_rules":
            return f"{at}.else" if is_else else f"{at}.then"
        case _:
            return at


# --- reading -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """One config while it is read."""

    strategy: str
    data: Mapping[str, object]
    place: str
    reading: Reading
    read_child: "Callable[[object, str], Child | None]"
    """Reads what stands at a key path; None with the fault noted."""

    def fault(self, key: str, message: str) -> None:
        """Note a fault at a key."""
        self.reading.faults.add(join(self.place, key), message)


def read_own(at: Choosing, items: Sequence[object]) -> "tuple[tuple[Child, ...], Own]":
    """Read a config's children and what its strategy has of its own.

    Args:
        at: The config.
        items: What stands in its list.
    """
    data = at.data
    common: dict[str, object] = {}
    if "shadow" in data:
        common["shadow"] = _shadow(at)
    if "embedding_dimensions" in data:
        common["embedding_dimensions"] = _whole(
            at, "embedding_dimensions", least=1, most=DIMENSIONS_MOST
        )
    readers = {
        "cost_optimized": _cost,
        "latency_optimized": _latency,
        "ensemble": _ensemble,
        "ab_test": _ab_test,
        "cascade": _cascade,
        "custom_rules": _custom_rules,
    }
    reader = readers.get(at.strategy)
    if reader is None:
        return _plain(at, items), Own(**common)  # type: ignore[arg-type]  # Read above.
    children, own = reader(at, items)
    return children, Own(**{**own, **common})  # type: ignore[arg-type]  # Read above.


def _plain(at: Choosing, items: Sequence[object]) -> "tuple[Child, ...]":
    """Read targets that stand in a list one after the other."""
    key = join(at.place, LIST_KEYS.get(at.strategy, ""))
    found = (at.read_child(item, f"{key}[{index}]") for index, item in enumerate(items))
    return tuple(child for child in found if child is not None)


def _cost(
    at: Choosing, items: Sequence[object]
) -> "tuple[tuple[Child, ...], dict[str, object]]":
    tier = _choice(at, "quality_tier", TIERS)
    return _plain(at, items), {
        "quality_tier": tier,
        "is_open": "allowed_models" not in at.data,
    }


def _latency(
    at: Choosing, items: Sequence[object]
) -> "tuple[tuple[Child, ...], dict[str, object]]":
    return _plain(at, items), {
        "metric": _choice(at, "metric", METRICS),
        "tolerance": _percent(at, "tolerance_pct", most=100 * ALL_PERCENT),
        "explore": _percent(at, "explore_pct"),
    }


def _ensemble(
    at: Choosing, items: Sequence[object]
) -> "tuple[tuple[Child, ...], dict[str, object]]":
    aggregation = _choice(at, "aggregation", AGGREGATIONS)
    if "aggregation" not in at.data:
        names = ", ".join(f'"{name}"' for name in AGGREGATIONS)
        at.fault("aggregation", f"is missing: one of {names}")
    judge = None
    if "judge" in at.data:
        judge = at.read_child(at.data["judge"], join(at.place, "judge"))
        if aggregation is not None and aggregation != "llm_judge":
            at.fault("judge", f'has no meaning for "{aggregation}"; take it out')
    elif aggregation == "llm_judge":
        at.fault("judge", 'is missing: "llm_judge" needs a target that picks an answer')
    validate = _validate(at)
    if validate is not None and aggregation not in (None, "first_valid"):
        at.fault("validate", f'has no meaning for "{aggregation}"; take it out')
    return _plain(at, items), {
        "aggregation": aggregation,
        "min_responses": _whole(at, "min_responses", least=1, most=max(len(items), 1)),
        "judge": judge,
        "validate": validate,
    }


def _validate(at: Choosing) -> str | Expression | None:
    value = at.data.get("validate")
    if value is None:
        return None
    if not isinstance(value, str):
        at.fault("validate", f"must be a string, not {shown(value)}")
        return None
    if value in VALIDITIES:
        return value
    return _expression(value, join(at.place, "validate"), at.reading, answers=True)


def _ab_test(
    at: Choosing, items: Sequence[object]
) -> "tuple[tuple[Child, ...], dict[str, object]]":
    children: list[Child] = []
    variants: list[Variant] = []
    for index, item in enumerate(items):
        place = f"{join(at.place, 'variants')}[{index}]"
        data = read_table(item, place, at.reading)
        check_keys(data, {"name", "weight", "target"}, place, at.reading, table="variants")
        name = data.get("name")
        if not isinstance(name, str) or not name.isprintable() or not name:
            what = "is missing" if name is None else f"must be a name, not {shown(name)}"
            at.reading.faults.add(join(place, "name"), what)
            name = ""
        elif len(name.encode()) > NAME_BYTES_MAX:
            at.reading.faults.add(join(place, "name"), f"is longer than {NAME_BYTES_MAX} bytes")
        elif any(name == other.name for other in variants):
            at.reading.faults.add(join(place, "name"), f"{shown(name)} is there twice")
        weight = _hundredths(
            data.get("weight"), join(place, "weight"), at.reading, WEIGHT_MOST * ONE_PERCENT
        )
        child = _target_of(at, data, place)
        if child is not None:
            children.append(child)
            variants.append(Variant(name=name, weight=weight or 0))
    if variants and not any(variant.weight for variant in variants):
        at.fault("variants", "need at least one weight above 0")
    return tuple(children), {
        "variants": tuple(variants),
        "sticky_by": _sticky(at),
        "salt": _text(at, "salt"),
    }


def _sticky(at: Choosing) -> str | None:
    value = at.data.get("sticky_by")
    if value is None:
        return None
    is_tag = isinstance(value, str) and value.removeprefix("tag:") not in ("", value)
    if isinstance(value, str) and (value in STICKY or is_tag):
        return value
    names = [*STICKY, "tag:KEY"]
    near = hint(value, names) if isinstance(value, str) else ""
    known = ", ".join(f'"{name}"' for name in names)
    at.fault("sticky_by", f"{shown(value)} is none of {known}{near}")
    return None


def _cascade(
    at: Choosing, items: Sequence[object]
) -> "tuple[tuple[Child, ...], dict[str, object]]":
    children: list[Child] = []
    accepts: list[Expression | Judged | None] = []
    for index, item in enumerate(items):
        place = f"{join(at.place, 'steps')}[{index}]"
        data = read_table(item, place, at.reading)
        check_keys(data, {"target", "accept_if"}, place, at.reading, table="steps")
        is_last = index == len(items) - 1
        accept = None
        if is_last and "accept_if" in data:
            at.reading.faults.add(
                join(place, "accept_if"), "has no meaning: the last step always stands"
            )
        elif not is_last and "accept_if" not in data:
            at.reading.faults.add(
                join(place, "accept_if"),
                "is missing: an expression, or { judge = TARGET, min_score = 0.7 }",
            )
        elif not is_last:
            accept = _accept(at, data["accept_if"], join(place, "accept_if"))
        child = _target_of(at, data, place)
        if child is not None:
            children.append(child)
            accepts.append(accept)
    return tuple(children), {"accepts": tuple(accepts)}


def _accept(at: Choosing, value: object, place: str) -> Expression | Judged | None:
    if isinstance(value, str):
        return _expression(value, place, at.reading, answers=True)
    if not isinstance(value, dict):
        at.reading.faults.add(
            place, f"must be an expression or a table with `judge`, not {shown(value)}"
        )
        return None
    data = read_table(value, place, at.reading)
    check_keys(data, {"judge", "min_score"}, place, at.reading, table="judges")
    if "judge" not in data:
        at.reading.faults.add(join(place, "judge"), "is missing")
        return None
    judge = at.read_child(data["judge"], join(place, "judge"))
    score = _scaled(data.get("min_score"), SCORE_ONE)
    if score is None or score > SCORE_ONE:
        what = "is missing" if "min_score" not in data else shown(data["min_score"])
        at.reading.faults.add(
            join(place, "min_score"),
            "is missing: from 0 to 1"
            if "min_score" not in data
            else f"{what} is not from 0 to 1 with at most three decimals",
        )
        return None
    return None if judge is None else Judged(judge=judge, min_score=score)


def _custom_rules(
    at: Choosing, items: Sequence[object]
) -> "tuple[tuple[Child, ...], dict[str, object]]":
    children: list[Child] = []
    rules: list[Rule] = []
    for index, item in enumerate(items):
        place = f"{join(at.place, 'rules')}[{index}]"
        data = read_table(item, place, at.reading)
        check_keys(data, {"if", "then", "else"}, place, at.reading, table="rules")
        is_else = "else" in data
        if is_else and ("if" in data or "then" in data):
            at.reading.faults.add(place, "has `else` beside `if` or `then`; make it two rules")
        elif is_else and index < len(items) - 1:
            at.reading.faults.add(join(place, "else"), "must be the last rule")
        condition = None
        key = "else" if is_else else "then"
        if not is_else:
            text = data.get("if")
            if isinstance(text, str):
                condition = _expression(text, join(place, "if"), at.reading, answers=False)
            else:
                what = "is missing" if text is None else f"must be a string, not {shown(text)}"
                at.reading.faults.add(join(place, "if"), what)
            if "then" not in data:
                at.reading.faults.add(join(place, "then"), "is missing")
                continue
            if condition is None:
                continue
        block = _block(data.get(key), join(place, key), at.reading)
        if block is not None:
            rules.append(Rule(condition=condition, then=None, block=block))
            continue
        child = at.read_child(data.get(key), join(place, key))
        if child is not None:
            rules.append(Rule(condition=condition, then=len(children), block=None))
            children.append(child)
    return tuple(children), {"rules": tuple(rules)}


def _block(value: object, place: str, reading: Reading) -> str | None:
    """Read `{"block": reason}`; None for anything that is a target."""
    if not isinstance(value, dict) or "block" not in value:
        return None
    check_keys(value, {"block"}, place, reading, table="blocks")
    reason = value["block"]
    if not isinstance(reason, str) or not reason.strip():
        reading.faults.add(join(place, "block"), f"needs a reason as text, not {shown(reason)}")
        return "blocked"
    if len(reason.encode()) > REASON_BYTES_MAX:
        reading.faults.add(join(place, "block"), f"is longer than {REASON_BYTES_MAX} bytes")
    return reason


def _shadow(at: Choosing) -> Shadow | None:
    place = join(at.place, "shadow")
    data = read_table(at.data["shadow"], place, at.reading)
    check_keys(data, {"target", "percent"}, place, at.reading, table="shadows")
    child = _target_of(at, data, place)
    percent = _hundredths(data.get("percent"), join(place, "percent"), at.reading, ALL_PERCENT)
    if child is None or percent is None:
        return None
    return Shadow(target=child, percent=percent)


def _target_of(at: Choosing, data: Mapping[str, object], place: str) -> "Child | None":
    if "target" not in data:
        at.reading.faults.add(join(place, "target"), "is missing")
        return None
    return at.read_child(data["target"], join(place, "target"))


def _expression(text: str, place: str, reading: Reading, *, answers: bool) -> Expression | None:
    report = check_rule(text, answers=answers)
    if report.fault is not None:
        line, column, message = report.fault
        reading.faults.add(place, f"line {line}, column {column}: {message}")
        return None
    return Expression(text=text, place=place)


def _choice(at: Choosing, key: str, names: Sequence[str]) -> str | None:
    value = at.data.get(key)
    if value is None or (isinstance(value, str) and value in names):
        return value
    near = hint(value, names) if isinstance(value, str) else ""
    known = ", ".join(f'"{name}"' for name in names)
    at.fault(key, f"{shown(value)} is none of {known}{near}")
    return None


def _text(at: Choosing, key: str) -> str | None:
    value = at.data.get(key)
    if value is None or (isinstance(value, str) and len(value.encode()) <= 256):
        return value
    at.fault(key, f"must be a string of at most 256 bytes, not {shown(value)}")
    return None


def _whole(at: Choosing, key: str, *, least: int, most: int) -> int | None:
    value = at.data.get(key)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    at.fault(key, f"{shown(value)} is not a whole number from {least} to {most}")
    return None


def _percent(at: Choosing, key: str, *, most: int = ALL_PERCENT) -> int | None:
    if key not in at.data:
        return None
    return _hundredths(at.data[key], join(at.place, key), at.reading, most)


def _hundredths(value: object, place: str, reading: Reading, most: int) -> int | None:
    number = _scaled(value, ONE_PERCENT)
    if number is not None and number <= most:
        return number
    what = "is missing" if value is None else f"{shown(value)} is not a number"
    reading.faults.add(
        place, f"{what} from 0 to {most // ONE_PERCENT:,}, with at most two decimals"
    )
    return None


def _scaled(value: object, scale: int) -> int | None:
    """Return a number times `scale` where that is a whole one from 0 on; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(str(value)) * scale
    if not number.is_finite() or number < 0 or number != int(number):
        return None
    return int(number)


# --- the stored form -----------------------------------------------------------------------


def encode_own(
    strategy: str,
    children: Sequence[object],
    own: Own,
    encode_child: "Callable[[Child], object]",
) -> dict[str, object]:
    """Return a config's targets and what its strategy has of its own, as plain data.

    Args:
        strategy: Which.
        children: Its targets, written already.
        own: What it has of its own.
        encode_child: Writes a target.
    """
    data: dict[str, object] = {}
    match strategy:
        case "single":
            data["model"] = children[0]
        case "cost_optimized":
            data["quality_tier"] = own.quality_tier
            data["allowed_models"] = None if own.is_open else list(children)
        case "ab_test":
            data["variants"] = [
                {"name": variant.name, "weight": _number(variant.weight, 100), "target": child}
                for variant, child in zip(own.variants, children, strict=True)
            ]
        case "cascade":
            data["steps"] = [
                {"target": child}
                if accept is None
                else {"target": child, "accept_if": _written(accept, encode_child)}
                for accept, child in zip(own.accepts, children, strict=True)
            ]
        case "custom_rules":
            data["rules"] = [_rule(rule, children) for rule in own.rules]
        case _:
            data[LIST_KEYS[strategy]] = list(children)
    data |= {
        "metric": own.metric,
        "tolerance_pct": None if own.tolerance is None else _number(own.tolerance, 100),
        "explore_pct": None if own.explore is None else _number(own.explore, 100),
        "sticky_by": own.sticky_by,
        "salt": own.salt,
        "aggregation": own.aggregation,
        "min_responses": own.min_responses,
        "judge": None if own.judge is None else encode_child(own.judge),
        "validate": own.validate.text if isinstance(own.validate, Expression) else own.validate,
        "embedding_dimensions": own.embedding_dimensions,
    }
    if own.shadow is not None:
        data["shadow"] = {
            "target": encode_child(own.shadow.target),
            "percent": _number(own.shadow.percent, 100),
        }
    return {name: value for name, value in data.items() if value is not None}


def _rule(rule: Rule, children: Sequence[object]) -> dict[str, object]:
    then = {"block": rule.block} if rule.then is None else children[rule.then]
    if rule.condition is None:
        return {"else": then}
    return {"if": rule.condition.text, "then": then}


def _written(accept: Expression | Judged, encode_child: "Callable[[Child], object]") -> object:
    if isinstance(accept, Expression):
        return accept.text
    return {
        "judge": encode_child(accept.judge),
        "min_score": _number(accept.min_score, SCORE_ONE),
    }


def _number(scaled: int, scale: int) -> int | float:
    whole, rest = divmod(scaled, scale)
    return float(Decimal(scaled) / scale) if rest else whole
