"""What each strategy has of its own: read and checked, and written again as it is stored.

Where a target may stand a whole routing config may, so whoever calls hands in how one is read
(`config/routing.py`). Expressions are checked here for what they are; whether the models and
budgets that they name exist is a question for the moment of activation (`config/resolve.py`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from modelux import limits
from modelux._native import check_rule
from modelux.config.model import (
    STRATEGIES,
    AbTest,
    Cascade,
    CostOptimized,
    CustomRules,
    Ensemble,
    Judged,
    LatencyOptimized,
    Own,
    RoutingConfig,
    Rule,
    RuleCase,
    Shadow,
    Target,
    Variant,
    options,
)
from modelux.config.read import (
    Reading,
    build,
    check_keys,
    join,
    nearest,
    read_list,
    read_options,
    read_table,
    shown,
)

Node = Target | RoutingConfig
ReadTarget = Callable[[object, str], Node | None]
"""Reads what stands at a key path; None with faults noted."""
EncodeTarget = Callable[[Node], object]

VALIDITIES: Final = ("json", "json_schema")
"""What `validate` may say besides an expression."""

_STICKY: Final = ("end_user", "conversation", "request")
_TAG: Final = "tag:"
WEIGHED: Final = ("weighted_vote", "weighted_average")
"""Aggregations in which the weight of a member counts."""

_COST_MEMBERS: Final = (
    *("audio", "best_of", "cached_content", "container", "conversation", "data_sources"),
    *("enable_search", "extra_body", "fallbacks", "file_ids", "google", "inference_geo"),
    *("max_tool_calls", "mcp_servers", "modalities", "models", "n", "plugins", "prediction"),
    *("previous_response_id", "prompt_id", "search_parameters", "service_tier", "speed"),
    *("vector_store_ids", "web_search", "web_search_options"),
)
"""What the most that a request may cost depends on: that is worked out from the caller's body,
so a target that set one of them would spend what no budget has held."""
_LIMIT_MEMBERS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_REQUEST_MEMBERS: Final = ("functions", "input", "messages", "model", "prompt", "tools")
FIXED_MEMBERS: Final[Mapping[str, str]] = {
    **dict.fromkeys(_REQUEST_MEMBERS, "the request itself"),
    **dict.fromkeys(("metadata", "stream", "stream_options"), "the caller"),
    **dict.fromkeys(_COST_MEMBERS, "the caller, as the cost depends on it,"),
    **dict.fromkeys(_LIMIT_MEMBERS, "`max_output_tokens` of the target"),
}
"""Members of a request that no target may change, and what says them instead."""
_OWN_MEMBERS: Final = "mlx:"
_INTEGER_MOST: Final = 2**63
_HUNDREDTHS: Final = 2
_THOUSANDTHS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A config as far as its strategy reads it."""

    targets: tuple[Node, ...]
    own: Own | None
    keys: frozenset[str]
    """Which keys were read."""


# --- reading -------------------------------------------------------------------------------


def read_parts(
    strategy: str, data: Mapping[str, object], place: str, reading: Reading, read: ReadTarget
) -> Parts:
    """Read what a strategy has of its own, its targets first.

    Args:
        strategy: One of `STRATEGIES`.
        data: The config's table.
        place: Its key path.
        reading: The pass it belongs to.
        read: Reads a target inside of it.
    """
    key, _ = STRATEGIES[strategy]
    if strategy == "fallback" and "attempts" not in data and "models" in data:
        key = "models"
    at = _At(data=data, place=place, key=key, reading=reading, read=read)
    own: Own | None = None
    match strategy:
        case "single":
            targets = at.sole()
        case "cost_optimized":
            targets = at.targets() if key in data else ()
            own = build(CostOptimized, at.options(CostOptimized))
        case "latency_optimized":
            targets = at.targets()
            own = build(LatencyOptimized, at.options(LatencyOptimized))
        case "ensemble":
            targets = at.targets()
            own = _read_ensemble(at, targets)
        case "ab_test":
            targets, own = _read_ab_test(at)
        case "cascade":
            targets, own = _read_cascade(at)
        case "custom_rules":
            targets, own = _read_rules(at)
        case _:
            targets = at.targets()
    keys = {key} if own is None else {key, *options(type(own))}
    return Parts(targets=targets, own=own, keys=frozenset(keys))


