//! `modelux._native.Live`: the live state of providers, by name.
//!
//! Workers use it from within `Gate`; what is here is for the supervisor, for those who show
//! it, and for tests.

use std::path::PathBuf;

use modelux_core::breaker::Event;
use modelux_core::live::{CredentialRow, Health, Live, MarkView, SizeClass, TargetRow};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

/// Live state of one node; see `modelux_core::live`.
#[pyclass(name = "Live", module = "modelux._native", frozen)]
struct PyLive(Live);

/// One target as people see it.
#[pyclass(module = "modelux._native", frozen, get_all)]
struct LiveTarget {
    provider: String,
    model: String,
    state: &'static str,
    since_us: u64,
    until_us: Option<u64>,
    error_rate: Option<f32>,
    in_flight: u32,
    last_used_us: u64,
    attempts: u64,
    ok: u64,
    failed: u64,
    p50_ttft_ms: Option<f32>,
    p95_ttft_ms: Option<f32>,
    p99_ttft_ms: Option<f32>,
    p50_latency_ms: Option<f32>,
    p95_latency_ms: Option<f32>,
    p99_latency_ms: Option<f32>,
    averages: Vec<(&'static str, Option<f32>, Option<f32>)>,
}

impl From<TargetRow> for LiveTarget {
    fn from(row: TargetRow) -> Self {
        let until_us = match row.view.health {
            Health::Open { until_us, .. } => Some(until_us),
            Health::Closed | Health::HalfOpen { .. } => None,
        };
        Self {
            provider: row.provider,
            model: row.model,
            state: row.view.health.name(),
            since_us: row.since_us,
            until_us,
            error_rate: row.view.error_rate,
            in_flight: row.view.in_flight,
            last_used_us: row.view.last_used_us,
            attempts: row.attempts,
            ok: row.ok,
            failed: row.failed,
            p50_ttft_ms: row.ttft.p50_ms,
            p95_ttft_ms: row.ttft.p95_ms,
            p99_ttft_ms: row.ttft.p99_ms,
            p50_latency_ms: row.total.p50_ms,
            p95_latency_ms: row.total.p95_ms,
            p99_latency_ms: row.total.p99_ms,
            averages: row
                .averages
                .iter()
                .map(|each| (each.class.name(), each.view.ttft_us, each.view.total_us))
                .collect(),
        }
    }
}

/// One credential as people see it.
#[pyclass(module = "modelux._native", frozen, get_all)]
struct LiveCredential {
    provider: String,
    credential: String,
    rejected_until_us: Option<u64>,
    cooling_until_us: Option<u64>,
}

impl From<CredentialRow> for LiveCredential {
    fn from(row: CredentialRow) -> Self {
        Self {
            provider: row.provider,
            credential: row.credential,
            rejected_until_us: row.rejected_until_us,
            cooling_until_us: row.cooling_until_us,
        }
    }
}

/// What a mark says.
#[pyclass(module = "modelux._native", frozen, get_all)]
struct LiveMark {
    hits: u64,
    last_unix_s: u64,
    null_run: u32,
}

impl From<MarkView> for LiveMark {
    fn from(view: MarkView) -> Self {
        Self { hits: view.hits, last_unix_s: view.last_unix_s, null_run: view.null_run }
    }
}

fn event_named(name: &str) -> PyResult<Event> {
    match name {
        "ok" => Ok(Event::Ok),
        "failed" => Ok(Event::Failed),
        "neutral" => Ok(Event::Neutral),
        _ => Err(PyKeyError::new_err(format!("no result is named `{name}`"))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over owned values")]
#[pymethods]
impl PyLive {
    #[staticmethod]
    fn file_bytes(workers: u32) -> u64 {
        Live::file_bytes(workers)
    }

    #[staticmethod]
    fn open_or_create(path: PathBuf, boot_id: &str, workers: u32) -> PyResult<Self> {
        Ok(Self(Live::open_or_create(&path, boot_id, workers)?))
    }

    #[staticmethod]
    fn open(path: PathBuf) -> PyResult<Self> {
        Ok(Self(Live::open(&path)?))
    }

    #[getter]
    fn workers(&self) -> u32 {
        self.0.workers()
    }

    fn targets(&self, now_us: u64) -> Vec<LiveTarget> {
        self.0.targets(now_us).into_iter().map(LiveTarget::from).collect()
    }

    fn credentials(&self, now_us: u64) -> Vec<LiveCredential> {
        self.0.credentials(now_us).into_iter().map(LiveCredential::from).collect()
    }

    fn mark(&self, name: &str) -> Option<LiveMark> {
        self.0.mark_view(name).map(LiveMark::from)
    }

    fn clear_worker(&self, worker: u32) {
        self.0.clear_worker(worker);
    }

    fn began(&self, provider: &str, model: &str, worker: u32, now_us: u64) {
        self.0.began(self.0.target(provider, model), worker, now_us);
    }

    fn ended(&self, provider: &str, model: &str, worker: u32) {
        self.0.ended(self.0.target(provider, model), worker);
    }

    /// Take the latencies of one answer in, that of a request with so many input tokens.
    fn latency(
        &self,
        provider: &str,
        model: &str,
        input_tokens: u64,
        ttft_us: u64,
        total_us: u64,
        now_us: u64,
    ) {
        let (target, class) = (self.0.target(provider, model), SizeClass::of(input_tokens));
        self.0.ttft(target, class, ttft_us, now_us);
        self.0.total(target, class, total_us, now_us);
    }

    fn report(
        &self,
        provider: &str,
        model: &str,
        result: &str,
        began_us: u64,
        now_us: u64,
    ) -> PyResult<Option<(&'static str, &'static str)>> {
        let target = self.0.target(provider, model);
        let change = self.0.report(target, event_named(result)?, began_us, now_us);
        Ok(change.map(|change| (change.before.name(), change.after.name())))
    }

    fn take_probe(&self, provider: &str, model: &str, now_us: u64) -> bool {
        self.0.take_probe(self.0.target(provider, model), now_us)
    }

    fn cool(&self, provider: &str, model: &str, credential: &str, until_us: u64, now_us: u64) {
        self.0.cool(self.0.target(provider, model), credential, until_us, now_us);
    }

    fn reject_credential(
        &self,
        provider: &str,
        credential: &str,
        secret_hash: u64,
        now_us: u64,
    ) {
        let credential = self.0.credential(provider, credential);
        self.0.reject_credential(credential, now_us, secret_hash);
    }

    fn touch(&self, name: &str, unix_s: u64) {
        self.0.touch(self.0.mark(name), unix_s);
    }

    fn null_run(&self, name: &str, is_null: bool) -> u32 {
        self.0.null_run(self.0.mark(name), is_null)
    }
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyLive>()?;
    module.add_class::<LiveTarget>()?;
    module.add_class::<LiveCredential>()?;
    module.add_class::<LiveMark>()
}
