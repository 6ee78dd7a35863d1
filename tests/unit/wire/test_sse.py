"""Streams as they pass: what is relayed, what is left out, and what they say."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux import _native
from modelux.limits import ERROR_EVENT_BYTES_MAX, SSE_EVENT_BYTES_MAX, USAGE_HOLD_BYTES_MAX
from tests import corpus
from tests.corpus import Exchange, Json
from tests.unit.wire.strict_json import Members, Value, parse
from tests.unit.wire.test_usage import assert_agrees

BOM: Final = b"\xef\xbb\xbf"
LINE_START: Final = re.compile(rb"(\n|\r)(\n|\r)\Z")
LINE: Final = re.compile(rb"([^\r\n]*)(\r\n|\r|\n|\Z)")

CONTENT: Final = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}\n\n'
)
ROLE: Final = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},'
    b'"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"x"}\n\n'
)
FILTER: Final = (
    b'data: {"choices":[],"created":0,"id":"","model":"","object":"",'
    b'"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}\n\n'
)
FINISH: Final = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
)
USAGE: Final = (
    b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,'
    b'"total_tokens":12}}\n\n'
)
DONE: Final = b"data: [DONE]\n\n"
WHOLE: Final = ROLE + CONTENT + FINISH + USAGE + DONE


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a whole stream: where it stands, its data (None: never dispatched)."""

    start: int
    end: int
    data: bytes | None
    type: bytes

    def is_error(self) -> bool:
        """Whether the provider reports here that it failed."""
        if self.data is None or self.data.strip(b" \t\r\n") in {b"", b"[DONE]"}:
            return False
        if self.type.strip() == b"error":
            return True
        try:
            value = parse(self.data.strip(b" \t\r\n"))
        except ValueError:
            return False
        return isinstance(value, Members) and says_error(value)

    def is_usage(self) -> bool:
        """Whether this is what a caller who did not ask for usage must not see."""
        if (
            self.data is None
            or self.type == b"error"
            or self.end - self.start > USAGE_HOLD_BYTES_MAX
        ):
            return False
        try:
            value = parse(self.data.strip(b" \t\r\n"))
        except ValueError:
            return False
        return isinstance(value, Members) and says_only_usage(value)


def says_only_usage(chunk: Members) -> bool:
    choices = chunk.all("choices")
    return (
        bool(choices)
        and all(value == [] for value in choices)
        and any(isinstance(value, Members) for value in chunk.all("usage"))
        and not says_error(chunk)
    )


def says_error(chunk: Members) -> bool:
    """Whether there is an error that says something, or one beside which there is no choice."""
    errors = [value for value in chunk.all("error") if value is not None]
    return (
        "error" in chunk.all("object")
        or any(value not in ([], "", False, Members(())) for value in errors)
        or (bool(errors) and not chunk.all("choices"))
    )


def events(stream: bytes) -> list[Event]:
    """Read a whole stream as WHATWG HTML section 9.2 says, keeping where each event stands."""
    found: list[Event] = []
    at = len(BOM) if stream.startswith(BOM) else 0
    start: int | None = None
    data: list[bytes] = []
    kind = b""
    while at < len(stream):
        match = LINE.match(stream, at)
        assert match is not None
        line, at = match[1], match.end()
        # A line that the stream's end cut short still counts as far as it goes.
        if line and (start is not None or not line.startswith(b":")):
            start = match.start() if start is None else start
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif name == b"event":
                kind = value.removeprefix(b" ")
        elif not line and start is not None:
            # Of a CRLF only the CR belongs to the event: it is dispatched there.
            blank_end = match.start() + 1
            found.append(Event(start, blank_end, b"\n".join(data) if data else None, kind))
            start, data, kind = None, [], b""
    if start is not None:
        found.append(Event(start, len(stream), b"\n".join(data) if data else None, kind))
    return found


