//! The end of a split brain, step by step.

mod command;

use _engine::meta::next_copy;
use _engine::wire::{BlockRun, GoodbyeReason};

use super::*;

/// This node and its peer both went on from generation 5; this one changed block 3.
fn split() -> Bench {
    Bench::with_marks(own(), false, &[3], &[])
}

fn own() -> Superblock {
    let mut own = superblock(6);
    own.history[0] = 5;
    own.peers[0].bitmap_generation = 5;
    own
}

fn theirs() -> NodeState {
    let mut state = state(Role::Secondary, 7);
    state.generations.bitmap = 5;
    state.generations.history[0] = 5;
    state.dirty_blocks = 1;
    state
}

/// The peer dials, and says whose changes go.
fn told(bench: &mut Bench, intent: Intent) {
    bench.open();
    bench.hello_with(ID, intent);
    bench.receive(Message::State(theirs()));
}

fn peers_marks(bench: &mut Bench) {
    let run = |first, count| BlockRun { first, count };
    bench.receive(Message::BitmapRuns {
        runs: vec![run(100, 2)],
        last: false,
    });
    bench.receive(Message::BitmapRuns {
        runs: vec![run(200, 1)],
        last: true,
    });
}

/// A victim whose bundle is being saved.
fn saving() -> (Bench, Token) {
    let mut bench = split();
    told(&mut bench, Intent::DiscardYours { bundle: true });
    peers_marks(&mut bench);
    let token = bench.bundles.last().expect("a bundle").0;
    bench.meta.clear();
    bench.sent.clear();
    (bench, token)
}

fn saved(bench: &mut Bench, token: Token, ok: bool) {
    let result = if ok { Ok(()) } else { Err("no room".into()) };
    bench.event(Event::BundleSaved { token, result });
}

/// The record of a discard without a bundle is durable, or cannot be.
fn recorded(bench: &mut Bench, ok: bool) {
    let token = bench.discards.pop().expect("a discard to record");
    saved(bench, token, ok);
}

fn goodbye(bench: &mut Bench) -> Option<GoodbyeReason> {
    bench.find(|message| match message {
        Message::Goodbye { reason, .. } => Some(*reason),
        _ => None,
    })
}

/// The superblock in a metadata write.
fn superblock_in(writes: &[MetaWrite]) -> Option<Superblock> {
    let layout = Layout::new(SIZE, BLOCK, 1);
    let places = [1, 2].map(|sequence| layout.superblock_offset(next_copy(sequence)));
    let write = writes.iter().find(|write| places.contains(&write.offset))?;
    Superblock::decode(&write.bytes).ok()
}

#[test]
fn the_bundle_has_both_sides_marks_and_nothing_is_written_before_it_is_saved() {
    let (mut bench, token) = saving();
    let (_, bundle) = &bench.bundles[0];
    let blocks: Vec<(u64, u64)> = bundle.runs.iter().map(|run| (run.first, run.count)).collect();
    assert_eq!(blocks, [(3, 1), (100, 2), (200, 1)]);
    assert_eq!((bundle.victim.current, bundle.survivor.current), (6, 7));
    bench.pass(2_000 * MS);
    assert!(bench.disk.iter().all(|(_, op)| *op == DiskOp::Flush));
    assert!(bench
        .meta
        .iter()
        .all(|(_, writes)| superblock_in(writes).is_none()));
    // Another bundle's answer is not this one's.
    saved(&mut bench, Token(token.0 + 1), true);
    assert!(bench
        .meta
        .iter()
        .all(|(_, writes)| superblock_in(writes).is_none()));
    saved(&mut bench, token, true);
    bench.settle();
    assert_eq!(goodbye(&mut bench), Some(GoodbyeReason::Busy));
    assert!(bench.records.contains(&"split_brain.resolved"));
}

#[test]
fn what_a_crash_left_in_doubt_is_saved_too() {
    let mut bench = Bench::with_marks(own(), false, &[3], &[1]);
    told(&mut bench, Intent::DiscardYours { bundle: true });
    peers_marks(&mut bench);
    let runs = &bench.bundles[0].1.runs;
    let per_extent = EXTENT_BYTES / u64::from(BLOCK);
    assert_eq!(
        runs.last(),
        Some(&BlockRun {
            first: per_extent,
            count: per_extent
        })
    );
}

