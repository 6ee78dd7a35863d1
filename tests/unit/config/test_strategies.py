"""What each strategy has of its own: read, refused by its place, and written again."""

import json
import re
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelux.config.model import STRATEGIES, AbTest, LatencyOptimized, RoutingConfig
from modelux.config.read import Faults, Reading
from modelux.config.routing import canonical, encode, read_routing
from modelux.config.strategies import FIXED_MEMBERS
from modelux.errors import ConfigError


def read(value: object) -> tuple[RoutingConfig | None, list[str]]:
    faults = Faults("t")
    reading = Reading(faults=faults, folder=Path("/"), env={}, with_secrets=False)
    found = read_routing(value, "r", reading)
    try:
        faults.check()
    except ConfigError as failure:
        return found, failure.faults
    return found, []


FULL: list[dict[str, object]] = [
    {"strategy": "single", "model": {"model": "a", "params": {"temperature": 0, "seed": 7}}},
    {"strategy": "cost_optimized", "quality_tier": "premium", "allowed_models": ["a", "b"]},
    {"strategy": "cost_optimized"},
    {
        "strategy": "latency_optimized",
        "models": ["a", {"model": "b", "timeout_ms": 5}],
        "metric": "total",
        "tolerance_pct": 12.5,
        "explore_pct": 0,
    },
    {
        "strategy": "ensemble",
        "members": [{"model": "a", "weight": 2.5}, "b", {"model": "@c@7", "weight": 0}],
        "aggregation": "weighted_vote",
        "min_responses": 2,
    },
    {
        "strategy": "ensemble",
        "members": ["a", "@c@7"],
        "aggregation": "llm_judge",
        "judge": "d",
        "min_responses": 2,
        "timeout_ms": 900,
    },
    {
        "strategy": "ensemble",
        "members": ["a", "b"],
        "aggregation": "first_valid",
        "validate": "response.json_valid",
    },
    {
        "strategy": "ab_test",
        "variants": [
            {"name": "old", "weight": 99.99, "target": "a"},
            {"name": "new", "weight": 0.01, "target": {"strategy": "single", "model": "b"}},
        ],
        "sticky_by": "tag:team",
        "salt": "2026",
    },
    {
        "strategy": "cascade",
        "steps": [
            {"target": "a", "accept_if": "response.finish_reason == 'stop'"},
            {"target": "b", "accept_if": {"judge": "c", "min_score": 0.7}},
            {"target": "d"},
        ],
    },
    {
        "strategy": "custom_rules",
        "rules": [
            {"if": "tags.tier == 'gold'", "then": "a"},
            {"if": "request.stream", "then": {"block": "no streams here"}},
            {"else": {"strategy": "fallback", "attempts": ["b", "@c"]}},
        ],
    },
    {
        "strategy": "fallback",
        "attempts": ["a"],
        "shadow": {"target": "b", "percent": 0.25},
        "embedding_dimensions": 1536,
    },
]


@pytest.mark.parametrize("value", FULL, ids=lambda value: str(value["strategy"]))
def test_what_was_said_is_what_is_stored(value: dict[str, object]) -> None:
    config, faults = read(value)
    assert faults == []
    assert config is not None
    assert encode(config) == value
    again, faults = read(encode(config))
    assert faults == []
    assert again == config


@pytest.mark.parametrize("value", FULL, ids=lambda value: str(value["strategy"]))
def test_the_other_spelling_means_the_same(value: dict[str, object]) -> None:
    config = {key: item for key, item in value.items() if key != "strategy"}
    other, faults = read({"policy": value["strategy"], "config": config})
    assert faults == []
    assert other == read(value)[0]


def ab_test(*variants: object, **more: object) -> dict[str, object]:
    return {"strategy": "ab_test", "variants": list(variants), **more}


def arm(**more: object) -> dict[str, object]:
    return {"name": "a", "weight": 1, "target": "m", **more}


def rules(*rules: object) -> dict[str, object]:
    return {"strategy": "custom_rules", "rules": list(rules)}


