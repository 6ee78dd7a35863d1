//! `modelux._native.Redactor`: keys and addresses out of bodies.

use std::borrow::Cow;

use modelux_core::redact::Redactor;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Compiled patterns; see `modelux_core::redact`.
#[pyclass(name = "Redactor", module = "modelux._native", frozen)]
struct PyRedactor(Redactor);

#[pymethods]
#[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over owned values")]
impl PyRedactor {
    #[new]
    fn new(patterns: Vec<String>) -> PyResult<Self> {
        Redactor::new(&patterns).map(Self).map_err(|fault| {
            let pattern = patterns.get(fault.index).map_or("", String::as_str);
            PyValueError::new_err(format!("pattern `{pattern}`: {}", fault.why))
        })
    }

    fn redact<'py>(&self, text: Bound<'py, PyBytes>) -> Bound<'py, PyBytes> {
        or_itself(&text, self.0.redact(text.as_bytes()))
    }

    fn redact_record<'py>(&self, record: Bound<'py, PyBytes>) -> Bound<'py, PyBytes> {
        or_itself(&record, self.0.redact_record(record.as_bytes()))
    }
}

/// Where nothing was found, the caller keeps what it has.
fn or_itself<'py>(text: &Bound<'py, PyBytes>, redacted: Cow<'_, [u8]>) -> Bound<'py, PyBytes> {
    match redacted {
        Cow::Borrowed(_) => text.clone(),
        Cow::Owned(redacted) => PyBytes::new(text.py(), &redacted),
    }
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyRedactor>()
}