def after(stream: bytes, event: Event) -> int:
    """Where the line end is over that ends an event."""
    is_crlf = stream[event.end - 1 : event.end + 1] == b"\r\n"
    return event.end + is_crlf


def to_error(stream: bytes) -> bytes:
    """The stream up to its first error event; one that the end cut short changes nothing."""
    ended = [event for event in events(stream) if event.is_error() and is_ended(stream, event)]
    return stream[: after(stream, ended[0])] if ended else stream


def is_ended(stream: bytes, event: Event) -> bool:
    return LINE_START.search(stream[: event.end]) is not None


def without_usage(stream: bytes) -> bytes:
    """The stream as a caller sees it who did not ask for usage."""
    stream = to_error(stream)
    kept, at = b"", 0
    for event in events(stream):
        if event.is_usage():
            kept += stream[at : event.start]
            at = after(stream, event)
    return kept + stream[at:]


@dataclass(frozen=True, slots=True)
class Followed:
    """What one stream said."""

    relayed: bytes
    content_seen: bool
    done_seen: bool
    finish_reason_seen: bool
    error_event: bytes | None
    usage: str
    at_event_boundary: bool
    output_events: int
    usage_events_cut: int


def is_between(follower: _native.SseFollower) -> bool:
    return follower.at_event_boundary


def follow(pieces: Iterable[bytes], *, cut_usage: bool) -> Followed:
    follower = _native.SseFollower(cut_usage=cut_usage)
    relayed = b"".join(follower.feed(piece) for piece in pieces)
    relayed += follower.finish()
    return Followed(
        relayed=relayed,
        content_seen=follower.content_seen,
        done_seen=follower.done_seen,
        finish_reason_seen=follower.finish_reason_seen,
        error_event=follower.error_event,
        usage=repr(follower.usage),
        at_event_boundary=is_between(follower),
        output_events=follower.output_events,
        usage_events_cut=follower.usage_events_cut,
    )


def cut_every(stream: bytes, length: int) -> list[bytes]:
    return [stream[at : at + length] for at in range(0, len(stream), length)]


# --- recorded streams ------------------------------------------------------------------------


def recorded() -> list[Exchange]:
    streams = [
        exchange
        for exchange in corpus.openai_exchanges("chat", "completions", streaming=True)
        if exchange.status == 200
    ]
    assert len(streams) > 60
    return streams


def last_usage(stream: bytes) -> dict[str, Json] | None:
    found = None
    for event in events(stream):
        try:
            chunk: Json = json.loads(event.data or b"")
        except ValueError:
            continue
        figures = chunk.get("usage") if isinstance(chunk, dict) else None
        if isinstance(figures, dict):
            found = figures
    return found


def test_usage_of_recorded_streams_is_found() -> None:
    found = 0
    for exchange in recorded():
        follower = _native.SseFollower(cut_usage=False)
        for piece in exchange.reads():
            follower.feed(piece)
        figures = last_usage(exchange.body)
        if figures is None:
            assert follower.usage is None, exchange.id
        else:
            assert_agrees(figures, follower.usage)
            found += 1
        assert follower.content_seen, exchange.id
        assert follower.done_seen == (b"[DONE]" in exchange.body), exchange.id
        assert follower.error_event is None, exchange.id
        assert is_between(follower), exchange.id
    assert found > 40


def test_recorded_streams_pass_unchanged_however_they_are_cut() -> None:
    for exchange in recorded():
        whole = follow([exchange.body], cut_usage=False)
        assert whole.relayed == exchange.body
        for length in (7, 1000):
            assert follow(cut_every(exchange.body, length), cut_usage=False) == whole


def test_exactly_the_usage_event_is_cut_from_recorded_streams() -> None:
    cut = 0
    for exchange in recorded():
        whole = follow([exchange.body], cut_usage=True)
        assert whole.relayed == without_usage(exchange.body), exchange.id
        assert whole.usage_events_cut <= 1, exchange.id
        for length in (7, 1000):
            assert follow(cut_every(exchange.body, length), cut_usage=True) == whole
        cut += whole.usage_events_cut
    assert cut > 30


