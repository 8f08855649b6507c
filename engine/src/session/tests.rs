//! What a session must do whatever the network does.

mod network;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use network::{World, FRAME_BYTES, MILLISECOND, PEER_TIMEOUT};

#[derive(Clone, Debug)]
enum Step {
    Send {
        side: usize,
        count: u8,
    },
    Deliver {
        side: usize,
        path: usize,
        count: u8,
        oldest: bool,
    },
    Cut {
        path: usize,
        lost: [usize; 2],
    },
    Hold {
        side: usize,
        path: usize,
        held: bool,
    },
    Refuse {
        path: usize,
        refuses: bool,
    },
    Pass {
        milliseconds: u64,
    },
    Repeat(bool),
}

fn step(paths: impl Strategy<Value = usize> + Clone + 'static) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_usize, 1..20_u8).prop_map(|(side, count)| Step::Send { side, count }),
        6 => (0..2_usize, 0..2_usize, 1..40_u8, any::<bool>()).prop_map(|(side, path, count, oldest)| Step::Deliver {
            side, path, count, oldest
        }),
        1 => (paths.clone(), 0..9_usize, 0..9_usize).prop_map(|(path, a, b)| Step::Cut { path, lost: [a, b] }),
        1 => (0..2_usize, paths.clone(), any::<bool>())
            .prop_map(|(side, path, held)| Step::Hold { side, path, held }),
        1 => (paths, any::<bool>()).prop_map(|(path, refuses)| Step::Refuse { path, refuses }),
        2 => (1..900_u64).prop_map(|milliseconds| Step::Pass { milliseconds }),
        1 => any::<bool>().prop_map(Step::Repeat),
    ]
}

impl World {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Send { side, count } => (0..count).for_each(|_| self.send(side)),
            Step::Deliver {
                side,
                path,
                count,
                oldest,
            } => {
                for _ in 0..count {
                    self.deliver(side, path, oldest);
                }
            }
            Step::Cut { path, lost } => self.cut(path, lost),
            Step::Hold { side, path, held } => self.cables[path].held[side] = held,
            Step::Refuse { path, refuses } => self.cables[path].refuses = refuses,
            Step::Pass { milliseconds } => self.pass(milliseconds * MILLISECOND),
            Step::Repeat(repeats) => self.repeats = repeats,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens to both paths: what arrives is what was sent, in order and once, and the session is never
    /// said to be lost while a path is open.
    #[test]
    fn what_arrives_is_what_was_sent(steps in vec(step(0..2_usize), 1..300)) {
        let mut world = World::ready();
        for step in &steps {
            world.take(step);
            for side in 0..2 {
                let open = (0..2).any(|path| world.own(side, path).is_some());
                prop_assert!(!world.sides[side].ended || !open);
            }
        }
        for cable in &mut world.cables {
            cable.held = [false, false];
            cable.refuses = false;
        }
        world.run(2 * PEER_TIMEOUT);
        // Both sides agree in the end on whether it is over; if it is not, nothing is missing.
        prop_assert_eq!(world.sides[0].ended, world.sides[1].ended);
        prop_assert!(world.sides[0].ended || world.arrived());
        if !world.sides[0].ended {
            prop_assert!(world.sides[0].session.kept_bytes() == 0 && world.sides[1].session.kept_bytes() == 0);
        }
    }

    /// Path 1 never fails and is prompt: whatever happens to path 0, everything arrives, soon.
    #[test]
    fn one_good_path_is_enough(steps in vec(step(Just(0_usize)), 1..300)) {
        let mut world = World::ready();
        for step in &steps {
            world.take(step);
            while (0..2).any(|side| world.deliver(side, 1, true)) {}
            prop_assert!(!world.sides[0].ended && !world.sides[1].ended);
        }
        // Path 0 stays as it is, held or not.
        world.run(PEER_TIMEOUT * 2 / 3);
        prop_assert!(world.arrived());
        // And from here on, once what is silent has been given up, nothing waits.
        world.send(0);
        world.send(1);
        world.run(PEER_TIMEOUT);
        prop_assert!(world.arrived());
    }
}

#[test]
fn a_cut_loses_nothing_and_goes_on_at_once() {
    let mut world = World::ready();
    for _ in 0..100 {
        world.send(0);
        world.send(1);
    }
    for _ in 0..30 {
        world.deliver(1, 0, true);
    }
    world.cut(0, [usize::MAX, usize::MAX]);
    world.settle();
    assert!(world.arrived());
    assert_eq!(world.state(0, 1), PathState::Active);
    assert_eq!(world.state(1, 1), PathState::Active);
}

#[test]
fn what_comes_late_on_the_old_path_is_not_taken_twice() {
    let mut world = World::ready();
    for _ in 0..100 {
        world.send(0);
    }
    // The follower's path 0 is up and slow; the leader's end of it is gone.
    world.close(0, 0);
    let mut out = Vec::new();
    world.sides[0].session.down(0, "reset", world.now, &mut out);
    world.obey(0, out);
    while (0..2).any(|side| world.deliver(side, 1, true)) {}
    assert!(world.arrived());
    world.settle();
    assert!(world.arrived());
}

