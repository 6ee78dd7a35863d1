//! How the ledger's records lie in the map: one tree, the first byte of a key says what it is.
//!
//! ```text
//! key                              value (numbers little-endian unless a key)
//! c budget 16, window start 8      subjects of a `*` budget that have a row (u64)
//! f SHA-256 of the text 16         factor, worst ratio (per mille, u32 each), the last three
//!                                  overruns (u64 µs each), the text
//! h generation 8, seq 8 (BE)       amount, deadline µs (u64), slot, rows (u32), request id 16,
//!                                  then each row's key 40
//! i row key 40                     end of the window (i64, `i64::MAX` for none), subject text
//! k budget 16                      the key of the row that was backfilled last; empty: all were
//! m name                           `stamp`, `factors` (u64), `importing`
//! r row key 40                     transaction, spent, held, credits, overrun, crash, requests,
//!                                  overruns (u64 each), flags, live holds (u32 each)
//! ```
//!
//! A hold and the rows that never change size are overwritten in place; what is written once and
//! read seldom, the subject's text, lies apart from what every request touches. One tree and not
//! six: LMDB writes the roots of named trees anew in every transaction that touches them.

use super::row::{Balance, BudgetId, ROW_KEY_BYTES, RowKey};
use super::{HoldRow, LedgerFault};

pub(super) const COUNT: u8 = b'c';
pub(super) const FACTOR: u8 = b'f';
pub(super) const HOLD: u8 = b'h';
pub(super) const INFO: u8 = b'i';
pub(super) const KNOWN: u8 = b'k';
pub(super) const META: u8 = b'm';
pub(super) const ROW: u8 = b'r';

pub(super) const ROW_BYTES: usize = 72;
const HOLD_HEAD_BYTES: usize = 40;

/// The key of a record that belongs to one row.
pub(super) fn of_row(kind: u8, key: &RowKey) -> [u8; 1 + ROW_KEY_BYTES] {
    let mut bytes = [kind; 1 + ROW_KEY_BYTES];
    bytes[1..].copy_from_slice(key.as_bytes());
    bytes
}

/// The key of a hold.
pub(super) fn of_hold(generation: u64, seq: u64) -> [u8; 17] {
    let mut bytes = [HOLD; 17];
    bytes[1..9].copy_from_slice(&generation.to_be_bytes());
    bytes[9..].copy_from_slice(&seq.to_be_bytes());
    bytes
}

/// Generation and sequence number of a hold's key.
pub(super) fn hold_of(key: &[u8]) -> Result<(u64, u64), LedgerFault> {
    match key.split_first() {
        Some((&HOLD, rest)) if rest.len() == 16 => {
            let number = |at: usize| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&rest[at..at + 8]);
                u64::from_be_bytes(bytes)
            };
            Ok((number(0), number(8)))
        }
        _ => Err(torn("the key of a hold", key)),
    }
}

/// The key of the number of subjects of a budget in the window of `key`.
pub(super) fn of_count(key: &RowKey) -> [u8; 25] {
    let mut bytes = [COUNT; 25];
    bytes[1..17].copy_from_slice(&key.as_bytes()[..16]);
    bytes[17..].copy_from_slice(&key.as_bytes()[32..]);
    bytes
}

/// The key of what is kept of a budget as such.
pub(super) fn of_budget(kind: u8, budget: &BudgetId) -> [u8; 17] {
    let mut bytes = [kind; 17];
    bytes[1..].copy_from_slice(budget);
    bytes
}

/// The key of one fact about the whole map.
pub(super) fn of_meta(name: &str) -> Vec<u8> {
    let mut bytes = vec![META];
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

/// The row that the key of a row's record belongs to.
pub(super) fn row_of(key: &[u8]) -> Result<RowKey, LedgerFault> {
    key.get(1..).and_then(RowKey::from_bytes).ok_or_else(|| torn("the key of a row", key))
}

/// What is kept of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredRow {
    /// The transaction that wrote it last.
    pub(super) txn_id: u64,
    pub(super) balance: Balance,
    /// Live holds that name the row, those of nothing included: they need it when they end.
    pub(super) holds: u32,
}

pub(super) fn encode_row(row: &StoredRow) -> [u8; ROW_BYTES] {
    let mut bytes = [0; ROW_BYTES];
    let balance = &row.balance;
    let words = [
        row.txn_id,
        balance.spent_nusd,
        balance.held_nusd,
        balance.credits_nusd,
        balance.overrun_nusd,
        balance.crash_nusd,
        balance.requests,
        balance.overruns,
    ];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes[64..68].copy_from_slice(&balance.flags.to_le_bytes());
    bytes[68..72].copy_from_slice(&row.holds.to_le_bytes());
    bytes
}

pub(super) fn decode_row(bytes: &[u8]) -> Result<StoredRow, LedgerFault> {
    if bytes.len() != ROW_BYTES {
        return Err(torn("a row", bytes));
    }
    let balance = Balance {
        spent_nusd: word(bytes, 8),
        held_nusd: word(bytes, 16),
        credits_nusd: word(bytes, 24),
        overrun_nusd: word(bytes, 32),
        crash_nusd: word(bytes, 40),
        requests: word(bytes, 48),
        overruns: word(bytes, 56),
        flags: half(bytes, 64),
    };
    Ok(StoredRow { txn_id: word(bytes, 0), balance, holds: half(bytes, 68) })
}

