import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.trace.facts import parse_facts
from modelux.trace.record import RecordError, parse_record, record_json
from tests import traces

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_every_shown_field_is_read() -> None:
    record = parse_record(
        traces.meta(7, tags={"team": "ml"}, trace_id="run-1", end_user="u", pinned=True)
    )
    assert record.id == traces.trace_id_at(traces.NOON, 7)
    assert (record.route, record.route_version, record.pinned) == ("@production", 4, True)
    assert (record.tags, record.trace_id, record.end_user) == ({"team": "ml"}, "run-1", "u")
    assert record.cost is not None
    assert record.cost.total_nusd == 2_134_000
    assert (record.overhead_us, record.ttft_us, record.total_us) == (212, 138_200, 238_400)
    assert record.attempts[0].timeout_ms == 3000
    assert record.attempts[0].tokens is not None
    assert record.attempts[0].tokens.input_tokens == 247


def test_tokens_are_the_sum_of_the_disjoint_parts() -> None:
    usage = {
        "input_tokens": 1,
        "cached_tokens": 2,
        "cache_write_tokens": 4,
        "cache_write_1h_tokens": 8,
        "audio_input_tokens": 16,
        "image_input_tokens": 32,
        "output_tokens": 64,
        "reasoning_tokens": 128,
        "audio_output_tokens": 256,
    }
    tokens = parse_record(traces.meta(usage=usage)).tokens
    assert tokens is not None
    assert (tokens.input_tokens, tokens.output_tokens) == (63, 448)


def test_a_refused_request_has_neither_model_nor_cost() -> None:
    record = parse_record(json.dumps(traces.refused()).encode())
    assert (record.model, record.cost, record.attempts) == ("", None, ())
    assert record.error is not None
    assert record.error.code == "model_not_found"


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"[]",
        b'{"id":"a"}',
        b'{"id":"","ts":1}',
        b'{"id":"a","ts":-1}',
        b'{"id":"a","ts":true}',
        b'{"id":"a","ts":1e300}',
        b'{"id":"a\\n","ts":1}',
        b'{"id":"a","ts":1,"status":"200"}',
        b'{"id":"a","ts":1,"tags":{"a":1}}',
        b'{"id":"a","ts":1,"cost":{"total_usd":"1e99"}}',
        b'{"id":"a","ts":1,"cost":{"total_usd":"NaN"}}',
        b'{"id":"a","ts":1,"attempts":{}}',
        b'{"id":"a","ts":1,"attempts":[1]}',
        b'{"id":"a","ts":1,"usage":{"input_tokens":1.5}}',
        b'{"id":"a","ts":1,"latency":{"total_ms":"1"}}',
    ],
)
def test_what_is_no_record_is_refused(meta: bytes) -> None:
    with pytest.raises(RecordError):
        parse_record(meta)
    with pytest.raises(RecordError):
        parse_facts(meta)


@given(st.dictionaries(st.sampled_from(list(traces.record())), JSON_VALUES))
def test_any_json_is_a_record_or_refused_and_nothing_else(fields: dict[str, object]) -> None:
    meta = json.dumps(traces.record() | fields).encode("utf-8", "surrogatepass")
    for parse in (parse_record, parse_facts):
        with contextlib.suppress(RecordError):
            parse(meta)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_refused_and_nothing_else(meta: bytes) -> None:
    for parse in (parse_record, parse_facts):
        with contextlib.suppress(RecordError):
            parse(meta)


def test_json_bodies_stand_in_the_record_digit_for_digit() -> None:
    whole = record_json(
        b'{"id":"a"}', b'{"n": 1.10,\n"big": 123456789012345678901}', None, "kept"
    )
    assert b'"request":{"n": 1.10, "big": 123456789012345678901}' in whole
    assert whole.endswith(b',"response":null,"bodies":"kept"}')
    assert b"\n" not in whole


def test_other_bodies_stand_in_the_record_as_text() -> None:
    whole = record_json(b'{"id":"a"}', b'data: {"a":1}\n\n', b'{"cut": "h\xff', "cut")
    found = json.loads(whole)
    assert found["request"] == 'data: {"a":1}\n\n'
    assert found["response"] == '{"cut": "h\ufffd'


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_a_whole_record_is_one_line_of_json_whatever_the_bodies_are(
    request: bytes, response: bytes
) -> None:
    whole = record_json(b'{\n "id": "a"\n}\n', request, response, "cut")
    assert b"\n" not in whole
    assert json.loads(whole)["id"] == "a"
