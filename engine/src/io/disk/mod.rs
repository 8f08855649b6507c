//! Backing devices: how the core's disk operations reach a disk.
//!
//! Three drivers execute them, chosen by looking at the backing, because what is quick on one is slow on
//! another: a page-cache file is written in place (`inline`; handing a 1 µs copy to a worker costs 40), a real
//! disk is driven by `io_uring` with O_DIRECT, and where the kernel forbids io_uring by a few `threads`.

mod device;
mod inline;
mod threads;
mod uring;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

pub(super) use device::lives_in_memory;
pub use device::{Device, DeviceKind};
pub use inline::Inline;
pub use threads::Threads;
pub use uring::Uring;

use super::failure::{Failure, FailureKind};
use crate::core::{DiskOp, Errno, Token};
use crate::payload::Payload;

/// One finished operation.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub result: Result<Option<Payload>, Errno>,
}

/// Executes disk operations. Operations may finish in any order; the core never has two in flight that
/// overlap and of which one writes.
pub trait Disk {
    /// Starts `op`, or does it at once and adds its completion to `done`.
    fn submit(&mut self, token: Token, op: DiskOp, done: &mut Vec<Completion>);

    /// Hands everything submitted since the last call to the kernel.
    fn kick(&mut self) -> io::Result<()>;

    /// One of them is readable when [`reap`](Self::reap) has something. The set never changes.
    fn event_fds(&self) -> Vec<RawFd>;

    /// Collects what has finished; never blocks.
    fn reap(&mut self, done: &mut Vec<Completion>);

    /// The name of the driver in use.
    fn driver(&self) -> Driver;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Decided by [`start`].
    #[default]
    Auto,
    Inline,
    IoUring,
    Threads,
}

/// Starts the driver `wanted` on an open device; `Auto` chooses by what the device is.
///
/// # Errors
/// When a driver was asked for by name and the kernel does not allow it.
pub fn start(device: Arc<Device>, wanted: Driver) -> Result<Box<dyn Disk>, Failure> {
    let fail = |error: io::Error| {
        Failure::new(
            FailureKind::Failed,
            format!("disk driver for {}: {error}", device.path().display()),
            "use disk_driver \"auto\", or allow io_uring (sysctl kernel.io_uring_disabled=0)",
        )
    };
    match wanted {
        Driver::Auto if device.in_memory() => Ok(Box::new(Inline::new(device.clone()).map_err(fail)?)),
        // A disk behind the page cache: any write may have to wait for it, and a ring hands each to a worker.
        Driver::Auto if !device.is_direct() => Ok(Box::new(Threads::new(device.clone()).map_err(fail)?)),
        Driver::Auto => match Uring::new(device.clone()) {
            Ok(ring) => Ok(Box::new(ring)),
            // Forbidden by sysctl or seccomp, or too old: not worth a word, the threads do it.
            Err(_) => Ok(Box::new(Threads::new(device.clone()).map_err(fail)?)),
        },
        Driver::Inline => Ok(Box::new(Inline::new(device.clone()).map_err(fail)?)),
        Driver::IoUring => Ok(Box::new(Uring::new(device.clone()).map_err(fail)?)),
        Driver::Threads => Ok(Box::new(Threads::new(device.clone()).map_err(fail)?)),
    }
}

/// The error number of a failed call; EIO for errors the library made up (a short read).
fn errno(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests;