def test_recorded_streams_cut_short_end_inside_of_an_event_or_at_its_end() -> None:
    """Method: the stream ends at every 13th byte; what was relayed tells where."""
    for exchange in recorded()[:20]:
        for end in range(0, len(exchange.body), 13):
            follower = _native.SseFollower(cut_usage=False)
            follower.feed(exchange.body[:end])
            rest = exchange.body[:end].replace(b"\r\n", b"\n")
            expected = (
                rest == b""
                or rest.endswith(b"\n\n")
                or (rest.endswith(b"\n") and rest.split(b"\n")[-2].startswith(b":"))
            )
            assert is_between(follower) == expected, (exchange.id, end)


def test_pasted_errors_inside_of_a_stream_are_errors_and_no_content() -> None:
    streams = [error for error in corpus.pasted_errors() if error.streaming]
    assert streams
    for error in streams:
        follower = _native.SseFollower(cut_usage=False)
        relayed = follower.feed(error.body)
        assert b"[DONE]" not in relayed
        assert follower.error_event is not None
        assert b'"error"' in follower.error_event
        assert not follower.content_seen


# --- any stream ------------------------------------------------------------------------------

PIECES: Final = st.sampled_from(
    [CONTENT, ROLE, FILTER, FINISH, USAGE, DONE]
    + [CONTENT[:-1], USAGE[:-1], DONE[:-2], USAGE[:-2], USAGE[6:], USAGE[:30], USAGE[30:-2]]
    + [b"data: ", b"data:", b"data", b": ping", b"event: error", b"event: x", b"id: 1", BOM]
    + [
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\n\r\n",
        b"\r\r",
        b" ",
        b"\t",
        b"\xff",
        b"\x00",
        b":",
    ]
    + [
        b'{"error":{"message":"no"}}',
        b'{"error":{}}',
        b'{"error":null,"choices":[]}',
        b"{",
        b"}",
        b"{}",
        b'"',
    ]
    + [b'{"choices":[],', b'"usage":{"prompt_tokens":9,"total_tokens":9}}', b'"usage":{}']
    + [b'{"choices":[] , "usage" : {"total_tokens":3} } ', b'{"usage":{"total_tokens":4}}']
    + [b'{"choi\\u0063es":[],"usage":{"total_tokens":5}}', b'"choices":', b"[", b"]", b"[]"]
    + [b'{"usage":{"total_tokens":6},"choices":[],"choices":[{}]}', b'{"type":"ping"}', b"\x0c"]
)
STREAMS: Final = st.lists(PIECES, max_size=12).map(b"".join)


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 400)), cut_usage=st.booleans())
def test_what_is_relayed_and_learnt_does_not_depend_on_how_the_network_cuts(
    stream: bytes, cuts: list[int], cut_usage: bool
) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    whole = follow([stream], cut_usage=cut_usage)
    assert follow(pieces, cut_usage=cut_usage) == whole
    assert follow(cut_every(stream, 1), cut_usage=cut_usage) == whole


@given(stream=STREAMS)
def test_everything_but_the_usage_event_is_relayed_up_to_an_error(stream: bytes) -> None:
    assert follow([stream], cut_usage=False).relayed == to_error(stream)
    assert follow([stream], cut_usage=True).relayed == without_usage(stream)


@given(stream=STREAMS, end=st.floats(0, 1))
def test_an_event_written_after_a_boundary_is_read_by_the_caller(
    stream: bytes, end: float
) -> None:
    """Goal: where the follower says so, an error event may be written and will be seen."""
    follower = _native.SseFollower(cut_usage=True)
    relayed = follower.feed(stream[: int(end * len(stream))])
    if is_between(follower):
        error = b'data: {"error":{}}\n\n'
        assert events(relayed + error)[-1].data == b'{"error":{}}'


