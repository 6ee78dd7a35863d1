//! One request while the gate looks at it: where it goes, whose it is, what it asks for, which
//! targets may serve it. Each step returns a value or a refusal; none of them does I/O.

use std::borrow::Cow;
use std::rc::Rc;

use crate::head::{Framing, RequestHead};
use crate::routing::Flat;
use crate::routing::decide::Decision;
use crate::scan::{
    self, Facts, IDENTIFIER_BYTES_MAX, ScanFault, TAG_KEY_BYTES_MAX, TAG_VALUE_BYTES_MAX,
    TAGS_COUNT_MAX,
};
use crate::snapshot::{Key, Provider, Snapshot, Version};
use crate::subject::{Endpoint, RateState, Refusal, Subject};
use crate::text::{listed, nearest, percent_decode, shown};

pub(crate) enum Place {
    Health {
        ready: bool,
    },
    Models,
    Model(String),
    Call(Endpoint),
    /// Decide on a chat request, call nobody.
    DryRun,
}

/// What was chosen for a request.
pub struct Choice {
    /// The config, or one leaf without one.
    pub flat: FlatRef,
    /// Which of its leaves may serve, in which order, and why.
    pub decision: Decision,
}

impl Choice {
    /// The leaf that is tried first.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        self.decision.order.first().copied()
    }
}

/// A flattened config that lives in the snapshot, or one made for this request.
#[derive(Clone)]
pub enum FlatRef {
    /// Of a route.
    Version(Rc<Version>),
    /// Of a model that the caller named, or of a budget's `downgrade_to`.
    Own(Rc<Flat>),
}

impl FlatRef {
    /// The config.
    #[must_use]
    pub fn flat(&self) -> &Flat {
        match self {
            Self::Version(version) => &version.flat,
            Self::Own(flat) => flat,
        }
    }
}

/// One request while it is being looked at.
pub(crate) struct Request<'s, 'b> {
    pub(crate) snapshot: &'s Snapshot,
    pub(crate) head: &'b RequestHead<'b>,
    pub(crate) subject: Subject,
    pub(crate) rate: Option<RateState>,
    pub(crate) project: Option<usize>,
    /// Decide only.
    pub(crate) is_dry: bool,
}

const PATHS: &str = "`/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/dry-run` and `/v1/models`";

impl Request<'_, '_> {
    /// Find out what the path stands for, and whether the method fits it.
    pub(crate) fn place(&mut self) -> Result<Place, Refusal> {
        let head = self.head;
        if (head.method, head.path) == ("POST", "/v1/chat/completions") {
            self.subject.path = Cow::Borrowed("POST /v1/chat/completions");
            return Ok(Place::Call(Endpoint::Chat));
        }
        self.subject.path = shown_path(head);
        let path = match head.path.strip_suffix('/') {
            Some(path) if !path.is_empty() => path,
            _ => head.path,
        };
        match path {
            "/healthz" => return self.only("GET, HEAD", Place::Health { ready: false }),
            "/readyz" => return self.only("GET, HEAD", Place::Health { ready: true }),
            _ => {}
        }
        let below =
            path.strip_prefix("/openai").filter(|rest| rest.starts_with("/v1")).unwrap_or(path);
        // Some SDKs are given a base URL with `/v1` and add their own.
        let below =
            below.strip_prefix("/v1").filter(|rest| rest.starts_with("/v1/")).unwrap_or(below);
        match below {
            // The parser lets this target pass with OPTIONS only, which nothing here takes.
            "*" => self.only("GET, HEAD, POST", Place::Models),
            "/v1/chat/completions" => self.only("POST", Place::Call(Endpoint::Chat)),
            "/v1/dry-run" => self.only("POST", Place::DryRun),
            "/v1/completions" => self.only("POST", Place::Call(Endpoint::Completions)),
            "/v1/embeddings" => self.only("POST", Place::Call(Endpoint::Embeddings)),
            "/v1/models" => self.only("GET, HEAD", Place::Models),
            other => match other.strip_prefix("/v1/models/") {
                Some(id) if !id.is_empty() => {
                    let id = percent_decode(id).ok_or_else(|| {
                        Refusal::new("not_found", "the model's name is not UTF-8")
                    })?;
                    self.only("GET, HEAD", Place::Model(id))
                }
                _ => Err(Refusal::new(
                    "not_found",
                    format!(
                        "there is nothing at `{}`; modelux serves {PATHS}",
                        shown(head.path)
                    ),
                )),
            },
        }
    }

