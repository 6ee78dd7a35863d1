"""How the budgets of a running node stand, for its metrics: from snapshot and ledger.

Both are shared memory, so a look costs no process anything. Nothing is kept but what the
snapshot said last.
"""

import json
from pathlib import Path
from typing import final

from modelux.store.budgets import Budget, Standing, rows_of_map, standings
from modelux.store.snapshot import SnapshotReader


@final
class BudgetReader:
    """Looks at what the supervisor has published and the workers have written."""

    __slots__ = ("_budgets", "_generation", "_snapshot", "_state_dir")

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._snapshot: SnapshotReader | None = None
        self._generation = 0
        self._budgets: tuple[Budget, ...] = ()

    def standings(self, now_s: int) -> list[Standing]:
        """Return how each budget stands.

        Raises:
            StoreError: Snapshot or ledger cannot be read.
        """
        if self._snapshot is None:
            self._snapshot = SnapshotReader(self._state_dir)
        if self._snapshot.generation() != self._generation:
            self._generation, blob = self._snapshot.load()
            self._budgets = tuple(map(Budget.of, json.loads(blob)["budgets"]))
        if not self._budgets:
            return []
        return standings(self._budgets, rows_of_map(self._state_dir), now_s)
