//! The words of a rule: names, literals and signs, each with where it stands.
//!
//! One pass, one word at a time, and every character is looked at once. What CEL knows and a
//! rule does not (raw texts, bytes, comments, `%`) is refused by name rather than misread.

use std::borrow::Cow;

use super::RuleFault;

/// Where a word begins: both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl At {
    pub(super) fn fault(self, message: impl Into<String>) -> RuleFault {
        RuleFault { line: self.line, column: self.column, message: message.into() }
    }
}

/// One word.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'t> {
    /// A variable, a function, or a word of the language that is no operator.
    Name(&'t str),
    /// A text with its escapes resolved.
    Text(Cow<'t, str>),
    Number(f64),
    Sign(Sign),
    End,
}

/// An operator or a bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    And,
    Or,
    Not,
    In,
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Plus,
    Minus,
    Times,
    Divide,
    Question,
    Colon,
    Comma,
    Dot,
    Open,
    Close,
    OpenList,
    CloseList,
}

/// Cuts a rule into words, on demand.
pub(super) struct Lexer<'t> {
    text: &'t str,
    /// Byte offset of the next character.
    offset: usize,
    at: At,
    /// Words cut so far.
    pub(super) tokens: u32,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, offset: 0, at: At { line: 1, column: 1 }, tokens: 0 }
    }

    /// The next word and where it begins; [`Token::End`] at the end, however often asked.
    pub(super) fn next(&mut self) -> Result<(Token<'t>, At), RuleFault> {
        while let Some(' ' | '\t' | '\n' | '\r' | '\u{c}') = self.peek() {
            self.advance();
        }
        self.tokens += 1;
        let at = self.at;
        let Some(first) = self.peek() else {
            return Ok((Token::End, at));
        };
        let token = match first {
            'a'..='z' | 'A'..='Z' | '_' => self.name()?,
            '0'..='9' => Token::Number(self.number()?),
            '"' | '\'' => Token::Text(self.quoted(first)?),
            _ => Token::Sign(self.sign(first)?),
        };
        Ok((token, at))
    }

    fn rest(&self) -> &'t str {
        &self.text[self.offset..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn advance(&mut self) {
        if let Some(c) = self.peek() {
            self.offset += c.len_utf8();
            if c == '\n' {
                self.at = At { line: self.at.line + 1, column: 1 };
            } else {
                self.at.column += 1;
            }
        }
    }

    fn skip_ascii(&mut self, count: u32) {
        for _ in 0..count {
            self.advance();
        }
    }

    /// Take characters while they fit, and return them.
    fn take(&mut self, fits: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        while self.peek().is_some_and(&fits) {
            self.advance();
        }
        &rest[..rest.len() - self.rest().len()]
    }

    fn name(&mut self) -> Result<Token<'t>, RuleFault> {
        let at = self.at;
        let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_');
        if let Some('"' | '\'') = self.peek() {
            return Err(at.fault(format!(
                "`{name}` cannot stand before a quote: raw texts and bytes are not part of the \
                 rule language"
            )));
        }
        Ok(match name {
            "and" => Token::Sign(Sign::And),
            "or" => Token::Sign(Sign::Or),
            "not" => Token::Sign(Sign::Not),
            "in" => Token::Sign(Sign::In),
            _ => Token::Name(name),
        })
    }

    fn number(&mut self) -> Result<f64, RuleFault> {
        let (at, rest) = (self.at, self.rest());
        self.take(|c| c.is_ascii_digit());
        let mut is_integer = true;
        let mut after = self.rest().chars();
        if after.next() == Some('.') && after.next().is_some_and(|c| c.is_ascii_digit()) {
            is_integer = false;
            self.advance();
            self.take(|c| c.is_ascii_digit());
        }
        if let Some('e' | 'E') = self.peek() {
            is_integer = false;
            self.advance();
            if let Some('+' | '-') = self.peek() {
                self.advance();
            }
            self.take(|c| c.is_ascii_digit());
        }
        let written = &rest[..rest.len() - self.rest().len()];
        let shown = crate::text::shown(written);
        if let Some('a'..='z' | 'A'..='Z' | '_') = self.peek() {
            let is_field = self.text[..self.offset - written.len()].ends_with('.');
            return Err(at.fault(if is_field {
                "a name cannot begin with a digit: write it in brackets and quotes, as in \
                 `tags['2fa']`"
                    .to_owned()
            } else {
                format!(
                    "the number `{shown}` runs into a letter: numbers are decimal, without a \
                     suffix"
                )
            }));
        }
        let number: f64 = written.parse().map_err(|_| {
            at.fault(format!("`{shown}` is not a number: its exponent is missing"))
        })?;
        if !number.is_finite() {
            return Err(at.fault(format!("the number `{shown}` is too large for a double")));
        }
        if is_integer && !is_exact(written) {
            return Err(at.fault(format!(
                "the integer `{shown}` is above 2^53 (9007199254740992), so it cannot be held \
                 exactly: write a smaller one, or `{number:e}` if about that is meant"
            )));
        }
        Ok(number)
    }

    fn quoted(&mut self, quote: char) -> Result<Cow<'t, str>, RuleFault> {
        let at = self.at;
        if self.rest().starts_with("'''") || self.rest().starts_with("\"\"\"") {
            return Err(at.fault(
                "texts in three quotes are not part of the rule language: use one, and `\\n` \
                 for a line break",
            ));
        }
        self.advance();
        let plain = self.take(|c| c != quote && c != '\\' && c != '\n' && c != '\r');
        let mut decoded = Cow::Borrowed(plain);
        loop {
            let here = self.at;
            match self.peek() {
                None | Some('\n' | '\r') => {
                    return Err(at.fault(format!(
                        "this text is not closed on its line: add a `{quote}`"
                    )));
                }
                Some('\\') => {
                    self.advance();
                    decoded.to_mut().push(self.escape(here)?);
                }
                Some(c) => {
                    self.advance();
                    if c == quote {
                        return Ok(decoded);
                    }
                    decoded.to_mut().push(c);
                }
            }
        }
    }

    /// The character that an escape means; the backslash, at `at`, is behind us.
    fn escape(&mut self, at: At) -> Result<char, RuleFault> {
        let Some(letter) = self.peek() else {
            return Err(at.fault("the text ends inside of an escape"));
        };
        let (skip, digits, radix) = match letter {
            'x' | 'X' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='3' => (0, 3, 8),
            _ => {
                let plain = match letter {
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{b}',
                    '\\' | '?' | '"' | '\'' | '`' => letter,
                    _ => {
                        return Err(at.fault(format!(
                            "`\\{}` is not an escape: write `\\\\` for a backslash",
                            crate::text::shown(&letter.to_string())
                        )));
                    }
                };
                self.advance();
                return Ok(plain);
            }
        };
        self.skip_ascii(skip);
        let mut code = 0;
        for _ in 0..digits {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(radix)) else {
                let kind = if radix == 8 { "octal" } else { "hexadecimal" };
                return Err(at.fault(format!("this escape needs {digits} {kind} digits")));
            };
            code = code * radix + digit;
            self.advance();
        }
        char::from_u32(code).ok_or_else(|| at.fault(format!("{code:#x} is not a character")))
    }

    fn sign(&mut self, first: char) -> Result<Sign, RuleFault> {
        let second = self.rest().chars().nth(1);
        let (sign, length) = match (first, second) {
            ('&', Some('&')) => (Sign::And, 2),
            ('|', Some('|')) => (Sign::Or, 2),
            ('=', Some('=')) => (Sign::Equal, 2),
            ('!', Some('=')) => (Sign::Unequal, 2),
            ('<', Some('=')) => (Sign::LessEqual, 2),
            ('>', Some('=')) => (Sign::GreaterEqual, 2),
            ('/', Some('/')) => {
                return Err(self.at.fault("a comment is not part of the rule language"));
            }
            ('<', Some('>')) => return Err(self.at.fault("`<>` is written `!=`")),
            ('!', _) => (Sign::Not, 1),
            ('<', _) => (Sign::Less, 1),
            ('>', _) => (Sign::Greater, 1),
            ('+', _) => (Sign::Plus, 1),
            ('-', _) => (Sign::Minus, 1),
            ('*', _) => (Sign::Times, 1),
            ('/', _) => (Sign::Divide, 1),
            ('?', _) => (Sign::Question, 1),
            (':', _) => (Sign::Colon, 1),
            (',', _) => (Sign::Comma, 1),
            ('.', _) => (Sign::Dot, 1),
            ('(', _) => (Sign::Open, 1),
            (')', _) => (Sign::Close, 1),
            ('[', _) => (Sign::OpenList, 1),
            (']', _) => (Sign::CloseList, 1),
            ('=', _) => return Err(self.at.fault("`=` is written `==`")),
            ('&', _) => return Err(self.at.fault("`&` is written `&&`, or `and`")),
            ('|', _) => return Err(self.at.fault("`|` is written `||`, or `or`")),
            ('%', _) => return Err(self.at.fault("`%` is not part of the rule language")),
            ('“' | '”' | '‘' | '’' | '`', _) => {
                let message = format!("{first} is not a quote: use ' or \"");
                return Err(self.at.fault(message));
            }
            _ => {
                return Err(self.at.fault(format!(
                    "`{}` cannot stand here: quote it if it belongs to a text",
                    crate::text::shown(&first.escape_debug().to_string())
                )));
            }
        };
        self.skip_ascii(length);
        Ok(sign)
    }
}

/// Whether the digits are at most 2^53. A double cannot tell: 2^53 + 1 rounds to it.
fn is_exact(digits: &str) -> bool {
    let digits = digits.trim_start_matches('0');
    digits.len() <= 16 && digits.parse::<u64>().is_ok_and(|n| n <= 1 << 53) || digits.is_empty()
}