@dataclass(frozen=True, slots=True, kw_only=True)
class _At:
    """A config that is being read."""

    data: Mapping[str, object]
    place: str
    key: str
    """What its targets stand under."""
    reading: Reading
    read: ReadTarget

    def fault(self, place: str, message: str) -> None:
        self.reading.faults.add(place, message)

    def options(self, noun: type) -> dict[str, object]:
        return read_options(noun, self.data, self.place, self.reading)

    def sole(self) -> tuple[Node, ...]:
        place = join(self.place, self.key)
        if self.key not in self.data:
            self.fault(place, "is missing")
            return ()
        one = self.read(self.data[self.key], place)
        return () if one is None else (one,)

    def items(self) -> list[tuple[str, object]]:
        """Return what stands in the list of targets, each with its place."""
        place = join(self.place, self.key)
        if self.key not in self.data:
            self.fault(place, "is missing")
            return []
        items = read_list(self.data[self.key], place, self.reading)
        what = "target" if self.key in {"attempts", "models", "members"} else self.key
        what = "target" if what == "allowed_models" else what.removesuffix("s")
        if not items:
            self.fault(place, f"needs at least one {what}")
        if len(items) > limits.ROUTE_TARGETS_MAX:
            self.fault(place, f"has {len(items)} {what}s; at most {limits.ROUTE_TARGETS_MAX}")
            return []
        return [(f"{place}[{index}]", item) for index, item in enumerate(items)]

    def targets(self) -> tuple[Node, ...]:
        found = (self.read(item, place) for place, item in self.items())
        return tuple(target for target in found if target is not None)


def _read_ensemble(at: _At, targets: Sequence[Node]) -> Ensemble:
    values = at.options(Ensemble)
    aggregation, least = str(values["aggregation"]), values["min_responses"]
    if isinstance(least, int) and targets and least > len(targets):
        at.fault(
            join(at.place, "min_responses"),
            f"{least} is more than there are members, {len(targets)}; lower it",
        )
    judge, place = values["judge"], join(at.place, "judge")
    values["judge"] = None
    if judge is not None and aggregation not in {"llm_judge", ""}:
        at.fault(place, f"only `llm_judge` has a judge, not {shown(aggregation)}; take it out")
    elif judge is not None:
        values["judge"] = _inner(at.data, "judge", at.place, at)
    elif aggregation == "llm_judge":
        at.fault(place, "is missing: `llm_judge` needs a target that picks the answer")
    validate, place = values["validate"], join(at.place, "validate")
    values["validate"] = None
    if validate is not None and aggregation not in {"first_valid", ""}:
        at.fault(
            place, f"only `first_valid` asks for it, not {shown(aggregation)}; take it out"
        )
    elif validate is not None:
        values["validate"] = _read_validity(validate, place, at.reading)
    weights = [target.weight for target in targets if isinstance(target, Target)]
    if aggregation in WEIGHED and weights == [0] * len(targets) and weights:
        at.fault(join(at.place, "members"), "all have the weight 0; give one of them more")
    return build(Ensemble, values)


def _read_validity(value: object, place: str, reading: Reading) -> str | Rule | None:
    if isinstance(value, str) and value in VALIDITIES:
        return value
    if isinstance(value, str) and value.isidentifier():
        near = nearest(value, VALIDITIES)
        reading.faults.add(
            place,
            f'{shown(value)} is neither "json" nor "json_schema" nor an expression'
            + (f', nearest "{near}"' if near else ""),
        )
        return None
    return read_rule(value, place, reading, answers=True)


