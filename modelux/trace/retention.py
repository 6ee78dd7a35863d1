"""What goes from the trace store, and when: bodies first, then records, then sums.

By age: bodies after `body_retention_h`, records after `record_retention_days`, sums after
`rollup_retention_days`. By size: the store never exceeds `trace_max_bytes` by more than what
comes in between two looks, oldest bodies going first, oldest records once no bodies are left.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from modelux.trace.files import US_AN_HOUR, TraceFiles, day_of, hour_of
from modelux.trace.store import TraceStore
from modelux.units import UnixUs


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionOptions:
    """How long what is kept, and how much of it."""

    body_retention_h: int = 24
    record_retention_days: int = 30
    rollup_retention_days: int = 400
    trace_max_bytes: int = 10 * 1024**3


@dataclass(frozen=True, slots=True)
class Dropped:
    """What one look removed."""

    body_files: int = 0
    record_days: int = 0
    days: int = 0

    def __bool__(self) -> bool:
        """Return whether anything was removed."""
        return bool(self.body_files or self.record_days or self.days)


@final
class Retention:
    """Applies the options to one store; remembers which days are bare, to not look again."""

    def __init__(self, store: TraceStore, files: TraceFiles, options: RetentionOptions) -> None:
        self._store = store
        self._files = files
        self._options = options
        self._bare: set[int] = set()

    def apply(self, now_us: UnixUs) -> Dropped:
        """Remove what is too old, then what is too much.

        Raises:
            StoreError: A file cannot be written or removed.
            OSError: So too.
        """
        by_age = self._apply_age(now_us)
        by_size = self._apply_size()
        return Dropped(
            by_age.body_files + by_size.body_files,
            by_age.record_days + by_size.record_days,
            by_age.days,
        )

    def _apply_age(self, now_us: UnixUs) -> Dropped:
        options = self._options
        # A file holds one hour; it goes when the last of that hour is too old.
        oldest_hour = hour_of(UnixUs(now_us - options.body_retention_h * US_AN_HOUR))
        body_files = self._store.drop_bodies(oldest_hour)
        record_days = days = 0
        today = day_of(now_us)
        for day in self._files.days():
            if day < today - options.rollup_retention_days:
                self._store.drop_day(day)
                days += 1
            elif day < today - options.record_retention_days:
                record_days += self._drop_records(day)
                # Nothing comes any more that is so old: not looked at again.
                self._bare.add(day)
        return Dropped(body_files, record_days, days)

    def _apply_size(self) -> Dropped:
        limit = self._options.trace_max_bytes
        total = store_bytes(self._files)
        if total <= limit:
            return Dropped()
        # A little more than needed, so that the next look finds room.
        goal = limit - limit // 32
        body_files = record_days = 0
        for part in self._files.body_parts():
            if total <= goal:
                break
            path = self._files.body_path(part)
            size = _size_of(path)
            self._store.drop_part(part)
            total -= size
            body_files += 1
        for day in self._files.days():
            if total <= goal:
                break
            before = _day_bytes(self._files.day_path(day))
            if self._drop_records(day):
                total -= before - _day_bytes(self._files.day_path(day))
                record_days += 1
        return Dropped(body_files, record_days)

    def _drop_records(self, day: int) -> bool:
        if day in self._bare or not self._store.has_records(day):
            return False
        self._store.drop_records(day)
        return True


def store_bytes(files: TraceFiles) -> int:
    """Return the size of everything in the store, logs of the databases included."""
    paths = [*files.root.glob("*"), *files.bodies.glob("*")]
    return sum(_size_of(path) for path in paths)


def _day_bytes(path: Path) -> int:
    return sum(_size_of(path.with_name(path.name + suffix)) for suffix in ("", "-wal", "-shm"))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
