//! What a request's body says, read in one pass: the facts that routing, keys and traces need.
//!
//! Owns which top-level keys we read and what they must look like; leaves the grammar to `json`
//! and the changes to `patch`. Everything else in a body is the provider's to judge, but all of
//! it must be JSON, as a body that two parsers read differently could be priced as one thing
//! and served as another. Keys are compared by what they mean: `"mod\u0065l"` is `model`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::json::{Cursor, Figure, JsonFault, Kind, Span, Text};

/// Tags in one body; as `limits.py` says.
pub const TAGS_COUNT_MAX: usize = 32;
/// Bytes of a tag's key.
pub const TAG_KEY_BYTES_MAX: usize = 64;
/// Bytes of a tag's value.
pub const TAG_VALUE_BYTES_MAX: usize = 256;
/// Bytes of a model's name, an end user, a trace or a conversation id.
pub const IDENTIFIER_BYTES_MAX: usize = 512;

/// Keys with this prefix are for us and never go upstream.
const OURS: &[u8] = b"mlx:";
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Which path a body came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
}

/// Which spelling of the output limit a body uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// `max_tokens`
    MaxTokens,
    /// `max_completion_tokens`
    MaxCompletionTokens,
}

impl LimitKey {
    /// The key as it stands in a body.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// An output limit as it stands in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitValue {
    /// Where its value stands.
    pub span: Span,
    /// The limit; None for a negative one, which some local servers read as "none".
    pub count: Option<u64>,
    /// Whether it is `null`, which is none everywhere.
    pub is_null: bool,
}

/// The service tier that a body asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AskedTier {
    /// None, `auto`, or what we do not know: the provider chooses.
    #[default]
    Any,
    /// `default`, `standard`, `standard_only` or `on_demand`.
    Standard,
    /// `flex`
    Flex,
    /// `priority`, or `fast`, its other name.
    Priority,
}

/// Work that the provider does by itself while it answers: searches, code, MCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTools {
    /// None is asked for.
    #[default]
    None,
    /// Web searches, no more than that many.
    Searches(u64),
    /// Any number of rounds, or rounds whose price is nowhere stated.
    Unbounded,
}

impl ServerTools {
    /// Both together.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, one) | (one, Self::None) => one,
            (Self::Searches(a), Self::Searches(b)) => {
                a.checked_add(b).map_or(Self::Unbounded, Self::Searches)
            }
            _ => Self::Unbounded,
        }
    }
}

/// What `patch` must change so that the provider reports usage in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageEdit {
    /// No `stream_options`: a member is added to the body.
    #[default]
    AddMember,
    /// This value (`null` options, or an `include_usage` of `false` or `null`) is replaced.
    Replace {
        /// The value.
        span: Span,
        /// Whether it is the whole of the options, or only `include_usage`.
        is_options: bool,
    },
    /// Options without `include_usage`: a member is added to them.
    AddOption {
        /// Byte offset just after their `{`.
        at: usize,
        /// Whether they have no other member.
        is_empty: bool,
    },
    /// The caller asks for usage already.
    Nothing,
}

