//! Two sessions, and between them a network that cuts, holds up, goes silent one way, and delivers late.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::core::Time;

const MILLISECOND: Time = 1_000_000;
const PEER_TIMEOUT: Time = 6_000 * MILLISECOND;
const LEADER: usize = 0;
const FRAME_BYTES: usize = 4096;

#[derive(Clone, Debug)]
enum Item {
    Join,
    Frame(u32),
    Control(Control),
    End,
}

/// One TCP connection: what is under way to each side, in order.
struct Connection {
    under_way: [VecDeque<Item>; 2],
    open: [bool; 2],
}

/// What connects two addresses.
#[derive(Default)]
struct Cable {
    /// The newest first of all that still deliver something.
    connections: Vec<Connection>,
    /// Nothing passes towards that side for now.
    held: [bool; 2],
    /// No connection can be made.
    refuses: bool,
}

struct Side {
    session: Session<u32>,
    sent: u32,
    delivered: Vec<u32>,
    ended: bool,
    changes: Vec<(PathIndex, Change)>,
}

struct World {
    now: Time,
    cables: Vec<Cable>,
    sides: [Side; 2],
}

impl World {
    fn new(paths: usize) -> World {
        let side = |session| Side {
            session,
            sent: 0,
            delivered: Vec::new(),
            ended: false,
            changes: Vec::new(),
        };
        let mut leader = Session::lead(paths, 0, PEER_TIMEOUT, 0);
        leader.agree();
        let mut world = World {
            now: 0,
            cables: (0..paths).map(|_| Cable::default()).collect(),
            sides: [side(leader), side(Session::follow(paths, 0, PEER_TIMEOUT, 0))],
        };
        world.connect(0);
        world
    }

    fn connect(&mut self, path: PathIndex) {
        let connection = Connection {
            under_way: [VecDeque::new(), VecDeque::new()],
            open: [true, true],
        };
        self.cables[path].connections.insert(0, connection);
    }

    /// The connection that `side` has on this path.
    fn own(&mut self, side: usize, path: PathIndex) -> Option<&mut Connection> {
        self.cables[path]
            .connections
            .iter_mut()
            .find(|connection| connection.open[side])
    }

    fn put(&mut self, side: usize, path: PathIndex, item: Item) {
        if let Some(connection) = self.own(side, path) {
            connection.under_way[1 - side].push_back(item);
        }
    }

    fn close(&mut self, side: usize, path: PathIndex) {
        if let Some(connection) = self.own(side, path) {
            connection.under_way[1 - side].push_back(Item::End);
            connection.under_way[side].clear();
            connection.open[side] = false;
        }
    }

    fn obey(&mut self, side: usize, out: Vec<Output<u32>>) {
        for output in out {
            match output {
                Output::Control { path, control } => self.put(side, path, Item::Control(control)),
                Output::Again { path, frame } => self.put(side, path, Item::Frame(frame)),
                Output::Close { path } => self.close(side, path),
                Output::Changed { path, change } => self.sides[side].changes.push((path, change)),
                Output::Dial { path } => {
                    assert_eq!(side, LEADER, "only the leader dials");
                    let mut out = Vec::new();
                    let now = self.now;
                    let session = &mut self.sides[side].session;
                    if self.cables[path].refuses {
                        session.down(path, "refused", now, &mut out);
                    } else {
                        session.connected(path, now, &mut out);
                        self.connect(path);
                        // The other side's end is its own once the Hello has arrived.
                        self.cables[path].connections[0].open[1] = false;
                        self.put(side, path, Item::Join);
                    }
                    self.obey(side, out);
                }
            }
        }
        let side_lost = self.sides[side].session.is_lost();
        if side_lost && !self.sides[side].ended {
            self.sides[side].ended = true;
            for path in 0..self.cables.len() {
                self.close(side, path);
            }
        }
    }

    fn send(&mut self, side: usize) {
        let now = self.now;
        let entry = &mut self.sides[side];
        if entry.ended {
            return;
        }
        entry.sent += 1;
        let frame = entry.sent;
        if let Some(path) = entry.session.send(frame, FRAME_BYTES, now) {
            assert_eq!(entry.session.newest(), Some(&frame));
            self.put(side, path, Item::Frame(frame));
        }
    }

