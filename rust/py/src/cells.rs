//! `modelux._native.Cells`: the shared counters, by name.

use std::path::PathBuf;

use modelux_core::cells::{Cell, Cells, RestartReason};
use pyo3::exceptions::{PyIndexError, PyKeyError, PyValueError};
use pyo3::prelude::*;

/// Shared counters of one node; see `modelux_core::cells`.
#[pyclass(name = "Cells", module = "modelux._native", frozen)]
struct PyCells(Cells);

#[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over owned values")]
#[pymethods]
impl PyCells {
    #[staticmethod]
    fn create(path: PathBuf, workers: u32) -> PyResult<Self> {
        Ok(Self(Cells::create(&path, workers)?))
    }

    #[staticmethod]
    fn open(path: PathBuf) -> PyResult<Self> {
        Ok(Self(Cells::open(&path)?))
    }

    #[getter]
    fn workers(&self) -> u32 {
        self.0.workers()
    }

    #[pyo3(signature = (name, slot = 0))]
    fn get(&self, name: &str, slot: u32) -> PyResult<u64> {
        Ok(self.0.get(self.cell(name, slot)?))
    }

    #[pyo3(signature = (name, value, slot = 0))]
    fn set(&self, name: &str, value: u64, slot: u32) -> PyResult<()> {
        self.0.set(self.cell(name, slot)?, value);
        Ok(())
    }

    #[pyo3(signature = (name, delta, slot = 0))]
    fn add(&self, name: &str, delta: i64, slot: u32) -> PyResult<()> {
        self.0.add(self.cell(name, slot)?, delta);
        Ok(())
    }

    fn take(
        &self,
        key: u64,
        now_us: u64,
        rpm: u32,
        burst: u32,
    ) -> PyResult<(bool, u32, u64, u64)> {
        if rpm == 0 || burst == 0 {
            return Err(PyValueError::new_err("rpm and burst must be at least 1"));
        }
        let rate = self.0.take(key, now_us, rpm, burst);
        Ok((rate.allowed, rate.remaining, rate.reset_us, rate.retry_after_us))
    }
}

impl PyCells {
    fn cell(&self, name: &str, slot: u32) -> PyResult<Cell> {
        if slot >= self.0.workers() {
            return Err(PyIndexError::new_err(format!(
                "worker slot {slot} of {}",
                self.0.workers()
            )));
        }
        Ok(match name {
            "mode" => Cell::Mode,
            "bugs" => Cell::Bugs,
            "bugs_writer" => Cell::BugsWriter,
            "bugs_control" => Cell::BugsControl,
            "restarts_exited" => Cell::Restarts(RestartReason::Exited),
            "restarts_killed" => Cell::Restarts(RestartReason::Killed),
            "restarts_stalled" => Cell::Restarts(RestartReason::Stalled),
            "restarts_replaced" => Cell::Restarts(RestartReason::Replaced),
            "snapshot_generation" => Cell::SnapshotGeneration,
            "heartbeat_us" => Cell::Heartbeat(slot),
            "in_flight" => Cell::InFlight(slot),
            "connections_open" => Cell::ConnectionsOpen(slot),
            "upstreams_open" => Cell::UpstreamsOpen(slot),
            "requests" => Cell::Requests(slot),
            "worker_snapshot" => Cell::WorkerSnapshot(slot),
            "worker_pid" => Cell::WorkerPid(slot),
            "overloaded" => Cell::Overloaded(slot),
            "ledger_state" => Cell::LedgerState(slot),
            "ledger_wait_us" => Cell::LedgerWaitUs(slot),
            "ledger_wait_max_us" => Cell::LedgerWaitMaxUs(slot),
            "ledger_held_us" => Cell::LedgerHeldUs(slot),
            "ledger_turns" => Cell::LedgerTurns(slot),
            _ => return Err(PyKeyError::new_err(format!("no cell is named `{name}`"))),
        })
    }
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCells>()
}
