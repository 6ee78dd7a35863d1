//! Attempts: the bytes that go upstream, their deadlines, and which target comes next.

use std::borrow::Cow;

use super::weigh::Onward;
use super::{Phase, Plan};
use crate::attempt::Attempt;
use crate::backoff::backoff_ms;
use crate::chance::{draw, pick_weighted};
use crate::digits::push_number;
use crate::gate::Gate;
use crate::patch;
use crate::request::FlatRef;
use crate::route;
use crate::routing::decide::Stop;
use crate::routing::{FailedBy, Next};
use crate::snapshot::{Provider, auth_line};
use crate::sse::Follower;
use crate::subject::Endpoint;

/// Room for the request line, the key and the length in an outgoing head.
const WIRE_HEAD_BYTES: usize = 512;

impl Plan {
    /// Begin an attempt at leaf `index`, or at the next one where another request is just seeing
    /// whether this one serves again.
    pub(super) fn start_or_pass(
        &mut self,
        index: usize,
        reason: Cow<'static, str>,
        now_us: u64,
    ) {
        let choice = self.choice.flat.clone();
        let flat = choice.flat();
        if let Some(ensemble) = self.ensemble_at(index) {
            self.begin_gather(ensemble, index, now_us);
            return;
        }
        let mut index = index;
        while self.choice.decision.candidates[index].is_probe && !self.is_dry {
            let target = self.world.ids(&self.snapshot, flat)[index].target;
            if self.world.live.take_probe(target, now_us) {
                break;
            }
            let order = &self.choice.decision.order;
            match flat.next(order, index, FailedBy::Connect, u32::MAX, &|_| false) {
                Next::Leaf(next) => index = next,
                // Nobody else is left: it is used rather than none.
                Next::Again | Next::Nobody => break,
            }
        }
        let flat = self.choice.flat.clone();
        self.start(flat, index, reason, now_us);
    }

    /// Begin an attempt at leaf `index` of a config.
    ///
    /// Nothing of it is written yet: where a budget matches, its worst case is held first.
    pub(crate) fn start(
        &mut self,
        flat: FlatRef,
        index: usize,
        reason: Cow<'static, str>,
        now_us: u64,
    ) {
        assert!(self.hold.is_none(), "the attempt before has been settled");
        let leaf = &flat.flat().leaves[index];
        let provider = &self.snapshot.providers[leaf.provider];
        let usable = match leaf.credential {
            Some(pinned) => Some(pinned),
            None if provider.credentials.len() == 1 => Some(0),
            None => self.pick_credential(flat.flat(), index, now_us),
        };
        // Where every key was refused one of them is used all the same, and rather than one that
        // was told to wait.
        let credential = usable
            .or_else(|| self.pick_marked_credential(flat.flat(), index, now_us))
            .unwrap_or_else(|| by_weight(provider, &self.subject.id));
        self.tried_marked |= usable.is_none();
        let at_unix_s = i64::try_from(self.subject.ts_us / 1_000_000).unwrap_or(i64::MAX);
        self.price =
            self.snapshot.price(&self.world.catalogue, leaf.provider, &leaf.model, at_unix_s);
        let ids = &self.world.ids(&self.snapshot, flat.flat())[index];
        let target = ids.target;
        if let (Some(mark), false) = (ids.mark, self.is_dry) {
            self.world.live.touch(mark, self.unix_now_us(now_us) / 1_000_000);
        }
        self.phase = Phase::Head;
        self.pending.clear();
        self.held.clear();
        self.answer = None;
        self.interim = 0;
        self.reusable = false;
        self.attempts.push(Attempt {
            flat,
            leaf: index,
            live: target,
            role: self.role,
            reason,
            started_us: now_us,
            connecting_us: None,
            sent_us: None,
            first_us: None,
            ended_us: None,
            outcome: None,
            status: None,
            request_id: None,
            usage: None,
            cost: None,
            credential,
            limit_ms: 0,
            held_nusd: None,
            held_by: None,
            limit_sent: None,
            charged_nusd: None,
            settled_by: None,
            is_answered: false,
            is_rejected: false,
            failed_by: None,
            pooled: false,
            bytes_received: 0,
            error_body: Vec::new(),
            error_is_whole: false,
            retry_after: None,
        });
        if self.aside.is_none() {
            // A judge stands in no config of the request's own.
            self.enter(index, now_us);
        }
        self.set_deadline(now_us);
        self.stake();
    }

