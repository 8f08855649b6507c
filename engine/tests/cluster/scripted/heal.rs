//! Reads that the disk cannot answer and the peer can, on both sides.

use super::*;

const OFFSET: u64 = 3 * BLOCK as u64 + 512;
const LEN: u32 = 1024;

fn read(bench: &mut Bench) -> RequestId {
    let (offset, len) = (OFFSET, LEN);
    bench.request(RequestKind::Read { offset, len })
}

/// A Primary whose disk failed a read, and that has asked its peer: the read, and the question's number.
fn asking(on_io_error: OnIoError) -> (Bench, RequestId, u64) {
    let mut bench = Bench::primary_with(on_io_error);
    let id = read(&mut bench);
    bench.finish_disk(false);
    let asked = bench.asked().expect("a question to the peer");
    (bench, id, asked)
}

impl Bench {
    /// The number of the one question that was sent: for the whole block around the read.
    fn asked(&mut self) -> Option<u64> {
        self.find(|message| match message {
            Message::ReadRequest { id, offset, len } => {
                assert_eq!((*offset, *len), (3 * u64::from(BLOCK), BLOCK));
                Some(*id)
            }
            _ => None,
        })
    }

    fn answer(&mut self, id: u64) {
        let bytes: Vec<u8> = (0..BLOCK).map(|i| (i / 512) as u8).collect();
        self.receive(Message::ReadData {
            id,
            offset: 3 * u64::from(BLOCK),
            payload: Payload::copy_from(&bytes),
        });
    }

    fn io(&self) -> IoCounters {
        self.replica.status(self.now).io
    }

    fn hangs(&self, id: RequestId) -> bool {
        self.replies.iter().all(|(replied, _)| *replied != id)
    }
}

#[test]
fn a_failed_read_is_answered_by_the_peer_and_mended_here() {
    for on_io_error in [OnIoError::Detach, OnIoError::PassOn] {
        let (mut bench, id, asked) = asking(on_io_error);
        assert!(bench.hangs(id));
        bench.answer(asked);
        assert_eq!(bench.replies, [(id, true)]);
        assert_eq!(bench.read[0].1[..], [[1; 512], [2; 512]].concat());
        // The log first, then the disk; a write that overlaps comes after both.
        assert!(bench.disk.is_empty());
        let write = bench.write(3 * u64::from(BLOCK));
        bench.meta_done(true);
        assert_eq!(bench.disk.len(), 1);
        assert_eq!(bench.io().healed_reads, 0);
        let op = bench.disk_done();
        assert!(matches!(op, DiskOp::Write { offset, fua: true, ref payload }
            if offset == 3 * u64::from(BLOCK) && payload.len() == BLOCK as usize));
        assert_eq!(
            (bench.io().healed_reads, bench.io().healed_bytes),
            (1, u64::from(BLOCK))
        );
        assert!(bench.notices.contains(&"disk.healed"));
        bench.settle();
        bench.receive(Message::Done { seq: 1, status: 0 });
        assert!(bench.replies.contains(&(write, true)));
        assert_eq!(bench.replica.status(bench.now).requests.in_flight, 0);
        assert_eq!(bench.replica.status(bench.now).requests.in_flight_bytes, 0);
    }
}

#[test]
fn the_question_goes_out_after_the_writes_that_overlap() {
    let mut bench = Bench::primary();
    let id = read(&mut bench);
    bench.write(3 * u64::from(BLOCK));
    bench.meta_done(true);
    bench.finish_disk(false);
    assert!(bench.asked().is_none(), "the write holds the range");
    bench.disk_done();
    let asked = bench.asked().expect("now it is free");
    bench.answer(asked);
    assert!(bench.replies.contains(&(id, true)));
}

#[test]
fn an_error_of_both_disks_is_the_applications() {
    let (mut bench, id, asked) = asking(OnIoError::Detach);
    bench.receive(Message::ReadFailed { id: asked, status: 5 });
    assert_eq!(bench.replies, [(id, false)]);
    let write = bench.write(3 * u64::from(BLOCK));
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    assert!(bench.replies.contains(&(write, true)), "the range is free again");
}

#[test]
fn a_peer_lost_before_its_answer_fails_the_read_and_after_it_nothing() {
    let (mut bench, id, _) = asking(OnIoError::Detach);
    bench.lose();
    assert_eq!(bench.replies, [(id, false)]);
    bench.settle();
    assert_eq!(bench.replica.status(bench.now).requests.in_flight, 0);

    let (mut bench, id, asked) = asking(OnIoError::Detach);
    bench.answer(asked);
    bench.lose();
    bench.settle();
    assert_eq!(bench.replies, [(id, true)]);
    assert_eq!(bench.io().healed_reads, 1);
}

