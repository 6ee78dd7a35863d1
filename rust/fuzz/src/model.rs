//! Sound rules out of choices, and what they say, computed the plain way.
//!
//! Nothing is shared with the language that is tested: values instead of slots, recursion
//! instead of jumps, both sides of everything evaluated always.

use std::fmt::{self, Display, Formatter};

use modelux_core::rules::{Value, Var, Vars, Verdict};

const TEXTS: [&str; 6] = ["", "a", "ab", "gold", "é€", "it's\\\n\"x\""];
const NUMBERS: [f64; 10] =
    [0.0, 1.0, 2.0, 7.0, 0.5, 0.1, 100.0, 1e308, 9_007_199_254_740_992.0, 1e-300];
const TEXT_VARS: [&str; 4] = ["tags.a", "tags['b c']", "end_user", "response.text"];
const NUMBER_VARS: [&str; 4] =
    ["request.input_tokens", "request.messages", "cost['m'].est_usd", "latency['m/n'].ttft_ms"];
const BOOL_VARS: [&str; 2] = ["request.stream", "response.json_valid"];
const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];

/// Bytes as a source of small numbers; all zero once they are used up.
#[derive(Clone, Copy)]
pub struct Choices<'d> {
    rest: &'d [u8],
}

impl<'d> Choices<'d> {
    pub fn new(rest: &'d [u8]) -> Self {
        Self { rest }
    }

