//! The driver for page-cache files: a system call in place, because it is cheaper than any hand-over.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::threads::Lane;
use super::{errno, Completion, Device, Disk, Driver};
use crate::core::{DiskOp, Token};

/// Zeroing more than this leaves the engine's thread: it must not stall the heartbeat.
const ZERO_INLINE_MAX: u64 = 1 << 20;

pub struct Inline {
    device: Arc<Device>,
    lane: Lane,
}

impl Inline {
    pub fn new(device: Arc<Device>) -> io::Result<Inline> {
        let lane = Lane::new(device.clone(), 1)?;
        Ok(Inline { device, lane })
    }

    /// Whether `op` may wait for a disk or take long.
    fn is_slow(&self, op: &DiskOp) -> bool {
        match op {
            DiskOp::Read { .. } => false,
            DiskOp::Write { fua, .. } => *fua && !self.device.in_memory(),
            DiskOp::Zero { len, fua, .. } => *len > ZERO_INLINE_MAX || (*fua && !self.device.in_memory()),
            DiskOp::Flush => !self.device.in_memory(),
        }
    }
}

impl Disk for Inline {
    fn submit(&mut self, token: Token, op: DiskOp, done: &mut Vec<Completion>) {
        if self.is_slow(&op) {
            self.lane.submit(token, op);
        } else {
            let result = self.device.execute(&op).map_err(|error| errno(&error));
            done.push(Completion { token, result });
        }
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn event_fds(&self) -> Vec<RawFd> {
        vec![self.lane.event_fd()]
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.lane.reap(done);
    }

    fn driver(&self) -> Driver {
        Driver::Inline
    }
}
