//! One write transaction: everything that a worker holds and settles in one turn of its loop.
//!
//! LMDB admits one writer on the machine at a time, so between the check on a balance and the
//! hold nobody can spend. Each row is read once a turn and written once, when the turn commits;
//! dropped before that, a turn has never been.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use heed::{PutFlags, RwTxn};

use super::codec::{self, COUNT, HoldHead, INFO, ROW, StoredRow};
use super::env::Store;
use super::row::{Balance, BudgetId, RowKey, SubjectId};
use super::watch::Watch;
use super::{HoldRow, LedgerFault, Settled};

/// Most budgets that one hold may count against.
pub const HOLD_ROWS_MAX: usize = 4_096;

/// Beyond this part of the map no row is made: what is there can still be settled.
const ROWS_PART: (u64, u64) = (7, 8);
/// Beyond this part nothing is held at all.
const HOLDS_PART: (u64, u64) = (15, 16);

/// The rows that a turn has read, kept between turns for their memory only.
#[derive(Default)]
pub(super) struct Scratch {
    rows: Vec<CachedRow>,
    places: HashMap<RowKey, usize, BuildHasherDefault<KeyHasher>>,
    bytes: Vec<u8>,
    keys: Vec<usize>,
    /// Pages that were taken when stale readers were last looked for.
    looked_at_pages: u64,
}

struct CachedRow {
    key: RowKey,
    balance: Balance,
    holds: u32,
    is_new: bool,
    is_changed: bool,
}

/// An open write transaction.
pub struct Turn<'l> {
    txn: Option<RwTxn<'l>>,
    store: &'l Store,
    scratch: &'l mut Scratch,
    watch: Option<&'l Watch>,
    generation: u64,
    /// Pages in use when the turn began, looked up when first needed.
    pages: Option<u64>,
    /// Why a write failed: what it left half done can only be dropped.
    broken: Option<LedgerFault>,
}

impl<'l> Turn<'l> {
    pub(super) fn begin(
        store: &'l Store,
        scratch: &'l mut Scratch,
        watch: Option<&'l Watch>,
        generation: u64,
    ) -> Result<Self, LedgerFault> {
        scratch.rows.clear();
        scratch.places.clear();
        // A reader that was killed keeps every page that was freed since from being used again.
        // Somebody looks for such readers every few seconds; where room gets short, now is better.
        let taken = store.pages_taken();
        if taken > store.pages_max() / 4 * 3 && taken > scratch.looked_at_pages {
            store.env.clear_stale_readers()?;
            scratch.looked_at_pages = taken + store.pages_max() / 64;
        }
        if let Some(watch) = watch {
            watch.waits();
        }
        let begun = store.env.write_txn();
        match &begun {
            Ok(_) => watch.inspect(|watch| watch.holds()),
            Err(_) => watch.inspect(|watch| watch.rests()),
        };
        Ok(Self {
            txn: Some(begun?),
            store,
            scratch,
            watch,
            generation,
            pages: None,
            broken: None,
        })
    }

    /// The number of this transaction; what it writes carries it.
    ///
    /// # Errors
    /// A turn that already failed.
    pub fn id(&mut self) -> Result<u64, LedgerFault> {
        Ok(self.txn()?.id() as u64)
    }

    /// What stands in a row by now, this turn's own steps included; zeroes if there is none.
    ///
    /// # Errors
    /// A row that contradicts its layout, or a turn that already failed; so do all of these.
    pub fn balance(&mut self, key: &RowKey) -> Result<Balance, LedgerFault> {
        let place = self.load(key)?;
        Ok(self.scratch.rows[place].balance)
    }

    /// Whether a hold on this row would make it.
    ///
    /// # Errors
    /// As for `balance`.
    pub fn is_new(&mut self, key: &RowKey) -> Result<bool, LedgerFault> {
        let place = self.load(key)?;
        Ok(self.scratch.rows[place].is_new)
    }

    /// Distinct subjects of a `*` budget that have a row in the window; the overflow row is none.
    ///
    /// # Errors
    /// As for `balance`.
    pub fn subjects(
        &mut self,
        budget: &BudgetId,
        window_start_s: i64,
    ) -> Result<u64, LedgerFault> {
        let key = RowKey::new(budget, SubjectId::NONE, window_start_s);
        let store = self.store;
        count_of(store, self.txn()?, &key)
    }

