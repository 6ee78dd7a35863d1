//! Where an exchange goes: the decision about it, taken in, and what its outcomes teach.

use std::borrow::Cow;

use super::hold::{Stopped, states_of};
use super::{Plan, Verdict};
use crate::attempt::{Attempt, Outcome};
use crate::breaker;
use crate::budget::{Match, RowState};
use crate::ledger::row::{Balance, RowKey};
use crate::request::FlatRef;
use crate::route::{self, Asking};
use crate::routing::decide::{self, Decision, Stop};
use crate::routing::state::{BudgetState, Tokens};
use crate::routing::{Child, FailedBy, Flat, Leaf, Own};
use crate::text::listed;
use crate::tokens::{self, Vocabulary};
use crate::usage::Usage;

/// A 429 cools a key for no longer than this, whatever it says.
const COOL_US_MAX: u64 = 300 * 1_000_000;

impl Plan {
    /// Decide where this request goes, and begin its first attempt.
    ///
    /// `body` is the request's; `budgets` the rows that an expression of the config may read.
    pub(crate) fn route(
        &mut self,
        body: &[u8],
        budgets: Vec<BudgetState>,
        now_us: u64,
        unix_us: u64,
    ) {
        if self.choice.flat.flat().needs.costs {
            self.prefix = route::prefix_of(&self.subject, body);
        }
        let flat = self.choice.flat.clone();
        let world = self.world.clone();
        let decision = world.route(&self.asking(now_us, unix_us), flat.flat(), budgets);
        if decision.is_open {
            self.choice.decision = decision;
            self.count_for_rules(body, now_us, unix_us);
            return;
        }
        self.decided(decision, now_us, unix_us);
    }

