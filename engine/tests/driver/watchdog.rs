//! The watchdog under a Primary that an arbiter names; the device itself is stood in for, since there is none here.

use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use _engine::io::engine::Engine;
use _engine::io::watchdog::{Watchdog, WatchdogDevice, WatchdogMode};
use serde_json::{json, Value};

use super::arbiter::{serve, Ends, Register};
use super::cluster::Cluster;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Seen {
    refused: bool,
    opened: usize,
    pets: usize,
    stopped: usize,
}

struct Device(Arc<Mutex<Seen>>);

impl WatchdogDevice for Device {
    fn set_timeout(&mut self, timeout: Duration) -> std::io::Result<Duration> {
        Ok(timeout)
    }

    fn pet(&mut self) -> std::io::Result<()> {
        self.0.lock().unwrap().pets += 1;
        Ok(())
    }

    fn stop(&mut self) -> std::io::Result<()> {
        self.0.lock().unwrap().stopped += 1;
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

fn watchdog(seen: &Arc<Mutex<Seen>>) -> Arc<Watchdog> {
    let seen = Arc::clone(seen);
    let open = move || {
        let mut noted = seen.lock().unwrap();
        if noted.refused {
            return Err(std::io::Error::from_raw_os_error(libc::EBUSY));
        }
        noted.opened += 1;
        drop(noted);
        Ok(Box::new(Device(Arc::clone(&seen))) as Box<dyn WatchdogDevice>)
    };
    let timeout = Duration::from_secs(1);
    Arc::new(Watchdog::over(
        "/dev/watchdog".into(),
        timeout,
        WatchdogMode::Required,
        Box::new(open),
    ))
}

/// Two engines that an arbiter decides between, and a watchdog on the first.
fn pair(seen: &Arc<Mutex<Seen>>) -> Cluster {
    let mut cluster = Cluster::new(Path::new("/dev/shm"), 1 << 20, "auto", "C");
    for n in 0..2 {
        let mut spec = cluster.spec(n);
        spec["arbitration"] = json!({"beacon_ms": 50, "lease_ms": 500, "patience_ms": 250, "drift_ppm": 1000, "automatic": false});
        let dog = (n == 0).then(|| watchdog(seen));
        let engine = Engine::start_watched(&spec.to_string(), &cluster.nodes[n].listener, dog).unwrap();
        cluster.nodes[n].engine = Some(engine);
    }
    cluster
}

/// Runs `body` beside an arbiter that answers what the engines ask; gives it what the first one has told so far. Says
/// how often that one asked for a change.
fn arbitrated(cluster: &Cluster, seen: &Arc<Mutex<Seen>>, body: impl FnOnce(&dyn Fn() -> String)) -> usize {
    let register = Register::default();
    let end = [AtomicBool::new(false), AtomicBool::new(false)];
    let swaps = AtomicUsize::new(0);
    let told = Mutex::new(String::new());
    std::thread::scope(|scope| {
        let _ends = Ends(&end);
        scope.spawn(|| {
            serve(cluster.engine(0), &register, &end[0], |events, swap| {
                told.lock().unwrap().push_str(events);
                if swap {
                    swaps.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(seen.lock().unwrap().opened, 1, "asked before it was armed");
                }
            });
        });
        scope.spawn(|| serve(cluster.engine(1), &register, &end[1], |_, _| {}));
        body(&|| told.lock().unwrap().clone());
    });
    swaps.into_inner()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not {what} in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn it_is_armed_before_the_promotion_petted_by_the_lease_and_stopped_by_the_demotion() {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let cluster = pair(&seen);
    let swaps = arbitrated(&cluster, &seen, |_| {
        cluster.first_sync();
        assert_eq!(seen.lock().unwrap().opened, 0, "armed without a promotion");
        cluster.call(0, json!({"command": "promote", "force": false}));
        let pets = || seen.lock().unwrap().pets;
        let both = |s: &Value| s["arbitration"]["configuration"]["in_sync"] == json!(["a", "b"]);
        cluster.wait(0, "grown", both);
        let before = pets();
        until("petted by the lease", || pets() >= before + 5);
        cluster.call(1, json!({"command": "disconnect", "peer": "a"}));
        cluster.wait(0, "alone", |s| {
            s["arbitration"]["configuration"]["in_sync"] == json!(["a"])
        });
        let before = pets();
        until("petted alone", || pets() >= before + 3);
        assert_eq!(seen.lock().unwrap().stopped, 0);
        cluster.call(0, json!({"command": "demote"}));
        until("stopped", || seen.lock().unwrap().stopped == 1);
    });
    assert!(swaps >= 3, "created, grown, shrunk: {swaps}");
}

#[test]
fn without_it_nothing_is_asked_and_nothing_is_served() {
    let seen = Arc::new(Mutex::new(Seen {
        refused: true,
        ..Seen::default()
    }));
    let cluster = pair(&seen);
    let swaps = arbitrated(&cluster, &seen, |told| {
        cluster.first_sync();
        let promote = json!({"command": "promote", "force": false}).to_string();
        cluster.engine(0).call(&promote).unwrap_err();
        assert!(UnixStream::connect(cluster.socket(0)).is_err());
        // By force neither; but it is served as soon as the watchdog is to be had.
        let forced = json!({"command": "promote", "force": true}).to_string();
        cluster.engine(0).call(&forced).unwrap();
        assert!(UnixStream::connect(cluster.socket(0)).is_err());
        until("told", || told().contains("watchdog.failed"));
        cluster.wait(0, "waiting for it", |s| s["watchdog"].is_string());
        seen.lock().unwrap().refused = false;
        until("served", || UnixStream::connect(cluster.socket(0)).is_ok());
        cluster.wait(0, "waiting no more", |s| s["watchdog"].is_null());
    });
    assert!(seen.lock().unwrap().opened == 1 && swaps > 0);
}
