//! Words to a flat tree: what belongs to what, not yet whether it makes sense.
//!
//! The grammar is CEL's, so precedence is, too; `and`, `or` and `not` are `&&`, `||` and `!`
//! in another spelling. Children stand before their parent in [`Tree::nodes`], and only what
//! nests recurses here, which [`DEPTH_MAX`] bounds.

use std::borrow::Cow;

use super::lex::{At, Lexer, Sign, Token};
use super::{DEPTH_MAX, NODES_MAX, RuleFault, Work};
use crate::text::{nearest, shown};

/// Place of a node in its tree.
pub(super) type NodeIndex = u16;

/// Which way a comparison looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// What a calculation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// A function that rules may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Has,
    Size,
    StartsWith,
    EndsWith,
    Contains,
}

/// How a function is called, and what it says.
pub struct FunctionRow {
    /// As it is written in a rule.
    pub form: &'static str,
    /// What it takes and gives, in one clause.
    pub meaning: &'static str,
    pub(super) name: &'static str,
    pub(super) function: Function,
    /// Whether it is called on a text, with the dot.
    pub(super) is_method: bool,
}

/// Every function, in the order of the reference.
pub static FUNCTIONS: [FunctionRow; 5] = [
    FunctionRow {
        form: "has(x)",
        meaning: "whether the variable `x` has a value: never null itself",
        name: "has",
        function: Function::Has,
        is_method: false,
    },
    FunctionRow {
        form: "size(x)",
        meaning: "the characters (Unicode code points) of a text, or the elements of a list",
        name: "size",
        function: Function::Size,
        is_method: false,
    },
    FunctionRow {
        form: "x.startsWith(y)",
        meaning: "whether the text `x` begins with the text `y`",
        name: "startsWith",
        function: Function::StartsWith,
        is_method: true,
    },
    FunctionRow {
        form: "x.endsWith(y)",
        meaning: "whether the text `x` ends with the text `y`",
        name: "endsWith",
        function: Function::EndsWith,
        is_method: true,
    },
    FunctionRow {
        form: "x.contains(y)",
        meaning: "whether the text `y` stands anywhere in the text `x`",
        name: "contains",
        function: Function::Contains,
        is_method: true,
    },
];

/// What one node is; its children are named by their index.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind<'t> {
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'t, str>),
    /// A variable: `count` segments of the tree, from `first`.
    Path {
        first: usize,
        count: usize,
    },
    /// `count` of the tree's items, from `first`.
    List {
        first: usize,
        count: usize,
    },
    Not(NodeIndex),
    Negate(NodeIndex),
    And(NodeIndex, NodeIndex),
    Or(NodeIndex, NodeIndex),
    Compare(Comparison, NodeIndex, NodeIndex),
    Calculate(Arithmetic, NodeIndex, NodeIndex),
    In(NodeIndex, NodeIndex),
    Choose(NodeIndex, NodeIndex, NodeIndex),
    /// A function of one argument.
    Call(Function, NodeIndex),
    /// A function that is called on its first argument.
    CallOn(Function, NodeIndex, NodeIndex),
}

/// One node and its place in the text.
#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    pub(super) kind: Kind<'t>,
    /// Its operator, or the node itself where it has none.
    pub(super) at: At,
    /// Its first character.
    pub(super) start: At,
}

/// One part of a variable's name.
#[derive(Clone, Debug)]
pub(super) struct Segment<'t> {
    pub(super) text: Cow<'t, str>,
    /// Whether it stood in brackets and quotes.
    pub(super) is_quoted: bool,
    pub(super) at: At,
}

/// A rule as it is written.
#[derive(Debug)]
pub(super) struct Tree<'t> {
    pub(super) nodes: Vec<Node<'t>>,
    pub(super) segments: Vec<Segment<'t>>,
    pub(super) items: Vec<NodeIndex>,
    pub(super) root: NodeIndex,
}

impl<'t> Tree<'t> {
    pub(super) fn node(&self, index: NodeIndex) -> &Node<'t> {
        &self.nodes[usize::from(index)]
    }
}

/// Read a whole rule.
pub(super) fn parse<'t>(text: &'t str, work: &mut Work) -> Result<Tree<'t>, RuleFault> {
    let mut lexer = Lexer::new(text);
    let first = lexer.next();
    work.tokens = lexer.tokens;
    let (token, at) = first?;
    let tree = Tree {
        nodes: Vec::new(),
        segments: Vec::new(),
        items: Vec::new(),
        root: NodeIndex::MIN,
    };
    let mut parser = Parser { lexer, token, at, depth: 0, tree };
    let read = parser.whole();
    work.tokens = parser.lexer.tokens;
    work.nodes = u32::try_from(parser.tree.nodes.len()).unwrap_or(u32::MAX);
    parser.tree.root = read?;
    Ok(parser.tree)
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    /// The word that comes next, and where it begins.
    token: Token<'t>,
    at: At,
    depth: u32,
    tree: Tree<'t>,
}

