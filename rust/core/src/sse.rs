//! Follows a stream of server-sent events (WHATWG HTML section 9.2) in the OpenAI protocol.
//!
//! Bytes in, bytes to relay out, and what they say: has content begun, usage, an error, the
//! end. Holds no socket and no clock. What is relayed and what is learnt do not depend on how
//! the network cuts the stream, and no more than one event is kept.
//!
//! ```text
//!            field line                 blank line: looked at, then relayed or cut
//!  between ────────────► inside an event ────────────► between
//!     │  ▲                     │  cut mode: held while it may still be the usage event
//!     └──┘ comment, blank      └─ otherwise relayed as it comes, and kept to be looked at
//! ```
//!
//! The usual event is never parsed: a search for three quoted words tells whether there is
//! anything to read. So these words must stand there unescaped, as every provider writes them.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::generated::text_bytes;
use crate::json::{Cursor, Figure, JsonFault, Kind};
use crate::usage::{Report, Usage};

/// A larger event is relayed but not looked at; this and the next two as `limits.py` says.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// What cut mode holds of one event; a larger one is never cut.
pub const HOLD_BYTES_MAX: usize = 64 << 10;
/// What is kept of an error event's data.
pub const ERROR_BYTES_MAX: usize = 64 << 10;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// The words whose absence tells that an event need not be parsed.
struct Needles {
    usage: Finder<'static>,
    timings: Finder<'static>,
    error: Finder<'static>,
    finish_reason: Finder<'static>,
}

static NEEDLES: LazyLock<Needles> = LazyLock::new(|| Needles {
    usage: Finder::new(b"\"usage\""),
    timings: Finder::new(b"\"timings\""),
    error: Finder::new(b"\"error\""),
    finish_reason: Finder::new(b"\"finish_reason\""),
});

/// Where the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In what may still be a byte order mark; so many of its bytes have come.
    Mark(usize),
    /// At the start of a line.
    LineStart,
    /// Inside a comment that stands between events.
    Comment,
    /// Inside a line of an event.
    Line,
}

/// Whether an error event has ended what is relayed: no marker of success may follow it, even
/// where the provider sends one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mute {
    Off,
    /// The error event ended with a CR: a LF that follows still belongs to it.
    AfterLf,
    On,
}

/// Looks at one stream as it passes.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Follower {
    cut_usage: bool,
    counts_text: bool,
    place: Place,
    /// The last byte was a CR: a LF that follows belongs to the same line end.
    after_cr: bool,
    /// That LF is not relayed, as its line end was cut.
    is_lf_cut: bool,
    /// A line of an event has begun that no blank line has ended.
    in_event: bool,
    /// What came of that event in earlier feeds; empty if `is_oversize`.
    event: Vec<u8>,
    /// The event is beyond `EVENT_BYTES_MAX`.
    is_oversize: bool,
    /// The event's bytes are relayed as they come: it is not, or cannot be, the usage event.
    is_released: bool,
    watch: Watch,
    /// Nothing of an unfinished line or event has been relayed.
    at_boundary: bool,
    mute: Mute,

    content_seen: bool,
    done_seen: bool,
    finish_reason_seen: bool,
    usage: Option<Usage>,
    /// Nothing that the model wrote came after it.
    is_usage_last: bool,
    /// Reported inside a choice.
    choice_usage: Option<Usage>,
    /// There is more than one choice, so that what one of them reports is not all.
    has_other_choice: bool,
    error: Option<Vec<u8>>,
    output_events: u64,
    usage_events_cut: u64,
    text_bytes: u64,
}

impl Follower {
    /// Begin before the first byte of a body.
    ///
    /// `cut_usage`: leave out the usage event, because we asked for it and the caller did not.
    #[must_use]
    pub fn new(cut_usage: bool) -> Self {
        Self {
            cut_usage,
            counts_text: false,
            place: Place::Mark(0),
            after_cr: false,
            is_lf_cut: false,
            in_event: false,
            event: Vec::new(),
            is_oversize: false,
            is_released: !cut_usage,
            watch: Watch::new(),
            at_boundary: true,
            mute: Mute::Off,
            content_seen: false,
            done_seen: false,
            finish_reason_seen: false,
            usage: None,
            is_usage_last: false,
            choice_usage: None,
            has_other_choice: false,
            error: None,
            output_events: 0,
            usage_events_cut: 0,
            text_bytes: 0,
        }
    }

