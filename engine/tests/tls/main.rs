//! Two whole engines with TLS between them, and whoever else knocks.

mod certificates;
#[allow(dead_code)]
#[path = "../driver/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../driver/cluster.rs"]
mod cluster;
mod crowd;
mod refused;
#[allow(dead_code)]
#[path = "../driver/relay.rs"]
mod relay;

use std::path::Path;
use std::time::{Duration, Instant};

use certificates::Ca;
use client::NbdClient;
use cluster::{Cluster, NAMES};
use serde_json::{json, Value};

const MIB: u64 = 1 << 20;
/// Waiting for an event longer than this is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

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

/// Two nodes, down, that trust as they are told to.
fn cluster(trust: [Option<Value>; 2]) -> Cluster {
    let mut cluster = Cluster::new(Path::new("/dev/shm"), 16 * MIB, "auto", "C");
    cluster.tls = true;
    for (node, trust) in cluster.nodes.iter().zip(trust) {
        node.listener
            .set_trust(trust.map(|trust| trust.to_string()).as_deref())
            .unwrap();
    }
    cluster
}

fn members(ca: &Ca) -> Cluster {
    cluster(NAMES.map(|name| Some(ca.trust(name))))
}

/// Waits until node `n` has told of something with `text` in it: as its engine's event, or its listener's.
fn told(cluster: &Cluster, n: usize, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut all = String::new();
    loop {
        if let Some(engine) = &cluster.nodes[n].engine {
            all += &engine.events();
        }
        all += &cluster.nodes[n].listener.events();
        if all.contains(text) {
            assert!(!all.contains("PRIVATE KEY"), "{all}");
            return;
        }
        assert!(Instant::now() < deadline, "{} told {all}, not {text}", NAMES[n]);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_members_replicate() {
    let mut cluster = members(&Ca::new());
    std::fs::write(cluster.backing(0), noise(1, 16 * MIB as usize)).unwrap();
    cluster.start();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    for n in 0..200_u64 {
        let len = [4096, 8192, 65536, 512 * 1024][n as usize % 4];
        let offset = (n.wrapping_mul(0x9e37_79b9) % (16 * MIB - len)) / 4096 * 4096;
        nbd.write(offset, &noise(n + 2, len as usize), 0);
    }
    nbd.flush();
    for n in 0..2 {
        let peer = &cluster.status(n)["peers"][0];
        assert_eq!(peer["tls"], true);
        assert_eq!(peer["untrusted"], Value::Null);
        assert!(peer["cipher"].as_str().unwrap().starts_with("TLS13_"), "{peer:#}");
        let wire = &peer["wire"];
        assert!(wire["kernel_sent_bytes"].as_u64().unwrap() <= wire["sent_bytes"].as_u64().unwrap());
    }
    cluster.assert_equal_copies();
}

#[test]
fn a_session_goes_on_over_another_path_with_tls() {
    let mut cluster = members(&Ca::new());
    let port = cluster.nodes[1].listener.port();
    let relays = [relay::Relay::open(port), relay::Relay::open(port)];
    let addresses = relays
        .iter()
        .map(|relay| json!({"host": "127.0.0.1", "port": relay.port}));
    cluster.addresses[0] = Some(addresses.collect());
    cluster.start();
    let states = |wanted: [&'static str; 2]| {
        cluster.wait(0, "on its paths", move |status| {
            let paths = status["peers"][0]["paths"].as_array().unwrap();
            paths.iter().map(|path| &path["state"]).eq(wanted)
        });
    };
    states(["active", "standby"]);
    cluster.engine(0).events();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    let mut write = |seed: u64| {
        for n in 0..50_u64 {
            let len = [4096, 256 * 1024][n as usize % 2];
            nbd.write(
                n * 256 * 1024 % (16 * MIB - len),
                &noise(seed + n, len as usize),
                0,
            );
        }
    };
    write(1);
    relays[0].pull();
    write(100);
    states(["down", "active"]);
    relays[0].mend();
    states(["active", "standby"]);
    write(200);
    let events = cluster.engine(0).events();
    assert!(
        events.contains("path.down") && !events.contains("peer.lost"),
        "{events}"
    );
    cluster.assert_equal_copies();
}

#[test]
fn a_consultation_goes_through_tls_as_well() {
    let mut cluster = members(&Ca::new());
    cluster.start();
    let asked = json!({"peer": "b", "report": false}).to_string();
    let plan: Value = serde_json::from_str(&cluster.engine(0).consult(&asked).unwrap()).unwrap();
    assert_eq!(plan["problem"], Value::Null, "{plan:#}");
    assert_eq!(plan["other"]["node"], "b");
    // And the other way: b never dials, but asks.
    let asked = json!({"peer": "a", "report": false}).to_string();
    let plan: Value = serde_json::from_str(&cluster.engine(1).consult(&asked).unwrap()).unwrap();
    assert_eq!(plan["other"]["node"], "a", "{plan:#}");
    cluster.nodes[0].listener.set_trust(None).unwrap();
    let plan: Value = serde_json::from_str(&cluster.engine(1).consult(&asked).unwrap()).unwrap();
    let problem = plan["problem"].as_str().unwrap();
    assert!(problem.contains("it is in no cluster"), "{problem}");
}

#[test]
fn new_certificates_are_for_the_next_connection() {
    let (old, new) = (Ca::new(), Ca::new());
    let mut cluster = members(&old);
    cluster.start();
    for (node, name) in cluster.nodes.iter().zip(NAMES) {
        node.listener
            .set_trust(Some(&new.trust(name).to_string()))
            .unwrap();
    }
    // The connection that is there goes on.
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    nbd.write(0, &noise(1, 4096), 0);
    cluster.wait_in_sync();
    for _ in 0..2 {
        cluster.nodes[1].engine.take().unwrap().stop().unwrap();
        nbd.write(MIB, &noise(2, 4096), 0);
        cluster.up(1);
        cluster.wait_in_sync();
    }
    cluster.assert_equal_copies();
}

#[test]
fn what_is_no_trust_is_refused_with_words_that_quote_no_key() {
    let ca = Ca::new();
    let listener = _engine::io::listener::Listener::open("127.0.0.1", 0).unwrap();
    let good = ca.trust("a");
    let with = |key: &str, value: &str| {
        let mut changed = good.clone();
        changed[key] = json!(value);
        changed.to_string()
    };
    let key = good["key_pem"].as_str().unwrap();
    let secret = &key.lines().nth(1).unwrap()[..20];
    let cases = [
        (with("ca_pem", ""), "CA certificate"),
        (with("ca_pem", key), "CA certificate"),
        (with("chain_pem", key), "this node's certificate"),
        (
            with("chain_pem", "-----BEGIN CERTIFICATE-----\n!\n"),
            "this node's certificate",
        ),
        (
            with("key_pem", good["chain_pem"].as_str().unwrap()),
            "this node's key",
        ),
        (
            with("key_pem", &key.replace("BEGIN", "BEGINN")),
            "this node's key",
        ),
        (
            with("key_pem", ca.trust("a")["key_pem"].as_str().unwrap()),
            "not that of the certificate",
        ),
        (with("node", "b"), "that of a, not of b"),
        (with("node", "not a name"), "cannot be a name"),
        (key.to_owned(), "no JSON"),
        (json!({"node": key}).to_string(), "missing"),
        (json!([key]).to_string(), "another type"),
    ];
    for (text, expected) in cases {
        let failure = listener.set_trust(Some(&text)).unwrap_err();
        assert_eq!(failure.kind.name(), "invalid");
        let words = failure.to_string();
        assert!(words.contains(expected), "{words}, not {expected}");
        assert!(
            !words.contains(secret) && !format!("{failure:?}").contains(secret),
            "{words}"
        );
    }
}

#[test]
fn without_tls_only_this_machine_is_spoken_to() {
    let cluster = Cluster::new(Path::new("/dev/shm"), MIB, "auto", "C");
    let mut spec = cluster.spec(0);
    spec["peers"][0]["addresses"][0]["host"] = json!("192.0.2.1");
    let start = |spec: &Value| {
        _engine::io::engine::Engine::start(&spec.to_string(), &cluster.nodes[0].listener)
            .err()
            .unwrap()
    };
    let failure = start(&spec);
    assert_eq!(failure.kind.name(), "invalid");
    assert!(failure.to_string().contains("make a cluster"), "{failure}");
}
