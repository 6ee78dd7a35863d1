//! What a model can take and give: its window, its longest answer, what it reads.
//!
//! Made from public data by `scripts/update_models.py`. Whatever is not known is `None`: nothing
//! here is guessed, and who needs a figure that is missing takes the safe side.

use std::collections::HashMap;

use serde::Deserialize;

use crate::pricing::CatalogueFault;

const FORMAT: u32 = 1;
/// Parts of the names of models that search the web without being asked to; the last is how a
/// router's plugin is called by the name of any model.
const SEARCHING: [&str; 5] =
    ["-search-preview", "-search-api", "-deep-research", "/sonar", ":online"];
/// What a region makes of the price where it makes nothing of it, by the thousand.
pub const REGION_NONE: u64 = 1000;

/// How dear a model is, by the rule that `scripts/update_models.py` states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The cheapest.
    Economy,
    /// In between.
    Standard,
    /// Dearer than most.
    Premium,
    /// The dearest.
    Frontier,
}

impl Tier {
    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Economy => "economy",
            Self::Standard => "standard",
            Self::Premium => "premium",
            Self::Frontier => "frontier",
        }
    }
}

/// What a service tier makes of the standard price, by the thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "FactorFile")]
pub struct Factor {
    /// Of input, writes to the cache included.
    pub input: u64,
    /// Of input read from the cache.
    pub cached: u64,
    /// Of output.
    pub output: u64,
}

impl Factor {
    /// The standard price itself.
    pub const ONE: Self = Self { input: 1000, cached: 1000, output: 1000 };

    /// Both, one after the other, rounded up.
    #[must_use]
    pub fn times(self, permille: u64) -> Self {
        let times = |factor: u64| factor.saturating_mul(permille).div_ceil(1000);
        Self {
            input: times(self.input),
            cached: times(self.cached),
            output: times(self.output),
        }
    }

    /// The larger of each.
    #[must_use]
    pub fn dearer(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached: self.cached.max(other.cached),
            output: self.output.max(other.output),
        }
    }
}

/// One number where all three are equal.
#[derive(Deserialize)]
#[serde(untagged)]
enum FactorFile {
    All(u64),
    Each([u64; 3]),
}

impl From<FactorFile> for Factor {
    fn from(file: FactorFile) -> Self {
        match file {
            FactorFile::All(all) => Self { input: all, cached: all, output: all },
            FactorFile::Each([input, cached, output]) => Self { input, cached, output },
        }
    }
}

/// The service tiers of a model that have a price of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceTiers {
    /// Slower and cheaper.
    pub flex: Option<Factor>,
    /// Sooner and dearer.
    pub priority: Option<Factor>,
    /// Sooner still: `ultrafast`.
    pub fast: Option<Factor>,
    /// Anthropic's `speed`, which is asked for beside the tier.
    pub speed: Option<Factor>,
}

impl ServiceTiers {
    /// The dearest factor of all, the standard one included.
    #[must_use]
    pub fn dearest(&self) -> Factor {
        [self.flex, self.priority, self.fast, self.speed]
            .into_iter()
            .flatten()
            .fold(Factor::ONE, Factor::dearer)
    }
}

/// What is known of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelInfo {
    /// The most tokens of one prompt.
    pub context_tokens: Option<u64>,
    /// The most tokens of one answer.
    pub max_output_tokens: Option<u64>,
    /// How dear it is.
    pub tier: Option<Tier>,
    /// Whether it calls tools.
    pub tools: Option<bool>,
    /// Whether it reads images.
    pub images: Option<bool>,
    /// Whether it keeps to a JSON schema.
    pub json_schema: Option<bool>,
    /// The most tokens that one image counts for.
    pub image_tokens_max: Option<u64>,
    /// It searches the web of its own accord.
    pub searches: bool,
    /// What a web search costs, in nano-USD.
    pub search_nusd: Option<u64>,
    /// What the price becomes where the work stays in one region, by the thousand.
    pub region_permille: Option<u64>,
    /// Its prices beside the standard one.
    pub service_tiers: ServiceTiers,
}

impl ModelInfo {
    /// What is known here, and elsewhere what `base` knows.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            context_tokens: self.context_tokens.or(base.context_tokens),
            max_output_tokens: self.max_output_tokens.or(base.max_output_tokens),
            tier: self.tier.or(base.tier),
            tools: self.tools.or(base.tools),
            images: self.images.or(base.images),
            json_schema: self.json_schema.or(base.json_schema),
            image_tokens_max: self.image_tokens_max.or(base.image_tokens_max),
            searches: self.searches || base.searches,
            search_nusd: self.search_nusd.or(base.search_nusd),
            region_permille: self.region_permille.or(base.region_permille),
            service_tiers: if self.service_tiers == ServiceTiers::default() {
                base.service_tiers
            } else {
                self.service_tiers
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelsFile {
    format: u32,
    version: String,
    vendors: HashMap<String, Vendor>,
}

/// The models of one vendor.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vendor {
    /// Of a model that is not listed: the dearest service tiers that the vendor has.
    #[serde(default)]
    service_tiers: ServiceTiers,
    /// By the whole name, in lower case.
    models: HashMap<String, ModelInfo>,
    /// By the id of the price catalogue, under which several names may stand: of each figure the
    /// safest that any of them has.
    #[serde(default)]
    priced_as: HashMap<String, ModelInfo>,
}

/// What is known of all models.
#[derive(Debug, Default)]
pub struct ModelCatalogue {
    version: String,
    vendors: HashMap<String, Vendor>,
}

impl ModelCatalogue {
    /// Read `modelux/pricing/data/models.json`.
    ///
    /// # Errors
    ///
    /// It is not of the shape that `scripts/update_models.py` writes.
    pub fn from_json(data: &[u8]) -> Result<Self, CatalogueFault> {
        let file: ModelsFile = serde_json::from_slice(data)
            .map_err(|error| CatalogueFault::Json(error.to_string()))?;
        if file.format != FORMAT {
            return Err(CatalogueFault::Format(file.format));
        }
        Ok(Self { version: file.version, vendors: file.vendors })
    }

    /// What it was made from, and when.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What is known of a model by its whole name, else by the id under which it is priced.
    ///
    /// None is a model of which nothing is known. `name` is in lower case.
    #[must_use]
    pub fn info(&self, vendor: &str, name: &str, priced_as: Option<&str>) -> Option<ModelInfo> {
        let vendor = self.vendors.get(vendor)?;
        let named = vendor.models.get(name);
        let known = named.or_else(|| vendor.priced_as.get(priced_as?)).copied();
        if SEARCHING.iter().any(|part| name.contains(part)) {
            return Some(ModelInfo { searches: true, ..known.unwrap_or_default() });
        }
        known
    }

    /// The service tiers of a model that is not listed: all that its vendor has, each at its
    /// dearest, as nobody knows which of them this model has.
    #[must_use]
    pub fn service_tiers(&self, vendor: &str) -> ServiceTiers {
        self.vendors.get(vendor).map(|vendor| vendor.service_tiers).unwrap_or_default()
    }
}
