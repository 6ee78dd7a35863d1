//! Request and response heads: bytes to a borrowed view, or one of a closed list of faults.
//!
//! Crate `httparse` does the fast pass, but it is lenient where smuggling starts (a bare LF ends
//! a line, any number of empty lines may come first, `Host` and the framing fields mean nothing
//! to it). So its answer counts only when every line end and every field passes the rules here;
//! in all other cases `scan_request` or `scan_response` walks the bytes from the left and names
//! the first fault. That walk alone defines what is refused, which is why the verdict cannot
//! depend on how the network cut the bytes: a fault is decided by the bytes up to it, and a
//! prefix without one is `Parse::Partial`.
//!
//! Owned by nobody: no allocation, no state between calls. Callers parse from the start of the
//! head each time more bytes arrive, up to the head's limit.

mod rules;
mod scan;

use std::mem::MaybeUninit;

use rules::{Rules, is_bodiless, is_status, lists_token};
pub(crate) use rules::{is_text_byte, is_token_byte};
use scan::{Scan, scan_request, scan_response};

/// Bytes of one head whatever the configuration says: fields are kept as 16-bit offsets. Peers
/// stop at 8 to 64 KiB.
pub const HEAD_BYTES_CAP: usize = 64 * 1024;
/// Fields in one head; SDKs send about 25.
pub const HEADERS_COUNT_MAX: usize = 100;
/// Bytes of one field name; the longest registered one has 45.
pub const NAME_BYTES_MAX: usize = 256;
/// Bytes of a method; the longest registered one (`UPDATEREDIRECTREF`) has 17.
pub const METHOD_BYTES_MAX: usize = 24;
/// Largest body length believed: doubles, and so half of the world, hold integers up to here.
pub const CONTENT_LENGTH_MAX: u64 = 1 << 53;

/// What came of looking at bytes that may hold a head.
#[derive(Debug, Clone)]
pub enum Parse<T> {
    /// No fault so far, and no end: read more.
    Partial,
    /// A whole head.
    Done(T),
    /// The peer broke a rule; more bytes cannot mend it.
    Refused(HeadFault),
}

/// How the body that follows a head ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// As many bytes as `Content-Length` says.
    Length(u64),
    /// Chunks, until the one of size zero and its trailers.
    Chunked,
    /// Whatever comes until the peer closes; responses only.
    UntilClose,
}

