//! What only the supervisor's keeper does to the ledger, in pieces: no step of it holds the lock
//! for longer than a turn of a busy worker, and each may be killed and done again.

use std::collections::{BTreeSet, HashMap};

use sha2::{Digest, Sha256};

use super::codec::{self, COUNT, FACTOR, HOLD, INFO, KNOWN, META, ROW, StoredRow};
use super::row::{Balance, BudgetId, RowKey};
use super::turn::{Turn, is_one_of_many};
use super::{HoldRow, Ledger, LedgerFault, RowView, slots};

/// Overruns of one model within [`BOUND_SPAN_US`] after which its bound is multiplied.
pub const BOUND_OVERRUNS: usize = 3;
/// See [`BOUND_OVERRUNS`]: an hour.
pub const BOUND_SPAN_US: u64 = 3_600_000_000;

/// Rows that one transaction of the keeper changes: about 0.2 ms.
const KEEP_ROWS_MAX: usize = 128;

const FACTOR_HEAD_BYTES: usize = 8 + 8 * BOUND_OVERRUNS;
const FACTORS: &str = "factors";
const IMPORTING: &str = "importing";

/// What the bound of a model is multiplied by, because it was billed above its holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundFactor {
    /// Provider and model, as the recorder of the overruns named them.
    pub target: String,
    /// The factor in thousandths; 1,000 as long as the overruns are too few.
    pub factor_permille: u32,
    /// The worst ratio of charge to bound, in thousandths, rounded up.
    pub worst_permille: u32,
}

impl Ledger {
    /// Set rows to what a copy says, with what it held counted as spent.
    ///
    /// Until all are set, `verify` fails. To be done before anything is held.
    ///
    /// # Errors
    /// [`LedgerFault::Full`]: the map is too small for the copy.
    /// [`LedgerFault::Inconsistent`]: a row holds something, or a sum is too large.
    pub fn import(&mut self, rows: &[RowView]) -> Result<(), LedgerFault> {
        let mut turn = self.turn()?;
        turn.put(&codec::of_meta(IMPORTING), b"")?;
        turn.commit()?;
        for part in rows.chunks(KEEP_ROWS_MAX) {
            let mut turn = self.turn()?;
            for row in part {
                let Balance { spent_nusd, held_nusd, crash_nusd, .. } = row.balance;
                let spent_nusd = spent_nusd.checked_add(held_nusd);
                let crash_nusd = crash_nusd.checked_add(held_nusd);
                let (Some(spent_nusd), Some(crash_nusd)) = (spent_nusd, crash_nusd) else {
                    return Err(LedgerFault::Inconsistent(format!(
                        "row {:?} of the copy: more than 2^64 nano-USD",
                        row.key
                    )));
                };
                if turn.is_held(&row.key)? {
                    return Err(LedgerFault::Inconsistent(format!(
                        "row {:?} is imported while it holds",
                        row.key
                    )));
                }
                let after = Balance { spent_nusd, held_nusd: 0, crash_nusd, ..row.balance };
                turn.change(&row.as_hold_row(), |balance| *balance = after)?;
            }
            turn.commit()?;
        }
        let mut turn = self.turn()?;
        turn.delete(&codec::of_meta(IMPORTING))?;
        turn.commit()
    }

    /// Set the credits of a row to the sum of all that were ever given; the row is made if it is
    /// missing. Done twice it changes nothing.
    ///
    /// # Errors
    /// No room.
    pub fn set_credits(
        &mut self,
        row: &HoldRow<'_>,
        credits_nusd: u64,
    ) -> Result<(), LedgerFault> {
        let mut turn = self.turn()?;
        if turn.balance(&row.key)?.credits_nusd == credits_nusd {
            return Ok(());
        }
        turn.change(row, |balance| balance.credits_nusd = credits_nusd)?;
        turn.commit()
    }

    /// Drop the rows whose window ended at or before `before_s` and that no hold names.
    ///
    /// `copied_txn_id`: rows that a later transaction wrote stay, as no copy has them yet.
    ///
    /// Returns how many were dropped.
    ///
    /// # Errors
    /// A record that contradicts its layout.
    pub fn drop_past(
        &mut self,
        before_s: i64,
        copied_txn_id: u64,
    ) -> Result<usize, LedgerFault> {
        let mut past = Vec::new();
        self.scan(INFO, |_, key, value| {
            if codec::decode_info(value)?.0.is_some_and(|end_s| end_s <= before_s) {
                past.push(codec::row_of(key)?);
            }
            Ok(())
        })?;
        let mut dropped = 0;
        for part in past.chunks(KEEP_ROWS_MAX) {
            let mut turn = self.turn()?;
            for key in part {
                dropped += usize::from(turn.drop_row(key, copied_txn_id)?);
            }
            turn.commit()?;
        }
        Ok(dropped)
    }

