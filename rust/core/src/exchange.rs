//! One exchange after the gate let it in: attempts, their answers, and the record at the end.
//!
//! A `Plan` is a state machine without a socket: bytes and faults of the upstream go in, what to
//! write to the caller comes out (`Step`). Python moves the bytes and asks `next` where to go when
//! an attempt failed; nothing has been relayed then. Once a content byte was relayed there is no
//! other attempt: a failure cuts the answer visibly.
//!
//! ```text
//!            head complete            whole, or content seen
//!   Head ───────────────► Held ──────────────────────────────► Ended
//!    │                     │ │ larger than 1 MiB, or content
//!    │                     │ └──────────► Passing ─────────────► Ended
//!    └──────── Failed ◄────┘                 └── Cut ──────────► Ended
//! ```

mod answer_head;
mod attempts;
mod choice;
mod dry;
mod gather;
mod hold;
mod settle;
mod together;
mod weigh;

use std::cell::Cell;
use std::rc::Rc;

use crate::answer;
use crate::attempt::{Attempt, Outcome, Role};
use crate::chunked::Decoder;
use crate::date::push_date_line;
use crate::digits::push_hex;
use crate::fields::{passes_back, starts_with_ignoring_case, travels};
use crate::gate::Gate;
use crate::head::{self, Framing, Parse, RequestHead, ResponseHead};
use crate::inflate;
use crate::live::SizeClass;
use crate::pricing::Price;
use crate::record;
use crate::request::{Choice, FlatRef};
use crate::route::{World, size_class};
use crate::routing::{FailedBy, Leaf};
use crate::scan::{Facts, IDENTIFIER_BYTES_MAX};
use crate::snapshot::{Provider, Snapshot};
use crate::sse::Follower;
use crate::subject::{Endpoint, RateState, Subject};
use crate::usage::{Usage, usage_of_tail};

pub(crate) use dry::{DryAttempt, DryBudget};
use gather::{Deferred, Gather, Mirror};
use weigh::{Aside, Onward, Parked};

use hold::Share;
pub use hold::{BudgetShown, Matched, Stopped, Tally, Verdict};
pub(crate) use hold::{Evidence, Hold};

/// Longest head of a provider's answer.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// An answer that is not a stream is held whole up to here, so that a cut one can fail over.
pub const UNARY_HOLD_BYTES_MAX: usize = 1024 * 1024;

/// What a stream may send before its first content byte; more counts as content.
pub const STREAM_HOLD_BYTES_MAX: usize = 64 * 1024;

/// Interim (1xx) answers before the final one.
pub const INTERIM_ANSWERS_MAX: u32 = 16;

/// Kept of one streamed answer for the trace.
pub const STREAM_KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Kept of the end of an answer that is too large to be held: its usage stands there.
const TAIL_BYTES_MAX: usize = 16 * 1024;

/// What the record says where the caller hung up.
const CLIENT_CLOSED: (&str, &str, &str) =
    ("invalid_request_error", "client_closed", "the caller closed the connection");

/// What the shell tells of an attempt that did not go on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No connection could be made.
    Connect,
    /// A deadline passed.
    Timeout,
    /// The connection broke.
    Reset,
    /// The provider ended the connection in order.
    Eof,
    /// The caller went away.
    CallerGone,
    /// This process has to end.
    Shutdown,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    More,
    /// Write this; more will come.
    Write(Vec<u8>),
    /// Write this; the answer is complete and recorded.
    Done(Vec<u8>),
    /// The attempt failed and nothing was relayed: ask `next`.
    Failed,
    /// Write this, then close so that the caller sees the cut; recorded.
    Cut(Vec<u8>),
}

/// How the caller's answer is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delimited {
    Length,
    Chunked,
    Close,
}

#[derive(Debug)]
enum Phase {
    Head,
    Held,
    Passing(Delimited),
    Ended,
}

enum Body {
    Length(u64),
    Chunked(Decoder),
    UntilClose,
}

/// How far a stream that is read before anybody gets it has come.
enum Reading {
    On,
    Whole,
    Large,
    Failed,
}

/// What the head of an answer said.
struct AnswerHead {
    status: u16,
    reason: String,
    lines: Vec<u8>,
    retry_after: Option<String>,
    sse: bool,
    json: bool,
    encoding: Option<String>,
    length: Option<u64>,
    keep_alive: bool,
}

/// Counts a plan among those in flight for as long as it lives or until it ends.
pub(crate) struct InFlight(Rc<Cell<u32>>);

impl InFlight {
    pub(crate) fn enter(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        assert!(self.0.get() > 0, "a plan was counted out twice");
        self.0.set(self.0.get() - 1);
    }
}