def ensemble(**more: object) -> dict[str, object]:
    return {
        "strategy": "ensemble",
        "members": ["a", "b"],
        "aggregation": "first_valid",
        **more,
    }


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (
            {"strategy": "cost_optimised"},
            'r.strategy: unknown strategy "cost_optimised", nearest',
        ),
        (
            {"strategy": "cost_optimized", "quality_tier": "premum"},
            'r.quality_tier: "premum" is none of',
        ),
        (
            {"strategy": "cost_optimized", "allowed_models": []},
            "r.allowed_models: needs at least one target",
        ),
        ({"strategy": "latency_optimized"}, "r.models: is missing"),
        (
            {"strategy": "latency_optimized", "models": ["a"], "explore_pct": 101},
            "r.explore_pct: 101 is out of range: from 0 to 100 %",
        ),
        (
            {"strategy": "latency_optimized", "models": ["a"], "metrik": "ttft"},
            'r.metrik: unknown key, nearest "metric"',
        ),
        (ensemble(aggregation="first"), 'r.aggregation: "first" is none of'),
        (ensemble(min_responses=3), "r.min_responses: 3 is more than there are members, 2"),
        (ensemble(judge="c"), 'r.judge: only `llm_judge` has a judge, not "first_valid"'),
        (ensemble(aggregation="llm_judge"), "r.judge: is missing"),
        (
            ensemble(aggregation="weighted_vote", validate="json"),
            'r.validate: only `first_valid` asks for it, not "weighted_vote"',
        ),
        (ensemble(validate="response.txt"), "r.validate: line 1, column"),
        (ab_test(), "r.variants: needs at least one variant"),
        (ab_test(arm(), arm()), 'r.variants[1].name: "a" is the name of variants[0] already'),
        (ab_test(arm(weight=0)), "r.variants: all have the weight 0"),
        (
            ab_test(arm(weight=-1)),
            "r.variants[0].weight: -1 is out of range: from 0 to 1000000",
        ),
        (
            ab_test(arm(weight=float("nan"))),
            "r.variants[0].weight: nan is out of range: from 0 to 1000000",
        ),
        (ab_test(arm(weight=0.001)), "r.variants[0].weight: 0.001 has more than 2 decimals"),
        (ab_test({"name": "a", "weight": 1}), "r.variants[0].target: is missing"),
        (ab_test(arm(), sticky_by="user"), 'r.sticky_by: "user" is none of'),
        (ab_test(arm(), sticky_by="tag:"), 'r.sticky_by: "tag:": a tag\'s key has'),
        (
            {"strategy": "cascade", "steps": [{"target": "a"}, {"target": "b"}]},
            "r.steps[0].accept_if: is missing",
        ),
        (
            {"strategy": "cascade", "steps": [{"target": "a", "accept_if": "true"}]},
            "r.steps[0].accept_if: has no meaning: the answer of the last step stands",
        ),
        (
            {
                "strategy": "cascade",
                "steps": [
                    {"target": "a", "accept_if": {"judge": "b", "min_score": 2}},
                    {"target": "c"},
                ],
            },
            "r.steps[0].accept_if.min_score: 2 is out of range: from 0 to 1",
        ),
        (rules({"if": "tagz.x == 'y'", "then": "a"}), "r.rules[0].if: line 1, column 1:"),
        (rules({"if": "response.text == ''", "then": "a"}), "r.rules[0].if: line 1, column 1:"),
        (rules({"if": "1 + 1", "then": "a"}), "r.rules[0].if: line 1, column"),
        (rules({"then": "a"}), "r.rules[0].if: is missing"),
        (rules({"if": "true"}), "r.rules[0].then: is missing"),
        (
            rules({"else": "a"}, {"if": "true", "then": "b"}),
            "r.rules[0].else: must be the last",
        ),
        (rules({"if": "true", "then": {"block": ""}}), "r.rules[0].then.block: needs a text"),
        (rules({"if": "true", "then": "a b"}), 'r.rules[0].then: "a b" is not a model'),
        (
            {"strategy": "single", "model": {"model": "a", "params": {"max_tokens": 9}}},
            "r.model.params.max_tokens: may not be set for a target: `max_output_tokens`",
        ),
        (
            {"strategy": "single", "model": {"model": "a", "params": {"max_output_tokens": 9}}},
            "r.model.params.max_output_tokens: may not be set for a target: `max_output_",
        ),
        (
            {"strategy": "single", "model": {"model": "a", "params": {"service_tier": "flex"}}},
            "r.model.params.service_tier: may not be set for a target: the caller, as the cost",
        ),
        (
            {"strategy": "single", "model": {"model": "a", "params": {"mlx:tags": {}}}},
            'r.model.params."mlx:tags": is for modelux',
        ),
        (
            {"strategy": "single", "model": "a", "shadow": {"target": "b", "percent": 200}},
            "r.shadow.percent: 200 is out of range: from 0 to 100 %",
        ),
        (
            {"strategy": "single", "model": "a", "embedding_dimensions": 0},
            "r.embedding_dimensions: 0 is out of range",
        ),
        ({"strategy": "single", "model": "a", "cache": {}}, "r.cache: not in this release"),
        (
            {"strategy": "fallback", "models": ["a", "b c"]},
            'r.models[1]: "b c" is not a model',
        ),
        (ensemble(aggregation=None), "r.aggregation: must be a string"),
        (ensemble(validate="jsn"), 'r.validate: "jsn" is neither "json" nor "json_schema"'),
        (
            ensemble(aggregation="weighted_average", members=[{"model": "a", "weight": 0}]),
            "r.members: all have the weight 0",
        ),
        (rules({"if": "true", "then": "a", "else": "b"}), "r.rules[0].else: stands alone"),
        (rules({"else": "a"}, {"else": "b"}), "r.rules[0].else: must be the last"),
        (
            rules({"if": "true", "then": {"modle": "a"}}),
            'r.rules[0].then.modle: unknown key, nearest "model"',
        ),
        (
            rules({"if": "true", "then": {"strategy": "fallback", "attempts": [{}]}}),
            "r.rules[0].then.attempts[0].model: is missing",
        ),
        (rules({"if": True, "then": "a"}), "r.rules[0].if: must be an expression in a string"),
        (
            rules({"if": "true", "then": {"block": "no", "status": 1}}),
            "r.rules[0].then.status: unknown key",
        ),
        (
            {"strategy": "single", "model": {"model": "@a", "params": {"seed": 1}}},
            "r.model.params: has no meaning for a routing config",
        ),
        (
            {"strategy": "single", "model": {"model": "a", "params": {"x": date(2026, 1, 2)}}},
            "r.model.params: holds 2026-01-02, which JSON cannot",
        ),
        (
            {"strategy": "single", "model": {"model": "a", "params": {"x": float("inf")}}},
            "r.model.params: inf is no number",
        ),
        (
            {"strategy": "single", "model": {"model": "a", "params": {"x": "y" * 20_000}}},
            "r.model.params: is longer than 16384 bytes",
        ),
        (
            {"strategy": "single", "model": "a", "shadow": {"target": "b"}},
            "r.shadow.percent: is missing",
        ),
        (
            {"strategy": "single", "model": "a", "shadow": {"percent": 5}},
            "r.shadow.target: is missing",
        ),
    ],
)
def test_a_fault_is_named_with_its_place(value: object, fault: str) -> None:
    _, faults = read(value)
    assert any(fault in told for told in faults), faults


