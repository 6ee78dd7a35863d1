//! The spill: what one ring cannot take, in bounded, append-only files beside the store.
//!
//! One writer (the worker) appends frames; one reader (the trace writer process) follows. A
//! position counts every byte ever appended, so it never repeats. The bytes lie in segments
//! `spill.<slot>.<generation>.<index>` of 16 MiB; a frame never crosses one, and a segment
//! that lies wholly behind the reader is deleted.
//!
//! ```text
//! frame: 0 kind, 4 length of the payload, 8 position ^ FRAME_CHECK, 16 payload, padded to 8
//! ```
//!
//! Where the frames end is published in the ring's header, not here: a frame that was being
//! written when its worker died is behind that mark and so was never there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::mapped::FILE_MODE;

/// Size of one segment: small enough that room comes back soon, large enough to be rare.
pub(crate) const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes before each payload.
pub(crate) const FRAME_BYTES: u64 = FRAME_HEAD_BYTES as u64;

const FRAME_HEAD_BYTES: usize = 16;

/// A payload up to this is written in one call with its frame: to copy it costs less than a call.
const JOINED_BYTES_MAX: usize = 16 * 1024;

const FRAME_CHECK: u64 = 0x5350_494C_4C46_524D;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// A body that a record refers to by its position.
    Body = 1,
    /// A whole record, encoded as in the ring.
    Record = 2,
    /// Nothing: the rest of the segment is unused.
    End = 3,
}

/// Names the segments of one ring.
#[derive(Clone, Debug)]
pub(crate) struct SpillName {
    dir: PathBuf,
    stem: String,
}

impl SpillName {
    pub(crate) fn new(dir: &Path, slot: u64, generation: u64) -> Self {
        Self { dir: dir.to_owned(), stem: format!("spill.{slot}.{generation}.") }
    }

    fn segment(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{}{index}", self.stem))
    }

    /// Delete every segment of this ring; those of a former ring of the same name included.
    pub(crate) fn remove_all(&self) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&self.stem)) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The appending end.
pub(crate) struct SpillWriter {
    name: SpillName,
    bytes_max: u64,
    position: u64,
    open: Option<(u64, File)>,
    /// Where a frame is put together, kept for the next one.
    frame: Vec<u8>,
}

impl SpillWriter {
    pub(crate) fn new(name: SpillName, bytes_max: u64) -> Self {
        Self { name, bytes_max, position: 0, open: None, frame: Vec::new() }
    }

    /// Where the next frame would begin; everything before it is written.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether `bytes` of payload fit, keeping half of the room free if `leave_half`.
    pub(crate) fn has_room(&self, bytes: u64, reader_at: u64, leave_half: bool) -> bool {
        let limit = if leave_half { self.bytes_max / 2 } else { self.bytes_max };
        let frame = framed(bytes);
        // What cannot be reused before the reader is past it counts as used, and so does the
        // tail of a segment that the frame no longer fits in.
        let used = self.start_of(frame).saturating_sub(reader_at);
        frame <= SEGMENT_BYTES && used.saturating_add(frame) <= limit
    }

    /// Append one frame and return its position. After an error nothing was appended.
    pub(crate) fn append(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<u64> {
        let frame = framed(payload.len() as u64);
        assert!(frame <= SEGMENT_BYTES, "{frame}");
        let start = self.start_of(frame);
        if start != self.position {
            let left = start - self.position;
            if left >= FRAME_BYTES {
                self.write_frame(self.position, FrameKind::End, &[])?;
            }
        }
        self.write_frame(start, kind, payload)?;
        self.position = start + frame;
        Ok(start)
    }

    fn write_frame(&mut self, at: u64, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        let length =
            u32::try_from(payload.len()).map_err(|_| bad_data("a frame over 4 GiB"))?;
        let mut head = [0_u8; FRAME_HEAD_BYTES];
        head[..4].copy_from_slice(&(kind as u32).to_le_bytes());
        head[4..8].copy_from_slice(&length.to_le_bytes());
        head[8..].copy_from_slice(&(at ^ FRAME_CHECK).to_le_bytes());
        let within = at % SEGMENT_BYTES;
        if payload.len() > JOINED_BYTES_MAX {
            let file = self.segment(at / SEGMENT_BYTES)?;
            file.write_all_at(payload, within + FRAME_BYTES)?;
            return file.write_all_at(&head, within);
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(&head);
        frame.extend_from_slice(payload);
        let written =
            self.segment(at / SEGMENT_BYTES).and_then(|file| file.write_all_at(&frame, within));
        self.frame = frame;
        written
    }

    fn segment(&mut self, index: u64) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                // A failed write may lead back to the segment before, which is read already.
                .truncate(false)
                .mode(FILE_MODE)
                .open(self.name.segment(index))?;
            self.open = Some((index, file));
        }
        match &self.open {
            Some((_, file)) => Ok(file),
            None => Err(bad_data("no segment is open")),
        }
    }

    fn start_of(&self, frame: u64) -> u64 {
        let left = SEGMENT_BYTES - self.position % SEGMENT_BYTES;
        if frame <= left { self.position } else { self.position + left }
    }
}

/// The following end.
pub(crate) struct SpillReader {
    name: SpillName,
    open: Option<(u64, File)>,
}

/// One step of [`SpillReader::next`].
pub(crate) struct Step {
    /// The payload, where the frame was a record.
    pub(crate) record: Option<Vec<u8>>,
    /// Where the next frame begins.
    pub(crate) next: u64,
}

impl SpillReader {
    pub(crate) fn new(name: SpillName) -> Self {
        Self { name, open: None }
    }

