//! Asking a peer.

use std::io;
use std::time::{Duration, Instant};

use crate::core::{Consultation, CONSULTED_RUNS_MAX};
use crate::front::nbd::ReceiveBuffer;
use crate::io::channel::Channel;
use crate::io::dial::Destination;
use crate::wire::{encode, Decoder, Hello, Intent, Message, NodeState, Step, INLINE_FRAME_MAX};

/// How long an answer may take; longer with a report, which is looked up in a file system.
const PATIENCE: Duration = Duration::from_secs(10);
const REPORT_PATIENCE: Duration = Duration::from_secs(165);

/// What a peer told of itself.
#[derive(Debug)]
pub struct Answer {
    pub told: Consultation,
    /// What its control plane says, or nothing.
    pub report: String,
}

/// Asks a peer; `own` says who asks, and whether for a report too.
///
/// # Errors
/// Why there is no answer, for people.
pub fn ask(peer: &Destination, own: &Consultation) -> Result<Answer, String> {
    let patience = match own.hello.intent {
        Intent::Consult { report: true } => REPORT_PATIENCE,
        _ => PATIENCE,
    };
    let deadline = Instant::now() + patience;
    let name = &peer.name;
    let (_, mut channel) = peer.reach().map_err(|error| error.to_string())?;
    let mut hello = Vec::new();
    encode(&Message::Hello(own.hello.clone()), own.state.epoch, &mut hello);
    let sent = channel.write_by(&hello, deadline);
    // Refused while we write: why may be there to be read.
    let mut messages = Messages::new(channel, deadline);
    let mut gathered = Gathered::default();
    loop {
        let message = match (messages.next(), &sent) {
            (Err(_), Err(error)) => return Err(format!("{name}: {error}")),
            (Err(what), Ok(())) => return Err(format!("{name} {what}")),
            (Ok(message), _) => message,
        };
        if let Some(answer) = gathered.take(message)? {
            return Ok(answer);
        }
    }
}

/// The part of an answer that has come.
#[derive(Default)]
struct Gathered {
    hello: Option<Hello>,
    state: Option<NodeState>,
    marks: Vec<crate::wire::BlockRun>,
    marks_end: bool,
}

impl Gathered {
    /// Takes in the next message; the whole answer with its last one.
    fn take(&mut self, message: Message) -> Result<Option<Answer>, String> {
        match message {
            Message::Goodbye { text, .. } => return Err(text),
            Message::Hello(hello) if self.hello.is_none() => self.hello = Some(hello),
            Message::State(state) if self.hello.is_some() && self.state.is_none() => self.state = Some(state),
            Message::BitmapRuns { runs, last } if self.state.is_some() && !self.marks_end => {
                if self.marks.len() + runs.len() > CONSULTED_RUNS_MAX {
                    return Err("the peer answered with more marks than it may".into());
                }
                self.marks.extend(runs);
                self.marks_end = last;
            }
            Message::Report { text } if self.marks_end || self.marks.is_empty() => {
                if let (Some(hello), Some(state)) = (self.hello.take(), self.state.take()) {
                    let marks = self.marks_end.then(|| std::mem::take(&mut self.marks));
                    let told = Consultation { hello, state, marks };
                    return Ok(Some(Answer { told, report: text }));
                }
                return Err("the peer answered out of order".into());
            }
            _ => return Err("the peer answered out of order".into()),
        }
        Ok(None)
    }
}

/// The messages of a connection, one after the other, until a deadline.
struct Messages {
    channel: Channel,
    deadline: Instant,
    decoder: Decoder,
    input: ReceiveBuffer,
}

impl Messages {
    fn new(channel: Channel, deadline: Instant) -> Messages {
        Messages {
            channel,
            deadline,
            decoder: Decoder::new(),
            input: ReceiveBuffer::new(2 * INLINE_FRAME_MAX),
        }
    }

    fn next(&mut self) -> Result<Message, String> {
        loop {
            let step = self.decoder.next(self.input.data());
            match step.map_err(|error| error.to_string())? {
                Step::Message {
                    consumed, message, ..
                } => {
                    self.input.consume(consumed);
                    return Ok(message);
                }
                Step::Payload { .. } => return Err("answered with block data".into()),
                Step::NeedMore { .. } => match self.channel.read_by(&mut self.input, self.deadline) {
                    Ok(true) => {}
                    Ok(false) => return Err("closed the connection before it had answered".into()),
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        return Err("did not answer in time".into())
                    }
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Err("closed the connection before it had answered".into())
                    }
                    Err(error) => return Err(error.to_string()),
                },
            }
        }
    }
}
