//! ONCE, RESUME: what a node does that comes back.

use super::*;

#[test]
fn a_primary_whose_peer_follows_resumes_without_the_arbiter() {
    for seed in 201..221 {
        let mut world = pair(seed);
        write(&mut world, A, 1, 7);
        without_arbiter(&mut world, Reach::Cut);
        world.crash(A, false);
        world.run(100 * MS);
        world.start(A, true);
        world.run_until("a is Primary", |w| is_primary(w, A));
        write(&mut world, A, 2, 8);
        assert_eq!(world.registers.len(), 2);
        without_arbiter(&mut world, Reach::Fine);
        healed(&mut world);
    }
}

#[test]
fn a_primary_that_comes_back_alone_takes_a_new_epoch() {
    let mut world = pair(221);
    write(&mut world, A, 1, 7);
    world.crash(B, true);
    world.crash(A, true);
    world.start(A, true);
    world.run_until("a is Primary", |w| is_primary(w, A));
    assert_eq!(world.register, Some(configuration(3, "a", &["a"])));
    write(&mut world, A, 2, 8);
    world.start(B, true);
    healed(&mut world);
}

#[test]
fn a_primary_that_comes_back_without_arbiter_and_peer_waits() {
    let mut world = pair(222);
    world.crash(B, true);
    world.crash(A, true);
    without_arbiter(&mut world, Reach::Cut);
    world.start(A, true);
    world.run(60 * SECOND);
    assert!(!is_primary(&world, A));
    assert_eq!(arbitration(&world, A).want, Some("resume"));
    without_arbiter(&mut world, Reach::Fine);
    world.run_until("a is Primary", |w| is_primary(w, A));
}

#[test]
fn a_former_primary_that_was_superseded_comes_back_as_a_target() {
    for seed in 223..243 {
        let mut world = pair(seed);
        let open: Vec<_> = (0..20)
            .map(|block| start_write(&mut world, A, block, 7))
            .collect();
        world.run(world_pause(seed));
        world.crash(A, true);
        let acknowledged: Vec<u64> = (0..20)
            .filter(|n| reply(&world, open[*n as usize]).is_some())
            .collect();
        world.run_until("b is Primary", |w| is_primary(w, B));
        for block in acknowledged {
            assert_eq!(stamp(&world, B, block), 7, "an acknowledged write is lost");
        }
        if seed % 2 == 0 {
            write(&mut world, B, 30, 8);
        }
        world.start(A, true);
        healed(&mut world);
        assert!(is_primary(&world, B));
    }
}

fn world_pause(seed: u64) -> u64 {
    (seed % 5) * MS / 4
}

#[test]
fn a_node_that_dies_between_promise_and_swap_or_after_does_no_harm() {
    for (seed, after) in (243..300).zip((0..).map(|n| n * MS / 8)) {
        let mut world = pair(seed);
        write(&mut world, A, 1, 7);
        cut(&mut world);
        world.nodes[A].reach = Reach::Cut;
        if seed % 3 == 0 {
            world.nodes[B].reach = Reach::Late(3 * SECOND);
        }
        world.run_until("b promises", |w| arbitration(w, B).promised > 2);
        world.run(after);
        world.crash(B, true);
        world.set_cable(Cable::Fine);
        world.run(SECOND);
        world.start(B, true);
        world.nodes[A].reach = Reach::Fine;
        world.nodes[B].reach = Reach::Fine;
        healed(&mut world);
        assert_eq!(stamp(&world, B, 1), 7);
    }
}

#[test]
fn both_that_lost_power_come_back_to_one_primary() {
    for seed in 300..320 {
        let mut world = pair(seed);
        write(&mut world, A, 1, 7);
        world.request(A, RequestKind::Flush);
        world.run(100 * MS);
        world.crash(A, true);
        world.crash(B, true);
        world.run(10 * SECOND);
        let first = (seed % 2) as usize;
        world.start(first, true);
        world.run(if seed % 4 < 2 { MS } else { 3 * SECOND });
        world.start(1 - first, true);
        healed(&mut world);
        assert_eq!(stamp(&world, B, 1), 7);
    }
}

#[test]
fn a_follower_alone_after_a_power_cut_goes_on() {
    let mut world = pair(320);
    write(&mut world, A, 1, 7);
    world.request(A, RequestKind::Flush);
    world.run(100 * MS);
    world.crash(A, true);
    world.crash(B, true);
    world.start(B, true);
    world.run_until("b is Primary", |w| is_primary(w, B));
    assert_eq!(stamp(&world, B, 1), 7);
    world.start(A, true);
    healed(&mut world);
    assert!(is_primary(&world, B));
}

#[test]
fn a_stop_while_everything_waits_ends_and_the_next_start_goes_on() {
    let mut world = pair(321);
    without_arbiter(&mut world, Reach::Cut);
    world.crash(B, true);
    let open = start_write(&mut world, A, 1, 7);
    world.run(5 * SECOND);
    done(&mut world, A, Command::Stop).expect("a stop");
    assert!(reply(&world, open).is_some_and(|result| result.is_err()));
    world.crash(A, false);
    without_arbiter(&mut world, Reach::Fine);
    world.start(A, true);
    world.run_until("a is Primary", |w| is_primary(w, A));
    world.start(B, true);
    healed(&mut world);
}

#[test]
fn the_answer_to_an_earlier_life_is_not_taken_for_ones_own() {
    for seed in 322..342 {
        let mut world = pair(seed);
        // A SHRINK that takes three seconds to get to the arbiter; its sender is gone by then.
        world.nodes[A].reach = Reach::Late(3 * SECOND);
        world.crash(B, true);
        world.run(SECOND);
        world.crash(A, true);
        world.nodes[A].reach = Reach::Fine;
        world.start(A, true);
        world.run_until("a is Primary", |w| is_primary(w, A));
        write(&mut world, A, 1, 7);
        world.run(5 * SECOND);
        assert!(arbitration(&world, A).suspended.is_none());
        world.start(B, true);
        healed(&mut world);
    }
}

#[test]
fn a_handshake_that_survives_a_promotion_is_told_of_it() {
    for seed in 342..382 {
        let mut world = pair(seed);
        write(&mut world, A, 1, 7);
        world.request(A, RequestKind::Flush);
        world.run(100 * MS);
        world.crash(A, true);
        world.crash(B, true);
        world.set_cable(Cable::Cut);
        world.start(A, true);
        world.start(B, true);
        // Its peer's dials find it about when it asks the arbiter.
        let before = world.rng.below(60 * MS);
        world.run(TIMES.patience_ns - before);
        world.set_cable(Cable::Fine);
        healed(&mut world);
    }
}

#[test]
fn a_generation_that_is_opened_during_a_handshake_is_not_missed_by_it() {
    for span in 0..60 {
        let mut world = pair(700 + span);
        done(&mut world, A, Command::Demote).expect("a demotion");
        // It has given leave: its next promotion opens a generation.
        without_arbiter(&mut world, Reach::Cut);
        done(&mut world, B, Command::Promote { force: false }).expect_err("nobody to say so");
        without_arbiter(&mut world, Reach::Fine);
        world.crash(A, true);
        world.start(A, true);
        world.run(span * MS / 40);
        world.nodes[B].frozen = world.now + 2 * SECOND;
        done(&mut world, A, Command::Promote { force: false }).expect("it is in sync");
        healed(&mut world);
        let generations = [A, B].map(|n| world.status(n).map(|s| s.generation.current));
        assert_eq!(generations[0], generations[1], "span {span}");
    }
}