    /// Hold `amount_nusd` on every row, and make rows that are missing. The caller has compared
    /// the balances with the caps, in this turn.
    ///
    /// A hold whose `seq` is in use is a bug, and reported as [`LedgerFault::Inconsistent`].
    ///
    /// # Errors
    /// [`LedgerFault::Full`]: there is no room; nothing was changed, and settles go on.
    ///
    /// # Panics
    /// On no row, or more than [`HOLD_ROWS_MAX`].
    pub fn hold(
        &mut self,
        seq: u64,
        request: [u8; 16],
        slot: u32,
        amount_nusd: u64,
        deadline_us: u64,
        rows: &[HoldRow<'_>],
    ) -> Result<(), LedgerFault> {
        assert!(!rows.is_empty() && rows.len() <= HOLD_ROWS_MAX, "{} rows", rows.len());
        self.scratch.keys.clear();
        let mut makes_rows = false;
        for row in rows {
            let place = self.load(&row.key)?;
            let cached = &self.scratch.rows[place];
            makes_rows |= cached.is_new;
            // The whole claim, so that no later settle can meet a sum that does not fit.
            let Balance { spent_nusd, held_nusd, .. } = cached.balance;
            if held_nusd
                .checked_add(amount_nusd)
                .and_then(|held| held.checked_add(spent_nusd))
                .is_none()
            {
                return Err(too_much(&row.key));
            }
            self.scratch.keys.push(place);
        }
        self.check_room(makes_rows)?;
        self.txn()?;
        let key = codec::of_hold(self.generation, seq);
        let head = HoldHead { amount_nusd, deadline_us, slot, request };
        codec::encode_hold(&head, rows, &mut self.scratch.bytes);
        let store = self.store;
        let Self { txn: Some(txn), scratch, .. } = self else { return Err(failed()) };
        let put =
            store.records.put_with_flags(txn, PutFlags::NO_OVERWRITE, &key, &scratch.bytes);
        if let Err(heed::Error::Mdb(heed::MdbError::KeyExist)) = put {
            return Err(LedgerFault::Inconsistent(format!("hold {seq} exists already")));
        }
        self.unless_broken(put)?;
        for (index, row) in rows.iter().enumerate() {
            let place = self.scratch.keys[index];
            self.make(place, row)?;
            let cached = &mut self.scratch.rows[place];
            cached.balance.held_nusd += amount_nusd;
            cached.holds += 1;
            cached.is_changed = true;
        }
        Ok(())
    }

    /// End a hold: what it held is free again, and `charge_nusd` is spent on each of its rows.
    ///
    /// A release is a settle with 0. `requests` counts what was charged.
    ///
    /// Returns None where there is no such hold: it was settled before, and exactly once.
    ///
    /// # Errors
    /// A row that holds less than the hold says; nothing was changed.
    pub fn settle(
        &mut self,
        seq: u64,
        charge_nusd: u64,
    ) -> Result<Option<Settled>, LedgerFault> {
        let generation = self.generation;
        self.settle_of(generation, seq, charge_nusd, Cause::Settle)
    }

    pub(super) fn settle_of(
        &mut self,
        generation: u64,
        seq: u64,
        charge_nusd: u64,
        cause: Cause,
    ) -> Result<Option<Settled>, LedgerFault> {
        let key = codec::of_hold(generation, seq);
        let mut bytes = std::mem::take(&mut self.scratch.bytes);
        let store = self.store;
        let found = store.records.get(self.txn()?, &key)?.map(|found| {
            bytes.clear();
            bytes.extend_from_slice(found);
        });
        let settled = match found {
            Some(()) => self.end(&key, &bytes, charge_nusd, cause).map(Some),
            None => Ok(None),
        };
        self.scratch.bytes = bytes;
        settled
    }

    /// Move the money of one hold and delete it, in this order: only the last can fail midway.
    fn end(
        &mut self,
        key: &[u8],
        hold: &[u8],
        charge_nusd: u64,
        cause: Cause,
    ) -> Result<Settled, LedgerFault> {
        let (head, keys) = codec::decode_hold(hold)?;
        self.scratch.keys.clear();
        for row in keys {
            let place = self.load(&row)?;
            let CachedRow { balance: Balance { spent_nusd, held_nusd, .. }, holds, .. } =
                self.scratch.rows[place];
            if held_nusd < head.amount_nusd || holds == 0 {
                return Err(LedgerFault::Inconsistent(format!(
                    "row {row:?} says {holds} holds of {held_nusd}, one of them is {}",
                    head.amount_nusd
                )));
            }
            if spent_nusd.checked_add(charge_nusd).is_none() {
                return Err(too_much(&row));
            }
            self.scratch.keys.push(place);
        }
        let store = self.store;
        let txn = self.txn()?;
        let deleted = store.records.delete(txn, key);
        self.unless_broken(deleted)?;
        let overrun_nusd = charge_nusd.saturating_sub(head.amount_nusd);
        let Scratch { rows, keys, .. } = &mut *self.scratch;
        for place in keys.iter() {
            let row = &mut rows[*place];
            row.holds -= 1;
            let balance = &mut row.balance;
            balance.held_nusd -= head.amount_nusd;
            balance.spent_nusd += charge_nusd;
            balance.overrun_nusd += overrun_nusd;
            balance.overruns += u64::from(overrun_nusd > 0);
            balance.requests += u64::from(charge_nusd > 0);
            if cause == Cause::Crash {
                balance.crash_nusd += charge_nusd;
            }
            row.is_changed = true;
        }
        Ok(Settled { amount_nusd: head.amount_nusd, overrun_nusd })
    }

    /// Raise flags of a row, which is made if it is missing. Flags are never lowered.
    ///
    /// # Errors
    /// [`LedgerFault::Full`]: there is no room to make the row.
    pub fn flag(&mut self, row: &HoldRow<'_>, flags: u32) -> Result<(), LedgerFault> {
        let place = self.load(&row.key)?;
        if self.scratch.rows[place].balance.flags & flags == flags {
            return Ok(());
        }
        self.check_room(self.scratch.rows[place].is_new)?;
        self.make(place, row)?;
        let cached = &mut self.scratch.rows[place];
        cached.balance.flags |= flags;
        cached.is_changed = true;
        Ok(())
    }

    /// Let everyone see what this turn did.
    ///
    /// # Errors
    /// [`LedgerFault::Full`]: nothing of it has happened. Smaller turns that only settle have
    /// room; a turn that fails alone is reported by the caller and tried again later.
    pub fn commit(mut self) -> Result<(), LedgerFault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        let Some(txn) = self.txn.take() else { return Err(failed()) };
        let committed = write(self.store, txn, &self.scratch.rows);
        Ok(committed?)
    }

