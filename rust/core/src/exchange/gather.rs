//! Several calls for one request: members of an ensemble, their judge, and mirrored traffic.
//!
//! Each such call is a plan of its own, forked from the one that answers the caller: it holds,
//! sends and settles like any other, and its answer is kept instead of relayed. The shell runs
//! them side by side and hands each back once it is over (`take_member`, `mirrored`); what they
//! did and cost becomes part of the one record.

use std::rc::Rc;

use super::hold::{Share, Stopped};
use super::weigh::Parked;
use super::{Gate, Plan, Step, Verdict};
use crate::answers::{self, Said};
use crate::attempt::Role;
use crate::request::{Choice, FlatRef};
use crate::routing::{Aggregation, Ensemble, FailedBy, Next, Own, Validate};
use crate::rules;
use crate::scan::{self, Facts, Shape};
use crate::subject::Endpoint;

/// What a judge of several answers is sent at most, so that its cost is known before they are.
const JUDGE_BYTES_MAX: u64 = answers::JUDGE_REQUEST_BYTES_MAX as u64;

/// The members of an ensemble under way.
pub(super) struct Gather {
    config: usize,
    deadline_us: u64,
    /// Which limit that is, in milliseconds.
    limit_ms: u64,
    /// How many calls have not been handed back yet.
    missing: usize,
    /// Answers that came, by member.
    answers: Vec<(usize, Parked)>,
    /// Which of them is the first valid one.
    first_valid: Option<usize>,
    /// Which of them the judge picked.
    picked: Option<usize>,
    /// Why the last member that failed did.
    failed_by: FailedBy,
    /// Why a budget stopped a member that had begun.
    stopped: Option<Stopped>,
    is_over: bool,
}

/// Mirrored traffic of a request.
pub(super) enum Mirror {
    /// There is none.
    Nothing,
    /// To be begun once the caller has its answer.
    Due,
    /// The record is kept back until it is over.
    UnderWay(Option<Deferred>),
}

/// A record that waits for mirrored traffic.
pub(super) struct Deferred {
    pub(super) status: u16,
    pub(super) response: Vec<u8>,
    pub(super) error: Option<(String, String, String)>,
    pub(super) now_us: u64,
}

impl Plan {
    /// The ensemble that leaf `index` is a member of, as far as this plan is concerned: the
    /// outermost, inside of the one that it is a member of itself.
    pub(super) fn ensemble_at(&self, index: usize) -> Option<usize> {
        let flat = self.choice.flat.flat();
        let around = &flat.leaves[index].around;
        let inside = match self.member_of {
            Some((own, _)) => {
                around.iter().position(|around| around.config == own).unwrap_or(around.len())
            }
            None => around.len(),
        };
        around[..inside]
            .iter()
            .rev()
            .map(|around| around.config)
            .find(|config| matches!(flat.configs[*config].own, Own::Ensemble(_)))
    }

    /// The calls of an ensemble come next, instead of one attempt at leaf `index` of it.
    ///
    /// It has its own time, what the configs around it have left for all of their attempts, and
    /// what the ensemble has left that it is a member of.
    pub(super) fn begin_gather(&mut self, config: usize, index: usize, now_us: u64) {
        self.enter(index, now_us);
        let choice = self.choice.flat.clone();
        let flat = choice.flat();
        let timeout_ms = flat.configs[config].timeout_ms;
        let own = (now_us.saturating_add(timeout_ms.saturating_mul(1000)), timeout_ms);
        let around = &flat.leaves[index].around;
        let outer: Vec<usize> = around
            .iter()
            .map(|around| around.config)
            .skip_while(|around| *around != config)
            .collect();
        let (deadline_us, limit_ms) = flat
            .budgets_around(index)
            .filter(|(config, _)| outer.contains(config))
            .map(|(config, ms)| (self.budget_until_us(config, ms), ms))
            .chain(self.ends)
            .fold(own, std::cmp::Ord::min);
        self.gather = Some(Gather {
            config,
            deadline_us,
            limit_ms,
            missing: 0,
            answers: Vec::new(),
            first_valid: None,
            picked: None,
            failed_by: FailedBy::Reset,
            stopped: None,
            is_over: false,
        });
        for tally in &mut self.budgets.tallies {
            tally.is_stale = true;
        }
        self.deadline_us = deadline_us;
        self.budgets.verdict = Verdict::Gather;
    }

