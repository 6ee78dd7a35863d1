//! Latency histograms of the last minutes: counters of 32 bits, two to a word.
//!
//! A bucket is a third of an octave, the first begins at a quarter of a millisecond and the last
//! ends at eleven minutes. Inside of a bucket values are taken as evenly spread, so a percentile
//! is a few per cent off.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of one histogram.
pub(super) const BUCKETS: usize = 64;
/// Words that hold them.
pub(super) const WORDS: usize = BUCKETS / 2;
const BUCKETS_AN_OCTAVE: f32 = 3.0;
const FIRST_US: f32 = 250.0;

/// The bucket of a latency.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "clamped to the buckets"
)]
fn bucket_of(us: u64) -> usize {
    let place = (us.max(1) as f32 / FIRST_US).log2() * BUCKETS_AN_OCTAVE;
    (place.max(0.0) as usize).min(BUCKETS - 1)
}

/// Where a bucket begins, in µs; that of the bucket after the last is its end.
#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn edge_us(bucket: usize) -> f32 {
    if bucket == 0 { 0.0 } else { FIRST_US * (bucket as f32 / BUCKETS_AN_OCTAVE).exp2() }
}

/// Count one latency in the words of a histogram.
pub(super) fn count(words: &[AtomicU64], us: u64) {
    let bucket = bucket_of(us);
    words[bucket / 2].fetch_add(1 << (bucket % 2 * 32), Ordering::Relaxed);
}

/// Counts of one or more histograms, added up.
pub(super) struct Counts([u64; BUCKETS]);

impl Counts {
    pub(super) fn new() -> Self {
        Self([0; BUCKETS])
    }

    pub(super) fn add(&mut self, words: &[AtomicU64]) {
        for (pair, word) in self.0.chunks_exact_mut(2).zip(words) {
            let seen = word.load(Ordering::Relaxed);
            pair[0] += seen & u64::from(u32::MAX);
            pair[1] += seen >> 32;
        }
    }

    /// The latency in µs that `share` of the values do not pass; None without any.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub(super) fn percentile_us(&self, share: f32) -> Option<f32> {
        let all: u64 = self.0.iter().sum();
        let rank = (all as f32 * share).max(1.0);
        let mut below = 0_u64;
        for (bucket, count) in self.0.iter().enumerate() {
            if *count > 0 && (below + count) as f32 >= rank {
                let (from, to) = (edge_us(bucket), edge_us(bucket + 1));
                // The middle of the place that the value has among those of its bucket.
                let place = (rank - below as f32 - 0.5).max(0.0) / *count as f32;
                return Some(from + (to - from) * place);
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(values: &[u64]) -> Counts {
        let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        for value in values {
            count(&words, *value);
        }
        let mut counts = Counts::new();
        counts.add(&words);
        counts
    }

    #[test]
    fn nothing_has_no_percentile() {
        assert_eq!(counts(&[]).percentile_us(0.5), None);
    }

    #[test]
    fn anything_finds_a_bucket() {
        for us in [0, 1, 249, 250, 251, u64::MAX] {
            assert!(counts(&[us]).percentile_us(0.99).is_some(), "{us}");
        }
    }

    #[test]
    fn of_evenly_spread_values_percentiles_are_where_they_belong() {
        let values: Vec<u64> = (1..=1_000).map(|index| index * 1_000).collect();
        let counts = counts(&values);
        for (share, want_ms) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0)] {
            let found_ms = counts.percentile_us(share).unwrap() / 1_000.0;
            assert!((found_ms - want_ms).abs() < want_ms * 0.05, "{share}: {found_ms}");
        }
    }

    proptest! {
        #[test]
        fn a_percentile_is_in_the_bucket_of_the_value_it_stands_for(
            mut values in prop::collection::vec(250..600_000_000_u64, 1..200),
            share in 0.01_f32..1.0,
        ) {
            let found = counts(&values).percentile_us(share).unwrap();
            values.sort_unstable();
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation,
                     clippy::cast_sign_loss, reason = "small")]
            let rank = ((values.len() as f32 * share).max(1.0).ceil() as usize).min(values.len());
            #[expect(clippy::cast_precision_loss, reason = "a bucket is wider")]
            let exact = values[rank - 1] as f32;
            prop_assert!(found >= exact / 1.27 && found <= exact * 1.27, "{found} {exact}");
        }
    }
}
