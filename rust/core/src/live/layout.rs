//! Where everything lies in the file `state_dir/live`.
//!
//! ```text
//! offset          what
//! 0               magic "MLXLIVE\0", layout version, worker slots, 0 (8 bytes each);
//!                 the two words that keys are made with
//! 64              the boot's id, 64 bytes
//! 128             the newest time that any process has said, in µs; until when something cools
//! 4096            1,024 targets of 256 bytes: key, last use, breaker, window, averages
//!                 their texts, 256 bytes each; their last minutes, 3,168 bytes each
//!                 256 credentials of 64 bytes; their texts
//!                 1,024 targets of a route of 32 bytes; their texts
//!                 8,192 marks of 32 bytes: key, last use, hits, run of nulls
//!                 8,192 warm prefixes of 8 bytes
//!                 1,024 pauses of a credential at a target of 16 bytes: key, until
//!                 per worker slot 1,024 counters of 8 bytes: what it has in flight
//! ```

use super::histogram;
use super::table::{TEXT_BYTES, Table};

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"MLXLIVE\0");
/// Changes whenever anything here does: a file of another is made anew.
pub(super) const LAYOUT_VERSION: u64 = 2;

const PAGE_BYTES: usize = 4096;
/// Where the words lie that keys are made with.
pub(super) const KEYS_OFFSET: usize = 32;
pub(super) const BOOT_OFFSET: usize = 64;
pub(super) const BOOT_BYTES: usize = 64;
pub(super) const CLOCK_OFFSET: usize = 128;
pub(super) const COOL_UNTIL_OFFSET: usize = 136;

/// Targets of one node: far more than configured ones; the rest are names that callers choose.
pub const TARGETS_MAX: usize = 1024;
const CREDENTIALS_MAX: usize = 256;
const ROUTES_MAX: usize = 1024;
const MARKS_MAX: usize = 8192;
pub(super) const WARM_MAX: usize = 8192;
pub(super) const PAUSES_MAX: usize = 1024;

/// One minute of one target: its number, its results, two histograms.
pub(super) const MINUTE_BYTES: usize = 16 + 2 * histogram::WORDS * 8;
/// Five that are over, and the one that runs.
pub(super) const MINUTES: usize = 6;
const HISTORY_BYTES: usize = MINUTES * MINUTE_BYTES;

pub(super) const TARGETS: Table = Table {
    offset: PAGE_BYTES,
    entry_bytes: 256,
    count: TARGETS_MAX,
    texts: Some(PAGE_BYTES + TARGETS_MAX * 256),
};
const HISTORY_OFFSET: usize = TARGETS.offset + TARGETS_MAX * (256 + TEXT_BYTES);
pub(super) const CREDENTIALS: Table = {
    let offset = HISTORY_OFFSET + TARGETS_MAX * HISTORY_BYTES;
    let texts = Some(offset + CREDENTIALS_MAX * 64);
    Table { offset, entry_bytes: 64, count: CREDENTIALS_MAX, texts }
};
pub(super) const ROUTES: Table = {
    let offset = CREDENTIALS.offset + CREDENTIALS_MAX * (64 + TEXT_BYTES);
    let texts = Some(offset + ROUTES_MAX * 32);
    Table { offset, entry_bytes: 32, count: ROUTES_MAX, texts }
};
pub(super) const MARKS: Table = {
    let offset = ROUTES.offset + ROUTES_MAX * (32 + TEXT_BYTES);
    Table { offset, entry_bytes: 32, count: MARKS_MAX, texts: None }
};
pub(super) const WARM_OFFSET: usize = MARKS.offset + MARKS_MAX * 32;
pub(super) const PAUSES_OFFSET: usize = WARM_OFFSET + WARM_MAX * 8;
const IN_FLIGHT_OFFSET: usize = PAUSES_OFFSET + PAUSES_MAX * 16;
const IN_FLIGHT_BYTES: usize = TARGETS_MAX * 8;

/// Bytes of the file for so many worker slots.
pub(super) fn file_bytes(workers: u32) -> usize {
    (IN_FLIGHT_OFFSET + workers as usize * IN_FLIGHT_BYTES).next_multiple_of(PAGE_BYTES)
}

/// Where a worker slot counts what it has in flight at a target.
pub(super) fn in_flight_offset(worker: u32, target: usize) -> usize {
    IN_FLIGHT_OFFSET + worker as usize * IN_FLIGHT_BYTES + target * 8
}

/// Where one of a target's minutes lies.
pub(super) fn minute_offset(target: usize, slot: usize) -> usize {
    HISTORY_OFFSET + target * HISTORY_BYTES + slot * MINUTE_BYTES
}

const _: () = assert!(CREDENTIALS.offset % 64 == 0 && ROUTES.offset % 64 == 0);
const _: () = assert!(MARKS.offset % 64 == 0 && WARM_OFFSET % 64 == 0);
