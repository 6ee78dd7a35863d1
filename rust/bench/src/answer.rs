//! The fixed answers: what the upstream sends, and so what the load generator must receive.
//!
//! Both sides read the wish from the request body, with the same function. A proxy may add
//! `include_usage` on its way; the load generator still expects what *it* asked for.

use std::ops::Range;

use memchr::memmem;

/// One `chat.completion` of about a kilobyte, usage included.
pub const UNARY_BODY: &[u8] = br#"{"id":"chatcmpl-bench-0001","object":"chat.completion","created":1735689600,"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","content":"The tide goes out twice a day because the Moon pulls the water on the near side harder than the Earth beneath it, and the Earth harder than the water on the far side. Two bulges stand under that pull while the planet turns through them, so a harbour meets a high and a low water about every twelve hours and twenty-five minutes. The coast, the depth and the wind decide how much of it anyone sees: a hand's breadth in the Baltic, the height of a house in the Bay of Fundy.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":213,"completion_tokens":109,"total_tokens":322,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_bench"}"#;

/// The first event: it names the role and holds no content.
pub const ROLE_EVENT: &[u8] = b"data: {\"id\":\"chatcmpl-bench-0002\",\"object\":\"chat.completion.chunk\",\"created\":1735689600,\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
/// One content event, always the same, about 200 bytes.
pub const CONTENT_EVENT: &[u8] = b"data: {\"id\":\"chatcmpl-bench-0002\",\"object\":\"chat.completion.chunk\",\"created\":1735689600,\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" tide\"},\"finish_reason\":null}]}\n\n";
/// The event that carries the finish reason.
pub const FINISH_EVENT: &[u8] = b"data: {\"id\":\"chatcmpl-bench-0002\",\"object\":\"chat.completion.chunk\",\"created\":1735689600,\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
/// The usage event, sent only where `include_usage` is asked for.
pub const USAGE_EVENT: &[u8] = b"data: {\"id\":\"chatcmpl-bench-0002\",\"object\":\"chat.completion.chunk\",\"created\":1735689600,\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[],\"usage\":{\"prompt_tokens\":213,\"completion_tokens\":109,\"total_tokens\":322}}\n\n";
/// The end of every stream.
pub const DONE_EVENT: &[u8] = b"data: [DONE]\n\n";

/// Most content events that one stream may ask for.
pub const EVENTS_MAX: u64 = 1_000_000;

/// What a request body asks the upstream to do.
///
/// Settings stand in the body, as `"bench":"events=64 gap_us=5000 first_us=0"` inside
/// `metadata`: a gateway passes the body on unchanged, but not every header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Answer with server-sent events.
    pub stream: bool,
    /// Send the usage event.
    pub include_usage: bool,
    /// Content events of a stream.
    pub events: u64,
    /// Microseconds between two content events; 0: one write after the other.
    pub gap_us: u64,
    /// Microseconds from the whole request to the first byte of the answer.
    pub first_us: u64,
}

impl Wish {
    /// Read the wish of a request body.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let mut wish = Self {
            stream: has_true(body, b"\"stream\":"),
            include_usage: has_true(body, b"\"include_usage\":"),
            events: 16,
            gap_us: 0,
            first_us: 0,
        };
        let Some(at) = memmem::find(body, b"\"bench\":") else {
            return wish;
        };
        let rest = &body[at + b"\"bench\":".len()..];
        let Some(open) = memchr::memchr(b'"', rest) else {
            return wish;
        };
        let rest = &rest[open + 1..];
        let text = &rest[..memchr::memchr(b'"', rest).unwrap_or(rest.len())];
        for setting in text.split(|&byte| byte == b' ') {
            let Some(equals) = memchr::memchr(b'=', setting) else {
                continue;
            };
            let Some(value) = decimal(&setting[equals + 1..]) else {
                continue;
            };
            match &setting[..equals] {
                b"events" => wish.events = value.clamp(1, EVENTS_MAX),
                b"gap_us" => wish.gap_us = value,
                b"first_us" => wish.first_us = value,
                _ => {}
            }
        }
        wish
    }
}

fn has_true(body: &[u8], key: &[u8]) -> bool {
    memmem::find(body, key).is_some_and(|at| {
        let rest = &body[at + key.len()..];
        rest.strip_prefix(b" ").unwrap_or(rest).starts_with(b"true")
    })
}

