"""What of a routing config is counted, and what is hardly meant."""

from pathlib import Path

import pytest

from modelux.config.model import RoutingConfig
from modelux.config.outline import (
    budget_remarks,
    counted,
    mark_name,
    route_remarks,
    shadow_remarks,
)
from modelux.config.read import Faults, Reading
from modelux.config.resolve import LiveRoute
from modelux.config.routing import read_routing
from tests.unit.config.worlds import PROVIDERS, loaded

SINGLE = {"strategy": "single", "model": "a"}
MIRRORED = {**SINGLE, "shadow": {"target": "b", "percent": 1}}


def read(value: object) -> RoutingConfig:
    faults = Faults("t")
    reading = Reading(faults=faults, folder=Path("/"), env={}, with_secrets=False)
    found = read_routing(value, "r", reading)
    faults.check()
    assert found is not None
    return found


def rules(*conditions: str, other: object = "a") -> dict[str, object]:
    cases: list[object] = [{"if": text, "then": "a"} for text in conditions]
    return {"strategy": "custom_rules", "rules": [*cases, {"else": other}]}


@pytest.mark.parametrize(
    ("value", "remarks"),
    [
        (rules("request.stream", "tags.a == 'b'"), []),
        (
            rules("request.stream", " request.stream "),
            ["r.rules[1]: never decides: rules[0] asks the same before"],
        ),
        (
            rules("tags.a == 'b' && request.stream", "request.stream and tags.a=='b'"),
            ["r.rules[1]: never decides: rules[0] asks the same before"],
        ),
        (
            rules("tags.a == 'b'", "request.stream && (tags.a == 'b')"),
            ["r.rules[1]: is never reached: rules[0] matches all that it would"],
        ),
        (
            rules(
                "request.stream || (request.has_tools && tags.a == 'b')",
                "(request.has_tools && request.stream)",
                "request.has_tools",
                "tags.a == 'b' && request.has_images || tags.a == 'c' && request.stream",
                "tags.a == 'b' ? request.stream : request.has_tools && request.stream",
                "tags.a == 'x || request.stream'",
                "size(tags.a) > 2 && !(request.stream || request.has_tools)",
            ),
            ["r.rules[1]: is never reached: rules[0] matches all that it would"],
        ),
        (
            rules("1 < 2", "request.stream"),
            [
                "r.rules[1]: is never reached: rules[0] always matches",
                "r.rules[2]: is never reached: rules[0] always matches",
            ],
        ),
        (rules("1 > 2"), ['r.rules[0]: never matches: "1 > 2" is never true']),
        (
            rules(other=rules("1 > 2")),
            ['r.rules[0].else.rules[0]: never matches: "1 > 2" is never true'],
        ),
        (
            {
                "strategy": "ab_test",
                "variants": [
                    {"name": "old", "weight": 1, "target": "a"},
                    {"name": "new", "weight": 0, "target": "b"},
                ],
            },
            ['r.variants[1]: nobody gets "new": its weight is 0'],
        ),
        (
            {
                "strategy": "fallback",
                "attempts": ["a", SINGLE, {"model": "a", "timeout_ms": 5}, "b"],
            },
            [
                'r.attempts[2]: repeats attempts[0], "a": to try one target more often, use '
                "`max_retries_per_attempt`"
            ],
        ),
        (
            {
                "strategy": "fallback",
                "attempts": [
                    {"model": "a", "provider_credential_id": "one"},
                    {"model": "a", "provider_credential_id": "two"},
                    {"model": "a", "params": {"seed": 1}},
                ],
            },
            [],
        ),
        (
            {"strategy": "ensemble", "members": ["a"], "aggregation": "first_valid"},
            ["r.members: has one member, which decides alone"],
        ),
        (MIRRORED, []),
        (
            {"policy": "single", "config": {"model": MIRRORED}},
            [
                "r.config.model.shadow: is ignored: only the outermost routing config mirrors "
                "its traffic"
            ],
        ),
        (
            {
                "strategy": "cascade",
                "steps": [
                    {"target": "a", "accept_if": {"judge": MIRRORED, "min_score": 1}},
                    {"target": "b"},
                ],
            },
            [
                "r.steps[0].accept_if.judge.shadow: is ignored: only the outermost routing "
                "config mirrors its traffic"
            ],
        ),
    ],
)
def test_what_is_hardly_meant_is_remarked_with_its_place(
    value: object, remarks: list[str]
) -> None:
    assert list(route_remarks([read(value)])) == remarks


