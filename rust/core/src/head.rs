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

use std::mem::MaybeUninit;

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

/// One field as offsets into the bytes it was read from: half the size of two slices, and this
/// array is copied with the head.
#[derive(Debug, Clone, Copy, Default)]
struct Field {
    name_start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
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
    fn name(&self, field: Field) -> &'b [u8] {
        slice(self.bytes, field.name_start, field.name_end)
    }

    fn value(&self, field: Field) -> &'b [u8] {
        slice(self.bytes, field.value_start, field.value_end)
    }

    fn known(&self) -> impl Iterator<Item = Field> + '_ {
        self.array.iter().take(self.count).copied()
    }

    fn first(&self, lower_name: &str) -> Option<&'b [u8]> {
        let field = self
            .known()
            .find(|field| self.name(*field).eq_ignore_ascii_case(lower_name.as_bytes()))?;
        Some(self.value(field))
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
            || (self.names_connection
                && self
                    .known()
                    .filter(|field| self.name(*field).eq_ignore_ascii_case(b"connection"))
                    .any(|field| lists_token(self.value(field), name.as_bytes())))
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
/// `head_bytes_max`.
#[must_use]
pub fn parse_request(buf: &[u8], head_bytes_max: usize) -> Parse<RequestHead<'_>> {
    let seen = within(buf, head_bytes_max);
    if let Some(head) = fast_request(seen) {
        return Parse::Done(head);
    }
    verdict(scan_request(seen), seen, head_bytes_max)
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
    let seen = within(buf, head_bytes_max);
    if let Some(head) = fast_response(seen, to_head_request) {
        return Parse::Done(head);
    }
    verdict(scan_response(seen), seen, head_bytes_max)
}

fn within(buf: &[u8], head_bytes_max: usize) -> &[u8] {
    // Offsets are kept in 32 bits; no limit that an operator may set comes near.
    let end = buf.len().min(head_bytes_max).min(u32::MAX as usize);
    &buf[..end]
}

#[cold]
fn verdict<T>(
    scanned: Result<Scan, HeadFault>,
    seen: &[u8],
    head_bytes_max: usize,
) -> Parse<T> {
    match scanned {
        Err(fault) => Parse::Refused(fault),
        Ok(Scan::Partial) if seen.len() >= head_bytes_max => {
            Parse::Refused(HeadFault::HeadTooLarge)
        }
        Ok(Scan::Partial) => Parse::Partial,
        // The two parsers disagree. Tests look for such bytes; here, refusing is the safe side.
        Ok(Scan::Whole) => Parse::Refused(HeadFault::Malformed),
    }
}

// --- the fast pass ---------------------------------------------------------------------------

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
    let fields = fast_fields(seen, head_bytes, parsed.headers, &mut rules)?;
    rules.request_end(&place).ok()?;

    let framing = rules.framing.unwrap_or(Framing::None);
    Some(RequestHead {
        method,
        target,
        path: place.path,
        query: place.query,
        minor_version,
        framing,
        keep_alive: rules.keep_alive(),
        expect_continue: rules.expect_continue
            && !matches!(framing, Framing::None | Framing::Length(0)),
        head_bytes,
        fields,
    })
}

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
    let fields = fast_fields(seen, head_bytes, parsed.headers, &mut rules)?;
    let framing = match rules.framing {
        _ if to_head_request || is_bodiless(status) => Framing::None,
        Some(framing) => framing,
        None => Framing::UntilClose,
    };
    Some(ResponseHead {
        status,
        reason: std::str::from_utf8(reason).unwrap_or_default(),
        minor_version,
        framing,
        keep_alive: rules.keep_alive() && framing != Framing::UntilClose,
        head_bytes,
        fields,
    })
}

fn fast_fields<'b>(
    seen: &'b [u8],
    head_bytes: usize,
    parsed: &[httparse::Header<'b>],
    rules: &mut Rules<'b>,
) -> Option<Fields<'b>> {
    // The empty line that ends the head; where it is a bare LF, this byte is another line's LF.
    if seen[head_bytes - 2] != b'\r' {
        return None;
    }
    let mut array = [Field::default(); HEADERS_COUNT_MAX];
    for (field, header) in array.iter_mut().zip(parsed) {
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
        rules.field(header.name.as_bytes(), header.value).ok()?;
        *field = Field {
            name_start: narrow(name_start),
            name_end: narrow(name_start + header.name.len()),
            value_start: narrow(value_start),
            value_end: narrow(value_end),
        };
    }
    Some(Fields {
        bytes: seen,
        count: parsed.len(),
        array,
        names_connection: rules.names_connection,
    })
}

/// Where `part`, a piece of `whole`, starts in it.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize)
}