#[test]
fn silence_in_either_direction_is_noticed_and_in_time() {
    for held in [0, 1] {
        let mut world = World::ready();
        world.run(PEER_TIMEOUT);
        world.cables[0].held[held] = true;
        world.cables[0].refuses = true;
        for _ in 0..10 {
            world.send(0);
            world.send(1);
        }
        world.run(PEER_TIMEOUT / 4 + PEER_TIMEOUT / 100);
        if !world.arrived() {
            world.run(PEER_TIMEOUT / 4 + PEER_TIMEOUT / 100);
        }
        assert!(world.arrived(), "silent towards {held}");
        assert_eq!(world.state(0, 0), PathState::Down);
        assert_eq!(world.state(1, 0), PathState::Down);
        // However often it is tried in vain, it is told once.
        world.run(10 * PEER_TIMEOUT);
        for side in &world.sides {
            let downs = side
                .changes
                .iter()
                .filter(|(path, change)| *path == 0 && matches!(change, Change::Down { .. }));
            assert_eq!(downs.count(), 1, "{:?}", side.changes);
        }
    }
}

#[test]
fn when_all_paths_are_silent_nothing_is_decided() {
    let mut world = World::ready();
    for cable in &mut world.cables {
        cable.held = [true, true];
    }
    world.send(0);
    world.run(PEER_TIMEOUT);
    assert_eq!(world.state(0, 0), PathState::Active);
    assert_eq!(world.state(0, 1), PathState::Standby);
    for cable in &mut world.cables {
        cable.held = [false, false];
    }
    world.run(PEER_TIMEOUT / 10);
    assert!(world.arrived() && !world.sides[0].ended);
}

#[test]
fn no_path_left_is_the_end_on_both_sides() {
    let mut world = World::ready();
    for cable in &mut world.cables {
        cable.refuses = true;
    }
    world.cut(0, [0, 0]);
    world.cut(1, [0, 0]);
    world.settle();
    assert!(world.sides[0].ended && world.sides[1].ended);
}

#[test]
fn the_preferred_path_is_returned_to_and_a_restless_one_later_each_time() {
    let mut world = World::ready();
    let mut waits = Vec::new();
    for _ in 0..3 {
        world.cut(0, [0, 0]);
        world.settle();
        assert_eq!(world.state(0, 1), PathState::Active);
        let start = world.now;
        while world.state(0, 0) != PathState::Active {
            world.send(0);
            world.run(10 * MILLISECOND);
            assert!(world.now < start + 10 * PEER_TIMEOUT);
        }
        waits.push(world.now - start);
        assert_eq!(world.state(1, 0), PathState::Active);
        assert!(world.arrived());
    }
    assert!(
        waits[0] < PEER_TIMEOUT && waits[1] > waits[0] && waits[2] > waits[1],
        "{waits:?}"
    );
}

#[test]
fn what_is_kept_is_acknowledged_under_load_and_when_it_ends() {
    let mut world = World::ready();
    for _ in 0..10_000 {
        world.send(0);
        world.settle();
        let kept = world.sides[0].session.kept_bytes();
        assert!(kept <= (1 << 20) + FRAME_BYTES, "{kept} bytes kept");
    }
    world.run(PEER_TIMEOUT / 10);
    assert_eq!(world.sides[0].session.kept_bytes(), 0);
}

#[test]
fn idle_paths_are_kept_alive_with_little() {
    let mut world = World::ready();
    world.run(10 * PEER_TIMEOUT);
    assert_eq!(world.state(0, 0), PathState::Active);
    assert_eq!(world.state(1, 1), PathState::Standby);
    for side in &world.sides {
        assert!(
            side.changes.iter().all(|(_, change)| *change == Change::Up),
            "{:?}",
            side.changes
        );
    }
}

#[test]
fn what_cannot_be_meant_ends_the_session() {
    let mut out = Vec::new();
    let mut session: Session<u32> = Session::follow(2, 0, PEER_TIMEOUT, 0);
    session.send(1, 1, 0);
    session.send(2, 1, 0);
    let acknowledge = |received| Control::Acknowledge { received };
    let resume = |turn, received| Control::Resume { turn, received };
    assert_eq!(
        session.control(0, acknowledge(3), 0, &mut out),
        Err(Violation::NeverSent { received: 3, sent: 2 })
    );
    session.control(0, acknowledge(2), 0, &mut out).unwrap();
    // Overtaken on another path: no harm.
    session.control(0, acknowledge(1), 0, &mut out).unwrap();
    assert_eq!(
        session.control(0, resume(1, 1), 0, &mut out),
        Err(Violation::WentBack {
            received: 1,
            before: 2
        })
    );
    let mut leader: Session<u32> = Session::lead(2, 0, PEER_TIMEOUT, 0);
    leader.agree();
    assert_eq!(
        leader.control(0, resume(1, 0), 0, &mut out),
        Err(Violation::Turn { turn: 1 })
    );
}
