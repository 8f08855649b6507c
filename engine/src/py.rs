//! The module `blockpair._engine`: the only file that knows Python. Everything structured crosses as JSON text, and
//! every call that can wait does so without the GIL.

use std::fs::OpenOptions;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::io::bundle;
use crate::io::engine;
use crate::io::failure::Failure;
use crate::io::listener;
use crate::io::metadata;
use crate::io::watchdog::{self, WatchdogMode};

pyo3::create_exception!(
    _engine,
    EngineError,
    PyException,
    "An engine's refusal or failure: attributes kind, message and remedy."
);

fn raise(py: Python<'_>, failure: Failure) -> PyErr {
    let error = EngineError::new_err(failure.to_string());
    let value = error.value(py);
    let attributes = [
        ("kind", failure.kind.name()),
        ("message", &failure.message),
        ("remedy", &failure.remedy),
    ];
    for (name, text) in attributes {
        if let Err(other) = value.setattr(name, text) {
            return other;
        }
    }
    error
}

/// Runs `work` without the GIL.
fn detached<T: Send, E: Into<Failure> + Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(|error| raise(py, error.into()))
}

/// Makes metadata for a resource that never had data; see the specification in the stub.
#[pyfunction]
fn create_metadata(py: Python<'_>, spec: &str) -> PyResult<String> {
    detached(py, || metadata::create_metadata(spec))
}

/// Erases metadata that was just made, and never had data.
#[pyfunction]
fn erase_metadata(py: Python<'_>, spec: &str) -> PyResult<()> {
    detached(py, || metadata::erase_metadata(spec))
}

/// Reads metadata without a lock.
#[pyfunction]
fn inspect_metadata(py: Python<'_>, spec: &str) -> PyResult<String> {
    detached(py, || metadata::inspect_metadata(spec))
}

/// As `inspect_metadata`, with the runs that are out of sync.
#[pyfunction]
fn dump_metadata(py: Python<'_>, spec: &str) -> PyResult<String> {
    detached(py, || metadata::dump_metadata(spec))
}

/// A bundle's facts as JSON; with `verify`, all its blocks are compared with their checksums before.
#[pyfunction]
fn show_bundle(py: Python<'_>, path: PathBuf, verify: bool) -> PyResult<String> {
    detached(py, || {
        bundle::files::show(&path, verify).map(|shown| shown.to_string())
    })
}

/// Writes a bundle's blocks through the NBD socket of a Primary, and flushes. The bytes written.
#[pyfunction]
fn restore_bundle(py: Python<'_>, path: PathBuf, socket: PathBuf) -> PyResult<u64> {
    detached(py, || {
        let mut opened = bundle::files::open(&path)?;
        bundle::restore(&mut opened, &socket).map_err(|error| bundle::files::failure(&path, &error))
    })
}

/// Copies the export on an NBD socket to a file that is there, and empty. Its bytes.
#[pyfunction]
fn copy_image(py: Python<'_>, socket: PathBuf, file: PathBuf) -> PyResult<u64> {
    detached(py, || {
        let told = |error: std::io::Error| Failure::system(file.display(), &error);
        let image = OpenOptions::new().write(true).open(&file).map_err(told)?;
        bundle::copy_image(&socket, &image).map_err(told)
    })
}

/// The replication port: one a daemon.
#[pyclass(frozen)]
struct Listener(listener::Listener);

#[pymethods]
impl Listener {
    #[new]
    fn new(py: Python<'_>, address: &str, port: u16) -> PyResult<Listener> {
        detached(py, || listener::Listener::open(address, port)).map(Listener)
    }

    /// The port in use, also when 0 was asked for.
    #[getter]
    fn port(&self) -> u16 {
        self.0.port()
    }

    /// What new connections are to trust, as JSON, or None.
    #[pyo3(signature = (trust))]
    fn set_trust(&self, py: Python<'_>, trust: Option<&str>) -> PyResult<()> {
        detached(py, || self.0.set_trust(trust))
    }

    /// Readable when `events` has something.
    fn event_fd(&self) -> RawFd {
        self.0.event_fd()
    }

    /// The events since the last call that are no resource's, as JSON.
    fn events(&self) -> String {
        self.0.events()
    }

    /// Stops listening; idempotent.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

/// The node's watchdog: one a daemon.
#[pyclass(frozen)]
struct Watchdog(Arc<watchdog::Watchdog>);

#[pymethods]
impl Watchdog {
    #[new]
    fn new(path: PathBuf, timeout_seconds: u64, mode: &str) -> PyResult<Watchdog> {
        let mode = match mode {
            "log" => WatchdogMode::Log,
            "required" => WatchdogMode::Required,
            _ => return Err(PyValueError::new_err("a watchdog's mode is log or required")),
        };
        let timeout = Duration::from_secs(timeout_seconds);
        Ok(Watchdog(Arc::new(watchdog::Watchdog::new(path, timeout, mode))))
    }

