//! The gate: everything of a request up to its outgoing head, in one call.
//!
//! `Gate::begin` reads the head, finds the key, scans the body, chooses the target and writes the
//! bytes that go upstream. What it returns is a `Plan` (see `exchange`), a refusal, an answer that
//! needs no provider, or how many bytes are still missing. It holds no socket and no clock: times
//! come in as arguments. One gate belongs to one worker process.

use std::borrow::Cow;
use std::cell::Cell as StdCell;
use std::rc::Rc;

use crate::cells::{Cell, Cells, Mode};
use crate::exchange::{InFlight, Plan};
use crate::head::{self, Framing, Parse, RequestHead};
use crate::patch;
use crate::pricing::Catalogue;
use crate::record;
use crate::ring::RingWriter;
use crate::routing::Flat;
use crate::scan::{self, Facts, ScanFault, Shape};
use crate::snapshot::{Key, Route, Snapshot, StoreBodies, Version};

/// Tags of one request, header and body together.
pub const TAGS_COUNT_MAX: usize = 32;
/// Bytes of a tag's key.
pub const TAG_KEY_BYTES_MAX: usize = 64;
/// Bytes of a tag's value.
pub const TAG_VALUE_BYTES_MAX: usize = 256;
/// Bytes of an end user, a trace id, a conversation id.
pub const IDENTIFIER_BYTES_MAX: usize = 512;

/// Where a request goes, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
}

impl Endpoint {
    /// The path below a provider's base path.
    #[must_use]
    pub fn upstream_path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
            Self::Embeddings => "/embeddings",
        }
    }

    fn shape(self) -> Shape {
        match self {
            Self::Chat => Shape::Chat,
            Self::Completions => Shape::Completions,
            Self::Embeddings => Shape::Embeddings,
        }
    }
}

/// Why a request goes nowhere. `code` is the public `error.code`; the status and the shape of the
/// answer are Python's (`modelux/errors.py`, `proxy/reply.py`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Public code.
    pub code: &'static str,
    /// What is wrong and what to do, for the caller.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// Value of `Allow`, with `method_not_allowed`.
    pub allow: Option<&'static str>,
    /// Value of `Retry-After` in seconds, rounded up.
    pub retry_after_s: Option<u64>,
}

impl Refusal {
    /// A refusal without extras.
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, allow: None, retry_after_s: None }
    }

    /// The same, naming the field at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }
}

/// State of a limited key, for the `x-ratelimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    /// Requests a minute.
    pub limit: u32,
    /// Left in the burst.
    pub remaining: u32,
    /// Until the burst is whole again.
    pub reset_us: u64,
}

/// What is known of a request, whatever becomes of it: the part of the record that does not
/// depend on attempts.
#[derive(Default, Clone)]
pub struct Subject {
    /// UUIDv7 as text.
    pub id: String,
    /// Wall clock at the arrival of the whole request.
    pub ts_us: u64,
    /// Monotonic clock at the same instant.
    pub started_us: u64,
    /// Index of the project, once the key is known.
    pub project: Option<usize>,
    /// The key, once it is known.
    pub key: Option<Rc<Key>>,
    /// The routing config that was named, and its version.
    pub route: Option<(Rc<Route>, Rc<Version>)>,
    /// Was the version pinned by the caller.
    pub pinned: bool,
    /// Was the provider inferred from a bare model name.
    pub resolved_auto: bool,
    /// Strategy name, or empty.
    pub strategy: &'static str,
    /// The caller's `model`.
    pub model_requested: String,
    /// Did the caller ask for a stream.
    pub stream: bool,
    /// Tags, merged.
    pub tags: Vec<(String, String)>,
    /// End user.
    pub end_user: Option<String>,
    /// Caller's trace id.
    pub trace_id: Option<String>,
    /// Caller's conversation id.
    pub conversation_id: Option<String>,
    /// Address of the caller, if kept.
    pub client_ip: Option<String>,
    /// `OpenAI/Python 1.2.3`, from the user agent.
    pub sdk: Option<String>,
    /// `x-stainless-retry-count`.
    pub sdk_retry: Option<u64>,
    /// Method and path.
    pub path: Cow<'static, str>,
    /// What was dropped or changed.
    pub warnings: Vec<&'static str>,
}

/// What `begin` came to.
pub enum Begin {
    /// More bytes are needed before anything can be said.
    Partial {
        /// Bytes of the whole request once its length is known, else 0.
        need_bytes: usize,
        /// The caller waits for `100 Continue`.
        expect_continue: bool,
    },
    /// The body is chunked: decode what follows these bytes, then call again with the body.
    Chunked {
        /// Where the head ends.
        head_bytes: usize,
        /// The caller waits for `100 Continue`.
        expect_continue: bool,
    },
    /// An answer without a provider: 200 and JSON, or a bare status.
    Local(Local),
    /// An error.
    Refused(Box<Refused>),
    /// Go.
    Plan(Box<Plan>),
}

/// An answer that the gate gives by itself.
pub struct Local {
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Vec<u8>,
    /// Bytes of input that this request took.
    pub consumed: usize,
    /// May the connection serve another request.
    pub keep_alive: bool,
    /// `HEAD`: send the head only.
    pub head_only: bool,
    /// HTTP/1.0: a connection that goes on has to say so.
    pub http_1_0: bool,
    /// UUIDv7 as text.
    pub id: String,
}

