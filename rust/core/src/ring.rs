//! The trace ring: one mapped file a worker, one producer, one consumer, nobody waits.
//!
//! ```text
//! offset  who writes  what
//! 0       at creation magic "MLXRING1", layout version, capacity, slot, generation
//! 64      at creation boot id, 64 bytes, padded with zeroes
//! 128     producer    head: bytes ever committed         192  consumer  tail: bytes ever done
//! 136     producer    spill head: spill bytes committed  200  consumer  spill tail
//! 256     producer    counters (`Stats`), one word each
//! 4096    producer    `capacity` bytes of records, wrapping around
//!
//! record: 0 length of all (u32)    8  bodies (u8), where request and response lie (u8 each)
//!         4 check (u32)            12 meta, 16 request, 20 response: lengths (u32 each)
//!         24 meta, then each body or, where it lies in the spill, its position (u64); padded to 8
//! ```
//!
//! The producer writes a record into room that the tail has freed and then stores the head
//! with release order: a record is there whole or not at all, whenever its worker is killed.
//! The consumer reads up to the head, stores what it read, and only then moves the tail: killed
//! in between it reads the same again, and the store knows each record by its id.
//!
//! Who is alive shows in two OFD locks on the file: byte 0 is the producer's, byte 1 the
//! consumer's.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::mapped::MappedFile;
use crate::spill::{FrameKind, SpillName, SpillReader, SpillWriter};

const MAGIC: u64 = u64::from_le_bytes(*b"MLXRING1");
const LAYOUT_VERSION: u64 = 1;

const VERSION_OFFSET: usize = 8;
const CAPACITY_OFFSET: usize = 16;
const SLOT_OFFSET: usize = 24;
const GENERATION_OFFSET: usize = 32;
const BOOT_ID_OFFSET: usize = 64;
const BOOT_ID_BYTES: usize = 64;
const HEAD_OFFSET: usize = 128;
const SPILL_HEAD_OFFSET: usize = 136;
const TAIL_OFFSET: usize = 192;
const SPILL_TAIL_OFFSET: usize = 200;
const STATS_OFFSET: usize = 256;
const DATA_OFFSET: usize = 4096;

const RECORD_HEAD_BYTES: usize = 24;
const RECORD_ALIGN: usize = 8;
const RECORD_CHECK: u32 = 0x4D4C_5852;

const PRODUCER_LOCK: i64 = 0;
const CONSUMER_LOCK: i64 = 1;

/// Smallest ring: two of the largest inline traces and some more.
pub const RING_BYTES_MIN: u64 = 64 * 1024;
/// Largest ring: record lengths and offsets are far from any edge of 32 bits.
pub const RING_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bodies above it lie in the spill, by reference.
pub const INLINE_BODY_BYTES_MAX: usize = 32 * 1024;
/// Kept of each body while the ring is more than half full.
pub const CUT_BODY_BYTES: usize = 2 * 1024;
/// Kept of one body at all.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A record without its bodies is about 2 KiB; hundreds of tags and attempts stay below this.
pub const META_BYTES_MAX: usize = 1024 * 1024;

/// What one `read` returns at most, unless a single record is larger.
const READ_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What is there of a record's bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bodies {
    /// Both, whole.
    Kept = 0,
    /// The first part of at least one.
    Cut = 1,
    /// At least one was given up under pressure.
    Shed = 2,
    /// None, as configured.
    Off = 3,
}

impl Bodies {
    /// The word for it in the trace record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Cut => "cut",
            Self::Shed => "shed",
            Self::Off => "off",
        }
    }

    /// The state that a word of the trace record means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Kept, Self::Cut, Self::Shed, Self::Off]
            .into_iter()
            .find(|state| state.as_str() == word)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Kept, Self::Cut, Self::Shed, Self::Off]
            .into_iter()
            .find(|state| *state as u8 == byte)
    }
}

/// Where a trace went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Committed to the ring, with this much of its bodies.
    Ring(Bodies),
    /// The ring was full: committed to the spill, without bodies.
    Spill,
    /// Ring and spill were full, or the record is larger than either takes: lost, and counted.
    Lost,
}

/// What a producer has counted since its ring was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records committed, to ring or spill.
    pub accepted: u64,
    /// Of these, to the spill.
    pub spilled: u64,
    /// Records whose bodies were cut because the ring was half full.
    pub bodies_cut: u64,
    /// Records whose bodies were shed because the ring was three quarters full.
    pub bodies_shed: u64,
    /// Large bodies shed because the spill was half full or could not be written.
    pub large_bodies_shed: u64,
    /// Records lost.
    pub lost: u64,
}

#[derive(Clone, Copy)]
enum Counter {
    Accepted = 0,
    Spilled = 1,
    BodiesCut = 2,
    BodiesShed = 3,
    LargeBodiesShed = 4,
    Lost = 5,
}

/// The producing end; one in each worker.
pub struct RingWriter {
    mapped: MappedFile,
    capacity: usize,
    head: u64,
    spill: SpillWriter,
    scratch: Vec<u8>,
}