/// What one body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Facts {
    /// `model`, unescaped.
    pub model: String,
    /// Where its value stands, quotes included.
    pub model_span: Span,
    /// `stream`; absent and `null` are false.
    pub stream: bool,
    /// Where the value of `stream` stands.
    pub stream_span: Option<Span>,
    /// `stream_options.include_usage`, if it is there and not `null`.
    pub include_usage: Option<bool>,
    /// Where the value of `stream_options` stands, `null` included.
    pub stream_options: Option<Span>,
    /// What must change for `include_usage` to hold.
    pub usage_edit: UsageEdit,
    /// The caller's output limit; of two spellings the larger. A negative one, which some local
    /// servers read as "none", is none.
    pub max_output_tokens: Option<u64>,
    /// The spelling that `max_output_tokens` was read from.
    pub limit_key: Option<LimitKey>,
    /// `max_tokens` as it stands.
    pub max_tokens: Option<LimitValue>,
    /// `max_completion_tokens` as it stands.
    pub max_completion_tokens: Option<LimitValue>,
    /// `n`.
    pub n: Option<u64>,
    /// `best_of`.
    pub best_of: Option<u64>,
    /// A non-empty `tools` or `functions`.
    pub has_tools: bool,
    /// An `image_url` part in a message's content.
    pub has_images: bool,
    /// `response_format.type` is `json_schema`.
    pub json_schema: bool,
    /// Elements of `messages`.
    pub messages: u32,
    /// Bytes of the body without `media_bytes`: no fewer than the tokens of its text.
    pub text_bytes: u64,
    /// Bytes of images, audio and files that stand in the messages as base64.
    pub media_bytes: u64,
    /// Images in the messages, inline or by their address.
    pub images: u64,
    /// Of `media_bytes`, audio.
    pub audio_bytes: u64,
    /// Of `media_bytes`, files that are not plain text.
    pub file_bytes: u64,
    /// Of `media_bytes`, files of plain text.
    pub text_file_bytes: u64,
    /// Content by reference (a file's id or address, an earlier answer, a stored prompt) or of a
    /// kind that we do not know: how long it is, only the provider sees.
    pub has_unseen: bool,
    /// What the provider may do by itself.
    pub server_tools: ServerTools,
    /// The body names other models that may serve, each at its own price.
    pub has_other_models: bool,
    /// Prompts of completions and inputs of embeddings; at least 1.
    pub prompts: u64,
    /// Bytes of `prediction`: what of it is rejected is billed as output.
    pub prediction_bytes: u64,
    /// `service_tier`.
    pub service_tier: AskedTier,
    /// Anthropic's `speed` is asked for.
    pub has_speed: bool,
    /// `inference_geo` is `global`: the work need not stay in one region.
    pub is_global: bool,
    /// The largest number of tokens that the body allows for thinking, where it says one.
    pub thinking_budget: Option<u64>,
    /// Audio or images are asked for as output.
    pub media_output: bool,
    /// `mlx:end_user`, else `safety_identifier`, else `user`; an empty one is none.
    pub end_user: Option<String>,
    /// `mlx:tags` in the order of the body; keys differ.
    pub tags: Vec<(String, String)>,
    /// `metadata.trace_id`
    pub trace_id: Option<String>,
    /// `metadata.conversation_id`
    pub conversation_id: Option<String>,
    /// `mlx:trace`
    pub mlx_trace: bool,
    /// `mlx:cache: {"skip": true}`
    pub cache_skip: bool,
    /// What to cut so that no `mlx:` member is left, commas included; ascending, disjoint.
    pub mlx_members: Vec<Span>,
    /// Byte offset of the body's `{`.
    pub object_start: usize,
}

/// Why a body is refused. Always the caller's fault, always 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanFault {
    /// Not JSON, not UTF-8, too deep, not an object.
    InvalidJson {
        /// Byte offset in the body.
        at: usize,
        /// A fixed English clause.
        why: &'static str,
    },
    /// A key that we read stands twice.
    DuplicateKey(String),
    /// A key without which no request can be served is absent or `null`.
    MissingField(&'static str),
    /// A key that we read has a value of another kind.
    InvalidField {
        /// The key's path.
        param: &'static str,
        /// What it must be, as a clause after "must be".
        why: &'static str,
    },
    /// `mlx:tags` cannot be used; the whole message.
    InvalidTag(String),
}

impl From<JsonFault> for ScanFault {
    fn from(fault: JsonFault) -> Self {
        Self::InvalidJson { at: fault.at, why: fault.why }
    }
}

impl ScanFault {
    /// The public `error.code`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidJson { .. } => "invalid_json",
            Self::DuplicateKey(_) => "duplicate_key",
            Self::MissingField(_) => "missing_field",
            Self::InvalidField { .. } => "invalid_request",
            Self::InvalidTag(_) => "invalid_tag",
        }
    }

    /// The public `error.param`: the key's path, if one key is at fault.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::InvalidJson { .. } => None,
            Self::DuplicateKey(key) => Some(key),
            Self::MissingField(key) => Some(key),
            Self::InvalidField { param, .. } => Some(param),
            Self::InvalidTag(_) => Some("mlx:tags"),
        }
    }

    /// The public `error.message`.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::InvalidJson { at, why } => {
                format!("The request body is not valid JSON: {why} (byte {at}).")
            }
            Self::DuplicateKey(key) => format!(
                "The key `{key}` stands twice in the request body; two parsers could read it \
                 differently, so send it once."
            ),
            Self::MissingField(key) => format!("The request body lacks `{key}`."),
            Self::InvalidField { param, why } => format!("`{param}` must be {why}."),
            Self::InvalidTag(message) => message.clone(),
        }
    }
}

/// Read the facts of one request body.
///
/// # Errors
/// For the first fault in the order of the text; a missing `model` comes last.
pub fn scan(body: &[u8], shape: Shape) -> Result<Facts, ScanFault> {
    if body.starts_with(BOM) {
        return Err(ScanFault::InvalidJson { at: 0, why: "it begins with a byte order mark" });
    }
    if let Err(fault) = std::str::from_utf8(body) {
        return Err(ScanFault::InvalidJson { at: fault.valid_up_to(), why: "invalid UTF-8" });
    }
    let mut walk = Walk::new(body, shape);
    walk.body()?;
    walk.into_facts(body)
}

/// What a part of a message's content holds beside text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Medium {
    Image,
    Audio,
    File,
}

/// Whether that is an address, and not base64, which has no colon.
fn is_link(text: &[u8]) -> bool {
    memchr::memchr(b':', text).is_some()
}

