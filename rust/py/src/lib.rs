//! `modelux._native`: the `PyO3` face of `modelux-core`. Conversion only, no logic.

mod cells;
mod ring;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    cells::register(module)?;
    ring::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
