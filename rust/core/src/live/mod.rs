//! What all processes of a node know of providers at this moment: health, latency, what is in
//! flight, what has been learnt.
//!
//! One mapped file, `state_dir/live` ([`layout`] draws it). Everything is atomics: nobody waits
//! for anybody, and a writer that is killed leaves at most one figure a sample behind. The
//! supervisor makes the file, and keeps what it finds of the same boot and layout, so figures
//! outlive a restart. Times come in as arguments (`now_us`: the monotonic clock).
//!
//! Identifiers say where an entry was seen last and what its key is. An entry that has been idle
//! for ten minutes, when nothing it holds is believed any more, may be taken over while the table
//! is full; the next attempt there makes it anew, by its key alone. People see it again once
//! somebody has asked for it by its name.

mod credential;
mod ewma;
mod histogram;
mod key;
mod layout;
mod learnt;
mod mark;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod warm;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub use credential::CredentialRow;
pub use layout::TARGETS_MAX;
pub use learnt::OUTPUT_SHARE_START;
pub use mark::MarkView;
pub use target::{
    Averages, Change, ClassView, Health, Percentiles, SizeClass, TargetRow, TargetView,
};

use crate::cells::WORKERS_MAX;
use crate::mapped::MappedFile;
use key::KeyMaker;
use layout::{
    BOOT_BYTES, BOOT_OFFSET, CLOCK_OFFSET, KEYS_OFFSET, LAYOUT_VERSION, MAGIC, file_bytes,
};
use table::{Table, Takeover};

/// Idle for so long, an entry holds nothing that would still be believed.
const IDLE_US: u64 = 600_000_000;
/// The shared clock moves in steps of this, or every request of every worker would write it.
const CLOCK_STEP_US: u64 = 1_000_000;

/// A target: a provider and a model. The default is none: it reads as healthy and unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TargetId(Place);

/// A credential of a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CredentialId(Place);

/// A target as one route uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteTargetId(Place);

/// A counter with a name: a node of a routing config, a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MarkId(Place);

/// A key and where its entry was when the identifier was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Place {
    key: u64,
    index: u32,
}

impl Place {
    fn new(key: u64, index: Option<usize>) -> Self {
        Self { key, index: index.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX) }
    }
}

/// One process's view of the live state.
pub struct Live {
    mapped: MappedFile,
    workers: u32,
    worker: u32,
    keys: KeyMaker,
}

impl Live {
    /// Bytes of the file for so many worker slots.
    #[must_use]
    pub fn file_bytes(workers: u32) -> u64 {
        file_bytes(workers) as u64
    }

