//! The decision: which leaves may serve a request, in which order, and why.
//!
//! A pure function of the config, of the request and of the figures that were read: no clock, no
//! generator. What is left to chance is drawn from the request's id, so that the same request is
//! decided alike in a dry run, in replay and in a test.
//!
//! What holds for every strategy: a target that cannot serve this request is never tried. One
//! whose breaker is open is passed over; where nothing else is left, the one that has been open
//! longest is used rather than none. One whose keys were refused comes last.

use std::borrow::Cow;

use super::compile::{Child, Config, Own, Sticky};
use super::node::Metric;
use super::state::{Health, Keys, State, TargetState};
pub use super::words::Asked;
use super::{Flat, Strategy};
use crate::chance::{draw, pick_weighted};
use crate::rules::{Var, Verdict};

const BP_ONE: u64 = 10_000;

/// What a decision came to.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// The leaves that are tried, in that order, if all before them fail.
    pub order: Vec<usize>,
    /// Of every leaf, whether it may serve and why not.
    pub candidates: Vec<Candidate>,
    /// The result of each rule that was evaluated.
    pub rules: Vec<RuleResult>,
    /// The arm of the outermost A/B test: config and variant.
    pub variant: Option<(usize, usize)>,
    /// Why nobody serves, where that is not the targets' fault.
    pub stopped: Option<Stop>,
    /// A rule that ends the request once those in the order before it have failed.
    pub ended_by: Option<Ended>,
    /// For each config that chose one of its children, which.
    pub chosen: Vec<Option<usize>>,
    /// A rule could not be decided before the text's tokens are counted.
    pub is_open: bool,
    /// Did a rule ask for the tokens of the text.
    pub read_tokens: bool,
    /// The figures that were read.
    pub state: State,
}

/// A rule that was evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleResult {
    /// Number of its config.
    pub config: usize,
    /// Its place there.
    pub index: usize,
    /// What it came to; None is null.
    pub result: Option<bool>,
}

/// A rule that blocks, and stands behind targets that are tried before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its config and its place there.
    pub rule: (usize, usize),
    /// Its config and those around it.
    pub within: Vec<usize>,
}

/// Why nobody serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A rule says so: config and rule.
    Blocked(usize, usize),
    /// No rule of that config matched, and it has no `else`.
    NoRule(usize),
}

impl Stop {
    /// The public `error.code`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Blocked(..) => "blocked_by_rule",
            Self::NoRule(_) => "no_rule_matched",
        }
    }
}

/// Whether a leaf may serve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Why not; None may.
    pub reject_reason: Option<&'static str>,
    /// Its breaker's time is up: who gets there first sees whether it serves again.
    pub is_probe: bool,
    /// What the strategy compared it by: smaller is better.
    pub score: Option<f64>,
    standing: Standing,
}

/// How far down one has to go to use a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Ready,
    Stalled,
    KeysRejected,
    Open,
    Never,
}

