//! What a worker has done with each of its holds, where recovery finds it if the worker dies.
//!
//! ```text
//! FREE ──held──► HELD ──sent──► SENT ──done──► DONE
//!   ▲              │              │ progress     │     `held` again: the next attempt
//!   └─────free─────┴──────────────┴──────────────┘     `free`: the settle has committed
//!
//! slots.<generation>: one mapped file a worker, one writer, every word stored whole
//! offset     what
//! 0          magic "MLXSLOTS", layout version, generation, number of slots (8 bytes each)
//! 64 + 16 n  slot n: hold's seq << 2 | phase (u64), charge if dead (u64 nano-USD)
//! ```
//!
//! A hold commits before its slot says HELD, and SENT is stored before the first byte of the
//! request is written: a hold whose seq is not in its slot was never sent. The charge is always
//! what is right if the worker died at that moment, so recovery knows nothing of providers.
//!
//! The owner is alive while its lock on the file is held: process ids are reused, locks are not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::mapped::MappedFile;

const MAGIC: u64 = u64::from_le_bytes(*b"MLXSLOTS");
const LAYOUT_VERSION: u64 = 1;
const HEAD_BYTES: usize = 64;
const SLOT_BYTES: usize = 16;
const OWNER_LOCK: i64 = 0;
const PREFIX: &str = "slots.";

/// Most slots of one worker: a thousand times what one keeps in flight.
pub const SLOTS_MAX: u32 = 1 << 20;

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// Nothing is held.
    Free = 0,
    /// The hold is committed, no byte is sent.
    Held = 1,
    /// Bytes of the request may have left.
    Sent = 2,
    /// The final charge is known.
    Done = 3,
}

impl Phase {
    fn of(word: u64) -> Self {
        match word & 3 {
            1 => Self::Held,
            2 => Self::Sent,
            3 => Self::Done,
            _ => Self::Free,
        }
    }
}

/// A worker's own slots.
pub struct Slots {
    mapped: MappedFile,
    count: u32,
    free: Vec<u32>,
}

