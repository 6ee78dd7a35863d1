//! Slots to a verdict: one pass over the operations, forward only, nothing allocated.
//!
//! Null is what is missing: it decides nothing. Open is what the span of a number leaves
//! undecided; whoever gets it as a verdict counts that number and asks again. Both pass
//! through every operation but those that the other side decides.

use std::cmp::Ordering;

use super::check::{Constant, Op};
use super::parse::{Arithmetic, Comparison};
use super::{NODES_MAX, Rule, Value, Vars, Verdict, Work};

/// Slots that most rules get by with, so that theirs are quick to clear.
const SMALL_STACK: usize = 16;

/// What an operation takes and gives.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot<'v> {
    Null,
    Bool(bool),
    Number(f64),
    Text(&'v str),
    Span(Interval),
    Open,
}

/// Both ends are included; the first is less than the second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Interval {
    least: f64,
    most: f64,
}

struct Stack<'s, 'v> {
    slots: &'s mut [Slot<'v>],
    used: usize,
}

impl<'v> Stack<'_, 'v> {
    fn push(&mut self, slot: Slot<'v>) {
        self.slots[self.used] = slot;
        self.used += 1;
    }

    fn pop(&mut self) -> Slot<'v> {
        self.used -= 1;
        self.slots[self.used]
    }

    /// The right operand and the left one, in the order in which they were written.
    fn pop_two(&mut self) -> (Slot<'v>, Slot<'v>) {
        let right = self.pop();
        (self.pop(), right)
    }

    fn top(&self) -> Slot<'v> {
        self.slots[self.used - 1]
    }

    fn replace_top(&mut self, change: impl FnOnce(Slot<'v>) -> Slot<'v>) {
        let top = &mut self.slots[self.used - 1];
        *top = change(*top);
    }
}

/// What `rule` says of `vars`.
pub(super) fn run(rule: &Rule, vars: &dyn Vars, work: &mut Work) -> Verdict {
    if rule.stack_max <= SMALL_STACK {
        run_on(rule, vars, &mut [Slot::Null; SMALL_STACK], work)
    } else {
        run_on(rule, vars, &mut [Slot::Null; NODES_MAX], work)
    }
}

fn run_on<'v>(
    rule: &'v Rule,
    vars: &'v dyn Vars,
    slots: &mut [Slot<'v>],
    work: &mut Work,
) -> Verdict {
    let mut stack = Stack { slots, used: 0 };
    let mut at = 0;
    while let Some(op) = rule.code.get(at) {
        at += 1;
        work.steps += 1;
        match *op {
            Op::Constant(index) => stack.push(of_constant(&rule.constants[usize::from(index)])),
            Op::Var(index) => stack.push(read(rule, vars, index)),
            Op::Has(index) => {
                stack.push(Slot::Bool(read(rule, vars, index) != Slot::Null));
            }
            Op::Not => stack.replace_top(|slot| match truth(slot) {
                Verdict::True => Slot::Bool(false),
                Verdict::False => Slot::Bool(true),
                Verdict::Null => Slot::Null,
                Verdict::Open => Slot::Open,
            }),
            Op::Negate => stack.replace_top(|slot| match slot {
                Slot::Number(number) => Slot::Number(-number),
                Slot::Span(span) => {
                    Slot::Span(Interval { least: -span.most, most: -span.least })
                }
                Slot::Open => Slot::Open,
                _ => Slot::Null,
            }),
            Op::Compare(comparison) => {
                let (left, right) = stack.pop_two();
                stack.push(compare(comparison, left, right));
            }
            Op::Calculate(arithmetic) => {
                let (left, right) = stack.pop_two();
                stack.push(calculate(arithmetic, left, right));
            }
            Op::Size => stack.replace_top(|slot| match slot {
                Slot::Text(text) => Slot::Number(count(text.chars().count())),
                Slot::Open => Slot::Open,
                _ => Slot::Null,
            }),
            Op::Count(elements) => {
                stack.used -= usize::from(elements);
                stack.push(Slot::Number(f64::from(elements)));
            }
            Op::StartsWith => on_texts(&mut stack, |text, part| text.starts_with(part)),
            Op::EndsWith => on_texts(&mut stack, |text, part| text.ends_with(part)),
            Op::Contains => on_texts(&mut stack, |text, part| text.contains(part)),
            Op::In(elements) => {
                let first = stack.used - usize::from(elements);
                let subject = stack.slots[first - 1];
                let found = any_equal(subject, stack.slots[first..stack.used].iter().copied());
                stack.used = first;
                stack.replace_top(|_| found);
            }
            Op::InConstants { first, count } => {
                let first = usize::from(first);
                let constants = &rule.constants[first..first + usize::from(count)];
                stack.replace_top(|subject| {
                    any_equal(subject, constants.iter().map(of_constant))
                });
            }
            Op::SkipAnd(end) => {
                if stack.top() == Slot::Bool(false) {
                    at = usize::from(end);
                }
            }
            Op::And => {
                let (left, right) = stack.pop_two();
                stack.push(and(truth(left), truth(right)));
            }
            Op::SkipOr(end) => {
                if stack.top() == Slot::Bool(true) {
                    at = usize::from(end);
                }
            }
            Op::Or => {
                let (left, right) = stack.pop_two();
                stack.push(or(truth(left), truth(right)));
            }
            // Null stands in for the branch that is passed over, so that `Op::Join` always
            // finds three slots.
            Op::Branch(second) => {
                if let Verdict::False | Verdict::Null = truth(stack.top()) {
                    stack.push(Slot::Null);
                    at = usize::from(second);
                }
            }
            Op::Else(end) => {
                if truth(stack.slots[stack.used - 2]) == Verdict::True {
                    stack.push(Slot::Null);
                    at = usize::from(end);
                }
            }
            Op::Join => {
                let (yes, no) = stack.pop_two();
                stack.replace_top(|condition| match truth(condition) {
                    Verdict::True => yes,
                    Verdict::False | Verdict::Null => no,
                    Verdict::Open => either(yes, no),
                });
            }
        }
    }
    debug_assert_eq!(stack.used, 1, "{}", rule.text);
    truth(stack.top())
}