    /// Add what traces show as spent to the rows of a budget that is not known yet; after that,
    /// known it is. Without rows it only becomes known.
    ///
    /// Killed in between it goes on after the last row it added, so `rows` may be found anew.
    ///
    /// Returns whether the budget was unknown.
    ///
    /// # Errors
    /// No room, or a sum that is too large.
    pub fn add_backfill(
        &mut self,
        budget: &BudgetId,
        rows: &[(HoldRow<'_>, u64)],
    ) -> Result<bool, LedgerFault> {
        let marker = codec::of_budget(KNOWN, budget);
        let done = {
            let mut turn = self.turn()?;
            turn.get(&marker)?.map(<[u8]>::to_vec)
        };
        if done.as_ref().is_some_and(Vec::is_empty) {
            return Ok(false);
        }
        let last = done.as_deref().and_then(RowKey::from_bytes);
        let mut rows: Vec<&(HoldRow<'_>, u64)> =
            rows.iter().filter(|(row, _)| last.is_none_or(|last| row.key > last)).collect();
        rows.sort_unstable_by_key(|(row, _)| row.key);
        for part in rows.chunks(KEEP_ROWS_MAX) {
            let mut turn = self.turn()?;
            for (row, spent_nusd) in part {
                if turn.balance(&row.key)?.spent_nusd.checked_add(*spent_nusd).is_none() {
                    return Err(LedgerFault::Inconsistent(format!(
                        "backfill of row {:?}: more than 2^64 nano-USD",
                        row.key
                    )));
                }
                turn.change(row, |balance| balance.spent_nusd += spent_nusd)?;
            }
            if let Some((row, _)) = part.last() {
                turn.put(&marker, row.key.as_bytes())?;
            }
            turn.commit()?;
        }
        let mut turn = self.turn()?;
        turn.put(&marker, b"")?;
        turn.commit()?;
        Ok(true)
    }

    /// Whether the budget was backfilled, wholly.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn knows_budget(&self, budget: &BudgetId) -> Result<bool, LedgerFault> {
        let txn = self.store.env.read_txn()?;
        let marker = self.store.records.get(&txn, &codec::of_budget(KNOWN, budget))?;
        Ok(marker.is_some_and(<[u8]>::is_empty))
    }

    /// Free the places of readers whose process is gone: until then no freed page is used again.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn clear_stale_readers(&mut self) -> Result<usize, LedgerFault> {
        Ok(self.store.env.clear_stale_readers()?)
    }

    /// The generations that have slots or holds, living ones included.
    ///
    /// # Errors
    /// The directory or the map cannot be read.
    pub fn orphans(&self) -> Result<Vec<u64>, LedgerFault> {
        let mut found: BTreeSet<u64> =
            slots::generations(&self.state_dir)?.into_iter().collect();
        self.scan(HOLD, |_, key, _| {
            found.insert(codec::hold_of(key)?.0);
            Ok(())
        })?;
        Ok(found.into_iter().collect())
    }

    /// Compare everything in the map with everything else: each row holds what its holds sum to,
    /// none is charged for more than it spent, subjects are counted rightly, each row is named.
    ///
    /// One read transaction over all of it: for the start, before there are workers.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub fn verify(&self) -> Result<(), LedgerFault> {
        let wrong = |why: String| Err(LedgerFault::Inconsistent(why));
        let txn = self.store.env.read_txn()?;
        let mut held: HashMap<RowKey, (u128, u32)> = HashMap::new();
        let mut subjects: HashMap<[u8; 25], u64> = HashMap::new();
        let mut infos = 0_u64;
        let mut rows = 0_u64;
        for record in self.store.records.iter(&txn)? {
            let (key, value) = record?;
            match key.first() {
                Some(&HOLD) => {
                    codec::hold_of(key)?;
                    let (head, keys) = codec::decode_hold(value)?;
                    for row in keys {
                        let (sum, count) = held.entry(row).or_default();
                        *sum += u128::from(head.amount_nusd);
                        *count += 1;
                    }
                }
                Some(&INFO) => {
                    codec::decode_info(value)?;
                    infos += 1;
                }
                Some(&ROW) => {
                    rows += 1;
                    let row = codec::row_of(key)?;
                    let StoredRow { balance, holds, .. } = codec::decode_row(value)?;
                    // The tree is in order, so every hold was seen before the first row.
                    let (sum, count) = held.remove(&row).unwrap_or_default();
                    if sum != u128::from(balance.held_nusd) || count != holds {
                        return wrong(format!(
                            "row {row:?} says {holds} holds of {}, there are {count} of {sum}",
                            balance.held_nusd
                        ));
                    }
                    if balance.overrun_nusd > balance.spent_nusd
                        || balance.crash_nusd > balance.spent_nusd
                    {
                        return wrong(format!("row {row:?} lost spend: {balance:?}"));
                    }
                    if self.store.records.get(&txn, &codec::of_row(INFO, &row))?.is_none() {
                        return wrong(format!("row {row:?} does not say whose it is"));
                    }
                    if is_one_of_many(&row) {
                        *subjects.entry(codec::of_count(&row)).or_default() += 1;
                    }
                }
                Some(&(COUNT | FACTOR | KNOWN | META)) => {}
                _ => return wrong(format!("a record of {} bytes of no kind", key.len())),
            }
        }
        if let Some((row, (sum, _))) = held.into_iter().next() {
            return wrong(format!("holds of {sum} on row {row:?}, which does not exist"));
        }
        if infos != rows {
            return wrong(format!("{rows} rows, but {infos} are named"));
        }
        for (key, count) in subjects {
            let found = self.store.records.get(&txn, &key)?;
            let counted = found.map_or(Ok(0), codec::decode_number)?;
            if counted != count {
                return wrong(format!("{count} subjects of a budget are counted as {counted}"));
            }
        }
        if self.store.records.get(&txn, &codec::of_meta(IMPORTING))?.is_some() {
            return wrong("an import was not finished".to_owned());
        }
        Ok(())
    }

