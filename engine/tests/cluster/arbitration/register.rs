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
