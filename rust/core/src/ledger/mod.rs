//! The ledger: what every budget has spent and holds, in memory that all workers share.
//!
//! `row` has the nouns; everything else of this module reads and writes them.

pub mod row;
