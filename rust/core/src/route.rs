//! Reading what a decision needs, and making it: the one way from a request to its targets.
//!
//! `routing::decide` is pure; here is what feeds it in live traffic: prices, what was learnt, the
//! live state that all workers share, and the rows of budgets.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use crate::bound;
use crate::learnt::Learnt;
use crate::live::{self, CredentialId, Live, MarkId, SizeClass, TargetId};
use crate::models::ModelInfo;
use crate::pricing::{self, Catalogue, Price};
use crate::request::{allows_model, capability};
use crate::routing::decide::{Asked, Decision, decide};
use crate::routing::state::{BudgetState, Health, Keys, State, TargetState, Tokens};
use crate::routing::{Flat, Leaf};
use crate::scan::{Facts, Shape};
use crate::snapshot::{Provider, Snapshot};
use crate::subject::{Endpoint, Subject};
use crate::tokens;
use crate::usage::Usage;

/// So many bytes at least make a token, in any text.
const BYTES_A_TOKEN_MAX: f64 = 32.0;
/// Prices are looked up anew after this: some change at a date.
const PRICES_KEPT_S: i64 = 60;
/// Of a body, what tells one conversation from others: shorter prompts are not cached.
const PREFIX_BYTES: usize = 1024;

/// What all decisions of a worker read.
#[derive(Clone)]
pub struct World {
    /// Prices and models.
    pub catalogue: Rc<Catalogue>,
    /// What this worker has learnt of texts.
    pub learnt: Rc<Learnt>,
    /// What all workers have seen of targets.
    pub live: Rc<Live>,
}

/// What is known of a target's price and model, kept for a minute.
#[derive(Debug, Clone)]
struct Known {
    price: Option<Price>,
    model: Option<ModelInfo>,
}

/// Prices and models of a config's targets, looked up once a minute.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    at_s: i64,
    leaves: Vec<Known>,
    named: Vec<Known>,
}

/// Fewer that wait say nothing.
const STALLED_WAITING_MIN: u32 = 5;
/// No silence is suspicious before that.
const STALLED_US_MIN: u64 = 250_000;
/// Nor one that is not so many times what the target usually takes to its first byte.
const STALLED_TIMES: f32 = 5.0;

/// Where a target is remembered, looked up once: a place is checked whenever it is used.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub(crate) target: TargetId,
    /// Of each credential of its provider.
    pub(crate) credentials: Vec<CredentialId>,
    /// What counts how often it was used; none outside of a config.
    pub(crate) mark: Option<MarkId>,
}

/// Where the requests of one conversation are known by: 0 for none.
#[must_use]
pub fn prefix_of(subject: &Subject, body: &[u8]) -> u64 {
    let project = subject.project.unwrap_or(0) as u64;
    match &subject.conversation_id {
        Some(conversation) => fnv(conversation.as_bytes()) ^ project,
        None if body.len() >= 2 * PREFIX_BYTES => fnv(&body[..PREFIX_BYTES]) ^ project,
        None => 0,
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// By how much text a latency is to be compared.
#[must_use]
pub fn size_class(facts: &Facts) -> SizeClass {
    // By the usual four bytes a token: the class must not depend on what was learnt meanwhile.
    match facts.text_bytes / 4 {
        0..1_000 => SizeClass::Small,
        1_000..8_000 => SizeClass::Medium,
        8_000..32_000 => SizeClass::Large,
        _ => SizeClass::Huge,
    }
}

/// One request on its way to a decision.
pub(crate) struct Asking<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) subject: &'a Subject,
    pub(crate) facts: &'a Facts,
    pub(crate) endpoint: Endpoint,
    pub(crate) model: &'a str,
    pub(crate) prefix: u64,
    pub(crate) now_us: u64,
    pub(crate) unix_us: u64,
    /// Also what no strategy asks for: a dry run shows it.
    pub(crate) is_dry: bool,
}

impl<'a> Asking<'a> {
    pub(crate) fn asked(&self) -> Asked<'a> {
        let project = self
            .subject
            .project
            .map_or("", |project| self.snapshot.projects[project].name.as_str());
        Asked { subject: self.subject, facts: self.facts, model: self.model, project }
    }

    fn shape(&self) -> Shape {
        self.endpoint.shape()
    }
}

