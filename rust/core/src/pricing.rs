//! What a model costs: the catalogue that ships with modelux, and usage to money.
//!
//! The catalogue is made from genai-prices by `scripts/update_prices.py`: rules by which a name
//! finds its model, dated and daily prices, tiers by the length of the prompt. Money is integer
//! nano-USD and prices are nano-USD a million tokens. A price that is missing is `None`, never
//! free: an unknown model has no price, and tokens of a kind that nothing prices have no cost.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;

use crate::models::{Factor, ModelCatalogue, ModelInfo, REGION_NONE, ServiceTiers};
use crate::usage::{ServiceTier, Usage};

const TOKENS_PER_MTOK: u64 = 1_000_000;
const PERMILLE: u128 = 1000;
const SECONDS_PER_DAY: i64 = 86_400;
/// A cost beyond this is refused: doubles, and so most readers of JSON, are exact up to here.
const COST_NUSD_MAX: u128 = 1 << 53;
/// Tiers beyond the base; `scripts/update_prices.py` stops at more.
const TIERS_MAX: usize = 2;
const FORMAT: u32 = 1;

/// Nano-USD a million tokens, for each part of a usage; `None` has no price of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Input that no other rate covers.
    pub input: Option<u64>,
    /// Input read from the cache; else as input.
    pub cached: Option<u64>,
    /// Input written to the cache; else as input.
    pub cache_write: Option<u64>,
    /// Input written to the cache for an hour; else as any write to the cache.
    pub cache_write_1h: Option<u64>,
    /// Audio input; else as input.
    pub audio_input: Option<u64>,
    /// Image input; else as input.
    pub image_input: Option<u64>,
    /// Output that no other rate covers.
    pub output: Option<u64>,
    /// Reasoning; else as output.
    pub reasoning: Option<u64>,
    /// Audio output; else as output.
    pub audio_output: Option<u64>,
    /// Image output; else as output.
    pub image_output: Option<u64>,
}

impl Rates {
    /// The rates of a service tier, each rounded up.
    pub(crate) fn times(&self, factor: Factor) -> Self {
        let times = |rate: Option<u64>, permille: u64| {
            rate.map(|rate| {
                let scaled = (u128::from(rate) * u128::from(permille)).div_ceil(PERMILLE);
                u64::try_from(scaled).unwrap_or(u64::MAX)
            })
        };
        Self {
            input: times(self.input, factor.input),
            cached: times(self.cached, factor.cached),
            cache_write: times(self.cache_write, factor.input),
            cache_write_1h: times(self.cache_write_1h, factor.input),
            audio_input: times(self.audio_input, factor.input),
            image_input: times(self.image_input, factor.input),
            output: times(self.output, factor.output),
            reasoning: times(self.reasoning, factor.output),
            audio_output: times(self.audio_output, factor.output),
            image_output: times(self.image_output, factor.output),
        }
    }

    /// Nano-USD by which the lines of a charge, each rounded up, may pass their exact sum rounded
    /// up once for each side.
    pub(crate) fn lines_beside(&self) -> u128 {
        let own = [
            self.cached,
            self.cache_write,
            self.cache_write_1h,
            self.audio_input,
            self.image_input,
            self.reasoning,
            self.audio_output,
            self.image_output,
        ];
        own.into_iter().flatten().filter(|rate| *rate > 0).count() as u128
    }

    fn is_zero(&self) -> bool {
        [
            self.input,
            self.cached,
            self.cache_write,
            self.cache_write_1h,
            self.audio_input,
            self.image_input,
            self.output,
            self.reasoning,
            self.audio_output,
            self.image_output,
        ]
        .into_iter()
        .flatten()
        .all(|rate| rate == 0)
    }
}

/// What one model costs at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    base: Rates,
    /// Rates for prompts of more tokens than the number, in rising order; unused ones never hold.
    tiers: [(u64, Rates); TIERS_MAX],
    request_nusd: u64,
    /// The fee of one web search; None has no price.
    search_nusd: Option<u64>,
    service_tiers: ServiceTiers,
    region_permille: u64,
}

impl Price {
    /// A price of zero that somebody stated: nothing is charged, and that is known.
    #[must_use]
    pub fn free() -> Self {
        Self::flat(0, 0, None, None, 0)
    }

