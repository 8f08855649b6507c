//! HANDOVER: demote here, promote there.

use super::*;

#[test]
fn demote_then_promote_on_the_other_side_keeps_both_in_sync() {
    for seed in 401..411 {
        let mut world = pair(seed);
        write(&mut world, A, 1, 7);
        done(&mut world, A, Command::Demote).expect("a demotion");
        assert!(serving(&world, A).is_none());
        done(&mut world, B, Command::Promote { force: false }).expect("a promotion");
        assert_eq!(world.register, Some(configuration(3, "b", &["a", "b"])));
        write(&mut world, B, 2, 8);
        let read = start_read(&mut world, B, 1);
        assert!(replied(&mut world, read).is_ok());
        healed(&mut world);
        done(&mut world, B, Command::Demote).expect("a demotion");
        done(&mut world, A, Command::Promote { force: false }).expect("a promotion");
        healed(&mut world);
        assert_eq!(world.register, Some(configuration(4, "a", &["a", "b"])));
    }
}

#[test]
fn demoted_and_promoted_again_takes_a_new_epoch() {
    let mut world = pair(411);
    done(&mut world, A, Command::Demote).expect("a demotion");
    done(&mut world, A, Command::Promote { force: false }).expect("a promotion");
    assert_eq!(world.register, Some(configuration(3, "a", &["a", "b"])));
    healed(&mut world);
}

#[test]
fn a_demoted_resource_stays_so_when_the_other_node_is_lost() {
    let mut world = pair(412);
    done(&mut world, A, Command::Demote).expect("a demotion");
    world.crash(A, true);
    world.run(60 * SECOND);
    assert!(!is_primary(&world, B));
    done(&mut world, B, Command::Promote { force: false }).expect("it is in sync");
    world.start(A, true);
    healed(&mut world);
}

#[test]
fn a_survivor_that_a_person_demotes_stays_so_and_is_promoted_by_a_person() {
    for restarted in [false, true] {
        let mut world = pair(415);
        world.crash(A, true);
        world.run_until("b takes over", |w| is_primary(w, B));
        if restarted {
            // It never meets its peer then.
            world.crash(B, false);
            world.start(B, true);
            world.run_until("b resumes", |w| is_primary(w, B));
        }
        done(&mut world, B, Command::Demote).expect("a demotion");
        world.run(60 * SECOND);
        assert!(!is_primary(&world, B));
        done(&mut world, B, Command::Promote { force: false }).expect("it is in sync alone");
        world.start(A, false);
        healed(&mut world);
    }
}

#[test]
fn a_promotion_without_the_arbiter_ends_in_bounded_time() {
    let mut world = pair(413);
    done(&mut world, A, Command::Demote).expect("a demotion");
    without_arbiter(&mut world, Reach::Cut);
    let from = world.now;
    let error = done(&mut world, B, Command::Promote { force: false }).expect_err("no arbiter");
    assert!(error.message.contains("cannot be reached"), "{}", error.message);
    assert!(world.now - from <= TIMES.lease_ns + 6 * SECOND);
    without_arbiter(&mut world, Reach::Fine);
    done(&mut world, B, Command::Promote { force: false }).expect("the arbiter is back");
    healed(&mut world);
}

#[test]
fn a_promotion_beside_a_primary_is_refused() {
    let mut world = pair(414);
    let error = done(&mut world, B, Command::Promote { force: false }).expect_err("a is Primary");
    assert!(error.message.contains("is Primary"), "{}", error.message);
    assert_eq!(world.registers.len(), 2);
}

#[test]
fn a_peer_that_comes_back_while_a_person_waits_is_asked_too() {
    for seed in 415..425 {
        let mut world = pair(seed);
        done(&mut world, A, Command::Demote).expect("a demotion");
        cut(&mut world);
        without_arbiter(&mut world, Reach::Cut);
        let id = world.command(B, Command::Promote { force: false });
        world.run(SECOND);
        world.set_cable(Cable::Fine);
        world.run_until("in step", both_established);
        without_arbiter(&mut world, Reach::Fine);
        world.run_until("an answer", |w| w.commands.contains_key(&id));
        assert!(world.commands[&id].is_ok());
        healed(&mut world);
        assert!(is_primary(&world, B));
    }
}

#[test]
fn an_answer_that_was_lost_is_found_by_the_next_try() {
    let mut world = pair(425);
    done(&mut world, A, Command::Demote).expect("a demotion");
    world.nodes[B].reach = Reach::Deaf;
    done(&mut world, B, Command::Promote { force: false }).expect_err("no answer");
    world.nodes[B].reach = Reach::Fine;
    done(&mut world, B, Command::Promote { force: false }).expect("the arbiter is back");
    healed(&mut world);
}

#[test]
fn whom_leave_was_given_to_and_is_lost_is_taken_over_from() {
    let mut world = pair(427);
    done(&mut world, A, Command::Demote).expect("a demotion");
    world.command(B, Command::Promote { force: false });
    world.run_until("b is named", |w| {
        w.register.as_ref().is_some_and(|held| held.primary == "b")
    });
    // Before a has heard of it.
    world.set_cable(Cable::Cut);
    world.crash(B, true);
    world.run_until("a goes on", |w| is_primary(w, A));
    world.set_cable(Cable::Fine);
    world.start(B, true);
    healed(&mut world);
}

#[test]
fn a_demotion_is_refused_while_writes_wait() {
    let mut world = pair(426);
    without_arbiter(&mut world, Reach::Cut);
    world.crash(B, true);
    world.run(5 * SECOND);
    let error = done(&mut world, A, Command::Demote).expect_err("its writes wait");
    assert!(error.message.contains("wait"), "{}", error.message);
}

#[test]
fn a_primary_whose_disk_refused_a_write_and_that_is_promoted_again_gets_in_step() {
    let mut world = pair(40);
    world.nodes[A].broken = true;
    let refused = start_write(&mut world, A, 3, 7);
    assert_eq!(replied(&mut world, refused), Err(Errno::EIO));
    world.nodes[A].broken = false;
    done(&mut world, A, Command::Demote).expect("a demotion");
    done(&mut world, A, Command::Promote { force: false }).expect("a promotion");
    grown(&mut world);
    assert_eq!(stamp(&world, A, 3), stamp(&world, B, 3));
}
