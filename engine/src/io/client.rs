//! One NBD client's connection: the frontend's session on a socket.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::inbound::{receive, Filling};
use super::poll::Interest;
use super::socket::{Received, SendQueue, Socket};
use crate::front::nbd::{Event, Export, ReceiveBuffer, Request, Session, MIN_RECEIVE_BUFFER};
use crate::payload::Payload;

/// Bytes received at once, at most.
const INPUT_BYTES: usize = 256 << 10;
const _: () = assert!(INPUT_BYTES >= MIN_RECEIVE_BUFFER);
/// The default of a Unix socket holds less than a quarter of a large read.
const SEND_BUFFER: usize = 1 << 20;
/// A client that does not take its replies is not read any further.
const UNREAD_MAX: usize = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientKind {
    Unix,
    Kernel,
}

/// What a client has asked for.
pub enum Asked {
    Request(Request),
    Write(Request, Payload),
}

pub struct Client {
    pub kind: ClientKind,
    pub pid: Option<i32>,
    pub uid: Option<u32>,
    pub socket: Socket,
    pub session: Session,
    pub queue: SendQueue,
    pub interest: Interest,
    /// Requests without a reply yet.
    pub in_flight: usize,
    /// No more requests come: it ends when the replies are out.
    pub leaving: bool,
    /// Input may be waiting that was not decoded for want of room for its requests.
    pub stalled: bool,
    input: ReceiveBuffer,
    filling: Option<(Request, Filling)>,
    out: Vec<u8>,
}

impl Client {
    fn new(kind: ClientKind, fd: OwnedFd, session: Session) -> io::Result<Client> {
        let socket = Socket::new(fd)?;
        socket.set_send_buffer(SEND_BUFFER);
        Ok(Client {
            kind,
            pid: None,
            uid: None,
            socket,
            session,
            queue: SendQueue::default(),
            interest: Interest::READ,
            in_flight: 0,
            leaving: false,
            stalled: false,
            input: ReceiveBuffer::new(INPUT_BYTES),
            filling: None,
            out: Vec::new(),
        })
    }

    /// A program that has connected to the Unix socket.
    pub fn unix(fd: OwnedFd, export: Arc<Export>) -> io::Result<Client> {
        let mut client = Client::new(ClientKind::Unix, fd, Session::handshake(export))?;
        (client.pid, client.uid) = client.credentials();
        let session = &client.session;
        client.queue.append(|out| session.start(out));
        Ok(client)
    }

    /// The kernel, past the handshake.
    pub fn kernel(fd: OwnedFd, export: Arc<Export>) -> io::Result<Client> {
        Client::new(ClientKind::Kernel, fd, Session::transmission(export))
    }

    fn credentials(&self) -> (Option<i32>, Option<u32>) {
        let mut found = MaybeUninit::<libc::ucred>::zeroed();
        let mut len = std::mem::size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: `found` is valid for writes of `len` bytes.
        let result = unsafe {
            libc::getsockopt(
                self.socket.fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                found.as_mut_ptr().cast(),
                &mut len,
            )
        };
        // SAFETY: all zeroes is a valid ucred.
        let found = unsafe { found.assume_init() };
        if result == 0 {
            (Some(found.pid), Some(found.uid))
        } else {
            (None, None)
        }
    }

    /// Whether its socket should be read, as far as the client itself is concerned.
    pub fn may_read(&self) -> bool {
        !self.leaving && self.queue.len() < UNREAD_MAX
    }

    pub fn receive(&mut self) -> io::Result<Received> {
        // Both halves are borrowed apart: the payload's request stays where it is.
        match self.filling.take() {
            None => receive(&self.socket, &mut self.input, &mut None),
            Some((request, filling)) => {
                let mut filling = Some(filling);
                let received = receive(&self.socket, &mut self.input, &mut filling);
                self.filling = filling.map(|filling| (request, filling));
                received
            }
        }
    }

    /// The next request of what was received. Sets `leaving` when the client takes its leave.
    ///
    /// # Errors
    /// What the client did wrong, for people; its connection must be closed.
    pub fn next(&mut self) -> Result<Option<Asked>, String> {
        loop {
            if self.leaving {
                return Ok(None);
            }
            if let Some((_, filling)) = &mut self.filling {
                filling.take_from(&mut self.input);
                if !filling.is_full() {
                    return Ok(None);
                }
                let (request, filling) = self.filling.take().expect("it is there");
                return Ok(Some(Asked::Write(request, filling.finish())));
            }
            self.out.clear();
            let step = self.session.next(self.input.data(), &mut self.out);
            if !self.out.is_empty() {
                let out = &self.out;
                self.queue.append(|bytes| bytes.extend_from_slice(out));
            }
            let step = step.map_err(|error| error.to_string())?;
            if step.needs_more() {
                return Ok(None);
            }
            self.input.consume(step.consumed);
            match step.event {
                None | Some(Event::Ready) => {}
                Some(Event::Disconnect) => self.leaving = true,
                Some(Event::Request(request)) if request.kind == crate::front::nbd::Kind::Write => {
                    self.filling = Some((request, Filling::new(request.length as usize)));
                }
                Some(Event::Request(request)) => return Ok(Some(Asked::Request(request))),
            }
            // A client that floods handshake options or refused requests must read its answers.
            if self.queue.len() >= UNREAD_MAX {
                self.stalled = true;
                return Ok(None);
            }
        }
    }
}
