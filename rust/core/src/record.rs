//! The record of a request as one JSON object (`docs/reference/trace.md`), written by hand.
//!
//! It goes into the ring without its bodies, which travel beside it as bytes: the trace writer puts
//! them in, redacted. Field names and units are public. Money is text with nine decimals.

use std::borrow::Cow;
use std::io::Write as _;

use crate::attempt::{Attempt, HeldBy, Outcome, Role, SettledBy};
use crate::digits::{push_number, push_usd};
use crate::exchange::{DryAttempt, DryBudget, Plan, Tally};
use crate::gate::Refused;
use crate::ring::{Bodies, RingWriter};
use crate::routing::decide::{Candidate, RuleResult, Stop};
use crate::routing::state::{Health, Keys, TargetState, Tokens};
use crate::routing::{Flat, Leaf, Strategy};
use crate::snapshot::{Snapshot, StoreBodies};
use crate::subject::Subject;
use crate::usage::Usage;

const US_PER_MS: f64 = 1000.0;

const ORDINALS: [&str; 8] =
    ["primary", "secondary", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];

/// Append `text` as a JSON string, quotes included.
pub fn push_json_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    if needs_escape(bytes) {
        push_escaped(out, bytes);
    } else {
        out.extend_from_slice(bytes);
    }
    out.push(b'"');
}

/// Whether a byte of `bytes` may not stand in a JSON string as it is; eight bytes at a time.
fn needs_escape(bytes: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The classic test for a zero byte in a word; `word ^ ONES * byte` has one where `byte` is.
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS != 0;
    let chunks = bytes.chunks_exact(8);
    let rest = chunks.remainder();
    let is_special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    for chunk in chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        let below_space = word.wrapping_sub(ONES * 0x20) & !word & HIGHS != 0;
        let quote = has_zero(word ^ (ONES * u64::from(b'"')));
        let backslash = has_zero(word ^ (ONES * u64::from(b'\\')));
        // The tests may cry wolf where a borrow crosses bytes, never the other way round.
        if below_space | quote | backslash {
            return true;
        }
    }
    rest.iter().any(|byte| is_special(*byte))
}

#[cold]
fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(b"0123456789abcdef"[usize::from(byte >> 4)]);
                out.push(b"0123456789abcdef"[usize::from(byte & 15)]);
            }
            _ => out.push(*byte),
        }
    }
}

/// A member's name as it stands in the object, with the comma before it.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(crate) use key;

