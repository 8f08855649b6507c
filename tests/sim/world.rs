//! Two replicas on a virtual clock, network and disks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::panic::{catch_unwind, AssertUnwindSafe};

use _engine::core::*;
use _engine::meta::{self, Layout, Superblock};
use _engine::payload::Payload;
use _engine::wire::{DiskState, Protocol, SplitBrainPolicy};

use crate::bundles::Safe;
use crate::clock::Clock;
use crate::coverage::Counts;
use crate::disk::{self, Disk, PAGE, SIZE};
use crate::durable::Durable;
use crate::network::{Cable, Connection, Frame};
use crate::rng::Rng;
use crate::runner::Runner;
use crate::witness::{Answer, CallId, Witness, WITNESS};

pub const MS: u64 = 1_000_000;
pub const NAMES: [&str; 2] = ["a", "b"];

/// What went wrong: an invariant, in words.
pub type Violation = String;

pub enum Happening {
    Disk {
        token: Token,
        op: DiskOp,
        flush_point: u64,
    },
    /// What the core remembers comes back to it.
    Recalled {
        token: Token,
        data: Payload,
    },
    Meta {
        token: Token,
        writes: Vec<MetaWrite>,
        after_failure: bool,
    },
    Dialled,
    /// A connection ended without a word: its node looks whether the peer's port still answers.
    Probe {
        connection: ConnectionId,
    },
    /// It is refused.
    ProcessGone {
        connection: ConnectionId,
    },
    /// Nothing answers there.
    NotReached {
        connection: ConnectionId,
    },
    Deliver {
        connection: ConnectionId,
        frame: Frame,
    },
    Lost {
        connection: ConnectionId,
        why: &'static str,
    },
    Bundle {
        token: Token,
    },
    /// A request or a command for a node that stood still.
    Late(Box<Event>),
    /// A call has come to the witness.
    Asked {
        from: usize,
        call: CallId,
        request: AskRequest,
    },
    /// Its answer has come back.
    Told {
        call: CallId,
        answer: Answer,
    },
    CallTimedOut {
        call: CallId,
    },
    CallAgain {
        ask: u64,
    },
    Tick,
}

struct Scheduled {
    at: Time,
    order: u64,
    node: usize,
    life: u32,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What of a node's storage can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Read,
    Write,
    Flush,
    Meta,
    /// Saving a bundle.
    Bundle,
}

/// The next so many operations of one sort end with this error.
struct Failing {
    part: Part,
    errno: Errno,
    left: u32,
}

pub struct Node {
    pub data: Disk,
    meta: Vec<u8>,
    /// What `meta` says, read once.
    durable: Option<Durable>,
    pub replica: Option<Replica>,
    pub life: u32,
    /// Metadata operations run one after the other: when the next may begin.
    meta_free: Time,
    tick_at: Option<Time>,
    paused_until: Time,
    clock: Clock,
    /// Its machine runs, whether or not the process does.
    pub powered: bool,
    pub runner: Runner,
    failing: Vec<Failing>,
    /// A metadata write failed: only a restart helps.
    pub broken: bool,
    /// It gave its disk up: its daemon has forgotten to make it Primary again.
    forgotten: bool,
    /// The generation of its copy when a peer began to stand in: known to its daemon.
    stale_generation: u64,
    pub exported: bool,
    /// The last connect or disconnect that it was told and that went well: was it a connect?
    pub wants_peer: (CommandId, bool),
    pub safe: Safe,
}

impl Node {
    /// Its daemon knows that a peer has gone beyond this generation.
    pub fn is_known_stale(&self, generation: u64) -> bool {
        self.stale_generation != 0 && self.stale_generation == generation
    }

    /// What its metadata say, if they were read since they changed.
    pub fn durable_read(&self) -> Option<&Durable> {
        self.durable.as_ref()
    }
}

/// How a run is arbitrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arbitrated {
    pub config: ArbitrationConfig,
    /// How far each node's clock really runs wrong.
    pub drift_ppm: [i32; 2],
}

pub struct Settings {
    pub protocol: Protocol,
    pub block_size: u32,
    pub on_io_error: OnIoError,
    pub policy: SplitBrainPolicy,
    pub priority: [u32; 2],
    /// None: a person promotes.
    pub arbitrated: Option<Arbitrated>,
}