#[expect(clippy::cast_possible_truncation, reason = "`within` cuts at 32 bits")]
fn narrow(position: usize) -> u32 {
    debug_assert!(u32::try_from(position).is_ok());
    position as u32
}

fn slice(bytes: &[u8], start: u32, end: u32) -> &[u8] {
    &bytes[start as usize..end as usize]
}

// --- the rules -------------------------------------------------------------------------------

/// Where a request target leads.
struct Place<'b> {
    path: &'b str,
    query: &'b str,
    /// The authority of a URL, to be compared with `Host`.
    authority: Option<&'b str>,
}

/// What the lines of one head add up to. Fed in their order by both passes, so both refuse alike.
#[expect(clippy::struct_excessive_bools, reason = "each is one fact that a field states")]
struct Rules<'b> {
    minor_version: u8,
    framing: Option<Framing>,
    host: Option<&'b [u8]>,
    names_connection: bool,
    closes: bool,
    keeps: bool,
    expect_continue: bool,
    is_request: bool,
}

impl<'b> Rules<'b> {
    fn new(minor_version: u8) -> Self {
        Self {
            minor_version,
            framing: None,
            host: None,
            names_connection: false,
            closes: false,
            keeps: false,
            expect_continue: false,
            is_request: false,
        }
    }

    fn request_line(&mut self, method: &str, target: &'b str) -> Result<Place<'b>, HeadFault> {
        self.is_request = true;
        check_method(method.as_bytes())?;
        target_place(method, target)
    }

    fn field(&mut self, name: &[u8], value: &'b [u8]) -> Result<(), HeadFault> {
        // By length first: of the fields that SDKs send, few get past it.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") && self.is_request => {
                if self.host.is_some() {
                    return Err(HeadFault::HostTwice);
                }
                if !is_host(value) {
                    return Err(HeadFault::Host);
                }
                self.host = Some(value);
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                // HTTP/1.0 knows no interim answers (RFC 9110 section 10.1.1).
                self.expect_continue |=
                    self.minor_version == 1 && value.eq_ignore_ascii_case(b"100-continue");
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.names_connection = true;
                self.closes |= lists_token(value, b"close");
                self.keeps |= lists_token(value, b"keep-alive");
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => match self.framing {
                Some(Framing::Chunked) => return Err(HeadFault::LengthWithCoding),
                Some(_) => return Err(HeadFault::LengthTwice),
                None => self.framing = Some(Framing::Length(length(value)?)),
            },
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => match self.framing {
                Some(Framing::Chunked) => return Err(HeadFault::CodingTwice),
                Some(_) => return Err(HeadFault::LengthWithCoding),
                None if self.minor_version == 0 => return Err(HeadFault::CodingVersion),
                None if value.eq_ignore_ascii_case(b"chunked") => {
                    self.framing = Some(Framing::Chunked);
                }
                None => return Err(HeadFault::Coding),
            },
            _ => {}
        }
        Ok(())
    }

    fn request_end(&self, place: &Place<'_>) -> Result<(), HeadFault> {
        match (self.host, place.authority) {
            (None, _) if self.minor_version == 1 => Err(HeadFault::HostMissing),
            (Some(host), Some(authority))
                if host.eq_ignore_ascii_case(authority.as_bytes()) =>
            {
                Ok(())
            }
            (_, Some(_)) => Err(HeadFault::TargetHost),
            (_, None) => Ok(()),
        }
    }

    fn keep_alive(&self) -> bool {
        !self.closes && (self.minor_version == 1 || self.keeps)
    }
}

fn check_method(method: &[u8]) -> Result<(), HeadFault> {
    match method {
        _ if method.len() > METHOD_BYTES_MAX => Err(HeadFault::Method),
        b"CONNECT" => Err(HeadFault::Connect),
        b"PRI" => Err(HeadFault::Http2Preface),
        _ => Ok(()),
    }
}

fn target_place<'b>(method: &str, target: &'b str) -> Result<Place<'b>, HeadFault> {
    for byte in target.bytes() {
        check_target_byte(byte)?;
    }
    if target == "*" {
        if method != "OPTIONS" {
            return Err(HeadFault::TargetAsterisk);
        }
        return Ok(Place { path: target, query: "", authority: None });
    }
    let (authority, rest) = if target.starts_with('/') {
        (None, target)
    } else {
        let after_scheme = without_scheme(target).ok_or(HeadFault::TargetForm)?;
        let end = after_scheme.find(['/', '?']).unwrap_or(after_scheme.len());
        let (authority, rest) = after_scheme.split_at(end);
        if !is_host(authority.as_bytes()) {
            return Err(HeadFault::TargetForm);
        }
        (Some(authority), rest)
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok(Place { path: if path.is_empty() { "/" } else { path }, query, authority })
}

