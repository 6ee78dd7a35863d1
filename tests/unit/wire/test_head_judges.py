"""What we make of a head, beside what llhttp (strict) and h11 make of it.

Whatever we accept, both must accept and read alike; whatever one of them accepts and we refuse
must be refused for a reason that stands here. Both lists are data, and both are checked for
entries that no longer hold.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.wire.judges import REQUESTS, RESPONSES, UNSEEN, Bench, Message, Refusal, Verdict

CORPUS: Final = Path(__file__).parents[2] / "corpus" / "http"
EXAMPLES: Final = 10 * settings().max_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference in what we accept: which judge, how it is told, why we stay with ours."""

    judge: str
    kind: str
    why: str
    reason: str
    example: bytes


# What we accept and another refuses, or reads otherwise. `why` is in that judge's words.
LOOSER: Final = (
    Difference(
        judge="llhttp",
        kind="request",
        why="Invalid method encountered",
        reason="It knows a closed list of methods; to us any token is one, and answers 405.",
        example=b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n",
    ),
    Difference(
        judge="llhttp",
        kind="request",
        why="Expected space after method",
        reason="The same list of methods, where the name starts like one of them.",
        example=b"POSTS / HTTP/1.1\r\nHost: h\r\n\r\n",
    ),
    Difference(
        judge="h11",
        kind="request",
        why="no request line received",
        reason="RFC 9112 section 2.2 asks servers to skip an empty line before a request line.",
        example=b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ),
    Difference(
        judge="llhttp",
        kind="request",
        why="framing unseen",
        reason="It hands over the bytes after a request to upgrade; we serve the request.",
        example=b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ),
    Difference(
        judge="llhttp",
        kind="response",
        why="framing unseen",
        reason="It hands over the bytes after 101; the gate refuses that status by itself.",
        example=b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ),
    Difference(
        judge="llhttp",
        kind="response",
        why="Pause on CONNECT/Upgrade",
        reason="The same, where the fields of the upgrade are missing.",
        example=b"HTTP/1.1 101 S\r\n\r\n",
    ),
    Difference(
        judge="h11",
        kind="response",
        why="Received server _SWITCH_UPGRADE event without a pending proposal",
        reason="It refuses 101 while parsing; the gate refuses that status by itself.",
        example=b"HTTP/1.1 101 S\r\n\r\n",
    ),
    Difference(
        judge="llhttp",
        kind="response",
        why="framing none, theirs chunked",
        reason="RFC 9112 section 6.3: no 1xx has a body; it knows only those of 100 to 103.",
        example=b"HTTP/1.1 106 C\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    Difference(
        judge="llhttp",
        kind="response",
        why="framing none, theirs length",
        reason="The same for a length.",
        example=b"HTTP/1.1 106 C\r\nContent-Length: 5\r\n\r\n",
    ),
)

# What we refuse and another accepts: fault, then who accepts it in requests and in responses.
STRICTER: Final[dict[str, tuple[str, str, str]]] = {
    "too_many_fields": ("llhttp h11", "llhttp h11", "memory is bounded"),
    "name_too_long": ("llhttp h11", "", "memory is bounded"),
    "bare_lf": ("llhttp h11", "h11", "RFC 9112 2.2 allows a lone LF; smuggling starts there"),
    "bare_cr": ("llhttp", "", "llhttp skips any CR and LF before a request line"),
    "empty_line": ("llhttp", "", "one empty line is skipped, not any number"),
    "method": ("h11", "", "methods are short"),
    "http2_preface": ("h11", "", "nobody can go on from there in HTTP/1.1"),
    "connect": ("llhttp h11", "", "no tunnels"),
    "target_empty": ("llhttp", "", "one space, as RFC 9112 section 3 has it"),
    "target_fragment": ("llhttp h11", "", "RFC 9112 3.2: a target holds none"),
    "target_form": ("llhttp h11", "", "paths and URLs of this host only"),
    "target_asterisk": ("llhttp h11", "", "RFC 9112 section 3.2.4"),
    "target_host": ("llhttp h11", "", "two hosts in one request"),
    "version_missing": ("llhttp", "", "no HTTP/0.9"),
    "version": ("llhttp h11", "llhttp h11", "1.0 and 1.1, nothing before, one space"),
    "status_code": ("", "llhttp h11", "RFC 9110 section 15: 100 to 599"),
    "reason": ("", "llhttp h11", "no control characters in logs"),
    "line_folded": ("h11", "h11", "RFC 9112 5.2 lets us choose; smuggling hides there"),
    "value": ("h11", "h11", "RFC 9110 section 5.5: no control characters"),
    "host_missing": ("llhttp", "", "RFC 9112 section 3.2"),
    "host_twice": ("llhttp", "", "RFC 9112 section 3.2"),
    "host": ("llhttp h11", "", "a host and a port, nothing else"),
    "length_twice": ("h11", "h11", "RFC 9110 8.6 lets us choose"),
    "length": ("llhttp h11", "llhttp h11", "no lists, no more than 2^53"),
    "length_with_coding": ("h11", "h11", "RFC 9112 section 6.3 lets us choose"),
    "coding_twice": ("", "llhttp", "one coding, once"),
    "coding": ("llhttp h11", "llhttp h11", "exactly `chunked`, not folded"),
    "coding_version": ("llhttp h11", "llhttp h11", "RFC 9112 6.1: framing is faulty then"),
}


