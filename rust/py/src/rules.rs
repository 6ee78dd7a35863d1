//! The face of `rules`: checking for the configuration, evaluating for tests and documents.

use std::collections::HashMap;

use modelux_core::rules::{
    self, FUNCTIONS, Place, Rule, RuleFault, VARIABLES, Value, Var, Vars, Verdict,
};
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString, PyTuple};

/// A name that a rule mentions, with line and column.
type Mention = (String, u32, u32);

/// What is wrong with a rule, or what it reads.
#[pyclass(frozen, get_all, module = "modelux._native")]
#[derive(Default)]
struct RuleReport {
    fault: Option<(u32, u32, String)>,
    targets: Vec<Mention>,
    budgets: Vec<Mention>,
    tags: Vec<String>,
    variables: Vec<String>,
}

fn place(answers: bool) -> Place {
    if answers { Place::Answer } else { Place::Request }
}

fn mention(mentions: &mut Vec<Mention>, name: Option<&str>, (line, column): (u32, u32)) {
    if let Some(name) = name
        && !mentions.iter().any(|(known, ..)| known == name)
    {
        mentions.push((name.to_owned(), line, column));
    }
}

#[pyfunction]
#[pyo3(signature = (text, *, answers))]
fn check_rule(text: &str, answers: bool) -> RuleReport {
    let rule = match Rule::compile(text, place(answers)) {
        Ok(rule) => rule,
        Err(RuleFault { line, column, message }) => {
            return RuleReport { fault: Some((line, column, message)), ..Default::default() };
        }
    };
    let mut report = RuleReport::default();
    for (var, place) in rule.vars().iter().zip(rule.places()) {
        mention(&mut report.targets, var.target(), *place);
        mention(&mut report.budgets, var.budget(), *place);
        if let Var::Tag(key) = var {
            report.tags.push(key.clone());
        }
        report.variables.push(var.to_string());
    }
    report
}

/// A value that Python gave for a variable.
enum Given {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Span(f64, f64),
}

struct GivenVars(HashMap<Var, Given>);

impl Vars for GivenVars {
    fn read(&self, _index: usize, var: &Var) -> Value<'_> {
        match self.0.get(var) {
            None | Some(Given::Null) => Value::Null,
            Some(Given::Bool(value)) => Value::Bool(*value),
            Some(Given::Number(number)) => Value::Number(*number),
            Some(Given::Text(text)) => Value::Text(text),
            Some(Given::Span(least, most)) => Value::Span { least: *least, most: *most },
        }
    }
}

fn given(name: &str, kind: &str, value: &Bound<'_, PyAny>) -> PyResult<Given> {
    let found = if value.is_none() {
        return Ok(Given::Null);
    } else if value.is_instance_of::<PyBool>() {
        ("true or false", Given::Bool(value.extract()?))
    } else if value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>() {
        ("number", Given::Number(value.extract()?))
    } else if value.is_instance_of::<PyString>() {
        ("text", Given::Text(value.extract()?))
    } else if value.is_instance_of::<PyTuple>() {
        let (least, most) = value.extract()?;
        ("number", Given::Span(least, most))
    } else {
        ("", Given::Null)
    };
    if found.0 == kind {
        return Ok(found.1);
    }
    let value = value.repr()?;
    Err(PyTypeError::new_err(format!("`{name}` is {kind}, not `{value}`")))
}

#[pyfunction]
#[pyo3(signature = (text, values, *, answers))]
fn evaluate_rule<'py>(
    py: Python<'py>,
    text: &str,
    values: HashMap<String, Bound<'py, PyAny>>,
    answers: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let rule = Rule::compile(text, place(answers))
        .map_err(|fault| PyValueError::new_err(fault.to_string()))?;
    let mut known = HashMap::with_capacity(values.len());
    for (name, value) in values {
        let (var, kind) =
            rules::variable(&name).map_err(|fault| PyKeyError::new_err(fault.message))?;
        known.insert(var, given(&name, kind, &value)?);
    }
    Ok(match rule.eval(&GivenVars(known)) {
        Verdict::True => PyBool::new(py, true).to_owned().into_any(),
        Verdict::False => PyBool::new(py, false).to_owned().into_any(),
        Verdict::Null => py.None().into_bound(py),
        Verdict::Open => PyString::new(py, "open").into_any(),
    })
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let functions = FUNCTIONS.each_ref().map(|row| (row.form, row.meaning));
    let variables = VARIABLES
        .each_ref()
        .map(|row| (row.name(), row.kind_name(), row.is_in_answers_only(), row.meaning));
    module.add("RULE_FUNCTIONS", PyTuple::new(module.py(), functions)?)?;
    module.add("RULE_VARIABLES", PyTuple::new(module.py(), variables)?)?;
    module.add("RULE_TEXT_BYTES_MAX", rules::TEXT_BYTES_MAX)?;
    module.add("RULE_DEPTH_MAX", rules::DEPTH_MAX)?;
    module.add("RULE_NODES_MAX", rules::NODES_MAX)?;
    module.add_class::<RuleReport>()?;
    module.add_function(wrap_pyfunction!(check_rule, module)?)?;
    module.add_function(wrap_pyfunction!(evaluate_rule, module)?)
}
