//! A few threads that execute blocking operations: the driver where io_uring is not allowed, and the slow
//! lane of the other two.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{errno, Completion, Device, Disk, Driver};
use crate::core::{DiskOp, Errno, Token};
use crate::io::event::EventFd;

/// Threads of the driver: enough for a disk's queue without swamping a small machine.
const THREADS: usize = 8;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(Token, DiskOp)>,
    closed: bool,
}

struct Shared {
    device: Arc<Device>,
    queue: Mutex<Queue>,
    work: Condvar,
    finished: Mutex<Vec<Completion>>,
    wake: EventFd,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker holds these locks for a push or a pop only; what they guard is whole even after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A queue served by a fixed number of threads, started when first used.
pub struct Lane {
    shared: Arc<Shared>,
    threads: usize,
    workers: Vec<JoinHandle<()>>,
    in_flight: usize,
}

impl Lane {
    pub fn new(device: Arc<Device>, threads: usize) -> io::Result<Lane> {
        Ok(Lane {
            shared: Arc::new(Shared {
                device,
                queue: Mutex::default(),
                work: Condvar::new(),
                finished: Mutex::default(),
                wake: EventFd::new()?,
            }),
            threads,
            workers: Vec::new(),
            in_flight: 0,
        })
    }

    pub fn submit(&mut self, token: Token, op: DiskOp) {
        self.in_flight += 1;
        if self.workers.is_empty() {
            self.start();
        }
        if self.workers.is_empty() {
            // Not one thread to be had: late is better than never.
            run(&self.shared, token, op);
            return;
        }
        lock(&self.shared.queue).jobs.push_back((token, op));
        self.shared.work.notify_one();
    }

    fn start(&mut self) {
        for number in 0..self.threads {
            let shared = self.shared.clone();
            let worker = std::thread::Builder::new()
                .name(format!("bp-disk-{number}"))
                .spawn(move || serve(&shared));
            self.workers.extend(worker);
        }
    }

    pub fn event_fd(&self) -> RawFd {
        self.shared.wake.fd()
    }

    pub fn reap(&mut self, done: &mut Vec<Completion>) {
        // Looked at in every turn: idle, it must cost nothing.
        if self.in_flight == 0 {
            return;
        }
        self.shared.wake.clear();
        let mut finished = lock(&self.shared.finished);
        self.in_flight -= finished.len();
        done.append(&mut finished);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // Panics inside of operations are caught, and there is nothing else to panic.
            let _ = worker.join();
        }
    }
}

fn serve(shared: &Shared) {
    let mut marked = false;
    loop {
        let mut queue = lock(&shared.queue);
        let (token, op) = loop {
            if let Some(job) = queue.jobs.pop_front() {
                break job;
            }
            if queue.closed {
                return;
            }
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queue);
        shared.device.mark_thread(&mut marked);
        run(shared, token, op);
    }
}

fn run(shared: &Shared, token: Token, op: DiskOp) {
    // A panic fails its operation; a completion that never comes would hang the resource.
    let outcome = catch_unwind(AssertUnwindSafe(|| shared.device.execute(&op)));
    let result = outcome.map_or(Err(Errno::EIO), |result| result.map_err(|error| errno(&error)));
    // The payload of a write belongs to the buffer pool of the thread that made it: let go of it before the
    // completion is seen, so that its owner is the last to hold it.
    drop(op);
    lock(&shared.finished).push(Completion { token, result });
    shared.wake.signal();
}

/// The driver made of such threads.
pub struct Threads(Lane);

impl Threads {
    pub fn new(device: Arc<Device>) -> io::Result<Threads> {
        Ok(Threads(Lane::new(device, THREADS)?))
    }
}

impl Disk for Threads {
    fn submit(&mut self, token: Token, op: DiskOp, _done: &mut Vec<Completion>) {
        self.0.submit(token, op);
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn event_fds(&self) -> Vec<RawFd> {
        vec![self.0.event_fd()]
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.0.reap(done);
    }

    fn driver(&self) -> Driver {
        Driver::Threads
    }
}
