//! The pure core of modelux.

pub mod chunked;
pub mod head;
