//! The compiled configuration: what a worker holds in memory while it serves.
//!
//! The control side writes it as one JSON document (`modelux/config/compile.py`); a worker reads
//! it once a generation and never changes it. Everything a request needs is prepared here: head
//! fragments with the provider's key, routes flattened to leaves, keys by their hash.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use hmac::{Hmac, Mac};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::bound::LimitDefaults;
use crate::budget::{BudgetDocument, Budgets};
use crate::models::{ModelInfo, Tier};
use crate::pricing::{Catalogue, Price};
use crate::routing::{self, Flat};

/// The document's own version: another one is refused, never guessed at.
pub const FORMAT: u32 = 1;

/// Why a snapshot cannot be used; the worker keeps the one it has.
#[derive(Debug)]
pub struct SnapshotFault(pub String);

impl fmt::Display for SnapshotFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "snapshot refused: {}", self.0)
    }
}

#[derive(Deserialize)]
struct Document {
    format: u32,
    config_hash: String,
    key_pepper: String,
    server: Server,
    providers: Vec<ProviderDocument>,
    projects: Vec<Project>,
    keys: Vec<KeyDocument>,
    routes: Vec<RouteDocument>,
    prices: Vec<PriceDocument>,
    #[serde(default)]
    models: Vec<ModelDocument>,
    #[serde(default)]
    budgets: Vec<BudgetDocument>,
}

/// What `[server]` settles for the data plane. Sizes in bytes, times in milliseconds.
#[derive(Deserialize, Debug, Clone)]
pub struct Server {
    /// Longest request head; beyond it 431.
    pub header_bytes_max: usize,
    /// Longest request body; beyond it 413.
    pub body_bytes_max: u64,
    /// Requests in flight in one worker; beyond it 503.
    pub max_in_flight: u32,
    /// Whether `client_ip` stands in the record.
    #[serde(default)]
    pub store_client_ip: bool,
    /// Whether end users are stored as keyed hashes only.
    #[serde(default)]
    pub hash_end_users: bool,
    /// The output limit that is sent where a budget asks for one and nobody else says it.
    #[serde(default = "default_output_tokens")]
    pub default_output_tokens: u64,
    /// No output limit is lowered below it.
    #[serde(default = "min_output_tokens")]
    pub min_output_tokens: u64,
}

fn default_output_tokens() -> u64 {
    16_384
}

fn min_output_tokens() -> u64 {
    64
}

impl Server {
    /// What holds for output limits where neither a route nor a target says otherwise.
    #[must_use]
    pub fn limit_defaults(&self) -> LimitDefaults {
        LimitDefaults {
            default_output_tokens: self.default_output_tokens,
            min_output_tokens: self.min_output_tokens,
        }
    }
}

#[derive(Deserialize)]
struct CredentialDocument {
    id: String,
    #[serde(rename = "ref")]
    reference: String,
    weight: u32,
}

#[derive(Deserialize)]
struct ProviderDocument {
    name: String,
    vendor: String,
    scheme: String,
    host: String,
    port: u16,
    base_path: String,
    auth_header: String,
    auth_prefix: String,
    credentials: Vec<CredentialDocument>,
    headers: Vec<(String, String)>,
    models: Option<Vec<String>>,
    stream_usage: bool,
    #[serde(default)]
    free: bool,
    #[serde(default)]
    on_cancel: OnCancel,
    #[serde(default = "drain_max_ms")]
    drain_max_ms: u64,
}

/// What a provider bills for an answer that was not read to its end.
#[derive(Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnCancel {
    /// All of it, for all we know.
    #[default]
    BillsAll,
    /// What was generated up to then.
    BillsGenerated,
    /// What its usage says: it is read on for that.
    Drain,
}

fn drain_max_ms() -> u64 {
    10_000
}

/// One key of a provider, as the head lines that carry it.
pub struct Credential {
    /// Public name, as in the trace.
    pub id: String,
    /// Share of the traffic among the provider's credentials.
    pub weight: u32,
    /// `authorization: Bearer …\r\n`, or empty. Never printed.
    head_lines: Vec<u8>,
    /// The secret alone: what has to be scrubbed from messages.
    secret: String,
    secret_hash: u64,
}

