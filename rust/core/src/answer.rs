//! What an answer says beyond its bytes: usage, and the status behind an error in a stream.

use serde_json::Value;

use crate::json::{Cursor, Kind};
use crate::usage::{Usage, usage_of_answer};

/// Read a whole JSON answer: its usage, and whether it can be read at all.
#[must_use]
pub fn read_answer(body: &[u8]) -> (Option<Usage>, bool) {
    match usage_of_answer(body) {
        Some(usage) => (Some(usage), true),
        None => (None, is_object(body)),
    }
}

/// The length of the first vector of an embedding; None where there is none to be read.
///
/// Vectors in base64 are of 32-bit floats.
#[must_use]
pub fn vector_length(body: &[u8]) -> Option<u64> {
    let document: Value = serde_json::from_slice(body).ok()?;
    match document.get("data")?.get(0)?.get("embedding")? {
        Value::Array(numbers) => Some(numbers.len() as u64),
        Value::String(text) => Some((text.trim_end_matches('=').len() as u64 * 3 / 4) / 4),
        _ => None,
    }
}

/// Whether a caller's JSON reader would take this for an object.
///
/// Python's and JavaScript's libraries differ on `NaN` and `Infinity`, which servers built on the
/// former do send: such an answer is the caller's to read, its figures are believed by nobody.
fn is_object(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    is_strict_object(body) || is_strict_object(&without_odd_numbers(body))
}

fn is_strict_object(body: &[u8]) -> bool {
    let mut cursor = Cursor::new(body);
    matches!(cursor.kind(), Ok(Kind::Object)) && cursor.skip().is_ok() && cursor.end().is_ok()
}

/// The same text with `NaN`, `Infinity` and `-Infinity` outside of strings made zeros.
pub(crate) fn without_odd_numbers(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(body.len());
    let mut rest = body;
    let mut in_string = false;
    while let Some((&byte, after)) = rest.split_first() {
        let odd = if in_string {
            None
        } else {
            [&b"-Infinity"[..], b"Infinity", b"NaN"]
                .into_iter()
                .find(|word| rest.starts_with(word))
        };
        if let Some(word) = odd {
            plain.push(b'0');
            rest = &rest[word.len()..];
            continue;
        }
        plain.push(byte);
        rest = after;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                if let Some((&escaped, after)) = rest.split_first() {
                    plain.push(escaped);
                    rest = after;
                }
            }
            _ => {}
        }
    }
    plain
}

/// The HTTP status that an error event stands for, when it comes before any content.
///
/// A stream has sent its 200 before its provider knew better; as long as the caller has not seen
/// it, the error is treated as the status it would have been.
#[must_use]
pub fn error_status(event: &[u8]) -> u16 {
    let Ok(Value::Object(document)) = serde_json::from_slice(event) else { return 500 };
    let error = document.get("error").unwrap_or(&Value::Null);
    for name in ["status", "status_code", "code"] {
        let number = match error.get(name) {
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        if let Some(status) = number.and_then(|number| u16::try_from(number).ok())
            && (400..=599).contains(&status)
        {
            return status;
        }
    }
    let word = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or("");
    let words = [word("type"), word("code")];
    let says = |needle: &str| words.iter().any(|word| word.contains(needle));
    if says("rate_limit") || says("quota") {
        429
    } else if says("overloaded") {
        503
    } else if says("authentication") || says("invalid_api_key") {
        401
    } else if says("permission") {
        403
    } else if says("not_found") {
        404
    } else if says("invalid_request") {
        400
    } else {
        500
    }
}