/// A refused request: what to say and what to write into the record.
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// What is known of the request.
    pub subject: Subject,
    /// Bytes of input that this request took; the connection closes if the body was not read.
    pub consumed: usize,
    /// May the connection serve another request.
    pub keep_alive: bool,
    /// `HEAD`: send the head only.
    pub head_only: bool,
    /// HTTP/1.0: a connection that goes on has to say so.
    pub http_1_0: bool,
    /// State of a limited key.
    pub rate: Option<RateState>,
    /// Whether the record keeps the body.
    pub store_bodies: StoreBodies,
}

/// One worker's gate.
pub struct Gate {
    snapshot: Rc<Snapshot>,
    pub(crate) catalogue: Rc<Catalogue>,
    pub(crate) cells: Cells,
    pub(crate) ring: RingWriter,
    /// Room for one record, used again and again.
    pub(crate) scratch: Vec<u8>,
    in_flight: Rc<StdCell<u32>>,
    ids: Ids,
}

impl Gate {
    /// Put a gate together.
    #[must_use]
    pub fn new(
        snapshot: Snapshot,
        catalogue: Catalogue,
        cells: Cells,
        ring: RingWriter,
        seed: [u64; 2],
    ) -> Self {
        Self {
            snapshot: Rc::new(snapshot),
            catalogue: Rc::new(catalogue),
            cells,
            ring,
            scratch: Vec::with_capacity(4096),
            in_flight: Rc::new(StdCell::new(0)),
            ids: Ids::new(seed),
        }
    }

    /// Use another configuration from the next request on; plans under way keep theirs.
    pub fn load(&mut self, snapshot: Snapshot) {
        self.snapshot = Rc::new(snapshot);
    }

    /// The configuration in use.
    #[must_use]
    pub fn snapshot(&self) -> &Rc<Snapshot> {
        &self.snapshot
    }

