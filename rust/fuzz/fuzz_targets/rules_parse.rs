//! Any bytes as a rule's text.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| modelux_fuzz::rules_parse(data));
