//! Tables of entries that processes find or make by a key, without a lock.
//!
//! The first word of an entry is its key: 0 is free, and an entry never becomes free again, so
//! a search may end at the first free one. A process that makes an entry swaps its key in; of
//! two that make the same one at once, the second finds the first's. The key's text lies
//! apart, for people, with the key that it belongs to written last. Everybody who finds an entry
//! without its text writes it, so a writer that was killed halfway leaves nothing behind.
//!
//! When the neighbourhood of a key is full, the entry in it that has been idle longest is taken
//! over: marked with the time, emptied, then given its key. A mark older than a second was left
//! by a process that died, and may be taken over again.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::mapped::MappedFile;

/// Entries looked at for one key.
const PROBES_MAX: usize = 64;
/// Bytes of one text.
pub(super) const TEXT_BYTES: usize = 256;
/// Two words say whose text it is and how long its parts are.
const TEXT_WORDS: usize = TEXT_BYTES / 8 - 2;
/// A key is the text of up to so many parts.
const PARTS_MAX: usize = 4;

const TAKEN: u64 = 0xFFFF << 48;
const TAKEN_S_MAX: u64 = 1;

/// One table of the file: where it lies, and how its entries look.
pub(super) struct Table {
    pub(super) offset: usize,
    pub(super) entry_bytes: usize,
    pub(super) count: usize,
    /// Where its texts lie, if it keeps any.
    pub(super) texts: Option<usize>,
}

/// How an entry is made where none is free.
pub(super) struct Takeover<'a> {
    pub(super) now_us: u64,
    /// When an entry was used last, if it may be taken over.
    pub(super) idle_since: &'a dyn Fn(usize) -> Option<u64>,
    /// Forget what is kept of an entry beside its own words.
    pub(super) forget: &'a dyn Fn(usize),
}

