//! Arrival times of an open-loop load: independent of how fast answers come back.

/// A Poisson process: exponential gaps around a fixed rate, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Poisson {
    state: u64,
    mean_gap_ns: f64,
    at_ns: f64,
}

impl Poisson {
    /// Start at time 0 with `rate` arrivals a second.
    #[must_use]
    pub fn new(rate: f64, seed: u64) -> Self {
        Self { state: seed, mean_gap_ns: 1e9 / rate, at_ns: 0.0 }
    }

    /// A number from the open interval (0, 1), by `SplitMix64`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The half keeps both ends out: the logarithm of 0 is no gap.
        ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }
}

impl Iterator for Poisson {
    type Item = u64;

    /// The next arrival in nanoseconds since the start; it never ends and never goes back.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a sum of positive gaps; 2^63 ns are 292 years"
    )]
    fn next(&mut self) -> Option<u64> {
        // Kept as a double: rounding each gap to a nanosecond would shift the rate.
        self.at_ns -= self.uniform().ln() * self.mean_gap_ns;
        Some(self.at_ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 200_000;

    fn gaps_us(rate: f64, seed: u64) -> Vec<f64> {
        let arrivals: Vec<u64> = Poisson::new(rate, seed).take(COUNT).collect();
        arrivals
            .windows(2)
            .map(|pair| {
                assert!(pair[1] >= pair[0]);
                #[expect(clippy::cast_precision_loss, reason = "gaps are far below 2^53")]
                let gap = (pair[1] - pair[0]) as f64;
                gap / 1e3
            })
            .collect()
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^53")]
    fn gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let gaps = gaps_us(2_000.0, 7);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((mean - 500.0).abs() < 5.0, "{mean}");
        let variance =
            gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // An exponential's standard deviation equals its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "{variance}");
        let above = gaps.iter().filter(|gap| **gap > mean).count() as f64;
        assert!((above / gaps.len() as f64 - (-1.0_f64).exp()).abs() < 0.01);
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_does_not() {
        let take = |seed| Poisson::new(100.0, seed).take(50).collect::<Vec<_>>();
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }
}
