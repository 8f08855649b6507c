//! A connection to a peer as the driver moves bytes on it: plain, or with TLS between the bytes and the socket.

use std::io;
use std::net::TcpStream;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Instant;

use super::inbound::{self, Filling};
use super::socket::{Received, SendQueue, Socket};
use super::tls::{refusal, Session, State, RECORD_MAX};
use crate::front::nbd::ReceiveBuffer;

/// Plaintext of one large piece that is encrypted in one go, at most.
const PIECE_MAX: usize = 4 * RECORD_MAX;
/// Encrypted bytes received at once, at most.
const RECEIVE_MAX: usize = 256 << 10;
/// What TLS adds to a payload, with some room: so much more than it is received along with its end.
const OVERHEAD_PART: usize = 512;
/// Received along with the end of a payload, at least.
const AHEAD: usize = 256;
/// Room for a handshake's plaintext, of which an honest peer sends none.
const HANDSHAKE_INPUT: usize = 2 * RECORD_MAX;

pub struct Channel {
    socket: Socket,
    tls: Option<Box<Secured>>,
    /// Bytes that the socket took and gave.
    sent_bytes: u64,
    received_bytes: u64,
    finishing: bool,
}

struct Secured {
    session: Session,
    /// Where small pieces are joined to one record.
    joint: Vec<u8>,
}

impl Channel {
    /// # Errors
    /// When the socket cannot be made nonblocking.
    pub fn plain(stream: TcpStream) -> io::Result<Channel> {
        Ok(Channel {
            socket: Socket::new(OwnedFd::from(stream))?,
            tls: None,
            sent_bytes: 0,
            received_bytes: 0,
            finishing: false,
        })
    }

    /// `session`'s connection, in whatever state.
    ///
    /// # Errors
    /// As [`plain`](Self::plain).
    pub fn secured(stream: TcpStream, session: Session) -> io::Result<Channel> {
        let mut channel = Channel::plain(stream)?;
        channel.tls = Some(Box::new(Secured {
            session,
            joint: Vec::new(),
        }));
        Ok(channel)
    }

