//! A process without descriptors left. A test program of its own: the limit counts for all of it.

#[allow(dead_code)]
#[path = "driver/cluster.rs"]
mod cluster;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use cluster::Cluster;

#[test]
fn a_client_that_cannot_be_accepted_is_tried_again_at_leisure() {
    let mut cluster = Cluster::new(Path::new("/dev/shm"), 1 << 20, "auto", "C");
    cluster.start();
    cluster.wait(0, "exported", |_| UnixStream::connect(cluster.socket(0)).is_ok());
    let waiting = UnixStream::connect(cluster.socket(0)).unwrap();
    cluster.wait(0, "alone with one client", |s| {
        s["clients"].as_array().unwrap().len() == 1
    });
    drop(waiting);
    let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for a read and a write of it.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    let full = libc::rlimit { rlim_cur: 3, ..limit };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &full) }, 0);
    cluster.engine(0).events();
    client
        .connect(&socket2::SockAddr::unix(cluster.socket(0)).unwrap())
        .unwrap();
    // What is measured is what happens in a while; nothing is waited for.
    std::thread::sleep(Duration::from_secs(1));
    let refusals = cluster.engine(0).events().matches("client.refused").count();
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    assert!((1..=15).contains(&refusals), "{refusals} tries in a second");
    cluster.wait(0, "with its client", |s| {
        s["clients"].as_array().unwrap().len() == 1
    });
}