    /// Delivers one item towards `side`, from the newest or from an older connection of this path.
    fn deliver(&mut self, side: usize, path: PathIndex, oldest: bool) -> bool {
        let cable = &mut self.cables[path];
        if cable.held[side] {
            return false;
        }
        let waits = |connection: &Connection| !connection.under_way[side].is_empty();
        let found = if oldest {
            cable.connections.iter().rposition(waits)
        } else {
            cable.connections.iter().position(waits)
        };
        let Some(index) = found else {
            return false;
        };
        let item = cable.connections[index].under_way[side].pop_front().unwrap();
        let (now, mut out) = (self.now, Vec::new());
        let ended = self.sides[side].ended;
        if matches!(item, Item::Join) && ended {
            // It is told that there is no such session.
            self.cables[path].connections[index].under_way[1 - side].push_back(Item::End);
        } else if matches!(item, Item::Join) {
            // What was there before on this path is closed by the newer one.
            self.close(side, path);
            self.cables[path].connections[index].open[side] = true;
        }
        if !self.cables[path].connections[index].open[side] || ended {
            return true;
        }
        let entry = &mut self.sides[side];
        entry.session.heard(path, now);
        match item {
            Item::Join => entry.session.connected(path, now, &mut out),
            Item::Frame(frame) => {
                if entry.session.receive(path, FRAME_BYTES, now, &mut out) {
                    entry.delivered.push(frame);
                }
            }
            Item::Control(control) => entry.session.control(path, control, now, &mut out).unwrap(),
            Item::End => {
                self.close(side, path);
                self.sides[side].session.down(path, "closed", now, &mut out);
            }
        }
        self.check();
        self.obey(side, out);
        true
    }

    /// Nothing but what was sent, in order and once; and nothing kept that the other side is known to have.
    fn check(&self) {
        for side in 0..2 {
            let delivered = &self.sides[1 - side].delivered;
            let sent = &self.sides[side];
            assert!(
                delivered.iter().copied().eq(1..=delivered.len() as u32),
                "{side} sent {}, and there arrived {delivered:?}",
                sent.sent
            );
            assert!(delivered.len() <= sent.sent as usize);
            assert!(sent.session.kept_bytes() <= sent.sent as usize * FRAME_BYTES);
        }
    }

    /// A reset: both ends see it, once what is left under way has arrived.
    fn cut(&mut self, path: PathIndex, lost: [usize; 2]) {
        for connection in &mut self.cables[path].connections {
            for (queue, lost) in connection.under_way.iter_mut().zip(lost) {
                queue.truncate(queue.len().saturating_sub(lost));
                // A Hello that never arrives leaves nobody who could see the end.
                queue.push_back(Item::End);
            }
        }
    }

    fn pass(&mut self, time: Time) {
        self.now += time;
        for side in 0..2 {
            if self.sides[side].ended {
                continue;
            }
            let mut out = Vec::new();
            self.sides[side].session.on_time(self.now, &mut out);
            self.obey(side, out);
            let next = self.sides[side].session.next_timeout(self.now);
            assert!(
                self.sides[side].ended || next.is_none_or(|next| next > self.now),
                "side {side} has more to do at once: a busy loop"
            );
        }
    }

    /// Everything that can arrive does.
    fn settle(&mut self) {
        while (0..self.cables.len()).any(|path| (0..2).any(|side| self.deliver(side, path, true))) {}
    }

    fn arrived(&self) -> bool {
        (0..2).all(|side| self.sides[1 - side].delivered.len() == self.sides[side].sent as usize)
    }

    fn state(&self, side: usize, path: PathIndex) -> PathState {
        self.sides[side].session.report(path).state
    }

    /// Both paths up, the first one active.
    fn ready() -> World {
        let mut world = World::new(2);
        world.pass(MILLISECOND);
        world.settle();
        assert_eq!(world.state(0, 1), PathState::Standby);
        assert_eq!(world.state(1, 1), PathState::Standby);
        world
    }

    /// Lets time pass in small steps, with everything delivered at once.
    fn run(&mut self, time: Time) {
        let end = self.now + time;
        while self.now < end {
            self.pass(10 * MILLISECOND);
            self.settle();
        }
    }
}

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