# --- cases -----------------------------------------------------------------------------------


def test_a_whole_stream_is_understood() -> None:
    seen = follow([WHOLE], cut_usage=True)
    assert seen.relayed == ROLE + CONTENT + FINISH + DONE
    assert seen.done_seen
    assert seen.finish_reason_seen
    assert seen.usage.startswith("Usage(input_tokens=5, ")
    assert seen.at_event_boundary
    assert (seen.output_events, seen.usage_events_cut) == (2, 1)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_is_a_line_end(end: bytes) -> None:
    seen = follow([WHOLE.replace(b"\n", end)], cut_usage=True)
    assert seen.relayed == (ROLE + CONTENT + FINISH + DONE).replace(b"\n", end)


def chunk(**members: Json) -> bytes:
    return b"data: " + json.dumps(members).encode() + b"\n\n"


def delta(**fields: Json) -> bytes:
    return chunk(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


@pytest.mark.parametrize(
    "event",
    [
        b": OPENROUTER PROCESSING\n\n",
        b"event: ping\n\n",
        b"retry: 100\n\n",
        b"data:\n\n",
        b"\n\n\r\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        ROLE,
        FILTER,
        USAGE,
        delta(),
        delta(role="assistant"),
        delta(content=""),
        delta(content=None, tool_calls=[], reasoning_content=None, refusal=None),
        chunk(choices=[{"index": 0, "text": "", "finish_reason": None}]),
        chunk(choices=[{"index": 0, "content_filter_results": {"hate": {"filtered": False}}}]),
        chunk(choices=[{"index": 0, "delta": None, "finish_reason": None}]),
        chunk(error={"message": "overloaded"}),
        chunk(object="error", message="overloaded"),
        b"event: error\ndata: {}\n\n",
        CONTENT[:-1],
        CONTENT[:40],
    ],
)
def test_what_is_not_content(event: bytes) -> None:
    follower = _native.SseFollower(cut_usage=False)
    follower.feed(event)
    assert not follower.content_seen


@pytest.mark.parametrize(
    "event",
    [
        CONTENT,
        FINISH,
        DONE,
        b"data: [DONE]  \r\n\r\n",
        b"data:[DONE]\n\n",
        delta(reasoning_content="Let me"),
        delta(reasoning="Let me"),
        delta(refusal="I can"),
        delta(role="assistant", content="Hi"),
        delta(tool_calls=[{"index": 0, "id": "call_1", "function": {"arguments": ""}}]),
        delta(function_call={"name": "f"}),
        delta(audio={"id": "a"}),
        chunk(choices=[{"index": 0, "text": " "}]),
        chunk(choices=[{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "x"}}]),
        b"data: not json\n\n",
        b'data: {"choices":[{"delta":{"content":\n\n',
        b'data: {"answer": 42}\n\n',
        b"data: <html>\n\n",
        b'data: {"choices":[{"delta":\ndata: {"content":"x"}}]}\n\n',
    ],
)
def test_what_is_content(event: bytes) -> None:
    follower = _native.SseFollower(cut_usage=False)
    follower.feed(ROLE + event)
    assert follower.content_seen


@pytest.mark.parametrize(
    "event",
    [
        FILTER,
        CONTENT,
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1,"total_tokens":1}}\n\n',
        b'data: {"usage":{"prompt_tokens":1,"total_tokens":1}}\n\n',
        b'data: {"choices":[],"x":{"usage":{"total_tokens":1}}}\n\n',
        b'data: {"choices":[],"usage":{"total_tokens":1},"error":{"message":"no"}}\n\n',
        b'data: {"choices":[],"usage":{"total_tokens":1}\n\n',
        b'data: {"choices":[],"usage":{"total_tokens":1}} {}\n\n',
        b'data: {"choices":[],"s":"\\"usage\\":{}"}\n\n',
    ],
)
def test_what_is_not_cut(event: bytes) -> None:
    assert follow([CONTENT + event], cut_usage=True).relayed == CONTENT + event


