//! A Primary that gave its disk up and goes on through its peer, and the peer that stands in, event by event.

use super::*;
use _engine::wire::GoodbyeReason;

/// A Primary whose first local write failed, before its superblock says anything: the write.
fn detaching() -> (Bench, RequestId) {
    let mut bench = Bench::primary_with(OnIoError::Detach);
    let write = bench.write(0);
    bench.meta_done(true);
    bench.sent.clear();
    bench.finish_disk(false);
    (bench, write)
}

/// One whose peer stands in.
fn served() -> Bench {
    let (mut bench, _) = detaching();
    bench.meta_done(true);
    bench.receive(Message::DetachedOk);
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.settle();
    bench.sent.clear();
    bench.replies.clear();
    bench
}

/// A Secondary that stands in for its Primary.
fn standing_in() -> Bench {
    let mut bench = Bench::with(superblock(5), false, OnIoError::Detach);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    bench.receive(Message::Detached);
    bench.settle();
    assert!(bench.said(&Message::DetachedOk));
    bench.sent.clear();
    bench
}

impl Bench {
    fn said(&self, message: &Message) -> bool {
        self.sent.contains(message)
    }

    fn served_by(&self) -> Option<String> {
        self.replica.status(self.now).served_by
    }

    fn read_at(&mut self, offset: u64) -> RequestId {
        let len = BLOCK;
        self.request(RequestKind::Read { offset, len })
    }

    /// The number of the oldest flush that was sent and not looked at yet.
    fn flush_sent(&mut self) -> Option<u64> {
        self.find(|message| match message {
            Message::Flush { seq } => Some(*seq),
            _ => None,
        })
    }

    fn served_write(&mut self, seq: u64, offset: u64, fua: bool) {
        let payload = Payload::copy_from(&[2; BLOCK as usize]);
        self.receive(Message::Write {
            seq,
            offset,
            payload,
            fua,
        });
    }

    fn answers(&mut self) -> Vec<(u64, u16)> {
        let answers = self.sent.drain(..).filter_map(|message| match message {
            Message::Done { seq, status } => Some((seq, status)),
            _ => None,
        });
        answers.collect()
    }

    fn pending(&self) -> Option<Superblock> {
        let (_, writes) = self.meta.back()?;
        Superblock::decode(&writes[0].bytes).ok()
    }
}

#[test]
fn its_own_superblock_comes_first_then_the_peer_and_nothing_is_acknowledged_in_between() {
    let (mut bench, write) = detaching();
    let stale = bench.pending().expect("the superblock");
    assert_eq!(stale.disk, DiskState::Inconsistent);
    assert!(!stale.role_primary && !stale.last_primary && !stale.clean);
    assert_eq!(bench.served_by().as_deref(), Some("b"));
    assert!(!bench.said(&Message::Detached));
    // The peer has it already: still nothing.
    bench.receive(Message::Done { seq: 1, status: 0 });
    let flush = bench.request(RequestKind::Flush);
    let second = bench.write(u64::from(BLOCK));
    assert!(bench.disk.is_empty() && bench.replies.is_empty());
    bench.meta_done(true);
    assert!(bench.said(&Message::Detached));
    assert!(bench.replies.is_empty());
    bench.sent.clear();
    bench.receive(Message::DetachedOk);
    assert_eq!(bench.replies, [(write, true)]);
    assert_eq!(bench.flush_sent(), Some(2));
    bench.receive(Message::Done { seq: 2, status: 0 });
    bench.receive(Message::Done { seq: 3, status: 0 });
    assert_eq!(bench.replies, [(write, true), (flush, true), (second, true)]);
    assert!(bench.disk.is_empty() && bench.meta.is_empty());
}

#[test]
fn a_superblock_that_cannot_be_written_does_not_keep_the_peer_waiting() {
    let (mut bench, write) = detaching();
    bench.meta_done(false);
    assert!(bench.said(&Message::Detached));
    bench.receive(Message::DetachedOk);
    bench.receive(Message::Done { seq: 1, status: 0 });
    assert_eq!(bench.replies, [(write, true)]);
}

