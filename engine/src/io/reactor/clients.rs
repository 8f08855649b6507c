//! The reactor's side of the NBD clients.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{source, Reactor};
use crate::core::{Errno, Event, RequestId, RequestKind, Severity, Time};
use crate::front::nbd::{ErrorCode, Kind, Request};
use crate::io::client::{Asked, Client, ClientKind};
use crate::io::poll::{Interest, Ready};
use crate::io::socket::Received;
use crate::payload::Payload;

/// Requests and their bytes in flight at a time; clients wait with more.
const REQUESTS_MAX: usize = 1024;
const REQUEST_BYTES_MAX: u64 = 64 << 20;
/// Connections at a time; more are turned away.
const CLIENTS_MAX: usize = 128;
/// Receives from one client in one turn.
const RECEIVES_A_TURN: usize = 4;
/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 128;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Requests that the core has and will reply to.
#[derive(Default)]
pub(super) struct Outstanding {
    entries: Vec<Option<(u64, Request, Time)>>,
    free: Vec<usize>,
    count: usize,
    bytes: u64,
}

/// What a request holds in memory.
fn weight(request: &Request) -> u64 {
    match request.kind {
        Kind::Read | Kind::Write => u64::from(request.length),
        _ => 0,
    }
}

impl Outstanding {
    /// `asked`: when the client did.
    fn insert(&mut self, client: u64, request: Request, asked: Time) -> RequestId {
        self.count += 1;
        self.bytes += weight(&request);
        let entry = Some((client, request, asked));
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        RequestId(index as u64)
    }

    fn remove(&mut self, id: RequestId) -> Option<(u64, Request, Time)> {
        let index = usize::try_from(id.0).ok()?;
        let entry = self.entries.get_mut(index)?.take()?;
        self.free.push(index);
        self.count -= 1;
        self.bytes -= weight(&entry.1);
        Some(entry)
    }

    fn has_room(&self) -> bool {
        self.count < REQUESTS_MAX && self.bytes < REQUEST_BYTES_MAX
    }

    pub(super) fn drain(&mut self) -> Vec<(u64, Request, Time)> {
        std::mem::take(self).entries.into_iter().flatten().collect()
    }
}

impl Client {
    /// Answers a request with an I/O error.
    pub(super) fn fail(&mut self, request: &Request) {
        let replies = self.session.replies();
        self.queue
            .append(|out| replies.error(out, request.cookie, ErrorCode::Io, &"the resource has failed"));
    }
}

impl Reactor {
    pub(super) fn open_export(&mut self) {
        if self.listener.is_some() {
            return;
        }
        let opened = listen(&self.export_path).and_then(|listener| {
            let key = source::EXPORT << source::SHIFT;
            self.poll.add(listener.as_raw_fd(), key, Interest::READ)?;
            Ok(listener)
        });
        match opened {
            Ok(listener) => self.listener = Some(listener),
            Err(error) => {
                let text = format!(
                    "cannot offer the NBD export at {}: {error}; make its directory writable, then demote and promote",
                    self.export_path.display()
                );
                self.notice(Severity::Error, "export.failed", text);
            }
        }
    }

    /// Withdraws the export: no new clients, and the end for those there are.
    pub(super) fn close_export(&mut self) {
        self.remove_export();
        for client in self.clients.values_mut() {
            client.leaving = true;
        }
        self.flush_clients();
    }

    pub(super) fn remove_export(&mut self) {
        if let Some(listener) = self.listener.take() {
            self.poll.remove(listener.as_raw_fd());
            self.accept_pause = None;
            // Somebody may have removed it before.
            let _ = std::fs::remove_file(&self.export_path);
        }
    }

