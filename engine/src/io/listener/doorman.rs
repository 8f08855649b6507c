//! Who is let in: the thread that takes new connections, and decides by TLS and the Hello. It waits for nobody.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::refusals::{Refusals, Told};
use super::Registry;
use crate::front::nbd::ReceiveBuffer;
use crate::io::channel::Channel;
use crate::io::event::EventFd;
use crate::io::inbox::Input;
use crate::io::shared::Events;
use crate::io::socket::{Received, SendQueue};
use crate::io::tls::{is_refusal, Session, State, TrustStore, FIRST_BYTE, RECORD_MAX};
use crate::wire::{decode_hello, encode, GoodbyeReason, Hello, HelloStep, Intent, Message};

/// How long a new connection may take to say, and prove, who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have not yet, at most.
const HALF_OPEN_MAX: usize = 256;
/// Connections taken in one turn: those before them are heard in between, and an honest one among a thousand is through
/// before it is the oldest.
const ACCEPTS_A_TURN: usize = 16;
/// How long a connection that was refused may take to go.
const LINGER: Duration = Duration::from_millis(500);
/// Reads from one connection in one turn.
const READS_A_TURN: usize = 8;
/// Pause after a failed accept (out of descriptors), so that it is not tried in a loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Room for what a connection sends until its Hello is whole: that, and the record it comes in.
const INPUT_BYTES: usize = 2 * RECORD_MAX;
/// TLS's fatal alert access_denied, in the clear: what a node without certificates answers to TLS.
const ACCESS_DENIED: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 49];

/// A connection that has not said who it is, or that was refused and has the rest of its time to read why.
struct HalfOpen {
    from: IpAddr,
    deadline: Instant,
    phase: Phase,
}

enum Phase {
    /// Nothing was heard of it.
    Silent(TcpStream),
    Speaking(Channel, ReceiveBuffer),
    Refused(Channel),
    /// It is done with.
    Over,
}

impl Phase {
    /// How far it has come: who has done less goes first when there are too many.
    fn rank(&self) -> u8 {
        match self {
            Phase::Over | Phase::Refused(_) => 0,
            Phase::Silent(_) => 1,
            Phase::Speaking(channel, _) => match channel.session().map(Session::state) {
                None | Some(State::Handshake) => 2,
                Some(_) => 3,
            },
        }
    }
}

/// Why a connection is turned away.
struct Refusal {
    /// For the log.
    text: String,
    told: Told,
    /// For the other side, where it would understand it.
    goodbye: Option<(GoodbyeReason, String)>,
}

impl Refusal {
    /// Of one that has not said who it is, and whose language is not known.
    fn nameless(from: IpAddr, why: &dyn std::error::Error) -> Refusal {
        Refusal {
            text: format!("refused a connection from {from}: {why}"),
            told: Told::Listener,
            goodbye: None,
        }
    }
}

enum Progress {
    Waiting(Phase),
    Hello(Channel, ReceiveBuffer, Hello),
    Refused(Channel, Refusal),
    Over,
}

pub struct Doorman {
    listener: TcpListener,
    registry: Arc<Registry>,
    trust: TrustStore,
    refusals: Refusals,
    closed: Arc<EventFd>,
    half_open: Vec<HalfOpen>,
    pause_until: Option<Instant>,
}

impl Doorman {
    pub fn new(
        listener: TcpListener,
        registry: Arc<Registry>,
        trust: TrustStore,
        events: Arc<Events>,
        closed: Arc<EventFd>,
    ) -> Doorman {
        Doorman {
            listener,
            registry,
            trust,
            refusals: Refusals::new(events),
            closed,
            half_open: Vec::new(),
            pause_until: None,
        }
    }

    /// The thread's life, until `closed` is signalled.
    pub fn serve(&mut self) {
        loop {
            let now = Instant::now();
            self.expire(now);
            self.refusals.sum_up(now);
            self.pause_until = self.pause_until.filter(|until| *until > now);
            let deadlines = self.half_open.iter().map(|connection| connection.deadline);
            let next = deadlines.chain(self.pause_until).chain(self.refusals.due()).min();
            let timeout = next.map_or(-1, |at| {
                // Rounded up: waking a little early would turn into a busy loop.
                i32::try_from(at.saturating_duration_since(now).as_millis() + 1).unwrap_or(i32::MAX)
            });
            let entry = |fd: i32, events: i16| libc::pollfd {
                fd,
                events,
                revents: 0,
            };
            let door = if self.pause_until.is_some() {
                -1
            } else {
                self.listener.as_raw_fd()
            };
            let mut polled = vec![entry(self.closed.fd(), libc::POLLIN), entry(door, libc::POLLIN)];
            polled.extend(self.half_open.iter().map(|connection| {
                let (fd, events) = connection.phase.polled();
                entry(fd, events)
            }));
            // SAFETY: `polled` is valid for its length.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
            if polled[0].revents != 0 {
                return;
            }
            for (connection, polled) in polled[2..].iter().enumerate() {
                if polled.revents != 0 {
                    self.attend_safely(connection);
                }
            }
            self.half_open
                .retain(|connection| !matches!(connection.phase, Phase::Over));
            if polled[1].revents != 0 {
                self.accept();
            }
        }
    }