    /// The calls of the ensemble that comes next, its judge last if it has one; and how many
    /// members it needs at least.
    ///
    /// # Panics
    /// If no ensemble comes next.
    pub fn members(&mut self, now_us: u64) -> (Vec<Self>, usize, bool) {
        let Some(gather) = &self.gather else { panic!("no ensemble comes next") };
        let config = gather.config;
        let ends = (gather.deadline_us, gather.limit_ms);
        let choice = self.choice.flat.clone();
        let flat = choice.flat();
        let Own::Ensemble(ensemble) = &flat.configs[config].own else {
            panic!("config {config} is no ensemble")
        };
        let mut members = Vec::new();
        for child in 0..flat.configs[config].children.len() {
            let order: Vec<usize> = self
                .choice
                .decision
                .order
                .iter()
                .copied()
                .filter(|leaf| {
                    flat.leaves[*leaf]
                        .around
                        .iter()
                        .any(|around| around.config == config && around.child == child)
                })
                .collect();
            let Some(first) = order.first().copied() else { continue };
            let mut decision = self.choice.decision.clone();
            decision.order = order;
            let mut member = self.fork(Choice { flat: choice.clone(), decision });
            member.member_of = Some((config, child));
            member.entered_us.clone_from(&self.entered_us);
            member.ends = Some(ends);
            member.share = Share::Whole;
            let reason = format!("member {} of the ensemble", child + 1);
            member.start_or_pass(first, reason.into(), now_us);
            members.push(member);
        }
        let mut judge =
            ensemble.judge.as_ref().and_then(|judge| self.fork_judge(judge, now_us));
        if let Some(judge) = &mut judge {
            judge.ends = Some(ends);
        }
        let has_judge = judge.is_some();
        if let Some(gather) = &mut self.gather {
            gather.missing = members.len();
        }
        let least = ensemble.min_responses;
        members.extend(judge);
        (members, least, has_judge)
    }

    /// A judge whose request is not known yet: what it may cost is, as its size is bounded.
    pub(super) fn fork_judge(
        &self,
        judge: &Rc<crate::routing::Flat>,
        now_us: u64,
    ) -> Option<Self> {
        let unix_us = self.unix_now_us(now_us);
        let decision = self.world.route(&self.asking(now_us, unix_us), judge, Vec::new());
        let first = decision.order.first().copied()?;
        let flat = FlatRef::Own(Rc::clone(judge));
        let mut plan = self.fork(Choice { flat, decision });
        let tokens = answers::judge_output_tokens(&judge.leaves[first].model);
        plan.facts = Facts { text_bytes: JUDGE_BYTES_MAX, ..judge_facts(tokens)? };
        plan.endpoint = Endpoint::Chat;
        plan.role = Role::Judge;
        plan.start_or_pass(first, "picks one of the answers".into(), now_us);
        Some(plan)
    }

    /// Another plan for the same request, whose answer is kept.
    fn fork(&self, choice: Choice) -> Self {
        let mut plan = Self::bare(
            Rc::clone(&self.snapshot),
            self.world.clone(),
            self.endpoint,
            self.subject.clone(),
            self.facts.clone(),
            choice,
            self.worker,
        );
        plan.subject.warnings.clear();
        plan.lines.clone_from(&self.lines);
        plan.query.clone_from(&self.query);
        plan.provider_key.clone_from(&self.provider_key);
        plan.key_provider = self.key_provider;
        plan.prefix = self.prefix;
        plan.is_captured = true;
        plan.is_dry = self.is_dry;
        plan.role = self.role;
        plan.budgets.match_like(&self.budgets);
        plan
    }

    /// Is the time up of the ensemble that it is a call of?
    pub(super) fn is_out_of_time(&self, now_us: u64) -> bool {
        self.ends.is_some_and(|(ends_us, _)| now_us >= ends_us)
    }

    /// When the members' time is up.
    #[must_use]
    pub fn gather_deadline_us(&self) -> u64 {
        self.gather.as_ref().map_or(u64::MAX, |gather| gather.deadline_us)
    }

