"""One turn of the trace writer: read from all rings, store, commit, now and then tidy up.

Order is everything: a ring's room is freed only after its records are committed to the store,
so a kill at any point repeats at most one batch, which the store knows by its ids. What the
store does not take (a full disk) is kept and tried again; meanwhile rings fill, then the spill,
and what is shed is counted by the workers.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, final

from modelux._native import Cells, Redactor
from modelux.clock import mono_us
from modelux.errors import StoreError
from modelux.log import Log
from modelux.store.layout import CELLS_FILE, METRICS_FILE, boot_id
from modelux.trace.files import spill_dir, trace_files
from modelux.trace.record import Trace
from modelux.trace.retention import Retention
from modelux.trace.store import Stored, TraceStore
from modelux.trace.totals import encode_metrics
from modelux.units import US_PER_MS, US_PER_S, MonoUs, UnixUs
from modelux.writer.events import EventCourier
from modelux.writer.health import HealthWatch
from modelux.writer.options import WriterOptions
from modelux.writer.rings import RECORDS_A_RING_MAX, Rings

DISCOVER_US: Final = 100 * US_PER_MS
METRICS_US: Final = 500 * US_PER_MS
EVENTS_US: Final = 500 * US_PER_MS
HEALTH_US: Final = 1 * US_PER_S
RETENTION_US: Final = 60 * US_PER_S
COMPLAINT_US: Final = 10 * US_PER_S
"""A disk that stays full is said once in a while, not fifty times a second."""
SIZE_LOOKS: Final = 64
"""The store's size is looked at after each 1/64 of `trace_max_bytes` at the latest."""