    fn only(&self, methods: &'static str, place: Place) -> Result<Place, Refusal> {
        let method = self.head.method;
        if methods.split(", ").any(|allowed| allowed == method) {
            return Ok(place);
        }
        let mut refusal = Refusal::new(
            "method_not_allowed",
            format!(
                "`{}` does not take {}; use {methods}",
                shown(self.head.path),
                shown(method)
            ),
        );
        refusal.allow = Some(methods);
        Err(refusal)
    }

    /// Find the key. One message for unknown, revoked and expired.
    pub(crate) fn identify(&mut self, unix_us: u64) -> Result<Rc<Key>, Refusal> {
        let refused = || {
            Refusal::new(
                "invalid_api_key",
                "this needs a valid modelux key (`mlx_sk_...`) as `Authorization: Bearer KEY`",
            )
        };
        let mut fields = self
            .head
            .raw_headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"authorization"));
        let value = fields.next().map(|(_, value)| value).ok_or_else(refused)?;
        if fields.next().is_some() {
            return Err(refused());
        }
        let text = bearer(value).ok_or_else(refused)?;
        let key = self.snapshot.key(text).ok_or_else(refused)?;
        if key.expires_at_us.is_some_and(|expires_at_us| expires_at_us <= unix_us) {
            return Err(refused());
        }
        self.project = Some(key.project);
        self.subject.project = Some(key.project);
        self.subject.key = Some(Rc::clone(key));
        Ok(Rc::clone(key))
    }

    pub(crate) fn check_size(&self) -> Result<(), Refusal> {
        let is_encoded = |(name, value): (&str, &[u8])| {
            name.len() == 16
                && name.eq_ignore_ascii_case("content-encoding")
                && !value.eq_ignore_ascii_case(b"identity")
        };
        if self.head.headers().any(is_encoded) {
            return Err(Refusal::new(
                "unsupported_encoding",
                "send the body without `Content-Encoding`",
            ));
        }
        let bytes_max = self.snapshot.server.body_bytes_max;
        match self.head.framing {
            Framing::Length(length) if length > bytes_max => Err(Refusal::new(
                "body_too_large",
                format!("the body has {length} bytes; `body_bytes_max` is {bytes_max}"),
            )),
            _ => Ok(()),
        }
    }

    /// Scan the body, settle who it counts for, and find the config that it names.
    pub(crate) fn understand(
        &mut self,
        key: &Key,
        endpoint: Endpoint,
        body: &[u8],
    ) -> Result<(Facts, FlatRef), Refusal> {
        let mut facts = scan::scan(body, endpoint.shape()).map_err(scan_refusal)?;
        let model = std::mem::take(&mut facts.model);
        self.subject.stream = facts.stream;
        let choice = match self.attribute(key, &mut facts) {
            Ok(()) => self.choose(key, &model),
            Err(refusal) => Err(refusal),
        };
        self.subject.model_requested = model;
        Ok((facts, choice?))
    }

    /// Settle tags, end user and ids: the key's word, then the headers', then the body's.
    fn attribute(&mut self, key: &Key, facts: &mut Facts) -> Result<(), Refusal> {
        let mut tags = key.tags.clone();
        let mut from_header = Vec::new();
        let mut user = None;
        let mut trace_id = None;
        let mut conversation_id = None;
        for (name, value) in self.head.raw_headers() {
            if !name.first().is_some_and(|first| matches!(first, b'x' | b'X' | b'u' | b'U')) {
                continue;
            }
            if name.eq_ignore_ascii_case(b"x-modelux-user-tags") {
                parse_tags(value, &mut from_header)?;
            } else if name.eq_ignore_ascii_case(b"x-modelux-user-id") {
                user = Some(header_text(value, "X-Modelux-User-Id")?);
            } else if name.eq_ignore_ascii_case(b"x-modelux-trace-id") {
                trace_id = Some(header_text(value, "X-Modelux-Trace-Id")?);
            } else if name.eq_ignore_ascii_case(b"x-modelux-conversation-id") {
                conversation_id = Some(header_text(value, "X-Modelux-Conversation-Id")?);
            } else if name.eq_ignore_ascii_case(b"x-modelux-dry-run") {
                self.is_dry |= value.trim_ascii().eq_ignore_ascii_case(b"true");
            } else if name.eq_ignore_ascii_case(b"x-modelux-provider-key")
                && !value.iter().all(u8::is_ascii_graphic)
            {
                // Never fall back on the shared key, whose owner would pay.
                return Err(Refusal::new(
                    "invalid_request",
                    "`X-Modelux-Provider-Key` holds a character that no key has",
                )
                .param("X-Modelux-Provider-Key"));
            } else if name.eq_ignore_ascii_case(b"x-stainless-retry-count") {
                self.subject.sdk_retry =
                    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            } else if name.eq_ignore_ascii_case(b"user-agent") {
                self.subject.sdk = sdk(value);
            }
        }
        for (name, value) in from_header.into_iter().chain(facts.tags.drain(..)) {
            if !tags.iter().any(|(known, _)| *known == name) {
                tags.push((name, value));
            }
        }
        for (name, value) in &tags {
            if name.len() > TAG_KEY_BYTES_MAX || value.len() > TAG_VALUE_BYTES_MAX {
                return Err(Refusal::new(
                    "invalid_tag",
                    format!(
                        "tag `{}` is too long: a key has at most {TAG_KEY_BYTES_MAX} bytes, a value {TAG_VALUE_BYTES_MAX}",
                        shown(name)
                    ),
                )
                .param("mlx:tags"));
            }
        }
        if tags.len() > TAGS_COUNT_MAX {
            return Err(Refusal::new(
                "invalid_tag",
                format!("{} tags; at most {TAGS_COUNT_MAX} are allowed", tags.len()),
            )
            .param("mlx:tags"));
        }
        // An empty name names nobody: it neither hides another nor satisfies a key that needs one.
        let is_named = |name: &String| !name.is_empty();
        let end_user = key
            .end_user
            .clone()
            .or(user.filter(is_named))
            .or_else(|| facts.end_user.take().filter(is_named));
        for required in &key.require_tags {
            if !tags.iter().any(|(name, _)| name == required) {
                return Err(Refusal::new(
                    "tag_required",
                    format!(
                        "this key needs the tag `{required}`: send `X-Modelux-User-Tags: {required}=VALUE`"
                    ),
                )
                .param(required.clone()));
            }
        }
        if key.require_end_user && end_user.is_none() {
            return Err(Refusal::new(
                "tag_required",
                "this key needs an end user: send `X-Modelux-User-Id` or `user`",
            )
            .param("end_user"));
        }
        self.subject.tags = tags;
        self.subject.end_user = bounded(end_user, "user")?;
        self.subject.trace_id =
            bounded(trace_id.or_else(|| facts.trace_id.take()), "metadata.trace_id")?;
        self.subject.conversation_id = bounded(
            conversation_id.or_else(|| facts.conversation_id.take()),
            "metadata.conversation_id",
        )?;
        Ok(())
    }

    /// From the caller's `model` to a config: `@slug`, `@slug@7`, `provider/model` or `model`.
    fn choose(&mut self, key: &Key, model: &str) -> Result<FlatRef, Refusal> {
        if let Some(name) = model.strip_prefix('@') {
            return self.choose_route(key, name);
        }
        let snapshot = self.snapshot;
        let named = model.split_once('/').and_then(|(provider, rest)| {
            let index = snapshot.providers.iter().position(|known| known.name == provider)?;
            Some((index, rest))
        });
        let (provider, name) = match named {
            Some(found) => found,
            None => {
                if !snapshot.projects[key.project].auto_resolve_bare_model {
                    return Err(Refusal::new(
                        "model_not_found",
                        format!(
                            "bare model names are switched off in this project: send `@ROUTE` or `PROVIDER/{}`",
                            shown(model)
                        ),
                    )
                    .param("model"));
                }
                self.subject.resolved_auto = true;
                let index =
                    infer(snapshot, model).ok_or_else(|| self.unknown_model(key, model))?;
                (index, model)
            }
        };
        let target = &snapshot.providers[provider];
        if name.is_empty()
            || target.models.as_ref().is_some_and(|known| !known.iter().any(|m| m == name))
        {
            return Err(self.unknown_model(key, model));
        }
        if !allows_model(key, &target.name, name) {
            return Err(Refusal::new(
                "model_not_allowed",
                format!("this key may not call `{}`", shown(model)),
            )
            .param("model"));
        }
        self.subject.strategy = "direct";
        Ok(FlatRef::Own(Rc::new(Flat::direct(provider, name, model))))
    }

    fn choose_route(&mut self, key: &Key, name: &str) -> Result<FlatRef, Refusal> {
        let (slug, pinned) = match name.split_once('@') {
            Some((slug, version)) => (slug, Some(version)),
            None => (name, None),
        };
        let not_found =
            |what: String| Refusal::new("routing_config_not_found", what).param("model");
        let Some(route) = self.snapshot.route(key.project, slug) else {
            let known = self.snapshot.slugs(key.project);
            let hint = match nearest(slug, known.iter().map(String::as_str)) {
                Some(near) => format!("the nearest known one is `@{near}`"),
                None if known.is_empty() => "this project has none".to_owned(),
                None => {
                    format!("known: {}", listed(known.iter().map(|slug| format!("@{slug}"))))
                }
            };
            return Err(not_found(format!(
                "there is no routing config `@{}`; {hint}",
                shown(slug)
            )));
        };
        if key
            .allowed_routes
            .as_ref()
            .is_some_and(|allowed| !allows_route(allowed, &route.slug))
        {
            return Err(Refusal::new(
                "route_not_allowed",
                format!("this key may not use `@{}`", route.slug),
            )
            .param("model"));
        }
        let number = match pinned {
            None => route.live,
            Some(text) => {
                if !key.allow_versions {
                    return Err(Refusal::new(
                        "version_not_allowed",
                        "this key may not pin versions: set `allow_versions` on it, or send the slug alone",
                    )
                    .param("model"));
                }
                self.subject.pinned = true;
                let digits = Some(text).filter(|text| !text.starts_with('+'));
                digits.and_then(|text| text.parse().ok()).ok_or_else(|| {
                    not_found(format!("`{}` is not a version number", shown(text)))
                })?
            }
        };
        let version = route.version(number).ok_or_else(|| {
            not_found(format!(
                "`@{}` has no version {number}; live is {}",
                route.slug, route.live
            ))
        })?;
        self.subject.route = Some((Rc::clone(route), Rc::clone(version)));
        self.subject.strategy = version.flat.strategy.name();
        Ok(FlatRef::Version(Rc::clone(version)))
    }

    fn unknown_model(&self, key: &Key, model: &str) -> Refusal {
        let snapshot = self.snapshot;
        let mut known: Vec<Cow<'_, str>> = Vec::new();
        for provider in &snapshot.providers {
            for name in provider.models.iter().flatten() {
                known.push(Cow::Borrowed(name));
                known.push(Cow::Owned(format!("{}/{name}", provider.name)));
            }
        }
        known.extend(
            snapshot.slugs(key.project).iter().map(|slug| Cow::Owned(format!("@{slug}"))),
        );
        let hint = nearest(model, known.iter().map(AsRef::as_ref))
            .map_or_else(String::new, |near| format!("the nearest known one is `{near}`; "));
        Refusal::new(
            "model_not_found",
            format!(
                "no provider here serves `{}`; {hint}send `@ROUTE`, `PROVIDER/MODEL`, or a name that begins with gpt-, o1, o3, o4, chatgpt-, text-embedding- (openai), claude- (anthropic) or gemini- (google)",
                shown(model)
            ),
        )
        .param("model")
    }
}

