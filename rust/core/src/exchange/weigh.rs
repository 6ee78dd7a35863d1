//! Answers that are read before anybody gets them: cascades, judges, members of an ensemble.
//!
//! A cascade's step is held back until its whole answer is there. What is not good enough is
//! parked, and the next step begins; whoever fails after that, the parked answer stands. A judge
//! is one more attempt, with a request of our own.

use std::rc::Rc;

use super::{AnswerHead, Delimited, Gate, Plan, Step, Verdict};
use crate::answers::{self, Said};
use crate::attempt::{Outcome, Role};
use crate::request::FlatRef;
use crate::routing::state::{State, Tokens};
use crate::routing::{Accept, Flat, Next, Own};
use crate::rules;
use crate::scan::{self, Facts, Shape};
use crate::subject::Endpoint;

/// An answer that was read whole and not yet sent to anybody.
pub(crate) struct Parked {
    /// Whose: index into the attempts.
    pub(super) attempt: usize,
    pub(super) head: AnswerHead,
    /// What the caller would get: whole, or as events.
    pub(super) body: Vec<u8>,
    pub(super) is_stream: bool,
}

/// What `next` has to do after an answer was read.
#[derive(Debug, Clone)]
pub(super) enum Onward {
    /// Ask this judge about the parked answer.
    Judge { config: usize, judge: Rc<Flat>, min_score_permille: u32 },
    /// Try this leaf.
    Leaf(usize),
}

/// The request's own facts, while a judge is asked in its name.
pub(super) struct Aside {
    facts: Facts,
    endpoint: Endpoint,
    body: Vec<u8>,
    config: usize,
    min_score_permille: u32,
    /// The judge's own targets that may serve, in their order.
    order: Vec<usize>,
}

impl Plan {
    /// Is the answer of the current attempt read whole before anybody gets it?
    pub(super) fn reads_whole(&self) -> bool {
        self.is_captured || self.aside.is_some() || self.first_check().is_some()
    }

    /// The innermost cascade that has something to say about the current attempt's answer.
    fn first_check(&self) -> Option<(usize, &Accept)> {
        let attempt = self.attempts.last()?;
        if attempt.role != Role::Serve {
            return None;
        }
        let flat = attempt.flat.flat();
        attempt.target().around.iter().find_map(|around| {
            match &flat.configs[around.config].own {
                Own::Cascade { accepts } => {
                    accepts[around.child].as_ref().map(|accept| (around.config, accept))
                }
                _ => None,
            }
        })
    }

    /// The body of the current call: a judge's, or the caller's.
    pub(super) fn call_body<'b>(&'b self, request_body: &'b [u8]) -> &'b [u8] {
        let own = self.aside.as_ref().map(|aside| &aside.body).or(self.own_body.as_ref());
        own.map_or(request_body, Vec::as_slice)
    }

    /// A whole answer of an attempt that is read before anybody gets it. Settled already.
    pub(super) fn weigh(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        head: AnswerHead,
        body: Vec<u8>,
        is_stream: bool,
        now_us: u64,
    ) -> Step {
        if self.aside.is_some() {
            let score = answers::judge_score(&body);
            return self.judged(gate, request_body, score, now_us);
        }
        let attempt = self.attempts.len() - 1;
        self.parked = Some(Parked { attempt, head, body, is_stream });
        self.check_from(gate, request_body, 0, now_us)
    }

    /// What an answer that is parked says.
    pub(super) fn said(&self, parked: &Parked) -> Said {
        let said = answers::said(&parked.body, parked.is_stream, self.endpoint.shape());
        // The event that tells a stream's usage is cut out where the caller did not ask for it.
        let usage = self.attempts[parked.attempt].usage;
        Said {
            output_tokens: usage.map(|usage| usage.output_sum()).or(said.output_tokens),
            ..said
        }
    }

    /// Park what an ensemble came to, and ask the cascades around it.
    pub(super) fn weigh_gathered(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        parked: Parked,
        config: usize,
        now_us: u64,
    ) -> Step {
        let level = self.level_of(parked.attempt, config).map_or(usize::MAX, |level| level + 1);
        self.parked = Some(parked);
        self.check_from(gate, request_body, level, now_us)
    }

    /// How many configs stand between the leaf of an attempt and config `config`.
    fn level_of(&self, attempt: usize, config: usize) -> Option<usize> {
        let around = &self.attempts[attempt].target().around;
        around.iter().position(|around| around.config == config)
    }

