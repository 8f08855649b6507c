//! RESEED, LATE, RENEW: a register that has lost what it knew, or knows more than was thought.

use super::*;

#[test]
fn a_lost_register_is_given_its_record_again_by_both_nodes_together() {
    for old in [None, Some(configuration(1, "a", &["a"]))] {
        let mut world = pair(701);
        world.register = old;
        world.crash(B, true);
        let open = start_write(&mut world, A, 1, 7);
        world.run(20 * SECOND);
        assert!(reply(&world, open).is_none(), "nobody goes on by it");
        assert!(arbitration(&world, A)
            .why
            .is_some_and(|why| why.contains("lost its record")));
        world.start(B, true);
        assert!(replied(&mut world, open).is_ok());
        world.run_until("the record is back", |w| {
            w.register.as_ref().is_some_and(|held| held.epoch >= 3)
        });
        healed(&mut world);
        world.crash(A, true);
        world.run_until("b is Primary", |w| is_primary(w, B));
    }
}

#[test]
fn a_follower_does_not_go_by_a_register_that_knows_less_than_it_does() {
    for old in [None, Some(configuration(1, "b", &["b"]))] {
        let mut world = pair(702);
        world.register = old;
        world.crash(A, true);
        world.run(60 * SECOND);
        assert!(!is_primary(&world, B));
        let error = done(&mut world, B, Command::Promote { force: false }).expect_err("it lost its record");
        assert!(error.message.contains("lost what it knew"), "{}", error.message);
        done(&mut world, B, Command::Promote { force: true }).expect("by force");
        world.run_until("the record is back", |w| {
            w.register
                .as_ref()
                .is_some_and(|held| held.epoch > 2 && held.primary == "b")
        });
        world.start(A, true);
        healed(&mut world);
    }
}

#[test]
fn a_campaign_that_failed_makes_the_primary_take_a_higher_epoch() {
    for seed in 703..723 {
        let mut world = pair(seed);
        without_arbiter(&mut world, Reach::Cut);
        cut(&mut world);
        // b reads the register, promises, and then nothing of its swap gets through.
        world.nodes[B].reach = Reach::Late(30 * SECOND);
        world.run_until("b promises", |w| arbitration(w, B).promised > 2);
        world.set_cable(Cable::Fine);
        let open = start_write(&mut world, A, 1, 7);
        world.run(10 * SECOND);
        assert!(
            reply(&world, open).is_none(),
            "beside a node that may be Primary by now"
        );
        world.nodes[A].reach = Reach::Fine;
        assert!(replied(&mut world, open).is_ok());
        healed(&mut world);
        assert!(world
            .register
            .as_ref()
            .is_some_and(|held| held.epoch > 3 && held.primary == "a"));
        world.run(40 * SECOND);
        healed(&mut world);
    }
}

#[test]
fn a_register_lost_after_a_promise_is_given_its_record_again_by_both_nodes_together() {
    for (seed, restarts) in (730..750).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut world = pair(seed);
        without_arbiter(&mut world, Reach::Cut);
        cut(&mut world);
        world.nodes[B].reach = Reach::Late(30 * SECOND);
        world.run_until("b promises", |w| arbitration(w, B).promised > 2);
        // Durably.
        world.run(100 * MS);
        world.register = (seed % 2 == 0).then(|| configuration(1, "a", &["a"]));
        if restarts {
            world.crash(B, true);
            world.start(B, true);
        }
        let open = start_write(&mut world, A, 1, 7);
        world.set_cable(Cable::Fine);
        world.run(10 * SECOND);
        assert!(reply(&world, open).is_none(), "nobody goes on by it");
        without_arbiter(&mut world, Reach::Fine);
        assert!(replied(&mut world, open).is_ok());
        healed(&mut world);
        assert!(world
            .register
            .as_ref()
            .is_some_and(|held| held.epoch > 3 && held.primary == "a"));
        world.crash(A, true);
        world.run_until("b is Primary", |w| is_primary(w, B));
    }
}

#[test]
fn who_gave_the_record_again_waits_for_its_peer_to_be_in_that_epoch() {
    for seed in 760..780 {
        let mut world = pair(seed);
        world.register = None;
        cut(&mut world);
        world.run_until("a knows", |w| {
            arbitration(w, A)
                .why
                .is_some_and(|why| why.contains("lost its record"))
        });
        world.set_cable(Cable::Fine);
        world.run_until("the record is back", |w| w.register.is_some());
        // b may still go by what another arbiter holds, from which this one was moved.
        world.set_cable(Cable::Cut);
        world.nodes[B].reach = Reach::Cut;
        let given = world.register.clone();
        let open = start_write(&mut world, A, 1, 7);
        world.run(20 * SECOND);
        assert!(reply(&world, open).is_none(), "beside a peer of an older epoch");
        assert!(given == world.register, "alone on record");
        let why = arbitration(&world, A).why.expect("it waits");
        assert!(why.contains("must be in that epoch first"), "{why}");
        world.set_cable(Cable::Fine);
        assert!(replied(&mut world, open).is_ok());
        healed(&mut world);
    }
}

#[test]
fn an_arbiter_that_is_asked_again_is_not_believed_what_it_remembers() {
    for seed in 790..800 {
        let mut world = pair(seed);
        done(&mut world, A, Command::Demote).expect("a demotion");
        world.arbitration = None;
        for n in [A, B] {
            world.crash(n, true);
            world.start(n, true);
        }
        world.run_until("in step", both_established);
        done(&mut world, A, Command::Promote { force: false }).expect("nobody arbitrates");
        write(&mut world, A, 1, 7);
        // One node after the other.
        world.arbitration = Some(TIMES);
        world.crash(B, true);
        world.start(B, true);
        world.run_until("in step", both_established);
        world.set_cable(Cable::Cut);
        write(&mut world, A, 2, 8);
        world.crash(A, false);
        world.run(60 * SECOND);
        assert!(!is_primary(&world, B), "without what was acknowledged");
        let error =
            done(&mut world, B, Command::Promote { force: false }).expect_err("it may lack something");
        assert!(error.message.contains("lost what it knew"), "{}", error.message);
        world.set_cable(Cable::Fine);
        world.start(A, true);
        healed(&mut world);
        assert!(is_primary(&world, A) && stamp(&world, B, 2) == 8);
    }
}

#[test]
fn only_a_person_makes_the_first_configuration() {
    let mut world = world(723, Protocol::C, TIMES);
    let source = SyncSource::Myself;
    done(&mut world, A, Command::SyncFrom { source }).expect("the first sync");
    world.run_until("the first sync", both_established);
    world.run(60 * SECOND);
    assert!(world.registers.is_empty() && !is_primary(&world, A) && !is_primary(&world, B));
    without_arbiter(&mut world, Reach::Cut);
    done(&mut world, A, Command::Promote { force: false }).expect_err("no arbiter");
    without_arbiter(&mut world, Reach::Fine);
    done(&mut world, A, Command::Promote { force: false }).expect("a promotion");
    healed(&mut world);
}
