//! What is counted of how long things take, and how far the peer is behind.

use _engine::latency::Histogram;

use super::*;

/// One that took so long.
fn took(spans: &[Time]) -> Histogram {
    let mut histogram = Histogram::default();
    for span in spans {
        histogram.record(*span);
    }
    histogram
}

fn lag(bench: &Bench) -> Option<(Option<f64>, u64)> {
    let status = bench.replica.status(bench.now);
    status.peers[0].lag.as_ref().map(|lag| (lag.seconds, lag.bytes))
}

#[test]
fn disk_and_peer_are_timed_from_when_each_was_given_the_write() {
    let mut bench = Bench::primary();
    bench.write(0);
    // For the write-intent log: no time of the disk's.
    bench.now += 100 * MS;
    bench.settle_meta();
    bench.now += 2 * MS;
    bench.disk_done();
    bench.now += 5 * MS;
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.request(RequestKind::Read {
        offset: 0,
        len: BLOCK,
    });
    bench.now += 3 * MS;
    bench.disk_done();
    let status = bench.replica.status(bench.now);
    assert_eq!(status.latency.disk_writes, took(&[2 * MS]));
    assert_eq!(status.latency.disk_reads, took(&[3 * MS]));
    assert_eq!(status.peers[0].latency, took(&[7 * MS]));
}

#[test]
fn what_failed_or_is_no_data_is_not_timed() {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle_meta();
    bench.finish_disk(false);
    bench.receive(Message::Done { seq: 1, status: 5 });
    let mut trimming = Bench::primary();
    trimming.request(RequestKind::Trim {
        offset: 0,
        len: u64::from(BLOCK),
        fua: false,
    });
    trimming.settle();
    trimming.receive(Message::Done { seq: 1, status: 0 });
    for bench in [bench, trimming] {
        let status = bench.replica.status(bench.now);
        assert_eq!(status.latency.disk_writes.count(), 0);
        assert_eq!(status.peers[0].latency.count(), 0);
    }
}

#[test]
fn protocol_a_answers_at_once_and_lags_until_the_peer_has_it() {
    let mut bench = Bench::with_protocol(Protocol::A);
    assert_eq!(lag(&bench), Some((Some(0.0), 0)));
    let id = bench.write(0);
    bench.settle();
    assert!(bench.replies.contains(&(id, true)));
    bench.now += 250 * MS;
    bench.write(u64::from(BLOCK));
    bench.settle();
    bench.now += 250 * MS;
    assert_eq!(lag(&bench), Some((Some(0.5), 8192)));
    bench.receive(Message::Done { seq: 1, status: 0 });
    assert_eq!(lag(&bench), Some((Some(0.25), 4096)));
    bench.receive(Message::Done { seq: 2, status: 0 });
    assert_eq!(lag(&bench), Some((Some(0.0), 0)));
}

#[test]
fn a_peer_that_is_lost_lags_from_the_first_write_that_it_did_not_confirm() {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle();
    bench.now += 1_000 * MS;
    bench.lose();
    bench.settle();
    assert_eq!(lag(&bench), Some((Some(1.0), 4096)));
    bench.now += 500 * MS;
    bench.write(u64::from(BLOCK));
    bench.settle();
    assert_eq!(lag(&bench), Some((Some(1.5), 8192)));
    // Until the resync has brought it all of that.
    bench.handshake(state(Role::Secondary, 5));
    bench.receive(Message::BitmapRuns {
        runs: Vec::new(),
        last: true,
    });
    bench.now += 500 * MS;
    assert_eq!(lag(&bench).and_then(|(seconds, _)| seconds), Some(2.0));
    bench.settle();
    while let Some(message) = bench.sent.pop_front() {
        if let Message::ChunkHash { id, .. } = message {
            bench.receive(Message::ChunkSame { id });
            bench.settle();
        }
    }
    assert_eq!(lag(&bench), Some((Some(0.0), 0)));
}

#[test]
fn since_when_marks_of_an_earlier_life_are_there_nobody_knows() {
    let mut bench = Bench::with_marks(superblock(5), false, &[3, 4], &[]);
    assert_eq!(lag(&bench), None, "a Secondary cannot know");
    let id = bench.command(Command::Promote { force: true });
    bench.settle();
    assert!(bench.is_done(id, true));
    bench.write(0);
    bench.settle();
    assert_eq!(lag(&bench), Some((None, 3 * u64::from(BLOCK))));
}
