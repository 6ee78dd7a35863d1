//! The pure core of modelux.

#![deny(unsafe_code)]

pub mod answer;
pub mod answers;
pub mod attempt;
pub mod backoff;
pub mod bound;
pub mod breaker;
pub mod budget;
pub mod cells;
pub mod chance;
pub mod chunked;
mod date;
pub mod digits;
pub mod exchange;
pub mod fields;
pub mod gate;
mod generated;
pub mod head;
pub mod holds;
mod ids;
pub mod indexed;
pub mod inflate;
pub mod json;
pub mod learnt;
pub mod ledger;
pub mod live;
#[expect(unsafe_code, reason = "the one place where memory is shared with other processes")]
mod mapped;
pub mod models;
pub mod patch;
pub mod pricing;
pub mod record;
pub mod redact;
pub mod replayed;
pub mod request;
pub mod ring;
pub mod route;
pub mod routing;
pub mod rules;
pub mod scan;
pub mod snapshot;
mod spill;
pub mod sse;
pub mod subject;
mod text;
pub mod tokens;
pub mod usage;
