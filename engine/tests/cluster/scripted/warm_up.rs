//! What the Primary reads most is told, read ahead at a take-over, and never shown when it is not true any more.

use _engine::wire::{feature, HotRange};

use super::*;

const REGION: u64 = 64 << 10;

impl Bench {
    fn read_range(&mut self, offset: u64, len: u32) -> RequestId {
        self.request(RequestKind::Read { offset, len })
    }

    /// So many seconds go by, and the peer is there.
    fn stay(&mut self, seconds: u64) {
        for _ in 0..2 * seconds {
            self.receive(Message::Ping { sent_ns: 1 });
            self.pass(500 * MS);
            self.settle();
        }
    }

    /// The ranges of the last word on what is hot.
    fn told(&mut self) -> Option<Vec<HotRange>> {
        self.find(|message| match message {
            Message::HotRanges { ranges } => Some(ranges.clone()),
            _ => None,
        })
    }

    fn hear(&mut self, regions: &[u64]) {
        let ranges = (regions.iter())
            .map(|region| HotRange {
                offset: region * REGION,
                len: REGION,
            })
            .collect();
        self.receive(Message::HotRanges { ranges });
    }

    /// In step with a Primary that reads these regions most.
    fn follower(regions: &[u64]) -> Bench {
        Bench::follower_with(OnIoError::PassOn, regions)
    }

    fn follower_with(on_io_error: OnIoError, regions: &[u64]) -> Bench {
        let mut bench = Bench::with(superblock(5), false, on_io_error);
        bench.handshake(state(Role::Primary, 5));
        bench.settle();
        bench.hear(regions);
        bench
    }

    /// That Primary demotes, and this node takes its place.
    fn takes_over(&mut self) {
        let mut demoted = state(Role::Secondary, 5);
        demoted.handshake = false;
        self.receive(Message::State(demoted));
        let id = self.command(Command::Promote { force: false });
        self.receive(Message::PromoteReply { allowed: true });
        self.settle_meta();
        assert!(self.is_done(id, true) && self.exported);
    }

    /// Every disk operation that is under way, and those that follow, as time passes.
    fn read_all_ahead(&mut self) {
        for _ in 0..2000 {
            self.settle();
            self.pass(MS);
        }
    }

    fn warm(&self) -> WarmUpStatus {
        self.replica.status(self.now).warm_up
    }

    /// Regions that the disk is asked for now.
    fn asked_of_disk(&self) -> Vec<u64> {
        let regions = self.disk.iter().filter_map(|(_, op)| match op {
            DiskOp::Read { offset, len } if u64::from(*len) == REGION => Some(offset / REGION),
            _ => None,
        });
        regions.collect()
    }
}

/// A node that took over, and holds these regions.
fn warm(regions: &[u64]) -> Bench {
    let mut bench = Bench::follower(regions);
    bench.takes_over();
    bench.read_all_ahead();
    assert_eq!(bench.warm().held_bytes, regions.len() as u64 * REGION);
    bench
}

#[test]
fn the_primary_tells_what_it_reads_most_now_and_then() {
    let mut bench = Bench::primary();
    for region in [7, 3, 7] {
        bench.read_range(region * REGION, BLOCK);
        bench.disk_done();
    }
    assert_eq!(bench.told(), None, "a handshake has other things to say");
    bench.stay(1);
    let told = bench.told().expect("what is hot");
    let offsets: Vec<u64> = told.iter().map(|range| range.offset / REGION).collect();
    assert_eq!(offsets, [7, 3]);
    assert!(told.iter().all(|range| range.len == REGION));
    bench.stay(3);
    assert_eq!(bench.told(), None, "nothing is new");
    bench.read_range(0, BLOCK);
    bench.stay(1);
    assert_eq!(bench.told(), None, "not so soon");
    bench.stay(1);
    assert_eq!(bench.told().map(|told| told.len()), Some(3));
}

#[test]
fn a_peer_that_does_not_know_the_word_never_hears_it() {
    let mut bench = Bench::new(superblock(5), false);
    bench.features = feature::ALL & !feature::HOT_RANGES;
    let mut bench = bench.promoted();
    bench.read_range(0, BLOCK);
    bench.settle();
    bench.stay(20);
    assert_eq!(bench.told(), None);
}

#[test]
fn hot_ranges_outside_the_device_break_the_protocol() {
    let mut bench = Bench::follower(&[]);
    bench.hear(&[SIZE / REGION]);
    assert!(bench.notices.contains(&"peer.protocol_error"));
}

#[test]
fn a_take_over_reads_ahead_the_hottest_first_and_answers_from_memory() {
    let mut bench = Bench::follower(&[9, 4, 7, 2, 5]);
    bench.takes_over();
    assert_eq!(
        bench.asked_of_disk(),
        [9],
        "one a millisecond, whatever the disk can do"
    );
    bench.pass(MS);
    assert_eq!(bench.asked_of_disk(), [9, 4]);
    bench.pass(MS);
    bench.pass(MS);
    assert_eq!(bench.asked_of_disk(), [9, 4], "two at a time");
    bench.read_all_ahead();
    assert_eq!(bench.warm().held_bytes, 5 * REGION);
    assert!(bench.notices.contains(&"warm_up.finished"));
    let id = bench.read_range(9 * REGION + 512, 1024);
    assert!(bench.disk.is_empty(), "the disk is not asked");
    bench.recall_all();
    assert_eq!(bench.replies, [(id, true)]);
    assert_eq!(bench.read[0].1[..], [1; 1024]);
    assert_eq!(bench.warm().answered_reads, 1);
    // Across two regions of which one is not there.
    bench.read_range(5 * REGION - 512, 1024);
    bench.read_range(6 * REGION - 512, 1024);
    assert_eq!(bench.disk.len(), 1);
}