/// The keys that we read, in the order of their bits in `Walk::seen`.
#[derive(Clone, Copy)]
enum Key {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    N,
    BestOf,
    Metadata,
    User,
    SafetyIdentifier,
    Tools,
    ResponseFormat,
    Messages,
    ServiceTier,
    Speed,
    InferenceGeo,
    Prediction,
    Prompts,
    Thinking,
    Modalities,
    Audio,
    Unseen,
    Extra,
    ServerTools,
    MaxToolCalls,
    OtherModels,
}

impl Key {
    fn of(key: &[u8]) -> Option<Self> {
        Some(match key {
            b"model" => Self::Model,
            b"stream" => Self::Stream,
            b"stream_options" => Self::StreamOptions,
            b"max_tokens" => Self::MaxTokens,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"n" => Self::N,
            b"best_of" => Self::BestOf,
            b"metadata" => Self::Metadata,
            b"user" => Self::User,
            b"safety_identifier" => Self::SafetyIdentifier,
            b"tools" | b"functions" => Self::Tools,
            b"response_format" => Self::ResponseFormat,
            b"messages" => Self::Messages,
            b"service_tier" => Self::ServiceTier,
            b"speed" => Self::Speed,
            b"inference_geo" => Self::InferenceGeo,
            b"prediction" => Self::Prediction,
            b"prompt" | b"input" => Self::Prompts,
            b"thinking" | b"reasoning" | b"thinking_budget" => Self::Thinking,
            b"modalities" => Self::Modalities,
            b"audio" => Self::Audio,
            b"previous_response_id"
            | b"conversation"
            | b"prompt_id"
            | b"file_ids"
            | b"cached_content"
            | b"data_sources"
            | b"container"
            | b"vector_store_ids" => Self::Unseen,
            b"extra_body" | b"google" => Self::Extra,
            b"web_search_options"
            | b"search_parameters"
            | b"plugins"
            | b"mcp_servers"
            | b"web_search"
            | b"enable_search" => Self::ServerTools,
            b"max_tool_calls" => Self::MaxToolCalls,
            b"models" | b"fallbacks" => Self::OtherModels,
            _ => return None,
        })
    }

    /// Whether a second one is refused. The rest only adds to a count or to a yes.
    fn is_single(self) -> bool {
        matches!(
            self,
            Self::Model
                | Self::Stream
                | Self::StreamOptions
                | Self::MaxTokens
                | Self::MaxCompletionTokens
                | Self::N
                | Self::BestOf
                | Self::Metadata
                | Self::User
                | Self::SafetyIdentifier
                | Self::ServiceTier
                | Self::InferenceGeo
                | Self::MaxToolCalls
        )
    }
}

struct Walk<'b> {
    cursor: Cursor<'b>,
    shape: Shape,
    seen: u32,
    /// A tree, as callers choose these keys: no key makes it slow, and few cost no hashing.
    seen_ours: BTreeSet<Cow<'b, [u8]>>,
    model: Option<(String, Span)>,
    user: Option<String>,
    safety_identifier: Option<String>,
    max_tool_calls: Option<u64>,
    /// What the provider does by itself is nothing but searching the web.
    searches_only: bool,
    facts: Facts,
}

impl<'b> Walk<'b> {
    fn new(body: &'b [u8], shape: Shape) -> Self {
        Self {
            cursor: Cursor::new(body),
            shape,
            seen: 0,
            seen_ours: BTreeSet::new(),
            model: None,
            user: None,
            safety_identifier: None,
            max_tool_calls: None,
            searches_only: true,
            facts: Facts::default(),
        }
    }

    fn into_facts(self, body: &[u8]) -> Result<Facts, ScanFault> {
        let (model, model_span) = self.model.ok_or(ScanFault::MissingField("model"))?;
        let mut facts = self.facts;
        facts.model = model;
        facts.model_span = model_span;
        facts.end_user = facts.end_user.or(self.safety_identifier).or(self.user);
        facts.text_bytes = body.len() as u64 - facts.media_bytes;
        facts.prompts = facts.prompts.max(1);
        if let Some(most) = self.max_tool_calls {
            facts.server_tools = match (facts.server_tools, self.searches_only) {
                (ServerTools::Searches(count), _) => ServerTools::Searches(count.min(most)),
                (ServerTools::Unbounded, true) => ServerTools::Searches(most),
                (other, _) => other,
            };
        }
        Ok(facts)
    }

