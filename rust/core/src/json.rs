//! Strict JSON (RFC 8259), walked in one pass without building a tree.
//!
//! Owns the grammar and nothing else: no key has a meaning here. [`Cursor`] is pulled through a
//! text by its callers (`scan` for requests, `usage` and `sse` for answers), which read what
//! they know and [`skip`](Cursor::skip) the rest; what is skipped is checked just as strictly.
//!
//! Bytes are not checked to be UTF-8: outside strings the grammar admits ASCII only, inside
//! them the caller checks what it reads. Nothing recurses, so no text can exhaust the stack.

use std::borrow::Cow;

/// Containers that may be open at once, the outermost counted.
pub const DEPTH_MAX: u32 = 128;

/// A range of byte offsets in the text that was walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// Where a text stops being JSON, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonFault {
    /// Byte offset of the first byte that cannot stand there.
    pub at: usize,
    /// A fixed English clause.
    pub why: &'static str,
}

/// What a value is, told from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    String,
    /// `-` or a digit
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

/// A number read where a count is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// `null`.
    Null,
    /// An integer from 0 to 2^64 - 1, written without sign, fraction or exponent.
    Count(u64),
    /// An integer with a minus sign, `-0` included.
    Negative,
    /// Anything else: a fraction, an exponent, more than 64 bits, not a number.
    Other,
}

/// A string as it stands in the text: quoted, escapes and all.
#[derive(Clone, Copy, Debug)]
pub struct Text<'b> {
    /// What stands between the quotes.
    pub raw: &'b [u8],
    /// Where the string stands, quotes included.
    pub span: Span,
    /// Whether `raw` holds a backslash.
    pub is_escaped: bool,
}

impl<'b> Text<'b> {
    /// The string that is meant.
    ///
    /// # Errors
    /// For a lone surrogate, which no Unicode string can hold, and for bytes that are not UTF-8.
    pub fn decode(&self) -> Result<Cow<'b, str>, JsonFault> {
        let utf8 = std::str::from_utf8(self.raw).map_err(|fault| JsonFault {
            at: self.span.start + 1 + fault.valid_up_to(),
            why: "invalid UTF-8 in a string",
        })?;
        if !self.is_escaped {
            return Ok(Cow::Borrowed(utf8));
        }
        let mut decoded = String::with_capacity(utf8.len());
        if unescape(utf8, &mut decoded) {
            Ok(Cow::Owned(decoded))
        } else {
            Err(JsonFault { at: self.span.start, why: "a lone surrogate in a string" })
        }
    }

    /// Whether the string that is meant equals `plain`.
    #[must_use]
    pub fn is(&self, plain: &str) -> bool {
        if self.is_escaped {
            self.decode().is_ok_and(|decoded| decoded == plain)
        } else {
            self.raw == plain.as_bytes()
        }
    }

    /// The bytes of the string that is meant, for comparing with known keys.
    ///
    /// A lone surrogate becomes U+FFFD, which no known key holds.
    #[must_use]
    pub fn key_bytes(&self) -> Cow<'b, [u8]> {
        if !self.is_escaped {
            return Cow::Borrowed(self.raw);
        }
        let mut decoded = String::with_capacity(self.raw.len());
        unescape(&String::from_utf8_lossy(self.raw), &mut decoded);
        Cow::Owned(decoded.into_bytes())
    }
}

/// Append the meaning of an escaped text whose escapes are known to be well formed.
///
/// Returns whether every surrogate had its partner; a lone one is appended as U+FFFD.
fn unescape(text: &str, out: &mut String) -> bool {
    let mut is_whole = true;
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        let mut used = at + 2;
        let plain = match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = code_unit(rest, used);
                used += 4;
                let mut point = u32::from(first);
                if (0xD800..0xDC00).contains(&first) && rest[used..].starts_with("\\u") {
                    let second = code_unit(rest, used + 2);
                    if (0xDC00..0xE000).contains(&second) {
                        used += 6;
                        point = 0x1_0000
                            + ((u32::from(first) - 0xD800) << 10)
                            + (u32::from(second) - 0xDC00);
                    }
                }
                char::from_u32(point).unwrap_or_else(|| {
                    is_whole = false;
                    char::REPLACEMENT_CHARACTER
                })
            }
            other => char::from(other),
        };
        out.push(plain);
        rest = &rest[used..];
    }
    out.push_str(rest);
    is_whole
}

