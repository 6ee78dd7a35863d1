//! JSON as values that can be compared: by what they mean, not by how they are written.
//!
//! Numbers are decimals of any length, as floats would take two large ones for the same.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::json::{Cursor, Kind, Text};

/// Values in one text; more are read by nobody here. An answer of a million bytes that is a table
/// has about as many, and a tree of them takes tens of megabytes.
pub(super) const VALUES_MAX: usize = 1 << 17;

/// One JSON value. Equal ones mean the same; the order between kinds means nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(String),
    Array(Vec<Json>),
    /// Of a key that stands twice the last value counts.
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// Read a text that is one value. A lone surrogate is read as U+FFFD.
    ///
    /// None for what is not JSON, and for more than [`VALUES_MAX`] values.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut reader = Reader { cursor: Cursor::new(text), text, room: VALUES_MAX };
        let value = reader.value()?;
        reader.cursor.end().ok()?;
        Some(value)
    }

    /// Read the value that a text begins with.
    pub(super) fn parse_start(text: &[u8]) -> Option<Self> {
        Reader { cursor: Cursor::new(text), text, room: VALUES_MAX }.value()
    }

    /// A member of an object.
    pub(super) fn member(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.get(key),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub(super) fn number(&self) -> Option<&Decimal> {
        match self {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }
}

struct Reader<'b> {
    cursor: Cursor<'b>,
    text: &'b [u8],
    /// How many more values there may be.
    room: usize,
}

impl Reader<'_> {
    /// The next value; as deep as a cursor admits, so the recursion is bounded.
    fn value(&mut self) -> Option<Json> {
        self.room = self.room.checked_sub(1)?;
        Some(match self.cursor.kind().ok()? {
            Kind::Null => {
                self.cursor.skip().ok()?;
                Json::Null
            }
            Kind::Bool => Json::Bool(self.cursor.boolean().ok()?),
            Kind::Number => {
                let span = self.cursor.skip().ok()?;
                Json::Number(Decimal::of(&self.text[span.start..span.end]))
            }
            Kind::String => Json::Text(meant(&self.cursor.string().ok()?)),
            Kind::Array => {
                let mut items = Vec::new();
                let mut more = self.cursor.enter_array().ok()?;
                while more {
                    items.push(self.value()?);
                    more = self.cursor.more_elements().ok()?;
                }
                Json::Array(items)
            }
            Kind::Object => {
                let mut members = BTreeMap::new();
                let mut more = self.cursor.enter_object().ok()?;
                while more {
                    let key = meant(&self.cursor.key().ok()?);
                    members.insert(key, self.value()?);
                    more = self.cursor.more_members().ok()?;
                }
                Json::Object(members)
            }
        })
    }
}

fn meant(text: &Text<'_>) -> String {
    match String::from_utf8(text.key_bytes().into_owned()) {
        Ok(text) => text,
        Err(fault) => String::from_utf8_lossy(fault.as_bytes()).into_owned(),
    }
}

/// A decimal number: its digits times ten to the exponent.
///
/// The digits have no zero at either end, so equal numbers have equal parts; zero has none, no
/// sign, and the exponent 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

/// Exponents beyond this in either direction are taken for it: no number that means something
/// lies there, and sums of exponents and lengths stay far from overflow.
const EXPONENT_MAX: i64 = 1 << 40;

impl Decimal {
    /// The number that a JSON number is; anything else is read as far as it goes.
    pub(super) fn of(number: &[u8]) -> Self {
        let (is_negative, rest) = match number {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, number),
        };
        let mantissa_end =
            rest.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(rest.len());
        let (mantissa, power) = rest.split_at(mantissa_end);
        let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
        let mut digits: Vec<u8> = mantissa
            .iter()
            .filter(|byte| byte.is_ascii_digit())
            .map(|byte| byte - b'0')
            .collect();
        let fraction = mantissa.len().saturating_sub(point + 1);
        let zeros = digits.iter().rev().take_while(|&&digit| digit == 0).count();
        digits.truncate(digits.len() - zeros);
        let leading = digits.iter().take_while(|&&digit| digit == 0).count();
        digits.drain(..leading);
        if digits.is_empty() {
            return Self::default();
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(EXPONENT_MAX);
        let exponent = exponent_of(power.get(1..).unwrap_or_default())
            .saturating_add(count(zeros))
            .saturating_sub(count(fraction))
            .clamp(-EXPONENT_MAX, EXPONENT_MAX);
        Self { is_negative, digits, exponent }
    }

