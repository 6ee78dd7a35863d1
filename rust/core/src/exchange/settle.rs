//! The end of an attempt: what it used, what it is charged, and what is known of it meanwhile.
//!
//! An attempt that was held for ends in exactly one settle. Until then its slot says what would
//! have to be charged if this process died, always before the bytes that cost it are written.

use super::hold::{Evidence, UNDER_WAY_TOKENS};
use super::{Phase, Plan};
use crate::attempt::{Outcome, SettledBy};
use crate::gate::Gate;
use crate::holds::{Due, DueRow};
use crate::pricing::{self, Cost};
use crate::snapshot::OnCancel;
use crate::sse::Follower;
use crate::subject::Endpoint;
use crate::tokens;
use crate::usage::Usage;

impl Plan {
    /// The request's bytes leave now.
    pub(super) fn mark_sent(&mut self, gate: &mut Gate) {
        let counts = self.counts_text();
        if let Some(follower) = &mut self.follower {
            follower.count_text(counts);
        }
        let charge = self.charge_if_dead();
        let Some(hold) = &mut self.hold else { return };
        hold.charge_if_dead_nusd = charge;
        gate.holds_mut().sent(hold.slot, charge);
    }

    /// May what is generated have to be counted?
    pub(super) fn counts_text(&self) -> bool {
        self.hold.is_some() && self.on_cancel() == OnCancel::BillsGenerated
    }