fn check_target_byte(byte: u8) -> Result<(), HeadFault> {
    match byte {
        b'#' => Err(HeadFault::TargetFragment),
        0x21..=0x7e => Ok(()),
        _ => Err(HeadFault::Target),
    }
}

fn without_scheme(target: &str) -> Option<&str> {
    ["http://", "https://"].iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| &target[scheme.len()..])
    })
}

/// A host name, IPv4 address or bracketed IPv6 address, with or without a port. Narrower than
/// RFC 3986: no user name, no percent signs, no sub-delimiters, no empty host or port.
fn is_host(value: &[u8]) -> bool {
    let (name_ok, after) = if value.first() == Some(&b'[') {
        let Some(end) = value.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let address = std::str::from_utf8(&value[1..end]).unwrap_or_default();
        (address.parse::<std::net::Ipv6Addr>().is_ok(), &value[end + 1..])
    } else {
        let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
        let name = &value[..end];
        let is_name =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        (!name.is_empty() && name.iter().all(is_name), &value[end..])
    };
    name_ok
        && match after.split_first() {
            None => true,
            Some((b':', port)) => {
                matches!(port.len(), 1..=5)
                    && port.iter().all(u8::is_ascii_digit)
                    && decimal(port).is_some_and(|port| u16::try_from(port).is_ok())
            }
            Some(_) => false,
        }
}

fn length(value: &[u8]) -> Result<u64, HeadFault> {
    // Nineteen digits cannot overflow; anything beyond is no length but an attempt at one.
    if !matches!(value.len(), 1..=19) || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadFault::Length);
    }
    decimal(value).filter(|length| *length <= CONTENT_LENGTH_MAX).ok_or(HeadFault::Length)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |sum, digit| {
        sum.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0')?))
    })
}

/// Does a comma-separated list hold this token, in any case?
fn lists_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| trim(item).eq_ignore_ascii_case(token))
}

fn trim(value: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = value.iter().position(is_text).unwrap_or(value.len());
    let end = value.iter().rposition(is_text).map_or(start, |last| last + 1);
    &value[start..end]
}

fn is_status(status: u16) -> bool {
    (100..=599).contains(&status)
}

/// Answers that have no body whatever their fields say (RFC 9112 section 6.3).
fn is_bodiless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

/// May this byte stand in a method or a field name (RFC 9110 section 5.6.2)?
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// May this byte stand in a field value or a reason phrase?
pub(crate) fn is_text_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

// --- the slow pass: what exactly is wrong, and from which byte on ----------------------------

#[derive(Clone, Copy)]
enum Scan {
    Partial,
    Whole,
}

/// Bytes not yet looked at. Running out of them ends a scan through `Stop::Partial`.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

#[derive(Clone, Copy)]
enum Stop {
    Partial,
    Fault(HeadFault),
}

impl From<HeadFault> for Stop {
    fn from(fault: HeadFault) -> Self {
        Self::Fault(fault)
    }
}

impl<'b> Cursor<'b> {
    fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::Partial)
    }

    fn next(&mut self) -> Result<u8, Stop> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn since(&self, start: usize) -> &'b [u8] {
        &self.bytes[start..self.at]
    }

    /// The LF after a CR that was read.
    fn lf(&mut self) -> Result<(), Stop> {
        if self.next()? == b'\n' { Ok(()) } else { Err(HeadFault::BareCr.into()) }
    }

    fn version(&mut self, otherwise: HeadFault) -> Result<u8, Stop> {
        for expected in b"HTTP/1." {
            if self.next()? != *expected {
                return Err(otherwise.into());
            }
        }
        match self.next()? {
            b'0' => Ok(0),
            b'1' => Ok(1),
            _ => Err(HeadFault::Version.into()),
        }
    }
}