impl RingWriter {
    /// Make the ring file, reserve its room and take its lock.
    ///
    /// Args: `ring_bytes`: room for records, rounded down to 4 KiB; `spill_max_bytes`: this
    /// worker's share of the spill, whose directory is made; `boot_id`: at most 63 bytes, a reader of another boot
    /// refuses the file; `generation`: never used before for this slot.
    ///
    /// # Errors
    /// `AlreadyExists` where the slot's generation has a ring; no room; a bad argument.
    pub fn create(
        ring_path: &Path,
        ring_bytes: u64,
        spill_dir: &Path,
        spill_max_bytes: u64,
        boot_id: &str,
        slot: u32,
        generation: u64,
    ) -> io::Result<Self> {
        if !(RING_BYTES_MIN..=RING_BYTES_MAX).contains(&ring_bytes) {
            return Err(invalid_input(format!(
                "ring_bytes `{ring_bytes}`: must be {RING_BYTES_MIN} to {RING_BYTES_MAX}"
            )));
        }
        if boot_id.len() >= BOOT_ID_BYTES || boot_id.contains('\0') {
            return Err(invalid_input(format!("boot id `{boot_id}`: must be under 64 bytes")));
        }
        let capacity = usize::try_from(ring_bytes)
            .map_err(|_| invalid_input(format!("ring_bytes `{ring_bytes}`: too big")))?
            / 4096
            * 4096;
        let unnamed = MappedFile::build(ring_path, (DATA_OFFSET + capacity) as u64)?;
        let mapped = &unnamed.mapped;
        let slot = u64::from(slot);
        mapped.word(0).store(MAGIC, Ordering::Relaxed);
        mapped.word(VERSION_OFFSET).store(LAYOUT_VERSION, Ordering::Relaxed);
        mapped.word(CAPACITY_OFFSET).store(capacity as u64, Ordering::Relaxed);
        mapped.word(SLOT_OFFSET).store(slot, Ordering::Relaxed);
        mapped.word(GENERATION_OFFSET).store(generation, Ordering::Relaxed);
        mapped.copy_in(BOOT_ID_OFFSET, boot_id.as_bytes());
        if !mapped.try_lock(PRODUCER_LOCK)? {
            return Err(io::Error::other("a fresh ring file is locked by somebody else"));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(spill_dir)?;
        // Segments of a ring of this name from before a power loss belong to nobody.
        let name = SpillName::new(spill_dir, slot, generation);
        name.remove_all()?;
        let mapped = unnamed.publish_new()?;
        let spill = SpillWriter::new(name, spill_max_bytes);
        Ok(Self { mapped, capacity, head: 0, spill, scratch: Vec::new() })
    }

    /// Commit one trace: never waits for the reader, and gives up bodies before records.
    ///
    /// Args: `meta`: the record as one JSON object without its bodies; `bodies`: `Off` or
    /// `Shed` keep none, `Cut` says that the caller has cut one already.
    ///
    /// What this returns as accepted survives the death of this process at any later moment.
    pub fn append(
        &mut self,
        meta: &[u8],
        request: &[u8],
        response: &[u8],
        bodies: Bodies,
    ) -> Accepted {
        let tail = self.mapped.word(TAIL_OFFSET).load(Ordering::Acquire);
        let used = self.used(tail);
        let mut trace = Outgoing { request, response, bodies };
        if matches!(bodies, Bodies::Off | Bodies::Shed) {
            (trace.request, trace.response) = (&[], &[]);
        } else if used >= self.capacity / 4 * 3 {
            self.count(Counter::BodiesShed);
            trace = Outgoing { request: &[], response: &[], bodies: Bodies::Shed };
        } else {
            trace.cut_to(BODY_BYTES_MAX);
            if used >= self.capacity / 2 && trace.cut_to(CUT_BODY_BYTES) {
                self.count(Counter::BodiesCut);
            }
        }
        if meta.len() > META_BYTES_MAX {
            self.count(Counter::Lost);
            return Accepted::Lost;
        }
        let spilled = if trace.request.len().max(trace.response.len()) > INLINE_BODY_BYTES_MAX {
            self.spill_bodies(&mut trace)
        } else {
            Spilled::default()
        };
        match self.commit(used, meta, &trace, spilled) {
            Some(()) => Accepted::Ring(trace.bodies),
            None => self.spill_record(meta, bodies),
        }
    }

    /// What was counted since this ring was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        read_stats(&self.mapped)
    }

    /// Bytes that wait in the ring for the reader, and the room for them.
    #[must_use]
    pub fn fill(&self) -> (u64, u64) {
        let tail = self.mapped.word(TAIL_OFFSET).load(Ordering::Relaxed);
        (self.used(tail) as u64, self.capacity as u64)
    }

    fn used(&self, tail: u64) -> usize {
        // The reader's word comes from another process: whatever stands there must not make
        // this one write out of order. Nonsense counts as a full ring, and records spill.
        match self.head.checked_sub(tail).map(usize::try_from) {
            Some(Ok(used)) if used <= self.capacity => used,
            _ => self.capacity,
        }
    }

    fn spill_tail(&self) -> u64 {
        self.mapped.word(SPILL_TAIL_OFFSET).load(Ordering::Acquire)
    }

