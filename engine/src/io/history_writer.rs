//! Appends to the history, one after the other, on a thread of its own: a disk that is slow to take them must not keep
//! the resource's thread from its peers, who would take the silence for its end.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use super::history::History;
use super::inbox::{Inbox, Input};
use super::shared::Shared;
use crate::core::{Notice, Record, Severity, Token};

/// Records that wait for the disk, at most: some that tell of nothing lost are left out then.
const WAITING_MAX: u64 = 4096;

/// A record, when it was made, and whoever waits for it.
type Job = (Record, SystemTime, Option<Token>);

pub struct HistoryWriter {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    taken: u64,
    written: u64,
}

impl HistoryWriter {
    /// # Errors
    /// When there is no thread to be had.
    pub fn new(mut history: History, inbox: Arc<Inbox>, shared: Arc<Shared>) -> io::Result<HistoryWriter> {
        HistoryWriter::with(
            move |record, at| history.append(record, at),
            move |token, result| inbox.push(Input::Recorded { token, result }),
            move |notice| shared.record(notice),
        )
    }

    /// `append` makes a record stable; `done` hears of each afterwards.
    fn with(
        mut append: impl FnMut(&Record, SystemTime) -> io::Result<()> + Send + 'static,
        done: impl Fn(Option<Token>, Result<(), String>) + Send + 'static,
        tell: impl Fn(Notice) + Send + 'static,
    ) -> io::Result<HistoryWriter> {
        let (jobs, waiting) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name("bp-history".into())
            .spawn(move || {
                for (record, at, token) in waiting {
                    // A panic costs its record; an answer that waits for it must not wait for ever.
                    let result = catch_unwind(AssertUnwindSafe(|| append(&record, at)));
                    let result = result
                        .unwrap_or_else(|_| Err(io::Error::other("a panic, see the log")))
                        .map_err(|error| error.to_string());
                    if let Err(why) = &result {
                        tell(unwritten(&record, why));
                    }
                    done(token, result);
                }
            })?;
        Ok(HistoryWriter {
            jobs: Some(jobs),
            thread: Some(thread),
            taken: 0,
            written: 0,
        })
    }

    /// Takes a record; never waits for the disk. [`Input::Recorded`] follows, with `token`.
    ///
    /// # Errors
    /// What to say of it, where it is not taken.
    pub fn submit(&mut self, record: Record, token: Option<Token>) -> Result<(), Notice> {
        if token.is_none() && self.taken - self.written >= WAITING_MAX {
            return Err(unwritten(
                &record,
                &format!("its disk has not taken the {WAITING_MAX} records before it"),
            ));
        }
        let job = (record, SystemTime::now(), token);
        let refused = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        if let Some((record, ..)) = refused {
            return Err(unwritten(&record, "its thread has ended"));
        }
        self.taken += 1;
        Ok(())
    }

    /// One more is stable, or never will be.
    pub fn recorded(&mut self) {
        self.written += 1;
    }

    /// Records that were taken until now, and of how many it is known what became of them.
    pub fn counts(&self) -> (u64, u64) {
        (self.taken, self.written)
    }

    /// Waits until all that was taken is written.
    pub fn finish(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It catches every panic of its own.
            let _ = thread.join();
        }
        self.written = self.taken;
    }
}

impl Drop for HistoryWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

fn unwritten(record: &Record, why: &str) -> Notice {
    Notice {
        severity: Severity::Error,
        name: "history.unwritten",
        text: format!("the history lacks {}: {why}", record.what),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{sync_channel, Receiver};
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn record(what: &'static str) -> Record {
        Record {
            what,
            text: String::new(),
            by: None,
            peer: None,
            fields: Vec::new(),
        }
    }

    type Done = (Option<Token>, Result<(), String>);

    /// One whose disk takes a record whenever it is sent what comes of that.
    struct HeldUp {
        writer: HistoryWriter,
        disk: Sender<io::Result<()>>,
        heard: Receiver<Done>,
        told: Receiver<String>,
    }

    fn held_up() -> HeldUp {
        let (disk, gate) = channel::<io::Result<()>>();
        let (done, heard) = channel();
        let (say, told) = channel();
        let writer = HistoryWriter::with(
            move |_, _| gate.recv().unwrap_or(Ok(())),
            move |token, result| {
                let _ = done.send((token, result));
            },
            move |notice| {
                let _ = say.send(notice.text);
            },
        );
        HeldUp {
            writer: writer.unwrap(),
            disk,
            heard,
            told,
        }
    }

    #[test]
    fn nobody_waits_for_a_disk_that_takes_nothing() {
        let HeldUp {
            mut writer,
            disk,
            heard,
            ..
        } = held_up();
        let (at_once, answer) = sync_channel(1);
        let submitting = std::thread::spawn(move || {
            writer.submit(record("sync.started"), None).unwrap();
            writer
                .submit(record("split_brain.discarding"), Some(Token(7)))
                .unwrap();
            at_once.send(()).unwrap();
            writer
        });
        answer
            .recv_timeout(SOON)
            .expect("both are taken while the disk holds the first");
        let mut writer = submitting.join().unwrap();
        assert!(heard.try_recv().is_err());
        assert_eq!(writer.counts(), (2, 0));
        for token in [None, Some(Token(7))] {
            disk.send(Ok(())).unwrap();
            assert_eq!(heard.recv_timeout(SOON).unwrap(), (token, Ok(())));
            writer.recorded();
        }
        assert_eq!(writer.counts(), (2, 2));
    }

    #[test]
    fn what_the_disk_refuses_is_told_and_those_who_wait_hear_it() {
        let HeldUp {
            mut writer,
            disk,
            heard,
            told,
        } = held_up();
        writer
            .submit(record("split_brain.discarding"), Some(Token(1)))
            .unwrap();
        disk.send(Err(io::Error::other("no room"))).unwrap();
        let (token, result) = heard.recv_timeout(SOON).unwrap();
        assert_eq!((token, result), (Some(Token(1)), Err("no room".into())));
        assert_eq!(
            told.recv_timeout(SOON).unwrap(),
            "the history lacks split_brain.discarding: no room"
        );
    }

    #[test]
    fn a_disk_that_hangs_costs_no_memory_without_end_and_the_end_waits_for_what_was_taken() {
        let HeldUp {
            mut writer,
            disk,
            heard,
            ..
        } = held_up();
        for _ in 0..WAITING_MAX {
            writer.submit(record("sync.cut"), None).unwrap();
        }
        let left_out = writer.submit(record("sync.cut"), None).unwrap_err();
        assert!(
            left_out.text.contains("has not taken the 4096 records"),
            "{}",
            left_out.text
        );
        // What somebody waits for is never left out.
        writer
            .submit(record("split_brain.discarding"), Some(Token(1)))
            .unwrap();
        drop(disk);
        writer.finish();
        assert_eq!(heard.iter().count() as u64, WAITING_MAX + 1);
        assert!(writer.submit(record("sync.cut"), None).is_err());
    }
}