    /// Is there a hold that no charge is known for?
    pub(super) fn has_open_hold(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.charge_nusd.is_none())
    }

    fn on_cancel(&self) -> OnCancel {
        match self.attempts.last() {
            Some(attempt) => self.target_of(attempt).1.on_cancel,
            None => OnCancel::BillsAll,
        }
    }

    /// What has to be charged if nothing more were ever known.
    fn charge_if_dead(&self) -> u64 {
        let Some(hold) = &self.hold else { return 0 };
        if self.on_cancel() != OnCancel::BillsGenerated || self.is_encoded {
            return hold.amount_nusd;
        }
        let relayed = self.follower.as_ref().map_or(self.relayed_bytes, Follower::text_bytes);
        self.charge_for(relayed).0
    }

    /// The charge of an answer that was cut after so many output tokens, and its cost.
    fn charge_for(&self, output_tokens: u64) -> (u64, Option<Cost>) {
        let Some(hold) = &self.hold else { return (0, None) };
        let bound = self.budgets.stake.and_then(|stake| stake.bound);
        let counted = bound.and_then(|bound| {
            bound.with_output(output_tokens.saturating_add(UNDER_WAY_TOKENS))
        });
        let usage = self.follower.as_ref().and_then(Follower::usage);
        let reported = usage.and_then(|usage| self.cost_of(&usage));
        let reported_nusd = reported.map_or(0, |cost| cost.input_nusd + cost.output_nusd);
        let most = match (bound, hold.amount_nusd) {
            (Some(_), amount) => amount,
            (None, _) => u64::MAX,
        };
        let charge = counted.unwrap_or(hold.amount_nusd).max(reported_nusd).min(most);
        let input_nusd = bound.and_then(|bound| bound.input_nusd()).unwrap_or(0).min(charge);
        (charge, Some(Cost { input_nusd, output_nusd: charge - input_nusd }))
    }

    fn cost_of(&self, usage: &Usage) -> Option<Cost> {
        self.price.as_ref().and_then(|price| pricing::cost(usage, price))
    }

    /// Note how the attempt ended, what it used, and what it is charged.
    pub(super) fn settle(&mut self, outcome: Outcome, evidence: Evidence<'_>, now_us: u64) {
        let is_sent = self.attempt().sent_us.is_some();
        let evidence = if is_sent { evidence } else { Evidence::Nothing };
        if let (Evidence::Cut, Some(follower)) = (&evidence, &mut self.follower) {
            // What came of an event without its end was generated, too.
            follower.finish(&mut Vec::new());
        }
        let usage = match &evidence {
            Evidence::Nothing => None,
            Evidence::Whole(usage, _) => *usage,
            Evidence::Cut => self.follower.as_ref().and_then(Follower::usage),
        };
        let mut cost = usage.and_then(|usage| self.cost_of(&usage));
        if self.hold.is_none() && self.attempt().charged_nusd == Some(0) {
            // It is free, whatever it used.
            cost = cost.or(Some(Cost { input_nusd: 0, output_nusd: 0 }));
        }
        if let (Some(usage), true) = (&usage, self.budgets.stake.is_some()) {
            self.learn(usage);
        }
        if self.hold.is_some() {
            let (charge_nusd, settled_by, charged_cost) = self.charge(&evidence, cost);
            cost = charged_cost.or(cost);
            self.charge_attempt(charge_nusd, settled_by);
        }
        let attempt = self.attempt();
        attempt.usage = usage;
        attempt.cost = cost;
        attempt.outcome = Some(outcome);
        attempt.ended_us = Some(now_us);
        self.report(outcome, usage.as_ref(), now_us);
    }

    /// Remember how many bytes of text this model takes for a token.
    fn learn(&self, usage: &Usage) {
        let Some(attempt) = self.attempts.last() else { return };
        if self.facts.has_images || self.facts.media_bytes > 0 {
            return;
        }
        let (leaf, provider) = self.target_of(attempt);
        self.world.learnt.learn(
            (&provider.name, &provider.vendor, &leaf.model),
            self.facts.text_bytes,
            self.facts.messages,
            usage.input_sum(),
        );
    }

    /// What an attempt with a hold is charged, by what, and how that divides.
    fn charge(
        &self,
        evidence: &Evidence<'_>,
        cost: Option<Cost>,
    ) -> (u64, SettledBy, Option<Cost>) {
        let amount_nusd = self.hold.as_ref().map_or(0, |hold| hold.amount_nusd);
        let all = (amount_nusd, SettledBy::Hold, self.cost_of_all(amount_nusd));
        match (evidence, cost) {
            (Evidence::Nothing, _) => (0, SettledBy::Released, None),
            (Evidence::Whole(Some(_), _), Some(cost)) => {
                (cost.input_nusd + cost.output_nusd, SettledBy::Usage, Some(cost))
            }
            // It broke after its provider's last word.
            (Evidence::Cut, Some(cost)) if self.has_final_usage() => {
                (cost.input_nusd + cost.output_nusd, SettledBy::Usage, Some(cost))
            }
            // Usage that cannot be priced, or none: as if it had been cut at its end.
            (Evidence::Whole(..) | Evidence::Cut, _) => match self.on_cancel() {
                OnCancel::BillsGenerated if !self.is_encoded => {
                    let body = match evidence {
                        Evidence::Whole(_, body) => body,
                        _ => self.seen(),
                    };
                    let (charge, cost) = self.charge_for(self.generated_tokens(body));
                    (charge, SettledBy::Counted, cost)
                }
                OnCancel::BillsGenerated | OnCancel::BillsAll | OnCancel::Drain => all,
            },
        }
    }

    /// What came of the body of an answer that is not whole: relayed, or still held back.
    fn seen(&self) -> &[u8] {
        let is_held = matches!(self.phase, Phase::Held) && self.follower.is_none();
        match &self.answer {
            Some(answer) if is_held && answer.json => &self.held,
            _ => &self.kept,
        }
    }

    fn cost_of_all(&self, amount_nusd: u64) -> Option<Cost> {
        let bound = self.budgets.stake.and_then(|stake| stake.bound)?;
        let input_nusd = bound.input_nusd()?.min(amount_nusd);
        Some(Cost { input_nusd, output_nusd: amount_nusd - input_nusd })
    }

    /// Has a stream said what it used, and that it is at its end?
    fn has_final_usage(&self) -> bool {
        // Of several answers the others may go on after one has finished.
        let is_one = self.facts.n.unwrap_or(1) <= 1;
        self.follower.as_ref().is_some_and(|follower| {
            follower.last_usage().is_some()
                && (follower.done_seen() || (is_one && follower.finish_reason_seen()))
        })
    }

    /// How many output tokens were generated, as far as what was seen of the answer shows it.
    fn generated_tokens(&self, body: &[u8]) -> u64 {
        if self.endpoint == Endpoint::Embeddings {
            return 0;
        }
        // To load one here would hold up everybody else; bytes are the safe side.
        let vocabulary = self.vocabulary().filter(|known| tokens::is_loaded(*known));
        // What was kept may be less than what was relayed.
        let beyond = self.relayed_bytes.saturating_sub(body.len() as u64);
        match &self.follower {
            Some(follower) => {
                let bytes = follower.text_bytes();
                if bytes <= tokens::LOOP_TEXT_BYTES_MAX && beyond == 0 {
                    tokens::relayed_tokens(body, true, vocabulary).min(bytes)
                } else {
                    bytes
                }
            }
            None => tokens::relayed_tokens(body, false, vocabulary).saturating_add(beyond),
        }
    }

    fn charge_attempt(&mut self, charge_nusd: u64, settled_by: SettledBy) {
        let Some(hold) = &mut self.hold else { return };
        assert!(hold.charge_nusd.is_none(), "an attempt is settled once");
        hold.charge_nusd = Some(charge_nusd);
        let overrun_nusd = charge_nusd.saturating_sub(hold.amount_nusd);
        for tally in &mut self.budgets.tallies {
            tally.charged_nusd = tally.charged_nusd.saturating_add(charge_nusd);
            tally.overrun_nusd = tally.overrun_nusd.saturating_add(overrun_nusd);
        }
        let attempt = self.attempt();
        attempt.charged_nusd = Some(charge_nusd);
        attempt.settled_by = Some(settled_by);
    }

    /// Bring the hold up to what has just happened: before the bytes that it stands for are
    /// written to the caller.
    pub(super) fn follow_hold(&mut self, gate: &mut Gate) {
        let Some(hold) = &self.hold else { return };
        if let Some(charge_nusd) = hold.charge_nusd {
            let due = self.due(charge_nusd);
            self.hold = None;
            if let Some(due) = due {
                gate.holds_mut().end(due);
            }
            return;
        }
        if !matches!(self.phase, Phase::Passing(_)) {
            return;
        }
        let charge = self.charge_if_dead();
        if let Some(hold) = &mut self.hold
            && charge > hold.charge_if_dead_nusd
        {
            hold.charge_if_dead_nusd = charge;
            gate.holds_mut().progress(hold.slot, charge);
        }
    }

    fn due(&self, charge_nusd: u64) -> Option<Due> {
        let hold = self.hold.as_ref()?;
        let attempt = self.attempts.last()?;
        let (leaf, provider) = self.target_of(attempt);
        let budgets = &self.snapshot.budgets;
        Some(Due {
            seq: hold.seq,
            slot: hold.slot,
            is_sent: attempt.sent_us.is_some(),
            plain_nusd: hold.plain_nusd,
            charge_nusd,
            rows: self
                .budgets
                .tallies
                .iter()
                .map(|tally| DueRow {
                    key: tally.key,
                    cap_nusd: budgets.get(tally.budget).cap_nusd,
                    soft_pct: budgets.get(tally.budget).soft_pct,
                })
                .collect(),
            provider: provider.name.clone(),
            model: leaf.model.clone(),
        })
    }

    // --- draining ---------------------------------------------------------------------------

    /// Is this an answer that is read on for its usage once its caller is gone?
    pub(super) fn may_drain(&self) -> bool {
        self.hold.is_some()
            && !self.is_captured
            && self.drains_until_us.is_none()
            && self.on_cancel() == OnCancel::Drain
            && self.attempts.last().is_some_and(|attempt| attempt.sent_us.is_some())
    }

    pub(super) fn drain(&mut self, now_us: u64) {
        let drain_max_ms = match self.attempts.last() {
            Some(attempt) => self.target_of(attempt).1.drain_max_ms,
            None => 0,
        };
        self.may_go_on = false;
        self.drains_until_us = Some(now_us.saturating_add(drain_max_ms * 1000));
        self.set_deadline(now_us);
    }

    /// Is the caller gone and the answer read on for its usage only?
    #[must_use]
    pub fn drains(&self) -> bool {
        self.drains_until_us.is_some()
    }

    /// End an exchange without a caller once its usage is known, or cannot be any more.
    pub(super) fn drained(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        step: super::Step,
        now_us: u64,
    ) -> super::Step {
        use super::Step;
        if self.drains_until_us.is_none() {
            return step;
        }
        match step {
            Step::More | Step::Write(_) if self.has_final_usage() => {
                self.reusable = false;
                self.give_in(gate, request_body, now_us);
                Step::Cut(Vec::new())
            }
            Step::Failed => {
                // Settled already; nobody is there to be told.
                self.end();
                let kept = std::mem::take(&mut self.kept);
                self.record(gate, 499, request_body, &kept, None, now_us);
                Step::Cut(Vec::new())
            }
            Step::Done(_) | Step::Cut(_) => Step::Cut(Vec::new()),
            step => step,
        }
    }
}
