//! A tree to slots: every name found, every type known, every jump forward.
//!
//! Nodes stand children first, so one walk over them in order meets every operand before its
//! operator, for types as for code, without recursion. What must happen between two operands
//! (to skip the second where the first decides) is noted at the first one's node.

use super::lex::{At, Sign};
use super::parse::{
    Arithmetic, Comparison, FUNCTIONS, Function, Kind, NodeIndex, Tree, spelling,
};
use super::vars::{self, STATES};
use super::{Place, Rule, RuleFault, Var};
use crate::text::{nearest, shown};

/// What an expression gives where it is not null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Only ever null, which goes with every type.
    Null,
    Bool,
    Number,
    Text,
    List,
}

impl Type {
    /// For tables.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "number",
            Self::Text => "text",
            Self::List => "list",
        }
    }

    /// For sentences.
    fn phrase(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::List => "a list",
            _ => self.noun(),
        }
    }

    fn is(self, wanted: Self) -> bool {
        self == wanted || self == Self::Null
    }

    fn goes_with(self, other: Self) -> bool {
        self == other || self == Self::Null || other == Self::Null
    }
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Constant {
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
}

/// One operation on the stack of slots. Jumps only lead forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Constant(u16),
    Var(u16),
    /// Whether a variable is not null.
    Has(u16),
    Not,
    Negate,
    Compare(Comparison),
    Calculate(Arithmetic),
    Size,
    /// So many slots become their number.
    Count(u16),
    StartsWith,
    EndsWith,
    Contains,
    /// So many slots hold a list, the one below them what is looked for in it.
    In(u16),
    /// As [`Op::In`], with constants for a list.
    InConstants {
        first: u16,
        count: u16,
    },
    /// Skip the right side of `&&` where the left one is false.
    SkipAnd(u16),
    And,
    /// Skip the right side of `||` where the left one is true.
    SkipOr(u16),
    Or,
    /// Behind a condition: on to its first branch, or to the second where it does not hold.
    Branch(u16),
    /// Behind the first branch: past the second, unless the condition is open.
    Else(u16),
    /// Behind both: take one of the two slots and drop the condition.
    Join,
}

/// What follows a node that is an operand.
#[derive(Clone, Copy)]
enum After {
    Nothing,
    SkipAnd,
    SkipOr,
    Branch,
    Else,
}

struct Checker<'p, 't> {
    tree: &'p Tree<'t>,
    place: Place,
    /// Of the nodes that were passed.
    types: Vec<Type>,
    /// What is emitted behind each node.
    after: Vec<After>,
    /// Nodes without code of their own: what `has` asks about, elements of constant lists.
    is_silent: Vec<bool>,
    /// Of each node that is a variable: its place among the variables.
    var_of: Vec<Option<u16>>,
    vars: Vec<Var>,
    places: Vec<(u32, u32)>,
}

/// Check a tree and compile it.
pub(super) fn compile(text: &str, tree: &Tree<'_>, place: Place) -> Result<Rule, RuleFault> {
    let count = tree.nodes.len();
    let mut checker = Checker {
        tree,
        place,
        types: Vec::with_capacity(count),
        after: vec![After::Nothing; count],
        is_silent: vec![false; count],
        var_of: vec![None; count],
        vars: Vec::new(),
        places: Vec::new(),
    };
    for node in &tree.nodes {
        let kind = checker.check(&node.kind, node.at)?;
        checker.types.push(kind);
    }
    let (root, kind) = (tree.node(tree.root), checker.kind(tree.root));
    if !kind.is(Type::Bool) {
        return Err(root.start.fault(format!(
            "a rule must be true or false, but this is {}: compare it with something",
            kind.phrase()
        )));
    }
    let mut emitter = Emitter::new(&checker);
    for index in 0..count {
        emitter.emit(index)?;
    }
    emitter.thread_jumps();
    let Emitter { code, constants, deepest, .. } = emitter;
    Ok(Rule {
        text: text.to_owned(),
        code: code.into(),
        constants: constants.into(),
        vars: checker.vars,
        places: checker.places,
        stack_max: deepest,
    })
}

impl Checker<'_, '_> {
    fn kind(&self, node: NodeIndex) -> Type {
        self.types[usize::from(node)]
    }

