//! The node's watchdog: it resets the machine unless every Primary on it goes on showing that it may serve.
//!
//! It closes what no clock inside can: a machine that stood still, and wakes after its lease. The rules:
//!
//! * armed before the arbiter is asked for a promotion: opening the device starts it;
//! * petted by nothing but a renewal (of the lease, or of an epoch that this node holds alone), and only while no
//!   other Primary's has run out;
//! * disarmed when the last Primary has become Secondary, by the kernel's magic close ("V"), and in no other way: a
//!   process that ends without it leaves a watchdog that goes on counting.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::core::Time;

/// What a watchdog is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogMode {
    /// It is never opened; what it would have done is in the log.
    Log,
    /// No promotion without it.
    Required,
}

/// The kernel's interface, as far as it is used here.
pub trait WatchdogDevice: Send {
    /// Sets the time after which it resets the machine; what it took.
    ///
    /// # Errors
    /// When it can neither set nor tell it.
    fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration>;
    /// # Errors
    /// When the device is gone.
    fn pet(&mut self) -> io::Result<()>;
    /// Stops it: from here on a close is harmless.
    ///
    /// # Errors
    /// When it cannot be stopped (`nowayout`, or the device is gone).
    fn stop(&mut self) -> io::Result<()>;
    /// To be kept by the service manager over a restart.
    fn descriptor(&self) -> Option<RawFd>;
}

/// `/dev/watchdog*`.
pub struct KernelWatchdog(File);

// linux/watchdog.h
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xc004_5706;
const WDIOC_GETTIMEOUT: libc::c_ulong = 0x8004_5707;

impl KernelWatchdog {
    /// Opens it, which starts it.
    ///
    /// # Errors
    /// As of open: EBUSY when another process has it.
    pub fn open(path: &Path) -> io::Result<KernelWatchdog> {
        OpenOptions::new().write(true).open(path).map(KernelWatchdog)
    }
}

impl WatchdogDevice for KernelWatchdog {
    fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration> {
        let mut seconds = libc::c_int::try_from(timeout.as_secs()).unwrap_or(libc::c_int::MAX);
        // SAFETY: both requests read or write one int, which lives as long as the calls.
        let told = unsafe {
            libc::ioctl(self.0.as_raw_fd(), WDIOC_SETTIMEOUT, &mut seconds) == 0
                || libc::ioctl(self.0.as_raw_fd(), WDIOC_GETTIMEOUT, &mut seconds) == 0
        };
        if !told {
            return Err(io::Error::last_os_error());
        }
        Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    fn pet(&mut self) -> io::Result<()> {
        // Any byte but 'V'.
        self.0.write_all(b"\0")
    }

    fn stop(&mut self) -> io::Result<()> {
        self.0.write_all(b"V")
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }
}

/// Opens, and so starts, a watchdog.
pub type Opener = dyn Fn() -> io::Result<Box<dyn WatchdogDevice>> + Send + Sync;

/// One a node, shared by the engines of its resources.
pub struct Watchdog {
    path: PathBuf,
    timeout: Duration,
    mode: WatchdogMode,
    open: Box<Opener>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    device: Option<Box<dyn WatchdogDevice>>,
    /// Of each armed resource: until when its Primary may serve.
    armed: BTreeMap<String, Time>,
    /// That it is not petted was told, and for whom.
    starved: Option<String>,
}

/// What the log shall say.
pub type Told = Option<String>;

impl Watchdog {
    pub fn new(path: PathBuf, timeout: Duration, mode: WatchdogMode) -> Watchdog {
        let device = path.clone();
        let open =
            move || KernelWatchdog::open(&device).map(|open| Box::new(open) as Box<dyn WatchdogDevice>);
        Watchdog::over(path, timeout, mode, Box::new(open))
    }

    /// Another device than the kernel's, named by `path` in what is told of it.
    pub fn over(path: PathBuf, timeout: Duration, mode: WatchdogMode, open: Box<Opener>) -> Watchdog {
        Watchdog {
            path,
            timeout,
            mode,
            open,
            state: Mutex::default(),
        }
    }

    /// Goes on with a descriptor that an earlier process of this daemon had open: it counts already, perhaps to another
    /// time-out than this one's.
    pub fn inherit(&self, descriptor: OwnedFd) -> Told {
        self.go_on_with(Box::new(KernelWatchdog(File::from(descriptor))))
    }

    fn go_on_with(&self, mut device: Box<dyn WatchdogDevice>) -> Told {
        let told = self.set_timeout(device.as_mut()).err();
        self.state().device = Some(device);
        told
    }

    /// The open device, for the service manager to keep.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.state()
            .device
            .as_ref()
            .and_then(|device| device.descriptor())
    }