/// Read a run of decimal digits; `None` for anything else and for what overflows.
#[must_use]
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, &byte| {
        if !byte.is_ascii_digit() {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

/// The bytes on the wire, made once: each is one write.
pub struct Frames {
    /// Head and body of the unary answer.
    pub unary: Vec<u8>,
    /// Head, role and first content event of a stream.
    pub first: Vec<u8>,
    /// One more content event.
    pub next: Vec<u8>,
    /// Finish reason, `[DONE]` and the last chunk.
    pub last: Vec<u8>,
    /// The same with the usage event.
    pub last_with_usage: Vec<u8>,
}

impl Frames {
    /// Write the heads and chunk sizes around the events.
    #[must_use]
    pub fn new() -> Self {
        let mut unary = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             x-request-id: req_bench\r\nopenai-processing-ms: 1\r\n\r\n",
            UNARY_BODY.len()
        )
        .into_bytes();
        unary.extend_from_slice(UNARY_BODY);

        let mut first =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
            transfer-encoding: chunked\r\nx-request-id: req_bench\r\n\r\n"
                .to_vec();
        first.extend(chunk(&[ROLE_EVENT, CONTENT_EVENT]));
        let end = b"0\r\n\r\n";
        let mut last = chunk(&[FINISH_EVENT, DONE_EVENT]);
        last.extend_from_slice(end);
        let mut last_with_usage = chunk(&[FINISH_EVENT, USAGE_EVENT, DONE_EVENT]);
        last_with_usage.extend_from_slice(end);
        Self { unary, first, next: chunk(&[CONTENT_EVENT]), last, last_with_usage }
    }
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

fn chunk(parts: &[&[u8]]) -> Vec<u8> {
    let payload = parts.concat();
    let mut out = format!("{:x}\r\n", payload.len()).into_bytes();
    out.extend_from_slice(&payload);
    out.extend_from_slice(b"\r\n");
    out
}

/// Compares a received body with the one that was asked for, byte for byte as it arrives.
#[derive(Clone, Debug)]
pub struct Check {
    wish: Wish,
    offset: usize,
    right: bool,
}

impl Check {
    /// Expect the answer to `wish`.
    #[must_use]
    pub fn new(wish: Wish) -> Self {
        Self { wish, offset: 0, right: true }
    }

    /// Take the next bytes of the body.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.right && !bytes.is_empty() {
            let (part, range) = self.expected();
            let want = &part[range];
            let take = want.len().min(bytes.len());
            if take == 0 || want[..take] != bytes[..take] {
                self.right = false;
                return;
            }
            self.offset += take;
            bytes = &bytes[take..];
        }
    }

    /// Content events that have arrived whole.
    #[must_use]
    pub fn events(&self) -> u64 {
        if !self.wish.stream || self.offset < ROLE_EVENT.len() {
            return 0;
        }
        let events = (self.offset - ROLE_EVENT.len()) / CONTENT_EVENT.len();
        self.wish.events.min(events as u64)
    }

    /// Is all that has arrived right so far?
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.right
    }

    /// Has the whole expected body arrived, and nothing else?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.right && self.expected().1.is_empty()
    }

    /// The constant that the next byte comes from, and what is left of it; empty at the end.
    fn expected(&self) -> (&'static [u8], Range<usize>) {
        if !self.wish.stream {
            return (UNARY_BODY, self.offset..UNARY_BODY.len());
        }
        let mut at = self.offset;
        if at < ROLE_EVENT.len() {
            return (ROLE_EVENT, at..ROLE_EVENT.len());
        }
        at -= ROLE_EVENT.len();
        let event = at / CONTENT_EVENT.len();
        if (event as u64) < self.wish.events {
            let within = at % CONTENT_EVENT.len();
            return (CONTENT_EVENT, within..CONTENT_EVENT.len());
        }
        at -= usize::try_from(self.wish.events).unwrap_or(usize::MAX) * CONTENT_EVENT.len();
        let usage: &[u8] = if self.wish.include_usage { USAGE_EVENT } else { b"" };
        for part in [FINISH_EVENT, usage] {
            if at < part.len() {
                return (part, at..part.len());
            }
            at -= part.len();
        }
        (DONE_EVENT, at.min(DONE_EVENT.len())..DONE_EVENT.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_wish(events: u64, include_usage: bool) -> Wish {
        Wish { stream: true, include_usage, events, gap_us: 0, first_us: 0 }
    }

    fn stream_body(wish: Wish) -> Vec<u8> {
        let mut body = ROLE_EVENT.to_vec();
        for _ in 0..wish.events {
            body.extend_from_slice(CONTENT_EVENT);
        }
        body.extend_from_slice(FINISH_EVENT);
        if wish.include_usage {
            body.extend_from_slice(USAGE_EVENT);
        }
        body.extend_from_slice(DONE_EVENT);
        body
    }

    #[test]
    fn a_wish_is_read_with_and_without_spaces() {
        let wish = Wish::of(
            br#"{"stream": true, "stream_options":{"include_usage":true},
                "metadata":{"bench": "events=7 gap_us=250 first_us=9"}}"#,
        );
        assert_eq!(
            wish,
            Wish { stream: true, include_usage: true, events: 7, gap_us: 250, first_us: 9 }
        );
        assert!(!Wish::of(br#"{"stream":false,"messages":[]}"#).stream);
    }

    #[test]
    fn sizes_are_those_that_the_report_states() {
        assert!((900..1_100).contains(&UNARY_BODY.len()), "{}", UNARY_BODY.len());
        assert!((180..220).contains(&CONTENT_EVENT.len()), "{}", CONTENT_EVENT.len());
    }

    #[test]
    fn the_expected_body_passes_however_it_is_cut() {
        for wish in [stream_wish(3, true), stream_wish(1, false)] {
            let body = stream_body(wish);
            for size in [1, 2, 7, 100, body.len()] {
                let mut check = Check::new(wish);
                for piece in body.chunks(size) {
                    assert!(!check.is_complete());
                    check.feed(piece);
                }
                assert!(check.is_complete(), "pieces of {size}");
                assert_eq!(check.events(), wish.events);
            }
        }
    }

    #[test]
    fn a_wrong_a_missing_and_an_extra_byte_are_all_noticed() {
        let wish = stream_wish(2, false);
        let mut wrong = stream_body(wish);
        wrong[300] ^= 1;
        let mut check = Check::new(wish);
        check.feed(&wrong);
        assert!(!check.is_right());

        let body = stream_body(wish);
        let mut check = Check::new(wish);
        check.feed(&body[..body.len() - 1]);
        assert!(check.is_right() && !check.is_complete());

        let mut check = Check::new(wish);
        check.feed(&body);
        check.feed(b"x");
        assert!(!check.is_complete());
    }

    #[test]
    fn a_usage_event_that_was_not_asked_for_is_wrong() {
        let mut check = Check::new(stream_wish(2, false));
        check.feed(&stream_body(stream_wish(2, true)));
        assert!(!check.is_right());
    }
}
