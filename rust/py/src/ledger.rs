//! `modelux._native.Ledger`, `Slots`, `window`: the ledger, for keeper, writer, tools and tests.
//!
//! Workers hold and settle in Rust; `Ledger.turn` is the same, driven step by step from a
//! generator, so that a test may fail, kill or be killed between any two steps.

use std::path::PathBuf;

use modelux_core::cells::Cells;
use modelux_core::ledger::row::{Balance, BudgetId, RowKey, SubjectId};
use modelux_core::ledger::window::{Calendar, Period, is_timezone};
use modelux_core::ledger::{
    HoldRow, Ledger, LedgerFault, RowView, Slots, Turn, discard, recover,
};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyStopIteration, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

create_exception!(
    modelux._native,
    LedgerError,
    PyException,
    "The ledger cannot do what was asked; the message says why."
);

create_exception!(
    modelux._native,
    LedgerFullError,
    LedgerError,
    "There is no room in the ledger."
);

create_exception!(
    modelux._native,
    LedgerNotOursError,
    LedgerError,
    "The ledger is missing, unfinished, a copy, of another boot or of another layout."
);

create_exception!(
    modelux._native,
    LedgerInconsistentError,
    LedgerError,
    "What stands in the ledger contradicts itself, or what was asked contradicts it."
);

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn to_python(fault: LedgerFault) -> PyErr {
    let message = fault.to_string();
    match fault {
        LedgerFault::Full => LedgerFullError::new_err(message),
        LedgerFault::Inconsistent(_) => LedgerInconsistentError::new_err(message),
        LedgerFault::NotOurs(_) => LedgerNotOursError::new_err(message),
        LedgerFault::Io(_) => LedgerError::new_err(message),
    }
}

