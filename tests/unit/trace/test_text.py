import json
import textwrap
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from modelux.trace.record import parse_record
from modelux.trace.text import explanation, headline, list_line
from tests import traces

FALLBACK: dict[str, Any] = {
    "id": "0194bd2c-1111-7000-8000-000000000001",
    "project": "playwright-test",
    "decision": {
        "summary": "fallback -> attempt_2",
        "reason": "primary timeout, secondary healthy",
    },
    "attempts": [
        traces.attempt(
            1,
            model="claude-haiku-4-5",
            provider="anthropic",
            outcome="timeout",
            status=None,
            usage=None,
            timeout_ms=2000,
            total_ms=2003.1,
        ),
        traces.attempt(2),
    ],
}


def explained(**fields: Any) -> str:  # noqa: ANN401 - fields of a record.
    return "\n".join(explanation(parse_record(traces.meta(**fields))))


def block(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


def test_a_fallback_reads_as_on_the_first_page() -> None:
    assert explained(**FALLBACK) == block("""
        [modelux] req_0194bd2c-1111-7000-8000-000000000001 gpt-4o-mini 238ms $0.002134 200
          attempt_1  claude-haiku-4-5   timeout (2000ms)
          attempt_2  gpt-4o-mini        200 OK  1,247 tokens
          decision:  fallback -> attempt_2
          reason:    primary timeout, secondary healthy
          cost:      input $0.000187 + output $0.001947
          latency:   ttft 138ms  total 238ms  overhead 0.2ms
          project:   playwright-test
          config:    @production (v4)
    """)


def test_a_refusal_says_what_was_wrong() -> None:
    record = parse_record(
        json.dumps(traces.refused(id="0194bd2c-1111-7000-8000-000000000002")).encode()
    )
    assert "\n".join(explanation(record)) == block("""
        [modelux] req_0194bd2c-1111-7000-8000-000000000002 gpt-4o-mni 0ms $- 400
          error:     model_not_found: unknown model "gpt-4o-mni", nearest "gpt-4o-mini"
          decision:  refused
          reason:    model_not_found
          cost:      -
          latency:   total 0ms  overhead 0.0ms
          project:   default
          config:    -
    """)


def test_every_outcome_has_its_words() -> None:
    outcomes = [
        ("http_error", 429),
        ("http_error", 529),
        ("connect_error", None),
        ("reset", None),
        ("malformed", 200),
        ("interrupted", 200),
        ("cancelled", None),
        ("skipped", None),
    ]
    attempts = [
        traces.attempt(i, outcome=outcome, status=status, usage=None, total_ms=12.4)
        for i, (outcome, status) in enumerate(outcomes, 1)
    ]
    lines = explained(attempts=attempts).splitlines()[1:9]
    assert [line.partition("gpt-4o-mini   ")[2] for line in lines] == [
        "429 Too Many Requests",
        "529",
        "connect error (12ms)",
        "reset (12ms)",
        "200 OK  malformed (12ms)",
        "200 OK  interrupted (12ms)",
        "cancelled (12ms)",
        "skipped (12ms)",
    ]


def test_one_model_at_two_providers_is_told_apart() -> None:
    attempts = [traces.attempt(1, provider="azure", outcome="reset"), traces.attempt(2)]
    text = explained(attempts=attempts)
    assert "attempt_1  azure/gpt-4o-mini    reset" in text
    assert "attempt_2  openai/gpt-4o-mini   200 OK" in text


def test_an_answer_without_a_price_has_no_cost_and_is_not_free() -> None:
    text = explained(cost=None)
    assert " $- 200" in text
    assert "cost:      unknown" in text


def test_a_price_of_zero_is_a_cost() -> None:
    zero = {"input_usd": "0.000000000", "output_usd": "0.000000000", "total_usd": "0.000000000"}
    assert "cost:      input $0.000000 + output $0.000000" in explained(cost=zero)


def test_money_is_rounded_half_up_to_six_decimals() -> None:
    cost = {"input_usd": "0.000000500", "output_usd": "1.0000004", "total_usd": "1.000000900"}
    text = explained(cost=cost)
    assert "input $0.000001 + output $1.000000" in text
    assert " $1.000001 200" in text


def test_pinned_versions_tags_and_direct_models_are_shown() -> None:
    assert "config:    @production (v4, pinned)" in explained(pinned=True)
    assert "tags:      team=ml, x=y" in explained(tags={"team": "ml", "x": "y"})
    direct = explained(route=None, route_version=None)
    assert "config:    - (model named by the caller)" in direct


def test_a_list_line_begins_with_the_time_and_ends_with_the_error() -> None:
    record = parse_record(json.dumps(traces.refused(ts=traces.NOON + 7_000)).encode())
    assert list_line(record) == f"2026-01-31T12:00:00.007Z {headline(record)} model_not_found"


@given(st.text(max_size=400), st.text(max_size=20))
@example("\U000e0001" * 400, "")
def test_no_record_can_command_a_terminal(first: str, second: str) -> None:
    text = first + "\x1b[2J\r\n\u202e" + second
    lines = explanation(
        parse_record(
            traces.meta(
                model=text,
                project=text,
                tags={text: text},
                decision={"reason": text, "summary": text},
                error={"type": "", "code": text, "message": text},
                attempts=[traces.attempt(model=text, outcome=text)],
            )
        )
    )
    assert all(line.isprintable() for line in lines)
    assert all(len(line) < 1_500 for line in lines)
