//! Chance that is no chance: draws from a hash, never from a random generator.
//!
//! A decision is a pure function of what went in, so whatever it leaves to chance is drawn from
//! an id of the request. The same id draws the same in every worker, in replay and in tests.

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Draw a point between 0 and 2^64 - 1, spread evenly over all of them.
///
/// `purpose` keeps the draws of one id apart: what is drawn for one purpose tells nothing of
/// what is drawn for another. Permanent: who has been in an arm of an experiment stays there.
#[must_use]
pub fn draw(id: &str, purpose: &str) -> u64 {
    // No text holds the byte 0xff, so no end of a purpose can pass for the start of an id.
    let bytes = purpose.bytes().chain([0xff]).chain(id.bytes());
    let hash =
        bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    finish(hash)
}

/// The finaliser of splitmix64. FNV-1a alone leaves ids that differ in their last characters
/// alike in their high bits, and those decide who is picked.
fn finish(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The place in `0..count` that a drawn point falls on; all are equally likely.
///
/// The whole range of points is cut into `count` stretches, whose lengths differ by one at most.
/// 0 if `count` is.
#[must_use]
pub fn scale(point: u64, count: u64) -> u64 {
    let place = (u128::from(point) * u128::from(count)) >> 64;
    // Below `count`, as the point is below 2^64.
    u64::try_from(place).unwrap_or_default()
}

/// The index that a drawn point falls on, each with the share that its weight is of their sum.
///
/// None where there is no weight above 0; an index with a weight of 0 is never picked. The points
/// are cut in the order of the weights: raising the last one's takes from all others alike.
#[must_use]
pub fn pick_weighted(point: u64, weights: &[u64]) -> Option<usize> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    // In two halves, as sum and point together may have more than 128 bits.
    let low = (u128::from(point) * (sum & u128::from(u64::MAX))) >> 64;
    let mut spot = low + u128::from(point) * (sum >> 64);
    for (index, &weight) in weights.iter().enumerate() {
        if spot < u128::from(weight) {
            return Some(index);
        }
        spot -= u128::from(weight);
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ids as one worker makes them within a millisecond: all but the last characters alike.
    fn ids(count: u32) -> impl Iterator<Item = String> {
        (0..count).map(|number| format!("0192a3b4-c5d6-7e8f-9012-3456{number:08x}"))
    }

    /// Whether the counts of `draws` over equal cells are as even as chance would make them:
    /// the statistic lies within five of its standard deviations of what is expected.
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn is_even(cells: &[u32], draws: u32) -> bool {
        let expected = f64::from(draws) / cells.len() as f64;
        let chi: f64 =
            cells.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        let freedom = cells.len() as f64 - 1.0;
        (chi - freedom).abs() < 5.0 * (2.0 * freedom).sqrt()
    }

    #[test]
    fn a_draw_never_changes() {
        assert_eq!(draw("", ""), 0x4f2d_b50f_1240_40cd);
        assert_eq!(
            draw("0192a3b4-c5d6-7e8f-9012-345678901234", "explore"),
            0xb832_ac0a_2225_eee1
        );
        assert_eq!(draw("u1", "ab:production"), 0x6527_e8f4_df65_6998);
        assert_eq!(draw("é", "tie"), 0xc405_f36b_2af8_2e54);
    }

    #[test]
    fn every_byte_of_a_draw_is_spread_evenly_over_ids_that_differ_in_their_last_characters() {
        const DRAWS: u32 = 1 << 16;
        for byte in 0..8 {
            let mut cells = [0; 256];
            for id in ids(DRAWS) {
                cells[usize::from(draw(&id, "explore").to_be_bytes()[byte])] += 1;
            }
            assert!(is_even(&cells, DRAWS), "byte {byte}");
        }
    }

    #[test]
    fn a_changed_character_flips_every_bit_half_of_the_time() {
        const DRAWS: u32 = 1 << 14;
        let mut flips = [0_u32; 64];
        for id in ids(DRAWS) {
            let other = format!("{}g", &id[..id.len() - 1]);
            let changed = draw(&id, "p") ^ draw(&other, "p");
            for (bit, flips) in flips.iter_mut().enumerate() {
                *flips += u32::from(changed >> bit & 1 == 1);
            }
        }
        // Half of 16,384 with a standard deviation of 64.
        for (bit, count) in flips.iter().enumerate() {
            assert!(count.abs_diff(DRAWS / 2) < 6 * 64, "bit {bit}: {count}");
        }
    }

    #[test]
    fn draws_for_two_purposes_have_nothing_to_do_with_each_other() {
        const DRAWS: u32 = 1 << 16;
        for (one, other) in [("explore", "tie"), ("ab:a", "ab:b"), ("backoff 0", "backoff 1")] {
            let mut cells = [0; 256];
            for id in ids(DRAWS) {
                let place = scale(draw(&id, one), 16) * 16 + scale(draw(&id, other), 16);
                cells[usize::try_from(place).unwrap()] += 1;
            }
            assert!(is_even(&cells, DRAWS), "{one} and {other}");
        }
    }

    #[test]
    fn a_purpose_and_an_id_are_not_run_together() {
        assert_ne!(draw("bc", "a"), draw("c", "ab"));
        assert_ne!(draw("", "a"), draw("a", ""));
    }

    #[test]
    fn shares_are_exact() {
        // The sum divides 2^64, so each stretch of points has the very share of its weight.
        let weights = [1, 0, 2, 1, 4];
        let edges: Vec<(u64, usize)> = vec![(0, 0), (1, 2), (3, 3), (4, 4)];
        for (eighths, index) in edges {
            let edge = eighths << 61;
            assert_eq!(pick_weighted(edge, &weights), Some(index));
            if edge > 0 {
                assert_ne!(pick_weighted(edge - 1, &weights), Some(index));
            }
        }
        assert_eq!(pick_weighted(u64::MAX, &weights), Some(4));
    }

    #[test]
    fn without_weight_nothing_is_picked() {
        assert_eq!(pick_weighted(5, &[]), None);
        assert_eq!(pick_weighted(5, &[0, 0]), None);
        assert_eq!(pick_weighted(u64::MAX, &[0, 1, 0]), Some(1));
    }

    #[test]
    fn weights_may_sum_to_more_than_a_word_holds() {
        let weights = [u64::MAX, u64::MAX, u64::MAX];
        assert_eq!(pick_weighted(0, &weights), Some(0));
        assert_eq!(pick_weighted(1 << 63, &weights), Some(1));
        assert_eq!(pick_weighted(u64::MAX, &weights), Some(2));
    }

    /// The least point whose place is at or beyond `edge` of `sum`.
    fn first_point(edge: u128, sum: u128) -> u128 {
        (edge << 64).div_ceil(sum)
    }

    proptest! {
        #[test]
        fn each_index_has_the_points_between_its_edges_and_no_other(
            weights in prop::collection::vec(0_u64..1_000_000, 1..8),
            point in any::<u64>(),
        ) {
            let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
            let Some(index) = pick_weighted(point, &weights) else {
                prop_assert_eq!(sum, 0);
                return Ok(());
            };
            let before: u128 = weights[..index].iter().map(|&weight| u128::from(weight)).sum();
            let after = before + u128::from(weights[index]);
            let point = u128::from(point);
            prop_assert!(first_point(before, sum) <= point && point < first_point(after, sum));
        }

        #[test]
        fn a_place_lies_below_the_count(point in any::<u64>(), count in 1_u64..) {
            prop_assert!(scale(point, count) < count);
            prop_assert_eq!(scale(u64::MAX, count), count - 1);
            prop_assert_eq!(scale(0, count), 0);
        }
    }
}
