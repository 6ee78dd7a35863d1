//! `_native.Gate` and `_native.Plan`: the two coarse calls of a request, converted.
//!
//! Both live on the worker's event loop thread only (`unsendable`); nothing here releases the GIL,
//! as every call is shorter than releasing it would cost.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use modelux_core::attempt::Outcome;
use modelux_core::budget::display::instant;
use modelux_core::budget::period_name;
use modelux_core::cells::Cells;
use modelux_core::exchange::{self, Fault, Step, Verdict};
use modelux_core::fields::{push_config, push_rate};
use modelux_core::gate::{self, Begin};
use modelux_core::holds::{Group, Holds};
use modelux_core::live::Live;
use modelux_core::ring::RingWriter;
use modelux_core::snapshot::Snapshot;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use rustix::time::{ClockId, clock_gettime};

use crate::scan::shape_name;

const MORE: u8 = 0;
const WRITE: u8 = 1;
const DONE: u8 = 2;
const FAILED: u8 = 3;
const CUT: u8 = 4;

const GO: u8 = 0;
const WAIT: u8 = 1;
const COUNT: u8 = 2;
const STOPPED: u8 = 3;
const GATHER: u8 = 4;
const PAUSE: u8 = 5;

/// A request has one hold at a time, and one more that ended and is not yet settled.
const SLOTS_A_REQUEST: u32 = 2;

/// More bytes are needed.
#[pyclass(frozen, module = "modelux._native")]
struct Need {
    /// Bytes of the whole request once that is known, else 0.
    #[pyo3(get)]
    total_bytes: usize,
    /// Where the head ends, where the body is chunked; else 0.
    #[pyo3(get)]
    head_bytes: usize,
    #[pyo3(get)]
    expect_continue: bool,
}

/// An answer that needs no provider.
#[pyclass(frozen, module = "modelux._native")]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one answer")]
struct Local {
    #[pyo3(get)]
    status: u16,
    #[pyo3(get)]
    body: Py<PyBytes>,
    #[pyo3(get)]
    is_stream: bool,
    #[pyo3(get)]
    consumed: usize,
    #[pyo3(get)]
    keep_alive: bool,
    #[pyo3(get)]
    head_only: bool,
    #[pyo3(get)]
    http_1_0: bool,
    #[pyo3(get)]
    id: String,
    #[pyo3(get)]
    lines: Py<PyBytes>,
}

/// A refused request.
#[pyclass(unsendable, module = "modelux._native")]
struct Refused {
    inner: gate::Refused,
}

#[pymethods]
impl Refused {
    #[getter]
    fn id(&self) -> &str {
        &self.inner.subject.id
    }
    #[getter]
    fn code(&self) -> &str {
        self.inner.refusal.code
    }
    #[getter]
    fn message(&self) -> &str {
        &self.inner.refusal.message
    }
    #[getter]
    fn param(&self) -> Option<&str> {
        self.inner.refusal.param.as_deref()
    }
    #[getter]
    fn allow(&self) -> Option<&str> {
        self.inner.refusal.allow
    }
    #[getter]
    fn retry_after_s(&self) -> Option<u64> {
        self.inner.refusal.retry_after_s
    }
    #[getter]
    fn consumed(&self) -> usize {
        self.inner.consumed
    }
    #[getter]
    fn keep_alive(&self) -> bool {
        self.inner.keep_alive
    }
    #[getter]
    fn head_only(&self) -> bool {
        self.inner.head_only
    }
    #[getter]
    fn http_1_0(&self) -> bool {
        self.inner.http_1_0
    }
    /// `X-Modelux-Config` and `x-ratelimit-*` lines, those that apply.
    #[getter]
    fn rate_lines<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut lines = Vec::new();
        push_config(&self.inner.subject, &mut lines);
        if let Some(rate) = self.inner.rate {
            push_rate(&rate, &mut lines);
        }
        PyBytes::new(py, &lines)
    }
}

