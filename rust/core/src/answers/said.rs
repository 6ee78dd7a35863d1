//! What an answer says: the facts that `response.*` in a rule stands for.

use std::collections::BTreeMap;

use crate::answer::without_odd_numbers;
use crate::json::{Cursor, Figure, JsonFault, Kind, Text};
use crate::scan::Shape;
use crate::sse::{Follower, each_data};
use crate::usage::usage_of_answer;

/// What is kept of an answer's text, and of a refusal; as much as a trace keeps of a body.
pub const TEXT_BYTES_MAX: usize = 4 << 20;

/// What the first choice of an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its text, without reasoning; empty where it only refuses or calls tools.
    pub text: String,
    /// Why it ended, in the provider's word.
    pub finish_reason: Option<String>,
    /// Output tokens as reported for the whole answer, reasoning included.
    pub output_tokens: Option<u64>,
    /// The whole text is one JSON value (RFC 8259, at most 128 deep) and was kept whole.
    pub json_valid: bool,
    /// Calls of tools, a `function_call` of old included.
    pub tool_calls: u32,
    /// The refusal, where the model declares one; never empty.
    pub refusal: Option<String>,
}

/// Read what an answer says, whole or as the events of its stream.
///
/// Of several choices the one with the lowest `index` is read. Events that are not JSON, errors,
/// and whatever has another shape say nothing: what cannot be read leaves its field empty.
#[must_use]
pub fn said(body: &[u8], is_sse: bool, shape: Shape) -> Said {
    let mut reading = Reading::default();
    let usage = if is_sse {
        each_data(body, |data| reading.read(data, shape));
        let mut follower = Follower::new(false);
        follower.feed(body, &mut Vec::new());
        follower.finish(&mut Vec::new());
        follower.usage()
    } else {
        reading.read(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body), shape);
        usage_of_answer(body)
    };
    Said { output_tokens: usage.map(|usage| usage.output_sum()), ..reading.into_said() }
}

/// Whether a text is one JSON value.
pub(super) fn is_json(text: &[u8]) -> bool {
    let mut cursor = Cursor::new(text);
    cursor.skip().is_ok() && cursor.end().is_ok()
}

/// One choice as it stands in an answer, or in one event.
#[derive(Default)]
struct Choice<'b> {
    index: Option<u64>,
    texts: Vec<Text<'b>>,
    refusals: Vec<Text<'b>>,
    finish_reason: Option<Text<'b>>,
    calls: Vec<Call<'b>>,
}

/// One call of a tool, or a part of one.
struct Call<'b> {
    index: u64,
    id: Option<Text<'b>>,
}

/// What has been read of one answer.
#[derive(Default)]
struct Reading {
    /// The lowest `index` of a choice so far: what it says is what counts.
    index: Option<u64>,
    text: Kept,
    refusal: Kept,
    finish_reason: Option<String>,
    calls: u32,
    /// The last id that was seen at each place of a call.
    call_ids: BTreeMap<u64, Vec<u8>>,
}

/// Text put together from its pieces; bytes, as a piece may end inside a character.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Kept {
    fn add(&mut self, piece: &Text<'_>) {
        let bytes = piece.key_bytes();
        let room = TEXT_BYTES_MAX - self.bytes.len();
        self.is_cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn into_text(self) -> String {
        match String::from_utf8(self.bytes) {
            Ok(text) => text,
            Err(fault) => String::from_utf8_lossy(fault.as_bytes()).into_owned(),
        }
    }
}

impl Reading {
    /// Take in a whole answer, or the data of one event; nothing if it cannot be read.
    fn read(&mut self, data: &[u8], shape: Shape) {
        // What is not JSON may still be what Python's and JavaScript's readers take, as in
        // `answer`.
        let plain;
        let choices = match choices_of(data, shape) {
            Ok(choices) => choices,
            Err(_) => {
                plain = without_odd_numbers(data);
                choices_of(&plain, shape).unwrap_or_default()
            }
        };
        for choice in &choices {
            self.take(choice);
        }
    }