    /// The shared cells.
    #[must_use]
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// Read one request from the start of `input`.
    ///
    /// `body` is the decoded body of a chunked request, once it is complete; without it the body
    /// is taken from `input`. `peer` is the caller's address.
    #[must_use]
    pub fn begin(
        &mut self,
        input: &[u8],
        body: Option<&[u8]>,
        peer: &str,
        now_us: u64,
        unix_us: u64,
    ) -> Begin {
        let snapshot = Rc::clone(&self.snapshot);
        let head = match head::parse_request(input, snapshot.server.header_bytes_max) {
            Parse::Partial => return Begin::Partial { need_bytes: 0, expect_continue: false },
            Parse::Refused(fault) => {
                let code =
                    if fault.status() == 431 { "headers_too_large" } else { "invalid_request" };
                let subject = self.subject(now_us, unix_us);
                return Self::refuse(
                    Refusal::new(code, fault.text()),
                    subject,
                    Ending::close(input.len()),
                    None,
                    StoreBodies::None,
                );
            }
            Parse::Done(head) => head,
        };
        let mut request = Request {
            snapshot: &snapshot,
            head: &head,
            subject: self.subject(now_us, unix_us),
            rate: None,
            project: None,
        };
        if snapshot.server.store_client_ip {
            request.subject.client_ip = Some(peer.to_owned());
        }
        // The head alone decides whether the body is worth reading: who is not let in is told so
        // before a byte of an upload is taken.
        let place = match request.place() {
            Ok(place) => place,
            Err(refusal) => {
                return Self::refuse_head(request, refusal, body.is_some(), input.len());
            }
        };
        if let Place::Health { ready } = place {
            return self.health(&request, ready, input.len());
        }
        let key = match request.identify(unix_us) {
            Ok(key) => key,
            Err(refusal) => {
                return Self::refuse_head(request, refusal, body.is_some(), input.len());
            }
        };
        if let Err(refusal) = request.check_size() {
            return Self::refuse_head(request, refusal, body.is_some(), input.len());
        }
        let (body, consumed) = match (head.framing, body) {
            (_, Some(body)) => (body, input.len()),
            (Framing::Chunked, None) => {
                return Begin::Chunked {
                    head_bytes: head.head_bytes,
                    expect_continue: head.expect_continue,
                };
            }
            (Framing::Length(length), None) => {
                let need = head
                    .head_bytes
                    .saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
                if input.len() < need {
                    return Begin::Partial {
                        need_bytes: need,
                        expect_continue: head.expect_continue && input.len() == head.head_bytes,
                    };
                }
                (&input[head.head_bytes..need], need)
            }
            (Framing::None | Framing::UntilClose, None) => {
                (&input[head.head_bytes..head.head_bytes], head.head_bytes)
            }
        };
        let ending = Ending {
            consumed,
            keep_alive: head.keep_alive,
            head_only: head.method == "HEAD",
            http_1_0: head.minor_version == 0,
        };
        // One count for all workers; it counts every request that came in whole, refused or not.
        if let Some(rpm) = key.rpm {
            let rate = self.cells.take(key_hash(&key.id), now_us, rpm, (rpm / 10).max(10));
            request.rate = Some(RateState {
                limit: rpm,
                remaining: rate.remaining,
                reset_us: rate.reset_us,
            });
            if !rate.allowed {
                let mut refusal = Refusal::new(
                    "rate_limited",
                    format!(
                        "this key may send {rpm} requests a minute; wait until `Retry-After` has passed"
                    ),
                );
                refusal.retry_after_s = Some(rate.retry_after_us.div_ceil(1_000_000).max(1));
                return Self::refuse_request(request, refusal, ending);
            }
        }
        let endpoint = match place {
            Place::Models => return self.models(request, &key, ending),
            Place::Model(id) => return self.model(request, &key, &id, ending),
            Place::Call(endpoint) => endpoint,
            Place::Health { .. } => unreachable!("answered above"),
        };
        match Mode::from_value(self.cells.get(Cell::Mode)) {
            Mode::CrashLoop => {
                let mut refusal = Refusal::new(
                    "crash_loop",
                    "workers keep dying: this instance refuses requests until it is calm again",
                );
                refusal.retry_after_s = Some(10);
                return Self::refuse_request(request, refusal, ending);
            }
            _ if self.in_flight.get() >= snapshot.server.max_in_flight => {
                let mut refusal = Refusal::new(
                    "overloaded",
                    format!(
                        "{} requests are in flight in this worker, its `max_in_flight`",
                        self.in_flight.get()
                    ),
                );
                refusal.retry_after_s = Some(1);
                return Self::refuse_request(request, refusal, ending);
            }
            _ => {}
        }
        match request.understand(&key, endpoint, body) {
            Err(refusal) => Self::refuse_request(request, refusal, ending),
            Ok((facts, choice)) => {
                let Request { subject, rate, .. } = request;
                let first = choice.first;
                let mut plan = Plan::new(
                    Rc::clone(&snapshot),
                    Rc::clone(&self.catalogue),
                    endpoint,
                    subject,
                    facts,
                    choice,
                    rate,
                    &head,
                    consumed,
                    InFlight::enter(&self.in_flight),
                );
                let reason = plan.first_reason();
                plan.start(first, reason, body, now_us);
                Begin::Plan(Box::new(plan))
            }
        }
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Refuse for a reason that only the shell can know, such as a caller that is too slow.
    ///
    /// `input` is what was read of the request so far.
    #[must_use]
    pub fn refuse_unread(
        &mut self,
        input: &[u8],
        code: &'static str,
        message: &str,
        now_us: u64,
        unix_us: u64,
    ) -> Begin {
        let snapshot = Rc::clone(&self.snapshot);
        let mut subject = self.subject(now_us, unix_us);
        if let Parse::Done(head) = head::parse_request(input, snapshot.server.header_bytes_max)
        {
            subject.path = shown_path(&head);
            let mut request = Request {
                snapshot: &snapshot,
                head: &head,
                subject,
                rate: None,
                project: None,
            };
            let _ = request.identify(unix_us);
            subject = request.subject;
        }
        let ending = Ending::close(input.len());
        Self::refuse(Refusal::new(code, message), subject, ending, None, StoreBodies::None)
    }

    /// Write the record of a refused request. `kind` and `code` are those of the answer.
    pub fn record_refused(
        &mut self,
        refused: &Refused,
        status: u16,
        kind: &str,
        body: &[u8],
        now_us: u64,
    ) {
        let snapshot = Rc::clone(&self.snapshot);
        record::refused(&mut self.ring, &snapshot, refused, status, kind, body, now_us);
    }

    fn subject(&mut self, now_us: u64, unix_us: u64) -> Subject {
        Subject {
            id: self.ids.next(unix_us),
            ts_us: unix_us,
            started_us: now_us,
            ..Subject::default()
        }
    }

    fn refuse(
        refusal: Refusal,
        subject: Subject,
        ending: Ending,
        rate: Option<RateState>,
        store_bodies: StoreBodies,
    ) -> Begin {
        Begin::Refused(Box::new(Refused {
            refusal,
            subject,
            consumed: ending.consumed,
            keep_alive: ending.keep_alive,
            head_only: ending.head_only,
            http_1_0: ending.http_1_0,
            rate,
            store_bodies,
        }))
    }

    /// Refuse by the head alone. The connection survives only if there is no body left to read.
    fn refuse_head(
        request: Request<'_, '_>,
        refusal: Refusal,
        body_read: bool,
        input_bytes: usize,
    ) -> Begin {
        let head = request.head;
        let (consumed, whole) = match head.framing {
            _ if body_read => (input_bytes, true),
            Framing::None => (head.head_bytes, true),
            Framing::Length(length) => {
                let end = head
                    .head_bytes
                    .saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
                (end.min(input_bytes), end <= input_bytes)
            }
            Framing::Chunked | Framing::UntilClose => (input_bytes, false),
        };
        let ending = Ending {
            consumed,
            keep_alive: head.keep_alive && whole,
            head_only: head.method == "HEAD",
            http_1_0: head.minor_version == 0,
        };
        Self::refuse_request(request, refusal, ending)
    }

    fn refuse_request(request: Request<'_, '_>, refusal: Refusal, ending: Ending) -> Begin {
        let store_bodies = request.project.map_or(StoreBodies::None, |project| {
            request.snapshot.projects[project].store_bodies
        });
        let Request { subject, rate, .. } = request;
        Self::refuse(refusal, subject, ending, rate, store_bodies)
    }

    fn health(&self, request: &Request<'_, '_>, ready: bool, input_bytes: usize) -> Begin {
        let mode = Mode::from_value(self.cells.get(Cell::Mode));
        let (status, word) = match (ready, mode) {
            (false, _) => (200, "ok"),
            (true, Mode::Ready) => (200, "ready"),
            (true, Mode::Draining) => (503, "draining"),
            (true, Mode::CrashLoop) => (503, "crash_loop"),
            (true, Mode::Starting) => (503, "starting"),
        };
        let head = request.head;
        let whole = matches!(head.framing, Framing::None | Framing::Length(0));
        Begin::Local(Local {
            status,
            body: format!("{{\"status\": \"{word}\"}}").into_bytes(),
            consumed: if whole { head.head_bytes } else { input_bytes },
            keep_alive: head.keep_alive && whole,
            head_only: head.method == "HEAD",
            http_1_0: head.minor_version == 0,
            id: request.subject.id.clone(),
        })
    }

    fn models(&self, request: Request<'_, '_>, key: &Key, ending: Ending) -> Begin {
        let ids = self.callable(key);
        let mut body = b"{\"object\": \"list\", \"data\": [".to_vec();
        for (index, (id, owner)) in ids.iter().enumerate() {
            if index > 0 {
                body.extend_from_slice(b", ");
            }
            model_object(&mut body, id, owner);
        }
        body.extend_from_slice(b"]}");
        local(request, body, ending)
    }

    fn model(&self, request: Request<'_, '_>, key: &Key, id: &str, ending: Ending) -> Begin {
        match self.callable(key).iter().find(|(known, _)| known == id) {
            Some((id, owner)) => {
                let mut body = Vec::new();
                model_object(&mut body, id, owner);
                local(request, body, ending)
            }
            None => {
                let refusal = Refusal::new(
                    "not_found",
                    format!(
                        "model `{}` is unknown; `GET /v1/models` lists what this key may call",
                        shown(id)
                    ),
                )
                .param("model");
                Self::refuse_request(request, refusal, ending)
            }
        }
    }

    /// What a key may call: routes as `@slug`, then models; each with its owner.
    fn callable(&self, key: &Key) -> Vec<(String, String)> {
        let snapshot = &self.snapshot;
        let mut ids = Vec::new();
        for slug in snapshot.slugs(key.project) {
            if key.allowed_routes.as_ref().is_none_or(|allowed| allows_route(allowed, slug)) {
                ids.push((format!("@{slug}"), "modelux".to_owned()));
            }
        }
        let auto = snapshot.projects[key.project].auto_resolve_bare_model;
        for provider in &snapshot.providers {
            let known: Vec<String> = match &provider.models {
                Some(models) => models.clone(),
                None => self.catalogue.known_models(&provider.vendor),
            };
            for model in known {
                if allows_model(key, &provider.name, &model) {
                    // The same model at two providers is listed once under its bare name.
                    let bare = auto && !ids.iter().any(|(id, _)| *id == model);
                    let id = if bare { model } else { format!("{}/{model}", provider.name) };
                    ids.push((id, provider.name.clone()));
                }
            }
        }
        ids
    }
}

#[derive(Clone, Copy)]
struct Ending {
    consumed: usize,
    keep_alive: bool,
    head_only: bool,
    http_1_0: bool,
}

impl Ending {
    /// After a fault in the framing: nobody knows where the next request begins.
    fn close(consumed: usize) -> Self {
        Self { consumed, keep_alive: false, head_only: false, http_1_0: false }
    }
}

fn local(request: Request<'_, '_>, body: Vec<u8>, ending: Ending) -> Begin {
    Begin::Local(Local {
        status: 200,
        body,
        consumed: ending.consumed,
        keep_alive: ending.keep_alive,
        head_only: ending.head_only,
        http_1_0: ending.http_1_0,
        id: request.subject.id,
    })
}

fn model_object(body: &mut Vec<u8>, id: &str, owner: &str) {
    body.extend_from_slice(b"{\"id\": ");
    record::push_json_text(body, id);
    body.extend_from_slice(b", \"object\": \"model\", \"created\": 0, \"owned_by\": ");
    record::push_json_text(body, owner);
    body.push(b'}');
}

/// A stable number for a key's id: FNV-1a, the same in every worker and every run.
fn key_hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn allows_route(allowed: &[String], slug: &str) -> bool {
    allowed.iter().any(|entry| entry.strip_prefix('@').unwrap_or(entry) == slug)
}

/// May this key reach this model there?
#[must_use]
pub fn allows_model(key: &Key, provider: &str, model: &str) -> bool {
    key.allowed_models.as_ref().is_none_or(|allowed| {
        allowed.iter().any(|entry| {
            entry == model
                || entry.split_once('/').is_some_and(|(its_provider, its_model)| {
                    its_provider == provider && (its_model == model || its_model == "*")
                })
        })
    })
}

enum Place {
    Health { ready: bool },
    Models,
    Model(String),
    Call(Endpoint),
}

/// What was chosen for a request.
pub struct Choice {
    /// The config, or one leaf without one.
    pub flat: FlatRef,
    /// For each leaf why it may not serve, or None.
    pub rejected: Vec<Option<&'static str>>,
    /// The first leaf that may serve.
    pub first: usize,
}

/// A flattened config that lives in the snapshot, or one made for this request.
pub enum FlatRef {
    /// Of a route.
    Version(Rc<Version>),
    /// Of a model that the caller named.
    Own(Flat),
}

impl FlatRef {
    /// The config.
    #[must_use]
    pub fn flat(&self) -> &Flat {
        match self {
            Self::Version(version) => &version.flat,
            Self::Own(flat) => flat,
        }
    }
}

/// One request while it is being looked at.
struct Request<'s, 'b> {
    snapshot: &'s Snapshot,
    head: &'b RequestHead<'b>,
    subject: Subject,
    rate: Option<RateState>,
    project: Option<usize>,
}

const PATHS: &str =
    "`/v1/chat/completions`, `/v1/completions`, `/v1/embeddings` and `/v1/models`";

impl Request<'_, '_> {
    /// Find out what the path stands for, and whether the method fits it.
    fn place(&mut self) -> Result<Place, Refusal> {
        let head = self.head;
        if (head.method, head.path) == ("POST", "/v1/chat/completions") {
            self.subject.path = Cow::Borrowed("POST /v1/chat/completions");
            return Ok(Place::Call(Endpoint::Chat));
        }
        self.subject.path = shown_path(head);
        let path = match head.path.strip_suffix('/') {
            Some(path) if !path.is_empty() => path,
            _ => head.path,
        };
        match path {
            "/healthz" => return self.only("GET, HEAD", Place::Health { ready: false }),
            "/readyz" => return self.only("GET, HEAD", Place::Health { ready: true }),
            _ => {}
        }
        let below =
            path.strip_prefix("/openai").filter(|rest| rest.starts_with("/v1")).unwrap_or(path);
        // Some SDKs are given a base URL with `/v1` and add their own.
        let below =
            below.strip_prefix("/v1").filter(|rest| rest.starts_with("/v1/")).unwrap_or(below);
        match below {
            // The parser lets this target pass with OPTIONS only, which nothing here takes.
            "*" => self.only("GET, HEAD, POST", Place::Models),
            "/v1/chat/completions" => self.only("POST", Place::Call(Endpoint::Chat)),
            "/v1/completions" => self.only("POST", Place::Call(Endpoint::Completions)),
            "/v1/embeddings" => self.only("POST", Place::Call(Endpoint::Embeddings)),
            "/v1/models" => self.only("GET, HEAD", Place::Models),
            other => match other.strip_prefix("/v1/models/") {
                Some(id) if !id.is_empty() => {
                    let id = percent_decode(id).ok_or_else(|| {
                        Refusal::new("not_found", "the model's name is not UTF-8")
                    })?;
                    self.only("GET, HEAD", Place::Model(id))
                }
                _ => Err(Refusal::new(
                    "not_found",
                    format!(
                        "there is nothing at `{}`; modelux serves {PATHS}",
                        shown(head.path)
                    ),
                )),
            },
        }
    }

