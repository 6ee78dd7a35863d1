//! Whether an attempt fits into every budget that it falls under, and what happens if it does not.
//!
//! Of each budget, *allowed* is cap + credits, *left* what of it is not spent, and *free* what of
//! that is not held. The attempt asks for an output limit L and may be sent with as little as m.
//! The first row that is true for any enforcing budget decides:
//!
//! | # | when | then |
//! |---|---|---|
//! | 1 | bound(m) > allowed | it can never fit: refused, or downgraded |
//! | 2 | bound(m) > left | the cap is spent: refused, or downgraded |
//! | 3 | bound(L) > left | L is lowered to what every budget has left; then row 4 |
//! | 4 | bound(L) > free | others hold the money: to be asked again, never lowered, never downgraded |
//!
//! Within a row a budget that blocks comes before one that downgrades, and of several alike the
//! tightest is named. A downgrade happens once a request: after it, each of them blocks.

use std::cmp::Ordering;

use crate::bound::Bound;
use crate::ledger::row::Balance;

use super::{Action, Budget, remaining_nusd};

/// What an attempt holds whose bound is beyond what a bound may be, where no budget minds.
const BEYOND_NUSD: u64 = 1 << 53;

/// What one attempt asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// What it may cost at most.
    pub bound: Bound,
    /// Its output limit, L; None where there is no output side.
    pub limit: Option<u64>,
    /// The least limit that it may be sent with, m; one above L counts as L.
    pub least: u64,
}

impl Ask {
    /// What the attempt may cost at the least limit; None is beyond any bound.
    #[must_use]
    pub fn least_nusd(&self) -> Option<u64> {
        self.bound.at(self.limit.map(|limit| self.least.min(limit)))
    }
}

/// A budget and what stands in its row.
#[derive(Debug, Clone, Copy)]
pub struct RowState<'a> {
    /// Which.
    pub budget: &'a Budget,
    /// What stands there.
    pub balance: Balance,
}

impl RowState<'_> {
    /// Cap and credits.
    #[must_use]
    pub fn allowed_nusd(&self) -> u128 {
        u128::from(self.budget.cap_nusd) + u128::from(self.balance.credits_nusd)
    }

    /// What of it is not spent, never below 0; some of that may be held.
    #[must_use]
    pub fn left_nusd(&self) -> u128 {
        self.allowed_nusd().saturating_sub(u128::from(self.balance.spent_nusd))
    }

    fn free_nusd(&self) -> u128 {
        self.left_nusd().saturating_sub(u128::from(self.balance.held_nusd))
    }
}

/// What becomes of an attempt. `row` is an index into the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It fits into all of them.
    Hold {
        /// The output limit that it is held and sent with.
        limit: Option<u64>,
        /// To be held in every row; 0 needs no hold.
        amount_nusd: u64,
        /// Was the limit lowered to make it fit?
        fitted: bool,
    },
    /// It is more than a whole cap.
    RequestExceeds {
        /// Whose.
        row: usize,
        /// The output limit that every cap would have room for; 0 where the input alone is too
        /// much.
        affordable_tokens: u64,
    },
    /// The cap is spent.
    Exceeded {
        /// Whose.
        row: usize,
    },
    /// Another target, then decide again.
    Downgrade {
        /// The budget whose `downgrade` says where to.
        row: usize,
        /// Is the attempt more than the whole cap, spent or not?
        exceeds_cap: bool,
    },
    /// There is money, but other requests hold it.
    Held {
        /// Whose.
        row: usize,
    },
}

impl Decision {
    /// The row that refused or redirected the attempt; None if nobody did.
    #[must_use]
    pub fn row(&self) -> Option<usize> {
        match *self {
            Self::Hold { .. } => None,
            Self::RequestExceeds { row, .. }
            | Self::Exceeded { row }
            | Self::Downgrade { row, .. }
            | Self::Held { row } => Some(row),
        }
    }