    /// A price without tiers, as an operator states it: nano-USD a million tokens, and the fee of
    /// one request in nano-USD.
    #[must_use]
    pub fn flat(
        input_nusd_per_mtok: u64,
        output_nusd_per_mtok: u64,
        cached_nusd_per_mtok: Option<u64>,
        cache_write_nusd_per_mtok: Option<u64>,
        request_nusd: u64,
    ) -> Self {
        let base = Rates {
            input: Some(input_nusd_per_mtok),
            output: Some(output_nusd_per_mtok),
            cached: cached_nusd_per_mtok,
            cache_write: cache_write_nusd_per_mtok,
            ..Rates::default()
        };
        Self {
            base,
            tiers: [NO_TIER; TIERS_MAX],
            request_nusd,
            // Who says that all of it is free says so of searches, too.
            search_nusd: (base.is_zero() && request_nusd == 0).then_some(0),
            service_tiers: ServiceTiers::default(),
            region_permille: REGION_NONE,
        }
    }

    /// The rates for a prompt of that many tokens, cached ones included.
    ///
    /// A tier prices the whole request anew, not only what lies beyond its start.
    #[must_use]
    pub fn rates(&self, prompt_tokens: u128) -> &Rates {
        self.tiers
            .iter()
            .rev()
            .find(|(over, _)| prompt_tokens > u128::from(*over))
            .map_or(&self.base, |(_, rates)| rates)
    }

    /// The rates that a prompt of at most that many tokens may be billed at, the base first.
    pub(crate) fn reachable_rates(&self, prompt_tokens: u128) -> impl Iterator<Item = &Rates> {
        let tiers = self.tiers.iter();
        let reached = tiers.take_while(move |(over, _)| prompt_tokens > u128::from(*over));
        std::iter::once(&self.base).chain(reached.map(|(_, rates)| rates))
    }

    /// The fee of one request in nano-USD.
    #[must_use]
    pub fn request_nusd(&self) -> u64 {
        self.request_nusd
    }

    /// The fee of one web search in nano-USD; None has no price.
    #[must_use]
    pub fn search_nusd(&self) -> Option<u64> {
        self.search_nusd
    }

    /// The service tiers that have a price of their own.
    #[must_use]
    pub fn service_tiers(&self) -> &ServiceTiers {
        &self.service_tiers
    }

    /// What the price becomes where the work stays in one region, by the thousand.
    #[must_use]
    pub fn region_permille(&self) -> u64 {
        self.region_permille
    }

    /// Whether whatever is done costs nothing, by somebody's word.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.has_free_tokens() && self.request_nusd == 0 && self.search_nusd == Some(0)
    }

    /// Whether tokens cost nothing, however many.
    pub(crate) fn has_free_tokens(&self) -> bool {
        self.base.is_zero() && self.tiers.iter().all(|(_, rates)| rates.is_zero())
    }

    /// What the tier and the region that an answer names make of the standard price.
    fn factor(&self, usage: &Usage) -> Factor {
        let tiers = &self.service_tiers;
        let known = match usage.service_tier {
            None | Some(ServiceTier::Standard) => None,
            Some(ServiceTier::Flex) => tiers.flex,
            Some(ServiceTier::Priority) => tiers.priority,
            Some(ServiceTier::Fast) => tiers.fast,
            Some(ServiceTier::Speed) => tiers.speed,
            // Nobody knows what it costs: never less than it may.
            Some(ServiceTier::Unknown) => Some(tiers.dearest()),
        };
        let factor = known.unwrap_or(Factor::ONE);
        if usage.in_region { factor.times(self.region_permille) } else { factor }
    }
}

/// No sum of a usage's parts that is believed is larger.
const NO_TIER: (u64, Rates) = (u64::MAX, NO_RATES);
const NO_RATES: Rates = Rates {
    input: None,
    cached: None,
    cache_write: None,
    cache_write_1h: None,
    audio_input: None,
    image_input: None,
    output: None,
    reasoning: None,
    audio_output: None,
    image_output: None,
};

