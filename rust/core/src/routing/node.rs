//! A routing config as the snapshot's document holds it: names resolved, nothing compiled.

use std::collections::HashMap;

use serde::Deserialize;

use super::{Fit, Strategy};

/// One node of a routing config as the snapshot holds it.
#[derive(Debug)]
pub enum Node {
    /// A routing config.
    Config(Box<ConfigNode>),
    /// A target.
    Target(Box<TargetNode>),
}

/// Which of the two a node is.
#[derive(Deserialize)]
struct Kind {
    kind: String,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let value = serde_json::Value::deserialize(reader)?;
        let kind = Kind::deserialize(&value).map_err(D::Error::custom)?.kind;
        match kind.as_str() {
            "config" => serde_json::from_value(value)
                .map(|node| Self::Config(Box::new(node)))
                .map_err(D::Error::custom),
            "target" => serde_json::from_value(value)
                .map(|node| Self::Target(Box::new(node)))
                .map_err(D::Error::custom),
            other => Err(D::Error::custom(format!("unknown kind of node {other:?}"))),
        }
    }
}

/// A config: its children in order, and what its strategy says of them.
#[derive(Deserialize, Debug)]
pub struct ConfigNode {
    pub(super) strategy: Strategy,
    pub(super) slug: Option<String>,
    pub(super) version: Option<u32>,
    #[serde(default)]
    pub(super) path: String,
    pub(super) children: Vec<Node>,
    #[serde(default)]
    pub(super) retry_on: Option<Vec<String>>,
    #[serde(default)]
    pub(super) max_retries_per_attempt: Option<u32>,
    #[serde(default)]
    pub(super) fit_to_budget: Option<Fit>,
    #[serde(flatten)]
    pub(super) limits: Limits,
    #[serde(flatten)]
    pub(super) tokens: TokenLimits,
    #[serde(default)]
    pub(super) metric: Option<Metric>,
    #[serde(default)]
    pub(super) tolerance_pct: Option<f64>,
    #[serde(default)]
    pub(super) explore_pct: Option<f64>,
    #[serde(default)]
    pub(super) variants: Vec<VariantNode>,
    #[serde(default)]
    pub(super) sticky_by: Option<String>,
    #[serde(default)]
    pub(super) salt: Option<String>,
    #[serde(default)]
    pub(super) accepts: Vec<Option<AcceptNode>>,
    #[serde(default)]
    pub(super) rules: Vec<RuleNode>,
    #[serde(default)]
    pub(super) aggregation: Option<Aggregation>,
    #[serde(default)]
    pub(super) min_responses: Option<usize>,
    #[serde(default)]
    pub(super) validate: Option<ValidateNode>,
    #[serde(default)]
    pub(super) weights: Vec<u64>,
    #[serde(default)]
    pub(super) judge: Option<Box<Node>>,
    #[serde(default)]
    pub(super) shadow: Option<ShadowNode>,
    #[serde(default)]
    pub(super) embedding_dimensions: Option<u64>,
}

/// What `latency_optimized` compares.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// To the first content byte.
    #[default]
    Ttft,
    /// To the end of the answer.
    Total,
}

/// How an ensemble makes one answer of several.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The first one that is valid.
    FirstValid,
    /// The one that most weight agrees on.
    WeightedVote,
    /// The mean of the numbers that they give.
    WeightedAverage,
    /// The one that a judge picks.
    LlmJudge,
}

/// An arm of an A/B test.
#[derive(Deserialize, Debug, Clone)]
pub struct VariantNode {
    pub(super) name: String,
    pub(super) weight: u64,
}

/// An expression and what the names of models in it come to.
#[derive(Deserialize, Debug, Clone)]
pub struct RuleText {
    pub(super) text: String,
    #[serde(default)]
    pub(super) targets: HashMap<String, NamedNode>,
}

/// A model that an expression names.
#[derive(Deserialize, Debug, Clone)]
pub struct NamedNode {
    pub(super) provider: usize,
    pub(super) model: String,
}