    /// Walk the whole body, collecting what to cut: runs of our members, each with the comma
    /// and white space up to the next kept key, or, at the end, from the last kept value on.
    fn body(&mut self) -> Result<(), ScanFault> {
        if self.cursor.kind()? != Kind::Object {
            let at = self.cursor.at();
            return Err(ScanFault::InvalidJson { at, why: "the top level must be an object" });
        }
        self.facts.object_start = self.cursor.at();
        let mut run_start = None;
        let mut kept_end = None;
        let mut value_end = self.cursor.at();
        let mut more = self.cursor.enter_object()?;
        while more {
            let key = self.cursor.key()?;
            let name = key.key_bytes();
            let is_ours = name.starts_with(OURS);
            if is_ours {
                run_start = run_start.or(Some(key.span.start));
                self.our_member(key, name)?;
            } else {
                if let Some(start) = run_start.take() {
                    self.facts.mlx_members.push(Span { start, end: key.span.start });
                }
                self.member(&name)?;
            }
            value_end = self.cursor.at();
            if !is_ours {
                kept_end = Some(value_end);
            }
            more = self.cursor.more_members()?;
        }
        if let Some(start) = run_start {
            let start = kept_end.unwrap_or(start);
            self.facts.mlx_members.push(Span { start, end: value_end });
        }
        Ok(self.cursor.end()?)
    }

    fn member(&mut self, name: &[u8]) -> Result<(), ScanFault> {
        let Some(key) = Key::of(name) else {
            self.cursor.skip()?;
            return Ok(());
        };
        if key.is_single() {
            let bit = 1 << key as u32;
            if self.seen & bit != 0 {
                return Err(duplicate(name));
            }
            self.seen |= bit;
        }
        match key {
            Key::Model => self.model()?,
            Key::Stream => {
                let (value, span) = self.boolean("stream")?;
                self.facts.stream = value.unwrap_or(false);
                self.facts.stream_span = Some(span);
            }
            Key::StreamOptions => self.stream_options()?,
            Key::MaxTokens => self.limit("max_tokens", LimitKey::MaxTokens)?,
            Key::MaxCompletionTokens => {
                self.limit("max_completion_tokens", LimitKey::MaxCompletionTokens)?;
            }
            Key::N => self.facts.n = self.count("n")?,
            Key::BestOf => self.facts.best_of = self.count("best_of")?,
            Key::Metadata => self.metadata()?,
            Key::User => self.user = self.identifier("user")?,
            Key::SafetyIdentifier => {
                self.safety_identifier = self.identifier("safety_identifier")?;
            }
            Key::Tools => self.tools()?,
            Key::ResponseFormat => self.response_format()?,
            Key::Messages if self.shape == Shape::Chat => self.messages()?,
            Key::Messages => {
                self.cursor.skip()?;
            }
            Key::ServiceTier => self.service_tier()?,
            Key::Speed => self.facts.has_speed |= self.says_something()?,
            Key::InferenceGeo => {
                if self.cursor.kind()? == Kind::String {
                    self.facts.is_global = self.cursor.string()?.is("global");
                } else {
                    self.cursor.skip()?;
                }
            }
            Key::Prediction => {
                let span = self.cursor.skip()?;
                self.facts.prediction_bytes += (span.end - span.start) as u64;
            }
            Key::Prompts => self.prompts()?,
            Key::Thinking => self.thinking()?,
            Key::Modalities => self.modalities()?,
            Key::Audio => self.facts.media_output |= self.says_something()?,
            Key::Unseen => self.facts.has_unseen |= self.says_something()?,
            Key::Extra => self.extra()?,
            Key::ServerTools => {
                if self.says_something()? {
                    let is_search = !matches!(name, b"plugins" | b"mcp_servers");
                    self.server_tool(ServerTools::Unbounded, is_search);
                }
            }
            Key::MaxToolCalls => match self.cursor.figure()? {
                Figure::Count(count) => self.max_tool_calls = Some(count),
                _ => self.max_tool_calls = None,
            },
            Key::OtherModels => self.facts.has_other_models |= self.says_something()?,
        }
        Ok(())
    }

    /// Skip a value; true unless it is `null`, `false` or empty.
    fn says_something(&mut self) -> Result<bool, ScanFault> {
        let start = self.cursor.clone();
        let kind = self.cursor.kind()?;
        let span = self.cursor.skip()?;
        Ok(match kind {
            Kind::Null => false,
            Kind::Bool => span.end - span.start == b"true".len(),
            Kind::String => span.end - span.start > 2,
            Kind::Array => {
                let mut probe = start;
                probe.enter_array()?
            }
            Kind::Object | Kind::Number => true,
        })
    }

    fn service_tier(&mut self) -> Result<(), ScanFault> {
        if self.cursor.kind()? != Kind::String {
            self.cursor.skip()?;
            return Ok(());
        }
        self.facts.service_tier = match &*self.cursor.string()?.key_bytes() {
            b"default" | b"standard" | b"standard_only" | b"on_demand" => AskedTier::Standard,
            b"flex" => AskedTier::Flex,
            b"priority" | b"fast" => AskedTier::Priority,
            _ => AskedTier::Any,
        };
        Ok(())
    }