    /// After which it resets the machine.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub fn mode(&self) -> WatchdogMode {
        self.mode
    }

    /// Before a resource's promotion. `until`: as of [`renew`](Watchdog::renew).
    ///
    /// # Errors
    /// In mode `Required`, when it cannot be started or would bite later than asked: nothing is armed then.
    pub fn arm(&self, resource: &str, until: Time) -> Result<(), String> {
        let mut state = self.state();
        if self.mode == WatchdogMode::Required && state.device.is_none() {
            state.device = Some(self.start()?);
        }
        state.armed.insert(resource.into(), until);
        Ok(())
    }

    fn start(&self) -> Result<Box<dyn WatchdogDevice>, String> {
        let path = self.path.display();
        let mut device =
            (self.open)().map_err(|error| format!("watchdog {path} cannot be opened: {error}"))?;
        let Err(problem) = self.set_timeout(device.as_mut()) else {
            return Ok(device);
        };
        // It counts already: it must not bite for want of a good configuration.
        match device.stop() {
            Ok(()) => Err(problem),
            Err(error) => Err(format!("{problem}, and it cannot be stopped: {error}")),
        }
    }

    fn set_timeout(&self, device: &mut dyn WatchdogDevice) -> Result<(), String> {
        let path = self.path.display();
        match device.set_timeout(self.timeout) {
            Ok(taken) if taken <= self.timeout && !taken.is_zero() => Ok(()),
            Ok(taken) => Err(format!(
                "watchdog {path} takes {} s, not the {} s that are configured",
                taken.as_secs(),
                self.timeout.as_secs()
            )),
            Err(error) => Err(format!("the time-out of watchdog {path} cannot be set: {error}")),
        }
    }

    /// The resource's Primary may serve until then (`CLOCK_BOOTTIME`, nanoseconds): pets, if every other one may now.
    pub fn renew(&self, resource: &str, now: Time, until: Time) -> Told {
        let mut state = self.state();
        let known = state.armed.get_mut(resource)?;
        *known = until;
        if let Some(late) = expired(&state.armed, now) {
            if state.starved.as_deref() == Some(late) {
                return None;
            }
            let text = self.starved_text(late);
            state.starved = Some(late.into());
            return Some(text);
        }
        let told = state
            .starved
            .take()
            .map(|late| format!("{late} is served again: the watchdog is petted again"));
        match state.device.as_mut().map(|device| device.pet()) {
            Some(Err(error)) => Some(format!(
                "watchdog {} cannot be petted: {error}",
                self.path.display()
            )),
            _ => told,
        }
    }

    fn starved_text(&self, late: &str) -> String {
        let seconds = self.timeout.as_secs();
        match self.mode {
            WatchdogMode::Required => {
                format!("{late} may not be served now: the watchdog resets this machine within {seconds} s unless it may again")
            }
            WatchdogMode::Log => {
                format!(
                    "{late} may not be served now: a watchdog would reset this machine within {seconds} s"
                )
            }
        }
    }

    /// The resource is Secondary here, and nothing of it is served: the last one stops the watchdog.
    pub fn disarm(&self, resource: &str) -> Told {
        let mut state = self.state();
        state.armed.remove(resource)?;
        if state.starved.as_deref() == Some(resource) {
            state.starved = None;
        }
        self.stop_unless_armed(&mut state)
    }

    /// After a restart: nobody here is Primary, and what was inherited shall not bite.
    pub fn release(&self) -> Told {
        self.stop_unless_armed(&mut self.state())
    }

    fn stop_unless_armed(&self, state: &mut State) -> Told {
        if !state.armed.is_empty() {
            return None;
        }
        let mut device = state.device.take()?;
        let error = device.stop().err()?;
        // Kept open, or its close would be taken for a crash at once; it bites if it cannot be stopped.
        state.device = Some(device);
        Some(format!(
            "watchdog {} cannot be stopped: {error}",
            self.path.display()
        ))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds of `CLOCK_BOOTTIME`: the same for all engines, and it goes on while the machine sleeps.
pub fn boottime() -> Time {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for the write of one timespec; this clock exists in every kernel since 2.6.39.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    assert!(result == 0, "the kernel has no CLOCK_BOOTTIME");
    time.tv_sec as Time * 1_000_000_000 + time.tv_nsec as Time
}

/// A resource whose time has run out, if one has.
fn expired(armed: &BTreeMap<String, Time>, now: Time) -> Option<&str> {
    armed
        .iter()
        .find(|(_, until)| **until < now)
        .map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Default)]
    struct Seen {
        opened: usize,
        pets: usize,
        stopped: usize,
        timeout: Duration,
    }

    /// Hardware does not exist here; it takes at most `most`.
    struct Fake {
        seen: Arc<Mutex<Seen>>,
        most: Duration,
        nowayout: bool,
    }

    impl WatchdogDevice for Fake {
        fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration> {
            let taken = timeout.max(self.most);
            self.seen.lock().unwrap().timeout = taken;
            Ok(taken)
        }

        fn pet(&mut self) -> io::Result<()> {
            self.seen.lock().unwrap().pets += 1;
            Ok(())
        }

        fn stop(&mut self) -> io::Result<()> {
            if self.nowayout {
                return Err(io::Error::from_raw_os_error(libc::EPERM));
            }
            self.seen.lock().unwrap().stopped += 1;
            Ok(())
        }

        fn descriptor(&self) -> Option<RawFd> {
            None
        }
    }

    fn watchdog(mode: WatchdogMode, most: u64, nowayout: bool) -> (Watchdog, Arc<Mutex<Seen>>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let open = move || {
            shared.lock().unwrap().opened += 1;
            let (seen, most) = (Arc::clone(&shared), Duration::from_secs(most));
            Ok(Box::new(Fake { seen, most, nowayout }) as Box<dyn WatchdogDevice>)
        };
        let timeout = Duration::from_secs(10);
        (
            Watchdog::over("/dev/watchdog9".into(), timeout, mode, Box::new(open)),
            seen,
        )
    }

    #[test]
    fn it_is_petted_by_renewals_while_every_primary_may_serve() {
        let (dog, seen) = watchdog(WatchdogMode::Required, 0, false);
        dog.arm("r0", 100).unwrap();
        dog.arm("r1", 100).unwrap();
        assert_eq!(seen.lock().unwrap().opened, 1);
        assert_eq!(dog.renew("r0", 50, 150), None);
        assert_eq!(seen.lock().unwrap().pets, 1);
        // r1's has run out meanwhile.
        let told = dog.renew("r0", 120, 220).unwrap();
        assert!(told.contains("r1") && told.contains("within 10 s"), "{told}");
        assert_eq!(dog.renew("r0", 130, 230), None, "told once");
        assert_eq!(seen.lock().unwrap().pets, 1);
        assert!(dog.renew("r1", 140, 240).unwrap().contains("again"));
        assert_eq!(seen.lock().unwrap().pets, 2);
    }

    #[test]
    fn a_renewal_of_a_resource_that_is_not_armed_pets_nothing() {
        let (dog, seen) = watchdog(WatchdogMode::Required, 0, false);
        dog.arm("r0", 10).unwrap();
        assert_eq!(dog.renew("r1", 5, 100), None);
        assert_eq!(seen.lock().unwrap().pets, 0);
    }

    #[test]
    fn the_last_demotion_stops_it() {
        let (dog, seen) = watchdog(WatchdogMode::Required, 0, false);
        dog.arm("r0", 10).unwrap();
        dog.arm("r1", 10).unwrap();
        assert_eq!(dog.disarm("r0"), None);
        assert_eq!(seen.lock().unwrap().stopped, 0);
        assert_eq!(dog.disarm("r1"), None);
        assert_eq!(seen.lock().unwrap().stopped, 1);
        // And a promotion after it starts it anew.
        dog.arm("r0", 10).unwrap();
        assert_eq!(seen.lock().unwrap().opened, 2);
    }

    #[test]
    fn one_that_bites_too_late_is_refused_and_stopped() {
        let (dog, seen) = watchdog(WatchdogMode::Required, 60, false);
        let problem = dog.arm("r0", 10).unwrap_err();
        assert!(problem.contains("takes 60 s, not the 10 s"), "{problem}");
        let seen = seen.lock().unwrap();
        assert_eq!((seen.stopped, seen.pets), (1, 0));
    }

    #[test]
    fn one_that_is_inherited_counts_to_this_time_out_from_then_on() {
        let (dog, seen) = watchdog(WatchdogMode::Required, 0, false);
        seen.lock().unwrap().timeout = Duration::from_secs(2);
        assert_eq!(dog.go_on_with((dog.open)().unwrap()), None);
        assert_eq!(seen.lock().unwrap().timeout, Duration::from_secs(10));
        let (dog, seen) = watchdog(WatchdogMode::Required, 60, false);
        let told = dog.go_on_with((dog.open)().unwrap()).unwrap();
        assert!(told.contains("takes 60 s, not the 10 s"), "{told}");
        // What it protects may be in use: it is not stopped for that.
        assert_eq!(seen.lock().unwrap().stopped, 0);
        assert!(dog.state().device.is_some());
    }

    #[test]
    fn one_that_cannot_be_stopped_is_said_and_kept_open() {
        let (dog, _) = watchdog(WatchdogMode::Required, 0, true);
        dog.arm("r0", 10).unwrap();
        assert!(dog.disarm("r0").unwrap().contains("cannot be stopped"));
        assert!(dog.state().device.is_some());
    }

    #[test]
    fn for_the_log_alone_no_device_is_touched() {
        let (dog, seen) = watchdog(WatchdogMode::Log, 0, false);
        dog.arm("r0", 10).unwrap();
        dog.arm("r1", 100).unwrap();
        let told = dog.renew("r1", 20, 120).unwrap();
        assert!(told.contains("would reset"), "{told}");
        assert_eq!(dog.disarm("r0"), None);
        assert_eq!(dog.disarm("r1"), None);
        assert_eq!(seen.lock().unwrap().opened, 0);
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let dog = Watchdog::new(
            "/nowhere/watchdog".into(),
            Duration::from_secs(10),
            WatchdogMode::Required,
        );
        let problem = dog.arm("r0", 10).unwrap_err();
        assert!(problem.contains("/nowhere/watchdog"), "{problem}");
        assert!(dog.descriptor().is_none());
    }
}