fn stopped(result: Result<(), Stop>) -> Result<Scan, HeadFault> {
    match result {
        Ok(()) => Ok(Scan::Whole),
        Err(Stop::Partial) => Ok(Scan::Partial),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

#[cold]
fn scan_request(seen: &[u8]) -> Result<Scan, HeadFault> {
    stopped(scan_request_lines(&mut Cursor { bytes: seen, at: 0 }))
}

#[cold]
fn scan_response(seen: &[u8]) -> Result<Scan, HeadFault> {
    stopped(scan_response_lines(&mut Cursor { bytes: seen, at: 0 }))
}

fn scan_request_lines(cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    if cursor.peek()? == b'\r' {
        cursor.at += 1;
        cursor.lf()?;
        if cursor.peek()? == b'\r' {
            return Err(HeadFault::EmptyLine.into());
        }
    }

    let method_start = cursor.at;
    let method = loop {
        match cursor.next()? {
            b' ' if cursor.at - 1 > method_start => {
                break &cursor.bytes[method_start..cursor.at - 1];
            }
            b'\n' => return Err(HeadFault::BareLf.into()),
            byte if !is_token_byte(byte) => return Err(HeadFault::Method.into()),
            _ if cursor.at - method_start > METHOD_BYTES_MAX => {
                return Err(HeadFault::Method.into());
            }
            _ => {}
        }
    };
    check_method(method)?;

    let target_start = cursor.at;
    let target = loop {
        match cursor.next()? {
            b' ' if cursor.at - 1 == target_start => return Err(HeadFault::TargetEmpty.into()),
            b' ' => break &cursor.bytes[target_start..cursor.at - 1],
            b'\r' => return Err(HeadFault::VersionMissing.into()),
            b'\n' => return Err(HeadFault::BareLf.into()),
            byte => check_target_byte(byte)?,
        }
    };
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| HeadFault::Malformed);
    // The version comes after the target, and the rules of the fields need it; the target's own
    // rules do not, so a bad one is refused before the version is there.
    let place = target_place(text(method)?, text(target)?)?;

    let mut rules = Rules::new(cursor.version(HeadFault::Version)?);
    rules.is_request = true;
    match cursor.next()? {
        b'\r' => cursor.lf()?,
        b'\n' => return Err(HeadFault::BareLf.into()),
        b'0'..=b'9' => return Err(HeadFault::Version.into()),
        _ => return Err(HeadFault::StartLine.into()),
    }
    scan_fields(cursor, &mut rules)?;
    Ok(rules.request_end(&place)?)
}

fn scan_response_lines(cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    let mut rules = Rules::new(cursor.version(HeadFault::Version)?);
    if cursor.next()? != b' ' {
        return Err(HeadFault::Version.into());
    }
    let mut status = 0_u16;
    for place in 0..3 {
        match cursor.next()? {
            b'0' | b'6'..=b'9' if place == 0 => return Err(HeadFault::StatusCode.into()),
            digit @ b'0'..=b'9' => status = status * 10 + u16::from(digit - b'0'),
            _ => return Err(HeadFault::StatusCode.into()),
        }
    }
    debug_assert!(is_status(status));
    match cursor.next()? {
        b' ' => loop {
            match cursor.next()? {
                b'\r' => break,
                b'\n' => return Err(HeadFault::BareLf.into()),
                byte if is_text_byte(byte) => {}
                _ => return Err(HeadFault::Reason.into()),
            }
        },
        b'\r' => {}
        b'\n' => return Err(HeadFault::BareLf.into()),
        _ => return Err(HeadFault::StatusCode.into()),
    }
    cursor.lf()?;
    scan_fields(cursor, &mut rules)
}

fn scan_fields<'b>(cursor: &mut Cursor<'b>, rules: &mut Rules<'b>) -> Result<(), Stop> {
    for count in 0.. {
        match cursor.peek()? {
            b'\r' => {
                cursor.at += 1;
                return cursor.lf();
            }
            b'\n' => return Err(HeadFault::BareLf.into()),
            b' ' | b'\t' => return Err(HeadFault::LineFolded.into()),
            _ if count == HEADERS_COUNT_MAX => return Err(HeadFault::TooManyFields.into()),
            _ => scan_field(cursor, rules)?,
        }
    }
    Ok(())
}

fn scan_field<'b>(cursor: &mut Cursor<'b>, rules: &mut Rules<'b>) -> Result<(), Stop> {
    let name_start = cursor.at;
    let name = loop {
        match cursor.next()? {
            b':' if cursor.at - 1 == name_start => return Err(HeadFault::Name.into()),
            b':' => break &cursor.bytes[name_start..cursor.at - 1],
            b' ' | b'\t' => return Err(HeadFault::SpaceBeforeColon.into()),
            b'\n' => return Err(HeadFault::BareLf.into()),
            byte if !is_token_byte(byte) => return Err(HeadFault::Name.into()),
            _ if cursor.at - name_start > NAME_BYTES_MAX => {
                return Err(HeadFault::NameTooLong.into());
            }
            _ => {}
        }
    };
    let value_start = cursor.at;
    loop {
        match cursor.next()? {
            b'\r' => break,
            b'\n' => return Err(HeadFault::BareLf.into()),
            byte if is_text_byte(byte) => {}
            _ => return Err(HeadFault::Value.into()),
        }
    }
    let value = cursor.since(value_start);
    cursor.lf()?;
    rules.field(name, trim(&value[..value.len() - 1]))?;
    Ok(())
}