/// Decide.
///
/// `rejects` says of each leaf why it cannot serve this request at all.
#[must_use]
pub fn decide(
    flat: &Flat,
    asked: Asked<'_>,
    rejects: &[Option<&'static str>],
    state: State,
) -> Decision {
    let candidates = rejects
        .iter()
        .zip(&flat.leaves)
        .zip(&state.leaves)
        .map(|((reject, leaf), target)| {
            let reject = reject.or(leaf.rejected.as_ref().map(|_| "below_quality_tier"));
            candidate(reject, target)
        })
        .collect();
    let mut walk = Walk {
        flat,
        asked,
        state: &state,
        candidates,
        rules: Vec::new(),
        variant: None,
        stopped: None,
        chosen: vec![None; flat.configs.len()],
        is_open: false,
        is_closed: false,
        ended_by: None,
        within: Vec::new(),
        unmatched: None,
        read_tokens: false,
    };
    let order = walk.order();
    let Walk {
        candidates,
        rules,
        variant,
        stopped,
        ended_by,
        chosen,
        is_open,
        read_tokens,
        ..
    } = walk;
    let mut decision = Decision {
        order,
        candidates,
        rules,
        variant,
        stopped,
        ended_by,
        chosen,
        is_open,
        read_tokens,
        state,
    };
    decision.explain(flat);
    decision
}

fn candidate(reject: Option<&'static str>, target: &TargetState) -> Candidate {
    let (reject_reason, standing, is_probe) = match (reject, target.health, target.keys) {
        (Some(reason), _, _) => (Some(reason), Standing::Never, false),
        (None, Health::Open { is_due: false, .. }, _) => {
            (Some("breaker_open"), Standing::Open, false)
        }
        (None, Health::HalfOpen, _) => (Some("breaker_half_open"), Standing::Open, false),
        (None, _, Keys::Cooling { .. }) => (Some("rate_limited"), Standing::Open, false),
        (None, health, Keys::Rejected) => (
            Some("credential_rejected"),
            Standing::KeysRejected,
            matches!(health, Health::Open { .. }),
        ),
        (None, Health::Open { is_due: true, .. }, Keys::Usable) => {
            (None, Standing::Ready, true)
        }
        (None, Health::Closed, Keys::Usable) if target.is_stalled => {
            (Some("stalled"), Standing::Stalled, false)
        }
        (None, Health::Closed, Keys::Usable) => (None, Standing::Ready, false),
    };
    Candidate { reject_reason, is_probe, score: None, standing }
}

struct Walk<'w> {
    flat: &'w Flat,
    asked: Asked<'w>,
    state: &'w State,
    candidates: Vec<Candidate>,
    rules: Vec<RuleResult>,
    variant: Option<(usize, usize)>,
    stopped: Option<Stop>,
    chosen: Vec<Option<usize>>,
    is_open: bool,
    /// A rule ends the request once all before it have failed.
    is_closed: bool,
    ended_by: Option<Ended>,
    /// The configs that are being walked, the outermost first.
    within: Vec<usize>,
    /// A config inside of others none of whose rules matched.
    unmatched: Option<usize>,
    read_tokens: bool,
}

