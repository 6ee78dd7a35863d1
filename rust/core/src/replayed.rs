//! A decision made once more, from the facts and figures that its record names.
//!
//! `routing::decide` is a pure function, and a record holds all that went in. So what was decided
//! in live traffic can be decided again by anybody who has the snapshot: to check a record, to
//! explain it, or to ask what another version would have done with the same figures.

use std::fmt;

use serde::Deserialize;

use crate::pricing::Catalogue;
use crate::record::{Object, key, push_candidate, push_json_text, push_rule};
use crate::request::{FlatRef, infer};
use crate::route::{Asking, rejects};
use crate::routing::Flat;
use crate::routing::decide::{self, Decision, Stop, decide};
use crate::routing::state::{BudgetState, Health, Keys, State, TargetState, Tokens};
use crate::scan::Facts;
use crate::snapshot::Snapshot;
use crate::subject::{Endpoint, Subject};

const US_PER_MS: f64 = 1000.0;

/// Why nothing can be decided: what is wrong with the facts or with the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayFault(String);

impl fmt::Display for ReplayFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What a decision reads of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
struct FactsDocument {
    id: String,
    #[serde(default = "default_project")]
    project: String,
    /// `@slug`, `@slug@7`, `provider/model`, `model`.
    model: String,
    #[serde(default)]
    endpoint: EndpointDocument,
    #[serde(default)]
    key_id: Option<String>,
    #[serde(default)]
    tags: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    end_user: Option<String>,
    #[serde(default)]
    conversation_id: Option<String>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    max_output_tokens: Option<u64>,
    #[serde(default)]
    has_tools: bool,
    #[serde(default)]
    has_images: bool,
    #[serde(default)]
    json_schema: bool,
    #[serde(default)]
    messages: u32,
}