macro_rules! faults {
    ($($name:ident $label:literal $status:literal $text:literal)*) => {
        /// Why a head is refused. Closed: each has one fixed text, fit for a caller to read.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum HeadFault {
            $(#[doc = $text] $name,)*
        }

        impl HeadFault {
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

            /// The status for a caller that sent it: 400, or 431 where a size limit was passed.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

faults! {
    HeadTooLarge "head_too_large" 431 "the head is larger than the limit"
    TooManyFields "too_many_fields" 431 "the head has more than 100 fields"
    NameTooLong "name_too_long" 431 "a field name is longer than 256 bytes"
    BareLf "bare_lf" 400 "a line ends in LF without CR"
    BareCr "bare_cr" 400 "a CR is not followed by LF"
    EmptyLine "empty_line" 400 "more than one empty line stands before the request line"
    Method "method" 400 "the method is not a token of at most 24 characters"
    Connect "connect" 400 "CONNECT is not served"
    Http2Preface "http2_preface" 400 "this is the preface of HTTP/2, and only HTTP/1.1 is spoken"
    Target "target" 400 "the request target holds bytes that are not visible ASCII"
    TargetEmpty "target_empty" 400 "the request target is empty"
    TargetFragment "target_fragment" 400 "the request target holds a fragment"
    TargetForm "target_form" 400 "the request target is neither a path nor a URL of this host"
    TargetAsterisk "target_asterisk" 400 "the request target `*` is for OPTIONS only"
    TargetHost "target_host" 400 "the host in the request target differs from `Host`"
    VersionMissing "version_missing" 400 "the request line has no HTTP version"
    Version "version" 400 "the HTTP version is neither 1.1 nor 1.0"
    StartLine "start_line" 400 "something follows the HTTP version in the request line"
    StatusCode "status_code" 400 "the status is not a number from 100 to 599"
    Reason "reason" 400 "the reason phrase holds control characters"
    LineFolded "line_folded" 400 "a line of the head starts with white space"
    SpaceBeforeColon "space_before_colon" 400 "white space stands between a field name and its colon"
    Name "name" 400 "a field name is empty or holds bytes that a token may not"
    Value "value" 400 "a field value holds control characters"
    HostMissing "host_missing" 400 "`Host` is missing"
    HostTwice "host_twice" 400 "`Host` stands twice"
    Host "host" 400 "`Host` is not a host name with an optional port"
    LengthTwice "length_twice" 400 "`Content-Length` stands twice"
    Length "length" 400 "`Content-Length` is not a plain decimal number up to 2^53"
    LengthWithCoding "length_with_coding" 400 "`Content-Length` and `Transfer-Encoding` stand together"
    CodingTwice "coding_twice" 400 "`Transfer-Encoding` stands twice"
    Coding "coding" 400 "`Transfer-Encoding` is not exactly `chunked`"
    CodingVersion "coding_version" 400 "`Transfer-Encoding` was sent with HTTP/1.0"
    Malformed "malformed" 400 "the head cannot be read"
}

/// One field as offsets into the bytes it was read from: a quarter of the size of two slices,
/// and the array of them is cleared and copied with each head.
#[derive(Debug, Clone, Copy, Default)]
struct Field {
    name_start: u16,
    name_end: u16,
    value_start: u16,
    value_end: u16,
}

/// The fields of one head, in the order sent.
#[derive(Debug, Clone)]
struct Fields<'b> {
    bytes: &'b [u8],
    count: usize,
    array: [Field; HEADERS_COUNT_MAX],
    /// Is there any `Connection` field? Most heads have none, and then nothing needs a search.
    names_connection: bool,
}

impl<'b> Fields<'b> {
    fn none(bytes: &'b [u8]) -> Self {
        let array = [Field::default(); HEADERS_COUNT_MAX];
        Self { bytes, count: 0, array, names_connection: false }
    }

    fn name(&self, field: Field) -> &'b [u8] {
        slice(self.bytes, field.name_start, field.name_end)
    }

    fn value(&self, field: Field) -> &'b [u8] {
        slice(self.bytes, field.value_start, field.value_end)
    }

    fn is_named(&self, field: Field, name: &[u8]) -> bool {
        // The lengths differ for most fields: no need to look at bytes then.
        usize::from(field.name_end.wrapping_sub(field.name_start)) == name.len()
            && self.name(field).eq_ignore_ascii_case(name)
    }

    fn known(&self) -> impl Iterator<Item = Field> + '_ {
        self.array.iter().take(self.count).copied()
    }

    fn first(&self, lower_name: &str) -> Option<&'b [u8]> {
        let field = self.known().find(|field| self.is_named(*field, lower_name.as_bytes()))?;
        Some(self.value(field))
    }

    fn iter_raw(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + '_ {
        self.known().map(|field| (self.name(field), self.value(field)))
    }

    fn iter(&self) -> impl Iterator<Item = (&'b str, &'b [u8])> + '_ {
        self.known().map(|field| {
            // A name is made of token characters, so this cannot fail.
            let name = std::str::from_utf8(self.name(field)).unwrap_or_default();
            (name, self.value(field))
        })
    }

    fn is_hop_by_hop(&self, name: &str) -> bool {
        HOP_BY_HOP.iter().any(|hop| hop.eq_ignore_ascii_case(name))
            || self.is_nominated(name.as_bytes())
    }

    fn is_nominated(&self, name: &[u8]) -> bool {
        self.names_connection
            && self
                .known()
                .filter(|field| self.is_named(*field, b"connection"))
                .any(|field| lists_token(self.value(field), name))
    }
}

/// Fields that concern one connection only (RFC 9110 section 7.6.1, and what older
/// implementations send).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
];

macro_rules! field_accessors {
    () => {
        /// The value of the first field of that name, white space at both ends removed.
        ///
        /// `lower_name` is compared without regard to ASCII case.
        #[must_use]
        pub fn header(&self, lower_name: &str) -> Option<&'b [u8]> {
            self.fields.first(lower_name)
        }

        /// All fields in the order sent, names as sent, repeats included.
        pub fn headers(&self) -> impl Iterator<Item = (&'b str, &'b [u8])> + '_ {
            self.fields.iter()
        }

        /// The same as bytes: half the price where nobody needs the name as text.
        pub fn raw_headers(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + '_ {
            self.fields.iter_raw()
        }

        /// Does `Connection` name this field, which must then not be forwarded?
        #[must_use]
        pub fn is_nominated(&self, name: &[u8]) -> bool {
            self.fields.is_nominated(name)
        }

        /// How many fields there are.
        #[must_use]
        pub fn headers_count(&self) -> usize {
            self.fields.count
        }

        /// Must this field not be forwarded, because it concerns this connection only?
        ///
        /// True for the hop-by-hop fields and for those that `Connection` names.
        #[must_use]
        pub fn is_hop_by_hop(&self, name: &str) -> bool {
            self.fields.is_hop_by_hop(name)
        }
    };
}

