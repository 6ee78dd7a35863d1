//! The language of rules: a strict subset of CEL over a request's facts, with nulls of its own.
//!
//! - `lex` and `parse` make a flat tree of a text;
//! - `check` finds every name and type, and compiles the tree to slots;
//! - `eval` runs these: forward only, on a stack whose size is known, without allocating;
//! - `vars` is the table of variables.
//!
//! Whatever is wrong with a rule is found when it is compiled, with line and column. At run
//! time nothing can fail: what is missing is null, and null decides nothing. Pure: what the
//! variables are worth is the caller's to say.

mod check;
mod eval;
mod lex;
mod parse;
mod vars;

use std::fmt::{self, Display, Formatter};

use check::Op;
pub use parse::{FUNCTIONS, FunctionRow};
pub use vars::{BudgetField, HealthField, LatencyField, STATES, VARIABLES, Var, VariableRow};

/// Bytes of a rule's text.
pub const TEXT_BYTES_MAX: usize = 4096;
/// How deep a rule may nest: parentheses, lists, arguments, signs before a value, else-branches.
pub const DEPTH_MAX: u32 = 32;
/// Literals, variables, operators and calls of a rule.
pub const NODES_MAX: usize = 256;

/// Where a rule stands, which decides what it may ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before anything is sent.
    Request,
    /// `accept_if` and `validate`: there is an answer, and `response.*` reads it.
    Answer,
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFault {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// What is wrong and what to do.
    pub message: String,
}

impl Display for RuleFault {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Something it needs is missing: it does not hold, nor does its opposite.
    Null,
    /// The span of `request.input_tokens` leaves it undecided: count, and evaluate again with
    /// a [`Value::Number`].
    Open,
}

/// What a variable is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'v> {
    /// It is missing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number; NaN counts as [`Value::Null`].
    Number(f64),
    /// A text.
    Text(&'v str),
    /// A number known to lie between two others, both included.
    Span {
        /// It is not less than this.
        least: f64,
        /// It is not more than this.
        most: f64,
    },
}

/// Where a rule reads its variables.
pub trait Vars {
    /// What `var` is worth, which stands at `index` in [`Rule::vars`].
    ///
    /// Asked only for what the verdict depends on, and once for each mention: it has to
    /// answer alike during one evaluation. A value of another type than the table's is null.
    fn read(&self, index: usize, var: &Var) -> Value<'_>;
}

/// How much was done, for tests that bound it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Words that were cut from the text.
    pub tokens: u32,
    /// Nodes of its tree.
    pub nodes: u32,
    /// Operations that were carried out.
    pub steps: u32,
}

/// A compiled rule.
#[derive(Clone, Debug)]
pub struct Rule {
    text: String,
    code: Box<[Op]>,
    constants: Box<[check::Constant]>,
    vars: Vec<Var>,
    places: Vec<(u32, u32)>,
    stack_max: usize,
}

impl Rule {
    /// Read and check a rule.
    ///
    /// # Errors
    /// The first thing that is wrong with it, and where.
    pub fn compile(text: &str, place: Place) -> Result<Self, RuleFault> {
        Self::compile_counting(text, place, &mut Work::default())
    }

    /// As [`Self::compile`]; says how much work it was, also where it fails.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn compile_counting(
        text: &str,
        place: Place,
        work: &mut Work,
    ) -> Result<Self, RuleFault> {
        if text.len() > TEXT_BYTES_MAX {
            let message = format!(
                "the rule has {} bytes: {TEXT_BYTES_MAX} are the most, so split it",
                text.len()
            );
            return Err(RuleFault { line: 1, column: 1, message });
        }
        check::compile(text, &parse::parse(text, work)?, place)
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Each variable it reads, once, in the order of their first mention.
    #[must_use]
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// Line and column of the first mention of each of [`Self::vars`]: of the name in brackets
    /// or behind `tags.`, where there is one.
    #[must_use]
    pub fn places(&self) -> &[(u32, u32)] {
        &self.places
    }

    /// What it says of these values.
    #[must_use]
    pub fn eval(&self, vars: &dyn Vars) -> Verdict {
        self.eval_counting(vars, &mut Work::default())
    }

    /// As [`Self::eval`]; says how much work it was.
    #[must_use]
    pub fn eval_counting(&self, vars: &dyn Vars, work: &mut Work) -> Verdict {
        eval::run(self, vars, work)
    }
}

/// The variable that a text names, with what it may hold; for those who give values by name.
///
/// # Errors
/// As a rule that consists of this text alone would be refused, or if it is no variable.
pub fn variable(name: &str) -> Result<(Var, &'static str), RuleFault> {
    if name.len() > TEXT_BYTES_MAX {
        let message = "the name is too long".to_owned();
        return Err(RuleFault { line: 1, column: 1, message });
    }
    let tree = parse::parse(name, &mut Work::default())?;
    let node = tree.node(tree.root);
    let parse::Kind::Path { first, count } = node.kind else {
        return Err(node.at.fault("this is not a variable's name"));
    };
    let path = &tree.segments[first..first + count];
    vars::resolve(path, Place::Answer).map(|(var, kind, _)| (var, kind.noun()))
}
