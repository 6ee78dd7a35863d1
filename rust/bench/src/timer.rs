//! A timer that is precise to microseconds and waits inside the same epoll as the sockets.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

const NS_PER_S: u64 = 1_000_000_000;

/// One timer file descriptor. Registered edge-triggered, so it need not be read: setting it
/// anew clears it.
pub struct Timer {
    fd: OwnedFd,
    armed_ns: Option<u64>,
}

impl Timer {
    /// Make it and wait for it under `token`.
    ///
    /// # Errors
    /// The kernel gives no timer.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let fd = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { fd, armed_ns: None })
    }

    /// Fire at `at_ns`, `now_ns` being the present on the caller's own clock.
    ///
    /// # Errors
    /// The kernel refuses the setting.
    pub fn arm(&mut self, at_ns: u64, now_ns: u64) -> io::Result<()> {
        if self.armed_ns == Some(at_ns) {
            return Ok(());
        }
        self.armed_ns = Some(at_ns);
        // 0 would switch it off; what is due fires at once.
        let wait_ns = at_ns.saturating_sub(now_ns).max(1);
        let spec = Itimerspec { it_interval: timespec(0), it_value: timespec(wait_ns) };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }

    /// It has fired: the next [`Timer::arm`] sets it even to the same instant.
    pub fn fired(&mut self) {
        self.armed_ns = None;
    }
}

#[expect(clippy::cast_possible_wrap, reason = "seconds and nanoseconds far below 2^63")]
fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / NS_PER_S) as i64, tv_nsec: (ns % NS_PER_S) as i64 }
}
