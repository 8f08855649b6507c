//! What the end of a daemon, or one client, must not do to others.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use _engine::wire::{
    encode, feature, GoodbyeReason, Hello, Intent, Message, Protocol, SplitBrainPolicy, VERSION_MAX,
    VERSION_MIN,
};

use crate::client::{NbdClient, DISCONNECT, WRITE};
use crate::cluster::Cluster;
use crate::{memory, noise, on_disk, MIB};

#[test]
fn a_stop_gives_no_request_of_a_kernel_device_an_error() {
    let mut cluster = Cluster::new(&on_disk(), 16 * MIB, "threads", "C");
    cluster.start();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    nbd.send(DISCONNECT, 0, 0, 0, &[]).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    nbd.stream = ours;
    cluster.engine(0).attach(OwnedFd::from(theirs));
    let mut replies = nbd.twin();
    let writer = std::thread::spawn(move || {
        let payload = noise(1, 16384);
        // Until the socket is closed: there is always a request under way.
        for n in 0.. {
            if nbd.send(WRITE, 0, n % 1024 * 16384, 16384, &payload).is_err() {
                return n;
            }
        }
        0
    });
    let mut answered = 0;
    std::thread::scope(|scope| {
        let engine = cluster.engine(0);
        while let Ok((_, error)) = replies.reply() {
            assert_eq!(error, 0, "after {answered} good replies");
            answered += 1;
            if answered == 300 {
                scope.spawn(move || engine.stop().unwrap());
            }
        }
    });
    assert!(answered >= 300 && writer.join().unwrap() >= answered);
    cluster.assert_equal_copies();
}

#[test]
fn the_export_is_for_its_group() {
    let mut cluster = Cluster::new(&memory(), 16 * MIB, "auto", "C");
    cluster.start();
    NbdClient::connect(&cluster.socket(0)).unwrap();
    let mode = std::fs::metadata(cluster.socket(0)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
}

#[test]
fn what_comes_with_a_hello_is_heard_after_it() {
    let mut cluster = Cluster::new(&memory(), MIB, "auto", "C");
    // It does not dial, and hears of nobody else.
    cluster.up(1);
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        features: feature::ALL,
        resource: "r0".into(),
        resource_id: [0; 16],
        node: "a".into(),
        peer: "b".into(),
        data_size_bytes: MIB,
        block_size_bytes: 4096,
        protocol: Protocol::C,
        channel: 0,
        nonce: 1,
        intent: Intent::Replicate,
        policy: SplitBrainPolicy::default(),
        priority: 0,
        session: None,
    };
    let (reason, text) = (GoodbyeReason::UnknownNode, "in one breath".to_owned());
    let mut bytes = Vec::new();
    encode(&Message::Hello(hello), 0, &mut bytes);
    encode(&Message::Goodbye { reason, text }, 0, &mut bytes);
    let mut peer = TcpStream::connect(("127.0.0.1", cluster.nodes[1].listener.port())).unwrap();
    peer.write_all(&bytes).unwrap();
    cluster.wait(1, "told both", |status| {
        status["peers"][0]["refusal"]["text"] == "in one breath"
    });
}