    /// Take in what a call came to. Returns whether the ensemble needs no other.
    pub fn take_member(&mut self, request_body: &[u8], member: &mut Self, now_us: u64) -> bool {
        let base = self.absorb(member);
        let Some(mut gather) = self.gather.take() else { return true };
        gather.missing = gather.missing.saturating_sub(1);
        let child = member.member_of.map_or(0, |(_, child)| child);
        match member.parked.take() {
            Some(mut parked) => {
                parked.attempt += base;
                let is_valid = self.is_valid(&gather, &parked, request_body, now_us);
                gather.answers.push((child, parked));
                if is_valid && gather.first_valid.is_none() {
                    gather.first_valid = Some(gather.answers.len() - 1);
                }
            }
            None => {
                let failed_by = self.attempts.last().and_then(|attempt| attempt.failed_by);
                gather.failed_by = failed_by.unwrap_or(gather.failed_by);
                gather.stopped = member.budgets.stopped.take().or(gather.stopped.take());
            }
        }
        let is_first = self
            .ensemble(gather.config)
            .is_some_and(|ensemble| ensemble.aggregation == Aggregation::FirstValid);
        gather.is_over |= gather.missing == 0 || (is_first && gather.first_valid.is_some());
        let is_over = gather.is_over;
        self.gather = Some(gather);
        is_over
    }

    /// Move what a call did and cost into this plan. Returns where its attempts begin.
    fn absorb(&mut self, call: &mut Self) -> usize {
        let base = self.attempts.len();
        self.attempts.append(&mut call.attempts);
        // What mirrored traffic holds changes nothing of what the caller was told.
        let is_own = call.role != Role::Shadow || self.role == Role::Shadow;
        self.budgets.match_like(&call.budgets);
        for tally in call.budgets.tallies.drain(..) {
            match self.budgets.tallies.iter_mut().find(|own| own.budget == tally.budget) {
                Some(own) => {
                    own.add(&tally);
                    if is_own {
                        own.see(&tally);
                    }
                }
                None => self.budgets.tallies.push(tally),
            }
        }
        if is_own {
            self.show();
        }
        base
    }

    fn ensemble(&self, config: usize) -> Option<&Ensemble> {
        match &self.choice.flat.flat().configs[config].own {
            Own::Ensemble(ensemble) => Some(ensemble),
            _ => None,
        }
    }

    fn is_valid(
        &self,
        gather: &Gather,
        parked: &Parked,
        request_body: &[u8],
        now_us: u64,
    ) -> bool {
        let validate =
            self.ensemble(gather.config).and_then(|ensemble| ensemble.validate.as_ref());
        let Some(validate) = validate else { return true };
        let said = self.said(parked);
        match validate {
            Validate::Shape(kind) => answers::is_valid(*kind, &said, request_body),
            Validate::Rule(text) => {
                let asking = self.asking(now_us, self.unix_now_us(now_us));
                let state = self.known_state();
                text.eval(asking.asked(), &state, Some(&said)) == rules::Verdict::True
            }
        }
    }

    /// Give the judge what it has to judge. False where there is nothing to pick from.
    pub fn brief_judge(&mut self, request_body: &[u8], judge: &mut Self) -> bool {
        let Some(gather) = &mut self.gather else { return false };
        if gather.answers.len() < 2 {
            return false;
        }
        // It picks by number, and those are the members': not who was the faster.
        gather.answers.sort_by_key(|(child, _)| *child);
        let Some(gather) = &self.gather else { return false };
        let said: Vec<Said> =
            gather.answers.iter().map(|(_, parked)| self.said(parked)).collect();
        let said: Vec<&Said> = said.iter().collect();
        let Some(attempt) = judge.attempts.last() else { return false };
        let body = answers::judge_pick_request(&attempt.target().model, request_body, &said);
        let Ok(facts) = scan::scan(&body, Shape::Chat) else { return false };
        if facts.text_bytes > JUDGE_BYTES_MAX {
            return false;
        }
        judge.facts = facts;
        judge.own_body = Some(body);
        true
    }

