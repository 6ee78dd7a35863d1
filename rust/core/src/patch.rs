//! The few bytes of a request body that we change before it goes upstream.
//!
//! Works on the spans that `scan` found: every other byte is the caller's and stays as it is,
//! order, white space and number spellings included.

use crate::digits::push_number;
use crate::json::{Cursor, JsonFault, Span, Text};
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

/// Append `body` with a target's `params` on its top level to `out`.
///
/// Both are JSON objects, `body` for example what [`patch`] made. A key that stands in the body
/// has its value replaced, wherever and however often it stands there, so that no reader sees
/// another; the others are appended before the closing brace in their order. All other bytes
/// stay as they are. Of a key that stands twice in `params` the last value counts.
///
/// # Errors
/// If either is not a JSON object; then nothing is appended.
pub fn merge_params(body: &[u8], params: &[u8], out: &mut Vec<u8>) -> Result<(), JsonFault> {
    let news = members(params)?;
    let mut is_placed: Vec<bool> = (0..news.len())
        .map(|index| news[index + 1..].iter().any(|(later, _)| is_same(later, &news[index].0)))
        .collect();
    let before = out.len();
    out.reserve(body.len() + params.len() + 1);
    let merged = merge_members(body, params, &news, &mut is_placed, out);
    if merged.is_err() {
        out.truncate(before);
    }
    merged
}