    /// Which of two numbers is larger, exactly.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.is_negative) {
            (true, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        };
        let by_size = || {
            self.magnitude()
                .cmp(&other.magnitude())
                .then_with(|| self.digits.cmp(&other.digits))
        };
        match sign(self).cmp(&sign(other)) {
            Ordering::Equal if self.is_negative => by_size().reverse(),
            Ordering::Equal => by_size(),
            unequal => unequal,
        }
    }

    /// Where the first digit stands, left of the point; both 0 for zero.
    fn magnitude(&self) -> i64 {
        self.exponent.saturating_add(i64::try_from(self.digits.len()).unwrap_or(EXPONENT_MAX))
    }

    /// Whether it has no fraction.
    pub(super) fn is_integer(&self) -> bool {
        self.exponent >= 0
    }

    /// The count that it is, if it is one that a word can hold.
    pub(super) fn to_u64(&self) -> Option<u64> {
        if self.is_negative || self.exponent < 0 || self.magnitude() > 20 {
            return None;
        }
        let tens = std::iter::repeat_n(&0, usize::try_from(self.exponent).ok()?);
        self.digits
            .iter()
            .chain(tens)
            .try_fold(0_u64, |sum, &digit| sum.checked_mul(10)?.checked_add(u64::from(digit)))
    }

    /// Its value times ten to the power, rounded down; None if negative or too large for a word.
    pub(super) fn floor_times_ten_to(&self, power: i64) -> Option<u64> {
        let mut scaled = self.clone();
        scaled.exponent = scaled.exponent.saturating_add(power);
        if scaled.digits.is_empty() || scaled.magnitude() <= 0 {
            return (!self.is_negative).then_some(0);
        }
        if scaled.exponent < 0 {
            let whole = usize::try_from(scaled.magnitude()).ok()?;
            scaled.digits.truncate(whole);
            scaled.exponent = 0;
        }
        scaled.to_u64()
    }

    /// Whether it is 1 or less.
    pub(super) fn is_at_most_one(&self) -> bool {
        self.compare(&Self::of(b"1")).is_le()
    }

    /// Whether it is `part` times an integer; None if `part` is not above 0, or has more digits
    /// than a word.
    pub(super) fn is_multiple_of(&self, part: &Self) -> Option<bool> {
        if part.is_negative || part.digits.is_empty() {
            return None;
        }
        let unit = Self { exponent: 0, ..part.clone() }.to_u64()?;
        if self.digits.is_empty() {
            return Some(true);
        }
        // Without zeros at its end a number is no multiple of a power of ten.
        let Ok(mut power) = u64::try_from(self.exponent - part.exponent) else {
            return Some(false);
        };
        let unit = u128::from(unit);
        let modulo = |product: u128| product % unit;
        let mut rest =
            self.digits.iter().fold(0, |rest, &digit| modulo(rest * 10 + u128::from(digit)));
        let mut factor = modulo(10);
        while power > 0 {
            if power & 1 == 1 {
                rest = modulo(rest * factor);
            }
            factor = modulo(factor * factor);
            power >>= 1;
        }
        Some(rest == 0)
    }

    /// The number in units of ten to the power, if that is an integer that 53 bits hold.
    pub(super) fn in_units_of(&self, power: i64) -> Option<i64> {
        let scaled = Self {
            exponent: self.exponent.saturating_sub(power),
            is_negative: false,
            digits: self.digits.clone(),
        };
        let size = i64::try_from(scaled.to_u64()?).ok().filter(|size| *size < 1 << 53)?;
        Some(if self.is_negative { -size } else { size })
    }

    /// What comparing it takes, in steps of a check.
    pub(super) fn steps(&self) -> u64 {
        1 + self.digits.len() as u64 / 16
    }

    /// The power of ten that its last digit stands for.
    pub(super) fn exponent(&self) -> i64 {
        self.exponent
    }

    /// The nearest float; infinite if none is near.
    pub(super) fn to_f64(&self) -> f64 {
        let digits: String = self.digits.iter().map(|digit| char::from(b'0' + digit)).collect();
        let sign = if self.is_negative { "-" } else { "" };
        format!("{sign}{}e{}", if digits.is_empty() { "0" } else { &digits }, self.exponent)
            .parse()
            .unwrap_or(f64::NAN)
    }
}