    /// Take in what the judge came to: unreadable, it is the first member.
    pub fn take_judge(&mut self, judge: &mut Self) {
        let _ = self.absorb(judge);
        let parked = judge.parked.take();
        if let Some(gather) = &mut self.gather {
            let count = gather.answers.len();
            let word = parked.and_then(|parked| answers::judge_pick(&parked.body, count));
            gather.picked = word;
        }
    }

    /// Make one answer of the members' answers.
    pub fn gathered(&mut self, gate: &mut Gate, request_body: &[u8], now_us: u64) -> Step {
        let Some(gather) = &mut self.gather else { return Step::Failed };
        // In the order of the text: "the first member" is not the fastest.
        let picked = gather.picked;
        let first_valid = gather.first_valid;
        let config = gather.config;
        let mut answers = std::mem::take(&mut gather.answers);
        let Some(ensemble) = self.ensemble(config) else { return Step::Failed };
        let aggregation = ensemble.aggregation;
        // One that is valid is all that `first_valid` waits for.
        let is_first = aggregation == Aggregation::FirstValid;
        if answers.is_empty() || (!is_first && answers.len() < ensemble.min_responses) {
            return Step::Failed;
        }
        let weight = |child: usize| ensemble.weights.get(child).copied().unwrap_or(1000);
        let chosen = match aggregation {
            Aggregation::FirstValid => first_valid,
            Aggregation::LlmJudge => picked.or_else(|| first_member(&answers)),
            Aggregation::WeightedVote | Aggregation::WeightedAverage => {
                let mut by_member: Vec<usize> = (0..answers.len()).collect();
                by_member.sort_by_key(|at| answers[*at].0);
                let said: Vec<(Said, u64)> = by_member
                    .iter()
                    .map(|at| (self.said(&answers[*at].1), weight(answers[*at].0)))
                    .collect();
                let told: Vec<(&Said, u64)> =
                    said.iter().map(|(said, weight)| (said, *weight)).collect();
                if aggregation == Aggregation::WeightedVote {
                    by_member.get(answers::vote(&told)).copied()
                } else {
                    let shape = self.endpoint.shape();
                    answers::average(&told).and_then(|mean| {
                        let at = *by_member.first()?;
                        let parked = &mut answers[at].1;
                        parked.body =
                            answers::rewrite(&parked.body, parked.is_stream, shape, &mean)?;
                        Some(at)
                    })
                }
            }
        };
        let Some(chosen) = chosen else { return Step::Failed };
        self.gather = None;
        let (_, parked) = answers.swap_remove(chosen);
        self.weigh_gathered(gate, request_body, parked, config, now_us)
    }

    /// What follows an ensemble that came to nothing: one failed attempt of the config around it.
    pub(super) fn next_after_gather(&mut self, now_us: u64) -> bool {
        let Some(gather) = self.gather.take() else { return false };
        if self.is_out_of_time(now_us) {
            return false;
        }
        let flat = self.choice.flat.clone();
        let order = &self.choice.decision.order;
        let inside = order.iter().rev().copied().find_map(|leaf| {
            let around = &flat.flat().leaves[leaf].around;
            let level = around.iter().position(|around| around.config == gather.config)?;
            Some((leaf, level))
        });
        let spent =
            inside.map_or(Vec::new(), |(leaf, level)| self.spent_around(leaf, level, now_us));
        let next = match gather.stopped {
            // As with any attempt that has no room: the answer is what its budget says.
            Some(_) => Next::Nobody,
            None => flat.flat().next_outside(order, gather.config, gather.failed_by, &spent),
        };
        match next {
            Next::Leaf(leaf) => {
                self.tries_here = 0;
                self.start_or_pass(leaf, "after an ensemble that failed".into(), now_us);
                true
            }
            Next::Again | Next::Nobody => {
                if let Some(stopped) = gather.stopped {
                    self.stop(stopped);
                } else if let Some((leaf, level)) = inside {
                    let around = &flat.flat().leaves[leaf].around;
                    let level = around
                        .iter()
                        .rposition(|around| spent.contains(&around.config))
                        .map_or(level, |spent| spent.max(level));
                    self.end_by_rule(leaf, level + 1, Some(gather.failed_by));
                }
                false
            }
        }
    }

