//! The variables of rules: one table, which the checker, the reference and the tests read.

use std::fmt::{self, Display, Formatter};

use super::check::Type;
use super::lex::At;
use super::parse::Segment;
use super::{Place, RuleFault};
use crate::text::{listed, nearest, shown};

/// A figure of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BudgetField {
    /// Spent and held, as a share of the cap: 1 is all of it.
    UsedPct,
    /// Settled charges.
    SpentUsd,
    /// What requests in flight may still cost.
    HeldUsd,
    /// Cap and credits less spent and held.
    RemainingUsd,
    /// The cap.
    CapUsd,
    /// Its name.
    Name,
}

/// A latency of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LatencyField {
    /// To the first content byte, as it is learnt.
    TtftMs,
    /// To the end of the answer, as it is learnt.
    TotalMs,
    /// The median of the last minutes.
    P50Ms,
}

/// What is known of a target's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthField {
    /// Its breaker: one of [`STATES`].
    State,
    /// Failures among its last requests, 0 to 1.
    ErrorRate,
}

/// What `health['…'].state` can be.
pub const STATES: [&str; 3] = ["closed", "open", "half_open"];

/// One variable of a rule, as written there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Var {
    /// `tags.KEY`
    Tag(String),
    /// `end_user`
    EndUser,
    /// `project`
    Project,
    /// `key.name`
    KeyName,
    /// `route`
    Route,
    /// `request.model`
    Model,
    /// `request.input_tokens`: the one that may be read as a span.
    InputTokens,
    /// `request.max_output_tokens`
    MaxOutputTokens,
    /// `request.stream`
    Stream,
    /// `request.has_tools`
    HasTools,
    /// `request.has_images`
    HasImages,
    /// `request.json_schema`
    JsonSchema,
    /// `request.messages`
    Messages,
    /// `budget.FIELD`, or `budgets['NAME'].FIELD`.
    Budget {
        /// None: the tightest that matches.
        name: Option<String>,
        /// Which figure.
        field: BudgetField,
    },
    /// `cost['TARGET'].est_usd`
    Cost(String),
    /// `latency['TARGET'].FIELD`
    Latency {
        /// As the rule names it.
        target: String,
        /// Which latency.
        field: LatencyField,
    },
    /// `health['TARGET'].FIELD`
    Health {
        /// As the rule names it.
        target: String,
        /// Which fact.
        field: HealthField,
    },
    /// `time.hour_utc`
    HourUtc,
    /// `time.weekday`
    Weekday,
    /// `response.text`
    ResponseText,
    /// `response.finish_reason`
    FinishReason,
    /// `response.output_tokens`
    OutputTokens,
    /// `response.json_valid`
    JsonValid,
    /// `response.tool_calls`
    ToolCalls,
    /// `response.refusal`
    Refusal,
}

impl Var {
    /// The target whose figures this reads, as the rule names it.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Cost(target) | Self::Latency { target, .. } | Self::Health { target, .. } => {
                Some(target)
            }
            _ => None,
        }
    }

    /// The budget that this names.
    #[must_use]
    pub fn budget(&self) -> Option<&str> {
        match self {
            Self::Budget { name, .. } => name.as_deref(),
            _ => None,
        }
    }

    /// What stands in brackets, or behind `tags.`; empty without one.
    fn key(&self) -> &str {
        match self {
            Self::Tag(key) => key,
            _ => self.target().or(self.budget()).unwrap_or_default(),
        }
    }
}

impl Display for Var {
    /// The name as a rule writes it.
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Some(row) = VARIABLES.iter().find(|row| (row.make)(self.key()) == *self) else {
            return out.write_str("?");
        };
        out.write_str(&row.named(Some(self.key())))
    }
}

/// Whether a variable has a part that the rule's author chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyed {
    No,
    /// `['NAME']`
    Quoted,
    /// `.NAME` or `['NAME']`, and no field behind it.
    Either,
}

/// One line of the table of variables.
pub struct VariableRow {
    root: &'static str,
    keyed: Keyed,
    field: &'static str,
    pub(super) kind: Type,
    pub(super) in_answers_only: bool,
    pub(super) make: fn(&str) -> Var,
    /// What it is, in one clause.
    pub meaning: &'static str,
}

impl VariableRow {
    /// How the reference writes it: `latency['NAME'].ttft_ms`, `tags.KEY`.
    #[must_use]
    pub fn name(&self) -> String {
        self.named(None)
    }

