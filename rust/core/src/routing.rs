//! Routing: which target serves a request, and which one follows when it fails.
//!
//! A routing config is a tree (a config may stand wherever a target may). It is flattened once, at
//! load, into a list of leaves; each leaf knows, for every config around it, what that config
//! retries on and which leaf comes next there. A decision is then a walk over small tables, and
//! the same walk serves live traffic, dry runs and replay.

use std::fmt;

use serde::Deserialize;

use crate::snapshot::Provider;

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

/// One node of a routing config as the snapshot holds it.
#[derive(Deserialize, Debug)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Node {
    /// A routing config.
    Config(ConfigNode),
    /// A target.
    Target(TargetNode),
}

/// A config: its children in order.
#[derive(Deserialize, Debug)]
pub struct ConfigNode {
    strategy: Strategy,
    slug: Option<String>,
    version: Option<u32>,
    children: Vec<Node>,
    #[serde(default)]
    retry_on: Option<Vec<String>>,
    #[serde(default)]
    max_retries_per_attempt: Option<u32>,
    #[serde(default)]
    fit_to_budget: Option<Fit>,
    #[serde(flatten)]
    limits: Limits,
    #[serde(flatten)]
    tokens: TokenLimits,
}

/// A target: a model at a provider.
#[derive(Deserialize, Debug)]
pub struct TargetNode {
    provider: usize,
    model: String,
    #[serde(default)]
    credential: Option<String>,
    #[serde(default)]
    label: Option<String>,
    /// Held where an attempt has no finite bound of its own, in nano-USD.
    #[serde(default)]
    max_cost_nusd: Option<u64>,
    #[serde(flatten)]
    limits: Limits,
    #[serde(flatten)]
    tokens: TokenLimits,
}

/// Time limits in milliseconds; absent ones are inherited.
#[derive(Deserialize, Debug, Default, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the unit ends the name")]
struct Limits {
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    connect_timeout_ms: Option<u64>,
    #[serde(default)]
    idle_timeout_ms: Option<u64>,
    #[serde(default)]
    attempt_max_ms: Option<u64>,
    #[serde(default)]
    total_budget_ms: Option<u64>,
}

