//! The pure core of modelux.

#![deny(unsafe_code)]

pub mod cells;
pub mod chunked;
pub mod head;
#[expect(unsafe_code, reason = "the one place where memory is shared with other processes")]
mod mapped;
pub mod ring;
mod spill;
pub mod json;
pub mod patch;
pub mod scan;
pub mod sse;
pub mod usage;
