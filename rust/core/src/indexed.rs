//! What the trace store indexes and sums of a record: one walk over its JSON, the rest skipped.
//!
//! The trace writer reads every record once, beside the workers and often on a CPU of theirs, so
//! this is a third of what the whole record costs to read and makes nothing that is not stored.

use std::borrow::Cow;

use crate::json::{Cursor, JsonFault, Kind, Text};

/// Beyond this a number is not exact in every reader of JSON.
const NUMBER_MAX: u64 = 1 << 53;
const US_PER_MS: f64 = 1000.0;
const NUSD_DECIMALS: usize = 9;
/// More digits of whole dollars than these are read with care, by the caller.
const DOLLAR_DIGITS_MAX: usize = 8;

const INPUT_PARTS: [&str; 6] = [
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "image_input_tokens",
];
const OUTPUT_PARTS: [&str; 3] = ["output_tokens", "reasoning_tokens", "audio_output_tokens"];

/// An amount as the record writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amount<'r> {
    /// Nine decimals, as workers write it: in nano-USD.
    Nusd(u64),
    /// Written in another way.
    Text(Cow<'r, str>),
}

/// One call to one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt<'r> {
    /// Provider.
    pub provider: Cow<'r, str>,
    /// Model.
    pub model: Cow<'r, str>,
    /// Outcome.
    pub outcome: Cow<'r, str>,
}

/// The searchable part of one record; texts are empty and numbers 0 where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the record")]
pub struct Indexed<'r> {
    pub id: Cow<'r, str>,
    pub ts_us: i64,
    pub project: Cow<'r, str>,
    pub route: Cow<'r, str>,
    pub provider: Cow<'r, str>,
    pub model: Cow<'r, str>,
    pub model_requested: Cow<'r, str>,
    pub end_user: Cow<'r, str>,
    pub trace_id: Cow<'r, str>,
    pub conversation_id: Cow<'r, str>,
    pub status: i64,
    pub cost: Option<Amount<'r>>,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub overhead_us: Option<i64>,
    pub ttft_us: Option<i64>,
    pub total_us: Option<i64>,
    pub tags: Vec<(Cow<'r, str>, Cow<'r, str>)>,
    pub attempts: Vec<Attempt<'r>>,
}

/// What is wrong with a record; never what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFault(pub String);

impl From<JsonFault> for RecordFault {
    fn from(_: JsonFault) -> Self {
        Self("not JSON".to_owned())
    }
}

type Read<T> = Result<T, RecordFault>;

/// Read a record.
///
/// # Errors
/// It is not a JSON object, or one of these fields has another type than it should.
pub fn read(record: &[u8]) -> Read<Indexed<'_>> {
    if std::str::from_utf8(record).is_err() {
        return Err(RecordFault("not JSON".to_owned()));
    }
    let mut cursor = Cursor::new(record);
    if cursor.kind()? != Kind::Object {
        // It may be no JSON at all.
        cursor.skip()?;
        cursor.end()?;
        return Err(RecordFault("not a JSON object".to_owned()));
    }
    let mut found = Indexed::default();
    members(&mut cursor, |cursor, key| {
        match key.raw {
            b"id" => found.id = text(cursor, "id")?,
            b"ts" => found.ts_us = number(cursor, "ts")?,
            b"project" => found.project = text(cursor, "project")?,
            b"route" => found.route = text(cursor, "route")?,
            b"provider" => found.provider = text(cursor, "provider")?,
            b"model" => found.model = text(cursor, "model")?,
            b"model_requested" => found.model_requested = text(cursor, "model_requested")?,
            b"end_user" => found.end_user = text(cursor, "end_user")?,
            b"trace_id" => found.trace_id = text(cursor, "trace_id")?,
            b"conversation_id" => found.conversation_id = text(cursor, "conversation_id")?,
            b"status" => found.status = number(cursor, "status")?,
            b"cost" => found.cost = cost(cursor)?,
            b"usage" => (found.input_tokens, found.output_tokens) = usage(cursor)?,
            b"latency" => {
                (found.overhead_us, found.ttft_us, found.total_us) = latency(cursor)?;
            }
            b"tags" => found.tags = tags(cursor)?,
            b"attempts" => found.attempts = attempts(cursor)?,
            _ => {
                cursor.skip()?;
            }
        }
        Ok(())
    })?;
    cursor.end()?;
    Ok(found)
}

/// Walk over the members of an object.
fn members<'r>(
    cursor: &mut Cursor<'r>,
    mut each: impl FnMut(&mut Cursor<'r>, Text<'r>) -> Read<()>,
) -> Read<()> {
    let mut more = cursor.enter_object()?;
    while more {
        let key = cursor.key()?;
        each(cursor, key)?;
        more = cursor.more_members()?;
    }
    Ok(())
}

/// An object, `null` taken for none. Returns whether there is one, to be walked over next.
fn is_object(cursor: &mut Cursor<'_>, name: &str) -> Read<bool> {
    match cursor.kind()? {
        Kind::Object => Ok(true),
        Kind::Null => {
            cursor.skip()?;
            Ok(false)
        }
        _ => Err(RecordFault(format!("`{name}` is no object"))),
    }
}

fn text<'r>(cursor: &mut Cursor<'r>, name: &str) -> Read<Cow<'r, str>> {
    match cursor.kind()? {
        Kind::String => Ok(cursor.string()?.decode()?),
        Kind::Null => {
            cursor.skip()?;
            Ok(Cow::Borrowed(""))
        }
        _ => Err(RecordFault(format!("`{name}` is no text"))),
    }
}

