//! Two paths between the nodes: what happens to one of them must not be seen by whoever writes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use _engine::wire::{self, Intent, Message, SessionHello, SessionId};
use serde_json::{json, Value};

use crate::client::NbdClient;
use crate::cluster::Cluster;
use crate::relay::{Held, Relay};
use crate::{memory, noise, MIB};

const SIZE: u64 = 16 * MIB;
/// The nodes' patience with a silent peer, as the specification says.
const PEER_TIMEOUT: Duration = Duration::from_secs(3);

struct Pair {
    cluster: Cluster,
    relays: Vec<Relay>,
}

impl Pair {
    /// Node a dials b over `count` relays, one an address; both are up and in sync, a is Primary.
    fn start(count: usize, protocol: &'static str) -> Pair {
        let mut cluster = Cluster::new(&memory(), SIZE, "auto", protocol);
        let port = cluster.nodes[1].listener.port();
        let relays: Vec<Relay> = (0..count).map(|_| Relay::open(port)).collect();
        let addresses = |ports: Vec<u16>| -> Vec<Value> {
            let address = |port| json!({"host": "127.0.0.1", "port": port});
            ports.into_iter().map(address).collect()
        };
        cluster.addresses = [
            Some(addresses(relays.iter().map(|relay| relay.port).collect())),
            // Never dialled: the node that comes first by its name does.
            Some(addresses((1..=count as u16).collect())),
        ];
        cluster.start();
        let pair = Pair { cluster, relays };
        for n in 0..2 {
            pair.wait_states(n, &["active", "standby", "standby"][..count]);
            pair.cluster.engine(n).events();
        }
        pair
    }

    fn wait_states(&self, n: usize, wanted: &[&str]) -> Value {
        self.cluster.wait(n, &format!("with paths {wanted:?}"), |status| {
            let paths = status["peers"][0]["paths"].as_array().unwrap();
            paths.iter().map(|path| &path["state"]).eq(wanted)
        })
    }

    /// Of all that a session must not be noticed by.
    fn assert_unbroken(&self) {
        for n in 0..2 {
            let events = self.cluster.engine(n).events();
            for name in ["peer.lost", "resync", "peer.protocol_error"] {
                assert!(!events.contains(name), "{n}: {events}");
            }
            let peer = &self.cluster.status(n)["peers"][0];
            assert_eq!(
                (&peer["connection"], &peer["replication"]),
                (&json!("Connected"), &json!("Established"))
            );
            assert_eq!(peer["out_of_sync_bytes"], 0);
        }
    }
}

/// Writes on and on, and keeps the longest time that one write took.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Duration>,
}

