//! The map: made whole, opened once a process, and only if it is ours.
//!
//! LMDB with a writable map and without syncs: the file is memory that processes share, and the
//! copy in `ledger.db` is what survives power loss. Its lock is a robust mutex, so a process
//! that dies inside a transaction leaves the last committed state and a free lock.
//!
//! A mapped file that is shorter than its mapping, or has holes that a full file system cannot
//! fill, ends a process with SIGBUS. So its room is reserved when it is made and again whenever
//! a supervisor takes it over, and its length is compared with its own header before it is
//! mapped at all.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, WithTls};

use super::LedgerFault;
use super::codec::of_meta;
use crate::mapped::reserve;

/// Smallest map: what one turn may touch fits several times into the part kept for settles.
pub const MAP_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Largest map: far above a million rows, far below any limit of an address space.
pub const MAP_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// Processes that may read at once: every worker of the largest node, and some tools.
const READERS_MAX: u32 = 1_280;

const LAYOUT_VERSION: u32 = 1;
const FILE_NAME: &str = "ledger.mdb";

const LMDB_MAGIC: u32 = 0xBEEF_C0DE;
const META_BYTES: usize = 16 + 136;
const MAP_SIZE_OFFSET: usize = 32;

type Records = Database<Bytes, Bytes>;

/// The open map.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) env: Env<WithTls>,
    pub(super) records: Records,
    /// Tells this map from every other one that ever had its name.
    pub(super) identity: u64,
    pub(super) map_bytes: u64,
    pub(super) page_bytes: u64,
}

impl Store {
    /// Open the map in `state_dir`, or make it. Only where no process uses it yet.
    pub(super) fn create(
        state_dir: &Path,
        map_bytes: u64,
        stamp: &str,
    ) -> Result<Self, LedgerFault> {
        if !(MAP_BYTES_MIN..=MAP_BYTES_MAX).contains(&map_bytes) {
            return Err(LedgerFault::Io(format!(
                "a ledger of `{map_bytes}` bytes: must be {MAP_BYTES_MIN} to {MAP_BYTES_MAX}"
            )));
        }
        let path = path_in(state_dir);
        match std::fs::symlink_metadata(&path) {
            Ok(_) => {
                let store = Self::open(state_dir)?;
                let found = store.stamp()?;
                if found != stamp {
                    return Err(not_ours(
                        &path,
                        &format!("its stamp is `{found}`, not `{stamp}`"),
                    ));
                }
                // Whatever happened to the file while nobody had it open: no holes.
                reserve(&store.file()?, store.map_bytes)?;
                Ok(store)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Self::make(&path, map_bytes.next_multiple_of(page_bytes()), stamp);
                if made.is_err() {
                    // Half a map would be refused at the next start; why it failed is what counts.
                    drop(discard(state_dir));
                }
                made
            }
            Err(error) => Err(error.into()),
        }
    }

    fn make(path: &Path, map_bytes: u64, stamp: &str) -> Result<Self, LedgerFault> {
        let env = open_env(path, map_bytes)?;
        reserve(&env.try_clone_inner_file()?, map_bytes)?;
        let mut txn = env.write_txn()?;
        let records: Records = env.create_database(&mut txn, None)?;
        let (text, identity) = stamp_text(&std::fs::metadata(path)?, stamp);
        // Last, in one transaction: a map that was not finished has no stamp.
        records.put(&mut txn, &of_meta("stamp"), text.as_bytes())?;
        txn.commit()?;
        Ok(Self { env, records, identity, map_bytes, page_bytes: page_bytes() })
    }

    /// Open the map that a supervisor made.
    pub(super) fn open(state_dir: &Path) -> Result<Self, LedgerFault> {
        let path = path_in(state_dir);
        let map_bytes = check_file(&path)?;
        let env = open_env(&path, map_bytes)?;
        let txn = env.read_txn()?;
        let records: Option<Records> = env.open_database(&txn, None)?;
        txn.commit()?;
        let records = records.ok_or_else(|| not_ours(&path, "it has no tree"))?;
        let mut store = Self { env, records, identity: 0, map_bytes, page_bytes: page_bytes() };
        let stamp = store.stamp()?;
        let (text, identity) = stamp_text(&std::fs::metadata(&path)?, &stamp);
        let found = store.read_stamp()?;
        if found != text {
            return Err(not_ours(&path, "it is a copy, or of another layout"));
        }
        store.identity = identity;
        Ok(store)
    }

    /// The stamp that the map was made with.
    pub(super) fn stamp(&self) -> Result<String, LedgerFault> {
        let text = self.read_stamp()?;
        let stamp = text.splitn(4, ' ').nth(3);
        stamp
            .map(str::to_owned)
            .ok_or_else(|| not_ours(self.env.path(), "it was never finished, or has no stamp"))
    }