impl Walk<'_> {
    fn order(&mut self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.flat.leaves.len());
        self.add_root(Standing::Ready, &mut order);
        self.is_closed = false;
        if self.stopped.is_some() || self.is_open {
            return Vec::new();
        }
        // What hangs, and what has only refused keys, is tried once nobody else can serve.
        for most in [Standing::Stalled, Standing::KeysRejected] {
            if !self.candidates.iter().any(|one| one.standing == most) {
                continue;
            }
            let mut last = Vec::new();
            self.add_root(most, &mut last);
            self.is_closed = false;
            for leaf in last {
                if !order.contains(&leaf) {
                    order.push(leaf);
                }
            }
        }
        if order.is_empty() {
            // All are open: the one that has been so longest is the likeliest to serve again.
            let mut open = Vec::new();
            self.add_root(Standing::Open, &mut open);
            let since = |leaf: &usize| match self.state.leaves[*leaf] {
                TargetState { health: Health::Open { since_us, .. }, .. } => since_us,
                TargetState { keys: Keys::Cooling { until_us }, .. } => until_us,
                _ => u64::MAX,
            };
            let first = open.iter().copied().min_by_key(since);
            order.extend(first);
            if let Some(ensemble) = first.and_then(|first| self.outermost_ensemble(first)) {
                // One member alone may be too few: all of them are asked, or it would be for
                // nothing.
                let around = |leaf: &usize| &self.flat.leaves[*leaf].around;
                open.retain(|leaf| around(leaf).iter().any(|one| one.config == ensemble));
                order = open;
            }
        }
        if order.is_empty() && self.stopped.is_none() {
            self.stopped = self.unmatched.map(Stop::NoRule);
        }
        order
    }

    fn outermost_ensemble(&self, leaf: usize) -> Option<usize> {
        let around = self.flat.leaves[leaf].around.iter().rev().map(|around| around.config);
        around
            .into_iter()
            .find(|config| matches!(self.flat.configs[*config].own, Own::Ensemble(_)))
    }

    fn add_root(&mut self, most: Standing, out: &mut Vec<usize>) {
        if self.flat.configs.is_empty() {
            out.extend((0..self.flat.leaves.len()).filter(|leaf| self.may(*leaf, most)));
        } else {
            self.within.clear();
            self.within.push(0);
            self.add_config(0, most, out);
        }
    }

    fn may(&self, leaf: usize, most: Standing) -> bool {
        let standing = self.candidates[leaf].standing;
        standing <= most && standing != Standing::Never
    }

    fn add_child(&mut self, child: Child, most: Standing, out: &mut Vec<usize>) {
        if self.is_closed || self.stopped.is_some() {
            return;
        }
        match child {
            Child::Leaf(leaf) => {
                if self.may(leaf, most) {
                    out.push(leaf);
                }
            }
            Child::Config(config) => {
                self.within.push(config);
                self.add_config(config, most, out);
                self.within.pop();
            }
        }
    }

    /// Append the leaves of a config that may serve, in the order of its strategy.
    fn add_config(&mut self, number: usize, most: Standing, out: &mut Vec<usize>) {
        let config = &self.flat.configs[number];
        match &config.own {
            Own::List | Own::Cascade { .. } => {
                for child in &config.children {
                    self.add_child(*child, most, out);
                }
            }
            Own::Ensemble(ensemble) => {
                let from = out.len();
                let mut members = 0;
                for child in &config.children {
                    // Members do not follow one another: who blocks as the first of its own
                    // config blocks all of them, whoever stands before it.
                    let mut own = Vec::with_capacity(1);
                    let stopped = self.stopped;
                    self.add_child(*child, most, &mut own);
                    if let (Some(Stop::Blocked(config, rule)), None, true) =
                        (self.stopped, stopped, from > 0)
                    {
                        self.stopped = None;
                        self.is_closed = true;
                        let within = self.within.clone();
                        let rule = (config, rule);
                        self.ended_by.get_or_insert(Ended { rule, within });
                        out.truncate(from);
                        return;
                    }
                    // What ends one member after its own targets failed ends no other.
                    self.is_closed = false;
                    members += usize::from(!own.is_empty());
                    out.append(&mut own);
                }
                if members < ensemble.min_responses {
                    out.truncate(from);
                }
            }
            Own::AbTest { weights, sticky, salt, .. } => {
                let child = *self.chosen[number].get_or_insert_with(|| {
                    let subject = subject_of(sticky, self.asked);
                    let point = draw(subject, salt);
                    pick_weighted(point, weights).unwrap_or(0)
                });
                self.variant.get_or_insert((number, child));
                self.add_child(config.children[child], most, out);
            }
            Own::Rules { .. } => match self.matching(number, config) {
                Matched::Child(child) => self.add_child(config.children[child], most, out),
                Matched::Block(rule) if out.is_empty() => {
                    self.stopped = Some(Stop::Blocked(number, rule));
                }
                // Reached only once those before it have failed: nobody follows it.
                Matched::Block(rule) => {
                    self.is_closed = true;
                    let within = self.within.clone();
                    self.ended_by.get_or_insert(Ended { rule: (number, rule), within });
                }
                Matched::Nothing if number == 0 => self.stopped = Some(Stop::NoRule(number)),
                Matched::Nothing => self.unmatched = Some(number),
                Matched::Open => self.is_open = true,
            },
            Own::Cost => {
                let mut children = self.children(config, most);
                for (leaf, _) in &children {
                    let cost = self.state.leaves[*leaf].cost_nusd;
                    self.candidates[*leaf].score = cost.map(usd);
                }
                // What has no price comes last: missing is not free.
                children.sort_by_key(|(leaf, _)| {
                    let cost = self.state.leaves[*leaf].cost_nusd.unwrap_or(u64::MAX);
                    (!self.candidates[*leaf].is_probe, cost)
                });
                out.extend(children.into_iter().flat_map(|(_, order)| order));
            }
            Own::Latency { metric, tolerance, explore_bp } => {
                let children = self.children(config, most);
                self.by_latency(children, *metric, *tolerance, *explore_bp, out);
            }
        }
    }

    /// The children of a config that may serve: the first leaf of each, and all in their order.
    fn children(&mut self, config: &Config, most: Standing) -> Vec<(usize, Vec<usize>)> {
        let mut children = Vec::with_capacity(config.children.len());
        for child in &config.children {
            let mut order = Vec::with_capacity(1);
            self.add_child(*child, most, &mut order);
            if let Some(first) = order.first() {
                children.push((*first, order));
            }
        }
        children
    }

    /// Put the fastest first, and now and then another, so that it is known when one gets faster.
    fn by_latency(
        &mut self,
        mut children: Vec<(usize, Vec<usize>)>,
        metric: Metric,
        tolerance: f32,
        explore_bp: u64,
        out: &mut Vec<usize>,
    ) {
        let latency = |leaf: usize| {
            let target = &self.state.leaves[leaf];
            match metric {
                Metric::Ttft => target.ttft_us,
                Metric::Total => target.total_us,
            }
        };
        for (leaf, _) in &children {
            self.candidates[*leaf].score = latency(*leaf).map(|us| f64::from(us) / 1000.0);
        }
        children.sort_by(|(a, _), (b, _)| {
            let key = |leaf: usize| latency(leaf).unwrap_or(f32::INFINITY);
            key(*a).total_cmp(&key(*b))
        });
        let id = self.asked.subject.id.as_str();
        let best = children.first().and_then(|(leaf, _)| latency(*leaf));
        let close = best.map_or(0, |best| {
            let most = best * (1.0 + tolerance);
            children
                .iter()
                .take_while(|(leaf, _)| latency(*leaf).is_some_and(|us| us <= most))
                .count()
        });
        // A target that may serve again, or that nobody has tried of late, is tried: by one
        // request at a time, as it may be slow.
        let untried = children.iter().position(|(leaf, _)| {
            let target = &self.state.leaves[*leaf];
            self.candidates[*leaf].is_probe
                || (latency(*leaf).is_none() && target.in_flight == 0)
        });
        let first = match untried {
            Some(untried) => untried,
            None if close < children.len() && draw(id, "explore") % BP_ONE < explore_bp => {
                let others = (children.len() - close) as u64;
                close + usize::try_from(draw(id, "other") % others).unwrap_or(0)
            }
            None if close > 1 => {
                usize::try_from(draw(id, "spread") % close as u64).unwrap_or(0)
            }
            None => 0,
        };
        if first < children.len() {
            let child = children.remove(first);
            children.insert(0, child);
        }
        out.extend(children.into_iter().flat_map(|(_, order)| order));
    }

    /// What the first matching rule leads to.
    fn matching(&mut self, number: usize, config: &Config) -> Matched {
        let Own::Rules { rules } = &config.own else { return Matched::Nothing };
        if self.rules.iter().any(|result| result.config == number) {
            return match self.chosen[number] {
                Some(rule) => rules[rule].then.map_or(Matched::Block(rule), Matched::Child),
                None => Matched::Nothing,
            };
        }
        for (index, rule) in rules.iter().enumerate() {
            let verdict = match &rule.condition {
                Some(condition) => {
                    self.read_tokens |= condition.rule.vars().contains(&Var::InputTokens);
                    condition.eval(self.asked, self.state, None)
                }
                None => Verdict::True,
            };
            let result = match verdict {
                Verdict::True => Some(true),
                Verdict::False => Some(false),
                Verdict::Null => None,
                Verdict::Open => return Matched::Open,
            };
            self.rules.push(RuleResult { config: number, index, result });
            if result == Some(true) {
                self.chosen[number] = Some(index);
                return rule.then.map_or(Matched::Block(index), Matched::Child);
            }
        }
        Matched::Nothing
    }
}

