//! The watchdog's part of the reactor: armed before the arbiter is asked to name this node Primary and before anything
//! is served, petted by what lets this node serve, disarmed when it has become Secondary.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Reactor;
use crate::core::{AskRequest, Severity, Time};
use crate::io::watchdog::{boottime, Watchdog, WatchdogMode};
use crate::wire::Role;

/// A watchdog that could not be armed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    watchdog: Arc<Watchdog>,
    resource: String,
    armed: bool,
    /// What was renewed last: the end of a lease.
    renewed: Option<Time>,
    /// When it is to be looked at again, whatever happens.
    pub(super) due: Option<Instant>,
    /// What waits for it: a question that may make this node Primary, and service.
    question: Option<(u64, AskRequest)>,
    service: bool,
    told: Option<String>,
}

impl Watch {
    pub(super) fn new(watchdog: Arc<Watchdog>, resource: String) -> Watch {
        Watch {
            watchdog,
            resource,
            armed: false,
            renewed: None,
            due: None,
            question: None,
            service: false,
            told: None,
        }
    }

    fn pet_every(&self) -> Duration {
        self.watchdog.timeout() / 4
    }
}

impl Reactor {
    /// Puts a question to the arbiter; none that may name this node Primary before the watchdog is armed.
    pub(super) fn ask_arbiter(&mut self, ask: u64, request: AskRequest) {
        let claims = matches!(request, AskRequest::Swap { .. });
        if claims && !self.arm_watchdog() {
            if let Some(watch) = &mut self.watch {
                watch.question = Some((ask, request));
            }
            return;
        }
        self.shared.ask(ask, &request);
    }

    pub(super) fn withdraw_from_arbiter(&mut self, ask: u64) {
        if let Some(watch) = &mut self.watch {
            watch.question.take_if(|(open, _)| *open == ask);
        }
        self.shared.withdraw(ask);
    }

    /// Opens the export, once the watchdog is armed.
    pub(super) fn begin_service(&mut self) {
        if self.arm_watchdog() {
            return self.open_export();
        }
        if let Some(watch) = &mut self.watch {
            watch.service = true;
        }
    }

    pub(super) fn end_service(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.service = false;
        }
        self.close_export();
    }

    /// Why a question to the arbiter, or service, waits for the watchdog.
    pub(super) fn awaited_watchdog(&self) -> Option<&str> {
        let watch = self.watch.as_ref()?;
        let waits = !watch.armed && (watch.question.is_some() || watch.service);
        watch.told.as_deref().filter(|_| waits)
    }

    /// Whether nothing stands in the way of a promotion.
    fn arm_watchdog(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return true };
        if watch.armed {
            return true;
        }
        let now = boottime();
        // While it asks it serves nothing, and may go on for as long as it likes.
        match watch.watchdog.arm(&watch.resource, Time::MAX) {
            Ok(()) => {
                watch.armed = true;
                watch.told = None;
                watch.due = Some(Instant::now() + watch.pet_every());
                let told = watch.watchdog.renew(&watch.resource, now, Time::MAX);
                self.tell_of_watchdog(told);
                true
            }
            Err(problem) => {
                watch.due = Some(Instant::now() + RETRY);
                if watch.told.as_ref() != Some(&problem) {
                    watch.told = Some(problem.clone());
                    let text = format!(
                        "{problem}; without it this node does not become Primary (watchdog = \"required\")"
                    );
                    self.notice(Severity::Error, "watchdog.failed", text);
                }
                false
            }
        }
    }

    /// Once a turn: what the replica has become decides what becomes of the watchdog.
    pub(super) fn tend_watchdog(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let due = watch.due.is_some_and(|at| at <= Instant::now());
        if !watch.armed {
            if watch.question.is_none() && !watch.service {
                watch.due = None;
            } else if due {
                self.arm_watchdog();
            }
        }
        let Some(watch) = self.watch.as_ref().filter(|watch| watch.armed) else {
            return;
        };
        if watch.question.is_some() || watch.service {
            self.go_on_after_arming();
        }
        if self.replica.has_stopped() {
            // No demotion: what has this device mounted goes on. The next engine pets it, or nobody.
            return;
        }
        let until = match self.replica.role() {
            Role::Secondary if self.replica.open_ask().is_none() && !self.replica.is_becoming_primary() => {
                return self.disarm_watchdog();
            }
            Role::Secondary => Time::MAX,
            // What may not be served now has run out.
            Role::Primary => self.replica.serves_until().unwrap_or(0),
        };
        let Some(watch) = &mut self.watch else { return };
        // A lease's end moves on; whoever needs none shows now and then that this thread still turns.
        if watch.renewed == Some(until) && !(due && until == Time::MAX) {
            return;
        }
        watch.renewed = Some(until);
        watch.due = (until == Time::MAX).then(|| Instant::now() + watch.pet_every());
        let until = self.clock.absolute(until);
        let told = watch.watchdog.renew(&watch.resource, boottime(), until);
        self.tell_of_watchdog(told);
    }

    fn disarm_watchdog(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        watch.armed = false;
        watch.renewed = None;
        watch.due = None;
        let told = watch.watchdog.disarm(&watch.resource);
        self.tell_of_watchdog(told);
    }

    fn go_on_after_arming(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let (question, service) = (watch.question.take(), std::mem::take(&mut watch.service));
        if let Some((ask, request)) = question {
            self.shared.ask(ask, &request);
        }
        if service {
            self.open_export();
        }
    }

    fn tell_of_watchdog(&self, told: Option<String>) {
        if let Some(text) = told {
            let severity = match self.watch.as_ref().map(|watch| watch.watchdog.mode()) {
                Some(WatchdogMode::Required) => Severity::Error,
                _ => Severity::Warning,
            };
            self.notice(severity, "watchdog", text);
        }
    }
}
