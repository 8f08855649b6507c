//! The state machine of one session, the same on both sides but for who leads.

use super::log::SendLog;
use super::types::{Change, Control, Output, PathIndex, PathReport, PathState, Violation};
use crate::core::Time;

/// A path is silent after this part of the core's patience with a silent peer. The worst case must fit in that:
/// the other side's last word (up to a quarter old), its silence noticed there, and then here.
const SILENCE_PART: Time = 4;
/// Something is said on each path so many times within the time after which it counts as silent.
const KEEPALIVES: Time = 3;
/// Received frames, and bytes, that are acknowledged at the latest.
const ACKNOWLEDGE_FRAMES: u64 = 256;
const ACKNOWLEDGE_BYTES: usize = 1 << 20;
/// A path is returned to once it has been up for the time of a silence, doubled for each time that it went down
/// lately, at most so many times.
const SETTLE_DOUBLINGS: u32 = 6;
/// After so many such times without going down, what was before is forgotten.
const FORGIVEN_AFTER: Time = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Down,
    Dialling,
    /// The connection is there; the follower has not yet said a word on it.
    Joining,
    Up,
}

#[derive(Debug)]
struct Path {
    stage: Stage,
    /// When it came up or went down last.
    since: Option<Time>,
    why: String,
    /// Its present absence has been told of.
    told_down: bool,
    heard: Time,
    said: Time,
    redial_at: Time,
    failures: u32,
}

impl Path {
    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Joining | Stage::Up)
    }
}

#[derive(Debug)]
pub struct Session<F> {
    leads: bool,
    /// Both sides want it; until then nothing but frames may be sent.
    agreed: bool,
    silence: Time,
    paths: Vec<Path>,
    active: Option<PathIndex>,
    turn: u64,
    /// The leader waits for the follower's answer on the active path.
    resuming: bool,
    log: SendLog<F>,
    received: u64,
    /// Of `received`, what the other side was told.
    told: u64,
    untold_bytes: usize,
    tell_at: Option<Time>,
}

impl<F: Clone> Session<F> {
    /// The side that dialled: its first connection is path `first` of `paths`. Not agreed yet.
    pub fn lead(paths: usize, first: PathIndex, peer_timeout: Time, now: Time) -> Session<F> {
        Session::new(true, paths, first, peer_timeout, now)
    }

    /// The other side, which has read that the first one wants a session.
    pub fn follow(paths: usize, first: PathIndex, peer_timeout: Time, now: Time) -> Session<F> {
        let mut session = Session::new(false, paths, first, peer_timeout, now);
        session.agreed = true;
        session
    }

    fn new(leads: bool, paths: usize, first: PathIndex, peer_timeout: Time, now: Time) -> Session<F> {
        let silence = (peer_timeout / SILENCE_PART).max(KEEPALIVES);
        let path = |index| Path {
            stage: if index == first { Stage::Up } else { Stage::Down },
            since: (index == first).then_some(now),
            why: if leads {
                "it is being reached for the first time".into()
            } else {
                "the other node has not made this connection yet".into()
            },
            told_down: false,
            heard: now,
            said: now,
            redial_at: now,
            failures: 0,
        };
        Session {
            leads,
            agreed: false,
            silence,
            paths: (0..paths.max(first + 1)).map(path).collect(),
            active: Some(first),
            turn: 0,
            resuming: false,
            log: SendLog::new(),
            received: 0,
            told: 0,
            untold_bytes: 0,
            tell_at: None,
        }
    }

    /// The follower wants the session too.
    pub fn agree(&mut self) {
        self.agreed = true;
    }

    pub fn is_agreed(&self) -> bool {
        self.agreed
    }

    pub fn leads(&self) -> bool {
        self.leads
    }

    pub fn paths(&self) -> usize {
        self.paths.len()
    }

    /// No path is left: the session has ended.
    pub fn is_lost(&self) -> bool {
        !self.paths.iter().any(Path::is_open)
    }

    /// The path that frames travel on now, if any.
    pub fn carrier(&self) -> Option<PathIndex> {
        self.active.filter(|_| !self.resuming)
    }

    /// Bytes that are kept because they may have to be sent again.
    pub fn kept_bytes(&self) -> usize {
        self.log.bytes()
    }

    // ---- frames --------------------------------------------------------------------------------------

    /// Enters the next frame. On the path that is returned it has to be sent now (see [`Session::newest`]); without
    /// one it is sent once there is one again.
    pub fn send(&mut self, frame: F, bytes: usize, now: Time) -> Option<PathIndex> {
        self.log.push(frame, bytes);
        let carrier = self.carrier()?;
        self.paths[carrier].said = now;
        Some(carrier)
    }

    /// The frame entered last, if it is still kept.
    pub fn newest(&self) -> Option<&F> {
        self.log.newest()
    }