def _read_ab_test(at: _At) -> tuple[tuple[Node, ...], AbTest]:
    variants: list[Variant] = []
    targets: list[Node] = []
    names: list[str] = []
    weights: list[object] = []
    for place, item in at.items():
        table = read_table(item, place, at.reading)
        values = read_options(Variant, table, place, at.reading)
        weights.append(table.get("weight"))
        check_keys(table, {*values, "target"}, place, at.reading, table="")
        name = str(values["name"])
        if name and name in names:
            at.fault(
                join(place, "name"),
                f"{shown(name)} is the name of variants[{names.index(name)}] already",
            )
        names.append(name)
        target = _inner(table, "target", place, at)
        if target is not None:
            variants.append(build(Variant, values))
            targets.append(target)
    if weights and all(weight == 0 for weight in weights):
        at.fault(join(at.place, "variants"), "all have the weight 0; give one of them more")
    values = at.options(AbTest)
    sticky = values["sticky_by"]
    if isinstance(sticky, str):
        _check_sticky(sticky, join(at.place, "sticky_by"), at.reading)
    return tuple(targets), build(AbTest, {**values, "variants": tuple(variants)})


def _check_sticky(text: str, place: str, reading: Reading) -> None:
    if text in _STICKY:
        return
    if text.startswith(_TAG):
        key_bytes = len(text.removeprefix(_TAG).encode())
        if not 0 < key_bytes <= limits.TAG_KEY_BYTES_MAX:
            reading.faults.add(
                place,
                f"{shown(text)}: a tag's key has 1 to {limits.TAG_KEY_BYTES_MAX} bytes",
            )
        return
    near = nearest(text, _STICKY)
    reading.faults.add(
        place,
        f'{shown(text)} is none of "end_user", "conversation", "request", nor "tag:KEY"'
        + (f', nearest "{near}"' if near else ""),
    )


def _read_cascade(at: _At) -> tuple[tuple[Node, ...], Cascade]:
    targets: list[Node] = []
    accepts: list[Rule | Judged | None] = []
    items = at.items()
    for index, (place, item) in enumerate(items):
        table = read_table(item, place, at.reading)
        check_keys(table, {"target", "accept_if"}, place, at.reading, table="")
        target = _inner(table, "target", place, at)
        where = join(place, "accept_if")
        accept: Rule | Judged | None = None
        if index == len(items) - 1:
            if "accept_if" in table:
                at.fault(where, "has no meaning: the answer of the last step stands")
        elif "accept_if" not in table:
            at.fault(where, "is missing: every step but the last needs one")
        else:
            accept = _read_accept(table["accept_if"], where, at)
        if target is not None:
            targets.append(target)
            accepts.append(accept)
    return tuple(targets), Cascade(accepts=tuple(accepts))


def _read_accept(value: object, place: str, at: _At) -> Rule | Judged | None:
    if not isinstance(value, dict):
        return read_rule(value, place, at.reading, answers=True)
    table = read_table(value, place, at.reading)
    values = read_options(Judged, table, place, at.reading)
    check_keys(table, {*values, "judge"}, place, at.reading, table="")
    judge = _inner(table, "judge", place, at)
    return None if judge is None else build(Judged, {**values, "judge": judge})


def _read_rules(at: _At) -> tuple[tuple[Node, ...], CustomRules]:
    targets: list[Node] = []
    cases: list[RuleCase] = []
    items = at.items()
    for index, (place, item) in enumerate(items):
        table = read_table(item, place, at.reading)
        is_else = "else" in table and "if" not in table
        known = {"else"} if is_else else {"if", "then"}
        if "else" in table and not is_else:
            at.fault(
                join(place, "else"), "stands alone, without `if`; make it the last of the rules"
            )
            known.add("else")
        check_keys(table, known, place, at.reading, table="")
        condition = None
        if is_else and index < len(items) - 1:
            at.fault(join(place, "else"), "must be the last of the rules, and stand once")
        elif not is_else and "if" not in table:
            at.fault(join(place, "if"), "is missing")
        elif not is_else:
            condition = read_rule(table["if"], join(place, "if"), at.reading, answers=False)
        key = "else" if is_else else "then"
        case = _read_case(table, key, place, at, condition, targets)
        if case is not None and (is_else or condition is not None):
            cases.append(case)
    return tuple(targets), CustomRules(rules=tuple(cases))


