//! How long to wait before the same target is tried again.

use crate::chance::{draw, scale};

/// The most that the first pause may be; each further one may be twice as long.
pub const BASE_MS: u64 = 100;
/// What no pause exceeds. A caller waits through all of them, and the SDKs' own pauses end at 8 s.
pub const PAUSE_MS_MAX: u64 = 5_000;

/// The pause before a retry, in milliseconds: anything from 0 to twice the longest that the
/// retry before it could wait.
///
/// Full jitter: requests that failed together come back apart, so a provider that has just
/// recovered is not knocked over again. `attempt` counts the retries before this one, from 0.
/// The same request waits the same in replay.
#[must_use]
pub fn backoff_ms(request_id: &str, attempt: u32) -> u64 {
    let longest =
        1_u64.checked_shl(attempt).map_or(PAUSE_MS_MAX, |twice| twice.saturating_mul(BASE_MS));
    let point = draw(request_id, &format!("backoff {attempt}"));
    scale(point, longest.min(PAUSE_MS_MAX) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: u64 = 4_000;

    fn pauses(attempt: u32) -> impl Iterator<Item = u64> {
        (0..IDS)
            .map(move |id| backoff_ms(&format!("0192a3b4-c5d6-7e8f-9012-{id:012x}"), attempt))
    }

    #[test]
    fn a_pause_may_be_anything_up_to_a_limit_that_doubles() {
        for (attempt, longest) in
            [(0, 100), (1, 200), (2, 400), (3, 800), (4, 1600), (5, 3200), (6, 5000), (7, 5000)]
        {
            assert!(pauses(attempt).all(|pause| pause <= longest), "{attempt}");
            assert!(pauses(attempt).any(|pause| pause > longest * 99 / 100), "{attempt}");
            assert!(pauses(attempt).any(|pause| pause < longest / 50), "{attempt}");
            let mean = pauses(attempt).sum::<u64>() / IDS;
            assert!(mean.abs_diff(longest / 2) < longest / 25, "{attempt}: {mean}");
        }
    }

    #[test]
    fn no_number_of_retries_is_too_many() {
        for attempt in [31, 32, 57, 58, 63, 64, 65, u32::MAX] {
            assert!(backoff_ms("r", attempt) <= PAUSE_MS_MAX);
        }
        assert!(pauses(u32::MAX).any(|pause| pause > PAUSE_MS_MAX / 2));
        assert!(pauses(60).any(|pause| pause > PAUSE_MS_MAX / 2));
    }

    #[test]
    fn a_request_waits_the_same_each_time_it_is_asked_but_not_before_each_retry() {
        assert_eq!(backoff_ms("r", 3), backoff_ms("r", 3));
        let first: Vec<u64> = pauses(6).collect();
        let second: Vec<u64> = pauses(7).collect();
        let alike = first.iter().zip(&second).filter(|(one, other)| one == other).count();
        assert!(alike < 20, "{alike}");
    }
}