/// What the rules of a config came to.
enum Matched {
    Child(usize),
    Block(usize),
    Nothing,
    Open,
}

impl Decision {
    /// Say of the leaves that nothing else speaks against why they are not in the order.
    fn explain(&mut self, flat: &Flat) {
        for (leaf, candidate) in self.candidates.iter_mut().enumerate() {
            if candidate.reject_reason.is_none() && !self.order.contains(&leaf) {
                candidate.reject_reason = Some(left_out(flat, &self.chosen, leaf));
            }
        }
    }

    /// May this leaf be tried?
    #[must_use]
    pub fn is_eligible(&self, leaf: usize) -> bool {
        self.order.contains(&leaf)
    }

    /// How the trace says what the tokens of the text rest on; None where nothing asked.
    #[must_use]
    pub fn tokens_by(&self) -> Option<&'static str> {
        self.read_tokens.then(|| self.state.tokens.name())
    }
}

fn left_out(flat: &Flat, chosen: &[Option<usize>], leaf: usize) -> &'static str {
    let mut why = "not_chosen";
    for around in flat.leaves[leaf].around.iter().rev() {
        let config = &flat.configs[around.config];
        match (&config.own, chosen[around.config]) {
            (Own::AbTest { .. }, Some(child)) if child != around.child => {
                return "other_variant";
            }
            (Own::Rules { rules }, Some(rule)) if rules[rule].then != Some(around.child) => {
                return "rule_not_matched";
            }
            (Own::Rules { .. }, None) => return "rule_not_matched",
            // Unless something inside of the member leaves it out.
            (Own::Ensemble(_), _) => why = "too_few_members",
            _ => {}
        }
    }
    why
}

