//! Named counters and rate limits in memory that every process of one node shares.
//!
//! One mapped file, `state_dir/cells`, made by the supervisor at its start. Each cell is one
//! atomic word; nobody ever waits for anybody.
//!
//! ```text
//! offset         what
//! 0              magic "MLXCELLS", layout version, workers, rate entries (8 bytes each)
//! 4096           64 node cells, one a cache line
//! 8192           per worker slot 512 bytes: 64 cells, written by that worker
//! (page aligned) rate table: 16,384 entries of 16 bytes: key, theoretical arrival time in ns
//! ```

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mapped::MappedFile;

const MAGIC: u64 = u64::from_le_bytes(*b"MLXCELLS");
const LAYOUT_VERSION: u64 = 1;

const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = 64;
const NODE_CELLS_OFFSET: usize = PAGE_BYTES;
const NODE_CELLS_COUNT: usize = PAGE_BYTES / LINE_BYTES;
const WORKERS_OFFSET: usize = 2 * PAGE_BYTES;
const WORKER_BYTES: usize = 512;
const WORKER_CELLS_COUNT: usize = WORKER_BYTES / 8;
const RATE_ENTRIES: usize = 16_384;
const RATE_ENTRY_BYTES: usize = 16;

/// Most workers a node may have: far above any machine, and half a MiB of cells.
pub const WORKERS_MAX: u32 = 1024;

/// Entries looked at for one key before it shares one with others.
const RATE_PROBES_MAX: usize = 64;

const _: () = assert!(RATE_ENTRIES.is_power_of_two());
const _: () = assert!(NODE_CELLS_COUNT == 64 && WORKER_CELLS_COUNT == 64);

/// The value of [`Cell::Mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Mode {
    /// Not all workers have answered yet.
    Starting = 0,
    /// Serving.
    Ready = 1,
    /// Finishing what is in flight; `readyz` fails.
    Draining = 2,
    /// Workers die again and again; requests are refused with `crash_loop`.
    CrashLoop = 3,
}

impl Mode {
    /// The mode that a cell's value means; an unknown one counts as starting.
    #[must_use]
    pub fn from_value(value: u64) -> Self {
        match value {
            1 => Self::Ready,
            2 => Self::Draining,
            3 => Self::CrashLoop,
            _ => Self::Starting,
        }
    }
}

/// Why a process was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartReason {
    /// It ended by itself with a failure.
    Exited,
    /// A signal ended it.
    Killed,
    /// Its event loop stood still for too long.
    Stalled,
    /// The operator asked for fresh workers.
    Replaced,
}

/// The name of one shared word. Per-worker cells carry the worker's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A [`Mode`].
    Mode,
    /// Broken invariants met while serving requests.
    Bugs,
    /// Broken invariants met by the trace writer.
    BugsWriter,
    /// Broken invariants met by supervisor and control plane.
    BugsControl,
    /// Worker restarts, by reason.
    Restarts(RestartReason),
    /// Generation of the snapshot that was published last.
    SnapshotGeneration,
    /// Monotonic µs of a worker's last beat from its event loop; 0 before the first.
    Heartbeat(u32),
    /// Requests that a worker is serving.
    InFlight(u32),
    /// Connections from callers that a worker has open.
    ConnectionsOpen(u32),
    /// Connections to providers that a worker has open.
    UpstreamsOpen(u32),
    /// Requests that a worker slot has finished, over all of its generations.
    Requests(u32),
    /// Generation of the snapshot that a worker serves by.
    WorkerSnapshot(u32),
    /// Process id of the worker in a slot.
    WorkerPid(u32),
    /// Requests refused because a worker had `max_in_flight` already.
    Overloaded(u32),
    /// Whether a worker waits for the ledger's lock or holds it (`LEDGER_*`).
    LedgerState(u32),
    /// µs that a worker has waited for the ledger's lock.
    LedgerWaitUs(u32),
    /// The longest of these waits, in µs.
    LedgerWaitMaxUs(u32),
    /// µs that a worker has held the ledger's lock.
    LedgerHeldUs(u32),
    /// Write transactions that a worker has made in the ledger.
    LedgerTurns(u32),
}

