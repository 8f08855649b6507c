//! Nodes that a split brain keeps apart: whom they hear, and how a `resolve` at one of them ends.

use super::*;

#[test]
fn only_a_word_about_the_split_brain_is_heard_by_a_node_that_stands_alone() {
    let mut bench = split();
    bench.command(Command::Disconnect { peer: 0 });
    bench.open();
    assert!(bench.sent.is_empty(), "it listens first");
    bench.pass(2_000 * MS);
    assert!(bench.sent.is_empty(), "nothing comes before a Hello");
    bench.hello();
    assert_eq!(goodbye(&mut bench), Some(GoodbyeReason::Disconnect));
    bench.open();
    bench.pass(3_100 * MS);
    assert_eq!(goodbye(&mut bench), None);
    told(&mut bench, Intent::DiscardYours { bundle: false });
    let hello = bench.find(|message| match message {
        Message::Hello(hello) => Some(hello.intent),
        _ => None,
    });
    assert_eq!(hello, Some(Intent::Replicate));
    peers_marks(&mut bench);
    recorded(&mut bench, true);
    bench.settle();
    assert!(bench.bundles.is_empty() && bench.records.contains(&"split_brain.resolved"));
}

#[test]
fn a_node_that_a_split_brain_keeps_apart_hears_a_peer_that_is_back() {
    let mut bench = split();
    told(&mut bench, Intent::Replicate);
    assert_eq!(goodbye(&mut bench), Some(GoodbyeReason::Refused));
    // The peer was started again, with a new disk.
    bench.sent.clear();
    bench.open();
    bench.hello();
    bench.receive(Message::State(state(Role::Secondary, 0)));
    assert_eq!(goodbye(&mut bench), None);
    let status = bench.replica.status(bench.now);
    assert_eq!(status.peers[0].rule, Some("peer-new"));
    assert!(!status.peers[0].split_brain);
    // What an administrator has disconnected stays so.
    let mut bench = split();
    told(&mut bench, Intent::Replicate);
    bench.command(Command::Disconnect { peer: 0 });
    bench.sent.clear();
    bench.open();
    bench.hello();
    assert_eq!(goodbye(&mut bench), Some(GoodbyeReason::Disconnect));
}

#[test]
fn a_split_brain_is_remembered_over_a_restart() {
    let mut bench = split();
    told(&mut bench, Intent::Replicate);
    let saved = superblock_in(&bench.meta_done(true)).expect("saved at once");
    assert!(saved.peers[0].split_brain);
    let mut bench = Bench::with_marks(saved, false, &[3], &[]);
    assert!(bench.replica.status(bench.now).peers[0].split_brain);
    told(&mut bench, Intent::DiscardMine { bundle: true });
    assert!(
        bench.replica.status(bench.now).peers[0].split_brain,
        "until it has ended"
    );
}

#[test]
fn a_connect_takes_up_a_connection_that_had_not_been_wanted() {
    let mut bench = split();
    bench.command(Command::Disconnect { peer: 0 });
    bench.open();
    bench.command(Command::Connect { peer: 0 });
    bench.hello();
    let state = bench.find(|message| match message {
        Message::State(state) => Some(state.generations.current),
        _ => None,
    });
    assert_eq!(state, Some(6));
}

#[test]
fn a_resolve_is_refused_where_there_is_nothing_to_resolve() {
    let mut bench = Bench::primary();
    let victim = Victim::Peer(0);
    let id = bench.command(Command::Resolve { victim, bundle: true });
    assert!(bench.is_done(id, false), "connected");
    bench.lose();
    let id = bench.command(Command::Resolve {
        victim: Victim::Myself,
        bundle: true,
    });
    assert!(bench.is_done(id, false), "Primary");
    // Nobody is there to ask.
    let id = bench.command(Command::Resolve { victim, bundle: true });
    let twice = bench.command(Command::Resolve { victim, bundle: true });
    assert!(bench.is_done(twice, false));
    bench.pass(9_900 * MS);
    assert!(!bench.is_done(id, false));
    bench.pass(200 * MS);
    assert!(bench.is_done(id, false));
}

#[test]
fn a_resolve_ends_though_the_peer_accepts_and_says_nothing() {
    // Its kernel accepts, its engine hangs; or that says who it is, and no more.
    for says_hello in [false, true] {
        let mut bench = split();
        told(&mut bench, Intent::Replicate);
        assert_eq!(bench.replica.status(bench.now).peers[0].connection, "StandAlone");
        let victim = Victim::Peer(0);
        let id = bench.command(Command::Resolve { victim, bundle: true });
        for _ in 0..2 {
            bench.open();
            if says_hello {
                bench.hello();
            }
            bench.pass(3_000 * MS);
            bench.pass(1_000 * MS);
        }
        bench.open();
        assert!(bench.done.iter().all(|(done, _)| *done != id));
        bench.sent.clear();
        bench.pass(2_000 * MS);
        assert!(bench.is_done(id, false));
        assert_eq!(goodbye(&mut bench), Some(GoodbyeReason::Busy));
        // As before: it does not go on dialling, and says why.
        let dials = bench.dials;
        bench.pass(60_000 * MS);
        assert_eq!(bench.dials, dials);
        let status = bench.replica.status(bench.now);
        assert_eq!(status.peers[0].connection, "StandAlone");
        assert!(status.peers[0].refusal.is_some());
    }
}

#[test]
fn a_resolve_that_fails_leaves_a_wanted_connection_wanted() {
    for connect in [false, true] {
        let mut bench = split();
        if connect {
            bench.command(Command::Disconnect { peer: 0 });
        }
        let victim = Victim::Peer(0);
        let id = bench.command(Command::Resolve { victim, bundle: true });
        if connect {
            bench.command(Command::Connect { peer: 0 });
        }
        bench.pass(10_000 * MS);
        assert!(bench.is_done(id, false));
        bench.lose();
        let dials = bench.dials;
        bench.pass(10_000 * MS);
        assert_eq!(bench.dials, dials + 1);
    }
}

#[test]
fn a_goodbye_to_the_connection_before_does_not_end_a_resolve() {
    let mut bench = split();
    bench.open();
    let victim = Victim::Myself;
    let id = bench.command(Command::Resolve {
        victim,
        bundle: false,
    });
    bench.receive(Message::Goodbye {
        reason: GoodbyeReason::Refused,
        text: "a split brain".into(),
    });
    bench.pass(2_000 * MS);
    told(&mut bench, Intent::Replicate);
    peers_marks(&mut bench);
    recorded(&mut bench, true);
    bench.settle();
    assert!(bench.is_done(id, true));
}

#[test]
fn a_resolve_hears_why_the_other_side_refuses() {
    let mut bench = split();
    let victim = Victim::Peer(0);
    let id = bench.command(Command::Resolve { victim, bundle: true });
    told(&mut bench, Intent::Replicate);
    bench.receive(Message::Goodbye {
        reason: GoodbyeReason::Refused,
        text: "no room for the bundle".into(),
    });
    assert!(bench.is_done(id, false) && bench.records.contains(&"split_brain.kept"));
}

#[test]
fn a_failing_metadata_device_ends_a_resolve() {
    let mut bench = split();
    let victim = Victim::Myself;
    let id = bench.command(Command::Resolve {
        victim,
        bundle: false,
    });
    told(&mut bench, Intent::Replicate);
    peers_marks(&mut bench);
    recorded(&mut bench, true);
    bench.meta_done(false);
    assert!(bench.is_done(id, false));
}