    /// Whether to count the bytes of text, for which each event is parsed; off at first, and to
    /// be said before the first byte.
    pub fn count_text(&mut self, is_on: bool) {
        self.counts_text = is_on;
    }

    /// Look at the next bytes of the body and append what may be relayed to `out`.
    ///
    /// That is all of them, but for the usage event in cut mode, and for what follows an error
    /// event: it is looked at, as it may report usage, and dropped.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if input.is_empty() {
            return;
        }
        let relayed_before = out.len();
        if !self.cut_usage && self.mute != Mute::On {
            out.extend_from_slice(input);
        }
        // `input[start..at]` has been read but not yet relayed, dropped or kept.
        let mut start = 0;
        let mut at = self.skip_mark(input, out, &mut start);
        while let Some(&byte) = input.get(at) {
            if self.after_cr {
                self.after_cr = false;
                let is_lf = byte == b'\n';
                if is_lf {
                    at += 1;
                    if !self.in_event {
                        if !self.is_lf_cut {
                            self.relay(&input[start..at], out);
                        }
                        start = at;
                    }
                }
                if self.mute == Mute::AfterLf {
                    self.mute = Mute::On;
                    self.drop_after(relayed_before + at, out);
                }
                if is_lf {
                    continue;
                }
            }
            if self.place == Place::LineStart {
                if byte == b'\n' || byte == b'\r' {
                    at += 1;
                    self.after_cr = byte == b'\r';
                    if self.in_event {
                        let was_error = self.error.is_some();
                        self.end_event(&input[start..at], out);
                        if self.error.is_some() && !was_error {
                            self.mute = if self.after_cr { Mute::AfterLf } else { Mute::On };
                            if self.mute == Mute::On {
                                self.drop_after(relayed_before + at, out);
                            }
                        }
                    } else {
                        self.is_lf_cut = false;
                        self.relay(&input[start..at], out);
                    }
                    start = at;
                    continue;
                }
                if byte == b':' && !self.in_event {
                    self.place = Place::Comment;
                } else {
                    self.place = Place::Line;
                    self.in_event = true;
                }
            }
            let Some(line_end) = memchr::memchr2(b'\n', b'\r', &input[at..]) else {
                at = input.len();
                break;
            };
            at += line_end + 1;
            self.after_cr = input[at - 1] == b'\r';
            if self.place == Place::Comment {
                self.is_lf_cut = false;
                self.relay(&input[start..at], out);
                start = at;
            }
            self.place = Place::LineStart;
        }
        debug_assert_eq!(at, input.len());
        if start < at {
            if self.in_event {
                self.keep(&input[start..], out);
            } else {
                self.relay(&input[start..], out);
            }
        }
        self.at_boundary = if self.mute != Mute::Off {
            true
        } else if self.in_event {
            !self.is_released
        } else {
            self.place == Place::LineStart || self.place == Place::Mark(0)
        };
    }

    /// The body has ended: relay what is held, and look at an event that no blank line ended.
    ///
    /// Where [`at_event_boundary`](Self::at_event_boundary) holds and the end came too early,
    /// the caller may leave this out: then the held part of an event is never seen.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.in_event {
            return;
        }
        let event = std::mem::take(&mut self.event);
        let look = if self.is_oversize { Look::default() } else { look_at(&event, true) };
        // Half an event is no content: nobody who reads events would see it.
        if look.is_readable {
            self.learn(&look, &event);
        }
        // But the model wrote it.
        if !self.is_oversize {
            self.count_text_of(&look, &event);
        }
        if look.is_usage_event && !self.is_released && event.len() <= HOLD_BYTES_MAX {
            self.usage_events_cut += 1;
        } else {
            if !self.is_released {
                self.relay(&event, out);
            }
            self.at_boundary = self.mute != Mute::Off;
        }
        self.in_event = false;
        self.is_released = true;
    }

    /// Whether something came that is content: not a comment, a ping, a role-only or empty
    /// delta, nor an error. Data that cannot be read counts, and so does the end of an answer.
    /// Once an error came first, nothing counts: such a stream has failed before it began.
    #[must_use]
    pub fn content_seen(&self) -> bool {
        self.content_seen
    }

    /// Usage as last reported; a later report can only raise it.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        raised(self.choice_usage.filter(|_| !self.has_other_choice), self.usage)
    }

    /// The same, unless something that the model wrote came after the last report: then it is
    /// not the last word.
    #[must_use]
    pub fn last_usage(&self) -> Option<Usage> {
        self.usage().filter(|_| self.is_usage_last)
    }

    /// Whether `[DONE]` came.
    #[must_use]
    pub fn done_seen(&self) -> bool {
        self.done_seen
    }

    /// The data of the first event that reports an error, cut to `ERROR_BYTES_MAX`.
    #[must_use]
    pub fn error_event(&self) -> Option<&[u8]> {
        self.error.as_deref()
    }

    /// Whether a choice gave its reason to finish.
    #[must_use]
    pub fn finish_reason_seen(&self) -> bool {
        self.finish_reason_seen
    }

    /// Whether an event may be written next: what was relayed so far ends one, or is nothing.
    #[must_use]
    pub fn at_event_boundary(&self) -> bool {
        self.at_boundary
    }

    /// Events from the first with content on, without errors, usage events and `[DONE]`.
    #[must_use]
    pub fn output_events(&self) -> u64 {
        self.output_events
    }

    /// Usage events that were left out.
    #[must_use]
    pub fn usage_events_cut(&self) -> u64 {
        self.usage_events_cut
    }

    /// Bytes of what the model wrote: content, reasoning, refusals, calls of tools, each with 16
    /// for its frame. No fewer than the tokens that this took; what is no event of the protocol
    /// counts whole. 0 where text is not [counted](Self::count_text).
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Take back what was relayed on arrival but comes after the error event.
    fn drop_after(&self, end: usize, out: &mut Vec<u8>) {
        if !self.cut_usage {
            out.truncate(end);
        }
    }

    /// Relay in cut mode; without it everything has been relayed on arrival.
    fn relay(&self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.cut_usage && self.mute != Mute::On {
            out.extend_from_slice(bytes);
        }
    }

    /// Pass the byte order mark; returns where the first line begins.
    fn skip_mark(&mut self, input: &[u8], out: &mut Vec<u8>, start: &mut usize) -> usize {
        let Place::Mark(have) = self.place else { return 0 };
        let missing = &BOM[have..];
        let same = input.iter().zip(missing).take_while(|(byte, mark)| byte == mark).count();
        if same == missing.len() {
            self.place = Place::LineStart;
        } else if same == input.len() {
            self.place = Place::Mark(have + same);
        } else if have + same == 0 {
            self.place = Place::LineStart;
            return 0;
        } else {
            // No mark after all but a line of rubbish, whose first bytes may be gone already.
            self.place = Place::Line;
            self.in_event = true;
            self.is_released = true;
        }
        self.relay(&input[..same], out);
        *start = same;
        same
    }

    /// Keep the input's rest, which belongs to an event that has not ended.
    fn keep(&mut self, part: &[u8], out: &mut Vec<u8>) {
        if self.is_released {
            self.relay(part, out);
        }
        if self.is_oversize {
            self.count_unread(part.len());
            return;
        }
        self.event.extend_from_slice(part);
        if !self.is_released {
            let may_be_usage = self.watch.may_be_usage(&self.event);
            if !may_be_usage || self.event.len() > HOLD_BYTES_MAX {
                self.is_released = true;
                self.relay(&self.event, out);
            }
        }
        if self.event.len() > EVENT_BYTES_MAX {
            self.is_oversize = true;
            self.count_unread(self.event.len());
            self.event = Vec::new();
        }
    }

    /// The event ends with `part`, its blank line included.
    fn end_event(&mut self, part: &[u8], out: &mut Vec<u8>) {
        let mut kept = std::mem::take(&mut self.event);
        let event = if kept.is_empty() {
            part
        } else {
            kept.extend_from_slice(part);
            &kept
        };
        let is_oversize = self.is_oversize || event.len() > EVENT_BYTES_MAX;
        let look = if is_oversize {
            self.count_unread(event.len());
            Look { is_data: true, is_content: true, is_written: true, ..Look::default() }
        } else {
            look_at(event, !self.content_seen || self.is_usage_last)
        };
        self.learn(&look, event);
        if !is_oversize {
            self.count_text_of(&look, event);
        }

        self.is_lf_cut = false;
        if self.is_released {
            self.relay(part, out);
        } else if look.is_usage_event && event.len() <= HOLD_BYTES_MAX {
            self.usage_events_cut += 1;
            self.is_lf_cut = true;
        } else {
            self.relay(event, out);
        }

        if kept.capacity() <= HOLD_BYTES_MAX {
            kept.clear();
            self.event = kept;
        }
        self.in_event = false;
        self.is_oversize = false;
        self.is_released = !self.cut_usage;
        self.watch = Watch::new();
    }

    fn count_text_of(&mut self, look: &Look, event: &[u8]) {
        if self.counts_text && !look.is_done && !look.is_error {
            self.text_bytes += text_bytes_of(event);
        }
    }

    /// Count bytes of an event that is too large to be looked at: all could be text.
    fn count_unread(&mut self, bytes: usize) {
        if self.counts_text {
            self.text_bytes += bytes as u64;
        }
    }

    fn learn(&mut self, look: &Look, event: &[u8]) {
        if !look.is_data {
            return;
        }
        self.done_seen |= look.is_done;
        self.finish_reason_seen |= look.has_finish_reason;
        // An error that comes first stands for the whole answer, whatever is sent after it.
        if self.error.is_none() {
            self.content_seen |= look.is_content || look.is_done || look.has_finish_reason;
        }
        if look.usage.is_some() || look.choice_usage.is_some() {
            self.is_usage_last = true;
        } else if look.is_written {
            self.is_usage_last = false;
        }
        self.usage = raised(self.usage, look.usage);
        self.choice_usage = raised(self.choice_usage, look.choice_usage);
        self.has_other_choice |= look.has_other_choice;
        if look.is_error {
            if self.error.is_none() {
                let mut data = data_of(event);
                data.truncate(ERROR_BYTES_MAX);
                self.error = Some(data);
            }
        } else if self.content_seen && !look.is_done && !look.is_usage_event {
            self.output_events += 1;
        }
    }
}

