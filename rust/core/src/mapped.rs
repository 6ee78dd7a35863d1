//! A file that several processes map at once: the only unsafe code of this crate.
//!
//! [`MappedFile`] makes or opens a file of a fixed size, maps it, and gives out atomics and
//! byte copies with every offset checked. `ring` and `cells` say who may write what and when;
//! nothing here knows a layout.
//!
//! A file is made whole or not at all: it is built under a temporary name, its room is
//! reserved with `posix_fallocate` (a full tmpfs is an error here, never a SIGBUS later), its
//! contents are written, and only then does it get its name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// The only mode that files holding prompts may have.
pub(crate) const FILE_MODE: u32 = 0o600;

/// One mapping of one file. Dropping it unmaps and closes, which frees the locks it took.
pub(crate) struct MappedFile {
    map: MmapRaw,
    file: File,
}

impl MappedFile {
    /// Reserve `bytes` of zeroes under a temporary name beside `path`.
    ///
    /// [`Unnamed::publish_new`] or [`Unnamed::publish_over`] then gives the file its name.
    pub(crate) fn build(path: &Path, bytes: u64) -> io::Result<Unnamed> {
        let temporary = temporary_path(path);
        // Left behind by a process that was killed while it built the same file.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&temporary)?;
        let mapped = reserve(&file, bytes).and_then(|()| Self::map(file, bytes));
        match mapped {
            Ok(mapped) => Ok(Unnamed { mapped, temporary, path: path.to_owned() }),
            Err(error) => {
                // The reason for which building failed matters more than the left-over.
                drop(std::fs::remove_file(&temporary));
                Err(error)
            }
        }
    }

    /// Map the file at `path` for reading and writing, whatever its size.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = file.metadata()?.len();
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
        }
        Self::map(file, bytes)
    }

    /// Map the file at `path`, made `bytes` long if it is shorter; pages come as they are touched.
    ///
    /// For a table that is mostly empty: its room is reserved, but a process takes into its own
    /// memory only what it uses.
    pub(crate) fn open_sparse(path: &Path, bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let found = file.metadata()?.len();
        if found < bytes {
            reserve(&file, bytes)?;
        }
        Self::map_sparse(file, found.max(bytes).max(1))
    }

    /// `bytes` of zeroes that have no name and belong to this process alone.
    pub(crate) fn private(bytes: u64) -> io::Result<Self> {
        // SAFETY: the name is a C string that lives for the whole call.
        let descriptor = unsafe { libc::memfd_create(c"modelux".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else knows it.
        let file = unsafe { File::from_raw_fd(descriptor) };
        file.set_len(bytes)?;
        Self::map_sparse(file, bytes)
    }

    fn map(file: File, bytes: u64) -> io::Result<Self> {
        // Populated at once, so that no request pays for the first touch of a page.
        let map = MmapOptions::new().len(length_of(bytes)?).populate().map_raw(&file)?;
        Ok(Self { map, file })
    }

    fn map_sparse(file: File, bytes: u64) -> io::Result<Self> {
        let map = MmapOptions::new().len(length_of(bytes)?).map_raw(&file)?;
        Ok(Self { map, file })
    }

    /// The size of the mapping in bytes.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The word at byte `offset`, shared with every process that maps the file.
    ///
    /// # Panics
    /// On an offset that is not a multiple of 8 or not wholly inside the mapping.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0, "{offset}");
        assert!(offset.checked_add(8).is_some_and(|end| end <= self.len()), "{offset}");
        // SAFETY: the mapping is page aligned and the offset a checked multiple of 8, so the
        // pointer is aligned and inside the mapping, which lives as long as `self`. Words
        // given out here are only ever touched as atomics: a layout keeps its words and the
        // bytes that `copy_in` and `copy_out` touch apart.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(offset).cast()) }
    }

    /// The `count` words from byte `offset` on, as `word` gives each.
    ///
    /// # Panics
    /// As in `word`, for any of them.
    pub(crate) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset % 8 == 0, "{offset}");
        let end = count.checked_mul(8).and_then(|bytes| offset.checked_add(bytes));
        assert!(end.is_some_and(|end| end <= self.len()), "{offset} + 8 * {count}");
        // SAFETY: as in `word`: aligned, wholly inside of a mapping that lives as long as `self`,
        // and touched as atomics only, which is what makes sharing it sound.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(offset).cast(), count) }
    }

    /// Copy `bytes` into the mapping at `offset`.
    ///
    /// # Panics
    /// Where they would not lie wholly inside the mapping.
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= self.len()), "{offset} + {}", bytes.len());
        // SAFETY: the range was checked against the mapping, and a slice of ours never
        // overlaps it, as no reference into the mapping is ever made but atomics. That no
        // other process reads the range meanwhile is the caller's protocol (in the ring:
        // bytes between head and tail + capacity belong to the producer alone).
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.map.as_mut_ptr().add(offset),
                bytes.len(),
            );
        }
    }

    /// Append `length` bytes of the mapping from `offset` on to `out`.
    ///
    /// # Panics
    /// Where they do not lie wholly inside the mapping.
    pub(crate) fn copy_out(&self, offset: usize, length: usize, out: &mut Vec<u8>) {
        let end = offset.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.len()), "{offset} + {length}");
        out.reserve(length);
        // SAFETY: the source range was checked against the mapping, the target was reserved
        // just above and does not overlap it; the length is set after the bytes are there.
        // That no other process writes the range meanwhile is the caller's protocol (in the
        // ring: bytes between tail and head belong to the consumer alone).
        unsafe {
            let target = out.as_mut_ptr().add(out.len());
            std::ptr::copy_nonoverlapping(self.map.as_ptr().add(offset), target, length);
            out.set_len(out.len() + length);
        }
    }

    /// Take the exclusive lock on one byte of the file, for as long as this mapping lives.
    ///
    /// An OFD lock: it belongs to this open file, dies with its last holder however that ends,
    /// and unlike a process id it is never reused.
    ///
    /// Returns false where another open file holds it.
    pub(crate) fn try_lock(&self, byte: i64) -> io::Result<bool> {
        let mut request = write_lock(byte);
        // SAFETY: the descriptor is open as long as `self.file` lives, and `request` is a
        // valid `flock` for the whole call.
        let result =
            unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut request) };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(error),
        }
    }

    /// Whether some other open file holds the lock on `byte`. Takes nothing itself.
    pub(crate) fn is_locked(&self, byte: i64) -> io::Result<bool> {
        let mut request = write_lock(byte);
        // SAFETY: as in `try_lock`.
        let result =
            unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(i32::from(request.l_type) != libc::F_UNLCK)
    }
}

