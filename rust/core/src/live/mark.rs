//! Marks: how often a node of a routing config was chosen, and how long a rule has said nothing.
//!
//! ```text
//! word  what
//! 0     key: hash of the name
//! 1     when it was touched last, seconds since 1970
//! 2     how often
//! 3     how many times in a row its rule came to null
//! ```
//!
//! A mark's key is all that has to be known to make it, so one that was taken over while the
//! table was full is made again by the next touch, and counts from there.

use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::MARKS;
use super::table::Takeover;
use super::{Live, MarkId};

const TOUCHED: usize = 1;
const HITS: usize = 2;
const NULLS: usize = 3;

/// What a mark says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkView {
    /// How often it was touched.
    pub hits: u64,
    /// When last, in seconds since 1970; 0: never.
    pub last_unix_s: u64,
    /// How many times in a row its rule came to null.
    pub null_run: u32,
}

impl Live {
    /// Count one hit.
    pub fn touch(&self, mark: MarkId, unix_s: u64) {
        let Some(index) = self.mark_index(mark) else { return };
        self.of_mark(index, HITS).fetch_add(1, Ordering::Relaxed);
        let touched = self.of_mark(index, TOUCHED);
        if touched.load(Ordering::Relaxed) < unix_s {
            touched.store(unix_s, Ordering::Relaxed);
        }
    }

    /// A rule was evaluated; return how many times in a row it has come to null.
    #[expect(clippy::must_use_candidate, reason = "it counts, whoever looks")]
    pub fn null_run(&self, mark: MarkId, is_null: bool) -> u32 {
        let Some(index) = self.mark_index(mark) else { return 0 };
        let nulls = self.of_mark(index, NULLS);
        if is_null {
            let before = nulls.fetch_add(1, Ordering::Relaxed);
            return u32::try_from(before.saturating_add(1)).unwrap_or(u32::MAX);
        }
        if nulls.load(Ordering::Relaxed) != 0 {
            nulls.store(0, Ordering::Relaxed);
        }
        0
    }

    /// What the mark of a name says; None where there is none.
    #[must_use]
    pub fn mark_view(&self, name: &str) -> Option<MarkView> {
        let index = MARKS.find(&self.mapped, self.keys.key_of(b'm', &[name]), usize::MAX)?;
        let load = |nth: usize| self.of_mark(index, nth).load(Ordering::Relaxed);
        Some(MarkView {
            hits: load(HITS),
            last_unix_s: load(TOUCHED),
            null_run: u32::try_from(load(NULLS)).unwrap_or(u32::MAX),
        })
    }

    /// The entry of a key; where all around it are taken, that which was touched longest ago.
    pub(super) fn find_or_make_mark(&self, key: u64) -> Option<usize> {
        let idle_since = |index| Some(self.of_mark(index, TOUCHED).load(Ordering::Relaxed));
        let now_us = self.newest_us();
        let takeover = Takeover { now_us, idle_since: &idle_since, forget: &|_| () };
        MARKS.find_or_make(&self.mapped, key, &[], &takeover)
    }

    fn mark_index(&self, mark: MarkId) -> Option<usize> {
        let (key, seen) = (mark.0.key, mark.0.index as usize);
        if key == 0 {
            return None;
        }
        let found = MARKS.find(&self.mapped, key, seen);
        found.or_else(|| self.find_or_make_mark(key))
    }

    fn of_mark(&self, index: usize, nth: usize) -> &AtomicU64 {
        MARKS.word(&self.mapped, index, nth)
    }
}
