//! Verify, message by message: the order that makes it exact, and what it takes from nobody.

use _engine::wire::{feature, BlockRun};
use xxhash_rust::xxh3::xxh3_128;

use super::*;

const CHUNK: u64 = 256 << 10;
const AT: u64 = BLOCK as u64;

impl Bench {
    fn verify(&mut self, offset: u64, len: u64) -> bool {
        let max_rate = None;
        let id = self.command(Command::Verify {
            offset,
            len,
            max_rate,
        });
        let done = self.done.iter().find(|(done, _)| *done == id);
        done.expect("an answer at once").1
    }

    /// The next chunk that the peer is asked to compare: its number, place, and whether in order.
    fn asked_to_compare(&mut self) -> Option<(u64, u64, u32, bool)> {
        self.find(|message| match message {
            Message::VerifyChunk {
                id,
                offset,
                len,
                ordered,
                ..
            } => Some((*id, *offset, *len, *ordered)),
            _ => None,
        })
    }

    /// The peer asks this node about some bytes.
    fn is_asked(&mut self, id: u64, offset: u64, len: u32, hash: u128, ordered: bool) {
        self.receive(Message::VerifyChunk {
            id,
            offset,
            len,
            hash,
            ordered,
        });
    }

    fn failed_protocol(&self) -> bool {
        self.notices.contains(&"peer.protocol_error")
    }
}

fn follower() -> Bench {
    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    bench.sent.clear();
    bench
}

/// Of a block as this disk reads it.
fn ones() -> u128 {
    xxh3_128(&[1; BLOCK as usize])
}

#[test]
fn a_difference_is_looked_at_again_with_the_range_held_and_only_where_it_is() {
    let mut bench = Bench::primary();
    assert!(bench.verify(0, CHUNK));
    bench.disk_done();
    let (id, offset, len, ordered) = bench.asked_to_compare().expect("a chunk");
    assert_eq!((offset, u64::from(len), ordered), (0, CHUNK, false));
    let mut hashes = vec![ones(); 64];
    (hashes[3], hashes[5]) = (7, 8);
    bench.receive(Message::VerifyDiffers { id, hashes });
    let (offset, len) = (3 * AT, 3 * BLOCK);
    let again = bench.disk.pop_front().expect("it is read again");
    assert_eq!(again.1, DiskOp::Read { offset, len });
    // A write to it waits, and one beside it does not.
    bench.write(4 * AT);
    bench.settle();
    assert!(bench.replies.is_empty());
    bench.write(6 * AT);
    bench.settle_meta();
    assert_eq!(bench.disk.len(), 1);
    bench.settle();
    bench.sent.clear();
    bench.disk.push_back(again);
    bench.disk_done();
    assert_eq!(bench.asked_to_compare(), Some((id, offset, len, true)));
    bench.receive(Message::VerifyDiffers {
        id,
        hashes: vec![7, ones(), ones()],
    });
    let found: Vec<&Verified> = (bench.verified.iter())
        .filter(|what| matches!(what, Verified::Found { .. }))
        .collect();
    let wanted = Verified::Found {
        offset,
        len: BLOCK,
        own: ones(),
        peer: 7,
    };
    assert_eq!(found, [&wanted]);
    assert_eq!(bench.verified.last(), Some(&Verified::Ended { cut: None }));
    let writes = bench
        .disk
        .iter()
        .filter(|(_, op)| matches!(op, DiskOp::Write { .. }));
    assert_eq!(writes.count(), 1, "the write that waited goes on");
}

#[test]
fn the_other_node_reads_in_order_what_it_is_asked_in_order() {
    let mut bench = follower();
    bench.is_asked(1, 0, BLOCK, ones(), false);
    bench.is_asked(2, 0, 2 * BLOCK, 9, false);
    bench.settle();
    let hashes = vec![ones(); 2];
    let answers = [
        Message::VerifySame { id: 1 },
        Message::VerifyDiffers { id: 2, hashes },
    ];
    assert!(answers.iter().all(|answer| bench.sent.contains(answer)));
    // A write that came before is on its way to the disk: it is read after that, not beside.
    bench.receive(Message::Write {
        seq: 1,
        offset: 0,
        payload: Payload::copy_from(&[9; BLOCK as usize]),
        fua: false,
    });
    bench.is_asked(3, 0, BLOCK, ones(), true);
    assert_eq!(bench.disk.len(), 1);
    bench.is_asked(4, 0, BLOCK, ones(), false);
    assert_eq!(bench.disk.len(), 2);
    assert!(!bench.verify(0, CHUNK), "the Primary has the order");
    bench.settle();
    assert!(bench.sent.contains(&Message::VerifySame { id: 3 }));
    // No node measures one that writes.
    let mut bench = Bench::primary();
    bench.is_asked(5, 0, BLOCK, ones(), false);
    let status = libc::EBUSY as u16;
    assert_eq!(bench.sent.back(), Some(&Message::VerifyFailed { id: 5, status }));
    assert!(bench.disk.is_empty());
}