    fn mark(&mut self, node: NodeIndex, after: After) {
        self.after[usize::from(node)] = after;
    }

    /// The type of the node that follows those in `types`.
    fn check(&mut self, kind: &Kind<'_>, at: At) -> Result<Type, RuleFault> {
        match *kind {
            Kind::Null => Ok(Type::Null),
            Kind::Bool(_) => Ok(Type::Bool),
            Kind::Number(_) => Ok(Type::Number),
            Kind::Text(_) => Ok(Type::Text),
            Kind::Path { first, count } => self.variable(first, count),
            Kind::List { first, count } => self.list(first, count),
            Kind::Not(operand) => {
                let found = self.kind(operand);
                if !found.is(Type::Bool) {
                    return Err(self.start(operand).fault(format!(
                        "`!` turns round what is true or false, but this is {}: to turn round a \
                         comparison, put it in parentheses",
                        found.phrase()
                    )));
                }
                Ok(Type::Bool)
            }
            Kind::Negate(operand) => {
                self.expect(operand, Type::Number, "`-` stands before a number")
            }
            Kind::And(left, right) => {
                self.mark(left, After::SkipAnd);
                self.expect(left, Type::Bool, "`&&` joins what is true or false")?;
                self.expect(right, Type::Bool, "`&&` joins what is true or false")
            }
            Kind::Or(left, right) => {
                self.mark(left, After::SkipOr);
                self.expect(left, Type::Bool, "`||` joins what is true or false")?;
                self.expect(right, Type::Bool, "`||` joins what is true or false")
            }
            Kind::Compare(comparison, left, right) => self.compare(comparison, left, right, at),
            Kind::Calculate(arithmetic, left, right) => {
                let what = calculates(arithmetic);
                self.expect(left, Type::Number, what)?;
                self.expect(right, Type::Number, what)
            }
            Kind::In(left, right) => self.is_in(left, right, at),
            Kind::Choose(condition, yes, no) => self.choose(condition, yes, no, at),
            Kind::Call(Function::Has, argument) => {
                if self.var_of[usize::from(argument)].is_none() {
                    return Err(self
                        .start(argument)
                        .fault("`has` asks about one variable, as in `has(tags.tier)`"));
                }
                self.is_silent[usize::from(argument)] = true;
                Ok(Type::Bool)
            }
            Kind::Call(_, argument) => {
                if self.kind(argument) == Type::List {
                    return Ok(Type::Number);
                }
                self.expect(argument, Type::Text, "`size` takes a text or a list")?;
                Ok(Type::Number)
            }
            Kind::CallOn(function, value, argument) => {
                let name = FUNCTIONS.iter().find(|row| row.function == function);
                let name = name.map_or("", |row| row.name);
                self.expect(value, Type::Text, &format!("`{name}` is called on a text"))?;
                self.expect(argument, Type::Text, &format!("`{name}` takes a text"))?;
                Ok(Type::Bool)
            }
        }
    }

    fn start(&self, node: NodeIndex) -> At {
        self.tree.node(node).start
    }

    /// `wanted` if the operand has this type; `what` begins the sentence if not.
    fn expect(&self, node: NodeIndex, wanted: Type, what: &str) -> Result<Type, RuleFault> {
        let found = self.kind(node);
        if found.is(wanted) {
            return Ok(wanted);
        }
        let hint = match (&self.tree.node(node).kind, wanted) {
            (Kind::Path { .. }, Type::Bool) => ": compare it with something",
            (Kind::Text(_), Type::Number) => ": write it without quotes",
            _ => "",
        };
        Err(self.start(node).fault(format!("{what}, but this is {}{hint}", found.phrase())))
    }

    fn variable(&mut self, first: usize, count: usize) -> Result<Type, RuleFault> {
        let path = &self.tree.segments[first..first + count];
        let (var, kind, at) = vars::resolve(path, self.place)?;
        let known = self.vars.iter().position(|known| *known == var);
        let index = known.unwrap_or_else(|| {
            self.vars.push(var);
            self.places.push((at.line, at.column));
            self.vars.len() - 1
        });
        let node = self.types.len();
        self.var_of[node] = Some(narrow(index, at)?);
        Ok(kind)
    }

