//! Contender (a): one thread, one io_uring for sockets and disk alike.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use io_uring::{opcode, squeue, types, IoUring};

use crate::disk::check_written;
use crate::proto::{Node, Page, Rx, BLOCK, SLOTS};

// Completions below SLOTS are local writes of that slot.
const RECV_UP: u64 = 1 << 32;
const RECV_DOWN: u64 = 2 << 32;
const SEND_UP: u64 = 3 << 32;
const SEND_DOWN: u64 = 4 << 32;

struct Reactor {
    ring: IoUring,
    up: OwnedFd,
    down: Option<OwnedFd>,
    file: File,
    inline: bool,
    node: Node,
    up_rx: Rx,
    down_rx: Rx,
    /// Replies the kernel is sending; empty when no send is outstanding.
    sending: Vec<u8>,
    /// What the outstanding gathered send points to; empty when there is none.
    gather: Vec<libc::iovec>,
    in_flight: Vec<Option<Arc<Page>>>,
}

/// Serves `up` until it closes; with `down`, as a primary replicating to it. `inline`: write blocks with
/// `pwrite` and leave only the sockets to the ring.
pub fn serve(up: OwnedFd, down: Option<OwnedFd>, file: File, inline: bool) -> io::Result<()> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(2 * SLOTS.next_power_of_two() as u32)?;
    let node = Node::new(down.is_some());
    let mut reactor = Reactor {
        ring,
        up,
        down,
        file,
        inline,
        node,
        up_rx: Rx::new(),
        down_rx: Rx::new(),
        sending: Vec::new(),
        gather: Vec::new(),
        in_flight: (0..SLOTS).map(|_| None).collect(),
    };
    reactor.receive_up()?;
    reactor.receive_down()?;
    let mut completed = Vec::new();
    loop {
        reactor.ring.submit_and_wait(1)?;
        completed.extend(
            reactor
                .ring
                .completion()
                .map(|entry| (entry.user_data(), entry.result())),
        );
        for (tag, result) in completed.drain(..) {
            if tag == RECV_UP && result == 0 {
                return Ok(());
            }
            reactor.completed(tag, result)?;
        }
        reactor.start_sends()?;
    }
}

impl Reactor {
    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: every entry points into a buffer this reactor owns and leaves alone until its
        // completion: a receive's `Rx` is boxed and re-armed only after; `sending` and `gather` change
        // only when empty or completed, and the slots `gather` names are freed by that completion;
        // `in_flight` holds a write's page.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)
    }

    fn receive_up(&mut self) -> io::Result<()> {
        let fd = types::Fd(self.up.as_raw_fd());
        let space = self.up_rx.space();
        let entry = opcode::Recv::new(fd, space.as_mut_ptr(), space.len() as u32)
            .build()
            .user_data(RECV_UP);
        self.push(entry)
    }

    fn receive_down(&mut self) -> io::Result<()> {
        let Some(down) = &self.down else { return Ok(()) };
        let fd = types::Fd(down.as_raw_fd());
        let space = self.down_rx.space();
        let entry = opcode::Recv::new(fd, space.as_mut_ptr(), space.len() as u32)
            .build()
            .user_data(RECV_DOWN);
        self.push(entry)
    }

    fn completed(&mut self, tag: u64, result: i32) -> io::Result<()> {
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        match tag {
            RECV_UP => {
                self.up_rx.received(result as usize);
                let mut accepted = Vec::with_capacity(SLOTS);
                let used = self.node.accept(self.up_rx.bytes(), &mut accepted)?;
                self.up_rx.consume(used);
                // The peer first: its write runs while ours does.
                self.start_sends()?;
                if self.inline && self.down.is_some() {
                    self.ring.submit()?;
                }
                for slot in accepted {
                    self.write(slot)?;
                }
                self.receive_up()
            }
            RECV_DOWN if result == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            RECV_DOWN => {
                self.down_rx.received(result as usize);
                let used = self.node.acks(self.down_rx.bytes())?;
                self.down_rx.consume(used);
                self.receive_down()
            }
            SEND_UP => {
                self.sending.drain(..result as usize);
                self.send_up()
            }
            SEND_DOWN => {
                self.gather.clear();
                self.node.forwarded(result as usize);
                Ok(())
            }
            slot => {
                check_written(result)?;
                self.in_flight[slot as usize] = None;
                self.node.part_done(slot as usize);
                Ok(())
            }
        }
    }

    fn write(&mut self, slot: usize) -> io::Result<()> {
        let (offset, page) = self.node.local_write(slot);
        if self.inline {
            self.file.write_all_at(&page.0, offset)?;
            drop(page);
            self.node.part_done(slot);
            return Ok(());
        }
        let fd = types::Fd(self.file.as_raw_fd());
        let entry = opcode::Write::new(fd, page.0.as_ptr(), BLOCK as u32)
            .offset(offset)
            .build();
        self.in_flight[slot] = Some(page);
        self.push(entry.user_data(slot as u64))
    }

    /// Starts what sends are due on sockets that have none outstanding.
    fn start_sends(&mut self) -> io::Result<()> {
        if self.sending.is_empty() && !self.node.replies.is_empty() {
            std::mem::swap(&mut self.sending, &mut self.node.replies);
            self.send_up()?;
        }
        if let (Some(down), true) = (&self.down, self.gather.is_empty()) {
            for slice in self.node.forward_slices() {
                self.gather.push(libc::iovec {
                    iov_base: slice.as_ptr() as *mut _,
                    iov_len: slice.len(),
                });
            }
            if !self.gather.is_empty() {
                let fd = types::Fd(down.as_raw_fd());
                let entry = opcode::Writev::new(fd, self.gather.as_ptr(), self.gather.len() as u32).build();
                self.push(entry.user_data(SEND_DOWN))?;
            }
        }
        Ok(())
    }

    fn send_up(&mut self) -> io::Result<()> {
        if self.sending.is_empty() {
            return Ok(());
        }
        let fd = types::Fd(self.up.as_raw_fd());
        let entry = opcode::Send::new(fd, self.sending.as_ptr(), self.sending.len() as u32).build();
        self.push(entry.user_data(SEND_UP))
    }
}