/// Which provider serves a bare model name: one that lists it, else by the name's prefix.
pub(crate) fn infer(snapshot: &Snapshot, model: &str) -> Option<usize> {
    let lists = |provider: &Provider| {
        provider.models.as_ref().is_some_and(|models| models.iter().any(|known| known == model))
    };
    if let Some(index) = snapshot.providers.iter().position(lists) {
        return Some(index);
    }
    let vendor = vendor_of(model)?;
    snapshot
        .providers
        .iter()
        .position(|provider| provider.vendor == vendor && provider.models.is_none())
}

/// What a vendor's OpenAI-compatible endpoint cannot do, as a reject reason.
pub(crate) fn capability(endpoint: Endpoint, vendor: &str) -> Option<&'static str> {
    match (endpoint, vendor) {
        (Endpoint::Embeddings, "anthropic") => Some("no_embeddings"),
        (Endpoint::Completions, "anthropic" | "google") => Some("no_completions"),
        _ => None,
    }
}

/// The vendor whose names begin like this one.
#[must_use]
pub fn vendor_of(model: &str) -> Option<&'static str> {
    const PREFIXES: [(&str, &str); 8] = [
        ("gpt-", "openai"),
        ("o1", "openai"),
        ("o3", "openai"),
        ("o4", "openai"),
        ("chatgpt-", "openai"),
        ("text-embedding-", "openai"),
        ("claude-", "anthropic"),
        ("gemini-", "google"),
    ];
    PREFIXES.iter().find(|(prefix, _)| model.starts_with(prefix)).map(|(_, vendor)| *vendor)
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
fn scan_refusal(fault: ScanFault) -> Refusal {
    let code = fault.code();
    let refusal = Refusal::new(code, fault.message());
    match fault.param() {
        Some(param) => refusal.param(param),
        None => refusal,
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let key = rest.trim_ascii();
    (!key.is_empty()).then_some(key)
}

fn header_text(value: &[u8], name: &str) -> Result<String, Refusal> {
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| {
        Refusal::new("invalid_request", format!("`{name}` is not UTF-8")).param(name)
    })
}