/// The monotonic clock in microseconds, the one that Python's `time.monotonic_ns` reads.
///
/// Read here and not passed in: five integers a request made in Python cost more than the clock.
/// The core still takes time as an argument.
fn mono_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// The wall clock in microseconds since 1970, UTC.
fn unix_us() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// One worker's gate.
#[pyclass(unsendable, module = "modelux._native")]
struct Gate {
    inner: Rc<RefCell<gate::Gate>>,
}

fn snapshot_from(document: &[u8], secrets: &HashMap<String, String>) -> PyResult<Snapshot> {
    Snapshot::from_json(document, &|reference| secrets.get(reference).cloned())
        .map_err(|fault| PyValueError::new_err(fault.to_string()))
}

#[pymethods]
impl Gate {
    #[new]
    #[pyo3(signature = (snapshot, secrets, catalogue, models, *, cells_path, ring_path, ring_bytes, spill_dir, spill_bytes_max, boot_id, slot, generation, seed, ledger_dir=None, live_path=None))]
    #[expect(clippy::too_many_arguments, reason = "called once, by keyword")]
    #[expect(clippy::needless_pass_by_value, reason = "what comes from Python is owned")]
    fn new(
        snapshot: &[u8],
        secrets: HashMap<String, String>,
        catalogue: &[u8],
        models: &[u8],
        cells_path: PathBuf,
        ring_path: PathBuf,
        ring_bytes: u64,
        spill_dir: PathBuf,
        spill_bytes_max: u64,
        boot_id: &str,
        slot: u32,
        generation: u64,
        seed: (u64, u64),
        ledger_dir: Option<PathBuf>,
        live_path: Option<PathBuf>,
    ) -> PyResult<Self> {
        let snapshot = snapshot_from(snapshot, &secrets)?;
        let catalogue = crate::pricing::read(catalogue, Some(models))?;
        let os = |fault: std::io::Error| PyOSError::new_err(fault.to_string());
        let cells = Cells::open(&cells_path).map_err(os)?;
        let ring = RingWriter::create(
            &ring_path,
            ring_bytes,
            &spill_dir,
            spill_bytes_max,
            boot_id,
            slot,
            generation,
        )
        .map_err(os)?;
        let holds = match ledger_dir {
            Some(folder) => {
                let slots = snapshot.server.max_in_flight.saturating_mul(SLOTS_A_REQUEST);
                let cells = Cells::open(&cells_path).map_err(os)?;
                Holds::open(&folder, generation, slots, cells, slot)
                    .map_err(|fault| PyOSError::new_err(fault.to_string()))?
            }
            None => Holds::default(),
        };
        let live = match live_path {
            Some(path) => Live::open(&path).and_then(|live| live.as_worker(slot)),
            None => Live::private(),
        }
        .map_err(os)?;
        let seed = [seed.0, seed.1];
        let inner = gate::Gate::new(snapshot, catalogue, cells, ring, holds, live, seed);
        Ok(Self { inner: Rc::new(RefCell::new(inner)) })
    }

    /// Use another configuration from the next request on.
    #[expect(clippy::needless_pass_by_value, reason = "what comes from Python is owned")]
    fn load(&self, snapshot: &[u8], secrets: HashMap<String, String>) -> PyResult<()> {
        let snapshot = snapshot_from(snapshot, &secrets)?;
        self.inner.borrow_mut().load(snapshot);
        Ok(())
    }

    /// Read one request from the start of `data`.
    fn begin(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyBytes>,
        body: Option<&Bound<'_, PyBytes>>,
        peer: &str,
    ) -> PyResult<Py<PyAny>> {
        let begun = self.inner.borrow_mut().begin(
            data.as_bytes(),
            body.map(PyBytesMethods::as_bytes),
            peer,
            mono_us(),
            unix_us(),
        );
        match begun {
            Begin::Plan(plan) => {
                let (source, range) = match body {
                    Some(body) => (body, 0..body.as_bytes().len()),
                    None => (data, plan.body_range()),
                };
                let plan = Plan {
                    inner: plan,
                    gate: Rc::clone(&self.inner),
                    source: source.clone().unbind(),
                    range,
                };
                Ok(Py::new(py, plan)?.into_any())
            }
            other => answer_without_plan(py, other),
        }
    }