impl World {
    /// Decide where a request goes.
    pub(crate) fn route(
        &self,
        asking: &Asking<'_>,
        flat: &Flat,
        budgets: Vec<BudgetState>,
    ) -> Decision {
        let unix_s = i64::try_from(asking.unix_us / 1_000_000).unwrap_or(i64::MAX);
        // A trace tells of each candidate what it would have cost and how fast it has been, whether
        // the strategy asked or not; a target that the caller named has no rivals.
        let is_compared = !flat.configs.is_empty() || asking.is_dry;
        let memo = is_compared.then(|| memo(&self.catalogue, asking.snapshot, flat, unix_s));
        let rejects = rejects(&self.catalogue, asking, flat);
        let class = size_class(asking.facts);
        let is_learnt = flat.needs.costs || flat.needs.named || asking.is_dry;
        let ids = self.ids(asking.snapshot, flat);
        let leaves = flat
            .leaves
            .iter()
            .enumerate()
            .map(|(at, leaf)| {
                let provider = &asking.snapshot.providers[leaf.provider];
                let ids = &ids[at];
                let mut state = self.target(asking, provider, leaf, ids, class, is_compared);
                if let Some(memo) = &memo {
                    let known = &memo.leaves[at];
                    self.price(asking, provider, leaf, ids, (known, is_learnt), &mut state);
                }
                state
            })
            .collect();
        let named = match &memo {
            Some(memo) if flat.needs.named => flat
                .named
                .iter()
                .zip(&memo.named)
                .zip(self.named_ids(asking.snapshot, flat))
                .map(|((named, known), ids)| {
                    let provider = &asking.snapshot.providers[named.provider];
                    let leaf = Flat::direct(named.provider, &named.model, &named.model);
                    let leaf = &leaf.leaves[0];
                    let mut state = self.target(asking, provider, leaf, ids, class, true);
                    state.p50_ms = self.live.p50_ms(ids.target, asking.now_us);
                    self.price(asking, provider, leaf, ids, (known, true), &mut state);
                    state
                })
                .collect(),
            _ => Vec::new(),
        };
        #[expect(clippy::cast_precision_loss, reason = "sizes of bodies are far below 2^53")]
        let most = asking.facts.text_bytes as f64;
        let state = State {
            now_us: asking.now_us,
            unix_s,
            leaves,
            named,
            budgets,
            tokens: Tokens::Between { least: most / BYTES_A_TOKEN_MAX, most },
        };
        decide(flat, asking.asked(), &rejects, state)
    }

    /// Decide once more from the same figures, now that the tokens of the text are known.
    pub(crate) fn decide_again(
        &self,
        asking: &Asking<'_>,
        flat: &Flat,
        before: &Decision,
        tokens: Tokens,
    ) -> Decision {
        let rejects = rejects(&self.catalogue, asking, flat);
        decide(flat, asking.asked(), &rejects, State { tokens, ..before.state.clone() })
    }