#[test]
fn who_waits_for_the_disk_has_three_quarters_of_its_time() {
    let mut bench = Bench::follower(&[9, 4, 7]);
    bench.takes_over();
    bench.read_range(0, BLOCK);
    for _ in 0..5 {
        bench.pass(MS);
    }
    assert_eq!(bench.asked_of_disk(), [9], "one at a time");
    // That took five milliseconds.
    bench.settle();
    bench.pass(14 * MS);
    assert!(bench.asked_of_disk().is_empty());
    bench.pass(MS);
    assert_eq!(bench.asked_of_disk(), [4]);
    // Nobody has come for long enough.
    bench.pass(50 * MS);
    assert_eq!(bench.asked_of_disk(), [4, 7]);
}

#[test]
fn what_is_written_is_forgotten_before_it_reaches_the_disk() {
    let mut bench = warm(&[9, 4]);
    bench.write(9 * REGION + u64::from(BLOCK));
    bench.settle_meta();
    assert_eq!(bench.warm().held_bytes, REGION);
    bench.read_range(9 * REGION, BLOCK);
    assert_eq!(bench.disk.len(), 2, "the write and the read");
}

#[test]
fn what_is_written_while_it_is_read_ahead_is_not_believed() {
    let mut bench = Bench::follower(&[9, 4]);
    bench.takes_over();
    let ahead = bench.disk.pop_front().expect("region 9 is on its way");
    bench.write(9 * REGION);
    bench.settle();
    bench.disk.push_back(ahead);
    bench.read_all_ahead();
    assert_eq!(bench.warm().held_bytes, REGION);
    // And what is being written when its turn comes is left out.
    let mut bench = Bench::follower(&[9]);
    bench.receive(Message::Write {
        seq: 1,
        offset: 9 * REGION,
        payload: Payload::copy_from(&[9; BLOCK as usize]),
        fua: false,
    });
    let id = bench.command(Command::WarmUp);
    assert!(bench.is_done(id, true) && bench.asked_of_disk().is_empty());
}

#[test]
fn a_peers_write_makes_a_secondary_forget_too() {
    let mut bench = Bench::follower(&[9, 4]);
    let id = bench.command(Command::WarmUp);
    assert!(!bench.is_done(id, true), "done when it is read");
    bench.read_all_ahead();
    assert!(bench.is_done(id, true));
    assert_eq!(bench.warm().held_bytes, 2 * REGION);
    bench.receive(Message::WriteZeroes {
        seq: 1,
        offset: 4 * REGION,
        len: u64::from(BLOCK),
        fua: false,
        unmap: false,
    });
    assert_eq!(bench.warm().held_bytes, REGION);
    bench.settle();
    bench.takes_over();
    bench.pass(MS);
    assert_eq!(bench.asked_of_disk(), [4], "the other one is there");
}

#[test]
fn an_error_of_the_disk_makes_everything_unknown_and_one_of_reading_ahead_nothing() {
    let mut bench = warm(&[9, 4]);
    bench.write(0);
    bench.settle_meta();
    bench.finish_disk(false);
    assert_eq!(bench.warm().held_bytes, 0);
    bench.settle();

    let mut bench = Bench::follower(&[9, 4]);
    bench.takes_over();
    bench.finish_disk(false);
    bench.read_all_ahead();
    assert_eq!(bench.warm().held_bytes, REGION);
    assert!(!bench.notices.contains(&"disk.error") && !bench.notices.contains(&"disk.detached"));
}

#[test]
fn a_disk_that_is_given_up_is_not_remembered() {
    let mut bench = Bench::follower_with(OnIoError::Detach, &[9, 4]);
    let id = bench.command(Command::WarmUp);
    bench.receive(Message::Flush { seq: 1 });
    let flush = bench.disk.iter().position(|(_, op)| matches!(op, DiskOp::Flush));
    let (token, _) = bench.disk.remove(flush.expect("a flush")).expect("it");
    bench.event(Event::DiskDone {
        token,
        result: Err(Errno::EIO),
    });
    bench.settle();
    bench.read_all_ahead();
    assert_eq!(bench.warm().held_bytes, 0);
    assert_eq!(bench.done.iter().filter(|(done, _)| *done == id).count(), 1);
}

#[test]
fn what_was_read_ahead_goes_after_a_minute() {
    let mut bench = warm(&[9]);
    bench.pass(50_000 * MS);
    assert_eq!(bench.warm().held_bytes, REGION);
    bench.pass(11_000 * MS);
    assert_eq!(bench.warm().held_bytes, 0);
}

#[test]
fn only_a_secondary_with_a_disk_is_warmed_up() {
    let mut bench = Bench::primary();
    let id = bench.command(Command::WarmUp);
    assert!(bench.is_done(id, false));
    let mut bench = Bench::follower(&[]);
    let id = bench.command(Command::WarmUp);
    assert!(bench.is_done(id, true), "nothing is hot");
    let mut bench = Bench::follower(&[9]);
    let id = bench.command(Command::WarmUp);
    let stop = bench.command(Command::Stop);
    for _ in 0..20 {
        bench.settle();
        bench.pass(MS);
    }
    assert!(bench.done.iter().any(|(done, _)| *done == id) && bench.is_done(stop, true));
}