/// What a usage costs, in nano-USD. The fees of the request and of searches count as input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// All input lines and the fees.
    pub input_nusd: u64,
    /// All output lines.
    pub output_nusd: u64,
}

/// Price a usage.
///
/// Parts without a rate of their own join the line of the part they fall back to; each line is
/// rounded up once, so that the sum is at most one nano-USD a line above the exact cost and never
/// below it. `None` where tokens were used that have no price, or where the cost is beyond 2^53
/// nano-USD. The service tier that the answer names decides which price holds.
#[must_use]
pub fn cost(usage: &Usage, price: &Price) -> Option<Cost> {
    let parts = [
        usage.input_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.audio_input_tokens,
        usage.image_input_tokens,
    ];
    let rates = price.rates(parts.iter().map(|tokens| u128::from(*tokens)).sum());
    let factor = price.factor(usage);
    let scaled;
    let rates = if factor == Factor::ONE {
        rates
    } else {
        scaled = rates.times(factor);
        &scaled
    };

    let mut input = Side::new(usage.input_tokens);
    input.add(usage.cached_tokens, rates.cached)?;
    // Without a price of its own a write for an hour is on the line of the others.
    let (short, long) = match rates.cache_write_1h {
        Some(_) => (usage.cache_write_tokens, usage.cache_write_1h_tokens),
        None => (usage.cache_write_tokens.checked_add(usage.cache_write_1h_tokens)?, 0),
    };
    input.add(short, rates.cache_write)?;
    input.add(long, rates.cache_write_1h)?;
    input.add(usage.audio_input_tokens, rates.audio_input)?;
    input.add(usage.image_input_tokens, rates.image_input)?;

    let images = usage.image_output_tokens.min(usage.output_tokens);
    let mut output = Side::new(usage.output_tokens - images);
    output.add(images, rates.image_output)?;
    output.add(usage.reasoning_tokens, rates.reasoning)?;
    output.add(usage.audio_output_tokens, rates.audio_output)?;

    let mut input_nusd =
        input.nusd(rates.input)?.checked_add(u128::from(price.request_nusd))?;
    if usage.searches > 0 {
        let fees = u128::from(usage.searches).checked_mul(u128::from(price.search_nusd?))?;
        input_nusd = input_nusd.checked_add(fees)?;
    }
    let output_nusd = output.nusd(rates.output)?;
    if input_nusd.checked_add(output_nusd)? > COST_NUSD_MAX {
        return None;
    }
    Some(Cost {
        input_nusd: u64::try_from(input_nusd).ok()?,
        output_nusd: u64::try_from(output_nusd).ok()?,
    })
}

/// One side of a cost while it is added up.
struct Side {
    /// Tokens that the side's own rate prices.
    tokens: u128,
    /// Lines with other rates, rounded up each.
    lines_nusd: u128,
}

impl Side {
    fn new(tokens: u64) -> Self {
        Self { tokens: u128::from(tokens), lines_nusd: 0 }
    }

    fn add(&mut self, tokens: u64, rate: Option<u64>) -> Option<()> {
        match rate {
            Some(rate) => {
                let line = line_nusd(u128::from(tokens), rate)?;
                self.lines_nusd = self.lines_nusd.checked_add(line)?;
            }
            None => self.tokens = self.tokens.checked_add(u128::from(tokens))?,
        }
        Some(())
    }

    fn nusd(&self, rate: Option<u64>) -> Option<u128> {
        let own = match rate {
            Some(rate) => line_nusd(self.tokens, rate)?,
            None if self.tokens == 0 => 0,
            None => return None,
        };
        self.lines_nusd.checked_add(own)
    }
}

fn line_nusd(tokens: u128, rate: u64) -> Option<u128> {
    Some(of_a_million(tokens.checked_mul(u128::from(rate))?))
}

/// Tokens times a rate for a million of them, as an amount, rounded up.
pub(crate) fn of_a_million(product: u128) -> u128 {
    // Nearly always: and a division of 64 bits is many times as fast as one of 128.
    match u64::try_from(product) {
        Ok(product) => u128::from(product.div_ceil(TOKENS_PER_MTOK)),
        Err(_) => product.div_ceil(u128::from(TOKENS_PER_MTOK)),
    }
}

