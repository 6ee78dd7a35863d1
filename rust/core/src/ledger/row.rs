//! The nouns of the ledger: which row an amount stands in, and what stands there.
//!
//! A row is one budget, one subject of it and one window. Its key is a fixed 40 bytes, so that
//! neither the text of a caller nor that of a configuration decides how LMDB sorts or how long a
//! key is. The window's start is the last part: rows of one subject lie side by side in time.

use std::fmt;

use sha2::{Digest, Sha256};

/// The identity of a budget: the first 16 bytes of SHA-256 over its name, scopes, project, period
/// and time zone. Another cap or action keeps it, and so keeps what was spent.
pub type BudgetId = [u8; 16];

/// The bytes of a row's key.
pub const ROW_KEY_BYTES: usize = 40;

const SIGN_BIT: u8 = 0x80;

/// Whose row of a budget it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectId(pub [u8; 16]);

impl SubjectId {
    /// The one row of a budget that has no `*`.
    pub const NONE: Self = Self([0; 16]);

    /// The row that all values beyond `max_subjects` share.
    pub const OVERFLOW: Self = Self([0xff; 16]);

    /// The row of these values, one for each `*` of the budget, in their order.
    #[must_use]
    pub fn of(values: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for value in values {
            // The length before each: no two lists of values have the same bytes.
            hash.update((value.len() as u64).to_le_bytes());
            hash.update(value.as_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Self(id)
    }
}

impl fmt::Debug for SubjectId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, out)
    }
}

/// The key of a row: budget, subject, start of the window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey([u8; ROW_KEY_BYTES]);

impl RowKey {
    /// Put a key together. `window_start_s` is seconds since 1970 in UTC.
    #[must_use]
    pub fn new(budget: &BudgetId, subject: SubjectId, window_start_s: i64) -> Self {
        let mut key = [0; ROW_KEY_BYTES];
        key[..16].copy_from_slice(budget);
        key[16..32].copy_from_slice(&subject.0);
        // With its sign flipped, a big-endian number sorts by time even before 1970.
        key[32..].copy_from_slice(&window_start_s.to_be_bytes());
        key[32] ^= SIGN_BIT;
        Self(key)
    }

    /// Read a key back; None where the length is another.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, as LMDB keeps them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; ROW_KEY_BYTES] {
        &self.0
    }

    /// Which budget.
    #[must_use]
    pub fn budget(&self) -> BudgetId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[..16]);
        id
    }

    /// Whose.
    #[must_use]
    pub fn subject(&self) -> SubjectId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[16..32]);
        SubjectId(id)
    }

    /// Since when, in seconds since 1970 in UTC.
    #[must_use]
    pub fn window_start_s(&self) -> i64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[32..]);
        bytes[0] ^= SIGN_BIT;
        i64::from_be_bytes(bytes)
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0[..32], out)?;
        write!(out, "@{}", self.window_start_s())
    }
}

/// The budget has reached its `soft_pct`.
pub const FLAG_SOFT: u32 = 1;
/// A request was refused or sent elsewhere because the cap is spent.
pub const FLAG_EXCEEDED: u32 = 2;
/// New values of a `*` budget share the overflow row.
pub const FLAG_SUBJECTS_FULL: u32 = 4;

/// What stands in a row. Amounts are nano-USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Settled charges, overruns included. Never falls.
    pub spent_nusd: u64,
    /// Live holds.
    pub held_nusd: u64,
    /// Corrections, which raise what may be spent.
    pub credits_nusd: u64,
    /// The part of `spent_nusd` that was billed above the holds.
    pub overrun_nusd: u64,
    /// The part of `spent_nusd` that was charged for requests whose worker died.
    pub crash_nusd: u64,
    /// Holds that were settled.
    pub requests: u64,
    /// Settled holds that were billed above their amount.
    pub overruns: u64,
    /// `FLAG_*`: what has happened in this window.
    pub flags: u32,
}

fn hex(bytes: &[u8], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_what_it_was_made_of() {
        for start_s in [i64::MIN, -1, 0, 1_790_000_000, i64::MAX] {
            let subject = SubjectId::of(&["alice"]);
            let key = RowKey::new(&[7; 16], subject, start_s);
            assert_eq!(key.budget(), [7; 16]);
            assert_eq!(key.subject(), subject);
            assert_eq!(key.window_start_s(), start_s);
            assert_eq!(RowKey::from_bytes(key.as_bytes()), Some(key));
        }
    }

    #[test]
    fn keys_of_one_subject_sort_by_time() {
        let key = |start_s| RowKey::new(&[7; 16], SubjectId::NONE, start_s);
        assert!(key(-5) < key(-1) && key(-1) < key(0) && key(0) < key(86_400));
    }

    #[test]
    fn no_two_lists_of_values_share_a_subject() {
        assert_ne!(SubjectId::of(&["a", "b"]), SubjectId::of(&["ab"]));
        assert_ne!(SubjectId::of(&["a", "b"]), SubjectId::of(&["a,b"]));
        assert_ne!(SubjectId::of(&[""]), SubjectId::NONE);
        assert_ne!(SubjectId::of(&["*"]), SubjectId::OVERFLOW);
    }
}
