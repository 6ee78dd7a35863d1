//! Callers' and configuration's words in messages: decoded, shown safely, matched to known ones.

/// Decode `%41`; a `%` without two hex digits stays as it is. None if the result is not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).ok()?);
                at += 3;
            }
            (byte, _, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// A caller's text as it may stand in a message: short and without control characters.
#[must_use]
pub fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut shown: String = text
        .chars()
        .take(CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

pub(crate) fn listed(names: impl Iterator<Item = String>) -> String {
    const NAMES_MAX: usize = 8;
    let mut names: Vec<String> = names.take(NAMES_MAX + 1).collect();
    if names.len() > NAMES_MAX {
        "…".clone_into(&mut names[NAMES_MAX]);
    }
    names.join(", ")
}

/// The known name that is closest to `name`, if any is close at all.
pub(crate) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // A name of a megabyte has no neighbours, and the distance is quadratic.
    if name.len() > 200 {
        return None;
    }
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(away, candidate)| *away <= 1 + candidate.len().max(name.len()) / 4)
        .min_by_key(|(away, _)| *away)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes, one row at a time.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