    /// Where the leaves of a config are remembered.
    pub(crate) fn ids<'f>(&self, snapshot: &Snapshot, flat: &'f Flat) -> &'f [Ids] {
        flat.ids.get_or_init(|| {
            let leaves = flat.leaves.iter();
            leaves
                .map(|leaf| self.ids_of(snapshot, leaf.provider, &leaf.model, &leaf.mark))
                .collect()
        })
    }

    /// Where the models are remembered that expressions name.
    fn named_ids<'f>(&self, snapshot: &Snapshot, flat: &'f Flat) -> &'f [Ids] {
        flat.named_ids.get_or_init(|| {
            let named = flat.named.iter();
            named.map(|named| self.ids_of(snapshot, named.provider, &named.model, "")).collect()
        })
    }

    fn ids_of(&self, snapshot: &Snapshot, provider: usize, model: &str, mark: &str) -> Ids {
        let provider = &snapshot.providers[provider];
        let credentials = provider.credentials.iter();
        Ids {
            target: self.live.target(&provider.name, model),
            credentials: credentials
                .map(|credential| self.live.credential(&provider.name, &credential.id))
                .collect(),
            mark: (!mark.is_empty()).then(|| self.live.mark(mark)),
        }
    }

    fn target(
        &self,
        asking: &Asking<'_>,
        provider: &Provider,
        leaf: &Leaf,
        ids: &Ids,
        class: SizeClass,
        has_latency: bool,
    ) -> TargetState {
        let live = &self.live;
        let target = ids.target;
        let view = live.read(target, asking.now_us);
        let mut state = TargetState {
            health: health(view.health, asking.now_us),
            keys: self.keys(provider, leaf, ids, asking.now_us),
            error_rate: view.error_rate,
            in_flight: view.in_flight,
            ..TargetState::default()
        };
        state.is_stalled = self.is_stalled(&view, target, class, asking.now_us);
        if has_latency {
            let seen = live.read_class(target, class, asking.now_us);
            state.ttft_us = seen.ttft_us;
            state.total_us = seen.total_us;
        }
        if asking.is_dry {
            state.p50_ms = live.p50_ms(target, asking.now_us);
        }
        state
    }

    /// Do requests wait there, and has nobody been answered for far longer than it usually takes?
    ///
    /// A provider that hangs answers nobody until the first timeouts: this tells it from a slow
    /// one sooner, for the order of targets only.
    fn is_stalled(
        &self,
        view: &live::TargetView,
        target: TargetId,
        class: SizeClass,
        now_us: u64,
    ) -> bool {
        if view.waiting < STALLED_WAITING_MIN || view.quiet_us < STALLED_US_MIN {
            return false;
        }
        let usual = self.live.read_class(target, class, now_us).ttft_us;
        #[expect(clippy::cast_precision_loss, reason = "compared, not counted")]
        usual.is_some_and(|usual_us| view.quiet_us as f32 > STALLED_TIMES * usual_us)
    }

    fn keys(&self, provider: &Provider, leaf: &Leaf, ids: &Ids, now_us: u64) -> Keys {
        let mut soonest_us = u64::MAX;
        let mut is_rejected = false;
        for (index, credential) in provider.credentials.iter().enumerate() {
            if leaf.credential.is_some_and(|pinned| pinned != index) {
                continue;
            }
            if let Some(until_us) =
                self.live.cooling_until_us(ids.target, &credential.id, now_us)
            {
                soonest_us = soonest_us.min(until_us);
                continue;
            }
            let id = ids.credentials[index];
            if self.live.is_rejected(id, now_us, credential.secret_hash()) {
                is_rejected = true;
                continue;
            }
            return Keys::Usable;
        }
        match (is_rejected, soonest_us) {
            (true, _) => Keys::Rejected,
            (false, u64::MAX) => Keys::Usable,
            (false, until_us) => Keys::Cooling { until_us },
        }
    }

    /// What the request would cost there: by what this route has learnt of its answers and of the
    /// provider's cache, or, where nothing of that is kept, by what is thought of an unknown one.
    fn price(
        &self,
        asking: &Asking<'_>,
        provider: &Provider,
        leaf: &Leaf,
        ids: &Ids,
        (known, is_learnt): (&Known, bool),
        state: &mut TargetState,
    ) {
        let facts = asking.facts;
        let ratio = self.learnt.ratio(&provider.name, &provider.vendor, &leaf.model);
        state.input_tokens = tokens::estimate(facts.text_bytes, facts.messages, ratio);
        let limit = bound::output_limit(
            facts,
            asking.shape(),
            known.model.as_ref(),
            &provider.vendor,
            leaf,
            asking.snapshot.server.limit_defaults(),
        );
        let limit = limit.map_or(0, |limit| limit.limit).saturating_mul(facts.n.unwrap_or(1));
        state.output_tokens = share(limit, live::OUTPUT_SHARE_START);
        if is_learnt {
            let project = asking.asked().project;
            let route = asking.subject.route.as_ref();
            let slug = route.map_or("", |(route, _)| route.slug.as_str());
            let live = &self.live;
            let learnt = live.route_target(project, slug, &provider.name, &leaf.model);
            state.output_tokens = share(limit, live.output_share(learnt));
            let warm = match asking.prefix {
                0 => 0,
                prefix => live.warm_tokens(prefix, ids.target, asking.now_us),
            };
            state.cached_tokens = if warm > 0 {
                warm.min(state.input_tokens)
            } else if asking.prefix == 0 {
                share(state.input_tokens, live.cached_share(learnt, asking.now_us))
            } else {
                // This conversation has not been there, whatever others had cached.
                0
            };
        }
        let usage = Usage {
            input_tokens: state.input_tokens - state.cached_tokens,
            cached_tokens: state.cached_tokens,
            output_tokens: state.output_tokens,
            ..Usage::default()
        };
        let cost = known.price.as_ref().and_then(|price| pricing::cost(&usage, price));
        state.cost_nusd = cost.map(|cost| cost.input_nusd + cost.output_nusd);
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
#[expect(clippy::cast_possible_truncation, reason = "an estimate")]
#[expect(clippy::cast_sign_loss, reason = "both factors are positive")]
fn share(of: u64, share: f32) -> u64 {
    (of as f64 * f64::from(share.clamp(0.0, 1.0))).round() as u64
}

fn health(health: live::Health, now_us: u64) -> Health {
    match health {
        live::Health::Closed => Health::Closed,
        live::Health::Open { until_us, since_us } => {
            Health::Open { since_us, is_due: now_us >= until_us }
        }
        live::Health::HalfOpen { .. } => Health::HalfOpen,
    }
}

/// Prices and models of a config's targets, looked up at most once a minute.
fn memo(catalogue: &Catalogue, snapshot: &Snapshot, flat: &Flat, unix_s: i64) -> Rc<Memo> {
    let mut kept = flat.memo.borrow_mut();
    if let Some(memo) = kept.as_ref().filter(|memo| (unix_s - memo.at_s).abs() < PRICES_KEPT_S)
    {
        return Rc::clone(memo);
    }
    let known = |provider: usize, model: &str| Known {
        price: snapshot.price(catalogue, provider, model, unix_s),
        model: snapshot.model(catalogue, provider, model),
    };
    let memo = Rc::new(Memo {
        at_s: unix_s,
        leaves: flat.leaves.iter().map(|leaf| known(leaf.provider, &leaf.model)).collect(),
        named: flat.named.iter().map(|named| known(named.provider, &named.model)).collect(),
    });
    *kept = Some(Rc::clone(&memo));
    memo
}

/// Why each leaf cannot serve this request, whatever its health.
pub(crate) fn rejects(
    catalogue: &Catalogue,
    asking: &Asking<'_>,
    flat: &Flat,
) -> Vec<Option<&'static str>> {
    let unix_s = i64::try_from(asking.unix_us / 1_000_000).unwrap_or(i64::MAX);
    let memo = needs_models(asking).then(|| memo(catalogue, asking.snapshot, flat, unix_s));
    flat.leaves
        .iter()
        .enumerate()
        .map(|(at, leaf)| {
            reject(asking, flat, leaf, memo.as_ref().map(|memo| &memo.leaves[at]))
        })
        .collect()
}

