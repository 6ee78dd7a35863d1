//! The gate: everything of a request up to its outgoing head, in one call.
//!
//! `Gate::begin` reads the head, finds the key, scans the body, chooses the target and writes the
//! bytes that go upstream. What it returns is a `Plan` (see `exchange`), a refusal, an answer that
//! needs no provider, or how many bytes are still missing. It holds no socket and no clock: times
//! come in as arguments. One gate belongs to one worker process.

use std::cell::Cell as StdCell;
use std::rc::Rc;

use crate::answers;
use crate::cells::{Cell, Cells, Mode};
use crate::exchange::{InFlight, Plan};
use crate::fields::push_rate;
use crate::head::{self, Framing, Parse};
use crate::holds::{Group, Holds};
use crate::ids::Ids;
use crate::ledger::{LedgerFault, RowView};
use crate::live::Live;
use crate::pricing::Catalogue;
use crate::record;
use crate::request::{Place, Request, allows_model, allows_route, shown_path};
use crate::ring::RingWriter;
use crate::route::World;
use crate::routing::Flat;
use crate::routing::state::BudgetState;
use crate::snapshot::{Key, Snapshot, StoreBodies};
use crate::subject::{Endpoint, RateState, Refusal, Subject};
use crate::text::shown;

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
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one answer")]
pub struct Local {
    /// HTTP status.
    pub status: u16,
    /// JSON, or events.
    pub body: Vec<u8>,
    /// The body are server-sent events.
    pub is_stream: bool,
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
    /// Head lines of ours besides the id.
    pub lines: Vec<u8>,
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
    pub(crate) world: World,
    pub(crate) cells: Cells,
    pub(crate) ring: RingWriter,
    holds: Holds,
    /// Room for one record, used again and again.
    pub(crate) scratch: Vec<u8>,
    in_flight: Rc<StdCell<u32>>,
    ids: Ids,
    worker: u32,
}

impl Gate {
    /// Put a gate together.
    #[must_use]
    pub fn new(
        snapshot: Snapshot,
        catalogue: Catalogue,
        cells: Cells,
        ring: RingWriter,
        holds: Holds,
        live: Live,
        seed: [u64; 2],
    ) -> Self {
        let worker = live.worker();
        let world =
            World { catalogue: Rc::new(catalogue), learnt: Rc::default(), live: Rc::new(live) };
        Self {
            snapshot: Rc::new(snapshot),
            world,
            cells,
            ring,
            holds,
            scratch: Vec::with_capacity(4096),
            in_flight: Rc::new(StdCell::new(0)),
            ids: Ids::new(seed),
            worker,
        }
    }

    /// Use another configuration from the next request on; plans under way keep theirs.
    pub fn load(&mut self, snapshot: Snapshot) {
        self.snapshot = Rc::new(snapshot);
    }

    /// One turn of the ledger: settle what is due, and decide on every plan that waits.
    pub fn turn(&mut self, plans: &mut [&mut Plan], now_us: u64, unix_us: u64) {
        self.holds.turn(plans, &mut [], now_us, unix_us);
    }

    /// The same, with requests that make several calls at once among them.
    pub fn turn_with(
        &mut self,
        plans: &mut [&mut Plan],
        groups: &mut [Group<'_>],
        now_us: u64,
        unix_us: u64,
    ) {
        self.holds.turn(plans, groups, now_us, unix_us);
    }

    /// Does a settle wait for a turn.
    #[must_use]
    pub fn has_due(&self) -> bool {
        self.holds.is_due()
    }

    /// Every row of the ledger, for tools and tests.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn ledger_rows(&self) -> Result<Vec<RowView>, LedgerFault> {
        self.holds.rows()
    }

    pub(crate) fn holds_mut(&mut self) -> &mut Holds {
        &mut self.holds
    }

    /// The configuration in use.
    #[must_use]
    pub fn snapshot(&self) -> &Rc<Snapshot> {
        &self.snapshot
    }

    /// What all workers have seen of targets.
    #[must_use]
    pub fn live(&self) -> &Rc<Live> {
        &self.world.live
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
            is_dry: false,
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
        request.is_dry = matches!(place, Place::DryRun);
        let endpoint = match place {
            Place::DryRun => Endpoint::Chat,
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
            Ok((facts, flat)) => {
                let Request { subject, rate, is_dry, .. } = request;
                let mut plan = Plan::new(
                    Rc::clone(&snapshot),
                    self.world.clone(),
                    endpoint,
                    subject,
                    facts,
                    flat.clone(),
                    rate,
                    &head,
                    consumed,
                    InFlight::enter(&self.in_flight),
                    self.worker,
                );
                plan.is_dry = is_dry;
                let budgets = self.budgets_of(&plan, flat.flat(), unix_us);
                plan.route(body, budgets, now_us, unix_us);
                if is_dry {
                    return self.dry_run(plan, ending, now_us, unix_us);
                }
                Begin::Plan(Box::new(plan))
            }
        }
    }

    /// Say what would be done, in the path's own shape.
    fn dry_run(&self, mut plan: Plan, ending: Ending, now_us: u64, unix_us: u64) -> Begin {
        let unix_s = unix_us / 1_000_000;
        let (attempts, budgets) =
            plan.dry_run(i64::try_from(unix_s).unwrap_or(i64::MAX), now_us, &|key| {
                self.holds.balance(key)
            });
        let told = record::dry_run(&plan, &attempts, &budgets);
        let mut lines = Vec::new();
        plan.push_lines(&mut lines);
        let subject = plan.subject();
        let body = match plan.endpoint {
            Endpoint::Embeddings => {
                answers::dry_embeddings(plan.facts.prompts, &subject.model_requested, &told)
            }
            Endpoint::Chat | Endpoint::Completions => answers::dry_answer(
                plan.shape(),
                subject.stream,
                &subject.id,
                &subject.model_requested,
                unix_s,
                &told,
            ),
        };
        Begin::Local(Local {
            status: 200,
            body,
            is_stream: subject.stream,
            consumed: ending.consumed,
            keep_alive: ending.keep_alive,
            head_only: false,
            http_1_0: ending.http_1_0,
            id: subject.id.clone(),
            lines,
        })
    }

    /// The rows of the budgets that match, where an expression of the config asks for them.
    fn budgets_of(&self, plan: &Plan, flat: &Flat, unix_us: u64) -> Vec<BudgetState> {
        if !flat.needs.budgets || self.snapshot.budgets.is_empty() {
            return Vec::new();
        }
        let unix_s = i64::try_from(unix_us / 1_000_000).unwrap_or(i64::MAX);
        plan.budget_states(unix_s, &|key| self.holds.balance(key))
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
                is_dry: false,
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
            is_stream: false,
            consumed: if whole { head.head_bytes } else { input_bytes },
            keep_alive: head.keep_alive && whole,
            head_only: head.method == "HEAD",
            http_1_0: head.minor_version == 0,
            id: request.subject.id.clone(),
            lines: Vec::new(),
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
                None => self.world.catalogue.known_models(&provider.vendor),
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
    let mut lines = Vec::new();
    if let Some(rate) = &request.rate {
        push_rate(rate, &mut lines);
    }
    Begin::Local(Local {
        status: 200,
        body,
        is_stream: false,
        consumed: ending.consumed,
        keep_alive: ending.keep_alive,
        head_only: ending.head_only,
        http_1_0: ending.http_1_0,
        id: request.subject.id,
        lines,
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
