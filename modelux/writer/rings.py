"""The rings of all workers, dead ones included: finding, reading, committing, removing them.

A ring file appears whole and locked by its worker. It is read for as long as it is there, and
removed once its worker is gone and everything in it is stored.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

from modelux._native import RingBusyError, RingError, RingReader
from modelux.limits import MIB
from modelux.log import Log
from modelux.trace.files import US_A_MINUTE
from modelux.trace.record import Trace
from modelux.units import UnixUs

RECORDS_A_RING_MAX: Final = 512
"""Taken from one ring in one turn: one transaction's worth, and no ring waits for another."""
TURN_BYTES_MAX: Final = 32 * MIB
"""Taken from all rings in one turn, with one ring's share (8 MiB) above it at most."""
READ_FAILURES_MAX: Final = 50
"""A disk that fails for a moment loses nothing; one that fails for a second or so does."""
LEFT_OVER_US: Final = 10 * US_A_MINUTE
"""A ring file under construction takes milliseconds: one this old was given up."""

_RING: Final = re.compile(r"ring\.(\d{1,10})\.(\d{1,20})", re.ASCII)
_SPILL: Final = re.compile(r"spill\.(\d{1,10})\.(\d{1,20})\.\d{1,20}", re.ASCII)


@final
class OpenRing:
    """One ring that this process reads."""

    __slots__ = ("failures", "path", "reader")

    def __init__(self, path: Path, reader: RingReader) -> None:
        self.path = path
        self.reader = reader
        self.failures = 0


@final
class Rings:
    """Every ring in `state_dir` that this process could become the reader of."""

    def __init__(self, state_dir: Path, spill: Path, boot_id: str, log: Log) -> None:
        self._state_dir = state_dir
        self._spill = spill
        self._boot_id = boot_id
        self._log = log
        self._open: dict[Path, OpenRing] = {}
        self._unusable: set[Path] = set()
        self._drained: list[OpenRing] = []
        self._first = 0
        self.damaged = 0
        """How often a ring was found damaged and given up to its head."""

    def discover(self) -> None:
        """Open rings that have appeared."""
        for path in sorted(self._state_dir.iterdir()):
            if (
                path not in self._open
                and path not in self._unusable
                and _RING.fullmatch(path.name)
            ):
                self._try_open(path)

    def clean(self, now_us: UnixUs) -> None:
        """Delete what a power loss or a kill left behind and nobody will ask for.

        A spill file is made after its ring and goes before it, so one without a ring is over.
        """
        for path in self._spill.glob("spill.*"):
            match = _SPILL.fullmatch(path.name)
            if match and not (self._state_dir / f"ring.{match[1]}.{match[2]}").exists():
                path.unlink(missing_ok=True)
        for path in self._state_dir.glob("ring.*.new"):
            try:
                age_us = now_us - path.stat().st_mtime_ns // 1_000
            except FileNotFoundError:
                continue
            if age_us > LEFT_OVER_US:
                path.unlink(missing_ok=True)

    def read(self) -> list[Trace]:
        """Return the next traces of all rings; `commit` says that they are stored."""
        traces: list[Trace] = []
        left_bytes = TURN_BYTES_MAX
        rings = list(self._open.values())
        # Another ring is the first each time: none waits for ever behind full ones.
        self._first = (self._first + 1) % max(1, len(rings))
        for ring in rings[self._first :] + rings[: self._first]:
            if left_bytes <= 0:
                break
            # In this order: whoever is dead before the look writes nothing after it.
            is_dead = not ring.reader.owner_alive()
            found = self._read_one(ring)
            for meta, request, response, bodies in found:
                traces.append(Trace(meta, request, response, bodies))
                left_bytes -= len(meta) + len(request) + len(response)
            if is_dead and not found and ring.reader.is_drained():
                self._drained.append(ring)
        return traces

    def commit(self) -> None:
        """Free the room of everything that `read` returned."""
        for ring in self._open.values():
            try:
                ring.reader.commit()
            except OSError as failure:
                # The room in the ring is free; the file goes with the ring.
                self._log.warning("spill_not_removed", ring=ring.path.name, why=str(failure))

    def take_drained(self) -> list[OpenRing]:
        """Return the rings that are over, to be counted and then removed; each once."""
        drained, self._drained = self._drained, []
        return drained

    def remove(self, ring: OpenRing) -> None:
        """Delete a ring that is over."""
        try:
            ring.reader.remove()
        except FileNotFoundError:
            pass
        except OSError as failure:
            self._log.warning("ring_not_removed", ring=ring.path.name, why=str(failure))
        ring.reader.close()
        del self._open[ring.path]

    def backlog_bytes(self) -> int:
        """Return how much waits in rings and spill."""
        return sum(ring.reader.backlog_bytes() for ring in self._open.values())

    def counts(self) -> Mapping[str, int]:
        """Return what the open rings have counted, summed."""
        sums: dict[str, int] = {}
        for ring in self._open.values():
            for name, count in ring.reader.stats().items():
                sums[name] = sums.get(name, 0) + count
        return sums

    def has_owner(self) -> bool:
        """Return whether any worker still holds its ring."""
        return any(ring.reader.owner_alive() for ring in self._open.values())

    def close(self) -> None:
        """Let go of every ring; another reader goes on where the last commit was."""
        for ring in self._open.values():
            ring.reader.close()
        self._open.clear()

    def _read_one(self, ring: OpenRing) -> list[tuple[bytes, bytes, bytes, str]]:
        try:
            found = ring.reader.read(RECORDS_A_RING_MAX)
        except RingError as failure:
            self._give_up(ring, str(failure))
            return []
        except OSError as failure:
            ring.failures += 1
            if ring.failures >= READ_FAILURES_MAX:
                self._give_up(ring, str(failure))
            return []
        ring.failures = 0
        return found

    def _give_up(self, ring: OpenRing, why: str) -> None:
        given_up_bytes = ring.reader.skip()
        ring.failures = 0
        self.damaged += 1
        self._log.error(
            "ring_damaged", ring=ring.path.name, why=why, given_up_bytes=given_up_bytes
        )

    def _try_open(self, path: Path) -> None:
        try:
            reader = RingReader(path, self._spill, self._boot_id)
        except RingBusyError:
            return  # A former trace writer is ending: it becomes free then.
        except FileNotFoundError:
            return
        except RingError as failure:
            # Of another boot or build: what it means is not known, so it is not kept.
            self._log.error("ring_refused", ring=path.name, why=str(failure))
            path.unlink(missing_ok=True)
            return
        except OSError as failure:
            self._log.error("ring_not_opened", ring=path.name, why=str(failure))
            self._unusable.add(path)
            return
        self._open[path] = OpenRing(path, reader)