type Parsed = Result<NodeIndex, RuleFault>;

impl<'t> Parser<'t> {
    fn whole(&mut self) -> Parsed {
        if self.token == Token::End {
            return Err(self.at.fault("the rule is empty: write a condition, or `true`"));
        }
        let root = self.choice()?;
        match self.token {
            Token::End => Ok(root),
            _ => Err(self.unexpected("an operator or the end of the rule")),
        }
    }

    fn advance(&mut self) -> Result<Token<'t>, RuleFault> {
        let (token, at) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn takes(&mut self, sign: Sign) -> Result<bool, RuleFault> {
        let is_next = self.token == Token::Sign(sign);
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, sign: Sign, what: &str) -> Result<(), RuleFault> {
        if self.takes(sign)? { Ok(()) } else { Err(self.unexpected(what)) }
    }

    fn unexpected(&self, wanted: &str) -> RuleFault {
        let found = match &self.token {
            Token::End => "the rule ends".to_owned(),
            Token::Name(name) => format!("`{}` stands", shown(name)),
            Token::Text(_) => "a text stands".to_owned(),
            Token::Number(number) => format!("`{number}` stands"),
            Token::Sign(sign) => format!("`{}` stands", spelling(*sign)),
        };
        self.at.fault(format!("{found} where {wanted} should be"))
    }