/// What stands behind the `e`; clamped.
fn exponent_of(power: &[u8]) -> i64 {
    let (is_negative, digits) = match power {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let size = digits.iter().fold(0_i64, |size, byte| {
        (size.saturating_mul(10).saturating_add(i64::from(byte.wrapping_sub(b'0'))))
            .min(EXPONENT_MAX)
    });
    if is_negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::of(text.as_bytes())
    }

    fn json(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn spellings_of_one_value_are_equal() {
        for group in [
            &["0", "-0", "0.0", "0e5", "-0.00e-7"][..],
            &["1", "1.0", "10e-1", "0.01E+2", "1e0", "100e-2"],
            &["-120", "-1.2e2", "-12E1", "-120.000"],
            &["0.05", "5e-2", "50e-3"],
            &["1e99999999999999999999", "10e99999999999999999999"],
        ] {
            for text in group {
                assert_eq!(number(text), number(group[0]), "{text}");
                assert_eq!(number(text).compare(&number(group[0])), Ordering::Equal, "{text}");
            }
        }
        assert_eq!(
            json(r#"{"b": [1, null], "a": "\u00e9"}"#),
            json(r#"{"a":"é","b":[1.0,null]}"#)
        );
        assert_eq!(json(r#"{"a":1,"a":2}"#), json(r#"{"a":2}"#));
    }

    #[test]
    fn values_that_differ_are_not_equal() {
        for (one, other) in [
            ("9007199254740993", "9007199254740992"),
            ("1", "\"1\""),
            ("[1,2]", "[2,1]"),
            ("{}", "[]"),
            ("{\"a\":null}", "{}"),
            ("0", "false"),
            ("1", "-1"),
            ("12", "120"),
        ] {
            assert_ne!(json(one), json(other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_not_one_value_is_refused() {
        for text in ["", "1 2", "[1,]", "{\"a\"}", "nul", "NaN", "01"] {
            assert_eq!(Json::parse(text.as_bytes()), None, "{text}");
        }
        let deep = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert!(Json::parse(deep(128).as_bytes()).is_some());
        assert!(Json::parse(deep(100_000).as_bytes()).is_none());
        let many = |count: usize| format!("[{}0]", "0,".repeat(count - 2));
        assert!(Json::parse(many(VALUES_MAX).as_bytes()).is_some());
        assert!(Json::parse(many(VALUES_MAX + 1).as_bytes()).is_none());
    }

    #[test]
    fn numbers_are_ordered_by_size() {
        let rising = [
            "-1e400",
            "-10",
            "-9.99",
            "-1",
            "-0.5",
            "-1e-400",
            "0",
            "1e-400",
            "0.5",
            "0.51",
            "1",
            "1.0000000000000000000001",
            "2",
            "9",
            "10",
            "1e400",
        ];
        for (index, one) in rising.iter().enumerate() {
            for (place, other) in rising.iter().enumerate() {
                assert_eq!(
                    number(one).compare(&number(other)),
                    index.cmp(&place),
                    "{one} {other}"
                );
            }
        }
    }

    #[test]
    fn multiples_are_exact() {
        for (value, part, is_multiple) in [
            ("19.99", "0.01", true),
            ("0.3", "0.1", true),
            ("19.995", "0.01", false),
            ("7", "2", false),
            ("-8", "2", true),
            ("0", "7", true),
            ("1e300", "7", false),
            ("7e300", "7", true),
            ("1e1000000000", "3", false),
            ("1e1000000000", "0.125", true),
            ("5", "10", false),
            ("2.5", "2.5", true),
        ] {
            assert_eq!(
                number(value).is_multiple_of(&number(part)),
                Some(is_multiple),
                "{value}"
            );
        }
        for part in ["0", "-1", "123456789012345678901"] {
            assert_eq!(number("1").is_multiple_of(&number(part)), None, "{part}");
        }
    }

    #[test]
    fn a_count_is_read_where_a_word_holds_it() {
        for (text, count) in [
            ("0", Some(0)),
            ("1.0", Some(1)),
            ("1e3", Some(1000)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("1e999999999999", None),
            ("0.5", None),
            ("-1", None),
        ] {
            assert_eq!(number(text).to_u64(), count, "{text}");
        }
    }

    #[test]
    fn a_floor_is_never_above_its_number() {
        for (text, floor) in [
            ("0.7", Some(700)),
            ("0.6999999999999999999999", Some(699)),
            ("0.29", Some(290)),
            ("1", Some(1000)),
            ("0", Some(0)),
            ("1e-9", Some(0)),
            ("0.0015", Some(1)),
            ("12.3456", Some(12345)),
            ("-0.1", None),
            ("1e30", None),
        ] {
            assert_eq!(number(text).floor_times_ten_to(3), floor, "{text}");
        }
    }

    proptest! {
        #[test]
        fn decimals_compare_as_the_floats_they_are(one in any::<f64>(), other in any::<f64>()) {
            prop_assume!(one.is_finite() && other.is_finite());
            let decimal = |float: f64| number(&serde_json::to_string(&float).unwrap());
            prop_assert_eq!(Some(decimal(one).compare(&decimal(other))), one.partial_cmp(&other));
            prop_assert_eq!(
                decimal(one) == decimal(other), one.partial_cmp(&other) == Some(Ordering::Equal)
            );
            prop_assert!((decimal(one).to_f64() - one).abs() <= 0.0);
        }

        #[test]
        fn integers_are_multiples_as_arithmetic_says(value in any::<i64>(), part in 1_u32..) {
            let part = i64::from(part);
            let decimal = |value: i64| number(&value.to_string());
            prop_assert_eq!(
                decimal(value).is_multiple_of(&decimal(part)), Some(value % part == 0)
            );
            prop_assert_eq!(decimal(value).is_multiple_of(&decimal(1)), Some(true));
        }

        #[test]
        fn any_bytes_are_a_value_or_none(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Json::parse(&text);
            let _ = Decimal::of(&text).to_f64();
        }
    }
}