impl Limits {
    /// The tighter of each pair: an inner config cannot loosen what is around it.
    fn within(self, inner: Self) -> Self {
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
struct TokenLimits {
    #[serde(default)]
    max_output_tokens: Option<u64>,
    #[serde(default)]
    min_output_tokens: Option<u64>,
    #[serde(default)]
    default_output_tokens: Option<u64>,
}

impl TokenLimits {
    /// The inner word holds, but a maximum is only ever tightened.
    fn within(self, inner: Self) -> Self {
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

    fn from_words(words: &[String]) -> Result<Self, String> {
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
struct Around {
    /// Number of the config, the outermost being 0.
    config: usize,
    retry_on: RetryOn,
    /// The first leaf of the next child in that config.
    next: Option<usize>,
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
    /// What the innermost config retries on.
    retry_here: RetryOn,
    around: Vec<Around>,
}

/// A routing config, flattened.
#[derive(Debug)]
pub struct Flat {
    /// Strategy of the outermost config.
    pub strategy: Strategy,
    /// Leaves, in the order in which they would be tried.
    pub leaves: Vec<Leaf>,
    /// For each config, the outermost first: all of its attempts together, up to the first content
    /// byte.
    pub total_budgets_ms: Vec<Option<u64>>,
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
    /// Flatten a config.
    ///
    /// # Errors
    /// A text that names what is wrong: depth, number of leaves, an unknown provider or word.
    pub fn compile(root: &Node, providers: &[Provider]) -> Result<Self, String> {
        let Node::Config(config) = root else {
            return Err("the outermost node is a target, not a config".to_owned());
        };
        let mut leaves = Vec::new();
        let context = Context {
            limits: Limits::default(),
            tokens: TokenLimits::default(),
            fit: Fit::Auto,
            around: Vec::new(),
            retry_here: RetryOn::all(),
            retries: 0,
            path: Vec::new(),
            slugs: Vec::new(),
        };
        let mut total_budgets_ms = Vec::new();
        add(root, providers, &context, 1, &mut leaves, &mut total_budgets_ms)?;
        if leaves.is_empty() {
            return Err("no target".to_owned());
        }
        Ok(Self { strategy: config.strategy, leaves, total_budgets_ms })
    }

    /// One leaf without a config: the caller named the model.
    #[must_use]
    pub fn direct(provider: usize, model: &str, label: &str) -> Self {
        Self {
            strategy: Strategy::Direct,
            leaves: vec![Leaf {
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
                retry_here: RetryOn::all(),
                around: Vec::new(),
            }],
            total_budgets_ms: Vec::new(),
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
    /// `tries_here` counts the tries on that leaf so far; `eligible` says which leaves may serve,
    /// `is_spent` which configs have used up the time for all of their attempts. An inner config that gives up is one failed attempt of the config around it, so its own
    /// `retry_on` decides next.
    #[must_use]
    pub fn next(
        &self,
        at: usize,
        failed_by: FailedBy,
        tries_here: u32,
        eligible: &dyn Fn(usize) -> bool,
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
        for (level, around) in leaf.around.iter().enumerate().skip(open_from) {
            if !around.retry_on.covers(failed_by) {
                continue;
            }
            // A leaf that may not serve is passed over as if it had failed on the spot, but not out
            // of this config: whether the one around it goes on, its own `retry_on` decides.
            let levels_outside = leaf.around.len() - level - 1;
            let mut candidate = around.next;
            while let Some(index) = candidate {
                if eligible(index) {
                    return Next::Leaf(index);
                }
                let its_around = &self.leaves[index].around;
                candidate = its_around[..its_around.len() - levels_outside]
                    .iter()
                    .find_map(|around| around.next);
            }
        }
        Next::Nobody
    }
}

struct Context {
    limits: Limits,
    tokens: TokenLimits,
    fit: Fit,
    around: Vec<Around>,
    retry_here: RetryOn,
    retries: u32,
    path: Vec<String>,
    slugs: Vec<String>,
}

/// Add the leaves of `node`. `context.around` runs from the innermost config outwards.
fn add(
    node: &Node,
    providers: &[Provider],
    context: &Context,
    depth: usize,
    leaves: &mut Vec<Leaf>,
    total_budgets_ms: &mut Vec<Option<u64>>,
) -> Result<(), String> {
    match node {
        Node::Target(target) => {
            if leaves.len() >= LEAVES_MAX {
                return Err(format!("more than {LEAVES_MAX} targets"));
            }
            leaves.push(leaf(target, providers, context)?);
            Ok(())
        }
        Node::Config(config) => {
            if depth > DEPTH_MAX {
                return Err(format!("configs are nested more than {DEPTH_MAX} deep"));
            }
            let retry_on = match &config.retry_on {
                Some(words) => RetryOn::from_words(words)?,
                None => RetryOn::all(),
            };
            let number = total_budgets_ms.len();
            total_budgets_ms.push(config.limits.total_budget_ms.map(|ms| ms.min(LIMIT_MS_MAX)));
            let mut path = context.path.clone();
            let mut slugs = context.slugs.clone();
            if let Some(slug) = &config.slug {
                slugs.push(slug.clone());
                path.push(match config.version {
                    Some(version) => format!("@{slug} (v{version})"),
                    None => format!("@{slug}"),
                });
            }
            for (index, child) in config.children.iter().enumerate() {
                let first = leaves.len();
                // The first leaf of the next child is only known once this child is flat: its
                // leaves get a mark that is replaced below.
                let mut around =
                    vec![Around { config: number, retry_on: retry_on.clone(), next: None }];
                around.extend(context.around.iter().cloned());
                let inner = Context {
                    limits: context.limits.within(config.limits),
                    tokens: context.tokens.within(config.tokens),
                    fit: config.fit_to_budget.unwrap_or(context.fit),
                    around,
                    retry_here: retry_on.clone(),
                    retries: config.max_retries_per_attempt.unwrap_or(context.retries),
                    path: path.clone(),
                    slugs: slugs.clone(),
                };
                let levels_outside = inner.around.len();
                add(child, providers, &inner, depth + 1, leaves, total_budgets_ms)?;
                let next_child = leaves.len();
                if index + 1 < config.children.len() {
                    for leaf in &mut leaves[first..next_child] {
                        // Around lists grow inwards: this config is counted from the far end.
                        let level = leaf.around.len() - levels_outside;
                        leaf.around[level].next = Some(next_child);
                    }
                }
            }
            Ok(())
        }
    }
}

fn leaf(
    target: &TargetNode,
    providers: &[Provider],
    context: &Context,
) -> Result<Leaf, String> {
    let provider = providers
        .get(target.provider)
        .ok_or_else(|| format!("target {} has no provider", target.model))?;
    let credential = match &target.credential {
        None => None,
        Some(id) => Some(
            provider
                .credentials
                .iter()
                .position(|credential| &credential.id == id)
                .ok_or_else(|| format!("provider {} has no credential {id}", provider.name))?,
        ),
    };
    let limits = context.limits.within(target.limits);
    let tokens = context.tokens.within(target.tokens);
    Ok(Leaf {
        provider: target.provider,
        model: target.model.clone(),
        label: target.label.clone().unwrap_or_else(|| target.model.clone()),
        credential,
        timeout_ms: limits.timeout_ms.unwrap_or(TIMEOUT_MS).min(LIMIT_MS_MAX),
        connect_timeout_ms: limits
            .connect_timeout_ms
            .unwrap_or(CONNECT_TIMEOUT_MS)
            .min(LIMIT_MS_MAX),
        idle_timeout_ms: limits.idle_timeout_ms.unwrap_or(IDLE_TIMEOUT_MS).min(LIMIT_MS_MAX),
        attempt_max_ms: limits.attempt_max_ms.unwrap_or(ATTEMPT_MAX_MS).min(LIMIT_MS_MAX),
        retries: context.retries,
        max_output_tokens: tokens.max_output_tokens,
        min_output_tokens: tokens.min_output_tokens,
        default_output_tokens: tokens.default_output_tokens,
        max_cost_nusd: target.max_cost_nusd,
        fit: context.fit,
        path: context.path.clone(),
        slugs: context.slugs.clone(),
        retry_here: context.retry_here.clone(),
        around: context.around.clone(),
    })
}

/// A vendor that modelux speaks to, as a list for messages.
impl fmt::Display for Strategy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
