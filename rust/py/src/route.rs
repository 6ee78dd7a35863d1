//! `_native.Snapshot` and `_native.route`: a decision by itself, without a request under way.

use modelux_core::pricing::Catalogue;
use modelux_core::replayed;
use modelux_core::snapshot;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// A published configuration, compiled.
#[pyclass(unsendable, module = "modelux._native")]
struct Snapshot {
    inner: snapshot::Snapshot,
    catalogue: Catalogue,
}

#[pymethods]
impl Snapshot {
    #[new]
    fn new(document: &[u8], catalogue: &[u8], models: &[u8]) -> PyResult<Self> {
        // Nothing is sent anywhere, so no secret is needed, but one has to stand there.
        let no_secret = |_: &str| Some("none".to_owned());
        let inner = snapshot::Snapshot::from_json(document, &no_secret)
            .map_err(|fault| PyValueError::new_err(fault.to_string()))?;
        Ok(Self { inner, catalogue: crate::pricing::read(catalogue, Some(models))? })
    }
}

/// Decide where a request goes, by the figures given.
#[pyfunction]
fn route<'py>(
    py: Python<'py>,
    snapshot: &Snapshot,
    facts: &[u8],
    state: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    replayed::route(&snapshot.inner, &snapshot.catalogue, facts, state)
        .map(|decision| PyBytes::new(py, &decision))
        .map_err(|fault| PyValueError::new_err(fault.to_string()))
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Snapshot>()?;
    module.add_function(wrap_pyfunction!(route, module)?)
}