fn raised(earlier: Option<Usage>, later: Option<Usage>) -> Option<Usage> {
    match (earlier, later) {
        (Some(earlier), Some(later)) => Some(earlier.raised_by(later)),
        (earlier, later) => later.or(earlier),
    }
}

/// What one event says.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
struct Look {
    /// It has data; without, it is never dispatched.
    is_data: bool,
    /// It is `[DONE]` or an object, whole and well formed; or it was not parsed at all.
    is_readable: bool,
    is_done: bool,
    is_content: bool,
    /// The model wrote it, or nobody can tell: what was used before it is not all.
    is_written: bool,
    is_error: bool,
    has_finish_reason: bool,
    /// `choices` is `[]` and `usage` an object: what cut mode leaves out.
    is_usage_event: bool,
    usage: Option<Usage>,
    choice_usage: Option<Usage>,
    has_other_choice: bool,
}

/// Look at a whole event. `for_content`: parse it in any case, to tell whether it has content.
fn look_at(event: &[u8], for_content: bool) -> Look {
    if let Some(data) = only_data_line(event) {
        return look_at_data(data, false, for_content);
    }
    let fields = Fields::of(event);
    match fields.data {
        Some(data) => look_at_data(&data, fields.is_error, for_content),
        None => Look::default(),
    }
}

