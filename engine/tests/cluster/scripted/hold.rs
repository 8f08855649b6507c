//! A range that is held for a decision between an array's copies: the order that makes it safe, and its bounds.

use _engine::wire::BlockRun;

use super::*;

const AT: u64 = 4 * BLOCK as u64;
const LEN: u64 = 4 * BLOCK as u64;

impl Bench {
    /// The number of the one question that was sent.
    fn asked_for_hold(&mut self) -> Option<u64> {
        self.find(|message| match message {
            Message::ReadRequest { id, offset, len } => {
                assert_eq!((*offset, u64::from(*len)), (AT, LEN));
                Some(*id)
            }
            _ => None,
        })
    }

    fn peer_says(&mut self, id: u64) {
        let (offset, payload) = (AT, Payload::copy_from(&vec![7; LEN as usize]));
        self.receive(Message::ReadData { id, offset, payload });
    }

    fn decide(&mut self, ticket: u64, blocks: &[(u64, u64)]) -> CommandId {
        let runs = (blocks.iter())
            .map(|(first, count)| BlockRun {
                first: *first,
                count: *count,
            })
            .collect();
        let why = "sdb of data differed".into();
        self.command(Command::Settle { ticket, runs, why })
    }
}

/// The peer's data have come: the hold's number.
fn held(bench: &mut Bench) -> u64 {
    let id = bench.command(Command::Hold { offset: AT, len: LEN });
    let asked = bench.asked_for_hold().expect("a question");
    assert!(bench.held.is_empty());
    bench.peer_says(asked);
    assert!(bench.is_done(id, true));
    let (ticket, data) = bench.held.pop().expect("what the peer said");
    assert_eq!(data[..], vec![7; LEN as usize][..]);
    ticket
}

fn secondary() -> Bench {
    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    bench.sent.clear();
    bench
}

#[test]
fn what_is_decided_is_logged_written_stable_and_only_then_let_go() {
    for (mut bench, logs) in [(Bench::primary(), false), (secondary(), true)] {
        let ticket = held(&mut bench);
        let done = bench.decide(ticket, &[(5, 1), (7, 1)]);
        if logs {
            assert!(bench.disk.is_empty(), "the log first");
            bench.meta_done(true);
        }
        // A Primary's would have its own copy win, should it die now.
        assert!(bench.meta.is_empty());
        for block in [5, 7] {
            assert!(!bench.is_done(done, true));
            let op = bench.disk_done();
            assert!(matches!(op, DiskOp::Write { offset, fua: true, ref payload }
                if offset == block * u64::from(BLOCK) && payload[..] == [7; BLOCK as usize]));
        }
        assert!(bench.is_done(done, true));
        assert!(bench.records.contains(&"disk.healed"));
        // Nobody holds it any more.
        held(&mut bench);
    }
}

#[test]
fn a_write_to_it_waits_for_the_decision_and_not_longer_than_its_patience() {
    let mut bench = Bench::primary();
    let ticket = held(&mut bench);
    let write = bench.write(5 * u64::from(BLOCK));
    bench.settle();
    assert!(bench.disk.is_empty() && bench.sent.iter().all(|m| !matches!(m, Message::Write { .. })));
    let done = bench.decide(ticket, &[]);
    assert!(bench.is_done(done, true));
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    assert!(bench.replies.contains(&(write, true)));

    // Nobody decides: the range is free, and what comes too late changes nothing.
    let mut bench = Bench::primary();
    let ticket = held(&mut bench);
    let write = bench.write(5 * u64::from(BLOCK));
    bench.pass(2_000 * MS);
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    assert!(bench.replies.contains(&(write, true)));
    let late = bench.decide(ticket, &[(4, 1)]);
    assert!(bench.is_done(late, false));
    assert!(bench.disk.is_empty());
}

#[test]
fn the_question_goes_out_after_the_writes_that_overlap() {
    let mut bench = Bench::primary();
    bench.write(6 * u64::from(BLOCK));
    bench.settle_meta();
    bench.command(Command::Hold { offset: AT, len: LEN });
    assert!(bench.asked_for_hold().is_none(), "the write holds the range");
    bench.settle();
    assert!(bench.asked_for_hold().is_some());

    // On a Secondary, the Primary's.
    let mut bench = secondary();
    bench.receive(Message::Write {
        seq: 1,
        offset: AT,
        payload: Payload::copy_from(&[9; BLOCK as usize]),
        fua: false,
    });
    let id = bench.command(Command::Hold { offset: AT, len: LEN });
    assert!(bench.asked_for_hold().is_none());
    bench.settle();
    let asked = bench.asked_for_hold().expect("now it is free");
    // One that comes before the answer may be in it, and is not on this disk: that decides nothing.
    bench.receive(Message::Write {
        seq: 2,
        offset: AT,
        payload: Payload::copy_from(&[8; BLOCK as usize]),
        fua: false,
    });
    bench.peer_says(asked);
    assert!(bench.held.is_empty() && bench.is_done(id, false));
    bench.settle();
    assert!(bench.sent.contains(&Message::Done { seq: 2, status: 0 }));
    // One that comes after it is not in it, and waits.
    bench.sent.clear();
    let ticket = held(&mut bench);
    bench.receive(Message::Write {
        seq: 3,
        offset: AT,
        payload: Payload::copy_from(&[8; BLOCK as usize]),
        fua: false,
    });
    assert!(bench.disk.is_empty());
    bench.decide(ticket, &[(4, 1)]);
    bench.settle();
    assert!(bench.sent.contains(&Message::Done { seq: 3, status: 0 }));
}