    /// Put the large bodies of `trace` into the spill, or shed those that it does not take.
    fn spill_bodies(&mut self, trace: &mut Outgoing<'_>) -> Spilled {
        let reader_at = self.spill_tail();
        let mut spilled = Spilled::default();
        for (body, place) in [
            (&mut trace.request, &mut spilled.request),
            (&mut trace.response, &mut spilled.response),
        ] {
            if body.len() <= INLINE_BODY_BYTES_MAX {
                continue;
            }
            let written = self.spill.has_room(body.len() as u64, reader_at, true)
                && match self.spill.append(FrameKind::Body, body) {
                    Ok(position) => {
                        *place = Some(position);
                        true
                    }
                    // A full or broken disk: the trace goes on without this body.
                    Err(_) => false,
                };
            if !written {
                *body = &[];
                trace.bodies = Bodies::Shed;
                bump(&self.mapped, Counter::LargeBodiesShed);
            }
        }
        spilled
    }

    /// Write the record behind the head and move the head; `None` where it does not fit.
    fn commit(
        &mut self,
        used: usize,
        meta: &[u8],
        trace: &Outgoing<'_>,
        spilled: Spilled,
    ) -> Option<()> {
        let inline = |body: &[u8], place: Option<u64>| place.map_or(body.len(), |_| 8);
        let record_bytes = (RECORD_HEAD_BYTES
            + meta.len()
            + inline(trace.request, spilled.request)
            + inline(trace.response, spilled.response))
        .next_multiple_of(RECORD_ALIGN);
        if record_bytes > self.capacity - used {
            return None;
        }
        let head = encode_head(self.head, record_bytes, meta, trace, spilled)?;
        let mut at = self.head;
        self.put(&mut at, &head);
        self.put(&mut at, meta);
        for (body, place) in
            [(trace.request, spilled.request), (trace.response, spilled.response)]
        {
            match place {
                Some(position) => self.put(&mut at, &position.to_le_bytes()),
                None => self.put(&mut at, body),
            }
        }
        self.head += record_bytes as u64;
        // Everything above is visible to whoever sees this head.
        self.mapped.word(HEAD_OFFSET).store(self.head, Ordering::Release);
        if spilled.request.or(spilled.response).is_some() {
            // After the record: a reader that has seen this mark, and then reads to the head,
            // has met every body before the mark.
            self.publish_spill();
        }
        self.count(Counter::Accepted);
        Some(())
    }

    /// Commit a record without bodies to the spill.
    fn spill_record(&mut self, meta: &[u8], bodies: Bodies) -> Accepted {
        let bodies = if bodies == Bodies::Off { Bodies::Off } else { Bodies::Shed };
        let trace = Outgoing { request: &[], response: &[], bodies };
        let record_bytes = (RECORD_HEAD_BYTES + meta.len()).next_multiple_of(RECORD_ALIGN);
        let accepted = self.spill.has_room(record_bytes as u64, self.spill_tail(), false)
            && encode_head(0, record_bytes, meta, &trace, Spilled::default()).is_some_and(
                |head| {
                    self.scratch.clear();
                    self.scratch.extend_from_slice(&head);
                    self.scratch.extend_from_slice(meta);
                    self.scratch.resize(record_bytes, 0);
                    self.spill.append(FrameKind::Record, &self.scratch).is_ok()
                },
            );
        if !accepted {
            self.count(Counter::Lost);
            return Accepted::Lost;
        }
        self.publish_spill();
        self.count(Counter::Accepted);
        self.count(Counter::Spilled);
        Accepted::Spill
    }

    fn publish_spill(&self) {
        self.mapped.word(SPILL_HEAD_OFFSET).store(self.spill.position(), Ordering::Release);
    }

    /// Copy `bytes` to the position `at`, around the end where need be, and move it on.
    fn put(&self, at: &mut u64, bytes: &[u8]) {
        let offset = offset_of(*at, self.capacity);
        let (first, rest) = bytes.split_at(bytes.len().min(self.capacity - offset));
        self.mapped.copy_in(DATA_OFFSET + offset, first);
        if !rest.is_empty() {
            self.mapped.copy_in(DATA_OFFSET, rest);
        }
        *at += bytes.len() as u64;
    }

    fn count(&self, counter: Counter) {
        bump(&self.mapped, counter);
    }
}

/// What is left of a trace on its way into the ring.
struct Outgoing<'t> {
    request: &'t [u8],
    response: &'t [u8],
    bodies: Bodies,
}

impl Outgoing<'_> {
    /// Keep at most `bytes` of each body; whether anything was cut.
    fn cut_to(&mut self, bytes: usize) -> bool {
        let is_longer = self.request.len().max(self.response.len()) > bytes;
        if is_longer {
            self.request = &self.request[..self.request.len().min(bytes)];
            self.response = &self.response[..self.response.len().min(bytes)];
            self.bodies = Bodies::Cut;
        }
        is_longer
    }
}

/// Where bodies lie that are not inline.
#[derive(Clone, Copy, Default)]
struct Spilled {
    request: Option<u64>,
    response: Option<u64>,
}

/// One trace as it comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The record as one JSON object, without its bodies.
    pub meta: Vec<u8>,
    /// The raw request body; empty where it was not kept.
    pub request: Vec<u8>,
    /// The raw response body; empty where it was not kept.
    pub response: Vec<u8>,
    /// What is there of them.
    pub bodies: Bodies,
}

/// Why a ring cannot be read.
#[derive(Debug)]
pub enum RingFault {
    /// The file system said no.
    Io(io::Error),
    /// Not a ring, another layout, another boot; the text says which.
    Refused(String),
    /// Another process reads it.
    HasReader,
    /// The bytes at a position contradict themselves: a bug, or a damaged file.
    Corrupt {
        /// Bytes since the ring was made.
        position: u64,
        /// What was wrong.
        why: &'static str,
    },
}

