//! The ledger as several processes use it: turns, the end of a dead worker, faults of the map.

#![expect(clippy::unwrap_used, reason = "a test that unwraps names the line that failed")]

mod faults;
mod keep;
mod recovery;
mod support;
mod turns;
mod windows;
