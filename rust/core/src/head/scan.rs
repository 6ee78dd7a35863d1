//! The slow pass: walks a head from the left, byte by byte, to its end or its first fault.
//!
//! It runs when the fast pass has not found a whole and proper head, so it need not be quick; it
//! must only stay linear, because a slow peer makes it run once for each piece that arrives.

use super::rules::{
    Rules, check_method, check_target_byte, is_status, is_text_byte, is_token_byte,
    target_place, trim,
};
use super::{HEADERS_COUNT_MAX, HeadFault, METHOD_BYTES_MAX, NAME_BYTES_MAX};

/// What the walk found where there is no fault.
#[derive(Clone, Copy)]
pub(super) enum Scan {
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
pub(super) fn scan_request(seen: &[u8]) -> Result<Scan, HeadFault> {
    stopped(scan_request_lines(&mut Cursor { bytes: seen, at: 0 }))
}

#[cold]
pub(super) fn scan_response(seen: &[u8]) -> Result<Scan, HeadFault> {
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
    let line = &value[..value.len() - 1];
    let blanks = line.iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    rules.field(name, trim(line), &line[line.len() - blanks..])?;
    Ok(())
}
