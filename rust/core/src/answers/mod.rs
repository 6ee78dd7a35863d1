//! What is done with whole answers of the OpenAI protocol: read, judged, merged, rewritten.
//!
//! Ensembles and cascades read an answer before anybody sees it. All here are pure functions of
//! its bytes, whole or as the events of its stream, which must come to the same. What a provider
//! sent is untrusted: any bytes at all give a value, and every loop over them has a bound.
//!
//! Who calls whom, how much is held and what reaches the caller is for `exchange` to say.

mod said;

pub use said::{Said, TEXT_BYTES_MAX, said};