    pub(crate) fn asking(&self, now_us: u64, unix_us: u64) -> Asking<'_> {
        Asking {
            snapshot: &self.snapshot,
            subject: &self.subject,
            facts: &self.facts,
            endpoint: self.endpoint,
            model: &self.subject.model_requested,
            prefix: self.prefix,
            now_us,
            unix_us,
            is_dry: self.is_dry,
        }
    }

    /// A rule hangs on how many tokens the text has: count it, here where that is quick.
    fn count_for_rules(&mut self, body: &[u8], now_us: u64, unix_us: u64) {
        match self.rules_vocabulary() {
            Some(vocabulary)
                if body.len() as u64 > tokens::LOOP_TEXT_BYTES_MAX
                    || !tokens::is_loaded(vocabulary) =>
            {
                // In a thread, and then on.
                self.budgets.verdict = Verdict::Count;
                self.counts_for_rules = true;
            }
            Some(vocabulary) => {
                let count = tokens::count_request(body, self.endpoint.shape(), vocabulary);
                self.routed_by(count, now_us, unix_us);
            }
            None => self.routed_by(None, now_us, unix_us),
        }
    }

    /// The vocabulary that the tokens of the text are counted by, where a rule asks for them.
    pub(super) fn rules_vocabulary(&self) -> Option<Vocabulary> {
        self.choice.flat.flat().leaves.iter().find_map(|leaf| {
            let provider = &self.snapshot.providers[leaf.provider];
            tokens::vocabulary(&provider.vendor, &leaf.model)
        })
    }

    /// Decide with the tokens of the text: counted, or estimated where nobody can count them.
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
    pub(super) fn routed_by(&mut self, count: Option<u64>, now_us: u64, unix_us: u64) {
        self.counts_for_rules = false;
        self.budgets.verdict = Verdict::Go;
        let tokens = match count {
            Some(count) => Tokens::Counted(count as f64),
            None => Tokens::Estimated(self.estimated_tokens() as f64),
        };
        let flat = self.choice.flat.clone();
        let world = self.world.clone();
        let asking = self.asking(now_us, unix_us);
        let decision = world.decide_again(&asking, flat.flat(), &self.choice.decision, tokens);
        self.decided(decision, now_us, unix_us);
    }

    pub(super) fn estimated_tokens(&self) -> u64 {
        let ratio = match self.choice.flat.flat().leaves.first() {
            Some(leaf) => {
                let provider = &self.snapshot.providers[leaf.provider];
                self.world.learnt.ratio(&provider.name, &provider.vendor, &leaf.model)
            }
            None => tokens::Ratio::start("", ""),
        };
        tokens::estimate(self.facts.text_bytes, self.facts.messages, ratio)
    }

    /// Take a decision in: begin with its first leaf, or say why there is none.
    pub(super) fn decided(&mut self, decision: Decision, now_us: u64, unix_us: u64) {
        self.choice.decision = decision;
        if !self.is_dry {
            self.mark_choices(unix_us / 1_000_000);
        }
        self.key_provider = self
            .choice
            .first()
            .map(|leaf| self.choice.flat.flat().leaves[leaf].provider)
            .or(self.key_provider);
        match (self.choice.decision.stopped, self.choice.first()) {
            (Some(stop), _) => {
                let stopped = self.why_stopped(stop);
                self.stop(stopped);
            }
            (None, None) => {
                let stopped = self.why_nobody();
                self.stop(stopped);
            }
            (None, Some(_)) if self.is_dry => {}
            (None, Some(first)) => {
                self.draw_mirror();
                let reason = self.first_reason();
                self.start_or_pass(first, reason, now_us);
            }
        }
    }

    /// Note what mattered: each rule that matched or came to nothing, each arm that was drawn.
    fn mark_choices(&self, unix_s: u64) {
        let flat = self.choice.flat.flat();
        let live = &self.world.live;
        for result in &self.choice.decision.rules {
            let Own::Rules { rules } = &flat.configs[result.config].own else { continue };
            let rule = &rules[result.index];
            let mark = *rule.mark_id.get_or_init(|| live.mark(&rule.mark));
            live.null_run(mark, result.result.is_none());
            if result.result == Some(true) {
                live.touch(mark, unix_s);
            }
        }
        for (config, chosen) in flat.configs.iter().zip(&self.choice.decision.chosen) {
            // A variant that is a target is counted when its attempt begins.
            if let (Own::AbTest { .. }, Some(child)) = (&config.own, chosen)
                && matches!(config.children[*child], Child::Config(_))
            {
                live.touch(live.mark(&config.marks[*child]), unix_s);
            }
        }
    }

    pub(super) fn why_stopped(&self, stop: Stop) -> Stopped {
        let flat = self.choice.flat.flat();
        match stop {
            Stop::Blocked(config, rule) => {
                let reason = flat.block_reason(config, rule).unwrap_or("blocked");
                Stopped::plain(stop.code(), reason.to_owned())
            }
            Stop::NoRule(_) => {
                let mut stopped = Stopped::plain(
                    stop.code(),
                    "no rule of this routing config matched this request, and it has no `else`"
                        .to_owned(),
                );
                stopped.param = Some("model");
                stopped
            }
        }
    }

    pub(super) fn why_nobody(&self) -> Stopped {
        let leaves = self.choice.flat.flat().leaves.iter();
        let told =
            listed(leaves.zip(&self.choice.decision.candidates).map(|(leaf, candidate)| {
                format!("{} ({})", leaf.label, candidate.reject_reason.unwrap_or(""))
            }));
        Stopped::plain("no_healthy_target", format!("no target can serve this request: {told}"))
    }

    /// Why the first attempt goes where it goes.
    pub(crate) fn first_reason(&self) -> Cow<'static, str> {
        decide::reason(self.choice.flat.flat(), &self.choice.decision)
    }

    /// The arm of the A/B test that this request is in.
    #[must_use]
    pub fn variant(&self) -> Option<&str> {
        self.choice.flat.flat().variant(&self.choice.decision)
    }

    /// The budgets that match before anything of this request is held, as expressions read them.
    pub(crate) fn budget_states(
        &self,
        unix_s: i64,
        balance_of: &dyn Fn(&RowKey) -> Balance,
    ) -> Vec<BudgetState> {
        let slugs: Vec<&str> =
            self.subject.route.iter().map(|(route, _)| route.slug.as_str()).collect();
        let budgets = &self.snapshot.budgets;
        let mut matches: Vec<Match> = Vec::new();
        self.match_budgets(&slugs, &mut matches);
        let rows: Vec<RowState<'_>> = matches
            .iter()
            .map(|one| {
                let budget = budgets.get(one.budget);
                let window = budget.calendar.window(unix_s);
                let key = RowKey::new(&budget.id, one.subject_id, window.start_s);
                RowState { budget, balance: balance_of(&key) }
            })
            .collect();
        states_of(&rows)
    }

    // --- what an outcome teaches --------------------------------------------------------------

    /// Tell the live state how the current attempt ended: its target's breaker, its key, its pace.
    pub(super) fn report(&mut self, outcome: Outcome, usage: Option<&Usage>, now_us: u64) {
        let Some(attempt) = self.attempts.last() else { return };
        let Some(sent_us) = attempt.sent_us else {
            let is_connect = outcome == Outcome::ConnectError
                || attempt.failed_by == Some(FailedBy::Connect);
            let event =
                if is_connect { breaker::Event::Failed } else { breaker::Event::Neutral };
            self.world.live.report(attempt.live, event, attempt.started_us, now_us);
            return;
        };
        let live = &self.world.live;
        if !attempt.is_answered {
            live.waited(attempt.live, self.worker, None);
        }
        live.ended(attempt.live, self.worker);
        let event = self.event_of(attempt, outcome, now_us);
        // A pooled connection that closed says nothing: what its target is like, the fresh one
        // will say, and where this was to see whether it serves again nobody else need try.
        if !self.goes_fresh(now_us) {
            live.report(attempt.live, event, attempt.started_us, now_us);
        }
        if outcome == Outcome::Ok {
            if let Some(first_us) = attempt.first_us {
                live.ttft(attempt.live, self.class, first_us.saturating_sub(sent_us), now_us);
            }
            live.total(attempt.live, self.class, now_us.saturating_sub(sent_us), now_us);
        }
        // Only who chooses by cost, or names costs in a rule, ever asks for it.
        let needs = self.choice.flat.flat().needs;
        if let (Some(usage), true) = (usage, needs.costs || needs.named) {
            self.learn_costs(attempt, usage, now_us);
        }
    }

    /// An attempt that was never sent says nothing of its target: if it was to see whether that
    /// serves again, another may.
    pub(super) fn report_unsent(&self, attempt: &Attempt) {
        let began_us = attempt.started_us;
        self.world.live.report(attempt.live, breaker::Event::Neutral, began_us, began_us);
    }

    fn event_of(&self, attempt: &Attempt, outcome: Outcome, now_us: u64) -> breaker::Event {
        let live = &self.world.live;
        let provider = &self.snapshot.providers[attempt.target().provider];
        let credential = &provider.credentials[attempt.credential];
        // A key that the caller brought says nothing about ours.
        let is_ours = self.provider_key_for(attempt.target().provider).is_none();
        let flat = attempt.flat.flat();
        let ids = &self.world.ids(&self.snapshot, flat)[attempt.leaf];
        let id = ids.credentials[attempt.credential];
        match (outcome, attempt.status) {
            (Outcome::Ok, _) => {
                if is_ours {
                    live.accept_credential(id);
                }
                breaker::Event::Ok
            }
            (Outcome::HttpError, Some(429)) => {
                let asked_us = attempt
                    .retry_after
                    .as_deref()
                    .and_then(|text| retry_after_us(text, self.unix_now_us(now_us)));
                match asked_us {
                    Some(asked_us) if is_ours => {
                        let until_us = now_us.saturating_add(asked_us.min(COOL_US_MAX));
                        live.cool(attempt.live, &credential.id, until_us, now_us);
                        breaker::Event::Neutral
                    }
                    None if is_ours => breaker::Event::Failed,
                    _ => breaker::Event::Neutral,
                }
            }
            (Outcome::HttpError, Some(401..=403)) => {
                if is_ours {
                    live.reject_credential(id, now_us, credential.secret_hash());
                }
                breaker::Event::Neutral
            }
            // A pooled connection that closed under way says nothing of who is behind it: the
            // fresh one will.
            (Outcome::Reset, None) if attempt.pooled && attempt.bytes_received == 0 => {
                breaker::Event::Neutral
            }
            (Outcome::HttpError, Some(500..=599))
            | (
                Outcome::Timeout | Outcome::ConnectError | Outcome::Reset | Outcome::Malformed,
                _,
            ) => breaker::Event::Failed,
            (Outcome::Interrupted, _) if self.may_go_on => breaker::Event::Failed,
            (
                Outcome::HttpError
                | Outcome::Interrupted
                | Outcome::Cancelled
                | Outcome::Skipped,
                _,
            ) => breaker::Event::Neutral,
        }
    }

    /// Wall clock at an instant of the monotonic one.
    pub(super) fn unix_now_us(&self, now_us: u64) -> u64 {
        self.subject.ts_us + now_us.saturating_sub(self.subject.started_us)
    }

    fn learn_costs(&self, attempt: &Attempt, usage: &Usage, now_us: u64) {
        let Some((route, _)) = &self.subject.route else { return };
        let leaf = attempt.target();
        let provider = &self.snapshot.providers[leaf.provider];
        let project = self
            .subject
            .project
            .map_or("", |project| self.snapshot.projects[project].name.as_str());
        let live = &self.world.live;
        let learnt = live.route_target(project, &route.slug, &provider.name, &leaf.model);
        if let Some(limit) = self.expected_limit(leaf) {
            live.learn_output(learnt, usage.output_sum(), limit, now_us);
        }
        live.learn_cached(learnt, usage.cached_tokens, usage.input_sum(), now_us);
        if self.prefix != 0 {
            live.warm(self.prefix, attempt.live, usage.cached_tokens, now_us);
        }
    }

    fn expected_limit(&self, leaf: &Leaf) -> Option<u64> {
        let limit = self.output_limit(leaf)?;
        Some(limit.limit.saturating_mul(self.facts.n.unwrap_or(1)))
    }

    /// Which of a provider's keys serves the next attempt at a leaf; None where none is left.
    ///
    /// By weight, from a hash of the request's id, among those that may be used and that this
    /// request has not been refused with.
    pub(super) fn pick_credential(
        &self,
        flat: &Flat,
        leaf: usize,
        now_us: u64,
    ) -> Option<usize> {
        self.pick_among(flat, leaf, |credential| {
            self.standing(flat, leaf, credential, now_us) == KeyStanding::Usable
        })
    }

    /// The same among those that their provider has refused of late, in another request.
    pub(super) fn pick_marked_credential(
        &self,
        flat: &Flat,
        leaf: usize,
        now_us: u64,
    ) -> Option<usize> {
        self.pick_among(flat, leaf, |credential| {
            self.standing(flat, leaf, credential, now_us) == KeyStanding::Marked
        })
    }

    fn pick_among(
        &self,
        flat: &Flat,
        leaf: usize,
        may: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let target = &flat.leaves[leaf];
        let provider = &self.snapshot.providers[target.provider];
        let is_refused = |index: usize| {
            self.attempts.iter().any(|attempt| {
                attempt.credential == index
                    && attempt.target().provider == target.provider
                    && matches!(attempt.failed_by, Some(FailedBy::Status(401..=403 | 429)))
            })
        };
        let weights: Vec<u64> = provider
            .credentials
            .iter()
            .enumerate()
            .map(|(index, credential)| {
                let is_its_own = target.credential.is_none_or(|pinned| pinned == index);
                if is_its_own && !is_refused(index) && may(index) {
                    u64::from(credential.weight)
                } else {
                    0
                }
            })
            .collect();
        crate::chance::pick_weighted(
            crate::chance::draw(&self.subject.id, "credential"),
            &weights,
        )
    }

    fn standing(&self, flat: &Flat, leaf: usize, index: usize, now_us: u64) -> KeyStanding {
        let credential =
            &self.snapshot.providers[flat.leaves[leaf].provider].credentials[index];
        let live = &self.world.live;
        let ids = &self.world.ids(&self.snapshot, flat)[leaf];
        if live.cooling_until_us(ids.target, &credential.id, now_us).is_some() {
            KeyStanding::Cooling
        } else if live.is_rejected(ids.credentials[index], now_us, credential.secret_hash()) {
            KeyStanding::Marked
        } else {
            KeyStanding::Usable
        }
    }
}

/// What is known of a key at a target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyStanding {
    Usable,
    /// Its provider refused it of late.
    Marked,
    /// It is to be left in peace for a while.
    Cooling,
}

/// `Retry-After` in microseconds: a number of seconds, or a date.
fn retry_after_us(text: &str, unix_us: u64) -> Option<u64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "clamped")]
        #[expect(clippy::cast_sign_loss, reason = "clamped")]
        return (seconds >= 0.0).then(|| (seconds.min(86_400.0) * 1e6) as u64);
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?;
    let at_us = u64::try_from(at.timestamp().as_microsecond()).ok()?;
    Some(at_us.saturating_sub(unix_us))
}

/// The config of a choice and its decision, before there is one.
pub(super) fn undecided(flat: FlatRef) -> crate::request::Choice {
    crate::request::Choice { flat, decision: Decision::default() }
}
