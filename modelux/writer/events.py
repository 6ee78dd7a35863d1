"""Carries events of budgets from the ledger's copy, where they are made, to the trace store.

They are forgotten there only once they are stored here, so a kill in between hands them in
again; the store knows them by their ids. A copy that cannot be read leaves them where they are.
"""

from pathlib import Path
from typing import final

from modelux.store.copy import LedgerCopy
from modelux.store.layout import LEDGER_COPY_FILE
from modelux.trace.store import TraceStore
from modelux.units import UnixUs


@final
class EventCourier:
    """One way, from one `ledger.db` to one store; in the thread of that store."""

    __slots__ = ("_copy", "_data_dir", "_store")

    def __init__(self, data_dir: Path, store: TraceStore) -> None:
        self._data_dir = data_dir
        self._store = store
        self._copy: LedgerCopy | None = None

    def carry(self, now_us: UnixUs) -> int:
        """Store what waits; return how many events there were.

        Raises:
            StoreError: One of the two cannot be read or written; nothing is lost.
        """
        if self._copy is None:
            # Made by whoever keeps the ledger: without one there are no events.
            if not (self._data_dir / LEDGER_COPY_FILE).exists():
                return 0
            self._copy = LedgerCopy(self._data_dir)
        carried = 0
        while events := self._copy.events():
            self._store.add_events(events, now_us)
            self._copy.forget_events(events)
            carried += len(events)
        return carried

    def close(self) -> None:
        """Let go of the copy."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None
