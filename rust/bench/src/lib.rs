//! What the load generator and the fixed-answer upstream share.