@pytest.mark.parametrize(
    "event",
    [
        USAGE,
        b'data:{"usage" : { "total_tokens" : 1 } ,\t"choices" : [ ] }  \n\n',
        b'id: 7\nevent: message\ndata: {"choices":[],"usage":{}}\n\n',
        b'data: {"choices":[],\ndata: "usage":{"total_tokens":1}}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":-1}}\r\n\r\n',
    ],
)
def test_what_is_cut(event: bytes) -> None:
    stream = CONTENT + b": ping\n" + event + b": pong\n\n" + DONE
    after = CONTENT + b": ping\n: pong\n\n" + DONE
    assert follow([stream], cut_usage=True).relayed == after


def test_usage_on_a_chunk_with_a_choice_is_found_and_stays() -> None:
    event = FINISH.replace(b"null", b'{"prompt_tokens":3,"completion_tokens":4}')
    seen = follow([CONTENT + event + DONE], cut_usage=True)
    assert seen.relayed == CONTENT + event + DONE
    assert "input_tokens=3," in seen.usage


def test_a_later_report_can_only_raise_usage() -> None:
    lower = USAGE.replace(b"5", b"1").replace(b"7", b"1").replace(b"12", b"2")
    higher = USAGE.replace(b":7", b":70").replace(b"12", b"75")
    assert "output_tokens=7," in follow([USAGE + lower], cut_usage=False).usage
    assert "output_tokens=70," in follow([USAGE + higher + lower], cut_usage=False).usage


@pytest.mark.parametrize("figure", [b"-5", b"5.0", b'"5"', b"4611686018427387904", b"NaN"])
def test_usage_that_is_no_count_is_missing_usage(figure: bytes) -> None:
    seen = follow([USAGE.replace(b":5", b":" + figure)], cut_usage=True)
    assert seen.usage == "None"


def test_explicit_zeros_are_usage() -> None:
    zero = b'data: {"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n'
    assert follow([zero], cut_usage=True).usage.startswith("Usage(input_tokens=0, ")


def test_an_error_keeps_its_data_wherever_it_comes() -> None:
    error = b'data: {"error":{"message":"no"}} \n\n'
    for before in (b"", ROLE, CONTENT):
        for cut_usage in (False, True):
            seen = follow([before + error], cut_usage=cut_usage)
            assert seen.error_event == b'{"error":{"message":"no"}}'
            assert seen.content_seen == (before == CONTENT)
    assert follow([chunk(error=None, choices=[])], cut_usage=True).error_event is None
    text = delta(content='{"error": {"message": "no"}}')
    assert follow([text], cut_usage=True).error_event is None


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("cut_usage", [False, True])
def test_nothing_is_relayed_after_an_error(end: bytes, cut_usage: bool) -> None:
    before = (CONTENT + chunk(error={"message": "no"})).replace(b"\n", end)
    stream = before + (CONTENT + USAGE + DONE).replace(b"\n", end)
    seen = follow([stream], cut_usage=cut_usage)
    assert seen.relayed == before
    assert seen.at_event_boundary
    assert "input_tokens=5," in seen.usage
    assert follow(cut_every(stream, 1), cut_usage=cut_usage) == seen


def test_an_error_that_comes_first_is_not_made_good_by_what_follows() -> None:
    seen = follow([ROLE + chunk(error={"message": "no"}) + CONTENT + DONE], cut_usage=True)
    assert not seen.content_seen


def test_a_huge_error_is_kept_in_part() -> None:
    error = chunk(error={"message": "x" * ERROR_EVENT_BYTES_MAX})
    kept = follow([error], cut_usage=True).error_event
    assert kept == error.removeprefix(b"data: ")[:ERROR_EVENT_BYTES_MAX]


def test_a_byte_order_mark_is_passed_on_and_over() -> None:
    seen = follow(cut_every(BOM + USAGE + DONE, 1), cut_usage=True)
    assert seen.relayed == BOM + DONE
    assert seen.usage != "None"


