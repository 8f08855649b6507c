//! SHRINK, PROMOTE, GROW, FENCE: one of the two is lost, or both think so of the other.

use super::*;

#[test]
fn the_first_promotion_makes_the_first_configuration_and_then_both_are_in_sync() {
    let mut world = pair(1);
    world.run(100 * MS);
    let expected = [configuration(1, "a", &["a"]), configuration(2, "a", &["a", "b"])];
    assert_eq!(world.registers, expected);
    assert_eq!(arbitration(&world, B).epoch, 2);
}

#[test]
fn in_steady_state_the_arbiter_is_not_missed() {
    let mut world = pair(2);
    without_arbiter(&mut world, Reach::Cut);
    for block in 0..50 {
        write(&mut world, A, block, 7);
        world.run(SECOND);
    }
    assert!(arbitration(&world, A).suspended.is_none());
    assert_eq!(world.registers.len(), 2);
}

#[test]
fn a_primary_that_lost_its_peer_acknowledges_nothing_before_the_arbiter_says_that_it_goes_on_alone() {
    let mut world = pair(3);
    without_arbiter(&mut world, Reach::Cut);
    world.crash(B, true);
    let open = start_write(&mut world, A, 1, 7);
    world.run(20 * SECOND);
    let later = start_write(&mut world, A, 2, 7);
    world.run(20 * SECOND);
    assert!(reply(&world, open).is_none() && reply(&world, later).is_none());
    assert_eq!(arbitration(&world, A).suspended, Some("all"));
    assert_eq!(arbitration(&world, A).want, Some("shrink"));
    without_arbiter(&mut world, Reach::Fine);
    assert!(replied(&mut world, open).is_ok() && replied(&mut world, later).is_ok());
    assert_eq!(world.register, Some(configuration(3, "a", &["a"])));
    world.start(B, true);
    healed(&mut world);
    assert_eq!(stamp(&world, B, 2), 7);
}

#[test]
fn a_surviving_primary_stalls_for_its_patience_and_a_moment() {
    let mut world = pair(4);
    world.set_cable(Cable::Silent);
    let from = world.now;
    write(&mut world, A, 1, 7);
    assert!(world.now - from < 800 * MS, "{} ms", (world.now - from) / MS);
}

#[test]
fn a_follower_becomes_primary_once_its_word_has_run_out() {
    let mut world = pair(5);
    write(&mut world, A, 1, 7);
    world.crash(A, true);
    let from = world.now;
    world.run_until("b is Primary", |w| is_primary(w, B));
    assert!(
        world.now - from < TIMES.lease_ns + 500 * MS,
        "{} ms",
        (world.now - from) / MS
    );
    assert!(world.now - from > TIMES.lease_ns - TIMES.beacon_ns - 10 * MS);
    assert_eq!(world.register, Some(configuration(3, "b", &["b"])));
    write(&mut world, B, 2, 8);
    world.start(A, true);
    healed(&mut world);
    assert_eq!((stamp(&world, A, 1), stamp(&world, A, 2)), (7, 8));
    assert!(is_primary(&world, B));
}

#[test]
fn a_cut_leaves_one_of_the_two_and_the_other_comes_back_as_its_target() {
    for seed in 10..40 {
        let mut world = pair(seed);
        let writes: Vec<_> = (0..20)
            .map(|block| start_write(&mut world, A, block, 7))
            .collect();
        cut(&mut world);
        world.run_until("one goes on", |w| {
            w.register.as_ref().is_some_and(|held| held.epoch > 2)
        });
        // Beacons are heard until the cut, and the Primary's wait is the shorter one.
        assert_eq!(world.register, Some(configuration(3, "a", &["a"])));
        for id in writes {
            assert!(replied(&mut world, id).is_ok());
        }
        world.run(5 * SECOND);
        assert!(!is_primary(&world, B));
        assert!(arbitration(&world, B).why.is_some());
        world.set_cable(Cable::Fine);
        healed(&mut world);
    }
}

