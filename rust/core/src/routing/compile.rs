//! From the nodes of a snapshot to leaves and the configs above them.

use std::cell::OnceCell;
use std::rc::Rc;

use super::node::{
    AcceptNode, Aggregation, ConfigNode, Limits, Metric, Node, RuleText, TargetNode,
    TokenLimits, ValidateNode,
};
use super::{
    ATTEMPT_MAX_MS, Around, CONNECT_TIMEOUT_MS, DEPTH_MAX, Fit, Flat, IDLE_TIMEOUT_MS,
    LEAVES_MAX, LIMIT_MS_MAX, Leaf, RetryOn, Strategy, TIMEOUT_MS,
};
use crate::answers::Validity;
use crate::live::MarkId;
use crate::rules::{Place, Rule, Var};
use crate::snapshot::Provider;

/// Spread among the fastest, where a config does not say it, in percent.
const TOLERANCE_PCT: f64 = 10.0;
/// Sent to others than the fastest, where a config does not say it, in percent.
const EXPLORE_PCT: f64 = 2.0;
/// A member's weight where none is said, in thousandths.
const WEIGHT_ONE: u64 = 1000;

/// A config above leaves.
#[derive(Debug)]
pub(crate) struct Config {
    /// Its targets and configs, in the order of the text.
    pub(crate) children: Vec<Child>,
    /// What its strategy needs.
    pub(crate) own: Own,
    /// To the first content byte of what it does.
    pub(crate) timeout_ms: u64,
    /// The names that it stands in, its own the last.
    pub(crate) path: Vec<String>,
    /// What counts how often each of its children was chosen.
    pub(crate) marks: Vec<String>,
}

/// What stands in a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Child {
    /// A target.
    Leaf(usize),
    /// A config.
    Config(usize),
}

/// What a strategy has of its own.
#[derive(Debug)]
pub(crate) enum Own {
    /// Nothing.
    List,
    /// Nothing either: prices are elsewhere.
    Cost,
    /// See `latency_optimized`.
    Latency { metric: Metric, tolerance: f32, explore_bp: u64 },
    /// See `ab_test`.
    AbTest { names: Vec<String>, weights: Vec<u64>, sticky: Sticky, salt: String },
    /// For each step what has to hold for it to be the last.
    Cascade { accepts: Vec<Option<Accept>> },
    /// In order.
    Rules { rules: Vec<CompiledRule> },
    /// See `ensemble`.
    Ensemble(Ensemble),
}

/// Whom an A/B test keeps on the same arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sticky {
    EndUser,
    Conversation,
    Request,
    Tag(String),
}

/// What has to hold for a cascade to stop.
#[derive(Debug)]
pub(crate) enum Accept {
    Rule(CompiledText),
    Judge { judge: Rc<Flat>, min_score_permille: u32 },
}

/// An expression, and for each of its variables which target it means.
#[derive(Debug)]
pub(crate) struct CompiledText {
    pub(crate) rule: Rule,
    /// Place in `Flat::named`, for the variables that are about a target.
    pub(crate) targets: Vec<Option<usize>>,
}

/// One rule of `custom_rules`.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// None is the `else`.
    pub(crate) condition: Option<CompiledText>,
    /// Which child serves.
    pub(crate) then: Option<usize>,
    /// Why nobody does.
    pub(crate) block: Option<String>,
    /// What counts how often it matched.
    pub(crate) mark: String,
    /// Where that is, once it was looked up.
    pub(crate) mark_id: OnceCell<MarkId>,
}

/// What makes a member's answer valid.
#[derive(Debug)]
pub(crate) enum Validate {
    Shape(Validity),
    Rule(CompiledText),
}

/// What an ensemble has of its own.
#[derive(Debug)]
pub(crate) struct Ensemble {
    pub(crate) aggregation: Aggregation,
    pub(crate) min_responses: usize,
    pub(crate) validate: Option<Validate>,
    /// Of each member, in thousandths.
    pub(crate) weights: Vec<u64>,
    pub(crate) judge: Option<Rc<Flat>>,
}

/// A model that an expression names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) provider: usize,
    pub(crate) model: String,
}

/// Where a share of the traffic is mirrored to.
#[derive(Debug)]
pub(crate) struct Shadow {
    pub(crate) flat: Rc<Flat>,
    /// In hundredths of a percent.
    pub(crate) percent_bp: u64,
}

/// What a decision reads besides health: what nothing asks for is not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent needs")]
pub(crate) struct Needs {
    /// What each leaf would cost.
    pub(crate) costs: bool,
    /// How fast each leaf is.
    pub(crate) latency: bool,
    /// The rows of the budgets that match.
    pub(crate) budgets: bool,
    /// The figures of the models that expressions name.
    pub(crate) named: bool,
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
    /// `PROJECT/@SLUG vN`, of the nearest config with a name.
    owner: String,
    dimensions: Option<u64>,
}

