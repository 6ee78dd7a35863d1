"""Chunked bodies: cut anywhere, damaged, and beside what llhttp (strict) and h11 make of them.

The cases one by one stand in the corpus; `test_head.py` runs them.
"""

from typing import Final, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelux import _native
from tests.unit.wire.judges import H11, Llhttp, Other, RefusedError

HEAD: Final = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES: Final = (
    b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b"0\r\n", b"\r\n", b"A: b\r\n", b"0\r\n\r\n",
    b"00\r\n", b'A;b="c\\"d"\r\n0123456789\r\n', b"3;x\r\nabc\r\n", b"B:\t \xff c \r\n",
)  # fmt: skip
ENDS: Final = (b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0;l\r\n\r\n", b"")
DAMAGE: Final = (
    b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b";", b"=", b'"', b"0", b"5", b"f",
    b"-", b"x", b"\x7f", b"\xff", b"\\",
)  # fmt: skip

# What we refuse and another takes as a whole body: who, and why we do not.
STRICTER: Final[dict[str, tuple[str, str]]] = {
    "extension": (
        "llhttp h11",
        "names and values by the grammar of RFC 9112 7.1.1, or nothing",
    ),
    "size": ("h11", "h11 takes white space after a size"),
    "line_end": ("h11", "h11 takes a lone LF in the trailers"),
    "trailer": ("h11", "h11 takes control characters and folded lines"),
    "line_too_long": ("llhttp h11", "memory and time are bounded"),
    "trailer_too_large": ("llhttp h11", "memory and time are bounded"),
}
EXAMPLES_OF_STRICTER: Final[dict[str, bytes]] = {
    "extension": b"0;=\r\n\r\n",
    "size": b"0 \r\n\r\n",
    "line_end": b"0\r\n\n",
    "trailer": b"0\r\nA: \x1f\r\n\r\n",
    "line_too_long": b"0;" + b"a" * 300 + b"\r\n\r\n",
    "trailer_too_large": b"0\r\n" + b"A: b\r\n" * 1400 + b"\r\n",
}

Outcome = tuple[bytes, int | None] | str
"""Payload and where the body ends, None if it does not; or the name of a fault."""


def ours(*pieces: bytes) -> Outcome:
    decoder = _native.ChunkedDecoder()
    payload, consumed = b"", 0
    for piece in pieces:
        try:
            got, taken, done = decoder.feed(piece)
        except ValueError as fault:
            return cast("str", fault.args[0])
        payload, consumed = payload + got, consumed + taken
        if done:
            return payload, consumed
    return payload, None


def theirs(other: Other, data: bytes) -> Outcome:
    other.feed(HEAD)
    try:
        for end in range(1, len(data) + 1):
            other.feed(data[end - 1 : end])
            if other.ended:
                return other.body, end
    except RefusedError as refused:
        return str(refused)
    return other.body, None


def judges() -> dict[str, Other]:
    return {"llhttp": Llhttp(is_request=True), "h11": H11(is_request=True)}


def damaged(data: bytes, wounds: list[tuple[int, bool, bytes]]) -> bytes:
    for place, removes, inserted in wounds:
        at = place % (len(data) + 1)
        data = data[:at] + inserted + data[at + removes :]
    return data


bodies = st.builds(
    damaged,
    st.builds(
        lambda pieces, end: b"".join(pieces) + end,
        st.lists(st.sampled_from(PIECES), max_size=3),
        st.sampled_from(ENDS),
    ),
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.booleans(),
            st.one_of(st.sampled_from(DAMAGE), st.binary(min_size=1, max_size=1)),
        ),
        max_size=2,
    ),
)


@settings(max_examples=10 * settings().max_examples)
@given(data=bodies)
def test_what_we_take_as_a_body_the_others_take_alike(data: bytes) -> None:
    mine = ours(data)
    for name, judge in judges().items():
        other = theirs(judge, data)
        if not isinstance(mine, str):
            assert other == mine, name
        elif not isinstance(other, str) and other[1] is not None:
            assert name in STRICTER[mine][0].split(), mine


@pytest.mark.parametrize("fault", STRICTER)
def test_every_difference_in_what_we_refuse_still_exists(fault: str) -> None:
    data = EXAMPLES_OF_STRICTER[fault]
    assert ours(data) == fault
    taken = {
        name for name, judge in judges().items() if theirs(judge, data) == (b"", len(data))
    }
    assert taken == set(STRICTER[fault][0].split())


@given(data=bodies, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_the_outcome_does_not_depend_on_how_the_bytes_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in zip(places, places[1:], strict=False)]
    assert ours(*pieces) == ours(data)
    assert ours(*(data[at : at + 1] for at in range(len(data)))) == ours(data)


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6), after=st.binary(max_size=9)
)
def test_what_was_encoded_comes_back_and_the_rest_is_left(
    chunks: list[bytes], after: bytes
) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert ours(data + after) == (b"".join(chunks), len(data))


def test_a_fault_is_for_good() -> None:
    decoder = _native.ChunkedDecoder()
    for data in (b"z", b"0\r\n\r\n", b""):
        with pytest.raises(ValueError, match="hexadecimal"):
            decoder.feed(data)