#[test]
fn a_primary_without_the_arbiter_gives_way_to_a_follower_that_has_it() {
    for seed in 40..60 {
        let mut world = pair(seed);
        write(&mut world, A, 1, 7);
        world.nodes[A].reach = Reach::Cut;
        cut(&mut world);
        let lost: Vec<_> = (2..12)
            .map(|block| start_write(&mut world, A, block, 9))
            .collect();
        let read = start_read(&mut world, A, 1);
        world.run_until("b is Primary", |w| is_primary(w, B));
        write(&mut world, B, 3, 8);
        assert!(lost.iter().all(|id| reply(&world, *id).is_none()));
        let late = start_read(&mut world, A, 3);
        world.run(5 * SECOND);
        assert!(reply(&world, late).is_none(), "a stale read");
        let early = reply(&world, read)
            .expect("under its lease")
            .expect("the disk is well");
        assert_eq!(early.map(|data| data[0]), Some(7));
        // The cable first: the former Primary learns from its peer, and comes back as a target.
        world.set_cable(Cable::Fine);
        world.run_until("a is superseded", |w| !is_primary(w, A));
        assert!(lost.iter().all(|id| replied(&mut world, *id).is_err()));
        assert!(replied(&mut world, late).is_err());
        healed(&mut world);
        assert_eq!(
            (stamp(&world, A, 1), stamp(&world, A, 2), stamp(&world, A, 3)),
            (7, 0, 8)
        );
    }
}

#[test]
fn a_superseded_primary_learns_it_from_the_arbiter_too() {
    let mut world = pair(60);
    world.nodes[A].reach = Reach::Cut;
    cut(&mut world);
    let open = start_write(&mut world, A, 2, 9);
    world.run_until("b is Primary", |w| is_primary(w, B));
    world.nodes[A].reach = Reach::Fine;
    world.run_until("a is superseded", |w| !is_primary(w, A));
    assert!(replied(&mut world, open).is_err());
    assert!(arbitration(&world, A)
        .superseded
        .is_some_and(|why| why.contains("epoch 3")));
    world.run(60 * SECOND);
    assert!(!is_primary(&world, A));
    world.set_cable(Cable::Fine);
    healed(&mut world);
}

#[test]
fn a_connection_that_comes_back_is_enough_with_the_arbiter_out_of_reach() {
    for seed in 61..81 {
        let mut world = pair(seed);
        without_arbiter(&mut world, Reach::Cut);
        let writes: Vec<_> = (0..20)
            .map(|block| start_write(&mut world, A, block, 7))
            .collect();
        cut(&mut world);
        world.run(10 * SECOND);
        assert!(arbitration(&world, A).suspended.is_some());
        world.set_cable(Cable::Fine);
        for id in writes {
            assert!(replied(&mut world, id).is_ok());
        }
        world.run_until("in step", both_established);
        write(&mut world, A, 30, 7);
        assert_eq!(world.register, Some(configuration(2, "a", &["a", "b"])));
        without_arbiter(&mut world, Reach::Fine);
        world.run(5 * SECOND);
        healed(&mut world);
        assert_eq!(stamp(&world, B, 19), 7);
    }
}

#[test]
fn a_swap_that_comes_true_after_the_connection_is_back_is_entered_and_grown_from() {
    for seed in 81..101 {
        let mut world = pair(seed);
        world.nodes[A].reach = Reach::Deaf;
        world.nodes[B].reach = Reach::Cut;
        cut(&mut world);
        world.run(SECOND);
        assert_eq!(world.register, Some(configuration(3, "a", &["a"])));
        world.set_cable(Cable::Fine);
        world.run_until("in step", both_established);
        write(&mut world, A, 1, 7);
        without_arbiter(&mut world, Reach::Fine);
        healed(&mut world);
        assert_eq!(world.register, Some(configuration(4, "a", &["a", "b"])));
    }
}

#[test]
fn a_grow_whose_answer_is_lost_stays_joint_until_the_arbiter_is_read_again() {
    for seed in 101..121 {
        let mut world = pair(seed);
        world.crash(B, true);
        write(&mut world, A, 1, 7);
        world.run(5 * SECOND);
        world.start(B, true);
        world.run_until("the resync ends", both_established);
        world.nodes[A].reach = Reach::Deaf;
        world.run_until("the register has both", |w| {
            w.register.as_ref().is_some_and(|held| held.in_sync.len() == 2)
        });
        world.run(SECOND);
        if serving(&world, A) == world.register {
            continue;
        }
        assert!(arbitration(&world, A).joint);
        cut(&mut world);
        let open = start_write(&mut world, A, 2, 9);
        world.run(500 * MS);
        assert!(
            reply(&world, open).is_none(),
            "acknowledged beside a node that may be promoted"
        );
        world.run_until("b is Primary", |w| is_primary(w, B));
        assert!(reply(&world, open).is_none());
        world.nodes[A].reach = Reach::Fine;
        world.set_cable(Cable::Fine);
        healed(&mut world);
    }
}