    pub fn fd(&self) -> RawFd {
        self.socket.fd()
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    pub fn session(&self) -> Option<&Session> {
        self.tls.as_ref().map(|tls| &tls.session)
    }

    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Whether bytes wait here for the socket to take them.
    pub fn wants_write(&self) -> bool {
        self.session()
            .is_some_and(|session| !session.outgoing().is_empty())
    }

    /// Sends as much of `queue` as the socket takes.
    ///
    /// # Errors
    /// When the connection is gone, or TLS has failed.
    pub fn flush(&mut self, queue: &mut SendQueue) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            self.sent_bytes += queue.flush(&self.socket)? as u64;
            return Ok(());
        };
        loop {
            while !queue.is_empty() && tls.session.takes_more() {
                let bytes = queue.front(RECORD_MAX, PIECE_MAX, &mut tls.joint);
                tls.session.encrypt(bytes).map_err(refusal)?;
                let count = bytes.len();
                queue.advance(count);
            }
            if tls.session.outgoing().is_empty() {
                return Ok(());
            }
            match self.socket.send(tls.session.outgoing())? {
                Some(count) => {
                    self.sent_bytes += count as u64;
                    tls.session.sent(count);
                }
                None => return Ok(()),
            }
        }
    }

    /// Receives once: into the payload if one is awaited, else into `input`. Nothing whole stays behind in TLS, where no
    /// poll would see it.
    ///
    /// # Errors
    /// When the connection is gone, has ended without TLS's word for it, or TLS has failed.
    pub fn receive(
        &mut self,
        input: &mut ReceiveBuffer,
        filling: &mut Option<Filling>,
    ) -> io::Result<Received> {
        let Some(tls) = &mut self.tls else {
            let received = inbound::receive(&self.socket, input, filling)?;
            if let Received::Bytes { count, .. } = received {
                self.received_bytes += count as u64;
            }
            return Ok(received);
        };
        // What was received before goes before.
        let filling = filling.as_mut().filter(|_| input.data().is_empty());
        let missing = filling.as_ref().map_or(0, |filling| filling.missing());
        // All plaintext that may come out must have room: there is never more of it than of what was received.
        let waiting = tls.session.waiting();
        let mut room = (missing + input.space().len()).saturating_sub(waiting);
        if missing >= RECORD_MAX {
            room = room.min((missing + missing / OVERHEAD_PART + AHEAD).saturating_sub(waiting));
        }
        if room == 0 {
            // Nobody will make room: a message of a handshake is waited for that no honest one is as long as.
            return if tls.session.state() == State::Handshake {
                Err(refusal("its TLS handshake is longer than any honest one"))
            } else {
                Ok(Received::Empty)
            };
        }
        let room = room.min(RECEIVE_MAX);
        let count = match self.socket.receive(tls.session.room(room))? {
            Received::Bytes { count, .. } => count,
            Received::Empty => return Ok(Received::Empty),
            Received::End if tls.session.state() == State::Ended => return Ok(Received::End),
            Received::End => {
                let cut = "the connection broke off, without the end of its TLS";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut));
            }
        };
        tls.session.filled(count);
        self.received_bytes += count as u64;
        let mut filling = filling;
        let state = tls.session.advance(&mut |plaintext| {
            let taken = filling.as_mut().map_or(0, |filling| filling.put(plaintext));
            let rest = &plaintext[taken..];
            input.space()[..rest.len()].copy_from_slice(rest);
            input.filled(rest.len());
        });
        match state {
            // An end may come with the last words: it is found again, as the socket's.
            Ok(_) => Ok(Received::Bytes {
                count,
                more: count == room,
            }),
            Err(why) => {
                // The alert, if the socket takes it at once.
                let _ = self.flush(&mut SendQueue::default());
                Err(refusal(why))
            }
        }
    }

    /// Says that nothing follows, once all that waits has gone; true when that is done.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish(&mut self) -> io::Result<bool> {
        if let Some(tls) = &mut self.tls {
            if !std::mem::replace(&mut self.finishing, true) {
                tls.session.close().map_err(refusal)?;
            }
            self.flush(&mut SendQueue::default())?;
            if self.wants_write() {
                return Ok(false);
            }
        }
        self.socket.finish();
        Ok(true)
    }

    /// Goes through the handshake, waiting for the other side.
    ///
    /// # Errors
    /// When it fails, the connection is gone, or time is up.
    pub fn shake_hands_by(&mut self, deadline: Instant) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.session.advance(&mut |_| {}).map_err(refusal)?;
        }
        let mut input = ReceiveBuffer::new(HANDSHAKE_INPUT);
        while self
            .session()
            .is_some_and(|session| session.state() == State::Handshake)
        {
            self.flush(&mut SendQueue::default())?;
            let events = if self.wants_write() {
                libc::POLLIN | libc::POLLOUT
            } else {
                libc::POLLIN
            };
            self.wait_by(events, deadline)?;
            if let Received::End = self.receive(&mut input, &mut None)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if !input.data().is_empty() {
            return Err(refusal("it talks before it is greeted"));
        }
        // The last of it; what does not go at once goes with the first message.
        self.flush(&mut SendQueue::default())
    }

    /// Writes all of it, however the reader dawdles.
    ///
    /// # Errors
    /// When the connection is gone, or time is up.
    pub fn write_by(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let mut queue = SendQueue::default();
        queue.append(|out| out.extend_from_slice(bytes));
        loop {
            self.flush(&mut queue)?;
            if queue.is_empty() && !self.wants_write() {
                return Ok(());
            }
            self.wait_by(libc::POLLOUT, deadline)?;
        }
    }

    /// Receives some bytes into `input`; false when the other side has ended its stream.
    ///
    /// # Errors
    /// When the connection is gone, or time is up.
    pub fn read_by(&mut self, input: &mut ReceiveBuffer, deadline: Instant) -> io::Result<bool> {
        loop {
            match self.receive(input, &mut None)? {
                Received::Bytes { .. } => return Ok(true),
                Received::End => return Ok(false),
                Received::Empty => self.wait_by(libc::POLLIN, deadline)?,
            }
        }
    }

    fn wait_by(&self, events: i16, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut polled = libc::pollfd {
            fd: self.fd(),
            events,
            revents: 0,
        };
        // Rounded up: waking a little early would turn into a busy loop.
        let timeout = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        // SAFETY: `polled` is valid for the call.
        if unsafe { libc::poll(&mut polled, 1, timeout) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }
}
