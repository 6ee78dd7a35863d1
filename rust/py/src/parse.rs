//! Heads and chunked bodies as the tests see them; the gate uses the same parsers from Rust.

use modelux_core::chunked::{self, ChunkFault, Decoder};
use modelux_core::head::{self, Framing, Parse};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Why a head is refused.
#[pyclass(frozen, get_all, module = "modelux._native")]
struct HeadFault {
    name: &'static str,
    text: &'static str,
    status: u16,
}

/// A request's head, copied out.
#[pyclass(frozen, get_all, module = "modelux._native")]
struct RequestHead {
    method: String,
    target: String,
    path: String,
    query: String,
    minor_version: u8,
    framing: &'static str,
    content_length: Option<u64>,
    keep_alive: bool,
    expect_continue: bool,
    head_bytes: usize,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    hop_by_hop: Vec<String>,
}

/// A response's head, copied out.
#[pyclass(frozen, get_all, module = "modelux._native")]
struct ResponseHead {
    status: u16,
    reason: String,
    minor_version: u8,
    framing: &'static str,
    content_length: Option<u64>,
    keep_alive: bool,
    head_bytes: usize,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    hop_by_hop: Vec<String>,
}

fn framing_parts(framing: Framing) -> (&'static str, Option<u64>) {
    match framing {
        Framing::None => ("none", None),
        Framing::Length(length) => ("length", Some(length)),
        Framing::Chunked => ("chunked", None),
        Framing::UntilClose => ("until_close", None),
    }
}

fn fault_object(py: Python<'_>, fault: head::HeadFault) -> PyResult<Py<PyAny>> {
    let fault = HeadFault { name: fault.name(), text: fault.text(), status: fault.status() };
    Ok(Py::new(py, fault)?.into_any())
}

/// Parse a request's head: the head, the fault, or None while it is not whole.
#[pyfunction]
fn parse_request(
    py: Python<'_>,
    data: &[u8],
    head_bytes_max: usize,
) -> PyResult<Option<Py<PyAny>>> {
    let head = match head::parse_request(data, head_bytes_max) {
        Parse::Partial => return Ok(None),
        Parse::Refused(fault) => return fault_object(py, fault).map(Some),
        Parse::Done(head) => head,
    };
    let (framing, content_length) = framing_parts(head.framing);
    let copied = RequestHead {
        method: head.method.to_owned(),
        target: head.target.to_owned(),
        path: head.path.to_owned(),
        query: head.query.to_owned(),
        minor_version: head.minor_version,
        framing,
        content_length,
        keep_alive: head.keep_alive,
        expect_continue: head.expect_continue,
        head_bytes: head.head_bytes,
        headers: head.headers().map(|(name, value)| (name.into(), value.to_vec())).collect(),
        hop_by_hop: head
            .headers()
            .filter(|(name, _)| head.is_hop_by_hop(name))
            .map(|(name, _)| name.to_owned())
            .collect(),
    };
    Ok(Some(Py::new(py, copied)?.into_any()))
}

/// Parse a response's head: the head, the fault, or None while it is not whole.
#[pyfunction]
#[pyo3(signature = (data, head_bytes_max, *, to_head_request = false))]
fn parse_response(
    py: Python<'_>,
    data: &[u8],
    head_bytes_max: usize,
    to_head_request: bool,
) -> PyResult<Option<Py<PyAny>>> {
    let head = match head::parse_response(data, head_bytes_max, to_head_request) {
        Parse::Partial => return Ok(None),
        Parse::Refused(fault) => return fault_object(py, fault).map(Some),
        Parse::Done(head) => head,
    };
    let (framing, content_length) = framing_parts(head.framing);
    let copied = ResponseHead {
        status: head.status,
        reason: head.reason.to_owned(),
        minor_version: head.minor_version,
        framing,
        content_length,
        keep_alive: head.keep_alive,
        head_bytes: head.head_bytes,
        headers: head.headers().map(|(name, value)| (name.into(), value.to_vec())).collect(),
        hop_by_hop: head
            .headers()
            .filter(|(name, _)| head.is_hop_by_hop(name))
            .map(|(name, _)| name.to_owned())
            .collect(),
    };
    Ok(Some(Py::new(py, copied)?.into_any()))
}

/// Takes one chunked body apart.
#[pyclass(module = "modelux._native")]
struct ChunkedDecoder(Decoder);

#[pymethods]
impl ChunkedDecoder {
    #[new]
    fn new() -> Self {
        Self(Decoder::new())
    }

    /// Return payload, bytes consumed and whether the message has ended.
    fn feed<'py>(
        &mut self,
        py: Python<'py>,
        data: &[u8],
    ) -> PyResult<(Bound<'py, PyBytes>, usize, bool)> {
        let mut out = Vec::new();
        let progress = self
            .0
            .feed(data, &mut out)
            .map_err(|fault| PyValueError::new_err((fault.name(), fault.text())))?;
        Ok((PyBytes::new(py, &out), progress.consumed, progress.done))
    }
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<HeadFault>()?;
    module.add_class::<RequestHead>()?;
    module.add_class::<ResponseHead>()?;
    module.add_class::<ChunkedDecoder>()?;
    module.add_function(wrap_pyfunction!(parse_request, module)?)?;
    module.add_function(wrap_pyfunction!(parse_response, module)?)?;
    let names = |names: Vec<&'static str>| names;
    module
        .add("HEAD_FAULTS", names(head::HeadFault::ALL.iter().map(|f| f.name()).collect()))?;
    module.add("CHUNK_FAULTS", names(ChunkFault::ALL.iter().map(|f| f.name()).collect()))?;
    module.add("HEAD_BYTES_CAP", head::HEAD_BYTES_CAP)?;
    module.add("HEADERS_COUNT_MAX", head::HEADERS_COUNT_MAX)?;
    module.add("CHUNK_LINE_BYTES_MAX", chunked::CHUNK_LINE_BYTES_MAX)?;
    module.add("TRAILER_BYTES_MAX", chunked::TRAILER_BYTES_MAX)
}
