//! The head that the caller gets: the provider's fields that pass, and ours.

use super::{AnswerHead, Plan};
use crate::attempt::{Attempt, Role, SettledBy};
use crate::date::iso_instant;
use crate::digits::{push_number, push_usd};
use crate::fields::{push_config, push_header_text, push_rate};
use crate::pricing;

/// Most nano-USD in one request: what a double holds exactly.
const MONEY_NUSD_MAX: u64 = 1 << 53;

impl Plan {
    /// Time in modelux before the winning attempt's request was written: not the attempts before
    /// it, not the wait for its connection.
    #[must_use]
    pub fn overhead_us(&self) -> u64 {
        let Some(last) = self.attempts.get(self.serving()) else { return 0 };
        let before = &self.attempts[..self.serving()];
        let sent_us = last.sent_us.unwrap_or(last.started_us);
        let connect_us = last.connect_us();
        let elsewhere_us: u64 = before
            .iter()
            // Members of an ensemble run side by side: they took no time from one another.
            .filter(|attempt| attempt.ended_us.is_some_and(|at_us| at_us <= last.started_us))
            .map(|attempt| {
                attempt.ended_us.map_or(0, |at_us| at_us.saturating_sub(attempt.started_us))
            })
            .sum();
        sent_us
            .saturating_sub(self.subject.started_us)
            .saturating_sub(connect_us + elsewhere_us)
    }

    /// Sum over all attempts; None where one of them used something that has no known price, or
    /// where the sum is beyond what money may be.
    #[must_use]
    pub fn total_cost(&self) -> Option<pricing::Cost> {
        self.cost_of_roles(|role| role != Role::Shadow)
    }

    /// What mirrored traffic cost; None where there was none, or nothing is known of its price.
    #[must_use]
    pub fn shadow_cost(&self) -> Option<pricing::Cost> {
        self.cost_of_roles(|role| role == Role::Shadow)
    }

    fn cost_of_roles(&self, is_counted: impl Fn(Role) -> bool) -> Option<pricing::Cost> {
        let mut total: Option<pricing::Cost> = None;
        let has_used = |attempt: &&Attempt| {
            is_counted(attempt.role)
                && (attempt.usage.is_some() || attempt.charged_nusd.is_some())
        };
        for attempt in self.attempts.iter().filter(has_used) {
            let cost = match attempt.settled_by {
                Some(SettledBy::Released) => pricing::Cost { input_nusd: 0, output_nusd: 0 },
                _ => attempt.cost?,
            };
            let sum = total.unwrap_or(pricing::Cost { input_nusd: 0, output_nusd: 0 });
            let input_nusd = sum.input_nusd.checked_add(cost.input_nusd)?;
            let output_nusd = sum.output_nusd.checked_add(cost.output_nusd)?;
            if input_nusd.checked_add(output_nusd)? > MONEY_NUSD_MAX {
                return None;
            }
            total = Some(pricing::Cost { input_nusd, output_nusd });
        }
        total
    }

    /// Attempts that wrote a request byte.
    #[must_use]
    pub fn attempts_sent(&self) -> usize {
        let is_counted =
            |attempt: &&Attempt| attempt.sent_us.is_some() && attempt.role != Role::Shadow;
        self.attempts.iter().filter(is_counted).count()
    }

    /// Our head lines that every answer of this plan carries, errors too.
    pub fn push_own_lines(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"X-Modelux-Request-Id: ");
        out.extend_from_slice(self.subject.id.as_bytes());
        out.extend_from_slice(b"\r\n");
        if self.http_1_0 && self.keep_alive {
            // What HTTP/1.1 need not say.
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        self.push_lines(out);
    }

    /// Those of them that say something of the request.
    pub(crate) fn push_lines(&self, out: &mut Vec<u8>) {
        push_config(&self.subject, out);
        if let Some(rate) = self.rate {
            push_rate(&rate, out);
        }
        if let Some(variant) = self.variant() {
            out.extend_from_slice(b"X-Modelux-Ab-Variant: ");
            push_header_text(out, variant);
            out.extend_from_slice(b"\r\n");
        }
        self.push_budget_lines(out);
        if !self.subject.warnings.is_empty() {
            out.extend_from_slice(b"X-Modelux-Warnings: ");
            out.extend_from_slice(self.subject.warnings.join(",").as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The output limit that was sent to who serves, where it is not the caller's own.
    pub(crate) fn limit_sent(&self) -> Option<u64> {
        self.attempts.get(self.serving()).and_then(|attempt| attempt.limit_sent)
    }

    /// The tightest budget, as it stands after this request's hold, and the limit that we sent.
    fn push_budget_lines(&self, out: &mut Vec<u8>) {
        if let Some(shown) = self.budgets.shown() {
            out.extend_from_slice(b"X-Modelux-Budget-Name: ");
            push_header_text(out, &shown.name);
            out.extend_from_slice(b"\r\nX-Modelux-Budget-Remaining: ");
            push_usd(out, shown.remaining_nusd, 4);
            out.extend_from_slice(b"\r\nX-Modelux-Budget-Action: ");
            out.extend_from_slice(shown.action.as_bytes());
            out.extend_from_slice(b"\r\n");
            if let Some(reset) = shown.resets_s.and_then(iso_instant) {
                out.extend_from_slice(b"X-Modelux-Budget-Reset: ");
                out.extend_from_slice(reset.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
        if let Some(limit) = self.limit_sent() {
            out.extend_from_slice(b"X-Modelux-Fit-Max-Tokens: ");
            push_number(out, limit);
            out.extend_from_slice(b"\r\n");
        }
    }

    pub(super) fn push_head(
        &self,
        answer: &AnswerHead,
        length: Option<u64>,
        with_cost: bool,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(b"HTTP/1.1 ");
        push_number(out, u64::from(answer.status));
        out.push(b' ');
        out.extend_from_slice(answer.reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&answer.lines);
        self.push_own_lines(out);
        if let Some(last) = self.attempts.get(self.serving()) {
            let (leaf, provider) = self.target_of(last);
            out.extend_from_slice(b"X-Modelux-Provider-Used: ");
            push_header_text(out, &provider.name);
            out.extend_from_slice(b"\r\nX-Modelux-Model-Used: ");
            push_header_text(out, &leaf.model);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"X-Modelux-Attempts: ");
        push_number(out, self.attempts_sent() as u64);
        out.extend_from_slice(b"\r\nX-Modelux-Overhead-Us: ");
        push_number(out, self.overhead_us());
        out.extend_from_slice(b"\r\nX-Modelux-Cache: MISS\r\n");
        if let (true, Some(cost)) = (with_cost, self.total_cost()) {
            out.extend_from_slice(b"X-Modelux-Cost-Usd: ");
            push_usd(out, cost.input_nusd + cost.output_nusd, 6);
            out.extend_from_slice(b"\r\n");
        }
        match length {
            Some(length) if answer.status != 204 && answer.status != 304 => {
                out.extend_from_slice(b"content-length: ");
                push_number(out, length);
                out.extend_from_slice(b"\r\n");
            }
            Some(_) => {}
            None if self.http_1_0 => {}
            None => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        if !self.keep_alive {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}