// --- the catalogue -----------------------------------------------------------------------------

/// Why a catalogue cannot be used.
#[derive(Debug)]
pub enum CatalogueFault {
    /// It is not JSON of our shape; where and why.
    Json(String),
    /// It has another format than this program reads.
    Format(u32),
    /// It contradicts itself; how.
    Content(String),
}

impl fmt::Display for CatalogueFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(why) => write!(formatter, "the price catalogue cannot be read: {why}"),
            Self::Format(format) => {
                write!(formatter, "the price catalogue has format {format}, not {FORMAT}")
            }
            Self::Content(what) => write!(formatter, "the price catalogue is wrong: {what}"),
        }
    }
}

impl std::error::Error for CatalogueFault {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueFile {
    format: u32,
    version: String,
    vendors: HashMap<String, VendorFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VendorFile {
    fallback: Vec<String>,
    models: Vec<ModelFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    id: String,
    #[serde(rename = "match")]
    rule: Rule,
    prices: Vec<PriceFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    from_s: Option<i64>,
    daily_s: Option<[i64; 2]>,
    rates: Rates,
    #[serde(default)]
    tiers: Vec<TierFile>,
    #[serde(default)]
    request: u64,
    #[serde(default)]
    search: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TierFile {
    over: u64,
    rates: Rates,
}

/// A rule on names in lower case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    Equals(String),
    StartsWith(String),
    EndsWith(String),
    Contains(String),
    /// The whole name, `#` standing for any digit.
    Digits(String),
    /// The start of the name, `#` standing for any digit.
    DigitsStart(String),
    Or(Vec<Rule>),
    And(Vec<Rule>),
    Not(Box<Rule>),
}

impl Rule {
    fn holds(&self, name: &str) -> bool {
        match self {
            Self::Equals(text) => name == text,
            Self::StartsWith(text) => name.starts_with(text.as_str()),
            Self::EndsWith(text) => name.ends_with(text.as_str()),
            Self::Contains(text) => name.contains(text.as_str()),
            Self::Digits(pattern) => {
                name.len() == pattern.len() && starts_with_digits(name, pattern)
            }
            Self::DigitsStart(pattern) => starts_with_digits(name, pattern),
            Self::Or(rules) => rules.iter().any(|rule| rule.holds(name)),
            Self::And(rules) => rules.iter().all(|rule| rule.holds(name)),
            Self::Not(rule) => !rule.holds(name),
        }
    }
}

fn starts_with_digits(name: &str, pattern: &str) -> bool {
    name.len() >= pattern.len()
        && name.bytes().zip(pattern.bytes()).all(|(byte, wanted)| {
            if wanted == b'#' { byte.is_ascii_digit() } else { byte == wanted }
        })
}

/// When a price holds.
#[derive(Debug)]
enum When {
    Always,
    /// Since that second of UNIX time.
    From(i64),
    /// Between these seconds of a day in UTC; over midnight where the end is the smaller.
    Daily(i64, i64),
}

impl When {
    fn holds(&self, at_unix_s: i64) -> bool {
        match *self {
            Self::Always => true,
            Self::From(start) => at_unix_s >= start,
            Self::Daily(start, end) => {
                let now = at_unix_s.rem_euclid(SECONDS_PER_DAY);
                if end < start {
                    now >= start || now < end
                } else {
                    (start..end).contains(&now)
                }
            }
        }
    }
}

#[derive(Debug)]
struct Model {
    id: String,
    /// At least one. The last that holds counts, else the first.
    prices: Vec<(When, Price)>,
}

impl Model {
    fn price(&self, at_unix_s: i64) -> Option<Price> {
        let price = self
            .prices
            .iter()
            .rev()
            .find(|(when, _)| when.holds(at_unix_s))
            .or(self.prices.first())
            .map(|(_, price)| price)?;
        // Named but not priced, or priced by what we do not count (hours of audio, say).
        (price.base.input.is_some() || price.base.output.is_some()).then(|| price.clone())
    }
}

#[derive(Debug, Default)]
struct Vendor {
    models: Vec<Model>,
    /// Whole names to the first model that claims them.
    names: HashMap<String, usize>,
    /// All other rules, in the order of their models: the first that holds counts, and a whole
    /// name only where no rule of an earlier model holds.
    rules: Vec<(usize, Rule)>,
    fallback: Vec<String>,
}

impl Vendor {
    fn find(&self, name: &str) -> Option<&Model> {
        let named = self.names.get(name).copied();
        let ruled = self
            .rules
            .iter()
            .take_while(|(index, _)| named.is_none_or(|named| *index < named))
            .find(|(_, rule)| rule.holds(name));
        self.models.get(ruled.map(|(index, _)| *index).or(named)?)
    }