    fn deeper(&mut self, at: At) -> Result<(), RuleFault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(at.fault(format!(
                "the rule nests more than {DEPTH_MAX} deep (parentheses counted): split it"
            )));
        }
        Ok(())
    }

    fn add(&mut self, kind: Kind<'t>, at: At, start: At) -> Parsed {
        let nodes = &mut self.tree.nodes;
        if nodes.len() >= NODES_MAX {
            return Err(at.fault(format!(
                "the rule has more than {NODES_MAX} parts (values, variables, operators): \
                 split it"
            )));
        }
        nodes.push(Node { kind, at, start });
        NodeIndex::try_from(nodes.len() - 1).map_err(|_| at.fault("the rule is too long"))
    }

    fn start_of(&self, node: NodeIndex) -> At {
        self.tree.node(node).start
    }

    fn binary(&mut self, kind: Kind<'t>, at: At, left: NodeIndex) -> Parsed {
        let start = self.start_of(left);
        self.add(kind, at, start)
    }

    /// `c ? y : z`, or what binds closer.
    fn choice(&mut self) -> Parsed {
        let condition = self.or()?;
        let at = self.at;
        if !self.takes(Sign::Question)? {
            return Ok(condition);
        }
        self.deeper(at)?;
        let yes = self.or()?;
        if self.token == Token::Sign(Sign::Question) {
            return Err(self.at.fault("put the inner `? :` in parentheses"));
        }
        self.expect(Sign::Colon, "the `:` of `? :`")?;
        let no = self.choice()?;
        self.depth -= 1;
        self.binary(Kind::Choose(condition, yes, no), at, condition)
    }

    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        loop {
            let at = self.at;
            if !self.takes(Sign::Or)? {
                return Ok(left);
            }
            let right = self.and()?;
            left = self.binary(Kind::Or(left, right), at, left)?;
        }
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.relation()?;
        loop {
            let at = self.at;
            if !self.takes(Sign::And)? {
                return Ok(left);
            }
            let right = self.relation()?;
            left = self.binary(Kind::And(left, right), at, left)?;
        }
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            let at = self.at;
            let compare = match self.token {
                Token::Sign(Sign::Equal) => Some(Comparison::Equal),
                Token::Sign(Sign::Unequal) => Some(Comparison::Unequal),
                Token::Sign(Sign::Less) => Some(Comparison::Less),
                Token::Sign(Sign::LessEqual) => Some(Comparison::LessEqual),
                Token::Sign(Sign::Greater) => Some(Comparison::Greater),
                Token::Sign(Sign::GreaterEqual) => Some(Comparison::GreaterEqual),
                Token::Sign(Sign::In) => None,
                Token::Sign(Sign::Not) => {
                    return Err(at.fault("`not in` is written `!(x in […])`"));
                }
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.sum()?;
            let kind = match compare {
                Some(comparison) => Kind::Compare(comparison, left, right),
                None => Kind::In(left, right),
            };
            left = self.binary(kind, at, left)?;
        }
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        loop {
            let at = self.at;
            let arithmetic = match self.token {
                Token::Sign(Sign::Plus) => Arithmetic::Add,
                Token::Sign(Sign::Minus) => Arithmetic::Subtract,
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.product()?;
            left = self.binary(Kind::Calculate(arithmetic, left, right), at, left)?;
        }
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let at = self.at;
            let arithmetic = match self.token {
                Token::Sign(Sign::Times) => Arithmetic::Multiply,
                Token::Sign(Sign::Divide) => Arithmetic::Divide,
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.unary()?;
            left = self.binary(Kind::Calculate(arithmetic, left, right), at, left)?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at;
        let is_minus = match self.token {
            Token::Sign(Sign::Minus) => true,
            Token::Sign(Sign::Not) => false,
            _ => return self.member(),
        };
        self.deeper(at)?;
        self.advance()?;
        let operand = self.unary()?;
        self.depth -= 1;
        if !is_minus {
            return self.add(Kind::Not(operand), at, at);
        }
        // A literal with its sign is one literal, as it may stand in a list of those.
        if let Some(Node { kind: Kind::Number(number), at: place, start }) =
            self.tree.nodes.get_mut(usize::from(operand))
        {
            (*number, *place, *start) = (-*number, at, at);
            return Ok(operand);
        }
        self.add(Kind::Negate(operand), at, at)
    }

    fn member(&mut self) -> Parsed {
        let mut value = match self.token {
            Token::Name(name) => self.named(name)?,
            _ => self.primary()?,
        };
        loop {
            let at = self.at;
            if self.token == Token::Sign(Sign::OpenList) {
                return Err(at.fault(
                    "only the tables `tags`, `budgets`, `cost`, `latency` and `health` have \
                     entries",
                ));
            }
            if !self.takes(Sign::Dot)? {
                return Ok(value);
            }
            let (name, at) = self.field()?;
            if self.token != Token::Sign(Sign::Open) {
                return Err(
                    at.fault(format!("only a variable has fields, as `{}`", shown(name)))
                );
            }
            value = self.call_on(value, name, at)?;
        }
    }

    /// What follows a dot.
    fn field(&mut self) -> Result<(&'t str, At), RuleFault> {
        let at = self.at;
        match self.token {
            Token::Name(name) if !matches!(name, "true" | "false" | "null") => {
                self.advance()?;
                Ok((name, at))
            }
            Token::Name(name) => Err(reserved(at, name)),
            Token::Sign(Sign::And) => Err(reserved(at, "and")),
            Token::Sign(Sign::Or) => Err(reserved(at, "or")),
            Token::Sign(Sign::Not) => Err(reserved(at, "not")),
            Token::Sign(Sign::In) => Err(reserved(at, "in")),
            Token::Number(_) => Err(at.fault(
                "a name cannot begin with a digit: write it in brackets and quotes, as in \
                 `tags['2fa']`",
            )),
            _ => Err(self.unexpected("a name")),
        }
    }

    /// A literal in letters, a function or a variable; with the method called on it, if any.
    fn named(&mut self, name: &'t str) -> Parsed {
        let at = self.at;
        self.advance()?;
        match name {
            "true" => return self.add(Kind::Bool(true), at, at),
            "false" => return self.add(Kind::Bool(false), at, at),
            "null" => return self.add(Kind::Null, at, at),
            _ => {}
        }
        if self.token == Token::Sign(Sign::Open) {
            return self.call(name, at);
        }
        let first = self.tree.segments.len();
        self.tree.segments.push(Segment { text: Cow::Borrowed(name), is_quoted: false, at });
        loop {
            if self.takes(Sign::OpenList)? {
                let key_at = self.at;
                let Token::Text(_) = self.token else {
                    return Err(self.unexpected("a name in quotes"));
                };
                if let Token::Text(text) = self.advance()? {
                    let segment = Segment { text, is_quoted: true, at: key_at };
                    self.tree.segments.push(segment);
                }
                self.expect(Sign::CloseList, "a `]`")?;
            } else if self.takes(Sign::Dot)? {
                let (field, field_at) = self.field()?;
                if self.token == Token::Sign(Sign::Open) {
                    let value = self.path(first, at)?;
                    return self.call_on(value, field, field_at);
                }
                let text = Cow::Borrowed(field);
                self.tree.segments.push(Segment { text, is_quoted: false, at: field_at });
            } else {
                return self.path(first, at);
            }
        }
    }

    fn path(&mut self, first: usize, at: At) -> Parsed {
        let count = self.tree.segments.len() - first;
        self.add(Kind::Path { first, count }, at, at)
    }

    fn call(&mut self, name: &str, at: At) -> Parsed {
        let row = function(name, at)?;
        if row.is_method {
            return Err(at.fault(format!("`{name}` is called on a text: `{}`", row.form)));
        }
        let argument = self.argument(row)?;
        self.add(Kind::Call(row.function, argument), at, at)
    }

    fn call_on(&mut self, value: NodeIndex, name: &str, at: At) -> Parsed {
        let row = function(name, at)?;
        if !row.is_method {
            return Err(at.fault(format!("`{name}` is written `{}`", row.form)));
        }
        let argument = self.argument(row)?;
        let start = self.start_of(value);
        self.add(Kind::CallOn(row.function, value, argument), at, start)
    }

    /// The one argument of a function, in its parentheses.
    fn argument(&mut self, row: &FunctionRow) -> Parsed {
        let at = self.at;
        self.deeper(at)?;
        self.expect(Sign::Open, "a `(`")?;
        let wrong = || at.fault(format!("one argument is needed: `{}`", row.form));
        if self.token == Token::Sign(Sign::Close) {
            return Err(wrong());
        }
        let argument = self.choice()?;
        if self.token == Token::Sign(Sign::Comma) {
            return Err(wrong());
        }
        self.expect(Sign::Close, "a `)`")?;
        self.depth -= 1;
        Ok(argument)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at;
        match self.token {
            Token::Number(number) => {
                self.advance()?;
                self.add(Kind::Number(number), at, at)
            }
            Token::Text(_) => match self.advance()? {
                Token::Text(text) => self.add(Kind::Text(text), at, at),
                _ => Err(self.unexpected("a text")),
            },
            Token::Sign(Sign::Open) => {
                self.deeper(at)?;
                self.advance()?;
                let inner = self.choice()?;
                self.expect(Sign::Close, "an operator or a `)`")?;
                self.depth -= 1;
                if let Some(node) = self.tree.nodes.get_mut(usize::from(inner)) {
                    node.start = at;
                }
                Ok(inner)
            }
            Token::Sign(Sign::OpenList) => self.list(at),
            Token::Sign(Sign::Dot) => {
                Err(at.fault("no value begins with a dot: a fraction is written `0.5`"))
            }
            _ => Err(self.unexpected("a value")),
        }
    }

    fn list(&mut self, at: At) -> Parsed {
        self.deeper(at)?;
        self.advance()?;
        let mut elements = Vec::new();
        while self.token != Token::Sign(Sign::CloseList) {
            elements.push(self.choice()?);
            if !self.takes(Sign::Comma)? {
                break;
            }
        }
        self.expect(Sign::CloseList, "a `,` or a `]`")?;
        self.depth -= 1;
        let (first, count) = (self.tree.items.len(), elements.len());
        self.tree.items.append(&mut elements);
        self.add(Kind::List { first, count }, at, at)
    }
}