    /// Refuse what was read of a request, for a reason that only the shell can know.
    fn refuse(
        &self,
        py: Python<'_>,
        data: &[u8],
        code: &str,
        message: &str,
    ) -> PyResult<Py<PyAny>> {
        let code = match code {
            "client_timeout" => "client_timeout",
            "body_too_large" => "body_too_large",
            "invalid_request" => "invalid_request",
            "internal_error" => "internal_error",
            other => return Err(PyValueError::new_err(format!("no such refusal: {other}"))),
        };
        let begun =
            self.inner.borrow_mut().refuse_unread(data, code, message, mono_us(), unix_us());
        answer_without_plan(py, begun)
    }

    /// Write the record of a refused request.
    fn record_refused(
        &self,
        refused: &Bound<'_, Refused>,
        status: u16,
        kind: &str,
        body: &[u8],
    ) {
        let refused = refused.borrow();
        self.inner.borrow_mut().record_refused(&refused.inner, status, kind, body, mono_us());
    }

    /// One turn of the ledger: settle what is due, and decide on every plan that waits.
    ///
    /// A group are the calls of one request, how many of them it needs, and whether the last of
    /// them is a judge.
    #[pyo3(signature = (plans, groups=Vec::new()))]
    fn turn(
        &self,
        mut plans: Vec<PyRefMut<'_, Plan>>,
        mut groups: Vec<(Vec<PyRefMut<'_, Plan>>, usize, bool)>,
    ) {
        let mut plans: Vec<&mut exchange::Plan> =
            plans.iter_mut().map(|plan| &mut *plan.inner).collect();
        let mut groups: Vec<Group<'_>> = groups
            .iter_mut()
            .map(|(plans, least, has_judge)| Group {
                plans: plans.iter_mut().map(|plan| &mut *plan.inner).collect(),
                least: *least,
                has_judge: *has_judge,
            })
            .collect();
        self.inner.borrow_mut().turn_with(&mut plans, &mut groups, mono_us(), unix_us());
    }

    /// Does a settle wait for a turn.
    #[getter]
    fn has_due(&self) -> bool {
        self.inner.borrow().has_due()
    }

    /// Requests in flight.
    #[getter]
    fn in_flight(&self) -> u32 {
        self.inner.borrow().in_flight()
    }
}

fn answer_without_plan(py: Python<'_>, begun: Begin) -> PyResult<Py<PyAny>> {
    match begun {
        Begin::Partial { need_bytes, expect_continue } => {
            let need = Need { total_bytes: need_bytes, head_bytes: 0, expect_continue };
            Ok(Py::new(py, need)?.into_any())
        }
        Begin::Chunked { head_bytes, expect_continue } => {
            let need = Need { total_bytes: 0, head_bytes, expect_continue };
            Ok(Py::new(py, need)?.into_any())
        }
        Begin::Local(local) => {
            let answer = Local {
                status: local.status,
                body: PyBytes::new(py, &local.body).unbind(),
                is_stream: local.is_stream,
                consumed: local.consumed,
                keep_alive: local.keep_alive,
                head_only: local.head_only,
                http_1_0: local.http_1_0,
                id: local.id,
                lines: PyBytes::new(py, &local.lines).unbind(),
            };
            Ok(Py::new(py, answer)?.into_any())
        }
        Begin::Refused(refused) => Ok(Py::new(py, Refused { inner: *refused })?.into_any()),
        Begin::Plan(_) => unreachable!("taken apart by the caller"),
    }
}

/// One exchange that the gate let in.
#[pyclass(unsendable, module = "modelux._native")]
struct Plan {
    /// Boxed: a plan has 1.4 KB and would be moved three times on its way into the object.
    inner: Box<exchange::Plan>,
    gate: Rc<RefCell<gate::Gate>>,
    source: Py<PyBytes>,
    range: std::ops::Range<usize>,
}

impl Plan {
    /// Another plan over the same request.
    fn beside(&self, py: Python<'_>, plan: exchange::Plan) -> Self {
        Self {
            inner: Box::new(plan),
            gate: Rc::clone(&self.gate),
            source: self.source.clone_ref(py),
            range: self.range.clone(),
        }
    }
}

fn step_tuple(py: Python<'_>, step: Step) -> PyResult<Bound<'_, PyTuple>> {
    match step {
        Step::More => (MORE, PyBytes::new(py, b"")).into_pyobject(py),
        Step::Write(bytes) => (WRITE, PyBytes::new(py, &bytes)).into_pyobject(py),
        Step::Done(bytes) => (DONE, PyBytes::new(py, &bytes)).into_pyobject(py),
        Step::Failed => (FAILED, PyBytes::new(py, b"")).into_pyobject(py),
        Step::Cut(bytes) => (CUT, PyBytes::new(py, &bytes)).into_pyobject(py),
    }
}

#[pymethods]
impl Plan {
    #[getter]
    fn id(&self) -> &str {
        self.inner.id()
    }
    #[getter]
    fn consumed(&self) -> usize {
        self.inner.consumed()
    }
    #[getter]
    fn provider_index(&self) -> usize {
        self.inner.provider_index()
    }
    #[getter]
    fn connect_timeout_us(&self) -> u64 {
        self.inner.connect_timeout_ms() * 1000
    }
    #[getter]
    fn deadline_us(&self) -> u64 {
        self.inner.deadline_us()
    }
    #[getter]
    fn reusable(&self) -> bool {
        self.inner.reusable()
    }
    #[getter]
    fn keep_alive(&self) -> bool {
        self.inner.keep_alive()
    }
    #[getter]
    fn ends_by_close(&self) -> bool {
        self.inner.ends_by_close()
    }
    #[getter]
    fn wants_fresh_connection(&self) -> bool {
        self.inner.wants_fresh_connection()
    }
    #[getter]
    fn has_provider_key(&self) -> bool {
        self.inner.has_provider_key()
    }

    /// The instant before which the current attempt must not be sent.
    #[getter]
    fn not_before_us(&self) -> u64 {
        self.inner.not_before_us()
    }

    /// Close the caller's connection after this answer.
    fn forbid_keep_alive(&mut self) {
        self.inner.forbid_keep_alive();
    }

    /// The current attempt waits for a new connection from here on.
    fn connecting(&mut self) {
        self.inner.connecting(mono_us());
    }

    /// What the current attempt waits for: `GO`, `WAIT`, `COUNT`, `STOPPED`, `GATHER`, `PAUSE`.
    #[getter]
    fn verdict(&self) -> u8 {
        match self.inner.verdict() {
            Verdict::Go if self.inner.not_before_us() > 0 => PAUSE,
            Verdict::Go => GO,
            Verdict::Gather => GATHER,
            Verdict::Wait => WAIT,
            Verdict::Count => COUNT,
            Verdict::Stopped => STOPPED,
        }
    }

    /// Is the caller gone and the answer read on for its usage only.
    #[getter]
    fn drains(&self) -> bool {
        self.inner.drains()
    }

    /// Why a budget stops this request, as a dictionary of what the answer says.
    fn stopped<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(stopped) = self.inner.stopped() else { return Ok(None) };
        let answer = PyDict::new(py);
        answer.set_item("code", stopped.code)?;
        answer.set_item("message", &stopped.message)?;
        answer.set_item("param", stopped.param)?;
        answer.set_item("retry_after_s", stopped.retry_after_s)?;
        answer.set_item("max_affordable_output_tokens", stopped.affordable_tokens)?;
        let budget = stopped.budget.as_ref().map(|figures| {
            let budget = PyDict::new(py);
            budget.set_item("name", &figures.name)?;
            budget.set_item("spend_nusd", figures.spend_nusd)?;
            budget.set_item("held_nusd", figures.held_nusd)?;
            budget.set_item("cap_nusd", figures.cap_nusd)?;
            budget.set_item("remaining_nusd", figures.remaining_nusd)?;
            budget.set_item("period", period_name(figures.period))?;
            let resets = figures.period_resets_at_s.map(instant);
            budget.set_item("period_resets_at", resets)?;
            PyResult::Ok(budget)
        });
        answer.set_item("budget", budget.transpose()?)?;
        Ok(Some(answer))
    }

    /// The request's body and the vocabulary that its text is to be counted by.
    fn to_count<'py>(&self, py: Python<'py>) -> Option<(Bound<'py, PyBytes>, String, String)> {
        let vocabulary = self.inner.counts_with()?;
        let body = PyBytes::new(py, &self.source.as_bytes(py)[self.range.clone()]);
        Some((body, shape_name(self.inner.shape()).to_owned(), vocabulary.name().to_owned()))
    }

