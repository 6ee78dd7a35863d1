//! TOML with positions: the values as plain Python data, and the line of every key path, so that
//! a fault in a configuration can name its place. A number with a fraction is a `Decimal` of the
//! digits that stand there: it may be money. The validation itself is Python's.

use std::ops::Range;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use toml_edit::{Array, Datetime, ImDocument, Item, Key, TableLike, Value};

/// Adds this file's functions to the module.
///
/// # Errors
/// Only what the interpreter itself raises.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(parse_toml, module)?)
}

/// Parses a TOML document into its values and a map from key path to line, counted from 1.
///
/// # Errors
/// `ValueError(message, line, column)` where the text is not TOML; both count from 1, the column
/// in characters.
#[pyfunction]
fn parse_toml<'py>(
    py: Python<'py>,
    text: &str,
) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
    let lines = Lines::of(text);
    let document = ImDocument::parse(text).map_err(|fault| {
        let at = fault.span().map_or(0, |span| span.start);
        let (line, column) = lines.line_and_column(text, at);
        let message = fault.message().trim().replace('\n', ", ");
        PyValueError::new_err((message, line, column))
    })?;
    let walk = Walk { py, text, lines, spans: PyDict::new(py) };
    let data = walk.table(document.as_table(), "")?;
    Ok((data, walk.spans))
}

/// Where each line of the text starts.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { starts: std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect() }
    }

    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    fn line_and_column(&self, text: &str, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let before = text.get(self.starts[line - 1]..at).unwrap_or("");
        (line, before.chars().count() + 1)
    }
}

struct Walk<'py, 'text> {
    py: Python<'py>,
    text: &'text str,
    lines: Lines,
    spans: Bound<'py, PyDict>,
}

impl<'py> Walk<'py, '_> {
    fn mark(&self, path: &str, span: Option<Range<usize>>) -> PyResult<()> {
        match span {
            Some(span) => self.spans.set_item(path, self.lines.line(span.start)),
            None => Ok(()),
        }
    }

    fn table(&self, table: &dyn TableLike, path: &str) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(self.py);
        for (name, item) in table.iter() {
            let inner = join(path, name);
            let key = table.get_key_value(name).map(|(key, _)| key);
            self.mark(&inner, key.and_then(Key::span).or_else(|| item.span()))?;
            if let Some(value) = self.item(item, &inner)? {
                out.set_item(name, value)?;
            }
        }
        Ok(out)
    }

    fn item(&self, item: &Item, path: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(match item {
            Item::None => None,
            Item::Value(value) => Some(self.value(value, path)?),
            Item::Table(table) => Some(self.table(table, path)?.into_any()),
            Item::ArrayOfTables(tables) => {
                let out = PyList::empty(self.py);
                for (index, table) in tables.iter().enumerate() {
                    let inner = format!("{path}[{index}]");
                    self.mark(&inner, table.span())?;
                    out.append(self.table(table, &inner)?)?;
                }
                Some(out.into_any())
            }
        })
    }

    fn value(&self, value: &Value, path: &str) -> PyResult<Bound<'py, PyAny>> {
        Ok(match value {
            Value::String(text) => text.value().into_pyobject(self.py)?.into_any(),
            Value::Integer(number) => number.value().into_pyobject(self.py)?.into_any(),
            Value::Float(number) => self.decimal(*number.value(), value.span())?,
            Value::Boolean(truth) => {
                truth.value().into_pyobject(self.py)?.to_owned().into_any()
            }
            Value::Datetime(instant) => self.instant(instant.value())?,
            Value::Array(array) => self.array(array, path)?.into_any(),
            Value::InlineTable(table) => self.table(table, path)?.into_any(),
        })
    }

    fn array(&self, array: &Array, path: &str) -> PyResult<Bound<'py, PyList>> {
        let out = PyList::empty(self.py);
        for (index, value) in array.iter().enumerate() {
            let inner = format!("{path}[{index}]");
            self.mark(&inner, value.span())?;
            out.append(self.value(value, &inner)?)?;
        }
        Ok(out)
    }

    /// Python's `Decimal` of the number as it is written; a double would lose digits.
    fn decimal(&self, number: f64, span: Option<Range<usize>>) -> PyResult<Bound<'py, PyAny>> {
        let written = span.and_then(|span| self.text.get(span));
        let digits = written.map_or_else(|| number.to_string(), |text| text.replace('_', ""));
        self.py.import("decimal")?.getattr("Decimal")?.call1((digits,))
    }

    /// One of Python's `datetime`, `date` or `time`, as `tomllib` gives it.
    fn instant(&self, instant: &Datetime) -> PyResult<Bound<'py, PyAny>> {
        let class = match (instant.date, instant.time) {
            (Some(_), Some(_)) => "datetime",
            (Some(_), None) => "date",
            (None, _) => "time",
        };
        self.py
            .import("datetime")?
            .getattr(class)?
            .call_method1("fromisoformat", (instant.to_string(),))
    }
}

/// Appends a key to a path, quoted as TOML would where it is not a bare key.
fn join(path: &str, name: &str) -> String {
    let is_bare = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    let name = if is_bare { name.to_owned() } else { format!("{name:?}") };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}
