//! `--force`: without the arbiter's word, on a person's.

use super::*;

#[test]
fn a_forced_follower_brings_the_register_up_to_date_when_it_can() {
    let mut world = pair(501);
    write(&mut world, A, 1, 7);
    without_arbiter(&mut world, Reach::Cut);
    world.crash(A, true);
    world.run(SECOND);
    done(&mut world, B, Command::Promote { force: true }).expect("by force");
    write(&mut world, B, 2, 8);
    assert_eq!(world.registers.len(), 2);
    without_arbiter(&mut world, Reach::Fine);
    world.run_until("the arbiter hears of it", |w| w.registers.len() > 2);
    assert_eq!(
        world.register.as_ref().map(|held| held.primary.as_str()),
        Some("b")
    );
    world.start(A, true);
    healed(&mut world);
    assert!(is_primary(&world, B));
}

#[test]
fn a_forced_node_that_the_register_does_not_name_gives_way() {
    let mut world = pair(502);
    write(&mut world, A, 1, 7);
    world.nodes[B].reach = Reach::Cut;
    cut(&mut world);
    write(&mut world, A, 2, 7);
    done(&mut world, B, Command::Promote { force: true }).expect("by force");
    write(&mut world, B, 3, 9);
    world.nodes[B].reach = Reach::Fine;
    world.run_until("b gives way", |w| !is_primary(w, B));
    assert!(is_primary(&world, A));
    world.set_cable(Cable::Fine);
    world.run_until("the split brain is found", |w| {
        w.nodes
            .iter()
            .all(|node| node.records.contains(&"split_brain.found"))
    });
}

#[test]
fn a_waiting_primary_goes_on_by_force() {
    let mut world = pair(503);
    without_arbiter(&mut world, Reach::Cut);
    world.crash(B, true);
    let open = start_write(&mut world, A, 1, 7);
    world.run(5 * SECOND);
    done(&mut world, A, Command::Promote { force: true }).expect("by force");
    assert!(replied(&mut world, open).is_ok());
    assert!(arbitration(&world, A).suspended.is_none());
    assert!(world.nodes[A].records.contains(&"role.forced"));
    without_arbiter(&mut world, Reach::Fine);
    world.start(B, true);
    healed(&mut world);
    assert_eq!(stamp(&world, B, 1), 7);
}

#[test]
fn a_waiting_primary_that_nobody_forced_gives_way_to_a_forced_follower() {
    let mut world = pair(504);
    without_arbiter(&mut world, Reach::Cut);
    cut(&mut world);
    let open = start_write(&mut world, A, 1, 9);
    world.run(5 * SECOND);
    done(&mut world, B, Command::Promote { force: true }).expect("by force");
    write(&mut world, B, 2, 8);
    world.set_cable(Cable::Fine);
    world.run_until("a gives way", |w| !is_primary(w, A));
    assert!(replied(&mut world, open).is_err());
    without_arbiter(&mut world, Reach::Fine);
    healed(&mut world);
    assert!(is_primary(&world, B));
}

#[test]
fn a_person_may_force_while_another_one_waits() {
    let mut world = pair(505);
    without_arbiter(&mut world, Reach::Cut);
    world.crash(A, true);
    let waits = world.command(B, Command::Promote { force: false });
    world.run(SECOND);
    done(&mut world, B, Command::Promote { force: true }).expect("by force");
    assert!(world.commands[&waits].is_err());
    assert!(is_primary(&world, B));
}

#[test]
fn a_forced_node_that_is_demoted_stays_so_when_the_other_one_is_back() {
    let mut world = pair(506);
    write(&mut world, A, 1, 7);
    cut(&mut world);
    write(&mut world, A, 2, 7);
    done(&mut world, B, Command::Promote { force: true }).expect("by force");
    write(&mut world, B, 3, 9);
    done(&mut world, B, Command::Demote).expect("a demotion");
    world.set_cable(Cable::Fine);
    world.run_until("the split brain is found", |w| {
        w.nodes
            .iter()
            .all(|node| node.records.contains(&"split_brain.found"))
    });
    world.run(60 * SECOND);
    assert!(!is_primary(&world, B));
}