    /// Make the bytes of the current attempt: the head with the key, and the body with what of it
    /// is ours to change.
    pub(super) fn make_wire(&mut self, request_body: &[u8]) -> Vec<u8> {
        let attempt = &self.attempts[self.attempts.len() - 1];
        let leaf = attempt.target();
        let provider = &self.snapshot.providers[leaf.provider];
        let include_usage = self.facts.stream
            && provider.stream_usage
            && self.endpoint != Endpoint::Embeddings
            && self.facts.include_usage != Some(true);
        let mut body = std::mem::take(&mut self.decoded);
        body.clear();
        let edit = patch::Edit {
            model: Some(&leaf.model),
            include_usage,
            output_limit: self.sent_limit(),
        };
        patch::patch(self.call_body(request_body), &self.facts, &edit, &mut body);
        if let Some(params) = &leaf.params {
            let mut merged = Vec::with_capacity(body.len() + params.len());
            // What we have just patched was scanned: it is an object.
            if patch::merge_params(&body, params.as_bytes(), &mut merged).is_ok() {
                body = merged;
            }
        }
        if let Some(length) = leaf.dimensions
            && self.endpoint == Endpoint::Embeddings
            && route::takes_dimensions(&leaf.model)
        {
            // The route's promise, whatever this caller asks for.
            let wanted = format!(r#"{{"dimensions":{length}}}"#);
            let mut merged = Vec::with_capacity(body.len() + wanted.len());
            if patch::merge_params(&body, wanted.as_bytes(), &mut merged).is_ok() {
                body = merged;
            }
        }
        let mut wire = Vec::with_capacity(
            body.len() + self.lines.len() + provider.head_lines.len() + WIRE_HEAD_BYTES,
        );
        wire.extend_from_slice(b"POST ");
        wire.extend_from_slice(provider.base_path.as_bytes());
        wire.extend_from_slice(self.endpoint.upstream_path().as_bytes());
        if !self.query.is_empty() {
            wire.push(b'?');
            wire.extend_from_slice(self.query.as_bytes());
        }
        wire.extend_from_slice(b" HTTP/1.1\r\n");
        wire.extend_from_slice(&provider.head_lines);
        match self.provider_key_for(leaf.provider) {
            Some(key) => {
                wire.extend_from_slice(&auth_line(
                    &provider.auth_header,
                    &provider.auth_prefix,
                    key,
                ));
            }
            None => {
                let credential = &provider.credentials[attempt.credential];
                wire.extend_from_slice(credential.head_lines());
            }
        }
        if provider.own_headers.is_empty() {
            wire.extend_from_slice(&self.lines);
        } else {
            for line in self.lines.split_inclusive(|byte| *byte == b'\n') {
                let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
                if !provider
                    .own_headers
                    .iter()
                    .any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
                {
                    wire.extend_from_slice(line);
                }
            }
        }
        wire.extend_from_slice(b"content-length: ");
        push_number(&mut wire, body.len() as u64);
        wire.extend_from_slice(b"\r\n\r\n");
        wire.extend_from_slice(&body);
        self.decoded = body;
        self.follower = self.facts.stream.then(|| Follower::new(include_usage));
        wire
    }

    /// Start the clocks of the configs around leaf `index` that have one and did not run yet.
    pub(super) fn enter(&mut self, index: usize, now_us: u64) {
        for (config, _) in self.choice.flat.flat().budgets_around(index) {
            if !self.entered_us.iter().any(|(entered, _)| *entered == config) {
                // The outermost one counts what the caller waits for.
                let from_us = if config == 0 { self.subject.started_us } else { now_us };
                self.entered_us.push((config, from_us));
            }
        }
    }

    /// The configs around a leaf, from the `level`th on, whose time for all of their attempts is
    /// up.
    pub(super) fn spent_around(&self, leaf: usize, level: usize, now_us: u64) -> Vec<usize> {
        let flat = self.choice.flat.flat();
        let around = flat.leaves[leaf].around.iter().skip(level);
        let outer: Vec<usize> = around.map(|around| around.config).collect();
        flat.budgets_around(leaf)
            .filter(|(config, ms)| {
                outer.contains(config) && now_us >= self.budget_until_us(*config, *ms)
            })
            .map(|(config, _)| config)
            .collect()
    }

    /// When a config's time for all of its attempts is up, given its limit.
    pub(super) fn budget_until_us(&self, config: usize, budget_ms: u64) -> u64 {
        self.entered_us
            .iter()
            .find(|(entered, _)| *entered == config)
            .map_or(u64::MAX, |(_, from_us)| from_us.saturating_add(budget_ms * 1000))
    }

    /// The current attempt waits for a new connection from here on.
    pub fn connecting(&mut self, now_us: u64) {
        self.attempt().connecting_us = Some(now_us);
    }

    /// Return the bytes of the current attempt, which are to be written at once.
    ///
    /// From here on its hold is never released but with proof.
    ///
    /// # Panics
    /// If they were written before, or if a budget matches and nothing is held.
    pub fn send(&mut self, gate: &mut Gate, request_body: &[u8], now_us: u64) -> Vec<u8> {
        assert!(!self.wants_hold(), "no byte leaves before its hold is committed");
        let wire = self.make_wire(request_body);
        let attempt = self.attempt();
        assert!(attempt.sent_us.is_none(), "an attempt is sent once");
        attempt.sent_us = Some(now_us);
        attempt.pooled = attempt.connecting_us.is_none();
        let target = attempt.live;
        self.world.live.began(target, self.worker, now_us);
        self.mark_sent(gate);
        wire
    }

    /// Set the deadline that holds in the present phase.
    pub(super) fn set_deadline(&mut self, now_us: u64) {
        let last = self.attempts.len() - 1;
        let attempt = &self.attempts[last];
        let flat = attempt.flat.flat();
        let leaf = attempt.target();
        let whole_us = attempt.started_us.saturating_add(leaf.attempt_max_ms * 1000);
        let (until_us, limit_ms) = if attempt.first_us.is_some() {
            (now_us.saturating_add(leaf.idle_timeout_ms * 1000), leaf.idle_timeout_ms)
        } else {
            let first_us = attempt.started_us.saturating_add(leaf.timeout_ms * 1000);
            let first = (first_us, leaf.timeout_ms);
            if self.aside.is_some() {
                // A judge's own configs begin with it; those around what it judges go on.
                let own = flat.budgets_around(attempt.leaf).map(|(_, ms)| {
                    (attempt.started_us.saturating_add(ms.saturating_mul(1000)), ms)
                });
                own.chain(self.budgets_of_parked()).fold(first, std::cmp::Ord::min)
            } else {
                flat.budgets_around(attempt.leaf)
                    .map(|(config, ms)| (self.budget_until_us(config, ms), ms))
                    .fold(first, std::cmp::Ord::min)
            }
        };
        let limit_ms = if whole_us < until_us { leaf.attempt_max_ms } else { limit_ms };
        self.attempts[last].limit_ms = limit_ms;
        let drains_us = self.drains_until_us.unwrap_or(u64::MAX);
        self.deadline_us = until_us.min(whole_us).min(drains_us);
    }

    /// Go on to the next attempt, if the config has one for this failure.
    ///
    /// Where it has none, an answer that was read before may `stand`.
    pub fn next(&mut self, request_body: &[u8], now_us: u64) -> bool {
        match self.onward.take() {
            Some(Onward::Judge { config, judge, min_score_permille }) => {
                if self.ask_judge(config, judge, min_score_permille, request_body, now_us) {
                    return true;
                }
                return self.go_past(config, now_us);
            }
            Some(Onward::Leaf(leaf)) => {
                if self.has_no_time_after_parked(leaf, now_us) {
                    return false;
                }
                let number = self.parked_attempt() + 1;
                self.tries_here = 0;
                self.tried_fresh = false;
                let reason = format!("attempt_{number} was not good enough");
                self.start_or_pass(leaf, reason.into(), now_us);
                return true;
            }
            None => {}
        }
        if self.ask_next_judge(now_us) {
            return true;
        }
        if let Some(config) = self.leave_judge() {
            return self.go_past(config, now_us);
        }
        if self.gather.is_some() {
            return self.next_after_gather(now_us);
        }
        let choice = self.choice.flat.clone();
        let flat = choice.flat();
        let number = self.attempts.len();
        let Some(last) = self.attempts.last() else { return false };
        let Some(failed_by) = last.failed_by.filter(|_| self.may_go_on) else { return false };
        if self.is_out_of_time(now_us) {
            // The ensemble that it is a member of goes on without it.
            return false;
        }
        let at = last.leaf;
        let spent = self.spent_around(at, 0, now_us);
        if self.goes_fresh(now_us) {
            self.tried_fresh = true;
            let reason = format!("attempt_{number} met a pooled connection that closed");
            self.start(choice.clone(), at, reason.into(), now_us);
            return true;
        }
        if self.has_another_key(at, failed_by, now_us) {
            let reason = format!("another key after {} of attempt_{number}", failed_by.text());
            self.start(choice.clone(), at, reason.into(), now_us);
            return true;
        }
        self.tries_here += 1;
        let order = &self.choice.decision.order;
        let next =
            flat.next(order, at, failed_by, self.tries_here, &|config| spent.contains(&config));
        self.tried_fresh = false;
        match next {
            Next::Nobody if spent.is_empty() && self.has_marked_key(at, failed_by, now_us) => {
                let reason = format!(
                    "a key refused of late, as nobody else is left after {} of attempt_{number}",
                    failed_by.text()
                );
                self.start(choice.clone(), at, reason.into(), now_us);
                true
            }
            Next::Nobody => {
                let level = flat.leaves[at]
                    .around
                    .iter()
                    .rposition(|around| spent.contains(&around.config))
                    .map_or(0, |level| level + 1);
                self.end_by_rule(at, level, Some(failed_by));
                false
            }
            Next::Again => {
                let reason = format!("again after {} of attempt_{number}", failed_by.text());
                let pause_ms = backoff_ms(&self.subject.id, self.tries_here - 1);
                let from_us = now_us.saturating_add(pause_ms * 1000);
                self.not_before_us = from_us;
                self.start(choice.clone(), at, reason.into(), from_us);
                true
            }
            Next::Leaf(index) => {
                self.tries_here = 0;
                let reason = format!("after {} of attempt_{number}", failed_by.text());
                self.start_or_pass(index, reason.into(), now_us);
                true
            }
        }
    }

    /// Does one try on a fresh connection follow the last attempt, which has failed? Its pooled
    /// one may have been closed under way to us, before the provider read anything.
    pub(super) fn goes_fresh(&self, now_us: u64) -> bool {
        let Some(last) = self.attempts.last() else { return false };
        self.may_go_on
            && self.aside.is_none()
            && self.gather.is_none()
            && last.pooled
            && last.bytes_received == 0
            && last.failed_by == Some(FailedBy::Reset)
            && !self.tried_fresh
            && self.spent_around(last.leaf, 0, now_us).is_empty()
    }

    /// Stop where a rule that blocks is what follows a leaf, from the `level`th config around it
    /// on: after a failure, or (None) after an answer that was not good enough.
    pub(super) fn end_by_rule(
        &mut self,
        leaf: usize,
        level: usize,
        failed_by: Option<FailedBy>,
    ) -> bool {
        let Some(ended) = self.choice.decision.ended_by.clone() else { return false };
        let flat = self.choice.flat.clone();
        let follows = flat.flat().leaves[leaf]
            .around
            .iter()
            .take_while(|around| self.member_of.is_none_or(|(own, _)| around.config != own))
            .skip(level)
            .any(|around| {
                ended.within.contains(&around.config)
                    && failed_by.is_none_or(|failed_by| around.retry_on.covers(failed_by))
            });
        if follows {
            let (config, rule) = ended.rule;
            let why = self.why_stopped(Stop::Blocked(config, rule));
            self.parked = None;
            self.stop(why);
        }
        follows
    }

    /// The instant before which the current attempt must not be sent: a retry waits a little.
    #[must_use]
    pub fn not_before_us(&self) -> u64 {
        self.not_before_us
    }

    /// The wait before a retry is over.
    pub fn resume(&mut self) {
        self.not_before_us = 0;
    }

    /// Is it the key that failed, and is there another one for the same target?
    fn has_another_key(&self, leaf: usize, failed_by: FailedBy, now_us: u64) -> bool {
        self.may_change_keys(leaf, failed_by)
            && self.pick_credential(self.choice.flat.flat(), leaf, now_us).is_some()
    }

    /// The same for one that its provider has refused of late: one such key a request.
    fn has_marked_key(&self, leaf: usize, failed_by: FailedBy, now_us: u64) -> bool {
        !self.tried_marked
            && self.may_change_keys(leaf, failed_by)
            && self.pick_marked_credential(self.choice.flat.flat(), leaf, now_us).is_some()
    }

    fn may_change_keys(&self, leaf: usize, failed_by: FailedBy) -> bool {
        let target = &self.choice.flat.flat().leaves[leaf];
        let provider = &self.snapshot.providers[target.provider];
        matches!(failed_by, FailedBy::Status(401..=403 | 429))
            && target.credential.is_none()
            && provider.credentials.len() > 1
            && self.provider_key_for(target.provider).is_none()
            && target.goes_on_for(failed_by)
    }
}

/// Which of a provider's keys serves this request: by weight, from a hash of the request id.
fn by_weight(provider: &Provider, request_id: &str) -> usize {
    let weights: Vec<u64> =
        provider.credentials.iter().map(|credential| u64::from(credential.weight)).collect();
    pick_weighted(draw(request_id, "credential"), &weights).unwrap_or(0)
}
