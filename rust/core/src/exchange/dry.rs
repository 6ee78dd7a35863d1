//! A dry run: the decision, what each attempt may cost, and what the budgets would say. Nothing is
//! held, nobody is called.

use super::hold::FACTOR_NONE;
use super::{Plan, Verdict};
use crate::bound::Bound;
use crate::budget::{self, Ask, Decision, RowState, remaining_nusd};
use crate::ledger::row::{Balance, RowKey, SubjectId};
use crate::routing::Own;

/// One attempt as it would be made.
pub(crate) struct DryAttempt {
    /// Which leaf.
    pub(crate) leaf: usize,
    /// The most that it could cost; None where nothing bounds it.
    pub(crate) bound_nusd: Option<u64>,
}

/// What one budget would say of the first attempt.
pub(crate) struct DryBudget {
    pub(crate) budget: usize,
    pub(crate) subject: Option<String>,
    /// `ok`, `fit`, `downgrade`, `block`, `held`.
    pub(crate) verdict: &'static str,
    pub(crate) remaining_nusd: u64,
    pub(crate) fitted_max_tokens: Option<u64>,
}

impl Plan {
    /// The attempts in their order, and the budgets that match the first one.
    pub(crate) fn dry_run(
        &mut self,
        unix_s: i64,
        now_us: u64,
        balance_of: &dyn Fn(&RowKey) -> Balance,
    ) -> (Vec<DryAttempt>, Vec<DryBudget>) {
        let mut attempts = Vec::new();
        let mut budgets = Vec::new();
        let beside = self.dry_together(now_us);
        for leaf in self.choice.decision.order.clone() {
            let flat = self.choice.flat.clone();
            self.start(flat, leaf, "".into(), now_us);
            let bound_nusd = self.dry_bound();
            if attempts.is_empty() {
                budgets = self.dry_budgets(&beside, unix_s, balance_of);
            }
            attempts.push(DryAttempt { leaf, bound_nusd });
            self.attempts.clear();
            self.budgets.verdict = Verdict::Go;
        }
        (attempts, budgets)
    }

    /// What the calls of an ensemble ask for that it cannot do without, where one comes first.
    fn dry_together(&mut self, now_us: u64) -> Vec<Ask> {
        let order = self.choice.decision.order.clone();
        let config = order.first().and_then(|leaf| self.ensemble_at(*leaf));
        let choice = self.choice.flat.clone();
        let flat = choice.flat();
        let Some((config, Own::Ensemble(ensemble))) =
            config.map(|config| (config, &flat.configs[config].own))
        else {
            return Vec::new();
        };
        let firsts = (0..flat.configs[config].children.len()).filter_map(|child| {
            order.iter().copied().find(|leaf| {
                let mut around = flat.leaves[*leaf].around.iter();
                around.any(|around| around.config == config && around.child == child)
            })
        });
        let mut asks = Vec::new();
        for leaf in firsts.take(ensemble.min_responses) {
            self.start(choice.clone(), leaf, "".into(), now_us);
            asks.push(self.ask_beside(FACTOR_NONE));
            self.attempts.clear();
            self.budgets.verdict = Verdict::Go;
        }
        let judge = ensemble.judge.as_ref().and_then(|judge| self.fork_judge(judge, now_us));
        asks.extend(judge.map(|judge| judge.ask_beside(FACTOR_NONE)));
        asks
    }

    fn dry_bound(&self) -> Option<u64> {
        match self.dry_ask() {
            Some(ask) => ask.bound.at(ask.limit),
            // Without a budget nothing is held: what it could cost at most is known all the same.
            None => self.unheld_bound(),
        }
    }

    fn dry_budgets(
        &self,
        beside: &[Ask],
        unix_s: i64,
        balance_of: &dyn Fn(&RowKey) -> Balance,
    ) -> Vec<DryBudget> {
        let ask = self.dry_ask();
        let ask = ask.unwrap_or(Ask { bound: Bound::fixed(0), limit: None, least: 0 });
        self.budgets
            .matches()
            .iter()
            .map(|one| {
                let budget = self.snapshot.budgets.get(one.budget);
                let window = budget.calendar.window(unix_s);
                let key = RowKey::new(&budget.id, one.subject_id, window.start_s);
                let row = RowState { budget, balance: balance_of(&key) };
                let rows = std::slice::from_ref(&row);
                let decision = if beside.is_empty() {
                    budget::decide(rows, &ask, true)
                } else {
                    budget::decide_together(rows, beside, &|_, _| true, true)
                };
                let fitted_max_tokens = match decision {
                    Decision::Hold { limit, fitted: true, .. } => limit,
                    _ => None,
                };
                DryBudget {
                    budget: one.budget,
                    subject: (one.subject_id != SubjectId::NONE).then(|| one.subject.clone()),
                    verdict: decision.verdict(),
                    remaining_nusd: remaining_nusd(budget, &row.balance),
                    fitted_max_tokens,
                }
            })
            .collect()
    }
}