    fn only(&self, methods: &'static str, place: Place) -> Result<Place, Refusal> {
        let method = self.head.method;
        if methods.split(", ").any(|allowed| allowed == method) {
            return Ok(place);
        }
        let mut refusal = Refusal::new(
            "method_not_allowed",
            format!(
                "`{}` does not take {}; use {methods}",
                shown(self.head.path),
                shown(method)
            ),
        );
        refusal.allow = Some(methods);
        Err(refusal)
    }

    /// Find the key. One message for unknown, revoked and expired.
    fn identify(&mut self, unix_us: u64) -> Result<Rc<Key>, Refusal> {
        let refused = || {
            Refusal::new(
                "invalid_api_key",
                "this needs a valid modelux key (`mlx_sk_...`) as `Authorization: Bearer KEY`",
            )
        };
        let mut fields = self
            .head
            .raw_headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"authorization"));
        let value = fields.next().map(|(_, value)| value).ok_or_else(refused)?;
        if fields.next().is_some() {
            return Err(refused());
        }
        let text = bearer(value).ok_or_else(refused)?;
        let key = self.snapshot.key(text).ok_or_else(refused)?;
        if key.expires_at_us.is_some_and(|expires_at_us| expires_at_us <= unix_us) {
            return Err(refused());
        }
        self.project = Some(key.project);
        self.subject.project = Some(key.project);
        self.subject.key = Some(Rc::clone(key));
        Ok(Rc::clone(key))
    }

    fn check_size(&self) -> Result<(), Refusal> {
        let is_encoded = |(name, value): (&str, &[u8])| {
            name.len() == 16
                && name.eq_ignore_ascii_case("content-encoding")
                && !value.eq_ignore_ascii_case(b"identity")
        };
        if self.head.headers().any(is_encoded) {
            return Err(Refusal::new(
                "unsupported_encoding",
                "send the body without `Content-Encoding`",
            ));
        }
        let bytes_max = self.snapshot.server.body_bytes_max;
        match self.head.framing {
            Framing::Length(length) if length > bytes_max => Err(Refusal::new(
                "body_too_large",
                format!("the body has {length} bytes; `body_bytes_max` is {bytes_max}"),
            )),
            _ => Ok(()),
        }
    }

    /// Scan the body, settle who it counts for, and choose the targets.
    fn understand(
        &mut self,
        key: &Key,
        endpoint: Endpoint,
        body: &[u8],
    ) -> Result<(Facts, Choice), Refusal> {
        let mut facts = scan::scan(body, endpoint.shape()).map_err(scan_refusal)?;
        self.attribute(key, &mut facts)?;
        let model = std::mem::take(&mut facts.model);
        let choice = self.choose(key, endpoint, &model);
        self.subject.model_requested = model;
        self.subject.stream = facts.stream;
        Ok((facts, choice?))
    }

    /// Settle tags, end user and ids: the key's word, then the headers', then the body's.
    fn attribute(&mut self, key: &Key, facts: &mut Facts) -> Result<(), Refusal> {
        let mut tags = key.tags.clone();
        let mut from_header = Vec::new();
        let mut user = None;
        let mut trace_id = None;
        let mut conversation_id = None;
        for (name, value) in self.head.raw_headers() {
            if !name.first().is_some_and(|first| matches!(first, b'x' | b'X' | b'u' | b'U')) {
                continue;
            }
            if name.eq_ignore_ascii_case(b"x-modelux-user-tags") {
                parse_tags(value, &mut from_header)?;
            } else if name.eq_ignore_ascii_case(b"x-modelux-user-id") {
                user = Some(header_text(value, "X-Modelux-User-Id")?);
            } else if name.eq_ignore_ascii_case(b"x-modelux-trace-id") {
                trace_id = Some(header_text(value, "X-Modelux-Trace-Id")?);
            } else if name.eq_ignore_ascii_case(b"x-modelux-conversation-id") {
                conversation_id = Some(header_text(value, "X-Modelux-Conversation-Id")?);
            } else if name.eq_ignore_ascii_case(b"x-stainless-retry-count") {
                self.subject.sdk_retry =
                    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            } else if name.eq_ignore_ascii_case(b"user-agent") {
                self.subject.sdk = sdk(value);
            }
        }
        for (name, value) in from_header.into_iter().chain(facts.tags.drain(..)) {
            if !tags.iter().any(|(known, _)| *known == name) {
                tags.push((name, value));
            }
        }
        for (name, value) in &tags {
            if name.len() > TAG_KEY_BYTES_MAX || value.len() > TAG_VALUE_BYTES_MAX {
                return Err(Refusal::new(
                    "invalid_tag",
                    format!(
                        "tag `{}` is too long: a key has at most {TAG_KEY_BYTES_MAX} bytes, a value {TAG_VALUE_BYTES_MAX}",
                        shown(name)
                    ),
                )
                .param("mlx:tags"));
            }
        }
        if tags.len() > TAGS_COUNT_MAX {
            return Err(Refusal::new(
                "invalid_tag",
                format!("{} tags; at most {TAGS_COUNT_MAX} are allowed", tags.len()),
            )
            .param("mlx:tags"));
        }
        let end_user = key.end_user.clone().or(user).or_else(|| facts.end_user.take());
        for required in &key.require_tags {
            if !tags.iter().any(|(name, _)| name == required) {
                return Err(Refusal::new(
                    "tag_required",
                    format!(
                        "this key needs the tag `{required}`: send `X-Modelux-User-Tags: {required}=VALUE`"
                    ),
                )
                .param(required.clone()));
            }
        }
        if key.require_end_user && end_user.is_none() {
            return Err(Refusal::new(
                "tag_required",
                "this key needs an end user: send `X-Modelux-User-Id` or `user`",
            )
            .param("end_user"));
        }
        self.subject.tags = tags;
        self.subject.end_user = bounded(end_user, "user")?;
        self.subject.trace_id =
            bounded(trace_id.or_else(|| facts.trace_id.take()), "metadata.trace_id")?;
        self.subject.conversation_id = bounded(
            conversation_id.or_else(|| facts.conversation_id.take()),
            "metadata.conversation_id",
        )?;
        Ok(())
    }

    /// From the caller's `model` to targets: `@slug`, `@slug@7`, `provider/model` or `model`.
    fn choose(
        &mut self,
        key: &Key,
        endpoint: Endpoint,
        model: &str,
    ) -> Result<Choice, Refusal> {
        if let Some(name) = model.strip_prefix('@') {
            return self.choose_route(key, endpoint, name);
        }
        let snapshot = self.snapshot;
        let named = model.split_once('/').and_then(|(provider, rest)| {
            let index = snapshot.providers.iter().position(|known| known.name == provider)?;
            Some((index, rest))
        });
        let (provider, name) = match named {
            Some(found) => found,
            None => {
                if !snapshot.projects[key.project].auto_resolve_bare_model {
                    return Err(Refusal::new(
                        "model_not_found",
                        format!(
                            "bare model names are switched off in this project: send `@ROUTE` or `PROVIDER/{}`",
                            shown(model)
                        ),
                    )
                    .param("model"));
                }
                self.subject.resolved_auto = true;
                let index = self.infer(model).ok_or_else(|| self.unknown_model(key, model))?;
                (index, model)
            }
        };
        let target = &snapshot.providers[provider];
        if name.is_empty()
            || target.models.as_ref().is_some_and(|known| !known.iter().any(|m| m == name))
        {
            return Err(self.unknown_model(key, model));
        }
        if !allows_model(key, &target.name, name) {
            return Err(Refusal::new(
                "model_not_allowed",
                format!("this key may not call `{}`", shown(model)),
            )
            .param("model"));
        }
        self.subject.strategy = "direct";
        let flat = Flat::direct(provider, name, model);
        let rejected = vec![capability(endpoint, &target.vendor)];
        eligible(FlatRef::Own(flat), rejected)
    }

    fn choose_route(
        &mut self,
        key: &Key,
        endpoint: Endpoint,
        name: &str,
    ) -> Result<Choice, Refusal> {
        let (slug, pinned) = match name.split_once('@') {
            Some((slug, version)) => (slug, Some(version)),
            None => (name, None),
        };
        let not_found =
            |what: String| Refusal::new("routing_config_not_found", what).param("model");
        let Some(route) = self.snapshot.route(key.project, slug) else {
            let known = self.snapshot.slugs(key.project);
            let hint = match nearest(slug, known.iter().map(String::as_str)) {
                Some(near) => format!("the nearest known one is `@{near}`"),
                None if known.is_empty() => "this project has none".to_owned(),
                None => {
                    format!("known: {}", listed(known.iter().map(|slug| format!("@{slug}"))))
                }
            };
            return Err(not_found(format!(
                "there is no routing config `@{}`; {hint}",
                shown(slug)
            )));
        };
        if key
            .allowed_routes
            .as_ref()
            .is_some_and(|allowed| !allows_route(allowed, &route.slug))
        {
            return Err(Refusal::new(
                "route_not_allowed",
                format!("this key may not use `@{}`", route.slug),
            )
            .param("model"));
        }
        let number = match pinned {
            None => route.live,
            Some(text) => {
                if !key.allow_versions {
                    return Err(Refusal::new(
                        "version_not_allowed",
                        "this key may not pin versions: set `allow_versions` on it, or send the slug alone",
                    )
                    .param("model"));
                }
                self.subject.pinned = true;
                text.parse().map_err(|_| {
                    not_found(format!("`{}` is not a version number", shown(text)))
                })?
            }
        };
        let version = route.version(number).ok_or_else(|| {
            not_found(format!(
                "`@{}` has no version {number}; live is {}",
                route.slug, route.live
            ))
        })?;
        self.subject.route = Some((Rc::clone(route), Rc::clone(version)));
        self.subject.strategy = version.flat.strategy.name();
        let rejected = version
            .flat
            .leaves
            .iter()
            .map(|leaf| {
                let provider = &self.snapshot.providers[leaf.provider];
                capability(endpoint, &provider.vendor).or_else(|| {
                    (!allows_model(key, &provider.name, &leaf.model))
                        .then_some("model_not_allowed")
                })
            })
            .collect();
        eligible(FlatRef::Version(Rc::clone(version)), rejected)
    }

    /// Which provider serves a bare model name: one that lists it, else by the name's prefix.
    fn infer(&self, model: &str) -> Option<usize> {
        let providers = &self.snapshot.providers;
        let lists = |provider: &crate::snapshot::Provider| {
            provider
                .models
                .as_ref()
                .is_some_and(|models| models.iter().any(|known| known == model))
        };
        if let Some(index) = providers.iter().position(lists) {
            return Some(index);
        }
        let vendor = vendor_of(model)?;
        providers
            .iter()
            .position(|provider| provider.vendor == vendor && provider.models.is_none())
    }

    fn unknown_model(&self, key: &Key, model: &str) -> Refusal {
        let snapshot = self.snapshot;
        let mut known: Vec<Cow<'_, str>> = Vec::new();
        for provider in &snapshot.providers {
            for name in provider.models.iter().flatten() {
                known.push(Cow::Borrowed(name));
                known.push(Cow::Owned(format!("{}/{name}", provider.name)));
            }
        }
        known.extend(
            snapshot.slugs(key.project).iter().map(|slug| Cow::Owned(format!("@{slug}"))),
        );
        let hint = nearest(model, known.iter().map(AsRef::as_ref))
            .map_or_else(String::new, |near| format!("the nearest known one is `{near}`; "));
        Refusal::new(
            "model_not_found",
            format!(
                "no provider here serves `{}`; {hint}send `@ROUTE`, `PROVIDER/MODEL`, or a name that begins with gpt-, o1, o3, o4, chatgpt-, text-embedding- (openai), claude- (anthropic) or gemini- (google)",
                shown(model)
            ),
        )
        .param("model")
    }
}

