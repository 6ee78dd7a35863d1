//! Routing: which target serves a request, and which one follows when it fails.
//!
//! A routing config is a tree (a config may stand wherever a target may). It is compiled once, at
//! load: `node` is what the snapshot says, `compile` makes a list of leaves and the configs above
//! them. A decision (`decide`) is a pure function of that, of the request and of the figures that
//! were read (`state`): it puts the leaves that may serve into an order, and says of every leaf
//! why it may or may not. What follows a failure is a walk over that order.

mod compile;
pub mod decide;
mod node;
pub mod state;
mod words;

use std::fmt;

use serde::Deserialize;

use crate::route::{IdsCell, MemoCell};

pub(crate) use compile::{
    Accept, Child, Config, Ensemble, Named, Needs, Own, Shadow, Validate,
};
pub use node::{Aggregation, Metric, Node};

/// To the first content byte, where no config around a target says otherwise.
pub const TIMEOUT_MS: u64 = 120_000;
/// Until the connection stands.
pub const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Between two reads after the first content byte.
pub const IDLE_TIMEOUT_MS: u64 = 60_000;
/// A whole attempt.
pub const ATTEMPT_MAX_MS: u64 = 3_600_000;
/// The longest limit there is, a thousand years: none overflows when it is counted in microseconds.
pub const LIMIT_MS_MAX: u64 = 1 << 45;
/// Leaves of one config; the Python side checks the same bound with a better message.
pub const LEAVES_MAX: usize = 64;
/// Configs inside configs, the outermost counted.
pub const DEPTH_MAX: usize = 4;

/// May an output limit be lowered to what a budget has left?
#[derive(Deserialize, Debug, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Where the caller set none.
    #[default]
    Auto,
    /// The caller's own as well.
    Always,
    /// No.
    Never,
}

/// How a config chooses.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// One target.
    Single,
    /// In order, the next one on failure.
    Fallback,
    /// The cheapest for this request.
    CostOptimized,
    /// The fastest of late.
    LatencyOptimized,
    /// Several at once, one answer made of theirs.
    Ensemble,
    /// By a share of the subjects.
    AbTest,
    /// One after another, until an answer is good enough.
    Cascade,
    /// The first rule that matches says who.
    CustomRules,
    /// No config: the caller named the model.
    #[serde(skip)]
    Direct,
}

impl Strategy {
    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Fallback => "fallback",
            Self::CostOptimized => "cost_optimized",
            Self::LatencyOptimized => "latency_optimized",
            Self::Ensemble => "ensemble",
            Self::AbTest => "ab_test",
            Self::Cascade => "cascade",
            Self::CustomRules => "custom_rules",
            Self::Direct => "direct",
        }
    }
}

/// Why an attempt failed, as far as routing cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedBy {
    /// No connection: nothing was sent.
    Connect,
    /// A time limit ended it.
    Timeout,
    /// No or a cut or an unreadable answer.
    Reset,
    /// An answer of 400 or above.
    Status(u16),
}

impl FailedBy {
    /// A word or two for the trace: `timeout`, `503`, `connect error`.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Connect => "connect error".to_owned(),
            Self::Timeout => "timeout".to_owned(),
            Self::Reset => "reset".to_owned(),
            Self::Status(status) => status.to_string(),
        }
    }
}

/// What a config goes on to its next target for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent causes")]
pub struct RetryOn {
    timeout: bool,
    reset: bool,
    too_many: bool,
    server: bool,
    auth: bool,
    statuses: Vec<u16>,
}

impl RetryOn {
    /// All six causes: the default.
    #[must_use]
    pub fn all() -> Self {
        Self {
            timeout: true,
            reset: true,
            too_many: true,
            server: true,
            auth: true,
            statuses: Vec::new(),
        }
    }

    pub(super) fn from_words(words: &[String]) -> Result<Self, String> {
        let mut on = Self {
            timeout: false,
            reset: false,
            too_many: false,
            server: false,
            auth: false,
            statuses: Vec::new(),
        };
        for word in words {
            match word.as_str() {
                "timeout" => on.timeout = true,
                "reset" => on.reset = true,
                "429" => on.too_many = true,
                "5xx" => on.server = true,
                "auth" => on.auth = true,
                // Nothing was sent, so these go on whatever the list says.
                "connect" => {}
                status => on.statuses.push(
                    status
                        .parse()
                        .ok()
                        .filter(|status| (400..=599).contains(status))
                        .ok_or_else(|| format!("retry_on {status:?} is unknown"))?,
                ),
            }
        }
        Ok(on)
    }

    /// Does this cause lead on to the next target?
    #[must_use]
    pub fn covers(&self, failed_by: FailedBy) -> bool {
        match failed_by {
            FailedBy::Connect => true,
            FailedBy::Timeout => self.timeout,
            FailedBy::Reset => self.reset,
            FailedBy::Status(status) => {
                self.statuses.contains(&status)
                    || match status {
                        429 => self.too_many,
                        401..=403 => self.auth,
                        500..=599 => self.server,
                        _ => false,
                    }
            }
        }
    }
}