/// The configs around something, by name: budgets and traces go by them.
#[derive(Debug, Clone)]
struct Within {
    owner: String,
    path: Vec<String>,
    slugs: Vec<String>,
}

impl Context {
    /// What stands directly in `within`, with everything else as it is by default.
    fn in_nothing_but(within: &Within) -> Self {
        Self {
            limits: Limits::default(),
            tokens: TokenLimits::default(),
            fit: Fit::Auto,
            around: Vec::new(),
            retry_here: RetryOn::all(),
            retries: 0,
            path: within.path.clone(),
            slugs: within.slugs.clone(),
            owner: within.owner.clone(),
            dimensions: None,
        }
    }

    /// The names that what stands in a config is in.
    fn within(&self, config: &ConfigNode, project: &str) -> Within {
        let (mut path, mut slugs) = (self.path.clone(), self.slugs.clone());
        if let Some(slug) = &config.slug {
            slugs.push(slug.clone());
            path.push(match config.version {
                Some(version) => format!("@{slug} (v{version})"),
                None => format!("@{slug}"),
            });
        }
        Within { owner: self.owner_of(config, project), path, slugs }
    }

    /// How what stands in a config is named where it is counted.
    fn owner_of(&self, config: &ConfigNode, project: &str) -> String {
        match (&config.slug, config.version) {
            (Some(slug), Some(version)) => format!("{project}/@{slug} v{version}"),
            (Some(slug), None) => format!("{project}/@{slug}"),
            (None, _) => self.owner.clone(),
        }
    }
}

impl Flat {
    /// Compile a config of `project`.
    ///
    /// # Errors
    /// A text that names what is wrong: depth, number of leaves, an unknown provider or word, an
    /// expression that does not hold.
    pub fn compile(root: &Node, providers: &[Provider], project: &str) -> Result<Self, String> {
        let nothing =
            Within { owner: format!("{project}/"), path: Vec::new(), slugs: Vec::new() };
        Self::compile_within(root, providers, project, &nothing)
    }

    fn compile_within(
        root: &Node,
        providers: &[Provider],
        project: &str,
        within: &Within,
    ) -> Result<Self, String> {
        let Node::Config(config) = root else {
            return Err("the outermost node is a target, not a config".to_owned());
        };
        let mut flat = Self::of(config.strategy, Vec::new());
        let context = Context::in_nothing_but(within);
        let mut compiler = Compiler { flat: &mut flat, providers, project };
        compiler.config(config, &context, 1)?;
        if let Some(shadow) = &config.shadow {
            let target = compiler.apart(&shadow.target, &context.within(config, project))?;
            flat.shadow = Some(Shadow { flat: target, percent_bp: shadow.percent_bp });
        }
        if flat.leaves.is_empty() && !flat.is_all_blocks() {
            return Err("no target".to_owned());
        }
        Ok(flat)
    }

    /// Does every rule of it end in a refusal, so that it needs no target?
    fn is_all_blocks(&self) -> bool {
        matches!(self.configs.first(), Some(Config { own: Own::Rules { rules }, .. }) if !rules.is_empty())
    }
}

struct Compiler<'c> {
    flat: &'c mut Flat,
    providers: &'c [Provider],
    project: &'c str,
}