/// The code unit written as four hex digits at `at`; the walk has checked that they are there.
fn code_unit(text: &str, at: usize) -> u16 {
    text.get(at..at + 4).and_then(|hex| u16::from_str_radix(hex, 16).ok()).unwrap_or(0xD800)
}

/// A position in a JSON text, moved forward value by value.
///
/// Objects: [`enter_object`](Cursor::enter_object), then [`key`](Cursor::key) and one value for
/// as long as it, then [`more_members`](Cursor::more_members), say that a member follows.
/// Arrays alike. A value is entered, read or skipped exactly once.
#[derive(Clone, Debug)]
pub struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
    depth: u32,
}

impl<'b> Cursor<'b> {
    /// Start before the first byte of `bytes`.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    /// Byte offset of what comes next; after a value, the byte after its last.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// What the next value is. Moves over white space only.
    ///
    /// # Errors
    /// If no value begins there.
    pub fn kind(&mut self) -> Result<Kind, JsonFault> {
        match self.peek() {
            Some(b'"') => Ok(Kind::String),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.fault("not a JSON value")),
            None => Err(self.fault("the text ends where a value is expected")),
        }
    }

    /// Move into an object; true if it has a member, whose [`key`](Cursor::key) is next.
    ///
    /// # Errors
    /// If the next value is not an object or lies too deep.
    pub fn enter_object(&mut self) -> Result<bool, JsonFault> {
        self.enter(b'{', b'}', "an object is expected")
    }

    /// Read a member's key and the colon; its value is next.
    ///
    /// # Errors
    /// If there is no key with a colon.
    pub fn key(&mut self) -> Result<Text<'b>, JsonFault> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("a quoted key is expected"));
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return Err(self.fault("a colon is expected"));
        }
        self.at += 1;
        Ok(key)
    }

    /// After a member's value: true if another follows, false if the object ended.
    ///
    /// # Errors
    /// If neither `,` nor `}` comes next.
    pub fn more_members(&mut self) -> Result<bool, JsonFault> {
        self.more(b'}', "a comma or the end of the object is expected")
    }

    /// Move into an array; true if it has an element, which is next.
    ///
    /// # Errors
    /// If the next value is not an array or lies too deep.
    pub fn enter_array(&mut self) -> Result<bool, JsonFault> {
        self.enter(b'[', b']', "an array is expected")
    }

    /// After an element: true if another follows, false if the array ended.
    ///
    /// # Errors
    /// If neither `,` nor `]` comes next.
    pub fn more_elements(&mut self) -> Result<bool, JsonFault> {
        self.more(b']', "a comma or the end of the array is expected")
    }

    /// Read a string.
    ///
    /// # Errors
    /// If the next value is not one: raw control characters and unknown escapes are refused.
    pub fn string(&mut self) -> Result<Text<'b>, JsonFault> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("a string is expected"));
        }
        let start = self.at;
        self.at += 1;
        let mut is_escaped = false;
        loop {
            self.at += plain_len(&self.bytes[self.at..]);
            match self.bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    is_escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.fault("a raw control character in a string")),
                None => return Err(self.fault("the text ends inside a string")),
            }
        }
        let raw = &self.bytes[start + 1..self.at];
        self.at += 1;
        Ok(Text { raw, span: Span { start, end: self.at }, is_escaped })
    }

    /// Read `true` or `false`.
    ///
    /// # Errors
    /// If the next value is neither.
    pub fn boolean(&mut self) -> Result<bool, JsonFault> {
        let is_true = self.peek() == Some(b't');
        self.literal(if is_true { b"true" } else { b"false" })?;
        Ok(is_true)
    }

    /// Read any value as a count; one that is not a number is skipped.
    ///
    /// # Errors
    /// If the value is not JSON.
    pub fn figure(&mut self) -> Result<Figure, JsonFault> {
        match self.kind()? {
            Kind::Null => {
                self.literal(b"null")?;
                Ok(Figure::Null)
            }
            Kind::Number => {
                let span = self.number()?;
                Ok(figure_of(&self.bytes[span.start..span.end]))
            }
            _ => {
                self.skip()?;
                Ok(Figure::Other)
            }
        }
    }

    /// Move over one value of any kind and depth, checking it.
    ///
    /// # Errors
    /// If the value is not JSON or lies too deep.
    pub fn skip(&mut self) -> Result<Span, JsonFault> {
        self.space();
        let start = self.at;
        let outside = self.depth;
        // One bit for each open container, the innermost lowest: 1 is an object.
        let mut open: u128 = 0;
        loop {
            match self.kind()? {
                Kind::String => {
                    self.string()?;
                }
                Kind::Number => {
                    self.number()?;
                }
                Kind::Bool => {
                    self.boolean()?;
                }
                Kind::Null => self.literal(b"null")?,
                Kind::Object => {
                    if self.enter_object()? {
                        open = open << 1 | 1;
                        self.key()?;
                        continue;
                    }
                }
                Kind::Array => {
                    if self.enter_array()? {
                        open <<= 1;
                        continue;
                    }
                }
            }
            loop {
                if self.depth == outside {
                    return Ok(Span { start, end: self.at });
                }
                if open & 1 == 1 {
                    if self.more_members()? {
                        self.key()?;
                        break;
                    }
                } else if self.more_elements()? {
                    break;
                }
                open >>= 1;
            }
        }
    }

    /// Move over one value, checking it, and return it as it is written.
    ///
    /// # Errors
    /// As [`Cursor::skip`].
    pub fn skip_text(&mut self) -> Result<&'b [u8], JsonFault> {
        let span = self.skip()?;
        Ok(&self.bytes[span.start..span.end])
    }

    /// Require that only white space is left.
    ///
    /// # Errors
    /// If anything else follows.
    pub fn end(&mut self) -> Result<(), JsonFault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault("bytes after the end of the value")),
        }
    }

    fn fault(&self, why: &'static str) -> JsonFault {
        JsonFault { at: self.at, why }
    }

    /// Move over white space.
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.bytes.get(self.at).copied()
    }

    fn enter(&mut self, open: u8, close: u8, why: &'static str) -> Result<bool, JsonFault> {
        if self.peek() != Some(open) {
            return Err(self.fault(why));
        }
        if self.depth == DEPTH_MAX {
            return Err(self.fault("nested deeper than 128"));
        }
        self.at += 1;
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        self.depth += 1;
        Ok(true)
    }

    fn more(&mut self, close: u8, why: &'static str) -> Result<bool, JsonFault> {
        debug_assert!(self.depth > 0);
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            _ => Err(self.fault(why)),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), JsonFault> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.fault("not a JSON value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn escape(&mut self) -> Result<(), JsonFault> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6);
                if !digits.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
                    return Err(self.fault("an escape without four hex digits"));
                }
                self.at += 6;
            }
            _ => return Err(self.fault("an unknown escape")),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Span, JsonFault> {
        let start = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        // A zero stands alone: what follows `0` in `01` is then neither comma nor end.
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Span { start, end: self.at })
    }

    /// Move over one digit or more.
    fn digits(&mut self) -> Result<(), JsonFault> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("a digit is expected")) } else { Ok(()) }
    }
}

