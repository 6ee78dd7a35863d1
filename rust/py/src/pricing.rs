//! `modelux._native.Catalogue`: prices for Python, which needs names and, in tests, costs.

use modelux_core::pricing;
use modelux_core::usage::Usage;
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use std::collections::HashMap;

/// The price catalogue.
#[pyclass(frozen, module = "modelux._native")]
struct Catalogue(pricing::Catalogue);

#[pymethods]
impl Catalogue {
    #[new]
    fn new(data: &[u8]) -> PyResult<Self> {
        pricing::Catalogue::from_json(data)
            .map(Self)
            .map_err(|fault| PyValueError::new_err(fault.to_string()))
    }

    #[getter]
    fn version(&self) -> &str {
        self.0.version()
    }

    fn known_models(&self, vendor: &str) -> Vec<String> {
        self.0.known_models(vendor)
    }

    fn knows(&self, vendor: &str, model: &str) -> bool {
        self.0.knows(vendor, model)
    }

    fn has_price(&self, vendor: &str, model: &str, at_unix_s: i64) -> bool {
        self.0.price(vendor, model, at_unix_s).is_some()
    }

    #[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over owned values")]
    fn cost(
        &self,
        vendor: &str,
        model: &str,
        at_unix_s: i64,
        usage: HashMap<String, u64>,
    ) -> PyResult<Option<(u64, u64)>> {
        let usage = usage_of(&usage)?;
        let Some(price) = self.0.price(vendor, model, at_unix_s) else {
            return Ok(None);
        };
        let cost = pricing::cost(&usage, &price);
        Ok(cost.map(|cost| (cost.input_nusd, cost.output_nusd)))
    }
}

fn usage_of(parts: &HashMap<String, u64>) -> PyResult<Usage> {
    let mut usage = Usage::default();
    for (name, tokens) in parts {
        let part = match name.as_str() {
            "input_tokens" => &mut usage.input_tokens,
            "cached_tokens" => &mut usage.cached_tokens,
            "cache_write_tokens" => &mut usage.cache_write_tokens,
            "cache_write_1h_tokens" => &mut usage.cache_write_1h_tokens,
            "audio_input_tokens" => &mut usage.audio_input_tokens,
            "image_input_tokens" => &mut usage.image_input_tokens,
            "output_tokens" => &mut usage.output_tokens,
            "reasoning_tokens" => &mut usage.reasoning_tokens,
            "audio_output_tokens" => &mut usage.audio_output_tokens,
            _ => return Err(PyKeyError::new_err(name.clone())),
        };
        *part = *tokens;
    }
    Ok(usage)
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Catalogue>()
}
