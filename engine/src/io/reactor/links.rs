//! The reactor's side of the connections to peers.

use std::io;
use std::time::{Duration, Instant};

use super::{source, Reactor};
use crate::core::{ConnectionId, Event, PeerSlot, Severity};
use crate::io::channel::Channel;
use crate::io::dial::Destination;
use crate::io::inbox::Input;
use crate::io::peer::PeerConnection;
use crate::io::poll::{Interest, Ready};
use crate::io::socket::{Received, SendQueue};
use crate::io::tls::is_refusal;
use crate::session::PathIndex;
use crate::wire::{encode, GoodbyeReason, Hello, Intent, Message};

/// How long a connection that was closed may take to deliver its last words.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// Receives, and bytes, from one connection in one turn: a busy peer leaves time for the clients, and what it
/// sent is written while the processor's cache still has it.
const RECEIVES_A_TURN: usize = 8;
const BYTES_A_TURN: usize = 512 << 10;
/// Bytes that wait for one peer, at most. The core holds back long before: what it answers unasked (a ping, say) is
/// all that can grow this far, with a peer that asks on and on and reads nothing.
pub(super) const QUEUE_MAX: usize = 256 << 20;
/// Why connections end when a peer's addresses change.
const READDRESSED: &str = "its addresses have changed";
/// What a lost node is told that speaks after all.
const LOST: &str = "this node is marked lost there, and no member of the cluster any more";
/// How long the same refusal is not told again.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

impl Reactor {
    /// Tries once, on a thread of its own: a name may have to be looked up.
    pub(super) fn dial(&mut self, peer: PeerSlot) {
        let destination = self.peers[peer].clone();
        let changes = destination.changes;
        let inbox = self.inbox.clone();
        let attempt = std::thread::Builder::new().name("bp-dial".into()).spawn(move || {
            inbox.push(Input::Dialled {
                peer,
                changes,
                result: destination.reach(),
            });
        });
        if let Err(error) = attempt {
            self.inbox.push(Input::Dialled {
                peer,
                changes,
                result: Err(error),
            });
        }
    }

    pub(super) fn dialled(&mut self, peer: PeerSlot, changes: u64, result: io::Result<(PathIndex, Channel)>) {
        let connected = result.and_then(|(path, channel)| {
            if changes != self.peers[peer].changes {
                return Err(io::Error::other(READDRESSED));
            }
            let connection = self.connected(peer, channel, &[])?;
            self.offer_session(connection, path);
            Ok(())
        });
        if let Err(error) = connected {
            self.untrusted[peer] = None;
            self.note_refusal(peer, &error);
            let connection = self.connection_id();
            self.tell(Event::ConnectionLost {
                peer,
                connection,
                why: error.to_string(),
            });
        }
    }

    /// From here on a peer is where `destination` says. What stands ends, if this node dialled it or the peer is
    /// lost; a peer that dials finds this node as before.
    pub(super) fn readdress(&mut self, peer: PeerSlot, destination: Destination) {
        if self.peers[peer].addresses == destination.addresses {
            return;
        }
        let ends = destination.is_lost() || self.replica.dials(peer);
        self.peers[peer] = destination;
        self.untrusted[peer] = None;
        if !ends {
            return;
        }
        let sessions = self.sessions_with(peer);
        for session in sessions {
            self.fail_session(session, READDRESSED.into());
        }
        let standing: Vec<u64> = (self.connections.iter())
            .filter(|(_, connection)| connection.slot == peer)
            .map(|(id, _)| *id)
            .collect();
        for id in standing {
            self.lost(id, READDRESSED.into());
        }
    }

    /// Says that it is trust that keeps the nodes apart, where it is: nothing else would, and no retry helps.
    pub(super) fn note_refusal(&mut self, peer: PeerSlot, error: &io::Error) {
        if !is_refusal(error) {
            return;
        }
        self.untrusted[peer] = Some(error.to_string());
        let text = format!("no connection to {}: {error}", self.peers[peer].name);
        let now = Instant::now();
        let again = self.refusals[peer]
            .as_ref()
            .is_some_and(|(at, earlier)| *earlier == text && now.duration_since(*at) < REFUSED_AGAIN);
        if !again {
            self.refusals[peer] = Some((now, text.clone()));
            self.notice(Severity::Warning, "peer.refused", text);
        }
    }

