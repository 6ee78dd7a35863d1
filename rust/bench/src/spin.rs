//! Waiting without sleeping.
//!
//! On loopback whoever sends also wakes who receives, and pays for it, the more the idler the
//! receiver is; in a virtual machine that is dearer than the sending. Over a network nobody
//! pays it. A receiver that never sleeps takes it out of the figures of what is under test.

use std::io;
use std::time::Duration;

use mio::{Events, Poll};
use rustix::thread::sched_yield;

/// Wait for events; spinning, look and give way to whoever else runs on this CPU.
///
/// # Errors
/// What the kernel gives; an interrupted call is one that found nothing.
pub fn wait(poll: &mut Poll, events: &mut Events, is_spinning: bool) -> io::Result<()> {
    let timeout = is_spinning.then_some(Duration::ZERO);
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
        other => other?,
    }
    if is_spinning && events.is_empty() {
        sched_yield();
    }
    Ok(())
}