#[test]
fn both_may_campaign_and_one_wins() {
    let mut winners = BTreeSet::new();
    for seed in 121..181 {
        let mut world = pair(seed);
        write(&mut world, A, 1, 7);
        world.crash(A, false);
        world.set_cable(Cable::Cut);
        let early = world.rng.below(300 * MS);
        world.run(TIMES.lease_ns - TIMES.patience_ns - early);
        world.start(A, true);
        world.run_until("one is Primary", |w| is_primary(w, A) || is_primary(w, B));
        world.run(5 * SECOND);
        assert!(!(is_primary(&world, A) && is_primary(&world, B)));
        winners.insert(is_primary(&world, A));
        world.set_cable(Cable::Fine);
        healed(&mut world);
        assert_eq!(stamp(&world, A, 1), 7);
    }
    assert_eq!(winners.len(), 2, "the race always ends the same way: it is none");
}

#[test]
fn a_node_that_is_not_in_sync_is_never_promoted_by_itself() {
    let mut world = pair(181);
    world.crash(B, true);
    write(&mut world, A, 1, 7);
    world.crash(A, false);
    world.start(B, true);
    world.run(120 * SECOND);
    assert!(!is_primary(&world, B));
    let refused = done(&mut world, B, Command::Promote { force: false }).expect_err("it is stale");
    assert_eq!(refused.kind, ErrorKind::Unsafe);
    assert!(
        refused.message.contains("may lack acknowledged writes"),
        "{}",
        refused.message
    );
    world.start(A, true);
    healed(&mut world);
    assert_eq!(stamp(&world, B, 1), 7);
}

#[test]
fn a_target_of_a_resync_is_no_candidate() {
    let mut world = pair(182);
    without_arbiter(&mut world, Reach::Cut);
    cut(&mut world);
    let open = start_write(&mut world, A, 1, 7);
    world.run(5 * SECOND);
    world.set_cable(Cable::Fine);
    world.run_until("a resync", |w| w.replication(B) == "SyncTarget");
    world.crash(A, true);
    without_arbiter(&mut world, Reach::Fine);
    world.run(60 * SECOND);
    assert!(!is_primary(&world, B));
    world.start(A, true);
    healed(&mut world);
    assert!(reply(&world, open).is_none());
}

#[test]
fn without_automatic_failover_a_person_promotes() {
    let times = ArbitrationConfig {
        automatic: false,
        ..TIMES
    };
    let mut world = pair_with(183, Protocol::C, times);
    world.crash(A, true);
    world.run(60 * SECOND);
    assert!(!is_primary(&world, B));
    assert_eq!(world.registers.len(), 2);
    done(&mut world, B, Command::Promote { force: false }).expect("it is in sync");
    assert_eq!(world.register, Some(configuration(3, "b", &["b"])));
    world.start(A, true);
    healed(&mut world);
}

#[test]
fn the_other_protocols_keep_the_rules_too() {
    for (seed, protocol) in [(184, Protocol::A), (185, Protocol::B)] {
        let mut world = pair_with(seed, protocol, TIMES);
        write(&mut world, A, 1, 7);
        without_arbiter(&mut world, Reach::Cut);
        cut(&mut world);
        let open = start_write(&mut world, A, 2, 7);
        world.run(10 * SECOND);
        assert!(reply(&world, open).is_none());
        world.nodes[A].reach = Reach::Fine;
        assert!(replied(&mut world, open).is_ok());
        world.set_cable(Cable::Fine);
        without_arbiter(&mut world, Reach::Fine);
        healed(&mut world);
    }
}

#[test]
fn a_person_who_disconnects_makes_the_primary_go_on_alone() {
    let mut world = pair(186);
    done(&mut world, A, Command::Disconnect { peer: 0 }).expect("a disconnect");
    write(&mut world, A, 1, 7);
    assert_eq!(world.register, Some(configuration(3, "a", &["a"])));
    world.run(30 * SECOND);
    assert!(!is_primary(&world, B));
    for n in [A, B] {
        done(&mut world, n, Command::Connect { peer: 0 }).expect("a connect");
    }
    healed(&mut world);
}

