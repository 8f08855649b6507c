//! Disks and metadata that fail: who gives up, who goes on, and what is remembered.

use super::*;
use _engine::meta::next_copy;
use _engine::wire::GoodbyeReason;

/// In step with its Primary.
fn secondary(on_io_error: OnIoError) -> Bench {
    let mut bench = Bench::with(superblock(5), false, on_io_error);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    bench.sent.clear();
    bench
}

/// Target of a resync, with one chunk of data under way to its disk.
fn target(on_io_error: OnIoError) -> Bench {
    let mut bench = Bench::target(on_io_error);
    bench.receive(Message::ResyncStart { blocks: 64 });
    let payload = Payload::copy_from(&vec![1; 256 << 10]);
    let (id, offset) = (1, 0);
    bench.receive(Message::ChunkWhole { id, offset, payload });
    bench.sent.clear();
    bench
}

impl Bench {
    fn disk_state(&self) -> DiskState {
        self.replica.status(self.now).disk
    }

    fn receive_write(&mut self, seq: u64, fua: bool) {
        let payload = Payload::copy_from(&[1; BLOCK as usize]);
        let offset = 0;
        self.receive(Message::Write {
            seq,
            offset,
            payload,
            fua,
        });
    }

    /// The superblock that is on its way to the metadata.
    fn pending_superblock(&self) -> Option<Superblock> {
        let (_, writes) = self.meta.back()?;
        Superblock::decode(&writes[0].bytes).ok()
    }

    fn said_diskless(&mut self) -> bool {
        self.find(|message| match message {
            Message::Goodbye { reason, .. } => Some(*reason == GoodbyeReason::Diskless),
            _ => None,
        })
        .unwrap_or(false)
    }
}

fn assert_gave_up(bench: &mut Bench) {
    let marked = bench.pending_superblock().expect("a last superblock");
    assert_eq!(marked.disk, DiskState::Inconsistent);
    assert!(!marked.role_primary && !marked.last_primary && !marked.clean);
    assert_diskless(bench);
}

fn assert_diskless(bench: &mut Bench) {
    assert!(bench.said_diskless());
    assert_eq!(bench.disk_state(), DiskState::Diskless);
    let status = bench.replica.status(bench.now);
    assert_eq!(status.peers[0].connection, "StandAlone");
    assert!(status.disk_error.is_some());
    // Whatever becomes of that write, nothing follows it.
    bench.settle();
    bench.pass(10_000 * MS);
    assert!(bench.meta.is_empty() && bench.disk.is_empty());
    let connect = bench.command(Command::Connect { peer: 0 });
    let promote = bench.command(Command::Promote { force: true });
    assert!(bench.is_done(connect, false) && bench.is_done(promote, false));
    // The other side asks again and again, and hears the same.
    bench.open();
    assert!(bench.said_diskless());
    let demote = bench.command(Command::Demote);
    let stop = bench.command(Command::Stop);
    assert!(bench.is_done(demote, true) && bench.is_done(stop, true));
    assert!(bench.meta.is_empty() && bench.disk.is_empty());
}

#[test]
fn a_secondary_gives_its_disk_up_for_a_failed_write() {
    for fua in [false, true] {
        let mut bench = secondary(OnIoError::Detach);
        bench.receive_write(1, fua);
        bench.finish_disk(false);
        assert!(bench.sent.iter().all(|m| !matches!(m, Message::Done { .. })));
        assert_gave_up(&mut bench);
    }
}

#[test]
fn a_secondary_gives_its_disk_up_for_a_failed_flush() {
    let mut bench = secondary(OnIoError::Detach);
    bench.receive_write(1, false);
    bench.disk_done();
    bench.receive(Message::Flush { seq: 2 });
    bench.finish_disk(false);
    assert_gave_up(&mut bench);
}

#[test]
fn a_target_gives_its_disk_up_for_a_failed_write_or_last_flush() {
    let mut bench = target(OnIoError::Detach);
    bench.finish_disk(false);
    assert_gave_up(&mut bench);
    let mut bench = target(OnIoError::Detach);
    bench.disk_done();
    bench.receive(Message::ResyncEnd {
        current: 6,
        history: [0; 8],
        resource_id: ID,
    });
    assert_eq!(bench.finish_disk(false), DiskOp::Flush);
    assert_gave_up(&mut bench);
}

