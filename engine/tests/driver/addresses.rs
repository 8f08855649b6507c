//! Where a peer is, changed while the resource is up.

use serde_json::{json, Value};

use crate::client::{NbdClient, FUA};
use crate::cluster::Cluster;
use crate::{memory, noise, MIB};

const SIZE: u64 = 4 * MIB;

fn readdress(cluster: &Cluster, n: usize, addresses: Value) {
    let peer = ["b", "a"][n];
    cluster.call(
        n,
        json!({"command": "readdress", "peer": peer, "addresses": addresses}),
    );
}

fn connected(cluster: &Cluster, n: usize) {
    cluster.wait(n, "connected", |status| {
        status["peers"][0]["connection"] == "Connected"
    });
}

/// Either node may be the one that takes the other for lost: the one that dials, and the one that is dialled.
#[test]
fn a_peer_that_is_nowhere_is_let_go_and_not_let_in() {
    for n in 0..2 {
        let mut cluster = Cluster::new(&memory(), SIZE, "auto", "C");
        cluster.start();
        let home = cluster.spec(n)["peers"][0]["addresses"].clone();
        readdress(&cluster, n, json!([]));
        let status = cluster.wait(n, "alone", |status| {
            status["peers"][0]["connection"] == "Connecting"
        });
        assert_eq!(status["peers"][0]["address"], Value::Null);
        assert_eq!(status["peers"][0]["paths"], json!([]));
        if n == 1 {
            // It dials, and is told.
            let status = cluster.wait(0, "refused", |status| !status["peers"][0]["refusal"].is_null());
            let text = status["peers"][0]["refusal"]["text"].as_str().unwrap();
            assert!(text.contains("marked lost"), "{text}");
            assert_eq!(cluster.status(n)["peers"][0]["connection"], "Connecting");
        }
        // The Primary goes on, and what it writes is brought over afterwards.
        let (mut client, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
        client.write(0, &noise(1, 4096), FUA);
        readdress(&cluster, n, home);
        connected(&cluster, 0);
        connected(&cluster, 1);
        cluster.wait(0, "in sync", |status| {
            status["peers"][0]["replication"] == "Established" && status["peers"][0]["out_of_sync_bytes"] == 0
        });
    }
}

#[test]
fn an_address_beyond_this_machine_is_refused_without_tls() {
    let mut cluster = Cluster::new(&memory(), SIZE, "auto", "C");
    cluster.start();
    let command =
        json!({"command": "readdress", "peer": "b", "addresses": [{"host": "192.0.2.1", "port": 1}]});
    let failure = cluster.engine(0).call(&command.to_string()).unwrap_err();
    assert!(failure.message.contains("without TLS"), "{}", failure.message);
    connected(&cluster, 0);
}
