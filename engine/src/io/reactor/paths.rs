//! The reactor's side of sessions: several connections to a peer that are one to the core.

mod tell;

use std::io;
use std::time::Instant;

use super::links::{LINGER, QUEUE_MAX};
use super::{source, Reactor};
use crate::core::{ConnectionId, PeerSlot, Severity, Time};
use crate::io::channel::Channel;
use crate::io::inbox::Input;
use crate::io::peer::PeerConnection;
use crate::session::{Control, Output, PathIndex, Session};
use crate::wire::{GoodbyeReason, Hello, Intent, Message, SessionHello, SessionId, PATHS_MAX};

/// A message, and the epoch that it was sent in.
pub(super) type Frame = (Message, u64);

/// One session. The core knows it by the number of its first connection.
pub(super) struct Several {
    id: SessionId,
    slot: PeerSlot,
    machine: Session<Frame>,
    /// The connection of each path, by its number.
    carriers: Vec<Option<u64>>,
    /// What this node said on the first connection: said again, but for the intent, on each other one.
    hello: Option<Hello>,
    /// More is kept than an honest peer leaves unconfirmed.
    overfull: bool,
}

impl Several {
    /// As the other side is told, for this path.
    fn said(&self, path: PathIndex) -> SessionHello {
        SessionHello {
            id: self.id,
            path: path as u16,
            paths: self.machine.paths() as u16,
        }
    }

    pub(super) fn next_timeout(&self, now: Time) -> Option<Time> {
        self.machine.next_timeout(now)
    }
}