#[test]
fn what_is_marked_is_not_compared() {
    let mut bench = Bench::primary();
    // A write that fails on this disk is marked.
    bench.write(2 * AT);
    bench.settle_meta();
    bench.finish_disk(false);
    bench.settle();
    bench.sent.clear();
    assert!(bench.verify(0, 4 * AT));
    let reads: Vec<&DiskOp> = bench.disk.iter().map(|(_, op)| op).collect();
    let read = |block: u64, blocks: u32| DiskOp::Read {
        offset: block * AT,
        len: blocks * BLOCK,
    };
    assert_eq!(reads, [&read(0, 2), &read(3, 1)]);
    for _ in 0..2 {
        bench.disk_done();
        let (id, ..) = bench.asked_to_compare().expect("a chunk");
        bench.receive(Message::VerifySame { id });
    }
    let proved = |block: u64, blocks: u64| Verified::Proved {
        offset: block * AT,
        len: blocks * AT,
    };
    let skipped = Verified::Skipped {
        offset: 2 * AT,
        len: AT,
    };
    let ended = Verified::Ended { cut: None };
    assert_eq!(bench.verified, [proved(0, 2), skipped, proved(3, 1), ended]);
}

#[test]
fn a_peer_that_does_not_know_it_is_named_and_never_asked() {
    let mut bench = Bench::new(superblock(5), false);
    bench.features = feature::ALL & !feature::VERIFY;
    let mut bench = bench.promoted();
    assert!(!bench.verify(0, SIZE) && bench.disk.is_empty());
    bench.receive(Message::VerifyProved { offset: 0, len: 1 });
    assert!(bench.failed_protocol());
}

#[test]
fn nonsense_breaks_the_protocol_and_nothing_else() {
    let chunk = |offset, len| Message::VerifyChunk {
        id: 1,
        offset,
        len,
        hash: 0,
        ordered: true,
    };
    let run = |first, count| BlockRun { first, count };
    let (unknown, own, peer) = (1 << 40, 0, 1);
    let nonsense = [
        chunk(SIZE, BLOCK),
        chunk(1, BLOCK),
        chunk(0, CHUNK as u32 + BLOCK),
        Message::VerifyProved { offset: SIZE, len: 1 },
        Message::VerifyFound {
            offset: SIZE,
            len: 1,
            own,
            peer,
        },
        Message::VerifySame { id: unknown },
        Message::VerifyDiffers {
            id: unknown,
            hashes: vec![0],
        },
        Message::VerifyFailed {
            id: unknown,
            status: 5,
        },
        Message::VerifySave {
            runs: vec![run(4, 1), run(2, 1)],
        },
        Message::VerifySave {
            runs: vec![run(0, SIZE)],
        },
    ];
    for message in nonsense {
        let mut bench = follower();
        bench.receive(message.clone());
        assert!(bench.failed_protocol(), "{message:?}");
        assert!(bench.disk.is_empty() && bench.bundles.is_empty());
    }
    for hashes in [vec![ones(); 64], vec![0; 63]] {
        let mut bench = Bench::primary();
        assert!(bench.verify(0, CHUNK));
        bench.disk_done();
        let (id, ..) = bench.asked_to_compare().expect("a chunk");
        bench.receive(Message::VerifyDiffers { id, hashes });
        assert!(bench.failed_protocol());
    }
}

#[test]
fn a_connection_that_is_lost_gives_back_what_is_held_and_drops_the_bundle() {
    let mut bench = Bench::primary();
    assert!(bench.verify(0, CHUNK));
    bench.disk_done();
    let (id, ..) = bench.asked_to_compare().expect("a chunk");
    bench.receive(Message::VerifyDiffers {
        id,
        hashes: vec![0; 64],
    });
    bench.write(0);
    bench.settle_meta();
    bench.lose();
    bench.settle();
    let cut = match bench.verified.last() {
        Some(Verified::Ended { cut: Some(cut) }) => cut,
        other => panic!("{other:?}"),
    };
    assert!(cut.passing);
    assert_eq!(bench.replies.len(), 1, "the write went on");

    let mut bench = follower();
    bench.receive(Message::VerifySave {
        runs: vec![BlockRun { first: 1, count: 2 }],
    });
    let (token, request) = bench.bundles.pop().expect("a bundle");
    assert_eq!(request.rule, "verify");
    bench.lose();
    assert_eq!(bench.dropped, [token]);
    let result = Ok(());
    bench.event(Event::BundleSaved { token, result });
}

#[test]
fn a_write_of_a_repair_that_fails_is_marked_and_the_peer_let_go() {
    let mut bench = Bench::primary();
    let id = bench.command(Command::Repair {
        runs: vec![BlockRun { first: 3, count: 1 }],
    });
    bench.receive(Message::VerifySaved {
        saved: true,
        text: String::new(),
    });
    bench.disk_done();
    let (chunk, ..) = bench.asked_to_compare().expect("compared once more");
    bench.receive(Message::VerifyDiffers {
        id: chunk,
        hashes: vec![7],
    });
    let sent = bench.find(|message| match message {
        Message::Write { seq, offset, .. } => Some((*seq, *offset)),
        _ => None,
    });
    let (seq, offset) = sent.expect("the block");
    assert_eq!(offset, 3 * AT);
    bench.receive(Message::Done { seq, status: 5 });
    assert!(bench.is_done(id, false));
    let status = bench.replica.status(bench.now);
    assert_eq!(status.peers[0].out_of_sync_bytes, AT);
}