/// `is_placed`: the members of `params` that stand in `out`, or that a later one outdoes.
fn merge_members(
    body: &[u8],
    params: &[u8],
    news: &[(Text<'_>, Span)],
    is_placed: &mut [bool],
    out: &mut Vec<u8>,
) -> Result<(), JsonFault> {
    let mut cursor = Cursor::new(body);
    let mut more = cursor.enter_object()?;
    let mut is_first = !more;
    // Of an empty object, where its brace stands.
    let mut last = cursor.at() - 1;
    let mut at = 0;
    while more {
        let key = cursor.key()?;
        let value = cursor.skip()?;
        if let Some(index) = news.iter().rposition(|(name, _)| is_same(name, &key)) {
            out.extend_from_slice(&body[at..value.start]);
            out.extend_from_slice(&params[news[index].1.start..news[index].1.end]);
            at = value.end;
            is_placed[index] = true;
        }
        last = value.end;
        more = cursor.more_members()?;
    }
    cursor.end()?;
    // White space before the brace stays in front of it.
    out.extend_from_slice(&body[at..last]);
    for (index, (key, value)) in news.iter().enumerate() {
        if is_placed[index] {
            continue;
        }
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        out.extend_from_slice(&params[key.span.start..key.span.end]);
        out.push(b':');
        out.extend_from_slice(&params[value.start..value.end]);
    }
    out.extend_from_slice(&body[last..]);
    Ok(())
}

fn is_same(one: &Text<'_>, other: &Text<'_>) -> bool {
    one.key_bytes() == other.key_bytes()
}

/// The keys of an object, each with where its value stands.
fn members(object: &[u8]) -> Result<Vec<(Text<'_>, Span)>, JsonFault> {
    let mut cursor = Cursor::new(object);
    let mut members = Vec::new();
    let mut more = cursor.enter_object()?;
    while more {
        members.push((cursor.key()?, cursor.skip()?));
        more = cursor.more_members()?;
    }
    cursor.end()?;
    Ok(members)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::scan::{Shape, scan};

    fn merged(body: &str, params: &str) -> String {
        let mut out = b"kept ".to_vec();
        merge_params(body.as_bytes(), params.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap().strip_prefix("kept ").unwrap().to_owned()
    }

    #[test]
    fn a_key_that_stands_there_gets_another_value_and_the_rest_is_appended() {
        let body = "{ \"model\" : \"m\",\n \"temperature\" : 1.0 , \"n\":1e0 \n}\n";
        assert_eq!(
            merged(body, r#"{"temperature": 0.20, "top_p":1, "x": {"y": [1, 2]}}"#),
            "{ \"model\" : \"m\",\n \"temperature\" : 0.20 , \"n\":1e0,\"top_p\":1,\"x\":{\"y\": [1, 2]} \n}\n"
        );
    }

    #[test]
    fn an_empty_side_changes_nothing_of_the_other() {
        assert_eq!(merged(" { } ", "{}"), " { } ");
        assert_eq!(merged(" { } ", r#"{"a":1,"b":2}"#), r#" { "a":1,"b":2} "#);
        assert_eq!(merged("{}", r#"{ "a" : 1 }"#), r#"{"a":1}"#);
        assert_eq!(merged(r#"{"a":1}"#, "{}"), r#"{"a":1}"#);
    }

    #[test]
    fn keys_are_compared_by_what_they_mean() {
        assert_eq!(merged(r#"{"\u0061":1}"#, r#"{"a":2}"#), r#"{"\u0061":2}"#);
        assert_eq!(merged(r#"{"a":1}"#, r#"{"\u0061":2}"#), r#"{"a":2}"#);
    }

    #[test]
    fn a_key_that_stands_twice_is_replaced_twice_and_appended_once() {
        assert_eq!(merged(r#"{"a":1,"b":[],"a":2}"#, r#"{"a":3}"#), r#"{"a":3,"b":[],"a":3}"#);
        assert_eq!(merged(r#"{"a":1}"#, r#"{"a":2,"b":3,"a":4,"b":5}"#), r#"{"a":4,"b":5}"#);
    }

    #[test]
    fn only_the_top_level_is_merged() {
        assert_eq!(merged(r#"{"x":{"a":1}}"#, r#"{"a":2}"#), r#"{"x":{"a":1},"a":2}"#);
        assert_eq!(merged(r#"{"x":{"a":1}}"#, r#"{"x":{"b":2}}"#), r#"{"x":{"b":2}}"#);
    }

    #[test]
    fn what_is_no_object_is_refused_and_leaves_the_output_as_it_was() {
        for (body, params) in [
            ("", "{}"),
            ("[]", "{}"),
            ("{}", "null"),
            ("{}x", "{}"),
            ("{\"a\":}", "{}"),
            ("{}", "{\"a\":1"),
        ] {
            let mut out = b"kept".to_vec();
            assert!(merge_params(body.as_bytes(), params.as_bytes(), &mut out).is_err());
            assert_eq!(out, b"kept", "{body} {params}");
        }
    }

    #[test]
    fn what_patch_made_can_be_merged_into() {
        let body = br#"{"mlx:trace":true,"model":"@x","stream":true,"messages":[]}"#;
        let facts = scan(body, Shape::Chat).unwrap();
        let edit = Edit {
            model: Some("gpt"),
            include_usage: true,
            output_limit: Some((5, LimitKey::MaxTokens)),
        };
        let mut patched = Vec::new();
        patch(body, &facts, &edit, &mut patched);
        let read: Value = serde_json::from_str(&merged(
            std::str::from_utf8(&patched).unwrap(),
            r#"{"seed":7}"#,
        ))
        .unwrap();
        assert_eq!(
            read,
            serde_json::json!({"model": "gpt", "stream": true, "messages": [], "max_tokens": 5,
                "stream_options": {"include_usage": true}, "seed": 7})
        );
    }

    /// A member in parts: white space, key, white space, value, white space.
    type Member = (&'static str, &'static str, &'static str, String, &'static str);

    fn member() -> impl Strategy<Value = Member> {
        let space = || prop::sample::select(vec!["", " ", "\n", "\t ", "  "]);
        let key =
            prop::sample::select(vec!["a", "b", "model", "top_p", "\\u0062", "\\\"", "é", ""]);
        let value = prop::sample::select(vec![
            "1",
            "1.50",
            "-0",
            "1E+3",
            "null",
            "true",
            "\"x\"",
            "\"}\\\"\"",
            "[]",
            "[1, {\"a\": 2}]",
            "{}",
            "{ \"a\" : 9 }",
        ]);
        (space(), key, space(), value.prop_map(str::to_owned), space())
    }

    fn object(members: &[Member], appended: &[(&str, &str)]) -> String {
        let mut text: Vec<String> = members
            .iter()
            .map(|(a, key, b, value, _)| format!("{a}\"{key}\"{b}:{b}{value}"))
            .collect();
        for (index, (_, _, _, _, space)) in members.iter().enumerate() {
            // White space behind the last value stands behind what is appended.
            if index + 1 < members.len() {
                text[index].push_str(space);
            }
        }
        text.extend(appended.iter().map(|(key, value)| format!("\"{key}\":{value}")));
        let space = members.last().map_or("", |member| member.4);
        format!("{{{}{space}}}", text.join(","))
    }

    fn meant(key: &str) -> String {
        serde_json::from_str(&format!("\"{key}\"")).unwrap()
    }

    proptest! {
        #[test]
        fn all_bytes_but_the_replaced_values_stay_and_readers_see_the_merged_object(
            body in prop::collection::vec(member(), 0..6),
            params in prop::collection::vec(member(), 0..4),
        ) {
            let value_of = |key: &str| {
                params.iter().rev().find(|new| meant(new.1) == meant(key)).map(|new| new.3.clone())
            };
            let mut changed = body.clone();
            for member in &mut changed {
                member.3 = value_of(member.1).unwrap_or(member.3.clone());
            }
            let mut appended: Vec<(&str, &str)> = Vec::new();
            for (index, new) in params.iter().enumerate() {
                let is_in_body = body.iter().any(|member| meant(member.1) == meant(new.1));
                let is_last = params[index + 1..].iter().all(|later| meant(later.1) != meant(new.1));
                if !is_in_body && is_last {
                    appended.push((new.1, &new.3));
                }
            }
            let (body, params) = (object(&body, &[]), object(&params, &[]));
            let text = merged(&body, &params);
            prop_assert_eq!(&text, &object(&changed, &appended));

            let read = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
            let mut expected = read(&body);
            expected.extend(read(&params));
            prop_assert_eq!(read(&text), expected);
        }

        #[test]
        fn any_bytes_are_merged_or_refused(
            body in prop::collection::vec(any::<u8>(), 0..40), params in ".{0,20}",
        ) {
            let mut out = Vec::new();
            let _ = merge_params(&body, params.as_bytes(), &mut out);
            let _ = merge_params(params.as_bytes(), &body, &mut out);
            let is_merged = merge_params(b"{}", &body, &mut out).is_ok();
            prop_assert_eq!(is_merged, serde_json::from_slice::<Map<String, Value>>(&body).is_ok());
        }
    }
}