impl std::fmt::Display for RingFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Refused(why) => f.write_str(why),
            Self::HasReader => f.write_str("another process reads this ring"),
            Self::Corrupt { position, why } => write!(f, "damaged at byte {position}: {why}"),
        }
    }
}

impl std::error::Error for RingFault {}

impl From<io::Error> for RingFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The consuming end; in the trace writer, one a ring.
///
/// The way to use it: `read` until it returns nothing, `commit` after each batch is stored.
pub struct RingReader {
    mapped: MappedFile,
    path: PathBuf,
    capacity: usize,
    slot: u64,
    generation: u64,
    read_at: u64,
    spill: SpillReader,
    spill_at: u64,
    goal: u64,
    spill_goal: u64,
    /// Whether `read` has returned traces that `commit` has not freed yet.
    has_unsettled: bool,
}

impl RingReader {
    /// Map a ring, and become its only reader until dropped.
    ///
    /// # Errors
    /// See [`RingFault`]; `boot_id`, where given, must be the one that the ring was made in.
    pub fn open(
        ring_path: &Path,
        spill_dir: &Path,
        boot_id: Option<&str>,
    ) -> Result<Self, RingFault> {
        let mapped = MappedFile::open(ring_path)?;
        let refuse =
            |why: String| RingFault::Refused(format!("{}: {why}", ring_path.display()));
        let word = |offset: usize| mapped.word(offset).load(Ordering::Acquire);
        if mapped.len() < DATA_OFFSET || word(0) != MAGIC {
            return Err(refuse("not a trace ring".to_owned()));
        }
        let version = word(VERSION_OFFSET);
        if version != LAYOUT_VERSION {
            return Err(refuse(format!(
                "ring layout {version}, this build reads {LAYOUT_VERSION}"
            )));
        }
        let capacity = usize::try_from(word(CAPACITY_OFFSET)).unwrap_or(0);
        if capacity == 0 || mapped.len() - DATA_OFFSET != capacity {
            return Err(refuse("its size contradicts its header".to_owned()));
        }
        let mut made_in = Vec::new();
        mapped.copy_out(BOOT_ID_OFFSET, BOOT_ID_BYTES, &mut made_in);
        let made_in = made_in.split(|byte| *byte == 0).next().unwrap_or_default();
        if boot_id.is_some_and(|boot_id| boot_id.as_bytes() != made_in) {
            return Err(refuse(format!(
                "made in another boot (`{}`), so its order of writes is not known",
                String::from_utf8_lossy(made_in)
            )));
        }
        if !mapped.try_lock(CONSUMER_LOCK)? {
            return Err(RingFault::HasReader);
        }
        let slot = word(SLOT_OFFSET);
        let generation = word(GENERATION_OFFSET);
        let (tail, spill_tail) = (word(TAIL_OFFSET), word(SPILL_TAIL_OFFSET));
        let spill = SpillReader::new(SpillName::new(spill_dir, slot, generation));
        Ok(Self {
            mapped,
            path: ring_path.to_owned(),
            capacity,
            slot,
            generation,
            read_at: tail,
            spill,
            spill_at: spill_tail,
            goal: tail,
            spill_goal: spill_tail,
            has_unsettled: false,
        })
    }

    /// The worker slot of this ring.
    #[must_use]
    pub fn slot(&self) -> u64 {
        self.slot
    }

    /// Which start of the worker in that slot made it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The next traces, at most `records_max` and about 8 MiB; none when all are read.
    ///
    /// # Errors
    /// `Corrupt` leaves the reader where it was: [`RingReader::skip`] gives the rest up.
    pub fn read(&mut self, records_max: usize) -> Result<Vec<Trace>, RingFault> {
        let mut traces = self.read_to_goal(records_max)?;
        if traces.is_empty() {
            // What was left on the way to an older goal may have been bodies only. An empty
            // answer is to mean that nothing waits, so look at what has come since.
            traces = self.read_to_goal(records_max)?;
        }
        self.has_unsettled |= !traces.is_empty();
        if !self.has_unsettled {
            // Bodies in the spill may lie behind the last record: they are over too.
            self.commit()?;
        }
        Ok(traces)
    }

    fn read_to_goal(&mut self, records_max: usize) -> Result<Vec<Trace>, RingFault> {
        if self.read_at == self.goal && self.spill_at == self.spill_goal {
            // This order: every body before the spill mark is then named before the head.
            self.spill_goal = self.mapped.word(SPILL_HEAD_OFFSET).load(Ordering::Acquire);
            self.goal = self.mapped.word(HEAD_OFFSET).load(Ordering::Acquire);
        }
        let mut traces = Vec::new();
        let mut bytes = 0;
        while traces.len() < records_max && bytes < READ_BYTES_MAX {
            match self.next_trace() {
                Ok(Some(trace)) => {
                    bytes += trace.meta.len() + trace.request.len() + trace.response.len();
                    traces.push(trace);
                }
                Ok(None) => break,
                // What came before the damage is whole: it goes first, the fault next time.
                Err(_) if !traces.is_empty() => break,
                Err(fault) => return Err(fault),
            }
        }
        Ok(traces)
    }

