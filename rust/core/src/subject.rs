//! What is known of a request whatever becomes of it, and the words of a refusal.

use std::borrow::Cow;
use std::rc::Rc;

use crate::scan::Shape;
use crate::snapshot::{Key, Route, Version};

/// Where a request goes, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
}

impl Endpoint {
    /// The path below a provider's base path.
    #[must_use]
    pub fn upstream_path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
            Self::Embeddings => "/embeddings",
        }
    }

    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Chat => Shape::Chat,
            Self::Completions => Shape::Completions,
            Self::Embeddings => Shape::Embeddings,
        }
    }
}

/// Why a request goes nowhere. `code` is the public `error.code`; the status and the shape of the
/// answer are Python's (`modelux/errors.py`, `proxy/reply.py`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Public code.
    pub code: &'static str,
    /// What is wrong and what to do, for the caller.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// Value of `Allow`, with `method_not_allowed`.
    pub allow: Option<&'static str>,
    /// Value of `Retry-After` in seconds, rounded up.
    pub retry_after_s: Option<u64>,
}

impl Refusal {
    /// A refusal without extras.
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, allow: None, retry_after_s: None }
    }

    /// The same, naming the field at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }
}

/// State of a limited key, for the `x-ratelimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    /// Requests a minute.
    pub limit: u32,
    /// Left in the burst.
    pub remaining: u32,
    /// Until the burst is whole again.
    pub reset_us: u64,
}

/// What is known of a request, whatever becomes of it: the part of the record that does not
/// depend on attempts.
#[derive(Default, Clone)]
pub struct Subject {
    /// UUIDv7 as text.
    pub id: String,
    /// Wall clock at the arrival of the whole request.
    pub ts_us: u64,
    /// Monotonic clock at the same instant.
    pub started_us: u64,
    /// Index of the project, once the key is known.
    pub project: Option<usize>,
    /// The key, once it is known.
    pub key: Option<Rc<Key>>,
    /// The routing config that was named, and its version.
    pub route: Option<(Rc<Route>, Rc<Version>)>,
    /// Was the version pinned by the caller.
    pub pinned: bool,
    /// Was the provider inferred from a bare model name.
    pub resolved_auto: bool,
    /// Strategy name, or empty.
    pub strategy: &'static str,
    /// The caller's `model`.
    pub model_requested: String,
    /// Did the caller ask for a stream.
    pub stream: bool,
    /// Tags, merged.
    pub tags: Vec<(String, String)>,
    /// End user.
    pub end_user: Option<String>,
    /// Caller's trace id.
    pub trace_id: Option<String>,
    /// Caller's conversation id.
    pub conversation_id: Option<String>,
    /// Address of the caller, if kept.
    pub client_ip: Option<String>,
    /// `OpenAI/Python 1.2.3`, from the user agent.
    pub sdk: Option<String>,
    /// `x-stainless-retry-count`.
    pub sdk_retry: Option<u64>,
    /// Method and path.
    pub path: Cow<'static, str>,
    /// What was dropped or changed.
    pub warnings: Vec<&'static str>,
}