/// What one config around a leaf says of a failure there.
#[derive(Debug, Clone)]
pub(crate) struct Around {
    /// Number of the config, the outermost being 0.
    pub(crate) config: usize,
    /// Which of its children the leaf stands in.
    pub(crate) child: usize,
    pub(crate) retry_on: RetryOn,
}

/// One target with everything settled that does not depend on the request.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Index into the providers.
    pub provider: usize,
    /// The model as the provider knows it.
    pub model: String,
    /// How the configuration wrote the target.
    pub label: String,
    /// Index into the provider's credentials, where the target pins one.
    pub credential: Option<usize>,
    /// From the start of the attempt to its first content byte.
    pub timeout_ms: u64,
    /// Until the connection stands.
    pub connect_timeout_ms: u64,
    /// Between two reads after the first content byte.
    pub idle_timeout_ms: u64,
    /// The whole attempt.
    pub attempt_max_ms: u64,
    /// Extra tries on this same target.
    pub retries: u32,
    /// The largest output limit that we send of our own accord.
    pub max_output_tokens: Option<u64>,
    /// No output limit is lowered below it.
    pub min_output_tokens: Option<u64>,
    /// The output limit that we send where the caller set none.
    pub default_output_tokens: Option<u64>,
    /// Held where an attempt has no finite bound of its own, in nano-USD.
    pub max_cost_nusd: Option<u64>,
    /// May the output limit be lowered.
    pub fit: Fit,
    /// The configs from the outermost to this leaf: `@production (v4)`.
    pub path: Vec<String>,
    /// Their slugs, without `@`.
    pub slugs: Vec<String>,
    /// Set in the request's body: a JSON object.
    pub params: Option<String>,
    /// The length that every vector of an embedding has.
    pub dimensions: Option<u64>,
    /// Why it never serves, where the configuration alone says so.
    pub rejected: Option<String>,
    /// What counts how often it was used: `default/@production v4 attempts[1]`; empty without a
    /// config.
    pub mark: String,
    /// What the innermost config retries on.
    retry_here: RetryOn,
    pub(crate) around: Vec<Around>,
}

impl Leaf {
    /// Does the innermost config go on for this failure?
    #[must_use]
    pub fn goes_on_for(&self, failed_by: FailedBy) -> bool {
        self.retry_here.covers(failed_by)
    }
}

/// A routing config, compiled: its leaves in the order of the text, and the configs above them.
#[derive(Debug)]
pub struct Flat {
    /// Strategy of the outermost config.
    pub strategy: Strategy,
    /// Leaves in the order of the text, those of judges and shadows left out.
    pub leaves: Vec<Leaf>,
    /// For each config, the outermost first: all of its attempts together, up to the first content
    /// byte.
    pub total_budgets_ms: Vec<Option<u64>>,
    /// All configs, the outermost first; none where the caller named a model.
    pub(crate) configs: Vec<Config>,
    /// Models that expressions name and that need not be among the leaves.
    pub(crate) named: Vec<Named>,
    /// What a decision has to read.
    pub(crate) needs: Needs,
    /// Where a share of the traffic is mirrored to.
    pub(crate) shadow: Option<Shadow>,
    /// Prices and models of the leaves, kept for a minute.
    pub(crate) memo: MemoCell,
    /// Where the leaves are remembered.
    pub(crate) ids: IdsCell,
    /// Where the models are remembered that expressions name.
    pub(crate) named_ids: IdsCell,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The same target again.
    Again,
    /// This leaf.
    Leaf(usize),
    /// Nobody: the last failure stands.
    Nobody,
}

impl Flat {
    /// One leaf without a config: the caller named the model.
    #[must_use]
    pub fn direct(provider: usize, model: &str, label: &str) -> Self {
        let leaf = Leaf {
            provider,
            model: model.to_owned(),
            label: label.to_owned(),
            credential: None,
            timeout_ms: TIMEOUT_MS,
            connect_timeout_ms: CONNECT_TIMEOUT_MS,
            idle_timeout_ms: IDLE_TIMEOUT_MS,
            attempt_max_ms: ATTEMPT_MAX_MS,
            retries: 0,
            max_output_tokens: None,
            min_output_tokens: None,
            default_output_tokens: None,
            max_cost_nusd: None,
            fit: Fit::Auto,
            path: Vec::new(),
            slugs: Vec::new(),
            params: None,
            dimensions: None,
            rejected: None,
            mark: String::new(),
            retry_here: RetryOn::all(),
            around: Vec::new(),
        };
        Self::of(Strategy::Direct, vec![leaf])
    }

    /// Leaves and nothing else yet.
    fn of(strategy: Strategy, leaves: Vec<Leaf>) -> Self {
        Self {
            strategy,
            leaves,
            total_budgets_ms: Vec::new(),
            configs: Vec::new(),
            named: Vec::new(),
            needs: Needs::default(),
            shadow: None,
            memo: MemoCell::default(),
            ids: IdsCell::default(),
            named_ids: IdsCell::default(),
        }
    }

