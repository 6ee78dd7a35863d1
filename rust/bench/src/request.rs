//! Reads requests as the upstream needs them: where the head ends, how long the body is.
//!
//! This judges nothing. Whoever sends these requests is a proxy that is measured, and what it
//! sends is judged by tests elsewhere.

use memchr::{memchr, memmem};

use crate::answer::decimal;

/// What stands at the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Parse {
    /// Not a whole request yet.
    Partial,
    /// A request: head and body lengths in bytes.
    Done {
        /// Up to and including the empty line.
        head_bytes: usize,
        /// From `content-length`; 0 without one.
        body_bytes: usize,
    },
    /// A body whose end cannot be told here.
    Refused,
}

/// Find the end of the request that starts at `buf[0]`.
#[must_use]
pub fn parse(buf: &[u8]) -> Parse {
    let Some(end) = memmem::find(buf, b"\r\n\r\n") else {
        return Parse::Partial;
    };
    let head_bytes = end + 4;
    let mut body_bytes = 0;
    // From the end of the request line on; each line keeps its line feed.
    let mut rest = &buf[..end + 2];
    while let Some(feed) = memchr(b'\n', rest) {
        rest = &rest[feed + 1..];
        if let Some(value) = field(rest, b"content-length:") {
            match decimal(value).and_then(|length| usize::try_from(length).ok()) {
                Some(length) => body_bytes = length,
                None => return Parse::Refused,
            }
        } else if field(rest, b"transfer-encoding:").is_some() {
            return Parse::Refused;
        }
    }
    if buf.len() - head_bytes < body_bytes {
        return Parse::Partial;
    }
    Parse::Done { head_bytes, body_bytes }
}

/// The trimmed value of the field `name_colon` at the start of `line`, if it is that field.
#[must_use]
pub fn field<'b>(line: &'b [u8], name_colon: &[u8]) -> Option<&'b [u8]> {
    let name = line.get(..name_colon.len())?;
    if !name.eq_ignore_ascii_case(name_colon) {
        return None;
    }
    let rest = &line[name_colon.len()..];
    let end = memchr(b'\r', rest).unwrap_or(rest.len());
    Some(rest[..end].trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] =
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-LENGTH:  5\r\n\r\nhello";

    #[test]
    fn a_request_is_partial_until_its_last_byte() {
        for end in 0..REQUEST.len() {
            assert_eq!(parse(&REQUEST[..end]), Parse::Partial, "{end}");
        }
        let whole = Parse::Done { head_bytes: REQUEST.len() - 5, body_bytes: 5 };
        assert_eq!(parse(REQUEST), whole);
        assert_eq!(parse(&[REQUEST, REQUEST].concat()), whole);
    }

    #[test]
    fn a_request_without_a_length_has_no_body() {
        let request = b"GET /_stats HTTP/1.1\r\nhost: a\r\n\r\n";
        let whole = Parse::Done { head_bytes: request.len(), body_bytes: 0 };
        assert_eq!(parse(request), whole);
    }

    #[test]
    fn a_body_without_a_known_end_is_refused() {
        assert_eq!(
            parse(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"),
            Parse::Refused
        );
        assert_eq!(parse(b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"), Parse::Refused);
    }
}