    /// Count the prompts of completions and the inputs of embeddings.
    fn prompts(&mut self) -> Result<(), ScanFault> {
        match self.cursor.kind()? {
            Kind::Array => {}
            Kind::Object => {
                // A stored prompt, by its id.
                self.cursor.skip()?;
                self.facts.has_unseen = true;
                return Ok(());
            }
            _ => {
                self.cursor.skip()?;
                self.facts.prompts += 1;
                return Ok(());
            }
        }
        let mut has_tokens = false;
        let mut more = self.cursor.enter_array()?;
        while more {
            match self.cursor.kind()? {
                // Numbers are the tokens of one prompt.
                Kind::Number => has_tokens = true,
                Kind::String | Kind::Array => self.facts.prompts += 1,
                // An object may be an image, or its address.
                Kind::Object => self.facts.has_unseen = true,
                Kind::Bool | Kind::Null => {}
            }
            self.cursor.skip()?;
            more = self.cursor.more_elements()?;
        }
        self.facts.prompts += u64::from(has_tokens);
        Ok(())
    }

    /// `thinking.budget_tokens`, `reasoning.max_tokens`, or a budget alone.
    fn thinking(&mut self) -> Result<(), ScanFault> {
        if self.cursor.kind()? != Kind::Object {
            return self.thinking_budget();
        }
        let mut more = self.cursor.enter_object()?;
        while more {
            match &*self.cursor.key()?.key_bytes() {
                b"budget_tokens" | b"max_tokens" | b"thinking_budget" | b"thinkingBudget" => {
                    self.thinking_budget()?;
                }
                _ => {
                    self.cursor.skip()?;
                }
            }
            more = self.cursor.more_members()?;
        }
        Ok(())
    }

    fn thinking_budget(&mut self) -> Result<(), ScanFault> {
        if let Figure::Count(count) = self.cursor.figure()? {
            let budget = &mut self.facts.thinking_budget;
            *budget = Some(budget.map_or(count, |other| other.max(count)));
        }
        Ok(())
    }