    /// Tells a peer that only asks; the answer is sent on a thread of its own, and this one never sees the connection.
    pub(super) fn consulted(&mut self, channel: Channel, hello: &Hello) {
        let Some(peer) = self.peers.iter().position(|peer| peer.name == hello.node) else {
            return;
        };
        if self.peers[peer].is_lost() {
            return Reactor::refuse_channel(channel, GoodbyeReason::UnknownNode, LOST);
        }
        let report = hello.intent == Intent::Consult { report: true };
        let told = self.replica.consultation(peer, false);
        self.answers.give(channel, &hello.node, told, report);
    }

    /// Tells a connection that was just accepted why it is not taken, and ends it.
    pub(super) fn refuse_channel(mut channel: Channel, reason: GoodbyeReason, text: &str) {
        let mut queue = SendQueue::default();
        let goodbye = Message::Goodbye {
            reason,
            text: text.into(),
        };
        queue.append(|out| encode(&goodbye, 0, out));
        // A fresh connection takes so little at once, or its end says enough.
        if channel.flush(&mut queue).is_ok() {
            let _ = channel.finish();
        }
    }

    /// A connection that the listener accepted for this resource.
    pub(super) fn accepted(&mut self, channel: Channel, mut hello: Hello, early: &[u8]) {
        let Some(peer) = self.peers.iter().position(|peer| peer.name == hello.node) else {
            // The listener asks for the name first; the configuration cannot have changed since.
            return;
        };
        if self.peers[peer].is_lost() {
            return Reactor::refuse_channel(channel, GoodbyeReason::UnknownNode, LOST);
        }
        if hello.intent == Intent::Join {
            return self.joined(peer, channel, &hello, early);
        }
        match self.connected(peer, channel, early) {
            Ok(connection) => {
                if let Some(offer) = hello.session.take() {
                    self.follow_session(connection, offer, &hello);
                }
                self.tell(Event::Received {
                    peer,
                    connection,
                    epoch: 0,
                    message: Message::Hello(hello),
                });
                self.decode_peer(connection.0);
            }
            Err(error) => {
                let text = format!(
                    "connection from {} could not be set up: {error}",
                    self.peers[peer].name
                );
                self.notice(Severity::Warning, "peer.socket", text);
            }
        }
    }

    fn connected(&mut self, peer: PeerSlot, channel: Channel, early: &[u8]) -> io::Result<ConnectionId> {
        let id = self.connection_id();
        let connection = PeerConnection::new(peer, id, channel, early)?;
        let key = source::PEER << source::SHIFT | id.0;
        self.poll.add(connection.channel.fd(), key, connection.interest)?;
        self.connections.insert(id.0, connection);
        self.tell(Event::ConnectionOpened { peer, connection: id });
        Ok(id)
    }

    pub(super) fn send(&mut self, connection: ConnectionId, message: Message, epoch: u64) {
        if self.sessions.contains_key(&connection.0) {
            return self.send_in_session(connection.0, message, epoch);
        }
        if let Some(connection) = self.connections.get_mut(&connection.0) {
            if connection.closing.is_none() && !connection.overfull {
                connection.send(&message, epoch);
                connection.overfull = connection.queue.len() > QUEUE_MAX;
            }
        }
    }

    /// The core has ended it: what is queued still goes out.
    pub(super) fn close_peer(&mut self, connection: ConnectionId) {
        if self.sessions.contains_key(&connection.0) {
            return self.close_session(connection.0);
        }
        if let Some(connection) = self.connections.get_mut(&connection.0) {
            connection.closing.get_or_insert(Instant::now() + LINGER);
        }
    }

    pub(super) fn attend_peer(&mut self, id: u64, ready: Ready) {
        // Writing is tried at the end of every turn.
        if !ready.read {
            return;
        }
        let mut bytes = 0;
        for _ in 0..RECEIVES_A_TURN {
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            if !connection.interest.read && !ready.hung_up {
                return;
            }
            let was_closing = connection.closing.is_some();
            match connection.receive() {
                Ok(Received::Bytes { .. }) if was_closing => connection.discard(),
                Ok(Received::Bytes { more, count }) => {
                    bytes += count;
                    if connection.in_session {
                        let (session, path) = (connection.id.0, connection.path);
                        self.path_heard(session, path);
                    }
                    // What comes later is reported again; asking whether it has come costs a system call.
                    if !self.decode_peer(id) || !more || bytes >= BYTES_A_TURN {
                        return;
                    }
                }
                Ok(Received::Empty) => return,
                Ok(Received::End) => return self.lost(id, "the peer closed the connection".into()),
                Err(error) => {
                    let slot = connection.slot;
                    self.note_refusal(slot, &error);
                    return self.lost(id, error.to_string());
                }
            }
        }
    }