/// What [`Cells::take`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Whether this request may pass.
    pub allowed: bool,
    /// Requests that would still pass right after this one.
    pub remaining: u32,
    /// µs until the whole burst is free again.
    pub reset_us: u64,
    /// µs until a refused request would pass; 0 if this one did.
    pub retry_after_us: u64,
}

/// The mapped cells of one node.
pub struct Cells {
    mapped: MappedFile,
    workers: u32,
    rate_offset: usize,
}

impl Cells {
    /// Make the file at `path` with all cells 0, in the place of an older one.
    ///
    /// Processes that mapped the older one keep it, and are not seen here.
    ///
    /// # Errors
    /// No room for it, a path that cannot be written, or `workers` outside 1 to
    /// [`WORKERS_MAX`].
    pub fn create(path: &Path, workers: u32) -> io::Result<Self> {
        if workers == 0 || workers > WORKERS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{workers}` workers: must be 1 to {WORKERS_MAX}"),
            ));
        }
        let bytes = rate_offset(workers) + RATE_ENTRIES * RATE_ENTRY_BYTES;
        let unnamed = MappedFile::build(path, bytes as u64)?;
        let header = [MAGIC, LAYOUT_VERSION, u64::from(workers), RATE_ENTRIES as u64];
        for (index, value) in header.into_iter().enumerate() {
            unnamed.mapped.word(index * 8).store(value, Ordering::Relaxed);
        }
        let mapped = unnamed.publish_over()?;
        Ok(Self { mapped, workers, rate_offset: rate_offset(workers) })
    }

    /// Map the file that [`Cells::create`] made.
    ///
    /// # Errors
    /// `InvalidData` with the reason where the file is of another layout.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mapped = MappedFile::open(path)?;
        let refuse = |why: String| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
        };
        if mapped.len() < WORKERS_OFFSET || mapped.word(0).load(Ordering::Relaxed) != MAGIC {
            return Err(refuse("not a cells file".to_owned()));
        }
        let version = mapped.word(8).load(Ordering::Relaxed);
        if version != LAYOUT_VERSION {
            return Err(refuse(format!(
                "cells layout {version}, this build reads {LAYOUT_VERSION}; restart `modelux serve`"
            )));
        }
        let workers = u32::try_from(mapped.word(16).load(Ordering::Relaxed)).unwrap_or(0);
        let entries = mapped.word(24).load(Ordering::Relaxed);
        if workers == 0
            || workers > WORKERS_MAX
            || entries != RATE_ENTRIES as u64
            || mapped.len() != rate_offset(workers) + RATE_ENTRIES * RATE_ENTRY_BYTES
        {
            return Err(refuse("its size contradicts its header".to_owned()));
        }
        Ok(Self { mapped, workers, rate_offset: rate_offset(workers) })
    }

    /// How many worker slots the file has.
    #[must_use]
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// The value of `cell`.
    ///
    /// # Panics
    /// On a worker slot that the file does not have; so do `set` and `add`.
    #[must_use]
    pub fn get(&self, cell: Cell) -> u64 {
        self.word(cell).load(Ordering::Relaxed)
    }

    /// Give `cell` a value.
    pub fn set(&self, cell: Cell, value: u64) {
        self.word(cell).store(value, Ordering::Relaxed);
    }

    /// Add `delta`, which may be negative.
    pub fn add(&self, cell: Cell, delta: i64) {
        let word = self.word(cell);
        if delta >= 0 {
            word.fetch_add(delta.unsigned_abs(), Ordering::Relaxed);
        } else {
            word.fetch_sub(delta.unsigned_abs(), Ordering::Relaxed);
        }
    }

    /// Count one request of `key` against its limit over all workers of the node.
    ///
    /// GCRA: each key has one theoretical arrival time, moved on by one interval a request; a
    /// request passes while that lies at most `burst` intervals ahead. A refused request moves
    /// nothing, so a caller that hammers is let in again as soon as one that waits.
    ///
    /// Args: `key`: a stable hash of the key's id; `now_us`: the monotonic clock, the same in
    /// every process; `rpm`: requests a minute; `burst`: requests at once from rest. With more
    /// than 16,384 limited keys in use within a minute some share an entry, that is a limit.
    ///
    /// # Panics
    /// On an `rpm` or `burst` of 0: such a key is refused before it gets here.
    #[must_use]
    pub fn take(&self, key: u64, now_us: u64, rpm: u32, burst: u32) -> Rate {
        assert!(rpm > 0 && burst > 0, "{rpm} {burst}");
        let present_ns = now_us.saturating_mul(1_000);
        let interval_ns = 60_000_000_000 / u64::from(rpm);
        let window_ns = interval_ns.saturating_mul(u64::from(burst));
        // Nothing can lie further ahead than the window, unless the limit was raised since.
        let ceiling_ns = present_ns.saturating_add(window_ns);
        let arrival_ns = self.rate_entry(key, present_ns);
        let mut seen_ns = arrival_ns.load(Ordering::Relaxed);
        loop {
            let from_ns = seen_ns.clamp(present_ns, ceiling_ns);
            let next_ns = from_ns.saturating_add(interval_ns);
            if next_ns > ceiling_ns {
                return Rate {
                    allowed: false,
                    remaining: 0,
                    reset_us: (from_ns - present_ns).div_ceil(1_000),
                    retry_after_us: (next_ns - ceiling_ns).div_ceil(1_000),
                };
            }
            // Every access is one word, so no other order than its own is needed.
            match arrival_ns.compare_exchange_weak(
                seen_ns,
                next_ns,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    let left = (ceiling_ns - next_ns) / interval_ns;
                    return Rate {
                        allowed: true,
                        remaining: u32::try_from(left).unwrap_or(u32::MAX),
                        reset_us: (next_ns - present_ns).div_ceil(1_000),
                        retry_after_us: 0,
                    };
                }
                Err(current) => seen_ns = current,
            }
        }
    }

    /// The arrival time of `key`: its own entry, or a free or idle one that becomes its own.
    fn rate_entry(&self, key: u64, present_ns: u64) -> &AtomicU64 {
        // 0 marks a free entry, so the key 0 goes by another name.
        let key = if key == 0 { u64::MAX } else { key };
        // Keys come from a hash, but a face that anybody may call does not rely on it.
        let home = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize;
        let offset = |probe: usize| {
            let index = (home + probe) & (RATE_ENTRIES - 1);
            self.rate_offset + index * RATE_ENTRY_BYTES
        };
        for probe in 0..RATE_PROBES_MAX {
            let owner = self.mapped.word(offset(probe));
            let seen = owner.load(Ordering::Relaxed);
            let is_ours = seen == key
                || (seen == 0
                    && match owner.compare_exchange(
                        0,
                        key,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    ) {
                        Ok(_) => true,
                        Err(current) => current == key,
                    });
            if is_ours {
                return self.mapped.word(offset(probe) + 8);
            }
        }
        // The neighbourhood is full. An entry that has been idle for a minute is at rest,
        // which is what a fresh one is: taking it over forgets nothing. Two processes that
        // take over two entries for one key at once would count it twice until one goes idle.
        for probe in 0..RATE_PROBES_MAX {
            let owner = self.mapped.word(offset(probe));
            let seen = owner.load(Ordering::Relaxed);
            let arrival = self.mapped.word(offset(probe) + 8);
            if arrival.load(Ordering::Relaxed).saturating_add(60_000_000_000) < present_ns
                && owner
                    .compare_exchange(seen, key, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            {
                return arrival;
            }
        }
        // All in use: share one. Too strict for two keys is better than no limit for one.
        self.mapped.word(offset(0) + 8)
    }

    fn word(&self, cell: Cell) -> &AtomicU64 {
        let node = |index: usize| self.mapped.word(NODE_CELLS_OFFSET + index * LINE_BYTES);
        let at_slot = |slot: u32, index: usize| {
            assert!(slot < self.workers, "worker slot {slot} of {}", self.workers);
            self.mapped.word(WORKERS_OFFSET + slot as usize * WORKER_BYTES + index * 8)
        };
        match cell {
            Cell::Mode => node(0),
            Cell::Bugs => node(1),
            Cell::BugsWriter => node(2),
            Cell::BugsControl => node(3),
            Cell::Restarts(RestartReason::Exited) => node(4),
            Cell::Restarts(RestartReason::Killed) => node(5),
            Cell::Restarts(RestartReason::Stalled) => node(6),
            Cell::Restarts(RestartReason::Replaced) => node(7),
            Cell::SnapshotGeneration => node(8),
            Cell::Heartbeat(slot) => at_slot(slot, 0),
            Cell::InFlight(slot) => at_slot(slot, 1),
            Cell::ConnectionsOpen(slot) => at_slot(slot, 2),
            Cell::UpstreamsOpen(slot) => at_slot(slot, 3),
            Cell::Requests(slot) => at_slot(slot, 4),
            Cell::WorkerSnapshot(slot) => at_slot(slot, 5),
            Cell::WorkerPid(slot) => at_slot(slot, 6),
            Cell::Overloaded(slot) => at_slot(slot, 7),
            Cell::LedgerState(slot) => at_slot(slot, 8),
            Cell::LedgerWaitUs(slot) => at_slot(slot, 9),
            Cell::LedgerWaitMaxUs(slot) => at_slot(slot, 10),
            Cell::LedgerHeldUs(slot) => at_slot(slot, 11),
            Cell::LedgerTurns(slot) => at_slot(slot, 12),
        }
    }
}

/// Where the rate table begins: the first page after the worker cells.
fn rate_offset(workers: u32) -> usize {
    (WORKERS_OFFSET + workers as usize * WORKER_BYTES).next_multiple_of(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u64 = 77;

    fn cells() -> (tempfile::TempDir, Cells) {
        let dir = tempfile::tempdir().unwrap();
        let cells = Cells::create(&dir.path().join("cells"), 4).unwrap();
        (dir, cells)
    }

    #[test]
    fn two_mappings_of_one_file_see_each_other() {
        let (dir, cells) = cells();
        let other = Cells::open(&dir.path().join("cells")).unwrap();
        cells.set(Cell::Heartbeat(3), 42);
        cells.add(Cell::InFlight(1), 5);
        other.add(Cell::InFlight(1), -2);
        assert_eq!(other.get(Cell::Heartbeat(3)), 42);
        assert_eq!(cells.get(Cell::InFlight(1)), 3);
        assert_eq!(other.workers(), 4);
    }

    #[test]
    fn no_two_cells_share_a_word() {
        let (_dir, cells) = cells();
        let mut all = vec![
            Cell::Mode,
            Cell::Bugs,
            Cell::BugsWriter,
            Cell::BugsControl,
            Cell::SnapshotGeneration,
            Cell::Restarts(RestartReason::Exited),
            Cell::Restarts(RestartReason::Killed),
            Cell::Restarts(RestartReason::Stalled),
            Cell::Restarts(RestartReason::Replaced),
        ];
        for slot in 0..4 {
            all.extend([
                Cell::Heartbeat(slot),
                Cell::InFlight(slot),
                Cell::ConnectionsOpen(slot),
                Cell::UpstreamsOpen(slot),
                Cell::Requests(slot),
                Cell::WorkerSnapshot(slot),
                Cell::WorkerPid(slot),
                Cell::Overloaded(slot),
                Cell::LedgerState(slot),
                Cell::LedgerWaitUs(slot),
                Cell::LedgerWaitMaxUs(slot),
                Cell::LedgerHeldUs(slot),
                Cell::LedgerTurns(slot),
            ]);
        }
        for (value, cell) in all.iter().enumerate() {
            cells.set(*cell, value as u64 + 1);
        }
        for (value, cell) in all.iter().enumerate() {
            assert_eq!(cells.get(*cell), value as u64 + 1, "{cell:?}");
        }
    }

    #[test]
    fn a_file_of_another_layout_is_refused_by_name() {
        let (dir, cells) = cells();
        cells.mapped.word(8).store(9, Ordering::Relaxed);
        let error = Cells::open(&dir.path().join("cells")).err().unwrap();
        assert!(error.to_string().contains("cells layout 9"), "{error}");
        std::fs::write(dir.path().join("other"), vec![1; 9000]).unwrap();
        let error = Cells::open(&dir.path().join("other")).err().unwrap();
        assert!(error.to_string().contains("not a cells file"), "{error}");
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_an_interval() {
        let (_dir, cells) = cells();
        let start_us = 1_000_000;
        for index in 0..10 {
            let rate = cells.take(KEY, start_us, 60, 10);
            assert!(rate.allowed);
            assert_eq!(rate.remaining, 9 - index);
            assert_eq!(rate.reset_us, u64::from(index + 1) * 1_000_000);
        }
        let refused = cells.take(KEY, start_us, 60, 10);
        assert!(!refused.allowed);
        assert_eq!(refused.retry_after_us, 1_000_000);
        assert!(!cells.take(KEY, start_us + 999_999, 60, 10).allowed);
        assert!(cells.take(KEY, start_us + 1_000_000, 60, 10).allowed);
        assert!(!cells.take(KEY, start_us + 1_000_000, 60, 10).allowed);
    }

    #[test]
    fn over_any_span_no_more_passes_than_burst_and_rate_allow() {
        let (_dir, cells) = cells();
        let mut passed = 0_u64;
        let span_us = 90_000_000;
        let mut now_us = 5_000_000;
        while now_us < 5_000_000 + span_us {
            passed += u64::from(cells.take(KEY, now_us, 100, 10).allowed);
            now_us += 7_919;
        }
        // 100 a minute over 90 s, and the burst.
        assert!((159..=160).contains(&passed), "{passed}");
    }

    #[test]
    fn a_raised_limit_holds_at_once() {
        let (_dir, cells) = cells();
        for _ in 0..10 {
            assert!(cells.take(KEY, 1_000, 1, 10).allowed);
        }
        assert!(!cells.take(KEY, 1_000, 1, 10).allowed);
        // Ten minutes ahead at one a minute, but only the new window's six seconds count.
        let refused = cells.take(KEY, 1_000, 600, 60);
        assert!(refused.retry_after_us <= 100_000, "{refused:?}");
    }

    #[test]
    fn keys_have_limits_of_their_own_up_to_the_table_and_some_limit_beyond() {
        let (_dir, cells) = cells();
        for key in 0..RATE_ENTRIES as u64 / 2 {
            assert!(cells.take(key, 1_000, 1, 1).allowed, "{key}");
        }
        for key in 0..RATE_ENTRIES as u64 / 2 {
            assert!(!cells.take(key, 1_000, 1, 1).allowed, "{key}");
        }
        for key in 0..RATE_ENTRIES as u64 * 2 {
            let _ = cells.take(key, 1_000, 1, 1);
        }
        assert!(!cells.take(RATE_ENTRIES as u64 * 3, 1_000, 1, 1).allowed);
        // Two minutes later everything is at rest, and new keys find room.
        assert!(cells.take(RATE_ENTRIES as u64 * 3, 180_000_000, 1, 1).allowed);
    }

    #[test]
    fn threads_that_race_for_one_key_pass_exactly_the_burst() {
        let (_dir, cells) = cells();
        let passed = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if cells.take(KEY, 1_000_000, 60, 100).allowed {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 100);
    }
}
