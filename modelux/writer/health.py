"""Watches the breakers in the live state, and stores each change of one as an event.

The live state says where a breaker stands and since when, not what it was before: that is what
was told last, which the store knows. So nothing is told twice after a restart, and what changed
while no writer ran is told by the next one, as far as it still shows.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from modelux._native import Live, LiveTarget
from modelux.errors import StoreError
from modelux.store.layout import LIVE_FILE
from modelux.trace.files import US_A_DAY, TraceFiles
from modelux.trace.health import HealthEvent, load_health_events
from modelux.trace.store import TraceStore
from modelux.units import MonoUs, UnixUs

CLOSED: Final = "closed"
REMEMBERED_DAYS: Final = 2
REMEMBERED_EVENTS_MAX: Final = 100_000
"""Read once, at the start; a target that changes each second makes as many in a day."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What was told of a target last."""

    event_id: str
    state: str


@final
class HealthWatch:
    """One way, from one live state to one store; in the thread of that store."""

    __slots__ = ("_boot_id", "_files", "_live", "_path", "_store", "_told")

    def __init__(
        self, state_dir: Path, files: TraceFiles, store: TraceStore, boot_id: str
    ) -> None:
        self._path = state_dir / LIVE_FILE
        self._files = files
        self._store = store
        self._boot_id = boot_id
        self._live: Live | None = None
        self._told: dict[tuple[str, str], _Told] | None = None

    def watch(self, now_us: MonoUs, unix_us: UnixUs) -> list[HealthEvent]:
        """Store what has changed since the last look, and return it.

        Raises:
            StoreError: The live state cannot be read, or the store takes nothing; what
                changed is found again by the next look.
        """
        if self._live is None:
            # Made by the supervisor: without one there is no health to watch.
            if not self._path.exists():
                return []
            try:
                self._live = Live.open(self._path)
            except OSError as failure:
                raise StoreError(str(failure)) from failure
        if self._told is None:
            self._told = self._told_before(unix_us)
        events = []
        for target in self._live.targets(now_us):
            event = self._event_of(target, self._told, now_us, unix_us)
            if event is not None:
                events.append(event)
        if events:
            self._store.add_health_events(events, unix_us)
            for event in events:
                self._told[event.provider, event.model] = _Told(event.id, event.state)
        return events

    def _told_before(self, unix_us: UnixUs) -> dict[tuple[str, str], _Told]:
        start_us = max(0, unix_us - REMEMBERED_DAYS * US_A_DAY)
        end_us = unix_us + US_A_DAY
        found = load_health_events(self._files, start_us, end_us, REMEMBERED_EVENTS_MAX)
        return {(one.provider, one.model): _Told(one.id, one.state) for one in found}

    def _event_of(
        self,
        target: LiveTarget,
        all_told: Mapping[tuple[str, str], _Told],
        now_us: MonoUs,
        unix_us: UnixUs,
    ) -> HealthEvent | None:
        told = all_told.get((target.provider, target.model), _Told("", CLOSED))
        # A closed one that never was otherwise, in this boot: what it follows tells it apart.
        since = str(target.since_us) if target.since_us else f"after {told.event_id}"
        event_id = self._id(target, since)
        is_known = event_id == told.event_id or target.state == told.state != CLOSED
        if is_known or (target.state == told.state and not target.since_us):
            return None
        rate = target.error_rate
        ago_us = now_us - target.since_us if target.since_us else 0
        return HealthEvent(
            id=event_id,
            ts_us=unix_us - max(0, ago_us),
            provider=target.provider,
            model=target.model,
            # Closed again since the last look, or before we could look at all.
            before=told.state if told.state != target.state else "open",
            state=target.state,
            error_permille=None if rate is None else round(rate * 1_000),
        )

    def _id(self, target: LiveTarget, since: str) -> str:
        parts = (self._boot_id, target.provider, target.model, target.state, since)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