#[test]
fn a_failed_flush_log_write_or_mended_read_detaches_too() {
    // A flush: the application's own, and it succeeds.
    let mut bench = Bench::primary_with(OnIoError::Detach);
    let flush = bench.request(RequestKind::Flush);
    assert_eq!(bench.finish_disk(false), DiskOp::Flush);
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.meta_done(true);
    assert!(bench.replies.is_empty());
    bench.receive(Message::DetachedOk);
    assert_eq!(bench.replies, [(flush, true)]);

    // The write-intent log: the write goes to the peer alone. Also with pass-on.
    for on_io_error in [OnIoError::Detach, OnIoError::PassOn] {
        let mut bench = Bench::primary_with(on_io_error);
        let write = bench.write(0);
        bench.meta_done(false);
        bench.meta_done(true);
        assert!(bench.said(&Message::Detached) && bench.disk.is_empty());
        bench.receive(Message::DetachedOk);
        assert!(bench.disk.is_empty());
        bench.receive(Message::Done { seq: 1, status: 0 });
        assert_eq!(bench.replies, [(write, true)]);
    }

    // A block that cannot be mended.
    let mut bench = Bench::primary_with(OnIoError::Detach);
    let read = bench.read_at(0);
    bench.finish_disk(false);
    let (id, offset) = (0, 0);
    let payload = Payload::copy_from(&[3; BLOCK as usize]);
    bench.receive(Message::ReadData { id, offset, payload });
    bench.meta_done(true);
    bench.finish_disk(false);
    bench.meta_done(true);
    assert!(bench.said(&Message::Detached));
    assert_eq!(bench.replies, [(read, true)]);
}

#[test]
fn a_write_acknowledged_early_by_the_protocol_waits_for_the_stand_in() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut bench = Bench::with_protocol(protocol);
        let write = bench.write(0);
        bench.meta_done(true);
        bench.receive(Message::Received { seq: 1 });
        bench.finish_disk(false);
        bench.meta_done(true);
        bench.receive(Message::DetachedOk);
        assert!(bench.replies.is_empty(), "{protocol:?}: no disk has it");
        bench.receive(Message::Done { seq: 1, status: 0 });
        assert_eq!(bench.replies, [(write, true)]);
        // And so do those that follow.
        let write = bench.write(0);
        bench.receive(Message::Received { seq: 2 });
        assert_eq!(bench.replies.len(), 1);
        bench.receive(Message::Done { seq: 2, status: 0 });
        assert_eq!(bench.replies[1], (write, true));
    }
}

#[test]
fn reads_go_to_the_stand_in_from_the_first_moment() {
    let mut bench = Bench::primary_with(OnIoError::Detach);
    let early = bench.read_at(u64::from(BLOCK) * 8);
    bench.write(0);
    bench.meta_done(true);
    bench.disk.rotate_left(1);
    bench.finish_disk(false);
    // What the disk says now may be older than what was acknowledged.
    bench.sent.clear();
    assert!(matches!(bench.disk_done(), DiskOp::Read { .. }));
    let late = bench.read_at(u64::from(BLOCK) * 9);
    assert!(bench.disk.is_empty() && bench.replies.is_empty());
    for (read, block) in [(early, 8), (late, 9)] {
        let offset = u64::from(BLOCK) * block;
        let id = (bench.sent.iter())
            .find_map(|message| match message {
                Message::ReadRequest {
                    id,
                    offset: o,
                    len: BLOCK,
                } if *o == offset => Some(*id),
                _ => None,
            })
            .expect("the peer is asked");
        let payload = Payload::copy_from(&[3; BLOCK as usize]);
        bench.receive(Message::ReadData { id, offset, payload });
        assert!(bench.replies.contains(&(read, true)));
    }
    bench.settle();
    let io = bench.replica.status(bench.now).io;
    assert_eq!(io.healed_reads, 0);
}

