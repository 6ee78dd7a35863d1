//! What one worker has learnt of its models: how many bytes of text make a token.
//!
//! Only estimates rest on it, never a hold. It lives as long as the process: a new one begins with
//! constants that were measured, and knows better after a few answers.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::tokens::Ratio;

/// Models that are remembered; callers may name as many as they like.
const MODELS_MAX: usize = 1024;

/// Ratios by provider and model.
#[derive(Default)]
pub struct Learnt {
    ratios: RefCell<HashMap<String, HashMap<String, Ratio>>>,
}

impl Learnt {
    /// The ratio of a model, or the one that its kind begins with.
    #[must_use]
    pub fn ratio(&self, provider: &str, vendor: &str, model: &str) -> Ratio {
        let ratios = self.ratios.borrow();
        let known = ratios.get(provider).and_then(|models| models.get(model));
        known.copied().unwrap_or_else(|| Ratio::start(vendor, model))
    }

    /// Take in one answer of a model, named by provider, vendor and model.
    pub fn learn(
        &self,
        (provider, vendor, model): (&str, &str, &str),
        text_bytes: u64,
        messages: u32,
        input_tokens: u64,
    ) {
        let mut ratios = self.ratios.borrow_mut();
        if let Some(ratio) = ratios.get_mut(provider).and_then(|models| models.get_mut(model)) {
            ratio.learn(text_bytes, messages, input_tokens);
            return;
        }
        if ratios.values().map(HashMap::len).sum::<usize>() >= MODELS_MAX {
            ratios.clear();
        }
        let mut ratio = Ratio::start(vendor, model);
        ratio.learn(text_bytes, messages, input_tokens);
        ratios.entry(provider.to_owned()).or_default().insert(model.to_owned(), ratio);
    }
}