    /// Keep the file at `path` if it is of this boot and layout, else make it anew, empty.
    ///
    /// For the supervisor, before its workers start. A file with room for fewer workers grows;
    /// one with room for more stays as it is.
    ///
    /// # Errors
    /// No room for it, a path that cannot be written, or `workers` outside 1 to
    /// [`WORKERS_MAX`].
    pub fn open_or_create(path: &Path, boot_id: &str, workers: u32) -> io::Result<Self> {
        if workers == 0 || workers > WORKERS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{workers}` workers: must be 1 to {WORKERS_MAX}"),
            ));
        }
        if let Ok(found) = Self::open(path)
            && found.is_of_boot(boot_id)
        {
            if found.workers >= workers {
                return Ok(found);
            }
            drop(found);
            let mapped = MappedFile::open_sparse(path, file_bytes(workers) as u64)?;
            mapped.word(16).store(u64::from(workers), Ordering::Release);
            return Ok(Self::over(mapped, workers));
        }
        let unnamed = MappedFile::build(path, file_bytes(workers) as u64)?;
        write_header(&unnamed.mapped, boot_id, workers);
        Ok(Self::over(unnamed.publish_over()?, workers))
    }

    /// Map the file that [`Live::open_or_create`] made.
    ///
    /// # Errors
    /// `InvalidData` with the reason where the file is of another layout.
    pub fn open(path: &Path) -> io::Result<Self> {
        let refuse = |why: String| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
        };
        let mapped = MappedFile::open_sparse(path, 0)?;
        if mapped.len() < file_bytes(1) || mapped.word(0).load(Ordering::Relaxed) != MAGIC {
            return Err(refuse("not a file of live state".to_owned()));
        }
        let version = mapped.word(8).load(Ordering::Relaxed);
        if version != LAYOUT_VERSION {
            return Err(refuse(format!(
                "live layout {version}, this build reads {LAYOUT_VERSION}; restart \
                 `modelux serve`"
            )));
        }
        let workers = u32::try_from(mapped.word(16).load(Ordering::Acquire)).unwrap_or(0);
        // It may be longer: a supervisor that was killed while it made it grow.
        if workers == 0 || workers > WORKERS_MAX || mapped.len() < file_bytes(workers) {
            return Err(refuse("its size contradicts its header".to_owned()));
        }
        Ok(Self::over(mapped, workers))
    }

    /// Live state that this process alone knows, for a gate without a file and for tests.
    ///
    /// # Errors
    /// No memory for it.
    pub fn private() -> io::Result<Self> {
        let mapped = MappedFile::private(file_bytes(1) as u64)?;
        write_header(&mapped, "", 1);
        Ok(Self::over(mapped, 1))
    }

    /// The same, as the worker of a slot uses it.
    ///
    /// # Errors
    /// A slot that the file has no room for.
    pub fn as_worker(mut self, worker: u32) -> io::Result<Self> {
        if worker >= self.workers {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("worker slot {worker} of {}", self.workers),
            ));
        }
        self.worker = worker;
        Ok(self)
    }

    /// The worker slot that this process has; 0 unless it said otherwise.
    #[must_use]
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// How many worker slots the file has.
    #[must_use]
    pub fn workers(&self) -> u32 {
        self.workers
    }

    fn over(mapped: MappedFile, workers: u32) -> Self {
        let keys = [0, 8].map(|at| mapped.word(KEYS_OFFSET + at).load(Ordering::Relaxed));
        Self { mapped, workers, worker: 0, keys: KeyMaker(keys) }
    }

    fn is_of_boot(&self, boot_id: &str) -> bool {
        let words = boot_words(boot_id);
        words.iter().enumerate().all(|(nth, word)| {
            self.mapped.word(BOOT_OFFSET + nth * 8).load(Ordering::Relaxed) == *word
        })
    }

    // --- identifiers -------------------------------------------------------------------------

    /// The entry of a target, found or made.
    ///
    /// Where the table is full of targets in use, it is one that nothing is known of.
    #[must_use]
    pub fn target(&self, provider: &str, model: &str) -> TargetId {
        let parts = [provider, model];
        let key = self.keys.key_of(b't', &parts);
        TargetId(Place::new(key, self.find_or_make_target(key, &parts)))
    }

    /// The entry of a credential, found or made.
    #[must_use]
    pub fn credential(&self, provider: &str, credential: &str) -> CredentialId {
        let parts = [provider, credential];
        let key = self.keys.key_of(b'c', &parts);
        CredentialId(Place::new(key, self.find_or_make(&layout::CREDENTIALS, key, &parts)))
    }

    /// The entry of a target as a route uses it, found or made.
    #[must_use]
    pub fn route_target(
        &self,
        project: &str,
        slug: &str,
        provider: &str,
        model: &str,
    ) -> RouteTargetId {
        let parts = [project, slug, provider, model];
        let key = self.keys.key_of(b'r', &parts);
        RouteTargetId(Place::new(key, self.find_or_make(&layout::ROUTES, key, &parts)))
    }

    /// The entry of a named counter, found or made.
    #[must_use]
    pub fn mark(&self, name: &str) -> MarkId {
        let key = self.keys.key_of(b'm', &[name]);
        MarkId(Place::new(key, self.find_or_make_mark(key)))
    }

    fn find_or_make(&self, table: &Table, key: u64, parts: &[&str]) -> Option<usize> {
        let now_us = self.newest_us();
        let idle_since = |index: usize| {
            let used_us = table.word(&self.mapped, index, 1).load(Ordering::Relaxed);
            (now_us.saturating_sub(used_us) > IDLE_US).then_some(used_us)
        };
        let takeover = Takeover { now_us, idle_since: &idle_since, forget: &|_| () };
        let index = table.find_or_make(&self.mapped, key, parts, &takeover)?;
        let used = table.word(&self.mapped, index, 1);
        if used.load(Ordering::Relaxed) == 0 {
            used.store(now_us, Ordering::Relaxed);
        }
        Some(index)
    }

    fn find_or_make_target(&self, key: u64, parts: &[&str]) -> Option<usize> {
        let now_us = self.newest_us();
        let table = &layout::TARGETS;
        let idle_since = |index: usize| {
            let used_us = table.word(&self.mapped, index, 1).load(Ordering::Relaxed);
            let is_idle = now_us.saturating_sub(used_us) > IDLE_US;
            (is_idle && self.in_flight(index) == 0).then_some(used_us)
        };
        let forget = |index: usize| self.forget_target(index);
        let takeover = Takeover { now_us, idle_since: &idle_since, forget: &forget };
        let index = table.find_or_make(&self.mapped, key, parts, &takeover)?;
        // What was just made is not idle.
        let used = table.word(&self.mapped, index, 1);
        if used.load(Ordering::Relaxed) == 0 {
            used.store(now_us, Ordering::Relaxed);
        }
        Some(index)
    }

    /// Where a target's entry is; None where it has none.
    fn target_index(&self, target: TargetId) -> Option<usize> {
        layout::TARGETS.find(&self.mapped, target.0.key, target.0.index as usize)
    }

    /// The same; made anew where it was taken over.
    fn target_index_made(&self, target: TargetId) -> Option<usize> {
        let made = || (target.0.key != 0).then(|| self.find_or_make_target(target.0.key, &[]));
        self.target_index(target).or_else(|| made().flatten())
    }

    // --- the clock ---------------------------------------------------------------------------

    /// The newest time that any process has said, to within a second.
    fn newest_us(&self) -> u64 {
        self.mapped.word(CLOCK_OFFSET).load(Ordering::Relaxed)
    }

    fn note_time(&self, now_us: u64) {
        let clock = self.mapped.word(CLOCK_OFFSET);
        if now_us > clock.load(Ordering::Relaxed).saturating_add(CLOCK_STEP_US) {
            clock.fetch_max(now_us, Ordering::Relaxed);
        }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.mapped.word(offset)
    }
}

fn write_header(mapped: &MappedFile, boot_id: &str, workers: u32) {
    for (nth, word) in boot_words(boot_id).into_iter().enumerate() {
        mapped.word(BOOT_OFFSET + nth * 8).store(word, Ordering::Relaxed);
    }
    for (nth, value) in KeyMaker::random().0.into_iter().enumerate() {
        mapped.word(KEYS_OFFSET + nth * 8).store(value, Ordering::Relaxed);
    }
    for (nth, value) in [MAGIC, LAYOUT_VERSION, u64::from(workers)].into_iter().enumerate() {
        mapped.word(nth * 8).store(value, Ordering::Relaxed);
    }
}

fn boot_words(boot_id: &str) -> [u64; BOOT_BYTES / 8] {
    let mut words = [0_u64; BOOT_BYTES / 8];
    for (word, bytes) in words.iter_mut().zip(boot_id.as_bytes().chunks(8)) {
        let mut eight = [0_u8; 8];
        for (place, byte) in eight.iter_mut().zip(bytes) {
            *place = *byte;
        }
        *word = u64::from_le_bytes(eight);
    }
    words
}
