//! The three ways to write a block under the epoll reactor, behind one trait.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use io_uring::{opcode, types, IoUring};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::proto::{Page, BLOCK, SLOTS};

/// Threads of the pool: enough to keep a disk's queue filled at depth 32 without a thread each.
const POOL_THREADS: usize = 8;

pub trait Disk {
    /// Starts a write; true if it is already done.
    fn write(&mut self, slot: usize, offset: u64, page: Arc<Page>) -> io::Result<bool>;
    /// Hands queued writes over and collects finished slots. `notified`: the wake descriptor was ready.
    fn turn(&mut self, notified: bool, done: &mut Vec<usize>) -> io::Result<()>;
    /// The descriptor that becomes readable when a write finishes.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Plain `pwrite` on the reactor's thread: right where it is a memory copy.
pub struct Inline(pub File);

impl Disk for Inline {
    fn write(&mut self, _slot: usize, offset: u64, page: Arc<Page>) -> io::Result<bool> {
        self.0.write_all_at(&page.0, offset).map(|()| true)
    }

    fn turn(&mut self, _notified: bool, _done: &mut Vec<usize>) -> io::Result<()> {
        Ok(())
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// How a sleeping reactor learns of io_uring completions, and whether it also looks while awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A registered eventfd; completions are taken only when it is readable.
    Eventfd,
    /// A registered eventfd, and a look at the completion ring in every turn.
    EventfdPeek,
    /// The ring's own descriptor in epoll, and a look in every turn; nothing to read back.
    RingFd,
}

pub struct Ring {
    file: File,
    ring: IoUring,
    wake: Wake,
    event: Option<EventFd>,
    /// Keeps a page alive until its completion is seen.
    in_flight: Vec<Option<Arc<Page>>>,
}

impl Ring {
    pub fn new(file: File, wake: Wake) -> io::Result<Self> {
        // Deferred task work is no choice here: it does not wake an epoll that sleeps on the ring.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .build(SLOTS as u32)?;
        let mut event = None;
        if matches!(wake, Wake::Eventfd | Wake::EventfdPeek) {
            let fd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
            ring.submitter().register_eventfd(fd.as_fd().as_raw_fd())?;
            event = Some(fd);
        }
        let in_flight = (0..SLOTS).map(|_| None).collect();
        Ok(Self {
            file,
            ring,
            wake,
            event,
            in_flight,
        })
    }
}

impl Disk for Ring {
    fn write(&mut self, slot: usize, offset: u64, page: Arc<Page>) -> io::Result<bool> {
        let entry = opcode::Write::new(types::Fd(self.file.as_raw_fd()), page.0.as_ptr(), BLOCK as u32)
            .offset(offset)
            .build()
            .user_data(slot as u64);
        self.in_flight[slot] = Some(page);
        // SAFETY: `in_flight` holds the page, unshared for writing, until this entry's completion.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        Ok(false)
    }

    fn turn(&mut self, notified: bool, done: &mut Vec<usize>) -> io::Result<()> {
        if !self.ring.submission().is_empty() {
            self.ring.submit()?;
        }
        if let (true, Some(event)) = (notified, &self.event) {
            match event.read() {
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if notified || self.wake != Wake::Eventfd {
            for entry in self.ring.completion() {
                check_written(entry.result())?;
                let slot = entry.user_data() as usize;
                self.in_flight[slot] = None;
                done.push(slot);
            }
        }
        Ok(())
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.event {
            Some(event) => Some(event.as_fd()),
            // SAFETY: the ring, borrowed for the result's lifetime, keeps its descriptor open.
            None => Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd() as RawFd) }),
        }
    }
}

/// An io_uring write's result as an error unless the whole block was written.
pub fn check_written(result: i32) -> io::Result<()> {
    match result {
        n if n == BLOCK as i32 => Ok(()),
        n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
        n => Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("wrote {n} of {BLOCK} bytes"),
        )),
    }
}

struct Job {
    slot: usize,
    offset: u64,
    page: Arc<Page>,
}

struct Shared {
    file: File,
    jobs: Mutex<VecDeque<Job>>,
    queued: Condvar,
    done: Mutex<Vec<io::Result<usize>>>,
    event: EventFd,
}

impl Shared {
    fn work(&self) {
        loop {
            let mut jobs = self.jobs.lock().expect("no worker panics with the lock held");
            let job = loop {
                match jobs.pop_front() {
                    Some(job) => break job,
                    None => {
                        jobs = self
                            .queued
                            .wait(jobs)
                            .expect("no worker panics with the lock held")
                    }
                }
            };
            drop(jobs);
            let result = self.file.write_all_at(&job.page.0, job.offset).map(|()| job.slot);
            // Before the completion shows, or the reactor could find a free slot's page shared.
            drop(job.page);
            let mut done = self.done.lock().expect("no worker panics with the lock held");
            done.push(result);
            // One wake-up is enough for all completions of a batch.
            if done.len() == 1 {
                self.event
                    .write(1)
                    .expect("an eventfd's counter does not overflow by ones");
            }
        }
    }
}

/// Blocking `pwrite` on worker threads, completions through an eventfd.
pub struct Pool(Arc<Shared>);

impl Pool {
    pub fn new(file: File) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            file,
            jobs: Mutex::new(VecDeque::new()),
            queued: Condvar::new(),
            done: Mutex::new(Vec::new()),
            event: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        });
        for _ in 0..POOL_THREADS {
            let shared = Arc::clone(&shared);
            // Detached: they end with the process.
            thread::Builder::new().spawn(move || shared.work())?;
        }
        Ok(Self(shared))
    }
}

impl Disk for Pool {
    fn write(&mut self, slot: usize, offset: u64, page: Arc<Page>) -> io::Result<bool> {
        self.0
            .jobs
            .lock()
            .expect("no worker panics with the lock held")
            .push_back(Job { slot, offset, page });
        self.0.queued.notify_one();
        Ok(false)
    }

    fn turn(&mut self, notified: bool, done: &mut Vec<usize>) -> io::Result<()> {
        if notified {
            match self.0.event.read() {
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            for result in self
                .0
                .done
                .lock()
                .expect("no worker panics with the lock held")
                .drain(..)
            {
                done.push(result?);
            }
        }
        Ok(())
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.event.as_fd())
    }
}
