"""One native call, one number: `python -m pytest bench/micro`.

The build must be the release one, or the numbers say nothing. Each benchmark checks what the
call gave back, as a fast wrong result is a failure.
"""

import json
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.macro import measures
from bench.results import REQUEST_BYTES
from modelux import _native

EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1735689600,'
    b'"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":" tide"},'
    b'"finish_reason":null}]}\n\n'
)
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The tide goes out. " * 35},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 213, "completion_tokens": 109, "total_tokens": 322},
    }
).encode()


HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\naccept: */*\r\n"
    b"content-type: application/json\r\nuser-agent: OpenAI/Python 2.0\r\n"
    b"x-stainless-lang: python\r\nx-stainless-os: Linux\r\nx-stainless-arch: x64\r\n"
    b"x-stainless-runtime: CPython\r\nauthorization: Bearer mlx_sk_" + b"a" * 32 + b"\r\n"
    b"accept-encoding: gzip, deflate\r\ncontent-length: 1200\r\n\r\n"
)


def test_parse_of_a_request_head(benchmark: BenchmarkFixture) -> None:
    head = benchmark(_native.parse_request, HEAD, 32_768)

    assert isinstance(head, _native.RequestHead)
    assert head.head_bytes == len(HEAD)


@pytest.mark.parametrize("bytes_", [REQUEST_BYTES, 400_000])
def test_scan_of_a_request_body(
    benchmark: BenchmarkFixture, tmp_path: Path, bytes_: int
) -> None:
    body = measures.write_body(tmp_path, "@bench", "unary", "unary", bytes_=bytes_).read_bytes()

    facts = benchmark(_native.scan, body, "chat")

    assert facts.model == "@bench"
    assert facts.max_output_tokens == 256


def test_scan_and_patch_of_a_request_body(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = measures.write_body(tmp_path, "@bench", "unary", "unary", bytes_=REQUEST_BYTES)
    body = path.read_bytes()

    patched = benchmark(_native.patch, body, "gpt-4o-mini")

    assert json.loads(patched) == json.loads(body) | {"model": "gpt-4o-mini"}


@pytest.mark.parametrize("cut_usage", [False, True])
def test_look_at_one_chunk_of_a_stream(benchmark: BenchmarkFixture, *, cut_usage: bool) -> None:
    follower = _native.SseFollower(cut_usage=cut_usage)

    relayed = benchmark(follower.feed, EVENT)

    assert relayed == EVENT
    assert follower.content_seen


def test_usage_of_a_whole_answer(benchmark: BenchmarkFixture) -> None:
    usage = benchmark(_native.usage_of_answer, ANSWER)

    assert usage is not None
    assert usage.output_tokens == 109


def test_append_of_a_trace_with_bodies(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    ring, spill = tmp_path / "ring.0.1", tmp_path / "spill"
    spill.mkdir()
    writer = _native.RingWriter(ring, spill, ring_bytes=8 << 20, spill_max_bytes=1 << 30)
    reader = _native.RingReader(ring, spill)
    meta = json.dumps({"id": "0" * 36, "attempts": [{"model": "gpt-4o-mini"}] * 2}).encode()

    def drained() -> tuple[tuple[bytes, bytes, bytes], dict[str, str]]:
        # Emptied before each call: a ring past its half would shed bodies, which is quicker.
        while reader.read(1_000):
            reader.commit()
        return (meta, b"q" * REQUEST_BYTES, ANSWER), {}

    accepted = benchmark.pedantic(writer.append, setup=drained, rounds=2_000)

    assert accepted == "ring"
    assert writer.stats()["lost"] == 0
