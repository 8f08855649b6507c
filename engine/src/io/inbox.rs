//! What other threads tell an engine's thread.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bundle::Saved;
use super::channel::Channel;
use super::dial::Destination;
use super::event::EventFd;
use super::failure::Failure;
use crate::core::{Command, Configuration, ConnectionId, Consultation, Errno, PeerSlot, Token};
use crate::session::PathIndex;
use crate::wire::{Hello, Intent};

pub type CommandReply = SyncSender<Result<(), Failure>>;

pub enum Input {
    Command {
        command: Command,
        /// Who asked, for the history.
        by: String,
        reply: CommandReply,
    },
    /// A peer's connection, whose Hello the listener has read.
    Accepted {
        channel: Channel,
        hello: Box<Hello>,
        /// What came with the Hello, and belongs after it.
        early: Vec<u8>,
    },
    /// A peer's connection that only asks: its Hello's intent is a consultation.
    Consulted {
        channel: Channel,
        hello: Box<Hello>,
    },
    /// What a consultation of that peer needs of this node.
    Consultation {
        peer: PeerSlot,
        report: bool,
        reply: SyncSender<Consultation>,
    },
    /// The result of an attempt to reach a peer.
    Dialled {
        peer: PeerSlot,
        /// Of the destination, when the attempt began.
        changes: u64,
        /// And at which of its addresses it was reached.
        result: io::Result<(PathIndex, Channel)>,
    },
    /// Of the process behind a connection that has ended, nothing is left.
    PeerProcessGone {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    /// From here on a peer is elsewhere, or nowhere.
    Readdress {
        peer: PeerSlot,
        destination: Destination,
        reply: SyncSender<()>,
    },
    /// The result of an attempt to reach a further path of a session.
    PathDialled {
        /// The number of the session's first connection.
        session: u64,
        path: PathIndex,
        result: io::Result<Channel>,
    },
    MetaDone {
        token: Token,
        result: Result<(), Errno>,
    },
    /// A bundle is durable and verified, or was not saved and why, for people.
    BundleSaved {
        token: Token,
        result: Result<Saved, String>,
    },
    /// A record of the history is stable, or was not written and why, for people. `token`: of whoever waits for it.
    Recorded {
        token: Option<Token>,
        result: Result<(), String>,
    },
    /// What the arbiter holds, as the answer to this ask.
    ArbiterSays {
        ask: u64,
        configuration: Option<Configuration>,
    },
    /// A kernel device's end of a socket pair.
    Attach(OwnedFd),
    Detach(SyncSender<()>),
    IoFlusher(bool),
    /// Somebody waits for a fresh status.
    Publish,
    /// The fault command.
    Panic,
}

/// A queue into a thread that sleeps in epoll.
pub struct Inbox {
    /// None: its reader has ended.
    queue: Mutex<Option<VecDeque<Input>>>,
    wake: EventFd,
}

impl Inbox {
    pub fn new() -> io::Result<Inbox> {
        Ok(Inbox {
            queue: Mutex::new(Some(VecDeque::new())),
            wake: EventFd::new()?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<Input>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves `input` for the thread, or drops it (and with it any connection or reply channel) if that has ended.
    pub fn push(&self, input: Input) {
        if let Some(queue) = self.lock().as_mut() {
            // A thread that a disk holds up takes nothing: what comes again and again must not pile up meanwhile.
            match &input {
                Input::Accepted { hello, .. } => queue.retain(|earlier| {
                    let place = |hello: &Hello| (hello.intent == Intent::Join).then_some(hello.session);
                    !matches!(
                        earlier,
                        Input::Accepted { hello: other, .. }
                            if other.node == hello.node && place(other) == place(hello)
                    )
                }),
                Input::Consulted { hello, .. } => queue.retain(|earlier| {
                    !matches!(earlier, Input::Consulted { hello: other, .. } if other.node == hello.node)
                }),
                Input::Publish => queue.retain(|earlier| !matches!(earlier, Input::Publish)),
                _ => {}
            }
            queue.push_back(input);
            self.wake.signal();
        }
    }

    pub fn fd(&self) -> RawFd {
        self.wake.fd()
    }

    /// Everything that waits, in order.
    pub fn take(&self) -> VecDeque<Input> {
        self.wake.clear();
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The reader ends: what waits, and what comes, is dropped.
    pub fn close(&self) {
        let waiting = self.lock().take();
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::wire::{self, Protocol, SplitBrainPolicy};

    #[test]
    fn what_comes_again_and_again_does_not_pile_up() {
        let inbox = Inbox::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hello = |node: &str| {
            Box::new(Hello {
                version_min: wire::VERSION_MIN,
                version_max: wire::VERSION_MAX,
                features: wire::feature::ALL,
                resource: "r0".into(),
                resource_id: [0; 16],
                node: node.into(),
                peer: "a".into(),
                data_size_bytes: 4096,
                block_size_bytes: 4096,
                protocol: Protocol::C,
                channel: 0,
                nonce: 1,
                intent: Intent::Replicate,
                policy: SplitBrainPolicy::Manual,
                priority: 0,
                session: None,
            })
        };
        for n in 0..10 {
            inbox.push(Input::Publish);
            for node in ["b", "c"] {
                inbox.push(Input::Accepted {
                    channel: Channel::plain(TcpStream::connect(listener.local_addr().unwrap()).unwrap())
                        .unwrap(),
                    hello: hello(node),
                    early: vec![n],
                });
            }
        }
        let waiting = inbox.take();
        assert_eq!(waiting.len(), 3);
        // The newest of each peer: the earlier ones are dead.
        let newest = |input: &Input| matches!(input, Input::Accepted { early, .. } if early == &[9]);
        assert_eq!(waiting.iter().filter(|input| newest(input)).count(), 2);
    }
}