    fn list(&mut self, first: usize, count: usize) -> Result<Type, RuleFault> {
        let items = &self.tree.items[first..first + count];
        let mut kind = Type::Null;
        for &item in items {
            let found = self.kind(item);
            if found == Type::List {
                return Err(self.start(item).fault("a list cannot hold a list"));
            }
            if !found.goes_with(kind) {
                return Err(self.start(item).fault(format!(
                    "the elements of a list have one type, but this is {} after {}",
                    found.phrase(),
                    kind.phrase()
                )));
            }
            if kind == Type::Null {
                kind = found;
            }
        }
        Ok(Type::List)
    }

    fn compare(
        &self,
        comparison: Comparison,
        left: NodeIndex,
        right: NodeIndex,
        at: At,
    ) -> Result<Type, RuleFault> {
        let sign = compares(comparison);
        let (one, other) = (self.kind(left), self.kind(right));
        if one == Type::List || other == Type::List {
            return Err(at.fault(format!(
                "`{sign}` cannot compare a list: ask with `in` what it holds"
            )));
        }
        if !one.goes_with(other) {
            let hint = match (&self.tree.node(left).kind, &self.tree.node(right).kind) {
                (Kind::Compare(..), _) => {
                    ": comparisons are joined by `&&`, as in `1 < x && x < 3`".to_owned()
                }
                (Kind::Number(n), Kind::Path { .. }) | (Kind::Path { .. }, Kind::Number(n))
                    if one == Type::Text || other == Type::Text =>
                {
                    format!(": write the number in quotes, as in `'{n}'`")
                }
                (Kind::Text(text), Kind::Path { .. })
                | (Kind::Path { .. }, Kind::Text(text)) => {
                    format!(": write `{}` without quotes, if that is meant", shown(text))
                }
                _ => String::new(),
            };
            return Err(at.fault(format!(
                "`{sign}` cannot compare {} with {}{hint}",
                one.phrase(),
                other.phrase()
            )));
        }
        let is_order = !matches!(comparison, Comparison::Equal | Comparison::Unequal);
        if is_order && (one == Type::Bool || other == Type::Bool) {
            return Err(at.fault(format!(
                "`{sign}` orders numbers or texts, not true and false: use `==` or `!=`"
            )));
        }
        self.known_state(left, right)?;
        self.known_state(right, left)?;
        Ok(Type::Bool)
    }

    fn is_in(&mut self, left: NodeIndex, right: NodeIndex, at: At) -> Result<Type, RuleFault> {
        let Kind::List { first, count } = self.tree.node(right).kind else {
            let hint = match self.kind(right) {
                Type::Text => ": a part of a text is found with `x.contains(y)`",
                _ => "",
            };
            return Err(at.fault(format!(
                "`in` needs a list on its right, as in `x in ['a', 'b']`{hint}"
            )));
        };
        if self.kind(left) == Type::List {
            return Err(self.start(left).fault("a list cannot hold a list"));
        }
        let items = &self.tree.items[first..first + count];
        for &item in items {
            if !self.kind(item).goes_with(self.kind(left)) {
                return Err(self.start(item).fault(format!(
                    "`in` looks for {} here, which {} never is",
                    self.kind(left).phrase(),
                    self.kind(item).phrase()
                )));
            }
            self.known_state(left, item)?;
        }
        if items.iter().all(|&item| is_constant(&self.tree.node(item).kind)) {
            for &item in items {
                self.is_silent[usize::from(item)] = true;
            }
        }
        Ok(Type::Bool)
    }

    fn choose(
        &mut self,
        condition: NodeIndex,
        yes: NodeIndex,
        no: NodeIndex,
        at: At,
    ) -> Result<Type, RuleFault> {
        self.mark(condition, After::Branch);
        self.mark(yes, After::Else);
        self.expect(condition, Type::Bool, "`? :` asks what is true or false")?;
        let (one, other) = (self.kind(yes), self.kind(no));
        if one == Type::List || other == Type::List {
            return Err(at.fault("`? :` cannot give a list"));
        }
        if !one.goes_with(other) {
            return Err(at.fault(format!(
                "the two sides of `? :` have one type, but these are {} and {}",
                one.phrase(),
                other.phrase()
            )));
        }
        Ok(if one == Type::Null { other } else { one })
    }