#[test]
fn a_flush_waits_for_the_arbiter_as_a_write_does() {
    let mut world = pair(187);
    write(&mut world, A, 1, 7);
    without_arbiter(&mut world, Reach::Cut);
    cut(&mut world);
    let flush = world.request(A, RequestKind::Flush);
    world.run(10 * SECOND);
    assert!(
        reply(&world, flush).is_none(),
        "it is not stable at a node that may be promoted"
    );
    world.nodes[A].reach = Reach::Fine;
    assert!(replied(&mut world, flush).is_ok());
}

#[test]
fn a_primary_whose_process_is_seen_dead_is_followed_at_once() {
    let mut world = pair(188);
    write(&mut world, A, 1, 7);
    world.run(SECOND);
    let connection = world.last_connection();
    world.crash(A, false);
    world.run_until("b has lost it", |w| w.replication(B) == "Off");
    let from = world.now;
    // Of another connection, it means nothing.
    world.process_gone(B, ConnectionId(connection.0 + 1));
    world.run(100 * MS);
    assert!(!is_primary(&world, B));
    world.process_gone(B, connection);
    world.run_until("b is Primary", |w| is_primary(w, B));
    assert!(world.now - from < 200 * MS);
    world.start(A, true);
    healed(&mut world);
    assert!(is_primary(&world, B));
}

fn pair_that_detaches(seed: u64) -> World {
    let mut world = World::new(seed, Protocol::C);
    world.on_io_error = OnIoError::Detach;
    world.arbitration = Some(TIMES);
    world.start(A, false);
    world.start(B, false);
    world.run_until("both wait", |w| {
        w.replication(A) == "Waiting" && w.replication(B) == "Waiting"
    });
    done(&mut world, A, Command::Promote { force: true }).expect("the first source");
    grown(&mut world);
    write(&mut world, A, 1, 7);
    world
}

#[test]
fn a_person_that_does_not_wait_long_enough_stops_no_failover() {
    let mut world = pair(240);
    world.nodes[B].reach = Reach::Cut;
    world.crash(A, true);
    let open = |w: &World| w.nodes[B].replica.as_ref().expect("it is up").open_ask();
    world.run_until("b asks", |w| open(w).is_some());
    let asked = open(&world);
    for _ in 0..2 {
        let error = done(&mut world, B, Command::Promote { force: false }).expect_err("no answer");
        assert!(error.message.contains("cannot be reached"), "{}", error.message);
        assert_eq!(open(&world), asked, "what the arbiter has begun is begun anew");
    }
    world.nodes[B].reach = Reach::Fine;
    world.run_until("b goes on", |w| is_primary(w, B));
    world.start(A, true);
    healed(&mut world);
}

#[test]
fn a_follower_that_gives_its_disk_up_is_a_lost_peer() {
    let mut world = pair_that_detaches(189);
    let before = world.register.clone().expect("a record").epoch;
    world.nodes[B].broken = true;
    write(&mut world, A, 2, 7);
    assert_eq!(world.register, Some(configuration(before + 1, "a", &["a"])));
    world.run(60 * SECOND);
    assert!(is_primary(&world, A) && !is_primary(&world, B));
    world.crash(B, true);
    world.nodes[B].broken = false;
    world.start(B, true);
    healed(&mut world);
    assert_eq!(stamp(&world, B, 2), 7);
}

#[test]
fn a_primary_without_a_disk_is_no_candidate_and_its_stand_in_takes_over() {
    let mut world = pair_that_detaches(190);
    world.nodes[A].broken = true;
    write(&mut world, A, 2, 7);
    let read = start_read(&mut world, A, 2);
    assert!(replied(&mut world, read).is_ok(), "it goes on through its peer");
    assert_eq!(stamp(&world, B, 2), 7);
    world.crash(A, true);
    world.nodes[A].broken = false;
    world.run_until("b is Primary", |w| is_primary(w, B));
    world.crash(B, false);
    world.start(A, true);
    world.run(60 * SECOND);
    assert!(!is_primary(&world, A), "its copy is stale");
    world.start(B, true);
    healed(&mut world);
    assert_eq!(stamp(&world, A, 2), 7);
}
