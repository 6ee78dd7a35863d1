"""Copies the ledger to the disk while everything else goes on.

A thread of its own: power loss may cost a second of spend and no more, however many traces
there are to store meanwhile. It only reads the ledger, and so never waits for its lock nor
holds it. A disk that takes nothing is complained about and tried again; what is not copied yet
comes again with the next look, as the ledger knows by which transaction a row was written.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, final

import orjson

from modelux._native import Ledger, LedgerError
from modelux.errors import StoreError
from modelux.log import Log
from modelux.store.copy import LedgerCopy, Named
from modelux.store.row import LedgerRow
from modelux.store.snapshot import SnapshotReader
from modelux.units import US_PER_MS, US_PER_S, MonoUs, UnixUs

COPY_US: Final = 500 * US_PER_MS
"""Half of what may be lost, so that a slow disk has the other half."""
DROP_US: Final = 3_600 * US_PER_S
COMPLAINT_US: Final = 10 * US_PER_S
S_A_DAY: Final = 86_400
JOIN_S: Final = 10.0


@final
class LedgerCopier:
    """One ledger and its copy. `turn` is one look; `start` has them taken in a thread."""

    def __init__(
        self,
        state_dir: Path,
        data_dir: Path,
        retention_days: int,
        log: Log,
        unix_us: Callable[[], UnixUs],
        mono_us: Callable[[], MonoUs],
    ) -> None:
        self._state_dir = state_dir
        self._data_dir = data_dir
        self._retention_s = retention_days * S_A_DAY
        self._log = log
        self._unix_us = unix_us
        self._mono_us = mono_us
        self._ledger: Ledger | None = None
        self._copy: LedgerCopy | None = None
        self._names = Names(state_dir)
        self._copied_txn_id = 0
        self._whole_us = mono_us()
        """When the copy was last known to be whole."""
        self._next_drop_us = 0
        self._complained_us = -COMPLAINT_US
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Copy from now on, in a thread, until `finish`."""
        assert self._thread is None, "started once"
        self._thread = threading.Thread(target=self._run, name="copier", daemon=True)
        self._thread.start()

    def has_died(self) -> bool:
        """Return whether a fault of ours has ended the thread."""
        return self._thread is not None and not self._thread.is_alive()

    def finish(self) -> None:
        """Copy once more, close, and end the thread."""
        if self._thread is None:
            self._end()
            return
        # By the thread itself: SQLite's connections stay with the thread that made them. A disk
        # that hangs is not waited for, the next start copies.
        self._stop.set()
        self._thread.join(JOIN_S)

    def age_us(self) -> int:
        """Return how old the copy may be: 0 to half a second where all is well."""
        return max(0, self._mono_us() - self._whole_us)

    def turn(self) -> int:
        """Copy what has changed; return how many rows that were.

        Raises:
            StoreError: The ledger cannot be read, or the copy not be written.
        """
        began_us = self._mono_us()
        try:
            if self._ledger is None:
                self._ledger = Ledger.open(self._state_dir)
            last_txn_id = self._ledger.info()["last_txn_id"]
            if last_txn_id == self._copied_txn_id:
                self._whole_us = began_us
                return 0
            txn_id, found = self._ledger.changed_since(self._copied_txn_id)
        except LedgerError as failure:
            raise StoreError(f"the ledger cannot be read: {failure}") from failure
        if not found:
            self._copied_txn_id = txn_id
            self._whole_us = began_us
            return 0
        if self._copy is None:
            self._copy = LedgerCopy(self._data_dir)
        rows = [LedgerRow.of(row) for row in found]
        written = self._copy.write(rows, self._names.current(), self._unix_us())
        for row in written.fallen:
            self._log.error(
                "ledger_says_less_than_its_copy",
                budget_id=row.budget_id.hex(),
                window_start_s=row.window_start_s,
                spent_nusd=row.spent_nusd,
            )
        self._copied_txn_id = txn_id
        self._whole_us = began_us
        self._drop_old(began_us)
        return written.rows

    def _drop_old(self, now_us: MonoUs) -> None:
        assert self._copy is not None, "opened before"
        if now_us >= self._next_drop_us:
            self._next_drop_us = now_us + DROP_US
            self._copy.drop_before(self._unix_us() // US_PER_S - self._retention_s)

    def _run(self) -> None:
        while not self._stop.wait(COPY_US / US_PER_S):
            self._try()
        self._end()

    def _end(self) -> None:
        self._try()
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _try(self) -> None:
        try:
            self.turn()
        except StoreError as failure:
            now_us = self._mono_us()
            if now_us - self._complained_us >= COMPLAINT_US:
                self._complained_us = now_us
                self._log.error("ledger_not_copied", why=str(failure))


@final
class Names:
    """What the published snapshot calls the budgets, read again when it changes."""

    __slots__ = ("_generation", "_named", "_reader", "_state_dir")

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._reader: SnapshotReader | None = None
        self._generation = 0
        self._named: Mapping[bytes, Named] = {}

    def current(self) -> Mapping[bytes, Named]:
        """Return names and caps by budget id; those of a moment ago where none can be read."""
        try:
            if self._reader is None:
                self._reader = SnapshotReader(self._state_dir)
            if self._reader.generation() != self._generation:
                self._generation, blob = self._reader.load()
                self._named = named_budgets(blob)
        except (StoreError, ValueError):
            pass  # Not published, or no JSON: a copy without names is better than none.
        return self._named


def named_budgets(blob: bytes) -> dict[bytes, Named]:
    """Return what a snapshot says of its budgets."""
    document = orjson.loads(blob)
    budgets = document.get("budgets", [])
    return {
        bytes.fromhex(one["id"]): Named(name=one["name"], cap_nusd=one["cap_nusd"])
        for one in budgets
    }
