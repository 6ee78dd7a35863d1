//! Several answers made one: the one that most weight agrees on, or the mean of their numbers.

use crate::answers::said::Said;
use crate::answers::value::{Decimal, Json};

/// The index of the answer that the vote elects; 0 without answers.
///
/// `answers` in the order of the members, each with its weight in thousandths. Two that are both
/// JSON are equal if they mean the same; others, if they are the same words: without regard to
/// case, to how much white space there is, and to punctuation at the end. An answer that refuses
/// votes by its refusal; one that only calls tools, with those that call as many; one that says
/// nothing at all has no voice unless all do so. The heaviest group wins, of equally heavy ones
/// that of the earliest member, who speaks for it.
#[must_use]
pub fn vote(answers: &[(&Said, u64)]) -> usize {
    let ballots: Vec<Ballot> = answers.iter().map(|(said, _)| Ballot::of(said)).collect();
    let all_silent = ballots.iter().all(Ballot::is_silent);
    // The first of each group, with the weight of all of it.
    let mut groups: Vec<(usize, u128)> = Vec::new();
    for (index, ballot) in ballots.iter().enumerate() {
        if ballot.is_silent() && !all_silent {
            continue;
        }
        let weight = u128::from(answers[index].1);
        match groups.iter_mut().find(|(first, _)| ballots[*first].agrees_with(ballot)) {
            Some((_, sum)) => *sum += weight,
            None => groups.push((index, weight)),
        }
    }
    let mut winner = (0, 0);
    for (index, (first, weight)) in groups.into_iter().enumerate() {
        if index == 0 || weight > winner.1 {
            winner = (first, weight);
        }
    }
    winner.0
}

/// What one answer votes for.
struct Ballot {
    words: String,
    json: Option<Json>,
    /// It has no text but calls of tools.
    calls: u32,
}

impl Ballot {
    fn of(said: &Said) -> Self {
        if said.text.trim().is_empty() {
            let words = said.refusal.as_deref().map(normalised).unwrap_or_default();
            return Self { words, json: None, calls: said.tool_calls };
        }
        let json = if said.json_valid { Json::parse(said.text.as_bytes()) } else { None };
        Self { words: normalised(&said.text), json, calls: 0 }
    }

    fn is_silent(&self) -> bool {
        self.words.is_empty() && self.json.is_none() && self.calls == 0
    }

    fn agrees_with(&self, other: &Self) -> bool {
        match (&self.json, &other.json) {
            (Some(one), Some(other)) => one == other,
            _ => self.words == other.words && self.calls == other.calls,
        }
    }
}

/// A text as it is compared.
fn normalised(text: &str) -> String {
    let is_dropped = |letter: char| {
        letter.is_whitespace()
            || matches!(letter, '.' | ',' | ';' | ':' | '!' | '?' | '\u{2026}' | '\u{3002}')
            || matches!(letter, '\u{ff0e}' | '\u{ff01}' | '\u{ff1f}' | '\u{ff0c}')
    };
    let mut words = String::with_capacity(text.len());
    let kept = match text.trim_end_matches(is_dropped) {
        // Nothing but punctuation is what it says.
        "" => text,
        kept => kept,
    };
    for word in kept.split_whitespace() {
        if !words.is_empty() {
            words.push(' ');
        }
        // Up and down again, so that what has one capital is one: "Straße" and "STRASSE".
        words.extend(word.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase));
    }
    words
}

/// The weighted mean of the numbers that answers are, in the shortest decimal.
///
/// An answer is a number if its text is a JSON number, or a JSON object with a number as
/// `value`, as `score`, or as its only number. Others are left out, with their weights. None if
/// none is left, or nothing of their weight.
#[must_use]
pub fn average(answers: &[(&Said, u64)]) -> Option<String> {
    let numbers: Vec<(Decimal, u64)> = answers
        .iter()
        .filter(|(_, weight)| *weight > 0)
        .filter_map(|(said, weight)| Some((number_of(&said.text)?, *weight)))
        .filter(|(number, _)| number.to_f64().is_finite())
        .collect();
    if numbers.is_empty() {
        return None;
    }
    Some(shortest(exact_mean(&numbers).unwrap_or_else(|| float_mean(&numbers))))
}

fn number_of(text: &str) -> Option<Decimal> {
    let value = Json::parse(text.trim().as_bytes())?;
    let Json::Object(members) = &value else {
        return value.number().cloned();
    };
    let named = |key: &str| value.member(key).and_then(Json::number);
    if let Some(number) = named("value").or_else(|| named("score")) {
        return Some(number.clone());
    }
    let mut numbers = members.values().filter_map(Json::number);
    let only = numbers.next()?;
    numbers.next().is_none().then(|| only.clone())
}