fn bounded(value: Option<String>, name: &str) -> Result<Option<String>, Refusal> {
    match value {
        Some(text) if text.len() > IDENTIFIER_BYTES_MAX => Err(Refusal::new(
            "invalid_request",
            format!(
                "`{name}` has {} bytes; at most {IDENTIFIER_BYTES_MAX} are allowed",
                text.len()
            ),
        )
        .param(name)),
        Some(text) if text.is_empty() => Ok(None),
        other => Ok(other),
    }
}

/// `X-Modelux-User-Tags: k=v,k2=v2`: split at commas, then at the first `=`, percent-decoded.
fn parse_tags(value: &[u8], tags: &mut Vec<(String, String)>) -> Result<(), Refusal> {
    let invalid =
        |why: String| Err(Refusal::new("invalid_tag", why).param("X-Modelux-User-Tags"));
    let Ok(text) = std::str::from_utf8(value) else {
        return invalid("`X-Modelux-User-Tags` is not UTF-8".to_owned());
    };
    if text.trim().is_empty() {
        return Ok(());
    }
    for pair in text.split(',') {
        let Some((name, value)) = pair.split_once('=') else {
            return invalid(format!(
                "tag `{}` has no `=`: write `key=value`",
                shown(pair.trim())
            ));
        };
        let (Some(name), Some(value)) =
            (percent_decode(name.trim()), percent_decode(value.trim()))
        else {
            return invalid(format!("tag `{}` is not UTF-8 once decoded", shown(pair.trim())));
        };
        if name.is_empty() {
            return invalid(format!("a tag has no key: `{}`", shown(pair.trim())));
        }
        if tags.iter().any(|(known, _)| *known == name) {
            return invalid(format!("tag `{}` is there twice", shown(&name)));
        }
        tags.push((name, value));
    }
    Ok(())
}

/// `OpenAI/Python 1.2.3` as it stands; anything else up to its first blank.
fn sdk(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    if text.starts_with("OpenAI/")
        || text.starts_with("AsyncOpenAI/")
        || text.starts_with("Anthropic/")
    {
        return Some(shown(text));
    }
    text.split(' ').next().filter(|word| !word.is_empty()).map(shown)
}

pub(crate) fn allows_route(allowed: &[String], slug: &str) -> bool {
    allowed.iter().any(|entry| entry.strip_prefix('@').unwrap_or(entry) == slug)
}

/// May this key reach this model there?
#[must_use]
pub fn allows_model(key: &Key, provider: &str, model: &str) -> bool {
    key.allowed_models.as_ref().is_none_or(|allowed| {
        allowed.iter().any(|entry| {
            entry == model
                || entry.split_once('/').is_some_and(|(its_provider, its_model)| {
                    its_provider == provider && (its_model == model || its_model == "*")
                })
        })
    })
}

pub(crate) fn shown_path(head: &RequestHead<'_>) -> Cow<'static, str> {
    Cow::Owned(format!("{} {}", shown(head.method), shown(head.path)))
}