    /// The same of a row that has this place in other rows.
    #[must_use]
    pub fn of_row(self, row: usize) -> Self {
        match self {
            Self::Hold { .. } => self,
            Self::RequestExceeds { affordable_tokens, .. } => {
                Self::RequestExceeds { row, affordable_tokens }
            }
            Self::Exceeded { .. } => Self::Exceeded { row },
            Self::Downgrade { exceeds_cap, .. } => Self::Downgrade { row, exceeds_cap },
            Self::Held { .. } => Self::Held { row },
        }
    }

    /// The word for it: `ok`, `fit`, `downgrade`, `block` or `held`.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match self {
            Self::Hold { fitted: false, .. } => "ok",
            Self::Hold { fitted: true, .. } => "fit",
            Self::Downgrade { .. } => "downgrade",
            Self::RequestExceeds { .. } | Self::Exceeded { .. } => "block",
            Self::Held { .. } => "held",
        }
    }
}

/// Decide on one attempt.
///
/// `may_downgrade` is false once the request has been downgraded. An attempt that costs nothing
/// always fits, also where the cap has been passed.
///
/// # Panics
/// A bound that falls as the limit grows: what was lowered by it would be worth nothing.
#[must_use]
pub fn decide(rows: &[RowState<'_>], ask: &Ask, may_downgrade: bool) -> Decision {
    let least_nusd = nusd_or_beyond(ask.least_nusd());
    let never_fits = refusing(rows, may_downgrade, |row| least_nusd > row.allowed_nusd());
    match never_fits {
        Some((row, Action::Downgrade)) => {
            return Decision::Downgrade { row, exceeds_cap: true };
        }
        Some((row, _)) => {
            let affordable_tokens = limit_for(rows, &ask.bound, RowState::allowed_nusd);
            return Decision::RequestExceeds { row, affordable_tokens };
        }
        None => {}
    }
    match refusing(rows, may_downgrade, |row| least_nusd > row.left_nusd()) {
        Some((row, Action::Downgrade)) => {
            return Decision::Downgrade { row, exceeds_cap: false };
        }
        Some((row, _)) => return Decision::Exceeded { row },
        None => {}
    }
    let asked_nusd = nusd_or_beyond(ask.bound.at(ask.limit));
    let fitted = enforcing(rows).any(|(_, row)| asked_nusd > row.left_nusd());
    let limit = match ask.limit {
        Some(limit) if fitted => {
            let lowered = limit_for(rows, &ask.bound, RowState::left_nusd);
            // Row 2 has seen that the least fits everywhere, and a higher limit never costs less.
            assert!(lowered >= ask.least.min(limit), "{lowered} is less than what fits");
            assert!(lowered < limit, "{lowered} is no less than what does not fit");
            Some(lowered)
        }
        limit => limit,
    };
    let amount_nusd = nusd_or_beyond(ask.bound.at(limit));
    if let Some((row, _)) = refusing(rows, false, |row| amount_nusd > row.free_nusd()) {
        return Decision::Held { row };
    }
    Decision::Hold {
        limit,
        // Beyond any bound only where nobody enforces: what is counted then is the most there is.
        amount_nusd: u64::try_from(amount_nusd).unwrap_or(BEYOND_NUSD),
        fitted,
    }
}

/// Decide on attempts that are only of use together: all of them fit, or none is made.
///
/// `falls_under` says whether an attempt (by its place in `asks`) falls under a row. What comes of
/// it is the decision of one attempt that asks for as much as all of them: where they do not fit
/// as they are, one limit is found that none of them may pass, so that a lower one is not lowered.
#[must_use]
pub fn decide_together(
    rows: &[RowState<'_>],
    asks: &[Ask],
    falls_under: &dyn Fn(usize, usize) -> bool,
    may_downgrade: bool,
) -> Decision {
    let sum = |at: usize, limit_of: &dyn Fn(&Ask) -> Option<u64>| {
        asks.iter()
            .enumerate()
            .filter(|(ask, _)| falls_under(*ask, at))
            .map(|(_, ask)| nusd_or_beyond(ask.bound.at(limit_of(ask))))
            .fold(0_u128, u128::saturating_add)
    };
    let least_of = |ask: &Ask| ask.limit.map(|limit| ask.least.min(limit));
    let within = |most: u64| {
        move |ask: &Ask| ask.limit.map(|limit| limit.min(most.max(ask.least.min(limit))))
    };
    let exceeds = |at: usize, nusd: u128| sum(at, &least_of) > nusd;
    let never_fits =
        refusing_at(rows, may_downgrade, |at, row| exceeds(at, row.allowed_nusd()));
    match never_fits {
        Some((row, Action::Downgrade)) => {
            return Decision::Downgrade { row, exceeds_cap: true };
        }
        Some((row, _)) => {
            let affordable_tokens = largest(|most| {
                let alike = |ask: &Ask| ask.limit.map(|_| most);
                enforcing(rows).all(|(at, row)| sum(at, &alike) <= row.allowed_nusd())
            });
            return Decision::RequestExceeds { row, affordable_tokens };
        }
        None => {}
    }
    match refusing_at(rows, may_downgrade, |at, row| exceeds(at, row.left_nusd())) {
        Some((row, Action::Downgrade)) => {
            return Decision::Downgrade { row, exceeds_cap: false };
        }
        Some((row, _)) => return Decision::Exceeded { row },
        None => {}
    }
    let limit = largest(|most| {
        enforcing(rows).all(|(at, row)| sum(at, &within(most)) <= row.left_nusd())
    });
    let fitted = limit < u64::MAX;
    let held = |at: usize, row: &RowState<'_>| sum(at, &within(limit)) > row.free_nusd();
    if let Some((row, _)) = refusing_at(rows, false, held) {
        return Decision::Held { row };
    }
    let amount_nusd = (0..rows.len()).map(|at| sum(at, &within(limit))).max().unwrap_or(0);
    Decision::Hold {
        limit: Some(limit),
        amount_nusd: u64::try_from(amount_nusd).unwrap_or(BEYOND_NUSD),
        fitted,
    }
}

/// The largest number for which `fits` holds, which then holds for all smaller ones; 0 where it
/// holds for none.
fn largest(fits: impl Fn(u64) -> bool) -> u64 {
    if fits(u64::MAX) {
        return u64::MAX;
    }
    let (mut fitting, mut too_much) = (0_u64, u64::MAX);
    while too_much - fitting > 1 {
        let middle = fitting + (too_much - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            too_much = middle;
        }
    }
    fitting
}

/// Would this budget refuse or redirect the attempt, if it did anything?
///
/// What one that only warns, or is a shadow, has to report.
#[must_use]
pub fn is_over(row: &RowState<'_>, ask: &Ask) -> bool {
    nusd_or_beyond(ask.least_nusd()) > row.left_nusd()
}

/// The budget that is nearest to its cap, of those that are enabled and no shadows: the largest
/// used part, then the least that remains, then the name.
#[must_use]
pub fn tightest(rows: &[RowState<'_>]) -> Option<usize> {
    let shown = rows.iter().enumerate().filter(|(_, row)| row.budget.is_shown());
    tightest_of(shown)
}

fn enforcing<'r, 'a>(
    rows: &'r [RowState<'a>],
) -> impl Iterator<Item = (usize, &'r RowState<'a>)> {
    rows.iter().enumerate().filter(|(_, row)| row.budget.is_enforcing())
}

/// The enforcing budget that acts on what `fails` says, and how: one that blocks before one that
/// downgrades, then the tightest. Without `may_downgrade` each of them blocks.
fn refusing(
    rows: &[RowState<'_>],
    may_downgrade: bool,
    fails: impl Fn(&RowState<'_>) -> bool,
) -> Option<(usize, Action)> {
    refusing_at(rows, may_downgrade, |_, row| fails(row))
}

/// The same, told the place of each row.
fn refusing_at(
    rows: &[RowState<'_>],
    may_downgrade: bool,
    fails: impl Fn(usize, &RowState<'_>) -> bool,
) -> Option<(usize, Action)> {
    let acts = |row: &RowState<'_>| {
        if may_downgrade { row.budget.action } else { Action::Block }
    };
    [Action::Block, Action::Downgrade].into_iter().find_map(|action| {
        let failing =
            enforcing(rows).filter(|(at, row)| acts(row) == action && fails(*at, row));
        tightest_of(failing).map(|at| (at, action))
    })
}

fn tightest_of<'r, 'a: 'r>(
    rows: impl Iterator<Item = (usize, &'r RowState<'a>)>,
) -> Option<usize> {
    rows.min_by(|(_, one), (_, other)| tighter_first(one, other)).map(|(at, _)| at)
}

fn tighter_first(one: &RowState<'_>, other: &RowState<'_>) -> Ordering {
    // Compared crosswise, which is exact. Sums beyond 2^64 nano-USD, 18 billion USD, count as
    // that much, so that the products fit.
    let used = |row: &RowState<'_>| {
        u128::from(row.balance.spent_nusd.saturating_add(row.balance.held_nusd))
    };
    let allowed = |row: &RowState<'_>| {
        u128::from(row.budget.cap_nusd.saturating_add(row.balance.credits_nusd))
    };
    let remaining = |row: &RowState<'_>| remaining_nusd(row.budget, &row.balance);
    (used(other) * allowed(one))
        .cmp(&(used(one) * allowed(other)))
        .then_with(|| remaining(one).cmp(&remaining(other)))
        .then_with(|| one.budget.name.cmp(&other.budget.name))
}

/// The largest limit that fits into that amount of every enforcing budget.
fn limit_for<'a>(
    rows: &[RowState<'a>],
    bound: &Bound,
    nusd: impl Fn(&RowState<'a>) -> u128,
) -> u64 {
    let least = enforcing(rows).map(|(_, row)| nusd(row)).min().unwrap_or(u128::MAX);
    bound.limit_for(u64::try_from(least).unwrap_or(u64::MAX))
}

/// A cost beyond any bound is more than any amount.
fn nusd_or_beyond(nusd: Option<u64>) -> u128 {
    nusd.map_or(u128::MAX, u128::from)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{budgets, document};
    use super::super::{BudgetDocument, Budgets};
    use super::*;

    const CAP: u64 = 1000;

    /// Budgets of these actions, called `a`, `b` and so on, each with a cap of 1,000 nano-USD.
    fn acting(actions: &[&str]) -> Budgets {
        budgets(actions.iter().zip('a'..).map(|(action, name)| {
            let mut document = document(&name.to_string());
            document["cap_nusd"] = CAP.into();
            document["action"] = (*action).into();
            document
        }))
    }

    fn rows<'a>(budgets: &'a Budgets, spent_held: &[(u64, u64)]) -> Vec<RowState<'a>> {
        let balance = |(spent_nusd, held_nusd): &(u64, u64)| Balance {
            spent_nusd: *spent_nusd,
            held_nusd: *held_nusd,
            ..Balance::default()
        };
        budgets
            .iter()
            .zip(spent_held)
            .map(|(budget, amounts)| RowState { budget, balance: balance(amounts) })
            .collect()
    }

    /// The input costs 100, each token of output 1.
    fn asks(least: u64, limit: u64) -> Ask {
        Ask { bound: Bound::new(100, 1_000_000, 1, 0), limit: Some(limit), least }
    }

    fn decided(actions: &[&str], spent_held: &[(u64, u64)], ask: &Ask) -> Decision {
        let budgets = acting(actions);
        decide(&rows(&budgets, spent_held), ask, true)
    }

    fn decided_again(actions: &[&str], spent_held: &[(u64, u64)], ask: &Ask) -> Decision {
        let budgets = acting(actions);
        decide(&rows(&budgets, spent_held), ask, false)
    }

    #[test]
    fn what_fits_is_held_as_it_is() {
        let whole = Decision::Hold { limit: Some(900), amount_nusd: 1000, fitted: false };
        assert_eq!(decided(&["block"], &[(0, 0)], &asks(900, 900)), whole);
        assert_eq!(decided(&["block", "downgrade"], &[(0, 0), (0, 0)], &asks(900, 900)), whole);
        assert_eq!(decided(&[], &[], &asks(900, 900)), whole);
    }

    #[test]
    fn one_nano_usd_beyond_the_cap_is_refused_for_good() {
        let exceeds = Decision::RequestExceeds { row: 0, affordable_tokens: 900 };
        assert_eq!(decided(&["block"], &[(0, 0)], &asks(901, 901)), exceeds);
    }

    #[test]
    fn the_affordable_limit_is_the_one_that_the_smallest_cap_has_room_for() {
        let mut small = document("small");
        small["cap_nusd"] = 350.into();
        let mut large = document("large");
        large["cap_nusd"] = 900.into();
        let budgets = budgets([large, small]);
        let rows = rows(&budgets, &[(899, 1), (0, 0)]);
        let exceeds = Decision::RequestExceeds { row: 0, affordable_tokens: 250 };
        assert_eq!(decide(&rows, &asks(5000, 5000), true), exceeds);
        let ask = Ask { bound: Bound::new(5000, 1, 4, 0), limit: Some(10), least: 10 };
        let no_room = Decision::RequestExceeds { row: 0, affordable_tokens: 0 };
        assert_eq!(decide(&rows, &ask, true), no_room);
    }

    #[test]
    fn answers_share_the_affordable_limit() {
        let ask = Ask { bound: Bound::new(100, 1_000_000, 3, 0), limit: Some(500), least: 500 };
        let exceeds = Decision::RequestExceeds { row: 0, affordable_tokens: 300 };
        assert_eq!(decided(&["block"], &[(0, 0)], &ask), exceeds);
    }

    #[test]
    fn a_bound_beyond_any_bound_exceeds_every_cap() {
        let mut unlimited = document("unlimited");
        unlimited["cap_nusd"] = u64::MAX.into();
        let budgets = budgets([unlimited]);
        let ask = Ask { bound: Bound::fixed(u64::MAX), limit: None, least: 0 };
        let decision = decide(&rows(&budgets, &[(0, 0)]), &ask, true);
        assert_eq!(decision, Decision::RequestExceeds { row: 0, affordable_tokens: 0 });
    }

    #[test]
    fn a_limit_beyond_any_bound_is_lowered_where_it_may_be() {
        let decision = decided(&["block"], &[(0, 0)], &asks(64, u64::MAX));
        let fitted = Decision::Hold { limit: Some(900), amount_nusd: 1000, fitted: true };
        assert_eq!(decision, fitted);
    }

    #[test]
    fn where_nobody_enforces_a_bound_beyond_any_bound_is_counted_as_the_most_there_is() {
        let ask = Ask { bound: Bound::fixed(u64::MAX), limit: None, least: 0 };
        let most = Decision::Hold { limit: None, amount_nusd: 1 << 53, fitted: false };
        assert_eq!(decided(&["warn_only"], &[(0, 0)], &ask), most);
    }

    #[test]
    fn credits_raise_the_cap() {
        let budgets = acting(&["block"]);
        let mut rows = rows(&budgets, &[(1000, 0)]);
        assert_eq!(decide(&rows, &asks(64, 64), true), Decision::Exceeded { row: 0 });
        rows[0].balance.credits_nusd = 164;
        assert_eq!(decide(&rows, &asks(64, 64), true).verdict(), "ok");
        assert_eq!(decide(&rows, &asks(65, 65), true), Decision::Exceeded { row: 0 });
    }

    #[test]
    fn what_the_cap_would_allow_but_is_spent_is_refused_for_this_window() {
        let decision = decided(&["block"], &[(837, 0)], &asks(64, 64));
        assert_eq!(decision, Decision::Exceeded { row: 0 });
        assert_eq!(decided(&["block"], &[(836, 0)], &asks(64, 64)).verdict(), "ok");
    }

    #[test]
    fn the_limit_is_lowered_to_what_every_budget_has_left() {
        let decision = decided(&["block", "block"], &[(200, 0), (500, 0)], &asks(64, 5000));
        let fitted = Decision::Hold { limit: Some(400), amount_nusd: 500, fitted: true };
        assert_eq!(decision, fitted);
    }

    #[test]
    fn money_that_is_only_held_lowers_nothing_and_downgrades_nothing() {
        for action in ["block", "downgrade"] {
            let decision = decided(&[action], &[(0, 900)], &asks(64, 900));
            assert_eq!(decision, Decision::Held { row: 0 });
        }
        // Lowered to what is left, and then still more than what is free.
        let decision = decided(&["block"], &[(500, 1)], &asks(64, 5000));
        assert_eq!(decision, Decision::Held { row: 0 });
    }

    #[test]
    fn at_the_cap_a_downgrade_happens_once() {
        let down = Decision::Downgrade { row: 0, exceeds_cap: false };
        assert_eq!(decided(&["downgrade"], &[(1000, 0)], &asks(64, 64)), down);
        let refused = Decision::Exceeded { row: 0 };
        assert_eq!(decided_again(&["downgrade"], &[(1000, 0)], &asks(64, 64)), refused);
    }

    #[test]
    fn what_can_never_fit_is_downgraded_once_and_then_refused_for_good() {
        let down = Decision::Downgrade { row: 0, exceeds_cap: true };
        assert_eq!(decided(&["downgrade"], &[(0, 0)], &asks(5000, 5000)), down);
        let refused = Decision::RequestExceeds { row: 0, affordable_tokens: 900 };
        assert_eq!(decided_again(&["downgrade"], &[(0, 0)], &asks(5000, 5000)), refused);
    }

    #[test]
    fn within_a_row_a_block_comes_before_a_downgrade() {
        let actions = ["downgrade", "block"];
        let decision = decided(&actions, &[(1000, 0), (900, 0)], &asks(64, 64));
        assert_eq!(decision, Decision::Exceeded { row: 1 });
    }

    #[test]
    fn an_earlier_row_comes_before_a_block_in_a_later_one() {
        let mut small = document("small");
        small["cap_nusd"] = 100.into();
        small["action"] = "downgrade".into();
        let mut spent = document("spent");
        spent["cap_nusd"] = CAP.into();
        let budgets = budgets([spent, small]);
        let rows = rows(&budgets, &[(1000, 0), (0, 0)]);
        let down = Decision::Downgrade { row: 1, exceeds_cap: true };
        assert_eq!(decide(&rows, &asks(64, 64), true), down);
        assert_eq!(
            decide(&rows, &asks(64, 64), false),
            Decision::RequestExceeds { row: 1, affordable_tokens: 0 }
        );
    }

    #[test]
    fn of_several_that_refuse_the_tightest_is_named() {
        let actions = ["block", "block", "block"];
        let decision = decided(&actions, &[(900, 0), (950, 40), (0, 0)], &asks(64, 64));
        assert_eq!(decision, Decision::Exceeded { row: 1 });
        let decision = decided(&["downgrade"; 2], &[(900, 50), (900, 51)], &asks(64, 64));
        assert_eq!(decision, Decision::Downgrade { row: 1, exceeds_cap: false });
        let decision = decided(&actions, &[(0, 850), (0, 860), (0, 0)], &asks(64, 64));
        assert_eq!(decision, Decision::Held { row: 1 });
    }

    #[test]
    fn after_a_downgrade_the_tightest_of_all_blocks_whatever_its_action() {
        let actions = ["block", "downgrade"];
        let decision = decided_again(&actions, &[(900, 0), (1000, 0)], &asks(64, 64));
        assert_eq!(decision, Decision::Exceeded { row: 1 });
    }

    /// Of attempts that all fall under all budgets.
    fn together(actions: &[&str], spent_held: &[(u64, u64)], asks: &[Ask]) -> Decision {
        let budgets = acting(actions);
        decide_together(&rows(&budgets, spent_held), asks, &|_, _| true, true)
    }

    #[test]
    fn one_alone_is_decided_as_if_it_were_not_together() {
        for (action, spent_held) in
            [("block", (0, 0)), ("block", (500, 0)), ("block", (0, 500))].into_iter().chain([
                ("downgrade", (1000, 0)),
                ("downgrade", (0, 0)),
                ("block", (1000, 0)),
            ])
        {
            for ask in [asks(64, 400), asks(400, 400), asks(64, 5000), asks(5000, 5000)] {
                let alone = decided(&[action], &[spent_held], &ask);
                let both = together(&[action], &[spent_held], &[ask]);
                assert_eq!(alone.verdict(), both.verdict(), "{action} {spent_held:?} {ask:?}");
                assert_eq!(alone.row(), both.row());
                if let (
                    Decision::Hold { fitted: true, .. },
                    Decision::Hold { fitted: true, .. },
                )
                | (Decision::RequestExceeds { .. }, _) = (alone, both)
                {
                    assert_eq!(alone, both);
                }
            }
        }
    }

    #[test]
    fn those_together_are_lowered_to_one_limit_that_fits_into_what_is_left() {
        let fitted = Decision::Hold { limit: Some(400), amount_nusd: 1000, fitted: true };
        assert_eq!(together(&["block"], &[(0, 0)], &[asks(64, 5000); 2]), fitted);
        // Who asks for less is not lowered, and leaves more to the other.
        let unequal = [asks(64, 100), asks(64, 5000)];
        let fitted = Decision::Hold { limit: Some(700), amount_nusd: 1000, fitted: true };
        assert_eq!(together(&["block"], &[(0, 0)], &unequal), fitted);
        let held = Decision::Held { row: 0 };
        assert_eq!(together(&["block"], &[(0, 1)], &[asks(64, 5000); 2]), held);
    }

    #[test]
    fn what_those_together_need_at_least_is_refused_with_the_limit_that_all_could_have() {
        let exceeds = Decision::RequestExceeds { row: 0, affordable_tokens: 400 };
        assert_eq!(together(&["block"], &[(0, 0)], &[asks(401, 401); 2]), exceeds);
        let exceeded = Decision::Exceeded { row: 0 };
        assert_eq!(together(&["block"], &[(1, 0)], &[asks(400, 400); 2]), exceeded);
        let down = Decision::Downgrade { row: 0, exceeds_cap: false };
        assert_eq!(together(&["downgrade"], &[(1, 0)], &[asks(400, 400); 2]), down);
        // What is fixed, as a judge is, counts, and no limit changes it.
        let with_judge =
            [asks(64, 5000), Ask { bound: Bound::fixed(300), limit: None, least: 0 }];
        let fitted = Decision::Hold { limit: Some(600), amount_nusd: 1000, fitted: true };
        assert_eq!(together(&["block"], &[(0, 0)], &with_judge), fitted);
    }

    #[test]
    fn of_those_together_each_counts_only_where_it_falls_under() {
        let budgets = acting(&["block", "block"]);
        let rows = rows(&budgets, &[(0, 0), (800, 0)]);
        let decision = decide_together(
            &rows,
            &[asks(400, 400), asks(100, 100)],
            &|ask, row| ask >= row,
            true,
        );
        assert_eq!(decision.verdict(), "ok");
    }

    #[test]
    fn what_costs_nothing_always_fits() {
        let free = Ask { bound: Bound::fixed(0), limit: Some(4096), least: 4096 };
        let held = Decision::Hold { limit: Some(4096), amount_nusd: 0, fitted: false };
        for spent_held in [(1000, 0), (0, 1000), (u64::MAX, u64::MAX)] {
            assert_eq!(decided(&["block"], &[spent_held], &free), held);
        }
    }

    #[test]
    fn a_budget_that_enforces_nothing_refuses_nothing() {
        let mut disabled = document("disabled");
        disabled["enabled"] = false.into();
        let mut shadow = document("shadow");
        shadow["shadow"] = true.into();
        let mut warns = document("warns");
        warns["action"] = "warn_only".into();
        let budgets = budgets([disabled, shadow, warns].map(|mut document| {
            document["cap_nusd"] = 1.into();
            document
        }));
        let rows = rows(&budgets, &[(1, 0), (1, 0), (1, 0)]);
        let held = Decision::Hold { limit: Some(64), amount_nusd: 164, fitted: false };
        assert_eq!(decide(&rows, &asks(64, 64), true), held);
        assert!(rows.iter().all(|row| is_over(row, &asks(64, 64))));
    }

    #[test]
    fn nothing_overflows_at_the_largest_amounts() {
        let mut largest = document("a");
        largest["cap_nusd"] = u64::MAX.into();
        let mut smallest = document("b");
        smallest["cap_nusd"] = 1.into();
        let budgets = budgets([largest, smallest]);
        for (spent, held) in [(0, 0), (u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            let mut rows = rows(&budgets, &[(spent, held), (spent, held)]);
            for row in &mut rows {
                row.balance.credits_nusd = u64::MAX;
            }
            assert!(tightest(&rows).is_some());
            for bound in [Bound::fixed(0), Bound::fixed(1 << 53), Bound::fixed(u64::MAX)] {
                for limit in [None, Some(0), Some(u64::MAX)] {
                    let _ = decide(&rows, &Ask { bound, limit, least: u64::MAX }, true);
                }
            }
            assert!(!rows[0].budget.is_soft(&Balance::default()));
            assert_eq!(remaining_nusd(rows[0].budget, &Balance::default()), u64::MAX);
        }
    }

    #[test]
    fn the_tightest_is_the_fullest_then_the_one_with_least_left_then_by_name() {
        let caps = |caps: &[(&str, u64)]| {
            budgets(caps.iter().map(|(name, cap)| {
                let mut document = document(name);
                document["cap_nusd"] = (*cap).into();
                document
            }))
        };
        let fuller = caps(&[("a", 1000), ("b", 100)]);
        assert_eq!(tightest(&rows(&fuller, &[(500, 0), (40, 9)])), Some(0));
        assert_eq!(tightest(&rows(&fuller, &[(500, 0), (40, 11)])), Some(1));
        // The same part of both is used.
        assert_eq!(tightest(&rows(&fuller, &[(500, 0), (50, 0)])), Some(1));
        let alike = caps(&[("b", 100), ("a", 100)]);
        assert_eq!(tightest(&rows(&alike, &[(50, 0), (50, 0)])), Some(1));
        assert_eq!(tightest(&[]), None);
    }

    #[test]
    fn the_tightest_is_never_a_shadow_or_a_disabled_one_but_may_be_one_that_warns() {
        let mut disabled = document("a");
        disabled["enabled"] = false.into();
        let mut shadow = document("b");
        shadow["shadow"] = true.into();
        let mut warns = document("c");
        warns["action"] = "warn_only".into();
        let budgets = budgets([disabled, shadow, warns]);
        assert_eq!(tightest(&rows(&budgets, &[(9, 0), (9, 0), (0, 0)])), Some(2));
        assert_eq!(tightest(&rows(&budgets, &[(9, 0), (9, 0)])), None);
    }

    #[test]
    fn verdicts_have_their_public_names() {
        let verdict = |spent_held, ask| decided(&["block"], &[spent_held], &ask).verdict();
        assert_eq!(verdict((0, 0), asks(64, 64)), "ok");
        assert_eq!(verdict((0, 0), asks(64, 5000)), "fit");
        assert_eq!(verdict((1000, 0), asks(64, 64)), "block");
        assert_eq!(verdict((0, 0), asks(5000, 5000)), "block");
        assert_eq!(verdict((0, 1000), asks(64, 64)), "held");
        let decision = decided(&["downgrade"], &[(1000, 0)], &asks(64, 64));
        assert_eq!((decision.verdict(), decision.row()), ("downgrade", Some(0)));
    }

    #[test]
    fn a_document_must_be_whole() {
        let mut without = document("a");
        without.as_object_mut().unwrap().remove("cap_nusd");
        assert!(serde_json::from_value::<BudgetDocument>(without).is_err());
    }
}