    /// Hands the core what was received; false when it takes no more for now, or the connection has ended.
    pub(super) fn decode_peer(&mut self, id: u64) -> bool {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else {
                return false;
            };
            let slot = connection.slot;
            if !self.replica.accepts_messages(slot) {
                connection.stalled = true;
                return false;
            }
            let connection_id = connection.id;
            match connection.next() {
                Ok(None) => return true,
                Ok(Some((epoch, message))) => {
                    let heard = if connection.in_session {
                        let path = connection.path;
                        self.received_in_session(connection_id.0, id, path, message)
                    } else {
                        Some(message)
                    };
                    let Some(message) = heard else {
                        continue;
                    };
                    if matches!(message, Message::Ping { .. }) {
                        // The word that answers it counts from its receipt: a thread that was stopped since this turn
                        // began must not give a shorter one than the other side takes it for.
                        self.now = self.clock.now();
                    }
                    self.tell(Event::Received {
                        peer: slot,
                        connection: connection_id,
                        epoch,
                        message,
                    });
                }
                // Nothing of this path can be believed any more; what it carried comes again on another.
                Err(why) if connection.in_session => {
                    self.lost(id, why);
                    return false;
                }
                Err(why) => {
                    let text = why.clone();
                    let goodbye = Message::Goodbye {
                        reason: GoodbyeReason::ProtocolError,
                        text,
                    };
                    connection.send(&goodbye, self.replica.epoch());
                    // The rest of the stream means nothing; the connection lingers for this word only.
                    connection.discard();
                    connection.closing = Some(Instant::now() + LINGER);
                    self.tell(Event::ConnectionLost {
                        peer: slot,
                        connection: connection_id,
                        why,
                    });
                    return false;
                }
            }
        }
    }

    /// Goes on with what had to wait; called whenever the core may have room again.
    pub(super) fn resume_peers(&mut self) {
        let stalled: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.stalled && self.replica.accepts_messages(connection.slot))
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.stalled = false;
            }
            self.decode_peer(id);
        }
    }

    pub(super) fn lost(&mut self, id: u64, why: String) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        self.poll.remove(connection.channel.fd());
        self.ended[connection.slot].add(connection.counters());
        if connection.closing.is_none() && connection.in_session {
            self.path_lost(connection.id.0, connection.path, id, &why);
        } else if connection.closing.is_none() {
            let (peer, connection) = (connection.slot, connection.id);
            self.connection_lost(peer, connection, why);
        }
    }

    /// It ended without a word: with an arbiter, it matters whether the peer's process has ended too.
    pub(super) fn connection_lost(&mut self, peer: PeerSlot, connection: ConnectionId, why: String) {
        if self.replica.is_arbitrated() {
            let (destination, inbox) = (self.peers[peer].clone(), self.inbox.clone());
            // Without the thread, the follower's word runs out by itself.
            let _ = std::thread::Builder::new()
                .name("bp-probe".into())
                .spawn(move || {
                    if destination.refuses() {
                        inbox.push(Input::PeerProcessGone { peer, connection });
                    }
                });
        }
        self.tell(Event::ConnectionLost {
            peer,
            connection,
            why,
        });
    }

    /// Sends what waits, and ends connections that have said their last word.
    pub(super) fn flush_peers(&mut self) {
        let mut ended = Vec::new();
        let now = Instant::now();
        for (id, connection) in &mut self.connections {
            if connection.overfull {
                let text = format!(
                    "it does not take what is sent: {} bytes wait",
                    connection.queue.len()
                );
                ended.push((*id, text));
                continue;
            }
            if connection.wants_write() {
                if let Err(error) = connection.flush() {
                    ended.push((*id, error.to_string()));
                    continue;
                }
            }
            if let Some(end) = connection.closing {
                if connection.queue.is_empty() && !connection.finished {
                    // The other side's end of the stream ends it; closing at once could take back the last words.
                    match connection.channel.finish() {
                        Ok(done) => connection.finished = done,
                        Err(error) => {
                            ended.push((*id, error.to_string()));
                            continue;
                        }
                    }
                }
                if now >= end {
                    ended.push((*id, String::new()));
                    continue;
                }
            }
            let wanted = Interest {
                read: connection.closing.is_some() || !connection.stalled,
                write: connection.wants_write(),
            };
            if wanted != connection.interest {
                let key = source::PEER << source::SHIFT | id;
                match self.poll.change(connection.channel.fd(), key, wanted) {
                    Ok(()) => connection.interest = wanted,
                    Err(error) => ended.push((*id, error.to_string())),
                }
            }
        }
        for (id, why) in ended {
            self.lost(id, why);
        }
    }
}