    /// A state that no breaker has would make the rule silently inert.
    fn known_state(&self, var: NodeIndex, text: NodeIndex) -> Result<(), RuleFault> {
        let var = self.var_of[usize::from(var)].map(|index| &self.vars[usize::from(index)]);
        let is_state = var.is_some_and(|var| {
            matches!(var, Var::Health { field: vars::HealthField::State, .. })
        });
        match &self.tree.node(text).kind {
            Kind::Text(state) if is_state && !STATES.contains(&state.as_ref()) => {
                let near = nearest(state, STATES.into_iter()).unwrap_or(STATES[0]);
                Err(self.start(text).fault(format!(
                    "a state is `closed`, `open` or `half_open`, never `{}`: did you mean \
                     `{near}`?",
                    shown(state)
                )))
            }
            _ => Ok(()),
        }
    }
}

fn is_constant(kind: &Kind<'_>) -> bool {
    matches!(kind, Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Text(_))
}

fn compares(comparison: Comparison) -> &'static str {
    spelling(match comparison {
        Comparison::Equal => Sign::Equal,
        Comparison::Unequal => Sign::Unequal,
        Comparison::Less => Sign::Less,
        Comparison::LessEqual => Sign::LessEqual,
        Comparison::Greater => Sign::Greater,
        Comparison::GreaterEqual => Sign::GreaterEqual,
    })
}

fn calculates(arithmetic: Arithmetic) -> &'static str {
    match arithmetic {
        Arithmetic::Add => "`+` adds numbers (texts cannot be joined)",
        Arithmetic::Subtract => "`-` subtracts numbers",
        Arithmetic::Multiply => "`*` multiplies numbers",
        Arithmetic::Divide => "`/` divides numbers",
    }
}

fn narrow(index: usize, at: At) -> Result<u16, RuleFault> {
    u16::try_from(index).map_err(|_| at.fault("the rule is too long"))
}

struct Emitter<'c, 'p, 't> {
    checker: &'c Checker<'p, 't>,
    code: Vec<Op>,
    constants: Vec<Constant>,
    /// Jumps that wait for their end, as places in `code`: of each node that began one.
    waiting: Vec<Option<usize>>,
    /// Slots in use behind the last operation, and the most there ever are.
    depth: usize,
    deepest: usize,
}

impl<'c, 'p, 't> Emitter<'c, 'p, 't> {
    fn new(checker: &'c Checker<'p, 't>) -> Self {
        let waiting = vec![None; checker.tree.nodes.len()];
        Self { checker, code: Vec::new(), constants: Vec::new(), waiting, depth: 0, deepest: 0 }
    }

    /// Emit a node, behind its operands, and what follows it as an operand.
    fn emit(&mut self, index: usize) -> Result<(), RuleFault> {
        let node = &self.checker.tree.nodes[index];
        if !self.checker.is_silent[index] {
            self.node(index, &node.kind, node.at)?;
        }
        match self.checker.after[index] {
            After::Nothing => {}
            After::SkipAnd => self.wait(index, Op::SkipAnd(0)),
            After::SkipOr => self.wait(index, Op::SkipOr(0)),
            After::Branch => self.wait(index, Op::Branch(0)),
            After::Else => self.wait(index, Op::Else(0)),
        }
        Ok(())
    }

    fn push(&mut self, op: Op, takes: usize, gives: usize) {
        self.code.push(op);
        self.depth = self.depth - takes + gives;
        self.deepest = self.deepest.max(self.depth);
    }

    fn wait(&mut self, index: usize, op: Op) {
        self.waiting[index] = Some(self.code.len());
        self.push(op, 0, 0);
    }

    /// Let the jump behind `node` lead to `to`.
    fn land(&mut self, node: NodeIndex, to: usize, at: At) -> Result<(), RuleFault> {
        let to = narrow(to, at)?;
        let from = self.waiting[usize::from(node)].and_then(|from| self.code.get_mut(from));
        if let Some(Op::SkipAnd(end) | Op::SkipOr(end) | Op::Branch(end) | Op::Else(end)) = from
        {
            *end = to;
        }
        Ok(())
    }