/// Read a number that the grammar admits.
fn figure_of(number: &[u8]) -> Figure {
    let (is_negative, digits) = match number {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, number),
    };
    let mut count: u64 = 0;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return Figure::Other;
        }
        let Some(next) =
            count.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(byte - b'0')))
        else {
            return Figure::Other;
        };
        count = next;
    }
    if is_negative { Figure::Negative } else { Figure::Count(count) }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = ONES << 7;
/// Below this a string is walked by words, beyond it by blocks.
const SHORT_BYTES: usize = 32;
/// A whole number of vector registers on every machine we build for.
const BLOCK_BYTES: usize = 32;

/// How many bytes come before the first quote, backslash or control character.
fn plain_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        let hits = special_bytes(u64::from_le_bytes(*word));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
        if at == SHORT_BYTES {
            at += plain_blocks(&bytes[at..]);
        }
    }
    at + bytes[at..].iter().take_while(|&&byte| !is_special(byte)).count()
}

/// The high bit of each byte that is a quote, a backslash or a control character.
///
/// Bits above the lowest one may be wrong, as a hit borrows from its upper neighbours: only
/// the lowest is used.
fn special_bytes(word: u64) -> u64 {
    let quote = word ^ (ONES * u64::from(b'"'));
    let backslash = word ^ (ONES * u64::from(b'\\'));
    let below = |value: u64, limit: u64| value.wrapping_sub(ONES * limit) & !value;
    (below(quote, 1) | below(backslash, 1) | below(word, 0x20)) & HIGHS
}

