//! `modelux._native.RingReader`, `RingWriter` and `Redactor`: traces out of the workers.

use std::path::PathBuf;

use modelux_core::ring::{Accepted, Bodies, RingFault, RingReader, RingWriter, Stats};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

create_exception!(
    modelux._native,
    RingError,
    PyException,
    "A trace ring that cannot be read: another layout or boot, damaged, or read by another."
);

create_exception!(
    modelux._native,
    RingBusyError,
    RingError,
    "Another process reads this ring; it may be free a little later."
);

fn to_python(fault: RingFault) -> PyErr {
    match fault {
        RingFault::Io(error) => error.into(),
        RingFault::HasReader => RingBusyError::new_err(fault.to_string()),
        other => RingError::new_err(other.to_string()),
    }
}

fn stats_dict<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let counts = PyDict::new(py);
    counts.set_item("accepted", stats.accepted)?;
    counts.set_item("spilled", stats.spilled)?;
    counts.set_item("bodies_cut", stats.bodies_cut)?;
    counts.set_item("bodies_shed", stats.bodies_shed)?;
    counts.set_item("large_bodies_shed", stats.large_bodies_shed)?;
    counts.set_item("lost", stats.lost)?;
    Ok(counts)
}

/// The producing end, as workers hold it in Rust; in Python for tests.
#[pyclass(name = "RingWriter", module = "modelux._native")]
struct PyRingWriter(Option<RingWriter>);

#[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over owned values")]
#[pymethods]
impl PyRingWriter {
    #[new]
    #[pyo3(signature = (
        path, spill_dir, *, ring_bytes, spill_max_bytes, boot_id = "", slot = 0, generation = 0
    ))]
    fn new(
        path: PathBuf,
        spill_dir: PathBuf,
        ring_bytes: u64,
        spill_max_bytes: u64,
        boot_id: &str,
        slot: u32,
        generation: u64,
    ) -> PyResult<Self> {
        let writer = RingWriter::create(
            &path,
            ring_bytes,
            &spill_dir,
            spill_max_bytes,
            boot_id,
            slot,
            generation,
        )?;
        Ok(Self(Some(writer)))
    }

    #[pyo3(signature = (meta, request = None, response = None, bodies = "kept"))]
    fn append(
        &mut self,
        meta: &[u8],
        request: Option<&[u8]>,
        response: Option<&[u8]>,
        bodies: &str,
    ) -> PyResult<&'static str> {
        let bodies = Bodies::from_word(bodies)
            .ok_or_else(|| PyValueError::new_err("bodies: kept, cut, shed or off"))?;
        Ok(
            match self.writer()?.append(
                meta,
                request.unwrap_or_default(),
                response.unwrap_or_default(),
                bodies,
            ) {
                Accepted::Ring(_) => "ring",
                Accepted::Spill => "spill",
                Accepted::Lost => "lost",
            },
        )
    }

    fn stats<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.writer()?.stats();
        stats_dict(py, &stats)
    }

    /// Let go of the ring: its reader sees a dead owner.
    fn close(&mut self) {
        self.0 = None;
    }
}

impl PyRingWriter {
    fn writer(&mut self) -> PyResult<&mut RingWriter> {
        self.0.as_mut().ok_or_else(|| PyValueError::new_err("the ring is closed"))
    }
}

/// The consuming end, one a ring.
#[pyclass(name = "RingReader", module = "modelux._native")]
struct PyRingReader(Option<RingReader>);

type PyTrace<'py> =
    (Bound<'py, PyBytes>, Bound<'py, PyBytes>, Bound<'py, PyBytes>, &'static str);

#[expect(clippy::needless_pass_by_value, reason = "PyO3 hands over owned values")]
#[pymethods]
impl PyRingReader {
    #[new]
    #[pyo3(signature = (path, spill_dir, boot_id = None))]
    fn new(path: PathBuf, spill_dir: PathBuf, boot_id: Option<&str>) -> PyResult<Self> {
        RingReader::open(&path, &spill_dir, boot_id)
            .map(|ring| Self(Some(ring)))
            .map_err(to_python)
    }

    #[getter]
    fn slot(&mut self) -> PyResult<u64> {
        Ok(self.reader()?.slot())
    }

    #[getter]
    fn generation(&mut self) -> PyResult<u64> {
        Ok(self.reader()?.generation())
    }

    fn read<'py>(
        &mut self,
        py: Python<'py>,
        records_max: usize,
    ) -> PyResult<Vec<PyTrace<'py>>> {
        let traces = self.reader()?.read(records_max).map_err(to_python)?;
        Ok(traces
            .into_iter()
            .map(|trace| {
                (
                    PyBytes::new(py, &trace.meta),
                    PyBytes::new(py, &trace.request),
                    PyBytes::new(py, &trace.response),
                    trace.bodies.as_str(),
                )
            })
            .collect())
    }

    fn commit(&mut self) -> PyResult<()> {
        Ok(self.reader()?.commit()?)
    }

    fn skip(&mut self) -> PyResult<u64> {
        Ok(self.reader()?.skip()?)
    }

    fn owner_alive(&mut self) -> PyResult<bool> {
        Ok(self.reader()?.owner_alive()?)
    }

    fn is_drained(&mut self) -> PyResult<bool> {
        Ok(self.reader()?.is_drained())
    }

    fn backlog_bytes(&mut self) -> PyResult<u64> {
        Ok(self.reader()?.backlog_bytes())
    }

    fn stats<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.reader()?.stats();
        stats_dict(py, &stats)
    }

    /// Delete ring and spill, and close.
    fn remove(&mut self) -> PyResult<()> {
        if !self.reader()?.is_drained() {
            return Err(PyValueError::new_err("the ring is not drained"));
        }
        match self.0.take() {
            Some(ring) => Ok(ring.remove()?),
            None => Ok(()),
        }
    }

    /// Stop reading; another reader may go on.
    fn close(&mut self) {
        self.0 = None;
    }
}

impl PyRingReader {
    fn reader(&mut self) -> PyResult<&mut RingReader> {
        self.0.as_mut().ok_or_else(|| PyValueError::new_err("the reader is closed"))
    }
}

/// Add this file's names to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("RingBusyError", module.py().get_type::<RingBusyError>())?;
    module.add("RingError", module.py().get_type::<RingError>())?;
    module.add_class::<PyRingWriter>()?;
    module.add_class::<PyRingReader>()
}