fn function(name: &str, at: At) -> Result<&'static FunctionRow, RuleFault> {
    FUNCTIONS.iter().find(|row| row.name == name).ok_or_else(|| {
        let hint = match nearest(name, FUNCTIONS.iter().map(|row| row.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let forms = FUNCTIONS.iter().map(|row| format!("`{}`", row.form));
                format!("there are {}", crate::text::listed(forms))
            }
        };
        at.fault(format!("no function is called `{}`: {hint}", shown(name)))
    })
}

fn reserved(at: At, word: &str) -> RuleFault {
    at.fault(format!(
        "`{word}` is a word of the language: write it in brackets and quotes, as in \
         `tags['{word}']`"
    ))
}

pub(super) fn spelling(sign: Sign) -> &'static str {
    match sign {
        Sign::And => "&&",
        Sign::Or => "||",
        Sign::Not => "!",
        Sign::In => "in",
        Sign::Equal => "==",
        Sign::Unequal => "!=",
        Sign::Less => "<",
        Sign::LessEqual => "<=",
        Sign::Greater => ">",
        Sign::GreaterEqual => ">=",
        Sign::Plus => "+",
        Sign::Minus => "-",
        Sign::Times => "*",
        Sign::Divide => "/",
        Sign::Question => "?",
        Sign::Colon => ":",
        Sign::Comma => ",",
        Sign::Dot => ".",
        Sign::Open => "(",
        Sign::Close => ")",
        Sign::OpenList => "[",
        Sign::CloseList => "]",
    }
}
