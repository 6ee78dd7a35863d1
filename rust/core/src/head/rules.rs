//! What the start line and the fields of one head must be, whichever pass has read them.

use super::{CONTENT_LENGTH_MAX, Framing, HeadFault, METHOD_BYTES_MAX};

/// Where a request target leads.
pub(super) struct Place<'b> {
    pub(super) path: &'b str,
    pub(super) query: &'b str,
    /// The authority of a URL, to be compared with `Host`.
    pub(super) authority: Option<&'b str>,
}

/// What the lines of one head add up to. Fed in their order by both passes, so both refuse alike.
#[expect(clippy::struct_excessive_bools, reason = "each is one fact that a field states")]
pub(super) struct Rules<'b> {
    pub(super) minor_version: u8,
    pub(super) framing: Option<Framing>,
    pub(super) host: Option<&'b [u8]>,
    pub(super) names_connection: bool,
    pub(super) closes: bool,
    pub(super) keeps: bool,
    pub(super) expect_continue: bool,
    pub(super) is_request: bool,
}

impl<'b> Rules<'b> {
    pub(super) fn new(minor_version: u8) -> Self {
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

    pub(super) fn request_line(
        &mut self,
        method: &str,
        target: &'b str,
    ) -> Result<Place<'b>, HeadFault> {
        self.is_request = true;
        check_method(method.as_bytes())?;
        target_place(method, target)
    }

    /// Take in one field; `after` are the blanks behind its value.
    pub(super) fn field(
        &mut self,
        name: &[u8],
        value: &'b [u8],
        after: &[u8],
    ) -> Result<(), HeadFault> {
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
                // Some parsers take a tab for a part of the coding, and see another body then.
                None if value.eq_ignore_ascii_case(b"chunked") && !after.contains(&b'\t') => {
                    self.framing = Some(Framing::Chunked);
                }
                None => return Err(HeadFault::Coding),
            },
            _ => {}
        }
        Ok(())
    }

    pub(super) fn request_end(&self, place: &Place<'_>) -> Result<(), HeadFault> {
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

    pub(super) fn keep_alive(&self) -> bool {
        !self.closes && (self.minor_version == 1 || self.keeps)
    }
}

pub(super) fn check_method(method: &[u8]) -> Result<(), HeadFault> {
    match method {
        _ if method.len() > METHOD_BYTES_MAX => Err(HeadFault::Method),
        b"CONNECT" => Err(HeadFault::Connect),
        b"PRI" => Err(HeadFault::Http2Preface),
        _ => Ok(()),
    }
}

pub(super) fn target_place<'b>(method: &str, target: &'b str) -> Result<Place<'b>, HeadFault> {
    if !target.bytes().all(is_target_byte) {
        target.bytes().try_for_each(check_target_byte)?;
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

pub(super) fn check_target_byte(byte: u8) -> Result<(), HeadFault> {
    match byte {
        b'#' => Err(HeadFault::TargetFragment),
        _ if is_target_byte(byte) => Ok(()),
        _ => Err(HeadFault::Target),
    }
}

fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
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
pub(super) fn lists_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| trim(item).eq_ignore_ascii_case(token))
}

pub(super) fn trim(value: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = value.iter().position(is_text).unwrap_or(value.len());
    let end = value.iter().rposition(is_text).map_or(start, |last| last + 1);
    &value[start..end]
}

pub(super) fn is_status(status: u16) -> bool {
    (100..=599).contains(&status)
}

/// Answers that have no body whatever their fields say (RFC 9112 section 6.3).
pub(super) fn is_bodiless(status: u16) -> bool {
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
