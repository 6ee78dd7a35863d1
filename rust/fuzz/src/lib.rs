//! What must hold for any bytes at all: the bodies of the fuzz targets.
//!
//! The core's tests include this file and run the same bodies on a stable compiler.

mod model;

use modelux_core::rules::{
    DEPTH_MAX, NODES_MAX, Place, Rule, TEXT_BYTES_MAX, Value, Var, Vars, Verdict, Work,
    variable,
};

use model::{Choices, Known, Maker};

/// The bytes are a rule's text, and the values of its variables.
///
/// # Panics
/// If the text is refused without a place inside of it, or takes more work than its length
/// allows, or if compiling it again says something else.
pub fn rules_parse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for place in [Place::Request, Place::Answer] {
        let mut work = Work::default();
        let compiled = Rule::compile_counting(&text, place, &mut work);
        assert!(work.tokens as usize <= text.len() + 2, "{} words", work.tokens);
        assert!(work.nodes as usize <= NODES_MAX, "{} nodes", work.nodes);
        match compiled {
            Err(fault) => {
                let line = text.split('\n').nth(fault.line as usize - 1);
                let columns = line.map_or(0, |line| line.chars().count());
                assert!(fault.column >= 1 && fault.column as usize <= columns + 1, "{fault}");
                // A message names at most a few things, each cut to a bearable length.
                assert!(!fault.message.is_empty() && fault.message.len() < 2_000, "{fault}");
                assert_eq!(Rule::compile(&text, place).err(), Some(fault));
            }
            Ok(rule) => {
                assert!(text.len() <= TEXT_BYTES_MAX);
                assert_eq!(rule.vars().len(), rule.places().len());
                for var in rule.vars() {
                    let name = var.to_string();
                    if name.len() <= TEXT_BYTES_MAX {
                        assert_eq!(variable(&name).map(|(var, _)| var).as_ref(), Ok(var));
                    }
                }
                let verdict = rule.eval_counting(&Odd(data), &mut work);
                assert!(work.steps <= 2 * work.nodes, "{work:?}");
                assert_eq!(rule.eval(&Odd(data)), verdict);
            }
        }
    }
}

/// Values of any type, whatever the table says.
struct Odd<'d>(&'d [u8]);

impl Vars for Odd<'_> {
    fn read(&self, index: usize, _var: &Var) -> Value<'_> {
        let byte = self.0.get(self.0.len() / 2 + index).copied().unwrap_or_default();
        match byte % 9 {
            0 => Value::Null,
            1 => Value::Bool(byte > 99),
            2 => Value::Number(f64::NAN),
            3 => Value::Number(f64::INFINITY),
            4 => Value::Text(
                std::str::from_utf8(&self.0[..index.min(self.0.len())]).unwrap_or("é"),
            ),
            5 => Value::Span { least: f64::NEG_INFINITY, most: f64::NAN },
            6 => Value::Span { least: 9.0, most: -9.0 },
            7 => Value::Span { least: -1.0, most: f64::from(byte) },
            _ => Value::Number(f64::from(byte)),
        }
    }
}

/// The bytes are choices: they make a sound rule, and values for its variables.
///
/// # Panics
/// If the rule is refused for anything but its size; if it does not say what a plain
/// interpreter of the tree says; or if a span decides what a number in it does not.
pub fn rules_eval(data: &[u8]) {
    let mut maker = Maker::new(Choices::new(data));
    let expression = maker.condition(6);
    let text = expression.to_string();
    let mut work = Work::default();
    let rule = match Rule::compile_counting(&text, Place::Answer, &mut work) {
        Ok(rule) => rule,
        Err(fault) => {
            let is_size = text.len() > TEXT_BYTES_MAX
                || fault.message.contains(&format!("more than {DEPTH_MAX} deep"))
                || fault.message.contains(&format!("more than {NODES_MAX} parts"));
            assert!(is_size, "{fault}\n{text}");
            return;
        }
    };
    let known = Known::new(maker.choices);
    for tokens in known.tokens() {
        let verdict = rule.eval(&known.with(tokens));
        assert_eq!(verdict, expression.verdict(&known, tokens), "{tokens} in {text}");
    }
    let spanned = rule.eval_counting(&known, &mut work);
    assert!(work.steps <= 2 * work.nodes, "{work:?}");
    if spanned != Verdict::Open {
        for tokens in known.tokens() {
            let verdict = rule.eval(&known.with(tokens));
            assert_eq!(verdict, spanned, "{tokens} of {:?} in {text}", known.tokens());
        }
    }
}
