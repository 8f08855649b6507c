//! Contenders (c) and (d): one thread, epoll for the sockets, any [`Disk`] for the blocks.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::disk::Disk;
use crate::proto::{Node, Rx};

const UP: u64 = 0;
const DOWN: u64 = 1;
const DISK: u64 = 2;

/// How long to poll before sleeping, and whether to offer the CPU to others between looks.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    pub limit: Duration,
    pub yields: bool,
}

struct Conn {
    // Reads and writes on a socket need no more than a file does.
    socket: File,
    rx: Rx,
    key: u64,
    blocked: bool,
}

enum Got {
    Nothing,
    Some,
    Closed,
}

impl Conn {
    fn new(epoll: &Epoll, fd: OwnedFd, key: u64) -> io::Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
        Ok(Self {
            socket: File::from(fd),
            rx: Rx::new(),
            key,
            blocked: false,
        })
    }

    fn receive(&mut self) -> io::Result<Got> {
        match self.socket.read(self.rx.space()) {
            Ok(0) => Ok(Got::Closed),
            Ok(count) => {
                self.rx.received(count);
                Ok(Got::Some)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Bytes a send moved; zero when the socket is full, in which case epoll will tell of room.
    fn sent(&mut self, epoll: &Epoll, result: io::Result<usize>) -> io::Result<usize> {
        let (count, blocked) = match result {
            Ok(count) => (count, false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, true),
            Err(error) => return Err(error),
        };
        if blocked != self.blocked {
            self.blocked = blocked;
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, blocked);
            epoll.modify(&self.socket, &mut EpollEvent::new(flags, self.key))?;
        }
        Ok(count)
    }
}

#[derive(Clone, Copy, Default)]
struct Ready {
    up: bool,
    down: bool,
    disk: bool,
}

enum Turn {
    Idle,
    Moved,
    Closed,
}

struct Reactor {
    epoll: Epoll,
    up: Conn,
    down: Option<Conn>,
    disk: Box<dyn Disk>,
    node: Node,
    accepted: Vec<usize>,
    done: Vec<usize>,
}

/// Serves `up` until it closes; with `down`, as a primary replicating to it.
pub fn serve(up: OwnedFd, down: Option<OwnedFd>, disk: Box<dyn Disk>, spin: Spin) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let node = Node::new(down.is_some());
    let up = Conn::new(&epoll, up, UP)?;
    let down = down.map(|fd| Conn::new(&epoll, fd, DOWN)).transpose()?;
    if let Some(fd) = disk.wake_fd() {
        epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, DISK))?;
    }
    let mut reactor = Reactor {
        epoll,
        up,
        down,
        disk,
        node,
        accepted: Vec::new(),
        done: Vec::new(),
    };
    loop {
        let ready = reactor.sleep()?;
        if let Turn::Closed = reactor.turn(ready)? {
            return Ok(());
        }
        if spin.limit.is_zero() {
            continue;
        }
        let mut idle_since = Instant::now();
        while idle_since.elapsed() < spin.limit {
            match reactor.turn(Ready {
                up: true,
                down: true,
                disk: true,
            })? {
                Turn::Closed => return Ok(()),
                Turn::Moved => idle_since = Instant::now(),
                Turn::Idle if spin.yields => std::thread::yield_now(),
                Turn::Idle => std::hint::spin_loop(),
            }
        }
    }
}

impl Reactor {
    fn sleep(&mut self) -> io::Result<Ready> {
        let mut events = [EpollEvent::empty(); 3];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            // io_uring's task work can interrupt the wait like a signal: the turn looks at the ring.
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut ready = Ready::default();
        for event in &events[..count] {
            match event.data() {
                UP => ready.up = true,
                DOWN => ready.down = true,
                _ => ready.disk = true,
            }
        }
        Ok(ready)
    }

    fn turn(&mut self, ready: Ready) -> io::Result<Turn> {
        let mut moved = false;
        if ready.up {
            match self.up.receive()? {
                Got::Closed => return Ok(Turn::Closed),
                Got::Nothing => {}
                Got::Some => {
                    moved = true;
                    let used = self.node.accept(self.up.rx.bytes(), &mut self.accepted)?;
                    self.up.rx.consume(used);
                }
            }
        }
        if let Some(down) = &mut self.down {
            if ready.down {
                match down.receive()? {
                    Got::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Got::Nothing => {}
                    Got::Some => {
                        moved = true;
                        let used = self.node.acks(down.rx.bytes())?;
                        down.rx.consume(used);
                    }
                }
            }
            // The peer first: its write runs while ours does.
            let slices = self.node.forward_slices();
            if !slices.is_empty() {
                let result = down.socket.write_vectored(&slices);
                let count = down.sent(&self.epoll, result)?;
                self.node.forwarded(count);
            }
        }
        for slot in self.accepted.drain(..) {
            let (offset, page) = self.node.local_write(slot);
            if self.disk.write(slot, offset, page)? {
                self.node.part_done(slot);
            }
        }
        self.disk.turn(ready.disk, &mut self.done)?;
        for slot in self.done.drain(..) {
            moved = true;
            self.node.part_done(slot);
        }
        if !self.node.replies.is_empty() {
            let result = self.up.socket.write(&self.node.replies);
            let count = self.up.sent(&self.epoll, result)?;
            self.node.replies.drain(..count);
        }
        Ok(if moved { Turn::Moved } else { Turn::Idle })
    }
}
