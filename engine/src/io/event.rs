//! An eventfd: how one thread wakes another that sleeps in epoll.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

#[derive(Debug)]
pub struct EventFd(File);

impl EventFd {
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and owned by nobody else.
        Ok(EventFd(unsafe { File::from_raw_fd(fd) }))
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes the descriptor readable.
    pub fn signal(&self) {
        // Fails only when the counter is at its end, and then it is readable already.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable until the next signal.
    pub fn clear(&self) {
        let mut count = [0; 8];
        let _ = (&self.0).read(&mut count);
    }
}
