//! What an expression may read, for one request.

use super::compile::CompiledText;
use super::state::{BudgetState, State, TargetState, Tokens};
use crate::answers::Said;
use crate::rules::{BudgetField, HealthField, LatencyField, Value, Var, Vars, Verdict};
use crate::scan::Facts;
use crate::subject::Subject;

const NUSD_PER_USD: f64 = 1e9;
const US_PER_MS: f32 = 1000.0;

/// One request as expressions see it.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks.
    pub subject: &'a Subject,
    /// What for.
    pub facts: &'a Facts,
    /// The caller's `model`.
    pub model: &'a str,
    /// The project's name.
    pub project: &'a str,
}

struct Words<'a> {
    asked: Asked<'a>,
    state: &'a State,
    text: &'a CompiledText,
    said: Option<&'a Said>,
}

impl CompiledText {
    /// Evaluate for one request, and for its answer where there is one.
    pub(crate) fn eval(&self, asked: Asked<'_>, state: &State, said: Option<&Said>) -> Verdict {
        self.rule.eval(&Words { asked, state, text: self, said })
    }
}

fn text(value: Option<&str>) -> Value<'_> {
    value.map_or(Value::Null, Value::Text)
}

fn number(value: Option<f64>) -> Value<'static> {
    value.map_or(Value::Null, Value::Number)
}

#[expect(clippy::cast_precision_loss, reason = "counts and amounts stay below 2^53")]
fn count(value: u64) -> Value<'static> {
    Value::Number(value as f64)
}

impl Words<'_> {
    fn target(&self, index: usize) -> Option<&TargetState> {
        self.text.targets.get(index).copied().flatten().and_then(|at| self.state.named.get(at))
    }

    fn budget(&self, name: Option<&str>) -> Option<&BudgetState> {
        self.state.budgets.iter().find(|budget| match name {
            Some(name) => budget.name == name,
            None => budget.is_tightest,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "amounts stay below 2^53")]
fn usd(nusd: u64) -> f64 {
    nusd as f64 / NUSD_PER_USD
}

#[expect(clippy::cast_precision_loss, reason = "amounts stay below 2^53")]
fn budget_figure(budget: &BudgetState, field: BudgetField) -> Value<'_> {
    match field {
        BudgetField::Name => Value::Text(&budget.name),
        BudgetField::SpentUsd => Value::Number(usd(budget.spent_nusd)),
        BudgetField::HeldUsd => Value::Number(usd(budget.held_nusd)),
        BudgetField::CapUsd => Value::Number(usd(budget.allowed_nusd)),
        BudgetField::RemainingUsd => {
            let used = budget.spent_nusd.saturating_add(budget.held_nusd);
            Value::Number(usd(budget.allowed_nusd.saturating_sub(used)))
        }
        BudgetField::UsedPct if budget.allowed_nusd == 0 => Value::Number(1.0),
        BudgetField::UsedPct => {
            let used = budget.spent_nusd.saturating_add(budget.held_nusd) as f64;
            Value::Number((used / budget.allowed_nusd as f64).min(1.0))
        }
    }
}

impl Vars for Words<'_> {
    fn read(&self, index: usize, var: &Var) -> Value<'_> {
        let (subject, facts) = (self.asked.subject, self.asked.facts);
        match var {
            Var::Tag(key) => {
                let found = subject.tags.iter().find(|(name, _)| name == key);
                text(found.map(|(_, value)| value.as_str()))
            }
            Var::EndUser => text(subject.end_user.as_deref()),
            Var::Project => Value::Text(self.asked.project),
            Var::KeyName => text(subject.key.as_ref().and_then(|key| key.name.as_deref())),
            Var::Route => text(subject.route.as_ref().map(|(route, _)| route.name.as_str())),
            Var::Model => Value::Text(self.asked.model),
            Var::InputTokens => match self.state.tokens {
                Tokens::Between { least, most } => Value::Span { least, most },
                Tokens::Counted(tokens) | Tokens::Estimated(tokens) => Value::Number(tokens),
            },
            Var::MaxOutputTokens => facts.max_output_tokens.map_or(Value::Null, count),
            Var::Stream => Value::Bool(facts.stream),
            Var::HasTools => Value::Bool(facts.has_tools),
            Var::HasImages => Value::Bool(facts.has_images),
            Var::JsonSchema => Value::Bool(facts.json_schema),
            Var::Messages => count(u64::from(facts.messages)),
            Var::Budget { name, field } => self
                .budget(name.as_deref())
                .map_or(Value::Null, |budget| budget_figure(budget, *field)),
            Var::Cost(_) => {
                number(self.target(index).and_then(|target| target.cost_nusd).map(usd))
            }
            Var::Latency { field, .. } => {
                let Some(target) = self.target(index) else { return Value::Null };
                let ms = match field {
                    LatencyField::TtftMs => target.ttft_us.map(|us| us / US_PER_MS),
                    LatencyField::TotalMs => target.total_us.map(|us| us / US_PER_MS),
                    LatencyField::P50Ms => target.p50_ms,
                };
                number(ms.map(f64::from))
            }
            Var::Health { field, .. } => {
                let Some(target) = self.target(index) else { return Value::Null };
                match field {
                    HealthField::State => Value::Text(target.health_name()),
                    HealthField::ErrorRate => number(target.error_rate.map(f64::from)),
                }
            }
            Var::HourUtc => count(self.state.unix_s.rem_euclid(86_400).unsigned_abs() / 3600),
            // 1970 began on a Thursday, the fourth day.
            Var::Weekday => count(
                (self.state.unix_s.div_euclid(86_400) + 3).rem_euclid(7).unsigned_abs() + 1,
            ),
            Var::ResponseText => text(self.said.map(|said| said.text.as_str())),
            Var::FinishReason => text(self.said.and_then(|said| said.finish_reason.as_deref())),
            Var::OutputTokens => {
                self.said.and_then(|said| said.output_tokens).map_or(Value::Null, count)
            }
            Var::JsonValid => {
                self.said.map_or(Value::Null, |said| Value::Bool(said.json_valid))
            }
            Var::ToolCalls => {
                self.said.map_or(Value::Null, |said| count(u64::from(said.tool_calls)))
            }
            Var::Refusal => text(self.said.and_then(|said| said.refusal.as_deref())),
        }
    }
}
