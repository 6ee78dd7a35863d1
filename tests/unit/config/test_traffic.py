"""What requests never gave to a routing config is told with its place."""

from collections.abc import Mapping

import pytest

from modelux.config.resolve import LiveRoute
from modelux.config.traffic import Traffic, traffic_remarks
from modelux.limits import NULL_RUN_MAX
from tests.unit.config.test_outline import read

GOLD = "tags.tier == 'gold'"


def rules(*conditions: str) -> dict[str, object]:
    cases = [{"if": text, "then": "a"} for text in conditions]
    return {"strategy": "custom_rules", "rules": cases}


def told(
    value: object, tags: frozenset[str] | None = None, runs: Mapping[str, int] | None = None
) -> list[str]:
    route = LiveRoute(project="default", slug="x", version=4, config=read(value))
    known = runs or {}
    traffic = Traffic(tags=tags, null_run=lambda mark: known.get(mark, 0))
    return list(traffic_remarks(route, traffic))


def test_a_tag_that_no_trace_has_carried_names_the_nearest() -> None:
    value = rules("tags.teir == 'gold' && tags.team == 'ml'", GOLD)

    assert told(value, frozenset({"tier", "team"})) == [
        'r.rules[0].if: reads the tag "teir", which no trace has carried, nearest "tier"'
    ]


def test_too_few_traces_tell_nothing_of_tags() -> None:
    assert told(rules(GOLD), None) == []


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (
            {
                "strategy": "cascade",
                "steps": [{"target": "a", "accept_if": GOLD}, {"target": "b"}],
            },
            "r.steps[0].accept_if",
        ),
        (
            {
                "strategy": "ensemble",
                "aggregation": "first_valid",
                "members": ["a", "b"],
                "validate": GOLD,
            },
            "r.validate",
        ),
        (
            {
                "strategy": "ab_test",
                "variants": [{"name": "v", "weight": 1, "target": "a"}],
                "sticky_by": "tag:tier",
            },
            "r.sticky_by",
        ),
        ({"strategy": "fallback", "attempts": ["a", rules(GOLD)]}, "r.attempts[1].rules[0].if"),
        (
            {
                "strategy": "cascade",
                "steps": [
                    {"target": "a", "accept_if": {"judge": rules(GOLD), "min_score": 0.5}},
                    {"target": "b"},
                ],
            },
            "r.steps[0].accept_if.judge.rules[0].if",
        ),
    ],
)
def test_tags_are_looked_for_wherever_an_expression_may_stand(
    value: object, place: str
) -> None:
    assert told(value, frozenset({"tier"})) == []
    assert told(value, frozenset()) == [
        f'{place}: reads the tag "tier", which no trace has carried'
    ]


def test_a_rule_that_comes_to_null_again_and_again_is_told_from_its_limit_on() -> None:
    value = {"strategy": "fallback", "attempts": ["a", rules(GOLD, "has(tags.b)")]}
    runs = {
        "default/@x v4 attempts[1].rules[0]": NULL_RUN_MAX,
        "default/@x v4 attempts[1].rules[1]": NULL_RUN_MAX - 1,
    }

    assert told(value, runs=runs) == [
        "r.attempts[1].rules[0]: came to null 1,000 times in a row, which counts as false: "
        "tags.tier == 'gold' -> a"
    ]
