//! The faces of `scan`, `patch`, `usage` and `sse`: for tests and tools.
//!
//! The proxy calls these modules from Rust; nothing on the way of a request comes by here.

use modelux_core::patch::{self, Edit};
use modelux_core::scan::{self, LimitKey, ScanFault, ServerTools, Shape};
use modelux_core::sse;
use modelux_core::usage;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

create_exception!(
    modelux._native,
    ScanError,
    PyException,
    "A request body that is refused: `error.code`, `param` or None, `message`."
);

pub(crate) fn scan_error(fault: &ScanFault) -> PyErr {
    let param = fault.param().map(str::to_owned);
    ScanError::new_err((fault.code(), param, fault.message()))
}

pub(crate) fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Chat => "chat",
        Shape::Completions => "completions",
        Shape::Embeddings => "embeddings",
    }
}

pub(crate) fn shape_of(shape: &str) -> PyResult<Shape> {
    match shape {
        "chat" => Ok(Shape::Chat),
        "completions" => Ok(Shape::Completions),
        "embeddings" => Ok(Shape::Embeddings),
        _ => Err(PyValueError::new_err(format!("no body has the shape {shape:?}"))),
    }
}

/// What one request body says.
#[pyclass(frozen, get_all, module = "modelux._native")]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
struct Facts {
    model: String,
    stream: bool,
    include_usage: Option<bool>,
    max_output_tokens: Option<u64>,
    limit_key: Option<&'static str>,
    n: Option<u64>,
    best_of: Option<u64>,
    has_tools: bool,
    has_images: bool,
    json_schema: bool,
    messages: u32,
    text_bytes: u64,
    media_bytes: u64,
    image_count: u64,
    audio_bytes: u64,
    file_bytes: u64,
    text_file_bytes: u64,
    has_unseen: bool,
    has_server_tools: bool,
    searches_max: Option<u64>,
    prompts: u64,
    prediction_bytes: u64,
    thinking_budget: Option<u64>,
    end_user: Option<String>,
    tags: Vec<(String, String)>,
    trace_id: Option<String>,
    conversation_id: Option<String>,
    mlx_trace: bool,
    cache_skip: bool,
}

impl From<scan::Facts> for Facts {
    fn from(facts: scan::Facts) -> Self {
        Self {
            model: facts.model,
            stream: facts.stream,
            include_usage: facts.include_usage,
            max_output_tokens: facts.max_output_tokens,
            limit_key: facts.limit_key.map(LimitKey::name),
            n: facts.n,
            best_of: facts.best_of,
            has_tools: facts.has_tools,
            has_images: facts.has_images,
            json_schema: facts.json_schema,
            messages: facts.messages,
            text_bytes: facts.text_bytes,
            media_bytes: facts.media_bytes,
            image_count: facts.images,
            audio_bytes: facts.audio_bytes,
            file_bytes: facts.file_bytes,
            text_file_bytes: facts.text_file_bytes,
            has_unseen: facts.has_unseen,
            has_server_tools: facts.server_tools != ServerTools::None,
            searches_max: match facts.server_tools {
                ServerTools::Searches(count) => Some(count),
                _ => None,
            },
            prompts: facts.prompts,
            prediction_bytes: facts.prediction_bytes,
            thinking_budget: facts.thinking_budget,
            end_user: facts.end_user,
            tags: facts.tags,
            trace_id: facts.trace_id,
            conversation_id: facts.conversation_id,
            mlx_trace: facts.mlx_trace,
            cache_skip: facts.cache_skip,
        }
    }
}

/// Tokens of one answer in disjoint parts.
#[pyclass(frozen, eq, get_all, module = "modelux._native")]
#[derive(PartialEq)]
#[expect(clippy::struct_field_names, reason = "the record's names, unit included")]
struct Usage {
    input_tokens: u64,
    cached_tokens: u64,
    cache_write_tokens: u64,
    cache_write_1h_tokens: u64,
    audio_input_tokens: u64,
    image_input_tokens: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
    audio_output_tokens: u64,
}

impl From<usage::Usage> for Usage {
    fn from(usage: usage::Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            cached_tokens: usage.cached_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            cache_write_1h_tokens: usage.cache_write_1h_tokens,
            audio_input_tokens: usage.audio_input_tokens,
            image_input_tokens: usage.image_input_tokens,
            output_tokens: usage.output_tokens,
            reasoning_tokens: usage.reasoning_tokens,
            audio_output_tokens: usage.audio_output_tokens,
        }
    }
}

