//! The worst case of one attempt: what it may cost at most, before a byte of it leaves.
//!
//! The input side is settled by the request's bytes; the output side grows with the output limit,
//! so the question can be turned round: which limit fits into what is left?
//!
//! Every part takes the side that costs more wherever a body leaves something open, as a bound
//! that is too low lets a budget be passed, and one that is too high only makes requests wait.

use crate::models::{Factor, ModelInfo, REGION_NONE};
use crate::pricing::{Price, Rates, of_a_million};
use crate::routing::{Fit, Leaf};
use crate::scan::{AskedTier, Facts, LimitKey, ServerTools, Shape};

/// A cost beyond this is refused: doubles, and so most readers of JSON, are exact up to here.
const NUSD_MAX: u128 = 1 << 53;
const PERMILLE: u128 = 1000;

/// What one attempt may cost at most, as a function of its output limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Input and fees, in nano-USD.
    fixed_nusd: u64,
    /// Of output, in nano-USD a million tokens.
    output_nusd_per_mtok: u64,
    /// Answers asked for: each may use the whole limit.
    answers: u64,
    /// Output tokens that come on top of the limit, over all answers.
    extra_output_tokens: u64,
    /// The whole times this by thousand: above 1,000 for a model that has billed more than its
    /// bound again and again.
    factor_permille: u64,
}

impl Bound {
    /// A bound whose output grows with the limit.
    #[must_use]
    pub fn new(
        fixed_nusd: u64,
        output_nusd_per_mtok: u64,
        answers: u64,
        extra_output_tokens: u64,
    ) -> Self {
        Self {
            fixed_nusd,
            output_nusd_per_mtok,
            answers,
            extra_output_tokens,
            factor_permille: 1000,
        }
    }

    /// A bound that somebody stated, whatever the limit.
    #[must_use]
    pub fn fixed(nusd: u64) -> Self {
        Self::new(nusd, 0, 0, 0)
    }

    /// The same, multiplied; each result rounds up.
    #[must_use]
    pub fn times(self, factor_permille: u64) -> Self {
        Self { factor_permille, ..self }
    }

    /// The same on top of an amount that is due whatever happens.
    #[must_use]
    pub fn on_top_of(self, nusd: u64) -> Self {
        let shrunk = u128::from(nusd) * 1000 / u128::from(self.factor_permille.max(1));
        let more = u64::try_from(shrunk).unwrap_or(u64::MAX);
        Self { fixed_nusd: self.fixed_nusd.saturating_add(more), ..self }
    }

    /// What an attempt with this output limit may cost, in nano-USD; None is beyond 2^53.
    ///
    /// A limit of None means that there is no output side.
    #[must_use]
    pub fn at(&self, limit: Option<u64>) -> Option<u64> {
        let tokens = u128::from(limit.unwrap_or(0))
            .checked_mul(u128::from(self.answers))?
            .checked_add(u128::from(self.extra_output_tokens))?;
        self.nusd(tokens)
    }

    fn nusd(&self, output_tokens: u128) -> Option<u64> {
        let output_nusd =
            of_a_million(output_tokens.checked_mul(u128::from(self.output_nusd_per_mtok))?);
        let nusd = u128::from(self.fixed_nusd)
            .checked_add(output_nusd)?
            .checked_mul(u128::from(self.factor_permille))?
            .div_ceil(PERMILLE);
        u64::try_from(nusd).ok().filter(|_| nusd <= NUSD_MAX)
    }

    /// What input and fees alone may cost, in nano-USD; None is beyond 2^53.
    #[must_use]
    pub fn input_nusd(&self) -> Option<u64> {
        self.with_output(0)
    }

    /// What input, fees and that many tokens of output over all answers may cost, in nano-USD;
    /// None is beyond 2^53.
    #[must_use]
    pub fn with_output(&self, tokens: u64) -> Option<u64> {
        self.nusd(u128::from(tokens))
    }