/// Show `visit` the data of every event of a stream, the unfinished last one included, without
/// `[DONE]` and errors.
pub(crate) fn each_data(stream: &[u8], mut visit: impl FnMut(&[u8])) {
    let mut rest = stream.strip_prefix(BOM).unwrap_or(stream);
    let mut event_start = rest;
    while !rest.is_empty() {
        let line_end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let after = match &rest[line_end..] {
            [b'\r', b'\n', after @ ..] | [_, after @ ..] => after,
            [] => &[],
        };
        if line_end == 0 || after.is_empty() {
            let event = &event_start[..event_start.len() - after.len()];
            let mut look_at = |data| {
                let data = trim(data);
                if data != b"[DONE]" {
                    visit(data);
                }
            };
            if let Some(data) = only_data_line(event) {
                look_at(data);
            } else {
                let fields = Fields::of(event);
                if !fields.is_error {
                    look_at(&fields.data.unwrap_or_default());
                }
            }
            event_start = after;
        }
        rest = after;
    }
}

/// Bytes of what the model wrote in one event, whole or cut.
fn text_bytes_of(event: &[u8]) -> u64 {
    match only_data_line(event) {
        Some(data) => text_bytes(trim(data)),
        None => Fields::of(event).data.map_or(0, |data| text_bytes(trim(&data))),
    }
}