/// The number that comes next as it is written; None for `null`.
fn figure<'r>(cursor: &mut Cursor<'r>, name: &str, what: &str) -> Read<Option<&'r str>> {
    let kind = cursor.kind()?;
    let written = cursor.skip_text()?;
    match kind {
        Kind::Number => Ok(Some(std::str::from_utf8(written).unwrap_or_default())),
        Kind::Null => Ok(None),
        _ => Err(RecordFault(format!("`{name}` is no {what}"))),
    }
}

fn number(cursor: &mut Cursor<'_>, name: &str) -> Read<i64> {
    let Some(written) = figure(cursor, name, "integer")? else { return Ok(0) };
    written
        .parse::<i64>()
        .ok()
        .filter(|value| value.unsigned_abs() <= NUMBER_MAX)
        .ok_or_else(|| RecordFault(format!("`{name}` is no integer")))
}

/// A duration in microseconds, from one in units of `factor` of them; never below 0.
fn scaled(cursor: &mut Cursor<'_>, name: &str, factor: f64) -> Read<Option<i64>> {
    let Some(written) = figure(cursor, name, "number")? else { return Ok(None) };
    let value: f64 = written.parse().unwrap_or(f64::INFINITY);
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    if value.abs() > NUMBER_MAX as f64 {
        return Err(RecordFault(format!("`{name}` is no number")));
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 2^63")]
    Ok(Some((value * factor).round_ties_even().max(0.0) as i64))
}

fn usage(cursor: &mut Cursor<'_>) -> Read<(i64, i64)> {
    let mut parts = [0_i64; INPUT_PARTS.len() + OUTPUT_PARTS.len()];
    if !is_object(cursor, "usage")? {
        return Ok((0, 0));
    }
    members(cursor, |cursor, key| {
        let known = INPUT_PARTS.iter().chain(&OUTPUT_PARTS).zip(&mut parts);
        for (name, part) in known {
            if key.raw == name.as_bytes() {
                *part = number(cursor, name)?;
                return Ok(());
            }
        }
        cursor.skip()?;
        Ok(())
    })?;
    // Each is at most 2^53, and there are nine.
    let (input, output) = parts.split_at(INPUT_PARTS.len());
    Ok((input.iter().sum(), output.iter().sum()))
}

type Latency = (Option<i64>, Option<i64>, Option<i64>);

fn latency(cursor: &mut Cursor<'_>) -> Read<Latency> {
    let mut found = Latency::default();
    if is_object(cursor, "latency")? {
        members(cursor, |cursor, key| {
            match key.raw {
                b"overhead_us" => found.0 = scaled(cursor, "overhead_us", 1.0)?,
                b"ttft_ms" => found.1 = scaled(cursor, "ttft_ms", US_PER_MS)?,
                b"total_ms" => found.2 = scaled(cursor, "total_ms", US_PER_MS)?,
                _ => {
                    cursor.skip()?;
                }
            }
            Ok(())
        })?;
    }
    Ok(found)
}

fn cost<'r>(cursor: &mut Cursor<'r>) -> Read<Option<Amount<'r>>> {
    let mut found = None;
    if is_object(cursor, "cost")? {
        members(cursor, |cursor, key| {
            if key.raw != b"total_usd" || cursor.kind()? == Kind::Null {
                cursor.skip()?;
                return Ok(());
            }
            let written = text(cursor, "total_usd")?;
            found = Some(match nusd(&written) {
                Some(nusd) => Amount::Nusd(nusd),
                None => Amount::Text(written),
            });
            Ok(())
        })?;
    }
    Ok(found)
}

/// An amount with exactly nine decimals.
fn nusd(written: &str) -> Option<u64> {
    let (whole, decimals) = written.split_once('.')?;
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if decimals.len() != NUSD_DECIMALS
        || whole.is_empty()
        || whole.len() > DOLLAR_DIGITS_MAX
        || !is_digits(whole)
        || !is_digits(decimals)
    {
        return None;
    }
    let (whole, decimals): (u64, u64) = (whole.parse().ok()?, decimals.parse().ok()?);
    Some(whole * 1_000_000_000 + decimals).filter(|nusd| *nusd <= NUMBER_MAX)
}

fn tags<'r>(cursor: &mut Cursor<'r>) -> Read<Vec<(Cow<'r, str>, Cow<'r, str>)>> {
    let mut found = Vec::new();
    if is_object(cursor, "tags")? {
        members(cursor, |cursor, key| {
            if cursor.kind()? != Kind::String {
                return Err(RecordFault("a tag is no text".to_owned()));
            }
            found.push((key.decode()?, cursor.string()?.decode()?));
            Ok(())
        })?;
    }
    Ok(found)
}

fn attempts<'r>(cursor: &mut Cursor<'r>) -> Read<Vec<Attempt<'r>>> {
    let mut found = Vec::new();
    match cursor.kind()? {
        Kind::Array => {}
        Kind::Null => {
            cursor.skip()?;
            return Ok(found);
        }
        _ => return Err(RecordFault("`attempts` is no list".to_owned())),
    }
    let mut more = cursor.enter_array()?;
    while more {
        if cursor.kind()? != Kind::Object {
            return Err(RecordFault("an attempt is no object".to_owned()));
        }
        let mut attempt = Attempt::default();
        members(cursor, |cursor, key| {
            match key.raw {
                b"provider" => attempt.provider = text(cursor, "provider")?,
                b"model" => attempt.model = text(cursor, "model")?,
                b"outcome" => attempt.outcome = text(cursor, "outcome")?,
                _ => {
                    cursor.skip()?;
                }
            }
            Ok(())
        })?;
        found.push(attempt);
        more = cursor.more_elements()?;
    }
    Ok(found)
}