    /// The largest output limit that fits into `nusd`; 0 where the input alone does not.
    #[must_use]
    pub fn limit_for(&self, nusd: u64) -> u64 {
        let (mut fits, mut too_much) = (0_u64, u64::MAX);
        if self.at(Some(too_much)).is_some_and(|cost| cost <= nusd) {
            return too_much;
        }
        // `at` never falls as the limit grows, and every rounding is in it: halving is exact.
        while too_much - fits > 1 {
            let middle = fits + (too_much - fits) / 2;
            if self.at(Some(middle)).is_some_and(|cost| cost <= nusd) {
                fits = middle;
            } else {
                too_much = middle;
            }
        }
        fits
    }
}

/// Why an attempt has no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundFault {
    /// The model has no price, or none for what the request asks for.
    NotPriced,
    /// Nothing limits what it may cost; why, as a clause with a subject of its own.
    Unbounded(&'static str),
}

/// Around each message, for what marks where it begins and who speaks.
const MESSAGE_TOKENS: u128 = 16;
/// For what introduces tools.
const TOOLS_TOKENS: u128 = 1024;
/// An image at a model whose maximum is not known.
const IMAGE_TOKENS: u64 = 65_536;
/// A file that is no plain text: a page of some 50 bytes may count as an image of 3,000 tokens,
/// so that bytes bound the tokens only from this side.
const FILE_TOKENS_PER_BYTE: u128 = 64;

/// The smallest bytes of audio that a vendor counts as one token.
///
/// OpenAI takes MP3 and WAV and counts 10 tokens a second, and MP3 has at least 8 kbit/s;
/// Google takes Opus too, from about 4 kbit/s of speech, and counts 32. Of others we know neither.
fn audio_bytes_per_token(vendor: &str) -> u64 {
    match vendor {
        "openai" => 100,
        "google" => 16,
        _ => 1,
    }
}

/// The upper bound of one attempt.
///
/// `price` and `model` are those of the attempt's target, `max_cost_nusd` its stated maximum,
/// which is taken where there is no finite bound.
///
/// # Errors
/// No price, or no finite bound and no stated maximum.
pub fn bound(
    facts: &Facts,
    shape: Shape,
    price: Option<&Price>,
    model: Option<&ModelInfo>,
    vendor: &str,
    max_cost_nusd: Option<u64>,
) -> Result<Bound, BoundFault> {
    let price = price.ok_or(BoundFault::NotPriced)?;
    if price.is_free() {
        return Ok(Bound::fixed(0));
    }
    match (computed(facts, shape, price, model, vendor, None), max_cost_nusd) {
        (Err(BoundFault::Unbounded(_)), Some(nusd)) => Ok(Bound::fixed(nusd)),
        (result, _) => result,
    }
}

/// The same for a prompt of which somebody knows that it has no more than `input_tokens`.
///
/// # Errors
/// As `bound`, without a stated maximum.
pub fn bound_by_count(
    facts: &Facts,
    shape: Shape,
    price: &Price,
    model: Option<&ModelInfo>,
    vendor: &str,
    input_tokens: u64,
) -> Result<Bound, BoundFault> {
    computed(facts, shape, price, model, vendor, Some(input_tokens))
}