fn default_project() -> String {
    "default".to_owned()
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum EndpointDocument {
    #[default]
    Chat,
    Completions,
    Embeddings,
}

/// A record's `decision.inputs`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateDocument {
    unix_s: i64,
    #[serde(default)]
    budgets: Vec<BudgetDocument>,
    #[serde(default)]
    targets: Option<Vec<TargetDocument>>,
    #[serde(default)]
    named: Option<Vec<TargetDocument>>,
    #[serde(default)]
    tokens: Option<f64>,
    /// `bytes`, `count` or `estimate`; a record has it beside its inputs.
    #[serde(default)]
    tokens_by: Option<String>,
    #[serde(default)]
    tokens_least: f64,
    #[serde(default)]
    tokens_most: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetDocument {
    name: String,
    spent_usd: String,
    held_usd: String,
    allowed_usd: String,
    tightest: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetDocument {
    #[serde(default)]
    model: Option<String>,
    health: String,
    #[serde(default)]
    open_since_us: u64,
    #[serde(default)]
    is_due: bool,
    #[serde(default)]
    cooling_until_us: Option<u64>,
    #[serde(default)]
    keys_rejected: bool,
    #[serde(default)]
    is_stalled: bool,
    #[serde(default)]
    error_rate: Option<f64>,
    #[serde(default)]
    ttft_ms: Option<f64>,
    #[serde(default)]
    total_ms: Option<f64>,
    #[serde(default)]
    p50_ms: Option<f64>,
    #[serde(default)]
    in_flight: u32,
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    cached_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    cost_usd: Option<String>,
}

/// Decide where a request goes.
///
/// `facts` and `state` are JSON objects: what the request asks for, in the words of its record,
/// and the record's `decision.inputs`. Returns the decision as a JSON object: `strategy`, `order`
/// (the attempts if all before them fail: `target`, `provider`, `model`, `path`), `reason`,
/// `candidates`, `rules`, `variant`, `tokens_by` as the record has them, `needs_count` (a rule asks
/// for more than the figures say of the text's tokens) and `stopped` (`code`, `reason`).
///
/// # Errors
/// If either is no such object, or names what the snapshot does not know.
pub fn route(
    snapshot: &Snapshot,
    catalogue: &Catalogue,
    facts: &[u8],
    state: &[u8],
) -> Result<Vec<u8>, ReplayFault> {
    let facts: FactsDocument = serde_json::from_slice(facts)
        .map_err(|fault| ReplayFault(format!("facts: {fault}")))?;
    let state: StateDocument = serde_json::from_slice(state)
        .map_err(|fault| ReplayFault(format!("state: {fault}")))?;
    let project = snapshot
        .projects
        .iter()
        .position(|project| project.name == facts.project)
        .ok_or_else(|| ReplayFault(format!("facts: no project {:?}", facts.project)))?;
    let mut subject = subject_of(&facts, project)?;
    if let Some(id) = &facts.key_id {
        let key = snapshot.key_by_id(id);
        subject.key =
            Some(key.ok_or_else(|| ReplayFault(format!("facts: no key {id:?}")))?.clone());
    }
    let flat = choose(snapshot, &mut subject, project, &facts.model)?;
    let flat = flat.flat();
    let endpoint = match facts.endpoint {
        EndpointDocument::Chat => Endpoint::Chat,
        EndpointDocument::Completions => Endpoint::Completions,
        EndpointDocument::Embeddings => Endpoint::Embeddings,
    };
    let body_facts = Facts {
        stream: facts.stream,
        max_output_tokens: facts.max_output_tokens,
        has_tools: facts.has_tools,
        has_images: facts.has_images,
        json_schema: facts.json_schema,
        messages: facts.messages,
        ..Facts::default()
    };
    let asking = Asking {
        snapshot,
        subject: &subject,
        facts: &body_facts,
        endpoint,
        model: &facts.model,
        prefix: 0,
        now_us: 0,
        unix_us: state.unix_s.unsigned_abs().saturating_mul(1_000_000),
        is_dry: true,
    };
    let state = state.figures(flat)?;
    let rejected = rejects(catalogue, &asking, flat);
    let decision = decide(flat, asking.asked(), &rejected, state);
    Ok(told(snapshot, flat, &decision))
}

/// A decision in the words of a record, without what became of it.
fn told(snapshot: &Snapshot, flat: &Flat, decision: &Decision) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut object = Object::open(&mut out);
    object.text(key!("strategy"), flat.strategy.name());
    object.list(key!("order"), decision.order.iter(), |out, leaf| {
        let leaf = &flat.leaves[*leaf];
        let mut target = Object::open(out);
        target.text(key!("target"), &leaf.label);
        target.text(key!("provider"), &snapshot.providers[leaf.provider].name);
        target.text(key!("model"), &leaf.model);
        target.list(key!("path"), leaf.path.iter(), |out, step| push_json_text(out, step));
        target.close();
    });
    object.text(key!("reason"), &decide::reason(flat, decision));
    let candidates =
        flat.leaves.iter().zip(decision.candidates.iter().zip(&decision.state.leaves));
    object.list(key!("candidates"), candidates, |out, (leaf, (candidate, state))| {
        push_candidate(out, leaf, candidate, state);
    });
    object.list(key!("rules"), decision.rules.iter(), |out, result| {
        push_rule(out, flat, result);
    });
    object.maybe_text(key!("variant"), flat.variant(decision));
    object.maybe_text(key!("tokens_by"), decision.tokens_by());
    object.flag(key!("needs_count"), decision.is_open);
    match decision.stopped {
        None => object.null(key!("stopped")),
        Some(stop) => object.object(key!("stopped"), |object| {
            object.text(key!("code"), stop.code());
            let reason = match stop {
                Stop::Blocked(config, rule) => flat.block_reason(config, rule),
                Stop::NoRule(_) => None,
            };
            object.maybe_text(key!("reason"), reason);
        }),
    }
    object.close();
    out
}

fn subject_of(facts: &FactsDocument, project: usize) -> Result<Subject, ReplayFault> {
    let tags = facts.tags.iter().map(|(name, value)| match value.as_str() {
        Some(value) => Ok((name.clone(), value.to_owned())),
        None => Err(ReplayFault(format!("facts: tag {name:?} is not a string"))),
    });
    Ok(Subject {
        id: facts.id.clone(),
        project: Some(project),
        tags: tags.collect::<Result<_, _>>()?,
        end_user: facts.end_user.clone(),
        conversation_id: facts.conversation_id.clone(),
        ..Subject::default()
    })
}

/// The config that `model` names. Nobody's rights are asked about: the request was let in before.
fn choose(
    snapshot: &Snapshot,
    subject: &mut Subject,
    project: usize,
    model: &str,
) -> Result<FlatRef, ReplayFault> {
    let unknown = || ReplayFault(format!("facts: the snapshot has no {model:?}"));
    let Some(name) = model.strip_prefix('@') else {
        let named = |name: &str| snapshot.providers.iter().position(|known| known.name == name);
        let split = model
            .split_once('/')
            .and_then(|(provider, rest)| named(provider).map(|provider| (provider, rest)));
        let (provider, name) = match split {
            Some(found) => found,
            None => (infer(snapshot, model).ok_or_else(unknown)?, model),
        };
        return Ok(FlatRef::Own(Flat::direct(provider, name, model).into()));
    };
    let (slug, version) = match name.split_once('@') {
        Some((slug, version)) => (slug, Some(version.parse().map_err(|_| unknown())?)),
        None => (name, None),
    };
    let route = snapshot.route(project, slug).ok_or_else(unknown)?;
    let version = route.version(version.unwrap_or(route.live)).ok_or_else(unknown)?;
    subject.route = Some((route.clone(), version.clone()));
    Ok(FlatRef::Version(version.clone()))
}

impl StateDocument {
    fn figures(self, flat: &Flat) -> Result<State, ReplayFault> {
        let tokens = match (self.tokens, self.tokens_by.as_deref()) {
            (Some(tokens), Some("count")) => Tokens::Counted(tokens),
            (Some(tokens), _) => Tokens::Estimated(tokens),
            (None, _) => Tokens::Between { least: self.tokens_least, most: self.tokens_most },
        };
        let budgets = self.budgets.iter().map(|budget| {
            Ok(BudgetState {
                name: budget.name.clone(),
                spent_nusd: nusd(&budget.spent_usd)?,
                held_nusd: nusd(&budget.held_usd)?,
                allowed_nusd: nusd(&budget.allowed_usd)?,
                is_tightest: budget.tightest,
            })
        });
        let named: Vec<&str> = flat.named.iter().map(|named| named.model.as_str()).collect();
        if let Some(targets) = &self.named {
            let found: Vec<&str> =
                targets.iter().map(|target| target.model.as_deref().unwrap_or("")).collect();
            if found != named {
                return Err(ReplayFault(format!(
                    "state: `named` has {found:?}; the config's expressions name {named:?}"
                )));
            }
        }
        Ok(State {
            now_us: 0,
            unix_s: self.unix_s,
            budgets: budgets.collect::<Result<_, ReplayFault>>()?,
            leaves: targets("targets", self.targets, flat.leaves.len())?,
            named: targets(
                "named",
                self.named,
                if flat.needs.named { named.len() } else { 0 },
            )?,
            tokens,
        })
    }
}

/// The figures of targets, in the order of the text; without any, all is well with each.
fn targets(
    what: &str,
    found: Option<Vec<TargetDocument>>,
    count: usize,
) -> Result<Vec<TargetState>, ReplayFault> {
    let Some(found) = found else { return Ok(vec![TargetState::default(); count]) };
    if found.len() != count {
        return Err(ReplayFault(format!(
            "state: `{what}` has {} entries; the config has {count}",
            found.len()
        )));
    }
    found.into_iter().map(TargetDocument::figures).collect()
}

impl TargetDocument {
    fn figures(self) -> Result<TargetState, ReplayFault> {
        let health = match self.health.as_str() {
            "closed" => Health::Closed,
            "half_open" => Health::HalfOpen,
            "open" => Health::Open { since_us: self.open_since_us, is_due: self.is_due },
            other => {
                return Err(ReplayFault(format!(
                    "state: health {other:?} is none of closed, open, half_open"
                )));
            }
        };
        let keys = match (self.keys_rejected, self.cooling_until_us) {
            (true, _) => Keys::Rejected,
            (false, Some(until_us)) => Keys::Cooling { until_us },
            (false, None) => Keys::Usable,
        };
        // As it was: the record has the exact quotient, and 24 bits survive it.
        #[expect(clippy::cast_possible_truncation, reason = "made of a number of 32 bits")]
        let us = |ms: Option<f64>| ms.map(|ms| (ms * US_PER_MS) as f32);
        #[expect(clippy::cast_possible_truncation, reason = "made of a number of 32 bits")]
        let figure = |value: Option<f64>| value.map(|value| value as f32);
        Ok(TargetState {
            health,
            keys,
            error_rate: figure(self.error_rate),
            in_flight: self.in_flight,
            is_stalled: self.is_stalled,
            ttft_us: us(self.ttft_ms),
            total_us: us(self.total_ms),
            p50_ms: figure(self.p50_ms),
            input_tokens: self.input_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: self.output_tokens,
            cost_nusd: self.cost_usd.as_deref().map(nusd).transpose()?,
        })
    }
}

/// An amount as records write it: USD with up to nine decimals.
fn nusd(text: &str) -> Result<u64, ReplayFault> {
    let wrong = || ReplayFault(format!("state: {text:?} is no amount in USD"));
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || decimals.len() > 9 || !is_digits(whole) || !is_digits(decimals) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let decimals: u64 = format!("{decimals:0<9}").parse().map_err(|_| wrong())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|nusd| nusd.checked_add(decimals))
        .ok_or_else(wrong)
}