pub(super) fn encode_info(window_end_s: Option<i64>, subject: &str, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&window_end_s.unwrap_or(i64::MAX).to_le_bytes());
    out.extend_from_slice(subject.as_bytes());
}

/// The end of a row's window, and its subject.
pub(super) fn decode_info(bytes: &[u8]) -> Result<(Option<i64>, &str), LedgerFault> {
    let (end, subject) =
        bytes.split_first_chunk::<8>().ok_or_else(|| torn("a subject", bytes))?;
    let end = i64::from_le_bytes(*end);
    let subject = std::str::from_utf8(subject).map_err(|_| torn("a subject", bytes))?;
    Ok(((end != i64::MAX).then_some(end), subject))
}

/// The fixed part of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HoldHead {
    pub(super) amount_nusd: u64,
    pub(super) deadline_us: u64,
    pub(super) slot: u32,
    pub(super) request: [u8; 16],
}

pub(super) fn encode_hold(head: &HoldHead, rows: &[HoldRow<'_>], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&head.amount_nusd.to_le_bytes());
    out.extend_from_slice(&head.deadline_us.to_le_bytes());
    out.extend_from_slice(&head.slot.to_le_bytes());
    // The caller has checked the number of rows against its bound.
    #[expect(clippy::cast_possible_truncation, reason = "at most `HOLD_ROWS_MAX`")]
    out.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    out.extend_from_slice(&head.request);
    for row in rows {
        out.extend_from_slice(row.key.as_bytes());
    }
}

/// The fixed part of a hold, and the keys of its rows.
pub(super) fn decode_hold(
    bytes: &[u8],
) -> Result<(HoldHead, impl Iterator<Item = RowKey> + '_), LedgerFault> {
    let (head, keys) =
        bytes.split_at_checked(HOLD_HEAD_BYTES).ok_or_else(|| torn("a hold", bytes))?;
    if half(head, 20) as usize * ROW_KEY_BYTES != keys.len() || keys.is_empty() {
        return Err(torn("a hold", bytes));
    }
    let mut request = [0; 16];
    request.copy_from_slice(&head[24..40]);
    let fixed = HoldHead {
        amount_nusd: word(head, 0),
        deadline_us: word(head, 8),
        slot: half(head, 16),
        request,
    };
    Ok((fixed, keys.chunks_exact(ROW_KEY_BYTES).filter_map(RowKey::from_bytes)))
}

/// A number that stands alone in a record.
pub(super) fn decode_number(bytes: &[u8]) -> Result<u64, LedgerFault> {
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| torn("a number", bytes))
}

pub(super) fn torn(what: &str, bytes: &[u8]) -> LedgerFault {
    LedgerFault::Inconsistent(format!("{what} of {} bytes", bytes.len()))
}

pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let mut part = [0; 8];
    part.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(part)
}

pub(super) fn half(bytes: &[u8], at: usize) -> u32 {
    let mut part = [0; 4];
    part.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(part)
}

#[cfg(test)]
mod tests {
    use super::super::row::SubjectId;
    use super::*;

    #[test]
    fn every_record_gives_back_what_it_was_made_of() {
        let balance = Balance {
            spent_nusd: 1,
            held_nusd: 2,
            credits_nusd: 3,
            overrun_nusd: 4,
            crash_nusd: 5,
            requests: 6,
            overruns: u64::MAX,
            flags: 7,
        };
        let row = StoredRow { txn_id: 9, balance, holds: 10 };
        assert_eq!(decode_row(&encode_row(&row)).unwrap(), row);

        let mut bytes = Vec::new();
        for end_s in [None, Some(-1), Some(i64::MIN), Some(1_800_000_000)] {
            encode_info(end_s, "user-ü", &mut bytes);
            assert_eq!(decode_info(&bytes).unwrap(), (end_s, "user-ü"));
        }

        let keys = [3, 4].map(|start_s| RowKey::new(&[1; 16], SubjectId::NONE, start_s));
        let rows = keys.map(|key| HoldRow { key, subject: "", window_end_s: None });
        let head = HoldHead { amount_nusd: 5, deadline_us: 6, slot: 7, request: [8; 16] };
        encode_hold(&head, &rows, &mut bytes);
        let (found, found_keys) = decode_hold(&bytes).unwrap();
        assert_eq!(found, head);
        assert_eq!(found_keys.collect::<Vec<_>>(), keys);
        assert_eq!(hold_of(&of_hold(5, u64::MAX)).unwrap(), (5, u64::MAX));
        assert_eq!(row_of(&of_row(ROW, &keys[0])).unwrap(), keys[0]);
    }

    #[test]
    fn a_record_of_another_length_is_refused_and_never_read_beyond_its_end() {
        let torn =
            |fault: Option<LedgerFault>| matches!(fault, Some(LedgerFault::Inconsistent(_)));
        for length in (0..200).filter(|length| *length != ROW_BYTES) {
            assert!(torn(decode_row(&vec![0; length]).err()), "{length}");
        }
        for length in 0..HOLD_HEAD_BYTES + 200 {
            // No rows at all, or another number than the head says.
            assert!(torn(decode_hold(&vec![0; length]).map(|_| ()).err()), "{length}");
        }
        assert!(torn(decode_info(&[0; 7]).map(|_| ()).err()));
        assert!(torn(decode_info(&[0xff; 9]).map(|_| ()).err()));
        assert!(torn(hold_of(&[HOLD; 16]).map(|_| ()).err()));
        assert!(torn(decode_number(&[0; 7]).map(|_| ()).err()));
    }
}