    fn take(&mut self, choice: &Choice<'_>) {
        let index = choice.index.unwrap_or_default();
        match self.index {
            Some(read) if read < index => return,
            Some(read) if read == index => {}
            _ => *self = Self { index: Some(index), ..Self::default() },
        }
        choice.texts.iter().for_each(|text| self.text.add(text));
        choice.refusals.iter().for_each(|text| self.refusal.add(text));
        if let Some(reason) = &choice.finish_reason {
            self.finish_reason =
                Some(String::from_utf8_lossy(&reason.key_bytes()).into_owned());
        }
        choice.calls.iter().for_each(|call| self.count(call));
    }

    /// Count a call that has not been counted. Its later parts have its place and no id, or the
    /// same; some servers give every call of an answer the same place.
    fn count(&mut self, call: &Call<'_>) {
        let id = call.id.as_ref().map(Text::key_bytes).filter(|id| !id.is_empty());
        let is_known = match (self.call_ids.get(&call.index), &id) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(known), Some(id)) => known[..] == **id || known.is_empty(),
        };
        self.calls = self.calls.saturating_add(u32::from(!is_known));
        let known = self.call_ids.entry(call.index).or_default();
        if let Some(id) = id {
            *known = id.into_owned();
        }
    }

    fn into_said(self) -> Said {
        let is_cut = self.text.is_cut;
        let text = self.text.into_text();
        Said {
            json_valid: !is_cut && is_json(text.as_bytes()),
            text,
            finish_reason: self.finish_reason,
            output_tokens: None,
            tool_calls: self.calls,
            refusal: Some(self.refusal.into_text()).filter(|refusal| !refusal.is_empty()),
        }
    }
}

/// The choices of one document; each has an index, its place if it names none.
fn choices_of(data: &[u8], shape: Shape) -> Result<Vec<Choice<'_>>, JsonFault> {
    let mut cursor = Cursor::new(data);
    let mut choices = Vec::new();
    let mut more = cursor.enter_object()?;
    while more {
        if cursor.key()?.is("choices") && cursor.kind()? == Kind::Array {
            choices = read_choices(&mut cursor, shape)?;
        } else {
            cursor.skip()?;
        }
        more = cursor.more_members()?;
    }
    cursor.end()?;
    Ok(choices)
}

fn read_choices<'b>(
    cursor: &mut Cursor<'b>,
    shape: Shape,
) -> Result<Vec<Choice<'b>>, JsonFault> {
    let mut choices = Vec::new();
    let mut place = 0;
    let mut more = cursor.enter_array()?;
    while more {
        if cursor.kind()? == Kind::Object {
            let mut choice = Choice::default();
            read_choice(cursor, shape, &mut choice)?;
            choice.index.get_or_insert(place);
            choices.push(choice);
        } else {
            cursor.skip()?;
        }
        place += 1;
        more = cursor.more_elements()?;
    }
    Ok(choices)
}

fn read_choice<'b>(
    cursor: &mut Cursor<'b>,
    shape: Shape,
    choice: &mut Choice<'b>,
) -> Result<(), JsonFault> {
    let mut more = cursor.enter_object()?;
    while more {
        let key = cursor.key()?;
        match (&*key.key_bytes(), shape) {
            (b"index", _) => {
                if let Figure::Count(index) = cursor.figure()? {
                    choice.index = Some(index);
                }
            }
            (b"finish_reason", _) => {
                if let Some(reason) = text_of(cursor)? {
                    choice.finish_reason = Some(reason);
                }
            }
            (b"message" | b"delta", Shape::Chat) if cursor.kind()? == Kind::Object => {
                read_message(cursor, choice)?;
            }
            (b"text", Shape::Completions) => choice.texts.extend(text_of(cursor)?),
            _ => {
                cursor.skip()?;
            }
        }
        more = cursor.more_members()?;
    }
    Ok(())
}

