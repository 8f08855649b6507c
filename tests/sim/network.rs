//! The cable between the two nodes: every message crosses it as the bytes of the real codec.

use _engine::core::*;
use _engine::payload::Payload;
use _engine::wire::{self, Decoder, Message, Step};

use crate::world::{Happening, World, MS, NAMES};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cable {
    Fine,
    /// Everything takes a third of a second, at most.
    Slow,
    /// Messages from this node vanish, in silence.
    Mute(usize),
    /// Both directions vanish, in silence.
    Silent,
    /// Connections break and cannot be made.
    Cut,
}

pub struct Connection {
    open: [bool; 2],
    /// When the last message of each direction arrives: TCP keeps order.
    last_arrival: [Time; 2],
}

/// A message as bytes.
pub struct Frame {
    bytes: Vec<u8>,
    /// What it said before a bit of it was flipped.
    damaged: Option<Box<Message>>,
}

/// The message, and the epoch of its frame.
fn decode(bytes: &[u8]) -> Result<(u64, Message), String> {
    let mut decoder = Decoder::new();
    match decoder.next(bytes).map_err(|error| error.to_string())? {
        Step::Message { epoch, message, .. } => Ok((epoch, message)),
        Step::NeedMore { .. } => Err("a frame that never ends".into()),
        Step::Payload {
            consumed,
            payload_len,
        } => {
            let end = consumed + payload_len;
            let bulk = bytes.get(consumed..end).ok_or("a frame that never ends")?;
            let done = decoder.finish(Payload::copy_from(bulk));
            done.map_err(|error| error.to_string())
        }
    }
}

impl World {
    pub fn set_cable(&mut self, cable: Cable) {
        if self.cable == cable {
            return;
        }
        self.note(|| format!("cable: {cable:?}"));
        self.counts.add(
            match cable {
                Cable::Fine => "mended cables",
                Cable::Slow => "slow cables",
                Cable::Mute(_) => "one-way cuts",
                Cable::Silent => "silent cuts",
                Cable::Cut => "cuts",
            },
            1,
        );
        self.cable = cable;
        if cable == Cable::Cut {
            for connection in self.connections.keys().copied().collect::<Vec<_>>() {
                for node in 0..2 {
                    let delay = 1 + self.rng.below(5 * MS);
                    self.schedule(
                        node,
                        delay,
                        Happening::Lost {
                            connection,
                            why: "cut",
                        },
                    );
                }
            }
        }
    }

    pub(crate) fn break_connection(&mut self, id: ConnectionId, by: usize) {
        let peer = 1 - by;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.open[by] = false;
        let arrival = connection.last_arrival[peer];
        // A machine without power says nothing.
        let silent = self.settings.arbitrated.is_some() && !self.nodes[by].powered;
        if !silent
            && connection.open[peer]
            && matches!(self.cable, Cable::Fine | Cable::Slow | Cable::Cut)
        {
            let delay = arrival.saturating_sub(self.now) + 1 + self.rng.below(MS);
            let why = "connection reset";
            self.schedule(
                peer,
                delay,
                Happening::Lost {
                    connection: id,
                    why,
                },
            );
        }
    }

    pub(crate) fn transmit(&mut self, from: usize, id: ConnectionId, epoch: u64, message: Message) {
        let to = 1 - from;
        let vanishes = match self.cable {
            Cable::Fine | Cable::Slow => false,
            Cable::Mute(node) => node == from,
            Cable::Silent | Cable::Cut => true,
        };
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if vanishes {
            // TCP has no holes: what follows on this connection never arrives either.
            connection.open[to] = false;
        }
        if !connection.open[from] || !connection.open[to] {
            return;
        }
        let span = if self.cable == Cable::Slow {
            330 * MS
        } else {
            MS / 2
        };
        let arrival = connection.last_arrival[to].max(self.now) + 1 + self.rng.below(span);
        connection.last_arrival[to] = arrival;
        let mut bytes = Vec::new();
        if let Some(payload) = wire::encode(&message, epoch, &mut bytes) {
            bytes.extend_from_slice(&payload);
        }
        let damaged = std::mem::take(&mut self.corrupt_next).then(|| {
            let byte = self.rng.below(bytes.len() as u64) as usize;
            bytes[byte] ^= 1 << self.rng.below(8);
            Box::new(message)
        });
        if damaged.is_some() {
            self.counts.add("damaged frames", 1);
            self.note(|| format!("a frame from {} is damaged on its way", NAMES[from]));
        }
        let frame = Frame { bytes, damaged };
        let what = Happening::Deliver {
            connection: id,
            frame,
        };
        self.schedule(to, arrival - self.now, what);
    }