    /// Goes on with (and owns from here on) a descriptor of an earlier process; what went wrong, or None.
    fn inherit(&self, fd: RawFd) -> PyResult<Option<String>> {
        if fd < 0 {
            return Err(PyValueError::new_err("that is no descriptor"));
        }
        // SAFETY: the caller hands the descriptor over, as documented.
        Ok(self.0.inherit(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The open device's descriptor, the watchdog's own; None while it is not armed.
    fn descriptor(&self) -> Option<RawFd> {
        self.0.descriptor()
    }

    /// Stops it where no resource is Primary here; what went wrong, or None.
    fn release(&self) -> Option<String> {
        self.0.release()
    }
}

/// One resource's engine.
#[pyclass(frozen)]
struct Engine(engine::Engine);

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (spec, listener, watchdog = None))]
    fn new(
        py: Python<'_>,
        spec: &str,
        listener: &Bound<'_, Listener>,
        watchdog: Option<&Bound<'_, Watchdog>>,
    ) -> PyResult<Engine> {
        let listener = &listener.get().0;
        let watchdog = watchdog.map(|watchdog| Arc::clone(&watchdog.get().0));
        detached(py, || engine::Engine::start_watched(spec, listener, watchdog)).map(Engine)
    }

    /// Executes one command, given as JSON.
    fn call(&self, py: Python<'_>, command: &str) -> PyResult<()> {
        detached(py, || self.0.call(command))
    }

    /// The status as JSON.
    fn status(&self, py: Python<'_>) -> String {
        py.detach(|| self.0.status())
    }

    /// Readable when `events` has something.
    fn event_fd(&self) -> RawFd {
        self.0.event_fd()
    }

    /// The events since the last call, as JSON.
    fn events(&self) -> String {
        self.0.events()
    }

    /// What comparing both copies has shown since the last call, as JSON.
    fn verified(&self) -> String {
        self.0.verified()
    }

    /// Holds a range for a decision between this disk's own copies: the hold's number, and the peer's copy.
    fn hold<'py>(&self, py: Python<'py>, offset: u64, length: u64) -> PyResult<(u64, Bound<'py, PyBytes>)> {
        let (ticket, data) = detached(py, || self.0.hold(offset, length))?;
        Ok((ticket, PyBytes::new(py, &data)))
    }

    /// Until when this node may serve, in seconds of CLOCK_BOOTTIME: 0 when it may not, infinity without a lease.
    fn serves_until(&self) -> f64 {
        match self.0.serves_until() {
            u64::MAX => f64::INFINITY,
            until => until as f64 / 1e9,
        }
    }

    /// What the arbiter is to be asked now, as JSON.
    fn asks(&self) -> String {
        self.0.asks()
    }

    /// The arbiter's answer, as JSON.
    fn arbiter_says(&self, py: Python<'_>, ask: u64, configuration: &str) -> PyResult<()> {
        detached(py, || self.0.arbiter_says(ask, configuration))
    }

    /// Takes over (and from here on owns) a connected NBD socket that is in the transmission phase.
    fn attach(&self, py: Python<'_>, fd: RawFd) -> PyResult<()> {
        if fd < 0 {
            let error = std::io::Error::from_raw_os_error(libc::EBADF);
            return Err(raise(py, Failure::system(format!("socket {fd}"), &error)));
        }
        // SAFETY: the caller hands the descriptor over, as documented.
        self.0.attach(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(())
    }

    /// Closes the sockets that were attached.
    fn detach(&self, py: Python<'_>) {
        py.detach(|| self.0.detach());
    }

    /// Marks the engine's threads as I/O flushers, or no more.
    fn io_flusher(&self, on: bool) {
        self.0.io_flusher(on);
    }

    /// Serves a bundle over the present device on a Unix socket; blocks changed since, None when not known.
    fn export_bundle(&self, py: Python<'_>, path: PathBuf, socket: PathBuf) -> PyResult<Option<u64>> {
        detached(py, || self.0.export_bundle(&path, &socket))
    }

    /// Ends that export; idempotent.
    fn end_export(&self, py: Python<'_>, socket: PathBuf) {
        py.detach(|| self.0.end_export(&socket));
    }

    /// What a connect to a peer would do, as JSON; asks the peer.
    fn consult(&self, py: Python<'_>, spec: &str) -> PyResult<String> {
        detached(py, || self.0.consult(spec))
    }

    /// What is marked for a peer at this moment, as JSON.
    fn marks(&self, py: Python<'_>, peer: &str) -> PyResult<String> {
        detached(py, || self.0.marks(peer))
    }

    /// Peers that wait for this node's report.
    fn reports_asked(&self) -> Vec<String> {
        self.0.reports_asked()
    }

    /// Answers a peer that waits for a report.
    fn report(&self, py: Python<'_>, peer: &str, text: &str) -> PyResult<()> {
        detached(py, || self.0.report(peer, text))
    }

    /// Drains, flushes, ends the thread, unlocks; idempotent.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.0.stop())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Collected without a stop: it stops now, and must not hold up every other Python thread meanwhile.
        Python::attach(|py| {
            // Nobody is left to be told of a failure.
            py.detach(|| self.0.let_go());
        });
    }
}

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("EngineError", module.py().get_type::<EngineError>())?;
    module.add_class::<Listener>()?;
    module.add_class::<Engine>()?;
    module.add_class::<Watchdog>()?;
    module.add_function(wrap_pyfunction!(show_bundle, module)?)?;
    module.add_function(wrap_pyfunction!(restore_bundle, module)?)?;
    module.add_function(wrap_pyfunction!(copy_image, module)?)?;
    module.add_function(wrap_pyfunction!(create_metadata, module)?)?;
    module.add_function(wrap_pyfunction!(erase_metadata, module)?)?;
    module.add_function(wrap_pyfunction!(inspect_metadata, module)?)?;
    module.add_function(wrap_pyfunction!(dump_metadata, module)?)
}