/// A JSON object under construction.
///
/// Each member is written with a comma before it, its name a constant made by `key!`; `close` turns
/// the first comma into the brace. So a member costs one copy for its name and no decision.
pub(crate) struct Object<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl<'o> Object<'o> {
    pub(crate) fn open(out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start }
    }

    /// Write `,"name":`; the value follows.
    fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        self.out.extend_from_slice(key.as_bytes());
        self.out
    }

    pub(crate) fn text(&mut self, key: &'static str, value: &str) {
        push_json_text(self.key(key), value);
    }

    pub(crate) fn maybe_text(&mut self, key: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.null(key),
        }
    }

    fn named(&mut self, key: &'static str, value: &str) {
        self.maybe_text(key, Some(value).filter(|value| !value.is_empty()));
    }

    #[expect(clippy::cast_possible_truncation, reason = "one decimal digit")]
    fn number(&mut self, key: &'static str, value: u64) {
        let out = self.key(key);
        if value < 10 {
            out.push(b'0' + value as u8);
        } else {
            push_number(out, value);
        }
    }

    fn maybe_number(&mut self, key: &'static str, value: Option<u64>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.null(key),
        }
    }

    /// A number with a fraction; what is no number is null.
    fn figure(&mut self, key: &'static str, value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            return self.null(key);
        };
        let out = self.key(key);
        // Writing to a vector does not fail.
        let _ = write!(out, "{value}");
    }

    pub(crate) fn flag(&mut self, key: &'static str, value: bool) {
        self.key(key).extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub(crate) fn null(&mut self, key: &'static str) {
        self.key(key).extend_from_slice(b"null");
    }

    /// Microseconds as milliseconds with three decimals.
    fn ms(&mut self, key: &'static str, value_us: Option<u64>) {
        let Some(value_us) = value_us else { return self.null(key) };
        let out = self.key(key);
        push_number(out, value_us / 1000);
        let rest = value_us % 1000;
        out.extend_from_slice(&[
            b'.',
            b'0' + (rest / 100) as u8,
            b'0' + (rest / 10 % 10) as u8,
            b'0' + (rest % 10) as u8,
        ]);
    }

    fn usd(&mut self, key: &'static str, nusd: Option<u64>) {
        let Some(nusd) = nusd else { return self.null(key) };
        let out = self.key(key);
        out.push(b'"');
        push_usd(out, nusd, 9);
        out.push(b'"');
    }

    pub(crate) fn object(&mut self, key: &'static str, fill: impl FnOnce(&mut Object<'_>)) {
        let mut inner = Object::open(self.key(key));
        fill(&mut inner);
        inner.close();
    }

    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        items: impl Iterator<Item = T>,
        mut fill: impl FnMut(&mut Vec<u8>, T),
    ) {
        let out = self.key(key);
        out.push(b'[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            fill(out, item);
        }
        out.push(b']');
    }

    fn empty_list(&mut self, key: &'static str) {
        self.key(key).extend_from_slice(b"[]");
    }

    pub(crate) fn close(self) {
        match self.out.get_mut(self.start) {
            Some(first) => *first = b'{',
            None => self.out.push(b'{'),
        }
        self.out.push(b'}');
    }
}