@given(
    weights=st.lists(st.integers(0, 10_000), min_size=1, max_size=6).filter(any),
    tolerance=st.integers(0, 10_000),
)
def test_hundredths_survive_writing_and_reading(weights: list[int], tolerance: int) -> None:
    variants = [
        {"name": f"v{at}", "weight": weight / 100, "target": "m"}
        for at, weight in enumerate(weights)
    ]
    config, faults = read({"strategy": "ab_test", "variants": variants})
    assert faults == []
    assert config is not None
    assert isinstance(config.own, AbTest)
    assert [variant.weight for variant in config.own.variants] == weights
    assert read(encode(config))[0] == config
    latency = {
        "strategy": "latency_optimized",
        "models": ["a"],
        "tolerance_pct": tolerance / 100,
    }
    config, _ = read(latency)
    assert config is not None
    assert isinstance(config.own, LatencyOptimized)
    assert config.own.tolerance_pct == tolerance
    assert read(encode(config))[0] == config


@given(
    params=st.dictionaries(
        st.text(max_size=5).filter(
            lambda name: name not in FIXED_MEMBERS and not name.startswith("mlx:")
        ),
        st.recursive(
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(-(2**63), 2**63 - 1),
                st.decimals(-1000, 1000, places=3),
                st.text(max_size=5),
            ),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_a_target_sets_survives_writing_and_reading(params: dict[str, object]) -> None:
    config, faults = read({"strategy": "single", "model": {"model": "a", "params": params}})
    assert faults == []
    assert config is not None
    text = json.dumps(encode(config))
    assert read(json.loads(text))[0] == config
    assert read(json.loads(text, parse_float=Decimal))[0] == config


def test_five_configs_inside_each_other_are_refused_where_the_fifth_stands() -> None:
    value: object = "x"
    for _ in range(5):
        value = rules({"else": value})
    assert read(value)[1] == ["t: r" + ".rules[0].else" * 4 + ": is nested deeper than 4"]


# --- any config ----------------------------------------------------------------------------

models = st.sampled_from(["a", "vllm/b", "@c", "@c@7"])
weights = st.integers(0, 500).map(lambda hundredths: hundredths / 100)
conditions = st.sampled_from(["request.stream", "tags.a == 'x'", "time.weekday > 5"])
accepted = st.sampled_from(["response.json_valid", "response.refusal == null"])


def plain_targets(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    table = st.fixed_dictionaries({"model": st.just("a")}, optional={"timeout_ms": st.just(5)})
    return st.one_of(models, table.filter(lambda found: len(found) > 1), inner)


@st.composite
def nested(draw: st.DrawFn, depth: int) -> dict[str, object]:
    """Draw a config in its stored form, with configs inside it down to a depth."""
    inner = nested(depth - 1) if depth else models
    target = plain_targets(inner)
    several = st.lists(target, min_size=1, max_size=3)
    kind = draw(st.sampled_from(sorted(STRATEGIES)))
    config: dict[str, object] = {"strategy": kind}
    match kind:
        case "single":
            config["model"] = draw(target)
        case "fallback":
            config["attempts"] = draw(several)
        case "cost_optimized":
            config |= draw(
                st.fixed_dictionaries(
                    {},
                    optional={"allowed_models": several, "quality_tier": st.just("premium")},
                )
            )
        case "latency_optimized":
            config["models"] = draw(several)
            config |= draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "metric": st.sampled_from(["ttft", "total"]),
                        "tolerance_pct": weights,
                        "explore_pct": weights,
                    },
                )
            )
        case "ensemble":
            members = draw(several)
            config |= {"members": members, "aggregation": "llm_judge", "judge": draw(target)}
            if draw(st.booleans()):
                config["min_responses"] = len(members)
        case "ab_test":
            config["variants"] = [
                {"name": f"v{index}", "weight": draw(weights) or 1, "target": one}
                for index, one in enumerate(draw(several))
            ]
            config |= draw(
                st.fixed_dictionaries(
                    {}, optional={"salt": st.just("s"), "sticky_by": st.just("tag:a")}
                )
            )
        case "cascade":
            judged = st.fixed_dictionaries({"judge": target, "min_score": st.just(0.125)})
            *before, last = draw(several)
            config["steps"] = [
                *(
                    {"target": one, "accept_if": draw(st.one_of(accepted, judged))}
                    for one in before
                ),
                {"target": last},
            ]
        case _:
            leads = st.one_of(target, st.just({"block": "no"}))
            cases = st.lists(
                st.fixed_dictionaries({"if": conditions, "then": leads}), min_size=1, max_size=2
            )
            config["rules"] = [*draw(cases), *draw(st.sampled_from([[], [{"else": "a"}]]))]
    if draw(st.booleans()):
        config["shadow"] = {"target": draw(target), "percent": draw(weights)}
    return config