fn computed(
    facts: &Facts,
    shape: Shape,
    price: &Price,
    model: Option<&ModelInfo>,
    vendor: &str,
    input_tokens: Option<u64>,
) -> Result<Bound, BoundFault> {
    let model = model.copied().unwrap_or_default();
    if facts.has_other_models {
        return Err(BoundFault::Unbounded("another model may serve, at its own price"));
    }
    let (searches, fee_nusd) = match facts.server_tools {
        ServerTools::None | ServerTools::Searches(0) if !model.searches => (0, 0),
        ServerTools::Searches(count) if !model.searches => {
            let fee = price.search_nusd().ok_or(NO_FEE)?;
            (count, fee)
        }
        ServerTools::None | ServerTools::Searches(_) => {
            return Err(BoundFault::Unbounded(
                "the model searches the web as often as it likes",
            ));
        }
        ServerTools::Unbounded => {
            return Err(BoundFault::Unbounded(
                "the provider's own tools have no maximum of uses, or no price",
            ));
        }
    };

    let prompts = match shape {
        Shape::Chat => 1,
        Shape::Completions | Shape::Embeddings => facts.prompts.max(1),
    };
    let rounds = u128::from(searches) + 1;
    // All prompts together, and each round reads all of it anew.
    let window = model
        .context_tokens
        .map(|tokens| u128::from(tokens) * u128::from(prompts))
        .map(|tokens| tokens.saturating_mul(rounds));
    let parts = if facts.has_unseen || searches > 0 {
        let all = match window {
            Some(tokens) => tokens,
            None if price.has_free_tokens() => 0,
            None => return Err(NO_WINDOW),
        };
        // What is not seen may be of any kind.
        Parts { text: 0, images: 0, audio: 0, unseen: all }
    } else {
        let seen = seen_parts(facts, &model, vendor, prompts);
        Parts {
            text: input_tokens.map_or(seen.text, |count| seen.text.min(count.into())),
            ..seen
        }
    };

    let mut input_nusd = 0;
    let mut output_rate = 0;
    let mut slack = 0;
    // Tiers go by the length of one prompt, which is no longer than all of them.
    let longest = parts.sum().min(window.unwrap_or(u128::MAX)).min(u128::from(u64::MAX));
    for rates in price.reachable_rates(longest) {
        for factor in factors(facts, price) {
            let region = if facts.is_global { REGION_NONE } else { price.region_permille() };
            let rates = rates.times(factor.times(region));
            let side = parts.nusd(&rates, window, can_write_cache(shape, vendor))?;
            input_nusd = input_nusd.max(side);
            if shape != Shape::Embeddings {
                output_rate = output_rate.max(dearest_output(&rates, facts, vendor)?);
            }
            slack = slack.max(rates.lines_beside());
        }
    }
    let fees = u128::from(fee_nusd)
        .checked_mul(u128::from(searches))
        .and_then(|fees| fees.checked_add(u128::from(price.request_nusd())))
        .ok_or(TOO_MUCH)?;
    // A charge rounds up once a line, this sum once in all.
    let fixed = input_nusd.checked_add(fees).and_then(|sum| sum.checked_add(slack));
    let fixed = fixed.filter(|sum| *sum <= NUSD_MAX).ok_or(TOO_MUCH)?;
    let fixed = u64::try_from(fixed).map_err(|_| TOO_MUCH)?;
    if shape == Shape::Embeddings {
        return Ok(Bound::fixed(fixed));
    }
    let each = facts.n.unwrap_or(1).max(facts.best_of.unwrap_or(1)).max(1);
    let answers = each.checked_mul(prompts).ok_or(TOO_MUCH)?;
    let extra = facts.prediction_bytes.checked_mul(answers).ok_or(TOO_MUCH)?;
    Ok(Bound::new(fixed, output_rate, answers, extra))
}

const TOO_MUCH: BoundFault = BoundFault::Unbounded("it may cost more than can be counted");
const NO_WINDOW: BoundFault = BoundFault::Unbounded(
    "content is named and not shown, and the model's context window is not known",
);
const NO_FEE: BoundFault = BoundFault::Unbounded("a web search has no known price");

/// Input by what prices it.
struct Parts {
    text: u128,
    images: u128,
    audio: u128,
    /// Of any kind, whichever is dearest.
    unseen: u128,
}

fn seen_parts(facts: &Facts, model: &ModelInfo, vendor: &str, prompts: u64) -> Parts {
    let wide = u128::from;
    let tools = if facts.has_tools { TOOLS_TOKENS } else { 0 };
    let messages = (u128::from(facts.messages) + u128::from(prompts)) * MESSAGE_TOKENS;
    let text = wide(facts.text_bytes) + wide(facts.text_file_bytes) + messages + tools;
    let image_tokens = model.image_tokens_max.unwrap_or(IMAGE_TOKENS);
    Parts {
        text,
        images: wide(facts.images) * wide(image_tokens),
        audio: wide(facts.audio_bytes.div_ceil(audio_bytes_per_token(vendor))),
        // A file is read as text, as images or as both.
        unseen: wide(facts.file_bytes) * FILE_TOKENS_PER_BYTE,
    }
}

impl Parts {
    fn sum(&self) -> u128 {
        self.text + self.images + self.audio + self.unseen
    }