/// Write the record of a request that went through the gate.
#[expect(clippy::too_many_arguments, reason = "one caller for each kind of end")]
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
    record.number(key!("status"), u64::from(status));
    push_error(&mut record, error);
    let last = plan.attempts.get(plan.serving());
    let serving = last.filter(|_| error.is_none_or(|_| plan.relayed_bytes > 0));
    match serving {
        Some(attempt) => {
            let (leaf, provider) = plan.target_of(attempt);
            record.text(key!("provider"), &provider.name);
            record.text(key!("model"), &leaf.model);
        }
        None => {
            record.null(key!("provider"));
            record.null(key!("model"));
        }
    }
    record.maybe_text(key!("provider_key"), plan.provider_key_fingerprint().as_deref());
    match last.and_then(|attempt| attempt.usage.as_ref()) {
        Some(usage) => record.object(key!("usage"), |object| push_usage(object, usage)),
        None => record.null(key!("usage")),
    }
    match plan.total_cost() {
        Some(cost) => record.object(key!("cost"), |object| {
            object.usd(key!("input_usd"), Some(cost.input_nusd));
            object.usd(key!("output_usd"), Some(cost.output_nusd));
            object.usd(key!("total_usd"), Some(cost.input_nusd + cost.output_nusd));
            let shadow = plan.shadow_cost();
            object
                .usd(key!("shadow_usd"), shadow.map(|cost| cost.input_nusd + cost.output_nusd));
            object.text(key!("price_version"), plan.price_version());
        }),
        None => record.null(key!("cost")),
    }
    record.object(key!("latency"), |object| {
        object.number(key!("overhead_us"), plan.overhead_us());
        let first_us = last.filter(|_| serving.is_some()).and_then(|attempt| attempt.first_us);
        object.ms(key!("ttft_ms"), first_us.map(|at| at.saturating_sub(subject.started_us)));
        object.ms(key!("total_ms"), Some(now_us.saturating_sub(subject.started_us)));
    });
    record.list(key!("budgets"), plan.budgets.tallies().iter(), |out, tally| {
        push_tally(out, plan, tally);
    });
    record.text(key!("cache"), "MISS");
    record.object(key!("decision"), |object| push_decision(object, plan, serving.is_some()));
    record.list(key!("attempts"), plan.attempts.iter().enumerate(), |out, (index, attempt)| {
        push_attempt(out, plan, index, attempt);
    });
    if store == StoreBodies::Metadata {
        record.object(key!("sizes"), |object| {
            object.number(key!("request_bytes"), request.len() as u64);
            object.number(key!("response_bytes"), plan.relayed_bytes);
            object.number(key!("messages"), u64::from(plan.facts.messages));
            object.flag(key!("tools"), plan.facts.has_tools);
            object.flag(key!("images"), plan.facts.has_images);
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
    record.number(key!("status"), u64::from(status));
    push_error(&mut record, Some((kind, refused.refusal.code, &refused.refusal.message)));
    record.null(key!("provider"));
    record.null(key!("model"));
    record.null(key!("usage"));
    record.null(key!("cost"));
    record.object(key!("latency"), |object| {
        object.number(key!("overhead_us"), now_us.saturating_sub(subject.started_us));
        object.null(key!("ttft_ms"));
        object.ms(key!("total_ms"), Some(now_us.saturating_sub(subject.started_us)));
    });
    record.empty_list(key!("budgets"));
    record.null(key!("cache"));
    record.object(key!("decision"), |object| {
        object.text(key!("reason"), refused.refusal.code);
        object.text(key!("summary"), "refused");
        object.empty_list(key!("path"));
        object.empty_list(key!("candidates"));
        object.empty_list(key!("rules"));
        object.null(key!("variant"));
        object.null(key!("downgraded_from"));
        object.null(key!("fitted_to"));
        object.null(key!("tokens_by"));
        object.object(key!("inputs"), |_| {});
        object.null(key!("state_ref"));
    });
    record.empty_list(key!("attempts"));
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
    record.text(key!("id"), &subject.id);
    record.number(key!("ts"), subject.ts_us);
    let project = subject.project.map(|project| snapshot.projects[project].name.as_str());
    record.maybe_text(key!("project"), project);
    record.maybe_text(key!("key_id"), subject.key.as_ref().map(|key| key.id.as_str()));
    match &subject.route {
        Some((route, version)) => {
            let out = record.key(key!("route"));
            // A slug from a file is checked there; nothing else may break the record.
            let at = out.len();
            push_json_text(out, &route.slug);
            out.insert(at + 1, b'@');
            record.number(key!("route_version"), u64::from(version.version));
        }
        None => {
            record.null(key!("route"));
            record.null(key!("route_version"));
        }
    }
    record.flag(key!("pinned"), subject.pinned);
    let hash =
        subject.route.as_ref().map_or(&snapshot.config_hash, |(_, version)| &version.hash);
    record.text(key!("config_hash"), hash);
    record.maybe_text(key!("resolved"), subject.resolved_auto.then_some("auto"));
    record.named(key!("strategy"), subject.strategy);
    record.named(key!("model_requested"), &subject.model_requested);
    record.flag(key!("stream"), subject.stream);
    record.text(key!("path"), &subject.path);
    record.object(key!("tags"), |object| {
        for (name, value) in &subject.tags {
            // A tag's name is the caller's: it has to be escaped like any text.
            object.out.push(b',');
            push_json_text(object.out, name);
            object.out.push(b':');
            push_json_text(object.out, value);
        }
    });
    let end_user = match &subject.end_user {
        Some(user) if snapshot.server.hash_end_users => Some(snapshot.hash_end_user(user)),
        other => other.clone(),
    };
    record.maybe_text(key!("end_user"), end_user.as_deref());
    record.maybe_text(key!("trace_id"), subject.trace_id.as_deref());
    record.maybe_text(key!("conversation_id"), subject.conversation_id.as_deref());
    record.maybe_text(key!("client_ip"), subject.client_ip.as_deref());
    record.maybe_text(key!("sdk"), subject.sdk.as_deref());
    record.maybe_number(key!("sdk_retry"), subject.sdk_retry);
    record.list(key!("warnings"), subject.warnings.iter(), |out, warning| {
        push_json_text(out, warning);
    });
}

fn push_error(record: &mut Object<'_>, error: Option<(&str, &str, &str)>) {
    match error {
        Some((kind, code, message)) => record.object(key!("error"), |object| {
            object.text(key!("type"), kind);
            object.text(key!("code"), code);
            object.text(key!("message"), message);
        }),
        None => record.null(key!("error")),
    }
}

fn push_usage(object: &mut Object<'_>, usage: &Usage) {
    object.number(key!("input_tokens"), usage.input_tokens);
    object.number(key!("cached_tokens"), usage.cached_tokens);
    object.number(key!("cache_write_tokens"), usage.cache_write_tokens);
    object.number(key!("cache_write_1h_tokens"), 0);
    object.number(key!("audio_input_tokens"), usage.audio_input_tokens);
    object.number(key!("image_input_tokens"), usage.image_input_tokens);
    object.number(key!("output_tokens"), usage.output_tokens);
    object.number(key!("reasoning_tokens"), usage.reasoning_tokens);
    object.number(key!("audio_output_tokens"), usage.audio_output_tokens);
    object.text(key!("source"), "provider");
}

/// `primary`, `secondary`, `third`, …, then `attempt_9`.
fn ordinal(index: usize) -> String {
    ORDINALS
        .get(index)
        .map_or_else(|| format!("attempt_{}", index + 1), |word| (*word).to_owned())
}

/// How an attempt reads in the reason: `timeout`, `503`, `healthy`.
fn verdict(attempt: &Attempt) -> String {
    match (attempt.outcome.map(Outcome::name), attempt.status) {
        (Some("ok"), _) => "healthy".to_owned(),
        (Some("http_error"), Some(status)) => status.to_string(),
        (Some("connect_error"), _) => "unreachable".to_owned(),
        (Some(word), _) => word.to_owned(),
        (None, _) => "unfinished".to_owned(),
    }
}

fn push_tally(out: &mut Vec<u8>, plan: &Plan, tally: &Tally) {
    let budget = plan.snapshot.budgets.get(tally.budget);
    let mut object = Object::open(out);
    object.text(key!("name"), &budget.name);
    object.maybe_text(key!("subject"), tally.subject.as_deref());
    object.text(key!("action"), budget.action.name());
    object.usd(key!("held_usd"), Some(tally.held_nusd));
    object.usd(key!("charged_usd"), Some(tally.charged_nusd));
    object.usd(key!("overrun_usd"), Some(tally.overrun_nusd));
    object.usd(key!("remaining_usd"), Some(tally.remaining_nusd));
    object.close();
}

fn push_decision(object: &mut Object<'_>, plan: &Plan, served: bool) {
    let flat = plan.choice.flat.flat();
    let decision = &plan.choice.decision;
    let own = plan.attempts.iter().filter(|attempt| attempt.role != Role::Shadow).count();
    let sole = own == 1 && served && plan.budgets.downgraded.is_none();
    let is_first = decision.order.first() == Some(&0);
    let reason: Cow<'static, str> = match flat.strategy {
        _ if plan.attempts.is_empty() && decision.order.is_empty() => why_nobody(plan),
        Strategy::Direct if sole => "model named by the caller".into(),
        Strategy::Single if sole => "the only target".into(),
        Strategy::Fallback if sole && is_first => "primary healthy".into(),
        Strategy::Fallback | Strategy::Single | Strategy::Direct if !plan.is_dry => {
            told(plan).into()
        }
        _ if plan.is_dry || plan.attempts.is_empty() => plan.first_reason(),
        _ if sole => plan.attempts[0].reason.clone(),
        _ => format!("{}: {}", plan.attempts[0].reason, told(plan)).into(),
    };
    let downgraded = plan.budgets.downgraded.as_ref();
    match downgraded {
        Some(left) => {
            object.text(key!("reason"), &format!("{} over budget, {reason}", left.from));
        }
        None => object.text(key!("reason"), &reason),
    }
    let name = flat.strategy.name();
    let summary = if served {
        format!("{name} -> attempt_{}", plan.serving() + 1)
    } else if plan.is_dry && plan.choice.first().is_some() {
        format!("{name} -> attempt_1")
    } else {
        format!("{name} -> none")
    };
    object.text(key!("summary"), &summary);
    let leaf = match plan.attempts.get(plan.serving()) {
        Some(attempt) => Some(attempt.target()),
        None => plan.choice.first().map(|leaf| &flat.leaves[leaf]),
    };
    let path = match (leaf, decision.stopped) {
        (Some(leaf), _) => &leaf.path,
        (None, Some(Stop::Blocked(config, _) | Stop::NoRule(config))) => {
            &flat.configs[config].path
        }
        (None, None) => flat.configs.first().map_or(&[][..], |config| &config.path),
    };
    object.list(key!("path"), path.iter(), |out, step| push_json_text(out, step));
    let left = downgraded.map(|downgraded| &downgraded.choice);
    let choices = || left.into_iter().chain(std::iter::once(&plan.choice));
    let candidates = choices().flat_map(|choice| {
        let decision = &choice.decision;
        choice
            .flat
            .flat()
            .leaves
            .iter()
            .zip(decision.candidates.iter().zip(&decision.state.leaves))
    });
    object.list(key!("candidates"), candidates, |out, (leaf, (candidate, state))| {
        push_candidate(out, leaf, candidate, state);
    });
    let rules = choices().flat_map(|choice| {
        choice.decision.rules.iter().map(move |result| (choice.flat.flat(), result))
    });
    object.list(key!("rules"), rules, |out, (flat, result)| push_rule(out, flat, result));
    object.maybe_text(key!("variant"), plan.variant());
    object.maybe_text(key!("downgraded_from"), downgraded.map(|left| left.from.as_str()));
    object.maybe_number(key!("fitted_to"), plan.limit_sent());
    object.maybe_text(key!("tokens_by"), decision.tokens_by());
    push_inputs(object, plan);
}

/// What a dry run shows: the decision, the attempts as they would be made, the budgets' view.
pub(crate) fn dry_run(plan: &Plan, attempts: &[DryAttempt], budgets: &[DryBudget]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    let mut object = Object::open(&mut out);
    object.object(key!("decision"), |decision| push_decision(decision, plan, false));
    let flat = plan.choice.flat.flat();
    object.list(key!("attempts"), attempts.iter().enumerate(), |out, (index, attempt)| {
        let leaf = &flat.leaves[attempt.leaf];
        let state = &plan.choice.decision.state.leaves[attempt.leaf];
        let mut object = Object::open(out);
        object.number(key!("index"), index as u64 + 1);
        object.text(key!("target"), &leaf.label);
        object.text(key!("provider"), &plan.snapshot.providers[leaf.provider].name);
        object.text(key!("model"), &leaf.model);
        object.number(key!("timeout_ms"), leaf.timeout_ms);
        object.number(key!("est_input_tokens"), state.input_tokens);
        object.number(key!("est_output_tokens"), state.output_tokens);
        object.usd(key!("est_cost_usd"), state.cost_nusd);
        object.usd(key!("bound_usd"), attempt.bound_nusd);
        object.close();
    });
    object.list(key!("budgets"), budgets.iter(), |out, dry| {
        let budget = plan.snapshot.budgets.get(dry.budget);
        let mut object = Object::open(out);
        object.text(key!("name"), &budget.name);
        object.maybe_text(key!("subject"), dry.subject.as_deref());
        object.text(key!("verdict"), dry.verdict);
        object.usd(key!("remaining_usd"), Some(dry.remaining_nusd));
        object.maybe_number(key!("fitted_max_tokens"), dry.fitted_max_tokens);
        object.close();
    });
    object.close();
    out
}

pub(crate) fn push_rule(out: &mut Vec<u8>, flat: &Flat, result: &RuleResult) {
    let mut rule = Object::open(out);
    rule.number(key!("index"), result.index as u64);
    rule.text(key!("expr"), flat.rule_text(result.config, result.index));
    match result.result {
        Some(holds) => rule.flag(key!("result"), holds),
        None => rule.null(key!("result")),
    }
    rule.close();
}

/// How each attempt went: `primary timeout, secondary healthy`.
fn why_nobody(plan: &Plan) -> Cow<'static, str> {
    match plan.choice.decision.stopped {
        Some(Stop::Blocked(config, rule)) => {
            let why = plan.choice.flat.flat().block_reason(config, rule).unwrap_or_default();
            format!("rules[{rule}] blocks: {why}").into()
        }
        Some(Stop::NoRule(_)) => "no rule matched".into(),
        None => "nobody may serve".into(),
    }
}