def _read_case(
    table: Mapping[str, object],
    key: str,
    place: str,
    at: _At,
    condition: Rule | None,
    targets: list[Node],
) -> RuleCase | None:
    """Read where a rule leads, and append its target to `targets`."""
    value = table.get(key)
    if isinstance(value, dict) and "block" in value:
        reason = _read_reason(value, join(place, key), at.reading)
        return (
            None if reason is None else RuleCase(condition=condition, then=None, block=reason)
        )
    target = _inner(table, key, place, at)
    if target is None:
        return None
    targets.append(target)
    return RuleCase(condition=condition, then=len(targets) - 1)


def _read_reason(value: object, place: str, reading: Reading) -> str | None:
    table = read_table(value, place, reading)
    check_keys(table, {"block"}, place, reading, table="")
    reason, at = table["block"], join(place, "block")
    if not isinstance(reason, str) or not reason.strip():
        reading.faults.add(at, "needs a text: the reason that callers are told")
    elif not reason.isprintable():
        reading.faults.add(at, "holds a control character")
    elif len(reason.encode()) > limits.BLOCK_REASON_BYTES_MAX:
        reading.faults.add(at, f"is longer than {limits.BLOCK_REASON_BYTES_MAX} bytes")
    else:
        return reason
    return None


def _inner(table: Mapping[str, object], key: str, place: str, at: _At) -> Node | None:
    where = join(place, key)
    if key not in table:
        at.fault(where, "is missing")
        return None
    return at.read(table[key], where)


def read_shadow(value: object, place: str, reading: Reading, read: ReadTarget) -> Shadow | None:
    """Read where a share of the traffic is mirrored to; None with faults noted."""
    table = read_table(value, place, reading)
    values = read_options(Shadow, table, place, reading)
    check_keys(table, {*values, "target"}, place, reading, table="")
    if "target" not in table:
        reading.faults.add(join(place, "target"), "is missing")
        return None
    target = read(table["target"], join(place, "target"))
    return None if target is None else build(Shadow, {**values, "target": target})


def read_rule(value: object, place: str, reading: Reading, *, answers: bool) -> Rule | None:
    """Read an expression; None with the fault noted, with its line and column.

    Args:
        value: What stands there.
        place: Its key path.
        reading: The pass it belongs to.
        answers: It is about an answer, so `response` is known.
    """
    if not isinstance(value, str):
        reading.faults.add(place, f"must be an expression in a string, not {shown(value)}")
        return None
    fault = check_rule(value, answers=answers).fault
    if fault is not None:
        line, column, message = fault
        reading.faults.add(place, f"line {line}, column {column}: {message}")
        return None
    return Rule(text=value, place=place)


def read_params(value: object, place: str, reading: Reading) -> Mapping[str, object] | None:
    """Read what is set in the bodies of requests; None with faults noted, and where absent."""
    if value is None:
        return None
    found = read_table(value, place, reading)
    for name in found:
        if name in FIXED_MEMBERS:
            reading.faults.add(
                join(place, name),
                f"may not be set for a target: {FIXED_MEMBERS[name]} says it",
            )
        elif name.startswith(_OWN_MEMBERS):
            reading.faults.add(join(place, name), "is for modelux and never for a provider")
    if not found:
        return None
    try:
        params = {name: _json(item, limits.PARAMS_DEPTH_MAX) for name, item in found.items()}
    except ValueError as failure:
        reading.faults.add(place, str(failure))
        return None
    size = _size(params)
    if size > limits.PARAMS_BYTES_MAX:
        reading.faults.add(place, f"is longer than {limits.PARAMS_BYTES_MAX} bytes")
        return None
    return params