impl Credential {
    /// The head lines that authenticate with this credential.
    #[must_use]
    pub fn head_lines(&self) -> &[u8] {
        &self.head_lines
    }

    /// A number that changes when the secret does.
    #[must_use]
    pub fn secret_hash(&self) -> u64 {
        self.secret_hash
    }

    /// Replace this secret wherever it stands in `text`.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        if self.secret.is_empty() {
            text.to_owned()
        } else {
            text.replace(&self.secret, "[redacted]")
        }
    }
}

/// One upstream: where it is and how it wants to be spoken to.
pub struct Provider {
    /// Name in the configuration.
    pub name: String,
    /// Protocol and quirks.
    pub vendor: String,
    /// Path before `/chat/completions`, without a trailing slash.
    pub base_path: String,
    /// `host: …` and what else is the same for every request, each line ended.
    pub head_lines: Vec<u8>,
    /// Header that carries the key, lower case.
    pub auth_header: String,
    /// What stands before the key there.
    pub auth_prefix: String,
    /// At least one; the first one has no lines where no key is needed.
    pub credentials: Vec<Credential>,
    /// All that may be called here, where given.
    pub models: Option<Vec<String>>,
    /// May `stream_options.include_usage` be asked for.
    pub stream_usage: bool,
    /// Costs nothing, by declaration (a local server).
    pub free: bool,
    /// What it bills for an answer that was cut.
    pub on_cancel: OnCancel,
    /// How long an answer without a caller is read on.
    pub drain_max_ms: u64,
    /// Names of headers that the configuration sets: the caller's own are dropped.
    pub own_headers: Vec<String>,
}

/// One project.
#[derive(Deserialize, Debug)]
pub struct Project {
    /// Its name, which is its id.
    pub name: String,
    /// May a bare model name be called.
    pub auto_resolve_bare_model: bool,
    /// `full`, `metadata` or `none`.
    pub store_bodies: StoreBodies,
}

/// What of the bodies goes into the trace.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum StoreBodies {
    /// The bodies themselves.
    Full,
    /// Sizes and counts, no text.
    Metadata,
    /// Nothing.
    None,
}

#[derive(Deserialize)]
struct KeyDocument {
    hash: String,
    #[serde(flatten)]
    key: Key,
}

/// One `mlx_sk_` key: what it opens and what it fixes.
#[derive(Deserialize, Debug)]
pub struct Key {
    /// Public id.
    pub id: String,
    /// Index into the projects.
    pub project: usize,
    /// Its name, for people.
    pub name: Option<String>,
    /// Requests a minute, if limited.
    pub rpm: Option<u32>,
    /// When it ends, on the wall clock.
    pub expires_at_us: Option<u64>,
    /// Slugs it may use; all without.
    pub allowed_routes: Option<Vec<String>>,
    /// Models it may reach, as `model` or `provider/model`; all without.
    pub allowed_models: Option<Vec<String>>,
    /// Tags that it fixes.
    pub tags: Vec<(String, String)>,
    /// The end user that it fixes.
    pub end_user: Option<String>,
    /// Whether a request must name an end user.
    #[serde(default)]
    pub require_end_user: bool,
    /// Tags that a request must bring.
    #[serde(default)]
    pub require_tags: Vec<String>,
    /// May it pin versions with `@slug@7`.
    #[serde(default)]
    pub allow_versions: bool,
}

#[derive(Deserialize)]
struct RouteDocument {
    slug: String,
    project: usize,
    live: u32,
    #[serde(default)]
    is_default: bool,
    versions: Vec<VersionDocument>,
}

#[derive(Deserialize)]
struct VersionDocument {
    version: u32,
    hash: String,
    config: routing::Node,
}

#[derive(Deserialize)]
struct PriceDocument {
    provider: String,
    model: String,
    #[serde(flatten)]
    price: PriceLines,
}

/// `[models."PROVIDER/MODEL"]`: what is set overrides the catalogue.
#[derive(Deserialize)]
struct ModelDocument {
    provider: String,
    model: String,
    #[serde(default)]
    context_tokens: Option<u64>,
    #[serde(default)]
    max_output_tokens: Option<u64>,
    #[serde(default)]
    tier: Option<Tier>,
    #[serde(default)]
    tools: Option<bool>,
    #[serde(default)]
    images: Option<bool>,
    #[serde(default)]
    json_schema: Option<bool>,
}