fn read<'v>(rule: &'v Rule, vars: &'v dyn Vars, index: u16) -> Slot<'v> {
    let index = usize::from(index);
    match vars.read(index, &rule.vars[index]) {
        Value::Null => Slot::Null,
        Value::Bool(value) => Slot::Bool(value),
        Value::Number(number) => of_number(number),
        Value::Text(text) => Slot::Text(text),
        Value::Span { least, most } => span(least, most),
    }
}

fn of_constant(constant: &Constant) -> Slot<'_> {
    match constant {
        Constant::Null => Slot::Null,
        Constant::Bool(value) => Slot::Bool(*value),
        Constant::Number(number) => Slot::Number(*number),
        Constant::Text(text) => Slot::Text(text),
    }
}

fn of_number<'v>(number: f64) -> Slot<'v> {
    if number.is_nan() { Slot::Null } else { Slot::Number(number) }
}

#[expect(clippy::float_cmp, reason = "ends that are the very same double leave one number")]
fn span<'v>(least: f64, most: f64) -> Slot<'v> {
    // Near infinity a number between the ends may have no result where both ends have one.
    if !(least.is_finite() && most.is_finite()) || least > most {
        Slot::Open
    } else if least == most {
        Slot::Number(least)
    } else {
        Slot::Span(Interval { least, most })
    }
}

#[expect(clippy::cast_precision_loss, reason = "no text has 2^53 characters")]
fn count(characters: usize) -> f64 {
    characters as f64
}

/// What a slot says as a condition.
fn truth(slot: Slot<'_>) -> Verdict {
    match slot {
        Slot::Bool(true) => Verdict::True,
        Slot::Bool(false) => Verdict::False,
        Slot::Open => Verdict::Open,
        _ => Verdict::Null,
    }
}

fn of_verdict<'v>(verdict: Verdict) -> Slot<'v> {
    match verdict {
        Verdict::True => Slot::Bool(true),
        Verdict::False => Slot::Bool(false),
        Verdict::Null => Slot::Null,
        Verdict::Open => Slot::Open,
    }
}

/// Decided by a side that decides alone; else open before null, as what is open may turn out
/// to decide.
fn and<'v>(left: Verdict, right: Verdict) -> Slot<'v> {
    of_verdict(match (left, right) {
        (Verdict::False, _) | (_, Verdict::False) => Verdict::False,
        (Verdict::Open, _) | (_, Verdict::Open) => Verdict::Open,
        (Verdict::Null, _) | (_, Verdict::Null) => Verdict::Null,
        (Verdict::True, Verdict::True) => Verdict::True,
    })
}

fn or<'v>(left: Verdict, right: Verdict) -> Slot<'v> {
    of_verdict(match (left, right) {
        (Verdict::True, _) | (_, Verdict::True) => Verdict::True,
        (Verdict::Open, _) | (_, Verdict::Open) => Verdict::Open,
        (Verdict::Null, _) | (_, Verdict::Null) => Verdict::Null,
        (Verdict::False, Verdict::False) => Verdict::False,
    })
}

/// What is known where the condition of `? :` is open.
fn either<'v>(yes: Slot<'v>, no: Slot<'v>) -> Slot<'v> {
    if let (Some(one), Some(other)) = (interval(yes), interval(no)) {
        return span(one.least.min(other.least), one.most.max(other.most));
    }
    if yes == no { yes } else { Slot::Open }
}

fn on_texts(stack: &mut Stack<'_, '_>, is: impl FnOnce(&str, &str) -> bool) {
    let (text, part) = stack.pop_two();
    stack.push(match (text, part) {
        (Slot::Text(text), Slot::Text(part)) => Slot::Bool(is(text, part)),
        (Slot::Null, _) | (_, Slot::Null) => Slot::Null,
        (Slot::Open, _) | (_, Slot::Open) => Slot::Open,
        _ => Slot::Null,
    });
}