    /// Free the room of everything that `read` has returned: it is stored.
    ///
    /// # Errors
    /// A spill segment that cannot be deleted; its room is counted as free all the same.
    pub fn commit(&mut self) -> io::Result<()> {
        self.has_unsettled = false;
        self.mapped.word(TAIL_OFFSET).store(self.read_at, Ordering::Release);
        // The spill is followed only while the ring has been read up to the head that was
        // loaded after the spill's mark: no record ahead names a body behind this place.
        let released = self.mapped.word(SPILL_TAIL_OFFSET).load(Ordering::Relaxed);
        if released == self.spill_at {
            return Ok(());
        }
        // Deleted first: killed in between, the next reader finds nothing left to delete.
        let result = self.spill.release(released, self.spill_at);
        self.mapped.word(SPILL_TAIL_OFFSET).store(self.spill_at, Ordering::Release);
        result
    }

    /// Give up everything up to the head, after damage; returns the bytes given up.
    ///
    /// # Errors
    /// As `commit`.
    pub fn skip(&mut self) -> io::Result<u64> {
        self.spill_goal = self.mapped.word(SPILL_HEAD_OFFSET).load(Ordering::Acquire);
        self.goal = self.mapped.word(HEAD_OFFSET).load(Ordering::Acquire);
        let given_up = self.goal.saturating_sub(self.read_at)
            + self.spill_goal.saturating_sub(self.spill_at);
        (self.read_at, self.spill_at) = (self.goal, self.spill_goal);
        self.commit().map(|()| given_up)
    }

    /// Whether the worker that made this ring still holds it.
    ///
    /// # Errors
    /// The file system's, if it cannot say.
    pub fn owner_alive(&self) -> io::Result<bool> {
        self.mapped.is_locked(PRODUCER_LOCK)
    }

    /// Whether everything that was ever committed here has been read *and* committed.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let word = |offset: usize| self.mapped.word(offset).load(Ordering::Acquire);
        word(SPILL_HEAD_OFFSET) == word(SPILL_TAIL_OFFSET)
            && word(HEAD_OFFSET) == word(TAIL_OFFSET)
    }

    /// Bytes that wait here, in ring and spill.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        let word = |offset: usize| self.mapped.word(offset).load(Ordering::Acquire);
        word(HEAD_OFFSET).saturating_sub(word(TAIL_OFFSET))
            + word(SPILL_HEAD_OFFSET).saturating_sub(word(SPILL_TAIL_OFFSET))
    }

    /// What the producer has counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        read_stats(&self.mapped)
    }

    /// Delete ring and spill.
    ///
    /// The spill goes first: killed in between, a drained ring is left, which says that there
    /// is nothing to read.
    ///
    /// # Panics
    /// Where something is left to read.
    ///
    /// # Errors
    /// What could not be deleted.
    pub fn remove(self) -> io::Result<()> {
        assert!(self.is_drained(), "{}", self.path.display());
        self.spill.remove_all()?;
        std::fs::remove_file(&self.path)
    }

    /// The next trace up to the marks that `read` took; first the ring's, then the spill's.
    fn next_trace(&mut self) -> Result<Option<Trace>, RingFault> {
        if self.read_at < self.goal {
            return self.next_in_ring().map(Some);
        }
        while self.spill_at < self.spill_goal {
            let step = self.spill.next(self.spill_at)?;
            let trace = step.record.map(|record| self.decode_spilled(&record)).transpose()?;
            self.spill_at = step.next;
            if trace.is_some() {
                return Ok(trace);
            }
        }
        Ok(None)
    }

    fn next_in_ring(&mut self) -> Result<Trace, RingFault> {
        let position = self.read_at;
        let corrupt = |why| RingFault::Corrupt { position, why };
        let waiting = usize::try_from(self.goal - position).unwrap_or(usize::MAX);
        if waiting > self.capacity || waiting < RECORD_HEAD_BYTES {
            return Err(corrupt("the head lies where no record can end"));
        }
        let mut bytes = Vec::new();
        self.take(position, RECORD_HEAD_BYTES, &mut bytes);
        let head = RecordHead::decode(&bytes).ok_or_else(|| corrupt("no record head"))?;
        if head.check != check_of(position) || head.record_bytes > waiting {
            return Err(corrupt("no record begins there"));
        }
        let mut at = position + RECORD_HEAD_BYTES as u64;
        let mut next = |bytes_count: usize| {
            let mut bytes = Vec::new();
            self.take(at, bytes_count, &mut bytes);
            at += bytes_count as u64;
            bytes
        };
        let meta = next(head.meta_bytes);
        let request = next(head.request_inline_bytes());
        let response = next(head.response_inline_bytes());
        let mut bodies = head.bodies;
        let request =
            self.resolve(request, head.request_bytes, head.request_spilled, &mut bodies);
        let response =
            self.resolve(response, head.response_bytes, head.response_spilled, &mut bodies);
        self.read_at = position + head.record_bytes as u64;
        Ok(Trace { meta, request, response, bodies })
    }

    /// The body itself, where `inline` is only its position in the spill.
    fn resolve(
        &mut self,
        inline: Vec<u8>,
        bytes: usize,
        is_spilled: bool,
        bodies: &mut Bodies,
    ) -> Vec<u8> {
        if !is_spilled {
            return inline;
        }
        let position = inline.try_into().map(u64::from_le_bytes);
        let body = match (position, u32::try_from(bytes)) {
            (Ok(position), Ok(length)) => self.spill.body(position, length).ok(),
            _ => None,
        };
        // A body that cannot be read any more must not take its record with it.
        body.unwrap_or_else(|| {
            *bodies = Bodies::Shed;
            Vec::new()
        })
    }

    fn decode_spilled(&self, record: &[u8]) -> Result<Trace, RingFault> {
        let corrupt = |why| RingFault::Corrupt { position: self.spill_at, why };
        let head =
            RecordHead::decode(record).ok_or_else(|| corrupt("no spilled record head"))?;
        let meta = record.get(RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + head.meta_bytes);
        let meta = meta.ok_or_else(|| corrupt("a spilled record is cut off"))?.to_vec();
        Ok(Trace { meta, request: Vec::new(), response: Vec::new(), bodies: head.bodies })
    }

    /// Append `length` bytes of the ring from `position` on to `out`, around the end.
    fn take(&self, position: u64, length: usize, out: &mut Vec<u8>) {
        let offset = offset_of(position, self.capacity);
        let first = length.min(self.capacity - offset);
        self.mapped.copy_out(DATA_OFFSET + offset, first, out);
        if first < length {
            self.mapped.copy_out(DATA_OFFSET, length - first, out);
        }
    }
}