#[test]
fn metadata_that_fail_are_given_up_whatever_the_policy_for_data() {
    for on_io_error in [OnIoError::Detach, OnIoError::PassOn] {
        let mut bench = secondary(on_io_error);
        // Something to save: the permission to be Primary.
        bench.receive(Message::PromoteRequest);
        let torn = bench.pending_superblock().expect("a permission").sequence;
        bench.meta_done(false);
        // One of the two copies may be torn by now: that one is written again, not the other.
        let again = bench.pending_superblock().expect("a last superblock").sequence;
        assert_eq!(next_copy(again), next_copy(torn));
        assert_gave_up(&mut bench);
    }
}

#[test]
fn metadata_that_fail_under_the_only_good_copy_do_not_make_it_inconsistent() {
    let mut bench = Bench::primary_with(OnIoError::Detach);
    bench.lose();
    let write = bench.write(0);
    bench.meta_done(false);
    assert!(bench.replies.contains(&(write, false)));
    assert_eq!(bench.disk_state(), DiskState::Diskless);
    let saved: Vec<_> = (bench.meta.iter())
        .filter_map(|(_, writes)| Superblock::decode(&writes[0].bytes).ok())
        .collect();
    assert!(saved.iter().all(|s| s.disk == DiskState::UpToDate));
    let demote = bench.command(Command::Demote);
    while !bench.disk.is_empty() {
        bench.disk_done();
    }
    assert!(bench.is_done(demote, true) && !bench.exported);
}

#[test]
fn with_pass_on_the_primary_hears_of_the_failed_write_and_the_disk_stays() {
    let mut bench = secondary(OnIoError::PassOn);
    bench.receive_write(1, false);
    bench.finish_disk(false);
    assert_eq!(bench.disk_state(), DiskState::Inconsistent);
    let status = bench.find(|message| match message {
        Message::Done { status, .. } => Some(*status),
        _ => None,
    });
    assert_eq!(status, Some(libc_eio()));
}

fn libc_eio() -> u16 {
    Errno::EIO.0 as u16
}

#[test]
fn the_error_of_a_disk_that_no_other_node_stands_in_for_costs_no_detach() {
    // Both Secondary: which copy is needed next is not known.
    let mut bench = Bench::with(superblock(5), false, OnIoError::Detach);
    bench.handshake(state(Role::Secondary, 5));
    bench.settle();
    let stop = bench.command(Command::Stop);
    assert_eq!(bench.finish_disk(false), DiskOp::Flush);
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.settle();
    assert!(bench.is_done(stop, true));
    assert_ne!(bench.disk_state(), DiskState::Diskless);
    // A source cannot read: it is the good copy all the same.
    let mut bench = resyncing();
    bench.settle_meta();
    assert!(matches!(bench.finish_disk(false), DiskOp::Read { .. }));
    assert_eq!(bench.disk_state(), DiskState::UpToDate);
}

#[test]
fn a_primary_goes_on_without_a_diskless_peer_and_takes_it_back_by_itself() {
    let mut bench = Bench::primary_with(OnIoError::Detach);
    let first = bench.write(0);
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    assert!(bench.replies.contains(&(first, true)));
    let second = bench.write(u64::from(BLOCK));
    bench.receive(Message::Goodbye {
        reason: GoodbyeReason::Diskless,
        text: "b has no usable disk".into(),
    });
    bench.settle();
    assert!(bench.replies.contains(&(second, true)));
    let peer = &bench.replica.status(bench.now).peers[0];
    assert_eq!(
        (peer.connection, peer.disk),
        ("Connecting", Some(DiskState::Diskless))
    );
    assert_eq!(
        peer.refusal.as_ref().map(|r| r.reason),
        Some(GoodbyeReason::Diskless)
    );
    // Never confirmed, and confirmed but not flushed.
    assert_eq!(peer.out_of_sync_bytes, u64::from(BLOCK));
    assert_eq!(peer.suspect_bytes, EXTENT_BYTES);
    for _ in 0..20 {
        let dials = bench.dials;
        bench.pass(2_000 * MS);
        assert_eq!(bench.dials, dials + 1, "it is asked again, without end");
        bench.open();
        bench.receive(Message::Goodbye {
            reason: GoodbyeReason::Diskless,
            text: "b has no usable disk".into(),
        });
    }
    bench.pass(2_000 * MS);
    let mut mended = state(Role::Secondary, 5);
    mended.disk = DiskState::Inconsistent;
    bench.handshake(mended);
    assert_eq!(bench.replication(), "SyncSource");
    let peer = &bench.replica.status(bench.now).peers[0];
    assert_eq!(peer.out_of_sync_bytes, EXTENT_BYTES);
    assert!(peer.refusal.is_none());
}
