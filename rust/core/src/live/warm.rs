//! Which prompts a provider's cache is likely to know still.
//!
//! One word an entry, so nothing is ever torn: a tag of the key (24 bits), tokens (20), seconds
//! (20). Four entries share a place; the newest win. Two keys are taken for one once in four
//! million times, and then a cost is estimated wrongly once.

use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::{WARM_MAX, WARM_OFFSET};
use super::{Live, TargetId};

/// How long providers keep what nobody asks for again.
pub const WARM_S: u64 = 300;

const WAYS: usize = 4;
const FIELD_BITS: u32 = 20;
const FIELD_MAX: u64 = (1 << FIELD_BITS) - 1;
const TAG_SHIFT: u32 = 2 * FIELD_BITS;

impl Live {
    /// The first `cached_tokens` of a prompt, by the hash of its prefix, are in the target's
    /// cache.
    pub fn warm(&self, prefix: u64, target: TargetId, cached_tokens: u64, now_us: u64) {
        let (words, tag) = self.ways(prefix, target);
        let now_s = seconds(now_us);
        let fresh = tag | cached_tokens.min(FIELD_MAX) << FIELD_BITS | now_s;
        let mut oldest = (0, words[0]);
        for word in words {
            let seen = word.load(Ordering::Relaxed);
            if seen >> TAG_SHIFT == tag >> TAG_SHIFT {
                word.store(fresh, Ordering::Relaxed);
                return;
            }
            let age_s = if seen == 0 { FIELD_MAX + 1 } else { age(seen, now_s) };
            if age_s >= oldest.0 {
                oldest = (age_s, word);
            }
        }
        oldest.1.store(fresh, Ordering::Relaxed);
    }

    /// How many tokens of a prompt are likely in the target's cache; 0 where nothing is known.
    #[must_use]
    pub fn warm_tokens(&self, prefix: u64, target: TargetId, now_us: u64) -> u64 {
        let (words, tag) = self.ways(prefix, target);
        let now_s = seconds(now_us);
        words
            .into_iter()
            .map(|word| word.load(Ordering::Relaxed))
            .find(|seen| seen >> TAG_SHIFT == tag >> TAG_SHIFT && age(*seen, now_s) <= WARM_S)
            .map_or(0, |seen| seen >> FIELD_BITS & FIELD_MAX)
    }

    /// The entries that a key may be in, and its tag in its place.
    fn ways(&self, prefix: u64, target: TargetId) -> ([&AtomicU64; WAYS], u64) {
        let mixed = (prefix ^ target.0.key.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let set = (mixed >> 8) as usize % (WARM_MAX / WAYS);
        let tag = (mixed >> TAG_SHIFT).max(1) << TAG_SHIFT;
        // Each key looks through them in an order of its own: among entries of one second the
        // last that is looked at gives way, which must not always be the same.
        #[expect(clippy::cast_possible_truncation, reason = "taken modulo")]
        let turn = mixed as usize;
        let way = |step: usize| {
            self.word(WARM_OFFSET + (set * WAYS + turn.wrapping_add(step) % WAYS) * 8)
        };
        (std::array::from_fn(way), tag)
    }
}

fn seconds(now_us: u64) -> u64 {
    (now_us / 1_000_000) & FIELD_MAX
}

fn age(word: u64, now_s: u64) -> u64 {
    let age_s = now_s.wrapping_sub(word & FIELD_MAX) & FIELD_MAX;
    // A process that is a moment ahead of us.
    if age_s > FIELD_MAX / 2 { 0 } else { age_s }
}