/// The float nearest to the mean, where all of the way there is exact.
#[expect(clippy::cast_precision_loss, reason = "both sides were found to fit")]
fn exact_mean(numbers: &[(Decimal, u64)]) -> Option<f64> {
    let power = numbers.iter().map(|(number, _)| number.exponent()).min()?.min(0);
    let mut sum: i128 = 0;
    let mut weights: i128 = 0;
    for (number, weight) in numbers {
        let units = i128::from(number.in_units_of(power)?);
        sum = sum.checked_add(units.checked_mul(i128::from(*weight))?)?;
        weights = weights.checked_add(i128::from(*weight))?;
    }
    let units = 10_i128.checked_pow(u32::try_from(-power).ok()?)?;
    let whole = weights.checked_mul(units)?;
    let common = gcd(sum.unsigned_abs(), whole.unsigned_abs());
    let (sum, whole) =
        (sum / i128::try_from(common).ok()?, whole / i128::try_from(common).ok()?);
    let fits = |number: i128| number.unsigned_abs() < 1 << 53;
    (fits(sum) && fits(whole)).then(|| sum as f64 / whole as f64)
}

fn gcd(mut one: u128, mut other: u128) -> u128 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one.max(1)
}

#[expect(clippy::cast_precision_loss, reason = "a mean of floats is not exact anyway")]
fn float_mean(numbers: &[(Decimal, u64)]) -> f64 {
    let whole: f64 = numbers.iter().map(|(_, weight)| *weight as f64).sum();
    // Each share on its own, so that no sum is larger than the largest number.
    numbers.iter().map(|(number, weight)| number.to_f64() * (*weight as f64 / whole)).sum()
}

