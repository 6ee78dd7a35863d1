//! The same answer saying something else, and answers that nobody gave.

use crate::json::{Cursor, Figure, JsonFault, Kind, Span};
use crate::patch::quote;
use crate::scan::Shape;
use crate::sse::each_data;

/// An answer with another text, for an ensemble whose answer is the mean of several.
///
/// Whole: the text of the first choice is replaced, every other byte stays. As a stream: one
/// event with the text, one with the reason to finish, the usage event if there was one, and
/// `[DONE]`; what is around the choices stays as it was in the events that these stand for.
/// None if the answer has no choice with a text to replace.
#[must_use]
pub fn rewrite(body: &[u8], is_sse: bool, shape: Shape, text: &str) -> Option<Vec<u8>> {
    if is_sse {
        return rewrite_stream(body, shape, text);
    }
    let start = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let found = find(&body[start..], shape).ok()?;
    let place = found.first.filter(|choice| choice.text.is_some())?.text?;
    let mut out = Vec::with_capacity(body.len() + text.len() + 2);
    out.extend_from_slice(&body[..start + place.start]);
    quote(text, &mut out);
    out.extend_from_slice(&body[start + place.end..]);
    Some(out)
}

fn rewrite_stream(body: &[u8], shape: Shape, text: &str) -> Option<Vec<u8>> {
    // What the events that are written stand for: the first with a choice, the last that gives a
    // reason to finish, the last with usage if it is another.
    let (mut first, mut last, mut usage) = (None, None, None);
    each_data(body, |data| {
        let Ok(found) = find(data, shape) else { return };
        let mut is_last = false;
        if let (Some(choices), Some(choice)) = (found.choices, found.first) {
            first.get_or_insert_with(|| (data.to_vec(), choices));
            if let Some(reason) = choice.finish_reason {
                let reason = data[reason.start..reason.end].to_vec();
                last = Some((data.to_vec(), choices, reason));
                is_last = true;
            }
        }
        if found.has_usage && is_last {
            usage = None;
        } else if found.has_usage {
            // Some send a choice that says nothing beside it.
            let choices = found.choices.unwrap_or(Span { start: 0, end: 0 });
            let none: &[u8] = if found.choices.is_some() { b"[]" } else { b"" };
            usage = Some([&data[..choices.start], none, &data[choices.end..]].concat());
        }
    });
    let (first, choices) = first?;
    let (last, last_choices, reason) =
        last.unwrap_or_else(|| (first.clone(), choices, b"\"stop\"".to_vec()));
    let mut quoted = Vec::with_capacity(text.len() + 2);
    quote(text, &mut quoted);

    let mut out = Vec::with_capacity(first.len() + last.len() + quoted.len() + 256);
    let content = match shape {
        Shape::Completions => [&b"\"text\":"[..], &quoted].concat(),
        _ => [&b"\"delta\":{\"role\":\"assistant\",\"content\":"[..], &quoted, b"}"].concat(),
    };
    push_event(&mut out, &first, choices, &content, b"null");
    let nothing: &[u8] = match shape {
        Shape::Completions => b"\"text\":\"\"",
        _ => b"\"delta\":{}",
    };
    push_event(&mut out, &last, last_choices, nothing, &reason);
    if let Some(usage) = usage {
        push_data(&mut out, &usage);
    }
    out.extend_from_slice(b"data: [DONE]\n\n");
    Some(out)
}

/// An event as `data`, but with one choice: this content and this reason to finish.
fn push_event(out: &mut Vec<u8>, data: &[u8], choices: Span, content: &[u8], reason: &[u8]) {
    let choice: [&[u8]; 5] =
        [b"[{\"index\":0,", content, b",\"logprobs\":null,\"finish_reason\":", reason, b"}]"];
    let event = [&data[..choices.start], &choice.concat(), &data[choices.end..]].concat();
    push_data(out, &event);
}

/// Data may have had several lines: in JSON they are white space, in an event fields.
fn push_data(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(b"data: ");
    out.extend(
        data.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }),
    );
    out.extend_from_slice(b"\n\n");
}

/// What `rewrite` needs to know of one document.
#[derive(Default)]
struct Found {
    /// Where the value of `choices` stands.
    choices: Option<Span>,
    /// The choice with the lowest index.
    first: Option<Choice>,
    /// `usage` is an object.
    has_usage: bool,
}

#[derive(Clone, Copy)]
struct Choice {
    index: u64,
    /// Where its text stands.
    text: Option<Span>,
    /// Where its reason to finish stands, if it is one.
    finish_reason: Option<Span>,
}