/// One rule of `custom_rules`.
#[derive(Deserialize, Debug, Clone)]
pub struct RuleNode {
    #[serde(rename = "if", default)]
    pub(super) condition: Option<RuleText>,
    #[serde(default)]
    pub(super) then: Option<usize>,
    #[serde(default)]
    pub(super) block: Option<String>,
    #[serde(default)]
    pub(super) path: String,
}

/// What has to hold for a cascade to stop at a step.
#[derive(Deserialize, Debug)]
#[serde(untagged)]
pub enum AcceptNode {
    /// An expression over the answer.
    Rule {
        /// The expression.
        rule: RuleText,
    },
    /// Another model's word.
    Judge {
        /// Who judges.
        judge: Box<Node>,
        /// The least score, in thousandths.
        min_score_permille: u32,
    },
}

/// What makes an answer valid.
#[derive(Deserialize, Debug)]
#[serde(untagged)]
pub enum ValidateNode {
    /// `json` or `json_schema`.
    Named(String),
    /// An expression over the answer.
    Rule {
        /// The expression.
        rule: RuleText,
    },
}

/// Where a share of the traffic is mirrored to.
#[derive(Deserialize, Debug)]
pub struct ShadowNode {
    pub(super) target: Box<Node>,
    /// In hundredths of a percent.
    pub(super) percent_bp: u64,
}

/// A target: a model at a provider.
#[derive(Deserialize, Debug)]
pub struct TargetNode {
    pub(super) provider: usize,
    pub(super) model: String,
    #[serde(default)]
    pub(super) credential: Option<String>,
    #[serde(default)]
    pub(super) label: Option<String>,
    /// Held where an attempt has no finite bound of its own, in nano-USD.
    #[serde(default)]
    pub(super) max_cost_nusd: Option<u64>,
    #[serde(default)]
    pub(super) params: Option<serde_json::Map<String, serde_json::Value>>,
    /// Why it never serves, where that is known from the configuration alone.
    #[serde(default)]
    pub(super) rejected: Option<String>,
    #[serde(default)]
    pub(super) path: String,
    #[serde(flatten)]
    pub(super) limits: Limits,
    #[serde(flatten)]
    pub(super) tokens: TokenLimits,
}

/// Time limits in milliseconds; absent ones are inherited.
#[derive(Deserialize, Debug, Default, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the unit ends the name")]
pub(super) struct Limits {
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
    #[serde(default)]
    pub(super) connect_timeout_ms: Option<u64>,
    #[serde(default)]
    pub(super) idle_timeout_ms: Option<u64>,
    #[serde(default)]
    pub(super) attempt_max_ms: Option<u64>,
    #[serde(default)]
    pub(super) total_budget_ms: Option<u64>,
}

impl Limits {
    /// The tighter of each pair: an inner config cannot loosen what is around it.
    pub(super) fn within(self, inner: Self) -> Self {
        let tighter = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        Self {
            timeout_ms: tighter(self.timeout_ms, inner.timeout_ms),
            connect_timeout_ms: tighter(self.connect_timeout_ms, inner.connect_timeout_ms),
            idle_timeout_ms: tighter(self.idle_timeout_ms, inner.idle_timeout_ms),
            attempt_max_ms: tighter(self.attempt_max_ms, inner.attempt_max_ms),
            // Not inherited: each config's budget runs from its own first attempt.
            total_budget_ms: None,
        }
    }
}

/// Output limits in tokens; absent ones are inherited.
#[derive(Deserialize, Debug, Default, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the unit ends the name")]
pub(super) struct TokenLimits {
    #[serde(default)]
    pub(super) max_output_tokens: Option<u64>,
    #[serde(default)]
    pub(super) min_output_tokens: Option<u64>,
    #[serde(default)]
    pub(super) default_output_tokens: Option<u64>,
}

impl TokenLimits {
    /// The inner word holds, but a maximum is only ever tightened.
    pub(super) fn within(self, inner: Self) -> Self {
        let tighter = match (self.max_output_tokens, inner.max_output_tokens) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        Self {
            max_output_tokens: tighter,
            min_output_tokens: inner.min_output_tokens.or(self.min_output_tokens),
            default_output_tokens: inner.default_output_tokens.or(self.default_output_tokens),
        }
    }
}
