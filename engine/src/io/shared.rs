//! What an engine's thread shows to the rest of the process: its last status and its events.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{json, Value};

use super::event::EventFd;
use crate::core::{AskRequest, Notice, Severity, Time, Verified};
use crate::payload::Payload;

/// Events kept for a reader that is slow; older ones are dropped first.
const EVENTS_MAX: usize = 1000;
/// Findings and proofs kept for the same reader.
const VERIFIED_MAX: usize = 1 << 16;

#[derive(Debug, serde::Serialize)]
pub struct EventRecord {
    pub severity: Severity,
    pub name: &'static str,
    pub text: String,
    pub time_ns: u64,
}

/// Events for a reader that is woken when there are any.
pub struct Events {
    records: Mutex<VecDeque<EventRecord>>,
    wake: EventFd,
}

impl Events {
    pub fn new() -> io::Result<Events> {
        Ok(Events {
            records: Mutex::default(),
            wake: EventFd::new()?,
        })
    }

    pub fn record(&self, notice: Notice) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut records = lock(&self.records);
        if records.len() == EVENTS_MAX {
            records.pop_front();
        }
        records.push_back(EventRecord {
            severity: notice.severity,
            name: notice.name,
            text: notice.text,
            time_ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        });
        self.wake.signal();
    }

    /// Those since the last call.
    pub fn take(&self) -> Vec<EventRecord> {
        self.wake.clear();
        lock(&self.records).drain(..).collect()
    }

    /// Readable when there are any.
    pub fn fd(&self) -> RawFd {
        self.wake.fd()
    }
}

struct Published {
    status: Value,
    version: u64,
    ended: bool,
}

pub struct Shared {
    published: Mutex<Published>,
    changed: Condvar,
    events: Events,
    /// What the arbiter is to be asked now, and its number.
    ask: Mutex<Option<(u64, Value)>>,
    /// What was proved and found since somebody looked, in order.
    verified: Mutex<Vec<Value>>,
    /// The peer's copy of the range that is held, and the hold's number, until somebody takes them.
    held: Mutex<Option<(u64, Payload)>>,
    /// Until when this node may serve, on CLOCK_BOOTTIME; 0: it may not.
    serves_until: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new() -> io::Result<Shared> {
        Ok(Shared {
            published: Mutex::new(Published {
                status: json!({}),
                version: 0,
                ended: false,
            }),
            changed: Condvar::new(),
            events: Events::new()?,
            ask: Mutex::default(),
            verified: Mutex::default(),
            held: Mutex::default(),
            serves_until: AtomicU64::new(0),
        })
    }

    pub fn set_serves_until(&self, until: Time) {
        self.serves_until.store(until, Ordering::Release);
    }

    /// Nanoseconds of CLOCK_BOOTTIME; 0: it may not serve, [`Time::MAX`]: until something is heard.
    pub fn serves_until(&self) -> Time {
        self.serves_until.load(Ordering::Acquire)
    }

    pub fn publish(&self, status: Value) {
        let mut published = lock(&self.published);
        published.status = status;
        published.version += 1;
        self.changed.notify_all();
    }

    /// The thread has ended: the last status stays, with this state.
    pub fn end(&self, state: &str, failure: Option<&str>) {
        let mut published = lock(&self.published);
        published.status["state"] = json!(state);
        published.status["failure"] = json!(failure);
        published.status["clients"] = json!([]);
        published.status["served_by"] = json!(null);
        if failure.is_some() {
            published.status["disk"] = json!("Diskless");
        }
        for peer in published.status["peers"].as_array_mut().into_iter().flatten() {
            peer["connection"] = json!("StandAlone");
            peer["replication"] = json!("Off");
            for path in peer["paths"].as_array_mut().into_iter().flatten() {
                path["state"] = json!("down");
            }
        }
        published.version += 1;
        published.ended = true;
        self.set_serves_until(0);
        *lock(&self.ask) = None;
        self.changed.notify_all();
    }

    pub fn version(&self) -> u64 {
        lock(&self.published).version
    }

    pub fn has_ended(&self) -> bool {
        lock(&self.published).ended
    }

    /// The first status after `version`, or the last one there is when `patience` runs out.
    pub fn status_after(&self, version: u64, patience: Duration) -> String {
        let (published, _) = self
            .changed
            .wait_timeout_while(lock(&self.published), patience, |now| {
                now.version <= version && !now.ended
            })
            .unwrap_or_else(PoisonError::into_inner);
        published.status.to_string()
    }

    pub fn record(&self, notice: Notice) {
        self.events.record(notice);
    }

    /// Has the control plane look.
    pub fn wake(&self) {
        self.events.wake.signal();
    }

    /// From here on this is what the arbiter is to be asked.
    pub fn ask(&self, ask: u64, request: &AskRequest) {
        let told = match request {
            AskRequest::Read => json!({"ask": ask, "do": "read"}),
            AskRequest::Swap { expected, next } => {
                json!({"ask": ask, "do": "swap", "expected": expected, "next": next})
            }
        };
        *lock(&self.ask) = Some((ask, told));
        self.wake();
    }

    /// Nobody waits for its answer any more.
    pub fn withdraw(&self, ask: u64) {
        let gone = lock(&self.ask).take_if(|(open, _)| *open == ask).is_some();
        if gone {
            self.wake();
        }
    }

    /// The open ask as JSON; null when there is none.
    pub fn asks(&self) -> String {
        lock(&self.ask)
            .as_ref()
            .map_or("null".into(), |(_, told)| told.to_string())
    }

    /// For the record of what comparing both copies has shown.
    pub fn verified(&self, what: &Verified) {
        let told = match what {
            Verified::Proved { offset, len } => json!({"what": "proved", "offset": offset, "length": len}),
            Verified::Skipped { offset, len } => json!({"what": "skipped", "offset": offset, "length": len}),
            Verified::Found {
                offset,
                len,
                own,
                peer,
            } => json!({
                "what": "found", "offset": offset, "length": len,
                "own": format!("{own:032x}"), "peer": format!("{peer:032x}"),
            }),
            Verified::Ended { cut } => json!({
                "what": "ended",
                "why": cut.as_ref().map(|cut| cut.why.as_str()),
                "passing": cut.as_ref().is_some_and(|cut| cut.passing),
            }),
        };
        let mut verified = lock(&self.verified);
        // What is not told is not proved, and found again.
        if verified.len() < VERIFIED_MAX {
            verified.push(told);
        }
        self.wake();
    }

    /// Those since the last call, as JSON.
    pub fn take_verified(&self) -> String {
        Value::from(std::mem::take(&mut *lock(&self.verified))).to_string()
    }

    pub fn held(&self, ticket: u64, data: Payload) {
        *lock(&self.held) = Some((ticket, data));
    }

    pub fn take_held(&self) -> Option<(u64, Payload)> {
        lock(&self.held).take()
    }

    pub fn take_events(&self) -> Vec<EventRecord> {
        self.events.take()
    }

    pub fn event_fd(&self) -> RawFd {
        self.events.fd()
    }
}
