"""Usage in whole answers: what providers sent, and what nobody should believe."""

import json
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux import _native
from tests import corpus
from tests.corpus import Json

FIGURE_MAX: Final = 2**40


def usage(figures: Json) -> _native.Usage | None:
    return _native.usage_of_answer(json.dumps({"id": "x", "usage": figures}).encode())


def input_sum(read: _native.Usage) -> int:
    return (
        read.input_tokens
        + read.cached_tokens
        + read.cache_write_tokens
        + read.cache_write_1h_tokens
        + read.audio_input_tokens
        + read.image_input_tokens
    )


def output_sum(read: _native.Usage) -> int:
    return read.output_tokens + read.reasoning_tokens + read.audio_output_tokens


def assert_agrees(figures: dict[str, Json], read: _native.Usage | None) -> None:
    """The parts sum to both sides, and each detail is found under its name, overlaps aside."""
    assert read is not None, figures
    prompt = figures["prompt_tokens"]
    completion = figures.get("completion_tokens") or 0
    total = figures["total_tokens"]
    assert isinstance(prompt, int)
    assert isinstance(completion, int)
    assert isinstance(total, int)
    assert input_sum(read) == prompt
    assert output_sum(read) == max(completion, total - prompt)
    for side, name, part in (
        ("prompt_tokens_details", "cached_tokens", read.cached_tokens),
        ("prompt_tokens_details", "cache_write_tokens", read.cache_write_tokens),
        ("prompt_tokens_details", "audio_tokens", read.audio_input_tokens),
        ("prompt_tokens_details", "image_tokens", read.image_input_tokens),
        ("completion_tokens_details", "reasoning_tokens", read.reasoning_tokens),
        ("completion_tokens_details", "audio_tokens", read.audio_output_tokens),
    ):
        details = figures.get(side) or {}
        assert isinstance(details, dict)
        if (figure := details.get(name)) is not None:
            assert isinstance(figure, int)
            assert part == figure or (part < figure and read.audio_output_tokens), figures


def test_usage_of_recorded_answers_is_found() -> None:
    found = 0
    for exchange in corpus.openai_exchanges(
        "chat", "completions", "embeddings", streaming=False
    ):
        read = _native.usage_of_answer(exchange.body)
        try:
            answer: Json = json.loads(exchange.body)
        except ValueError:
            answer = None
        figures = answer.get("usage") if isinstance(answer, dict) else None
        if isinstance(figures, dict):
            assert_agrees(figures, read)
            found += 1
        else:
            assert read is None, exchange.id
    assert found > 300


def test_a_cut_answer_has_no_usage() -> None:
    body = b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
    assert _native.usage_of_answer(body) is not None
    for end in range(len(body)):
        assert _native.usage_of_answer(body[:end]) is None


FIGURES: Final[st.SearchStrategy[Json]] = st.one_of(
    st.integers(0, 50),
    st.sampled_from([FIGURE_MAX, FIGURE_MAX + 1, 2**62, 2**64, -1, -(2**70)]),
    st.sampled_from([None, 1.0, 0.5, float("nan"), float("inf"), "5", True, [], {}]),
)
DETAILS: Final = st.dictionaries(
    st.sampled_from(
        ["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens"]
        + ["reasoning_tokens", "text_tokens"]
    ),
    FIGURES,
)
REPORTS: Final = st.dictionaries(
    st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens"]), FIGURES
)


def counts(values: list[Json]) -> bool:
    """Whether all are counts that can be believed, or absent."""
    return all(
        value is None or (type(value) is int and 0 <= value <= FIGURE_MAX) for value in values
    )


@given(report=REPORTS, input_details=DETAILS, output_details=DETAILS)
def test_no_report_lowers_what_it_says_or_is_believed_where_it_is_absurd(
    report: dict[str, Json], input_details: dict[str, Json], output_details: dict[str, Json]
) -> None:
    read = usage(
        report
        | {
            "prompt_tokens_details": input_details,
            "completion_tokens_details": output_details,
        }
    )
    if not counts([*report.values()]):
        assert read is None
    if read is None:
        return
    prompt, completion, total = (
        report.get(f"{name}_tokens") or 0 for name in ("prompt", "completion", "total")
    )
    assert isinstance(prompt, int)
    assert isinstance(completion, int)
    assert isinstance(total, int)
    assert input_sum(read) >= prompt
    assert output_sum(read) >= completion
    assert input_sum(read) + output_sum(read) >= total
    for name in read_names():
        assert 0 <= getattr(read, name) <= 2 * FIGURE_MAX