    /// Take in the count of the text, or that it cannot be counted.
    fn counted(&mut self, text_tokens: Option<u64>) {
        self.inner.counted(text_tokens, mono_us(), unix_us());
    }

    /// Return the bytes of the current attempt, which are to be written at once.
    fn send<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        let wire = self.inner.send(&mut self.gate.borrow_mut(), request_body, mono_us());
        PyBytes::new(py, &wire)
    }

    /// Take in bytes of the answer.
    fn answer<'py>(&mut self, py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        let step =
            self.inner.answer(&mut self.gate.borrow_mut(), request_body, data, mono_us());
        step_tuple(py, step)
    }

    /// Tell of something that is not bytes.
    fn fault<'py>(&mut self, py: Python<'py>, fault: u8) -> PyResult<Bound<'py, PyTuple>> {
        let fault = FAULTS
            .get(usize::from(fault))
            .ok_or_else(|| PyValueError::new_err(format!("no such fault: {fault}")))?;
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        let step =
            self.inner.fault(&mut self.gate.borrow_mut(), request_body, fault.1, mono_us());
        step_tuple(py, step)
    }

    /// Go on to the next attempt, if there is one.
    fn next(&mut self, py: Python<'_>) -> bool {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        self.inner.next(request_body, mono_us())
    }

    /// Send an answer that was read before, where there is one: it stands.
    fn stand<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        let step = self.inner.stand(&mut self.gate.borrow_mut(), request_body, mono_us());
        step_tuple(py, step)
    }

    /// The calls of an ensemble, how many of them it needs, and whether the last is its judge.
    fn members(&mut self, py: Python<'_>) -> PyResult<(Vec<Py<Plan>>, usize, bool)> {
        let (members, least, has_judge) = self.inner.members(mono_us());
        let members = members
            .into_iter()
            .map(|member| Py::new(py, self.beside(py, member)))
            .collect::<PyResult<Vec<_>>>()?;
        Ok((members, least, has_judge))
    }

    /// When the members' time is up.
    #[getter]
    fn gather_deadline_us(&self) -> u64 {
        self.inner.gather_deadline_us()
    }

    /// Take in what a member came to. Returns whether no other is needed.
    fn take_member(&mut self, py: Python<'_>, mut member: PyRefMut<'_, Plan>) -> bool {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        self.inner.take_member(request_body, &mut member.inner, mono_us())
    }

    /// Not enough of the calls could be held: say so, or go where a budget sends this request.
    fn adopt_stop(&mut self, mut members: Vec<PyRefMut<'_, Plan>>) {
        let mut members: Vec<&mut exchange::Plan> =
            members.iter_mut().map(|member| &mut *member.inner).collect();
        self.inner.adopt_stop(&mut members, mono_us(), unix_us());
    }

    /// Give the judge what it has to judge; False where there is nothing to pick from.
    fn brief_judge(&mut self, py: Python<'_>, mut judge: PyRefMut<'_, Plan>) -> bool {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        self.inner.brief_judge(request_body, &mut judge.inner)
    }

    /// Take in what the judge came to.
    fn take_judge(&mut self, mut judge: PyRefMut<'_, Plan>) {
        self.inner.take_judge(&mut judge.inner);
    }

    /// Make one answer of the members' answers.
    fn gathered<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        let step = self.inner.gathered(&mut self.gate.borrow_mut(), request_body, mono_us());
        step_tuple(py, step)
    }

    /// Is there traffic to mirror, now that the caller has its answer?
    #[getter]
    fn mirrors(&self) -> bool {
        self.inner.mirrors()
    }

    /// The call that mirrors this request; None where nobody can take it.
    fn mirror(&mut self, py: Python<'_>) -> PyResult<Option<Py<Plan>>> {
        match self.inner.mirror(mono_us()) {
            Some(shadow) => Py::new(py, self.beside(py, shadow)).map(Some),
            None => Ok(None),
        }
    }

    /// Mirrored traffic is over, or was never begun: write the record that waited for it.
    #[pyo3(signature = (shadow=None))]
    fn mirrored(&mut self, py: Python<'_>, shadow: Option<PyRefMut<'_, Plan>>) {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        let mut shadow = shadow;
        let shadow = shadow.as_mut().map(|shadow| &mut *shadow.inner);
        self.inner.mirrored(&mut self.gate.borrow_mut(), request_body, shadow);
    }

    /// The wait before a retry is over.
    fn resume(&mut self) {
        self.inner.resume();
    }

    /// All attempts so far: target, provider, outcome, status, limit in milliseconds.
    fn outcomes(&self) -> Vec<(String, String, &'static str, Option<u16>, u64)> {
        self.inner
            .attempts()
            .iter()
            .map(|attempt| {
                let (leaf, provider) = self.inner.target_of(attempt);
                let outcome = attempt.outcome.map_or("unfinished", Outcome::name);
                (
                    leaf.label.clone(),
                    provider.name.clone(),
                    outcome,
                    attempt.status,
                    attempt.limit_ms,
                )
            })
            .collect()
    }

    /// The last error answer's body, scrubbed, and whether it is whole.
    fn error_body(&self) -> (String, bool) {
        self.inner.error_body()
    }

    #[getter]
    fn error_retry_after(&self) -> Option<&str> {
        self.inner.error_retry_after()
    }

    /// Head lines that every answer of this plan carries.
    fn own_lines<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut lines = Vec::new();
        self.inner.push_own_lines(&mut lines);
        PyBytes::new(py, &lines)
    }

    /// Status and total time in microseconds, once recorded.
    #[getter]
    fn recorded(&self) -> Option<(u16, u64)> {
        self.inner.recorded()
    }

    /// A bug ended this exchange: write what is known of it, once.
    fn abandon(&mut self, py: Python<'_>) {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        self.inner.abandon(&mut self.gate.borrow_mut(), request_body, mono_us());
    }

    /// Nobody could serve: record what the caller is told instead.
    fn give_up(&mut self, py: Python<'_>, status: u16, kind: &str, code: &str, message: &str) {
        let request_body = &self.source.as_bytes(py)[self.range.clone()];
        self.inner.give_up(
            &mut self.gate.borrow_mut(),
            request_body,
            status,
            (kind, code, message),
            mono_us(),
        );
    }
}

