//! Finds what a model wrote inside an answer of the OpenAI protocol: whole, cut or broken.
//!
//! Owns which strings those are; what they are worth is for `tokens` and `sse` to say. Nothing
//! that a model wrote may be missed, so a member that we do not know counts, and so does all
//! that follows the first byte that is not JSON.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::json::{Cursor, Figure, JsonFault, Kind, Span, Text};

/// Around the call of a tool, beside its name and arguments: 10 to 14 were measured.
const CALL_TOKENS: u64 = 16;

/// One piece of what a model wrote.
///
/// The pieces of one choice, part and field, put together, are one text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'b> {
    /// The choice's `index`, where it comes before the text.
    pub(crate) choice: u64,
    /// The last `index` beside the text, a tool call's; 0 without one.
    pub(crate) part: u64,
    /// The member that holds the text, as it stands there.
    pub(crate) field: &'b [u8],
    /// What is between the quotes, escapes and all.
    raw: &'b [u8],
    is_escaped: bool,
}

impl<'b> Piece<'b> {
    /// The text that is meant; UTF-8 once it is put together.
    pub(crate) fn text(&self) -> Cow<'b, [u8]> {
        let span = Span { start: 0, end: self.raw.len() };
        Text { raw: self.raw, span, is_escaped: self.is_escaped }.key_bytes()
    }

    /// Bytes of the text that is meant, no fewer than its tokens.
    pub(crate) fn text_len(&self) -> u64 {
        let saved = if self.is_escaped { bytes_saved(self.raw) } else { 0 };
        self.raw.len() as u64 - saved
    }

    /// No fewer than the tokens that were generated for it.
    pub(crate) fn most_tokens(&self) -> u64 {
        self.text_len() + self.frame_tokens()
    }

    /// Tokens that came with the text and are not shown.
    pub(crate) fn frame_tokens(&self) -> u64 {
        if self.field == b"name" { CALL_TOKENS } else { 0 }
    }
}

/// How many bytes shorter the meaning of an escaped text is, at least.
fn bytes_saved(raw: &[u8]) -> u64 {
    let mut saved = 0;
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (used, kept) = match rest.get(at + 1..at + 6) {
            // ASCII, two bytes, or at most three: half of a pair counts as much as one alone.
            Some([b'u', b'0', b'0', b'0'..=b'7', _]) => (6, 1),
            Some([b'u', b'0', b'0'..=b'7', ..]) => (6, 2),
            Some([b'u', ..]) => (6, 3),
            _ => (2, 1),
        };
        let Some(next) = rest.get(at + used..) else { break };
        saved += used as u64 - kept;
        rest = next;
    }
    saved
}

/// Show `visit` every piece of what a model wrote in one answer, or in one event of a stream.
///
/// `data` may end anywhere and may be no JSON at all.
#[inline]
pub(crate) fn each_piece<'b>(data: &'b [u8], visit: impl FnMut(Piece<'b>)) {
    let mut walk = Walk::new(data, visit);
    match walk.answer() {
        // An object that is none of ours: whatever it is, it came instead of text.
        Ok(()) if !walk.has_choices && !walk.is_known => walk.piece(data, false),
        Ok(()) => {}
        Err(fault) => walk.rest(data, fault),
    }
}

static DELTA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"delta\""));

/// Bytes of what a model wrote in one event of a stream, and the frames of calls: no fewer than
/// its tokens.
///
/// The usual event is not parsed: only its deltas are, wherever they stand. As with the words
/// that `sse` looks for, an event is none that spells `delta` with an escape.
pub(crate) fn text_bytes(data: &[u8]) -> u64 {
    let mut bytes = 0;
    let mut is_found = false;
    let mut rest = data;
    while let Some(at) = DELTA.find(rest) {
        rest = &rest[at + DELTA.needle().len()..];
        let Some(value) = rest.trim_ascii_start().strip_prefix(b":") else { continue };
        is_found = true;
        let mut walk = Walk::new(value, |piece: Piece<'_>| bytes += piece.most_tokens());
        if let Err(fault) = walk.texts() {
            walk.rest(value, fault);
            return bytes;
        }
        rest = &value[walk.cursor.at()..];
    }
    if !is_found {
        each_piece(data, |piece| bytes += piece.most_tokens());
    }
    bytes
}

struct Walk<'b, V> {
    cursor: Cursor<'b>,
    visit: V,
    choice: u64,
    part: u64,
    field: &'b [u8],
    /// Where the quote of a text stands that has begun and not ended.
    text_start: Option<usize>,
    has_choices: bool,
    /// Something stands there that tells of another purpose: usage, an error, a sign of life.
    is_known: bool,
}