/// The length of the leading blocks without a special byte; written so that it vectorises.
fn plain_blocks(bytes: &[u8]) -> usize {
    let is_plain =
        |block: &&[u8]| !block.iter().fold(false, |hit, &byte| hit | is_special(byte));
    bytes.chunks_exact(BLOCK_BYTES).take_while(is_plain).count() * BLOCK_BYTES
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &[u8]) -> Result<(), JsonFault> {
        let mut cursor = Cursor::new(text);
        cursor.skip()?;
        cursor.end()
    }

    #[test]
    fn the_grammar_of_numbers_is_kept() {
        for good in
            ["0", "-0", "1e999", "1E+2", "1.5e-3", "-12", "0.0", "1e00", "99999999999999999999"]
        {
            assert!(check(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "01",
            "1.",
            "+1",
            ".5",
            "-",
            "1e",
            "1e+",
            "NaN",
            "Infinity",
            "-Infinity",
            "0x1",
            "1_0",
            "--1",
            "1.e1",
        ] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bad in [
            "",
            " ",
            "{",
            "}",
            "[",
            "[1,]",
            "[,1]",
            "{\"a\":1,}",
            "{,}",
            "{a:1}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\" 1}",
            "'a'",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"a\nb\"",
            "tru",
            "nul",
            "True",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
            "1 2",
            "{}{}",
            "// c\n1",
            "[1]]",
            "\u{feff}1",
            "\"\0\"",
            "\u{a0}1",
            "{\"a\":1]",
            "[1}",
        ] {
            assert!(check(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_json_is_accepted_wherever_white_space_may_stand() {
        for good in [
            " \t\r\n{ \"a\" : [ 1 , true , null , false , { } , [ ] , \"\\u00e9\\n\" ] , \"\" : -1.5 } \n",
            "\"\\ud800\"",
            "\"\u{7f}\"",
            "[[[]]]",
            "\"\\/\"",
        ] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn a_depth_of_128_is_accepted_and_129_refused() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert!(check(nested(128).as_bytes()).is_ok());
        assert!(check(nested(129).as_bytes()).is_err());
        let objects =
            |depth: usize| ["{\"a\":".repeat(depth), "1".into(), "}".repeat(depth)].concat();
        assert!(check(objects(128).as_bytes()).is_ok());
        assert!(check(objects(129).as_bytes()).is_err());
        let mixed =
            |depth: usize| ["[{\"a\":".repeat(depth), "1".into(), "}]".repeat(depth)].concat();
        assert!(check(mixed(64).as_bytes()).is_ok());
        assert!(check(mixed(65).as_bytes()).is_err());
    }

    #[test]
    fn strings_of_every_length_end_at_their_first_special_byte() {
        for len in 0..200 {
            for special in [b'"', b'\\', 0, 0x1f, b'\n'] {
                let mut bytes = vec![b'a'; len];
                bytes.push(special);
                bytes.extend_from_slice("\u{e9}\u{7f} \"\\".repeat(9).as_bytes());
                assert_eq!(plain_len(&bytes), len);
            }
            assert_eq!(plain_len("\u{ff}".repeat(len).as_bytes()), 2 * len);
        }
    }

    #[test]
    fn escapes_are_read_as_what_they_mean() {
        let text = |json: &'static str| {
            let mut cursor = Cursor::new(json.as_bytes());
            cursor.string().unwrap()
        };
        assert!(text(r#""mod\u0065l""#).is("model"));
        assert!(text(r#""\"\\\/\b\f\n\r\t""#).is("\"\\/\u{8}\u{c}\n\r\t"));
        assert!(text(r#""\ud83d\ude00!""#).is("\u{1f600}!"));
        assert!(text(r#""\u0000""#).is("\0"));
        for lone in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\ud800""#,
            r#""\ud800x""#,
            r#""\ud800\n""#,
            r#""\ud83d\u0041""#,
        ] {
            assert!(text(lone).decode().is_err(), "{lone}");
        }
    }

    #[test]
    fn a_figure_is_a_count_or_says_why_not() {
        let figure = |json: &str| Cursor::new(json.as_bytes()).figure().unwrap();
        assert_eq!(figure("18446744073709551615"), Figure::Count(u64::MAX));
        assert_eq!(figure("18446744073709551616"), Figure::Other);
        assert_eq!(figure("-1"), Figure::Negative);
        assert_eq!(figure("-0"), Figure::Negative);
        assert_eq!(figure("1.0"), Figure::Other);
        assert_eq!(figure("1e2"), Figure::Other);
        assert_eq!(figure("\"1\""), Figure::Other);
        assert_eq!(figure("null"), Figure::Null);
        assert_eq!(figure("[1]"), Figure::Other);
    }
}