    /// `number`, `text` or `true or false`.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        self.kind.noun()
    }

    /// Whether it is known only once there is an answer.
    #[must_use]
    pub fn is_in_answers_only(&self) -> bool {
        self.in_answers_only
    }

    /// Its name for one key.
    fn named(&self, key: Option<&str>) -> String {
        let mut name = self.root.to_owned();
        match (self.keyed, key) {
            (Keyed::No, _) => {}
            (Keyed::Quoted, None) => name.push_str("['NAME']"),
            (Keyed::Either, None) => name.push_str(".KEY"),
            (Keyed::Either, Some(key)) if is_plain(key) => {
                name.push('.');
                name.push_str(key);
            }
            (_, Some(key)) => {
                name.push_str("['");
                for c in key.chars() {
                    match c {
                        '\'' | '\\' => name.extend(['\\', c]),
                        '\n' => name.push_str("\\n"),
                        '\r' => name.push_str("\\r"),
                        _ => name.push(c),
                    }
                }
                name.push_str("']");
            }
        }
        if !self.field.is_empty() {
            name.push('.');
            name.push_str(self.field);
        }
        name
    }

    /// Its key in what was written, if this is the variable that was written.
    fn matches<'p>(&self, path: &'p [Segment<'_>]) -> Option<&'p str> {
        let plain =
            |segment: &Segment<'_>, name: &str| !segment.is_quoted && segment.text == name;
        let (root, rest) = path.split_first()?;
        if !plain(root, self.root) {
            return None;
        }
        let (key, rest) = match (self.keyed, rest.split_first()) {
            (Keyed::No, _) => ("", rest),
            (Keyed::Quoted, Some((key, rest))) if key.is_quoted => (key.text.as_ref(), rest),
            (Keyed::Either, Some((key, rest))) => (key.text.as_ref(), rest),
            _ => return None,
        };
        let fits = match rest {
            [] => self.field.is_empty(),
            [field] => plain(field, self.field),
            _ => false,
        };
        fits.then_some(key)
    }
}

/// Whether a key can stand behind a dot.
fn is_plain(key: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !key.is_empty()
        && key.chars().all(is_word)
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && !matches!(key, "true" | "false" | "null" | "in" | "and" | "or" | "not")
}

const fn plain(
    root: &'static str,
    field: &'static str,
    kind: Type,
    make: fn(&str) -> Var,
    meaning: &'static str,
) -> VariableRow {
    VariableRow { root, keyed: Keyed::No, field, kind, in_answers_only: false, make, meaning }
}

const fn keyed(
    root: &'static str,
    field: &'static str,
    kind: Type,
    make: fn(&str) -> Var,
    meaning: &'static str,
) -> VariableRow {
    VariableRow {
        root,
        keyed: Keyed::Quoted,
        field,
        kind,
        in_answers_only: false,
        make,
        meaning,
    }
}

const fn answer(
    field: &'static str,
    kind: Type,
    make: fn(&str) -> Var,
    meaning: &'static str,
) -> VariableRow {
    let keyed = Keyed::No;
    VariableRow { root: "response", keyed, field, kind, in_answers_only: true, make, meaning }
}

const fn budget(field: BudgetField) -> Var {
    Var::Budget { name: None, field }
}

fn budget_named(name: &str, field: BudgetField) -> Var {
    Var::Budget { name: Some(name.to_owned()), field }
}

fn latency(target: &str, field: LatencyField) -> Var {
    Var::Latency { target: target.to_owned(), field }
}

fn health(target: &str, field: HealthField) -> Var {
    Var::Health { target: target.to_owned(), field }
}