impl<'b, V: FnMut(Piece<'b>)> Walk<'b, V> {
    fn new(data: &'b [u8], visit: V) -> Self {
        Self {
            cursor: Cursor::new(data),
            visit,
            choice: 0,
            part: 0,
            field: b"",
            text_start: None,
            has_choices: false,
            is_known: false,
        }
    }

    /// All of `data` from the text on that a fault broke off, else from the fault on.
    fn rest(&mut self, data: &'b [u8], fault: JsonFault) {
        let start = self.text_start.map_or(fault.at, |quote| quote + 1);
        self.piece(data.get(start..).unwrap_or_default(), false);
    }

    fn piece(&mut self, raw: &'b [u8], is_escaped: bool) {
        if !raw.is_empty() {
            let (choice, part, field) = (self.choice, self.part, self.field);
            (self.visit)(Piece { choice, part, field, raw, is_escaped });
        }
    }

    fn answer(&mut self) -> Result<(), JsonFault> {
        let mut more = self.cursor.enter_object()?;
        while more {
            let key = self.cursor.key()?;
            match &*key.key_bytes() {
                b"choices" if self.cursor.kind()? == Kind::Array => self.choices()?,
                b"choices" if self.cursor.kind()? == Kind::Null => {
                    self.has_choices = true;
                    self.cursor.skip()?;
                }
                name => {
                    self.is_known |= matches!(
                        name,
                        b"usage" | b"x_groq" | b"timings" | b"error" | b"type" | b"data"
                    );
                    self.cursor.skip()?;
                }
            }
            more = self.cursor.more_members()?;
        }
        self.cursor.end()
    }

    fn choices(&mut self) -> Result<(), JsonFault> {
        self.has_choices = true;
        let mut more = self.cursor.enter_array()?;
        while more {
            self.choice = 0;
            if self.cursor.kind()? == Kind::Object {
                self.choice()?;
            } else {
                self.cursor.skip()?;
            }
            more = self.cursor.more_elements()?;
        }
        Ok(())
    }

    fn choice(&mut self) -> Result<(), JsonFault> {
        let mut more = self.cursor.enter_object()?;
        while more {
            let key = self.cursor.key()?;
            match &*key.key_bytes() {
                b"delta" | b"message" | b"text" => {
                    self.part = 0;
                    self.field = key.raw;
                    self.texts()?;
                }
                b"index" => self.choice = count(self.cursor.figure()?),
                _ => {
                    self.cursor.skip()?;
                }
            }
            more = self.cursor.more_members()?;
        }
        Ok(())
    }

    /// Move over one value; every string in it is a text, but for names that are no words of
    /// the model.
    fn texts(&mut self) -> Result<(), JsonFault> {
        // One bit for each open container, the innermost lowest: 1 is an object.
        let mut open: u128 = 0;
        let mut depth = 0;
        loop {
            match self.cursor.kind()? {
                Kind::String => {
                    let is_text = !matches!(self.field, b"role" | b"id" | b"type");
                    if is_text {
                        self.text_start = Some(self.cursor.at());
                    }
                    let text = self.cursor.string()?;
                    self.text_start = None;
                    if is_text {
                        self.piece(text.raw, text.is_escaped);
                    }
                }
                Kind::Number if self.field == b"index" => {
                    self.part = count(self.cursor.figure()?);
                }
                Kind::Object => {
                    if self.cursor.enter_object()? {
                        open = open << 1 | 1;
                        depth += 1;
                        self.field = self.cursor.key()?.raw;
                        continue;
                    }
                }
                Kind::Array => {
                    if self.cursor.enter_array()? {
                        open <<= 1;
                        depth += 1;
                        continue;
                    }
                }
                _ => {
                    self.cursor.skip()?;
                }
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                if open & 1 == 1 {
                    if self.cursor.more_members()? {
                        self.field = self.cursor.key()?.raw;
                        break;
                    }
                } else if self.cursor.more_elements()? {
                    break;
                }
                open >>= 1;
                depth -= 1;
            }
        }
    }
}