    fn add_rule(&mut self, index: usize, rule: Rule) {
        match rule {
            Rule::Equals(name) => {
                self.names.entry(name).or_insert(index);
            }
            Rule::Or(rules) => {
                for rule in rules {
                    self.add_rule(index, rule);
                }
            }
            rule => self.rules.push((index, rule)),
        }
    }
}

/// The prices of all vendors that it knows.
#[derive(Debug)]
pub struct Catalogue {
    version: String,
    vendors: HashMap<String, Vendor>,
    models: ModelCatalogue,
}

impl Catalogue {
    /// Read `modelux/pricing/data/prices.json`.
    ///
    /// # Errors
    ///
    /// It is not of the shape that `scripts/update_prices.py` writes.
    pub fn from_json(data: &[u8]) -> Result<Self, CatalogueFault> {
        let file: CatalogueFile = serde_json::from_slice(data)
            .map_err(|error| CatalogueFault::Json(error.to_string()))?;
        if file.format != FORMAT {
            return Err(CatalogueFault::Format(file.format));
        }
        let mut vendors = HashMap::with_capacity(file.vendors.len());
        let known: Vec<String> = file.vendors.keys().cloned().collect();
        for (name, vendor) in file.vendors {
            if let Some(other) = vendor.fallback.iter().find(|other| !known.contains(other)) {
                let what = format!("{name} falls back to {other}, which is not there");
                return Err(CatalogueFault::Content(what));
            }
            vendors.insert(name, compile_vendor(vendor)?);
        }
        Ok(Self { version: file.version, vendors, models: ModelCatalogue::default() })
    }

    /// The same with what is known of models beside their prices.
    #[must_use]
    pub fn with_models(self, models: ModelCatalogue) -> Self {
        Self { models, ..self }
    }

    /// What is known of a model, by our name of the vendor; None is nothing.
    #[must_use]
    pub fn info(&self, vendor: &str, model: &str) -> Option<ModelInfo> {
        self.info_of(vendor, &plain_name(model), self.find(vendor, model))
    }

    fn info_of(&self, vendor: &str, name: &str, priced: Option<&Model>) -> Option<ModelInfo> {
        self.models.info(vendor, name, priced.map(|model| model.id.as_str()))
    }

    /// What it was made from, for traces: `genai-prices 0.2.3`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What is known of models was made from that, and when; empty without it.
    #[must_use]
    pub fn models_version(&self) -> &str {
        self.models.version()
    }

    /// What a model costs at an instant, by our name of the vendor; None is unknown.
    #[must_use]
    pub fn price(&self, vendor: &str, model: &str, at_unix_s: i64) -> Option<Price> {
        let found = self.find(vendor, model)?;
        let mut price = found.price(at_unix_s)?;
        match self.info_of(vendor, &plain_name(model), Some(found)) {
            Some(info) => {
                price.service_tiers = info.service_tiers;
                // Two sources that differ by kinds of search: the dearer.
                price.search_nusd = price.search_nusd.max(info.search_nusd);
                price.region_permille = info.region_permille.unwrap_or(REGION_NONE);
            }
            None => price.service_tiers = self.models.service_tiers(vendor),
        }
        Some(price)
    }

    /// Does any rule of the vendor know that name? It may still have no price.
    #[must_use]
    pub fn knows(&self, vendor: &str, model: &str) -> bool {
        self.find(vendor, model).is_some()
    }