/// key, subject, start and end of the window, spent, held, credits, overrun, crash, requests,
/// overruns, flags.
type Row<'py> =
    (Bound<'py, PyBytes>, String, i64, Option<i64>, u64, u64, u64, u64, u64, u64, u64, u32);

/// Target, factor and worst ratio in thousandths.
type Factor = (String, u32, u32);

fn to_row(py: Python<'_>, view: RowView) -> Row<'_> {
    let Balance {
        spent_nusd,
        held_nusd,
        credits_nusd,
        overrun_nusd,
        crash_nusd,
        requests,
        overruns,
        flags,
    } = view.balance;
    (
        PyBytes::new(py, view.key.as_bytes()),
        view.subject,
        view.key.window_start_s(),
        view.window_end_s,
        spent_nusd,
        held_nusd,
        credits_nusd,
        overrun_nusd,
        crash_nusd,
        requests,
        overruns,
        flags,
    )
}

fn from_row(row: Row<'_>) -> PyResult<RowView> {
    let (key, subject, _, window_end_s, spent, held, credits, ..) = row;
    let (.., overrun, crash, requests, overruns, flags) = row;
    Ok(RowView {
        key: to_key(key.as_bytes())?,
        subject,
        window_end_s,
        balance: Balance {
            spent_nusd: spent,
            held_nusd: held,
            credits_nusd: credits,
            overrun_nusd: overrun,
            crash_nusd: crash,
            requests,
            overruns,
            flags,
        },
    })
}

fn to_key(bytes: &[u8]) -> PyResult<RowKey> {
    RowKey::from_bytes(bytes).ok_or_else(|| PyValueError::new_err("key: 40 bytes"))
}

fn to_budget(bytes: &[u8]) -> PyResult<BudgetId> {
    bytes.try_into().map_err(|_| PyValueError::new_err("budget: 16 bytes"))
}

/// The ledger, as this process has it open.
#[pyclass(name = "Ledger", module = "modelux._native")]
struct PyLedger(Option<Ledger>);

#[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over owned values")]
#[pymethods]
impl PyLedger {
    #[staticmethod]
    #[pyo3(signature = (state_dir, *, map_bytes, stamp))]
    fn create(
        py: Python<'_>,
        state_dir: PathBuf,
        map_bytes: u64,
        stamp: &str,
    ) -> PyResult<Self> {
        let made = py.detach(|| Ledger::create(&state_dir, map_bytes, stamp));
        Ok(Self(Some(made.map_err(to_python)?)))
    }

    #[staticmethod]
    #[pyo3(signature = (state_dir, generation = 0))]
    fn open(state_dir: PathBuf, generation: u64) -> PyResult<Self> {
        let opened = Ledger::open_worker(&state_dir, generation).map_err(to_python)?;
        Ok(Self(Some(opened)))
    }

    /// Remove the map; whoever has it open keeps it, unseen.
    #[staticmethod]
    fn discard(state_dir: PathBuf) -> PyResult<()> {
        Ok(discard(&state_dir)?)
    }

    /// Close the map, once every view of it in this process is closed.
    fn close(&mut self) {
        self.0 = None;
    }

    fn as_worker(&mut self, generation: u64) -> PyResult<Self> {
        Ok(Self(Some(self.ledger()?.as_worker(generation))))
    }

    /// Mark in the cells at `path` when this process waits for the lock and when it holds it.
    fn watch(&mut self, path: PathBuf, slot: u32) -> PyResult<()> {
        let cells = Cells::open(&path)?;
        if slot >= cells.workers() {
            return Err(PyValueError::new_err(format!("slot `{slot}` is not in the cells")));
        }
        self.ledger()?.watch(cells, slot);
        Ok(())
    }

    #[getter]
    fn stamp(&mut self) -> PyResult<String> {
        self.ledger()?.stamp().map_err(to_python)
    }

    fn row<'py>(&mut self, py: Python<'py>, key: &[u8]) -> PyResult<Option<Row<'py>>> {
        let found = self.ledger()?.row(&to_key(key)?).map_err(to_python)?;
        Ok(found.map(|view| to_row(py, view)))
    }

    fn rows<'py>(&mut self, py: Python<'py>) -> PyResult<Vec<Row<'py>>> {
        Ok(self.changed_since(py, 0)?.1)
    }

    fn changed_since<'py>(
        &mut self,
        py: Python<'py>,
        txn_id: u64,
    ) -> PyResult<(u64, Vec<Row<'py>>)> {
        let ledger = self.ledger()?;
        let (seen, views) = py.detach(|| ledger.changed_since(txn_id)).map_err(to_python)?;
        Ok((seen, views.into_iter().map(|view| to_row(py, view)).collect()))
    }

    fn info<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let ledger = self.ledger()?;
        let info = py.detach(|| ledger.info()).map_err(to_python)?;
        let fields = PyDict::new(py);
        fields.set_item("map_bytes", info.map_bytes)?;
        fields.set_item("used_bytes", info.used_bytes)?;
        fields.set_item("readers", info.readers)?;
        fields.set_item("last_txn_id", info.last_txn_id)?;
        fields.set_item("holds", info.holds)?;
        fields.set_item("identity", info.identity)?;
        Ok(fields)
    }

    fn verify(&mut self, py: Python<'_>) -> PyResult<()> {
        let ledger = self.ledger()?;
        py.detach(|| ledger.verify()).map_err(to_python)
    }

    fn import_rows(&mut self, py: Python<'_>, rows: Vec<Row<'_>>) -> PyResult<()> {
        let views = rows.into_iter().map(from_row).collect::<PyResult<Vec<_>>>()?;
        let ledger = self.ledger()?;
        py.detach(|| ledger.import(&views)).map_err(to_python)
    }

    fn set_credits(
        &mut self,
        py: Python<'_>,
        key: &[u8],
        subject: &str,
        window_end_s: Option<i64>,
        credits_nusd: u64,
    ) -> PyResult<()> {
        let row = HoldRow { key: to_key(key)?, subject, window_end_s };
        let ledger = self.ledger()?;
        py.detach(|| ledger.set_credits(&row, credits_nusd)).map_err(to_python)
    }

    #[pyo3(signature = (before_s, copied_txn_id = u64::MAX))]
    fn drop_past(
        &mut self,
        py: Python<'_>,
        before_s: i64,
        copied_txn_id: u64,
    ) -> PyResult<usize> {
        let ledger = self.ledger()?;
        py.detach(|| ledger.drop_past(before_s, copied_txn_id)).map_err(to_python)
    }

    fn add_backfill(
        &mut self,
        py: Python<'_>,
        budget: &[u8],
        rows: Vec<(Vec<u8>, String, Option<i64>, u64)>,
    ) -> PyResult<bool> {
        let budget = to_budget(budget)?;
        let rows = rows
            .iter()
            .map(|(key, subject, window_end_s, spent_nusd)| {
                let key = to_key(key)?;
                if key.budget() != budget {
                    return Err(PyValueError::new_err("rows: a row is of another budget"));
                }
                Ok((HoldRow { key, subject, window_end_s: *window_end_s }, *spent_nusd))
            })
            .collect::<PyResult<Vec<_>>>()?;
        let ledger = self.ledger()?;
        py.detach(|| ledger.add_backfill(&budget, &rows)).map_err(to_python)
    }

    fn knows_budget(&mut self, budget: &[u8]) -> PyResult<bool> {
        self.ledger()?.knows_budget(&to_budget(budget)?).map_err(to_python)
    }

    fn clear_stale_readers(&mut self, py: Python<'_>) -> PyResult<usize> {
        let ledger = self.ledger()?;
        py.detach(|| ledger.clear_stale_readers()).map_err(to_python)
    }

    fn orphans(&mut self, py: Python<'_>) -> PyResult<Vec<u64>> {
        let ledger = self.ledger()?;
        py.detach(|| ledger.orphans()).map_err(to_python)
    }

    fn recover<'py>(
        &mut self,
        py: Python<'py>,
        generation: u64,
    ) -> PyResult<Bound<'py, PyDict>> {
        let ledger = self.ledger()?;
        let recovered = py.detach(|| recover(ledger, generation)).map_err(to_python)?;
        let fields = PyDict::new(py);
        fields.set_item("alive", recovered.alive)?;
        fields.set_item("released", recovered.released)?;
        fields.set_item("settled", recovered.settled)?;
        fields.set_item("crashed", recovered.crashed)?;
        fields.set_item("crash_nusd", recovered.crash_nusd)?;
        Ok(fields)
    }

    fn bound_factors(&mut self, py: Python<'_>) -> PyResult<(u64, Vec<Factor>)> {
        let ledger = self.ledger()?;
        let (generation, factors) = py.detach(|| ledger.bound_factors()).map_err(to_python)?;
        let tuples = factors
            .into_iter()
            .map(|factor| (factor.target, factor.factor_permille, factor.worst_permille))
            .collect();
        Ok((generation, tuples))
    }

    fn reset_bound(&mut self, py: Python<'_>, target: &str) -> PyResult<bool> {
        let ledger = self.ledger()?;
        py.detach(|| ledger.reset_bound(target)).map_err(to_python)
    }

    /// One write transaction: each step that `steps` yields is done and its result sent back.
    fn turn(&mut self, steps: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = steps.py();
        let mut turn = self.ledger()?.turn().map_err(to_python)?;
        let mut result = py.None();
        loop {
            match steps.call_method1("send", (result,)) {
                Ok(step) => result = do_step(&mut turn, &step)?.unbind(),
                Err(error) if error.is_instance_of::<PyStopIteration>(py) => break,
                // The generator failed: its turn has never been.
                Err(error) => return Err(error),
            }
        }
        turn.commit().map_err(to_python)
    }
}

