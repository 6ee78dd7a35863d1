//! One call to one target: what happened to it, as the record tells it.

use std::borrow::Cow;

use crate::pricing;
use crate::routing::FailedBy;
use crate::usage::Usage;

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
        }
    }
}

/// One call to one target.
#[derive(Debug)]
pub struct Attempt {
    /// Index of the leaf.
    pub leaf: usize,
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
    pub(crate) failed_by: Option<FailedBy>,
    pub(crate) pooled: bool,
    pub(crate) bytes_received: u64,
    pub(crate) error_body: Vec<u8>,
    pub(crate) error_is_whole: bool,
    pub(crate) retry_after: Option<String>,
}

impl Attempt {
    /// How long it waited for a new connection; 0 on a pooled one.
    #[must_use]
    pub fn connect_us(&self) -> u64 {
        match (self.connecting_us, self.sent_us) {
            (Some(from_us), Some(sent_us)) => sent_us.saturating_sub(from_us),
            _ => 0,
        }
    }
}
