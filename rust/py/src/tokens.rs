//! The face of `tokens`: what may take long gives the interpreter back meanwhile.

use modelux_core::tokens::{self, Vocabulary};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::scan::shape_of;

fn named(name: &str) -> PyResult<Vocabulary> {
    Vocabulary::from_name(name).ok_or_else(|| {
        PyValueError::new_err(format!("no vocabulary is called {name:?}: take cl100k or o200k"))
    })
}

#[pyfunction]
fn vocabulary(vendor: &str, model: &str) -> Option<&'static str> {
    tokens::vocabulary(vendor, model).map(Vocabulary::name)
}

#[pyfunction]
fn is_vocabulary_loaded(vocabulary: &str) -> PyResult<bool> {
    Ok(tokens::is_loaded(named(vocabulary)?))
}

#[pyfunction]
fn load_vocabulary(py: Python<'_>, vocabulary: &str) -> PyResult<()> {
    let vocabulary = named(vocabulary)?;
    py.detach(|| tokens::load(vocabulary));
    Ok(())
}

#[pyfunction]
fn count(py: Python<'_>, body: &[u8], shape: &str, vocabulary: &str) -> PyResult<Option<u64>> {
    let (shape, vocabulary) = (shape_of(shape)?, named(vocabulary)?);
    Ok(py.detach(|| tokens::count_request(body, shape, vocabulary)))
}

#[pyfunction]
fn count_text(py: Python<'_>, text: &str, vocabulary: &str) -> PyResult<u64> {
    let vocabulary = named(vocabulary)?;
    Ok(py.detach(|| tokens::count_text(text, vocabulary)))
}

#[pyfunction]
#[pyo3(signature = (body, *, is_sse, vocabulary=None))]
fn relayed_tokens(body: &[u8], is_sse: bool, vocabulary: Option<&str>) -> PyResult<u64> {
    let vocabulary = vocabulary.map(named).transpose()?;
    Ok(tokens::relayed_tokens(body, is_sse, vocabulary))
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(vocabulary, module)?)?;
    module.add_function(wrap_pyfunction!(is_vocabulary_loaded, module)?)?;
    module.add_function(wrap_pyfunction!(load_vocabulary, module)?)?;
    module.add_function(wrap_pyfunction!(count, module)?)?;
    module.add_function(wrap_pyfunction!(count_text, module)?)?;
    module.add_function(wrap_pyfunction!(relayed_tokens, module)?)
}