    /// Ask the cascades around the parked answer's leaf, from the `level`th on. Those around the
    /// ensemble that this plan is a member of ask about what that comes to.
    fn check_from(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        level: usize,
        now_us: u64,
    ) -> Step {
        let Some(parked) = &self.parked else { return Step::Failed };
        let (flat, leaf) = {
            let attempt = &self.attempts[parked.attempt];
            (attempt.flat.clone(), attempt.leaf)
        };
        let outermost = self.member_of.and_then(|(own, _)| self.level_of(parked.attempt, own));
        let said = self.said(parked);
        let around = &flat.flat().leaves[leaf].around;
        for around in around.iter().take(outermost.unwrap_or(around.len())).skip(level) {
            let Own::Cascade { accepts } = &flat.flat().configs[around.config].own else {
                continue;
            };
            match &accepts[around.child] {
                None => {}
                Some(Accept::Rule(text)) => {
                    let asking = self.asking(now_us, self.unix_now_us(now_us));
                    let asked = asking.asked();
                    let state = self.known_state();
                    if text.eval(asked, &state, Some(&said)) != rules::Verdict::True {
                        return self.reject(gate, request_body, around.config, now_us);
                    }
                }
                Some(Accept::Judge { judge, min_score_permille }) => {
                    self.onward = Some(Onward::Judge {
                        config: around.config,
                        judge: Rc::clone(judge),
                        min_score_permille: *min_score_permille,
                    });
                    return Step::Failed;
                }
            }
        }
        self.accept(gate, request_body, now_us)
    }

    /// The figures of the decision, with an estimate where only an interval was known.
    pub(super) fn known_state(&self) -> State {
        let state = self.choice.decision.state.clone();
        match state.tokens {
            #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
            Tokens::Between { .. } => {
                State { tokens: Tokens::Estimated(self.estimated_tokens() as f64), ..state }
            }
            Tokens::Counted(_) | Tokens::Estimated(_) => state,
        }
    }

    /// Config `config` does not accept the parked answer.
    fn reject(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        config: usize,
        now_us: u64,
    ) -> Step {
        let Some(parked) = &self.parked else { return Step::Failed };
        let attempt = &mut self.attempts[parked.attempt];
        attempt.is_rejected = true;
        let leaf = attempt.leaf;
        let flat = self.choice.flat.clone();
        match flat.flat().next_step(&self.choice.decision.order, leaf, config) {
            Some(next) => {
                self.onward = Some(Onward::Leaf(next));
                Step::Failed
            }
            None => {
                let level = flat.flat().leaves[leaf]
                    .around
                    .iter()
                    .position(|around| around.config == config)
                    .unwrap_or(0);
                if self.end_by_rule(leaf, level, None) {
                    return Step::Failed;
                }
                self.stand(gate, request_body, now_us)
            }
        }
    }

    /// Begin to ask a judge about the parked answer. False where nobody can judge.
    pub(super) fn ask_judge(
        &mut self,
        config: usize,
        judge: Rc<Flat>,
        min_score_permille: u32,
        request_body: &[u8],
        now_us: u64,
    ) -> bool {
        let Some(parked) = &self.parked else { return false };
        let said = self.said(parked);
        let unix_us = self.unix_now_us(now_us);
        let world = self.world.clone();
        let decision = world.route(&self.asking(now_us, unix_us), &judge, Vec::new());
        let Some(first) = decision.order.first().copied() else { return false };
        let model = &judge.leaves[first].model;
        let body = answers::judge_score_request(model, request_body, &said);
        let Ok(facts) = scan::scan(&body, Shape::Chat) else { return false };
        let reason = format!("judges attempt_{}", parked.attempt + 1);
        self.aside = Some(Aside {
            facts: std::mem::replace(&mut self.facts, facts),
            endpoint: std::mem::replace(&mut self.endpoint, Endpoint::Chat),
            body,
            config,
            min_score_permille,
            order: decision.order,
        });
        self.start_judge(FlatRef::Own(judge), first, reason, now_us);
        true
    }

    fn start_judge(&mut self, judge: FlatRef, leaf: usize, reason: String, now_us: u64) {
        // What is mirrored stays so: none of it counts among what the request cost.
        let own = self.role;
        self.role = if own == Role::Serve { Role::Judge } else { own };
        self.start(judge, leaf, reason.into(), now_us);
        self.role = own;
    }

    /// A judge has failed: ask the next target of its own config, if that has one for this
    /// failure and the request has the time.
    pub(super) fn ask_next_judge(&mut self, now_us: u64) -> bool {
        let (Some(aside), Some(last)) = (&self.aside, self.attempts.last()) else {
            return false;
        };
        let Some(failed_by) = last.failed_by.filter(|_| self.may_go_on) else { return false };
        if self.is_out_of_time(now_us)
            || self.budgets_of_parked().any(|(until_us, _)| now_us >= until_us)
        {
            return false;
        }
        let judge = last.flat.clone();
        let tries = u32::MAX;
        let next = judge.flat().next(&aside.order, last.leaf, failed_by, tries, &|_| false);
        let Next::Leaf(leaf) = next else { return false };
        let reason = format!("after {} of attempt_{}", failed_by.text(), self.attempts.len());
        self.start_judge(judge, leaf, reason, now_us);
        true
    }

