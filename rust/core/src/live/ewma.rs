//! Moving averages in one word each, so that two processes never tear one.
//!
//! A word holds the value as `f32` bits above 32 bits of time in ticks of 16.384 ms, which come
//! round after two years of uptime. 0 is no sample: a value of 0 is kept as the smallest float.

use std::sync::atomic::{AtomicU64, Ordering};

/// Three samples in a row beyond this factor are not noise: the target has changed.
const CHANGE_FACTOR: f32 = 2.0;
const CHANGE_SAMPLES: u64 = 3;

/// A target's figures are believed for so long.
pub(super) const STALE_TICKS: u32 = 600_000_000 >> TICK_SHIFT;
/// A tick is 16,384 µs.
const TICK_SHIFT: u32 = 14;

/// How fast an average forgets: the shorter of two half-lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct HalfLife {
    pub(super) ticks: f32,
    pub(super) samples: f32,
}

/// 10 s or 50 samples.
pub(super) const LATENCY: HalfLife = HalfLife { ticks: 10_000_000.0 / 16_384.0, samples: 50.0 };
/// 10 min, which is how long prompt caches live, or 50 samples.
pub(super) const CACHED: HalfLife = HalfLife { ticks: 600_000_000.0 / 16_384.0, samples: 50.0 };

/// The tick that `now_us` falls into.
#[expect(
    clippy::cast_possible_truncation,
    reason = "ticks come round, and ages are differences"
)]
pub(super) fn tick(now_us: u64) -> u32 {
    (now_us >> TICK_SHIFT) as u32
}

