//! `modelux._native.Catalogue`: prices and models for Python, which needs names, what is known of
//! a model and, in tests, costs and bounds.

use modelux_core::bound::{BoundFault, LimitDefaults, bound, output_limit};
use modelux_core::models::{self, ModelCatalogue, Tier};
use modelux_core::pricing;
use modelux_core::routing::Flat;
use modelux_core::scan::scan;
use modelux_core::usage::{ServiceTier, Usage};
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use std::collections::HashMap;

use crate::scan::{scan_error, shape_of};

/// What holds where no configuration says otherwise.
const DEFAULTS: LimitDefaults =
    LimitDefaults { default_output_tokens: 16_384, min_output_tokens: 64 };

/// Read both data files.
pub(crate) fn read(prices: &[u8], models: Option<&[u8]>) -> PyResult<pricing::Catalogue> {
    let wrong = |fault: pricing::CatalogueFault| PyValueError::new_err(fault.to_string());
    let catalogue = pricing::Catalogue::from_json(prices).map_err(wrong)?;
    Ok(match models {
        Some(models) => {
            catalogue.with_models(ModelCatalogue::from_json(models).map_err(wrong)?)
        }
        None => catalogue,
    })
}

/// What is known of one model.
#[pyclass(frozen, get_all, module = "modelux._native")]
struct ModelInfo {
    context_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    tier: Option<&'static str>,
    tools: Option<bool>,
    images: Option<bool>,
    json_schema: Option<bool>,
    image_tokens_max: Option<u64>,
    searches: bool,
    search_nusd: Option<u64>,
}

impl From<models::ModelInfo> for ModelInfo {
    fn from(info: models::ModelInfo) -> Self {
        Self {
            context_tokens: info.context_tokens,
            max_output_tokens: info.max_output_tokens,
            tier: info.tier.map(Tier::name),
            tools: info.tools,
            images: info.images,
            json_schema: info.json_schema,
            image_tokens_max: info.image_tokens_max,
            searches: info.searches,
            search_nusd: info.search_nusd,
        }
    }
}

/// The price catalogue.
#[pyclass(frozen, module = "modelux._native")]
struct Catalogue(pricing::Catalogue);

#[pymethods]
impl Catalogue {
    #[new]
    #[pyo3(signature = (data, models=None))]
    fn new(data: &[u8], models: Option<&[u8]>) -> PyResult<Self> {
        read(data, models).map(Self)
    }

    #[getter]
    fn version(&self) -> &str {
        self.0.version()
    }

    #[getter]
    fn models_version(&self) -> &str {
        self.0.models_version()
    }

    fn info(&self, vendor: &str, model: &str) -> Option<ModelInfo> {
        self.0.info(vendor, model).map(ModelInfo::from)
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

    #[pyo3(signature = (vendor, model, at_unix_s, usage, service_tier=None))]
    #[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over owned values")]
    fn cost(
        &self,
        vendor: &str,
        model: &str,
        at_unix_s: i64,
        usage: HashMap<String, u64>,
        service_tier: Option<&str>,
    ) -> PyResult<Option<(u64, u64)>> {
        let mut usage = usage_of(&usage)?;
        usage.service_tier = service_tier.map(|name| ServiceTier::of(name.as_bytes()));
        let Some(price) = self.0.price(vendor, model, at_unix_s) else {
            return Ok(None);
        };
        let cost = pricing::cost(&usage, &price);
        Ok(cost.map(|cost| (cost.input_nusd, cost.output_nusd)))
    }

    #[pyo3(signature = (vendor, model, at_unix_s, body, shape, limit=None))]
    fn bound(
        &self,
        vendor: &str,
        model: &str,
        at_unix_s: i64,
        body: &[u8],
        shape: &str,
        limit: Option<u64>,
    ) -> PyResult<(u64, Option<u64>)> {
        let shape = shape_of(shape)?;
        let facts = scan(body, shape).map_err(|fault| scan_error(&fault))?;
        let price = self.0.price(vendor, model, at_unix_s);
        let info = self.0.info(vendor, model);
        let bound = bound(&facts, shape, price.as_ref(), info.as_ref(), vendor, None);
        let bound = bound.map_err(|fault| match fault {
            BoundFault::NotPriced => PyValueError::new_err("no price"),
            BoundFault::Unbounded(why) => PyValueError::new_err(why),
        })?;
        let flat = Flat::direct(0, model, model);
        let own = output_limit(&facts, shape, info.as_ref(), vendor, &flat.leaves[0], DEFAULTS);
        let limit = limit.or(own.map(|own| own.limit));
        let nusd = bound.at(limit);
        let nusd = nusd.ok_or_else(|| PyValueError::new_err("beyond what can be counted"))?;
        Ok((nusd, limit))
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
            "image_output_tokens" => &mut usage.image_output_tokens,
            "searches" => &mut usage.searches,
            _ => return Err(PyKeyError::new_err(name.clone())),
        };
        *part = *tokens;
    }
    Ok(usage)
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ModelInfo>()?;
    module.add_class::<Catalogue>()
}
