//! Follows one response at a time: status, framing, and the payload bytes as they arrive.
//!
//! ```text
//!            length            all of it
//!   HEAD ───────────► LENGTH ──────────────────────────────────────────► DONE
//!     │ chunked                                                           ▲
//!     └─────────► SIZE ──► DATA ──► DATA_END ──► SIZE … (size 0) ─► TRAILER
//! ```

use memchr::{memchr, memmem};

use crate::answer::decimal;
use crate::request::field;

/// Longest head that is waited for, and longest line of chunk framing.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length,
    Size,
    Data,
    DataEnd,
    Trailer,
    Done,
}

/// Why a response cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The head is no HTTP/1 head, or has neither length nor chunks.
    Head,
    /// The chunk framing is broken.
    Chunk,
    /// A head or line passes [`HEAD_BYTES_MAX`].
    TooLong,
}

/// The parser; one a connection, reused for each response on it.
#[derive(Debug)]
pub struct Response {
    state: State,
    /// A head or a framing line that came in pieces.
    held: Vec<u8>,
    left_bytes: u64,
    status: u16,
    is_last: bool,
}

impl Default for Response {
    fn default() -> Self {
        Self::new()
    }
}

impl Response {
    /// Expect a head.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Head,
            held: Vec::with_capacity(1024),
            left_bytes: 0,
            status: 0,
            is_last: false,
        }
    }

    /// Expect the next response of the same connection.
    pub fn reset(&mut self) {
        self.state = State::Head;
        self.held.clear();
        self.left_bytes = 0;
        self.status = 0;
        self.is_last = false;
    }

    /// The status, 0 before the head is whole.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Has the whole response arrived?
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Does the server close the connection after this response?
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// Take bytes up to the end of the response; hand payload to `payload`.
    ///
    /// Returns how many bytes belong to this response: less than all of them only when it is
    /// done.
    ///
    /// # Errors
    /// What arrived is not a response that can be followed.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut payload: impl FnMut(&[u8]),
    ) -> Result<usize, Fault> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            let rest = &bytes[at..];
            at += match self.state {
                State::Head => self.take_head(rest)?,
                State::Length | State::Data => self.take_payload(rest, &mut payload),
                State::Size | State::DataEnd | State::Trailer => self.take_line(rest)?,
                State::Done => 0,
            };
        }
        Ok(at)
    }

    fn take_payload(&mut self, rest: &[u8], payload: &mut impl FnMut(&[u8])) -> usize {
        let take =
            usize::try_from(self.left_bytes).map_or(rest.len(), |left| left.min(rest.len()));
        payload(&rest[..take]);
        self.left_bytes -= take as u64;
        if self.left_bytes == 0 {
            self.state = if self.state == State::Length { State::Done } else { State::DataEnd };
        }
        take
    }

    fn take_head(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        const END: &[u8] = b"\r\n\r\n";
        if self.held.is_empty()
            && let Some(end) = memmem::find(rest, END)
        {
            self.read_head(&rest[..end + END.len()])?;
            return Ok(end + END.len());
        }
        let before = self.held.len();
        self.held.extend_from_slice(rest);
        // What was searched before can only hold the start of the empty line.
        let from = before.saturating_sub(END.len() - 1);
        let Some(found) = memmem::find(&self.held[from..], END) else {
            return if self.held.len() > HEAD_BYTES_MAX {
                Err(Fault::TooLong)
            } else {
                Ok(rest.len())
            };
        };
        let head_bytes = from + found + END.len();
        let held = std::mem::take(&mut self.held);
        let read = self.read_head(&held[..head_bytes]);
        self.held = held;
        self.held.clear();
        read?;
        Ok(head_bytes - before)
    }

    fn read_head(&mut self, head: &[u8]) -> Result<(), Fault> {
        let line = head.strip_prefix(b"HTTP/1.").ok_or(Fault::Head)?;
        let status = line.get(2..5).and_then(decimal).ok_or(Fault::Head)?;
        self.status = u16::try_from(status).map_err(|_| Fault::Head)?;
        let mut length = None;
        let mut is_chunked = false;
        let mut rest = head;
        while let Some(feed) = memchr(b'\n', rest) {
            rest = &rest[feed + 1..];
            if let Some(value) = field(rest, b"content-length:") {
                length = Some(decimal(value).ok_or(Fault::Head)?);
            } else if let Some(value) = field(rest, b"transfer-encoding:") {
                is_chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if let Some(value) = field(rest, b"connection:") {
                self.is_last = value.eq_ignore_ascii_case(b"close");
            }
        }
        match (is_chunked, length) {
            (true, _) => self.state = State::Size,
            (false, Some(0)) => self.state = State::Done,
            (false, Some(length)) => {
                self.left_bytes = length;
                self.state = State::Length;
            }
            (false, None) => return Err(Fault::Head),
        }
        Ok(())
    }

    fn take_line(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let Some(feed) = memchr(b'\n', rest) else {
            self.held.extend_from_slice(rest);
            return if self.held.len() > HEAD_BYTES_MAX {
                Err(Fault::TooLong)
            } else {
                Ok(rest.len())
            };
        };
        if self.held.is_empty() {
            self.read_line(&rest[..=feed])?;
        } else {
            self.held.extend_from_slice(&rest[..=feed]);
            let held = std::mem::take(&mut self.held);
            let read = self.read_line(&held);
            self.held = held;
            self.held.clear();
            read?;
        }
        Ok(feed + 1)
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let line = line.strip_suffix(b"\r\n").ok_or(Fault::Chunk)?;
        match self.state {
            State::Size => {
                let digits = &line[..memchr(b';', line).unwrap_or(line.len())];
                self.left_bytes = hexadecimal(digits).ok_or(Fault::Chunk)?;
                self.state = if self.left_bytes == 0 { State::Trailer } else { State::Data };
            }
            State::DataEnd if line.is_empty() => self.state = State::Size,
            State::Trailer if line.is_empty() => self.state = State::Done,
            State::Trailer => {}
            _ => return Err(Fault::Chunk),
        }
        Ok(())
    }
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 15 {
        return None;
    }
    text.iter().try_fold(0_u64, |value, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{CONTENT_EVENT, Check, Frames, UNARY_BODY, Wish};

    /// Feed `bytes` in pieces of `size`, reading at most one response.
    fn read(bytes: &[u8], size: usize) -> Result<(u16, Vec<u8>, usize, bool), Fault> {
        let mut response = Response::new();
        let mut payload = Vec::new();
        let mut used = 0;
        for piece in bytes.chunks(size) {
            used += response.feed(piece, |bytes| payload.extend_from_slice(bytes))?;
        }
        Ok((response.status(), payload, used, response.is_done()))
    }

    fn stream(frames: &Frames, events: usize) -> Vec<u8> {
        let mut bytes = frames.first.clone();
        for _ in 1..events {
            bytes.extend_from_slice(&frames.next);
        }
        bytes.extend_from_slice(&frames.last_with_usage);
        bytes
    }

    #[test]
    fn a_response_does_not_depend_on_how_it_is_cut() {
        let frames = Frames::new();
        let two_events = stream(&frames, 2);
        for whole in [&frames.unary, &two_events] {
            let at_once = read(whole, whole.len()).unwrap();
            assert!(at_once.3);
            for size in 1..whole.len() {
                assert_eq!(read(whole, size).unwrap(), at_once, "pieces of {size}");
            }
        }
        assert_eq!(read(&frames.unary, 9).unwrap().1, UNARY_BODY);
    }

    #[test]
    fn what_the_upstream_streams_is_what_the_check_expects() {
        let wish =
            Wish { stream: true, include_usage: true, events: 5, gap_us: 0, first_us: 0 };
        let mut check = Check::new(wish);
        let bytes = stream(&Frames::new(), 5);
        let (_, payload, ..) = read(&bytes, 4096).unwrap();
        check.feed(&payload);
        assert!(check.is_complete());
        assert!(payload.len() > 5 * CONTENT_EVENT.len());
    }

    #[test]
    fn bytes_after_the_end_are_left_to_the_next_response() {
        let frames = Frames::new();
        let two = [frames.unary.as_slice(), &frames.unary].concat();
        let mut response = Response::new();
        assert_eq!(response.feed(&two, |_| {}).unwrap(), frames.unary.len());
        assert!(response.is_done());
        response.reset();
        assert_eq!(response.feed(&two, |_| {}).unwrap(), frames.unary.len());
    }

    #[test]
    fn an_answer_without_a_body_is_done_with_its_head() {
        let head =
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n";
        let mut response = Response::new();
        assert_eq!(response.feed(head, |_| {}).unwrap(), head.len());
        assert!(response.is_done() && response.is_last());
        assert_eq!(response.status(), 503);
    }

    #[test]
    fn what_cannot_be_followed_is_a_fault() {
        let until_close = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n";
        assert_eq!(read(until_close, 10).unwrap_err(), Fault::Head);
        assert_eq!(read(b"SSH-2.0-x\r\n\r\n", 10).unwrap_err(), Fault::Head);
        let bad_size = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
        assert_eq!(read(bad_size, 10).unwrap_err(), Fault::Chunk);
        let long_data = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n";
        assert_eq!(read(long_data, 10).unwrap_err(), Fault::Chunk);
    }
}