    fn read_stamp(&self) -> Result<String, LedgerFault> {
        let txn = self.env.read_txn()?;
        let text = self.records.get(&txn, &of_meta("stamp"))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn file(&self) -> Result<File, LedgerFault> {
        Ok(self.env.try_clone_inner_file()?)
    }

    /// Pages in use, as this transaction sees them.
    ///
    /// What holds records, and a part for the list of free pages.
    pub(super) fn pages_used(&self, txn: &RoTxn<'_>) -> Result<u64, LedgerFault> {
        let taken = self.pages_taken();
        let stat = self.records.stat(txn)?;
        let holding = (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64;
        Ok(taken.min(holding + self.pages_max() / 64 + 2))
    }

    /// Pages that were ever in use; LMDB never gives one back to the end of the map.
    pub(super) fn pages_taken(&self) -> u64 {
        self.env.info().last_page_number as u64 + 1
    }

    /// Pages of the map.
    pub(super) fn pages_max(&self) -> u64 {
        self.map_bytes / self.page_bytes
    }
}

/// Remove the map of `state_dir` and its lock. A process that has it open keeps both, unseen.
///
/// # Errors
/// What the file system says; a map that is not there is none.
pub fn discard(state_dir: &Path) -> io::Result<()> {
    let path = path_in(state_dir);
    let mut lock = path.clone().into_os_string();
    lock.push("-lock");
    for path in [path, PathBuf::from(lock)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}

fn not_ours(path: &Path, why: &str) -> LedgerFault {
    LedgerFault::NotOurs(format!("{}: {why}", path.display()))
}

/// Compare the file's length with what its own header says; no byte of it is mapped yet.
fn check_file(path: &Path) -> Result<u64, LedgerFault> {
    let mut file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_ours(path, "there is no ledger; is `serve` running?"),
        _ => error.into(),
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(not_ours(path, "it is not a file"));
    }
    let mut head = Vec::with_capacity(META_BYTES);
    (&mut file).take(META_BYTES as u64).read_to_end(&mut head)?;
    if head.len() < META_BYTES || super::codec::half(&head, 16) != LMDB_MAGIC {
        return Err(not_ours(path, "it is not an LMDB file, or was never finished"));
    }
    let map_bytes = super::codec::word(&head, MAP_SIZE_OFFSET);
    if metadata.len() != map_bytes
        || map_bytes % page_bytes() != 0
        || !(MAP_BYTES_MIN..=MAP_BYTES_MAX).contains(&map_bytes)
    {
        return Err(not_ours(
            path,
            &format!("it has {} bytes, its header says {map_bytes}", metadata.len()),
        ));
    }
    Ok(map_bytes)
}

/// What identifies a file beyond its name: a copy has another inode or another time of birth.
fn stamp_text(metadata: &Metadata, stamp: &str) -> (String, u64) {
    let birth_ns = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    let inode = metadata.ino();
    let identity = (inode ^ birth_ns.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (format!("{LAYOUT_VERSION} {inode} {birth_ns} {stamp}"), identity)
}

fn page_bytes() -> u64 {
    // SAFETY: `sysconf` reads a constant of the system and takes no pointer.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

fn open_env(path: &Path, map_bytes: u64) -> Result<Env<WithTls>, LedgerFault> {
    let map_size = usize::try_from(map_bytes)
        .map_err(|_| LedgerFault::Io(format!("a map of {map_bytes} bytes is too big")))?;
    let mut options = EnvOpenOptions::new();
    options.map_size(map_size).max_readers(READERS_MAX);
    // SAFETY: `NO_SUB_DIR` only names the file. `WRITE_MAP`, `NO_SYNC` and `NO_META_SYNC` trade
    // durability, which `ledger.db` provides, and need that no stray write of ours reaches the
    // map: safe Rust has none. `NO_MEM_INIT` leaves old bytes of this file in its own unused
    // parts, and the file is ours alone (mode 0600).
    unsafe {
        options.flags(
            EnvFlags::NO_SUB_DIR
                | EnvFlags::WRITE_MAP
                | EnvFlags::NO_SYNC
                | EnvFlags::NO_META_SYNC
                | EnvFlags::NO_MEM_INIT,
        );
    }
    // SAFETY: the file is changed by nobody but LMDB: every process opens it here, with the same
    // flags, after its length was checked; heed refuses to open it twice in one process, and no
    // process of ours forks with it open. Whoever truncates it from outside ends us with SIGBUS,
    // which loses nothing that was committed.
    let env = unsafe { options.open(path) }?;
    Ok(env)
}

impl From<heed::Error> for LedgerFault {
    fn from(error: heed::Error) -> Self {
        match error {
            heed::Error::Mdb(MdbError::MapFull | MdbError::TxnFull | MdbError::ReadersFull) => {
                Self::Full
            }
            heed::Error::Mdb(error @ (MdbError::Corrupted | MdbError::PageNotFound)) => {
                Self::Inconsistent(error.to_string())
            }
            heed::Error::Mdb(error @ (MdbError::Invalid | MdbError::VersionMismatch)) => {
                Self::NotOurs(error.to_string())
            }
            other => Self::Io(other.to_string()),
        }
    }
}