    /// A rule as it was written; empty for an `else`.
    pub(crate) fn rule_text(&self, config: usize, rule: usize) -> &str {
        match &self.configs[config].own {
            Own::Rules { rules } => {
                rules[rule].condition.as_ref().map_or("", |condition| condition.rule.text())
            }
            _ => "",
        }
    }

    /// Is what this leaf says made into a mean of numbers?
    pub(crate) fn is_averaged(&self, leaf: &Leaf) -> bool {
        leaf.around.iter().any(|around| match &self.configs[around.config].own {
            Own::Ensemble(ensemble) => ensemble.aggregation == Aggregation::WeightedAverage,
            _ => false,
        })
    }

    /// Why a rule blocks, in the words of the config; None where it does not.
    pub(crate) fn block_reason(&self, config: usize, rule: usize) -> Option<&str> {
        match &self.configs[config].own {
            Own::Rules { rules } => rules[rule].block.as_deref(),
            _ => None,
        }
    }

    /// The arm of the outermost A/B test that a decision drew.
    pub(crate) fn variant(&self, decision: &decide::Decision) -> Option<&str> {
        let (config, child) = decision.variant?;
        match &self.configs[config].own {
            Own::AbTest { names, .. } => names.get(child).map(String::as_str),
            _ => None,
        }
    }

    /// The configs around a leaf that limit all of their attempts together: number, milliseconds.
    pub fn budgets_around(&self, at: usize) -> impl Iterator<Item = (usize, u64)> + '_ {
        // Most configs have none; those of a model that the caller named have no config at all.
        let around: &[Around] = if self.total_budgets_ms.iter().any(Option::is_some) {
            &self.leaves[at].around
        } else {
            &[]
        };
        around.iter().filter_map(|around| {
            self.total_budgets_ms[around.config].map(|budget_ms| (around.config, budget_ms))
        })
    }

    /// Decide what follows a failure at leaf `at`.
    ///
    /// `order` has the leaves that may serve, as the decision put them; `tries_here` counts the
    /// tries on that leaf so far; `is_spent` says which configs have used up the time for all of
    /// their attempts. An inner config that gives up is one failed attempt of the config around
    /// it, so its own `retry_on` decides next.
    #[must_use]
    pub fn next(
        &self,
        order: &[usize],
        at: usize,
        failed_by: FailedBy,
        tries_here: u32,
        is_spent: &dyn Fn(usize) -> bool,
    ) -> Next {
        let leaf = &self.leaves[at];
        // A config without time left tries nobody any more, nor does any config inside it.
        let open_from = leaf
            .around
            .iter()
            .rposition(|around| is_spent(around.config))
            .map_or(0, |at| at + 1);
        let same_target = matches!(failed_by, FailedBy::Connect | FailedBy::Status(_));
        if same_target
            && open_from == 0
            && tries_here <= leaf.retries
            && leaf.retry_here.covers(failed_by)
        {
            return Next::Again;
        }
        let place = order.iter().position(|leaf| *leaf == at).map_or(0, |place| place + 1);
        for around in leaf.around.iter().skip(open_from) {
            if !around.retry_on.covers(failed_by) {
                continue;
            }
            if let Some(next) = self.sibling(&order[place..], around) {
                return Next::Leaf(next);
            }
        }
        Next::Nobody
    }

    /// What follows config `config` as a whole, where that has failed; `spent` are the configs
    /// that have used up the time for all of their attempts.
    #[must_use]
    pub fn next_outside(
        &self,
        order: &[usize],
        config: usize,
        failed_by: FailedBy,
        spent: &[usize],
    ) -> Next {
        let is_inside = |leaf: &usize| {
            self.leaves[*leaf].around.iter().any(|around| around.config == config)
        };
        let Some(last) = order.iter().rposition(is_inside) else { return Next::Nobody };
        let around = &self.leaves[order[last]].around;
        let level = around
            .iter()
            .rposition(|around| around.config == config || spent.contains(&around.config));
        for around in around.iter().skip(level.map_or(0, |level| level + 1)) {
            if !around.retry_on.covers(failed_by) {
                continue;
            }
            if let Some(next) = self.sibling(&order[last + 1..], around) {
                return Next::Leaf(next);
            }
        }
        Next::Nobody
    }

    /// What follows leaf `at` where config `config` does not accept its answer.
    #[must_use]
    pub fn next_step(&self, order: &[usize], at: usize, config: usize) -> Option<usize> {
        let place = order.iter().position(|leaf| *leaf == at).map_or(0, |place| place + 1);
        let around = self.leaves[at].around.iter().find(|around| around.config == config)?;
        self.sibling(&order[place..], around)
    }

    /// The first leaf that stands in the same config and in another of its children.
    fn sibling(&self, order: &[usize], around: &Around) -> Option<usize> {
        order.iter().copied().find(|leaf| {
            self.leaves[*leaf]
                .around
                .iter()
                .any(|other| other.config == around.config && other.child != around.child)
        })
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
