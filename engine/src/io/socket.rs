//! Nonblocking stream sockets, and the queue of what waits to be sent on one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::SockRef;

use crate::payload::Payload;

/// Pieces of one gathering write, at most.
const GATHER: usize = 128;
/// Small pieces are joined up to this size.
const JOIN_MAX: usize = 64 << 10;
/// Emptied small pieces kept for the next use.
const SPARE_MAX: usize = 32;

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many; `more`: all the room was filled, so that more may be there.
    Bytes { count: usize, more: bool },
    /// Nothing now.
    Empty,
    /// The other side has ended its stream.
    End,
}

/// A connected stream socket in nonblocking mode.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Takes over a connected stream socket.
    pub fn new(fd: OwnedFd) -> io::Result<Socket> {
        // SAFETY: reads and sets a flag of an open descriptor.
        let result = unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Socket(fd))
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Asks the kernel to buffer this much on its way out; it may grant less.
    pub fn set_send_buffer(&self, bytes: usize) {
        let _ = SockRef::from(&self.0).set_send_buffer_size(bytes);
    }

    pub fn receive(&self, into: &mut [u8]) -> io::Result<Received> {
        self.receive_both(into, &mut [])
    }

    /// Receives into `first`, and what is beyond it into `second`.
    pub fn receive_both(&self, first: &mut [u8], second: &mut [u8]) -> io::Result<Received> {
        let room = first.len() + second.len();
        let mut parts = [first, second].map(|part| libc::iovec {
            iov_base: part.as_mut_ptr().cast(),
            iov_len: part.len(),
        });
        loop {
            // SAFETY: the parts describe two slices that are borrowed for writing beyond the call.
            let count = unsafe { libc::readv(self.fd(), parts.as_mut_ptr(), parts.len() as libc::c_int) };
            match count {
                0 => return Ok(Received::End),
                n if n > 0 => {
                    let count = n as usize;
                    return Ok(Received::Bytes {
                        count,
                        more: count == room,
                    });
                }
                _ => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        io::ErrorKind::WouldBlock => return Ok(Received::Empty),
                        io::ErrorKind::Interrupted => {}
                        _ => return Err(error),
                    }
                }
            }
        }
    }

    /// Sends some of `bytes`; none: it takes none now.
    pub fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        loop {
            // SAFETY: the slice is valid for reads of its length.
            let sent =
                unsafe { libc::send(self.fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                return Ok(Some(sent as usize));
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        // The connection may be gone already, which is as good.
        // SAFETY: a plain system call on an open descriptor.
        unsafe { libc::shutdown(self.fd(), libc::SHUT_WR) };
    }
}

#[derive(Debug)]
enum Piece {
    Small(Vec<u8>),
    Bulk(Payload),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Small(bytes) => bytes,
            Piece::Bulk(payload) => payload,
        }
    }
}

/// Bytes that wait to be sent: headers are copied, payloads are sent from where they are.
#[derive(Debug, Default)]
pub struct SendQueue {
    pieces: VecDeque<Piece>,
    /// How much of the first piece is sent.
    sent: usize,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl SendQueue {
    /// Lets `write` append bytes, and returns what it returned.
    pub fn append<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if !matches!(self.pieces.back(), Some(Piece::Small(bytes)) if bytes.len() < JOIN_MAX) {
            self.pieces
                .push_back(Piece::Small(self.spare.pop().unwrap_or_default()));
        }
        let Some(Piece::Small(bytes)) = self.pieces.back_mut() else {
            unreachable!("a small piece was just put there");
        };
        let before = bytes.len();
        let result = write(bytes);
        self.bytes += bytes.len() - before;
        result
    }

    pub fn append_payload(&mut self, payload: Payload) {
        if !payload.is_empty() {
            self.bytes += payload.len();
            self.pieces.push_back(Piece::Bulk(payload));
        }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Sends as much as the socket takes; returns how much that was.
    pub fn flush(&mut self, socket: &Socket) -> io::Result<usize> {
        let mut total = 0;
        while self.bytes > 0 {
            let mut parts = [libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            }; GATHER];
            let mut count = 0;
            for (index, piece) in self.pieces.iter().take(GATHER).enumerate() {
                let bytes = &piece.bytes()[if index == 0 { self.sent } else { 0 }..];
                parts[count] = libc::iovec {
                    iov_base: bytes.as_ptr() as *mut libc::c_void,
                    iov_len: bytes.len(),
                };
                count += 1;
            }
            // SAFETY: all zeroes is a valid msghdr.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = parts.as_mut_ptr();
            message.msg_iovlen = count as _;
            // SAFETY: the parts describe memory of `pieces`, which lives on and is only read.
            let sent = unsafe { libc::sendmsg(socket.fd(), &message, libc::MSG_NOSIGNAL) };
            if sent < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            }
            total += sent as usize;
            self.advance(sent as usize);
        }
        Ok(total)
    }

    /// The bytes to go next, not empty unless nothing waits: of one large piece from where they are, or of several small
    /// ones (`joined_max` bytes, at most) by way of `joint`.
    pub fn front<'a>(&'a self, joined_max: usize, alone_max: usize, joint: &'a mut Vec<u8>) -> &'a [u8] {
        let mut rest = self.pieces.iter();
        let first = rest.next().map_or(&[][..], |piece| &piece.bytes()[self.sent..]);
        if first.len() >= joined_max || self.pieces.len() < 2 {
            return &first[..first.len().min(alone_max)];
        }
        joint.clear();
        joint.extend_from_slice(first);
        for piece in rest {
            let bytes = piece.bytes();
            joint.extend_from_slice(&bytes[..bytes.len().min(joined_max - joint.len())]);
            if joint.len() == joined_max {
                break;
            }
        }
        joint
    }

    /// Says that the first `count` bytes have gone.
    ///
    /// # Panics
    /// When fewer wait.
    pub fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(first) = self.pieces.front() {
            let left = first.bytes().len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.sent = 0;
            if let Some(Piece::Small(mut bytes)) = self.pieces.pop_front() {
                if self.spare.len() < SPARE_MAX && bytes.capacity() <= 2 * JOIN_MAX {
                    bytes.clear();
                    self.spare.push(bytes);
                }
            }
        }
    }
}
