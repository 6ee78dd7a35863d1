//! The ledger: what every budget has spent and holds, in memory that all workers share.
//!
//! Nobody spends what others may be spending at that moment: before a request is sent, what it
//! may cost at most is *held* on the row of every budget that it counts against, and when it
//! ends, the hold becomes what was charged. Both happen in a [`Turn`], the one write transaction
//! that a worker makes in a turn of its event loop. A hold is a record beside the balances, so
//! that what a dead worker held can be ended by others ([`recover()`]), and its deletion moves the
//! money in the same transaction: exactly once, whoever is killed when.
//!
//! ```text
//! workers ── turn: hold, settle ──►┌────────────┐◄── recover, credits, backfill ── supervisor
//!                                  │ ledger.mdb │
//! workers ── slots.<generation>    └─────┬──────┘──► changed rows ── trace writer ──► ledger.db
//! ```
//!
//! `row` has the nouns, `codec` the layout, `env` the map, `turn` the transaction, `slots` what
//! a worker has sent, `recover` the end of a dead worker's holds, `keep` what only the
//! supervisor does, `window` the calendar.

mod codec;
#[expect(unsafe_code, reason = "opening a map: that nobody else changes the file is a promise")]
mod env;
mod keep;
mod recover;
pub mod row;
mod slots;
mod turn;
mod watch;
pub mod window;

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use self::codec::{HOLD, INFO, ROW};
use self::env::Store;
pub use self::env::{MAP_BYTES_MAX, MAP_BYTES_MIN, discard};
pub use self::keep::{BOUND_OVERRUNS, BOUND_SPAN_US, BoundFactor};
pub use self::recover::{Recovered, recover};
use self::row::{Balance, RowKey};
pub use self::slots::{Phase, SLOTS_MAX, Slots};
use self::turn::Scratch;
pub use self::turn::{HOLD_ROWS_MAX, Turn};
use self::watch::Watch;
pub use self::watch::{LEDGER_HOLDS, LEDGER_RESTS, LEDGER_WAITS};
use crate::cells::Cells;

/// Rows that one read transaction looks at: while it lives, no page that was freed is used again.
const READ_ROWS_MAX: usize = 1_024;

/// Why the ledger cannot do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerFault {
    /// No room: for a new row, for a hold, or for what a turn wrote.
    Full,
    /// What stands in the map contradicts itself, or what was asked contradicts it.
    Inconsistent(String),
    /// The system refused.
    Io(String),
    /// The map is missing, unfinished, a copy, of another boot or of another layout.
    NotOurs(String),
}

impl fmt::Display for LedgerFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => out.write_str("the ledger is full"),
            Self::Inconsistent(why) => write!(out, "the ledger contradicts itself: {why}"),
            Self::Io(why) | Self::NotOurs(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for LedgerFault {}

impl From<io::Error> for LedgerFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// A row that a hold counts against, and what is written down of it when it is made.
#[derive(Clone, Copy, Debug)]
pub struct HoldRow<'a> {
    /// Which row.
    pub key: RowKey,
    /// Whose, as text.
    pub subject: &'a str,
    /// The end of its window, in seconds since 1970; None: it never ends.
    pub window_end_s: Option<i64>,
}

/// What a settled hold came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What was held.
    pub amount_nusd: u64,
    /// What was charged above it.
    pub overrun_nusd: u64,
}

/// A row as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowView {
    /// Which row.
    pub key: RowKey,
    /// Whose, as text.
    pub subject: String,
    /// The end of its window, in seconds since 1970; None: it never ends.
    pub window_end_s: Option<i64>,
    /// What stands there.
    pub balance: Balance,
}

/// The state of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its size.
    pub map_bytes: u64,
    /// What of it is in use.
    pub used_bytes: u64,
    /// Places for readers that were ever in use at once.
    pub readers: u32,
    /// The last transaction that was committed.
    pub last_txn_id: u64,
    /// Live holds.
    pub holds: u64,
    /// Tells this map from every other; transaction numbers of two maps do not compare.
    pub identity: u64,
}

/// The ledger, as one process has it open.
pub struct Ledger {
    store: Store,
    state_dir: PathBuf,
    scratch: Scratch,
    watch: Option<Watch>,
    generation: u64,
}

impl Ledger {
    /// Make the map in `state_dir` with all of its room reserved, or take over the one there.
    ///
    /// For the supervisor, before anything else uses it. A map that is there is not checked
    /// record by record: [`Ledger::verify`] does. Its size stays what it was.
    ///
    /// # Errors
    /// [`LedgerFault::NotOurs`]: the map there was made under another `stamp` (a boot id, say),
    /// or is damaged or a copy. It is left as it is; [`discard`] removes it.
    pub fn create(state_dir: &Path, map_bytes: u64, stamp: &str) -> Result<Self, LedgerFault> {
        Ok(Self::of(Store::create(state_dir, map_bytes, stamp)?, state_dir, 0))
    }

    /// Open the map that a supervisor made.
    ///
    /// # Errors
    /// [`LedgerFault::NotOurs`]: there is none, or not a whole one.
    pub fn open(state_dir: &Path) -> Result<Self, LedgerFault> {
        Self::open_worker(state_dir, 0)
    }

