import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from modelux.trace.facts import parse_facts
from modelux.trace.record import parse_record
from modelux.units import usd_text
from tests import traces


def test_the_quick_reading_agrees_with_the_whole_one() -> None:
    fields = {
        "tags": {"a": "b"},
        "trace_id": "t",
        "conversation_id": "c",
        "end_user": "u",
        "attempts": [traces.attempt(1, outcome="timeout", usage=None), traces.attempt(2)],
    }
    for meta in (
        traces.meta(3, **fields),
        json.dumps(traces.refused(4)).encode(),
        json.dumps({"id": "x", "ts": 5}).encode(),
    ):
        facts, record = parse_facts(meta), parse_record(meta)
        for name in (
            *("id", "ts_us", "project", "route", "provider", "model", "model_requested"),
            *("end_user", "trace_id", "conversation_id", "status", "overhead_us", "ttft_us"),
            *("total_us", "tags"),
        ):
            assert getattr(facts, name) == getattr(record, name), name
        assert facts.cost_nusd == (record.cost.total_nusd if record.cost else None)
        tokens = record.tokens
        assert facts.input_tokens == (tokens.input_tokens if tokens else 0)
        assert facts.output_tokens == (tokens.output_tokens if tokens else 0)
        assert facts.attempts == tuple(
            (a.provider, a.model, a.outcome) for a in record.attempts
        )


@given(st.integers(min_value=0, max_value=2**53))
def test_money_is_read_exactly(amount_nusd: int) -> None:
    meta = traces.meta(cost={"total_usd": usd_text(amount_nusd)})
    assert parse_facts(meta).cost_nusd == amount_nusd


@given(st.decimals(min_value=0, max_value=1000, places=3))
def test_money_with_fewer_decimals_is_read_exactly(usd: Decimal) -> None:
    meta = traces.meta(cost={"total_usd": str(usd)})
    assert parse_facts(meta).cost_nusd == int(usd * 10**9)