#[test]
fn without_a_peer_in_step_the_error_is_passed_on() {
    let mut alone = Bench::primary_with(OnIoError::Detach);
    alone.lose();
    let mut leaving = Bench::primary_with(OnIoError::Detach);
    leaving.command(Command::Disconnect { peer: 0 });
    for mut bench in [alone, leaving, resyncing()] {
        bench.settle();
        bench.sent.clear();
        let id = read(&mut bench);
        while bench.hangs(id) {
            bench.finish_disk(false);
        }
        assert!(bench.replies.contains(&(id, false)));
        assert!(bench.asked().is_none());
    }
}

#[test]
fn a_block_that_cannot_be_mended_is_marked() {
    let (mut bench, id, asked) = asking(OnIoError::PassOn);
    bench.answer(asked);
    bench.meta_done(true);
    bench.finish_disk(false);
    assert_eq!(
        bench.replies,
        [(id, true)],
        "the application has its data all the same"
    );
    let status = bench.replica.status(bench.now);
    assert_eq!((status.io.healed_reads, status.disk), (0, DiskState::UpToDate));
    assert_eq!(status.peers[0].out_of_sync_bytes, u64::from(BLOCK));
    assert_eq!(status.peers[0].suspect_bytes, EXTENT_BYTES);
}

#[test]
fn a_demote_waits_until_the_block_is_mended() {
    let (mut bench, _, asked) = asking(OnIoError::Detach);
    bench.answer(asked);
    let demote = bench.command(Command::Demote);
    assert!(bench.sent.iter().all(|m| !matches!(m, Message::Flush { .. })));
    bench.meta_done(true);
    bench.disk_done();
    bench.disk_done();
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.settle();
    assert!(bench.is_done(demote, true));
}

#[test]
fn answers_that_were_not_asked_for_end_the_connection() {
    let wrong = |id, offset, len: u32| Message::ReadData {
        id,
        offset,
        payload: Payload::copy_from(&vec![1; len as usize]),
    };
    let (_, _, asked) = asking(OnIoError::Detach);
    let start = 3 * u64::from(BLOCK);
    for message in [
        wrong(asked + 1, start, BLOCK),
        wrong(asked, start + 512, BLOCK),
        wrong(asked, start, BLOCK / 2),
        Message::ReadFailed { id: 77, status: 5 },
    ] {
        let (mut bench, id, _) = asking(OnIoError::Detach);
        bench.receive(message);
        assert_eq!(bench.replication(), "Off");
        assert_eq!(bench.replies, [(id, false)]);
        assert!(bench.disk.is_empty());
    }
}

#[test]
fn a_peers_read_is_answered_after_the_writes_before_it() {
    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    let payload = Payload::copy_from(&[1; BLOCK as usize]);
    let (seq, offset, fua) = (1, 0, false);
    bench.receive(Message::Write {
        seq,
        offset,
        payload,
        fua,
    });
    let (id, len) = (9, BLOCK);
    bench.receive(Message::ReadRequest { id, offset, len });
    bench.receive(Message::ReadRequest {
        id: 10,
        offset: SIZE - 512,
        len: 512,
    });
    assert!(matches!(bench.disk_done(), DiskOp::Write { .. }));
    assert!(matches!(bench.finish_disk(false), DiskOp::Read { len: 512, .. }));
    assert!(matches!(bench.disk_done(), DiskOp::Read { len: BLOCK, .. }));
    let answers: Vec<_> = bench.sent.drain(..).collect();
    assert!(answers.contains(&Message::ReadFailed { id: 10, status: 5 }));
    let (id, payload) = (9, Payload::copy_from(&[1; BLOCK as usize]));
    assert!(answers.contains(&Message::ReadData { id, offset, payload }));
    // A read error tells nothing about the rest of the copy.
    assert_eq!(bench.replica.status(bench.now).disk, DiskState::UpToDate);
    bench.receive(Message::ReadRequest {
        id: 11,
        offset: SIZE - 512,
        len: 1024,
    });
    assert_eq!(bench.replication(), "Off");
}

#[test]
fn a_peers_reads_are_bounded_and_only_a_copy_answers_them() {
    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    let mut asked = 0;
    while bench.replica.accepts_messages(0) {
        asked += 1;
        bench.receive(Message::ReadRequest {
            id: asked,
            offset: 0,
            len: 1 << 20,
        });
        assert!(asked <= IN_FLIGHT_BYTES_MAX >> 20, "no bound to a peer's reads");
    }
    bench.settle();
    assert!(bench.replica.accepts_messages(0));
    // In the middle of becoming a copy.
    let mut bench = Bench::target(OnIoError::PassOn);
    bench.receive(Message::ReadRequest {
        id: 1,
        offset: 0,
        len: BLOCK,
    });
    assert_eq!(bench.replication(), "Off");
}