    /// Whether a live hold names the row.
    pub(super) fn is_held(&mut self, key: &RowKey) -> Result<bool, LedgerFault> {
        let place = self.load(key)?;
        Ok(self.scratch.rows[place].holds > 0)
    }

    /// Change a row outside of holds: what the keeper sets and adds.
    pub(super) fn change(
        &mut self,
        row: &HoldRow<'_>,
        change: impl FnOnce(&mut Balance),
    ) -> Result<(), LedgerFault> {
        let place = self.load(&row.key)?;
        self.make(place, row)?;
        let cached = &mut self.scratch.rows[place];
        change(&mut cached.balance);
        cached.is_changed = true;
        Ok(())
    }

    pub(super) fn get(&mut self, key: &[u8]) -> Result<Option<&[u8]>, LedgerFault> {
        let store = self.store;
        Ok(store.records.get(self.txn()?, key)?)
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), LedgerFault> {
        let store = self.store;
        let put = store.records.put(self.txn()?, key, value);
        self.unless_broken(put)
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> Result<(), LedgerFault> {
        let store = self.store;
        let deleted = store.records.delete(self.txn()?, key);
        self.unless_broken(deleted).map(|_| ())
    }

    /// Where the row lies in this turn's memory, read from the map if it was not yet.
    fn load(&mut self, key: &RowKey) -> Result<usize, LedgerFault> {
        if let Some(place) = self.scratch.places.get(key) {
            return Ok(*place);
        }
        let store = self.store;
        let found = match store.records.get(self.txn()?, &codec::of_row(ROW, key))? {
            Some(bytes) => Some(codec::decode_row(bytes)?),
            None => None,
        };
        let StoredRow { balance, holds, .. } = found.unwrap_or_default();
        let place = self.scratch.rows.len();
        self.scratch.rows.push(CachedRow {
            key: *key,
            balance,
            holds,
            is_new: found.is_none(),
            is_changed: false,
        });
        self.scratch.places.insert(*key, place);
        Ok(place)
    }

    /// Write down whose row it is, the first time.
    fn make(&mut self, place: usize, row: &HoldRow<'_>) -> Result<(), LedgerFault> {
        if !self.scratch.rows[place].is_new {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.scratch.bytes);
        codec::encode_info(row.window_end_s, row.subject, &mut bytes);
        let put = self.put(&codec::of_row(INFO, &row.key), &bytes);
        self.scratch.bytes = bytes;
        put?;
        if is_one_of_many(&row.key) {
            let store = self.store;
            let count = count_of(store, self.txn()?, &row.key)? + 1;
            self.put(&codec::of_count(&row.key), &count.to_le_bytes())?;
        }
        self.scratch.rows[place].is_new = false;
        Ok(())
    }

    fn check_room(&mut self, makes_rows: bool) -> Result<(), LedgerFault> {
        let pages = match self.pages {
            Some(pages) => pages,
            None => {
                let store = self.store;
                let pages = store.pages_used(self.txn()?)?;
                self.pages = Some(pages);
                pages
            }
        };
        let (part, of) = if makes_rows { ROWS_PART } else { HOLDS_PART };
        if pages * of > self.store.pages_max() * part {
            return Err(LedgerFault::Full);
        }
        Ok(())
    }

    fn txn(&mut self) -> Result<&mut RwTxn<'l>, LedgerFault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        self.txn.as_mut().ok_or_else(failed)
    }