@final
class TraceWriter:
    """Everything between the rings and the store; owned by one process, one thread."""

    def __init__(
        self,
        state_dir: Path,
        data_dir: Path,
        options: WriterOptions,
        log: Log,
        unix_us: Callable[[], UnixUs],
        ledger_copy_age_us: Callable[[], int] | None = None,
    ) -> None:
        self._ledger_copy_age_us = ledger_copy_age_us
        files = trace_files(data_dir)
        spill = spill_dir(data_dir)
        spill.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = log
        self._unix_us = unix_us
        self._state_dir = state_dir
        redactor = Redactor(list(options.redact))
        self._store = TraceStore(
            files,
            redact=redactor.redact,
            redact_record=redactor.redact_record,
            on_damage=lambda what: log.error("trace_day_damaged", what=what),
        )
        self._store.load_totals()
        self._courier = EventCourier(data_dir, self._store)
        this_boot = boot_id() if options.boot_id is None else options.boot_id
        self._health = HealthWatch(state_dir, files, self._store, this_boot)
        self._retention = Retention(self._store, files, options.retention)
        self._size_look_bytes = max(1, options.retention.trace_max_bytes // SIZE_LOOKS)
        self._rings = Rings(state_dir, spill, this_boot, log)
        self._rings.clean(unix_us())
        self._drained_counts = self._store.ring_counts()
        self._malformed = 0
        self._pending: list[Trace] = []
        self._newest_us = 0
        self._behind_since_us = 0
        self._next_discover_us = self._next_metrics_us = self._next_retention_us = MonoUs(0)
        self._next_events_us = self._next_health_us = MonoUs(0)
        self._looked_at_bytes = 0
        self._complained_us = MonoUs(-COMPLAINT_US)
        self._is_frozen = False
        self.stored = 0
        """Records stored since the start."""

    def turn(self, now_us: MonoUs) -> int:
        """Do one turn; return how many traces were taken.

        Raises:
            StoreError: The store takes nothing; what was read is kept for the next turn.
        """
        if now_us >= self._next_discover_us and not self._is_frozen:
            self._rings.discover()
            self._next_discover_us = MonoUs(now_us + DISCOVER_US)
        if not self._pending:
            self._pending = self._rings.read()
        taken = len(self._pending)
        if taken:
            self._note(self._store_all(self._pending))
            self._pending = []
            self._rings.commit()
        self._finish_rings()
        return taken

    def is_behind(self, taken: int) -> bool:
        """Return whether a turn that took so many is to be followed by another at once."""
        return taken >= RECORDS_A_RING_MAX // 2

    def tidy(self, now_us: MonoUs) -> None:
        """Tell the metrics, store events and apply the retention, where it is time to."""
        if now_us >= self._next_events_us:
            self._next_events_us = MonoUs(now_us + EVENTS_US)
            self._carry_events(now_us)
        if now_us >= self._next_health_us:
            self._next_health_us = MonoUs(now_us + HEALTH_US)
            self._watch_health(now_us)
        if now_us >= self._next_metrics_us and not self._is_frozen:
            self._next_metrics_us = MonoUs(now_us + METRICS_US)
            self._tell()
        grown_bytes = self._store.bytes_written - self._looked_at_bytes
        if now_us >= self._next_retention_us or grown_bytes >= self._size_look_bytes:
            self._next_retention_us = MonoUs(now_us + RETENTION_US)
            self._looked_at_bytes = self._store.bytes_written
            self._apply_retention()

    def complain(self, failure: StoreError, now_us: MonoUs) -> None:
        """Say that the store takes nothing, unless it was said just now."""
        if now_us - self._complained_us >= COMPLAINT_US:
            self._complained_us = now_us
            self._log.error("traces_not_stored", why=str(failure))

    def freeze(self) -> None:
        """Take no rings but those that are there, and leave the metrics to a successor."""
        if not self._is_frozen:
            self._rings.discover()
            self._is_frozen = True

    def discover(self) -> None:
        """Open every ring that is there, without waiting for the time to."""
        self._rings.discover()

    def has_owner(self) -> bool:
        """Return whether any worker is alive that may still write traces."""
        return self._rings.has_owner()

    def close(self) -> None:
        """Store events, tell the metrics a last time and close every file."""
        self._carry_events(mono_us())
        self._watch_health(mono_us())
        self._courier.close()
        if not self._is_frozen:
            self._tell()
        self._rings.close()
        self._store.close()

    def _store_all(self, traces: Sequence[Trace]) -> Stored:
        try:
            return self._store.insert(traces, self._unix_us())
        except StoreError:
            raise
        except Exception as bug:  # noqa: BLE001 - or one trace would stop all others for good.
            self._count_bug(bug)
        stored = known = malformed = newest_us = 0
        for trace in traces:
            try:
                one = self._store.insert([trace], self._unix_us())
            except StoreError:
                raise
            except Exception as bug:  # noqa: BLE001 - this is the one: it is counted, and goes.
                self._count_bug(bug)
                malformed += 1
            else:
                stored += one.stored
                known += one.known
                malformed += one.malformed
                newest_us = max(newest_us, one.newest_us)
        return Stored(stored, known, malformed, newest_us)

    def _count_bug(self, bug: Exception) -> None:
        self._log.error("bug", where="trace_store", what=repr(bug))
        # Where no supervisor made cells, the line above is all there is.
        with contextlib.suppress(OSError):
            Cells.open(self._state_dir / CELLS_FILE).add("bugs_writer", 1)

    def _note(self, stored: Stored) -> None:
        self.stored += stored.stored
        self._newest_us = max(self._newest_us, stored.newest_us)
        if stored.malformed:
            self._malformed += stored.malformed
            self._log.error("traces_malformed", count=stored.malformed)

    def _finish_rings(self) -> None:
        for ring in self._rings.take_drained():
            counts = ring.reader.stats()
            # Kept before the ring goes: killed in between, the store knows it by its name.
            self._store.add_ring(
                ring.reader.slot, ring.reader.generation, counts, self._unix_us()
            )
            self._rings.remove(ring)
            for name, count in counts.items():
                self._drained_counts[name] += count

    def _tell(self) -> None:
        now_us = self._unix_us()
        backlog_bytes = self._rings.backlog_bytes()
        if backlog_bytes == 0:
            self._behind_since_us = 0
        elif self._behind_since_us == 0:
            self._behind_since_us = now_us
        # Behind since the last time that nothing waited, or since the newest that is stored.
        since_us = max(self._behind_since_us, min(self._newest_us, now_us))
        shed = dict(self._drained_counts)
        for name, count in self._rings.counts().items():
            shed[name] += count
        accepted = shed.pop("accepted")
        del shed["spilled"]
        encoded = encode_metrics(
            self._store.totals,
            accepted=accepted,
            shed=shed | {"malformed": self._malformed, "ring_damaged": self._rings.damaged},
            index_lag_us=now_us - since_us if backlog_bytes else 0,
            ledger_copy_age_us=(
                None if self._ledger_copy_age_us is None else self._ledger_copy_age_us()
            ),
            updated_us=now_us,
        )
        path = self._state_dir / METRICS_FILE
        fresh = path.with_suffix(".json.new")
        try:
            fresh.write_bytes(encoded)
            fresh.replace(path)
        except OSError as failure:
            self._log.warning("metrics_not_written", why=str(failure))

    def _carry_events(self, now_us: MonoUs) -> None:
        try:
            self._courier.carry(self._unix_us())
        except StoreError as failure:
            # They wait in the ledger's copy; traces go on.
            self.complain(failure, now_us)

    def _watch_health(self, now_us: MonoUs) -> None:
        try:
            told = self._health.watch(now_us, self._unix_us())
        except StoreError as failure:
            # What changed stays visible in the live state; traces go on.
            self.complain(failure, now_us)
            return
        for event in told:
            self._log.warning(
                "provider_health_changed",
                provider=event.provider,
                model=event.model,
                before=event.before,
                state=event.state,
            )

    def _apply_retention(self) -> None:
        try:
            dropped = self._retention.apply(self._unix_us())
        except (StoreError, OSError) as failure:
            self._log.warning("retention_failed", why=str(failure))
            return
        if dropped:
            self._log.info(
                "traces_dropped",
                body_files=dropped.body_files,
                record_days=dropped.record_days,
                days=dropped.days,
            )