    /// Not enough members could be held: the caller is told what the first of them was, or goes
    /// where its budget sends it.
    pub fn adopt_stop(&mut self, members: &mut [&mut Self], now_us: u64, unix_us: u64) {
        self.gather = None;
        let leaves_by = members.iter().find_map(|member| member.budgets.leaves_by);
        let mut stopped = None;
        for member in members {
            stopped = stopped.or(member.budgets.stopped.take());
            // None of them was an attempt: nothing was held.
            member.attempts.clear();
            let _ = self.absorb(member);
        }
        if let Some(budget) = leaves_by
            && self.budgets.downgraded.is_none()
            && !self.is_captured
            && self.downgrade_by(budget, now_us, unix_us)
        {
            return;
        }
        self.stop(stopped.unwrap_or_else(|| self.why_nobody()));
    }

    // --- mirrored traffic ---------------------------------------------------------------------

    /// Is there traffic to mirror, now that the caller has its answer?
    #[must_use]
    pub fn mirrors(&self) -> bool {
        matches!(self.mirror, Mirror::Due | Mirror::UnderWay(_))
    }

    /// Settle whether this request is mirrored, before anything of it is recorded.
    pub(super) fn draw_mirror(&mut self) {
        let share =
            self.choice.flat.flat().shadow.as_ref().map_or(0, |shadow| shadow.percent_bp);
        if share > 0 && crate::chance::draw(&self.subject.id, "shadow") % 10_000 < share {
            self.mirror = Mirror::Due;
        }
    }

    /// The call that mirrors this request; None where nobody can take it.
    pub fn mirror(&mut self, now_us: u64) -> Option<Self> {
        let flat = self.choice.flat.clone();
        let shadow = flat.flat().shadow.as_ref()?;
        let world = self.world.clone();
        let unix_us = self.unix_now_us(now_us);
        let decision = world.route(&self.asking(now_us, unix_us), &shadow.flat, Vec::new());
        let first = decision.order.first().copied()?;
        let choice = Choice { flat: FlatRef::Own(Rc::clone(&shadow.flat)), decision };
        let mut plan = self.fork(choice);
        plan.role = Role::Shadow;
        plan.start_or_pass(first, "mirrored".into(), now_us);
        Some(plan)
    }

    /// Mirrored traffic is over, or was never begun: write the record that waited for it.
    pub fn mirrored(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        shadow: Option<&mut Self>,
    ) {
        if let Some(shadow) = shadow {
            let serving = self.serving();
            let _ = self.absorb(shadow);
            self.served_by = Some(serving);
        }
        let Mirror::UnderWay(Some(deferred)) =
            std::mem::replace(&mut self.mirror, Mirror::Nothing)
        else {
            return;
        };
        self.recorded = None;
        let error = deferred
            .error
            .as_ref()
            .map(|(kind, code, message)| (kind.as_str(), code.as_str(), message.as_str()));
        let response = deferred.response;
        self.record(gate, deferred.status, request_body, &response, error, deferred.now_us);
    }

    /// Did a call of an ensemble end well?
    #[must_use]
    pub fn has_answer(&self) -> bool {
        self.parked.is_some()
    }

    /// A member that its budget has no room for is left out: the others go on without it.
    pub fn leave_out(&mut self) {
        self.budgets.verdict = Verdict::Stopped;
        if let Some(attempt) = self.attempts.last_mut() {
            // Also what is free: nothing of it is made.
            attempt.held_nusd = None;
            attempt.charged_nusd = None;
        }
        self.skip();
    }

    /// Forget why it was left out: it is no failure of the others.
    pub fn forget_stop(&mut self) {
        self.budgets.stopped = None;
    }
}

/// The facts of a judge's request before its text is known.
fn judge_facts(tokens: u64) -> Option<Facts> {
    let body = format!(
        r#"{{"model": "", "max_tokens": {tokens}, "messages": [
            {{"role": "system", "content": ""}}, {{"role": "user", "content": ""}}]}}"#
    );
    scan::scan(body.as_bytes(), Shape::Chat).ok()
}

/// Of the answers that came, the one of the earliest member.
fn first_member(answers: &[(usize, Parked)]) -> Option<usize> {
    answers.iter().enumerate().min_by_key(|(_, (child, _))| *child).map(|(at, _)| at)
}