    /// The payload of the body at `position`.
    pub(crate) fn body(&mut self, position: u64, length: u32) -> io::Result<Vec<u8>> {
        let (kind, found) = self.frame(position)?;
        if kind != FrameKind::Body as u32 || found != length {
            return Err(bad_data("the frame is not the body that the record names"));
        }
        self.payload(position, length)
    }

    /// Go over the frame at `position`, reading it where it is a record.
    pub(crate) fn next(&mut self, position: u64) -> io::Result<Step> {
        let left = SEGMENT_BYTES - position % SEGMENT_BYTES;
        if left < FRAME_BYTES {
            return Ok(Step { record: None, next: position + left });
        }
        let (kind, length) = self.frame(position)?;
        if kind == FrameKind::End as u32 {
            return Ok(Step { record: None, next: position + left });
        }
        let record = if kind == FrameKind::Record as u32 {
            Some(self.payload(position, length)?)
        } else {
            None
        };
        Ok(Step { record, next: position + framed(u64::from(length)) })
    }

    /// Delete the segments that lie wholly before `position`, from that of `from` on.
    pub(crate) fn release(&mut self, from: u64, position: u64) -> io::Result<()> {
        for index in from / SEGMENT_BYTES..position / SEGMENT_BYTES {
            if self.open.as_ref().is_some_and(|(open, _)| *open == index) {
                self.open = None;
            }
            remove_if_there(&self.name.segment(index))?;
        }
        Ok(())
    }

    pub(crate) fn remove_all(&self) -> io::Result<()> {
        self.name.remove_all()
    }

    fn frame(&mut self, position: u64) -> io::Result<(u32, u32)> {
        let mut head = [0_u8; FRAME_HEAD_BYTES];
        self.segment(position / SEGMENT_BYTES)?
            .read_exact_at(&mut head, position % SEGMENT_BYTES)?;
        let [k0, k1, k2, k3, l0, l1, l2, l3, check @ ..] = head;
        let kind = u32::from_le_bytes([k0, k1, k2, k3]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let fits = position % SEGMENT_BYTES + framed(u64::from(length)) <= SEGMENT_BYTES;
        if u64::from_le_bytes(check) ^ FRAME_CHECK != position || !fits {
            return Err(bad_data("no frame begins there"));
        }
        Ok((kind, length))
    }

    fn payload(&mut self, position: u64, length: u32) -> io::Result<Vec<u8>> {
        let mut payload = vec![0; length as usize];
        self.segment(position / SEGMENT_BYTES)?
            .read_exact_at(&mut payload, position % SEGMENT_BYTES + FRAME_BYTES)?;
        Ok(payload)
    }

    fn segment(&mut self, index: u64) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
            self.open = Some((index, File::open(self.name.segment(index))?));
        }
        match &self.open {
            Some((_, file)) => Ok(file),
            None => Err(bad_data("no segment is open")),
        }
    }
}

/// The room that a payload takes: its frame, rounded up to 8 bytes.
fn framed(payload: u64) -> u64 {
    (FRAME_BYTES + payload).next_multiple_of(8)
}

fn bad_data(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(bytes_max: u64) -> (tempfile::TempDir, SpillWriter, SpillReader) {
        let dir = tempfile::tempdir().unwrap();
        let name = SpillName::new(dir.path(), 1, 2);
        (dir, SpillWriter::new(name.clone(), bytes_max), SpillReader::new(name))
    }

    #[test]
    fn frames_come_back_in_order_and_never_cross_a_segment() {
        let (dir, mut writer, mut reader) = pair(u64::MAX);
        let sizes = [5 << 20, 7 << 20, 6 << 20, 0, 1, 15 << 20, (16 << 20) - 16, 9];
        for (index, size) in sizes.iter().enumerate() {
            let kind = if index % 2 == 0 { FrameKind::Record } else { FrameKind::Body };
            let payload = vec![u8::try_from(index).unwrap(); *size];
            let at = writer.append(kind, &payload).unwrap();
            assert_eq!(at / SEGMENT_BYTES, (at + 15 + *size as u64) / SEGMENT_BYTES);
            if kind == FrameKind::Body {
                let length = u32::try_from(*size).unwrap();
                assert_eq!(reader.body(at, length).unwrap(), payload);
            }
        }
        let mut position = 0;
        let mut seen = Vec::new();
        while position < writer.position() {
            let step = reader.next(position).unwrap();
            position = step.next;
            seen.extend(step.record.map(|record| record.len()));
        }
        assert_eq!(seen, [sizes[0], sizes[2], sizes[4], sizes[6]]);
        reader.release(0, position).unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        reader.remove_all().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_bound_counts_from_where_the_reader_is() {
        let (_dir, mut writer, _reader) = pair(4096);
        assert!(writer.has_room(4080, 0, false));
        assert!(!writer.has_room(4081, 0, false));
        assert!(!writer.has_room(2033, 0, true));
        assert!(writer.has_room(2032, 0, true));
        writer.append(FrameKind::Record, &[0; 2032]).unwrap();
        assert!(!writer.has_room(4080, 0, false));
        assert!(writer.has_room(4080, 2048, false));
    }

    #[test]
    fn a_position_that_begins_no_frame_is_an_error() {
        let (_dir, mut writer, mut reader) = pair(u64::MAX);
        writer.append(FrameKind::Body, b"hello").unwrap();
        assert!(reader.body(8, 5).is_err());
        assert!(reader.body(0, 4).is_err());
        assert!(reader.body(0, 5).is_ok());
        assert!(reader.next(SEGMENT_BYTES).is_err());
    }
}