    /// A frame came on this path: whether it counts, or is one that comes late and comes again elsewhere.
    pub fn receive(&mut self, path: PathIndex, bytes: usize, now: Time, out: &mut Vec<Output<F>>) -> bool {
        if self.carrier() != Some(path) {
            return false;
        }
        self.received += 1;
        self.untold_bytes += bytes;
        self.tell_at.get_or_insert(now + self.silence / KEEPALIVES);
        if self.agreed
            && (self.received - self.told >= ACKNOWLEDGE_FRAMES || self.untold_bytes >= ACKNOWLEDGE_BYTES)
        {
            self.acknowledge(path, now, out);
        }
        true
    }

    fn acknowledge(&mut self, path: PathIndex, now: Time, out: &mut Vec<Output<F>>) {
        let received = self.received;
        self.say(path, Control::Acknowledge { received }, now, out);
    }

    fn say(&mut self, path: PathIndex, control: Control, now: Time, out: &mut Vec<Output<F>>) {
        self.paths[path].said = now;
        if self.active == Some(path) {
            // On another path it may be lost with it.
            self.told = self.received;
            self.untold_bytes = 0;
            self.tell_at = None;
        }
        out.push(Output::Control { path, control });
    }

    /// # Errors
    /// What the other side said that it cannot mean.
    pub fn control(
        &mut self,
        path: PathIndex,
        control: Control,
        now: Time,
        out: &mut Vec<Output<F>>,
    ) -> Result<(), Violation> {
        if !self.paths.get(path).is_some_and(Path::is_open) {
            return Ok(());
        }
        if self.paths[path].stage == Stage::Joining {
            self.came_up(path, now, out);
        }
        match control {
            // What comes late on one path was overtaken on another.
            Control::Acknowledge { received } => self.acknowledged(received)?,
            Control::Resume { turn, received } => self.resume(path, turn, received, now, out)?,
        }
        self.choose(now, out);
        Ok(())
    }

    fn acknowledged(&mut self, received: u64) -> Result<(), Violation> {
        if self.log.acknowledge(received) {
            return Ok(());
        }
        let sent = self.log.sent();
        Err(Violation::NeverSent { received, sent })
    }

    fn resume(
        &mut self,
        path: PathIndex,
        turn: u64,
        received: u64,
        now: Time,
        out: &mut Vec<Output<F>>,
    ) -> Result<(), Violation> {
        if self.leads {
            if turn > self.turn {
                return Err(Violation::Turn { turn });
            }
            if turn < self.turn || self.active != Some(path) || !self.resuming {
                return Ok(());
            }
        } else if turn <= self.turn {
            return Ok(());
        }
        let before = self.log.acknowledged();
        if received < before {
            return Err(Violation::WentBack { received, before });
        }
        self.acknowledged(received)?;
        if self.leads {
            self.resuming = false;
        } else {
            self.turn = turn;
            self.active = Some(path);
            let received = self.received;
            self.say(path, Control::Resume { turn, received }, now, out);
            out.push(Output::Changed {
                path,
                change: Change::Active,
            });
        }
        self.paths[path].said = now;
        out.extend(self.log.kept().map(|frame| Output::Again {
            path,
            frame: frame.clone(),
        }));
        Ok(())
    }

    // ---- paths ---------------------------------------------------------------------------------------

    /// Bytes came on this path, whatever they are; or it is not listened to now, and its silence means nothing.
    pub fn heard(&mut self, path: PathIndex, now: Time) {
        self.paths[path].heard = now;
    }

    /// A connection for this path is there: of the leader, its Hello is sent; of the follower, the Hello has come. One
    /// that was there before is dead, and must be closed by the caller.
    pub fn connected(&mut self, path: PathIndex, now: Time, out: &mut Vec<Output<F>>) {
        if self.paths[path].is_open() {
            self.down(path, "replaced by a new connection", now, out);
        }
        let entry = &mut self.paths[path];
        entry.stage = Stage::Joining;
        (entry.heard, entry.said) = (now, now);
        if !self.leads {
            self.came_up(path, now, out);
            self.acknowledge(path, now, out);
        }
    }

    fn came_up(&mut self, path: PathIndex, now: Time, out: &mut Vec<Output<F>>) {
        let entry = &mut self.paths[path];
        entry.stage = Stage::Up;
        entry.told_down = false;
        entry.since = Some(now);
        out.push(Output::Changed {
            path,
            change: Change::Up,
        });
    }