fn eligible(flat: FlatRef, rejected: Vec<Option<&'static str>>) -> Result<Choice, Refusal> {
    match rejected.iter().position(Option::is_none) {
        Some(first) => Ok(Choice { flat, rejected, first }),
        None => {
            let mut refusal =
                Refusal::new(
                    "no_healthy_target",
                    format!(
                        "no target can serve this request: {}",
                        listed(flat.flat().leaves.iter().zip(&rejected).map(
                            |(leaf, why)| format!("{} ({})", leaf.label, why.unwrap_or(""))
                        ))
                    ),
                );
            refusal.retry_after_s = None;
            Err(refusal)
        }
    }
}

/// What a vendor's OpenAI-compatible endpoint cannot do, as a reject reason.
fn capability(endpoint: Endpoint, vendor: &str) -> Option<&'static str> {
    match (endpoint, vendor) {
        (Endpoint::Embeddings, "anthropic") => Some("no_embeddings"),
        (Endpoint::Completions, "anthropic" | "google") => Some("no_completions"),
        _ => None,
    }
}

/// The vendor whose names begin like this one.
#[must_use]
pub fn vendor_of(model: &str) -> Option<&'static str> {
    const PREFIXES: [(&str, &str); 8] = [
        ("gpt-", "openai"),
        ("o1", "openai"),
        ("o3", "openai"),
        ("o4", "openai"),
        ("chatgpt-", "openai"),
        ("text-embedding-", "openai"),
        ("claude-", "anthropic"),
        ("gemini-", "google"),
    ];
    PREFIXES.iter().find(|(prefix, _)| model.starts_with(prefix)).map(|(_, vendor)| *vendor)
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
fn scan_refusal(fault: ScanFault) -> Refusal {
    let code = fault.code();
    let refusal = Refusal::new(code, fault.message());
    match fault.param() {
        Some(param) => refusal.param(param),
        None => refusal,
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let key = rest.trim_ascii();
    (!key.is_empty()).then_some(key)
}

fn header_text(value: &[u8], name: &str) -> Result<String, Refusal> {
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| {
        Refusal::new("invalid_request", format!("`{name}` is not UTF-8")).param(name)
    })
}