impl PyLedger {
    fn ledger(&mut self) -> PyResult<&mut Ledger> {
        self.0.as_mut().ok_or_else(|| PyValueError::new_err("the ledger is closed"))
    }
}

fn do_step<'py>(turn: &mut Turn<'_>, step: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = step.py();
    let kind: String = step.get_item(0)?.extract()?;
    match kind.as_str() {
        "balance" => {
            let (_, key): (String, Vec<u8>) = step.extract()?;
            let key = to_key(&key)?;
            let balance = turn.balance(&key).map_err(to_python)?;
            let view = RowView { key, subject: String::new(), window_end_s: None, balance };
            Ok(to_row(py, view).into_pyobject(py)?.into_any())
        }
        "subjects" => {
            let (_, budget, start_s): (String, Vec<u8>, i64) = step.extract()?;
            let count = turn.subjects(&to_budget(&budget)?, start_s).map_err(to_python)?;
            Ok(count.into_pyobject(py)?.into_any())
        }
        "hold" => {
            type Step = (String, u64, u32, u64, Vec<(Vec<u8>, String, Option<i64>)>);
            let (_, seq, slot, amount_nusd, rows): Step = step.extract()?;
            let rows = rows
                .iter()
                .map(|(key, subject, window_end_s)| {
                    Ok(HoldRow { key: to_key(key)?, subject, window_end_s: *window_end_s })
                })
                .collect::<PyResult<Vec<_>>>()?;
            if rows.is_empty() {
                return Err(PyValueError::new_err("hold: at least one row"));
            }
            turn.hold(seq, [0; 16], slot, amount_nusd, 0, &rows).map_err(to_python)?;
            Ok(py.None().into_bound(py))
        }
        "settle" => {
            let (_, seq, charge_nusd): (String, u64, u64) = step.extract()?;
            let settled = turn.settle(seq, charge_nusd).map_err(to_python)?;
            let found = settled.map(|settled| (settled.amount_nusd, settled.overrun_nusd));
            found.into_pyobject(py)
        }
        "flag" => {
            type Step = (String, Vec<u8>, String, Option<i64>, u32);
            let (_, key, subject, window_end_s, flags): Step = step.extract()?;
            let row = HoldRow { key: to_key(&key)?, subject: &subject, window_end_s };
            turn.flag(&row, flags).map_err(to_python)?;
            Ok(py.None().into_bound(py))
        }
        "overrun" => {
            let (_, target, charge, bound, now_us): (String, String, u64, u64, u64) =
                step.extract()?;
            let raised = turn.record_overrun(&target, charge, bound, now_us);
            Ok(raised.map_err(to_python)?.into_pyobject(py)?)
        }
        _ => Err(PyValueError::new_err(format!(
            "`{kind}`: balance, flag, hold, overrun, settle or subjects"
        ))),
    }
}

