//! One client's connection, from the first byte to the last.

use std::fmt::Display;
use std::sync::Arc;

use super::error::ProtocolError;
use super::export::Export;
use super::handshake::{Handshake, Outcome, MAX_OPTION_DATA};
use super::reply::Replies;
use super::transmission::{judge, Kind, Negotiated, Refusal, Request, Verdict};
use super::wire::{OPTION_HEADER, REQUEST_HEADER};

/// The least receive buffer a session can work with, in bytes: one option of the longest kind.
pub const MIN_RECEIVE_BUFFER: usize = OPTION_HEADER + MAX_OPTION_DATA;
const _: () = assert!(MIN_RECEIVE_BUFFER >= REQUEST_HEADER);

/// Something the client wants, or became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is over; requests may follow.
    Ready,
    /// A request to execute, and to reply to through [`Session::replies`]. After a [`Kind::Write`], the next
    /// `length` bytes of the stream are its payload: the caller takes them, first from what it has received,
    /// then from the socket, before it calls [`Session::next`] again.
    Request(Request),
    /// The client takes its leave: outstanding requests are completed, what was written to `out` is sent, and
    /// the connection is closed.
    Disconnect,
}

/// What a call of [`Session::next`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many bytes of the input are done with.
    pub consumed: usize,
    /// What they led to, if anything.
    pub event: Option<Event>,
}

impl Step {
    /// Whether nothing happened for want of input: receive more, after what was left over, and call again.
    pub fn needs_more(&self) -> bool {
        self.consumed == 0 && self.event.is_none()
    }
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct Session {
    export: Arc<Export>,
    negotiated: Negotiated,
    state: State,
}

#[derive(Debug)]
enum State {
    Handshake(Handshake),
    Transmission,
    /// The payload of a write that was refused is skipped; the reply is due after it, when a client that sends
    /// all before it reads will see it.
    Skipping {
        left: u32,
        cookie: u64,
        refusal: Refusal,
    },
    Over,
}

impl Session {
    /// A client that has just connected. [`start`](Self::start) greets it.
    pub fn handshake(export: Arc<Export>) -> Session {
        Session {
            export,
            negotiated: Negotiated::default(),
            state: State::Handshake(Handshake::new()),
        }
    }

    /// A client that is past the handshake, as a kernel is whose device was set up by netlink: simple replies,
    /// and no metadata context.
    pub fn transmission(export: Arc<Export>) -> Session {
        Session {
            export,
            negotiated: Negotiated::default(),
            state: State::Transmission,
        }
    }

    /// Appends what the server has to send before it receives anything.
    pub fn start(&self, out: &mut Vec<u8>) {
        if let State::Handshake(_) = self.state {
            Handshake::greet(out);
        }
    }

    /// Whether the handshake is over.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Transmission | State::Skipping { .. })
    }

    /// How to reply to this client. Final once [`Event::Ready`] was given.
    pub fn replies(&self) -> Replies {
        Replies::new(self.negotiated.structured)
    }

    /// Takes at most one message off the front of `input` (all that was received and not yet consumed), and
    /// appends to `out` what the server answers by itself: the handshake's replies, and the replies to requests
    /// that need no disk. Call it again until [`Step::needs_more`]; `out` grows by a few KiB a call at most.
    ///
    /// # Errors
    /// The client violated the protocol: send what is in `out` if you like, and close the connection. From then
    /// on, and after [`Event::Disconnect`], all input is consumed and ignored.
    pub fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, ProtocolError> {
        let step = match &mut self.state {
            State::Transmission => self.request(input, out),
            State::Handshake(handshake) => match handshake.next(input, &self.export, out) {
                Ok((consumed, outcome)) => Ok(self.haggled(consumed, outcome)),
                Err(error) => Err(error),
            },
            State::Skipping { left, .. } => {
                let consumed = (*left as usize).min(input.len());
                *left -= consumed as u32; // no more than was left
                self.finish_skipping(out);
                Ok(Step {
                    consumed,
                    event: None,
                })
            }
            State::Over => Ok(Step {
                consumed: input.len(),
                event: None,
            }),
        };
        if step.is_err() {
            self.state = State::Over;
        }
        step
    }

    fn haggled(&mut self, consumed: usize, outcome: Outcome) -> Step {
        let event = match outcome {
            Outcome::Haggling => None,
            Outcome::Chosen(negotiated) => {
                self.negotiated = negotiated;
                self.state = State::Transmission;
                Some(Event::Ready)
            }
            Outcome::Aborted => {
                self.state = State::Over;
                Some(Event::Disconnect)
            }
        };
        Step { consumed, event }
    }

    #[inline]
    fn request(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, ProtocolError> {
        let Some(header) = input.first_chunk::<REQUEST_HEADER>() else {
            return Ok(Step {
                consumed: 0,
                event: None,
            });
        };
        let event = match judge(header, &self.export, self.negotiated)? {
            Verdict::Accept(request) => Some(Event::Request(request)),
            Verdict::Trivial(request) if request.kind == Kind::Read => {
                self.replies().read(out, &request);
                None
            }
            Verdict::Trivial(request) => {
                self.replies().done(out, request.cookie);
                None
            }
            Verdict::Refuse {
                cookie,
                refusal,
                skip,
            } => {
                self.state = State::Skipping {
                    left: skip,
                    cookie,
                    refusal,
                };
                self.finish_skipping(out);
                None
            }
            Verdict::Disconnect => {
                self.state = State::Over;
                Some(Event::Disconnect)
            }
        };
        Ok(Step {
            consumed: REQUEST_HEADER,
            event,
        })
    }

    fn finish_skipping(&mut self, out: &mut Vec<u8>) {
        if let State::Skipping {
            left: 0,
            cookie,
            refusal,
        } = self.state
        {
            self.replies()
                .error(out, cookie, refusal.code(), &refusal as &dyn Display);
            self.state = State::Transmission;
        }
    }
}

#[cfg(test)]
mod tests;