def told(value: object) -> object:
    """Return plain data with whole numbers as the stored form spells them."""
    return json.loads(re.sub(r"(\d)\.0+(?=[,}\]])", r"\1", canonical(value)))


def in_the_other_spelling(value: object) -> object:
    if isinstance(value, list):
        return [in_the_other_spelling(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: in_the_other_spelling(item) for key, item in value.items()}
    if "strategy" not in found:
        return found
    strategy = found.pop("strategy")
    if strategy != "fallback":
        return {"policy": strategy, "config": found}
    found["models"] = found.pop("attempts")
    return {"policy": "fallback_chain", "config": found}


@settings(deadline=None)
@given(value=nested(3))
def test_any_config_is_stored_as_it_was_said_in_both_spellings(
    value: dict[str, object],
) -> None:
    config, faults = read(value)
    assert faults == []
    assert config is not None
    stored = canonical(encode(config))
    assert json.loads(stored) == told(value)
    assert read(json.loads(stored))[0] == config
    assert read(json.loads(stored, parse_float=Decimal))[0] == config
    assert read(in_the_other_spelling(value))[0] == config


@settings(deadline=None)
@given(value=nested(2), data=st.data())
def test_a_key_that_nobody_knows_is_refused_wherever_it_stands(
    value: dict[str, object], data: st.DataObject
) -> None:
    tables: list[dict[str, object]] = []

    def look(item: object) -> None:
        if isinstance(item, dict):
            tables.append(item)
        for one in item.values() if isinstance(item, dict) else ():
            look(one)
        for one in item if isinstance(item, list) else ():
            look(one)

    broken = json.loads(json.dumps(value))
    look(broken)
    data.draw(st.sampled_from(tables))["nobody_knows"] = 1

    assert any("nobody_knows: unknown key" in fault for fault in read(broken)[1])


SCAN = Path(__file__).parents[3] / "rust" / "core" / "src" / "scan.rs"
HARMLESS = {"response_format", "safety_identifier", "user"} | {
    # However much it thinks, its output limit holds.
    "reasoning",
    "thinking",
    "thinking_budget",
}
"""What the scan of a body reads and a target may set all the same."""


def test_a_target_sets_nothing_that_the_bound_of_a_request_is_made_of() -> None:
    table = SCAN.read_text("utf-8").partition("fn of(key: &[u8])")[2].partition("_ => ")[0]
    read_by_the_scan = set(re.findall(r'b"([a-z_]+)"', table))

    assert {"model", "service_tier", "plugins"} <= read_by_the_scan
    assert read_by_the_scan - set(FIXED_MEMBERS) == HARMLESS