#[pymethods]
impl Usage {
    fn __repr__(&self) -> String {
        format!(
            "Usage(input_tokens={}, cached_tokens={}, cache_write_tokens={}, \
             cache_write_1h_tokens={}, audio_input_tokens={}, image_input_tokens={}, \
             output_tokens={}, reasoning_tokens={}, audio_output_tokens={})",
            self.input_tokens,
            self.cached_tokens,
            self.cache_write_tokens,
            self.cache_write_1h_tokens,
            self.audio_input_tokens,
            self.image_input_tokens,
            self.output_tokens,
            self.reasoning_tokens,
            self.audio_output_tokens,
        )
    }
}

#[pyfunction]
#[pyo3(name = "scan")]
fn scan_body(body: &[u8], shape: &str) -> PyResult<Facts> {
    let facts = scan::scan(body, shape_of(shape)?).map_err(|fault| scan_error(&fault))?;
    Ok(facts.into())
}

#[pyfunction]
#[pyo3(
    name = "patch",
    signature = (body, model=None, *, include_usage=false, max_tokens=None, max_completion_tokens=None)
)]
fn patch_body<'py>(
    py: Python<'py>,
    body: &[u8],
    model: Option<&str>,
    include_usage: bool,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
) -> PyResult<Bound<'py, PyBytes>> {
    let facts = scan::scan(body, Shape::Chat).map_err(|fault| scan_error(&fault))?;
    let output_limit = max_tokens
        .map(|limit| (limit, LimitKey::MaxTokens))
        .or(max_completion_tokens.map(|limit| (limit, LimitKey::MaxCompletionTokens)));
    let mut out = Vec::new();
    patch::patch(body, &facts, &Edit { model, include_usage, output_limit }, &mut out);
    Ok(PyBytes::new(py, &out))
}

#[pyfunction]
fn usage_of_answer(body: &[u8]) -> Option<Usage> {
    usage::usage_of_answer(body).map(Usage::from)
}

/// Looks at one stream as it passes.
#[pyclass(module = "modelux._native")]
struct SseFollower(sse::Follower);

#[pymethods]
impl SseFollower {
    #[new]
    #[pyo3(signature = (*, cut_usage, count_text=false))]
    fn new(cut_usage: bool, count_text: bool) -> Self {
        let mut follower = sse::Follower::new(cut_usage);
        follower.count_text(count_text);
        Self(follower)
    }

    fn feed<'py>(&mut self, py: Python<'py>, chunk: &[u8]) -> Bound<'py, PyBytes> {
        let mut out = Vec::with_capacity(chunk.len());
        self.0.feed(chunk, &mut out);
        PyBytes::new(py, &out)
    }

    fn finish<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut out = Vec::new();
        self.0.finish(&mut out);
        PyBytes::new(py, &out)
    }

    #[getter]
    fn content_seen(&self) -> bool {
        self.0.content_seen()
    }

    #[getter]
    fn usage(&self) -> Option<Usage> {
        self.0.usage().map(Usage::from)
    }

    #[getter]
    fn done_seen(&self) -> bool {
        self.0.done_seen()
    }

    #[getter]
    fn finish_reason_seen(&self) -> bool {
        self.0.finish_reason_seen()
    }

    #[getter]
    fn error_event<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.0.error_event().map(|data| PyBytes::new(py, data))
    }

    #[getter]
    fn at_event_boundary(&self) -> bool {
        self.0.at_event_boundary()
    }

    #[getter]
    fn output_events(&self) -> u64 {
        self.0.output_events()
    }

    #[getter]
    fn usage_events_cut(&self) -> u64 {
        self.0.usage_events_cut()
    }

    #[getter]
    fn text_bytes(&self) -> u64 {
        self.0.text_bytes()
    }
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("ScanError", module.py().get_type::<ScanError>())?;
    module.add_class::<Facts>()?;
    module.add_class::<Usage>()?;
    module.add_class::<SseFollower>()?;
    module.add_function(wrap_pyfunction!(scan_body, module)?)?;
    module.add_function(wrap_pyfunction!(patch_body, module)?)?;
    module.add_function(wrap_pyfunction!(usage_of_answer, module)?)
}