    pub(super) fn accept_clients(&mut self) {
        while let Some(listener) = &self.listener {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    // Out of descriptors, most likely. The client still waits there, so that trying at once again would
                    // go on for ever.
                    let text = format!("an NBD client was not accepted: {error}");
                    self.poll.remove(listener.as_raw_fd());
                    self.accept_pause = Some(Instant::now() + ACCEPT_PAUSE);
                    return self.notice(Severity::Warning, "client.refused", text);
                }
            };
            if self.clients.len() >= CLIENTS_MAX {
                let text = format!("an NBD client was turned away: {CLIENTS_MAX} are connected");
                self.notice(Severity::Warning, "client.refused", text);
                continue;
            }
            let client = Client::unix(OwnedFd::from(stream), self.export.clone());
            self.welcome(client);
        }
    }

    /// Looks for clients again after a pause.
    pub(super) fn resume_accepting(&mut self) {
        if self.accept_pause.is_none_or(|until| Instant::now() < until) {
            return;
        }
        self.accept_pause = None;
        let Some(listener) = &self.listener else { return };
        let key = source::EXPORT << source::SHIFT;
        if self.poll.add(listener.as_raw_fd(), key, Interest::READ).is_err() {
            self.accept_pause = Some(Instant::now() + ACCEPT_PAUSE);
        }
    }

    /// Takes over a kernel device's connection.
    pub(super) fn attach(&mut self, fd: OwnedFd) {
        let client = Client::kernel(fd, self.export.clone());
        self.welcome(client);
    }

    /// Ends the connections to a kernel device.
    pub(super) fn detach(&mut self) {
        let kernel: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| client.kind == ClientKind::Kernel)
            .map(|(id, _)| *id)
            .collect();
        for id in kernel {
            self.part(id);
        }
    }

    fn welcome(&mut self, client: io::Result<Client>) {
        let id = self.next_client;
        self.next_client += 1;
        let added = client.and_then(|client| {
            self.poll.add(
                client.socket.fd(),
                source::CLIENT << source::SHIFT | id,
                client.interest,
            )?;
            self.clients.insert(id, client);
            Ok(())
        });
        if let Err(error) = added {
            let text = format!("an NBD client was not accepted: {error}");
            self.notice(Severity::Warning, "client.refused", text);
        }
    }

    fn part(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id) {
            self.poll.remove(client.socket.fd());
        }
    }

    fn has_room(&self) -> bool {
        self.outstanding.has_room() && self.replica.accepts_requests()
    }

    pub(super) fn attend_client(&mut self, id: u64, ready: Ready) {
        if !ready.read {
            return;
        }
        for _ in 0..RECEIVES_A_TURN {
            let Some(client) = self.clients.get_mut(&id) else {
                return;
            };
            if !client.interest.read || client.leaving || client.stalled {
                // Nobody is there to take the replies that it still waits for.
                if ready.hung_up {
                    self.part(id);
                }
                return;
            }
            match client.receive() {
                Ok(Received::Bytes { more, .. }) => {
                    self.decode_client(id);
                    // What comes later is reported again; asking whether it has come costs a system call.
                    if !more {
                        return;
                    }
                }
                Ok(Received::Empty) => return,
                Ok(Received::End) | Err(_) => return self.part(id),
            }
        }
    }

    fn decode_client(&mut self, id: u64) {
        loop {
            let room = self.has_room();
            let Some(client) = self.clients.get_mut(&id) else {
                return;
            };
            if !room {
                client.stalled = true;
                return;
            }
            match client.next() {
                Ok(None) => return,
                Ok(Some(asked)) => self.ask(id, asked),
                Err(why) => {
                    let text = format!("NBD client (pid {}): {why}", client.pid.unwrap_or(0));
                    // What it is owed is sent as far as the socket takes it at once.
                    let _ = client.queue.flush(&client.socket);
                    self.part(id);
                    return self.notice(Severity::Warning, "client.protocol", text);
                }
            }
        }
    }

    /// Goes on with what had to wait for room.
    pub(super) fn resume_stalled(&mut self) {
        self.resume_peers();
        if !self.has_room() {
            return;
        }
        let stalled: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| client.stalled && client.may_read())
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            if let Some(client) = self.clients.get_mut(&id) {
                client.stalled = false;
            }
            self.decode_client(id);
        }
    }

    fn ask(&mut self, client: u64, asked: Asked) {
        let (request, payload) = match asked {
            Asked::Write(request, payload) => (request, payload),
            Asked::Request(request) => (request, Payload::empty()),
        };
        let (offset, len, fua) = (request.offset, u64::from(request.length), request.fua);
        let kind = match request.kind {
            Kind::Read => RequestKind::Read {
                offset,
                len: request.length,
            },
            Kind::Write => RequestKind::Write { offset, payload, fua },
            Kind::Flush => RequestKind::Flush,
            Kind::Trim => RequestKind::Trim { offset, len, fua },
            Kind::WriteZeroes { no_hole, .. } => RequestKind::WriteZeroes {
                offset,
                len,
                fua,
                unmap: !no_hole,
            },
            Kind::Cache => {
                return self.answer(client, |client| {
                    let replies = client.session.replies();
                    client.queue.append(|out| replies.done(out, request.cookie));
                })
            }
            Kind::BlockStatus { .. } => {
                let extents = self.allocation(&request);
                return self.answer(client, |client| {
                    let replies = client.session.replies();
                    client
                        .queue
                        .append(|out| replies.block_status(out, &request, &extents));
                });
            }
        };
        self.answer(client, |client| client.in_flight += 1);
        let id = self.outstanding.insert(client, request, self.now);
        self.tell(Event::Request { id, kind });
    }

    fn answer(&mut self, client: u64, act: impl FnOnce(&mut Client)) {
        if let Some(client) = self.clients.get_mut(&client) {
            act(client);
        }
    }

    pub(super) fn reply(&mut self, id: RequestId, result: Result<Option<Payload>, Errno>) {
        let Some((client, request, asked)) = self.outstanding.remove(id) else {
            return;
        };
        let Some(client) = self.clients.get_mut(&client) else {
            return;
        };
        client.in_flight -= 1;
        self.answered
            .count(request.kind, self.now - asked, result.is_err());
        let replies = client.session.replies();
        match result {
            Err(errno) => {
                let code = ErrorCode::from_errno(errno.0);
                let reason = io::Error::from_raw_os_error(errno.0);
                client
                    .queue
                    .append(|out| replies.error(out, request.cookie, code, &reason));
            }
            Ok(Some(payload)) if request.kind == Kind::Read => {
                client.queue.append(|out| replies.read(out, &request));
                client.queue.append_payload(payload);
            }
            Ok(_) => client.queue.append(|out| replies.done(out, request.cookie)),
        }
    }

    /// Sends the replies, and parts from clients that have theirs and leave. Says whether one that had to wait can
    /// go on now.
    pub(super) fn flush_clients(&mut self) -> bool {
        let room = self.has_room();
        let mut parting = Vec::new();
        let mut resumable = false;
        for (id, client) in &mut self.clients {
            if !client.queue.is_empty() && client.queue.flush(&client.socket).is_err()
                || client.leaving && client.in_flight == 0 && client.queue.is_empty()
            {
                parting.push(*id);
                continue;
            }
            resumable |= room && client.stalled && client.may_read();
            let wanted = Interest {
                read: room && client.may_read() && !client.stalled,
                write: !client.queue.is_empty(),
            };
            if wanted != client.interest {
                let key = source::CLIENT << source::SHIFT | id;
                match self.poll.change(client.socket.fd(), key, wanted) {
                    Ok(()) => client.interest = wanted,
                    Err(_) => parting.push(*id),
                }
            }
        }
        for id in parting {
            self.part(id);
        }
        resumable
    }
}

/// Listens at `path`, which appears whole: with its permissions, and in place of what a dead process left there.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something else has this name",
            ));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process serves it",
            ));
        }
        _ => {}
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    let _ = std::fs::remove_file(fresh);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(fresh)?)?;
    std::fs::set_permissions(fresh, std::fs::Permissions::from_mode(0o660))?;
    // Only now can anybody connect: whatever the umask is, never with other permissions than these.
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    std::fs::rename(fresh, path)?;
    Ok(OwnedFd::from(socket).into())
}