HEAVY = {"model": "a", "weight": 2}
MEMBERS = {"strategy": "ensemble", "members": [HEAVY, "b"]}
SAYS_NOTHING = "weight: says nothing here: only the members of a vote or a mean are weighed"


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ({"strategy": "single", "model": HEAVY}, ["r.model"]),
        ({"strategy": "fallback", "attempts": ["b", HEAVY]}, ["r.attempts[1]"]),
        ({"policy": "fallback_chain", "config": {"models": [HEAVY]}}, ["r.config.models[0]"]),
        ({"strategy": "cost_optimized", "allowed_models": [HEAVY]}, ["r.allowed_models[0]"]),
        ({"strategy": "latency_optimized", "models": [HEAVY, "b"]}, ["r.models[0]"]),
        ({**MEMBERS, "aggregation": "weighted_vote"}, []),
        ({**MEMBERS, "aggregation": "weighted_average"}, []),
        ({**MEMBERS, "aggregation": "first_valid"}, ["r.members[0]"]),
        ({**MEMBERS, "aggregation": "llm_judge", "judge": HEAVY}, ["r.members[0]", "r.judge"]),
        (
            {"strategy": "ab_test", "variants": [{"name": "x", "weight": 1, "target": HEAVY}]},
            ["r.variants[0].target"],
        ),
        (
            {
                "strategy": "cascade",
                "steps": [
                    {"target": HEAVY, "accept_if": {"judge": HEAVY, "min_score": 1}},
                    {"target": HEAVY},
                ],
            },
            ["r.steps[0].target", "r.steps[1].target", "r.steps[0].accept_if.judge"],
        ),
        (
            {
                "strategy": "custom_rules",
                "rules": [{"if": "request.stream", "then": HEAVY}, {"else": HEAVY}],
            },
            ["r.rules[0].then", "r.rules[1].else"],
        ),
        ({**SINGLE, "shadow": {"target": HEAVY, "percent": 1}}, ["r.shadow.target"]),
        (
            rules("request.stream", other={"strategy": "single", "model": HEAVY}),
            ["r.rules[1].else.model"],
        ),
    ],
)
def test_a_weight_may_stand_at_every_target_and_is_remarked_where_nothing_is_weighed(
    value: object, places: list[str]
) -> None:
    assert list(route_remarks([read(value)])) == [f"{one}.{SAYS_NOTHING}" for one in places]


def test_a_weight_where_a_budget_sends_to_is_remarked(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        f"{PROVIDERS}\n[[budgets]]\nname = 'x'\nscope = {{ type = 'organization' }}\n"
        "cap_usd = 1\naction = 'downgrade'\n"
        "downgrade_to = { model = 'gpt-4o-mini', weight = 2 }\n",
    )

    assert list(budget_remarks(config)) == [f"budgets[0].downgrade_to.{SAYS_NOTHING}"]


def test_configs_that_budgets_send_to_are_remarked_too(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        f"{PROVIDERS}\n[[budgets]]\nname = 'x'\nscope = {{ type = 'organization' }}\n"
        "cap_usd = 1\naction = 'downgrade'\n"
        "downgrade_to = { strategy = 'ensemble', members = ['gpt-4o-mini'], aggregation = "
        "'first_valid', shadow = { target = 'gpt-4o', percent = 1 } }\n",
    )

    assert list(budget_remarks(config)) == [
        "budgets[0].downgrade_to.members: has one member, which decides alone",
        "budgets[0].downgrade_to.shadow: is ignored: only the outermost routing config mirrors "
        "its traffic",
    ]


def test_rules_variants_and_targets_are_counted_where_they_stand() -> None:
    value = {
        "strategy": "fallback",
        "attempts": [
            "m",
            "@other",
            {
                "strategy": "ab_test",
                "variants": [
                    {"name": "old", "weight": 1, "target": "@other"},
                    {"name": "new", "weight": 1, "target": rules("request.stream")},
                ],
            },
        ],
    }

    assert [(part.path, part.what) for part in counted(read(value), None)] == [
        ("attempts[0]", "m"),
        ("attempts[2].variants[0].target", "old: @other"),
        ("attempts[2].variants[1].target", "new: custom_rules"),
        ("attempts[2].variants[1].target.rules[0]", "request.stream -> a"),
        ("attempts[2].variants[1].target.rules[1]", "else a"),
    ]
    assert mark_name("p", "s", 4, "rules[2]") == "p/@s v4 rules[2]"


def test_a_choice_by_price_without_names_is_counted_by_the_models_there_are(
    tmp_path: Path,
) -> None:
    config = loaded(tmp_path, PROVIDERS)
    value = {"strategy": "cost_optimized", "quality_tier": "premium"}

    assert [part.path for part in counted(read(value), config)] == [
        'allowed_models["anthropic/claude-sonnet-4-5"]'
    ]


def test_a_named_config_loses_its_shadow_where_it_stands_inside() -> None:
    def route(value: object, slug: str, project: str = "default") -> LiveRoute:
        return LiveRoute(project=project, slug=slug, version=1, config=read(value))

    inner = route(MIRRORED, "inner")
    elsewhere = route(MIRRORED, "plain", "other")
    plain = route(SINGLE, "plain")
    judge = {"judge": "@inner", "min_score": 0.5}
    steps = [{"target": "@plain", "accept_if": judge}, {"target": {"model": "@inner@3"}}]
    outer = route(
        {
            "strategy": "fallback",
            "attempts": [{"model": "@inner"}, {"strategy": "cascade", "steps": steps}],
        },
        "outer",
    )

    found = list(shadow_remarks(outer, [outer, inner, plain, elsewhere]))

    assert [
        line.partition(": the `shadow` of @inner is ignored here")[0] for line in found
    ] == [
        "r.attempts[0].model",
        "r.attempts[1].steps[0].accept_if.judge",
    ]
    assert list(shadow_remarks(inner, [outer, inner])) == []