const FAULTS: [(&str, Fault); 6] = [
    ("FAULT_CONNECT", Fault::Connect),
    ("FAULT_TIMEOUT", Fault::Timeout),
    ("FAULT_RESET", Fault::Reset),
    ("FAULT_EOF", Fault::Eof),
    ("FAULT_CALLER_GONE", Fault::CallerGone),
    ("FAULT_SHUTDOWN", Fault::Shutdown),
];

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Gate>()?;
    module.add_class::<Plan>()?;
    module.add_class::<Refused>()?;
    module.add_class::<Local>()?;
    module.add_class::<Need>()?;
    module.add("VERDICT_GO", GO)?;
    module.add("VERDICT_WAIT", WAIT)?;
    module.add("VERDICT_COUNT", COUNT)?;
    module.add("VERDICT_STOPPED", STOPPED)?;
    module.add("VERDICT_GATHER", GATHER)?;
    module.add("VERDICT_PAUSE", PAUSE)?;
    module.add("STEP_MORE", MORE)?;
    module.add("STEP_WRITE", WRITE)?;
    module.add("STEP_DONE", DONE)?;
    module.add("STEP_FAILED", FAILED)?;
    module.add("STEP_CUT", CUT)?;
    for (code, (name, _)) in FAULTS.iter().enumerate() {
        module.add(*name, code)?;
    }
    Ok(())
}