fn count(figure: Figure) -> u64 {
    if let Figure::Count(count) = figure { count } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(data: &str) -> Vec<(u64, u64, String, String)> {
        let mut found = Vec::new();
        each_piece(data.as_bytes(), |piece| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.push((piece.choice, piece.part, text(piece.field), text(piece.raw)));
        });
        found
    }

    fn bytes(data: &str) -> u64 {
        let mut sum = 0;
        each_piece(data.as_bytes(), |piece| sum += piece.most_tokens());
        assert_eq!(text_bytes(data.as_bytes()), sum, "{data}");
        sum
    }

    #[test]
    fn every_string_of_a_delta_is_text_but_roles_ids_and_types() {
        let data = r#"{"id":"c","choices":[{"index":2,"delta":{"role":"assistant","content":"ab",
            "reasoning_content":"cd","tool_calls":[{"index":1,"id":"call_1","type":"function",
            "function":{"name":"get","arguments":"{\"x\":1}"}}],"parts":[{"text":"e"}]},
            "logprobs":{"content":[{"token":"ab"}]},"finish_reason":"stop"}],"obfuscation":"x"}"#;
        let found = texts(data);
        let shown: Vec<(u64, u64, &str, &str)> =
            found.iter().map(|(c, p, f, t)| (*c, *p, f.as_str(), t.as_str())).collect();
        assert_eq!(
            shown,
            [
                (2, 0, "content", "ab"),
                (2, 0, "reasoning_content", "cd"),
                (2, 1, "name", "get"),
                (2, 1, "arguments", r#"{\"x\":1}"#),
                (2, 1, "text", "e"),
            ]
        );
        assert_eq!(bytes(data), 2 + 2 + (3 + 16) + 7 + 1);
    }

    #[test]
    fn whole_answers_and_plain_completions_are_read_alike() {
        assert_eq!(bytes(r#"{"choices":[{"message":{"content":"abc","refusal":null}}]}"#), 3);
        assert_eq!(bytes(r#"{"choices":[{"text":"abcd","index":0},{"text":"e"}]}"#), 5);
    }

    #[test]
    fn what_is_no_answer_says_nothing_and_what_is_unknown_counts_whole() {
        for silent in [
            r#"{"choices":[],"usage":{"prompt_tokens":1}}"#,
            r#"{"usage":{"prompt_tokens":1}}"#,
            r#"{"error":{"message":"no"}}"#,
            r#"{"type":"ping"}"#,
            r#"{"choices":[{"delta":{}}]}"#,
            r#"{"choices":[{"delta":null}]}"#,
            r#"{"choices":[7,null,"x"]}"#,
            "",
        ] {
            assert_eq!(bytes(silent), 0, "{silent}");
        }
        for unknown in [r#"{"response":"abc"}"#, "plain text", "[1,2]", r#"{"choices":"x"}"#] {
            assert_eq!(bytes(unknown), unknown.len() as u64, "{unknown}");
        }
    }

    #[test]
    fn a_cut_answer_counts_up_to_the_cut_and_never_falls_as_more_comes() {
        let data =
            r#"{"id":"chatcmpl","choices":[{"delta":{"content":"a\u00e9\nb","x":["yz"]}}]}"#;
        let mut before = 0;
        for end in 1..data.len() {
            let now = bytes(&data[..end]);
            assert!(now + 5 >= before, "{end}");
            before = now;
        }
        assert_eq!(bytes(r#"{"id":"chatcmpl-1","choices":[{"delta":{"cont"#), 0);
        assert_eq!(bytes(r#"{"choices":[{"delta":{"content":"Hel"#), 3);
        assert_eq!(bytes(r#"{"choices":[{"delta":{"content":"Hel\"#), 4);
        assert_eq!(bytes(data), 5 + 2);
    }

    #[test]
    fn what_follows_a_fault_counts() {
        assert_eq!(bytes(r#"{"choices":[{"delta":{"content":"ab",]}rest"#), 2 + 6);
    }

    #[test]
    fn an_escaped_text_is_never_counted_below_its_meaning() {
        for (raw, least) in [
            (r"a\nb", 3),
            (r"\u0041", 1),
            (r"\u007f", 1),
            (r"\u00e9", 2),
            (r"\u07ff", 2),
            (r"\u0800", 3),
            (r"\uffff", 3),
            (r"\\", 1),
            (r"\\\\u0041", 7),
            (r"\", 1),
            (r"\u00", 3),
        ] {
            let (raw, field): (_, &[u8]) = (raw.as_bytes(), b"");
            let piece = Piece { choice: 0, part: 0, field, raw, is_escaped: true };
            assert_eq!(piece.text_len(), least, "{raw:?}");
        }
    }
}
