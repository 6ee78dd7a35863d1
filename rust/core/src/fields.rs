//! Which header fields travel, in both directions, and how ours are written.

use crate::digits::push_number;
use crate::subject::{RateState, Subject};

/// May this request header travel on?
///
/// A proxy forwards what it does not know (RFC 9110 section 7.6); what it must not forward are
/// hop-by-hop fields, credentials, what names the caller's network, and our own extras. An
/// underscore counts as a hyphen: servers that follow CGI read both alike.
#[must_use]
pub fn travels(name: &[u8]) -> bool {
    if name.contains(&b'_') {
        let hyphened: Vec<u8> =
            name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
        return travels(&hyphened);
    }
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    let starts = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    // By first letter: a head has a dozen fields, and most are decided by one comparison.
    !match name.first().map(u8::to_ascii_lowercase) {
        Some(b'a') => is("authorization") || is("accept-encoding") || is("api-key"),
        Some(b'c') => is("content-length") || is("connection") || is("cookie"),
        Some(b'e') => is("expect"),
        Some(b'f') => is("forwarded"),
        Some(b'h') => is("host") || is("http2-settings"),
        Some(b'k') => is("keep-alive"),
        Some(b'p') => starts("proxy-"),
        Some(b't') => is("te") || is("trailer") || is("transfer-encoding"),
        Some(b'u') => is("upgrade"),
        Some(b'v') => is("via"),
        Some(b'x') => {
            starts("x-modelux-")
                || starts("x-forwarded-")
                || is("x-api-key")
                || is("x-goog-api-key")
                || is("x-real-ip")
        }
        _ => false,
    }
}

/// Which fields of a provider's answer reach the caller.
pub(crate) fn passes_back(name: &[u8], status: u16) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match name.first().map(u8::to_ascii_lowercase) {
        Some(b'c') => {
            is("content-type")
                || is("content-encoding")
                || is("content-language")
                || is("content-disposition")
                || is("cache-control")
        }
        Some(b'd') => is("date"),
        Some(b'l') => is("location"),
        Some(b'o') => {
            is("openai-processing-ms")
                || is("openai-version")
                || is("openai-organization")
                || is("openai-model")
        }
        // Anthropic sends `retry-after` on 200s: only on an error does it mean what it says.
        Some(b'r') => is("request-id") || (status >= 400 && is("retry-after")),
        Some(b'w') => is("warning"),
        Some(b'x') => is("x-request-id"),
        _ => false,
    }
}

pub(crate) fn starts_with_ignoring_case(value: &[u8], start: &[u8]) -> bool {
    value.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// `X-Modelux-Config`, where the caller named a routing config.
pub fn push_config(subject: &Subject, out: &mut Vec<u8>) {
    if let Some((route, version)) = &subject.route {
        out.extend_from_slice(b"X-Modelux-Config: @");
        push_header_text(out, &route.slug);
        out.extend_from_slice(b" (v");
        push_number(out, u64::from(version.version));
        out.extend_from_slice(b")\r\n");
    }
}

/// `x-ratelimit-*` of a limited key.
pub fn push_rate(rate: &RateState, out: &mut Vec<u8>) {
    out.extend_from_slice(b"x-ratelimit-limit-requests: ");
    push_number(out, u64::from(rate.limit));
    out.extend_from_slice(b"\r\nx-ratelimit-remaining-requests: ");
    push_number(out, u64::from(rate.remaining));
    out.extend_from_slice(b"\r\nx-ratelimit-reset-requests: ");
    push_number(out, rate.reset_us.div_ceil(1000));
    out.extend_from_slice(b"ms\r\n");
}

/// A name from the configuration or the caller as a field value: visible ASCII only.
pub(crate) fn push_header_text(out: &mut Vec<u8>, text: &str) {
    out.extend(
        text.bytes()
            .map(|byte| if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' }),
    );
}