impl Table {
    /// The word `nth` of an entry; 0 is its key.
    pub(super) fn word<'m>(
        &self,
        mapped: &'m MappedFile,
        index: usize,
        nth: usize,
    ) -> &'m AtomicU64 {
        debug_assert!(index < self.count && nth * 8 < self.entry_bytes, "{index} {nth}");
        mapped.word(self.offset + index * self.entry_bytes + nth * 8)
    }

    /// All words of an entry, with one check.
    pub(super) fn words<'m>(&self, mapped: &'m MappedFile, index: usize) -> &'m [AtomicU64] {
        debug_assert!(index < self.count, "{index}");
        mapped.words(self.offset + index * self.entry_bytes, self.entry_bytes / 8)
    }

    fn probes(&self, key: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.count - 1;
        debug_assert!(self.count.is_power_of_two());
        #[expect(clippy::cast_possible_truncation, reason = "masked")]
        let home = key as usize & mask;
        (0..PROBES_MAX.min(self.count)).map(move |step| (home + step) & mask)
    }

    /// Where the entry of `key` is: first where it was last seen, then where it may be.
    pub(super) fn find(&self, mapped: &MappedFile, key: u64, seen: usize) -> Option<usize> {
        if key == 0 {
            return None;
        }
        if seen < self.count && self.word(mapped, seen, 0).load(Ordering::Acquire) == key {
            return Some(seen);
        }
        for index in self.probes(key) {
            match self.word(mapped, index, 0).load(Ordering::Acquire) {
                0 => return None,
                found if found == key => return Some(index),
                _ => {}
            }
        }
        None
    }

    /// The entry of `key`, made if there is none; None where all around it are in use.
    pub(super) fn find_or_make(
        &self,
        mapped: &MappedFile,
        key: u64,
        parts: &[&str],
        takeover: &Takeover<'_>,
    ) -> Option<usize> {
        let index = match self.find_or_take_free(mapped, key) {
            Some(index) => index,
            None => self.take_over(mapped, key, parts, takeover)?,
        };
        self.write_text(mapped, index, key, parts);
        Some(index)
    }

    fn find_or_take_free(&self, mapped: &MappedFile, key: u64) -> Option<usize> {
        for index in self.probes(key) {
            let owner = self.word(mapped, index, 0);
            let mut found = owner.load(Ordering::Acquire);
            if found == 0 {
                let swap = owner.compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire);
                found = swap.map_or_else(|current| current, |_| key);
            }
            if found == key {
                return Some(index);
            }
        }
        None
    }

    fn take_over(
        &self,
        mapped: &MappedFile,
        key: u64,
        parts: &[&str],
        takeover: &Takeover<'_>,
    ) -> Option<usize> {
        let now_s = takeover.now_us / 1_000_000;
        let longest_idle = |index: usize| {
            let owner = self.word(mapped, index, 0).load(Ordering::Acquire);
            if owner & TAKEN == TAKEN {
                let marked_s = owner & !TAKEN;
                return (now_s.abs_diff(marked_s) > TAKEN_S_MAX).then_some((0, owner, index));
            }
            (takeover.idle_since)(index).map(|since| (since, owner, index))
        };
        let (_, owner, index) = self.probes(key).filter_map(longest_idle).min()?;
        let mark = TAKEN | now_s & !TAKEN;
        self.word(mapped, index, 0)
            .compare_exchange(owner, mark, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        for nth in 1..self.entry_bytes / 8 {
            self.word(mapped, index, nth).store(0, Ordering::Relaxed);
        }
        (takeover.forget)(index);
        self.write_text(mapped, index, key, parts);
        self.word(mapped, index, 0).store(key, Ordering::Release);
        Some(index)
    }

    /// Every entry that is in use.
    pub(super) fn entries<'m>(
        &'m self,
        mapped: &'m MappedFile,
    ) -> impl Iterator<Item = (usize, u64)> + 'm {
        (0..self.count).filter_map(|index| {
            let key = self.word(mapped, index, 0).load(Ordering::Acquire);
            (key != 0 && key & TAKEN != TAKEN).then_some((index, key))
        })
    }

    /// Write an entry's text, unless it is there or not known.
    fn write_text(&self, mapped: &MappedFile, index: usize, key: u64, parts: &[&str]) {
        let Some(texts) = self.texts.filter(|_| !parts.is_empty()) else { return };
        let block = mapped.words(texts + index * TEXT_BYTES, TEXT_BYTES / 8);
        let [owner, lengths, words @ ..] = block else { return };
        if owner.load(Ordering::Acquire) == key {
            return;
        }
        owner.store(0, Ordering::Relaxed);
        let text = encode_text(parts);
        for (word, value) in words.iter().zip(text.words) {
            word.store(value, Ordering::Relaxed);
        }
        lengths.store(text.lengths, Ordering::Relaxed);
        owner.store(key, Ordering::Release);
    }

    /// The parts of an entry's text; None where it was never written whole.
    pub(super) fn text(&self, mapped: &MappedFile, index: usize) -> Option<Vec<String>> {
        let block = mapped.words(self.texts? + index * TEXT_BYTES, TEXT_BYTES / 8);
        let [owner, lengths, words @ ..] = block else { return None };
        let key = self.word(mapped, index, 0).load(Ordering::Acquire);
        if owner.load(Ordering::Acquire) != key {
            return None;
        }
        let lengths = lengths.load(Ordering::Relaxed);
        let bytes: Vec<u8> =
            words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        let mut from = 0;
        let mut parts = Vec::with_capacity(PARTS_MAX);
        for part in 0..PARTS_MAX {
            let Some(length) = length_of(lengths, part) else { break };
            let text = bytes.get(from..from + length)?;
            parts.push(String::from_utf8_lossy(text).into_owned());
            from += length;
        }
        Some(parts)
    }
}

/// The length of a part; each is kept as one more than it is, so that none is 0.
#[expect(clippy::cast_possible_truncation, reason = "16 bits of a word")]
fn length_of(lengths: u64, part: usize) -> Option<usize> {
    ((lengths >> (part * 16)) as u16).checked_sub(1).map(usize::from)
}

/// A text as it lies in the file.
struct Text {
    lengths: u64,
    words: [u64; TEXT_WORDS],
}

/// Encode a text; what does not fit is cut, as it is for people only.
fn encode_text(parts: &[&str]) -> Text {
    let mut bytes = [0_u8; TEXT_WORDS * 8];
    let (mut from, mut lengths) = (0, 0_u64);
    for (place, part) in parts.iter().enumerate().take(PARTS_MAX) {
        let mut length = part.len().min(bytes.len() - from);
        while !part.is_char_boundary(length) {
            length -= 1;
        }
        bytes[from..from + length].copy_from_slice(&part.as_bytes()[..length]);
        from += length;
        lengths |= (length as u64 + 1) << (place * 16);
    }
    let mut words = [0_u64; TEXT_WORDS];
    for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = eight.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
    }
    Text { lengths, words }
}