impl Slots {
    /// Make `count` free slots for the worker of `generation`, and hold their lock.
    ///
    /// # Errors
    /// No room, a generation that has slots already, or `count` outside 1 to [`SLOTS_MAX`].
    pub fn create(state_dir: &Path, generation: u64, count: u32) -> io::Result<Self> {
        if count == 0 || count > SLOTS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{count}` slots: must be 1 to {SLOTS_MAX}"),
            ));
        }
        let bytes = HEAD_BYTES + count as usize * SLOT_BYTES;
        let unnamed = MappedFile::build(&path_of(state_dir, generation), bytes as u64)?;
        let head = [MAGIC, LAYOUT_VERSION, generation, u64::from(count)];
        for (index, value) in head.into_iter().enumerate() {
            unnamed.mapped.word(index * 8).store(value, Ordering::Relaxed);
        }
        // Locked before it has its name: whoever finds it knows whether the owner lives.
        if !unnamed.mapped.try_lock(OWNER_LOCK)? {
            return Err(io::Error::other("the lock of slots that nobody knows is taken"));
        }
        let mapped = unnamed.publish_new()?;
        Ok(Self { mapped, count, free: (0..count).rev().collect() })
    }

    /// A free slot, which is the caller's until [`Slots::free`]; None: all are in use.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// The hold `seq` of this slot has committed; if the worker dies, it is released.
    ///
    /// # Panics
    /// On a slot that does not exist, as all of these do, or a seq of 62 bits or more.
    pub fn held(&self, slot: u32, seq: u64) {
        assert!(seq < 1 << 62, "{seq}");
        self.charge(slot).store(0, Ordering::Relaxed);
        self.word(slot).store(seq << 2 | Phase::Held as u64, Ordering::Release);
    }

    /// Bytes are about to leave; if the worker dies, this is charged.
    ///
    /// # Panics
    /// Unless the slot holds: what is sent without a hold is paid by nobody.
    pub fn sent(&self, slot: u32, charge_if_dead: u64) {
        self.charge(slot).store(charge_if_dead, Ordering::Relaxed);
        self.step(slot, Phase::Held, Phase::Sent);
    }

    /// So much would have to be charged by now. Never lowers what was said before.
    pub fn progress(&self, slot: u32, charge_if_dead: u64) {
        debug_assert_eq!(Phase::of(self.word(slot).load(Ordering::Relaxed)), Phase::Sent);
        self.charge(slot).fetch_max(charge_if_dead, Ordering::Relaxed);
    }

    /// The final charge is known.
    ///
    /// # Panics
    /// Unless the slot says that bytes were sent.
    pub fn done(&self, slot: u32, charge: u64) {
        // Between the two stores the slot says SENT with the final charge, which is right too.
        self.charge(slot).store(charge, Ordering::Relaxed);
        self.step(slot, Phase::Sent, Phase::Done);
    }

    /// The settle has committed, the slot may be taken again.
    ///
    /// # Panics
    /// On a slot that nobody took.
    pub fn free(&mut self, slot: u32) {
        debug_assert!(!self.free.contains(&slot), "{slot}");
        self.word(slot).store(Phase::Free as u64, Ordering::Release);
        self.free.push(slot);
    }

    /// Slots that are taken.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.count - u32::try_from(self.free.len()).unwrap_or(self.count)
    }

    fn step(&self, slot: u32, from: Phase, to: Phase) {
        let word = self.word(slot);
        let seen = word.load(Ordering::Relaxed);
        assert!(Phase::of(seen) == from, "slot {slot}: {:?} to {to:?}", Phase::of(seen));
        word.store(seen & !3 | to as u64, Ordering::Release);
    }

    fn word(&self, slot: u32) -> &std::sync::atomic::AtomicU64 {
        assert!(slot < self.count, "slot {slot} of {}", self.count);
        self.mapped.word(HEAD_BYTES + slot as usize * SLOT_BYTES)
    }

    fn charge(&self, slot: u32) -> &std::sync::atomic::AtomicU64 {
        assert!(slot < self.count, "slot {slot} of {}", self.count);
        self.mapped.word(HEAD_BYTES + slot as usize * SLOT_BYTES + 8)
    }
}

/// What is there of a worker's slots.
pub(super) enum Left {
    /// The owner lives.
    Alive,
    /// The owner is gone, and its lock is ours.
    Dead(DeadSlots),
    /// There is no file, or one that cannot be read: what was sent is unknown.
    Unknown,
}

/// The slots of a worker that is gone.
pub(super) struct DeadSlots {
    mapped: MappedFile,
    count: u32,
}

impl DeadSlots {
    /// The hold that the slot knows, how far it came, and what it is to be charged.
    /// None: the file has no such slot.
    pub(super) fn read(&self, slot: u32) -> Option<(u64, Phase, u64)> {
        if slot >= self.count {
            return None;
        }
        let offset = HEAD_BYTES + slot as usize * SLOT_BYTES;
        let word = self.mapped.word(offset).load(Ordering::Acquire);
        let charge = self.mapped.word(offset + 8).load(Ordering::Relaxed);
        Some((word >> 2, Phase::of(word), charge))
    }
}

/// Look for the slots of `generation`.
pub(super) fn left_of(state_dir: &Path, generation: u64) -> io::Result<Left> {
    let mapped = match MappedFile::open(&path_of(state_dir, generation)) {
        Ok(mapped) => mapped,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
        {
            return Ok(Left::Unknown);
        }
        Err(error) => return Err(error),
    };
    if !mapped.try_lock(OWNER_LOCK)? {
        return Ok(Left::Alive);
    }
    let count = (mapped.len() >= HEAD_BYTES
        && mapped.word(0).load(Ordering::Relaxed) == MAGIC
        && mapped.word(8).load(Ordering::Relaxed) == LAYOUT_VERSION
        && mapped.word(16).load(Ordering::Relaxed) == generation)
        .then(|| mapped.word(24).load(Ordering::Relaxed))
        .and_then(|count| u32::try_from(count).ok())
        .filter(|count| HEAD_BYTES + *count as usize * SLOT_BYTES == mapped.len());
    Ok(match count {
        Some(count) => Left::Dead(DeadSlots { mapped, count }),
        None => Left::Unknown,
    })
}

/// Remove the slots of `generation`; none being there is fine.
pub(super) fn remove(state_dir: &Path, generation: u64) -> io::Result<()> {
    match std::fs::remove_file(path_of(state_dir, generation)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The generations that have slots, in order.
pub(super) fn generations(state_dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(state_dir)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        // Only names that `path_of` makes: no sign, no leading zero, no `.new`.
        found.extend(digits.and_then(|digits| {
            digits.parse::<u64>().ok().filter(|number| number.to_string() == digits)
        }));
    }
    found.sort_unstable();
    Ok(found)
}

fn path_of(state_dir: &Path, generation: u64) -> PathBuf {
    state_dir.join(format!("{PREFIX}{generation}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(state_dir: &Path, generation: u64) -> DeadSlots {
        match left_of(state_dir, generation).unwrap() {
            Left::Dead(slots) => slots,
            Left::Alive => panic!("alive"),
            Left::Unknown => panic!("unknown"),
        }
    }

    #[test]
    fn what_a_slot_says_outlives_its_worker() {
        let dir = tempfile::tempdir().unwrap();
        let mut slots = Slots::create(dir.path(), 7, 4).unwrap();
        let taken: Vec<u32> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(taken, [0, 1, 2, 3]);
        assert_eq!(slots.in_use(), 4);
        slots.held(0, 10);
        slots.held(1, 11);
        slots.sent(1, 500);
        slots.progress(1, 700);
        slots.progress(1, 600);
        slots.held(2, 12);
        slots.sent(2, 500);
        slots.done(2, 30);
        slots.held(3, 13);
        slots.free(3);
        assert!(matches!(left_of(dir.path(), 7).unwrap(), Left::Alive));
        drop(slots);
        let slots = dead(dir.path(), 7);
        assert_eq!(slots.read(0), Some((10, Phase::Held, 0)));
        assert_eq!(slots.read(1), Some((11, Phase::Sent, 700)));
        assert_eq!(slots.read(2), Some((12, Phase::Done, 30)));
        assert_eq!(slots.read(3), Some((0, Phase::Free, 0)));
        assert_eq!(slots.read(4), None);
    }

    #[test]
    fn a_slot_is_used_again_only_once_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let mut slots = Slots::create(dir.path(), 1, 1).unwrap();
        assert_eq!(slots.take(), Some(0));
        assert_eq!(slots.take(), None);
        slots.held(0, 1);
        slots.free(0);
        assert_eq!(slots.take(), Some(0));
    }

    #[test]
    #[should_panic(expected = "slot 0: Free to Sent")]
    fn nothing_is_sent_without_a_hold() {
        let dir = tempfile::tempdir().unwrap();
        Slots::create(dir.path(), 1, 1).unwrap().sent(0, 1);
    }

    #[test]
    fn a_file_that_is_torn_or_of_another_generation_is_unknown_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        drop(Slots::create(dir.path(), 1, 8).unwrap());
        let whole = std::fs::read(dir.path().join("slots.1")).unwrap();
        for (generation, bytes) in
            [(2, &whole[..]), (1, &whole[..whole.len() - 1]), (1, &whole[..20]), (1, &[])]
        {
            std::fs::write(path_of(dir.path(), generation), bytes).unwrap();
            assert!(matches!(left_of(dir.path(), generation).unwrap(), Left::Unknown));
        }
        assert!(matches!(left_of(dir.path(), 3).unwrap(), Left::Unknown));
    }

    #[test]
    fn only_whole_names_are_generations() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["slots.12", "slots.3", "slots.012", "slots.5.new", "slots.", "slots.-1"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        assert_eq!(generations(dir.path()).unwrap(), [3, 12]);
    }
}