    /// Open the map for the worker of a generation, whose number its holds carry.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_worker(state_dir: &Path, generation: u64) -> Result<Self, LedgerFault> {
        Ok(Self::of(Store::open(state_dir)?, state_dir, generation))
    }

    fn of(store: Store, state_dir: &Path, generation: u64) -> Self {
        let scratch = Scratch::default();
        Self { store, state_dir: state_dir.to_owned(), scratch, watch: None, generation }
    }

    /// Another view of this map in the same process: a file is opened once a process.
    #[must_use]
    pub fn as_worker(&self, generation: u64) -> Self {
        Self::of(self.store.clone(), &self.state_dir, generation)
    }

    /// Mark in `cells` when this process waits for the lock and when it holds it.
    pub fn watch(&mut self, cells: Cells, slot: u32) {
        self.watch = Some(Watch::new(cells, slot));
    }

    /// The generation that this process holds for.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Begin the write transaction of this turn; waits while another process is in one.
    ///
    /// # Errors
    /// [`LedgerFault::Io`]: the lock cannot be had.
    pub fn turn(&mut self) -> Result<Turn<'_>, LedgerFault> {
        let Self { store, scratch, watch, generation, .. } = self;
        Turn::begin(store, scratch, watch.as_ref(), *generation)
    }

    /// The row of `key`; None if there is none.
    ///
    /// # Errors
    /// A record that contradicts its layout; so do all of these.
    pub fn row(&self, key: &RowKey) -> Result<Option<RowView>, LedgerFault> {
        let txn = self.store.env.read_txn()?;
        match self.store.records.get(&txn, &codec::of_row(ROW, key))? {
            Some(bytes) => {
                let row = codec::decode_row(bytes)?;
                Ok(Some(self.view(&txn, *key, row.balance)?))
            }
            None => Ok(None),
        }
    }

    /// Every row, in the order of the keys. Not of one instant: it reads in pieces.
    ///
    /// # Errors
    /// As for `row`.
    pub fn rows(&self) -> Result<Vec<RowView>, LedgerFault> {
        Ok(self.changed_since(0)?.1)
    }

    /// The rows that a transaction after `txn_id` wrote, and the number to ask with next time.
    ///
    /// A row that changes while this reads comes again next time. Numbers hold for one
    /// [`Info::identity`]; for another map begin at 0.
    ///
    /// # Errors
    /// As for `row`.
    pub fn changed_since(&self, txn_id: u64) -> Result<(u64, Vec<RowView>), LedgerFault> {
        let mut views = Vec::new();
        let mut seen_txn_id = None;
        self.scan(ROW, |txn, key, value| {
            seen_txn_id.get_or_insert(txn.id() as u64);
            let row = codec::decode_row(value)?;
            if row.txn_id > txn_id {
                views.push(self.view(txn, codec::row_of(key)?, row.balance)?);
            }
            Ok(())
        })?;
        Ok((seen_txn_id.unwrap_or(txn_id), views))
    }

    fn view(
        &self,
        txn: &heed::RoTxn<'_>,
        key: RowKey,
        balance: Balance,
    ) -> Result<RowView, LedgerFault> {
        let info = self.store.records.get(txn, &codec::of_row(INFO, &key))?;
        let info = info.ok_or_else(|| {
            LedgerFault::Inconsistent(format!("row {key:?} does not say whose it is"))
        })?;
        let (window_end_s, subject) = codec::decode_info(info)?;
        Ok(RowView { key, subject: subject.to_owned(), window_end_s, balance })
    }

    /// Look at all records of one kind, a bounded number in each read transaction.
    fn scan(
        &self,
        kind: u8,
        mut look: impl FnMut(&heed::RoTxn<'_>, &[u8], &[u8]) -> Result<(), LedgerFault>,
    ) -> Result<(), LedgerFault> {
        let end = [kind + 1];
        let mut last = vec![kind];
        loop {
            let txn = self.store.env.read_txn()?;
            let span: (Bound<&[u8]>, Bound<&[u8]>) =
                (Bound::Excluded(&last[..]), Bound::Excluded(&end[..]));
            let mut next = None;
            for (count, record) in self.store.records.range(&txn, &span)?.enumerate() {
                let (key, value) = record?;
                look(&txn, key, value)?;
                if count + 1 == READ_ROWS_MAX {
                    next = Some(key.to_vec());
                    break;
                }
            }
            match next {
                Some(key) => last = key,
                None => return Ok(()),
            }
        }
    }

    /// The state of the map.
    ///
    /// # Errors
    /// As for `row`.
    pub fn info(&self) -> Result<Info, LedgerFault> {
        let mut holds = 0;
        self.scan(HOLD, |_, _, _| {
            holds += 1;
            Ok(())
        })?;
        let info = self.store.env.info();
        let txn = self.store.env.read_txn()?;
        Ok(Info {
            map_bytes: self.store.map_bytes,
            used_bytes: self.store.pages_used(&txn)? * self.store.page_bytes,
            readers: info.number_of_readers,
            last_txn_id: txn.id() as u64,
            holds,
            identity: self.store.identity,
        })
    }

    /// The stamp that the map was made with.
    ///
    /// # Errors
    /// As for `row`.
    pub fn stamp(&self) -> Result<String, LedgerFault> {
        self.store.stamp()
    }
}