/// The data of an event that is one `data:` line and a blank one, as nearly all are.
fn only_data_line(event: &[u8]) -> Option<&[u8]> {
    let line = event.strip_prefix(b"data:")?;
    let ([content @ .., b'\r', b'\n', b'\r']
    | [content @ .., b'\n', b'\n']
    | [content @ .., b'\r', b'\r']) = line
    else {
        return None;
    };
    memchr::memchr2(b'\n', b'\r', content).is_none().then_some(content)
}

/// The fields of an event that matter here.
#[derive(Default)]
struct Fields {
    /// The values of its `data` lines, joined with LF; None without any.
    data: Option<Vec<u8>>,
    /// Its type is `error`.
    is_error: bool,
}

impl Fields {
    fn of(event: &[u8]) -> Self {
        let mut fields = Self::default();
        for line in event.split(|&byte| byte == b'\n' || byte == b'\r') {
            let (name, value) = match memchr::memchr(b':', line) {
                Some(colon) => (&line[..colon], &line[colon + 1..]),
                None => (line, &line[line.len()..]),
            };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match name {
                b"data" => match &mut fields.data {
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                    None => fields.data = Some(value.to_vec()),
                },
                b"event" => fields.is_error = value.trim_ascii() == b"error",
                _ => {}
            }
        }
        fields
    }
}

/// An event's data as its reader would see it.
fn data_of(event: &[u8]) -> Vec<u8> {
    trim(&Fields::of(event).data.unwrap_or_default()).to_vec()
}

/// Without the white space of JSON at both ends: the same that `Watch` passes over.
fn trim(data: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let start = data.iter().position(is_text).unwrap_or(data.len());
    let end = data.iter().rposition(is_text).map_or(start, |last| last + 1);
    &data[start..end]
}

fn look_at_data(data: &[u8], is_error_type: bool, for_content: bool) -> Look {
    let data = trim(data);
    if data.is_empty() {
        // Some servers keep a connection alive with it; it says nothing.
        return Look::default();
    }
    if data == b"[DONE]" {
        return Look { is_data: true, is_readable: true, is_done: true, ..Look::default() };
    }
    if !for_content && !is_error_type && !is_worth_parsing(data) {
        return Look { is_data: true, is_readable: true, ..Look::default() };
    }
    let mut look = match Chunk::read(data) {
        Ok(chunk) => chunk.look(),
        Err(_) => Look { is_data: true, is_content: true, is_written: true, ..Look::default() },
    };
    if is_error_type {
        look.is_error = true;
        look.is_content = false;
        look.is_usage_event = false;
    }
    look
}

/// Whether an event may report usage, an error or a reason to finish.
fn is_worth_parsing(data: &[u8]) -> bool {
    let needles = &*NEEDLES;
    is_key_of(data, &needles.usage, b'{')
        || is_key_of(data, &needles.finish_reason, b'"')
        || needles.error.find(data).is_some()
        || is_key_of(data, &needles.timings, b'{')
}

/// Whether `needle` stands somewhere as a key whose value begins with `first`.
fn is_key_of(data: &[u8], needle: &Finder<'_>, first: u8) -> bool {
    let mut rest = data;
    while let Some(found) = needle.find(rest) {
        rest = &rest[found + needle.needle().len()..];
        let value = rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        if value.is_some_and(|value| value.first() == Some(&first)) {
            return true;
        }
    }
    false
}

/// What the JSON object of an event says.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
struct Chunk {
    report: Report,
    /// Moonshot reports usage inside the choice that ends.
    choice_report: Report,
    has_other_choice: bool,
    has_members: bool,
    has_choices: bool,
    /// `choices` stands there, always as `[]`.
    has_empty_choices: bool,
    has_choice_content: bool,
    has_finish_reason: bool,
    is_error: bool,
    /// `error` stands there and is not `null`, though it may say nothing.
    has_error_member: bool,
    is_ping: bool,
}