#[derive(Deserialize)]
struct PriceLines {
    input_nusd_per_mtok: u64,
    output_nusd_per_mtok: u64,
    cached_nusd_per_mtok: Option<u64>,
    cache_write_nusd_per_mtok: Option<u64>,
    request_nusd: u64,
}

/// One version of a routing config, flattened.
pub struct Version {
    /// Its number.
    pub version: u32,
    /// Hash of its content.
    pub hash: String,
    /// Its leaves and how one follows another.
    pub flat: Flat,
}

/// A routing config: all of its versions, one of them live.
pub struct Route {
    /// Its name, without `@`.
    pub slug: String,
    /// Its name as callers write it.
    pub name: String,
    /// The live version.
    pub live: u32,
    versions: HashMap<u32, Rc<Version>>,
}

impl Route {
    /// A version by number.
    #[must_use]
    pub fn version(&self, number: u32) -> Option<&Rc<Version>> {
        self.versions.get(&number)
    }
}

/// Everything a worker knows of the configuration.
pub struct Snapshot {
    /// Hash of the whole configuration.
    pub config_hash: String,
    /// Limits of the data plane.
    pub server: Server,
    /// All providers.
    pub providers: Vec<Provider>,
    /// All projects.
    pub projects: Vec<Project>,
    /// All budgets.
    pub budgets: Budgets,
    keys: HashMap<[u8; 32], Rc<Key>>,
    routes: Vec<HashMap<String, Rc<Route>>>,
    defaults: Vec<Option<Rc<Route>>>,
    route_order: Vec<Vec<String>>,
    prices: HashMap<String, Price>,
    models: HashMap<String, ModelInfo>,
    pepper: Hmac<Sha256>,
}