fn find(data: &[u8], shape: Shape) -> Result<Found, JsonFault> {
    let mut found = Found::default();
    let mut cursor = Cursor::new(data);
    let mut more = cursor.enter_object()?;
    while more {
        let key = cursor.key()?;
        let kind = cursor.kind()?;
        if key.is("choices") && kind == Kind::Array {
            let start = cursor.at();
            found.first = find_choice(&mut cursor, shape)?;
            found.choices = Some(Span { start, end: cursor.at() });
        } else {
            found.has_usage |= key.is("usage") && kind == Kind::Object;
            cursor.skip()?;
        }
        more = cursor.more_members()?;
    }
    cursor.end()?;
    Ok(found)
}

fn find_choice(cursor: &mut Cursor<'_>, shape: Shape) -> Result<Option<Choice>, JsonFault> {
    let mut first: Option<Choice> = None;
    let mut place = 0;
    let mut more = cursor.enter_array()?;
    while more {
        if cursor.kind()? == Kind::Object {
            let choice = read_choice(cursor, shape, place)?;
            if first.is_none_or(|first| choice.index < first.index) {
                first = Some(choice);
            }
        } else {
            cursor.skip()?;
        }
        place += 1;
        more = cursor.more_elements()?;
    }
    Ok(first)
}

fn read_choice(cursor: &mut Cursor<'_>, shape: Shape, place: u64) -> Result<Choice, JsonFault> {
    let mut choice = Choice { index: place, text: None, finish_reason: None };
    let mut more = cursor.enter_object()?;
    while more {
        let key = cursor.key()?;
        match (&*key.key_bytes(), shape) {
            (b"index", _) => {
                if let Figure::Count(index) = cursor.figure()? {
                    choice.index = index;
                }
            }
            (b"finish_reason", _) => {
                let is_reason = cursor.kind()? == Kind::String;
                let span = cursor.skip()?;
                if is_reason {
                    choice.finish_reason = Some(span);
                }
            }
            (b"text", Shape::Completions) => choice.text = Some(cursor.skip()?),
            (b"message", Shape::Chat) if cursor.kind()? == Kind::Object => {
                let mut more = cursor.enter_object()?;
                while more {
                    let is_content = cursor.key()?.is("content");
                    let span = cursor.skip()?;
                    if is_content {
                        choice.text = Some(span);
                    }
                    more = cursor.more_members()?;
                }
            }
            _ => {
                cursor.skip()?;
            }
        }
        more = cursor.more_members()?;
    }
    Ok(choice)
}

/// The answer to a dry run, in the shape of its path: an empty one of `shape`, whole or streamed,
/// with `modelux_json` as its member `modelux`, in a stream in the first chunk.
///
/// `id` and `model` as an answer names them, `created_s` in seconds since 1970.
#[must_use]
pub fn dry_answer(
    shape: Shape,
    stream: bool,
    id: &str,
    model: &str,
    created_s: u64,
    modelux_json: &[u8],
) -> Vec<u8> {
    let object = match (shape, stream) {
        // Embeddings are not streamed, whatever the request says.
        (Shape::Embeddings, _) => return dry_embeddings(1, model, modelux_json),
        (Shape::Chat, false) => "chat.completion",
        (Shape::Chat, true) => "chat.completion.chunk",
        (Shape::Completions, _) => "text_completion",
    };
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(b"{\"id\":");
    quote(id, &mut head);
    head.extend_from_slice(
        format!(",\"object\":\"{object}\",\"created\":{created_s}").as_bytes(),
    );
    head.extend_from_slice(b",\"model\":");
    quote(model, &mut head);
    head.extend_from_slice(b",\"choices\":[{\"index\":0,");

    let empty: &[u8] = match (shape, stream) {
        (Shape::Chat, false) => {
            b"\"message\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}"
        }
        (Shape::Chat, true) => b"\"delta\":{\"role\":\"assistant\",\"content\":\"\"}",
        _ => b"\"text\":\"\"",
    };
    if !stream {
        let mut out = [&head[..], empty].concat();
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":");
        out.extend_from_slice(
            b"{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0},\"modelux\":",
        );
        out.extend_from_slice(modelux_json);
        out.push(b'}');
        return out;
    }
    let mut out = Vec::with_capacity(2 * head.len() + modelux_json.len() + 256);
    let first: [&[u8]; 5] = [
        &head,
        empty,
        b",\"logprobs\":null,\"finish_reason\":null}],\"modelux\":",
        modelux_json,
        b"}",
    ];
    push_data(&mut out, &first.concat());
    let nothing: &[u8] = if shape == Shape::Chat { b"\"delta\":{}" } else { empty };
    let last: [&[u8]; 3] =
        [&head, nothing, b",\"logprobs\":null,\"finish_reason\":\"stop\"}]}"];
    push_data(&mut out, &last.concat());
    out.extend_from_slice(b"data: [DONE]\n\n");
    out
}