    fn below(&mut self, count: usize) -> usize {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        usize::from(*first) % count
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A rule as a tree.
pub enum Expression {
    Null,
    Bool(bool),
    Number(f64),
    Text(&'static str),
    Var(&'static str),
    Has(&'static str),
    Not(Box<Self>),
    Negate(Box<Self>),
    Size(Box<Self>),
    Binary(&'static str, Box<Self>, Box<Self>),
    Method(&'static str, Box<Self>, Box<Self>),
    In(Box<Self>, Vec<Self>),
    Choose(Box<[Self; 3]>),
}

use Expression::{
    Binary, Bool, Choose, Has, In, Method, Negate, Not, Null, Number, Size, Text,
};

/// Makes expressions of one type each.
pub struct Maker<'d> {
    pub choices: Choices<'d>,
}

impl<'d> Maker<'d> {
    pub fn new(choices: Choices<'d>) -> Self {
        Self { choices }
    }

    pub fn condition(&mut self, depth: u32) -> Expression {
        if depth == 0 {
            return match self.choices.below(8) {
                0 => Null,
                1 => Has(self.any_var()),
                2 => Bool(false),
                3 => Bool(true),
                _ => Expression::Var(self.choices.of(&BOOL_VARS)),
            };
        }
        let depth = depth - 1;
        match self.choices.below(16) {
            0 => self.condition(0),
            1 | 2 => Not(Box::new(self.condition(depth))),
            3..=5 => self.binary("&&", depth, Self::condition),
            6..=8 => self.binary("||", depth, Self::condition),
            9 | 10 => {
                let sign = self.choices.of(&COMPARISONS);
                self.binary(sign, depth, Self::number)
            }
            11 => {
                let sign = self.choices.of(&COMPARISONS);
                self.binary(sign, depth, Self::text)
            }
            12 => {
                let sign = self.choices.of(&COMPARISONS[..2]);
                self.binary(sign, depth, Self::condition)
            }
            13 => {
                let make = if self.choices.below(2) == 0 { Self::number } else { Self::text };
                let subject = make(self, depth);
                let count = self.choices.below(5);
                In(Box::new(subject), (0..count).map(|_| make(self, depth / 2)).collect())
            }
            14 => {
                let name = self.choices.of(&["startsWith", "endsWith", "contains"]);
                Method(name, Box::new(self.text(depth)), Box::new(self.text(depth / 2)))
            }
            _ => self.choose(depth, Self::condition),
        }
    }

    fn any_var(&mut self) -> &'static str {
        let vars = self.choices.of(&[&TEXT_VARS[..], &NUMBER_VARS[..], &BOOL_VARS[..]]);
        self.choices.of(vars)
    }

    fn number(&mut self, depth: u32) -> Expression {
        if depth == 0 {
            return match self.choices.below(10) {
                0 => Null,
                1..=4 => Number(self.choices.of(&NUMBERS)),
                _ => Expression::Var(self.choices.of(&NUMBER_VARS)),
            };
        }
        let depth = depth - 1;
        match self.choices.below(10) {
            0..=3 => self.number(0),
            4 => Negate(Box::new(self.number(depth))),
            5 => Size(Box::new(self.text(depth))),
            6 => self.choose(depth, Self::number),
            _ => {
                let sign = self.choices.of(&["+", "-", "*", "/"]);
                self.binary(sign, depth, Self::number)
            }
        }
    }

    fn text(&mut self, depth: u32) -> Expression {
        match self.choices.below(10) {
            0 => Null,
            1..=4 => Text(self.choices.of(&TEXTS)),
            5 if depth > 0 => self.choose(depth - 1, Self::text),
            _ => Expression::Var(self.choices.of(&TEXT_VARS)),
        }
    }

    fn binary(
        &mut self,
        sign: &'static str,
        depth: u32,
        make: fn(&mut Self, u32) -> Expression,
    ) -> Expression {
        Binary(sign, Box::new(make(self, depth)), Box::new(make(self, depth)))
    }

    fn choose(&mut self, depth: u32, make: fn(&mut Self, u32) -> Expression) -> Expression {
        Choose(Box::new([self.condition(depth), make(self, depth), make(self, depth)]))
    }
}

impl Expression {
    /// How close it binds: the grammar's level, counted from the loosest.
    fn level(&self) -> u32 {
        match self {
            Choose(_) => 0,
            Binary("||", ..) => 1,
            Binary("&&", ..) => 2,
            Binary("+" | "-", ..) => 4,
            Binary("*" | "/", ..) => 5,
            Binary(..) | In(..) => 3,
            Not(_) | Negate(_) => 6,
            Number(number) if number.is_sign_negative() => 6,
            _ => 7,
        }
    }

    fn write(&self, level: u32, out: &mut Formatter<'_>) -> fmt::Result {
        if self.level() < level {
            out.write_str("(")?;
            self.write(0, out)?;
            return out.write_str(")");
        }
        let own = self.level();
        match self {
            Null => out.write_str("null"),
            Bool(value) => write!(out, "{value}"),
            Number(number) if number.fract() == 0.0 && *number < 1e15 => {
                write!(out, "{number}")
            }
            Number(number) => write!(out, "{number:e}"),
            Text(text) => write_text(text, out),
            Self::Var(name) => out.write_str(name),
            Has(name) => write!(out, "has({name})"),
            Not(operand) => {
                out.write_str("!")?;
                operand.write(own, out)
            }
            Negate(operand) => {
                out.write_str("-")?;
                operand.write(own, out)
            }
            Size(operand) => write!(out, "size({operand})"),
            Binary(sign, left, right) => {
                left.write(own, out)?;
                write!(out, " {sign} ")?;
                right.write(own + 1, out)
            }
            Method(name, text, part) => {
                text.write(7, out)?;
                write!(out, ".{name}({part})")
            }
            In(subject, elements) => {
                subject.write(own, out)?;
                out.write_str(" in [")?;
                for (at, element) in elements.iter().enumerate() {
                    out.write_str(if at == 0 { "" } else { ", " })?;
                    element.write(0, out)?;
                }
                out.write_str("]")
            }
            Choose(parts) => {
                parts[0].write(1, out)?;
                out.write_str(" ? ")?;
                parts[1].write(1, out)?;
                out.write_str(" : ")?;
                parts[2].write(0, out)
            }
        }
    }

    /// What the rule says where the input has so many tokens.
    pub fn verdict(&self, known: &Known, tokens: f64) -> Verdict {
        match self.value(&known.with(tokens)) {
            Value::Bool(true) => Verdict::True,
            Value::Bool(false) => Verdict::False,
            _ => Verdict::Null,
        }
    }

    fn value<'v>(&'v self, known: &'v At<'_>) -> Value<'v> {
        match self {
            Null => Value::Null,
            Bool(value) => Value::Bool(*value),
            Number(number) => Value::Number(*number),
            Text(text) => Value::Text(text),
            Self::Var(name) => known.value(name),
            Has(name) => Value::Bool(known.value(name) != Value::Null),
            Not(operand) => match operand.value(known) {
                Value::Bool(value) => Value::Bool(!value),
                _ => Value::Null,
            },
            Negate(operand) => match operand.value(known) {
                Value::Number(number) => Value::Number(-number),
                _ => Value::Null,
            },
            Size(operand) => match operand.value(known) {
                Value::Text(text) => Value::Number(text.chars().map(|_| 1.0).sum()),
                _ => Value::Null,
            },
            Binary(sign, left, right) => binary(sign, left.value(known), right.value(known)),
            Method(name, text, part) => match (text.value(known), part.value(known)) {
                (Value::Text(text), Value::Text(part)) => Value::Bool(match *name {
                    "startsWith" => text.starts_with(part),
                    "endsWith" => text.ends_with(part),
                    _ => text.contains(part),
                }),
                _ => Value::Null,
            },
            In(subject, elements) => {
                let subject = subject.value(known);
                Value::Bool(elements.iter().any(|element| element.value(known) == subject))
            }
            Choose(parts) => match parts[0].value(known) {
                Value::Bool(true) => parts[1].value(known),
                _ => parts[2].value(known),
            },
        }
    }
}

impl Display for Expression {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.write(0, out)
    }
}

fn write_text(text: &str, out: &mut Formatter<'_>) -> fmt::Result {
    out.write_str("'")?;
    for c in text.chars() {
        match c {
            '\'' | '\\' => write!(out, "\\{c}")?,
            '\n' => out.write_str("\\n")?,
            _ => write!(out, "{c}")?,
        }
    }
    out.write_str("'")
}

fn binary<'v>(sign: &str, left: Value<'v>, right: Value<'v>) -> Value<'v> {
    let one_is = |wanted: bool| left == Value::Bool(wanted) || right == Value::Bool(wanted);
    let has_null = left == Value::Null || right == Value::Null;
    match sign {
        "==" => Value::Bool(left == right),
        "!=" => Value::Bool(left != right),
        "&&" if one_is(false) => Value::Bool(false),
        "||" if one_is(true) => Value::Bool(true),
        _ if has_null => Value::Null,
        "&&" => Value::Bool(true),
        "||" => Value::Bool(false),
        _ => match (left, right) {
            (Value::Text(left), Value::Text(right)) => order(sign, left, right),
            (Value::Number(left), Value::Number(right)) => {
                let number = match sign {
                    "+" => left + right,
                    "-" => left - right,
                    "*" => left * right,
                    "/" if right == 0.0 => return Value::Null,
                    "/" => left / right,
                    _ => return order(sign, &left, &right),
                };
                if number.is_nan() { Value::Null } else { Value::Number(number) }
            }
            _ => Value::Null,
        },
    }
}

fn order<'v, T: PartialOrd + ?Sized>(sign: &str, left: &T, right: &T) -> Value<'v> {
    Value::Bool(match sign {
        "<" => left < right,
        "<=" => left <= right,
        ">" => left > right,
        _ => left >= right,
    })
}

/// What the variables are worth, and between what the tokens of the input lie.
pub struct Known {
    texts: [Option<&'static str>; TEXT_VARS.len()],
    numbers: [Option<f64>; NUMBER_VARS.len()],
    bools: [Option<bool>; BOOL_VARS.len()],
    least: f64,
    most: f64,
}

impl Known {
    pub fn new(mut choices: Choices<'_>) -> Self {
        let mut known = Self {
            texts: [None; TEXT_VARS.len()],
            numbers: [None; NUMBER_VARS.len()],
            bools: [None; BOOL_VARS.len()],
            least: choices.of(&[0.0, 1.0, 2.0, 6.0, 99.0, 100.0]),
            most: 0.0,
        };
        known.most = known.least + choices.of(&[0.0, 1.0, 5.0, 100.0, 1e6]);
        for text in &mut known.texts {
            *text = (choices.below(3) > 0).then(|| choices.of(&TEXTS));
        }
        for number in &mut known.numbers {
            *number = (choices.below(4) > 0).then(|| choices.of(&NUMBERS));
        }
        for value in &mut known.bools {
            *value = (choices.below(4) > 0).then(|| choices.below(2) == 0);
        }
        known
    }

    /// Numbers of tokens that the span holds.
    pub fn tokens(&self) -> [f64; 4] {
        let middle = f64::midpoint(self.least, self.most);
        [self.least, self.most, middle, self.least + (self.most - self.least).min(1.0)]
    }

    /// The same, with a number instead of the span.
    pub fn with(&self, tokens: f64) -> At<'_> {
        At { known: self, tokens }
    }

    fn value(&self, name: &str) -> Value<'_> {
        let place = |names: &[&str]| names.iter().position(|known| *known == name);
        let value = place(&TEXT_VARS)
            .and_then(|at| self.texts[at])
            .map(Value::Text)
            .or_else(|| place(&NUMBER_VARS).and_then(|at| self.numbers[at]).map(Value::Number))
            .or_else(|| place(&BOOL_VARS).and_then(|at| self.bools[at]).map(Value::Bool));
        value.unwrap_or(Value::Null)
    }
}

impl Vars for Known {
    fn read(&self, _index: usize, var: &Var) -> Value<'_> {
        match var {
            Var::InputTokens => Value::Span { least: self.least, most: self.most },
            _ => self.value(&var.to_string()),
        }
    }
}

/// What is known where the input has been counted.
pub struct At<'k> {
    known: &'k Known,
    tokens: f64,
}

impl At<'_> {
    fn value(&self, name: &str) -> Value<'_> {
        if name == NUMBER_VARS[0] {
            return Value::Number(self.tokens);
        }
        self.known.value(name)
    }
}

impl Vars for At<'_> {
    fn read(&self, _index: usize, var: &Var) -> Value<'_> {
        self.value(&var.to_string())
    }
}
