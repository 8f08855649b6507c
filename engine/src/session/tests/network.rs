//! Two sessions, and between them a network that cuts, holds up, goes silent one way, and delivers late.

use std::collections::VecDeque;

use crate::core::Time;
use crate::session::*;

pub const MILLISECOND: Time = 1_000_000;
pub const PEER_TIMEOUT: Time = 6_000 * MILLISECOND;
pub const LEADER: usize = 0;
pub const FRAME_BYTES: usize = 4096;

#[derive(Clone, Debug)]
pub enum Item {
    Join,
    Frame(u32),
    Control(Control),
    End,
}

/// One TCP connection: what is under way to each side, in order.
pub struct Connection {
    pub under_way: [VecDeque<Item>; 2],
    pub open: [bool; 2],
}

/// What connects two addresses.
#[derive(Default)]
pub struct Cable {
    /// The newest first of all that still deliver something.
    pub connections: Vec<Connection>,
    /// Nothing passes towards that side for now.
    pub held: [bool; 2],
    /// No connection can be made.
    pub refuses: bool,
}

pub struct Side {
    pub session: Session<u32>,
    pub sent: u32,
    pub delivered: Vec<u32>,
    pub ended: bool,
    pub changes: Vec<(PathIndex, Change)>,
}

pub struct World {
    pub now: Time,
    pub cables: Vec<Cable>,
    pub sides: [Side; 2],
    /// What is no frame arrives twice: no stream does that, and it must not matter.
    pub repeats: bool,
}

impl World {
    pub fn new(paths: usize) -> World {
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
            repeats: false,
            sides: [side(leader), side(Session::follow(paths, 0, PEER_TIMEOUT, 0))],
        };
        world.connect(0);
        world
    }

    pub fn connect(&mut self, path: PathIndex) {
        let connection = Connection {
            under_way: [VecDeque::new(), VecDeque::new()],
            open: [true, true],
        };
        self.cables[path].connections.insert(0, connection);
    }

    /// The connection that `side` has on this path.
    pub fn own(&mut self, side: usize, path: PathIndex) -> Option<&mut Connection> {
        self.cables[path]
            .connections
            .iter_mut()
            .find(|connection| connection.open[side])
    }

    pub fn put(&mut self, side: usize, path: PathIndex, item: Item) {
        if let Some(connection) = self.own(side, path) {
            connection.under_way[1 - side].push_back(item);
        }
    }

    pub fn close(&mut self, side: usize, path: PathIndex) {
        if let Some(connection) = self.own(side, path) {
            connection.under_way[1 - side].push_back(Item::End);
            connection.under_way[side].clear();
            connection.open[side] = false;
        }
    }

    pub fn obey(&mut self, side: usize, out: Vec<Output<u32>>) {
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

    pub fn send(&mut self, side: usize) {
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
    pub fn deliver(&mut self, side: usize, path: PathIndex, oldest: bool) -> bool {
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
            Item::Control(control) => {
                for _ in 0..=u8::from(self.repeats) {
                    entry.session.control(path, control, now, &mut out).unwrap();
                }
            }
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
    pub fn check(&self) {
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
    pub fn cut(&mut self, path: PathIndex, lost: [usize; 2]) {
        for connection in &mut self.cables[path].connections {
            for (queue, lost) in connection.under_way.iter_mut().zip(lost) {
                queue.truncate(queue.len().saturating_sub(lost));
                // A Hello that never arrives leaves nobody who could see the end.
                queue.push_back(Item::End);
            }
        }
    }

    pub fn pass(&mut self, time: Time) {
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
    pub fn settle(&mut self) {
        while (0..self.cables.len()).any(|path| (0..2).any(|side| self.deliver(side, path, true))) {}
    }

    pub fn arrived(&self) -> bool {
        (0..2).all(|side| self.sides[1 - side].delivered.len() == self.sides[side].sent as usize)
    }

    pub fn state(&self, side: usize, path: PathIndex) -> PathState {
        self.sides[side].session.report(path).state
    }

    /// Both paths up, the first one active.
    pub fn ready() -> World {
        let mut world = World::new(2);
        world.pass(MILLISECOND);
        world.settle();
        assert_eq!(world.state(0, 1), PathState::Standby);
        assert_eq!(world.state(1, 1), PathState::Standby);
        world
    }

    /// Lets time pass in small steps, with everything delivered at once.
    pub fn run(&mut self, time: Time) {
        let end = self.now + time;
        while self.now < end {
            self.pass(10 * MILLISECOND);
            self.settle();
        }
    }
}
