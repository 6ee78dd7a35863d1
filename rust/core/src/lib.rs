//! The pure core of modelux.

#![deny(unsafe_code)]

pub mod cells;
pub mod chunked;
pub mod head;
pub mod json;
#[expect(unsafe_code, reason = "the one place where memory is shared with other processes")]
mod mapped;
pub mod patch;
pub mod redact;
pub mod ring;
pub mod scan;
mod spill;
pub mod sse;
pub mod usage;
