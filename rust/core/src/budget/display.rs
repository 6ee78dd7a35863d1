//! What a caller is told whose request a budget refuses.

use crate::digits::push_usd;
use crate::ledger::window::{Period, Window};

use super::decide::{Ask, Decision, RowState};
use super::{period_name, remaining_nusd};

const MICROS: i128 = 1_000_000;
/// Money that is only held comes free when a request ends: soon.
const HELD_RETRY_AFTER_S: u64 = 1;
const DECIMALS_MIN: u32 = 2;

/// The values of `error.budget`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Name of the budget.
    pub name: String,
    /// What this window has spent.
    pub spend_nusd: u64,
    /// What requests in flight hold, as far as the cap covers it.
    pub held_nusd: u64,
    /// The cap, without credits.
    pub cap_nusd: u64,
    /// What can still be held.
    pub remaining_nusd: u64,
    /// Length of the window.
    pub period: Period,
    /// When the next window begins, in seconds since 1970; None: never.
    pub period_resets_at_s: Option<i64>,
}

/// How a refused request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// `request_exceeds_budget`, `budget_exceeded` or `budget_held`.
    pub code: &'static str,
    /// What happened, why, and what to do.
    pub message: String,
    /// The budget that refused it.
    pub budget: Shown,
    /// When asking again may help, in seconds; None: it would not.
    pub retry_after_s: Option<u64>,
    /// With `request_exceeds_budget`: the output limit that would fit.
    pub max_affordable_output_tokens: Option<u64>,
}

/// What `error.budget` says of a row.
#[must_use]
pub fn shown(row: &RowState<'_>, window: &Window) -> Shown {
    let left_nusd = u64::try_from(row.left_nusd()).unwrap_or(u64::MAX);
    Shown {
        name: row.budget.name.clone(),
        spend_nusd: row.balance.spent_nusd,
        held_nusd: row.balance.held_nusd.min(left_nusd),
        cap_nusd: row.budget.cap_nusd,
        remaining_nusd: remaining_nusd(row.budget, &row.balance),
        period: row.budget.period,
        period_resets_at_s: window.end_s,
    }
}