impl Writer {
    fn start(pair: &Pair) -> Writer {
        let (mut nbd, _) = NbdClient::connect(&pair.cluster.socket(0)).unwrap();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, counts) = (stop.clone(), written.clone());
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            for n in 0_u64.. {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                let len = [4096, 65536, 4096, 512 << 10][n as usize % 4];
                let offset = n.wrapping_mul(0x9e37_79b9) % (SIZE - len) / 4096 * 4096;
                let before = Instant::now();
                nbd.write(offset, &noise(n, len as usize), 0);
                longest = longest.max(before.elapsed());
                counts.fetch_add(1, Ordering::Relaxed);
            }
            nbd.flush();
            longest
        });
        Writer {
            stop,
            written,
            thread,
        }
    }

    /// Waits until that many more are written.
    fn writes(&self, count: u64) {
        let target = self.written.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.written.load(Ordering::Relaxed) < target {
            assert!(
                Instant::now() < deadline && !self.thread.is_finished(),
                "the writes stand still"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_path_that_is_cut_under_load_is_not_noticed_and_used_again_once_it_is_back() {
    for protocol in ["C", "A"] {
        let mut pair = Pair::start(2, protocol);
        let writer = Writer::start(&pair);
        writer.writes(50);
        pair.relays[0].pull();
        writer.writes(200);
        for n in 0..2 {
            let status = pair.wait_states(n, &["down", "active"]);
            assert!(!status["peers"][0]["paths"][0]["why"].as_str().unwrap().is_empty());
        }
        pair.assert_unbroken();
        pair.relays[0].mend();
        for n in 0..2 {
            pair.wait_states(n, &["active", "standby"]);
        }
        writer.writes(50);
        let longest = writer.end();
        println!("protocol {protocol}: the longest write took {longest:?}");
        assert!(longest < PEER_TIMEOUT / 2);
        pair.assert_unbroken();
        pair.cluster.assert_equal_copies();
    }
}

#[test]
fn a_path_that_goes_silent_under_load_costs_less_than_the_peers_timeout() {
    let ways = [(true, true), (true, false), (false, true)];
    for (dialler, listener) in ways {
        let mut pair = Pair::start(2, "C");
        let writer = Writer::start(&pair);
        writer.writes(50);
        pair.relays[0].hold(Held { dialler, listener });
        writer.writes(100);
        for n in 0..2 {
            pair.wait_states(n, &["down", "active"]);
        }
        let longest = writer.end();
        println!("silent to the dialler: {dialler}, to the listener: {listener}: the longest write took {longest:?}");
        assert!(longest < PEER_TIMEOUT * 3 / 4);
        pair.assert_unbroken();
        pair.relays[0].mend();
        for n in 0..2 {
            pair.wait_states(n, &["active", "standby"]);
        }
        pair.assert_unbroken();
        pair.cluster.assert_equal_copies();
    }
}

#[test]
fn a_path_in_reserve_may_come_and_go() {
    let mut pair = Pair::start(3, "C");
    let writer = Writer::start(&pair);
    for relay in [&pair.relays[1], &pair.relays[2]] {
        relay.pull();
    }
    writer.writes(50);
    pair.wait_states(0, &["active", "down", "down"]);
    pair.relays[2].mend();
    pair.wait_states(1, &["active", "down", "standby"]);
    pair.relays[0].pull();
    writer.writes(50);
    pair.wait_states(1, &["down", "down", "active"]);
    writer.end();
    pair.assert_unbroken();
    pair.cluster.assert_equal_copies();
}

#[test]
fn without_any_path_the_connection_is_lost_and_resyncs_as_ever() {
    let mut pair = Pair::start(2, "C");
    let writer = Writer::start(&pair);
    writer.writes(50);
    for relay in &pair.relays {
        relay.pull();
    }
    pair.cluster.wait(0, "alone", |status| {
        status["peers"][0]["connection"] == "Connecting"
    });
    writer.writes(50);
    let behind = pair.cluster.status(0);
    assert!(behind["peers"][0]["out_of_sync_bytes"].as_u64().unwrap() > 0);
    assert!(pair.cluster.engine(0).events().contains("peer.lost"));
    for relay in &pair.relays {
        relay.mend();
    }
    pair.cluster.wait_in_sync();
    pair.wait_states(0, &["active", "standby"]);
    writer.end();
    pair.cluster.assert_equal_copies();
}

#[test]
fn a_node_that_stands_still_is_borne_with_as_long_as_over_one_path() {
    let mut pair = Pair::start(2, "C");
    let writer = Writer::start(&pair);
    writer.writes(50);
    let all = Held {
        dialler: true,
        listener: true,
    };
    // Longer than a path may be silent while another is heard.
    let end = Instant::now() + PEER_TIMEOUT / 2;
    for relay in &pair.relays {
        relay.hold(all);
    }
    while Instant::now() < end {
        assert_eq!(pair.cluster.status(0)["peers"][0]["connection"], "Connected");
        std::thread::sleep(Duration::from_millis(10));
    }
    for relay in &pair.relays {
        relay.mend();
    }
    writer.writes(50);
    writer.end();
    pair.assert_unbroken();
    pair.cluster.assert_equal_copies();
}

#[test]
fn one_address_a_node_is_one_connection() {
    let mut pair = Pair::start(1, "C");
    let before = pair.relays[0].accepted();
    let writer = Writer::start(&pair);
    writer.writes(20);
    writer.end();
    assert_eq!(pair.relays[0].accepted(), before);
    pair.cluster.assert_equal_copies();
}

#[test]
fn whoever_does_not_know_the_session_does_not_get_into_it() {
    let mut pair = Pair::start(2, "C");
    let hello = wire::Hello {
        version_min: wire::VERSION_MIN,
        version_max: wire::VERSION_MAX,
        features: wire::feature::ALL,
        resource: "r0".into(),
        resource_id: [0; 16],
        node: "a".into(),
        peer: "b".into(),
        data_size_bytes: SIZE,
        block_size_bytes: 4096,
        protocol: wire::Protocol::C,
        channel: 0,
        nonce: 1,
        intent: Intent::Join,
        policy: wire::SplitBrainPolicy::DiscardZeroChanges,
        priority: 0,
        session: Some(SessionHello {
            id: SessionId([7; 16]),
            path: 1,
            paths: 2,
        }),
    };
    let mut bytes = Vec::new();
    wire::encode(&Message::Hello(hello), 0, &mut bytes);
    wire::encode(
        &Message::PathResume {
            turn: 99,
            received: 0,
        },
        0,
        &mut bytes,
    );
    let mut stranger = TcpStream::connect(("127.0.0.1", pair.cluster.nodes[1].listener.port())).unwrap();
    stranger.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    assert!(answer.windows(4).any(|part| part == b"such"), "{answer:?}");
    for n in 0..2 {
        pair.wait_states(n, &["active", "standby"]);
    }
    pair.assert_unbroken();
    pair.cluster.assert_equal_copies();
}