impl Chunk {
    fn read(data: &[u8]) -> Result<Self, JsonFault> {
        let mut chunk = Self::default();
        let mut cursor = Cursor::new(data);
        let mut more = cursor.enter_object()?;
        while more {
            chunk.has_members = true;
            let key = cursor.key()?;
            match &*key.key_bytes() {
                b"choices" => chunk.read_choices(&mut cursor)?,
                b"error" => {
                    chunk.has_error_member |= cursor.kind()? != Kind::Null;
                    chunk.is_error |= !skip_empty(&mut cursor)?;
                }
                b"object" if cursor.kind()? == Kind::String => {
                    // How older vLLM reports an error inside a stream.
                    chunk.is_error |= cursor.string()?.is("error");
                }
                b"type" if cursor.kind()? == Kind::String => {
                    chunk.is_ping |= cursor.string()?.is("ping");
                }
                name => {
                    if !chunk.report.read_member(name, &mut cursor)? {
                        cursor.skip()?;
                    }
                }
            }
            more = cursor.more_members()?;
        }
        cursor.end()?;
        chunk.is_error |= chunk.has_error_member && !chunk.has_choices;
        Ok(chunk)
    }

    fn look(&self) -> Look {
        let is_usage_event = self.report.has_object && self.has_empty_choices && !self.is_error;
        // An object without choices is nothing that we know: it counts, unless it says nothing.
        let is_unknown =
            self.has_members && !self.has_choices && !self.is_ping && !self.report.has_object;
        Look {
            is_data: true,
            is_readable: true,
            is_done: false,
            is_content: !self.is_error && (self.has_choice_content || is_unknown),
            is_written: self.has_choice_content,
            is_error: self.is_error,
            has_finish_reason: !self.is_error && self.has_finish_reason,
            is_usage_event,
            usage: self.report.usage(),
            choice_usage: self.choice_report.usage(),
            has_other_choice: self.has_other_choice,
        }
    }

    fn read_choices(&mut self, cursor: &mut Cursor<'_>) -> Result<(), JsonFault> {
        let is_first = !self.has_choices;
        self.has_choices = true;
        if cursor.kind()? != Kind::Array {
            self.has_choice_content |= cursor.kind()? != Kind::Null;
            self.has_empty_choices = false;
            cursor.skip()?;
            return Ok(());
        }
        let mut more = cursor.enter_array()?;
        self.has_empty_choices = !more && (is_first || self.has_empty_choices);
        while more {
            if cursor.kind()? == Kind::Object {
                self.read_choice(cursor)?;
            } else {
                cursor.skip()?;
            }
            more = cursor.more_elements()?;
        }
        Ok(())
    }

    fn read_choice(&mut self, cursor: &mut Cursor<'_>) -> Result<(), JsonFault> {
        let mut more = cursor.enter_object()?;
        while more {
            let key = cursor.key()?;
            match &*key.key_bytes() {
                b"delta" | b"message" if cursor.kind()? == Kind::Object => {
                    let mut more_fields = cursor.enter_object()?;
                    while more_fields {
                        let is_role = cursor.key()?.is("role");
                        let is_empty = skip_empty(cursor)?;
                        self.has_choice_content |= !is_role && !is_empty;
                        more_fields = cursor.more_members()?;
                    }
                }
                b"text" => self.has_choice_content |= !skip_empty(cursor)?,
                b"index" => {
                    self.has_other_choice |=
                        !matches!(cursor.figure()?, Figure::Count(0) | Figure::Null);
                }
                b"usage" => {
                    self.choice_report.read_member(b"usage", cursor)?;
                }
                b"finish_reason" => self.has_finish_reason |= !skip_empty(cursor)?,
                _ => {
                    cursor.skip()?;
                }
            }
            more = cursor.more_members()?;
        }
        Ok(())
    }
}

