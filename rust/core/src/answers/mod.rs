//! What is done with whole answers of the OpenAI protocol: read, judged, merged, rewritten.
//!
//! Ensembles and cascades read an answer before anybody sees it. All here are pure functions of
//! its bytes, whole or as the events of its stream, which must come to the same. What a provider
//! sent is untrusted: any bytes at all give a value, and every loop over them has a bound.
//!
//! Who calls whom, how much is held and what reaches the caller is for `exchange` to say.

mod judge;
mod pattern;
mod rewrite;
mod said;
mod schema;
mod value;
mod vote;

pub use judge::{
    JUDGE_REQUEST_BYTES_MAX, judge_output_tokens, judge_pick, judge_pick_request, judge_score,
    judge_score_request,
};
pub use rewrite::{DRY_EMBEDDINGS_MAX, dry_answer, dry_embeddings, rewrite};
pub use said::{Said, TEXT_BYTES_MAX, said};
pub use schema::{CHECK_STEPS_MAX, SCHEMA_BYTES_MAX, Validity, is_valid};
pub use vote::{average, vote};