def read_names() -> list[str]:
    return [name for name in dir(_native.Usage) if name.endswith("_tokens")]


@given(body=st.binary(max_size=80))
def test_any_bytes_are_read_without_harm(body: bytes) -> None:
    assert _native.usage_of_answer(body) is None


@pytest.mark.parametrize(
    "figures",
    [
        None,
        {},
        {"prompt_tokens": 5},
        {"completion_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": 5},
    ],
)
def test_what_leaves_a_side_open_is_not_usage(figures: Json) -> None:
    assert usage(figures) is None


def test_explicit_zeros_are_usage() -> None:
    read = usage({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
    assert read is not None
    assert (input_sum(read), output_sum(read)) == (0, 0)


def test_usage_twice_in_one_answer_can_only_raise() -> None:
    for order in (("1", "9"), ("9", "1")):
        reports = ",".join(f'"usage":{{"prompt_tokens":{n},"total_tokens":{n}}}' for n in order)
        read = _native.usage_of_answer(f"{{{reports}}}".encode())
        assert read is not None
        assert read.input_tokens == 9


REPORT: Final = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": FIGURES,
        "completion_tokens": FIGURES,
        "total_tokens": FIGURES,
        "prompt_tokens_details": st.one_of(DETAILS, FIGURES),
        "completion_tokens_details": st.one_of(DETAILS, FIGURES),
    },
)
PLACES: Final = st.sampled_from(["usage", "x_groq", "choice", "timings"])


def event(place: str, figures: Json) -> bytes:
    """An event that reports these figures in one of the places where providers do."""
    choice: dict[str, Json] = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunk: dict[str, Json] = {"choices": [choice]}
    match place:
        case "choice":
            choice["usage"] = figures
        case "x_groq":
            chunk["x_groq"] = {"id": "r", "usage": figures}
        case _:
            chunk[place] = figures
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@given(reports=st.lists(st.tuples(PLACES, st.one_of(REPORT, FIGURES)), max_size=6))
def test_no_report_in_a_stream_lowers_what_came_before(
    reports: list[tuple[str, Json]],
) -> None:
    follower = _native.SseFollower(cut_usage=False)
    most_input = most_output = 0
    for place, figures in reports:
        before = follower.usage
        follower.feed(event(place, figures))
        after = follower.usage
        if before is not None:
            assert after is not None
        if (alone := usage(figures)) is not None and place != "timings":
            most_input = max(most_input, input_sum(alone))
            most_output = max(most_output, output_sum(alone))
        if after is not None:
            assert input_sum(after) >= most_input
            assert output_sum(after) >= most_output


def of(prompt: Json, completion: Json, total: Json = None) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


LIES: Final[list[Json]] = [
    *[of(lie, 7) for lie in (-5, "5", 5.0, 2**62, True)],
    *[of(5, lie) for lie in (-7, "7", 7.5, 2**41, float("nan"), float("inf"), None)],
    *[of(5, 7, lie) for lie in (-1, "12", 2**62)],
    {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": -1},
    },
    of(None, None, None),
    {},
    None,
    "5",
    0,
]


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_beside_the_truth_changes_nothing(lie: Json) -> None:
    truth: Json = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert usage(lie) is None
    for reports in ([truth, lie], [lie, truth], [lie, truth, lie]):
        follower = _native.SseFollower(cut_usage=False)
        for report in reports:
            follower.feed(event("usage", report))
        assert follower.usage == usage(truth)


def test_zeros_after_the_truth_lower_nothing() -> None:
    follower = _native.SseFollower(cut_usage=False)
    zeros: Json = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    follower.feed(event("usage", zeros))
    assert follower.usage == usage(zeros)
    follower.feed(event("usage", {"prompt_tokens": 5, "completion_tokens": 7}))
    follower.feed(event("usage", zeros))
    read = follower.usage
    assert read is not None
    assert (input_sum(read), output_sum(read)) == (5, 7)


def test_details_that_exceed_their_side_are_charged_beside_it() -> None:
    read = usage(
        {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 40},
            "completion_tokens_details": {"reasoning_tokens": 50},
        }
    )
    assert read is not None
    assert (read.cached_tokens, read.reasoning_tokens) == (40, 50)
    assert input_sum(read) >= 10
    assert output_sum(read) >= 3
