//! The chunked coding of HTTP/1.1, taken apart as its bytes arrive.
//!
//! A state machine over bytes, so the result cannot depend on how the network cut them. Strict
//! where smuggling starts: sizes of 1 to 16 hexadecimal digits, CRLF only, no white space around
//! sizes, extensions by their grammar and short, trailers checked and dropped.

use crate::head::{is_text_byte, is_token_byte};

/// Bytes of a chunk-size line with its extensions, line end not counted. Nobody sends
/// extensions; attackers send long ones.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Digits of a chunk size: 16 fill 64 bits, so no sum can overflow.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 16;
/// Bytes of the trailer section, line ends included. It is read and dropped.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

macro_rules! faults {
    ($($name:ident $label:literal $text:literal)*) => {
        /// Why a chunked body is refused. Closed: each has one fixed text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ChunkFault {
            $(#[doc = $text] $name,)*
        }

        impl ChunkFault {
            /// All faults, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The fault's own name, in snake case: for tests, metrics and traces.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// One English sentence without a full stop; never holds the peer's bytes.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

faults! {
    Size "size" "a chunk size is not a hexadecimal number of 1 to 16 digits"
    LineTooLong "line_too_long" "a chunk-size line is longer than 256 bytes"
    Extension "extension" "a chunk extension is not a name with an optional value"
    LineEnd "line_end" "a line of the chunked coding does not end in CRLF"
    DataEnd "data_end" "a chunk is longer or shorter than its size says"
    Trailer "trailer" "a trailer is not a valid field"
    TrailerTooLarge "trailer_too_large" "the trailers are larger than 8 KiB"
}

/// How far one call to `Decoder::feed` came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belong to this message; less than all only once it is done.
    pub consumed: usize,
    /// Has the message ended? What was not consumed belongs to the next one.
    pub done: bool,
}

//   Size ──► SizeLf ──► Data ──► DataCr ──► DataLf ──► Size
//    │ ▲        │ size 0
//    ▼ │        ▼
//   extension  TrailerStart ──► TrailerName ──► TrailerValue ──► TrailerLf ──► TrailerStart
//                  └──► EndLf ──► Done
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    /// After `;`: a name, of which at least one byte must come.
    ExtensionName {
        empty: bool,
    },
    /// After `=`: the start of a value.
    ExtensionValueStart,
    ExtensionToken,
    ExtensionQuoted,
    /// After a backslash in a quoted value.
    ExtensionEscaped,
    /// After a closing quote.
    ExtensionEnd,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
    Failed(ChunkFault),
}

/// Takes one chunked body apart.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    /// Size of the chunk being announced, then what of its data has not come yet.
    remaining: u64,
    digits: usize,
    line_bytes: usize,
    trailer_bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder that stands before the first chunk.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Size, remaining: 0, digits: 0, line_bytes: 0, trailer_bytes: 0 }
    }

    /// Append payload bytes of `input` to `out`; stop after the message ends.
    ///
    /// `out` grows by at most the length of `input`. After the end nothing more is consumed.
    ///
    /// # Errors
    ///
    /// The coding is broken. What came before the fault is in `out`; every later call gives the
    /// same fault.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ChunkFault> {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::Done => break,
                State::Failed(fault) => return Err(fault),
                State::Data => at += self.take_data(&input[at..], out),
                _ => {
                    let next = self.step(input[at]);
                    at += 1;
                    self.state = next.unwrap_or_else(State::Failed);
                }
            }
        }
        match self.state {
            State::Failed(fault) => Err(fault),
            state => Ok(Progress { consumed: at, done: state == State::Done }),
        }
    }

    fn take_data(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let taken = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
        out.extend_from_slice(&input[..taken]);
        self.remaining -= taken as u64;
        if self.remaining == 0 {
            self.state = State::DataCr;
        }
        taken
    }

    /// The state after one byte that is not payload.
    fn step(&mut self, byte: u8) -> Result<State, ChunkFault> {
        match self.state {
            State::Size => self.step_size(byte),
            State::ExtensionName { .. }
            | State::ExtensionValueStart
            | State::ExtensionToken
            | State::ExtensionQuoted
            | State::ExtensionEscaped
            | State::ExtensionEnd => self.step_extension(byte),
            State::SizeLf if byte != b'\n' => Err(ChunkFault::LineEnd),
            State::SizeLf if self.remaining == 0 => Ok(State::TrailerStart),
            State::SizeLf => Ok(State::Data),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => {
                (self.digits, self.line_bytes) = (0, 0);
                Ok(State::Size)
            }
            State::DataCr | State::DataLf => Err(ChunkFault::DataEnd),
            State::TrailerStart
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => self.step_trailer(byte),
            // Not reached: `feed` takes these apart itself.
            State::Data | State::Done | State::Failed(_) => Ok(self.state),
        }
    }

    fn step_size(&mut self, byte: u8) -> Result<State, ChunkFault> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.digits > 0 => return Ok(State::SizeLf),
            b';' if self.digits > 0 => {
                self.count_line_byte()?;
                return Ok(State::ExtensionName { empty: true });
            }
            b'\n' if self.digits > 0 => return Err(ChunkFault::LineEnd),
            _ => return Err(ChunkFault::Size),
        };
        if self.digits == CHUNK_SIZE_DIGITS_MAX {
            return Err(ChunkFault::Size);
        }
        self.count_line_byte()?;
        self.digits += 1;
        // `remaining` is 0 here before the first digit: the chunk before was read to its end.
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn step_extension(&mut self, byte: u8) -> Result<State, ChunkFault> {
        let next = match (self.state, byte) {
            (State::ExtensionQuoted, b'"') => State::ExtensionEnd,
            (State::ExtensionQuoted, b'\\') => State::ExtensionEscaped,
            (State::ExtensionQuoted | State::ExtensionEscaped, _) if is_text_byte(byte) => {
                State::ExtensionQuoted
            }
            (State::ExtensionName { empty: false }, b'=') => State::ExtensionValueStart,
            (State::ExtensionName { .. }, _) if is_token_byte(byte) => {
                State::ExtensionName { empty: false }
            }
            (State::ExtensionValueStart, b'"') => State::ExtensionQuoted,
            (State::ExtensionValueStart | State::ExtensionToken, _) if is_token_byte(byte) => {
                State::ExtensionToken
            }
            (
                State::ExtensionName { empty: false }
                | State::ExtensionToken
                | State::ExtensionEnd,
                b'\r' | b'\n' | b';',
            ) => match byte {
                b'\r' => return Ok(State::SizeLf),
                b'\n' => return Err(ChunkFault::LineEnd),
                _ => State::ExtensionName { empty: true },
            },
            _ => return Err(ChunkFault::Extension),
        };
        self.count_line_byte()?;
        Ok(next)
    }

    fn count_line_byte(&mut self) -> Result<(), ChunkFault> {
        self.line_bytes += 1;
        if self.line_bytes > CHUNK_LINE_BYTES_MAX {
            return Err(ChunkFault::LineTooLong);
        }
        Ok(())
    }

    fn step_trailer(&mut self, byte: u8) -> Result<State, ChunkFault> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(ChunkFault::TrailerTooLarge);
        }
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => {
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_text_byte(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::TrailerStart | State::TrailerValue, b'\n')
            | (State::TrailerLf | State::EndLf, _) => Err(ChunkFault::LineEnd),
            _ => Err(ChunkFault::Trailer),
        }
    }
}
