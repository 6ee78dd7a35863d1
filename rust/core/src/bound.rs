//! The worst case of one attempt: what it may cost at most, before a byte of it leaves.
//!
//! The input side is settled by the request's bytes; the output side grows with the output limit,
//! so the question can be turned round: which limit fits into what is left?

/// A cost beyond this is refused: doubles, and so most readers of JSON, are exact up to here.
const NUSD_MAX: u128 = 1 << 53;
const TOKENS_PER_MTOK: u128 = 1_000_000;
const PERMILLE: u128 = 1000;

/// What one attempt may cost at most, as a function of its output limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Input and fees, in nano-USD.
    fixed_nusd: u64,
    /// Of output, in nano-USD a million tokens.
    output_nusd_per_mtok: u64,
    /// Answers asked for: each may use the whole limit.
    answers: u64,
    /// Output tokens that come on top of the limit, over all answers.
    extra_output_tokens: u64,
    /// The whole times this by thousand: above 1,000 for a model that has billed more than its
    /// bound again and again.
    factor_permille: u64,
}

impl Bound {
    /// A bound whose output grows with the limit.
    #[must_use]
    pub fn new(
        fixed_nusd: u64,
        output_nusd_per_mtok: u64,
        answers: u64,
        extra_output_tokens: u64,
    ) -> Self {
        Self {
            fixed_nusd,
            output_nusd_per_mtok,
            answers,
            extra_output_tokens,
            factor_permille: 1000,
        }
    }

    /// A bound that somebody stated, whatever the limit.
    #[must_use]
    pub fn fixed(nusd: u64) -> Self {
        Self::new(nusd, 0, 0, 0)
    }

    /// The same, multiplied; each result rounds up.
    #[must_use]
    pub fn times(self, factor_permille: u64) -> Self {
        Self { factor_permille, ..self }
    }

    /// What an attempt with this output limit may cost, in nano-USD; None is beyond 2^53.
    ///
    /// A limit of None means that there is no output side.
    #[must_use]
    pub fn at(&self, limit: Option<u64>) -> Option<u64> {
        let tokens = u128::from(limit.unwrap_or(0))
            .checked_mul(u128::from(self.answers))?
            .checked_add(u128::from(self.extra_output_tokens))?;
        let output_nusd = tokens
            .checked_mul(u128::from(self.output_nusd_per_mtok))?
            .div_ceil(TOKENS_PER_MTOK);
        let nusd = u128::from(self.fixed_nusd)
            .checked_add(output_nusd)?
            .checked_mul(u128::from(self.factor_permille))?
            .div_ceil(PERMILLE);
        u64::try_from(nusd).ok().filter(|_| nusd <= NUSD_MAX)
    }

    /// The largest output limit that fits into `nusd`; 0 where the input alone does not.
    #[must_use]
    pub fn limit_for(&self, nusd: u64) -> u64 {
        let (mut fits, mut too_much) = (0_u64, u64::MAX);
        if self.at(Some(too_much)).is_some_and(|cost| cost <= nusd) {
            return too_much;
        }
        // `at` never falls as the limit grows, and every rounding is in it: halving is exact.
        while too_much - fits > 1 {
            let middle = fits + (too_much - fits) / 2;
            if self.at(Some(middle)).is_some_and(|cost| cost <= nusd) {
                fits = middle;
            } else {
                too_much = middle;
            }
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_limit_for_an_amount_is_the_largest_that_fits(
            fixed in 0_u64..1 << 40,
            rate in 0_u64..1 << 40,
            answers in 1_u64..8,
            extra in 0_u64..10_000,
            factor in 1000_u64..5000,
            nusd in 0_u64..1 << 53,
        ) {
            let bound = Bound::new(fixed, rate, answers, extra).times(factor);
            let limit = bound.limit_for(nusd);
            if limit > 0 {
                prop_assert!(bound.at(Some(limit)).is_some_and(|cost| cost <= nusd));
            }
            if limit < u64::MAX {
                prop_assert!(bound.at(Some(limit + 1)).is_none_or(|cost| cost > nusd));
            }
        }
    }

    #[test]
    fn a_cost_beyond_what_doubles_hold_is_no_bound() {
        assert_eq!(Bound::fixed(1 << 53).at(None), Some(1 << 53));
        assert_eq!(Bound::fixed((1 << 53) + 1).at(None), None);
        assert_eq!(Bound::new(0, u64::MAX, u64::MAX, u64::MAX).at(Some(u64::MAX)), None);
    }
}
