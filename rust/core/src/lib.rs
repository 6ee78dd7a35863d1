//! The pure core of modelux.