#[test]
fn a_survivor_tells_what_a_crash_left_in_doubt() {
    let mut bench = Bench::with_marks(own(), false, &[3], &[1]);
    told(&mut bench, Intent::DiscardMine { bundle: true });
    let runs = bench.find(|message| match message {
        Message::BitmapRuns { runs, last: true } => Some(runs.clone()),
        _ => None,
    });
    let per_extent = EXTENT_BYTES / u64::from(BLOCK);
    let run = |first, count| BlockRun { first, count };
    assert_eq!(runs, Some(vec![run(3, 1), run(per_extent, per_extent)]));
    // Nothing but the finding itself is written here.
    assert_eq!(
        superblock_in(&bench.meta_done(true)).map(|superblock| superblock.current),
        Some(6)
    );
    assert!(bench.bundles.is_empty() && bench.meta.is_empty());
}

#[test]
fn a_survivor_records_only_what_happened() {
    // Cut off before it had saved anything, the victim comes back with a blank disk, with a copy of its
    // disk of before the split, or rewound.
    let mut blank = state(Role::Secondary, 0);
    blank.disk = DiskState::Inconsistent;
    let copied = state(Role::Secondary, 5);
    let mut rewound = copied.clone();
    rewound.disk = DiskState::Inconsistent;
    for (back, resolved) in [(blank, false), (copied, false), (rewound, true)] {
        let mut bench = split();
        told(&mut bench, Intent::DiscardMine { bundle: true });
        bench.settle();
        bench.lose();
        bench.pass(60_000 * MS);
        bench.handshake(back);
        bench.settle();
        assert_eq!(bench.replication(), "SyncSource");
        assert_eq!(bench.records.contains(&"split_brain.resolved"), resolved);
    }
}

#[test]
fn the_rewind_comes_after_the_marks_are_durable_and_is_one_write() {
    let (mut bench, token) = saving();
    saved(&mut bench, token, true);
    let mut rewinds = Vec::new();
    while !bench.meta.is_empty() {
        let others = bench.meta.len() - 1;
        if let Some(superblock) = superblock_in(&bench.meta_done(true)) {
            if superblock.current == 5 {
                assert_eq!(others, 0, "it does not stand in a queue with what it builds on");
                rewinds.push(superblock);
            } else {
                assert_eq!(
                    (superblock.current, superblock.peers[0].bitmap_generation),
                    (6, 5)
                );
            }
        }
    }
    let [rewound] = &rewinds[..] else {
        panic!("one rewind: {rewinds:?}")
    };
    assert_eq!(rewound.disk, DiskState::Inconsistent);
    assert_eq!((rewound.history, rewound.peers[0].bitmap_generation), ([0; 8], 0));
}

#[test]
fn a_page_of_marks_that_fails_leaves_the_victim_as_it_was() {
    let (mut bench, token) = saving();
    saved(&mut bench, token, true);
    bench.meta_done(false);
    // What was behind it in the queue may go through all the same.
    while !bench.meta.is_empty() {
        if let Some(superblock) = superblock_in(&bench.meta_done(true)) {
            assert_eq!(superblock.current, 6, "rewound without its marks");
        }
    }
    assert!(!bench.records.contains(&"split_brain.resolved"));
}

#[test]
fn a_bundle_that_fails_is_told_to_the_survivor_and_a_late_answer_to_nobody() {
    let (mut bench, token) = saving();
    saved(&mut bench, token, false);
    assert_eq!(goodbye(&mut bench), Some(GoodbyeReason::Refused));
    assert!(bench.records.contains(&"split_brain.kept") && bench.dropped.is_empty());
    let (mut bench, token) = saving();
    bench.lose();
    assert_eq!(bench.dropped, [token], "what nobody waits for may end");
    saved(&mut bench, token, true);
    bench.settle();
    assert!(!bench.records.contains(&"split_brain.resolved"));
    assert_eq!(
        bench.replica.status(bench.now).generation.current,
        format!("{:016x}", 6)
    );
}

#[test]
fn a_disconnect_that_ends_a_resolution_is_in_the_history() {
    let kept = |bench: &Bench| bench.records.contains(&"split_brain.kept");
    // Of the victim, where it was typed and where it is heard.
    for here in [true, false] {
        let disconnect = |bench: &mut Bench| {
            if here {
                bench.command(Command::Disconnect { peer: 0 });
            } else {
                bench.receive(Message::Goodbye {
                    reason: GoodbyeReason::Disconnect,
                    text: "disconnected by an administrator".into(),
                });
            }
        };
        let (mut bench, _) = saving();
        disconnect(&mut bench);
        assert!(kept(&bench));
        // Too late: the rewind is on its way to the metadata.
        let (mut bench, token) = saving();
        saved(&mut bench, token, true);
        while !bench.records.contains(&"split_brain.resolved") {
            bench.meta_done(true);
        }
        disconnect(&mut bench);
        bench.settle();
        assert!(!kept(&bench));
    }
    // Of the survivor.
    let mut bench = split();
    told(&mut bench, Intent::DiscardMine { bundle: true });
    bench.command(Command::Disconnect { peer: 0 });
    assert!(kept(&bench));
}

