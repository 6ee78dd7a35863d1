//! The record of a request as one JSON object (`docs/reference/trace.md`), written by hand.
//!
//! It goes into the ring without its bodies, which travel beside it as bytes: the trace writer puts
//! them in, redacted. Field names and units are public. Money is text with nine decimals.

use std::borrow::Cow;

use crate::exchange::{Attempt, Plan, push_number, push_usd};
use crate::gate::{Refused, Subject};
use crate::ring::{Bodies, RingWriter};
use crate::routing::Strategy;
use crate::snapshot::{Snapshot, StoreBodies};
use crate::usage::Usage;

const ORDINALS: [&str; 8] =
    ["primary", "secondary", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];

/// Append `text` as a JSON string, quotes included.
pub fn push_json_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain_from = 0;
    let bytes = text.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[plain_from..index]);
        if escape.is_empty() {
            out.extend_from_slice(b"\\u00");
            out.push(b"0123456789abcdef"[usize::from(byte >> 4)]);
            out.push(b"0123456789abcdef"[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(escape);
        }
        plain_from = index + 1;
    }
    out.extend_from_slice(&bytes[plain_from..]);
    out.push(b'"');
}

/// A JSON object under construction; keys are ours and need no escaping.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    fn open(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn text(&mut self, name: &str, value: &str) {
        push_json_text(self.key(name), value);
    }

    fn maybe_text(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.null(name),
        }
    }

    fn named(&mut self, name: &str, value: &str) {
        self.maybe_text(name, Some(value).filter(|value| !value.is_empty()));
    }

    fn number(&mut self, name: &str, value: u64) {
        push_number(self.key(name), value);
    }

    fn maybe_number(&mut self, name: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.null(name),
        }
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.key(name).extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn null(&mut self, name: &str) {
        self.key(name).extend_from_slice(b"null");
    }

    /// Microseconds as milliseconds with three decimals.
    fn ms(&mut self, name: &str, value_us: Option<u64>) {
        let Some(value_us) = value_us else { return self.null(name) };
        let out = self.key(name);
        push_number(out, value_us / 1000);
        out.push(b'.');
        let rest = value_us % 1000;
        out.push(b'0' + (rest / 100) as u8);
        out.push(b'0' + (rest / 10 % 10) as u8);
        out.push(b'0' + (rest % 10) as u8);
    }

    fn usd(&mut self, name: &str, nusd: Option<u64>) {
        let Some(nusd) = nusd else { return self.null(name) };
        let out = self.key(name);
        out.push(b'"');
        push_usd(out, nusd, false);
        out.push(b'"');
    }

    fn object(&mut self, name: &str, fill: impl FnOnce(&mut Object<'_>)) {
        let mut inner = Object::open(self.key(name));
        fill(&mut inner);
        inner.close();
    }

    fn list<T>(
        &mut self,
        name: &str,
        items: impl Iterator<Item = T>,
        mut fill: impl FnMut(&mut Vec<u8>, T),
    ) {
        let out = self.key(name);
        out.push(b'[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            fill(out, item);
        }
        out.push(b']');
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

/// Write the record of a request that went through the gate.
pub(crate) fn served(
    ring: &mut RingWriter,
    scratch: &mut Vec<u8>,
    plan: &Plan,
    status: u16,
    request: &[u8],
    response: &[u8],
    error: Option<(&str, &str, &str)>,
    now_us: u64,
) {
    let subject = &plan.subject;
    let store = subject
        .project
        .map_or(StoreBodies::None, |project| plan.snapshot.projects[project].store_bodies);
    let mut meta = std::mem::take(scratch);
    meta.clear();
    let mut record = Object::open(&mut meta);
    push_subject(&mut record, &plan.snapshot, subject);
    record.number("status", u64::from(status));
    push_error(&mut record, error);
    let last = plan.attempts.last();
    let serving =
        last.filter(|_| error.is_none_or(|(_, code, _)| code == "stream_interrupted"));
    match serving {
        Some(attempt) => {
            let (leaf, provider) = plan.target_of(attempt);
            record.text("provider", &provider.name);
            record.text("model", &leaf.model);
        }
        None => {
            record.null("provider");
            record.null("model");
        }
    }
    match last.and_then(|attempt| attempt.usage.as_ref()) {
        Some(usage) => record.object("usage", |object| push_usage(object, usage)),
        None => record.null("usage"),
    }
    match plan.total_cost() {
        Some(cost) => record.object("cost", |object| {
            object.usd("input_usd", Some(cost.input_nusd));
            object.usd("output_usd", Some(cost.output_nusd));
            object.usd("total_usd", Some(cost.input_nusd + cost.output_nusd));
            object.null("shadow_usd");
            object.text("price_version", plan.price_version());
        }),
        None => record.null("cost"),
    }
    record.object("latency", |object| {
        object.number("overhead_us", plan.overhead_us());
        let first_us = last.filter(|_| serving.is_some()).and_then(|attempt| attempt.first_us);
        object.ms("ttft_ms", first_us.map(|at| at.saturating_sub(subject.started_us)));
        object.ms("total_ms", Some(now_us.saturating_sub(subject.started_us)));
    });
    record.list("budgets", std::iter::empty::<()>(), |_, ()| {});
    record.text("cache", "MISS");
    record.object("decision", |object| push_decision(object, plan, serving.is_some()));
    record.list("attempts", plan.attempts.iter().enumerate(), |out, (index, attempt)| {
        push_attempt(out, plan, index, attempt);
    });
    if store == StoreBodies::Metadata {
        record.object("sizes", |object| {
            object.number("request_bytes", request.len() as u64);
            object.number("response_bytes", plan.relayed_bytes);
            object.number("messages", u64::from(plan.facts.messages));
            object.flag("tools", plan.facts.has_tools);
            object.flag("images", plan.facts.has_images);
        });
    }
    record.close();
    append(ring, store, &meta, request, response);
    *scratch = meta;
}

/// Write the record of a request that the gate refused.
pub(crate) fn refused(
    ring: &mut RingWriter,
    snapshot: &Snapshot,
    refused: &Refused,
    status: u16,
    kind: &str,
    body: &[u8],
    now_us: u64,
) {
    let subject = &refused.subject;
    let mut meta = Vec::with_capacity(1024);
    let mut record = Object::open(&mut meta);
    push_subject(&mut record, snapshot, subject);
    record.number("status", u64::from(status));
    push_error(&mut record, Some((kind, refused.refusal.code, &refused.refusal.message)));
    record.null("provider");
    record.null("model");
    record.null("usage");
    record.null("cost");
    record.object("latency", |object| {
        object.number("overhead_us", now_us.saturating_sub(subject.started_us));
        object.null("ttft_ms");
        object.ms("total_ms", Some(now_us.saturating_sub(subject.started_us)));
    });
    record.list("budgets", std::iter::empty::<()>(), |_, ()| {});
    record.null("cache");
    record.object("decision", |object| {
        object.text("reason", refused.refusal.code);
        object.text("summary", "refused");
        object.list("path", std::iter::empty::<()>(), |_, ()| {});
        object.list("candidates", std::iter::empty::<()>(), |_, ()| {});
    });
    record.list("attempts", std::iter::empty::<()>(), |_, ()| {});
    record.close();
    append(ring, refused.store_bodies, &meta, body, b"");
}

fn append(
    ring: &mut RingWriter,
    store: StoreBodies,
    meta: &[u8],
    request: &[u8],
    response: &[u8],
) {
    match store {
        StoreBodies::Full => ring.append(meta, request, response, Bodies::Kept),
        StoreBodies::Metadata | StoreBodies::None => ring.append(meta, b"", b"", Bodies::Off),
    };
}

fn push_subject(record: &mut Object<'_>, snapshot: &Snapshot, subject: &Subject) {
    record.text("id", &subject.id);
    record.number("ts", subject.ts_us);
    let project = subject.project.map(|project| snapshot.projects[project].name.as_str());
    record.maybe_text("project", project);
    record.maybe_text("key_id", subject.key.as_ref().map(|key| key.id.as_str()));
    match &subject.route {
        Some((route, version)) => {
            let out = record.key("route");
            out.extend_from_slice(b"\"@");
            out.extend_from_slice(route.slug.as_bytes());
            out.push(b'"');
            record.number("route_version", u64::from(version.version));
        }
        None => {
            record.null("route");
            record.null("route_version");
        }
    }
    record.flag("pinned", subject.pinned);
    let hash =
        subject.route.as_ref().map_or(&snapshot.config_hash, |(_, version)| &version.hash);
    record.text("config_hash", hash);
    record.maybe_text("resolved", subject.resolved_auto.then_some("auto"));
    record.named("strategy", subject.strategy);
    record.named("model_requested", &subject.model_requested);
    record.flag("stream", subject.stream);
    record.text("path", &subject.path);
    record.object("tags", |object| {
        for (name, value) in &subject.tags {
            // A tag's name is the caller's: it has to be escaped like any text.
            if !object.empty {
                object.out.push(b',');
            }
            object.empty = false;
            push_json_text(object.out, name);
            object.out.push(b':');
            push_json_text(object.out, value);
        }
    });
    let end_user = match &subject.end_user {
        Some(user) if snapshot.server.hash_end_users => Some(snapshot.hash_end_user(user)),
        other => other.clone(),
    };
    record.maybe_text("end_user", end_user.as_deref());
    record.maybe_text("trace_id", subject.trace_id.as_deref());
    record.maybe_text("conversation_id", subject.conversation_id.as_deref());
    record.maybe_text("client_ip", subject.client_ip.as_deref());
    record.maybe_text("sdk", subject.sdk.as_deref());
    record.maybe_number("sdk_retry", subject.sdk_retry);
    record
        .list("warnings", subject.warnings.iter(), |out, warning| push_json_text(out, warning));
}

fn push_error(record: &mut Object<'_>, error: Option<(&str, &str, &str)>) {
    match error {
        Some((kind, code, message)) => record.object("error", |object| {
            object.text("type", kind);
            object.text("code", code);
            object.text("message", message);
        }),
        None => record.null("error"),
    }
}

fn push_usage(object: &mut Object<'_>, usage: &Usage) {
    object.number("input_tokens", usage.input_tokens);
    object.number("cached_tokens", usage.cached_tokens);
    object.number("cache_write_tokens", usage.cache_write_tokens);
    object.number("cache_write_1h_tokens", 0);
    object.number("audio_input_tokens", usage.audio_input_tokens);
    object.number("image_input_tokens", usage.image_input_tokens);
    object.number("output_tokens", usage.output_tokens);
    object.number("reasoning_tokens", usage.reasoning_tokens);
    object.number("audio_output_tokens", usage.audio_output_tokens);
    object.text("source", "provider");
}

/// `primary`, `secondary`, `third`, …, then `attempt_9`.
fn ordinal(index: usize) -> String {
    ORDINALS
        .get(index)
        .map_or_else(|| format!("attempt_{}", index + 1), |word| (*word).to_owned())
}

/// How an attempt reads in the reason: `timeout`, `503`, `healthy`.
fn verdict(attempt: &Attempt) -> String {
    match (attempt.outcome.map(crate::exchange::Outcome::name), attempt.status) {
        (Some("ok"), _) => "healthy".to_owned(),
        (Some("http_error"), Some(status)) => status.to_string(),
        (Some("connect_error"), _) => "unreachable".to_owned(),
        (Some(word), _) => word.to_owned(),
        (None, _) => "unfinished".to_owned(),
    }
}

fn push_decision(object: &mut Object<'_>, plan: &Plan, served: bool) {
    let flat = plan.choice.flat.flat();
    let sole = plan.attempts.len() == 1 && served;
    let reason: Cow<'static, str> = match flat.strategy {
        Strategy::Direct if sole => "model named by the caller".into(),
        Strategy::Single if sole => "the only target".into(),
        Strategy::Fallback if sole && plan.choice.first == 0 => "primary healthy".into(),
        _ => plan
            .attempts
            .iter()
            .enumerate()
            .map(|(index, attempt)| format!("{} {}", ordinal(index), verdict(attempt)))
            .collect::<Vec<_>>()
            .join(", ")
            .into(),
    };
    object.text("reason", &reason);
    let summary = if served {
        format!("{} -> attempt_{}", flat.strategy.name(), plan.attempts.len())
    } else {
        format!("{} -> none", flat.strategy.name())
    };
    object.text("summary", &summary);
    let leaf = plan.attempts.last().map_or(plan.choice.first, |attempt| attempt.leaf);
    object.list("path", flat.leaves[leaf].path.iter(), |out, step| push_json_text(out, step));
    object.list("candidates", flat.leaves.iter().enumerate(), |out, (index, leaf)| {
        let rejected = plan.choice.rejected[index];
        let mut candidate = Object::open(out);
        candidate.text("target", &leaf.label);
        candidate.flag("eligible", rejected.is_none());
        candidate.maybe_text("reject_reason", rejected);
        candidate.null("est_cost_usd");
        candidate.null("latency_ms");
        candidate.null("health");
        candidate.null("score");
        candidate.close();
    });
    object.list("rules", std::iter::empty::<()>(), |_, ()| {});
    object.null("variant");
    object.null("downgraded_from");
    object.null("fitted_to");
    object.null("tokens_by");
}

fn push_attempt(out: &mut Vec<u8>, plan: &Plan, index: usize, attempt: &Attempt) {
    let (leaf, provider) = plan.target_of(attempt);
    let since =
        |at_us: Option<u64>| at_us.map(|at_us| at_us.saturating_sub(attempt.started_us));
    let mut object = Object::open(out);
    object.number("index", index as u64 + 1);
    object.text("target", &leaf.label);
    object.text("provider", &provider.name);
    object.text("model", &leaf.model);
    object.text("role", "serve");
    object.maybe_text("outcome", attempt.outcome.map(crate::exchange::Outcome::name));
    object.maybe_number("status", attempt.status.map(u64::from));
    object.text("reason", &attempt.reason);
    let started_us = attempt.started_us.saturating_sub(plan.subject.started_us);
    object.ms("started_ms", Some(started_us));
    object.ms("connect_ms", attempt.sent_us.map(|_| attempt.connect_us()));
    object.ms("ttft_ms", since(attempt.first_us));
    object.ms("total_ms", since(attempt.ended_us));
    object.number("timeout_ms", attempt.limit_ms);
    match &attempt.usage {
        Some(usage) => object.object("usage", |inner| push_usage(inner, usage)),
        None => object.null("usage"),
    }
    let cost_nusd = attempt.cost.map(|cost| cost.input_nusd + cost.output_nusd);
    object.usd("cost_usd", cost_nusd);
    object.null("held_usd");
    object.null("held_by");
    object.maybe_text("request_id", attempt.request_id.as_deref());
    object.maybe_text("settled_by", attempt.usage.as_ref().map(|_| "usage"));
    object.close();
}