#[test]
fn a_stand_in_that_is_lost_fails_everything_before_anything_is_settled() {
    for accepted in [false, true] {
        let (mut bench, write) = detaching();
        bench.meta_done(true);
        if accepted {
            bench.receive(Message::DetachedOk);
        }
        let second = bench.write(u64::from(BLOCK));
        let flush = bench.request(RequestKind::Flush);
        let read = bench.read_at(0);
        bench.lose();
        let mut replies = bench.replies.clone();
        replies.sort();
        assert_eq!(
            replies,
            [(write, false), (second, false), (flush, false), (read, false)]
        );
        assert_eq!(bench.replica.status(bench.now).requests.in_flight, 0);
        let dials = bench.dials;
        for _ in 0..3 {
            bench.pass(5_000 * MS);
        }
        assert_eq!(bench.dials, dials);
        let status = bench.replica.status(bench.now);
        let refusal = status.peers[0].refusal.as_ref().map(|refusal| refusal.reason);
        assert_eq!(refusal, Some(GoodbyeReason::Diskless));
        let late = bench.write(0);
        assert!(bench.replies.contains(&(late, false)));
        assert!(bench.meta.is_empty() && bench.disk.is_empty());
        let demote = bench.command(Command::Demote);
        assert!(bench.is_done(demote, true) && !bench.exported);
    }
}

#[test]
fn an_error_of_the_stand_in_is_the_applications_and_ends_nothing() {
    let mut bench = served();
    let write = bench.write(0);
    bench.receive(Message::Done { seq: 2, status: 28 });
    assert_eq!(bench.replies, [(write, false)]);
    // One failed flush fails all that are under way: the kernel tells one of them.
    let flushes = [(); 3].map(|()| bench.request(RequestKind::Flush));
    bench.receive(Message::Done { seq: 4, status: 5 });
    for seq in [3, 5] {
        bench.receive(Message::Done { seq, status: 0 });
    }
    for flush in flushes {
        assert!(bench.replies.contains(&(flush, false)));
    }
    let flush = bench.request(RequestKind::Flush);
    bench.receive(Message::Done { seq: 6, status: 0 });
    assert!(bench.replies.contains(&(flush, true)));
    assert_eq!(bench.replication(), "Established");
    assert_eq!(bench.served_by().as_deref(), Some("b"));
}

#[test]
fn a_write_that_was_acknowledged_early_and_is_lost_there_fails_the_next_flush() {
    let mut bench = Bench::with_protocol(Protocol::A);
    let early = bench.write(0);
    bench.meta_done(true);
    bench.disk_done();
    assert_eq!(bench.replies, [(early, true)]);
    bench.write(u64::from(BLOCK));
    bench.finish_disk(false);
    bench.meta_done(true);
    bench.receive(Message::DetachedOk);
    bench.receive(Message::Done { seq: 1, status: 5 });
    let flush = bench.request(RequestKind::Flush);
    bench.receive(Message::Done { seq: 2, status: 0 });
    bench.receive(Message::Done { seq: 3, status: 0 });
    assert!(bench.replies.contains(&(flush, false)));
}

#[test]
fn a_demote_needs_the_stand_ins_flush_and_no_metadata() {
    let mut bench = served();
    let disconnect = bench.command(Command::Disconnect { peer: 0 });
    assert!(bench.is_done(disconnect, false), "all I/O would fail");
    let demote = bench.command(Command::Demote);
    assert_eq!(bench.flush_sent(), Some(2));
    assert!(bench.disk.is_empty() && bench.meta.is_empty());
    bench.receive(Message::Done { seq: 2, status: 5 });
    assert!(bench.is_done(demote, false) && bench.exported);
    let demote = bench.command(Command::Demote);
    bench.receive(Message::Done { seq: 3, status: 0 });
    assert!(bench.is_done(demote, true) && !bench.exported);
    let told = bench.sent.iter().any(|message| match message {
        Message::Goodbye { reason, .. } => *reason == GoodbyeReason::Diskless,
        _ => false,
    });
    assert!(told && bench.meta.is_empty());
    assert_eq!(bench.served_by(), None);
    assert_eq!(bench.replica.status(bench.now).disk, DiskState::Diskless);
}

#[test]
fn a_stop_while_served_leaves_the_write_intent_log() {
    let mut bench = served();
    let hot = bench.replica.status(bench.now).hot_extents;
    let stop = bench.command(Command::Stop);
    bench.receive(Message::Done { seq: 2, status: 0 });
    assert!(bench.is_done(stop, true));
    assert!(hot > 0 && bench.meta.is_empty() && bench.disk.is_empty());
    assert_eq!(bench.replica.status(bench.now).hot_extents, hot);
}

