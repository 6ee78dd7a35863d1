//! A ledger in a folder of its own, and rows to hold on.

use std::path::Path;

use modelux_core::ledger::row::{Balance, RowKey, SubjectId};
use modelux_core::ledger::{HoldRow, Ledger, MAP_BYTES_MIN};

pub const STAMP: &str = "boot 1";
pub const BUDGET: [u8; 16] = [1; 16];
pub const OTHER: [u8; 16] = [2; 16];

pub struct Bench {
    dir: tempfile::TempDir,
    pub ledger: Ledger,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = create(dir.path());
        Self { dir, ledger }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Hold in a turn of its own.
    pub fn hold(&mut self, seq: u64, slot: u32, amount_nusd: u64, rows: &[HoldRow<'_>]) {
        hold(&mut self.ledger, seq, slot, amount_nusd, rows);
    }

    /// Settle in a turn of its own.
    pub fn settle(&mut self, seq: u64, charge_nusd: u64) {
        let mut turn = self.ledger.turn().unwrap();
        assert!(turn.settle(seq, charge_nusd).unwrap().is_some());
        turn.commit().unwrap();
    }

    pub fn balance(&self, key: &RowKey) -> Balance {
        self.ledger.row(key).unwrap().map(|row| row.balance).unwrap_or_default()
    }
}

pub fn create(dir: &Path) -> Ledger {
    Ledger::create(dir, MAP_BYTES_MIN, STAMP).unwrap()
}

pub fn hold(ledger: &mut Ledger, seq: u64, slot: u32, amount: u64, rows: &[HoldRow<'_>]) {
    let mut turn = ledger.turn().unwrap();
    turn.hold(seq, [7; 16], slot, amount, 9, rows).unwrap();
    turn.commit().unwrap();
}

/// The one row of a budget in the window that begins at 0.
pub fn row_of(budget: [u8; 16]) -> HoldRow<'static> {
    let key = RowKey::new(&budget, SubjectId::NONE, 0);
    HoldRow { key, subject: "", window_end_s: Some(86_400) }
}

/// The row of one value of a `*` budget.
pub fn row_for(budget: [u8; 16], subject: &str, start_s: i64) -> HoldRow<'_> {
    let key = RowKey::new(&budget, SubjectId::of(&[subject]), start_s);
    HoldRow { key, subject, window_end_s: Some(start_s + 86_400) }
}