/// A number, or what a number lies between.
fn interval(slot: Slot<'_>) -> Option<Interval> {
    match slot {
        Slot::Number(number) => Some(Interval { least: number, most: number }),
        Slot::Span(interval) => Some(interval),
        _ => None,
    }
}

fn compare<'v>(comparison: Comparison, left: Slot<'v>, right: Slot<'v>) -> Slot<'v> {
    let negated = |slot| match slot {
        Slot::Bool(value) => Slot::Bool(!value),
        other => other,
    };
    match comparison {
        Comparison::Equal => equal(left, right),
        Comparison::Unequal => negated(equal(left, right)),
        Comparison::Less => is_less(left, right),
        Comparison::Greater => is_less(right, left),
        Comparison::LessEqual => negated(is_less(right, left)),
        Comparison::GreaterEqual => negated(is_less(left, right)),
    }
}

/// Null is equal to null and to nothing else.
#[expect(clippy::float_cmp, reason = "a rule's `==` means the very same double")]
fn equal<'v>(left: Slot<'v>, right: Slot<'v>) -> Slot<'v> {
    match (left, right) {
        (Slot::Open, _) | (_, Slot::Open) => Slot::Open,
        (Slot::Number(one), Slot::Number(other)) => Slot::Bool(one == other),
        (Slot::Span(_), Slot::Span(_) | Slot::Number(_)) | (Slot::Number(_), Slot::Span(_)) => {
            match (interval(left), interval(right)) {
                (Some(one), Some(other))
                    if one.most < other.least || other.most < one.least =>
                {
                    Slot::Bool(false)
                }
                _ => Slot::Open,
            }
        }
        _ => Slot::Bool(left == right),
    }
}

/// Numbers have no NaN here, so that "not less" is "greater or equal".
fn is_less<'v>(left: Slot<'v>, right: Slot<'v>) -> Slot<'v> {
    match (left, right) {
        (Slot::Null, _) | (_, Slot::Null) => Slot::Null,
        (Slot::Open, _) | (_, Slot::Open) => Slot::Open,
        (Slot::Text(one), Slot::Text(other)) => Slot::Bool(one.cmp(other) == Ordering::Less),
        _ => match (interval(left), interval(right)) {
            (Some(one), Some(other)) if one.most < other.least => Slot::Bool(true),
            (Some(one), Some(other)) if one.least >= other.most => Slot::Bool(false),
            (Some(_), Some(_)) => Slot::Open,
            _ => Slot::Null,
        },
    }
}

fn any_equal<'v>(subject: Slot<'v>, elements: impl Iterator<Item = Slot<'v>>) -> Slot<'v> {
    let mut found = Slot::Bool(false);
    for element in elements {
        match equal(subject, element) {
            Slot::Bool(true) => return Slot::Bool(true),
            Slot::Open => found = Slot::Open,
            _ => {}
        }
    }
    found
}

fn calculate<'v>(arithmetic: Arithmetic, left: Slot<'v>, right: Slot<'v>) -> Slot<'v> {
    match (left, right) {
        (Slot::Null, _) | (_, Slot::Null) => Slot::Null,
        (_, Slot::Number(0.0)) if arithmetic == Arithmetic::Divide => Slot::Null,
        (Slot::Open, _) | (_, Slot::Open) => Slot::Open,
        (Slot::Number(one), Slot::Number(other)) => of_number(match arithmetic {
            Arithmetic::Add => one + other,
            Arithmetic::Subtract => one - other,
            Arithmetic::Multiply => one * other,
            Arithmetic::Divide => one / other,
        }),
        _ => match (interval(left), interval(right)) {
            (Some(one), Some(other)) => calculate_spans(arithmetic, one, other),
            _ => Slot::Null,
        },
    }
}

/// Rounding keeps order, so the results of the ends enclose every result between them.
fn calculate_spans<'v>(arithmetic: Arithmetic, one: Interval, other: Interval) -> Slot<'v> {
    let corners = |combine: fn(f64, f64) -> f64| {
        let corners = [
            combine(one.least, other.least),
            combine(one.least, other.most),
            combine(one.most, other.least),
            combine(one.most, other.most),
        ];
        // `f64::min` passes over NaN, which must not be lost.
        if corners.iter().any(|corner| corner.is_nan()) {
            return Slot::Open;
        }
        let least = corners.iter().copied().fold(f64::INFINITY, f64::min);
        span(least, corners.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    };
    match arithmetic {
        Arithmetic::Add => span(one.least + other.least, one.most + other.most),
        Arithmetic::Subtract => span(one.least - other.most, one.most - other.least),
        Arithmetic::Multiply => corners(|a, b| a * b),
        Arithmetic::Divide if other.least <= 0.0 && other.most >= 0.0 => Slot::Open,
        Arithmetic::Divide => corners(|a, b| a / b),
    }
}