#[test]
fn a_detach_under_a_demote_or_a_mended_read_lets_both_end() {
    let mut bench = Bench::primary_with(OnIoError::Detach);
    let demote = bench.command(Command::Demote);
    assert_eq!(bench.finish_disk(false), DiskOp::Flush);
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.meta_done(true);
    bench.receive(Message::DetachedOk);
    assert!(bench.is_done(demote, true) && bench.meta.is_empty());
}

#[test]
fn a_peer_without_a_disk_of_its_own_makes_this_copy_the_better_one() {
    for told_first in [false, true] {
        let (mut bench, write) = detaching();
        if told_first {
            bench.meta_done(true);
        }
        bench.receive(Message::Goodbye {
            reason: GoodbyeReason::Diskless,
            text: "b has no usable disk".into(),
        });
        assert_eq!(bench.replies, [(write, false)]);
        if !told_first {
            bench.meta_done(true);
        }
        let back = bench.pending().expect("the superblock as it was");
        assert_eq!(back.disk, DiskState::UpToDate);
        assert!(back.role_primary && back.last_primary && !back.clean);
        assert_eq!(bench.replica.status(bench.now).disk, DiskState::Diskless);
    }
}

#[test]
fn the_stand_in_is_ahead_durably_before_it_says_so() {
    let mut bench = Bench::with(superblock(5), false, OnIoError::Detach);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    bench.sent.clear();
    bench.receive(Message::Detached);
    let ahead = bench.pending().expect("a superblock");
    assert_ne!(ahead.current, 5);
    assert_eq!((ahead.history[0], ahead.peers[0].bitmap_generation), (5, 5));
    assert!(ahead.last_primary && !ahead.role_primary && ahead.disk == DiskState::UpToDate);
    assert!(!bench.said(&Message::DetachedOk));
    bench.meta_done(true);
    assert!(bench.said(&Message::DetachedOk));
    let peer = &bench.replica.status(bench.now).peers[0];
    assert_eq!(
        (peer.disk, peer.replication),
        (Some(DiskState::Diskless), "Established")
    );
    // The other one announces itself: it is not the one that is ahead.
    let mut other = state(Role::Primary, 5);
    (other.handshake, other.disk) = (false, DiskState::Diskless);
    bench.receive(Message::State(other));
    assert!(bench.meta.is_empty());
    // And lost, it leaves a node that needs no force, and that keeps what it has.
    bench.lose();
    assert_eq!(bench.disk_done(), DiskOp::Flush);
    let promote = bench.command(Command::Promote { force: false });
    bench.settle();
    assert!(bench.is_done(promote, true));
}

#[test]
fn the_stand_in_logs_and_marks_what_the_other_one_lacks_before_its_disk_is_touched() {
    let mut bench = standing_in();
    bench.served_write(1, 0, false);
    assert!(bench.disk.is_empty());
    bench.meta_done(true);
    assert_eq!(bench.disk.len(), 1);
    let marked = |bench: &Bench| bench.replica.status(bench.now).peers[0].out_of_sync_bytes;
    assert_eq!(marked(&bench), u64::from(BLOCK));
    bench.disk_done();
    assert_eq!(bench.answers(), [(1, 0)]);
    // Cut off while one waits for the log: it is written and marked, or neither.
    bench.served_write(2, EXTENT_BYTES, false);
    bench.lose();
    bench.settle();
    assert_eq!(marked(&bench), 2 * u64::from(BLOCK));
}

