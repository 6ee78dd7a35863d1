//! CPU time of processes, from the scheduler's own nanoseconds.

use std::fs;

/// Nanoseconds on a CPU of all living threads of `pid` (`"self"` for this process).
///
/// `/proc/PID/stat` counts in ticks of 10 ms; `schedstat` is what those are scaled from.
/// A thread that has ended is not in it: whatever is measured here keeps its threads.
#[must_use]
pub fn process_ns(pid: &str) -> Option<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let path = task.ok()?.path().join("schedstat");
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_process_has_no_time() {
        assert_eq!(process_ns("0"), None);
        assert!(process_ns("self").is_some());
    }
}