    /// Every model that was ever billed above its hold, and the generation of this list.
    ///
    /// # Errors
    /// A record that contradicts its layout.
    pub fn bound_factors(&self) -> Result<(u64, Vec<BoundFactor>), LedgerFault> {
        let generation = {
            let txn = self.store.env.read_txn()?;
            let found = self.store.records.get(&txn, &codec::of_meta(FACTORS))?;
            found.map_or(Ok(0), codec::decode_number)?
        };
        let mut factors = Vec::new();
        self.scan(FACTOR, |_, _, value| {
            factors.push(Overruns::decode(value)?.factor());
            Ok(())
        })?;
        factors.sort_unstable_by(|a, b| a.target.cmp(&b.target));
        Ok((generation, factors))
    }

    /// Forget the overruns of a model: its bound is what it is again.
    ///
    /// Returns whether there were any.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn reset_bound(&mut self, target: &str) -> Result<bool, LedgerFault> {
        let mut turn = self.turn()?;
        let key = factor_key(target);
        if turn.get(&key)?.is_none() {
            return Ok(false);
        }
        turn.delete(&key)?;
        turn.bump_factors()?;
        turn.commit()?;
        Ok(true)
    }
}

impl RowView {
    /// The row as a hold names it.
    #[must_use]
    pub fn as_hold_row(&self) -> HoldRow<'_> {
        HoldRow { key: self.key, subject: &self.subject, window_end_s: self.window_end_s }
    }
}