/// A file that is built but does not have its name yet.
pub(crate) struct Unnamed {
    pub(crate) mapped: MappedFile,
    temporary: PathBuf,
    path: PathBuf,
}

impl Unnamed {
    /// Give the file its name; `AlreadyExists` where the name is taken.
    pub(crate) fn publish_new(self) -> io::Result<MappedFile> {
        let linked = std::fs::hard_link(&self.temporary, &self.path);
        let removed = std::fs::remove_file(&self.temporary);
        linked.and(removed)?;
        Ok(self.mapped)
    }

    /// Give the file its name, in the place of whatever had it.
    pub(crate) fn publish_over(self) -> io::Result<MappedFile> {
        std::fs::rename(&self.temporary, &self.path)?;
        Ok(self.mapped)
    }
}

fn length_of(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too big to map"))
}

/// Where a file is built before it gets its name.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Give a file its size, with all of its room taken: a full file system shows here.
pub(crate) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)?;
    let length = libc::off_t::try_from(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too big for a file"))?;
    // SAFETY: the descriptor is open for writing for the whole call; no memory is passed.
    let code = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
    // Unlike most calls it returns the error instead of setting `errno`.
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

fn write_lock(byte: i64) -> libc::flock {
    // SAFETY: `flock` is a plain C structure of integers, for which all zeroes is a value.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    #[expect(clippy::cast_possible_truncation, reason = "F_WRLCK and SEEK_SET are 0 and 1")]
    {
        request.l_type = libc::F_WRLCK as libc::c_short;
        request.l_whence = libc::SEEK_SET as libc::c_short;
    }
    request.l_start = byte;
    request.l_len = 1;
    request
}