    /// What it costs at most, if no more than `window` tokens of it can be read.
    fn nusd(
        &self,
        rates: &Rates,
        window: Option<u128>,
        can_write_cache: bool,
    ) -> Result<u128, BoundFault> {
        let input = rates.input.ok_or(BoundFault::NotPriced)?;
        let mut text = input.max(rates.cached.unwrap_or(0));
        if can_write_cache {
            text =
                text.max(rates.cache_write.unwrap_or(0)).max(rates.cache_write_1h.unwrap_or(0));
        }
        let images = text.max(rates.image_input.unwrap_or(0));
        let audio = text.max(rates.audio_input.unwrap_or(0));
        let mut lines = [
            (images.max(audio), self.unseen),
            (images, self.images),
            (audio, self.audio),
            (text, self.text),
        ];
        lines.sort_unstable_by_key(|(rate, _)| std::cmp::Reverse(*rate));
        // Where the window is smaller than all of it, the dearest may be what is in it.
        let mut room = window.unwrap_or(u128::MAX);
        let mut sum: u128 = 0;
        for (rate, tokens) in lines {
            let tokens = tokens.min(room);
            room -= tokens;
            let line = tokens.checked_mul(u128::from(rate)).ok_or(TOO_MUCH)?;
            sum = sum.checked_add(line).ok_or(TOO_MUCH)?;
        }
        Ok(of_a_million(sum))
    }
}

/// May the provider write the prompt to its cache, and bill that?
///
/// Anthropic's endpoint for the OpenAI protocol has no prompt caching, as its page says; only
/// chats are cached anywhere.
fn can_write_cache(shape: Shape, vendor: &str) -> bool {
    shape == Shape::Chat && vendor != "anthropic"
}

/// The dearest rate that output may be billed at.
fn dearest_output(rates: &Rates, facts: &Facts, vendor: &str) -> Result<u64, BoundFault> {
    let output = rates.output.ok_or(BoundFault::NotPriced)?;
    let text = output.max(rates.reasoning.unwrap_or(0));
    // OpenAI's models speak only when asked to; others' may be made for it.
    if vendor == "openai" && !facts.media_output {
        return Ok(text);
    }
    Ok(text.max(rates.audio_output.unwrap_or(0)).max(rates.image_output.unwrap_or(0)))
}

/// What each service tier that this request may be billed at makes of the price.
fn factors(facts: &Facts, price: &Price) -> impl Iterator<Item = Factor> {
    let tiers = price.service_tiers();
    let factors = match facts.service_tier {
        AskedTier::Standard => [None, None, None],
        // What is not served in the tier asked for may be served in the standard one.
        AskedTier::Flex => [tiers.flex, None, None],
        AskedTier::Priority => [tiers.priority, None, None],
        AskedTier::Any => [tiers.flex, tiers.priority, tiers.fast],
    };
    let speed = if facts.has_speed { tiers.speed } else { None };
    std::iter::once(Factor::ONE).chain(factors.into_iter().flatten()).chain(speed)
}

// --- the output limit --------------------------------------------------------------------------

/// What thinking needs beyond its own budget, so that something can be said.
const BEYOND_THINKING_TOKENS: u64 = 1024;

/// The output limit of one attempt, as a budget sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimit {
    /// The limit: each answer has at most that many tokens.
    pub limit: u64,
    /// The least limit that may be sent instead.
    pub least: u64,
    /// The request has to be changed even where nothing is lowered: the caller set no limit, or
    /// set it in a spelling that the provider may not read.
    pub must_send: bool,
    /// The spelling to set.
    pub key: LimitKey,
}

/// What holds where neither a route nor a target says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitDefaults {
    /// Sent where the caller set none.
    pub default_output_tokens: u64,
    /// No limit is lowered below it.
    pub min_output_tokens: u64,
}