/// A request's head, borrowed from the bytes it was read from.
#[derive(Debug, Clone)]
pub struct RequestHead<'b> {
    /// As sent; methods are case-sensitive.
    pub method: &'b str,
    /// The request target as sent.
    pub target: &'b str,
    /// The target's path; `/` where a URL has none; `*` for `OPTIONS *`.
    pub path: &'b str,
    /// What follows the first `?`, empty if there is none.
    pub query: &'b str,
    /// 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub minor_version: u8,
    /// How the body ends; `None` where neither length nor coding is given.
    pub framing: Framing,
    /// May another request follow on this connection?
    pub keep_alive: bool,
    /// Does the sender wait for `100 Continue` before a body that it has announced?
    pub expect_continue: bool,
    /// Length of the head, from the first byte given to the end of its empty line.
    pub head_bytes: usize,
    fields: Fields<'b>,
}

impl<'b> RequestHead<'b> {
    field_accessors!();
}

/// A response's head, borrowed from the bytes it was read from.
#[derive(Debug, Clone)]
pub struct ResponseHead<'b> {
    /// From 100 to 599.
    pub status: u16,
    /// As sent; empty if there is none or if it is not UTF-8.
    pub reason: &'b str,
    /// 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub minor_version: u8,
    /// How the body ends, with the request's method and the status taken into account.
    pub framing: Framing,
    /// May the connection be used again once the body has ended?
    pub keep_alive: bool,
    /// Length of the head, from the first byte given to the end of its empty line.
    pub head_bytes: usize,
    fields: Fields<'b>,
}

impl<'b> ResponseHead<'b> {
    field_accessors!();
}

/// Parse a request's head from the start of `buf`; what follows the head is not looked at.
///
/// One empty line before the request line is skipped (RFC 9112 section 2.2) and counts towards
/// `head_bytes_max`, which counts up to `HEAD_BYTES_CAP`.
#[must_use]
pub fn parse_request(buf: &[u8], head_bytes_max: usize) -> Parse<RequestHead<'_>> {
    let limit = head_bytes_max.min(HEAD_BYTES_CAP);
    let seen = &buf[..buf.len().min(limit)];
    if let Some(head) = fast_request(seen) {
        return Parse::Done(head);
    }
    verdict(scan_request(seen), seen.len() == limit)
}

/// Parse a response's head from the start of `buf`; what follows the head is not looked at.
///
/// A 1xx head is returned like any other: the caller skips it, or refuses 101.
/// `to_head_request` says that the request was `HEAD`, whose answers have no body.
#[must_use]
pub fn parse_response(
    buf: &[u8],
    head_bytes_max: usize,
    to_head_request: bool,
) -> Parse<ResponseHead<'_>> {
    let limit = head_bytes_max.min(HEAD_BYTES_CAP);
    let seen = &buf[..buf.len().min(limit)];
    if let Some(head) = fast_response(seen, to_head_request) {
        return Parse::Done(head);
    }
    verdict(scan_response(seen), seen.len() == limit)
}

#[cold]
fn verdict<T>(scanned: Result<Scan, HeadFault>, at_limit: bool) -> Parse<T> {
    match scanned {
        Err(fault) => Parse::Refused(fault),
        Ok(Scan::Partial) if at_limit => Parse::Refused(HeadFault::HeadTooLarge),
        Ok(Scan::Partial) => Parse::Partial,
        // The two parsers disagree. Tests look for such bytes; here, refusing is the safe side.
        Ok(Scan::Whole) => Parse::Refused(HeadFault::Malformed),
    }
}