    /// Names of the vendor's models that can be called, one a model, in the order of the data;
    /// empty for an unknown vendor.
    #[must_use]
    pub fn known_models(&self, vendor: &str) -> Vec<String> {
        let models = self.vendors.get(vendor).map(|vendor| vendor.models.as_slice());
        let names = models.unwrap_or_default().iter().map(|model| &model.id);
        // A few stand for names that no one name can show, as those of fine-tuned models.
        names.filter(|name| self.knows(vendor, name)).cloned().collect()
    }

    fn find(&self, vendor: &str, model: &str) -> Option<&Model> {
        let vendor = self.vendors.get(vendor)?;
        let name = plain_name(model);
        let find = |name: &str| {
            vendor.find(name).or_else(|| {
                let others = vendor.fallback.iter().filter_map(|other| self.vendors.get(other));
                others.into_iter().find_map(|other| other.find(name))
            })
        };
        find(&name).or_else(|| find(&with_dashed_dates(&name)?))
    }
}

/// A name as it is looked up: in lower case, and without the `models/` that Google's own way to
/// write them in full begins with, which its answers use too.
fn plain_name(model: &str) -> Cow<'_, str> {
    match lowered(model) {
        Cow::Borrowed(name) => Cow::Borrowed(name.strip_prefix("models/").unwrap_or(name)),
        Cow::Owned(name) => match name.strip_prefix("models/") {
            Some(rest) => Cow::Owned(rest.to_owned()),
            None => Cow::Owned(name),
        },
    }
}

fn compile_vendor(file: VendorFile) -> Result<Vendor, CatalogueFault> {
    let mut vendor = Vendor { fallback: file.fallback, ..Vendor::default() };
    for (index, model) in file.models.into_iter().enumerate() {
        vendor.add_rule(index, model.rule);
        let prices: Option<Vec<_>> = model.prices.into_iter().map(compile_price).collect();
        let prices = prices.filter(|prices| !prices.is_empty()).ok_or_else(|| {
            CatalogueFault::Content(format!("{} has tiers or dates that clash", model.id))
        })?;
        vendor.models.push(Model { id: model.id, prices });
    }
    Ok(vendor)
}

fn compile_price(file: PriceFile) -> Option<(When, Price)> {
    let when = match (file.from_s, file.daily_s) {
        (None, None) => When::Always,
        (Some(start), None) => When::From(start),
        (None, Some([start, end])) => When::Daily(start, end),
        (Some(_), Some(_)) => return None,
    };
    let mut tiers = [NO_TIER; TIERS_MAX];
    if file.tiers.len() > TIERS_MAX || !file.tiers.is_sorted_by(|a, b| a.over < b.over) {
        return None;
    }
    for (place, tier) in tiers.iter_mut().zip(file.tiers) {
        *place = (tier.over, tier.rates);
    }
    let price = Price {
        base: file.rates,
        tiers,
        request_nusd: file.request,
        search_nusd: file.search,
        service_tiers: ServiceTiers::default(),
        region_permille: REGION_NONE,
    };
    Some((when, price))
}

fn lowered(name: &str) -> Cow<'_, str> {
    if name.chars().any(char::is_uppercase) {
        Cow::Owned(name.to_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// A name with `-2025-12-11` for `-20251211`: routers write the latter where a vendor's own name,
/// and so its rule, has the former. None where there is no such date in it.
fn with_dashed_dates(name: &str) -> Option<String> {
    let mut dashed = String::with_capacity(name.len() + 2);
    let mut rest = name;
    let mut found = false;
    while let Some(dash) = rest.find('-') {
        let (before, from_dash) = rest.split_at(dash + 1);
        dashed.push_str(before);
        rest = from_dash;
        if let Some(date) = rest.get(..8)
            && is_date(date)
            && matches!(rest.as_bytes().get(8), None | Some(b'-' | b':'))
        {
            dashed.extend([&date[..4], "-", &date[4..6], "-", &date[6..]]);
            rest = &rest[8..];
            found = true;
        }
    }
    dashed.push_str(rest);
    found.then_some(dashed)
}

/// Is that a day of this century, as `20251211`?
fn is_date(digits: &str) -> bool {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || !digits.starts_with("20") {
        return false;
    }
    let number = |range: std::ops::Range<usize>| digits[range].parse::<u32>().unwrap_or(0);
    let (year, month, day) = (number(0..4), number(4..6), number(6..8));
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}