pub struct World {
    pub rng: Rng,
    pub now: Time,
    pub nodes: [Node; 2],
    pub settings: Settings,
    pub layout: Layout,
    pub(crate) cable: Cable,
    pub witness: Witness,
    next_call: CallId,
    /// The next frame that is sent is damaged on its way.
    pub corrupt_next: bool,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
    pub(crate) last_connection: ConnectionId,
    pub(crate) connected_at: Time,
    next_id: u64,
    pub replies: Vec<(usize, RequestId, Result<Option<Payload>, Errno>)>,
    /// Exports opened since they were last looked at.
    pub opened: Vec<usize>,
    /// Flushes that the disk of a node failed since they were last looked at.
    pub failed_flushes: Vec<usize>,
    /// Pages that a disk has lost by one: a verify may find them, for they differ.
    pub lost: BTreeSet<usize>,
    pub commands: BTreeMap<CommandId, Result<(), CommandError>>,
    /// Connects and disconnects that are not answered yet: where, in which life, and which of them.
    connects: BTreeMap<CommandId, (usize, u32, bool)>,
    /// When writes apart from the peer were answered.
    pub answered: BTreeMap<disk::Stamp, Time>,
    /// A person wanted a resolution without a bundle.
    pub no_bundle_asked: bool,
    /// Swaps that a core asked for since they were last looked at: by whom, from what and to what.
    pub bids: Vec<(usize, Option<Configuration>, Configuration)>,
    /// A node started whose daemon had forgotten that it was Primary.
    pub starts_forgotten: bool,
    /// Nodes that began to be targets since they were last looked at.
    pub resyncs_begun: Vec<usize>,
    /// What came of comparisons since it was last looked at: on which node, and what.
    pub verified: Vec<(usize, Verified)>,
    /// A handshake has found one.
    pub split_brain_found: bool,
    /// A disk or its metadata changed since the invariants were last checked.
    pub changed: bool,
    pub trace: Option<Vec<String>>,
    pub counts: Counts,
    pub violation: Option<Violation>,
}

fn blank_metadata(layout: Layout, name: usize) -> Vec<u8> {
    let peers = [NAMES[1 - name].to_owned()];
    let mut bytes = vec![0; layout.region_bytes() as usize];
    for sequence in 1..=2 {
        let page = Superblock::blank("r0", NAMES[name], &peers, &layout, sequence).encode();
        let start = layout.superblock_offset(meta::next_copy(sequence)) as usize;
        bytes[start..start + page.len()].copy_from_slice(&page);
    }
    bytes
}

impl World {
    pub fn new(seed: u64, settings: Settings, traced: bool) -> World {
        let layout = Layout::new(SIZE, settings.block_size, 1);
        let rng = Rng::new(seed);
        let node = |name| Node {
            data: Disk::new(),
            meta: blank_metadata(layout, name),
            durable: None,
            replica: None,
            life: 0,
            meta_free: 0,
            tick_at: None,
            paused_until: 0,
            clock: Clock::new(MS, 0, 0),
            powered: true,
            runner: Runner::default(),
            failing: Vec::new(),
            broken: false,
            forgotten: false,
            stale_generation: 0,
            exported: false,
            wants_peer: (CommandId(0), false),
            safe: Safe::default(),
        };
        let nodes = [node(0), node(1)];
        World {
            rng,
            now: MS,
            nodes,
            settings,
            layout,
            cable: Cable::Fine,
            witness: Witness::default(),
            next_call: 0,
            corrupt_next: false,
            queue: BinaryHeap::new(),
            order: 0,
            connections: BTreeMap::new(),
            next_connection: 1,
            last_connection: ConnectionId(0),
            connected_at: 0,
            next_id: 1,
            replies: Vec::new(),
            opened: Vec::new(),
            failed_flushes: Vec::new(),
            lost: BTreeSet::new(),
            commands: BTreeMap::new(),
            connects: BTreeMap::new(),
            answered: BTreeMap::new(),
            no_bundle_asked: false,
            bids: Vec::new(),
            starts_forgotten: false,
            resyncs_begun: Vec::new(),
            verified: Vec::new(),
            split_brain_found: false,
            changed: false,
            trace: traced.then(Vec::new),
            counts: Counts::default(),
            violation: None,
        }
    }