#[test]
fn a_peer_that_is_lost_cannot_read_or_answers_too_late_decides_nothing() {
    let hold = Command::Hold { offset: AT, len: LEN };
    let mut bench = Bench::primary();
    let id = bench.command(hold.clone());
    bench.lose();
    assert!(bench.is_done(id, false));

    let mut bench = Bench::primary();
    let ticket = held(&mut bench);
    bench.lose();
    let late = bench.decide(ticket, &[(4, 1)]);
    assert!(bench.is_done(late, false));
    bench.settle();

    let mut bench = Bench::primary();
    let id = bench.command(hold.clone());
    let asked = bench.asked_for_hold().expect("a question");
    bench.receive(Message::ReadFailed { id: asked, status: 5 });
    assert!(bench.is_done(id, false));
    let id = bench.command(hold.clone());
    let asked = bench.asked_for_hold().expect("a question");
    bench.pass(2_000 * MS);
    assert!(bench.is_done(id, false));
    // Its answer is nobody's any more, and no reason to part.
    bench.peer_says(asked);
    assert!(bench.held.is_empty());
    assert_eq!(bench.replication(), "Established");

    // One that was asked for other bytes than it tells.
    bench.command(hold.clone());
    let id = bench.asked_for_hold().expect("a question");
    let (offset, payload) = (AT, Payload::copy_from(&[7; BLOCK as usize]));
    bench.receive(Message::ReadData { id, offset, payload });
    assert_eq!(bench.replication(), "Off");

    // Nobody in step, or a copy that is known to differ.
    let mut alone = Bench::primary();
    alone.lose();
    alone.settle();
    for mut bench in [alone, resyncing()] {
        bench.settle();
        bench.sent.clear();
        let id = bench.command(hold.clone());
        assert!(bench.is_done(id, false));
    }
    let mut bench = Bench::primary();
    bench.write(5 * u64::from(BLOCK));
    bench.meta_done(true);
    bench.finish_disk(false);
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.settle();
    bench.sent.clear();
    let id = bench.command(hold);
    assert!(bench.is_done(id, false), "it is marked");
    assert!(bench.asked_for_hold().is_none());
}

#[test]
fn only_whole_blocks_one_range_at_a_time_and_no_block_beside_it() {
    let mut bench = Bench::primary();
    for (offset, len) in [
        (AT + 512, LEN),
        (AT, LEN - 512),
        (SIZE, LEN),
        (0, 1 << 20),
        (0, 0),
        (AT, u64::MAX),
    ] {
        let id = bench.command(Command::Hold { offset, len });
        assert!(bench.is_done(id, false), "{len} bytes at {offset}");
    }
    let ticket = held(&mut bench);
    let id = bench.command(Command::Hold { offset: 0, len: LEN });
    assert!(bench.is_done(id, false), "another one is held");
    for blocks in [
        &[(3, 2)][..],
        &[(7, 2)],
        &[(5, 1), (4, 1)],
        &[(4, 0)],
        &[(u64::MAX, 2)],
        &[(4, u64::MAX - 4)],
    ] {
        let id = bench.decide(ticket, blocks);
        assert!(bench.is_done(id, false), "{blocks:?}");
    }
    let id = bench.decide(ticket + 1, &[(4, 1)]);
    assert!(bench.is_done(id, false));
    assert!(bench.disk.is_empty());
    let id = bench.decide(ticket, &[(4, 4)]);
    bench.settle();
    assert!(bench.is_done(id, true));
}

#[test]
fn what_cannot_be_written_is_marked_and_a_demote_waits_for_what_is_being_written() {
    let mut bench = Bench::primary();
    let ticket = held(&mut bench);
    let id = bench.decide(ticket, &[(4, 1)]);
    bench.finish_disk(false);
    assert!(bench.is_done(id, false));
    assert_eq!(bench.replica.status(bench.now).peers[0].out_of_sync_bytes, LEN);

    let mut bench = Bench::primary();
    let ticket = held(&mut bench);
    bench.decide(ticket, &[(4, 1)]);
    let demote = bench.command(Command::Demote);
    assert!(bench.sent.iter().all(|m| !matches!(m, Message::Flush { .. })));
    bench.disk_done();
    bench.disk_done();
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.settle();
    assert!(bench.is_done(demote, true));

    // Before that, it gives way.
    let mut bench = Bench::primary();
    let ticket = held(&mut bench);
    bench.command(Command::Demote);
    let late = bench.decide(ticket, &[(4, 1)]);
    assert!(bench.is_done(late, false));
}