/// A number that nobody can guess.
fn random_id() -> io::Result<SessionId> {
    let mut bytes = [0; 16];
    // SAFETY: `bytes` is valid for writes of its length.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // So few bytes are never given in part.
    if usize::try_from(count) == Ok(bytes.len()) {
        Ok(SessionId(bytes))
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Reactor {
    // ---- begin and end -------------------------------------------------------------------------------

    /// A connection that this node dialled becomes the first of a session, if the peer has several addresses.
    pub(super) fn offer_session(&mut self, connection: ConnectionId, path: PathIndex) {
        let Some(first) = self.connections.get_mut(&connection.0) else {
            return;
        };
        let paths = self.peers[first.slot].addresses.len().min(PATHS_MAX);
        first.path = path;
        if paths < 2 || path >= paths {
            return;
        }
        match random_id() {
            Ok(id) => {
                let machine = Session::lead(paths, path, self.replica.peer_timeout(), self.now);
                self.enter_session(connection, id, machine, path);
            }
            Err(error) => {
                let text = format!("one path only is used: no random number is to be had: {error}");
                self.notice(Severity::Warning, "path.alone", text);
            }
        }
    }

    /// A connection whose Hello offers a session becomes the first of it.
    pub(super) fn follow_session(&mut self, connection: ConnectionId, offer: SessionHello, hello: &Hello) {
        let (path, paths) = (usize::from(offer.path), usize::from(offer.paths));
        let mut machine = Session::follow(paths, path, self.replica.peer_timeout(), self.now);
        // Its first frame.
        let weight = Message::Hello(hello.clone()).weight();
        machine.receive(path, weight, self.now, &mut self.path_outputs);
        self.enter_session(connection, offer.id, machine, path);
    }

    fn enter_session(
        &mut self,
        connection: ConnectionId,
        id: SessionId,
        machine: Session<Frame>,
        path: PathIndex,
    ) {
        let Some(first) = self.connections.get_mut(&connection.0) else {
            return;
        };
        (first.path, first.in_session) = (path, true);
        let mut several = Several {
            id,
            slot: first.slot,
            carriers: vec![None; machine.paths()],
            machine,
            hello: None,
            overfull: false,
        };
        several.carriers[path] = Some(connection.0);
        self.sessions.insert(connection.0, several);
    }

    /// The core has ended it: what is queued on the path in use still goes out.
    pub(super) fn close_session(&mut self, session: u64) {
        let Some(several) = self.sessions.remove(&session) else {
            return;
        };
        let carrier = several.machine.carrier();
        for (path, key) in several.carriers.iter().enumerate() {
            let Some(key) = key else { continue };
            if carrier == Some(path) {
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.closing.get_or_insert(Instant::now() + LINGER);
                }
            } else {
                self.drop_path(*key);
            }
        }
    }

    /// Those with this peer.
    pub(super) fn sessions_with(&self, peer: PeerSlot) -> Vec<u64> {
        let with = (self.sessions.iter()).filter(|(_, several)| several.slot == peer);
        with.map(|(session, _)| *session).collect()
    }

    /// It has failed, whatever of it still stands.
    pub(super) fn fail_session(&mut self, session: u64, why: String) {
        let Some(several) = self.sessions.remove(&session) else {
            return;
        };
        for key in several.carriers.into_iter().flatten() {
            self.drop_path(key);
        }
        self.connection_lost(several.slot, ConnectionId(session), why);
    }

    fn drop_path(&mut self, key: u64) {
        if let Some(connection) = self.connections.remove(&key) {
            self.poll.remove(connection.channel.fd());
            self.ended[connection.slot].add(connection.counters());
        }
    }

    // ---- frames --------------------------------------------------------------------------------------

    /// Sends a message of the core's in a session.
    pub(super) fn send_in_session(&mut self, session: u64, mut message: Message, epoch: u64) {
        let Some(several) = self.sessions.get_mut(&session) else {
            return;
        };
        if several.overfull {
            return;
        }
        if let Message::Hello(hello) = &mut message {
            several.hello = Some(hello.clone());
            hello.session = several.machine.carrier().map(|path| several.said(path));
        }
        let weight = message.weight();
        let carrier = several.machine.send((message, epoch), weight, self.now);
        several.overfull = several.machine.kept_bytes() > QUEUE_MAX;
        let key = carrier.and_then(|path| several.carriers[path]);
        if let (Some(key), Some((message, epoch))) = (key, several.machine.newest()) {
            if let Some(connection) = self.connections.get_mut(&key) {
                connection.send(message, *epoch);
                connection.overfull = connection.queue.len() > QUEUE_MAX;
            }
        }
    }

    /// A message came on a path of a session: what the core is to hear of it.
    pub(super) fn received_in_session(
        &mut self,
        session: u64,
        key: u64,
        path: PathIndex,
        mut message: Message,
    ) -> Option<Message> {
        let now = self.now;
        let several = self.sessions.get_mut(&session)?;
        let control = match message {
            Message::PathAcknowledge { received } => Some(Control::Acknowledge { received }),
            Message::PathResume { turn, received } => Some(Control::Resume { turn, received }),
            _ => None,
        };
        if let Some(control) = control {
            let result = several
                .machine
                .control(path, control, now, &mut self.path_outputs);
            if let Err(violation) = result {
                let name = &self.peers[several.slot].name;
                let text = format!("{name} broke the protocol: {violation}");
                self.notice(Severity::Error, "peer.protocol_error", text.clone());
                self.path_outputs.clear();
                self.fail_session(session, text);
                return None;
            }
            self.obey_session(session, "");
            return None;
        }
        if !several
            .machine
            .receive(path, message.weight(), now, &mut self.path_outputs)
        {
            // Late, and comes again; but for a word on why a path is not taken.
            if let Message::Goodbye { text, .. } = message {
                self.lost(key, text);
            }
            return None;
        }
        if let Message::Hello(hello) = &mut message {
            let accepted = hello
                .session
                .take()
                .is_some_and(|session| session.id == several.id);
            if several.machine.leads() && accepted {
                several.machine.agree();
            } else if several.machine.leads() && !several.machine.is_agreed() {
                // The peer takes one connection: from here on it is one.
                self.sessions.remove(&session);
                if let Some(connection) = self.connections.get_mut(&key) {
                    connection.in_session = false;
                }
            }
        }
        if !self.path_outputs.is_empty() {
            self.obey_session(session, "");
        }
        Some(message)
    }

    // ---- paths ---------------------------------------------------------------------------------------

    /// A further path was reached for.
    pub(super) fn path_dialled(&mut self, session: u64, path: PathIndex, result: io::Result<Channel>) {
        let Some(several) = self.sessions.get(&session) else {
            return;
        };
        let (slot, hello) = (several.slot, several.hello.clone());
        let joined = result.and_then(|channel| {
            let hello = hello.ok_or(io::ErrorKind::NotConnected)?;
            self.enter_path(session, slot, path, channel, &[])?;
            Ok(hello)
        });
        match joined {
            Ok(mut hello) => {
                let epoch = self.replica.epoch();
                if let Some(several) = self.sessions.get(&session) {
                    (hello.intent, hello.session) = (Intent::Join, Some(several.said(path)));
                    let key = several.carriers[path].unwrap_or_default();
                    if let Some(connection) = self.connections.get_mut(&key) {
                        connection.send(&Message::Hello(hello), epoch);
                    }
                }
            }
            Err(error) => {
                self.note_refusal(slot, &error);
                let text = error.to_string();
                if let Some(several) = self.sessions.get_mut(&session) {
                    several
                        .machine
                        .down(path, &text, self.now, &mut self.path_outputs);
                }
                self.obey_session(session, &text);
            }
        }
    }

    /// A connection of `peer`'s that wants to be a path of a session; the listener knows that it is that peer.
    pub(super) fn joined(&mut self, peer: PeerSlot, channel: Channel, hello: &Hello, early: &[u8]) {
        let found = hello.session.and_then(|offer| {
            self.sessions
                .iter()
                .find(|(_, several)| several.slot == peer && several.id == offer.id)
                .filter(|(_, several)| {
                    !several.machine.leads() && usize::from(offer.path) < several.machine.paths()
                })
                .map(|(session, _)| (*session, usize::from(offer.path)))
        });
        let Some((session, path)) = found else {
            return Reactor::refuse_channel(
                channel,
                GoodbyeReason::Busy,
                "there is no such session any more",
            );
        };
        if let Err(error) = self.enter_path(session, peer, path, channel, early) {
            let name = &self.peers[peer].name;
            let text = format!("a path of {name}'s could not be set up: {error}");
            return self.notice(Severity::Warning, "peer.socket", text);
        }
        self.obey_session(session, "");
        if let Some(key) = self
            .sessions
            .get(&session)
            .and_then(|several| several.carriers[path])
        {
            self.decode_peer(key);
        }
    }

    /// Makes `channel` the connection of this path, where another was dead.
    fn enter_path(
        &mut self,
        session: u64,
        slot: PeerSlot,
        path: PathIndex,
        channel: Channel,
        early: &[u8],
    ) -> io::Result<()> {
        let mut connection = PeerConnection::new(slot, ConnectionId(session), channel, early)?;
        (connection.path, connection.in_session) = (path, true);
        let key = self.connection_id().0;
        let poll_key = source::PEER << source::SHIFT | key;
        self.poll
            .add(connection.channel.fd(), poll_key, connection.interest)?;
        self.connections.insert(key, connection);
        let dead = self.sessions.get_mut(&session).and_then(|several| {
            let dead = several.carriers[path].replace(key);
            several.machine.connected(path, self.now, &mut self.path_outputs);
            dead
        });
        if let Some(dead) = dead {
            self.drop_path(dead);
        }
        Ok(())
    }

    /// The connection of a path has ended.
    pub(super) fn path_lost(&mut self, session: u64, path: PathIndex, key: u64, why: &str) {
        let Some(several) = self.sessions.get_mut(&session) else {
            return;
        };
        if several.carriers[path] == Some(key) {
            several.carriers[path] = None;
            several.machine.down(path, why, self.now, &mut self.path_outputs);
        }
        self.obey_session(session, why);
    }

    /// Bytes came on this path.
    pub(super) fn path_heard(&mut self, session: u64, path: PathIndex) {
        if let Some(several) = self.sessions.get_mut(&session) {
            several.machine.heard(path, self.now);
        }
    }

    pub(super) fn sessions_on_time(&mut self) {
        let now = self.now;
        let due: Vec<u64> = (self.sessions.iter())
            .filter(|(_, several)| {
                several.next_timeout(now).is_some_and(|due| due <= now) || several.overfull
            })
            .map(|(session, _)| *session)
            .collect();
        for session in due {
            let Some(several) = self.sessions.get_mut(&session) else {
                continue;
            };
            if several.overfull {
                let text = format!(
                    "it does not confirm what is sent: {} bytes wait",
                    several.machine.kept_bytes()
                );
                self.fail_session(session, text);
                continue;
            }
            // What is not read is not silent.
            for (path, key) in several.carriers.iter().enumerate() {
                let connection = key.and_then(|key| self.connections.get(&key));
                if connection.is_some_and(|connection| connection.stalled) {
                    several.machine.heard(path, now);
                }
            }
            several.machine.on_time(now, &mut self.path_outputs);
            self.obey_session(session, "it is silent");
        }
    }

    /// Does what the session says; `why`: if this is its end.
    fn obey_session(&mut self, session: u64, why: &str) {
        let mut outputs = std::mem::take(&mut self.path_outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Control { path, control } => {
                    let message = match control {
                        Control::Acknowledge { received } => Message::PathAcknowledge { received },
                        Control::Resume { turn, received } => Message::PathResume { turn, received },
                    };
                    let epoch = self.replica.epoch();
                    self.send_on_path(session, path, &message, epoch);
                }
                Output::Again { path, frame } => self.send_on_path(session, path, &frame.0, frame.1),
                Output::Close { path } => {
                    let several = self.sessions.get_mut(&session);
                    if let Some(key) = several.and_then(|several| several.carriers[path].take()) {
                        self.drop_path(key);
                    }
                }
                Output::Dial { path } => self.dial_path(session, path),
                Output::Changed { path, change } => self.tell_of_path(session, path, change),
            }
        }
        self.path_outputs = outputs;
        if (self.sessions.get(&session)).is_some_and(|several| several.machine.is_lost()) {
            self.fail_session(session, why.to_owned());
        }
    }

    fn send_on_path(&mut self, session: u64, path: PathIndex, message: &Message, epoch: u64) {
        let key = self
            .sessions
            .get(&session)
            .and_then(|several| several.carriers[path]);
        if let Some(connection) = key.and_then(|key| self.connections.get_mut(&key)) {
            connection.send(message, epoch);
            connection.overfull = connection.queue.len() > QUEUE_MAX;
        }
    }

    fn dial_path(&mut self, session: u64, path: PathIndex) {
        let Some(several) = self.sessions.get(&session) else {
            return;
        };
        let destination = self.peers[several.slot].clone();
        let inbox = self.inbox.clone();
        let attempt = std::thread::Builder::new().name("bp-dial".into()).spawn(move || {
            let result = destination.reach_at(path);
            inbox.push(Input::PathDialled {
                session,
                path,
                result,
            });
        });
        if let Err(error) = attempt {
            self.inbox.push(Input::PathDialled {
                session,
                path,
                result: Err(error),
            });
        }
    }
}