/// Whom an A/B test goes by; without that subject it is the request.
fn subject_of<'a>(sticky: &Sticky, asked: Asked<'a>) -> &'a str {
    let subject = asked.subject;
    let found = match sticky {
        Sticky::EndUser => subject.end_user.as_deref(),
        Sticky::Conversation => subject.conversation_id.as_deref(),
        Sticky::Request => None,
        Sticky::Tag(key) => {
            subject.tags.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
        }
    };
    found.unwrap_or(&subject.id)
}

#[expect(clippy::cast_precision_loss, reason = "a score, not an amount")]
fn usd(nusd: u64) -> f64 {
    nusd as f64 / 1e9
}

/// Why the first of the order goes where it goes, in words.
#[must_use]
pub fn reason(flat: &Flat, decision: &Decision) -> Cow<'static, str> {
    let Some(first) = decision.order.first().copied() else { return "".into() };
    let state = &decision.state.leaves[first];
    if decision.candidates[first].is_probe {
        return "its breaker's time is up: seeing whether it serves again".into();
    }
    if decision.candidates[first].reject_reason.is_some() {
        return "no target is healthy: the likeliest is used".into();
    }
    let chosen = decision.chosen.first().copied().flatten();
    match flat.configs.first().map(|config| &config.own) {
        None => "named by the caller".into(),
        Some(Own::Rules { rules }) => match chosen {
            Some(rule) if rules[rule].condition.is_none() => "no rule matched: else".into(),
            Some(rule) => format!("rules[{rule}] matched").into(),
            None => "".into(),
        },
        Some(Own::AbTest { names, .. }) => {
            chosen.map_or("".into(), |variant| format!("variant {}", names[variant]).into())
        }
        Some(Own::Cost) => match state.cost_nusd {
            Some(cost) => format!("cheapest, at about {:.6} USD", usd(cost)).into(),
            None => "the only one left".into(),
        },
        Some(Own::Latency { metric, .. }) => {
            let (word, us) = match metric {
                Metric::Ttft => ("ttft", state.ttft_us),
                Metric::Total => ("total", state.total_us),
            };
            match us {
                Some(us) => format!("{word} {:.0} ms of late", us / 1000.0).into(),
                None => "not tried of late".into(),
            }
        }
        Some(Own::Ensemble(_)) => "one of the members".into(),
        Some(Own::Cascade { .. }) => "the first step".into(),
        Some(Own::List) if flat.strategy == Strategy::Single => "the only target".into(),
        Some(Own::List) if first == 0 => "first in the list".into(),
        Some(Own::List) => "first in the list that may serve".into(),
    }
}
