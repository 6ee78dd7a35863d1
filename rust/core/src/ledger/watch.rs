//! What a worker shows of its way through the ledger's lock, in cells that outlive it.
//!
//! The supervisor reads them to tell a process that holds the lock from one that only waits for
//! it, and the lock's share of the time is a metric.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::cells::{Cell, Cells};

/// [`Cell::LedgerState`]: not in the ledger.
pub const LEDGER_RESTS: u64 = 0;
/// [`Cell::LedgerState`]: waits for the lock.
pub const LEDGER_WAITS: u64 = 1;
/// [`Cell::LedgerState`]: holds the lock.
pub const LEDGER_HOLDS: u64 = 2;

/// One worker's marks.
pub(super) struct Watch {
    cells: Cells,
    slot: u32,
    origin: Instant,
    /// ns since `origin` at which the present state began.
    since_ns: AtomicU64,
    waited: Total,
    held: Total,
}

/// A sum of times, most of which are far below the µs that its cell counts.
struct Total {
    cell: Cell,
    ns: AtomicU64,
}

impl Watch {
    pub(super) fn new(cells: Cells, slot: u32) -> Self {
        cells.set(Cell::LedgerState(slot), LEDGER_RESTS);
        let waited = Total::from(&cells, Cell::LedgerWaitUs(slot));
        let held = Total::from(&cells, Cell::LedgerHeldUs(slot));
        let since_ns = AtomicU64::new(0);
        Self { cells, slot, origin: Instant::now(), since_ns, waited, held }
    }

    pub(super) fn waits(&self) {
        self.cells.set(Cell::LedgerState(self.slot), LEDGER_WAITS);
        self.lap_ns();
    }

    pub(super) fn holds(&self) {
        self.cells.set(Cell::LedgerState(self.slot), LEDGER_HOLDS);
        let waited_ns = self.lap_ns();
        self.waited.add(&self.cells, waited_ns);
        self.cells.add(Cell::LedgerTurns(self.slot), 1);
        let longest = Cell::LedgerWaitMaxUs(self.slot);
        if waited_ns.div_ceil(1_000) > self.cells.get(longest) {
            self.cells.set(longest, waited_ns.div_ceil(1_000));
        }
    }

    pub(super) fn rests(&self) {
        if self.cells.get(Cell::LedgerState(self.slot)) == LEDGER_HOLDS {
            self.held.add(&self.cells, self.lap_ns());
        }
        self.cells.set(Cell::LedgerState(self.slot), LEDGER_RESTS);
    }

    /// The ns since the last call.
    fn lap_ns(&self) -> u64 {
        let present_ns = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        present_ns.saturating_sub(self.since_ns.swap(present_ns, Ordering::Relaxed))
    }
}

impl Total {
    /// Go on where the worker that had the slot before has stopped.
    fn from(cells: &Cells, cell: Cell) -> Self {
        Self { cell, ns: AtomicU64::new(cells.get(cell).saturating_mul(1_000)) }
    }

    fn add(&self, cells: &Cells, more_ns: u64) {
        let sum_ns = self.ns.fetch_add(more_ns, Ordering::Relaxed).saturating_add(more_ns);
        cells.set(self.cell, sum_ns / 1_000);
    }
}