#[test]
fn the_stand_in_stays_a_good_copy_whatever_its_disk_says() {
    let mut bench = Bench::with(superblock(5), false, OnIoError::Detach);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    // Sent before, failed after.
    bench.served_write(1, 0, false);
    bench.receive(Message::Detached);
    bench.meta_done(true);
    bench.sent.clear();
    bench.finish_disk(false);
    assert_eq!(bench.answers(), [(1, 5)]);
    bench.served_write(2, 0, true);
    bench.meta_done(true);
    bench.finish_disk(false);
    // The flush in it may have taken the error of another.
    bench.receive(Message::Flush { seq: 3 });
    bench.disk_done();
    bench.receive(Message::Flush { seq: 4 });
    bench.finish_disk(false);
    bench.receive(Message::Flush { seq: 5 });
    bench.disk_done();
    assert_eq!(bench.answers(), [(2, 5), (3, 5), (4, 5), (5, 0)]);
    assert_eq!(bench.replica.status(bench.now).disk, DiskState::UpToDate);
    assert_eq!(bench.replication(), "Established");
    // Also when the other one has gone meanwhile.
    bench.served_write(6, 0, false);
    bench.lose();
    bench.finish_disk(false);
    assert_eq!(bench.replica.status(bench.now).disk, DiskState::UpToDate);
}

#[test]
fn an_error_of_the_stand_ins_own_flush_is_kept_for_the_others() {
    let mut bench = standing_in();
    bench.served_write(1, 0, false);
    bench.settle();
    // Its log is cleaned in the second cycle after the write.
    while bench.disk.is_empty() {
        bench.pass(1_000 * MS);
        bench.receive(Message::Ping { sent_ns: 1 });
    }
    assert_eq!(bench.finish_disk(false), DiskOp::Flush);
    bench.sent.clear();
    bench.receive(Message::Flush { seq: 2 });
    bench.disk_done();
    bench.receive(Message::Flush { seq: 3 });
    bench.disk_done();
    assert_eq!(bench.answers(), [(2, 5), (3, 0)]);
    assert_eq!(bench.replica.status(bench.now).disk, DiskState::UpToDate);
}

#[test]
fn a_stand_in_whose_metadata_fail_goes_without_calling_its_copy_stale() {
    let mut bench = standing_in();
    bench.served_write(1, 0, false);
    bench.meta_done(false);
    assert!(bench.meta.is_empty());
    let reason = bench.find(|message| match message {
        Message::Goodbye { reason, .. } => Some(*reason),
        _ => None,
    });
    // Diskless would mean that the other one's copy is the better.
    assert_eq!(reason, Some(GoodbyeReason::Busy));
    assert_eq!(bench.replica.status(bench.now).disk, DiskState::Diskless);
}

#[test]
fn only_a_follower_with_a_good_copy_stands_in() {
    let mut both_secondary = Bench::with(superblock(5), false, OnIoError::Detach);
    both_secondary.handshake(state(Role::Secondary, 5));
    let mut holed = Bench::with(superblock(5), false, OnIoError::PassOn);
    holed.handshake(state(Role::Primary, 5));
    holed.settle();
    holed.served_write(1, 0, false);
    holed.finish_disk(false);
    let mut stopping = Bench::with(superblock(5), false, OnIoError::Detach);
    stopping.handshake(state(Role::Primary, 5));
    stopping.settle();
    stopping.command(Command::Stop);
    for mut bench in [both_secondary, holed, stopping] {
        bench.receive(Message::Detached);
        bench.settle();
        assert!(!bench.said(&Message::DetachedOk));
        assert_eq!(bench.replication(), "Off");
        assert_eq!(bench.replica.status(bench.now).generation.history.len(), 0);
    }
    // Nor is a Primary served that asked nobody.
    let mut bench = Bench::primary_with(OnIoError::Detach);
    bench.receive(Message::DetachedOk);
    assert_eq!(bench.replication(), "Off");
}

#[test]
fn a_stand_in_does_not_let_go_and_is_not_promoted_beside_its_primary() {
    let mut bench = standing_in();
    let disconnect = bench.command(Command::Disconnect { peer: 0 });
    assert!(bench.is_done(disconnect, false));
    let promote = bench.command(Command::Promote { force: true });
    bench.receive(Message::PromoteReply { allowed: false });
    assert!(bench.is_done(promote, false) && !bench.exported);
}