impl Turn<'_> {
    /// Note that `target` was billed above the bound that was held for it, factor left out.
    ///
    /// With three within an hour, its bound is multiplied by the worst ratio × 1.1 from then on.
    ///
    /// Returns the factor in thousandths if this has just raised it.
    ///
    /// # Errors
    /// As for `settle`.
    pub fn record_overrun(
        &mut self,
        target: &str,
        charge_nusd: u64,
        bound_nusd: u64,
        now_us: u64,
    ) -> Result<Option<u32>, LedgerFault> {
        if charge_nusd <= bound_nusd || bound_nusd == 0 {
            return Ok(None);
        }
        let key = factor_key(target);
        let mut overruns = match self.get(&key)? {
            Some(bytes) => Overruns::decode(bytes)?,
            None => Overruns::none(target),
        };
        let raised = overruns.add(charge_nusd, bound_nusd, now_us);
        self.put(&key, &overruns.encode())?;
        if raised {
            self.bump_factors()?;
        }
        Ok(raised.then_some(overruns.factor_permille))
    }

    /// The generation of [`Ledger::bound_factors`]: read them again when it changes.
    ///
    /// # Errors
    /// As for `balance`.
    pub fn bound_generation(&mut self) -> Result<u64, LedgerFault> {
        self.get(&codec::of_meta(FACTORS))?.map_or(Ok(0), codec::decode_number)
    }

    fn bump_factors(&mut self) -> Result<(), LedgerFault> {
        let generation = self.bound_generation()? + 1;
        self.put(&codec::of_meta(FACTORS), &generation.to_le_bytes())
    }

    fn drop_row(&mut self, key: &RowKey, copied_txn_id: u64) -> Result<bool, LedgerFault> {
        let row = codec::of_row(ROW, key);
        let Some(stored) = self.get(&row)?.map(codec::decode_row).transpose()? else {
            return Ok(false);
        };
        if stored.holds > 0 || stored.txn_id > copied_txn_id {
            return Ok(false);
        }
        self.delete(&row)?;
        self.delete(&codec::of_row(INFO, key))?;
        if is_one_of_many(key) {
            let count_key = codec::of_count(key);
            match self.get(&count_key)?.map_or(Ok(0), codec::decode_number)? {
                0 | 1 => self.delete(&count_key)?,
                count => self.put(&count_key, &(count - 1).to_le_bytes())?,
            }
        }
        Ok(true)
    }
}

fn factor_key(target: &str) -> [u8; 17] {
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(target.as_bytes())[..16]);
    codec::of_budget(FACTOR, &id)
}

/// The overruns of one model.
struct Overruns {
    target: String,
    factor_permille: u32,
    worst_permille: u32,
    /// When the last ones were; 0: not yet.
    times_us: [u64; BOUND_OVERRUNS],
}

impl Overruns {
    fn none(target: &str) -> Self {
        let times_us = [0; BOUND_OVERRUNS];
        Self { target: target.to_owned(), factor_permille: 1_000, worst_permille: 0, times_us }
    }

    /// Count one more; whether it raised the factor.
    fn add(&mut self, charge_nusd: u64, bound_nusd: u64, now_us: u64) -> bool {
        let ratio = (u128::from(charge_nusd) * 1_000).div_ceil(u128::from(bound_nusd));
        self.worst_permille = self.worst_permille.max(u32::try_from(ratio).unwrap_or(u32::MAX));
        self.times_us.rotate_left(1);
        // 0 means not yet, and no clock that anybody has shows it.
        self.times_us[BOUND_OVERRUNS - 1] = now_us.max(1);
        let first_us = self.times_us[0];
        if first_us == 0 || now_us.saturating_sub(first_us) > BOUND_SPAN_US {
            return false;
        }
        let factor = (u64::from(self.worst_permille) * 11).div_ceil(10);
        let factor_permille = u32::try_from(factor).unwrap_or(u32::MAX);
        let raised = factor_permille > self.factor_permille;
        self.factor_permille = self.factor_permille.max(factor_permille);
        raised
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FACTOR_HEAD_BYTES + self.target.len());
        bytes.extend_from_slice(&self.factor_permille.to_le_bytes());
        bytes.extend_from_slice(&self.worst_permille.to_le_bytes());
        for time_us in self.times_us {
            bytes.extend_from_slice(&time_us.to_le_bytes());
        }
        bytes.extend_from_slice(self.target.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, LedgerFault> {
        let torn = || codec::torn("the factor of a bound", bytes);
        let (head, target) = bytes.split_at_checked(FACTOR_HEAD_BYTES).ok_or_else(torn)?;
        let mut times_us = [0; BOUND_OVERRUNS];
        for (index, time_us) in times_us.iter_mut().enumerate() {
            *time_us = codec::word(head, 8 + 8 * index);
        }
        Ok(Self {
            target: std::str::from_utf8(target).map_err(|_| torn())?.to_owned(),
            factor_permille: codec::half(head, 0),
            worst_permille: codec::half(head, 4),
            times_us,
        })
    }

    fn factor(self) -> BoundFactor {
        let Self { target, factor_permille, worst_permille, .. } = self;
        BoundFactor { target, factor_permille, worst_permille }
    }
}
