//! The figures that a decision reads, as plain data: live ones in traffic, recorded ones in replay.

/// What the breaker of a target says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// It serves.
    #[default]
    Closed,
    /// It has failed too often, at that monotonic instant.
    Open {
        /// Since when.
        since_us: u64,
        /// Its time is up: one request may see whether it serves again.
        is_due: bool,
    },
    /// One request is under way to see.
    HalfOpen,
}

impl Health {
    /// The public word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Whether a target has a key that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keys {
    /// One at least.
    #[default]
    Usable,
    /// Each was told to wait, the first until that instant.
    Cooling {
        /// Monotonic clock.
        until_us: u64,
    },
    /// The provider refused each of them just now.
    Rejected,
}

/// What is known of a target when a decision is made. Latencies in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TargetState {
    /// Its breaker.
    pub health: Health,
    /// Its keys.
    pub keys: Keys,
    /// Share of failures of late, 0 to 1.
    pub error_rate: Option<f32>,
    /// Requests under way there, over all workers.
    pub in_flight: u32,
    /// Many wait there, and none of them has been answered for far longer than usual.
    pub is_stalled: bool,
    /// To the first content byte, for requests of this size.
    pub ttft_us: Option<f32>,
    /// To the end of the answer.
    pub total_us: Option<f32>,
    /// The median of the last minutes, to the end of the answer, in milliseconds.
    pub p50_ms: Option<f32>,
    /// Input of this request there, estimated.
    pub input_tokens: u64,
    /// Of it, what the provider's cache is expected to have.
    pub cached_tokens: u64,
    /// Output of this request there, expected.
    pub output_tokens: u64,
    /// What that costs; None without a price.
    pub cost_nusd: Option<u64>,
}

impl TargetState {
    /// The public word for its health: where every key was told to wait, nobody is served.
    #[must_use]
    pub fn health_name(&self) -> &'static str {
        match self.keys {
            Keys::Cooling { .. } => Health::Open { since_us: 0, is_due: false }.name(),
            Keys::Usable | Keys::Rejected => self.health.name(),
        }
    }
}

/// A budget that matches this request, before anything is held for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetState {
    /// Its name.
    pub name: String,
    /// Settled.
    pub spent_nusd: u64,
    /// Held by others.
    pub held_nusd: u64,
    /// Cap and credits.
    pub allowed_nusd: u64,
    /// Is it the tightest of those that are shown.
    pub is_tightest: bool,
}

/// What is known of the tokens of the request's text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tokens {
    /// Between these two.
    Between {
        /// One token for so many bytes that no text has more.
        least: f64,
        /// One token a byte.
        most: f64,
    },
    /// Counted by the vocabulary.
    Counted(f64),
    /// By the learnt ratio, where nobody can count.
    Estimated(f64),
}

impl Default for Tokens {
    fn default() -> Self {
        Self::Estimated(0.0)
    }
}

impl Tokens {
    /// How the trace calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Between { .. } => "bytes",
            Self::Counted(_) => "count",
            Self::Estimated(_) => "estimate",
        }
    }
}

/// Everything that one decision reads.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    /// Monotonic clock.
    pub now_us: u64,
    /// Wall clock.
    pub unix_s: i64,
    /// Of each leaf.
    pub leaves: Vec<TargetState>,
    /// Of each model that an expression names.
    pub named: Vec<TargetState>,
    /// Of each budget that matches, where an expression asks.
    pub budgets: Vec<BudgetState>,
    /// Of the request's text.
    pub tokens: Tokens,
}