fn told(plan: &Plan) -> String {
    let attempts = plan.attempts.iter().enumerate();
    let attempts = attempts.filter(|(_, attempt)| attempt.role != Role::Shadow);
    let told: Vec<String> = attempts
        .map(|(index, attempt)| format!("{} {}", ordinal(index), verdict(attempt)))
        .collect();
    told.join(", ")
}

pub(crate) fn push_candidate(
    out: &mut Vec<u8>,
    leaf: &Leaf,
    candidate: &Candidate,
    state: &TargetState,
) {
    let mut object = Object::open(out);
    object.text(key!("target"), &leaf.label);
    object.flag(key!("eligible"), candidate.reject_reason.is_none());
    object.maybe_text(key!("reject_reason"), candidate.reject_reason);
    object.usd(key!("est_cost_usd"), state.cost_nusd);
    let latency_us = state.ttft_us.or(state.total_us);
    object.ms(key!("latency_ms"), latency_us.map(whole_us));
    object.text(key!("health"), state.health_name());
    object.figure(key!("score"), candidate.score);
    object.close();
}

#[expect(clippy::cast_possible_truncation, reason = "a latency is far below 2^64 µs")]
#[expect(clippy::cast_sign_loss, reason = "a latency is positive")]
fn whole_us(us: f32) -> u64 {
    us as u64
}

