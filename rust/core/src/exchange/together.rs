//! Calls of one request that are only of use together: so many members, and their judge.
//!
//! They fit together or are refused together. Where their output limits may be lowered, one limit
//! is found that each of them can have.

use super::hold::Share;
use super::{Plan, Verdict};
use crate::attempt::Role;
use crate::bound::Bound;
use crate::budget::{self, Ask, Decision, RowState};
use crate::holds::Free;
use crate::ledger::row::FLAG_EXCEEDED;
use crate::ledger::{LedgerFault, Turn};

impl Plan {
    /// Decide on calls none of which is of use without the others, and none of which holds
    /// anything now. True: each asks for what all of them can have. False: one of them is refused
    /// by what they would need together, and nothing of any may be sent.
    ///
    /// # Errors
    /// The ledger cannot be read or written; the turn is void then.
    pub(crate) fn stand_together(
        plans: &mut [&mut Self],
        turn: &mut Turn<'_>,
        free: &Free<'_>,
        unix_us: u64,
    ) -> Result<bool, LedgerFault> {
        let unix_s = i64::try_from(unix_us / 1_000_000).unwrap_or(i64::MAX);
        if plans.iter().any(|plan| plan.is_refused_for_good()) {
            return Ok(false);
        }
        let mut asks = Vec::with_capacity(plans.len());
        for plan in plans.iter_mut() {
            plan.ask_again();
            plan.read_rows(turn, unix_s)?;
            asks.push(plan.ask_beside(plan.factor_permille(free)));
        }
        // Each budget once, as whoever falls under it first has read it.
        let mut owners: Vec<(usize, usize)> = Vec::new();
        let mut of_row: Vec<usize> = Vec::new();
        for (owner, plan) in plans.iter().enumerate() {
            for (place, tally) in plan.budgets.tallies.iter().enumerate() {
                if !of_row.contains(&tally.budget) {
                    of_row.push(tally.budget);
                    owners.push((owner, place));
                }
            }
        }
        let decide = |may_downgrade: bool| {
            let rows: Vec<RowState<'_>> = owners
                .iter()
                .map(|(owner, place)| {
                    let tally = &plans[*owner].budgets.tallies[*place];
                    RowState {
                        budget: plans[*owner].snapshot.budgets.get(tally.budget),
                        balance: tally.balance,
                    }
                })
                .collect();
            let falls_under = |ask: usize, row: usize| {
                let tallies = &plans[ask].budgets.tallies;
                tallies.iter().any(|tally| tally.budget == of_row[row])
            };
            budget::decide_together(&rows, &asks, &falls_under, may_downgrade)
        };
        let mut decision = decide(true);
        if let Decision::Hold { limit, .. } = decision {
            for plan in plans.iter_mut() {
                plan.share = Share::UpTo(limit.unwrap_or(u64::MAX));
            }
            return Ok(true);
        }
        let exceeded = match decision {
            Decision::Exceeded { row } | Decision::Downgrade { row, exceeds_cap: false } => {
                Some(row)
            }
            _ => None,
        };
        if let Some(row) = exceeded {
            let (owner, place) = owners[row];
            turn.flag(&plans[owner].budgets.tallies[place].hold_row(), FLAG_EXCEEDED)?;
        }
        let mut leaves_by = None;
        if let Decision::Downgrade { row, .. } = decision {
            leaves_by = Some(of_row[row]);
            decision = decide(false);
        }
        let Some(row) = decision.row() else { return Ok(false) };
        let (owner, place) = owners[row];
        let needed = asks
            .iter()
            .enumerate()
            .filter(|(ask, _)| {
                let tallies = &plans[*ask].budgets.tallies;
                tallies.iter().any(|tally| tally.budget == of_row[row])
            })
            .try_fold(0_u64, |sum, (_, ask)| sum.checked_add(ask.least_nusd()?));
        let all =
            Ask { bound: Bound::fixed(needed.unwrap_or(u64::MAX)), limit: None, least: 0 };
        let plan = &mut *plans[owner];
        plan.budgets.leaves_by = leaves_by;
        plan.refuse(&decision.of_row(place), &all, unix_us);
        Ok(false)
    }

    /// What the current attempt asks of its budgets beside others. What a judge may say at most is
    /// ours to set, and no limit of the caller's.
    pub(super) fn ask_beside(&self, factor_permille: u64) -> Ask {
        let Some(stake) = &self.budgets.stake else {
            return Ask { bound: Bound::fixed(0), limit: None, least: 0 };
        };
        let bound = stake.bound.unwrap_or(Bound::fixed(0)).times(factor_permille);
        if self.role == Role::Judge {
            let nusd = bound.at(stake.limit).unwrap_or(u64::MAX);
            return Ask { bound: Bound::fixed(nusd), limit: None, least: 0 };
        }
        Ask { bound, limit: stake.limit, least: stake.least }
    }

    /// Ask again for a call that was asked for with others, or was refused.
    fn ask_again(&mut self) {
        let is_undone = self.budgets.verdict == Verdict::Go
            && self.attempts.last().is_some_and(|attempt| attempt.held_nusd.is_none());
        if (self.budgets.verdict == Verdict::Stopped || is_undone)
            && self.budgets.stake.is_some()
        {
            self.budgets.verdict = Verdict::Wait;
            self.budgets.stopped = None;
            self.budgets.stopped_by = None;
            if let Some(attempt) = self.attempts.last_mut() {
                attempt.outcome = None;
                attempt.ended_us = None;
            }
        }
    }

    /// Is it stopped by something that no money would change?
    fn is_refused_for_good(&self) -> bool {
        self.budgets.verdict == Verdict::Stopped
            && (self.budgets.stake.is_none() || self.budgets.stopped_by.is_none())
    }
}