def test_an_event_that_cannot_be_the_usage_event_is_not_held() -> None:
    """Method: byte by byte; from the first choice on, nothing waits for the event's end."""
    follower = _native.SseFollower(cut_usage=True)
    decided = CONTENT.index(b'[{"index"') + 2
    assert follower.feed(CONTENT[: decided - 1]) == b""
    assert is_between(follower)
    assert follower.feed(CONTENT[decided - 1 : decided]) == CONTENT[:decided]
    assert not is_between(follower)
    for at in range(decided, len(CONTENT)):
        assert follower.feed(CONTENT[at : at + 1]) == CONTENT[at : at + 1]
    assert follower.feed(b"data: [") == b"data: ["


def test_a_comment_is_never_held() -> None:
    follower = _native.SseFollower(cut_usage=True)
    assert follower.feed(b": keep") == b": keep"
    assert not is_between(follower)
    assert follower.feed(b"-alive\n") == b"-alive\n"
    assert is_between(follower)


@pytest.mark.parametrize("length", [1000, 3 * SSE_EVENT_BYTES_MAX])
def test_an_event_that_is_too_large_is_relayed_but_not_held(length: int) -> None:
    large = USAGE.replace(b'"c1"', b'"' + b"c" * USAGE_HOLD_BYTES_MAX + b'"')
    for pieces in ([large + DONE], cut_every(large + DONE, length)):
        seen = follow(pieces, cut_usage=True)
        assert seen.relayed == large + DONE
        assert "input_tokens=5," in seen.usage


def test_an_event_beyond_the_limit_is_relayed_but_not_looked_at() -> None:
    huge = USAGE.replace(b'"c1"', b'"' + b"c" * SSE_EVENT_BYTES_MAX + b'"')
    for pieces in ([huge + DONE], cut_every(huge + DONE, 65_536)):
        for cut_usage in (False, True):
            seen = follow(pieces, cut_usage=cut_usage)
            assert seen.relayed == huge + DONE
            assert seen.usage == "None"
            assert seen.done_seen


def test_what_is_held_when_the_stream_ends_is_relayed() -> None:
    follower = _native.SseFollower(cut_usage=True)
    assert follower.feed(CONTENT + USAGE[:40]) == CONTENT
    assert is_between(follower)
    assert follower.finish() == USAGE[:40]
    assert not is_between(follower)


def test_an_end_without_a_blank_line_still_counts() -> None:
    seen = follow([CONTENT + USAGE[:-2]], cut_usage=True)
    assert seen.relayed == CONTENT
    assert seen.usage != "None"
    assert follow([CONTENT + DONE[:-2]], cut_usage=True).done_seen
    assert not follow([CONTENT + DONE[:-3]], cut_usage=True).done_seen


def test_other_servers_report_usage_in_their_own_places() -> None:
    groq = FINISH.replace(
        b'"usage":null', b'"x_groq":{"id":"r","usage":{"prompt_tokens":3,"total_tokens":9}}'
    )
    assert "input_tokens=3," in follow([CONTENT + groq], cut_usage=False).usage
    llama = FINISH.replace(
        b'"usage":null',
        b'"timings":{"prompt_n":3,"cache_n":8,"predicted_n":4,"predicted_ms":1.5}',
    )
    seen = follow([CONTENT + llama], cut_usage=False)
    assert "input_tokens=3, cached_tokens=8," in seen.usage


def members_of(value: Value) -> Members:
    assert isinstance(value, Members)
    return value


def test_the_oracle_reads_events_as_the_standard_does() -> None:
    stream = b": c\ndata: a\ndata:b\n\nevent: x\n\ndata\r\rdata: last"
    assert [event.data for event in events(stream)] == [b"a\nb", None, b"", b"last"]
    assert members_of(parse(b'{"a":1}')).all("a")