/// One exchange from the gate to its record.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one exchange")]
pub struct Plan {
    pub(crate) snapshot: Rc<Snapshot>,
    pub(crate) endpoint: Endpoint,
    pub(crate) subject: Subject,
    pub(crate) choice: Choice,
    pub(crate) facts: Facts,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) relayed_bytes: u64,
    /// What decisions read, and what outcomes teach.
    pub(crate) world: World,
    /// Slot of this worker.
    worker: u32,
    /// Decide only: nothing is held, nobody is called.
    pub(crate) is_dry: bool,
    /// What a provider's prompt cache would know this conversation by; 0 where nobody asks.
    prefix: u64,
    /// How long the prompt is, for comparing latencies.
    class: SizeClass,
    /// The decision waits for the tokens of the text.
    counts_for_rules: bool,
    /// What its calls are for.
    role: Role,
    /// An earlier attempt than the last one, whose answer stands.
    served_by: Option<usize>,
    /// An answer that was read and not yet sent.
    parked: Option<Parked>,
    /// What comes after it.
    onward: Option<Onward>,
    /// The request's own facts, while a judge is asked.
    aside: Option<Aside>,
    /// Its answer is for the exchange that made it, not for a caller.
    is_captured: bool,
    /// How much of what its budgets have left it may take.
    share: Share,
    /// The ensemble that it is a member of, and which one.
    member_of: Option<(usize, usize)>,
    /// When the ensemble that it is a call of waits no longer, and which limit that is, in
    /// milliseconds.
    ends: Option<(u64, u64)>,
    /// Members under way, and what came of them.
    gather: Option<Gather>,
    /// What it sends, where that is not the caller's body.
    own_body: Option<Vec<u8>>,
    /// A retry is not sent before this instant.
    not_before_us: u64,
    /// Mirrored traffic that the record waits for.
    mirror: Mirror,
    rate: Option<RateState>,
    consumed: usize,
    head_bytes: usize,
    lines: Vec<u8>,
    query: String,
    http_1_0: bool,
    keep_alive: bool,
    provider_key: Option<String>,
    tries_here: u32,
    tried_fresh: bool,
    /// A key was used that its provider had refused, or told to wait: nobody else was left.
    tried_marked: bool,
    /// When the first attempt of each config began that limits all of its attempts together.
    entered_us: Vec<(usize, u64)>,
    price: Option<Price>,
    phase: Phase,
    pending: Vec<u8>,
    interim: u32,
    answer: Option<AnswerHead>,
    body: Body,
    held: Vec<u8>,
    decoded: Vec<u8>,
    follower: Option<Follower>,
    kept: Vec<u8>,
    /// The answer is encoded: what it says cannot be counted.
    is_encoded: bool,
    deadline_us: u64,
    reusable: bool,
    may_go_on: bool,
    recorded: Option<(u16, u64)>,
    in_flight: Option<InFlight>,
    /// The provider that the caller's own key is for: that of the first target.
    key_provider: Option<usize>,
    pub(crate) budgets: Matched,
    /// What is held for the current attempt.
    hold: Option<Hold>,
    /// The caller is gone, and the answer is read on for its usage: until then.
    drains_until_us: Option<u64>,
}