    pub(crate) fn deliver(&mut self, to: usize, connection: ConnectionId, frame: Frame) {
        if !self
            .connections
            .get(&connection)
            .is_some_and(|c| c.open[to])
        {
            return;
        }
        match (decode(&frame.bytes), frame.damaged) {
            (Ok((epoch, message)), None) => {
                let event = Event::Received {
                    peer: 0,
                    connection,
                    epoch,
                    message,
                };
                self.event(to, event);
            }
            (Err(why), None) => {
                self.fail(format!("{}: an honest frame was refused: {why}", NAMES[to]))
            }
            (Ok((_, message)), Some(sent)) => {
                self.fail(format!(
                    "I5: a damaged frame was believed: sent {sent:?}, read {message:?}"
                ));
            }
            (Err(_), Some(_)) => {
                self.victim_is_free(to, connection);
                self.break_connection(connection, to);
                let why = "a damaged frame".into();
                self.event(
                    to,
                    Event::ConnectionLost {
                        peer: 0,
                        connection,
                        why,
                    },
                );
            }
        }
    }

    pub(crate) fn lost(&mut self, n: usize, connection: ConnectionId, why: &str) {
        let Some(entry) = self.connections.get_mut(&connection).filter(|c| c.open[n]) else {
            return;
        };
        entry.open[n] = false;
        self.victim_is_free(n, connection);
        if self.settings.arbitrated.is_some() {
            let delay = 1 + self.rng.below(2 * MS);
            self.schedule(n, delay, Happening::Probe { connection });
        }
        let why = why.into();
        self.event(
            n,
            Event::ConnectionLost {
                peer: 0,
                connection,
                why,
            },
        );
    }

    /// Only a machine that runs refuses; and only where no process listens.
    pub(crate) fn probe(&mut self, from: usize, connection: ConnectionId) {
        let to = 1 - from;
        let reaches = matches!(self.cable, Cable::Fine | Cable::Slow) && self.nodes[to].powered;
        if reaches && !self.is_up(to) {
            self.counts.add("processes seen to be gone", 1);
            let delay = 1 + self.rng.below(MS);
            self.schedule(from, delay, Happening::ProcessGone { connection });
        }
    }

    pub(crate) fn not_reached(&mut self, from: usize, connection: ConnectionId) {
        let why = "connection timed out".into();
        self.event(
            from,
            Event::ConnectionLost {
                peer: 0,
                connection,
                why,
            },
        );
    }

    pub(crate) fn dialled(&mut self, from: usize) {
        let connection = self.next_connection();
        let to = 1 - from;
        let reaches = matches!(self.cable, Cable::Fine | Cable::Slow) && self.nodes[to].powered;
        if !reaches && self.settings.arbitrated.is_some() {
            // Nobody there to refuse it.
            let delay = 1 + self.rng.below(1_000 * MS);
            return self.schedule(from, delay, Happening::NotReached { connection });
        }
        if !reaches || !self.is_up(to) {
            let why = "connection refused".into();
            return self.event(
                from,
                Event::ConnectionLost {
                    peer: 0,
                    connection,
                    why,
                },
            );
        }
        self.counts.add("connections", 1);
        self.connections.retain(|_, c| c.open != [false, false]);
        let entry = Connection {
            open: [true, true],
            last_arrival: [self.now, self.now],
        };
        self.connections.insert(connection, entry);
        self.last_connection = connection;
        self.connected_at = self.now;
        for node in [from, to] {
            self.event(
                node,
                Event::ConnectionOpened {
                    peer: 0,
                    connection,
                },
            );
        }
    }
}
