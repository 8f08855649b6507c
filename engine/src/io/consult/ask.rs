//! Asking a peer.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::answer::write_by;
use crate::core::{Consultation, CONSULTED_RUNS_MAX};
use crate::io::socket::reach;
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

/// Asks the peer at this address; `own` says who asks, and whether for a report too.
///
/// # Errors
/// Why there is no answer, for people.
pub fn ask(host: &str, port: u16, own: &Consultation) -> Result<Answer, String> {
    let patience = match own.hello.intent {
        Intent::Consult { report: true } => REPORT_PATIENCE,
        _ => PATIENCE,
    };
    let deadline = Instant::now() + patience;
    let system = |error: io::Error| format!("{host}:{port}: {error}");
    let stream = reach(host, port).map_err(system)?;
    let mut hello = Vec::new();
    encode(&Message::Hello(own.hello.clone()), own.state.epoch, &mut hello);
    write_by(&stream, &hello, deadline).map_err(system)?;
    let mut messages = Messages::new(&stream, deadline);
    let mut gathered = Gathered::default();
    loop {
        let message = messages.next().map_err(|what| format!("{host}:{port} {what}"))?;
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
struct Messages<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
    decoder: Decoder,
    bytes: Vec<u8>,
}

impl Messages<'_> {
    fn new(stream: &TcpStream, deadline: Instant) -> Messages<'_> {
        Messages {
            stream,
            deadline,
            decoder: Decoder::new(),
            bytes: Vec::new(),
        }
    }

    fn next(&mut self) -> Result<Message, String> {
        loop {
            match self
                .decoder
                .next(&self.bytes)
                .map_err(|error| error.to_string())?
            {
                Step::Message {
                    consumed, message, ..
                } => {
                    self.bytes.drain(..consumed);
                    return Ok(message);
                }
                Step::Payload { .. } => return Err("answered with block data".into()),
                Step::NeedMore { .. } => self.receive()?,
            }
        }
    }

    fn receive(&mut self) -> Result<(), String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("did not answer in time".into());
        }
        let have = self.bytes.len();
        self.bytes.resize(INLINE_FRAME_MAX, 0);
        let received = self
            .stream
            .set_read_timeout(Some(left))
            .and_then(|()| self.stream.read(&mut self.bytes[have..]));
        self.bytes.truncate(have + *received.as_ref().unwrap_or(&0));
        match received {
            Ok(0) => Err("closed the connection before it had answered".into()),
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
