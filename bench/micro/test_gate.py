"""The two native calls of a request, with everything on: `python -m pytest bench/micro`.

A call is repeated `EXCHANGES` times a round, and the ring is emptied between rounds: past its
half it would shed bodies, which is quicker than keeping them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.macro import measures, targets
from bench.macro.targets import STREAM, UNARY, Backends
from bench.results import REQUEST_BYTES
from modelux import _native
from modelux._native import Cells, Gate, Plan, RingReader
from modelux.config.compile import compile_snapshot
from modelux.config.file import load_config
from modelux.config.versions import ControlDb
from modelux.limits import MIB
from modelux.pricing.catalogue import catalogue_bytes, models_bytes

EXCHANGES: Final = 200
ROUNDS: Final = 200
ANSWER_BODY: Final = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1735689600,'
    b'"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"'
    + b"The tide goes out. "
    * 35
    + b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":213,"completion_tokens":109,'
    b'"total_tokens":322,"prompt_tokens_details":{"cached_tokens":0}}}'
)
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\n"
    b"openai-processing-ms: 1\r\ncontent-length: %d\r\n\r\n" % len(ANSWER_BODY)
) + ANSWER_BODY
EVENT: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1735689600,'
    b'"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":" tide"},'
    b'"finish_reason":null}]}\n\n'
)
CHUNK: Final = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """A gate as a worker has it, the reader of its ring, and what a caller sends."""

    gate: Gate
    reader: RingReader
    unary: bytes
    streamed: bytes

    def drain(self) -> None:
        """Empty the ring."""
        while self.reader.read(10_000):
            self.reader.commit()

    def begin(self, request: bytes) -> Plan:
        """Make a plan of a request."""
        plan = self.gate.begin(request, None, "127.0.0.1")
        assert isinstance(plan, Plan), plan
        return plan


def request_bytes(folder: Path, files: targets.ModeluxFiles, door: str, wish: str) -> bytes:
    doors = targets.modelux_doors(files)
    path = measures.write_body(folder, doors.models[door], door, wish, bytes_=REQUEST_BYTES)
    body = path.read_bytes()
    head = "\r\n".join(
        [
            "POST /v1/chat/completions HTTP/1.1",
            "host: 127.0.0.1",
            "content-type: application/json",
            "accept: application/json",
            *doors.headers,
            f"content-length: {len(body)}",
        ]
    )
    return f"{head}\r\n\r\n".encode() + body


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    nowhere = Backends(plain_port=9, upstream_pid=0, tls_port=None, ca_file=None)
    files = targets.write_modelux(tmp_path / "modelux", nowhere)
    environ = {"BENCH_KEY": targets.KEY, "BENCH_PROVIDER_KEY": targets.PROVIDER_KEY}
    config = load_config(files.config, environ)
    files.data_dir.mkdir()
    control = ControlDb(files.data_dir)
    control.apply_config(config)
    cells, ring, spill = tmp_path / "cells", tmp_path / "ring.0.1", tmp_path / "spill"
    spill.mkdir()
    Cells.create(cells, 1).set("mode", 1)
    gate = Gate(
        compile_snapshot(config, control),
        {"env:BENCH_PROVIDER_KEY": targets.PROVIDER_KEY},
        catalogue_bytes(),
        models_bytes(),
        cells_path=cells,
        ring_path=ring,
        ring_bytes=8 * MIB,
        spill_dir=spill,
        spill_bytes_max=64 * MIB,
        boot_id="",
        slot=0,
        generation=1,
        seed=(1, 2),
    )
    control.close()
    return Bed(
        gate=gate,
        reader=RingReader(ring, spill),
        unary=request_bytes(tmp_path, files, UNARY, "unary"),
        streamed=request_bytes(tmp_path, files, STREAM, "events=2"),
    )


def test_a_whole_unary_exchange(benchmark: BenchmarkFixture, bed: Bed) -> None:
    def exchanges() -> tuple[int, bytes]:
        for _ in range(EXCHANGES):
            plan = bed.begin(bed.unary)
            plan.send()
            answered = plan.answer(ANSWER)
        return answered

    step, out = benchmark.pedantic(exchanges, setup=bed.drain, rounds=ROUNDS)

    assert step == _native.STEP_DONE
    assert out.endswith(ANSWER_BODY)


def test_the_request_up_to_its_plan(benchmark: BenchmarkFixture, bed: Bed) -> None:
    made: list[Plan] = []

    def finish_all() -> None:
        while made:
            plan = made.pop()
            plan.send()
            plan.answer(ANSWER)
        bed.drain()

    def begin_all() -> None:
        made.extend(bed.begin(bed.unary) for _ in range(EXCHANGES))

    benchmark.pedantic(begin_all, setup=finish_all, rounds=ROUNDS)

    assert len(made) == EXCHANGES


def test_the_answer_to_its_record(benchmark: BenchmarkFixture, bed: Bed) -> None:
    waiting: list[Plan] = []

    def send_all() -> None:
        bed.drain()
        waiting.extend(bed.begin(bed.unary) for _ in range(EXCHANGES))
        for plan in waiting:
            plan.send()

    def answer_all() -> tuple[int, bytes]:
        while waiting:
            answered = waiting.pop().answer(ANSWER)
        return answered

    step, _ = benchmark.pedantic(answer_all, setup=send_all, rounds=ROUNDS)

    assert step == _native.STEP_DONE


def test_one_chunk_of_a_stream(benchmark: BenchmarkFixture, bed: Bed) -> None:
    plan = bed.begin(bed.streamed)
    plan.send()
    plan.answer(STREAM_HEAD + CHUNK)

    step, out = benchmark(plan.answer, CHUNK)

    assert step == _native.STEP_WRITE
    assert EVENT in out