#[inline]
fn fast_request(seen: &[u8]) -> Option<RequestHead<'_>> {
    let mut space = [const { MaybeUninit::uninit() }; HEADERS_COUNT_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(head_bytes)) =
        parsed.parse_with_uninit_headers(seen, &mut space)
    else {
        return None;
    };
    let (method, target) = (parsed.method?, parsed.path?);
    let minor_version = parsed.version?;

    let method_start = offset(seen, method.as_bytes());
    if !matches!(&seen[..method_start], b"" | b"\r\n") {
        return None;
    }
    let line_end = offset(seen, target.as_bytes()) + target.len() + " HTTP/1.1".len();
    if seen.get(line_end) != Some(&b'\r') {
        return None;
    }

    let mut rules = Rules::new(minor_version);
    let place = rules.request_line(method, target).ok()?;
    let mut head = RequestHead {
        method,
        target,
        path: place.path,
        query: place.query,
        minor_version,
        framing: Framing::None,
        keep_alive: false,
        expect_continue: false,
        head_bytes,
        fields: Fields::none(seen),
    };
    fast_fields(&mut head.fields, head_bytes, parsed.headers, &mut rules)?;
    rules.request_end(&place).ok()?;
    head.framing = rules.framing.unwrap_or(Framing::None);
    head.keep_alive = rules.keep_alive();
    head.expect_continue =
        rules.expect_continue && !matches!(head.framing, Framing::None | Framing::Length(0));
    Some(head)
}

#[inline]
fn fast_response(seen: &[u8], to_head_request: bool) -> Option<ResponseHead<'_>> {
    let mut space = [const { MaybeUninit::uninit() }; HEADERS_COUNT_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let Ok(httparse::Status::Complete(head_bytes)) = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, seen, &mut space)
    else {
        return None;
    };
    let (minor_version, status) = (parsed.version?, parsed.code?);
    if !seen.starts_with(b"HTTP/") || !is_status(status) {
        return None;
    }

    // `httparse` hides a reason phrase with non-ASCII bytes, and with it where the line ends.
    let after_status = &seen["HTTP/1.1 200".len()..head_bytes];
    let line_end = memchr::memchr2(b'\r', b'\n', after_status)?;
    if after_status[line_end] != b'\r' {
        return None;
    }
    let reason = after_status.get(1..line_end).unwrap_or_default();

    let mut rules = Rules::new(minor_version);
    let mut head = ResponseHead {
        status,
        reason: std::str::from_utf8(reason).unwrap_or_default(),
        minor_version,
        framing: Framing::None,
        keep_alive: false,
        head_bytes,
        fields: Fields::none(seen),
    };
    fast_fields(&mut head.fields, head_bytes, parsed.headers, &mut rules)?;
    head.framing = match rules.framing {
        _ if to_head_request || is_bodiless(status) => Framing::None,
        Some(framing) => framing,
        None => Framing::UntilClose,
    };
    head.keep_alive = rules.keep_alive() && head.framing != Framing::UntilClose;
    Some(head)
}

/// Fill `fields` and feed them to the rules; None where a line does not end in CRLF or a rule
/// is broken.
fn fast_fields<'b>(
    fields: &mut Fields<'b>,
    head_bytes: usize,
    parsed: &[httparse::Header<'b>],
    rules: &mut Rules<'b>,
) -> Option<()> {
    let seen = fields.bytes;
    // The empty line that ends the head; where it is a bare LF, this byte is another line's LF.
    if seen[head_bytes - 2] != b'\r' {
        return None;
    }
    for (field, header) in fields.array.iter_mut().zip(parsed) {
        let name_start = offset(seen, header.name.as_bytes());
        let value_start = offset(seen, header.value);
        let value_end = value_start + header.value.len();
        let mut line_end = value_end;
        while matches!(seen[line_end], b' ' | b'\t') {
            line_end += 1;
        }
        if seen[line_end] != b'\r' || header.name.len() > NAME_BYTES_MAX {
            return None;
        }
        rules.field(header.name.as_bytes(), header.value, &seen[value_end..line_end]).ok()?;
        *field = Field {
            name_start: narrow(name_start),
            name_end: narrow(name_start + header.name.len()),
            value_start: narrow(value_start),
            value_end: narrow(value_end),
        };
    }
    fields.count = parsed.len();
    fields.names_connection = rules.names_connection;
    Some(())
}

/// Where `part`, a piece of `whole`, starts in it.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize)
}

#[expect(clippy::cast_possible_truncation, reason = "`HEAD_BYTES_CAP` is 16 bits")]
fn narrow(position: usize) -> u16 {
    debug_assert!(u16::try_from(position).is_ok());
    position as u16
}

fn slice(bytes: &[u8], start: u16, end: u16) -> &[u8] {
    &bytes[usize::from(start)..usize::from(end)]
}