impl Plan {
    #[expect(
        clippy::too_many_arguments,
        reason = "called from one place, with what it just made"
    )]
    pub(crate) fn new(
        snapshot: Rc<Snapshot>,
        world: World,
        endpoint: Endpoint,
        subject: Subject,
        facts: Facts,
        flat: FlatRef,
        rate: Option<RateState>,
        head: &RequestHead<'_>,
        consumed: usize,
        in_flight: InFlight,
        worker: u32,
    ) -> Self {
        let mut lines = Vec::with_capacity(512);
        let mut has_type = false;
        for (name, value) in head.raw_headers() {
            if travels(name) && !head.is_nominated(name) {
                has_type |= name.eq_ignore_ascii_case(b"content-type");
                lines.extend_from_slice(name);
                lines.extend_from_slice(b": ");
                lines.extend_from_slice(value);
                lines.extend_from_slice(b"\r\n");
            }
        }
        if !has_type {
            lines.extend_from_slice(b"content-type: application/json\r\n");
        }
        let provider_key = head
            .header("x-modelux-provider-key")
            .and_then(|value| std::str::from_utf8(value).ok())
            .filter(|key| !key.is_empty())
            .map(str::to_owned);
        let mut plan = Self::bare(
            snapshot,
            world,
            endpoint,
            subject,
            facts,
            choice::undecided(flat),
            worker,
        );
        plan.rate = rate;
        plan.consumed = consumed;
        plan.head_bytes = head.head_bytes;
        plan.lines = lines;
        head.query.clone_into(&mut plan.query);
        plan.http_1_0 = head.minor_version == 0;
        plan.keep_alive = head.keep_alive;
        plan.provider_key = provider_key;
        plan.in_flight = Some(in_flight);
        plan
    }

    /// A plan that nothing has happened to yet.
    fn bare(
        snapshot: Rc<Snapshot>,
        world: World,
        endpoint: Endpoint,
        subject: Subject,
        facts: Facts,
        choice: Choice,
        worker: u32,
    ) -> Self {
        let class = size_class(&facts);
        Self {
            snapshot,
            endpoint,
            subject,
            choice,
            facts,
            attempts: Vec::with_capacity(2),
            relayed_bytes: 0,
            world,
            worker,
            is_dry: false,
            prefix: 0,
            class,
            counts_for_rules: false,
            role: Role::Serve,
            served_by: None,
            parked: None,
            onward: None,
            aside: None,
            is_captured: false,
            share: Share::All,
            member_of: None,
            ends: None,
            gather: None,
            not_before_us: 0,
            own_body: None,
            mirror: Mirror::Nothing,
            rate: None,
            consumed: 0,
            head_bytes: 0,
            lines: Vec::new(),
            query: String::new(),
            http_1_0: false,
            keep_alive: true,
            provider_key: None,
            tries_here: 0,
            tried_fresh: false,
            tried_marked: false,
            entered_us: Vec::new(),
            price: None,
            phase: Phase::Head,
            pending: Vec::new(),
            interim: 0,
            answer: None,
            body: Body::UntilClose,
            held: Vec::new(),
            decoded: Vec::new(),
            follower: None,
            kept: Vec::new(),
            is_encoded: false,
            deadline_us: u64::MAX,
            reusable: false,
            may_go_on: true,
            recorded: None,
            in_flight: None,
            key_provider: None,
            budgets: Matched::default(),
            hold: None,
            drains_until_us: None,
        }
    }

    /// Bytes of the caller's input that this request took.
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Where the body lies in the caller's input, unless it came chunked.
    #[must_use]
    pub fn body_range(&self) -> std::ops::Range<usize> {
        self.head_bytes..self.consumed
    }

    /// Version of the price data behind the costs.
    pub(crate) fn price_version(&self) -> &str {
        self.world.catalogue.version()
    }

    /// The request id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.subject.id
    }

    /// Index of the provider that the current attempt goes to.
    #[must_use]
    pub fn provider_index(&self) -> usize {
        self.leaf().provider
    }

    /// Time for the connection of the current attempt, in milliseconds.
    #[must_use]
    pub fn connect_timeout_ms(&self) -> u64 {
        self.leaf().connect_timeout_ms
    }

    /// The monotonic instant at which the current attempt has taken too long, whatever it does.
    #[must_use]
    pub fn deadline_us(&self) -> u64 {
        self.deadline_us
    }

    /// May the upstream connection serve another request.
    #[must_use]
    pub fn reusable(&self) -> bool {
        self.reusable
    }

    /// May the caller's connection serve another request.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Close the caller's connection after this answer; used while draining.
    pub fn forbid_keep_alive(&mut self) {
        self.keep_alive = false;
    }

    /// Is the end of the connection the end of the body, so that only a reset shows a cut.
    #[must_use]
    pub fn ends_by_close(&self) -> bool {
        matches!(self.phase, Phase::Passing(Delimited::Close)) || self.http_1_0
    }

    /// Does the current attempt go with a key that the caller brought.
    #[must_use]
    pub fn has_provider_key(&self) -> bool {
        !self.attempts.is_empty() && self.provider_key_for(self.leaf().provider).is_some()
    }

    /// The caller's own provider key, where this provider is the one that it was brought for.
    ///
    /// That is the first target's. A failover to another provider goes with our credential: a key
    /// is never shown to somebody else's server.
    fn provider_key_for(&self, provider: usize) -> Option<&str> {
        self.provider_key.as_deref().filter(|_| self.key_provider == Some(provider))
    }

    /// The caller's own provider key as the record may show it: `sk-proj-...TA0A`.
    #[must_use]
    pub fn provider_key_fingerprint(&self) -> Option<String> {
        self.provider_key.as_deref().map(fingerprint)
    }

    /// Must the current attempt have a connection of its own.
    #[must_use]
    pub fn wants_fresh_connection(&self) -> bool {
        self.tried_fresh
    }

    /// All attempts so far.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// State of a limited key.
    #[must_use]
    pub fn rate(&self) -> Option<RateState> {
        self.rate
    }

    /// Which attempt's answer the caller gets: the last one, unless an earlier one stands.
    #[must_use]
    pub(crate) fn serving(&self) -> usize {
        self.served_by.unwrap_or(self.attempts.len().saturating_sub(1))
    }

    /// What is known of the request.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    fn leaf(&self) -> &Leaf {
        match self.attempts.last() {
            Some(attempt) => attempt.target(),
            None => &self.choice.flat.flat().leaves[self.choice.first().unwrap_or(0)],
        }
    }

    /// How an attempt's target is written, for messages.
    #[must_use]
    pub fn target_of<'p>(&'p self, attempt: &'p Attempt) -> (&'p Leaf, &'p Provider) {
        let leaf = attempt.target();
        (leaf, &self.snapshot.providers[leaf.provider])
    }

    fn attempt(&mut self) -> &mut Attempt {
        let last = self.attempts.len() - 1;
        &mut self.attempts[last]
    }

    /// Take in bytes of the answer.
    pub fn answer(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        input: &[u8],
        now_us: u64,
    ) -> Step {
        let step = self.take_in(gate, request_body, input, now_us);
        let step = self.drained(gate, request_body, step, now_us);
        self.follow_hold(gate);
        step
    }

    fn take_in(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        input: &[u8],
        now_us: u64,
    ) -> Step {
        let attempt = self.attempt();
        attempt.bytes_received += input.len() as u64;
        if !attempt.is_answered {
            attempt.is_answered = true;
            let target = attempt.live;
            self.world.live.waited(target, self.worker, Some(now_us));
        }
        if !matches!(self.phase, Phase::Head) {
            return self.take_body(gate, request_body, input, now_us);
        }
        if self.pending.is_empty() {
            return self.take_head(gate, request_body, input, now_us);
        }
        let mut whole = std::mem::take(&mut self.pending);
        whole.extend_from_slice(input);
        self.take_head(gate, request_body, &whole, now_us)
    }

    fn take_head(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        input: &[u8],
        now_us: u64,
    ) -> Step {
        let mut rest = input;
        loop {
            let head = match head::parse_response(rest, HEAD_BYTES_MAX, false) {
                Parse::Partial => {
                    self.pending.extend_from_slice(rest);
                    return Step::More;
                }
                Parse::Refused(_) => {
                    return self.fail(
                        Outcome::Malformed,
                        FailedBy::Reset,
                        Evidence::Cut,
                        now_us,
                    );
                }
                Parse::Done(head) => head,
            };
            rest = &rest[head.head_bytes..];
            if (100..200).contains(&head.status) {
                self.interim += 1;
                if head.status == 101 || self.interim > INTERIM_ANSWERS_MAX {
                    return self.fail(
                        Outcome::Malformed,
                        FailedBy::Reset,
                        Evidence::Cut,
                        now_us,
                    );
                }
                continue;
            }
            self.open(&head, now_us);
            return self.take_body(gate, request_body, rest, now_us);
        }
    }

    /// Keep what the rest of the answer needs of its head.
    fn open(&mut self, head: &ResponseHead<'_>, now_us: u64) {
        let mut lines = Vec::with_capacity(256);
        let mut answer = AnswerHead {
            status: head.status,
            reason: head.reason.to_owned(),
            lines: Vec::new(),
            retry_after: None,
            sse: false,
            json: false,
            encoding: None,
            length: None,
            keep_alive: head.keep_alive,
        };
        let text = |value: &[u8]| std::str::from_utf8(value).ok().map(str::to_owned);
        let mut has_date = false;
        for (name, value) in head.raw_headers() {
            if !passes_back(name, head.status) {
                continue;
            }
            if name.eq_ignore_ascii_case(b"content-type") {
                answer.sse = starts_with_ignoring_case(value, b"text/event-stream");
                answer.json = starts_with_ignoring_case(value, b"application/json");
            } else if name.eq_ignore_ascii_case(b"content-encoding") {
                answer.encoding = text(value).filter(|encoding| encoding != "identity");
            } else if name.eq_ignore_ascii_case(b"retry-after") {
                answer.retry_after = text(value);
            } else if name.eq_ignore_ascii_case(b"x-request-id") {
                let request_id = text(value).filter(|id| id.len() <= IDENTIFIER_BYTES_MAX);
                self.attempt().request_id = request_id;
            }
            if head.is_nominated(name) {
                // For us to read, not to pass on.
                continue;
            }
            has_date |= name.eq_ignore_ascii_case(b"date");
            lines.extend_from_slice(name);
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(value);
            lines.extend_from_slice(b"\r\n");
        }
        if !has_date {
            // RFC 9110 section 6.6.1: who has a clock adds it for who has none.
            let since_us = now_us.saturating_sub(self.subject.started_us);
            push_date_line(&mut lines, (self.subject.ts_us + since_us) / 1_000_000);
        }
        answer.lines = lines;
        self.is_encoded = answer.encoding.is_some();
        if !answer.sse || self.is_encoded {
            // A stream was asked for and something else came: there is nothing to follow.
            self.follower = None;
        }
        self.body = match head.framing {
            Framing::None => Body::Length(0),
            Framing::Length(length) => {
                answer.length = Some(length);
                Body::Length(length)
            }
            Framing::Chunked => Body::Chunked(Decoder::new()),
            Framing::UntilClose => Body::UntilClose,
        };
        let attempt = self.attempt();
        attempt.status = Some(head.status);
        attempt.retry_after.clone_from(&answer.retry_after);
        self.answer = Some(answer);
        self.phase = Phase::Held;
    }

    /// Decode body bytes from `input` into `self.decoded`. Returns whether the body is complete,
    /// and how many bytes of `input` lie behind its end.
    fn decode(&mut self, input: &[u8]) -> Result<(bool, usize), ()> {
        self.decoded.clear();
        match &mut self.body {
            Body::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                self.decoded.extend_from_slice(&input[..take]);
                *left -= take as u64;
                Ok((*left == 0, input.len() - take))
            }
            Body::Chunked(decoder) => {
                let progress = decoder.feed(input, &mut self.decoded).map_err(|_| ())?;
                Ok((progress.done, input.len() - progress.consumed))
            }
            Body::UntilClose => {
                self.decoded.extend_from_slice(input);
                Ok((false, 0))
            }
        }
    }

    fn take_body(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        input: &[u8],
        now_us: u64,
    ) -> Step {
        if matches!(self.phase, Phase::Ended) {
            // Bytes behind a complete answer belong to nobody.
            self.reusable = false;
            return Step::More;
        }
        // The common answer: not a stream, its length known, all of it in one read.
        if let (Body::Length(length), true, Some(answer)) =
            (&self.body, self.held.is_empty(), &self.answer)
            && answer.status < 400
            && !answer.sse
            && matches!(self.phase, Phase::Held)
            && usize::try_from(*length)
                .is_ok_and(|length| length <= input.len() && length <= UNARY_HOLD_BYTES_MAX)
        {
            let (body, behind) = input.split_at(usize::try_from(*length).unwrap_or(0));
            self.reusable = answer.keep_alive && behind.is_empty();
            self.attempt().first_us.get_or_insert(now_us);
            return self.complete_whole(gate, request_body, body, now_us);
        }
        // What lies before a fault counts, or the outcome would depend on how the network cut it.
        let decoded = self.decode(input);
        let (complete, behind) = decoded.unwrap_or((false, 0));
        let step = self.take_decoded(gate, request_body, complete, behind, now_us);
        let written = match step {
            Step::More if decoded.is_err() => Vec::new(),
            Step::Write(bytes) if decoded.is_err() => bytes,
            step => return step,
        };
        match self.broken(gate, request_body, Outcome::Malformed, FailedBy::Reset, now_us) {
            Step::Cut(rest) => Step::Cut([written, rest].concat()),
            step => {
                assert!(written.is_empty(), "an attempt that wrote is cut, not failed");
                step
            }
        }
    }

    /// Go on with `self.decoded`, the newest bytes of the body.
    fn take_decoded(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        complete: bool,
        behind: usize,
        now_us: u64,
    ) -> Step {
        let Some(answer) = &self.answer else { return Step::More };
        if complete {
            // What lies behind the end was never asked for: the connection is not used again.
            self.reusable = answer.keep_alive && behind == 0;
        }
        if answer.status >= 400 {
            return self.take_error(complete, now_us);
        }
        if answer.sse && answer.encoding.is_none() {
            if self.follower.is_none() {
                let mut follower = Follower::new(false);
                follower.count_text(self.counts_text());
                self.follower = Some(follower);
            }
            self.take_stream(gate, request_body, complete, now_us)
        } else {
            self.take_whole(gate, request_body, complete, now_us)
        }
    }

    fn take_error(&mut self, complete: bool, now_us: u64) -> Step {
        let decoded = std::mem::take(&mut self.decoded);
        self.held.extend_from_slice(&decoded);
        self.decoded = decoded;
        if self.attempt().first_us.is_none() {
            self.attempt().first_us = Some(now_us);
            self.set_deadline(now_us);
        }
        if !complete && self.held.len() <= UNARY_HOLD_BYTES_MAX {
            return Step::More;
        }
        self.reusable &= complete;
        self.fail_by_status(complete, now_us)
    }

    /// The answer's status says it failed; its body, whole or not, is kept for the caller.
    fn fail_by_status(&mut self, whole: bool, now_us: u64) -> Step {
        let mut body = std::mem::take(&mut self.held);
        let encoding = self.answer.as_ref().and_then(|answer| answer.encoding.as_deref());
        if let Some(plain) = encoding.and_then(|encoding| inflate::decode(encoding, &body)) {
            body = plain;
        }
        let attempt = self.attempt();
        attempt.error_body = body;
        attempt.error_is_whole = whole;
        let status = attempt.status.unwrap_or(500);
        // A whole head that says so is the proof that nothing is billed.
        self.fail(Outcome::HttpError, FailedBy::Status(status), Evidence::Nothing, now_us)
    }

    /// An answer that is not a stream: held until complete or too large.
    fn take_whole(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        complete: bool,
        now_us: u64,
    ) -> Step {
        if !self.decoded.is_empty() && self.attempt().first_us.is_none() {
            self.attempt().first_us = Some(now_us);
        }
        self.set_deadline(now_us);
        if let Phase::Passing(delimited) = self.phase {
            let decoded = std::mem::take(&mut self.decoded);
            let mut out = Vec::with_capacity(decoded.len() + 32);
            self.relay(delimited, &decoded, &mut out);
            self.keep_tail(&decoded);
            self.decoded = decoded;
            if complete {
                return self.complete_passing(gate, request_body, delimited, out, now_us);
            }
            return if out.is_empty() { Step::More } else { Step::Write(out) };
        }
        if complete && self.held.is_empty() {
            let body = std::mem::take(&mut self.decoded);
            let step = self.complete_whole(gate, request_body, &body, now_us);
            self.decoded = body;
            return step;
        }
        let decoded = std::mem::take(&mut self.decoded);
        self.held.extend_from_slice(&decoded);
        self.decoded = decoded;
        if complete {
            let body = std::mem::take(&mut self.held);
            return self.complete_whole(gate, request_body, &body, now_us);
        }
        // An encoded stream cannot be followed, and a caller who streams does not want it at once.
        let is_stream = self.answer.as_ref().is_some_and(|answer| answer.sse);
        if self.held.is_empty() || (!is_stream && self.held.len() <= UNARY_HOLD_BYTES_MAX) {
            return Step::More;
        }
        if self.is_captured || self.aside.is_some() {
            return self.fail(Outcome::Malformed, FailedBy::Reset, Evidence::Cut, now_us);
        }
        if self.reads_whole() {
            // Too much to be read before somebody gets it.
            self.subject.warnings.push("cascade_unread");
        }
        let mut out = Vec::new();
        let head = self.held.len().saturating_sub(TAIL_BYTES_MAX);
        let tail = self.held[head..].to_vec();
        self.begin_passing(false, &mut out);
        self.held = tail;
        Step::Write(out)
    }

    /// Keep the end of what is passed on where nothing else is held any more.
    fn keep_tail(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..]);
        if self.held.len() > 2 * TAIL_BYTES_MAX {
            self.held.drain(..self.held.len() - TAIL_BYTES_MAX);
        }
    }

    /// The whole answer is there: price it, write our head, record it.
    fn complete_whole(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        body: &[u8],
        now_us: u64,
    ) -> Step {
        let Some(answer) = self.answer.take() else { return Step::More };
        let (usage, readable) = match &answer.encoding {
            Some(encoding) => match inflate::decode(encoding, body) {
                Some(plain) if answer.json => answer::read_answer(&plain),
                // An encoding that we cannot undo is still the caller's to read.
                _ => (None, true),
            },
            // A 204 says that there is no body, whatever type it names. Anything else that calls
            // itself a success has to be JSON: a page in HTML from somebody's edge is none.
            None if answer.json && answer.status != 204 => answer::read_answer(body),
            None if (200..300).contains(&answer.status) && !body.is_empty() => {
                answer::read_answer(body)
            }
            None => (None, true),
        };
        if !readable && (200..300).contains(&answer.status) {
            // What a broken answer says was generated all the same.
            let evidence =
                if answer.json { Evidence::Whole(None, body) } else { Evidence::Cut };
            return self.fail(Outcome::Malformed, FailedBy::Reset, evidence, now_us);
        }
        if !self.has_right_dimensions(body) {
            let evidence = Evidence::Whole(usage, body);
            return self.fail(Outcome::Malformed, FailedBy::Reset, evidence, now_us);
        }
        self.settle(Outcome::Ok, Evidence::Whole(usage, body), now_us);
        if self.reads_whole() {
            return self.weigh(gate, request_body, answer, body.to_vec(), false, now_us);
        }
        let out = self.write_whole(&answer, body, false);
        self.relayed_bytes = body.len() as u64;
        self.end();
        self.record(gate, answer.status, request_body, body, None, now_us);
        Step::Done(out)
    }

    /// Stop holding: send the head and what is held, and pass on the rest as it comes.
    fn begin_passing(&mut self, stream: bool, out: &mut Vec<u8>) {
        let Some(answer) = self.answer.take() else { return };
        let length = if stream { None } else { answer.length };
        let delimited = match (length, self.http_1_0) {
            (Some(_), _) => Delimited::Length,
            (None, false) => Delimited::Chunked,
            (None, true) => Delimited::Close,
        };
        if delimited == Delimited::Close {
            self.keep_alive = false;
        }
        let mut held = std::mem::take(&mut self.held);
        out.reserve(held.len() + answer.lines.len() + 640);
        self.push_head(&answer, length, false, out);
        self.phase = Phase::Passing(delimited);
        self.relay(delimited, &held, out);
        held.clear();
        self.held = held;
        self.answer = Some(answer);
    }

    /// Frame body bytes for the caller.
    fn relay(&mut self, delimited: Delimited, bytes: &[u8], out: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.relayed_bytes += bytes.len() as u64;
        let room = STREAM_KEPT_BYTES_MAX.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if delimited == Delimited::Chunked {
            push_hex(out, bytes.len() as u64);
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(bytes);
        }
    }

    fn complete_passing(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        delimited: Delimited,
        mut out: Vec<u8>,
        now_us: u64,
    ) -> Step {
        if delimited == Delimited::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        let kept = std::mem::take(&mut self.kept);
        let usage = match self.answer.as_ref().and_then(|answer| answer.encoding.as_deref()) {
            Some(encoding) if kept.len() as u64 == self.relayed_bytes => {
                let is_sse = self.answer.as_ref().is_some_and(|answer| answer.sse);
                usage_of_encoded(encoding, &kept, is_sse)
            }
            Some(_) => None,
            None if self.follower.is_none() => usage_of_tail(&self.held),
            None => self.follower.as_ref().and_then(Follower::last_usage),
        };
        self.settle(Outcome::Ok, Evidence::Whole(usage, &kept), now_us);
        let status = self.answer.as_ref().map_or(200, |answer| answer.status);
        self.end();
        self.record(gate, status, request_body, &kept, None, now_us);
        Step::Done(out)
    }

    /// A stream: held until its first content byte, then relayed as it comes.
    fn take_stream(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        complete: bool,
        now_us: u64,
    ) -> Step {
        let Some(follower) = &mut self.follower else { return Step::More };
        let mut relay = std::mem::take(&mut self.held);
        follower.feed(&self.decoded, &mut relay);
        if complete {
            follower.finish(&mut relay);
        }
        let content = follower.content_seen();
        let error = follower.error_event().map(answer::error_status);
        let ended_well = follower.done_seen() || follower.finish_reason_seen();
        let mut out = Vec::new();
        if let Phase::Passing(delimited) = self.phase {
            out.reserve(relay.len() + 32);
            self.relay(delimited, &relay, &mut out);
            relay.clear();
            self.held = relay;
        } else {
            self.held = relay;
            match error {
                Some(status) if !content => return self.fail_in_stream(status, now_us),
                _ => {}
            }
            if complete && !ended_well && !content {
                // It ended before it began: nothing was relayed, so another target may serve.
                return self.fail(Outcome::Reset, FailedBy::Reset, Evidence::Cut, now_us);
            }
            if !content && !complete && self.held.len() <= STREAM_HOLD_BYTES_MAX {
                return Step::More;
            }
            self.attempt().first_us.get_or_insert(now_us);
            if self.reads_whole() {
                match self.read_on(complete, ended_well, now_us) {
                    Reading::On => return Step::More,
                    Reading::Failed => return Step::Failed,
                    Reading::Whole => {
                        let usage = self.follower.as_ref().and_then(Follower::last_usage);
                        let body = std::mem::take(&mut self.held);
                        self.settle(Outcome::Ok, Evidence::Whole(usage, &body), now_us);
                        let Some(head) = self.answer.take() else { return Step::Failed };
                        return self.weigh(gate, request_body, head, body, true, now_us);
                    }
                    // Too much to be read before somebody gets it.
                    Reading::Large => self.subject.warnings.push("cascade_unread"),
                }
            }
            self.begin_passing(true, &mut out);
        }
        self.set_deadline(now_us);
        let Phase::Passing(delimited) = self.phase else { return Step::More };
        if error.is_some() {
            // The provider's own error event went out with the rest; nothing may follow it.
            return self.cut(gate, request_body, out, Outcome::Interrupted, now_us);
        }
        match (complete, ended_well) {
            (false, _) if out.is_empty() => Step::More,
            (false, _) => Step::Write(out),
            (true, true) => self.complete_passing(gate, request_body, delimited, out, now_us),
            (true, false) => self.cut_after(gate, request_body, out, now_us),
        }
    }

    /// Go on reading a stream that nobody gets before it is whole.
    fn read_on(&mut self, complete: bool, ended_well: bool, now_us: u64) -> Reading {
        if complete && ended_well {
            return Reading::Whole;
        }
        let is_large = self.held.len() > UNARY_HOLD_BYTES_MAX;
        let has_error = self.follower.as_ref().is_some_and(|seen| seen.error_event().is_some());
        if complete || has_error || (is_large && (self.is_captured || self.aside.is_some())) {
            // Nothing was relayed, so another target may serve.
            self.reusable &= complete && !has_error;
            self.fail(Outcome::Reset, FailedBy::Reset, Evidence::Cut, now_us);
            return Reading::Failed;
        }
        if is_large {
            return Reading::Large;
        }
        self.set_deadline(now_us);
        Reading::On
    }

    /// Has every vector of an embedding the length that the config promises?
    fn has_right_dimensions(&self, body: &[u8]) -> bool {
        let Some(wanted) =
            self.leaf().dimensions.filter(|_| self.endpoint == Endpoint::Embeddings)
        else {
            return true;
        };
        answer::vector_length(body).is_none_or(|length| length == wanted)
    }

    /// An error event came before any content: as good as an answer with that status.
    fn fail_in_stream(&mut self, status: u16, now_us: u64) -> Step {
        let body =
            self.follower.as_ref().and_then(Follower::error_event).unwrap_or_default().to_vec();
        self.reusable = false;
        let attempt = self.attempt();
        attempt.status = Some(status);
        attempt.error_body = body;
        attempt.error_is_whole = true;
        // Its head said 200: that an error event is not billed is likely, but no proof.
        self.fail(Outcome::HttpError, FailedBy::Status(status), Evidence::Cut, now_us)
    }

    /// Something went wrong outside the bytes.
    pub fn fault(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        fault: Fault,
        now_us: u64,
    ) -> Step {
        let step = self.take_fault(gate, request_body, fault, now_us);
        let step = self.drained(gate, request_body, step, now_us);
        self.follow_hold(gate);
        step
    }

    fn take_fault(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        fault: Fault,
        now_us: u64,
    ) -> Step {
        if matches!(self.phase, Phase::Ended) {
            return Step::More;
        }
        self.reusable = false;
        if self.gather.is_some() || self.attempts.is_empty() {
            return self.leave_unsent(gate, request_body, fault, now_us);
        }
        match fault {
            // All of it has been written: what its reader does then changes nothing.
            Fault::CallerGone | Fault::Shutdown if self.stream_is_whole() => {
                self.take_eof(gate, request_body, now_us)
            }
            Fault::CallerGone if self.may_drain() => {
                self.drain(now_us);
                Step::More
            }
            Fault::CallerGone => {
                self.give_in(gate, request_body, now_us);
                Step::Cut(Vec::new())
            }
            Fault::Connect => {
                let evidence = Evidence::Nothing;
                self.fail(Outcome::ConnectError, FailedBy::Connect, evidence, now_us)
            }
            Fault::Eof if self.ends_at_close() => self.take_eof(gate, request_body, now_us),
            Fault::Eof | Fault::Reset => {
                if self.stream_is_whole() {
                    return self.take_eof(gate, request_body, now_us);
                }
                self.broken(gate, request_body, Outcome::Reset, FailedBy::Reset, now_us)
            }
            Fault::Timeout => {
                if self.stream_is_whole() {
                    return self.take_eof(gate, request_body, now_us);
                }
                // A connection that was never made is a connect failure: nothing was sent.
                if self.attempt().sent_us.is_none() {
                    let evidence = Evidence::Nothing;
                    return self.fail(Outcome::Timeout, FailedBy::Connect, evidence, now_us);
                }
                self.broken(gate, request_body, Outcome::Timeout, FailedBy::Timeout, now_us)
            }
            Fault::Shutdown => {
                self.may_go_on = false;
                self.broken(gate, request_body, Outcome::Interrupted, FailedBy::Reset, now_us)
            }
        }
    }

    /// Nothing is under way here: its calls have ended, or none has begun.
    fn leave_unsent(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        fault: Fault,
        now_us: u64,
    ) -> Step {
        if fault == Fault::CallerGone {
            self.end();
            self.record(gate, 499, request_body, b"", Some(CLIENT_CLOSED), now_us);
            return Step::Cut(Vec::new());
        }
        self.may_go_on = false;
        self.gather = None;
        self.stop(Stopped::plain(
            "overloaded",
            "this instance could not finish the request: it is shutting down, or too slow"
                .to_owned(),
        ));
        Step::Failed
    }

    /// Is the close of the connection the end that the head announced.
    fn ends_at_close(&self) -> bool {
        self.answer.is_some() && matches!(self.body, Body::UntilClose)
    }

    /// Has a stream said all it had to say, so that how its connection ends changes nothing.
    fn stream_is_whole(&self) -> bool {
        matches!(self.phase, Phase::Passing(_))
            && self.follower.as_ref().is_some_and(Follower::done_seen)
    }

    fn take_eof(&mut self, gate: &mut Gate, request_body: &[u8], now_us: u64) -> Step {
        self.body = Body::Length(0);
        let step = self.take_body(gate, request_body, &[], now_us);
        self.reusable = false;
        step
    }

    /// The attempt broke. Before anything was relayed another may serve; after it, a cut.
    fn broken(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        outcome: Outcome,
        failed_by: FailedBy,
        now_us: u64,
    ) -> Step {
        self.reusable = false;
        if let Phase::Passing(_) = self.phase {
            let mut tail = Vec::new();
            if let Some(follower) = &mut self.follower {
                follower.finish(&mut tail);
            }
            let mut out = Vec::new();
            if let Phase::Passing(delimited) = self.phase {
                self.relay(delimited, &tail, &mut out);
            }
            return self.cut_after(gate, request_body, out, now_us);
        }
        if self.attempt().status.is_some_and(|status| status >= 400) {
            // The head was complete: that is the answer, however its body ended.
            return self.fail_by_status(false, now_us);
        }
        self.fail(outcome, failed_by, Evidence::Cut, now_us)
    }

    /// Cut a relayed answer short: with one error event where the last byte ends an event.
    fn cut_after(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        mut out: Vec<u8>,
        now_us: u64,
    ) -> Step {
        let at_boundary = self.follower.as_ref().is_some_and(Follower::at_event_boundary)
            && self
                .answer
                .as_ref()
                .is_some_and(|answer| answer.sse && answer.encoding.is_none());
        if let (true, Phase::Passing(delimited)) = (at_boundary, &self.phase) {
            let delimited = *delimited;
            let event = format!(
                "data: {{\"error\": {{\"message\": \"the provider's stream ended before it was complete\", \"type\": \"upstream_error\", \"param\": null, \"code\": \"stream_interrupted\", \"request_id\": \"{}\"}}}}\n\n",
                self.subject.id
            );
            self.relay(delimited, event.as_bytes(), &mut out);
        }
        self.cut(gate, request_body, out, Outcome::Interrupted, now_us)
    }

    fn cut(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        out: Vec<u8>,
        outcome: Outcome,
        now_us: u64,
    ) -> Step {
        self.reusable = false;
        self.keep_alive = false;
        self.settle(outcome, Evidence::Cut, now_us);
        let status = self.answer.as_ref().map_or(200, |answer| answer.status);
        // The phase is kept until after the cut: it says whether only a reset can show it.
        self.in_flight = None;
        let kept = std::mem::take(&mut self.kept);
        let error = (
            "upstream_error",
            "stream_interrupted",
            "the provider's stream ended before it was complete",
        );
        self.record(gate, status, request_body, &kept, Some(error), now_us);
        Step::Cut(out)
    }

    fn fail(
        &mut self,
        outcome: Outcome,
        failed_by: FailedBy,
        evidence: Evidence<'_>,
        now_us: u64,
    ) -> Step {
        self.attempt().failed_by = Some(failed_by);
        self.settle(outcome, evidence, now_us);
        Step::Failed
    }

    /// The caller is gone: end the exchange with what is known of it.
    fn give_in(&mut self, gate: &mut Gate, request_body: &[u8], now_us: u64) {
        let mut outcome = Outcome::Cancelled;
        if let Some((ends_us, limit_ms)) = self.ends
            && now_us >= ends_us
        {
            // It was the ensemble's own time that ended it.
            outcome = Outcome::Timeout;
            let attempt = self.attempt();
            attempt.failed_by = Some(FailedBy::Timeout);
            attempt.limit_ms = limit_ms;
        }
        self.settle(outcome, Evidence::Cut, now_us);
        self.end();
        let kept = std::mem::take(&mut self.kept);
        self.record(gate, 499, request_body, &kept, Some(CLIENT_CLOSED), now_us);
    }

    fn record(
        &mut self,
        gate: &mut Gate,
        status: u16,
        request_body: &[u8],
        response_body: &[u8],
        error: Option<(&str, &str, &str)>,
        now_us: u64,
    ) {
        if self.is_captured {
            // What it did becomes part of another record.
            return;
        }
        assert!(self.recorded.is_none(), "an exchange is recorded once");
        // Nobody reads what an answer says that is only read on for its usage.
        let (status, error) = match self.drains_until_us {
            Some(_) => (499, Some(CLIENT_CLOSED)),
            None => (status, error),
        };
        self.recorded = Some((status, now_us.saturating_sub(self.subject.started_us)));
        if matches!(self.mirror, Mirror::Due) {
            if status >= 400 || self.drains_until_us.is_some() {
                // Nobody has got an answer.
                self.mirror = Mirror::Nothing;
            } else {
                let owned = |(kind, code, message): (&str, &str, &str)| {
                    (kind.to_owned(), code.to_owned(), message.to_owned())
                };
                self.mirror = Mirror::UnderWay(Some(Deferred {
                    status,
                    response: response_body.to_vec(),
                    error: error.map(owned),
                    now_us,
                }));
                return;
            }
        }
        record::served(
            &mut gate.ring,
            &mut gate.scratch,
            self,
            status,
            request_body,
            response_body,
            error,
            now_us,
        );
    }

    /// Status and total time in microseconds, once the exchange is recorded.
    #[must_use]
    pub fn recorded(&self) -> Option<(u16, u64)> {
        self.recorded
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.in_flight = None;
    }

    /// The body of the last attempt's error answer, scrubbed of the key that was sent, and whether
    /// it is whole.
    #[must_use]
    pub fn error_body(&self) -> (String, bool) {
        let Some(last) = self.attempts.last() else { return (String::new(), false) };
        let (_, provider) = self.target_of(last);
        let text = String::from_utf8_lossy(&last.error_body);
        let mut text = provider.credentials[last.credential].scrub(&text);
        if let Some(key) = &self.provider_key {
            text = text.replace(key.as_str(), "[redacted]");
        }
        (text, last.error_is_whole)
    }

    /// `Retry-After` of the last attempt's error answer.
    #[must_use]
    pub fn error_retry_after(&self) -> Option<&str> {
        self.attempts.last().and_then(|last| last.retry_after.as_deref())
    }

    /// Nobody could serve: write the record of what the caller was told instead.
    ///
    /// # Panics
    /// If the exchange is over, or an answer is on its way to the caller.
    pub fn give_up(
        &mut self,
        gate: &mut Gate,
        request_body: &[u8],
        status: u16,
        error: (&str, &str, &str),
        now_us: u64,
    ) {
        assert!(
            !matches!(self.phase, Phase::Ended | Phase::Passing(_)),
            "given up once, in time"
        );
        assert!(self.hold.is_none(), "what failed has been settled");
        self.end();
        self.record(gate, status, request_body, b"", Some(error), now_us);
    }

    /// A bug of ours ended this exchange: write what is known of it, once, and end its hold.
    pub fn abandon(&mut self, gate: &mut Gate, request_body: &[u8], now_us: u64) {
        self.reusable = false;
        let is_open = self.attempts.last().is_some_and(|last| last.outcome.is_none());
        if is_open || self.has_open_hold() {
            self.settle(Outcome::Interrupted, Evidence::Cut, now_us);
        }
        // Also where the bug lay in writing the record: a hold would outlive its exchange.
        self.follow_hold(gate);
        if self.recorded.is_some() {
            return;
        }
        self.end();
        let error = ("internal_error", "internal_error", "modelux failed at this request");
        self.record(gate, 500, request_body, b"", Some(error), now_us);
    }
}

/// The usage in an encoded answer, decoded on the side.
fn usage_of_encoded(encoding: &str, body: &[u8], is_sse: bool) -> Option<Usage> {
    let plain = inflate::decode(encoding, body)?;
    if !is_sse {
        return answer::read_answer(&plain).0;
    }
    let mut follower = Follower::new(false);
    let mut relayed = Vec::with_capacity(plain.len());
    follower.feed(&plain, &mut relayed);
    follower.finish(&mut relayed);
    follower.last_usage()
}

/// A secret as people may see it: its family and its last four characters; short ones not at all.
fn fingerprint(secret: &str) -> String {
    const SHOWN_BYTES_MIN: usize = 24;
    if secret.len() < SHOWN_BYTES_MIN || !secret.is_ascii() {
        return "...".to_owned();
    }
    let family = secret.match_indices('-').map(|(at, _)| at + 1).take(2).last().unwrap_or(0);
    format!("{}...{}", &secret[..family.min(8)], &secret[secret.len() - 4..])
}