    /// A line of the trace; the text is only made when somebody will read it.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} ms  {}", self.now as f64 / 1e6, text()));
        }
    }

    pub fn fail(&mut self, why: Violation) {
        self.violation.get_or_insert(why);
    }

    pub(crate) fn schedule(&mut self, node: usize, delay: Time, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled {
            at: self.now + delay,
            order: self.order,
            node,
            life: self.life(node),
            what,
        }));
    }

    /// After so long by the node's own clock.
    pub(crate) fn schedule_local(&mut self, n: usize, span: Time, what: Happening) {
        let clock = &self.nodes[n].clock;
        let delay = clock.wait(self.now, clock.shows(self.now) + span);
        self.schedule(n, delay, what);
    }

    fn life(&self, node: usize) -> u32 {
        match node {
            WITNESS => self.witness.life,
            n => self.nodes[n].life,
        }
    }

    /// What was to come for a node, or for the witness, in its order: its process is gone.
    pub(crate) fn take_happenings(&mut self, node: usize) -> Vec<Happening> {
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|Reverse(entry)| entry.node == node);
        self.queue = others.into();
        let mut mine: Vec<Scheduled> = mine.into_iter().map(|Reverse(entry)| entry).collect();
        mine.sort_unstable();
        mine.into_iter().map(|entry| entry.what).collect()
    }

    // ---- nodes ---------------------------------------------------------------------------------------

    pub fn is_up(&self, n: usize) -> bool {
        self.nodes[n].replica.is_some()
    }

    /// What a node's metadata would say to its next start. Invariant I7: that can always be read.
    pub fn durable(&mut self, n: usize) -> Option<&Durable> {
        if self.nodes[n].durable.is_none() {
            match Durable::read(&self.nodes[n].meta, self.layout) {
                Ok(durable) => self.nodes[n].durable = Some(durable),
                Err(why) => {
                    self.fail(format!(
                        "I7: the metadata of {} do not open: {why}",
                        NAMES[n]
                    ));
                }
            }
        }
        self.nodes[n].durable.as_ref()
    }

    pub fn start(&mut self, n: usize, resume: bool) {
        if self.is_up(n) {
            return;
        }
        let Some(metadata) = self.durable(n).map(Durable::to_metadata) else {
            return;
        };
        self.rewind_settled(n, true);
        let origin = self.rng.below(1 << 40);
        let arbitrated = self.settings.arbitrated;
        let drift_ppm = arbitrated.map_or(0, |arbitrated| arbitrated.drift_ppm[n]);
        let node = &mut self.nodes[n];
        self.starts_forgotten |= resume && node.forgotten;
        let resume = resume && !node.forgotten;
        node.clock = Clock::new(self.now, origin, drift_ppm);
        node.powered = true;
        node.runner = Runner::default();
        node.life += 1;
        node.meta_free = self.now;
        node.tick_at = None;
        node.exported = false;
        node.broken = false;
        let config = ReplicaConfig {
            resource: "r0".into(),
            node: NAMES[n].into(),
            protocol: self.settings.protocol,
            peers: vec![PeerConfig {
                name: NAMES[1 - n].into(),
                dial: n == 0,
            }],
            peer_timeout_ns: 3_000 * MS,
            resume_wait_ns: 5_000 * MS,
            seed: self.rng.next(),
            policy: self.settings.policy,
            priority: self.settings.priority[n],
            on_io_error: self.settings.on_io_error,
            stale_generation: node.stale_generation,
            // Both show the same time.
            wall_offset_s: 1_800_000_000 - origin / 1_000_000_000,
            arbitration: arbitrated.map(|arbitrated| arbitrated.config),
            read_ahead: Some(ReadAhead {
                bytes: 64 << 20,
                keep: true,
            }),
        };
        let replica = Replica::new(config, metadata, resume, self.now + origin);
        let life = node.life;
        node.replica = Some(replica);
        self.note(|| format!("{} starts, life {life}, resume {resume}", NAMES[n]));
        self.command(n, Command::Connect { peer: 0 });
    }

    /// Ends the process, or the machine.
    pub fn crash(&mut self, n: usize, power: bool) {
        if self.nodes[n].replica.take().is_none() {
            return;
        }
        self.counts
            .add(if power { "power cuts" } else { "kills" }, 1);
        let how = if power { "loses power" } else { "is killed" };
        self.note(|| format!("{} {how}", NAMES[n]));
        self.nodes[n].exported = false;
        self.safe_crashed(n);
        self.nodes[n].paused_until = 0;
        self.nodes[n].powered = !power;
        let mine = self.take_happenings(n);
        // Metadata operations run one after the other: some are done, one is torn, the others never began.
        let mut meta_goes_on = true;
        for what in mine {
            match what {
                // What was on its way to the disk: any part of it arrives.
                Happening::Disk {
                    op, flush_point, ..
                } if self.rng.chance(2) => {
                    self.apply(n, &op, flush_point, true);
                }
                Happening::Meta {
                    writes,
                    after_failure,
                    ..
                } if meta_goes_on && (after_failure || !self.nodes[n].broken) => {
                    meta_goes_on = self.rng.chance(2);
                    self.write_meta(n, &writes, !meta_goes_on);
                }
                _ => {}
            }
        }
        if power {
            self.nodes[n].data.power_cut(&mut self.rng);
        }
        self.changed = true;
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.break_connection(id, n);
        }
    }

    /// Puts a disk out of a drawer into a node that is down.
    pub fn replace(&mut self, n: usize, pages: &[usize]) {
        self.note(|| format!("{} gets another disk", NAMES[n]));
        self.counts.add("replaced disks", 1);
        self.nodes[n].data = Disk::strange(&mut self.rng, pages);
        self.nodes[n].meta = blank_metadata(self.layout, n);
        self.nodes[n].safe = Safe::default();
        self.nodes[n].durable = None;
        self.changed = true;
    }

    /// Nothing happens on a node for a while; its clock goes on.
    pub fn pause(&mut self, n: usize, span: Time) {
        if self.is_up(n) {
            self.note(|| format!("{} stands still for {} ms", NAMES[n], span / MS));
            self.counts.add("pauses", 1);
            let until = self.nodes[n].paused_until.max(self.now + span);
            self.nodes[n].paused_until = until;
        }
    }

    /// A machine is paused, its clock with it.
    pub fn stand_still(&mut self, n: usize, span: Time) {
        if self.is_up(n) {
            self.note(|| {
                format!(
                    "{} and its clock stand still for {} ms",
                    NAMES[n],
                    span / MS
                )
            });
            self.counts.add("paused machines", 1);
            let until = self.nodes[n].paused_until.max(self.now + span);
            self.nodes[n].paused_until = until;
            self.nodes[n].clock.stand_still(self.now, until);
        }
    }

    /// Until when a node stands still.
    pub fn paused_until(&self, n: usize) -> Option<Time> {
        Some(self.nodes[n].paused_until).filter(|until| *until > self.now)
    }

    /// How long until no node stands still any more.
    pub fn longest_pause(&self) -> Time {
        let until = self.nodes.iter().map(|node| node.paused_until).max();
        until.map_or(0, |until| until.saturating_sub(self.now))
    }

    pub fn break_storage(&mut self, n: usize, part: Part, errno: Errno, times: u32) {
        self.note(|| format!("{}: the next {times} {part:?} end with {errno:?}", NAMES[n]));
        self.nodes[n].failing.push(Failing {
            part,
            errno,
            left: times,
        });
    }

    /// Only a start helps this node: it has given its disk up, or may have.
    pub fn needs_start(&self, n: usize) -> bool {
        let diskless = |s: CoreStatus| s.disk == DiskState::Diskless;
        self.nodes[n].broken || self.status(n).is_some_and(diskless)
    }

    pub fn mend(&mut self) {
        for node in &mut self.nodes {
            node.failing.clear();
        }
        self.corrupt_next = false;
        self.set_cable(Cable::Fine);
    }

    pub(crate) fn takes_failure(&mut self, n: usize, part: Part) -> Option<Errno> {
        let failing = self.nodes[n]
            .failing
            .iter_mut()
            .find(|failing| failing.part == part && failing.left > 0)?;
        failing.left -= 1;
        let errno = failing.errno;
        self.counts.add(
            match (part, errno) {
                (Part::Read, _) => "failed reads",
                (Part::Write, Errno::ENOSPC) => "full disks",
                (Part::Write, _) => "failed writes",
                (Part::Flush, _) => "failed flushes",
                (Part::Meta, _) => "failed metadata writes",
                (Part::Bundle, _) => "failed bundles",
            },
            1,
        );
        self.note(|| format!("{}: {part:?} fails: {errno:?}", NAMES[n]));
        Some(errno)
    }

    // ---- storage -------------------------------------------------------------------------------------

    /// Does what a disk operation asks; `torn`: any part of it.
    fn apply(&mut self, n: usize, op: &DiskOp, flush_point: u64, torn: bool) -> Option<Payload> {
        let mut writes = Vec::new();
        let mut durable = false;
        match op {
            DiskOp::Read { offset, len } => {
                return Some(self.nodes[n].data.read(*offset, u64::from(*len)))
            }
            DiskOp::Flush => self.nodes[n].data.flush(flush_point),
            DiskOp::Zero {
                offset, len, fua, ..
            } => {
                durable = *fua;
                writes
                    .extend((offset / PAGE..(offset + len) / PAGE).map(|page| (page as usize, 0)));
            }
            DiskOp::Write {
                offset,
                payload,
                fua,
            } => {
                durable = *fua;
                for (i, bytes) in payload.chunks(PAGE as usize).enumerate() {
                    let page = (offset / PAGE) as usize + i;
                    match disk::read_stamp(page, bytes) {
                        Ok(stamp) => writes.push((page, stamp)),
                        Err(why) => {
                            self.fail(format!("I5: written to the disk of {}: {why}", NAMES[n]))
                        }
                    }
                }
            }
        }
        for (page, stamp) in writes {
            if !torn || self.rng.chance(2) {
                self.nodes[n].data.write(page, stamp, durable && !torn);
            }
        }
        self.changed = true;
        None
    }

    fn write_meta(&mut self, n: usize, writes: &[MetaWrite], torn: bool) {
        for write in writes {
            for (i, sector) in write.bytes.chunks(512).enumerate() {
                if !torn || self.rng.chance(2) {
                    let start = write.offset as usize + i * 512;
                    self.nodes[n].meta[start..start + sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.nodes[n].durable = None;
        self.changed = true;
    }

    fn disk_done(&mut self, n: usize, token: Token, op: &DiskOp, flush_point: u64) {
        let part = match op {
            DiskOp::Read { .. } => Part::Read,
            DiskOp::Write { .. } | DiskOp::Zero { .. } => Part::Write,
            DiskOp::Flush => Part::Flush,
        };
        if part == Part::Write {
            self.check_guard(n);
        }
        let result = match self.takes_failure(n, part) {
            None => Ok(self.apply(n, op, flush_point, false)),
            Some(errno) => {
                match part {
                    Part::Write => drop(self.apply(n, op, flush_point, true)),
                    Part::Flush => {
                        self.failed_flushes.push(n);
                        let lost = self.nodes[n].data.fail_flush(flush_point, &mut self.rng);
                        self.lost.extend(lost);
                    }
                    _ => {}
                }
                Err(errno)
            }
        };
        self.event(n, Event::DiskDone { token, result });
    }

    // ---- events and actions --------------------------------------------------------------------------

    pub fn request(&mut self, n: usize, kind: RequestKind) -> RequestId {
        self.next_id += 1;
        let id = RequestId(self.next_id);
        self.event_or_late(n, Event::Request { id, kind });
        id
    }

    /// From outside: a node that stands still takes it in later.
    fn event_or_late(&mut self, n: usize, event: Event) {
        match self.paused_until(n) {
            Some(until) if self.settings.arbitrated.is_some() => {
                self.schedule(n, until - self.now, Happening::Late(Box::new(event)));
            }
            _ => self.event(n, event),
        }
    }

    pub fn command(&mut self, n: usize, command: Command) -> CommandId {
        self.next_id += 1;
        let id = CommandId(self.next_id);
        self.note(|| format!("{}: {command:?}", NAMES[n]));
        if let Command::Connect { .. } | Command::Disconnect { .. } = command {
            let connects = matches!(command, Command::Connect { .. });
            self.connects.insert(id, (n, self.nodes[n].life, connects));
        }
        let by = "root".into();
        self.event_or_late(n, Event::Command { id, command, by });
        id
    }

    pub fn status(&self, n: usize) -> Option<CoreStatus> {
        let node = &self.nodes[n];
        node.replica
            .as_ref()
            .map(|replica| replica.status(node.clock.shows(self.now)))
    }

    pub fn replication(&self, n: usize) -> &'static str {
        self.status(n)
            .map_or("down", |status| status.peers[0].replication)
    }

    pub(crate) fn event(&mut self, n: usize, event: Event) {
        let Some(mut replica) = self.nodes[n].replica.take() else {
            return;
        };
        let now = self.nodes[n].clock.shows(self.now);
        let mut actions = Vec::new();
        let is_time = matches!(event, Event::Timeout);
        if catch_unwind(AssertUnwindSafe(|| {
            replica.handle(now, event, &mut actions)
        }))
        .is_err()
        {
            let why = crate::panics::last();
            self.nodes[n].replica = Some(replica);
            return self.fail(format!("{}: the core panicked: {why}", NAMES[n]));
        }
        let timeout = replica.next_timeout();
        self.nodes[n].replica = Some(replica);
        if is_time && timeout.is_some_and(|at| at <= now) {
            return self.fail(format!(
                "{}: a timer that is due for ever: the driver would spin",
                NAMES[n]
            ));
        }
        if let Some(at) = timeout {
            self.schedule_tick(n, at);
        }
        for action in actions {
            self.act(n, action);
        }
    }

    /// At this time of the node's clock.
    fn schedule_tick(&mut self, n: usize, at: Time) {
        let delay = self.nodes[n].clock.wait(self.now, at);
        let at = self.now + delay;
        if self.nodes[n].tick_at.is_none_or(|earlier| at < earlier) {
            self.nodes[n].tick_at = Some(at);
            self.schedule(n, delay, Happening::Tick);
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        match action {
            Action::Disk { token, op } => {
                let flush_point = self.nodes[n].data.flush_point();
                // Now and then a disk is very slow.
                let span = if self.rng.chance(50) { 40 * MS } else { MS };
                let delay = 1 + self.rng.below(span);
                let what = Happening::Disk {
                    token,
                    op,
                    flush_point,
                };
                self.schedule(n, delay, what);
            }
            Action::Recall { token, data } => {
                self.counts.add("remembered reads", 1);
                let delay = 1 + self.rng.below(MS);
                self.schedule(n, delay, Happening::Recalled { token, data });
            }
            Action::Meta {
                token,
                writes,
                after_failure,
            } => {
                let start = self.nodes[n].meta_free.max(self.now);
                let end = start + 1 + self.rng.below(MS);
                self.nodes[n].meta_free = end;
                self.schedule(
                    n,
                    end - self.now,
                    Happening::Meta {
                        token,
                        writes,
                        after_failure,
                    },
                );
            }
            Action::Send {
                connection,
                epoch,
                message,
                ..
            } => self.transmit(n, connection, epoch, message),
            Action::Close { connection, .. } => {
                self.victim_is_free(n, connection);
                self.break_connection(connection, n);
            }
            Action::Dial { .. } => {
                let delay = 1 + self.rng.below(2 * MS);
                self.schedule(n, delay, Happening::Dialled);
            }
            Action::Reply { id, result } => self.replies.push((n, id, result)),
            Action::Export { open } => {
                self.nodes[n].exported = open;
                if open {
                    self.nodes[n].forgotten = false;
                    self.opened.push(n);
                }
            }
            Action::CommandDone { id, result } => {
                if let Err(error) = &result {
                    self.note(|| format!("{}: refused: {}", NAMES[n], error.message));
                }
                if let Some((n, life, connects)) = self.connects.remove(&id) {
                    let node = &mut self.nodes[n];
                    if result.is_ok() && node.life == life && node.wants_peer.0 < id {
                        node.wants_peer = (id, connects);
                    }
                }
                self.commands.insert(id, result);
            }
            Action::Notice(notice) => self.heard(n, &notice),
            Action::Record(record) => self.recorded(n, &record),
            Action::SaveBundle { token, bundle } => self.save_bundle(n, token, &bundle),
            Action::RecordDiscard { token, record } => {
                self.recorded(n, &record);
                self.record_discard(n, token);
            }
            Action::DropBundle { token } => self.drop_bundle(n, token),
            Action::Verified(what) => self.verified.push((n, what)),
            // Nobody asks for a hold here.
            Action::Held { .. } => {}
            Action::Ask { .. } | Action::Withdraw { .. } if self.settings.arbitrated.is_none() => {
                self.fail("no arbiter is configured".into())
            }
            Action::Ask { ask, request } => self.ask(n, ask, request),
            Action::Withdraw { ask } => self.withdraw(n, ask),
        }
    }

    fn heard(&mut self, n: usize, notice: &Notice) {
        self.note(|| format!("{}: {}: {}", NAMES[n], notice.name, notice.text));
        match notice.name {
            "disk.detached" => {
                self.nodes[n].forgotten = true;
                self.counts.add("detached disks", 1);
            }
            "disk.served" => {
                let current = self.status(n).map(|s| s.generation.current);
                let current = current.and_then(|id| u64::from_str_radix(&id, 16).ok());
                self.nodes[n].stale_generation = current.unwrap_or(0);
                self.counts.add("Primaries without a disk", 1);
            }
            "disk.lost_stand_in" => self.counts.add("lost stand-ins", 1),
            "disk.healed" => self.counts.add("healed reads", 1),
            "resync.started" if notice.text.starts_with("to ") => self.counts.add("resyncs", 1),
            "resync.started" => self.resyncs_begun.push(n),
            "resync.finished" if notice.text.starts_with("to ") => {
                self.counts.add("finished resyncs", 1)
            }
            "handshake.verdict" => {
                let rule = notice
                    .text
                    .split("(rule ")
                    .nth(1)
                    .and_then(|text| text.split(')').next());
                self.split_brain_found |= rule == Some("split-brain");
                self.counts
                    .add(&format!("verdicts {}", rule.unwrap_or("?")), 1);
            }
            "generation.new" => self.counts.add("new generations", 1),
            _ => {}
        }
    }

    // ---- time ----------------------------------------------------------------------------------------

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse(next)| next.at)
    }

    pub fn step(&mut self) {
        let Some(Reverse(mut next)) = self.queue.pop() else {
            return;
        };
        let n = next.node;
        self.now = self.now.max(next.at);
        if next.life != self.life(n) {
            return;
        }
        let paused_until = match n {
            WITNESS => self.witness.frozen_until,
            n => self.nodes[n].paused_until,
        };
        if paused_until > self.now {
            next.at = paused_until;
            return self.queue.push(Reverse(next));
        }
        match next.what {
            Happening::Disk {
                token,
                op,
                flush_point,
            } => self.disk_done(n, token, &op, flush_point),
            Happening::Recalled { token, data } => {
                let result = Ok(Some(data));
                self.event(n, Event::DiskDone { token, result });
            }
            Happening::Meta {
                token,
                after_failure,
                ..
            } if self.nodes[n].broken && !after_failure => {
                let result = Err(Errno::EIO);
                self.event(n, Event::MetaDone { token, result });
            }
            Happening::Meta { token, writes, .. } => {
                let failure = self.takes_failure(n, Part::Meta);
                self.nodes[n].broken |= failure.is_some();
                self.write_meta(n, &writes, failure.is_some());
                let result = failure.map_or(Ok(()), Err);
                self.rewind_settled(n, false);
                self.event(n, Event::MetaDone { token, result });
            }
            Happening::Dialled => self.dialled(n),
            Happening::NotReached { connection } => self.not_reached(n, connection),
            Happening::Probe { connection } => self.probe(n, connection),
            Happening::ProcessGone { connection } => {
                let peer = 0;
                self.event(n, Event::PeerProcessGone { peer, connection });
            }
            Happening::Deliver { connection, frame } => self.deliver(n, connection, frame),
            Happening::Lost { connection, why } => self.lost(n, connection, why),
            Happening::Bundle { token } => self.bundle_goes_on(n, token),
            Happening::Late(event) => self.event(n, *event),
            Happening::Asked {
                from,
                call,
                request,
            } => self.asked(from, call, &request),
            Happening::Told { call, answer } => self.told(n, call, answer),
            Happening::CallTimedOut { call } => self.call_timed_out(n, call),
            Happening::CallAgain { ask } => self.call_again(n, ask),
            Happening::Tick => {
                self.nodes[n].tick_at = None;
                let now = self.nodes[n].clock.shows(self.now);
                match self.nodes[n]
                    .replica
                    .as_ref()
                    .and_then(Replica::next_timeout)
                {
                    Some(at) if at <= now => self.event(n, Event::Timeout),
                    Some(at) => self.schedule_tick(n, at),
                    None => {}
                }
            }
        }
    }

    pub(crate) fn next_call(&mut self) -> CallId {
        self.next_call += 1;
        self.next_call
    }

    pub(crate) fn next_connection(&mut self) -> ConnectionId {
        self.next_connection += 1;
        ConnectionId(self.next_connection)
    }
}