/// Inputs that are answered in a dry run; the provider's own limit is 2,048.
pub const DRY_EMBEDDINGS_MAX: u64 = 2_048;

/// The answer to a dry run of embeddings: an empty vector for each of `count` inputs.
#[must_use]
pub fn dry_embeddings(count: u64, model: &str, modelux_json: &[u8]) -> Vec<u8> {
    let mut out = b"{\"object\":\"list\",\"data\":[".to_vec();
    for index in 0..count.min(DRY_EMBEDDINGS_MAX) {
        if index > 0 {
            out.push(b',');
        }
        let vector = format!("{{\"object\":\"embedding\",\"index\":{index},\"embedding\":[]}}");
        out.extend_from_slice(vector.as_bytes());
    }
    out.extend_from_slice(b"],\"model\":");
    quote(model, &mut out);
    out.extend_from_slice(b",\"usage\":{\"prompt_tokens\":0,\"total_tokens\":0},\"modelux\":");
    out.extend_from_slice(modelux_json);
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::answers::said::{Said, said};

    fn events(stream: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(stream).unwrap();
        let body = text.strip_suffix("data: [DONE]\n\n").unwrap();
        body.split_terminator("\n\n")
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn a_whole_answer_keeps_every_byte_but_its_text() {
        let body = "\u{feff}{ \"id\":\"c\", \"choices\":[ {\"finish_reason\":\"stop\",\"message\":\
            {\"content\" : \"7\" ,\"x\":1e0},\"index\":0} ],\"usage\":{} }\n";
        let rewritten = rewrite(body.as_bytes(), false, Shape::Chat, "7.5\n\"").unwrap();
        let expected = body.replace("\"7\"", "\"7.5\\u000a\\\"\"");
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
    }

    #[test]
    fn only_the_first_choice_by_index_is_rewritten() {
        let body = br#"{"choices":[{"index":1,"message":{"content":"b"}},{"index":0,"message":{"content":null}}]}"#;
        let rewritten = rewrite(body, false, Shape::Chat, "9").unwrap();
        let expected = r#"{"choices":[{"index":1,"message":{"content":"b"}},{"index":0,"message":{"content":"9"}}]}"#;
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
        let plain = br#"{"choices":[{"text":"7","index":0}]}"#;
        let rewritten = rewrite(plain, false, Shape::Completions, "9").unwrap();
        assert_eq!(rewritten, br#"{"choices":[{"text":"9","index":0}]}"#);
    }

    #[test]
    fn what_has_no_text_to_replace_is_not_rewritten() {
        for body in [
            &b""[..],
            b"{",
            b"[]",
            br#"{"choices":[]}"#,
            br#"{"choices":[{"message":{}}]}"#,
            br#"{"choices":[{"text":"7"}]}"#,
            br#"{"error":{}}"#,
        ] {
            assert_eq!(rewrite(body, false, Shape::Chat, "9"), None);
        }
        assert_eq!(rewrite(b"data: {\"error\":{}}\n\n", true, Shape::Chat, "9"), None);
        assert_eq!(rewrite(b"data: [DONE]\n\n", true, Shape::Chat, "9"), None);
        assert_eq!(rewrite(b"", true, Shape::Chat, "9"), None);
    }

    #[test]
    fn a_stream_says_the_text_then_why_it_ended_then_what_it_used() {
        let stream = b": hi\n\ndata: {\"id\":\"c\",\"created\":5,\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}],\"usage\":null}\n\n\
            data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"7\"}}]}\n\n\
            data: {\"id\":\"c\",\ndata: \"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}],\"x\":1}\n\n\
            data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n\
            data: [DONE]\n\n";
        let rewritten = rewrite(stream, true, Shape::Chat, "8").unwrap();
        let choice = |delta: Value, reason: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]);
        assert_eq!(
            events(&rewritten),
            [
                json!({"id": "c", "created": 5, "usage": null,
                    "choices": choice(json!({"role": "assistant", "content": "8"}), Value::Null)}),
                json!({"id": "c", "x": 1, "choices": choice(json!({}), json!("length"))}),
                json!({"id": "c", "choices": [], "usage":
                    {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}),
            ]
        );
        assert_eq!(
            said(&rewritten, true, Shape::Chat),
            Said { text: "8".to_owned(), ..said(stream, true, Shape::Chat) }
        );
    }

    #[test]
    fn usage_beside_a_choice_is_kept_without_it() {
        let stream = b"data: {\"choices\":[{\"delta\":{\"content\":\"7\"},\"finish_reason\":\"stop\"}]}\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"\"}}],\"usage\":{\"total_tokens\":3}}\n\n";
        let rewritten = events(&rewrite(stream, true, Shape::Chat, "8").unwrap());
        assert_eq!(rewritten[2], json!({"choices": [], "usage": {"total_tokens": 3}}));
        let stream = b"data: {\"choices\":[{\"delta\":{\"content\":\"7\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"total_tokens\":3}}\n\n";
        let rewritten = events(&rewrite(stream, true, Shape::Chat, "8").unwrap());
        assert_eq!(rewritten.len(), 2);
        assert_eq!(rewritten[1]["usage"], json!({"total_tokens": 3}));
    }

    #[test]
    fn a_stream_without_reason_and_usage_ends_with_stop() {
        let stream = b"data: {\"choices\":[{\"text\":\"7\"}]}\n\n";
        let rewritten = rewrite(stream, true, Shape::Completions, "8").unwrap();
        let said = said(&rewritten, true, Shape::Completions);
        assert_eq!((said.text.as_str(), said.finish_reason.as_deref()), ("8", Some("stop")));
        assert_eq!(events(&rewritten).len(), 2);
    }

    #[test]
    fn a_dry_answer_is_an_empty_one_in_the_shape_of_its_path() {
        let modelux = json!({"decision": {}});
        let dry = |shape, stream| {
            dry_answer(
                shape,
                stream,
                "chatcmpl-1",
                "gpt-\"x\"",
                1_700_000_000,
                b"{\"decision\": {}}",
            )
        };
        let read = |body: &[u8]| -> Value { serde_json::from_slice(body).unwrap() };
        assert_eq!(
            read(&dry(Shape::Chat, false)),
            json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000,
                "model": "gpt-\"x\"", "choices": [{"index": 0, "message": {"role": "assistant",
                "content": "", "refusal": null}, "logprobs": null, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
                "modelux": modelux})
        );
        assert_eq!(
            read(&dry(Shape::Completions, false)),
            json!({"id": "chatcmpl-1", "object": "text_completion", "created": 1_700_000_000,
                "model": "gpt-\"x\"", "choices": [{"index": 0, "text": "", "logprobs": null,
                "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
                "modelux": modelux})
        );
        let vectors = json!({"object": "list", "model": "gpt-\"x\"",
            "data": [{"object": "embedding", "index": 0, "embedding": []}],
            "usage": {"prompt_tokens": 0, "total_tokens": 0}, "modelux": modelux});
        assert_eq!(read(&dry(Shape::Embeddings, false)), vectors);
        assert_eq!(read(&dry(Shape::Embeddings, true)), vectors);
    }

    #[test]
    fn a_streamed_dry_answer_has_its_decision_in_the_first_chunk() {
        for (shape, object) in
            [(Shape::Chat, "chat.completion.chunk"), (Shape::Completions, "text_completion")]
        {
            let stream = dry_answer(shape, true, "i", "m", 5, b"{\"decision\":\n{}}");
            let events = events(&stream);
            assert_eq!(events.len(), 2);
            assert_eq!(events[0]["modelux"], json!({"decision": {}}));
            assert_eq!(events[1].get("modelux"), None);
            assert!(events.iter().all(|event| event["object"] == object && event["id"] == "i"));
            let said = said(&stream, true, shape);
            assert_eq!((said.text.as_str(), said.finish_reason.as_deref()), ("", Some("stop")));
        }
    }

    #[test]
    fn a_dry_run_of_embeddings_answers_each_input_up_to_a_bound() {
        let count = |inputs| {
            let body: Value =
                serde_json::from_slice(&dry_embeddings(inputs, "m", b"null")).unwrap();
            body["data"].as_array().unwrap().len() as u64
        };
        assert_eq!((count(0), count(3)), (0, 3));
        assert_eq!(count(u64::MAX), DRY_EMBEDDINGS_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_are_rewritten_or_not(
            body in prop::collection::vec(any::<u8>(), 0..80), is_sse in any::<bool>(),
        ) {
            for shape in [Shape::Chat, Shape::Completions, Shape::Embeddings] {
                let _ = rewrite(&body, is_sse, shape, "1");
            }
        }

        #[test]
        fn a_rewritten_answer_says_the_new_text_and_else_the_same(
            old in ".{0,12}", new in ".{0,12}", reason in prop::option::of("[a-z]{1,6}"),
        ) {
            let whole = json!({"id": "c", "choices": [{"message": {"content": old},
                "finish_reason": reason}]}).to_string();
            let rewritten = rewrite(whole.as_bytes(), false, Shape::Chat, &new).unwrap();
            let before = said(whole.as_bytes(), false, Shape::Chat);
            let after = said(&rewritten, false, Shape::Chat);
            prop_assert_eq!(&after.text, &new);
            prop_assert_eq!(after.finish_reason, before.finish_reason);
        }
    }
}