    /// This path's connection has ended, or could not be made. See [`Session::is_lost`] then.
    pub fn down(&mut self, path: PathIndex, why: &str, now: Time, out: &mut Vec<Output<F>>) {
        let settled = self.silence.saturating_mul(FORGIVEN_AFTER);
        let entry = &mut self.paths[path];
        let was_up = entry.stage == Stage::Up;
        if was_up {
            let up_for = now.saturating_sub(entry.since.unwrap_or(now));
            let forgiven = up_for >= settled;
            entry.failures = if forgiven {
                1
            } else {
                entry.failures.saturating_add(1)
            };
            entry.since = Some(now);
        }
        entry.why = why.to_owned();
        if !std::mem::replace(&mut entry.told_down, true) {
            out.push(Output::Changed {
                path,
                change: Change::Down { why: why.to_owned() },
            });
        }
        entry.stage = Stage::Down;
        entry.redial_at = now + self.silence;
        if self.active == Some(path) {
            self.active = None;
            self.resuming = false;
            self.choose(now, out);
        }
    }

    fn is_silent(&self, path: &Path, now: Time) -> bool {
        path.is_open() && now.saturating_sub(path.heard) >= self.silence
    }

    fn someone_is_heard(&self, now: Time) -> bool {
        self.paths
            .iter()
            .any(|path| path.stage == Stage::Up && !self.is_silent(path, now))
    }

    /// When this path has been up for long enough that a worse one is left for it.
    fn settled_at(&self, path: &Path) -> Time {
        path.since.unwrap_or_default() + (self.silence << path.failures.min(SETTLE_DOUBLINGS))
    }

    /// Takes a turn if there is no active path, or a better one.
    fn choose(&mut self, now: Time, out: &mut Vec<Output<F>>) {
        if !self.leads || !self.agreed || self.resuming {
            return;
        }
        let up = || (self.paths.iter().enumerate()).filter(|(_, path)| path.stage == Stage::Up);
        let heard = || up().filter(|(_, path)| !self.is_silent(path, now));
        let best = match self.active {
            None => heard().chain(up()).next(),
            Some(active) => heard()
                .take_while(|(index, _)| *index < active)
                .find(|(_, path)| now >= self.settled_at(path)),
        };
        let Some((path, _)) = best else {
            return;
        };
        self.turn += 1;
        self.active = Some(path);
        self.resuming = true;
        let (turn, received) = (self.turn, self.received);
        self.say(path, Control::Resume { turn, received }, now, out);
        out.push(Output::Changed {
            path,
            change: Change::Active,
        });
    }

    // ---- time ----------------------------------------------------------------------------------------

    /// Does what is due. Call it after what has arrived was handed in, or a path may look silent that is not.
    pub fn on_time(&mut self, now: Time, out: &mut Vec<Output<F>>) {
        if !self.agreed {
            return;
        }
        if self.someone_is_heard(now) {
            for path in 0..self.paths.len() {
                if self.is_silent(&self.paths[path], now) {
                    out.push(Output::Close { path });
                    let seconds = self.silence as f64 / 1e9;
                    self.down(path, &format!("nothing came on it for {seconds:.1} s"), now, out);
                }
            }
        }
        self.choose(now, out);
        let keepalive = self.silence / KEEPALIVES;
        for path in 0..self.paths.len() {
            let tell = self.carrier() == Some(path) && self.tell_at.is_some_and(|at| now >= at);
            let entry = &self.paths[path];
            // A word before it has joined would be the leader's first, where its Hello was.
            if entry.stage == Stage::Up && (tell || now >= entry.said + keepalive) {
                self.acknowledge(path, now, out);
            }
            let entry = &mut self.paths[path];
            if self.leads && entry.stage == Stage::Down && now >= entry.redial_at {
                entry.stage = Stage::Dialling;
                out.push(Output::Dial { path });
            }
        }
    }

    /// When [`Session::on_time`] has something to do.
    pub fn next_timeout(&self, now: Time) -> Option<Time> {
        if !self.agreed {
            return None;
        }
        let someone_is_heard = self.someone_is_heard(now);
        let keepalive = self.silence / KEEPALIVES;
        let mut next = self.carrier().and(self.tell_at);
        let mut at = |time: Time| next = Some(next.map_or(time, |next: Time| next.min(time)));
        for (index, path) in self.paths.iter().enumerate() {
            if path.is_open() && (someone_is_heard || !self.is_silent(path, now)) {
                at(path.heard + self.silence);
            }
            match path.stage {
                Stage::Up => {
                    at(path.said + keepalive);
                    let better = self.leads && self.active.is_some_and(|active| index < active);
                    if better && !self.resuming && !self.is_silent(path, now) {
                        at(self.settled_at(path));
                    }
                }
                Stage::Down if self.leads => at(path.redial_at),
                _ => {}
            }
        }
        next
    }

    pub fn report(&self, path: PathIndex) -> PathReport {
        let entry = &self.paths[path];
        let state = match entry.stage {
            Stage::Up if self.active == Some(path) => PathState::Active,
            Stage::Up => PathState::Standby,
            _ => PathState::Down,
        };
        PathReport {
            state,
            since: entry.since,
            why: entry.why.clone(),
        }
    }
}
