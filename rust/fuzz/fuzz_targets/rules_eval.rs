//! Any sound rule, over any values.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| modelux_fuzz::rules_eval(data));