/// The figures that this decision read, so that it can be made again from its record.
fn push_inputs(object: &mut Object<'_>, plan: &Plan) {
    let decision = &plan.choice.decision;
    let state = &decision.state;
    let flat = plan.choice.flat.flat();
    object.object(key!("inputs"), |inputs| {
        inputs.number(key!("unix_s"), state.unix_s.unsigned_abs());
        if !decision.rules.is_empty() && !state.budgets.is_empty() {
            inputs.list(key!("budgets"), state.budgets.iter(), |out, budget| {
                let mut object = Object::open(out);
                object.text(key!("name"), &budget.name);
                object.usd(key!("spent_usd"), Some(budget.spent_nusd));
                object.usd(key!("held_usd"), Some(budget.held_nusd));
                object.usd(key!("allowed_usd"), Some(budget.allowed_nusd));
                object.flag(key!("tightest"), budget.is_tightest);
                object.close();
            });
        }
        let is_plain = |target: &TargetState| {
            target.health == Health::Closed && target.keys == Keys::Usable && !target.is_stalled
        };
        // Where only health is asked for, all being well is all there is to say.
        let is_read = flat.needs.costs || flat.needs.latency || !state.named.is_empty();
        if is_read || !state.leaves.iter().all(is_plain) {
            inputs.list(key!("targets"), state.leaves.iter(), push_target_state);
            if !state.named.is_empty() {
                let named = flat.named.iter().zip(&state.named);
                inputs.list(key!("named"), named, |out, (named, state)| {
                    let mut object = Object::open(out);
                    object.text(key!("model"), &named.model);
                    push_figures(&mut object, state);
                    object.close();
                });
            }
        }
        if decision.read_tokens {
            match state.tokens {
                Tokens::Between { least, most } => {
                    inputs.figure(key!("tokens_least"), Some(least));
                    inputs.figure(key!("tokens_most"), Some(most));
                }
                Tokens::Counted(tokens) | Tokens::Estimated(tokens) => {
                    inputs.figure(key!("tokens"), Some(tokens));
                }
            }
        }
    });
    object.null(key!("state_ref"));
}