    /// The judge has spoken, or could not: an unreadable word is 0.
    pub(super) fn judged(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        score_permille: u32,
        now_us: u64,
    ) -> Step {
        let Some(aside) = self.aside.take() else { return Step::Failed };
        self.facts = aside.facts;
        self.endpoint = aside.endpoint;
        if score_permille < aside.min_score_permille {
            return self.reject(gate, request_body, aside.config, now_us);
        }
        let Some(parked) = &self.parked else { return Step::Failed };
        let level = self.level_of(parked.attempt, aside.config);
        self.check_from(gate, request_body, level.map_or(0, |level| level + 1), now_us)
    }

    /// A judge that could not be asked, or did not answer: its word is 0.
    ///
    /// Returns whether another step begins; else the parked answer stands.
    pub(super) fn go_past(&mut self, config: usize, now_us: u64) -> bool {
        let Some(parked) = &self.parked else { return false };
        let attempt = &mut self.attempts[parked.attempt];
        attempt.is_rejected = true;
        let leaf = attempt.leaf;
        let number = parked.attempt + 1;
        let flat = self.choice.flat.clone();
        let next = flat.flat().next_step(&self.choice.decision.order, leaf, config);
        let Some(next) = next else { return false };
        if self.has_no_time_after_parked(next, now_us) {
            return false;
        }
        self.tries_here = 0;
        self.tried_fresh = false;
        let reason = format!("attempt_{number} was not good enough");
        self.start_or_pass(next, reason.into(), now_us);
        true
    }

    /// Forget the judge that was being asked. Returns the cascade that it was asked for.
    pub(super) fn leave_judge(&mut self) -> Option<usize> {
        let aside = self.aside.take()?;
        self.facts = aside.facts;
        self.endpoint = aside.endpoint;
        Some(aside.config)
    }

    /// The limits of the configs around the parked answer's leaf: when each is up, and how long
    /// it is.
    pub(super) fn budgets_of_parked(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let attempt = self.parked.as_ref().map(|parked| &self.attempts[parked.attempt]);
        attempt
            .into_iter()
            .flat_map(|attempt| attempt.flat.flat().budgets_around(attempt.leaf))
            .map(|(config, ms)| (self.budget_until_us(config, ms), ms))
    }

    /// Is the time up of a config that holds the parked answer's step and the `next` one? Then
    /// the answer stands.
    pub(super) fn has_no_time_after_parked(&mut self, next: usize, now_us: u64) -> bool {
        let Some(parked) = &self.parked else { return false };
        let flat = self.choice.flat.clone();
        let around = &flat.flat().leaves[next].around;
        let leaf = self.attempts[parked.attempt].leaf;
        let has_none = self
            .spent_around(leaf, 0, now_us)
            .iter()
            .any(|spent| around.iter().any(|around| around.config == *spent));
        if has_none {
            self.subject.warnings.push("cascade_unaccepted");
        }
        has_none
    }

    pub(super) fn parked_attempt(&self) -> usize {
        self.parked.as_ref().map_or(0, |parked| parked.attempt)
    }

    /// Send the parked answer: it stands, as nothing better came.
    ///
    /// `Step::Failed` where there is none.
    pub fn stand(&mut self, gate: &mut Gate, request_body: &[u8], now_us: u64) -> Step {
        if self.parked.is_none() {
            return Step::Failed;
        }
        if let Some(aside) = self.aside.take() {
            self.facts = aside.facts;
            self.endpoint = aside.endpoint;
        }
        if self.budgets.verdict == Verdict::Stopped {
            // What a later step would have cost could not be held.
            self.budgets.verdict = Verdict::Go;
            self.subject.warnings.push("cascade_budget");
        } else if self.attempts.last().is_some_and(|last| last.outcome != Some(Outcome::Ok))
            && !self.subject.warnings.contains(&"cascade_unaccepted")
        {
            self.subject.warnings.push("cascade_unaccepted");
        }
        self.accept(gate, request_body, now_us)
    }

    /// Send the parked answer, or keep it for the request that this call is made for.
    fn accept(&mut self, gate: &mut Gate, request_body: &[u8], now_us: u64) -> Step {
        if self.is_captured {
            self.end();
            return Step::Done(Vec::new());
        }
        let Some(parked) = self.parked.take() else { return Step::Failed };
        self.served_by = Some(parked.attempt);
        let out = self.write_whole(&parked.head, &parked.body, parked.is_stream);
        self.relayed_bytes = parked.body.len() as u64;
        self.end();
        self.record(gate, parked.head.status, request_body, &parked.body, None, now_us);
        Step::Done(out)
    }

    /// The bytes of a whole answer for the caller.
    pub(super) fn write_whole(
        &mut self,
        head: &AnswerHead,
        body: &[u8],
        is_stream: bool,
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(body.len() + head.lines.len() + 640);
        if !is_stream {
            self.push_head(head, Some(body.len() as u64), true, &mut out);
            out.extend_from_slice(body);
            return out;
        }
        let delimited = if self.http_1_0 { Delimited::Close } else { Delimited::Chunked };
        if delimited == Delimited::Close {
            self.keep_alive = false;
        }
        self.push_head(head, None, false, &mut out);
        self.relay(delimited, body, &mut out);
        if delimited == Delimited::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        out
    }
}
