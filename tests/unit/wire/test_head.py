"""Heads: the corpus case by case, cut anywhere. What is refused is refused by its own name."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux import _native, limits

CORPUS: Final = Path(__file__).parents[2] / "corpus" / "http"
HEAD_BYTES_MAX: Final = 32 * 1024
CUT_EVERY_BYTE_MAX: Final = 600

Head = _native.RequestHead | _native.ResponseHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file of the corpus, and what must come of it."""

    number: str
    data: bytes
    want: dict[str, object]

    def text(self, key: str, default: str = "") -> str:
        return cast("str", self.want.get(key, default))

    def count(self, key: str, default: int = 0) -> int:
        return cast("int", self.want.get(key, default))

    def parse(self, data: bytes) -> Head | _native.HeadFault | None:
        head_bytes_max = self.count("head_bytes_max", HEAD_BYTES_MAX)
        if self.text("kind") == "request":
            return _native.parse_request(data, head_bytes_max)
        return _native.parse_response(
            data, head_bytes_max, to_head_request=bool(self.want.get("to_head_request"))
        )


def load_cases(folder: str) -> list[Case]:
    return [
        Case(
            number=path.stem,
            data=path.read_bytes(),
            want=tomllib.loads(path.with_suffix(".toml").read_text()),
        )
        for path in sorted((CORPUS / folder).glob("*.http"))
    ]


VALID: Final = load_cases("valid")
INVALID: Final = load_cases("invalid")
valid = pytest.mark.parametrize("case", VALID, ids=lambda case: case.text("claim"))
invalid = pytest.mark.parametrize("case", INVALID, ids=lambda case: case.text("claim"))


def ends(case: Case) -> list[int]:
    """Where to cut: everywhere, but in long files only around the place that matters."""
    size = len(case.data)
    if size <= CUT_EVERY_BYTE_MAX:
        return list(range(size + 1))
    at = case.count("after", case.count("head_bytes"))
    return sorted({0, 1, 20, *range(max(0, at - 40), min(size, at + 40)), size})


def decode_body(framing: str, length: int | None, data: bytes) -> tuple[bytes, bytes, bool]:
    """Return payload, what is left, and whether the body has ended."""
    match framing:
        case "none":
            return b"", data, True
        case "length":
            assert length is not None
            return data[:length], data[length:], len(data) >= length
        case "chunked":
            payload, consumed, done = _native.ChunkedDecoder().feed(data)
            return payload, data[consumed:], done
        case _:
            return data, b"", False


def headers_text(headers: list[tuple[bytes, bytes]]) -> list[list[str]]:
    return [[name.decode(), value.decode("latin-1")] for name, value in headers]


@valid
def test_a_valid_message_is_read_as_the_corpus_says(case: Case) -> None:
    head = case.parse(case.data)
    assert head is not None
    assert not isinstance(head, _native.HeadFault), head.name
    payload, rest, complete = decode_body(
        head.framing, head.content_length, case.data[head.head_bytes :]
    )
    found: dict[str, object] = {
        "payload": payload.decode("latin-1"),
        "rest": rest.decode("latin-1"),
        "complete": complete,
        "headers": headers_text(head.headers),
        "hop_by_hop": " ".join(name.lower() for name in head.hop_by_hop),
    }
    about_the_case = {"claim", "kind", "head_bytes_max", "to_head_request"}
    for key, wanted in case.want.items():
        if key not in about_the_case:
            assert found.get(key, getattr(head, key, None)) == wanted, key
    assert found["rest"] == case.text("rest")


@valid
def test_a_valid_head_is_not_judged_before_its_last_byte(case: Case) -> None:
    for end in ends(case):
        parsed = case.parse(case.data[:end])
        if end < case.count("head_bytes"):
            assert parsed is None, end
        else:
            assert parsed is not None, end
            assert not isinstance(parsed, _native.HeadFault), end


@invalid
def test_an_invalid_message_is_refused_by_name_at_the_byte_that_makes_it_so(
    case: Case,
) -> None:
    judge = head_fault if case.text("where") == "head" else body_fault
    for end in ends(case):
        wanted = case.text("fault") if end >= case.count("after") else None
        assert judge(case, case.data[:end]) == wanted, end


def head_fault(case: Case, data: bytes) -> str | None:
    parsed = case.parse(data)
    assert parsed is None or isinstance(parsed, _native.HeadFault), "accepted"
    return None if parsed is None else parsed.name


def body_fault(case: Case, data: bytes) -> str | None:
    head = case.parse(data)
    if head is None:
        return None
    assert not isinstance(head, _native.HeadFault), head.name
    assert head.framing == "chunked"
    try:
        _native.ChunkedDecoder().feed(data[head.head_bytes :])
    except ValueError as fault:
        return cast("str", fault.args[0])
    return None


def test_every_fault_has_a_case_in_the_corpus() -> None:
    seen = {case.text("fault") for case in INVALID}
    # Means that our two passes disagree, which no bytes are known to make them do.
    assert seen == {*_native.HEAD_FAULTS, *_native.CHUNK_FAULTS} - {"malformed"}


def test_every_file_of_the_corpus_has_its_own_claim() -> None:
    claims = [case.text("claim") for case in VALID + INVALID]
    assert len(set(claims)) == len(claims)


def test_size_limits_are_431_and_all_else_is_400() -> None:
    for case in INVALID:
        if case.text("where") == "head":
            fault = case.parse(case.data)
            assert isinstance(fault, _native.HeadFault)
            too_big = {"head_too_large", "too_many_fields", "name_too_long"}
            assert fault.status == (431 if fault.name in too_big else 400)


def test_the_limits_are_those_that_python_states() -> None:
    assert limits.HEADERS_COUNT_MAX == _native.HEADERS_COUNT_MAX
    assert limits.CHUNK_LINE_BYTES_MAX == _native.CHUNK_LINE_BYTES_MAX
    assert limits.TRAILER_BYTES_MAX == _native.TRAILER_BYTES_MAX
    assert limits.HEAD_BYTES_CAP == _native.HEAD_BYTES_CAP
    assert limits.UPSTREAM_HEAD_BYTES_MAX <= _native.HEAD_BYTES_CAP


@given(data=st.binary(max_size=400), to_head_request=st.booleans())
def test_any_bytes_at_all_give_a_head_or_a_fault_or_a_wait(
    data: bytes, to_head_request: bool
) -> None:
    for parsed in (
        _native.parse_request(data, HEAD_BYTES_MAX),
        _native.parse_response(data, HEAD_BYTES_MAX, to_head_request=to_head_request),
    ):
        assert getattr(parsed, "name", "") != "malformed"