    fn constant(&mut self, kind: &Kind<'_>, at: At) -> Result<u16, RuleFault> {
        let constant = match kind {
            Kind::Bool(value) => Constant::Bool(*value),
            Kind::Number(value) => Constant::Number(*value),
            Kind::Text(value) => Constant::Text(value.as_ref().into()),
            _ => Constant::Null,
        };
        self.constants.push(constant);
        narrow(self.constants.len() - 1, at)
    }

    fn node(&mut self, index: usize, kind: &Kind<'_>, at: At) -> Result<(), RuleFault> {
        match *kind {
            Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) => {
                let constant = self.constant(kind, at)?;
                self.push(Op::Constant(constant), 0, 1);
            }
            Kind::Path { .. } => {
                let var = self.checker.var_of[index].unwrap_or_default();
                self.push(Op::Var(var), 0, 1);
            }
            // Its elements are on the stack, or silent; who reads the list knows them.
            Kind::List { .. } => {}
            Kind::Not(_) => self.push(Op::Not, 1, 1),
            Kind::Negate(_) => self.push(Op::Negate, 1, 1),
            Kind::And(left, _) => {
                self.push(Op::And, 2, 1);
                self.land(left, self.code.len(), at)?;
            }
            Kind::Or(left, _) => {
                self.push(Op::Or, 2, 1);
                self.land(left, self.code.len(), at)?;
            }
            Kind::Compare(comparison, ..) => self.push(Op::Compare(comparison), 2, 1),
            Kind::Calculate(arithmetic, ..) => self.push(Op::Calculate(arithmetic), 2, 1),
            Kind::In(_, right) => self.is_in(right, at)?,
            Kind::Choose(condition, yes, _) => {
                let no = self.waiting[usize::from(yes)].map_or(self.code.len(), |at| at + 1);
                self.land(condition, no, at)?;
                self.land(yes, self.code.len(), at)?;
                self.push(Op::Join, 3, 1);
            }
            Kind::Call(Function::Has, argument) => {
                let var = self.checker.var_of[usize::from(argument)].unwrap_or_default();
                self.push(Op::Has(var), 0, 1);
            }
            Kind::Call(_, argument) => self.size(argument, at)?,
            Kind::CallOn(function, ..) => {
                let op = match function {
                    Function::StartsWith => Op::StartsWith,
                    Function::EndsWith => Op::EndsWith,
                    _ => Op::Contains,
                };
                self.push(op, 2, 1);
            }
        }
        Ok(())
    }

    fn is_in(&mut self, list: NodeIndex, at: At) -> Result<(), RuleFault> {
        let tree = self.checker.tree;
        let Kind::List { first, count } = tree.node(list).kind else {
            return Ok(());
        };
        let items = &tree.items[first..first + count];
        if items.iter().any(|&item| !self.checker.is_silent[usize::from(item)]) {
            let count = narrow(count, at)?;
            self.push(Op::In(count), usize::from(count) + 1, 1);
            return Ok(());
        }
        let first = narrow(self.constants.len(), at)?;
        for &item in items {
            let node = tree.node(item);
            self.constant(&node.kind, node.at)?;
        }
        self.push(Op::InConstants { first, count: narrow(count, at)? }, 1, 1);
        Ok(())
    }

    fn size(&mut self, argument: NodeIndex, at: At) -> Result<(), RuleFault> {
        match self.checker.tree.node(argument).kind {
            Kind::List { count, .. } => self.push(Op::Count(narrow(count, at)?), count, 1),
            _ => self.push(Op::Size, 1, 1),
        }
        Ok(())
    }

    /// Let a jump to a jump of its kind lead where that one leads: the slot that decided the
    /// first decides the second. From the end, so that each looks only one jump ahead.
    fn thread_jumps(&mut self) {
        for from in (0..self.code.len()).rev() {
            let next = |to: u16| self.code.get(usize::from(to)).copied();
            let threaded = match self.code[from] {
                Op::SkipAnd(to) => match next(to) {
                    Some(Op::SkipAnd(end)) => Op::SkipAnd(end),
                    _ => continue,
                },
                Op::SkipOr(to) => match next(to) {
                    Some(Op::SkipOr(end)) => Op::SkipOr(end),
                    _ => continue,
                },
                _ => continue,
            };
            self.code[from] = threaded;
        }
    }
}
