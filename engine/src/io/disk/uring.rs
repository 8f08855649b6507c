//! The driver for real disks: io_uring with O_DIRECT, one submission call a turn of the reactor.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types, IoUring};

use super::threads::Lane;
use super::{errno, Completion, Device, Disk, Driver};
use crate::core::{DiskOp, Errno, Token};
use crate::payload::{Buffer, Payload};

/// Operations in the kernel at a time; more wait here.
const DEPTH: u32 = 256;
/// How long a closing driver waits for operations that the disk still owes.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// An operation, and the memory that the kernel uses until it completes.
struct Operation {
    token: Token,
    memory: Memory,
    /// Where the transfer starts on the device, and how much of it is done.
    offset: u64,
    done: usize,
}

enum Memory {
    /// The buffer covers whole blocks; the caller wants `len` bytes from `skip` on.
    Read {
        buffer: Buffer,
        skip: usize,
        len: usize,
    },
    Write {
        payload: Payload,
        fua: bool,
    },
    Nothing,
}

impl Operation {
    fn span(&self) -> usize {
        match &self.memory {
            Memory::Read { buffer, .. } => buffer.len(),
            Memory::Write { payload, .. } => payload.len(),
            Memory::Nothing => 0,
        }
    }

    /// The ring's description of what is left to do.
    fn entry(&mut self, fd: RawFd) -> squeue::Entry {
        // Not a registered file: a ring lets go of those some time after its end, and the lock with them.
        let device = types::Fd(fd);
        let offset = self.offset + self.done as u64;
        match &mut self.memory {
            Memory::Read { buffer, .. } => {
                let rest = &mut buffer.as_mut_slice()[self.done..];
                opcode::Read::new(device, rest.as_mut_ptr(), rest.len() as u32)
                    .offset(offset)
                    .build()
            }
            Memory::Write { payload, fua } => {
                let rest = &payload[self.done..];
                opcode::Write::new(device, rest.as_ptr(), rest.len() as u32)
                    .offset(offset)
                    .rw_flags(if *fua { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Memory::Nothing => opcode::Fsync::new(device)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        }
    }
}

pub struct Uring {
    ring: IoUring,
    device: Arc<Device>,
    /// Zeroing and writes of partial blocks.
    lane: Lane,
    /// In flight, by the ring's user data.
    operations: Vec<Option<Operation>>,
    free: Vec<usize>,
    waiting: VecDeque<Operation>,
}

impl Uring {
    /// # Errors
    /// When the kernel has no io_uring, or forbids it.
    pub fn new(device: Arc<Device>) -> io::Result<Uring> {
        // No interrupts for completions that the next system call picks up anyway; kernels before 5.19 do not know it.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .build(DEPTH)
            .or_else(|_| IoUring::new(DEPTH))?;
        let lane = Lane::new(device.clone(), 2)?;
        Ok(Uring {
            ring,
            device,
            lane,
            operations: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH as usize).rev().collect(),
            waiting: VecDeque::new(),
        })
    }

    fn start(&mut self, mut operation: Operation) {
        let Some(slot) = self.free.pop() else {
            self.waiting.push_back(operation);
            return;
        };
        let entry = operation.entry(self.device.fd()).user_data(slot as u64);
        self.operations[slot] = Some(operation);
        self.push(&entry);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the entry points into memory owned by `operations`, which keeps it in place until the
        // completion is reaped (buffers live on the heap, so moving the table's entries moves no bytes).
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            // As many entries as slots: full means not yet handed over.
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
        }
    }

    fn settle(&mut self, slot: usize, result: i32, done: &mut Vec<Completion>) {
        let Some(mut operation) = self.operations[slot].take() else {
            return;
        };
        if result == -libc::EINTR || result == -libc::EAGAIN {
            return self.again(slot, operation);
        }
        if result < 0 {
            return self.finish(slot, operation.token, Err(Errno(-result)), done);
        }
        let span = operation.span();
        operation.done += result as usize;
        if operation.done < span {
            // A transfer that stopped in the middle of a block cannot be continued: the end of a file that shrank.
            if result == 0 || !self.device.is_aligned(operation.done as u64, 0) {
                return self.finish(slot, operation.token, Err(Errno::EIO), done);
            }
            return self.again(slot, operation);
        }
        let payload = match operation.memory {
            Memory::Read { buffer, skip, len } => Some(buffer.freeze().slice(skip..skip + len)),
            _ => None,
        };
        self.finish(slot, operation.token, Ok(payload), done);
    }

    fn again(&mut self, slot: usize, mut operation: Operation) {
        let entry = operation.entry(self.device.fd()).user_data(slot as u64);
        self.operations[slot] = Some(operation);
        self.push(&entry);
    }

    fn finish(
        &mut self,
        slot: usize,
        token: Token,
        result: Result<Option<Payload>, Errno>,
        done: &mut Vec<Completion>,
    ) {
        done.push(Completion { token, result });
        self.free.push(slot);
        if let Some(next) = self.waiting.pop_front() {
            self.start(next);
        }
    }

    fn reap_ring(&mut self, done: &mut Vec<Completion>) {
        loop {
            let Some(entry) = self.ring.completion().next() else {
                break;
            };
            self.settle(entry.user_data() as usize, entry.result(), done);
        }
    }
}

impl Disk for Uring {
    fn submit(&mut self, token: Token, op: DiskOp, _done: &mut Vec<Completion>) {
        let (offset, memory) = match op {
            DiskOp::Read { offset, len } => {
                let (start, span) = self.device.widen(offset, u64::from(len));
                let (skip, len) = ((offset - start) as usize, len as usize);
                (
                    start,
                    Memory::Read {
                        buffer: Buffer::new(span),
                        skip,
                        len,
                    },
                )
            }
            DiskOp::Write { offset, payload, fua }
                if self.device.is_aligned(offset, payload.len() as u64) =>
            {
                let payload = self.device.suitable(payload);
                (offset, Memory::Write { payload, fua })
            }
            DiskOp::Flush => (0, Memory::Nothing),
            op => return self.lane.submit(token, op),
        };
        self.start(Operation {
            token,
            memory,
            offset,
            done: 0,
        });
    }

    fn kick(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        match self.ring.submit() {
            Ok(_) => Ok(()),
            // Out of some resource for now: what was not taken stays queued for the next turn.
            Err(error) if matches!(errno(&error).0, libc::EAGAIN | libc::EBUSY | libc::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn event_fds(&self) -> Vec<RawFd> {
        // A ring is readable while completions wait.
        vec![self.ring.as_raw_fd(), self.lane.event_fd()]
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.reap_ring(done);
        self.lane.reap(done);
    }

    fn driver(&self) -> Driver {
        Driver::IoUring
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let deadline = Instant::now() + CLOSE_WAIT;
        self.waiting.clear();
        let mut done = Vec::new();
        while self.operations.iter().any(Option::is_some) && Instant::now() < deadline {
            let pause = types::Timespec::new().nsec(100_000_000);
            let arguments = types::SubmitArgs::new().timespec(&pause);
            // A timeout is an error too; the loop's condition decides.
            let _ = self.ring.submitter().submit_with_args(1, &arguments);
            self.reap_ring(&mut done);
        }
        // A disk that hangs may still write into this memory some day: it is given up, never reused.
        for operation in self.operations.drain(..).flatten() {
            std::mem::forget(operation);
        }
    }
}
