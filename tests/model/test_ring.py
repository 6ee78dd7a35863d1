"""The real ring beside a list: appends, reads, commits, and readers that die in between."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelux._native import RingBusyError, RingReader, RingWriter

RING_BYTES = 1 << 16
SPILL_BYTES = 1 << 20


class RingBesideList(RuleBasedStateMachine):
    """The model: what was accepted and is not committed yet, and everything that came out."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.dir = Path(self.folder.name)
        self.writer: RingWriter | None = None
        self.generation = 0
        self.number = 0
        self.accepted: dict[bytes, tuple[bytes, bytes]] = {}
        self.stored: set[bytes] = set()
        self.readers: dict[int, RingReader] = {}
        self.uncommitted: dict[int, list[bytes]] = {}
        self.start_worker()

    def teardown(self) -> None:
        self.worker_dies()
        self.drain()
        assert self.stored == set(self.accepted)
        assert list(self.dir.iterdir()) == []
        self.folder.cleanup()

    def path(self, generation: int) -> Path:
        return self.dir / f"ring.0.{generation}"

    @precondition(lambda self: self.writer is None)
    @rule()
    def start_worker(self) -> None:
        self.generation += 1
        self.writer = RingWriter(
            self.path(self.generation),
            self.dir,
            ring_bytes=RING_BYTES,
            spill_max_bytes=SPILL_BYTES,
            generation=self.generation,
        )

    @rule(
        count=st.integers(1, 40),
        meta_bytes=st.integers(1, 3_000),
        request_bytes=st.sampled_from([0, 10, 2_000, 9_000, 40_000, 300_000]),
        response_bytes=st.sampled_from([0, 10, 2_000, 33_000]),
    )
    def append(
        self, count: int, meta_bytes: int, request_bytes: int, response_bytes: int
    ) -> None:
        if self.writer is None:
            return
        for _ in range(count):
            self.number += 1
            meta = b"%d:" % self.number + b"m" * meta_bytes
            bodies = (b"q" * request_bytes, b"a" * response_bytes)
            if self.writer.append(meta, *bodies) != "lost":
                self.accepted[meta] = bodies

    @rule(records_max=st.integers(1, 30))
    def read(self, records_max: int) -> None:
        for generation, reader in self.open_readers():
            for meta, request, response, bodies in reader.read(records_max):
                self.check(meta, request, response, bodies)
                self.uncommitted.setdefault(generation, []).append(meta)

    def check(self, meta: bytes, request: bytes, response: bytes, bodies: str) -> None:
        assert meta in self.accepted
        # A commit is for ever: what was stored and freed is never seen again.
        assert meta not in self.stored
        put = self.accepted[meta]
        for found, whole in zip((request, response), put, strict=True):
            assert whole.startswith(found)
            if bodies == "kept":
                assert found == whole
            elif bodies == "cut":
                assert len(found) == min(len(whole), 2_048)

    @rule()
    def commit(self) -> None:
        for generation, reader in self.open_readers():
            reader.commit()
            self.stored.update(self.uncommitted.pop(generation, []))

    @rule()
    def reader_dies(self) -> None:
        for reader in self.readers.values():
            reader.close()
        self.readers.clear()
        self.uncommitted.clear()

    @rule()
    def worker_dies(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    @precondition(lambda self: self.writer is None)
    @rule()
    def drain(self) -> None:
        for generation, reader in self.open_readers():
            assert not reader.owner_alive()
            # What an earlier rule read and did not commit is committed with the rest.
            while found := reader.read(64):
                for trace in found:
                    self.check(*trace)
                    self.uncommitted.setdefault(generation, []).append(trace[0])
            reader.commit()
            self.stored.update(self.uncommitted.pop(generation, []))
            assert reader.is_drained()
            reader.remove()
            del self.readers[generation]

    def open_readers(self) -> list[tuple[int, RingReader]]:
        for path in self.dir.glob("ring.*"):
            generation = int(path.name.rpartition(".")[2])
            if generation not in self.readers:
                self.readers[generation] = RingReader(path, self.dir)
        return list(self.readers.items())

    @invariant()
    def a_ring_has_one_reader(self) -> None:
        for generation in self.readers:
            try:
                RingReader(self.path(generation), self.dir)
            except RingBusyError:
                continue
            raise AssertionError("a second reader got in")

    @invariant()
    def nothing_is_stored_that_was_not_accepted(self) -> None:
        assert self.stored <= set(self.accepted)


RingBesideList.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestRing = RingBesideList.TestCase