def bench_of(path: Path) -> Bench:
    is_request = 'kind = "request"' in path.with_suffix(".toml").read_text()
    return REQUESTS if is_request else RESPONSES


def looser(kind: str, judge: str, why: str) -> bool:
    return any(
        entry.judge == judge and entry.kind == kind and why.startswith(entry.why)
        for entry in LOOSER
    )


def difference(ours: Message, theirs: Verdict) -> str | None:
    """How another judge differs on a head that we accept, or None."""
    match theirs:
        case None:
            return "waits for more"
        case Refusal(why):
            return why
        case Message(start, headers, framing):
            if start != ours.start:
                return f"start {ours.start!r}, theirs {start!r}"
            if headers != ours.headers:
                return f"headers {ours.headers!r}, theirs {headers!r}"
            if framing == UNSEEN:
                return "framing unseen"
            return (
                None if framing == ours.framing else f"framing {ours.framing}, theirs {framing}"
            )


def differences(bench: Bench, data: bytes) -> list[str]:
    """Everything about one head that the two lists do not explain."""
    kind = "request" if bench.is_request else "response"
    ours = bench.ours(data)
    found = []
    for judge, theirs in bench.others(data, probes=isinstance(ours, Message)).items():
        match ours, theirs:
            case Message(), _:
                why = difference(ours, theirs)
                if why is not None and not looser(kind, judge, why):
                    found.append(f"{judge} on what we accept: {why}")
            case Refusal(fault), Message():
                if judge not in STRICTER[fault][0 if bench.is_request else 1].split():
                    found.append(f"{judge} accepts what we refuse: {fault}")
            case None, Message():
                found.append(f"{judge} accepts what we wait for")
            case _:
                pass
    return found


# --- heads, whole and damaged --------------------------------------------------------------

FIELDS: Final = (
    b"Host: h", b"Host: h:80", b"Content-Length: 5", b"Content-Length: 0", b"A: b", b"A:",
    b"Content-Length: 500", b"content-length: 007", b"Transfer-Encoding: chunked",
    b"TRANSFER-ENCODING: CHUNKED", b"Connection: close", b"Connection: keep-alive, x",
    b"Connection: upgrade", b"Upgrade: h2c", b"Expect: 100-continue", b"A: \t b c\t ",
    b"X_y!: \xff\xc3\xa4", b"Accept: */*", b"Trailer: x", b"Proxy-Connection: close",
    b"Transfer-Encoding: gzip, chunked", b"Host: u@h", b"Content-Length: 5, 5",
)  # fmt: skip
REQUEST_LINES: Final = (
    b"GET / HTTP/1.1", b"POST /v1/x?a=b HTTP/1.1", b"GET / HTTP/1.0", b"POST / HTTP/1.0",
    b"OPTIONS * HTTP/1.1", b"GET http://h/x HTTP/1.1", b"HEAD / HTTP/1.1", b"PATCH /? HTTP/1.1",
    b"DELETE /%00~!$&'()*+,;=:@\"<>[]\\^`{|} HTTP/1.1",
)  # fmt: skip
STATUS_LINES: Final = (
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No", b"HTTP/1.1 304",
    b"HTTP/1.1 100 Continue", b"HTTP/1.1 599 \xff", b"HTTP/1.1 500 ", b"HTTP/1.1 200 a\tb",
)  # fmt: skip
DAMAGE: Final = (
    b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b",", b"\x7f", b"\x0b", b"\xff", b"#",
    b"0", b"-", b"+", b"a", b"A", b";", b"HTTP/1.1", b"\r\n ", b"5", b"?", b"@", b'"', b"/",
    b"chunked", b".", b"Host: h\r\n",
)  # fmt: skip