/// Does what the request asks for depend on what a model can do?
fn needs_models(asking: &Asking<'_>) -> bool {
    let facts = asking.facts;
    facts.has_tools || facts.has_images || facts.json_schema
}

/// Why a leaf cannot serve this request, whatever its health.
fn reject(
    asking: &Asking<'_>,
    flat: &Flat,
    leaf: &Leaf,
    known: Option<&Known>,
) -> Option<&'static str> {
    let provider = &asking.snapshot.providers[leaf.provider];
    if let Some(reason) = capability(asking.endpoint, &provider.vendor) {
        return Some(reason);
    }
    if asking.endpoint == Endpoint::Embeddings && flat.is_averaged(leaf) {
        // Vectors are no numbers: known before anybody is paid.
        return Some("no_average_of_vectors");
    }
    if let Some(key) = &asking.subject.key
        && !flat.configs.is_empty()
        && !allows_model(key, &provider.name, &leaf.model)
    {
        return Some("model_not_allowed");
    }
    if let (Endpoint::Embeddings, Some(wanted)) = (asking.endpoint, leaf.dimensions)
        && !has_dimensions(&leaf.model, wanted)
    {
        return Some("other_dimensions");
    }
    let model = known?.model.as_ref().filter(|_| !flat.configs.is_empty())?;
    let facts = asking.facts;
    if facts.has_tools && model.tools == Some(false) {
        return Some("no_tools");
    }
    if facts.has_images && model.images == Some(false) {
        return Some("no_images");
    }
    if facts.json_schema && model.json_schema == Some(false) {
        return Some("no_json_schema");
    }
    None
}

/// Can every vector of this model have that length? What is not known can: the answer is checked.
fn has_dimensions(model: &str, wanted: u64) -> bool {
    match model {
        "text-embedding-ada-002" => wanted == 1536,
        "text-embedding-3-small" => wanted <= 1536,
        "text-embedding-3-large" | "gemini-embedding-001" => wanted <= 3072,
        _ => true,
    }
}

/// Does this model give vectors of the length that a request asks for?
pub(crate) fn takes_dimensions(model: &str) -> bool {
    matches!(
        model,
        "text-embedding-3-small" | "text-embedding-3-large" | "gemini-embedding-001"
    )
}

/// A place for the memo of one config.
pub(crate) type MemoCell = RefCell<Option<Rc<Memo>>>;

/// A place for what is looked up once.
pub(crate) type IdsCell = OnceCell<Vec<Ids>>;