#[test]
fn a_mended_disk_is_resynced_by_what_both_have_marked() {
    let mut bench = standing_in();
    bench.served_write(1, 0, false);
    bench.settle();
    bench.lose();
    bench.pass(2_000 * MS);
    let mut mended = state(Role::Secondary, 5);
    (mended.disk, mended.suspect_extents) = (DiskState::Inconsistent, 1);
    bench.handshake(mended);
    assert_eq!(bench.replication(), "SyncSource");
    let peer = &bench.replica.status(bench.now).peers[0];
    assert_eq!(
        (peer.rule, peer.out_of_sync_bytes),
        (Some("self-ahead"), u64::from(BLOCK))
    );
}

#[test]
fn metadata_that_missed_the_stand_in_do_not_go_on_alone() {
    // They come back to life, and still call this node the last Primary.
    for (stale_generation, stale) in [(5, true), (4, false)] {
        let mut superblock = superblock(5);
        (superblock.role_primary, superblock.last_primary, superblock.clean) = (true, true, false);
        let setup = Setup {
            stale_generation,
            ..SETUP
        };
        let mut bench = Bench::made(superblock, true, setup);
        bench.pass(6_000 * MS);
        bench.settle();
        assert_eq!(bench.exported, !stale);
        if stale {
            let promote = bench.command(Command::Promote { force: false });
            assert!(bench.is_done(promote, false));
            let mut ahead = state(Role::Secondary, 6);
            (ahead.generations.bitmap, ahead.last_primary) = (5, true);
            bench.handshake(ahead);
            assert_eq!(bench.replication(), "SyncTarget");
        }
    }
}

/// Lost an acknowledged write while alone, and in step again with a peer that never had it.
fn lost_a_write_alone() -> Bench {
    let mut bench = Bench::primary_with(OnIoError::Detach);
    bench.lose();
    bench.settle();
    let lost = bench.write(0);
    bench.settle();
    assert!(bench.replies.contains(&(lost, true)));
    // A flush of the node's own has the error that the application's would have had.
    while bench.disk.is_empty() {
        bench.pass(1_000 * MS);
    }
    assert_eq!(bench.finish_disk(false), DiskOp::Flush);
    bench.settle();
    bench.handshake(state(Role::Secondary, 5));
    let (runs, last) = (Vec::new(), true);
    bench.receive(Message::BitmapRuns { runs, last });
    while bench.replication() != "Established" {
        bench.settle();
        match bench.sent.pop_front().expect("the resync goes on") {
            Message::ChunkHash { id, .. } => bench.receive(Message::ChunkSame { id }),
            Message::ResyncEnd { current, .. } => bench.receive(Message::ResyncEnded { current }),
            _ => {}
        }
    }
    bench
}

#[test]
fn what_was_lost_while_alone_fails_the_next_flush_whoever_stands_in_by_then() {
    // Asked for after the detach; and before, with this node's part of it done before or after.
    for (early, done) in [(false, false), (true, true), (true, false)] {
        let mut bench = lost_a_write_alone();
        bench.write(u64::from(BLOCK));
        bench.settle_meta();
        let before = early.then(|| bench.request(RequestKind::Flush));
        if done {
            bench.disk.rotate_left(1);
            assert_eq!(bench.disk_done(), DiskOp::Flush);
        }
        bench.finish_disk(false);
        bench.settle();
        bench.receive(Message::DetachedOk);
        let flush = before.unwrap_or_else(|| bench.request(RequestKind::Flush));
        for seq in [1, 2] {
            bench.receive(Message::Done { seq, status: 0 });
        }
        assert!(
            bench.replies.contains(&(flush, false)),
            "never told: {early} {done}"
        );
        let flush = bench.request(RequestKind::Flush);
        bench.receive(Message::Done { seq: 3, status: 0 });
        assert!(bench.replies.contains(&(flush, true)), "told twice");
    }
}

#[test]
fn a_copy_with_a_hole_says_that_the_other_one_is_better() {
    // Its disk fails a write, and before the Primary hears of it, the Primary's metadata fail.
    let mut bench = Bench::with(superblock(5), false, OnIoError::PassOn);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    bench.served_write(1, 0, false);
    bench.finish_disk(false);
    bench.settle();
    bench.receive(Message::Detached);
    let reason = bench.find(|message| match message {
        Message::Goodbye { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, Some(GoodbyeReason::Diskless));
}