/// The shortest JSON number that is read as that float.
fn shortest(mean: f64) -> String {
    // A negative zero is zero.
    let text = serde_json::to_string(&(mean + 0.0)).unwrap_or_default();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::answers::said::is_json;

    fn text(text: &str) -> Said {
        Said { text: text.to_owned(), json_valid: is_json(text.as_bytes()), ..Said::default() }
    }

    fn elect(answers: &[(&str, u64)]) -> usize {
        let said: Vec<Said> = answers.iter().map(|(words, _)| text(words)).collect();
        let pairs: Vec<(&Said, u64)> =
            said.iter().zip(answers).map(|(said, (_, weight))| (said, *weight)).collect();
        vote(&pairs)
    }

    fn mean(answers: &[(&str, u64)]) -> Option<String> {
        let said: Vec<Said> = answers.iter().map(|(words, _)| text(words)).collect();
        let pairs: Vec<(&Said, u64)> =
            said.iter().zip(answers).map(|(said, (_, weight))| (said, *weight)).collect();
        average(&pairs)
    }

    #[test]
    fn the_heaviest_group_wins_and_its_earliest_member_speaks_for_it() {
        assert_eq!(elect(&[("a", 1000), ("b", 1000), ("B.", 1000)]), 1);
        assert_eq!(elect(&[("a", 2500), ("b", 1000), ("b", 1000)]), 0);
        assert_eq!(elect(&[("a", 1000), ("b", 1000), ("c", 1000)]), 0);
        assert_eq!(elect(&[("a", 1000), ("b", 2000), ("a", 1000)]), 0);
        assert_eq!(elect(&[("a", 0), ("b", 1)]), 1);
        assert_eq!(elect(&[("a", 0), ("b", 0)]), 0);
        assert_eq!(elect(&[("a", u64::MAX), ("b", u64::MAX), ("b", u64::MAX)]), 1);
        assert_eq!(elect(&[]), 0);
    }

    #[test]
    fn json_is_compared_by_what_it_means() {
        let answers =
            [("x", 1), (r#"{"a":1,"b":[2]}"#, 1), ("{\"b\": [2.0], \"a\": 1e0}\n", 1)];
        assert_eq!(elect(&answers), 1);
        assert_eq!(elect(&[("x", 1), ("[1,2]", 1), ("[2,1]", 1)]), 0);
        assert_eq!(elect(&[("x", 1), ("\"a\"", 1), ("\"A\"", 1)]), 0);
    }

    #[test]
    fn words_are_compared_without_case_spaces_and_final_punctuation() {
        for (one, other) in [
            ("Yes", "  yes!\n"),
            ("New  York", "new\nyork."),
            ("Straße", "STRASSE"),
            ("42", "42."),
            ("true", "True"),
            ("...", " ..."),
            ("Oui\u{a0}!", "oui"),
        ] {
            assert_eq!(elect(&[("x", 1), (one, 1), (other, 1)]), 1, "{one}");
        }
        for (one, other) in
            [("a b", "ab"), ("a, b", "a b"), (".5", "5"), ("e", "\u{e9}"), ("?", "!")]
        {
            assert_eq!(elect(&[("x", 1), (one, 1), (other, 1)]), 0, "{one}");
        }
    }

    #[test]
    fn silence_has_no_voice_but_refusals_and_calls_of_tools_have() {
        let silent = Said::default();
        let answer = text("a");
        let refused = |words: &str| Said { refusal: Some(words.to_owned()), ..Said::default() };
        let calls = |tool_calls| Said { tool_calls, ..Said::default() };
        assert_eq!(vote(&[(&silent, 9), (&silent, 9), (&answer, 1)]), 2);
        assert_eq!(vote(&[(&silent, 1), (&silent, 2)]), 0);
        let (no, never) = (refused("No."), refused("no"));
        assert_eq!(vote(&[(&answer, 1), (&no, 1), (&never, 1)]), 1);
        let (one, two) = (calls(1), calls(2));
        assert_eq!(vote(&[(&answer, 1), (&one, 1), (&two, 1)]), 0);
        assert_eq!(vote(&[(&answer, 1), (&two, 1), (&two, 1)]), 1);
    }

    #[test]
    fn a_mean_has_the_shortest_decimal() {
        assert_eq!(mean(&[("0.1", 1000), ("0.2", 1000)]).as_deref(), Some("0.15"));
        assert_eq!(mean(&[("80", 1000), ("90", 3000)]).as_deref(), Some("87.5"));
        assert_eq!(mean(&[("85", 1000), ("85.0", 7)]).as_deref(), Some("85"));
        assert_eq!(mean(&[("1", 1), ("0", 2)]).as_deref(), Some("0.3333333333333333"));
        assert_eq!(mean(&[("-1", 1), ("1", 1)]).as_deref(), Some("0"));
        assert_eq!(mean(&[("-0", 1)]).as_deref(), Some("0"));
        assert_eq!(mean(&[("1e300", 1)]).as_deref(), Some("1e+300"));
        assert_eq!(mean(&[("1e308", 1), ("1e308", 1)]).map(|mean| mean.len() < 8), Some(true));
    }

    #[test]
    fn a_number_may_stand_in_an_object() {
        for answer in [
            "7",
            " 7\n",
            r#"{"value": 7, "score": 1, "x": 2}"#,
            r#"{"score": 7, "x": 2}"#,
            r#"{"why": "so", "rating": 7}"#,
            r#"{"value": "9", "score": 7}"#,
        ] {
            assert_eq!(mean(&[(answer, 1)]).as_deref(), Some("7"), "{answer}");
        }
    }

    #[test]
    fn what_is_no_number_is_left_out_with_its_weight() {
        for answer in
            ["", "seven", "7%", "[7]", r#"{"a":1,"b":2}"#, r#"{"value":"7"}"#, "NaN", "1e999"]
        {
            assert_eq!(mean(&[(answer, 5)]), None, "{answer}");
            assert_eq!(mean(&[("4", 1), (answer, 5)]).as_deref(), Some("4"), "{answer}");
        }
        assert_eq!(mean(&[("4", 0)]), None);
        assert_eq!(mean(&[("4", 0), ("5", 1)]).as_deref(), Some("5"));
        assert_eq!(mean(&[]), None);
    }

    proptest! {
        #[test]
        fn the_winner_does_not_change_if_all_weights_are_scaled(
            answers in prop::collection::vec(("[abAB]{1}[.!]?", 0_u64..5), 1..6),
        ) {
            let scaled = |factor: u64| -> Vec<(&str, u64)> {
                answers.iter().map(|(text, weight)| (text.as_str(), weight * factor)).collect()
            };
            prop_assert_eq!(elect(&scaled(1)), elect(&scaled(1000)));
            prop_assert!(elect(&scaled(1)) < answers.len());
        }

        #[test]
        fn a_mean_lies_between_its_numbers(
            numbers in prop::collection::vec((-1e6_f64..1e6, 1_u64..5000), 1..6),
        ) {
            let texts: Vec<(String, u64)> =
                numbers.iter().map(|(number, weight)| (number.to_string(), *weight)).collect();
            let pairs: Vec<(&str, u64)> =
                texts.iter().map(|(text, weight)| (text.as_str(), *weight)).collect();
            let mean: f64 = mean(&pairs).unwrap().parse().unwrap();
            let least = numbers.iter().map(|pair| pair.0).fold(f64::INFINITY, f64::min);
            let most = numbers.iter().map(|pair| pair.0).fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(mean >= least - 1e-6 && mean <= most + 1e-6);
        }

        #[test]
        fn any_texts_can_be_voted_on_and_averaged(
            texts in prop::collection::vec(".{0,12}", 0..5),
        ) {
            let said: Vec<Said> = texts.iter().map(|words| text(words)).collect();
            let pairs: Vec<(&Said, u64)> = said.iter().map(|said| (said, 1000)).collect();
            prop_assert!(vote(&pairs) < texts.len().max(1));
            if let Some(mean) = average(&pairs) {
                prop_assert!(is_json(mean.as_bytes()));
            }
        }
    }
}