impl Compiler<'_> {
    fn node(&mut self, node: &Node, context: &Context, depth: usize) -> Result<Child, String> {
        match node {
            Node::Target(target) => {
                if self.flat.leaves.len() >= LEAVES_MAX {
                    return Err(format!("more than {LEAVES_MAX} targets"));
                }
                let leaf = leaf(target, self.providers, context)?;
                self.flat.leaves.push(leaf);
                Ok(Child::Leaf(self.flat.leaves.len() - 1))
            }
            Node::Config(config) => self.config(config, context, depth).map(Child::Config),
        }
    }

    /// Compile a config and what stands in it. Returns its number.
    fn config(
        &mut self,
        config: &ConfigNode,
        context: &Context,
        depth: usize,
    ) -> Result<usize, String> {
        if depth > DEPTH_MAX {
            return Err(format!("configs are nested more than {DEPTH_MAX} deep"));
        }
        let retry_on = match &config.retry_on {
            Some(words) => RetryOn::from_words(words)?,
            None => RetryOn::all(),
        };
        let number = self.flat.configs.len();
        let within = context.within(config, self.project);
        let limits = context.limits.within(config.limits);
        self.flat
            .total_budgets_ms
            .push(config.limits.total_budget_ms.map(|ms| ms.min(LIMIT_MS_MAX)));
        // Its number is taken before its children take theirs: the outermost comes first.
        self.flat.configs.push(Config {
            children: Vec::new(),
            own: Own::List,
            timeout_ms: limits.timeout_ms.unwrap_or(TIMEOUT_MS).min(LIMIT_MS_MAX),
            path: within.path.clone(),
            marks: Vec::new(),
        });
        let mut children = Vec::with_capacity(config.children.len());
        let mut marks = Vec::with_capacity(config.children.len());
        for (child, node) in config.children.iter().enumerate() {
            let mut around = vec![Around { config: number, child, retry_on: retry_on.clone() }];
            around.extend(context.around.iter().cloned());
            let inner = Context {
                limits,
                tokens: context.tokens.within(config.tokens),
                fit: config.fit_to_budget.unwrap_or(context.fit),
                around,
                retry_here: retry_on.clone(),
                retries: config.max_retries_per_attempt.unwrap_or(context.retries),
                path: within.path.clone(),
                slugs: within.slugs.clone(),
                owner: within.owner.clone(),
                dimensions: config.embedding_dimensions.or(context.dimensions),
            };
            children.push(self.node(node, &inner, depth + 1)?);
            marks.push(format!("{} {}", within.owner, path_of(node)));
        }
        let own = self.own(config, &within, children.len())?;
        match own {
            Own::Cost => self.flat.needs.costs = true,
            Own::Latency { .. } => self.flat.needs.latency = true,
            _ => {}
        }
        let compiled = &mut self.flat.configs[number];
        compiled.children = children;
        compiled.marks = marks;
        compiled.own = own;
        Ok(number)
    }

    fn own(
        &mut self,
        config: &ConfigNode,
        within: &Within,
        children: usize,
    ) -> Result<Own, String> {
        let parallel = |what: &str, count: usize| {
            if count == children {
                Ok(())
            } else {
                Err(format!("{what} has {count} entries for {children} targets"))
            }
        };
        match config.strategy {
            Strategy::Single | Strategy::Fallback | Strategy::Direct => Ok(Own::List),
            Strategy::CostOptimized => Ok(Own::Cost),
            Strategy::LatencyOptimized => {
                let tolerance = config.tolerance_pct.unwrap_or(TOLERANCE_PCT) / 100.0;
                let explore = config.explore_pct.unwrap_or(EXPLORE_PCT) * 100.0;
                #[expect(clippy::cast_possible_truncation, reason = "a ratio")]
                #[expect(clippy::cast_sign_loss, reason = "clamped")]
                let (tolerance, explore_bp) =
                    (tolerance.max(0.0) as f32, explore.clamp(0.0, 10_000.0).round() as u64);
                Ok(Own::Latency {
                    metric: config.metric.unwrap_or_default(),
                    tolerance,
                    explore_bp,
                })
            }
            Strategy::AbTest => {
                parallel("variants", config.variants.len())?;
                let weights: Vec<u64> = config.variants.iter().map(|arm| arm.weight).collect();
                if weights.iter().all(|weight| *weight == 0) {
                    return Err("no variant has a weight above 0".to_owned());
                }
                let sticky = match config.sticky_by.as_deref() {
                    None | Some("end_user") => Sticky::EndUser,
                    Some("conversation") => Sticky::Conversation,
                    Some("request") => Sticky::Request,
                    Some(other) => match other.strip_prefix("tag:") {
                        Some(key) => Sticky::Tag(key.to_owned()),
                        None => return Err(format!("sticky_by {other:?} is unknown")),
                    },
                };
                Ok(Own::AbTest {
                    names: config.variants.iter().map(|arm| arm.name.clone()).collect(),
                    weights,
                    sticky,
                    salt: config.salt.clone().unwrap_or_default(),
                })
            }
            Strategy::Cascade => {
                parallel("accepts", config.accepts.len())?;
                let accepts = config
                    .accepts
                    .iter()
                    .map(|accept| {
                        accept.as_ref().map(|accept| self.accept(accept, within)).transpose()
                    })
                    .collect::<Result<_, _>>()?;
                Ok(Own::Cascade { accepts })
            }
            Strategy::CustomRules => {
                let mut rules = Vec::with_capacity(config.rules.len());
                for node in &config.rules {
                    if node.then.is_some_and(|then| then >= children) {
                        return Err(format!("{} leads to no target", node.path));
                    }
                    let condition = match &node.condition {
                        Some(text) => Some(self.text(text, Place::Request)?),
                        None => None,
                    };
                    rules.push(CompiledRule {
                        condition,
                        then: node.then,
                        block: node.block.clone(),
                        mark: format!("{} {}", within.owner, node.path),
                        mark_id: OnceCell::new(),
                    });
                }
                Ok(Own::Rules { rules })
            }
            Strategy::Ensemble => self.ensemble(config, within, children).map(Own::Ensemble),
        }
    }

    fn ensemble(
        &mut self,
        config: &ConfigNode,
        within: &Within,
        members: usize,
    ) -> Result<Ensemble, String> {
        let aggregation = config.aggregation.ok_or("an ensemble needs its aggregation")?;
        let least = match aggregation {
            Aggregation::WeightedVote => members / 2 + 1,
            _ => 1,
        };
        let judge = config.judge.as_ref().map(|judge| self.apart(judge, within)).transpose()?;
        if (aggregation == Aggregation::LlmJudge) != judge.is_some() {
            return Err("`judge` belongs to `llm_judge`, and to nothing else".to_owned());
        }
        let validate = match &config.validate {
            None => None,
            Some(ValidateNode::Rule { rule }) => {
                Some(Validate::Rule(self.text(rule, Place::Answer)?))
            }
            Some(ValidateNode::Named(name)) => Some(Validate::Shape(match name.as_str() {
                "json" => Validity::Json,
                "json_schema" => Validity::JsonSchema,
                other => return Err(format!("validate {other:?} is unknown")),
            })),
        };
        let mut weights = config.weights.clone();
        weights.resize(members, WEIGHT_ONE);
        Ok(Ensemble {
            aggregation,
            min_responses: config.min_responses.unwrap_or(least).clamp(1, members.max(1)),
            validate,
            weights,
            judge,
        })
    }

    fn accept(&mut self, accept: &AcceptNode, within: &Within) -> Result<Accept, String> {
        match accept {
            AcceptNode::Rule { rule } => self.text(rule, Place::Answer).map(Accept::Rule),
            AcceptNode::Judge { judge, min_score_permille } => Ok(Accept::Judge {
                judge: self.apart(judge, within)?,
                min_score_permille: *min_score_permille,
            }),
        }
    }

    /// A target that is not one of the config's own: a judge, a shadow.
    fn apart(&self, node: &Node, within: &Within) -> Result<Rc<Flat>, String> {
        let compiled = match node {
            Node::Config(_) => {
                Flat::compile_within(node, self.providers, self.project, within)?
            }
            Node::Target(target) => {
                let mut flat = Flat::direct(0, "", "");
                let context = Context::in_nothing_but(within);
                flat.leaves = vec![leaf(target, self.providers, &context)?];
                flat.strategy = Strategy::Single;
                flat
            }
        };
        Ok(Rc::new(compiled))
    }

    fn text(&mut self, text: &RuleText, place: Place) -> Result<CompiledText, String> {
        let rule = Rule::compile(&text.text, place)
            .map_err(|fault| format!("{}:{}: {}", fault.line, fault.column, fault.message))?;
        let mut targets = Vec::with_capacity(rule.vars().len());
        for var in rule.vars() {
            let name = match var {
                Var::Cost(name) => name,
                Var::Latency { target, .. } | Var::Health { target, .. } => target,
                other => {
                    if matches!(other, Var::Budget { .. }) {
                        self.flat.needs.budgets = true;
                    }
                    targets.push(None);
                    continue;
                }
            };
            self.flat.needs.named = true;
            let found = text
                .targets
                .get(name)
                .ok_or_else(|| format!("{name:?} in an expression names no target"))?;
            if found.provider >= self.providers.len() {
                return Err(format!("{name:?} in an expression has no provider"));
            }
            let named = Named { provider: found.provider, model: found.model.clone() };
            let known = self.flat.named.iter().position(|known| *known == named);
            targets.push(Some(known.unwrap_or_else(|| {
                self.flat.named.push(named);
                self.flat.named.len() - 1
            })));
        }
        Ok(CompiledText { rule, targets })
    }
}

fn path_of(node: &Node) -> &str {
    match node {
        Node::Config(config) => &config.path,
        Node::Target(target) => &target.path,
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
    let params = target
        .params
        .as_ref()
        .filter(|params| !params.is_empty())
        .map(serde_json::to_string)
        .transpose()
        .map_err(|fault| fault.to_string())?;
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
        params,
        dimensions: context.dimensions,
        rejected: target.rejected.clone(),
        mark: if target.path.is_empty() {
            String::new()
        } else {
            format!("{} {}", context.owner, target.path)
        },
        retry_here: context.retry_here.clone(),
        around: context.around.clone(),
    })
}
