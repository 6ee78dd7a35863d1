"""The native face of rules: the shared vectors, and what a check reports."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux._native import (
    RULE_FUNCTIONS,
    RULE_VARIABLES,
    check_rule,
    evaluate_rule,
)

VECTORS: Final = json.loads(
    (Path(__file__).parents[2] / "vectors" / "rules.json").read_text("utf-8")
)


def values_of(case: dict[str, Any]) -> dict[str, object]:
    """The values of a vector; what is a list there is a span."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in case["values"].items()
    }


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["text"])
def test_a_vector_says_what_it_should(case: dict[str, Any]) -> None:
    answers = case.get("answers", False)
    says = evaluate_rule(case["text"], values_of(case), answers=answers)
    # 1 and True are equal, and not the same.
    assert repr(says) == repr(case["says"])
    assert check_rule(case["text"], answers=answers).fault is None


@pytest.mark.parametrize("line", VECTORS["faults"], ids=lambda line: repr(line["text"]))
def test_a_fault_is_found_where_it_is(line: dict[str, Any]) -> None:
    report = check_rule(line["text"], answers=line.get("answers", False))
    assert report.fault == (line["line"], line["column"], line["message"])


def test_every_case_belongs_to_a_topic() -> None:
    assert {case["topic"] for case in VECTORS["cases"]} == set(VECTORS["topics"])


def test_no_two_vectors_are_alike() -> None:
    cases = [(case["text"], repr(case["values"])) for case in VECTORS["cases"]]
    assert len(set(cases)) == len(cases)
    texts = [line["text"] for line in VECTORS["faults"]]
    assert len(set(texts)) == len(texts)


def test_a_report_names_what_a_rule_reads_and_where() -> None:
    report = check_rule(
        "latency['gpt-4o'].ttft_ms < 300 &&\n"
        "  cost['mini'].est_usd < cost['gpt-4o'].est_usd &&\n"
        "  budgets['team'].used_pct < 0.5 && tags['a b'] == tags.c && tags.c != null",
        answers=False,
    )
    assert report.fault is None
    assert report.targets == [("gpt-4o", 1, 9), ("mini", 2, 8)]
    assert report.budgets == [("team", 3, 11)]
    assert report.tags == ["a b", "c"]
    assert report.variables == [
        "latency['gpt-4o'].ttft_ms",
        "cost['mini'].est_usd",
        "cost['gpt-4o'].est_usd",
        "budgets['team'].used_pct",
        "tags['a b']",
        "tags.c",
    ]


def test_a_report_of_a_fault_names_nothing() -> None:
    report = check_rule("tags.x == 'a' && tags.y == 5", answers=False)
    assert report.fault is not None
    assert (report.targets, report.budgets, report.tags, report.variables) == ([], [], [], [])


def test_what_is_no_rule_is_not_evaluated() -> None:
    with pytest.raises(ValueError, match="line 1, column 8: `=` is written `==`"):
        evaluate_rule("tags.x = 'a'", {}, answers=False)


def test_a_value_of_no_variable_is_refused() -> None:
    with pytest.raises(KeyError, match=r"did you mean `request\.stream`"):
        evaluate_rule("true", {"request.steam": True}, answers=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request.stream", "true"),
        ("request.messages", True),
        ("tags.x", 5),
        ("tags.x", (1, 2)),
        ("request.messages", "5"),
        ("tags.x", [1, 2]),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"`{name}` is "):
        evaluate_rule("true", {name: value}, answers=False)


def test_every_function_and_variable_says_what_it_is() -> None:
    for form, meaning in RULE_FUNCTIONS:
        assert "(" in form
        assert meaning
    for name, kind, _, meaning in RULE_VARIABLES:
        assert name
        assert kind in {"number", "text", "true or false"}
        assert meaning


@given(text=st.text(max_size=200), answers=st.booleans())
def test_any_text_is_refused_with_a_place_or_sound(text: str, answers: bool) -> None:
    fault = check_rule(text, answers=answers).fault
    if fault is None:
        assert evaluate_rule(text, {}, answers=answers) in {True, False, None, "open"}
    else:
        line, column, message = fault
        assert 1 <= column <= len(text.split("\n")[line - 1]) + 1
        assert message