/// A worker's slots, as workers have them in Rust; in Python for tests.
#[pyclass(name = "Slots", module = "modelux._native")]
struct PySlots(Option<Slots>);

#[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over owned values")]
#[pymethods]
impl PySlots {
    #[new]
    fn new(state_dir: PathBuf, generation: u64, count: u32) -> PyResult<Self> {
        Ok(Self(Some(Slots::create(&state_dir, generation, count)?)))
    }

    fn take(&mut self) -> PyResult<Option<u32>> {
        Ok(self.slots()?.take())
    }

    fn held(&mut self, slot: u32, seq: u64) -> PyResult<()> {
        self.slots()?.held(slot, seq);
        Ok(())
    }

    fn sent(&mut self, slot: u32, charge_if_dead: u64) -> PyResult<()> {
        self.slots()?.sent(slot, charge_if_dead);
        Ok(())
    }

    fn progress(&mut self, slot: u32, charge_if_dead: u64) -> PyResult<()> {
        self.slots()?.progress(slot, charge_if_dead);
        Ok(())
    }

    fn done(&mut self, slot: u32, charge: u64) -> PyResult<()> {
        self.slots()?.done(slot, charge);
        Ok(())
    }

    fn free(&mut self, slot: u32) -> PyResult<()> {
        self.slots()?.free(slot);
        Ok(())
    }

    /// Let go of the lock: for everyone else the owner is dead.
    fn close(&mut self) {
        self.0 = None;
    }
}

impl PySlots {
    fn slots(&mut self) -> PyResult<&mut Slots> {
        self.0.as_mut().ok_or_else(|| PyValueError::new_err("the slots are closed"))
    }
}

/// The key of a budget's row: of the values of its `*` scopes, or its only one without.
#[pyfunction]
#[pyo3(signature = (budget, values, window_start_s, *, overflow = false))]
fn row_key<'py>(
    py: Python<'py>,
    budget: &[u8],
    values: Option<Vec<String>>,
    window_start_s: i64,
    overflow: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let subject = match (values, overflow) {
        (_, true) => SubjectId::OVERFLOW,
        (None, false) => SubjectId::NONE,
        (Some(values), false) => {
            SubjectId::of(&values.iter().map(String::as_str).collect::<Vec<_>>())
        }
    };
    let key = RowKey::new(&to_budget(budget)?, subject, window_start_s);
    Ok(PyBytes::new(py, key.as_bytes()))
}

/// The window that `unix_s` lies in: its first second, and the first after it.
#[pyfunction]
fn window(timezone: &str, period: &str, unix_s: i64) -> PyResult<(i64, Option<i64>)> {
    let period = Period::from_word(period).ok_or_else(|| {
        PyValueError::new_err(format!("period `{period}`: daily, weekly, monthly or total"))
    })?;
    let calendar = Calendar::new(timezone, period).map_err(PyValueError::new_err)?;
    let window = calendar.window(unix_s);
    Ok((window.start_s, window.end_s))
}

/// Whether the zone data that comes with modelux has this name.
#[pyfunction(name = "is_timezone")]
fn is_known_timezone(name: &str) -> bool {
    is_timezone(name)
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("LedgerError", py.get_type::<LedgerError>())?;
    module.add("LedgerFullError", py.get_type::<LedgerFullError>())?;
    module.add("LedgerInconsistentError", py.get_type::<LedgerInconsistentError>())?;
    module.add("LedgerNotOursError", py.get_type::<LedgerNotOursError>())?;
    module.add_class::<PyLedger>()?;
    module.add_class::<PySlots>()?;
    module.add_function(wrap_pyfunction!(row_key, module)?)?;
    module.add_function(wrap_pyfunction!(window, module)?)?;
    module.add_function(wrap_pyfunction!(is_known_timezone, module)?)
}