/// Every variable, in the order of the reference.
pub static VARIABLES: [VariableRow; 39] = [
    VariableRow {
        root: "tags",
        keyed: Keyed::Either,
        field: "",
        kind: Type::Text,
        in_answers_only: false,
        make: |key| Var::Tag(key.to_owned()),
        meaning: "the request's tag of that key, also written `tags['KEY']`; null without one",
    },
    plain("end_user", "", Type::Text, |_| Var::EndUser, "the end user; null if not named"),
    plain("project", "", Type::Text, |_| Var::Project, "the key's project"),
    plain("key", "name", Type::Text, |_| Var::KeyName, "the key's name"),
    plain("route", "", Type::Text, |_| Var::Route, "the slug asked for; null without one"),
    plain("request", "model", Type::Text, |_| Var::Model, "the `model` field as it was sent"),
    plain(
        "request",
        "input_tokens",
        Type::Number,
        |_| Var::InputTokens,
        "tokens of the input: estimated, and counted where the estimate does not decide",
    ),
    plain(
        "request",
        "max_output_tokens",
        Type::Number,
        |_| Var::MaxOutputTokens,
        "the caller's own output limit; null without one",
    ),
    plain("request", "stream", Type::Bool, |_| Var::Stream, "whether a stream is asked for"),
    plain("request", "has_tools", Type::Bool, |_| Var::HasTools, "whether tools are offered"),
    plain("request", "has_images", Type::Bool, |_| Var::HasImages, "whether it holds images"),
    plain(
        "request",
        "json_schema",
        Type::Bool,
        |_| Var::JsonSchema,
        "whether the answer is to follow a JSON schema",
    ),
    plain("request", "messages", Type::Number, |_| Var::Messages, "how many messages it has"),
    plain(
        "budget",
        "used_pct",
        Type::Number,
        |_| budget(BudgetField::UsedPct),
        "of the tightest matching budget, before this request: the share that is spent or held, \
         0 to 1; null when none matches",
    ),
    plain(
        "budget",
        "spent_usd",
        Type::Number,
        |_| budget(BudgetField::SpentUsd),
        "what it has spent",
    ),
    plain(
        "budget",
        "held_usd",
        Type::Number,
        |_| budget(BudgetField::HeldUsd),
        "what requests in flight may still cost it",
    ),
    plain(
        "budget",
        "remaining_usd",
        Type::Number,
        |_| budget(BudgetField::RemainingUsd),
        "what is neither spent nor held",
    ),
    plain("budget", "cap_usd", Type::Number, |_| budget(BudgetField::CapUsd), "its cap"),
    plain("budget", "name", Type::Text, |_| budget(BudgetField::Name), "its name"),
    keyed(
        "budgets",
        "used_pct",
        Type::Number,
        |name| budget_named(name, BudgetField::UsedPct),
        "the same of the budget of that name, of a `*` budget the caller's row; null where it \
         does not match",
    ),
    keyed(
        "budgets",
        "spent_usd",
        Type::Number,
        |name| budget_named(name, BudgetField::SpentUsd),
        "what it has spent",
    ),
    keyed(
        "budgets",
        "held_usd",
        Type::Number,
        |name| budget_named(name, BudgetField::HeldUsd),
        "what requests in flight may still cost it",
    ),
    keyed(
        "budgets",
        "remaining_usd",
        Type::Number,
        |name| budget_named(name, BudgetField::RemainingUsd),
        "what is neither spent nor held",
    ),
    keyed(
        "budgets",
        "cap_usd",
        Type::Number,
        |name| budget_named(name, BudgetField::CapUsd),
        "its cap",
    ),
    keyed(
        "budgets",
        "name",
        Type::Text,
        |name| budget_named(name, BudgetField::Name),
        "its name",
    ),
    keyed(
        "cost",
        "est_usd",
        Type::Number,
        |target| Var::Cost(target.to_owned()),
        "what this request is expected to cost at that target; null without a price",
    ),
    keyed(
        "latency",
        "ttft_ms",
        Type::Number,
        |target| latency(target, LatencyField::TtftMs),
        "its time to the first content byte, as it is now; null without a sample",
    ),
    keyed(
        "latency",
        "total_ms",
        Type::Number,
        |target| latency(target, LatencyField::TotalMs),
        "its time to the end of an answer, as it is now; null without a sample",
    ),
    keyed(
        "latency",
        "p50_ms",
        Type::Number,
        |target| latency(target, LatencyField::P50Ms),
        "its median time to the end of an answer over the last minutes; null without a sample",
    ),
    keyed(
        "health",
        "state",
        Type::Text,
        |target| health(target, HealthField::State),
        "its circuit breaker: `closed`, `open` or `half_open`",
    ),
    keyed(
        "health",
        "error_rate",
        Type::Number,
        |target| health(target, HealthField::ErrorRate),
        "the share of its last requests that failed, 0 to 1; null without a sample",
    ),
    plain("time", "hour_utc", Type::Number, |_| Var::HourUtc, "0 to 23"),
    plain("time", "weekday", Type::Number, |_| Var::Weekday, "1 (Monday) to 7, in UTC"),
    answer("text", Type::Text, |_| Var::ResponseText, "the text of the first choice"),
    answer(
        "finish_reason",
        Type::Text,
        |_| Var::FinishReason,
        "why it ended; null if it was not said",
    ),
    answer("output_tokens", Type::Number, |_| Var::OutputTokens, "as reported; null if not"),
    answer("json_valid", Type::Bool, |_| Var::JsonValid, "whether the text is JSON"),
    answer("tool_calls", Type::Number, |_| Var::ToolCalls, "how many tools it calls"),
    answer(
        "refusal",
        Type::Text,
        |_| Var::Refusal,
        "why the model refused; null if it did not",
    ),
];