/// Move over a value; true if it is `null`, `false`, or an empty string, array or object.
pub(crate) fn skip_empty(cursor: &mut Cursor<'_>) -> Result<bool, JsonFault> {
    Ok(match cursor.kind()? {
        Kind::Null => {
            cursor.skip()?;
            true
        }
        Kind::Bool => !cursor.boolean()?,
        Kind::String => cursor.string()?.raw.is_empty(),
        Kind::Number => {
            cursor.skip()?;
            false
        }
        Kind::Array => {
            let has_element = cursor.clone().enter_array()?;
            cursor.skip()?;
            !has_element
        }
        Kind::Object => {
            let has_member = cursor.clone().enter_object()?;
            cursor.skip()?;
            !has_member
        }
    })
}

/// Tells of the first part of an event whether it can still become the usage event.
///
/// Only ever says no for certain: an event that is shown to be another one is then relayed
/// without waiting for its end. Remembers how far it read, so each byte is read once.
#[derive(Clone, Copy, Debug)]
struct Watch {
    at: usize,
    state: WatchState,
    /// Open containers inside the outermost object.
    depth: usize,
    /// Where the last string at depth 0 began, its quote excluded.
    string_start: usize,
    /// The last string at depth 0 was `choices`.
    is_choices: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchState {
    /// Before the JSON object.
    Before,
    /// Outside of strings.
    Between,
    String,
    Escape,
    /// After `"choices":`, before its value.
    Choices,
    /// After the `[` of `choices`.
    InChoices,
    /// Beyond what is worth telling: wait for the end of the event.
    Unsure,
    /// It cannot be the usage event.
    Ruled,
}

const DATA: &[u8] = b"data:";

impl Watch {
    fn new() -> Self {
        Self { at: 0, state: WatchState::Before, depth: 0, string_start: 0, is_choices: false }
    }

    /// `event`: the event from its first byte on, never shorter than before.
    fn may_be_usage(&mut self, event: &[u8]) -> bool {
        if self.at < DATA.len() {
            let same = event.iter().zip(DATA).take_while(|(byte, want)| byte == want).count();
            if same < DATA.len() {
                // Still coming, or another field first.
                self.state =
                    if same == event.len() { WatchState::Before } else { WatchState::Unsure };
                if self.state == WatchState::Before {
                    return true;
                }
                self.at = event.len();
            } else {
                self.at = DATA.len();
            }
        }
        while self.at < event.len() {
            match self.state {
                WatchState::Unsure => {
                    self.at = event.len();
                    return true;
                }
                WatchState::Ruled => return false,
                WatchState::String => match memchr::memchr2(b'"', b'\\', &event[self.at..]) {
                    None => self.at = event.len(),
                    Some(skipped) => {
                        self.at += skipped;
                        self.step(event);
                    }
                },
                _ => self.step(event),
            }
        }
        self.state != WatchState::Ruled
    }

    /// Read one byte.
    fn step(&mut self, event: &[u8]) {
        let byte = event[self.at];
        let is_space = byte == b' ' || byte == b'\t';
        self.state = match (self.state, byte) {
            // A line end inside the data: it goes on in another line, or the event ends.
            (WatchState::Ruled, _) => WatchState::Ruled,
            (_, b'\n' | b'\r') => WatchState::Unsure,
            (WatchState::Before | WatchState::Choices | WatchState::InChoices, _)
                if is_space =>
            {
                self.state
            }
            (WatchState::Before, b'{') | (WatchState::InChoices, b']') => WatchState::Between,
            (WatchState::Choices, b'[') => WatchState::InChoices,
            (WatchState::Before | WatchState::Choices | WatchState::InChoices, _) => {
                WatchState::Ruled
            }
            (WatchState::String, b'\\') => WatchState::Escape,
            (WatchState::String, b'"') => {
                self.is_choices =
                    self.depth == 0 && &event[self.string_start..self.at] == b"choices";
                WatchState::Between
            }
            (WatchState::Escape, _) => WatchState::String,
            (WatchState::Between, b':') if self.is_choices => WatchState::Choices,
            (WatchState::Between, b'"') => {
                self.string_start = self.at + 1;
                WatchState::String
            }
            (WatchState::Between, b'{' | b'[') => {
                self.depth += 1;
                WatchState::Between
            }
            (WatchState::Between, b'}' | b']') => {
                // At depth 0 the object ends; whatever follows is judged with the whole.
                if self.depth == 0 {
                    WatchState::Unsure
                } else {
                    self.depth -= 1;
                    WatchState::Between
                }
            }
            (state, _) => state,
        };
        self.at += 1;
    }
}