    fn unless_broken<T>(&mut self, result: heed::Result<T>) -> Result<T, LedgerFault> {
        result.map_err(|error| self.broken.insert(error.into()).clone())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // The lock first: what the cells say must never be less than what is held.
        drop(self.txn.take());
        if let Some(watch) = self.watch {
            watch.rests();
        }
    }
}

/// Why a hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its worker says so.
    Settle,
    /// Its worker died with the request under way.
    Crash,
}

/// Write every row that changed, and commit.
fn write(store: &Store, mut txn: RwTxn<'_>, rows: &[CachedRow]) -> heed::Result<()> {
    let id = txn.id() as u64;
    for row in rows.iter().filter(|row| row.is_changed) {
        let CachedRow { balance, holds, .. } = *row;
        let bytes = codec::encode_row(&StoredRow { txn_id: id, balance, holds });
        store.records.put(&mut txn, &codec::of_row(ROW, &row.key), &bytes)?;
    }
    txn.commit()
}

fn count_of(store: &Store, txn: &RwTxn<'_>, key: &RowKey) -> Result<u64, LedgerFault> {
    debug_assert_eq!(codec::of_count(key)[0], COUNT);
    store.records.get(txn, &codec::of_count(key))?.map_or(Ok(0), codec::decode_number)
}

/// Whether the row is that of one value of a `*`, and not the one that all others share.
pub(super) fn is_one_of_many(key: &RowKey) -> bool {
    !matches!(key.subject(), SubjectId::NONE | SubjectId::OVERFLOW)
}

fn too_much(key: &RowKey) -> LedgerFault {
    LedgerFault::Inconsistent(format!("row {key:?}: more than 2^64 nano-USD"))
}

fn failed() -> LedgerFault {
    LedgerFault::Inconsistent("a turn that has ended was used".to_owned())
}

/// Keys are hashes in two of their three parts; mixing their words is enough.
#[derive(Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let mixed = self.0.rotate_left(5) ^ u64::from_le_bytes(word);
            self.0 = mixed.wrapping_mul(0x517C_C1B7_2722_0A95);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
