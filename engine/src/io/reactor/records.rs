//! The reactor's part in the history: hands it records, and holds back what must not be done before they are stable.

use super::Reactor;
use crate::core::{Event, Record, Token};
use crate::io::failure::Failure;
use crate::io::inbox::CommandReply;

/// A command's answer, and the record that goes before it, by its number.
pub(super) type HeldAnswer = (u64, CommandReply, Result<(), Failure>);

impl Reactor {
    /// A full or slow disk of the state must not stop the data: for these records the log, which has them at least, is
    /// enough then.
    pub(super) fn remember(&mut self, record: Record) {
        let refused = self.history.as_mut().map(|history| history.submit(record, None));
        if let Some(Err(notice)) = refused {
            self.shared.record(notice);
        }
    }

    /// The core waits for the answer before it lets anything be lost.
    pub(super) fn remember_discard(&mut self, token: Token, record: Record) {
        match self
            .history
            .as_mut()
            .map(|history| history.submit(record, Some(token)))
        {
            None => self.discard_remembered(token, Ok(())),
            Some(Ok(())) => {}
            Some(Err(notice)) => {
                let why = notice.text.clone();
                self.shared.record(notice);
                self.discard_remembered(token, Err(why));
            }
        }
    }

    pub(super) fn recorded(&mut self, token: Option<Token>, result: Result<(), String>) {
        if let Some(history) = &mut self.history {
            history.recorded();
        }
        if let Some(token) = token {
            self.discard_remembered(token, result);
        }
        self.release_answers();
    }

    fn discard_remembered(&mut self, token: Token, result: Result<(), String>) {
        let result = result.map_err(|error| {
            format!("the history cannot be written: {error}; make room for it and correct its mode, or resolve with a bundle")
        });
        self.tell(Event::BundleSaved { token, result });
    }

    /// Answers a command, once what the history has of it is stable.
    pub(super) fn answer_command(&mut self, reply: CommandReply, result: Result<(), Failure>) {
        let taken = self.history.as_ref().map_or(0, |history| history.counts().0);
        self.held_answers.push_back((taken, reply, result));
        self.release_answers();
    }

    pub(super) fn release_answers(&mut self) {
        let written = self
            .history
            .as_ref()
            .map_or(u64::MAX, |history| history.counts().1);
        while self
            .held_answers
            .front()
            .is_some_and(|(needed, ..)| *needed <= written)
        {
            if let Some((_, reply, result)) = self.held_answers.pop_front() {
                // Nobody waiting any more is no harm.
                let _ = reply.try_send(result);
            }
        }
    }

    /// All that was taken is written, and everybody who waited for that hears it.
    pub(super) fn finish_history(&mut self) {
        if let Some(history) = &mut self.history {
            history.finish();
        }
        self.release_answers();
    }
}
