//! Answering a peer that asks.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reports::Reports;
use crate::core::Consultation;
use crate::io::channel::Channel;
use crate::io::socket::SendQueue;
use crate::wire::{encode, GoodbyeReason, Message, BITMAP_RUNS_MAX};

/// Answers that are being given at once, at most.
const ANSWERS_MAX: usize = 4;
/// How long a peer may take to read the answer.
const SEND_PATIENCE: Duration = Duration::from_secs(5);
/// How long the control plane may take over a report: looking for files in a file system does.
const REPORT_PATIENCE: Duration = Duration::from_secs(150);

pub struct Answers {
    running: Arc<AtomicUsize>,
    reports: Arc<Reports>,
}

/// One of the answers under way; over when dropped.
struct Turn(Arc<AtomicUsize>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Answers {
    pub fn new(reports: Arc<Reports>) -> Answers {
        Answers {
            running: Arc::default(),
            reports,
        }
    }

    /// Sends `told` on a thread of its own, with a report if one is asked for; with too many askers, a Goodbye.
    pub fn give(&self, mut channel: Channel, asker: &str, told: Consultation, report: bool) {
        let others = self.running.fetch_add(1, Ordering::Relaxed);
        // Dropped in any case: with the thread, with the work that got none, or here.
        let turn = Turn(self.running.clone());
        if others >= ANSWERS_MAX {
            return busy(channel);
        }
        let (reports, asker) = (self.reports.clone(), asker.to_owned());
        let work = move || {
            let _turn = turn;
            // An asker that is gone misses nothing.
            let _ = answer(&mut channel, &told, || {
                report.then(|| reports.wait(&asker, REPORT_PATIENCE)).flatten()
            });
        };
        // Without a thread the connection just ends: the asker says so.
        let _ = std::thread::Builder::new().name("bp-consult".into()).spawn(work);
    }
}

/// A fresh connection takes a few dozen bytes at once, or is not worth waiting for.
fn busy(mut channel: Channel) {
    let text = "too many are asking at once".to_owned();
    let reason = GoodbyeReason::Busy;
    let mut queue = SendQueue::default();
    queue.append(|out| encode(&Message::Goodbye { reason, text }, 0, out));
    let _ = channel.flush(&mut queue).and_then(|()| channel.finish());
}

fn answer(
    channel: &mut Channel,
    told: &Consultation,
    report: impl FnOnce() -> Option<Arc<str>>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let epoch = told.state.epoch;
    let put = |message: &Message, bytes: &mut Vec<u8>| {
        encode(message, epoch, bytes);
    };
    put(&Message::Hello(told.hello.clone()), &mut bytes);
    put(&Message::State(told.state.clone()), &mut bytes);
    if let Some(runs) = &told.marks {
        let mut rest = &runs[..];
        loop {
            let (some, more) = rest.split_at(rest.len().min(BITMAP_RUNS_MAX));
            rest = more;
            let last = rest.is_empty();
            let runs = some.to_vec();
            put(&Message::BitmapRuns { runs, last }, &mut bytes);
            if last {
                break;
            }
        }
    }
    channel.write_by(&bytes, Instant::now() + SEND_PATIENCE)?;
    bytes.clear();
    let text = report().map_or_else(String::new, |text| text.to_string());
    put(&Message::Report { text }, &mut bytes);
    channel.write_by(&bytes, Instant::now() + SEND_PATIENCE)?;
    channel.finish().map(drop)
}
