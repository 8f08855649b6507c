//! What is told of connections that were turned away: enough to see who and why, never a flood.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::{Notice, Severity};
use crate::io::shared::{Events, Shared};

/// How long the same is not told again, and how often a summary comes.
const PERIOD: Duration = Duration::from_secs(60);
/// Told in one period, at most; the rest is counted.
const TOLD_MAX: usize = 10;

pub const NAME: &str = "peer.refused";

/// Where a refusal is told.
pub enum Told {
    /// To the resource that the connection was for.
    Resource(Arc<Shared>),
    /// Who it was, or for which resource, is not known.
    Listener,
    /// It is no news, and will come again.
    Nobody,
}

/// Decides what is told. Only `now` moves it.
pub struct Refusals {
    events: Arc<Events>,
    told: VecDeque<(Instant, IpAddr, String)>,
    untold: u64,
    /// When the untold are summed up.
    due: Option<Instant>,
}

impl Refusals {
    pub fn new(events: Arc<Events>) -> Refusals {
        Refusals {
            events,
            told: VecDeque::new(),
            untold: 0,
            due: None,
        }
    }

    /// A connection `from` there was turned away; `text` says who and why.
    pub fn add(&mut self, now: Instant, from: IpAddr, text: String, told: Told) {
        if matches!(told, Told::Nobody) {
            return;
        }
        self.told.retain(|(at, ..)| now.duration_since(*at) < PERIOD);
        let again = self
            .told
            .iter()
            .any(|(_, ip, earlier)| *ip == from && *earlier == text);
        if again || self.told.len() >= TOLD_MAX {
            self.untold += 1;
            self.due.get_or_insert(now + PERIOD);
            return;
        }
        self.told.push_back((now, from, text.clone()));
        let notice = notice(text);
        match told {
            Told::Resource(shared) => shared.record(notice),
            Told::Listener => self.events.record(notice),
            Told::Nobody => {}
        }
    }

    /// When [`sum_up`](Self::sum_up) has something to tell.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells how many were not told of, when it is time.
    pub fn sum_up(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            let text = format!(
                "{} more connections to the replication port were refused in the last minute",
                std::mem::take(&mut self.untold)
            );
            self.events.record(notice(text));
        }
    }
}

fn notice(text: String) -> Notice {
    Notice {
        severity: Severity::Warning,
        name: NAME,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_told() {
        let events = Arc::new(Events::new().unwrap());
        let mut refusals = Refusals::new(events.clone());
        let start = Instant::now();
        let from = |n: u8| IpAddr::from([10, 0, 0, n]);
        for n in 0..1000 {
            refusals.add(start, from(1), "the same".into(), Told::Listener);
            refusals.add(start, from(2), format!("another {n}"), Told::Listener);
        }
        assert_eq!(events.take().len(), TOLD_MAX);
        refusals.sum_up(start);
        assert!(events.take().is_empty());
        let later = refusals.due().unwrap();
        refusals.sum_up(later);
        assert!(events.take()[0].text.starts_with("1990 more"));
        assert_eq!(refusals.due(), None);
        refusals.add(later, from(1), "the same".into(), Told::Listener);
        assert_eq!(events.take()[0].text, "the same");
    }
}