/// The fixed part of a record.
struct RecordHead {
    record_bytes: usize,
    check: u32,
    bodies: Bodies,
    request_spilled: bool,
    response_spilled: bool,
    meta_bytes: usize,
    request_bytes: usize,
    response_bytes: usize,
}

impl RecordHead {
    /// `None` where the fields contradict one another.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 4)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let head = Self {
            record_bytes: word(0)? as usize,
            check: word(4)?,
            bodies: Bodies::from_byte(*bytes.get(8)?)?,
            request_spilled: *bytes.get(9)? == 1,
            response_spilled: *bytes.get(10)? == 1,
            meta_bytes: word(12)? as usize,
            request_bytes: word(16)? as usize,
            response_bytes: word(20)? as usize,
        };
        let parts = RECORD_HEAD_BYTES
            .checked_add(head.meta_bytes)?
            .checked_add(head.request_inline_bytes())?
            .checked_add(head.response_inline_bytes())?;
        (parts.next_multiple_of(RECORD_ALIGN) == head.record_bytes).then_some(head)
    }

    fn request_inline_bytes(&self) -> usize {
        if self.request_spilled { 8 } else { self.request_bytes }
    }

    fn response_inline_bytes(&self) -> usize {
        if self.response_spilled { 8 } else { self.response_bytes }
    }
}

/// `None` where a length does not fit its field, which the limits above rule out.
fn encode_head(
    position: u64,
    record_bytes: usize,
    meta: &[u8],
    trace: &Outgoing<'_>,
    spilled: Spilled,
) -> Option<[u8; RECORD_HEAD_BYTES]> {
    let mut head = [0; RECORD_HEAD_BYTES];
    head[..4].copy_from_slice(&u32::try_from(record_bytes).ok()?.to_le_bytes());
    head[4..8].copy_from_slice(&check_of(position).to_le_bytes());
    head[8] = trace.bodies as u8;
    head[9] = u8::from(spilled.request.is_some());
    head[10] = u8::from(spilled.response.is_some());
    head[12..16].copy_from_slice(&u32::try_from(meta.len()).ok()?.to_le_bytes());
    head[16..20].copy_from_slice(&u32::try_from(trace.request.len()).ok()?.to_le_bytes());
    head[20..].copy_from_slice(&u32::try_from(trace.response.len()).ok()?.to_le_bytes());
    Some(head)
}

/// Tells a record head from other bytes, and one position from another.
fn check_of(position: u64) -> u32 {
    let low = u32::try_from(position & u64::from(u32::MAX)).unwrap_or(0);
    let high = u32::try_from(position >> 32).unwrap_or(0);
    low ^ high ^ RECORD_CHECK
}

/// Where in the data area a position lies.
fn offset_of(position: u64, capacity: usize) -> usize {
    let offset = position % capacity as u64;
    // Below the capacity, which is a `usize`.
    usize::try_from(offset).unwrap_or(0)
}