fn read_message<'b>(cursor: &mut Cursor<'b>, choice: &mut Choice<'b>) -> Result<(), JsonFault> {
    let mut more = cursor.enter_object()?;
    while more {
        let key = cursor.key()?;
        match &*key.key_bytes() {
            b"content" if cursor.kind()? == Kind::Array => read_parts(cursor, choice)?,
            b"content" => choice.texts.extend(text_of(cursor)?),
            b"refusal" => choice.refusals.extend(text_of(cursor)?),
            b"tool_calls" if cursor.kind()? == Kind::Array => read_calls(cursor, choice)?,
            b"function_call" => {
                if cursor.kind()? == Kind::Object {
                    choice.calls.push(Call { index: 0, id: None });
                }
                cursor.skip()?;
            }
            _ => {
                cursor.skip()?;
            }
        }
        more = cursor.more_members()?;
    }
    Ok(())
}

/// Content in parts: their texts, one after the other; what else a part holds is no text.
fn read_parts<'b>(cursor: &mut Cursor<'b>, choice: &mut Choice<'b>) -> Result<(), JsonFault> {
    let mut more = cursor.enter_array()?;
    while more {
        if cursor.kind()? == Kind::Object {
            let mut more = cursor.enter_object()?;
            while more {
                let key = cursor.key()?;
                match &*key.key_bytes() {
                    b"text" => choice.texts.extend(text_of(cursor)?),
                    b"refusal" => choice.refusals.extend(text_of(cursor)?),
                    _ => {
                        cursor.skip()?;
                    }
                }
                more = cursor.more_members()?;
            }
        } else {
            cursor.skip()?;
        }
        more = cursor.more_elements()?;
    }
    Ok(())
}

fn read_calls<'b>(cursor: &mut Cursor<'b>, choice: &mut Choice<'b>) -> Result<(), JsonFault> {
    let mut place = 0;
    let mut more = cursor.enter_array()?;
    while more {
        if cursor.kind()? == Kind::Object {
            let mut call = Call { index: place, id: None };
            let mut more = cursor.enter_object()?;
            while more {
                let key = cursor.key()?;
                match &*key.key_bytes() {
                    b"index" => {
                        if let Figure::Count(index) = cursor.figure()? {
                            call.index = index;
                        }
                    }
                    b"id" => call.id = text_of(cursor)?,
                    _ => {
                        cursor.skip()?;
                    }
                }
                more = cursor.more_members()?;
            }
            choice.calls.push(call);
        } else {
            cursor.skip()?;
        }
        place += 1;
        more = cursor.more_elements()?;
    }
    Ok(())
}

