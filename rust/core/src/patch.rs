//! The few bytes of a request body that we change before it goes upstream.
//!
//! Works on the spans that `scan` found: every other byte is the caller's and stays as it is,
//! order, white space and number spellings included.

use crate::digits::push_number;
use crate::json::Span;
use crate::scan::{Facts, LimitKey, UsageEdit};

/// What to change besides cutting our own members, which always happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edit<'a> {
    /// The model's name at the provider; None leaves the caller's.
    pub model: Option<&'a str>,
    /// Ask for usage in the stream. Has no effect on a request that does not stream.
    pub include_usage: bool,
    /// The output limit to send. Its spelling is set or added; where the caller gave a limit in
    /// the other spelling too, that one is set as well, so that both say the same.
    pub output_limit: Option<(u64, LimitKey)>,
}

/// Append `body` with its changes to `out`.
///
/// `facts` must come from `scan` of this very `body`.
pub fn patch(body: &[u8], facts: &Facts, edit: &Edit<'_>, out: &mut Vec<u8>) {
    let mut changes: Vec<(Span, Insert<'_>)> = Vec::with_capacity(facts.mlx_members.len() + 4);
    if edit.include_usage && facts.stream {
        changes.extend(usage_change(facts));
    }
    if let Some(model) = edit.model {
        changes.push((facts.model_span, Insert::Quoted(model)));
    }
    if let Some((limit, key)) = edit.output_limit {
        limit_changes(facts, limit, key, &mut changes);
    }
    changes.extend(facts.mlx_members.iter().map(|&span| (span, Insert::Raw(b""))));
    changes.sort_by_key(|(span, _)| (span.start, span.end));

    out.reserve(body.len() + EXTRA_BYTES);
    let mut at = 0;
    for (span, insert) in changes {
        out.extend_from_slice(&body[at..span.start]);
        match insert {
            Insert::Raw(bytes) => out.extend_from_slice(bytes),
            Insert::Quoted(text) => quote(text, out),
            Insert::Number(number) => push_number(out, number),
            Insert::Limit(key, number) => {
                quote(key.name(), out);
                out.push(b':');
                push_number(out, number);
                out.push(b',');
            }
        }
        at = span.end;
    }
    out.extend_from_slice(&body[at..]);
}

/// Room for what is usually added, so that `out` grows once.
const EXTRA_BYTES: usize = 128;

enum Insert<'a> {
    Raw(&'static [u8]),
    Quoted(&'a str),
    Number(u64),
    /// A member with its comma.
    Limit(LimitKey, u64),
}

fn limit_changes(
    facts: &Facts,
    limit: u64,
    key: LimitKey,
    changes: &mut Vec<(Span, Insert<'_>)>,
) {
    let mut is_there = false;
    let spellings = [
        (LimitKey::MaxTokens, facts.max_tokens),
        (LimitKey::MaxCompletionTokens, facts.max_completion_tokens),
    ];
    for (spelling, value) in spellings {
        let Some(value) = value else { continue };
        is_there |= spelling == key;
        // A `null` in the other spelling says nothing, and some refuse a body that uses both.
        if spelling == key || !value.is_null {
            changes.push((value.span, Insert::Number(limit)));
        }
    }
    if !is_there {
        // A body always has the member `model`, which stays, so a comma may follow.
        let at = facts.object_start + 1;
        changes.push((Span { start: at, end: at }, Insert::Limit(key, limit)));
    }
}

fn usage_change(facts: &Facts) -> Option<(Span, Insert<'static>)> {
    let at = |start: usize| Span { start, end: start };
    match facts.usage_edit {
        // A body always has the member `model`, which stays, so a comma may follow.
        UsageEdit::AddMember => Some((
            at(facts.object_start + 1),
            Insert::Raw(b"\"stream_options\":{\"include_usage\":true},"),
        )),
        UsageEdit::Replace { span, is_options: true } => {
            Some((span, Insert::Raw(b"{\"include_usage\":true}")))
        }
        UsageEdit::Replace { span, is_options: false } => Some((span, Insert::Raw(b"true"))),
        UsageEdit::AddOption { at: start, is_empty: true } => {
            Some((at(start), Insert::Raw(b"\"include_usage\":true")))
        }
        UsageEdit::AddOption { at: start, is_empty: false } => {
            Some((at(start), Insert::Raw(b"\"include_usage\":true,")))
        }
        UsageEdit::Nothing => None,
    }
}

/// Append `text` as a JSON string, escaping what must be escaped and nothing else.
pub fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => {
                let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit & 0xf)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