    /// Ends what has taken too long.
    fn expire(&mut self, now: Instant) {
        for connection in self
            .half_open
            .extract_if(.., |connection| connection.deadline <= now)
        {
            if !matches!(connection.phase, Phase::Refused(_)) {
                let text = format!(
                    "refused a connection from {}: it did not say within {} s who it is",
                    connection.from,
                    HELLO_TIMEOUT.as_secs()
                );
                self.refusals.add(now, connection.from, text, Told::Listener);
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_A_TURN {
            match self.listener.accept() {
                Ok((stream, address)) => {
                    if stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    if self.half_open.len() >= HALF_OPEN_MAX {
                        self.make_room();
                    }
                    self.half_open.push(HalfOpen {
                        from: address.ip().to_canonical(),
                        deadline: Instant::now() + HELLO_TIMEOUT,
                        phase: Phase::Silent(stream),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.pause_until = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Ends one: of the address that has the most here, the one that has come least far, the oldest of those. A flood
    /// from one place drowns itself.
    fn make_room(&mut self) {
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for connection in &self.half_open {
            *held.entry(connection.from).or_default() += 1;
        }
        let first = (self.half_open.iter().enumerate())
            .min_by_key(|(index, connection)| {
                (
                    usize::MAX - held[&connection.from],
                    connection.phase.rank(),
                    *index,
                )
            })
            .map(|(index, _)| index);
        if let Some(index) = first {
            let connection = self.half_open.remove(index);
            let text = format!(
                "ended a connection from {}: {HALF_OPEN_MAX} have not said who they are, and it was one of the first",
                connection.from
            );
            self.refusals
                .add(Instant::now(), connection.from, text, Told::Listener);
        }
    }

    /// Whatever a stranger sends, the door stays open for the others.
    fn attend_safely(&mut self, index: usize) {
        if catch_unwind(AssertUnwindSafe(|| self.attend(index))).is_err() {
            // What was taken of it is gone, and with it the connection.
            let connection = &mut self.half_open[index];
            connection.phase = Phase::Over;
            let from = connection.from;
            let text = format!(
                "refused a connection from {from}: what it sent made the listener panic, see the log"
            );
            self.refusals.add(Instant::now(), from, text, Told::Listener);
        }
    }

    fn attend(&mut self, index: usize) {
        let connection = &mut self.half_open[index];
        let from = connection.from;
        let phase = std::mem::replace(&mut connection.phase, Phase::Over);
        let progress = match phase.heard(from, &self.trust) {
            Progress::Hello(channel, input, hello) => self.route(channel, &input, hello, from),
            other => other,
        };
        let connection = &mut self.half_open[index];
        match progress {
            Progress::Waiting(phase) => connection.phase = phase,
            Progress::Refused(mut channel, refusal) => {
                let now = Instant::now();
                let mut queue = SendQueue::default();
                if let Some((reason, text)) = refusal.goodbye {
                    queue.append(|out| encode(&Message::Goodbye { reason, text }, 0, out));
                }
                // A fresh connection takes a few dozen bytes at once, or is not worth waiting for.
                if channel.flush(&mut queue).is_ok() && channel.finish().is_ok() {
                    connection.phase = Phase::Refused(channel);
                    connection.deadline = now + LINGER;
                }
                self.refusals.add(now, from, refusal.text, refusal.told);
            }
            Progress::Hello(..) | Progress::Over => {}
        }
    }

    /// Hands the connection over to its engine, or says why not.
    fn route(&self, channel: Channel, input: &ReceiveBuffer, hello: Hello, from: IpAddr) -> Progress {
        let who = format!("refused {} from {from}", hello.node);
        let unproved = match channel.session() {
            Some(session) => session.check_peer(&hello.node).err(),
            None if from.is_loopback() => None,
            None => Some("a connection without TLS is taken from this machine only".to_owned()),
        };
        let routes = self.registry.lock();
        let route = routes.get(&hello.resource);
        let told = || route.map_or(Told::Listener, |route| Told::Resource(route.shared.clone()));
        let refused = |why: String, told: Told| Refusal {
            text: format!("{who}: {why}"),
            told,
            goodbye: Some((GoodbyeReason::UnknownNode, why)),
        };
        // Whoever has proved nothing is not told what is here.
        if let Some(why) = unproved {
            return Progress::Refused(channel, refused(why, told()));
        }
        let Some(route) = route else {
            let why = format!("no resource {} is up here", hello.resource);
            return Progress::Refused(
                channel,
                Refusal {
                    goodbye: Some((GoodbyeReason::UnknownResource, why.clone())),
                    ..refused(why, Told::Nobody)
                },
            );
        };
        let Some(expected) = route.peers.iter().find(|peer| peer.name == hello.node) else {
            let why = format!("{} is no peer of resource {} here", hello.node, hello.resource);
            return Progress::Refused(channel, refused(why, told()));
        };
        if expected.tls && channel.session().is_none() {
            let why = format!("connections for resource {} need TLS here", hello.resource);
            return Progress::Refused(channel, refused(why, told()));
        }
        let (early, hello) = (input.data().to_vec(), Box::new(hello));
        route.inbox.push(match hello.intent {
            Intent::Consult { .. } => Input::Consulted { channel, hello },
            _ => Input::Accepted {
                channel,
                hello,
                early,
            },
        });
        Progress::Over
    }
}

impl Phase {
    fn polled(&self) -> (i32, i16) {
        match self {
            Phase::Silent(stream) => (stream.as_raw_fd(), libc::POLLIN),
            Phase::Speaking(channel, _) | Phase::Refused(channel) => {
                let out = if channel.wants_write() { libc::POLLOUT } else { 0 };
                (channel.fd(), libc::POLLIN | out)
            }
            Phase::Over => (-1, 0),
        }
    }

    /// Takes in what is there.
    fn heard(self, from: IpAddr, trust: &TrustStore) -> Progress {
        match self {
            Phase::Silent(stream) => Phase::begin(stream, from, trust),
            Phase::Speaking(channel, input) => Phase::listen(channel, input, from),
            Phase::Refused(mut channel) => {
                // Whatever it still says: it must not be reset before it has read why it has to go.
                let mut ignored = [0; 4096];
                for _ in 0..READS_A_TURN {
                    match channel.socket().receive(&mut ignored) {
                        Ok(Received::Bytes { .. }) => {}
                        Ok(Received::Empty) => break,
                        Ok(Received::End) | Err(_) => return Progress::Over,
                    }
                }
                match channel.finish() {
                    Ok(_) => Progress::Waiting(Phase::Refused(channel)),
                    Err(_) => Progress::Over,
                }
            }
            Phase::Over => Progress::Over,
        }
    }

    /// The first byte tells TLS from what is not.
    fn begin(stream: TcpStream, from: IpAddr, trust: &TrustStore) -> Progress {
        let mut first = [0];
        match stream.peek(&mut first) {
            Ok(0) => return Progress::Over,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Progress::Waiting(Phase::Silent(stream))
            }
            Err(_) => return Progress::Over,
        }
        let channel = if first[0] != FIRST_BYTE {
            Channel::plain(stream)
        } else if let Some(trust) = trust.get() {
            match Session::server(&trust) {
                Ok(session) => Channel::secured(stream, session),
                Err(_) => return Progress::Over,
            }
        } else {
            return Phase::no_trust(stream, from);
        };
        match channel {
            Ok(channel) => Phase::listen(channel, ReceiveBuffer::new(INPUT_BYTES), from),
            Err(_) => Progress::Over,
        }
    }

    fn no_trust(stream: TcpStream, from: IpAddr) -> Progress {
        let Ok(channel) = Channel::plain(stream) else {
            return Progress::Over;
        };
        // A connection that does not take seven bytes is not worth more.
        let _ = channel.socket().send(&ACCESS_DENIED);
        let text = format!(
            "refused a connection from {from}: it speaks TLS, and this node has no certificates; make or join a \
             cluster (blockpair cluster init, blockpair cluster join)"
        );
        Progress::Refused(
            channel,
            Refusal {
                text,
                told: Told::Listener,
                goodbye: None,
            },
        )
    }

    /// Reads what is there, until the Hello is whole.
    fn listen(mut channel: Channel, mut input: ReceiveBuffer, from: IpAddr) -> Progress {
        // What TLS wants to say goes first: the other side may wait for it.
        if channel.wants_write() && channel.flush(&mut SendQueue::default()).is_err() {
            return Progress::Over;
        }
        for _ in 0..READS_A_TURN {
            match channel.receive(&mut input, &mut None) {
                Ok(Received::Bytes { .. }) => {}
                Ok(Received::Empty) => return Progress::Waiting(Phase::Speaking(channel, input)),
                Ok(Received::End) => return Progress::Over,
                Err(error) if is_refusal(&error) => {
                    return Progress::Refused(channel, Refusal::nameless(from, &error));
                }
                Err(_) => return Progress::Over,
            }
            if channel.wants_write() && channel.flush(&mut SendQueue::default()).is_err() {
                return Progress::Over;
            }
            match decode_hello(input.data()) {
                Ok(HelloStep::NeedMore { .. }) => {}
                Ok(HelloStep::Hello { consumed, hello, .. }) => {
                    input.consume(consumed);
                    return Progress::Hello(channel, input, hello);
                }
                // Garbage: nobody is there who would understand an answer.
                Err(error) => return Progress::Refused(channel, Refusal::nameless(from, &error)),
            }
        }
        // Whoever sends on and on must not keep the others from being heard.
        Progress::Waiting(Phase::Speaking(channel, input))
    }
}
