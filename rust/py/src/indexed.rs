//! `_native.read_facts`: what the trace store indexes of a record.

use modelux_core::indexed::{self, Amount, Indexed};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

fn text<'py>(py: Python<'py>, value: &str) -> Bound<'py, PyAny> {
    PyString::new(py, value).into_any()
}

fn number(py: Python<'_>, value: Option<i64>) -> PyResult<Bound<'_, PyAny>> {
    match value {
        Some(value) => Ok(value.into_pyobject(py)?.into_any()),
        None => Ok(py.None().into_bound(py)),
    }
}

#[pyfunction]
fn read_facts<'py>(py: Python<'py>, record: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
    let found: Indexed<'_> =
        indexed::read(record).map_err(|fault| PyValueError::new_err(fault.0))?;
    let cost = match &found.cost {
        None => py.None().into_bound(py),
        Some(Amount::Nusd(nusd)) => nusd.into_pyobject(py)?.into_any(),
        Some(Amount::Text(written)) => text(py, written),
    };
    let tags = PyDict::new(py);
    for (name, value) in &found.tags {
        tags.set_item(text(py, name), text(py, value))?;
    }
    let attempts = found
        .attempts
        .iter()
        .map(|attempt| {
            let parts = [&attempt.provider, &attempt.model, &attempt.outcome];
            PyTuple::new(py, parts.map(|part| text(py, part)))
        })
        .collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(
        py,
        [
            text(py, &found.id),
            number(py, Some(found.ts_us))?,
            text(py, &found.project),
            text(py, &found.route),
            text(py, &found.provider),
            text(py, &found.model),
            text(py, &found.model_requested),
            text(py, &found.end_user),
            text(py, &found.trace_id),
            text(py, &found.conversation_id),
            number(py, Some(found.status))?,
            cost,
            number(py, Some(found.input_tokens))?,
            number(py, Some(found.output_tokens))?,
            number(py, found.overhead_us)?,
            number(py, found.ttft_us)?,
            number(py, found.total_us)?,
            tags.into_any(),
            PyTuple::new(py, attempts)?.into_any(),
        ],
    )
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(read_facts, module)?)
}
