//! Waiting for many descriptors: a thin layer over epoll.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Duration;

/// Descriptors reported by one wait, at most.
const BATCH: usize = 64;

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Interest {
    pub const READ: Interest = Interest {
        read: true,
        write: false,
    };

    fn bits(self) -> u32 {
        if !self.read && !self.write {
            // A hang-up is reported whatever is watched for: once is enough for who does not look.
            return libc::EPOLLONESHOT as u32;
        }
        (if self.read { libc::EPOLLIN } else { 0 } | if self.write { libc::EPOLLOUT } else { 0 }) as u32
    }
}

/// A descriptor that is ready to be read, or, when not `read`, to be written. Errors and hang-ups count as
/// readable, where reading finds them.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub key: u64,
    pub read: bool,
    /// The other side is gone altogether: reported even when nothing is watched for.
    pub hung_up: bool,
}

pub struct Poll {
    epoll: File,
    events: Vec<libc::epoll_event>,
}

impl Poll {
    pub fn new() -> io::Result<Poll> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Poll {
            // SAFETY: the descriptor is fresh and owned by nobody else.
            epoll: unsafe { File::from_raw_fd(fd) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; BATCH],
        })
    }

    fn control(&self, operation: i32, fd: RawFd, key: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: key,
        };
        // SAFETY: `event` is valid for the call.
        if unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    pub fn add(&self, fd: RawFd, key: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, key, interest)
    }

    pub fn change(&self, fd: RawFd, key: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, key, interest)
    }

    /// Closing a descriptor removes it too, unless it is shared with another process.
    pub fn remove(&self, fd: RawFd) {
        // Not there any more is as good.
        let _ = self.control(
            libc::EPOLL_CTL_DEL,
            fd,
            0,
            Interest {
                read: false,
                write: false,
            },
        );
    }

    /// Waits for at most `timeout` (none: forever), rounded up to a millisecond, and appends what is ready.
    pub fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let milliseconds = timeout.map_or(-1, |wait| {
            i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        // SAFETY: `events` is valid for its length.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                BATCH as i32,
                milliseconds,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            // Completion work of io_uring interrupts as well: go and look.
            return if error.raw_os_error() == Some(libc::EINTR) {
                Ok(())
            } else {
                Err(error)
            };
        }
        ready.extend(self.events[..count as usize].iter().map(|event| {
            let bits = event.events as i32;
            let hung_up = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            Ready {
                key: event.u64,
                read: hung_up || bits & libc::EPOLLIN != 0,
                hung_up,
            }
        }));
        Ok(())
    }
}
