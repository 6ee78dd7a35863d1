//! A request's way through the core: a real gate with real cells and a real ring.

#![expect(clippy::unwrap_used, reason = "a test that unwraps names the line that failed")]

mod budgets;
mod exchange;
mod gate;
mod routing;
mod strategies;
mod support;
