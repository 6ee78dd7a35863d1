"""The Prometheus text: every declared metric, escaped, read back by the rules of the format."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux._native import row_key
from modelux.control.metrics import (
    METRICS,
    Histogram,
    Kind,
    Sample,
    render,
    samples_of_budgets,
)
from modelux.store.budgets import Budget, Standing
from modelux.store.row import LedgerRow

LINE = re.compile(r'^([a-z_]+)(\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$')


def read(text: str) -> dict[str, float]:
    """Read sample lines back: name and labels to value."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = LINE.match(line)
            assert match, line
            found[f"{match[1]}{match[2] or ''}"] = float(match[4])
    return found


def test_every_declared_metric_has_its_help_and_type_even_without_a_sample() -> None:
    text = render([])
    for metric in METRICS:
        assert f"# HELP {metric.name} " in text
        assert f"# TYPE {metric.name} {metric.kind.value}\n" in text
    assert read(text) == {}


def test_names_say_what_they_are() -> None:
    for metric in METRICS:
        assert metric.name.startswith("modelux_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.help.endswith(".")
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_buckets_are_cumulative_and_end_with_all() -> None:
    value = Histogram((0.1, 1.0), (3, 2, 1), 4.5)
    found = read(render([Sample("modelux_added_latency_seconds", {"route": "@p"}, value)]))
    assert found == {
        'modelux_added_latency_seconds_bucket{route="@p",le="0.1"}': 3,
        'modelux_added_latency_seconds_bucket{route="@p",le="1"}': 5,
        'modelux_added_latency_seconds_bucket{route="@p",le="+Inf"}': 6,
        'modelux_added_latency_seconds_sum{route="@p"}': 4.5,
        'modelux_added_latency_seconds_count{route="@p"}': 6,
    }


def test_labels_of_another_set_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        render([Sample("modelux_mode", {"surprise": "x"}, 1)])
    with pytest.raises(KeyError):
        render([Sample("modelux_unknown", {}, 1)])


@given(route=st.text(), value=st.integers(min_value=0, max_value=2**53))
def test_no_label_value_can_break_out_of_its_line(route: str, value: int) -> None:
    sample = Sample(
        "modelux_requests_total",
        {"route": route, "provider": "", "model": route, "status": "200"},
        value,
    )
    lines = [line for line in render([sample]).split("\n") if line and line[0] != "#"]
    assert len(lines) == 1
    match = re.fullmatch(LINE.pattern[1:-1], lines[0], re.DOTALL)
    assert match
    assert float(match[4]) == value


def test_the_money_of_a_budget_is_summed_over_its_subjects_which_are_no_labels() -> None:
    budget = Budget(
        id=bytes(16),
        name="per-user",
        scopes=({"type": "end_user", "id": "*"},),
        cap_nusd=2_500_000_000,
        period="total",
        timezone="UTC",
        action="block",
        enabled=True,
        shadow=False,
    )
    found = [
        Standing(
            budget=budget,
            row=LedgerRow(
                row_key(budget.id, [name], 0),
                name,
                0,
                None,
                spent_nusd=1_000_000_001,
                held_nusd=500_000_000,
                overrun_nusd=7,
                crash_nusd=250_000_000,
            ),
        )
        for name in ("ann", "bob")
    ]
    text = render(samples_of_budgets(found))
    assert read(text) == {
        'modelux_budget_cap_usd{budget="per-user"}': 5,
        'modelux_budget_spent_usd{budget="per-user"}': 2.000000002,
        'modelux_budget_held_usd{budget="per-user"}': 1,
        'modelux_overrun_usd_total{budget="per-user"}': 0.000000014,
        'modelux_crash_charged_usd_total{budget="per-user"}': 0.5,
    }
    assert "ann" not in text
    assert samples_of_budgets([]) == []
