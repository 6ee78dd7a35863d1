//! One call to one target: what happened to it, as the record tells it.

use std::borrow::Cow;

use crate::live::TargetId;
use crate::pricing;
use crate::request::FlatRef;
use crate::routing::{FailedBy, Leaf};
use crate::usage::Usage;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// The caller may get its answer.
    #[default]
    Serve,
    /// It says what another answer is worth.
    Judge,
    /// Nobody gets its answer: it is mirrored traffic.
    Shadow,
}

impl Role {
    /// The public word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Judge => "judge",
            Self::Shadow => "shadow",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Served.
    Ok,
    /// A complete head with a status of 400 or above.
    HttpError,
    /// A time limit.
    Timeout,
    /// No connection.
    ConnectError,
    /// Closed before or inside the answer.
    Reset,
    /// An answer that cannot be read.
    Malformed,
    /// Failed after the caller had got a part of it.
    Interrupted,
    /// The caller went away.
    Cancelled,
    /// Nothing was sent: a budget stood in its way.
    Skipped,
}

impl Outcome {
    /// The public word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::HttpError => "http_error",
            Self::Timeout => "timeout",
            Self::ConnectError => "connect_error",
            Self::Reset => "reset",
            Self::Malformed => "malformed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

/// What the hold of an attempt was measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// A token for each byte of the text.
    Bytes,
    /// The tokens of the text, counted.
    Count,
    /// What the target says that it may cost at most.
    MaxCost,
}

impl HeldBy {
    /// The public word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Count => "count",
            Self::MaxCost => "max_cost",
        }
    }
}

/// What the charge of an attempt rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettledBy {
    /// Usage that the provider reported.
    Usage,
    /// What was relayed, counted.
    Counted,
    /// The whole hold: nothing proves less.
    Hold,
    /// Nothing was billed, and that is certain.
    Released,
}

impl SettledBy {
    /// The public word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Counted => "counted",
            Self::Hold => "hold",
            Self::Released => "released",
        }
    }
}

/// One call to one target.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one call")]
pub struct Attempt {
    /// The config that the target stands in.
    pub(crate) flat: FlatRef,
    /// Index of the leaf.
    pub leaf: usize,
    /// Where its outcome is remembered.
    pub(crate) live: TargetId,
    /// What it is for.
    pub role: Role,
    /// Why this one was tried.
    pub reason: Cow<'static, str>,
    /// Monotonic clock.
    pub started_us: u64,
    /// When it began to wait for a new connection; None on a pooled one.
    pub connecting_us: Option<u64>,
    /// When the request was written: at once when the connection stands.
    pub sent_us: Option<u64>,
    /// When the first content byte came.
    pub first_us: Option<u64>,
    /// When it ended.
    pub ended_us: Option<u64>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Status of the answer, if its head was complete.
    pub status: Option<u16>,
    /// The provider's own request id.
    pub request_id: Option<String>,
    /// What was used, as far as the provider said.
    pub usage: Option<Usage>,
    /// What that cost, where a price is known.
    pub cost: Option<pricing::Cost>,
    /// Index of the provider's credential.
    pub credential: usize,
    /// What ended it, where a time limit did: in milliseconds.
    pub limit_ms: u64,
    /// What was held for it, where a budget matched.
    pub held_nusd: Option<u64>,
    /// What that was measured by.
    pub held_by: Option<HeldBy>,
    /// The output limit that was sent in place of the caller's, or of none.
    pub limit_sent: Option<u64>,
    /// What it was charged, where a budget matched.
    pub charged_nusd: Option<u64>,
    /// What the charge rests on.
    pub settled_by: Option<SettledBy>,
    /// A byte of an answer has come.
    pub(crate) is_answered: bool,
    /// Its answer came and was not good enough.
    pub(crate) is_rejected: bool,
    pub(crate) failed_by: Option<FailedBy>,
    pub(crate) pooled: bool,
    pub(crate) bytes_received: u64,
    pub(crate) error_body: Vec<u8>,
    pub(crate) error_is_whole: bool,
    pub(crate) retry_after: Option<String>,
}

impl Attempt {
    /// The target.
    #[must_use]
    pub fn target(&self) -> &Leaf {
        &self.flat.flat().leaves[self.leaf]
    }

    /// How long it waited for a new connection; 0 on a pooled one.
    #[must_use]
    pub fn connect_us(&self) -> u64 {
        match (self.connecting_us, self.sent_us) {
            (Some(from_us), Some(sent_us)) => sent_us.saturating_sub(from_us),
            _ => 0,
        }
    }
}
