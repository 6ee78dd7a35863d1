//! Attempts: the bytes that go upstream, their deadlines, and which target comes next.

use std::borrow::Cow;

use super::{Phase, Plan};
use crate::attempt::Attempt;
use crate::digits::push_number;
use crate::gate::Gate;
use crate::patch;
use crate::routing::{FailedBy, Next, Strategy};
use crate::snapshot::{Provider, auth_line};
use crate::sse::Follower;
use crate::subject::Endpoint;

/// Room for the request line, the key and the length in an outgoing head.
const WIRE_HEAD_BYTES: usize = 512;

impl Plan {
    /// Why the first attempt goes where it goes.
    pub(crate) fn first_reason(&self) -> Cow<'static, str> {
        match self.choice.flat.flat().strategy {
            Strategy::Direct => "named by the caller".into(),
            Strategy::Single => "the only target".into(),
            Strategy::Fallback if self.choice.first == 0 => "first in the list".into(),
            Strategy::Fallback => "first in the list that may serve".into(),
        }
    }

    /// Begin an attempt at leaf `index` of the present config.
    ///
    /// Nothing of it is written yet: where a budget matches, its worst case is held first.
    pub(crate) fn start(&mut self, index: usize, reason: Cow<'static, str>, now_us: u64) {
        assert!(self.hold.is_none(), "the attempt before has been settled");
        let flat = self.choice.flat.clone();
        let leaf = &flat.flat().leaves[index];
        let provider = &self.snapshot.providers[leaf.provider];
        let credential =
            leaf.credential.unwrap_or_else(|| pick_credential(provider, &self.subject.id));
        let at_unix_s = i64::try_from(self.subject.ts_us / 1_000_000).unwrap_or(i64::MAX);
        self.price =
            self.snapshot.price(&self.catalogue, leaf.provider, &leaf.model, at_unix_s);
        self.phase = Phase::Head;
        self.pending.clear();
        self.held.clear();
        self.answer = None;
        self.interim = 0;
        self.reusable = false;
        self.attempts.push(Attempt {
            flat,
            leaf: index,
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
            charged_nusd: None,
            settled_by: None,
            failed_by: None,
            pooled: false,
            bytes_received: 0,
            error_body: Vec::new(),
            error_is_whole: false,
            retry_after: None,
        });
        self.enter(index, now_us);
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
        patch::patch(request_body, &self.facts, &edit, &mut body);
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
    fn enter(&mut self, index: usize, now_us: u64) {
        for (config, _) in self.choice.flat.flat().budgets_around(index) {
            if !self.entered_us.iter().any(|(entered, _)| *entered == config) {
                // The outermost one counts what the caller waits for.
                let from_us = if config == 0 { self.subject.started_us } else { now_us };
                self.entered_us.push((config, from_us));
            }
        }
    }

    /// When a config's time for all of its attempts is up, given its limit.
    fn budget_until_us(&self, config: usize, budget_ms: u64) -> u64 {
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
            flat.budgets_around(attempt.leaf)
                .map(|(config, ms)| (self.budget_until_us(config, ms), ms))
                .fold((first_us, leaf.timeout_ms), std::cmp::Ord::min)
        };
        let limit_ms = if whole_us < until_us { leaf.attempt_max_ms } else { limit_ms };
        self.attempts[last].limit_ms = limit_ms;
        let drains_us = self.drains_until_us.unwrap_or(u64::MAX);
        self.deadline_us = until_us.min(whole_us).min(drains_us);
    }

    /// Go on to the next attempt, if the config has one for this failure.
    pub fn next(&mut self, now_us: u64) -> bool {
        let choice = self.choice.flat.clone();
        let flat = choice.flat();
        let number = self.attempts.len();
        let last = &self.attempts[number - 1];
        let Some(failed_by) = last.failed_by.filter(|_| self.may_go_on) else { return false };
        let spent: Vec<usize> = flat
            .budgets_around(last.leaf)
            .filter(|(config, ms)| now_us >= self.budget_until_us(*config, *ms))
            .map(|(config, _)| config)
            .collect();
        let at = last.leaf;
        // A pooled connection may have been closed under way to us, before the provider read
        // anything: one try on a fresh one.
        if last.pooled
            && last.bytes_received == 0
            && failed_by == FailedBy::Reset
            && !self.tried_fresh
            && spent.is_empty()
        {
            self.tried_fresh = true;
            let reason = format!("attempt_{number} met a pooled connection that closed");
            self.start(at, reason.into(), now_us);
            return true;
        }
        self.tries_here += 1;
        let rejected = &self.choice.rejected;
        let next = flat.next(
            at,
            failed_by,
            self.tries_here,
            &|index| rejected[index].is_none(),
            &|config| spent.contains(&config),
        );
        self.tried_fresh = false;
        match next {
            Next::Nobody => false,
            Next::Again => {
                let reason = format!("again after {} of attempt_{number}", failed_by.text());
                self.start(at, reason.into(), now_us);
                true
            }
            Next::Leaf(index) => {
                self.tries_here = 0;
                let reason = format!("after {} of attempt_{number}", failed_by.text());
                self.start(index, reason.into(), now_us);
                true
            }
        }
    }
}

/// Which of a provider's keys serves this request: by weight, from a hash of the request id.
fn pick_credential(provider: &Provider, request_id: &str) -> usize {
    if provider.credentials.len() == 1 {
        return 0;
    }
    let total: u64 =
        provider.credentials.iter().map(|credential| u64::from(credential.weight)).sum();
    if total == 0 {
        return 0;
    }
    let hash = request_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The high bits of FNV are the mixed ones.
    let mut point = (hash >> 16) % total;
    for (index, credential) in provider.credentials.iter().enumerate() {
        let weight = u64::from(credential.weight);
        if point < weight {
            return index;
        }
        point -= weight;
    }
    0
}