/// The variable that was written, its type, and where its key or else its name stands.
pub(super) fn resolve(
    path: &[Segment<'_>],
    place: Place,
) -> Result<(Var, Type, At), RuleFault> {
    let Some(at) = path.first().map(|segment| segment.at) else {
        return Err(At { line: 1, column: 1 }.fault("a variable has no name"));
    };
    for row in &VARIABLES {
        let Some(key) = row.matches(path) else { continue };
        if row.in_answers_only && place == Place::Request {
            return Err(at.fault(format!(
                "`{}` is known only once there is an answer: in `accept_if` and `validate`",
                row.name()
            )));
        }
        let key_at = if row.keyed == Keyed::No { at } else { path[1].at };
        if row.keyed != Keyed::No && key.is_empty() {
            return Err(key_at.fault("the name is empty"));
        }
        return Ok(((row.make)(key), row.kind, key_at));
    }
    Err(at.fault(unknown(path)))
}

/// What to say of a variable that is not in the table.
fn unknown(path: &[Segment<'_>]) -> String {
    let written = written(path);
    let called = format!("no variable is called `{}`", shown(&written));
    let root = path.first().map_or("", |segment| segment.text.as_ref());
    if root == "tags" {
        return if path.len() == 1 {
            "`tags` is a table: name a tag, as in `tags.tier`".to_owned()
        } else {
            format!(
                "a tag has no fields, as `{}`: a key with a dot is written in brackets and \
                 quotes, as in `tags['a.b']`",
                shown(&written)
            )
        };
    }
    let key = path.get(1).filter(|key| key.is_quoted || path.len() > 2);
    let key = key.map(|segment| segment.text.as_ref());
    let rows: Vec<&VariableRow> = VARIABLES.iter().filter(|row| row.root == root).collect();
    if let Some(row) = rows.first()
        && (row.keyed == Keyed::Quoted || !path.get(1).is_some_and(|key| key.is_quoted))
    {
        if row.field.is_empty() {
            return format!("`{root}` has no fields, as `{}`", shown(&written));
        }
        let names = || listed(rows.iter().map(|row| format!("`{}`", row.named(key))));
        if path.len() == 1 || row.keyed == Keyed::Quoted && path.len() == 2 && key.is_some() {
            return format!("`{}` is a table: write {}", shown(&written), names());
        }
        let last = path.last().map_or("", |segment| segment.text.as_ref());
        let near = nearest(last, rows.iter().map(|row| row.field));
        let near = rows.iter().find(|row| Some(row.field) == near);
        let begun = || rows.iter().find(|row| row.field.starts_with(last));
        return match near.or_else(begun) {
            Some(row) => format!("{called}: did you mean `{}`?", shown(&row.named(key))),
            None => format!("{called}: there are {}", names()),
        };
    }
    let plain = path.get(1).map(|segment| segment.text.as_ref());
    let known: Vec<String> = VARIABLES.iter().map(|row| row.named(key.or(plain))).collect();
    let near = nearest(&written, known.iter().map(String::as_str)).map(str::to_owned);
    // Those who leave out the table: `input_tokens`.
    let by_field = || {
        let mut rows =
            VARIABLES.iter().filter(|row| row.keyed == Keyed::No && row.field == root);
        match (rows.next(), rows.next()) {
            (Some(row), None) if path.len() == 1 => Some(row.name()),
            _ => None,
        }
    };
    match near.or_else(by_field) {
        Some(near) => format!("{called}: did you mean `{}`?", shown(&near)),
        None if path.len() == 1 => format!(
            "{called}: a tag is written `tags.{}`, and a text in quotes",
            shown(&written)
        ),
        None => {
            let mut roots: Vec<&str> = VARIABLES.iter().map(|row| row.root).collect();
            roots.dedup();
            format!("{called}: names begin with `{}`", roots.join("`, `"))
        }
    }
}

/// The name as it was written, with single quotes.
fn written(path: &[Segment<'_>]) -> String {
    let mut name = String::new();
    for segment in path {
        if segment.is_quoted {
            name.push_str("['");
            name.push_str(&segment.text);
            name.push_str("']");
        } else {
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&segment.text);
        }
    }
    name
}