/// The answer to a refused attempt; None for a decision that refuses nothing.
///
/// `window` is that of the row which the decision names; `now_us` is the wall clock, from which
/// `Retry-After` counts.
#[must_use]
pub fn refused(
    decision: &Decision,
    rows: &[RowState<'_>],
    ask: &Ask,
    window: &Window,
    now_us: u64,
) -> Option<Refused> {
    let (code, at, affordable_tokens) = match *decision {
        Decision::Hold { .. } | Decision::Downgrade { .. } => return None,
        Decision::RequestExceeds { row, affordable_tokens } => {
            ("request_exceeds_budget", row, Some(affordable_tokens))
        }
        Decision::Exceeded { row } => ("budget_exceeded", row, None),
        Decision::Held { row } => ("budget_held", row, None),
    };
    let row = &rows[at];
    let name = &row.budget.name;
    let period = row.budget.period;
    let allowed = usd(u64::try_from(row.allowed_nusd()).unwrap_or(u64::MAX));
    let asked = ask.least_nusd().map_or_else(
        || "more than can be counted".to_owned(),
        |nusd| format!("up to `{}` USD", usd(nusd)),
    );
    let message = match *decision {
        Decision::RequestExceeds { affordable_tokens, .. } => {
            let what_to_do = match affordable_tokens {
                0 => "no output limit would change that: send less, or call a cheaper model"
                    .to_owned(),
                most => format!("set an output limit of at most `{most}` tokens"),
            };
            format!(
                "this request may cost {asked}, more than budget `{name}` ever allows \
                 (`{allowed}` USD, `{}`); {what_to_do}",
                period_name(period)
            )
        }
        Decision::Exceeded { .. } => {
            let what_to_do = match window.end_s {
                Some(end_s) => format!("wait until it begins anew at `{}`", instant(end_s)),
                None => "it never begins anew: have its cap raised".to_owned(),
            };
            format!(
                "budget `{name}` has spent `{}` of `{allowed}` USD (`{}`), and this request may \
                 cost {asked}; {what_to_do}",
                usd(row.balance.spent_nusd),
                period_name(period)
            )
        }
        _ => format!(
            "budget `{name}` has `{}` USD left, but requests in flight hold `{}` of it, and the \
             rest is too little for this one; send it again in `{HELD_RETRY_AFTER_S}` s",
            usd(u64::try_from(row.left_nusd()).unwrap_or(u64::MAX)),
            usd(shown(row, window).held_nusd)
        ),
    };
    let retry_after_s = match decision {
        Decision::Exceeded { .. } => retry_after_s(window, now_us),
        Decision::Held { .. } => Some(HELD_RETRY_AFTER_S),
        _ => None,
    };
    Some(Refused {
        code,
        message,
        budget: shown(row, window),
        retry_after_s,
        max_affordable_output_tokens: affordable_tokens,
    })
}

/// Seconds until the window ends, rounded up, at least 1; None where it never does.
#[must_use]
pub fn retry_after_s(window: &Window, now_us: u64) -> Option<u64> {
    let left_us = i128::from(window.end_s?) * MICROS - i128::from(now_us);
    Some(u64::try_from(left_us.max(1)).map_or(u64::MAX, |left_us| left_us.div_ceil(1_000_000)))
}

/// An instant as ISO 8601 in UTC: `2026-08-01T00:00:00Z`.
#[must_use]
pub fn instant(unix_s: i64) -> String {
    // A window ends where the calendar says, which has no instant beyond its own range.
    jiff::Timestamp::from_second(unix_s)
        .map_or_else(|_| unix_s.to_string(), |at| at.to_string())
}

/// USD without trailing zeros, but with at least two decimals: `0.00213`, `42.10`.
#[must_use]
pub fn usd(nusd: u64) -> String {
    let mut digits = Vec::with_capacity(24);
    push_usd(&mut digits, nusd, DECIMALS_MIN);
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{budgets, document};
    use super::super::{Budgets, decide};
    use super::*;
    use crate::bound::Bound;
    use crate::ledger::row::Balance;

    /// 2026-08-01, the end of July.
    const END_S: i64 = 1_785_542_400;
    const JULY: Window = Window { start_s: 1_782_864_000, end_s: Some(END_S) };
    const FOREVER: Window = Window { start_s: 0, end_s: None };
    /// Three and a half seconds before.
    const NOW_US: u64 = 1_785_542_396_500_000;

    fn team() -> Budgets {
        let mut document = document("team-ml");
        document["cap_nusd"] = 100_000_000_000_u64.into();
        budgets([document])
    }

    fn balance(spent_nusd: u64, held_nusd: u64) -> Balance {
        Balance { spent_nusd, held_nusd, ..Balance::default() }
    }

    fn answer(balance: Balance, ask: &Ask, window: &Window) -> Option<Refused> {
        let budgets = team();
        let rows = [RowState { budget: budgets.get(0), balance }];
        refused(&decide(&rows, ask, true), &rows, ask, window, NOW_US)
    }

    /// The input costs 0.10 USD, a thousand tokens of output 1 USD.
    fn asks(limit: u64) -> Ask {
        let bound = Bound::new(100_000_000, 1_000_000_000_000, 1, 0);
        Ask { bound, limit: Some(limit), least: limit }
    }

    #[test]
    fn a_spent_cap_says_when_it_begins_anew() {
        let refused = answer(balance(99_500_000_000, 0), &asks(1000), &JULY).unwrap();
        assert_eq!(refused.code, "budget_exceeded");
        assert_eq!(
            refused.message,
            "budget `team-ml` has spent `99.50` of `100.00` USD (`monthly`), and this request \
             may cost up to `1.10` USD; wait until it begins anew at `2026-08-01T00:00:00Z`"
        );
        assert_eq!(refused.retry_after_s, Some(4));
        assert_eq!(refused.max_affordable_output_tokens, None);
        let shown = Shown {
            name: "team-ml".to_owned(),
            spend_nusd: 99_500_000_000,
            held_nusd: 0,
            cap_nusd: 100_000_000_000,
            remaining_nusd: 500_000_000,
            period: Period::Monthly,
            period_resets_at_s: Some(END_S),
        };
        assert_eq!(refused.budget, shown);
    }

    #[test]
    fn a_cap_for_good_says_that_waiting_is_useless() {
        let refused = answer(balance(100_000_000_000, 0), &asks(1), &FOREVER).unwrap();
        assert!(refused.message.ends_with("it never begins anew: have its cap raised"));
        assert_eq!((refused.retry_after_s, refused.budget.period_resets_at_s), (None, None));
    }

    #[test]
    fn a_request_that_never_fits_says_which_limit_would() {
        let refused = answer(balance(0, 0), &asks(200_000), &JULY).unwrap();
        assert_eq!(refused.code, "request_exceeds_budget");
        assert_eq!(
            refused.message,
            "this request may cost up to `200.10` USD, more than budget `team-ml` ever allows \
             (`100.00` USD, `monthly`); set an output limit of at most `99900` tokens"
        );
        assert_eq!(refused.retry_after_s, None);
        assert_eq!(refused.max_affordable_output_tokens, Some(99_900));
    }

    #[test]
    fn an_input_that_never_fits_says_so() {
        let ask = Ask { bound: Bound::fixed(u64::MAX), limit: None, least: 0 };
        let refused = answer(balance(0, 0), &ask, &JULY).unwrap();
        assert_eq!(
            refused.message,
            "this request may cost more than can be counted, more than budget `team-ml` ever \
             allows (`100.00` USD, `monthly`); no output limit would change that: send less, or \
             call a cheaper model"
        );
        assert_eq!(refused.max_affordable_output_tokens, Some(0));
    }

    #[test]
    fn held_money_says_to_ask_again_at_once() {
        let refused =
            answer(balance(96_000_000_000, 3_900_000_000), &asks(100), &JULY).unwrap();
        assert_eq!(refused.code, "budget_held");
        assert_eq!(
            refused.message,
            "budget `team-ml` has `4.00` USD left, but requests in flight hold `3.90` of it, and \
             the rest is too little for this one; send it again in `1` s"
        );
        assert_eq!(refused.retry_after_s, Some(1));
    }

    #[test]
    fn what_fits_has_no_refusal() {
        assert_eq!(answer(balance(0, 0), &asks(1), &JULY), None);
    }

    #[test]
    fn what_is_shown_as_held_is_never_more_than_what_is_left() {
        let budgets = team();
        let row = |spent_nusd, held_nusd| RowState {
            budget: budgets.get(0),
            balance: Balance { credits_nusd: 7, ..balance(spent_nusd, held_nusd) },
        };
        let over = shown(&row(99_999_999_999, 50), &JULY);
        assert_eq!((over.held_nusd, over.remaining_nusd), (8, 0));
        let passed = shown(&row(100_000_000_008, 50), &JULY);
        assert_eq!((passed.held_nusd, passed.remaining_nusd), (0, 0));
    }

    #[test]
    fn retry_after_is_never_below_a_second() {
        let end_us = u64::try_from(END_S).unwrap() * 1_000_000;
        assert_eq!(retry_after_s(&JULY, end_us - 1), Some(1));
        assert_eq!(retry_after_s(&JULY, end_us - 1_000_001), Some(2));
        // A clock that has been put forward since.
        assert_eq!(retry_after_s(&JULY, u64::MAX), Some(1));
        assert_eq!(retry_after_s(&JULY, end_us - 86_400_000_000), Some(86_400));
        assert_eq!(retry_after_s(&FOREVER, 0), None);
    }

    #[test]
    fn amounts_keep_every_digit_that_says_something() {
        for (nusd, text) in [
            (0, "0.00"),
            (1, "0.000000001"),
            (2_130_000, "0.00213"),
            (42_100_000_000, "42.10"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(usd(nusd), text);
        }
    }

    #[test]
    fn an_instant_outside_every_calendar_is_still_shown() {
        assert_eq!(instant(i64::MAX), i64::MAX.to_string());
        assert_eq!(instant(-1), "1969-12-31T23:59:59Z");
    }
}
