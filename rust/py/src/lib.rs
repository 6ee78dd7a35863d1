//! `modelux._native`: the `PyO3` face of `modelux-core`. Conversion only, no logic.

mod cells;
mod gate;
mod indexed;
mod ledger;
mod live;
mod parse;
mod pricing;
mod redact;
mod ring;
mod route;
mod rules;
mod scan;
mod tokens;
mod toml;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    cells::register(module)?;
    gate::register(module)?;
    indexed::register(module)?;
    ledger::register(module)?;
    live::register(module)?;
    parse::register(module)?;
    pricing::register(module)?;
    redact::register(module)?;
    ring::register(module)?;
    route::register(module)?;
    rules::register(module)?;
    scan::register(module)?;
    tokens::register(module)?;
    toml::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