/// A string; anything else is skipped.
fn text_of<'b>(cursor: &mut Cursor<'b>) -> Result<Option<Text<'b>>, JsonFault> {
    if cursor.kind()? == Kind::String {
        Ok(Some(cursor.string()?))
    } else {
        cursor.skip()?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(answer: &str) -> Said {
        said(answer.as_bytes(), false, Shape::Chat)
    }

    fn streamed(events: &[&str]) -> Said {
        let stream = format!("data: {}\n\ndata: [DONE]\n\n", events.join("\n\ndata: "));
        said(stream.as_bytes(), true, Shape::Chat)
    }

    #[test]
    fn a_whole_answer_and_its_stream_say_the_same() {
        let answer = whole(
            r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":
               "{\"a\": \"é\"}","refusal":null,"reasoning_content":"hm"},"finish_reason":"stop"}],
               "usage":{"prompt_tokens":4,"completion_tokens":7,"total_tokens":11,
               "completion_tokens_details":{"reasoning_tokens":5}}}"#,
        );
        let stream = streamed(&[
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"{\"a\": "},"finish_reason":null}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"\"\u00e9\"}"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":7,"total_tokens":11,
               "completion_tokens_details":{"reasoning_tokens":5}}}"#
                .replace('\n', "")
                .as_str(),
        ]);
        assert_eq!(answer, stream);
        assert_eq!(
            answer,
            Said {
                text: "{\"a\": \"é\"}".to_owned(),
                finish_reason: Some("stop".to_owned()),
                output_tokens: Some(7),
                json_valid: true,
                tool_calls: 0,
                refusal: None,
            }
        );
    }

    #[test]
    fn a_refusal_is_read_from_its_member_and_from_a_part() {
        let refused =
            whole(r#"{"choices":[{"message":{"content":null,"refusal":"I cannot."}}]}"#);
        let parts = whole(
            r#"{"choices":[{"message":{"content":[{"type":"refusal","refusal":"I cannot."}]}}]}"#,
        );
        let stream = streamed(&[
            r#"{"choices":[{"delta":{"content":null,"refusal":""}}]}"#,
            r#"{"choices":[{"delta":{"refusal":"I can"}}]}"#,
            r#"{"choices":[{"delta":{"refusal":"not."}}]}"#,
        ]);
        assert_eq!(refused.refusal.as_deref(), Some("I cannot."));
        assert_eq!((&refused, &refused), (&parts, &stream));
        assert_eq!((refused.text.as_str(), refused.json_valid), ("", false));
        assert_eq!(whole(r#"{"choices":[{"message":{"refusal":""}}]}"#).refusal, None);
    }

    #[test]
    fn calls_of_tools_are_counted_once_however_they_are_cut() {
        let answer = whole(
            r#"{"choices":[{"message":{"content":null,"tool_calls":[
               {"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},
               {"id":"b","type":"function","function":{"name":"f","arguments":"{}"}}]},
               "finish_reason":"tool_calls"}]}"#,
        );
        let stream = streamed(&[
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"","function":{"arguments":"}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        ]);
        assert_eq!(
            (answer.tool_calls, answer.finish_reason.as_deref()),
            (2, Some("tool_calls"))
        );
        assert_eq!(answer, stream);
    }

    #[test]
    fn calls_with_one_place_and_two_ids_are_two() {
        let stream = streamed(&[
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a"}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"b"}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"id":"c"}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"id":"c"},{"id":"d"}, 7]}}]}"#,
        ]);
        assert_eq!(stream.tool_calls, 4);
    }

    #[test]
    fn an_id_that_comes_late_makes_no_second_call() {
        let stream = streamed(&[
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a"}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a"}]}}]}"#,
        ]);
        assert_eq!(stream.tool_calls, 1);
    }

    #[test]
    fn a_function_call_of_old_is_one_call() {
        let answer = whole(r#"{"choices":[{"message":{"function_call":{"name":"f"}}}]}"#);
        let stream = streamed(&[
            r#"{"choices":[{"delta":{"function_call":{"name":"f"}}}]}"#,
            r#"{"choices":[{"delta":{"function_call":{"arguments":"{}"}}}]}"#,
        ]);
        assert_eq!((answer.tool_calls, stream.tool_calls), (1, 1));
        assert_eq!(whole(r#"{"choices":[{"message":{"function_call":null}}]}"#).tool_calls, 0);
    }

    #[test]
    fn of_several_choices_the_first_by_index_is_read() {
        let answer = whole(
            r#"{"choices":[{"index":1,"message":{"content":"b"},"finish_reason":"length"},
               {"message":{"content":"a"},"index":0,"finish_reason":"stop"}]}"#,
        );
        let stream = streamed(&[
            r#"{"choices":[{"index":1,"delta":{"content":"b","refusal":"r"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"index":0}]}"#,
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"c"},"finish_reason":"length"}]}"#,
        ]);
        assert_eq!(answer.text, "a");
        assert_eq!(answer, stream);
    }

    #[test]
    fn plain_completions_have_their_text_in_the_choice() {
        let body = br#"{"choices":[{"text":" 42","index":0,"message":{"content":"x"}}]}"#;
        let read = said(body, false, Shape::Completions);
        assert_eq!((read.text.as_str(), read.json_valid), (" 42", true));
        let stream = b"data: {\"choices\":[{\"text\":\" 4\"}]}\n\ndata: {\"choices\":[{\"text\":\"2\"}]}\n\n";
        assert_eq!(said(stream, true, Shape::Completions), read);
        assert_eq!(said(body, false, Shape::Embeddings), Said::default());
    }

    #[test]
    fn a_text_cut_inside_a_character_is_put_together() {
        let stream =
            b"data: {\"choices\":[{\"delta\":{\"content\":\"\xc3\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"\xa9\"}}]}\n\n";
        assert_eq!(said(stream, true, Shape::Chat).text, "é");
    }

    #[test]
    fn texts_of_parts_are_joined_and_thinking_is_left_out() {
        let answer = whole(
            r#"{"choices":[{"message":{"content":[{"type":"thinking","thinking":[{"text":"no"}]},
               {"type":"text","text":"a"}, "x", {"type":"text","text":"b"}]}}]}"#,
        );
        assert_eq!(answer.text, "ab");
    }

    #[test]
    fn figures_that_only_lenient_readers_take_do_not_hide_the_text() {
        let answer = whole(
            r#"{"choices":[{"logprobs":NaN,"message":{"content":"NaN"},"x":-Infinity}]}"#,
        );
        assert_eq!(answer.text, "NaN");
        let stream = streamed(&[r#"{"choices":[{"logprobs":NaN,"delta":{"content":"NaN"}}]}"#]);
        assert_eq!(stream, answer);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for body in [
            "",
            "{",
            "[]",
            "null",
            "{}",
            r#"{"choices":null}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":[null,7,"x",[]]}"#,
            r#"{"choices":[{"message":null,"finish_reason":7,"index":-1}]}"#,
            r#"{"choices":[{"message":{"content":7,"tool_calls":{},"refusal":[]}}]}"#,
            r#"{"choices":[{"message":{"content":"a"}}]"#,
            r#"{"error":{"message":"no"}}"#,
        ] {
            assert_eq!(whole(body), Said::default(), "{body}");
            assert_eq!(streamed(&[body]), Said::default(), "{body}");
        }
    }

    #[test]
    fn an_error_event_and_half_an_event_say_nothing() {
        let stream = b"\xef\xbb\xbf: ping\r\n\r\nevent: error\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\r\n\r\ndata: {\"choices\":[{\"delta\":\r\ndata: {\"content\":\"a\"}}]}\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"";
        assert_eq!(said(stream, true, Shape::Chat).text, "a");
    }

    #[test]
    fn a_text_beyond_the_bound_is_cut_and_is_not_json() {
        let long = "1".repeat(TEXT_BYTES_MAX + 1);
        let answer = |text: &str| {
            whole(&format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}]}}"#))
        };
        let read = answer(&long);
        assert_eq!((read.text.len(), read.json_valid), (TEXT_BYTES_MAX, false));
        assert!(answer(&long[1..]).json_valid);
    }

    #[test]
    fn only_a_whole_value_is_json() {
        for (text, is_valid) in [
            ("{}", true),
            (" [1, 2] ", true),
            ("42", true),
            ("\\\"a\\\"", true),
            ("null", true),
            ("", false),
            ("yes", false),
            ("{} {}", false),
            ("{'a': 1}", false),
            ("```json\\n{}\\n```", false),
            ("{\\\"a\\\": NaN}", false),
        ] {
            let body = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}]}}"#);
            assert_eq!(whole(&body).json_valid, is_valid, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(
            body in prop::collection::vec(any::<u8>(), 0..200), is_sse in any::<bool>(),
        ) {
            for shape in [Shape::Chat, Shape::Completions, Shape::Embeddings] {
                prop_assert_eq!(said(&body, is_sse, shape).text, "");
            }
        }
    }
}
