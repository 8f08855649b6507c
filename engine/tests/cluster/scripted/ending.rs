//! Demote and stop, and metadata that fail in the middle of it: no difference loses its last durable mark.

use _engine::meta::PAGE_BYTES;
use _engine::wire::GoodbyeReason;

use super::*;

/// A Primary whose peer lacks one block, at rest.
fn alone() -> Bench {
    let mut bench = Bench::primary();
    bench.lose();
    bench.settle();
    bench.write(0);
    bench.settle();
    bench
}

/// Whether a metadata write touches the write-intent log, or marks.
fn touches(writes: &[MetaWrite], log: bool) -> bool {
    let layout = Layout::new(SIZE, BLOCK, 1);
    let (first, pages) = if log {
        (layout.intent_offset(), layout.intent_pages())
    } else {
        (layout.bitmap_offset(0), layout.bitmap_pages())
    };
    let end = first + (pages * PAGE_BYTES) as u64;
    writes.iter().any(|write| (first..end).contains(&write.offset))
}

/// Every metadata write from here on ends well, but the first of marks ends as said; returns whether the log was touched.
fn finish(bench: &mut Bench, mut marks_end_well: bool) -> bool {
    let mut log = false;
    loop {
        if !bench.disk.is_empty() {
            bench.disk_done();
        } else if let Some((_, writes)) = bench.meta.front() {
            log |= touches(writes, true);
            let ok = marks_end_well || !touches(writes, false);
            marks_end_well |= !ok;
            bench.meta_done(ok);
        } else {
            return log;
        }
    }
}

#[test]
fn the_log_goes_only_when_the_marks_are_durable() {
    for command in [Command::Demote, Command::Stop] {
        for ok in [true, false] {
            let mut bench = alone();
            let id = bench.command(command.clone());
            assert_eq!(finish(&mut bench, ok), ok, "{command:?}, marks saved: {ok}");
            assert!(bench.is_done(id, ok || command == Command::Stop));
            assert!(!bench.exported);
        }
    }
}

/// A handshake in the middle of a demotion may find that this copy gives way: nobody must be reading it.
#[test]
fn a_node_serves_no_more_as_soon_as_it_is_no_primary() {
    let mut bench = alone();
    bench.command(Command::Demote);
    while bench.meta.is_empty() {
        bench.disk_done();
    }
    assert!(!bench.exported, "before anything of it is durable");
    assert_eq!(bench.replica.role(), Role::Secondary);
}

#[test]
fn nor_does_it_go_after_a_cleaning_cycle_that_could_not_save_the_marks() {
    for command in [Command::Demote, Command::Stop] {
        let mut bench = alone();
        bench.pass(2_000 * MS);
        assert!(!finish(&mut bench, false), "a cycle");
        bench.command(command);
        assert!(
            !finish(&mut bench, true),
            "the page that failed is written by nobody any more"
        );
    }
}

#[test]
fn what_is_asked_while_a_demote_ends_comes_after_it() {
    let mut bench = alone();
    let demote = bench.command(Command::Demote);
    bench.disk_done();
    let promote = bench.command(Command::Promote { force: false });
    assert!(!bench.is_done(demote, true) && bench.done.iter().all(|(id, _)| *id != promote));
    bench.settle();
    assert!(bench.is_done(demote, true) && bench.is_done(promote, true));
    assert!(bench.exported);
}

/// A peer that has not brought the resource up yet is met soon after it has, and not asked in haste for ever.
#[test]
fn a_peer_whose_resource_is_not_up_yet_is_tried_again_soon_then_less_often() {
    let mut bench = Bench::primary();
    bench.lose();
    bench.settle();
    let mut pauses = Vec::new();
    while pauses.len() < 10 {
        let (dials, since) = (bench.dials, bench.now);
        while bench.dials == dials {
            bench.pass(10 * MS);
            assert!(bench.now - since <= 2_000 * MS, "after {pauses:?}: tried no more");
        }
        pauses.push(bench.now - since);
        bench.open();
        bench.receive(Message::Goodbye {
            reason: GoodbyeReason::UnknownResource,
            text: "no resource r0 is up here".into(),
        });
    }
    assert!(pauses[1] <= 100 * MS, "{pauses:?}");
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert!(pauses[9] >= 1_000 * MS, "{pauses:?}");
    bench.pass(2_000 * MS);
    bench.handshake(state(Role::Secondary, 5));
    assert_eq!(bench.replication(), "Established");
    bench.lose();
    let dials = bench.dials;
    bench.pass(100 * MS);
    assert_eq!(bench.dials, dials + 1, "what came to something begins anew");
}
