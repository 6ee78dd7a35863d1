//! Latencies in nanoseconds, kept whole: what is printed are all buckets, never percentiles.

use std::fmt::Write as _;

use hdrhistogram::{CreationError, Histogram};

/// An HDR histogram of nanoseconds with three significant digits.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// From a nanosecond to ten minutes.
    ///
    /// # Errors
    /// Only if these bounds did not suit the library.
    pub fn new() -> Result<Self, CreationError> {
        Histogram::new_with_bounds(1, 600_000_000_000, 3).map(Self)
    }

    /// Record one; what is out of bounds counts as the bound.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// As JSON: `{"count", "min_ns", "max_ns", "mean_ns", "buckets": [[upper_ns, count], …]}`.
    #[must_use]
    pub fn json(&self) -> String {
        let mut out = format!(
            "{{\"count\":{},\"min_ns\":{},\"max_ns\":{},\"mean_ns\":{:.1},\"buckets\":[",
            self.0.len(),
            if self.0.is_empty() { 0 } else { self.0.min() },
            self.0.max(),
            self.0.mean()
        );
        for (index, step) in self.0.iter_recorded().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = write!(
                out,
                "{comma}[{},{}]",
                step.value_iterated_to(),
                step.count_since_last_iteration()
            );
        }
        out.push_str("]}");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_recorded_values_are_printed_with_their_counts() {
        let mut latencies = Latencies::new().unwrap();
        for ns in [100, 100, 500, 7_000_000] {
            latencies.record(ns);
        }
        let json = latencies.json();
        assert!(json.starts_with("{\"count\":4,\"min_ns\":100,"), "{json}");
        assert!(json.contains("[[100,2],[500,1],[70"), "{json}");
    }

    #[test]
    fn an_empty_one_is_valid_json() {
        let json = Latencies::new().unwrap().json();
        assert!(json.ends_with("\"buckets\":[]}"), "{json}");
    }
}