fn push_target_state(out: &mut Vec<u8>, state: &TargetState) {
    let mut object = Object::open(out);
    push_figures(&mut object, state);
    object.close();
}

fn push_figures(object: &mut Object<'_>, state: &TargetState) {
    object.text(key!("health"), state.health.name());
    if let Health::Open { since_us, is_due } = state.health {
        object.number(key!("open_since_us"), since_us);
        object.flag(key!("is_due"), is_due);
    }
    match state.keys {
        Keys::Usable => {}
        Keys::Cooling { until_us } => object.number(key!("cooling_until_us"), until_us),
        Keys::Rejected => object.flag(key!("keys_rejected"), true),
    }
    if state.is_stalled {
        object.flag(key!("is_stalled"), true);
    }
    let ms = |us: Option<f32>| us.map(|us| f64::from(us) / US_PER_MS);
    for (key, value) in [
        (key!("error_rate"), state.error_rate.map(f64::from)),
        (key!("ttft_ms"), ms(state.ttft_us)),
        (key!("total_ms"), ms(state.total_us)),
        (key!("p50_ms"), state.p50_ms.map(f64::from)),
    ] {
        if value.is_some() {
            object.figure(key, value);
        }
    }
    if state.in_flight > 0 {
        object.number(key!("in_flight"), u64::from(state.in_flight));
    }
    if state.cost_nusd.is_some() || state.input_tokens > 0 {
        object.number(key!("input_tokens"), state.input_tokens);
        object.number(key!("cached_tokens"), state.cached_tokens);
        object.number(key!("output_tokens"), state.output_tokens);
        object.usd(key!("cost_usd"), state.cost_nusd);
    }
}