#[test]
fn a_survivor_that_only_lives_does_not_hold_its_victim_for_ever() {
    let mut bench = split();
    told(&mut bench, Intent::DiscardYours { bundle: true });
    bench.sent.clear();
    let alive = |bench: &mut Bench, seconds: u64| {
        for _ in 0..seconds {
            bench.pass(1_000 * MS);
            bench.receive(Message::Ping { sent_ns: 1 });
        }
    };
    // Ten times the peers' timeout, from the last that came.
    alive(&mut bench, 29);
    bench.receive(Message::BitmapRuns {
        runs: Vec::new(),
        last: false,
    });
    alive(&mut bench, 29);
    assert_eq!(goodbye(&mut bench), None);
    alive(&mut bench, 1);
    assert_eq!(goodbye(&mut bench), Some(GoodbyeReason::Busy));
    assert!(bench.records.contains(&"split_brain.kept"));
    let id = bench.command(Command::Promote { force: true });
    bench.settle();
    assert!(bench.is_done(id, true));
}

#[test]
fn nothing_goes_without_a_bundle_before_that_is_on_record() {
    for ok in [true, false] {
        let mut bench = split();
        told(&mut bench, Intent::DiscardYours { bundle: false });
        bench.settle_meta();
        peers_marks(&mut bench);
        assert!(bench.records.contains(&"split_brain.discarding"));
        assert!(bench.meta.is_empty(), "not even the marks before");
        bench.sent.clear();
        recorded(&mut bench, ok);
        bench.settle();
        let (reason, outcome) = if ok {
            (GoodbyeReason::Busy, "split_brain.resolved")
        } else {
            (GoodbyeReason::Refused, "split_brain.kept")
        };
        assert_eq!(goodbye(&mut bench), Some(reason));
        assert_eq!(bench.records.last(), Some(&outcome));
        let generation = bench.replica.status(bench.now).generation.current;
        assert_eq!(generation, format!("{:016x}", if ok { 5 } else { 6 }));
    }
}

#[test]
fn a_write_of_a_time_before_does_not_change_what_is_saved() {
    let mut bench = Bench::primary();
    bench.lose();
    bench.write(0);
    bench.settle_meta();
    let (token, op) = bench.disk.pop_back().expect("a write that hangs");
    assert!(matches!(op, DiskOp::Write { .. }));
    // The peer turns out to be ahead of it, and comes back as something else.
    let current = bench.replica.status(bench.now).generation.current;
    let current = u64::from_str_radix(&current, 16).expect("a generation");
    let mut ahead = state(Role::Primary, 90);
    ahead.generations.history[0] = current;
    bench.handshake(ahead);
    bench.settle_meta();
    assert_eq!(bench.replication(), "SyncTarget");
    bench.lose();
    told(&mut bench, Intent::DiscardYours { bundle: true });
    peers_marks(&mut bench);
    assert!(bench.bundles.is_empty());
    bench.event(Event::DiskDone {
        token,
        result: Ok(None),
    });
    assert_eq!(bench.bundles.len(), 1);
}

#[test]
fn a_resync_zeroes_nothing_that_is_not_marked() {
    for (marked, zero) in [(vec![8, 10], false), (vec![8, 9, 10], true)] {
        let mut bench = Bench::with_marks(superblock(5), false, &marked, &[]);
        bench.handshake(state(Role::Secondary, 5));
        let (runs, last) = (Vec::new(), true);
        bench.receive(Message::BitmapRuns { runs, last });
        bench.settle_meta();
        let (token, op) = bench.disk.pop_front().expect("a chunk to read");
        let DiskOp::Read { len, .. } = op else {
            panic!("{op:?}")
        };
        let data = Payload::copy_from(&vec![0; len as usize]);
        bench.event(Event::DiskDone {
            token,
            result: Ok(Some(data)),
        });
        let told = bench.find(|message| match message {
            Message::ChunkHash { zero, .. } => Some(*zero),
            _ => None,
        });
        assert_eq!(told, Some(zero));
    }
}