fn bounded(value: Option<String>, name: &str) -> Result<Option<String>, Refusal> {
    match value {
        Some(text) if text.len() > IDENTIFIER_BYTES_MAX => Err(Refusal::new(
            "invalid_request",
            format!(
                "`{name}` has {} bytes; at most {IDENTIFIER_BYTES_MAX} are allowed",
                text.len()
            ),
        )
        .param(name)),
        Some(text) if text.is_empty() => Ok(None),
        other => Ok(other),
    }
}

/// `X-Modelux-User-Tags: k=v,k2=v2`: split at commas, then at the first `=`, percent-decoded.
fn parse_tags(value: &[u8], tags: &mut Vec<(String, String)>) -> Result<(), Refusal> {
    let invalid =
        |why: String| Err(Refusal::new("invalid_tag", why).param("X-Modelux-User-Tags"));
    let Ok(text) = std::str::from_utf8(value) else {
        return invalid("`X-Modelux-User-Tags` is not UTF-8".to_owned());
    };
    if text.trim().is_empty() {
        return Ok(());
    }
    for pair in text.split(',') {
        let Some((name, value)) = pair.split_once('=') else {
            return invalid(format!(
                "tag `{}` has no `=`: write `key=value`",
                shown(pair.trim())
            ));
        };
        let (Some(name), Some(value)) =
            (percent_decode(name.trim()), percent_decode(value.trim()))
        else {
            return invalid(format!("tag `{}` is not UTF-8 once decoded", shown(pair.trim())));
        };
        if name.is_empty() {
            return invalid(format!("a tag has no key: `{}`", shown(pair.trim())));
        }
        if tags.iter().any(|(known, _)| *known == name) {
            return invalid(format!("tag `{}` is there twice", shown(&name)));
        }
        tags.push((name, value));
    }
    Ok(())
}