impl Snapshot {
    /// Read a snapshot document.
    ///
    /// `secret_of` resolves a reference such as `env:NAME`.
    ///
    /// # Errors
    /// A document of another format, with an index out of range, or with a secret that cannot be
    /// resolved: nothing of it is used.
    pub fn from_json(
        document: &[u8],
        secret_of: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SnapshotFault> {
        let document: Document = serde_json::from_slice(document)
            .map_err(|fault| SnapshotFault(fault.to_string()))?;
        if document.format != FORMAT {
            return Err(SnapshotFault(format!("format {} is not {FORMAT}", document.format)));
        }
        let pepper_bytes = decode_hex(&document.key_pepper)
            .ok_or_else(|| SnapshotFault("key_pepper is not 32 bytes of hex".to_owned()))?;
        let pepper = Hmac::<Sha256>::new_from_slice(&pepper_bytes)
            .map_err(|fault| SnapshotFault(fault.to_string()))?;
        let providers = document
            .providers
            .into_iter()
            .map(|provider| provider.compile(secret_of))
            .collect::<Result<Vec<_>, _>>()?;
        let mut keys = HashMap::with_capacity(document.keys.len());
        for entry in document.keys {
            if entry.key.project >= document.projects.len() {
                return Err(SnapshotFault(format!("key {} has no project", entry.key.id)));
            }
            let hash = decode_hex(&entry.hash)
                .ok_or_else(|| SnapshotFault(format!("hash of key {}", entry.key.id)))?;
            keys.insert(hash, Rc::new(entry.key));
        }
        let mut routes: Vec<HashMap<String, Rc<Route>>> = Vec::new();
        routes.resize_with(document.projects.len(), HashMap::new);
        let mut defaults = vec![None; document.projects.len()];
        let mut route_order = vec![Vec::new(); document.projects.len()];
        for route in document.routes {
            let (project, is_default) = (route.project, route.is_default);
            if project >= document.projects.len() {
                return Err(SnapshotFault(format!("route {} has no project", route.slug)));
            }
            let name = document.projects[project].name.as_str();
            let route = Rc::new(route.compile(&providers, name)?);
            if is_default {
                defaults[project] = Some(Rc::clone(&route));
            }
            route_order[project].push(route.slug.clone());
            routes[project].insert(route.slug.clone(), route);
        }
        let prices = document
            .prices
            .into_iter()
            .map(|entry| (format!("{}/{}", entry.provider, entry.model), entry.price.compile()))
            .collect();
        let models = document
            .models
            .into_iter()
            .map(|entry| (format!("{}/{}", entry.provider, entry.model), entry.info()))
            .collect();
        let projects: Vec<&str> =
            document.projects.iter().map(|project| project.name.as_str()).collect();
        let flatten =
            |node: &routing::Node, project: &str| Flat::compile(node, &providers, project);
        let mut budgets = document.budgets;
        if document.server.hash_end_users {
            let hash = |end_user: &str| hashed_end_user(&pepper, end_user);
            for budget in &mut budgets {
                budget.hash_end_users(&hash);
            }
        }
        let budgets = Budgets::compile(budgets, &projects, &flatten).map_err(SnapshotFault)?;
        Ok(Self {
            config_hash: document.config_hash,
            server: document.server,
            providers,
            projects: document.projects,
            budgets,
            keys,
            routes,
            defaults,
            route_order,
            prices,
            models,
            pepper,
        })
    }

    /// Find a key by its text. Looked up by a keyed hash only: no query, no early exit.
    #[must_use]
    pub fn key(&self, text: &[u8]) -> Option<&Rc<Key>> {
        let mut mac = self.pepper.clone();
        mac.update(text);
        let hash: [u8; 32] = mac.finalize().into_bytes().into();
        self.keys.get(&hash)
    }

    /// Find a key by its public id: for tools, as it takes a walk over all keys.
    #[must_use]
    pub fn key_by_id(&self, id: &str) -> Option<&Rc<Key>> {
        self.keys.values().find(|key| key.id == id)
    }

    /// Hash an end user as the store keeps it under `hash_end_users`.
    #[must_use]
    pub fn hash_end_user(&self, end_user: &str) -> String {
        hashed_end_user(&self.pepper, end_user)
    }

    /// A project's route by slug; `default` also finds the project's default route.
    #[must_use]
    pub fn route(&self, project: usize, slug: &str) -> Option<&Rc<Route>> {
        self.routes[project]
            .get(slug)
            .or_else(|| self.defaults[project].as_ref().filter(|_| slug == "default"))
    }

    /// Slugs of a project, in the order of the configuration.
    #[must_use]
    pub fn slugs(&self, project: usize) -> &[String] {
        &self.route_order[project]
    }

    /// What is known of a model at a provider: the file's word, else the catalogue's.
    #[must_use]
    pub fn model(
        &self,
        catalogue: &Catalogue,
        provider: usize,
        model: &str,
    ) -> Option<ModelInfo> {
        let provider = &self.providers[provider];
        let known = catalogue.info(&provider.vendor, model);
        // No name is built where nobody overrides anything.
        let stated = if self.models.is_empty() {
            None
        } else {
            self.models.get(&format!("{}/{model}", provider.name)).copied()
        };
        match (stated, known) {
            (Some(stated), known) => Some(stated.over(known.unwrap_or_default())),
            (None, known) => known,
        }
    }

    /// What a model costs at a provider: the file's price, else the catalogue's; None is unknown.
    #[must_use]
    pub fn price(
        &self,
        catalogue: &Catalogue,
        provider: usize,
        model: &str,
        at_unix_s: i64,
    ) -> Option<Price> {
        let provider = &self.providers[provider];
        if !self.prices.is_empty() {
            let own = format!("{}/{model}", provider.name);
            if let Some(price) = self.prices.get(&own) {
                return Some(price.clone());
            }
        }
        if provider.free {
            return Some(Price::free());
        }
        catalogue.price(&provider.vendor, model, at_unix_s)
    }
}

/// An end user as the store keeps it under `hash_end_users`.
fn hashed_end_user(pepper: &Hmac<Sha256>, end_user: &str) -> String {
    let mut mac = pepper.clone();
    mac.update(b"end_user\0");
    mac.update(end_user.as_bytes());
    let hash = mac.finalize().into_bytes();
    hash.iter().take(16).fold("eu_".to_owned(), |mut text, byte| {
        use fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl PriceLines {
    fn compile(self) -> Price {
        Price::flat(
            self.input_nusd_per_mtok,
            self.output_nusd_per_mtok,
            self.cached_nusd_per_mtok,
            self.cache_write_nusd_per_mtok,
            self.request_nusd,
        )
    }
}

impl ProviderDocument {
    fn compile(
        self,
        secret_of: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Provider, SnapshotFault> {
        let named = |what: &str| SnapshotFault(format!("provider {}: {what}", self.name));
        if ![&self.host, &self.base_path].iter().all(|text| is_visible(text)) {
            return Err(named("its URL holds a character that no URL may have"));
        }
        for (name, value) in &self.headers {
            if !is_field(name, value) {
                return Err(named(&format!("header {name:?} cannot be sent")));
            }
        }
        let default_port = if self.scheme == "https" { 443 } else { 80 };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host };
        let mut head_lines = if self.port == default_port {
            format!("host: {host}\r\n").into_bytes()
        } else {
            format!("host: {host}:{}\r\n", self.port).into_bytes()
        };
        head_lines.extend_from_slice(b"accept-encoding: identity\r\n");
        for (name, value) in &self.headers {
            head_lines.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let mut credentials = Vec::with_capacity(self.credentials.len().max(1));
        for credential in self.credentials {
            let secret = secret_of(&credential.reference).ok_or_else(|| {
                SnapshotFault(format!(
                    "provider {}: {} cannot be resolved",
                    self.name, credential.reference
                ))
            })?;
            // A line end behind a key is an accident of many; anywhere else it would end the head.
            let secret = secret.trim().to_owned();
            if !is_field(&self.auth_header, &secret) {
                return Err(named(&format!(
                    "the value of {} holds a character that no key has",
                    credential.reference
                )));
            }
            credentials.push(Credential {
                id: credential.id,
                weight: credential.weight,
                head_lines: auth_line(&self.auth_header, &self.auth_prefix, &secret),
                secret_hash: secret_hash(&secret),
                secret,
            });
        }
        if credentials.is_empty() {
            credentials.push(Credential {
                id: self.name.clone(),
                weight: 1,
                head_lines: Vec::new(),
                secret_hash: 0,
                secret: String::new(),
            });
        }
        Ok(Provider {
            name: self.name,
            vendor: self.vendor,
            base_path: self.base_path.trim_end_matches('/').to_owned(),
            head_lines,
            auth_header: self.auth_header,
            auth_prefix: self.auth_prefix,
            credentials,
            models: self.models,
            stream_usage: self.stream_usage,
            on_cancel: self.on_cancel,
            drain_max_ms: self.drain_max_ms,
            free: self.free,
            own_headers: self
                .headers
                .iter()
                .map(|(name, _)| name.to_ascii_lowercase())
                .collect(),
        })
    }
}

impl ModelDocument {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            context_tokens: self.context_tokens,
            max_output_tokens: self.max_output_tokens,
            tier: self.tier,
            tools: self.tools,
            images: self.images,
            json_schema: self.json_schema,
            ..ModelInfo::default()
        }
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// May this stand as one line of a head?
fn is_field(name: &str, value: &str) -> bool {
    let is_token =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token) && !value.chars().any(char::is_control)
}

/// Part of a digest: two secrets differ in it, and nobody learns one from it.
fn secret_hash(secret: &str) -> u64 {
    let digest = Sha256::digest(secret.as_bytes());
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// The head line that carries a key.
#[must_use]
pub fn auth_line(header: &str, prefix: &str, secret: &str) -> Vec<u8> {
    format!("{header}: {prefix}{secret}\r\n").into_bytes()
}

impl RouteDocument {
    fn compile(self, providers: &[Provider], project: &str) -> Result<Route, SnapshotFault> {
        let mut versions = HashMap::with_capacity(self.versions.len());
        for version in self.versions {
            let flat = Flat::compile(&version.config, providers, project).map_err(|fault| {
                SnapshotFault(format!(
                    "route {} version {}: {fault}",
                    self.slug, version.version
                ))
            })?;
            versions.insert(
                version.version,
                Rc::new(Version { version: version.version, hash: version.hash, flat }),
            );
        }
        if !versions.contains_key(&self.live) {
            return Err(SnapshotFault(format!("route {} has no live version", self.slug)));
        }
        Ok(Route {
            name: format!("@{}", self.slug),
            slug: self.slug,
            live: self.live,
            versions,
        })
    }
}

fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}