/// Ticks from `then` to `now`; 0 where another process was ahead of us.
pub(super) fn age(then: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(then);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

pub(super) fn pack(value: f32, tick: u32) -> u64 {
    let kept = if value > 0.0 { value } else { f32::MIN_POSITIVE };
    u64::from(kept.to_bits()) << 32 | u64::from(tick)
}

/// Value and tick; None where there never was a sample.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
pub(super) fn unpack(word: u64) -> Option<(f32, u32)> {
    (word != 0).then(|| (f32::from_bits((word >> 32) as u32), word as u32))
}

/// The average after `sample`, when `old` is `age_ticks` old.
#[expect(clippy::cast_precision_loss, reason = "a weight needs no more than a float has")]
pub(super) fn fold(old: f32, sample: f32, age_ticks: u32, half_life: HalfLife) -> f32 {
    let halvings = (age_ticks as f32 / half_life.ticks).max(1.0 / half_life.samples);
    sample + (old - sample) * (-halvings).exp2()
}

/// The value if it is fresh enough to be believed.
pub(super) fn fresh(word: &AtomicU64, now_us: u64) -> Option<f32> {
    let (value, then) = unpack(word.load(Ordering::Relaxed))?;
    (age(then, tick(now_us)) <= STALE_TICKS).then_some(value)
}

/// Take a latency in. `run` remembers samples in a row that lie far off on one side.
///
/// The average is one word and never torn. That a run is another word costs nothing: two
/// processes that meet there believe a change one sample earlier or later.
pub(super) fn sample(average: &AtomicU64, run: &AtomicU64, value: f32, now_us: u64) {
    let present = tick(now_us);
    let mut seen = average.load(Ordering::Relaxed);
    let jump = match unpack(seen) {
        Some((old, then)) if age(then, present) <= STALE_TICKS => follow_run(run, old, value),
        _ => {
            run.store(0, Ordering::Relaxed);
            Some(value)
        }
    };
    loop {
        let next = match (jump, unpack(seen)) {
            (Some(there), _) => there,
            (None, Some((old, then))) => fold(old, value, age(then, present), LATENCY),
            (None, None) => value,
        };
        let word = pack(next, present);
        match average.compare_exchange_weak(seen, word, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(current) => seen = current,
        }
    }
}

/// Where the average jumps to, if `value` is the third in a row that lies far off.
fn follow_run(run: &AtomicU64, old: f32, value: f32) -> Option<f32> {
    let side = match () {
        () if value > old * CHANGE_FACTOR => 1_u64,
        () if value * CHANGE_FACTOR < old => 2,
        () => 0,
    };
    let seen = run.load(Ordering::Relaxed);
    if side == 0 {
        if seen != 0 {
            run.store(0, Ordering::Relaxed);
        }
        return None;
    }
    let (sum, count) = if seen & 3 == side {
        (f32::from_bits((seen >> 32) as u32), (seen >> 2) & 3)
    } else {
        (0.0, 0)
    };
    let (sum, count) = (sum + value, count + 1);
    let is_change = count >= CHANGE_SAMPLES;
    let word = u64::from(sum.to_bits()) << 32 | count << 2 | side;
    run.store(if is_change { 0 } else { word }, Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "it is 3")]
    is_change.then(|| sum / count as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000;

    struct Average {
        average: AtomicU64,
        run: AtomicU64,
    }

    impl Average {
        fn of(value: f32, now_us: u64) -> Self {
            let average = Self { average: AtomicU64::new(0), run: AtomicU64::new(0) };
            average.take(value, now_us);
            average
        }

        fn take(&self, value: f32, now_us: u64) {
            sample(&self.average, &self.run, value, now_us);
        }

        fn at(&self, now_us: u64) -> Option<f32> {
            fresh(&self.average, now_us)
        }
    }

    #[test]
    fn after_ten_seconds_one_sample_weighs_as_much_as_all_before() {
        let average = Average::of(100.0, S);
        average.take(150.0, 11 * S);
        let value = average.at(11 * S).unwrap();
        assert!((value - 125.0).abs() < 0.1, "{value}");
    }

    #[test]
    fn after_fifty_samples_at_once_half_of_what_was_is_forgotten() {
        let average = Average::of(100.0, S);
        for _ in 0..50 {
            average.take(150.0, S);
        }
        let value = average.at(S).unwrap();
        assert!((value - 125.0).abs() < 0.1, "{value}");
    }

    #[test]
    fn three_samples_far_off_are_believed_at_once_and_two_are_not() {
        for far in [1_000.0, 10.0] {
            let average = Average::of(100.0, S);
            average.take(far, S);
            average.take(far, S);
            let value = average.at(S).unwrap();
            assert!((value - 100.0).abs() < 30.0, "{value}");
            average.take(far, S);
            assert!((average.at(S).unwrap() - far).abs() < 0.01);
        }
    }

    #[test]
    fn a_sample_between_or_on_the_other_side_breaks_the_run() {
        for between in [100.0, 1.0] {
            let average = Average::of(100.0, S);
            average.take(1_000.0, S);
            average.take(1_000.0, S);
            average.take(between, S);
            average.take(1_000.0, S);
            average.take(1_000.0, S);
            let value = average.at(S).unwrap();
            assert!(value < 300.0, "{between}: {value}");
        }
    }

    #[test]
    fn what_is_older_than_ten_minutes_is_no_sample_and_leaves_no_trace() {
        let average = Average::of(100.0, S);
        assert!(average.at(600 * S).is_some());
        assert_eq!(average.at(603 * S), None);
        average.take(900.0, 603 * S);
        assert!((average.at(603 * S).unwrap() - 900.0).abs() < 0.01);
    }

    #[test]
    fn a_process_that_is_ahead_does_no_harm() {
        let average = Average::of(100.0, 5 * S);
        average.take(150.0, S);
        let value = average.at(S).unwrap();
        assert!((100.0..=101.0).contains(&value), "{value}");
    }

    proptest! {
        #[test]
        fn the_word_holds_value_and_time(value in 0.0_f32..1e12, at in any::<u32>()) {
            let (back, then) = unpack(pack(value, at)).unwrap();
            prop_assert_eq!(then, at);
            prop_assert!((back - value).abs() <= f32::MIN_POSITIVE);
        }

        #[test]
        fn an_average_lies_between_what_it_was_made_of(
            samples in prop::collection::vec((1.0_f32..1e9, 0..30_000_000_u64), 1..40)
        ) {
            let mut now_us = S;
            let (average, run) = (AtomicU64::new(0), AtomicU64::new(0));
            for (value, step_us) in &samples {
                now_us += step_us;
                sample(&average, &run, *value, now_us);
            }
            let value = fresh(&average, now_us).unwrap();
            let least = samples.iter().map(|(value, _)| *value).fold(f32::MAX, f32::min);
            let most = samples.iter().map(|(value, _)| *value).fold(0.0, f32::max);
            prop_assert!(value >= least * 0.999 && value <= most * 1.001, "{value}");
        }
    }
}