    fn modalities(&mut self) -> Result<(), ScanFault> {
        if self.cursor.kind()? != Kind::Array {
            self.facts.media_output |= self.says_something()?;
            return Ok(());
        }
        let mut more = self.cursor.enter_array()?;
        while more {
            if self.cursor.kind()? == Kind::String {
                self.facts.media_output |= !self.cursor.string()?.is("text");
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_elements()?;
        }
        Ok(())
    }

    /// What Google takes beside the OpenAI protocol: a thinking budget is read, all else may
    /// bring content that we do not see.
    fn extra(&mut self) -> Result<(), ScanFault> {
        if self.cursor.kind()? != Kind::Object {
            self.facts.has_unseen |= self.says_something()?;
            return Ok(());
        }
        let mut more = self.cursor.enter_object()?;
        while more {
            match &*self.cursor.key()?.key_bytes() {
                b"google" => self.extra()?,
                b"thinking_config" | b"thinkingConfig" => self.thinking()?,
                _ => self.facts.has_unseen |= self.says_something()?,
            }
            more = self.cursor.more_members()?;
        }
        Ok(())
    }

    fn tools(&mut self) -> Result<(), ScanFault> {
        if self.cursor.kind()? != Kind::Array {
            self.cursor.skip()?;
            return Ok(());
        }
        let mut more = self.cursor.enter_array()?;
        self.facts.has_tools |= more;
        while more {
            if self.cursor.kind()? == Kind::Object {
                self.tool()?;
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_elements()?;
        }
        Ok(())
    }

    /// One tool: is it the caller's own, or does the provider run it?
    fn tool(&mut self) -> Result<(), ScanFault> {
        let (mut is_callers, mut is_search, mut is_servers) = (false, false, false);
        let mut max_uses = None;
        let mut more = self.cursor.enter_object()?;
        while more {
            match &*self.cursor.key()?.key_bytes() {
                b"type" if self.cursor.kind()? == Kind::String => {
                    let text = self.cursor.string()?;
                    match &*text.key_bytes() {
                        b"function" | b"custom" => is_callers = true,
                        kind if kind.starts_with(b"web_search") => is_search = true,
                        _ => is_servers = true,
                    }
                }
                b"type" => {
                    self.cursor.skip()?;
                    is_servers = true;
                }
                // Written without a type: a function, flat or in the legacy way.
                b"function" | b"name" => {
                    self.cursor.skip()?;
                    is_callers = true;
                }
                b"max_uses" => {
                    max_uses = match (max_uses, self.cursor.figure()?) {
                        (None, Figure::Count(count)) => Some(Some(count)),
                        _ => Some(None),
                    };
                }
                _ => {
                    self.cursor.skip()?;
                }
            }
            more = self.cursor.more_members()?;
        }
        if is_servers || !(is_callers || is_search) {
            self.server_tool(ServerTools::Unbounded, false);
        } else if is_search {
            let searches =
                max_uses.flatten().map_or(ServerTools::Unbounded, ServerTools::Searches);
            self.server_tool(searches, true);
        }
        Ok(())
    }

    fn server_tool(&mut self, tool: ServerTools, is_search: bool) {
        self.facts.server_tools = self.facts.server_tools.and(tool);
        self.searches_only &= is_search;
    }

    fn our_member(&mut self, key: Text<'b>, name: Cow<'b, [u8]>) -> Result<(), ScanFault> {
        // A lone surrogate would make two different keys look equal.
        key.decode()?;
        if self.seen_ours.contains(&name) {
            return Err(duplicate(&name));
        }
        match &*name {
            b"mlx:end_user" => self.facts.end_user = self.identifier("mlx:end_user")?,
            b"mlx:tags" => self.tags()?,
            b"mlx:trace" => {
                self.facts.mlx_trace = self.boolean("mlx:trace")?.0.unwrap_or(false);
            }
            b"mlx:cache" => self.cache()?,
            _ => {
                self.cursor.skip()?;
            }
        }
        self.seen_ours.insert(name);
        Ok(())
    }

    fn model(&mut self) -> Result<(), ScanFault> {
        match self.cursor.kind()? {
            Kind::String => {
                let text = self.cursor.string()?;
                let model = text.decode()?;
                if model.len() > IDENTIFIER_BYTES_MAX {
                    return Err(ScanFault::InvalidField { param: "model", why: TOO_LONG });
                }
                self.model = Some((model.into_owned(), text.span));
            }
            Kind::Null => {
                self.cursor.skip()?;
            }
            _ => return Err(ScanFault::InvalidField { param: "model", why: "a string" }),
        }
        Ok(())
    }

    fn stream_options(&mut self) -> Result<(), ScanFault> {
        match self.cursor.kind()? {
            Kind::Null => {
                let span = self.cursor.skip()?;
                self.facts.stream_options = Some(span);
                self.facts.usage_edit = UsageEdit::Replace { span, is_options: true };
                return Ok(());
            }
            Kind::Object => {}
            _ => {
                let why = "an object";
                return Err(ScanFault::InvalidField { param: "stream_options", why });
            }
        }
        let start = self.cursor.at();
        let mut more = self.cursor.enter_object()?;
        let mut edit = UsageEdit::AddOption { at: start + 1, is_empty: !more };
        let mut is_seen = false;
        while more {
            if self.cursor.key()?.is("include_usage") {
                if is_seen {
                    return Err(duplicate(INCLUDE_USAGE.as_bytes()));
                }
                is_seen = true;
                let (value, span) = self.boolean(INCLUDE_USAGE)?;
                self.facts.include_usage = value;
                edit = if value == Some(true) {
                    UsageEdit::Nothing
                } else {
                    UsageEdit::Replace { span, is_options: false }
                };
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_members()?;
        }
        self.facts.usage_edit = edit;
        self.facts.stream_options = Some(Span { start, end: self.cursor.at() });
        Ok(())
    }

    fn limit(&mut self, param: &'static str, key: LimitKey) -> Result<(), ScanFault> {
        let is_null = self.cursor.kind()? == Kind::Null;
        let start = self.cursor.at();
        let count = self.count(param)?;
        let span = Span { start, end: self.cursor.at() };
        let value = Some(LimitValue { span, count, is_null });
        match key {
            LimitKey::MaxTokens => self.facts.max_tokens = value,
            LimitKey::MaxCompletionTokens => self.facts.max_completion_tokens = value,
        }
        let Some(limit) = count else { return Ok(()) };
        // With both spellings OpenAI refuses; others obey one of them: the larger is the bound.
        if self.facts.max_output_tokens.is_none_or(|other| limit > other) {
            self.facts.max_output_tokens = Some(limit);
            self.facts.limit_key = Some(key);
        }
        Ok(())
    }

    fn metadata(&mut self) -> Result<(), ScanFault> {
        if !self.object_or_null("metadata")? {
            return Ok(());
        }
        let (mut trace_seen, mut conversation_seen) = (false, false);
        let mut more = self.cursor.enter_object()?;
        while more {
            let key = self.cursor.key()?;
            if key.is("trace_id") {
                if trace_seen {
                    return Err(duplicate(TRACE_ID.as_bytes()));
                }
                trace_seen = true;
                self.facts.trace_id = self.identifier(TRACE_ID)?;
            } else if key.is("conversation_id") {
                if conversation_seen {
                    return Err(duplicate(CONVERSATION_ID.as_bytes()));
                }
                conversation_seen = true;
                self.facts.conversation_id = self.identifier(CONVERSATION_ID)?;
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_members()?;
        }
        Ok(())
    }

    fn tags(&mut self) -> Result<(), ScanFault> {
        match self.cursor.kind()? {
            Kind::Object => {}
            Kind::Null => {
                self.cursor.skip()?;
                return Ok(());
            }
            _ => return Err(tag_fault("`mlx:tags` must be an object of strings.")),
        }
        let mut more = self.cursor.enter_object()?;
        while more {
            let key = self.cursor.key()?.decode()?.into_owned();
            if key.is_empty() || key.len() > TAG_KEY_BYTES_MAX {
                return Err(tag_fault("The key of a tag must have 1 to 64 bytes."));
            }
            if self.cursor.kind()? != Kind::String {
                return Err(tag_fault(&format!("The tag `{key}` must be a string.")));
            }
            let value = self.cursor.string()?.decode()?.into_owned();
            if value.len() > TAG_VALUE_BYTES_MAX {
                return Err(tag_fault(&format!("The tag `{key}` has more than 256 bytes.")));
            }
            if self.facts.tags.iter().any(|(other, _)| *other == key) {
                return Err(tag_fault(&format!("The tag `{key}` stands twice.")));
            }
            if self.facts.tags.len() == TAGS_COUNT_MAX {
                return Err(tag_fault("A request carries at most 32 tags."));
            }
            self.facts.tags.push((key, value));
            more = self.cursor.more_members()?;
        }
        Ok(())
    }

    fn cache(&mut self) -> Result<(), ScanFault> {
        if !self.object_or_null("mlx:cache")? {
            return Ok(());
        }
        let mut is_seen = false;
        let mut more = self.cursor.enter_object()?;
        while more {
            if self.cursor.key()?.is("skip") {
                if is_seen {
                    return Err(duplicate(CACHE_SKIP.as_bytes()));
                }
                is_seen = true;
                self.facts.cache_skip = self.boolean(CACHE_SKIP)?.0.unwrap_or(false);
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_members()?;
        }
        Ok(())
    }

    fn response_format(&mut self) -> Result<(), ScanFault> {
        if self.cursor.kind()? != Kind::Object {
            self.cursor.skip()?;
            return Ok(());
        }
        let mut more = self.cursor.enter_object()?;
        while more {
            if self.cursor.key()?.is("type") && self.cursor.kind()? == Kind::String {
                self.facts.json_schema |= self.cursor.string()?.is("json_schema");
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_members()?;
        }
        Ok(())
    }

    fn messages(&mut self) -> Result<(), ScanFault> {
        if self.cursor.kind()? != Kind::Array {
            self.cursor.skip()?;
            return Ok(());
        }
        let mut more = self.cursor.enter_array()?;
        while more {
            self.facts.messages = self.facts.messages.saturating_add(1);
            if self.cursor.kind()? == Kind::Object {
                self.message()?;
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_elements()?;
        }
        Ok(())
    }

    fn message(&mut self) -> Result<(), ScanFault> {
        let mut more = self.cursor.enter_object()?;
        while more {
            let key = self.cursor.key()?;
            if key.is("content") {
                match self.cursor.kind()? {
                    Kind::Array => self.parts()?,
                    Kind::Object => self.part()?,
                    _ => {
                        self.cursor.skip()?;
                    }
                }
            } else if key.is("audio") {
                // An earlier spoken answer, by its id.
                self.facts.has_unseen |= self.says_something()?;
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_members()?;
        }
        Ok(())
    }

    fn parts(&mut self) -> Result<(), ScanFault> {
        let mut more = self.cursor.enter_array()?;
        while more {
            if self.cursor.kind()? == Kind::Object {
                self.part()?;
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_elements()?;
        }
        Ok(())
    }

    /// One part of a message's content: what is it, and how much of it is base64?
    fn part(&mut self) -> Result<(), ScanFault> {
        let (mut is_text, mut has_other, mut is_image) = (false, false, false);
        let mut more = self.cursor.enter_object()?;
        while more {
            match &*self.cursor.key()?.key_bytes() {
                b"type" if self.cursor.kind()? == Kind::String => {
                    match &*self.cursor.string()?.key_bytes() {
                        b"text" | b"refusal" | b"thinking" | b"reasoning" => is_text = true,
                        b"input_audio" | b"file" | b"document_url" => {}
                        b"image_url" => is_image = true,
                        _ => self.facts.has_unseen = true,
                    }
                }
                b"text" | b"refusal" => {
                    self.cursor.skip()?;
                    is_text = true;
                }
                b"image_url" => {
                    is_image = true;
                    self.media(b"url", Medium::Image)?;
                }
                b"input_audio" => self.media(b"data", Medium::Audio)?,
                b"file" => self.media(b"file_data", Medium::File)?,
                b"document_url" => self.media(b"url", Medium::File)?,
                b"cache_control" | b"detail" | b"document_name" | b"id" => {
                    self.cursor.skip()?;
                }
                _ => {
                    self.cursor.skip()?;
                    has_other = true;
                }
            }
            more = self.cursor.more_members()?;
        }
        self.facts.has_images |= is_image;
        self.facts.images += u64::from(is_image);
        // Without a type some servers go by the other keys; and a file may be named by its id.
        self.facts.has_unseen |= has_other && !is_text && !is_image;
        Ok(())
    }

    /// A medium: a string, or an object whose member `field` is one.
    fn media(&mut self, field: &[u8], medium: Medium) -> Result<(), ScanFault> {
        match self.cursor.kind()? {
            Kind::String => self.media_text(medium, false)?,
            Kind::Object => {
                let mut more = self.cursor.enter_object()?;
                while more {
                    let key = self.cursor.key()?;
                    let name = key.key_bytes();
                    if *name == *field && self.cursor.kind()? == Kind::String {
                        self.media_text(medium, true)?;
                    } else {
                        let is_harmless =
                            matches!(&*name, b"detail" | b"format" | b"filename" | b"name");
                        let says_something = self.says_something()?;
                        // A file's id and its like.
                        self.facts.has_unseen |= says_something && !is_harmless;
                    }
                    more = self.cursor.more_members()?;
                }
            }
            _ => {
                self.cursor.skip()?;
            }
        }
        Ok(())
    }

    /// The text of a medium: base64, alone or in a `data:` link, or a link, which is text.
    ///
    /// A file that is a bare string (`is_field` is false) may be one's id as well.
    fn media_text(&mut self, medium: Medium, is_field: bool) -> Result<(), ScanFault> {
        let text = self.cursor.string()?;
        let bytes = text.raw.len() as u64;
        let meant = text.key_bytes();
        let is_data = meant.starts_with(b"data:");
        let facts = &mut self.facts;
        match medium {
            // An image by its address is an image still.
            Medium::Image if !is_data => return Ok(()),
            Medium::Image if meant.starts_with(b"data:image/") => {}
            Medium::Audio if is_data || !is_link(&meant) => facts.audio_bytes += bytes,
            Medium::File | Medium::Image if is_data || (is_field && !is_link(&meant)) => {
                if meant.starts_with(b"data:text/") {
                    facts.text_file_bytes += bytes;
                } else {
                    facts.file_bytes += bytes;
                }
            }
            _ => {
                facts.has_unseen = true;
                return Ok(());
            }
        }
        facts.media_bytes += bytes;
        Ok(())
    }

    /// True if an object is next; a `null` is skipped, anything else refused.
    fn object_or_null(&mut self, param: &'static str) -> Result<bool, ScanFault> {
        match self.cursor.kind()? {
            Kind::Object => Ok(true),
            Kind::Null => {
                self.cursor.skip()?;
                Ok(false)
            }
            _ => Err(ScanFault::InvalidField { param, why: "an object" }),
        }
    }

    fn boolean(&mut self, param: &'static str) -> Result<(Option<bool>, Span), ScanFault> {
        let kind = self.cursor.kind()?;
        let start = self.cursor.at();
        let value = match kind {
            Kind::Bool => Some(self.cursor.boolean()?),
            Kind::Null => {
                self.cursor.skip()?;
                None
            }
            _ => return Err(ScanFault::InvalidField { param, why: "a boolean" }),
        };
        Ok((value, Span { start, end: self.cursor.at() }))
    }

    fn count(&mut self, param: &'static str) -> Result<Option<u64>, ScanFault> {
        match self.cursor.figure()? {
            Figure::Count(count) => Ok(Some(count)),
            Figure::Null | Figure::Negative => Ok(None),
            Figure::Other => Err(ScanFault::InvalidField { param, why: "an integer" }),
        }
    }

    fn identifier(&mut self, param: &'static str) -> Result<Option<String>, ScanFault> {
        match self.cursor.kind()? {
            Kind::String => {
                let text = self.cursor.string()?.decode()?;
                if text.len() > IDENTIFIER_BYTES_MAX {
                    return Err(ScanFault::InvalidField { param, why: TOO_LONG });
                }
                Ok(if text.is_empty() { None } else { Some(text.into_owned()) })
            }
            Kind::Null => {
                self.cursor.skip()?;
                Ok(None)
            }
            _ => Err(ScanFault::InvalidField { param, why: "a string" }),
        }
    }
}

const INCLUDE_USAGE: &str = "stream_options.include_usage";
const TRACE_ID: &str = "metadata.trace_id";
const CONVERSATION_ID: &str = "metadata.conversation_id";
const CACHE_SKIP: &str = "mlx:cache.skip";
const TOO_LONG: &str = "at most 512 bytes long";
/// Bytes of a key that are repeated to the caller: enough to know it again.
const KEY_SHOWN_BYTES: usize = 64;

fn duplicate(name: &[u8]) -> ScanFault {
    let name = String::from_utf8_lossy(name);
    let mut end = name.len().min(KEY_SHOWN_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    ScanFault::DuplicateKey(name[..end].to_owned())
}

fn tag_fault(message: &str) -> ScanFault {
    ScanFault::InvalidTag(message.to_owned())
}
