//! The whole engine: real files, real sockets, two nodes in one process.

mod addresses;
mod arbiter;
mod arbitration;
mod client;
mod cluster;
mod limits;
mod paths;
mod relay;
mod resolution;
mod watchdog;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use _engine::io::engine::Engine;
use client::{NbdClient, DISCONNECT, FLUSH, FUA, READ, TRIM, WRITE, WRITE_ZEROES};
use cluster::Cluster;
use serde_json::{json, Value};

const MIB: u64 = 1 << 20;

fn memory() -> PathBuf {
    "/dev/shm".into()
}

fn on_disk() -> PathBuf {
    std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Reproducible bytes.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// How many a histogram of the status has counted; each took some time.
fn counted(histogram: &Value) -> u64 {
    let buckets = histogram["buckets"].as_array().unwrap();
    assert!(histogram["sum_seconds"].as_f64().unwrap() > 0.0, "{histogram}");
    buckets.iter().map(|count| count.as_u64().unwrap()).sum()
}

fn replicate(place: &Path, driver: &'static str, protocol: &'static str) {
    let mut cluster = Cluster::new(place, 32 * MIB, driver, protocol);
    std::fs::write(cluster.backing(0), noise(1, 32 * MIB as usize)).unwrap();
    cluster.start();
    let (mut nbd, size) = NbdClient::connect(&cluster.socket(0)).unwrap();
    assert_eq!(size, 32 * MIB);
    let mut model = noise(1, 32 * MIB as usize);
    assert!(nbd.read(0, 8 << 20) == model[..8 << 20]);
    for n in 0..200_u64 {
        let len = [4096, 8192, 65536, 512 * 1024][n as usize % 4];
        let offset = (n.wrapping_mul(0x9e37_79b9) % (32 * MIB - len)) / 4096 * 4096;
        let bytes = noise(n + 2, len as usize);
        nbd.write(offset, &bytes, if n % 7 == 0 { FUA } else { 0 });
        model[offset as usize..(offset + len) as usize].copy_from_slice(&bytes);
    }
    for (command, offset, len) in [(TRIM, MIB, 3 * MIB), (WRITE_ZEROES, 9 * MIB + 4096, 2 * MIB)] {
        nbd.zero(command, offset, len as u32);
        model[offset as usize..(offset + len) as usize].fill(0);
    }
    nbd.flush();
    for at in 0..4 {
        let range = at * 8 * MIB as usize..(at + 1) * 8 * MIB as usize;
        assert!(nbd.read(range.start as u64, range.len() as u32) == model[range]);
    }
    let status = cluster.status(0);
    assert_eq!(status["io"]["writes"], 200);
    assert_eq!(status["io"]["trimmed_bytes"], 3 * MIB);
    assert_eq!(status["io"]["zeroed_bytes"], 2 * MIB);
    for (which, count) in [
        ("writes", 200),
        ("disk_writes", 200),
        ("reads", 5),
        ("disk_reads", 5),
        ("flushes", 1),
    ] {
        assert_eq!(counted(&status["latency"][which]), count, "{which}");
    }
    // A good copy by protocol A may not have confirmed the last ones when the application has its answers.
    assert!(counted(&status["peers"][0]["latency"]) <= 200);
    if protocol != "A" {
        assert_eq!(status["peers"][0]["lag"], json!({"seconds": 0.0, "bytes": 0}));
    }
    assert_eq!(status["clients"][0]["kind"], "unix");
    assert_eq!(status["clients"][0]["pid"], std::process::id());
    let wire = &status["peers"][0]["wire"];
    assert!(wire["sent_bytes"].as_u64().unwrap() > 32 * MIB);
    // What we wrote is what the kernel sent, but for what is still in its buffer.
    assert!(wire["kernel_sent_bytes"].as_u64().unwrap() <= wire["sent_bytes"].as_u64().unwrap());
    cluster.assert_equal_copies();
    assert!(
        std::fs::read(cluster.backing(1)).unwrap() == model,
        "the secondary has other bytes"
    );
    assert!(!cluster.socket(0).exists(), "the export outlived the engine");
}

#[test]
fn writes_reach_both_copies_in_memory() {
    replicate(&memory(), "auto", "C");
}

#[test]
fn writes_reach_both_copies_on_disk_with_io_uring() {
    replicate(&on_disk(), "io_uring", "C");
}

#[test]
fn writes_reach_both_copies_on_disk_with_threads() {
    replicate(&on_disk(), "threads", "B");
}

#[test]
fn writes_reach_both_copies_with_protocol_a() {
    replicate(&memory(), "inline", "A");
}

#[test]
fn many_requests_in_flight_are_all_answered() {
    let mut cluster = Cluster::new(&memory(), 32 * MIB, "auto", "C");
    cluster.start();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    let mut reader = nbd.twin();
    // Twice what the engine takes at a time: the client is held back, not refused.
    let (count, len) = (4096_u64, 32 << 10);
    let writer = std::thread::spawn(move || {
        let payload = noise(5, len);
        for n in 0..count {
            nbd.send(WRITE, 0, n % 1024 * len as u64, len as u32, &payload)
                .unwrap();
        }
        nbd
    });
    let mut seen = vec![false; count as usize + 1];
    for _ in 0..count {
        let (cookie, error) = reader.reply().unwrap();
        assert_eq!(error, 0);
        assert!(
            !std::mem::replace(&mut seen[cookie as usize], true),
            "answered twice"
        );
    }
    drop(writer.join().unwrap());
    cluster.assert_equal_copies();
}

#[test]
fn a_disconnected_peer_gets_just_what_changed() {
    let mut cluster = Cluster::new(&memory(), 64 * MIB, "auto", "C");
    std::fs::write(cluster.backing(0), noise(1, 64 * MIB as usize)).unwrap();
    cluster.start();
    cluster.call(0, json!({"command": "disconnect", "peer": "b"}));
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    for n in 0..4 {
        nbd.write(n * 10 * MIB, &noise(n + 50, MIB as usize), 0);
    }
    nbd.flush();
    let before = cluster.status(0);
    assert_eq!(before["peers"][0]["out_of_sync_bytes"], 4 * MIB);
    let sent = |status: &serde_json::Value| status["peers"][0]["wire"]["sent_bytes"].as_u64().unwrap();
    cluster.call(0, json!({"command": "connect", "peer": "b"}));
    // The side that was told goodbye waits for a person, too.
    cluster.call(1, json!({"command": "connect", "peer": "a"}));
    cluster.wait_in_sync();
    let moved = sent(&cluster.status(0)) - sent(&before);
    assert!(
        (4 * MIB..5 * MIB).contains(&moved),
        "{moved} bytes for 4 MiB of changes"
    );
    cluster.assert_equal_copies();
}

#[test]
fn a_node_that_goes_and_comes_is_resynced() {
    let mut cluster = Cluster::new(&memory(), 32 * MIB, "auto", "C");
    cluster.start();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    for round in 0..5 {
        cluster.nodes[1].engine.take().unwrap().stop().unwrap();
        nbd.write(round * MIB, &noise(round, MIB as usize), 0);
        cluster.up(1);
        nbd.write((round + 8) * MIB, &noise(round + 100, MIB as usize), FUA);
        cluster.wait_in_sync();
    }
    cluster.assert_equal_copies();
}

#[test]
fn the_export_ends_with_the_role() {
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    cluster.start();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    nbd.write(0, &noise(1, 4096), 0);
    let refused = cluster
        .engine(1)
        .call(&json!({"command": "promote", "force": false}).to_string())
        .unwrap_err();
    assert_eq!(refused.kind.name(), "unsafe");
    cluster.call(0, json!({"command": "demote"}));
    assert_eq!(
        nbd.stream.read(&mut [0; 1]).unwrap(),
        0,
        "the client was not disconnected"
    );
    assert!(!cluster.socket(0).exists());
    cluster.wait(1, "told of the demotion", |status| {
        status["peers"][0]["role"] == "Secondary"
    });
    cluster.call(1, json!({"command": "promote", "force": false}));
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(1)).unwrap();
    assert_eq!(nbd.read(0, 4096), noise(1, 4096));
    cluster.assert_equal_copies();
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    cluster.start();
    let (mut good, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    good.write(0, &noise(1, 4096), 0);

    let (mut bad, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    bad.stream.write_all(&[0x55; 64]).unwrap();
    assert_eq!(
        bad.stream.read(&mut [0; 16]).unwrap_or(0),
        0,
        "garbage was answered"
    );
    let (mut half, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    half.send(WRITE, 0, 0, 4096, &[1; 100]).unwrap();
    drop(half);

    for garbage in [
        vec![0; 200],
        vec![0xff; 200],
        noise(3, 4096),
        b"GET / HTTP/1.0\r\n\r\n".repeat(4),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", cluster.nodes[0].listener.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // It may be cut off while we still write.
        let _ = stream.write_all(&garbage);
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
    }
    // More half-open connections than the listener keeps.
    let idle: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(("127.0.0.1", cluster.nodes[0].listener.port())).unwrap())
        .collect();

    assert_eq!(good.read(0, 4096), noise(1, 4096));
    good.write(4096, &noise(2, 4096), FUA);
    cluster.wait_in_sync();
    drop(idle);
    cluster.assert_equal_copies();
}

#[test]
fn an_attached_socket_speaks_the_transmission_phase() {
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    cluster.start();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    nbd.send(DISCONNECT, 0, 0, 0, &[]).unwrap();
    nbd.stream = ours;
    cluster.engine(0).attach(OwnedFd::from(theirs));
    nbd.write(8192, &noise(4, 4096), 0);
    nbd.flush();
    assert_eq!(nbd.read(8192, 4096), noise(4, 4096));
    let status = cluster.wait(0, "left by the other client", |status| {
        status["clients"].as_array().unwrap().len() == 1
    });
    assert_eq!(status["clients"][0]["kind"], "kernel");
    cluster.engine(0).detach();
    assert_eq!(nbd.stream.read(&mut [0; 1]).unwrap(), 0);
    cluster.assert_equal_copies();
}

#[test]
fn a_panic_ends_one_resource_and_says_so() {
    std::env::set_var("BLOCKPAIR_FAULTS", "1");
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    cluster.start();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    nbd.write(0, &noise(1, 4096), 0);
    cluster.call(0, json!({"command": "fault", "what": "panic"}));
    let status = cluster.wait(0, "failed", |status| status["state"] == "failed");
    assert!(
        status["failure"].as_str().unwrap().contains("reactor.rs"),
        "{status:#}"
    );
    assert!(nbd.send(FLUSH, 0, 0, 0, &[]).is_err() || nbd.reply().map_or(true, |(_, error)| error == 5));
    assert!(!cluster.socket(0).exists());
    let events = cluster.engine(0).events();
    assert!(events.contains("engine.failed"), "{events}");
    let refused = cluster
        .engine(0)
        .call(&json!({"command": "demote"}).to_string())
        .unwrap_err();
    assert_eq!(refused.kind.name(), "failed");

    // The other one lives, and the failed one can come up again: its locks are free.
    cluster.wait(1, "alone", |status| {
        status["state"] == "running" && status["peers"][0]["connection"] == "Connecting"
    });
    cluster.nodes[0].engine.take().unwrap().stop().unwrap();
    cluster.up(0);
    cluster.wait_in_sync();
    cluster.assert_equal_copies();
}

#[test]
fn what_cannot_start_says_why() {
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    cluster.up(0);
    let spec = cluster.spec(0);
    let other = _engine::io::listener::Listener::open("127.0.0.1", 0).unwrap();
    let kind = |spec: &serde_json::Value| match Engine::start(&spec.to_string(), &other) {
        Ok(_) => panic!("started with {spec:#}"),
        Err(failure) => failure.kind.name(),
    };
    assert_eq!(kind(&spec), "in_use");
    cluster.nodes[0].engine.take().unwrap().stop().unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut changed = spec.clone();
        changed[key] = value;
        changed
    };
    assert_eq!(kind(&with("resource", json!("other"))), "mismatch");
    assert_eq!(kind(&with("node", json!("c"))), "mismatch");
    assert_eq!(kind(&with("device", json!("/nonexistent"))), "invalid");
    assert_eq!(kind(&with("peers", json!([]))), "mismatch");
    assert_eq!(kind(&with("unknown", json!(1))), "invalid");
    let taken = match _engine::io::listener::Listener::open("127.0.0.1", other.port()) {
        Ok(_) => panic!("two listeners on one port"),
        Err(failure) => failure,
    };
    assert_eq!(taken.kind.name(), "in_use");
    // None of it left a lock behind.
    Engine::start(&spec.to_string(), &other).unwrap().stop().unwrap();
}

#[test]
fn reads_beyond_the_end_are_refused() {
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    cluster.start();
    let (mut nbd, size) = NbdClient::connect(&cluster.socket(0)).unwrap();
    let cookie = nbd.send(READ, 0, size - 4096, 8192, &[]).unwrap();
    assert_eq!(nbd.reply().unwrap(), (cookie, 22));
    let cookie = nbd.send(WRITE, 0, size - 4096, 8192, &[7; 8192]).unwrap();
    assert_eq!(nbd.reply().unwrap(), (cookie, 28));
    assert_eq!(nbd.read(size - 4096, 4096), vec![0; 4096]);
    cluster.assert_equal_copies();
}