/// Decode `%41`; a `%` without two hex digits stays as it is. None if the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).ok()?);
                at += 3;
            }
            (byte, _, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// A caller's text as it may stand in a message: short and without control characters.
#[must_use]
pub fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut shown: String = text
        .chars()
        .take(CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn shown_path(head: &RequestHead<'_>) -> Cow<'static, str> {
    Cow::Owned(format!("{} {}", shown(head.method), shown(head.path)))
}

fn listed(names: impl Iterator<Item = String>) -> String {
    const NAMES_MAX: usize = 8;
    let mut names: Vec<String> = names.take(NAMES_MAX + 1).collect();
    if names.len() > NAMES_MAX {
        "…".clone_into(&mut names[NAMES_MAX]);
    }
    names.join(", ")
}

/// The known name that is closest to `name`, if any is close at all.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // A name of a megabyte has no neighbours, and the distance is quadratic.
    if name.len() > 200 {
        return None;
    }
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(away, candidate)| *away <= 1 + candidate.len().max(name.len()) / 4)
        .min_by_key(|(away, _)| *away)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// `OpenAI/Python 1.2.3` as it stands; anything else up to its first blank.
fn sdk(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    if text.starts_with("OpenAI/")
        || text.starts_with("AsyncOpenAI/")
        || text.starts_with("Anthropic/")
    {
        return Some(shown(text));
    }
    text.split(' ').next().filter(|word| !word.is_empty()).map(shown)
}

/// Request ids: UUIDv7 (RFC 9562), ordered by time within a worker, unique by 62 random bits.
struct Ids {
    state: [u64; 2],
}

impl Ids {
    fn new(seed: [u64; 2]) -> Self {
        // xoroshiro must not start at zero.
        Self { state: [seed[0] | 1, seed[1]] }
    }

    fn random(&mut self) -> u64 {
        // xoroshiro128+: an id has to be unique, not secret.
        let [a, mut b] = self.state;
        let value = a.wrapping_add(b);
        b ^= a;
        self.state = [a.rotate_left(24) ^ b ^ (b << 16), b.rotate_left(37)];
        value
    }

    fn next(&mut self, unix_us: u64) -> String {
        let ms = u128::from(unix_us / 1000) & 0xffff_ffff_ffff;
        // The 12 bits behind the milliseconds carry the microseconds (RFC 9562, method 3).
        let fraction = u128::from((unix_us % 1000) * 4096 / 1000);
        let random = u128::from(self.random() & 0x3fff_ffff_ffff_ffff);
        let value = (ms << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random;
        let mut text = String::with_capacity(36);
        for (index, byte) in value.to_be_bytes().iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        text
    }
}

/// May this request header travel on?
///
/// A proxy forwards what it does not know (RFC 9110 section 7.6); what it must not forward are
/// hop-by-hop fields, credentials, what names the caller's network, and our own extras. An
/// underscore counts as a hyphen: servers that follow CGI read both alike.
#[must_use]
pub fn travels(name: &[u8]) -> bool {
    if name.contains(&b'_') {
        let hyphened: Vec<u8> =
            name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
        return travels(&hyphened);
    }
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    let starts = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    // By first letter: a head has a dozen fields, and most are decided by one comparison.
    !match name.first().map(u8::to_ascii_lowercase) {
        Some(b'a') => is("authorization") || is("accept-encoding") || is("api-key"),
        Some(b'c') => is("content-length") || is("connection") || is("cookie"),
        Some(b'e') => is("expect"),
        Some(b'f') => is("forwarded"),
        Some(b'h') => is("host") || is("http2-settings"),
        Some(b'k') => is("keep-alive"),
        Some(b'p') => starts("proxy-"),
        Some(b't') => is("te") || is("trailer") || is("transfer-encoding"),
        Some(b'u') => is("upgrade"),
        Some(b'v') => is("via"),
        Some(b'x') => {
            starts("x-modelux-")
                || starts("x-forwarded-")
                || is("x-api-key")
                || is("x-goog-api-key")
                || is("x-real-ip")
        }
        _ => false,
    }
}

/// Write the patched body.
pub fn patched(
    body: &[u8],
    facts: &Facts,
    model: &str,
    include_usage: bool,
    out: &mut Vec<u8>,
) {
    patch::patch(body, facts, &patch::Edit { model: Some(model), include_usage }, out);
}