def damaged(data: bytes, wounds: list[tuple[int, int, bytes]]) -> bytes:
    for place, removed, inserted in wounds:
        at = place % (len(data) + 1)
        data = data[:at] + inserted + data[at + removed :]
    # One head and no more: what follows it would be a body that no judge was promised.
    end = data.find(b"\r\n\r\n", 3)
    return data if end < 0 else data[: end + 4]


def heads(lines: tuple[bytes, ...], first: bytes) -> st.SearchStrategy[bytes]:
    fields = st.lists(st.sampled_from(FIELDS), max_size=5)
    wounds = st.lists(
        st.tuples(
            st.integers(0, 300),
            st.integers(0, 1),
            st.one_of(st.sampled_from(DAMAGE), st.binary(min_size=1, max_size=1)),
        ),
        max_size=3,
    )
    whole = st.builds(
        lambda line, has_first, fields: b"\r\n".join(
            [line, *([first] if has_first else []), *fields, b"", b""]
        ),
        st.sampled_from(lines),
        st.booleans(),
        fields,
    )
    return st.builds(damaged, whole, wounds)


@settings(max_examples=EXAMPLES)
@given(data=heads(REQUEST_LINES, b"Host: h"))
def test_the_judges_of_requests_differ_only_where_a_list_says_so(data: bytes) -> None:
    assert differences(REQUESTS, data) == []


@settings(max_examples=EXAMPLES)
@given(data=heads(STATUS_LINES, b"Content-Type: text/event-stream"))
def test_the_judges_of_responses_differ_only_where_a_list_says_so(data: bytes) -> None:
    assert differences(RESPONSES, data) == []


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*.http")), ids=lambda path: path.stem)
def test_the_judges_differ_on_the_corpus_only_where_a_list_says_so(path: Path) -> None:
    data = path.read_bytes()
    end = data.find(b"\r\n\r\n", 3)
    head = data if end < 0 else data[: end + 4]
    assert differences(bench_of(path), head) == []


@pytest.mark.parametrize("entry", LOOSER, ids=lambda entry: f"{entry.judge}: {entry.why}")
def test_every_difference_in_what_we_accept_still_exists(entry: Difference) -> None:
    bench = REQUESTS if entry.kind == "request" else RESPONSES
    ours = bench.ours(entry.example)
    assert isinstance(ours, Message)
    why = difference(ours, bench.others(entry.example, probes=True)[entry.judge])
    assert why is not None
    assert why.startswith(entry.why)


def test_every_difference_in_what_we_refuse_still_exists() -> None:
    listed = {
        (fault, bench, judge)
        for fault, (in_requests, in_responses, _) in STRICTER.items()
        for bench, judges in ((REQUESTS, in_requests), (RESPONSES, in_responses))
        for judge in judges.split()
    }
    seen = set()
    for path in (CORPUS / "invalid").glob("*.http"):
        data = path.read_bytes()
        bench = bench_of(path)
        ours = bench.ours(data)
        if isinstance(ours, Refusal):
            others = bench.others(data, probes=False).items()
            seen |= {
                (ours.why, bench, name) for name, yes in others if isinstance(yes, Message)
            }
    missing = {(fault, bench.is_request, judge) for fault, bench, judge in listed - seen}
    assert missing == set()