/// The output limit of one attempt at `leaf`; None where there is no output side.
///
/// A caller's limit above the model's maximum counts as the maximum. It is never taken for less
/// because of what the target says: that only bounds the limit that we choose.
#[must_use]
pub fn output_limit(
    facts: &Facts,
    shape: Shape,
    model: Option<&ModelInfo>,
    vendor: &str,
    leaf: &Leaf,
    defaults: LimitDefaults,
) -> Option<OutputLimit> {
    if shape == Shape::Embeddings {
        return None;
    }
    let most = model.and_then(|model| model.max_output_tokens).unwrap_or(u64::MAX);
    // Ollama reads 0 as "none".
    let stated = facts.max_output_tokens.filter(|limit| *limit > 0 || vendor != "ollama");
    let limit = match stated {
        Some(limit) => limit.min(most),
        None => most
            .min(leaf.max_output_tokens.unwrap_or(u64::MAX))
            .min(leaf.default_output_tokens.unwrap_or(defaults.default_output_tokens)),
    };
    let may_fit = match leaf.fit {
        Fit::Auto => stated.is_none(),
        Fit::Always => true,
        Fit::Never => false,
    };
    let least = if may_fit {
        let least = leaf.min_output_tokens.unwrap_or(defaults.min_output_tokens);
        let thinking = facts.thinking_budget.unwrap_or(0);
        let thinking =
            if thinking == 0 { 0 } else { thinking.saturating_add(BEYOND_THINKING_TOKENS) };
        limit.min(least.max(thinking))
    } else {
        limit
    };
    let (key, is_read) = spelling(facts, shape, vendor);
    Some(OutputLimit { limit, least, must_send: stated.is_none() || !is_read, key })
}

/// The spelling to set, and whether a limit of the caller's stands in one that the provider reads.
///
/// Where it does, its own spelling is kept: some refuse a body with both.
fn spelling(facts: &Facts, shape: Shape, vendor: &str) -> (LimitKey, bool) {
    // All chat models of OpenAI take the later spelling, the reasoning ones only that.
    let is_openai_chat = shape == Shape::Chat && vendor == "openai";
    let reads_both = shape == Shape::Chat
        && matches!(
            vendor,
            "openai"
                | "anthropic"
                | "google"
                | "groq"
                | "xai"
                | "cerebras"
                | "openrouter"
                | "fireworks"
        );
    let of = |key: LimitKey| match key {
        LimitKey::MaxTokens => facts.max_tokens,
        LimitKey::MaxCompletionTokens => facts.max_completion_tokens,
    };
    let (first, second) = if is_openai_chat {
        (LimitKey::MaxCompletionTokens, LimitKey::MaxTokens)
    } else {
        (LimitKey::MaxTokens, LimitKey::MaxCompletionTokens)
    };
    let candidates = if reads_both { &[first, second][..] } else { &[first][..] };
    let counted = |key: &&LimitKey| of(**key).is_some_and(|value| value.count.is_some());
    if let Some(key) = candidates.iter().find(counted) {
        return (*key, true);
    }
    // A negative one says something, if nothing that bounds: it is set, not left beside.
    let negative = |key: &&LimitKey| of(**key).is_some_and(|value| !value.is_null);
    let key = candidates.iter().find(negative).copied().unwrap_or(first);
    (key, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_limit_for_an_amount_is_the_largest_that_fits(
            fixed in 0_u64..1 << 40,
            rate in 0_u64..1 << 40,
            answers in 1_u64..8,
            extra in 0_u64..10_000,
            factor in 1000_u64..5000,
            nusd in 0_u64..1 << 53,
        ) {
            let bound = Bound::new(fixed, rate, answers, extra).times(factor);
            let limit = bound.limit_for(nusd);
            if limit > 0 {
                prop_assert!(bound.at(Some(limit)).is_some_and(|cost| cost <= nusd));
            }
            if limit < u64::MAX {
                prop_assert!(bound.at(Some(limit + 1)).is_none_or(|cost| cost > nusd));
            }
        }
    }

    #[test]
    fn a_cost_beyond_what_doubles_hold_is_no_bound() {
        assert_eq!(Bound::fixed(1 << 53).at(None), Some(1 << 53));
        assert_eq!(Bound::fixed((1 << 53) + 1).at(None), None);
        assert_eq!(Bound::new(0, u64::MAX, u64::MAX, u64::MAX).at(Some(u64::MAX)), None);
    }
}
