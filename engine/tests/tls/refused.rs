//! Who is no member, or not the one that is expected, is refused in words on both sides, and nothing changes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use super::certificates::Ca;
use super::cluster::Cluster;
use super::{cluster, members, told, PATIENCE};

/// Both nodes come up and say why they have nothing to do with each other; neither copy knows of the other.
fn strangers(cluster: &mut Cluster, says_a: &str, says_b: &str) {
    let before = [0, 1].map(|n| std::fs::read(cluster.backing(n)).unwrap());
    cluster.up(1);
    cluster.up(0);
    told(cluster, 0, says_a);
    told(cluster, 1, says_b);
    // Whoever dials also keeps it in its status.
    cluster.wait(0, "told why", |status| {
        status["peers"][0]["untrusted"]
            .as_str()
            .is_some_and(|why| why.contains(says_a))
    });
    for (n, before) in before.iter().enumerate() {
        let status = cluster.status(n);
        assert_ne!(status["peers"][0]["connection"], "Connected", "{status:#}");
        assert_eq!(status["disk"], "Inconsistent");
        assert_eq!(&std::fs::read(cluster.backing(n)).unwrap(), before);
    }
}

#[test]
fn members_of_two_clusters() {
    let (one, other) = (Ca::new(), Ca::new());
    let mut cluster = cluster([Some(one.trust("a")), Some(other.trust("b"))]);
    // a dials, and is the first to see it.
    strangers(
        &mut cluster,
        "not from this cluster's CA",
        "it refuses this node: the certificate is not from its cluster's CA",
    );
}

#[test]
fn a_member_whose_certificate_has_expired() {
    let ca = Ca::new();
    let mut dialler = cluster([Some(ca.trust_as("a", "a", true)), Some(ca.trust("b"))]);
    strangers(
        &mut dialler,
        "it refuses this node: the certificate has expired",
        "its certificate has expired; renew it",
    );
    let mut acceptor = cluster([Some(ca.trust("a")), Some(ca.trust_as("b", "b", true))]);
    strangers(
        &mut acceptor,
        "its certificate has expired; renew it",
        "it refuses this node: the certificate has expired",
    );
}

#[test]
fn a_member_that_poses_as_another() {
    let ca = Ca::new();
    // The node named b is c in truth: a, who dials, sees it.
    let posing = |name: &str| {
        let mut trust = ca.trust(name);
        trust["node"] = json!(name);
        trust
    };
    let mut acceptor = cluster([Some(ca.trust("a")), Some(posing("c"))]);
    strangers(
        &mut acceptor,
        "the certificate is that of c, not of b",
        "it refuses this node: the certificate is not that of the node it expects",
    );
    // The node named a is c in truth: b finds out by its Hello.
    let mut dialler = cluster([Some(posing("c")), Some(ca.trust("b"))]);
    let before = std::fs::read(dialler.backing(1)).unwrap();
    dialler.up(1);
    dialler.up(0);
    told(
        &dialler,
        1,
        "refused a from 127.0.0.1: the certificate is that of c, not of a",
    );
    let status = dialler.wait(0, "refused", |status| {
        status["peers"][0]["refusal"] != Value::Null
    });
    assert!(
        status["peers"][0]["refusal"]
            .to_string()
            .contains("that of c, not of a"),
        "{status:#}"
    );
    assert_eq!(dialler.status(1)["disk"], "Inconsistent");
    assert_eq!(std::fs::read(dialler.backing(1)).unwrap(), before);
}

#[test]
fn a_node_without_certificates() {
    let ca = Ca::new();
    let mut acceptor = cluster([Some(ca.trust("a")), None]);
    strangers(
        &mut acceptor,
        "it is in no cluster",
        "this node has no certificates",
    );
    let mut dialler = cluster([None, Some(ca.trust("b"))]);
    dialler.up(0);
    told(&dialler, 0, "this node has no certificates");
}

#[test]
fn a_node_that_speaks_without_tls() {
    let mut cluster = members(&Ca::new());
    cluster.up(1);
    cluster.tls = false;
    cluster.up(0);
    told(
        &cluster,
        1,
        "refused a from 127.0.0.1: connections for resource r0 need TLS here",
    );
    let status = cluster.wait(0, "refused", |status| {
        status["peers"][0]["refusal"] != Value::Null
    });
    assert!(
        status["peers"][0]["refusal"]
            .to_string()
            .contains("need TLS here"),
        "{status:#}"
    );
}

fn knock(cluster: &Cluster, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.nodes[1].listener.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be cut off while we still write.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn a_scanner_that_sends_garbage() {
    let mut cluster = members(&Ca::new());
    cluster.start();
    assert!(knock(&cluster, b"GET / HTTP/1.1\r\n\r\n").is_empty());
    told(&cluster, 1, "not a blockpair frame");
    // It begins as TLS does: it is answered with an alert, and nothing else.
    let answer = knock(&cluster, &[0x16; 600]);
    assert_eq!((answer[0], answer.len()), (0x15, 7), "{answer:?}");
    told(&cluster, 1, "what it sends is no TLS");
    cluster.assert_equal_copies();
}

/// `openssl s_client` at node b; what it says.
fn s_client(cluster: &Cluster, arguments: &[&str]) -> String {
    let port = cluster.nodes[1].listener.port();
    let out = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{port}"),
            "-alpn",
            "blockpair/1",
            "-ign_eof",
        ])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed");
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn a_client_of_tls_1_2() {
    let mut cluster = members(&Ca::new());
    cluster.start();
    let said = s_client(&cluster, &["-tls1_2"]);
    assert!(said.contains("alert protocol version"), "{said}");
    told(&cluster, 1, "it does not speak TLS 1.3");
    cluster.assert_equal_copies();
}

#[test]
fn a_client_that_shows_no_certificate() {
    let mut cluster = members(&Ca::new());
    cluster.start();
    let said = s_client(&cluster, &["-tls1_3"]);
    assert!(said.contains("alert certificate required"), "{said}");
    told(
        &cluster,
        1,
        "it shows no certificate: only members of the cluster may connect",
    );
    cluster.assert_equal_copies();
}

#[test]
fn a_member_s_program_of_another_protocol() {
    let mut cluster = members(&Ca::new());
    cluster.start();
    let said = s_client(&cluster, &["-tls1_3", "-alpn", "h2"]);
    assert!(said.contains("alert no application protocol"), "{said}");
    told(&cluster, 1, "not blockpair's protocol");
    cluster.assert_equal_copies();
}