def _size(value: object) -> int:
    """Return about how long a value is as JSON."""
    if isinstance(value, dict):
        return sum(len(str(key).encode()) + 4 + _size(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(1 + _size(item) for item in value)
    return len(str(value).encode()) + 2


def _json(value: object, depth: int) -> object:
    """Return a value as JSON has it: no dates, no numbers that it cannot hold."""
    if depth == 0:
        raise ValueError(f"is nested deeper than {limits.PARAMS_DEPTH_MAX}")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        # JSON can spell half of a pair, and no bytes can.
        if not value.isascii() and any("\ud800" <= one <= "\udfff" for one in value):
            raise ValueError("holds a text that is not Unicode")
        return value
    if isinstance(value, int):
        if not -_INTEGER_MOST <= value < _INTEGER_MOST:
            raise ValueError(f"{shown(value)} is beyond 64 bits")
        return value
    if isinstance(value, float | Decimal):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{shown(value)} is no number that JSON can hold")
        return number
    if isinstance(value, list):
        return [_json(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {
            str(_json(str(key), depth)): _json(item, depth - 1) for key, item in value.items()
        }
    raise ValueError(f"holds {value}, which JSON cannot; write it as a string")


# --- the stored form -----------------------------------------------------------------------


def encode_parts(config: RoutingConfig, encode: EncodeTarget) -> dict[str, object]:
    """Return what a strategy has of its own as the plain data that is stored."""
    key, _ = STRATEGIES[config.strategy]
    targets = [encode(target) for target in config.targets]
    match config.own:
        case AbTest() as own:
            listed: list[dict[str, object]] = [
                {"name": one.name, "weight": number(one.weight, _HUNDREDTHS), "target": target}
                for one, target in zip(own.variants, targets, strict=False)
            ]
            return {key: listed} | _said(own)
        case Cascade() as own:
            listed = [
                {"target": target}
                | ({} if accept is None else {"accept_if": _encode_accept(accept, encode)})
                for target, accept in zip(targets, own.accepts, strict=False)
            ]
            return {key: listed}
        case CustomRules() as own:
            return {key: [_encode_case(case, targets) for case in own.rules]}
        case Ensemble() as own:
            judge = {} if own.judge is None else {"judge": encode(own.judge)}
            validate = own.validate.text if isinstance(own.validate, Rule) else own.validate
            said = {"aggregation": own.aggregation, "min_responses": own.min_responses}
            found = {**said, "validate": validate, **judge}
            return {key: targets} | {
                name: value for name, value in found.items() if value is not None
            }
        case CostOptimized() as own:
            return ({key: targets} if targets else {}) | _said(own)
        case LatencyOptimized() as own:
            return {key: targets} | _said(own)
        case None:
            return {key: targets[0] if config.strategy == "single" else targets}


def _said(own: Own) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, (option, _) in options(type(own)).items():
        value = getattr(own, name)
        if value is not None:
            is_scaled = option.decimals and isinstance(value, int)
            found[name] = number(value, option.decimals) if is_scaled else value
    return found


def _encode_accept(accept: Rule | Judged, encode: EncodeTarget) -> object:
    if isinstance(accept, Rule):
        return accept.text
    return {
        "judge": encode(accept.judge),
        "min_score": number(accept.min_score, _THOUSANDTHS),
    }


def _encode_case(case: RuleCase, targets: Sequence[object]) -> dict[str, object]:
    then = {"block": case.block} if case.then is None else targets[case.then]
    if case.condition is None:
        return {"else": then}
    return {"if": case.condition.text, "then": then}


def encode_shadow(shadow: Shadow, encode: EncodeTarget) -> dict[str, object]:
    """Return a shadow as the plain data that is stored."""
    return {
        "target": encode(shadow.target),
        "percent": number(shadow.percent, _HUNDREDTHS),
    }


def number(amount: int, decimals: int) -> int | float:
    """Return an amount that counts the last decimal as a number for JSON."""
    whole, rest = divmod(amount, 10**decimals)
    return float(f"{whole}.{rest:0{decimals}}") if rest else whole


# --- places --------------------------------------------------------------------------------


def target_paths(config: RoutingConfig) -> list[str]:
    """Return where each of a config's targets stands in its stored form."""
    key, _ = STRATEGIES[config.strategy]
    match config.own:
        case AbTest() | Cascade():
            return [f"{key}[{index}].target" for index in range(len(config.targets))]
        case CustomRules() as own:
            paths = [""] * len(config.targets)
            for index, case in enumerate(own.rules):
                if case.then is not None:
                    ending = "else" if case.condition is None else "then"
                    paths[case.then] = f"{key}[{index}].{ending}"
            return paths
        case _ if config.strategy == "single":
            return [key for _ in config.targets]
        case _:
            return [f"{key}[{index}]" for index in range(len(config.targets))]
