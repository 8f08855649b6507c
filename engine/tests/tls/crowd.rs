//! Connections that come in numbers, and go no further: an honest peer gets in all the same.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::certificates::Ca;
use super::{members, told, Cluster};

fn knock(cluster: &Cluster) -> TcpStream {
    TcpStream::connect(("127.0.0.1", cluster.nodes[1].listener.port())).unwrap()
}

#[test]
fn a_half_open_handshake_holds_up_nobody() {
    let mut cluster = members(&Ca::new());
    // A record is announced that never ends; and one that has not even begun.
    let mut half = knock(&cluster);
    half.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1]).unwrap();
    let silent = knock(&cluster);
    let start = Instant::now();
    cluster.start();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    told(&cluster, 1, "did not say within 5 s who it is");
    drop((half, silent));
    cluster.assert_equal_copies();
}

#[test]
fn a_thousand_connections_at_once() {
    let mut cluster = members(&Ca::new());
    cluster.start();
    // All from where the honest peer is, all begun as TLS is.
    let mut crowd = Vec::new();
    for n in 0..1000 {
        let mut stream = knock(&cluster);
        if n % 2 == 0 {
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1]);
        }
        crowd.push(stream);
        if n == 500 {
            cluster.nodes[0].engine.take().unwrap().stop().unwrap();
            cluster.up(0);
        }
    }
    cluster.wait_in_sync();
    told(&cluster, 1, "have not said who they are");
    drop(crowd);
    cluster.assert_equal_copies();
}

#[test]
fn a_flood_from_one_address_drowns_itself() {
    let mut cluster = members(&Ca::new());
    cluster.up(1);
    let mut slow = knock(&cluster);
    let port = cluster.nodes[1].listener.port();
    let crowd: Vec<_> = (0..1000)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket
                .bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into())
                .unwrap();
            let to = SocketAddr::from(([127, 0, 0, 1], port));
            socket.connect(&to.into()).unwrap();
            socket
        })
        .collect();
    told(&cluster, 1, "ended a connection from 127.0.0.2");
    // It was there before all of them, and is still listened to.
    slow.write_all(&[0x16; 600]).unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.first(), Some(&0x15), "no alert: it was cut off");
    drop(crowd);
}
