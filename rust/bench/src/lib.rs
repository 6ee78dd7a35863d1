//! What the load generator and the fixed-answer upstream share.
//!
//! Both binaries are one thread on one epoll and make no allocation for a request once they
//! are warm: whatever they cost is taken from the machine that the proxy is measured on.

#![forbid(unsafe_code)]

pub mod answer;
pub mod cpu;
pub mod flags;
pub mod histogram;
pub mod poisson;
pub mod request;
pub mod response;
pub mod spin;
pub mod timer;