fn push_attempt(out: &mut Vec<u8>, plan: &Plan, index: usize, attempt: &Attempt) {
    let (leaf, provider) = plan.target_of(attempt);
    let since =
        |at_us: Option<u64>| at_us.map(|at_us| at_us.saturating_sub(attempt.started_us));
    let mut object = Object::open(out);
    object.number(key!("index"), index as u64 + 1);
    object.text(key!("target"), &leaf.label);
    object.text(key!("provider"), &provider.name);
    object.text(key!("model"), &leaf.model);
    object.text(key!("role"), attempt.role.name());
    object.maybe_text(key!("outcome"), attempt.outcome.map(Outcome::name));
    object.maybe_number(key!("status"), attempt.status.map(u64::from));
    object.text(key!("reason"), &attempt.reason);
    let started_us = attempt.started_us.saturating_sub(plan.subject.started_us);
    object.ms(key!("started_ms"), Some(started_us));
    object.ms(key!("connect_ms"), attempt.sent_us.map(|_| attempt.connect_us()));
    object.ms(key!("ttft_ms"), since(attempt.first_us));
    object.ms(key!("total_ms"), since(attempt.ended_us));
    object.number(key!("timeout_ms"), attempt.limit_ms);
    match &attempt.usage {
        Some(usage) => object.object(key!("usage"), |inner| push_usage(inner, usage)),
        None => object.null(key!("usage")),
    }
    let cost_nusd = attempt.cost.map(|cost| cost.input_nusd + cost.output_nusd);
    object.usd(key!("cost_usd"), cost_nusd);
    object.usd(key!("held_usd"), attempt.held_nusd);
    object.maybe_text(key!("held_by"), attempt.held_by.map(HeldBy::name));
    object.maybe_text(key!("request_id"), attempt.request_id.as_deref());
    // Without a budget nothing is settled: what is known is what the provider said.
    let unbudgeted = attempt.usage.as_ref().map(|_| SettledBy::Usage);
    let settled_by = attempt.settled_by.or(unbudgeted);
    object.maybe_text(key!("settled_by"), settled_by.map(SettledBy::name));
    object.close();
}