fn bump(mapped: &MappedFile, counter: Counter) {
    // The producer is the only writer, so no locked instruction is needed.
    let word = mapped.word(STATS_OFFSET + counter as usize * 8);
    word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

fn read_stats(mapped: &MappedFile) -> Stats {
    let read = |counter: Counter| {
        mapped.word(STATS_OFFSET + counter as usize * 8).load(Ordering::Relaxed)
    };
    Stats {
        accepted: read(Counter::Accepted),
        spilled: read(Counter::Spilled),
        bodies_cut: read(Counter::BodiesCut),
        bodies_shed: read(Counter::BodiesShed),
        large_bodies_shed: read(Counter::LargeBodiesShed),
        lost: read(Counter::Lost),
    }
}

fn invalid_input(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dirs(tempfile::TempDir);

    impl Dirs {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn ring(&self) -> PathBuf {
            self.0.path().join("ring.0.1")
        }

        fn writer(&self, ring_bytes: u64, spill_max_bytes: u64) -> RingWriter {
            let dir = self.0.path();
            RingWriter::create(&self.ring(), ring_bytes, dir, spill_max_bytes, "boot", 0, 1)
                .unwrap()
        }

        fn reader(&self) -> RingReader {
            RingReader::open(&self.ring(), self.0.path(), Some("boot")).unwrap()
        }

        fn files(&self) -> usize {
            std::fs::read_dir(self.0.path()).unwrap().count()
        }
    }

    const KIB: usize = 1024;

    #[test]
    fn what_goes_in_comes_out() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 0);
        let mut reader = dirs.reader();
        for index in 0..1000_u32 {
            let meta = format!("{{\"id\": {index}}}");
            let body = vec![b'x'; (index % 700) as usize];
            let accepted = writer.append(meta.as_bytes(), &body, b"yes", Bodies::Kept);
            assert_eq!(accepted, Accepted::Ring(Bodies::Kept));
            let traces = reader.read(10).unwrap();
            assert_eq!(traces.len(), 1);
            assert_eq!(traces[0].meta, meta.as_bytes());
            assert_eq!(traces[0].request, body);
            assert_eq!(traces[0].response, b"yes");
            reader.commit().unwrap();
        }
        assert_eq!(writer.stats().accepted, 1000);
        assert!(reader.is_drained());
    }

    #[test]
    fn what_is_not_committed_is_read_again_by_the_next_reader() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 0);
        for index in 0..5_u8 {
            writer.append(&[index], b"", b"", Bodies::Kept);
        }
        let mut reader = dirs.reader();
        assert_eq!(reader.read(2).unwrap().len(), 2);
        reader.commit().unwrap();
        assert_eq!(reader.read(2).unwrap().len(), 2);
        drop(reader);
        let mut reader = dirs.reader();
        let metas: Vec<_> = reader.read(9).unwrap().into_iter().map(|t| t.meta).collect();
        assert_eq!(metas, [[2], [3], [4]]);
    }

    #[test]
    fn under_pressure_bodies_go_first_then_records_spill_then_are_lost() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 4 * KIB as u64);
        let body = vec![b'b'; 8 * KIB];
        let meta = vec![b'm'; KIB];
        let mut seen = Vec::new();
        for _ in 0..200 {
            seen.push(writer.append(&meta, &body, &body, Bodies::Kept));
        }
        seen.dedup();
        assert_eq!(
            seen,
            [
                Accepted::Ring(Bodies::Kept),
                Accepted::Ring(Bodies::Cut),
                Accepted::Ring(Bodies::Shed),
                Accepted::Spill,
                Accepted::Lost,
            ]
        );
        let stats = writer.stats();
        assert_eq!(stats.spilled, 3);
        assert_eq!(stats.accepted + stats.lost, 200);
        assert!(stats.bodies_cut > 0 && stats.bodies_shed > stats.spilled);

        let mut reader = dirs.reader();
        let traces = reader.read(1000).unwrap();
        assert_eq!(traces.len() as u64, stats.accepted);
        assert!(traces.iter().all(|trace| trace.meta == meta));
        let cut = traces.iter().find(|trace| trace.bodies == Bodies::Cut).unwrap();
        assert_eq!((cut.request.len(), cut.response.len()), (CUT_BODY_BYTES, CUT_BODY_BYTES));
        reader.commit().unwrap();
        assert!(reader.is_drained());
        let after = writer.append(&meta, &body, &body, Bodies::Kept);
        assert_eq!(after, Accepted::Ring(Bodies::Kept));
    }

    #[test]
    fn large_bodies_lie_in_the_spill_and_go_when_it_is_half_full() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 400 * KIB as u64);
        let mut reader = dirs.reader();
        let large: Vec<u8> = (0..100 * KIB).map(|at| at.to_le_bytes()[0]).collect();
        for _ in 0..3 {
            assert_eq!(
                writer.append(b"{}", &large, b"small", Bodies::Kept),
                Accepted::Ring(Bodies::Kept)
            );
            let traces = reader.read(10).unwrap();
            assert_eq!(traces[0].request, large);
            assert_eq!(traces[0].response, b"small");
            reader.commit().unwrap();
        }
        assert_eq!(
            writer.append(b"{}", &large, &large, Bodies::Kept),
            Accepted::Ring(Bodies::Shed)
        );
        let traces = reader.read(10).unwrap();
        assert_eq!((traces[0].request.len(), traces[0].response.len()), (large.len(), 0));
        assert_eq!(writer.stats().large_bodies_shed, 1);
    }

    #[test]
    fn a_body_that_vanished_from_the_spill_does_not_take_its_record_with_it() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 4 << 20);
        writer.append(b"{}", &vec![1; 40 * KIB], b"", Bodies::Kept);
        SpillName::new(dirs.0.path(), 0, 1).remove_all().unwrap();
        let traces = dirs.reader().read(10).unwrap();
        assert_eq!((traces.len(), traces[0].bodies), (1, Bodies::Shed));
    }

    #[test]
    fn bodies_behind_the_last_record_do_not_keep_a_dead_ring_from_being_drained() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 4 << 20);
        writer.append(b"{}", &vec![1; 40 * KIB], b"", Bodies::Kept);
        drop(writer);
        let mut reader = dirs.reader();
        // The spill is passed only by the second look, which finds no record any more.
        assert_eq!(reader.read(1).unwrap().len(), 1);
        reader.commit().unwrap();
        assert!(reader.read(1).unwrap().is_empty());
        assert!(reader.is_drained());
        reader.remove().unwrap();
        assert_eq!(dirs.files(), 0);
    }

    #[test]
    fn an_empty_answer_means_that_nothing_waits() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 4 << 20);
        writer.append(b"{}", &vec![1; 40 * KIB], b"", Bodies::Kept);
        let mut reader = dirs.reader();
        assert_eq!(reader.read(1).unwrap().len(), 1);
        // This one lies behind the goal of the first look, which ends in bodies only.
        writer.append(b"{}", b"", b"", Bodies::Kept);
        assert_eq!(reader.read(1).unwrap().len(), 1);
        assert!(reader.read(1).unwrap().is_empty());
    }

    #[test]
    fn bodies_beyond_any_use_are_cut_and_off_means_none() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 64 << 20);
        let huge = vec![7; BODY_BYTES_MAX + 1];
        writer.append(b"{}", &huge, b"r", Bodies::Kept);
        writer.append(b"{}", &huge, b"r", Bodies::Off);
        let traces = dirs.reader().read(10).unwrap();
        assert_eq!((traces[0].request.len(), traces[0].bodies), (BODY_BYTES_MAX, Bodies::Cut));
        assert_eq!(traces[0].response, b"r");
        assert_eq!(traces[1].bodies, Bodies::Off);
        assert!(traces[1].request.is_empty() && traces[1].response.is_empty());
    }

    #[test]
    fn a_ring_has_one_reader_and_shows_whether_its_owner_lives() {
        let dirs = Dirs::new();
        let writer = dirs.writer(RING_BYTES_MIN, 0);
        let reader = dirs.reader();
        let second = RingReader::open(&dirs.ring(), dirs.0.path(), None);
        assert!(matches!(second, Err(RingFault::HasReader)));
        assert!(reader.owner_alive().unwrap());
        drop(writer);
        assert!(!reader.owner_alive().unwrap());
        reader.remove().unwrap();
        assert_eq!(dirs.files(), 0);
    }

    #[test]
    fn a_name_that_is_taken_is_refused_and_leaves_the_owner_alone() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 0);
        writer.append(b"{}", b"", b"", Bodies::Kept);
        let again =
            RingWriter::create(&dirs.ring(), RING_BYTES_MIN, dirs.0.path(), 0, "boot", 0, 1);
        assert_eq!(again.err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(dirs.files(), 1);
        assert_eq!(dirs.reader().read(9).unwrap().len(), 1);
    }

    #[test]
    fn another_boot_layout_or_file_is_refused_with_the_reason() {
        let dirs = Dirs::new();
        let writer = dirs.writer(RING_BYTES_MIN, 0);
        let refused = |boot: Option<&str>| {
            RingReader::open(&dirs.ring(), dirs.0.path(), boot).err().unwrap().to_string()
        };
        assert!(refused(Some("other")).contains("another boot (`boot`)"));
        writer.mapped.word(VERSION_OFFSET).store(7, Ordering::Relaxed);
        assert!(refused(None).contains("ring layout 7"));
        writer.mapped.word(0).store(7, Ordering::Relaxed);
        assert!(refused(None).contains("not a trace ring"));
    }

    #[test]
    fn damage_is_reported_after_what_came_before_it_and_can_be_skipped() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 0);
        writer.append(b"{}", b"", b"", Bodies::Kept);
        let damaged_at = usize::try_from(writer.head).unwrap();
        writer.append(b"{}", b"", b"", Bodies::Kept);
        writer.mapped.copy_in(DATA_OFFSET + damaged_at + 4, &[0xFF; 4]);
        let mut reader = dirs.reader();
        assert_eq!(reader.read(9).unwrap().len(), 1);
        assert!(matches!(reader.read(9), Err(RingFault::Corrupt { .. })));
        assert_eq!(reader.skip().unwrap(), writer.head - damaged_at as u64);
        writer.append(b"new", b"", b"", Bodies::Kept);
        assert_eq!(reader.read(9).unwrap()[0].meta, b"new");
    }

    #[test]
    fn a_tail_that_makes_no_sense_never_makes_the_producer_write_out_of_order() {
        let dirs = Dirs::new();
        let mut writer = dirs.writer(RING_BYTES_MIN, 1 << 20);
        writer.append(b"{}", b"", b"", Bodies::Kept);
        for nonsense in [u64::MAX, 1 << 40, writer.head + 8] {
            writer.mapped.word(TAIL_OFFSET).store(nonsense, Ordering::Relaxed);
            assert_eq!(writer.append(b"{}", b"", b"", Bodies::Kept), Accepted::Spill);
        }
    }

    #[test]
    fn no_room_on_the_file_system_is_an_error_at_creation_and_leaves_nothing() {
        let dirs = Dirs::new();
        let path = dirs.0.path().join("ring.0.1");
        let error =
            RingWriter::create(&path, 1 << 50, dirs.0.path(), 0, "", 0, 1).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let too_long = "b".repeat(64);
        assert!(RingWriter::create(&path, 1 << 20, dirs.0.path(), 0, &too_long, 0, 1).is_err());
        assert!(MappedFile::build(&path, 1 << 60).is_err());
        assert_eq!(dirs.files(), 0);
    }
}
