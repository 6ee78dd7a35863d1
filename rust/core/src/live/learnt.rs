//! What a route has learnt of a target: how much of its output limit is used, how much of its
//! input is cached.
//!
//! ```text
//! word  what
//! 0     key
//! 1     last use, µs
//! 2     share of the output limit: float (32 bits), samples (32)
//! 3     share of cached input: float (32 bits), tick (32)
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::ROUTES;
use super::{Live, RouteTargetId, ewma};

/// What is expected of an answer until enough of them have been seen.
pub const OUTPUT_SHARE_START: f32 = 0.25;
/// Answers that are enough.
pub const OUTPUT_SAMPLES_MIN: u64 = 20;

/// Weight of one more answer once there are many: a half-life of 50 answers.
const OUTPUT_WEIGHT_MIN: f32 = 0.013_767_3;
const COUNT_MAX: u64 = 1 << 30;

const USED: usize = 1;
const OUTPUT: usize = 2;
const CACHED: usize = 3;

impl Live {
    /// An answer took so many tokens of its output limit.
    pub fn learn_output(&self, rt: RouteTargetId, output_tokens: u64, limit: u64, now_us: u64) {
        let Some(word) = self.learning(rt, OUTPUT, now_us) else { return };
        if limit == 0 {
            return;
        }
        let share = share_of(output_tokens, limit);
        let fold = |seen: u64| {
            let (old, count) = output_of(seen);
            let count = (count + 1).min(COUNT_MAX);
            #[expect(clippy::cast_precision_loss, reason = "a weight")]
            let weight = (1.0 / count as f32).max(OUTPUT_WEIGHT_MIN);
            let next = old + (share - old) * weight;
            Some(u64::from(next.to_bits()) << 32 | count)
        };
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fold);
    }

    /// The share of its output limit that an answer is expected to take.
    #[must_use]
    pub fn output_share(&self, rt: RouteTargetId) -> f32 {
        let seen = self.of_route(rt, OUTPUT).map_or(0, |word| word.load(Ordering::Relaxed));
        match output_of(seen) {
            (share, count) if count >= OUTPUT_SAMPLES_MIN => share,
            _ => OUTPUT_SHARE_START,
        }
    }

    /// So many of a request's input tokens were read from the provider's cache.
    pub fn learn_cached(
        &self,
        rt: RouteTargetId,
        cached_tokens: u64,
        input_tokens: u64,
        now_us: u64,
    ) {
        let Some(word) = self.learning(rt, CACHED, now_us) else { return };
        if input_tokens == 0 {
            return;
        }
        let (share, present) = (share_of(cached_tokens, input_tokens), ewma::tick(now_us));
        let fold = |seen: u64| {
            let next = match ewma::unpack(seen) {
                Some((old, then)) => {
                    ewma::fold(old, share, ewma::age(then, present), ewma::CACHED)
                }
                None => share,
            };
            Some(ewma::pack(next, present))
        };
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fold);
    }

    /// The share of a request's input that is expected to be cached; 0 without a sample.
    ///
    /// It fades while no request comes, as the provider's cache does.
    #[must_use]
    pub fn cached_share(&self, rt: RouteTargetId, now_us: u64) -> f32 {
        let seen = self.of_route(rt, CACHED).map_or(0, |word| word.load(Ordering::Relaxed));
        let Some((share, then)) = ewma::unpack(seen) else { return 0.0 };
        #[expect(clippy::cast_precision_loss, reason = "a weight")]
        let halvings = ewma::age(then, ewma::tick(now_us)) as f32 / ewma::CACHED.ticks;
        share * (-halvings).exp2()
    }

    fn of_route(&self, rt: RouteTargetId, nth: usize) -> Option<&AtomicU64> {
        let index = ROUTES.find(&self.mapped, rt.0.key, rt.0.index as usize)?;
        Some(ROUTES.word(&self.mapped, index, nth))
    }

    /// A word that is about to change; its entry counts as used.
    fn learning(&self, rt: RouteTargetId, nth: usize, now_us: u64) -> Option<&AtomicU64> {
        self.note_time(now_us);
        self.of_route(rt, USED)?.store(now_us, Ordering::Relaxed);
        self.of_route(rt, nth)
    }
}

/// `part` of `whole`, at most all of it: what providers say is not to be trusted.
#[expect(clippy::cast_precision_loss, reason = "a share")]
fn share_of(part: u64, whole: u64) -> f32 {
    (part as f32 / whole as f32).clamp(0.0, 1.0)
}

fn output_of(word: u64) -> (f32, u64) {
    (f32::from_bits((word >> 32) as u32), word & u64::from(u32::MAX))
}
