//! Two engines and an arbiter's register, driven as the control plane does: woken by the event descriptor, asked what
//! to ask, told what the register holds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use _engine::io::engine::Engine;
use _engine::io::watchdog::boottime;
use serde_json::{json, Value};

use crate::arbiter::{serve, Ends};
use crate::client::NbdClient;
use crate::cluster::Cluster;
use crate::{memory, noise, MIB};

const LEASE: Duration = Duration::from_millis(300);

fn times() -> Value {
    json!({"beacon_ms": 50, "lease_ms": LEASE.as_millis() as u64, "drift_ppm": 1000, "automatic": true})
}

#[test]
fn the_survivor_becomes_primary_within_the_lease_and_a_moment_and_the_other_rejoins() {
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    cluster.arbitration = times();
    let register = Mutex::new(None);
    cluster.up(0);
    cluster.up(1);
    cluster.first_sync();
    let data = noise(7, 1 << 20);
    let engines = [0, 1].map(|n| cluster.nodes[n].engine.take().unwrap());
    let end = [AtomicBool::new(false), AtomicBool::new(false)];
    std::thread::scope(|scope| {
        let _ends = Ends(&end);
        for n in 0..2 {
            let (engine, register, end) = (&engines[n], &register, &end[n]);
            scope.spawn(move || serve(engine, register, end, |_, _| {}));
        }
        let status = |n: usize| -> Value { serde_json::from_str(&engines[n].status()).unwrap() };
        let wait = |what: &str, done: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !done() {
                assert!(
                    Instant::now() < deadline,
                    "{what}: {:#} {:#} {register:?}",
                    status(0)["arbitration"],
                    status(1)["arbitration"]
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        let promote = json!({"command": "promote", "force": false}).to_string();
        engines[0].call(&promote).unwrap();
        wait("both in sync", &|| {
            register
                .lock()
                .unwrap()
                .as_ref()
                .is_some_and(|held| held.in_sync.len() == 2)
                && status(0)["arbitration"]["configuration"]["in_sync"] == json!(["a", "b"])
        });
        let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
        nbd.write(0, &data, 0);
        nbd.flush();
        wait("a lease", &|| status(0)["arbitration"]["lease_seconds"].is_f64());
        let lease_ns = u64::try_from(LEASE.as_nanos()).unwrap();
        wait("an end of it", &|| {
            let left = engines[0].serves_until().saturating_sub(boottime());
            assert!(left <= lease_ns, "{left} ns of a lease of {lease_ns}");
            left > 0
        });
        assert_eq!(engines[1].serves_until(), 0);
        drop(nbd);
        engines[0].stop().unwrap();
        assert_eq!(engines[0].serves_until(), 0);
        let lost = Instant::now();
        end[0].store(true, Ordering::Relaxed);
        wait("b is Primary", &|| status(1)["role"] == "Primary");
        let took = lost.elapsed();
        assert!(took < LEASE + Duration::from_millis(500), "{took:?}");
        let (mut nbd, _) = NbdClient::connect(&cluster.socket(1)).unwrap();
        assert!(nbd.read(0, data.len() as u32) == data);
        nbd.write(1 << 20, &data, 0);
        wait("b needs no lease", &|| engines[1].serves_until() == u64::MAX);
        let held = register.lock().unwrap().clone().expect("a record");
        assert_eq!((held.epoch, held.primary.as_str()), (3, "b"));
    });
    let [_, second] = engines;
    second.stop().unwrap();
}

#[test]
fn what_is_no_configuration_is_refused() {
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    cluster.arbitration = times();
    cluster.up(0);
    let engine = cluster.engine(0);
    assert_eq!(engine.asks(), "null");
    for told in [
        "3",
        "{",
        r#"{"epoch":0,"primary":"a","in_sync":["a"]}"#,
        r#"{"epoch":1,"primary":"","in_sync":["a"]}"#,
        r#"{"epoch":1,"primary":"a","in_sync":[]}"#,
        r#"{"epoch":1,"primary":"a","in_sync":["a"],"more":1}"#,
    ] {
        let failure = engine.arbiter_says(1, told).expect_err(told);
        assert_eq!(failure.kind.name(), "invalid");
    }
    engine.arbiter_says(1, "null").unwrap();
}

#[test]
fn times_that_do_not_fit_each_other_are_refused() {
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    for (beacon, patience, lease, drift) in [
        (0, 100, 300, 0),
        (50, 50, 300, 0),
        (50, 300, 300, 0),
        (50, 290, 300, 50_000),
        (50, 100, 300, 100_001),
        (50, 100, 3_600_001, 0),
    ] {
        cluster.arbitration = json!({
            "beacon_ms": beacon, "lease_ms": lease, "patience_ms": patience, "drift_ppm": drift, "automatic": true,
        });
        let spec = cluster.spec(0).to_string();
        let failure = Engine::start(&spec, &cluster.nodes[0].listener)
            .map(drop)
            .expect_err(&spec);
        assert_eq!(failure.kind.name(), "invalid", "{failure}");
    }
}
