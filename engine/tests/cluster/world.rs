//! Two replicas on a virtual clock, network and disks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use _engine::core::*;
use _engine::meta::{self, Bitmap, Layout, PageLoad, Superblock, PAGE_BYTES};
use _engine::payload::Payload;
use _engine::wire::{Message, Protocol, Role, SplitBrainPolicy};

use crate::disk::Disk;
use crate::rng::Rng;

pub const SIZE: u64 = 9 << 20;
pub const BLOCK: u64 = 4096;
const MS: u64 = 1_000_000;
const NAMES: [&str; 2] = ["a", "b"];

enum Happening {
    Disk {
        node: usize,
        life: u32,
        token: Token,
        op: DiskOp,
        flush_point: usize,
    },
    Recalled {
        node: usize,
        life: u32,
        token: Token,
        data: Payload,
    },
    Meta {
        node: usize,
        life: u32,
        token: Token,
        writes: Vec<MetaWrite>,
    },
    Dialled {
        from: usize,
        life: u32,
    },
    Deliver {
        to: usize,
        life: u32,
        connection: ConnectionId,
        epoch: u64,
        message: Message,
    },
    Lost {
        node: usize,
        life: u32,
        connection: ConnectionId,
        why: &'static str,
    },
    Tick {
        node: usize,
        life: u32,
    },
    /// A node's way to the arbiter takes up the ask that is open.
    Asking {
        node: usize,
        life: u32,
        ask: u64,
        /// What became of its swap is not known: the register is read.
        again: bool,
    },
    /// It has reached the arbiter, whoever still waits for that.
    AtArbiter {
        node: usize,
        life: u32,
        ask: u64,
        request: AskRequest,
    },
    Says {
        node: usize,
        life: u32,
        ask: u64,
        configuration: Option<Configuration>,
    },
    Bundle {
        node: usize,
        life: u32,
        token: Token,
        /// None: there is only a record of it.
        bundle: Option<Bundle>,
    },
}

impl Happening {
    /// The node whose processor it takes.
    fn happens_in(&self) -> Option<usize> {
        match self {
            Happening::Disk { node, .. }
            | Happening::Recalled { node, .. }
            | Happening::Meta { node, .. }
            | Happening::Dialled { from: node, .. }
            | Happening::Deliver { to: node, .. }
            | Happening::Lost { node, .. }
            | Happening::Tick { node, .. }
            | Happening::Bundle { node, .. }
            | Happening::Asking { node, .. }
            | Happening::Says { node, .. } => Some(*node),
            Happening::AtArbiter { .. } => None,
        }
    }
}

/// What a victim saved, block by block.
pub type Bundle = BTreeMap<u64, Vec<u8>>;

struct Scheduled {
    at: Time,
    order: u64,
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

pub struct Node {
    pub data: Disk,
    meta: Disk,
    pub replica: Option<Replica>,
    pub life: u32,
    /// When the metadata queue is free again: metadata operations run one after the other.
    meta_free: Time,
    pub exported: bool,
    /// The core has been told of this many events.
    pub events: u64,
    /// From the request for a bundle to the end of the connection: nothing may be written.
    saving: bool,
    /// The bundle that was saved last.
    pub bundle: Option<Bundle>,
    pub records: Vec<&'static str>,
    /// What comparing both copies has shown.
    pub verified: Vec<Verified>,
    /// The peer's copy of what is held, and the hold's number.
    pub held: Option<(u64, Payload)>,
    pub asking: Option<(u64, AskRequest)>,
    pub reach: Reach,
    /// Until then nothing happens in it: a virtual machine that is paused, or a process that is stopped.
    pub frozen: Time,
    /// Its disk fails everything.
    pub broken: bool,
    /// How far its clock runs wrong, in millionths.
    pub drift_ppm: i64,
}

impl Node {
    /// What its clock shows.
    fn local(&self, now: Time) -> Time {
        (i128::from(now) * i128::from(1_000_000 + self.drift_ppm) / 1_000_000) as Time
    }

    /// The first instant at which its clock shows that.
    fn global(&self, local: Time) -> Time {
        let rate = i128::from(1_000_000 + self.drift_ppm);
        ((i128::from(local) * 1_000_000 + rate - 1) / rate) as Time
    }
}

/// A node's way to the arbiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    Fine,
    /// Nothing gets there.
    Cut,
    /// What is asked gets there, and no answer comes back.
    Deaf,
    /// A swap takes so long to get there; meanwhile what became of it is not known.
    Late(Time),
}

struct Connection {
    open: [bool; 2],
    /// When the last message of each direction arrives: TCP keeps order.
    last_arrival: [Time; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cable {
    Fine,
    /// Messages from this node vanish, in silence.
    Mute(usize),
    /// Both directions vanish, in silence.
    Silent,
    /// Connections break and cannot be made.
    Cut,
}

pub struct World {
    pub rng: Rng,
    pub now: Time,
    pub nodes: [Node; 2],
    pub protocol: Protocol,
    pub policy: SplitBrainPolicy,
    pub priority: [u32; 2],
    /// There is no room for them.
    pub bundles_fail: bool,
    /// How long one takes, at most.
    pub bundle_time: Time,
    cable: Cable,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
    next_id: u64,
    pub replies: Vec<(usize, RequestId, Result<Option<Payload>, Errno>)>,
    pub commands: BTreeMap<CommandId, Result<(), CommandError>>,
    pub trace: Vec<String>,
    pub resyncs: u64,
    pub chunk_bytes: u64,
    pub on_io_error: OnIoError,
    pub arbitration: Option<ArbitrationConfig>,
    /// What the arbiter holds, and everything that it has held.
    pub register: Option<Configuration>,
    pub registers: Vec<Configuration>,
    /// How often it was given a record anew.
    pub reseeds: u64,
}

impl World {
    pub fn new(seed: u64, protocol: Protocol) -> World {
        let layout = Layout::new(SIZE, BLOCK as u32, 1);
        let node = |name: usize| {
            let peers = [NAMES[1 - name].to_owned()];
            let mut meta = Disk::new(layout.region_bytes() as usize);
            for sequence in 1..=2 {
                let superblock = Superblock::blank("r0", NAMES[name], &peers, &layout, sequence);
                let place = layout.superblock_offset(meta::next_copy(sequence));
                meta.write(place, &superblock.encode(), true);
            }
            Node {
                data: Disk::new(SIZE as usize),
                meta,
                replica: None,
                life: 0,
                meta_free: 0,
                exported: false,
                events: 0,
                saving: false,
                bundle: None,
                records: Vec::new(),
                verified: Vec::new(),
                held: None,
                asking: None,
                reach: Reach::Fine,
                frozen: 0,
                broken: false,
                drift_ppm: 0,
            }
        };
        World {
            rng: Rng::new(seed),
            now: MS,
            nodes: [node(0), node(1)],
            protocol,
            policy: SplitBrainPolicy::Manual,
            priority: [0, 0],
            bundles_fail: false,
            bundle_time: 5 * MS,
            cable: Cable::Fine,
            queue: BinaryHeap::new(),
            order: 0,
            connections: BTreeMap::new(),
            next_connection: 1,
            next_id: 1,
            replies: Vec::new(),
            commands: BTreeMap::new(),
            trace: Vec::new(),
            resyncs: 0,
            chunk_bytes: 0,
            on_io_error: OnIoError::PassOn,
            arbitration: None,
            register: None,
            registers: Vec::new(),
            reseeds: 0,
        }
    }

    pub fn note(&mut self, text: String) {
        self.trace
            .push(format!("{:>10.3} ms  {text}", self.now as f64 / 1e6));
    }

    fn schedule(&mut self, delay: Time, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled {
            at: self.now + delay,
            order: self.order,
            what,
        }));
    }

    // ---- nodes ---------------------------------------------------------------------------------------

    pub fn start(&mut self, n: usize, resume: bool) {
        let layout = Layout::new(SIZE, BLOCK as u32, 1);
        let node = &mut self.nodes[n];
        let page = |offset: u64| node.meta.read(offset, PAGE_BYTES);
        let copies = [0, 1].map(|copy| Superblock::decode(&page(layout.superblock_offset(copy))));
        let [first, second] = copies;
        // Invariant I7: a crash anywhere leaves metadata that opens.
        let (superblock, _) = meta::choose(first, second).expect("metadata must open after a crash");
        let load = |mut bitmap: Bitmap, offset: u64, pages: usize| {
            for index in 0..pages {
                let bytes: [u8; PAGE_BYTES] = page(offset + (index * PAGE_BYTES) as u64).try_into().unwrap();
                if bitmap.load_page(index, &bytes) == PageLoad::Damaged {
                    // Torn: counts as all set.
                }
            }
            bitmap
        };
        let bitmap = load(
            Bitmap::new(layout.blocks()),
            layout.bitmap_offset(0),
            layout.bitmap_pages(),
        );
        let intent = load(
            Bitmap::new_intent(layout.extents()),
            layout.intent_offset(),
            layout.intent_pages(),
        );
        node.life += 1;
        node.meta_free = self.now;
        node.exported = false;
        node.saving = false;
        node.asking = None;
        let life = node.life;
        let config = ReplicaConfig {
            resource: "r0".into(),
            node: NAMES[n].into(),
            protocol: self.protocol,
            peers: vec![PeerConfig {
                name: NAMES[1 - n].into(),
                dial: n == 0,
            }],
            peer_timeout_ns: 3_000 * MS,
            resume_wait_ns: 5_000 * MS,
            seed: self.rng.next(),
            policy: self.policy,
            priority: self.priority[n],
            on_io_error: self.on_io_error,
            stale_generation: 0,
            wall_offset_s: 1_800_000_000,
            arbitration: self.arbitration,
            read_ahead: Some(ReadAhead {
                bytes: 64 << 20,
                keep: true,
            }),
        };
        let metadata = ReplicaMetadata {
            superblock,
            layout,
            bitmaps: vec![bitmap],
            intent,
        };
        let local = self.nodes[n].local(self.now);
        let replica = Replica::new(config, metadata, resume, local);
        self.nodes[n].replica = Some(replica);
        self.note(format!("{} starts, life {life}, resume {resume}", NAMES[n]));
        self.command(n, Command::Connect { peer: 0 });
    }

    /// What the metadata of a node say now; for walks.
    pub fn superblock(&self, n: usize) -> Superblock {
        let layout = Layout::new(SIZE, BLOCK as u32, 1);
        let meta = &self.nodes[n].meta;
        let [first, second] =
            [0, 1].map(|copy| Superblock::decode(&meta.read(layout.superblock_offset(copy), PAGE_BYTES)));
        meta::choose(first, second).expect("metadata").0
    }

    /// Changes what the metadata of a node that is down say.
    pub fn edit_superblock(&mut self, n: usize, edit: impl FnOnce(&mut Superblock)) {
        let layout = Layout::new(SIZE, BLOCK as u32, 1);
        let meta = &mut self.nodes[n].meta;
        let [first, second] =
            [0, 1].map(|copy| Superblock::decode(&meta.read(layout.superblock_offset(copy), PAGE_BYTES)));
        let (mut superblock, _) = meta::choose(first, second).expect("metadata");
        edit(&mut superblock);
        superblock.sequence += 1;
        let place = layout.superblock_offset(meta::next_copy(superblock.sequence));
        meta.write(place, &superblock.encode(), true);
    }

    /// Ends the process, or the machine.
    pub fn crash(&mut self, n: usize, power: bool) {
        if self.nodes[n].replica.take().is_none() {
            return;
        }
        self.note(format!(
            "{} {}",
            NAMES[n],
            if power { "loses power" } else { "is killed" }
        ));
        let life = self.nodes[n].life;
        self.nodes[n].exported = false;
        // What was on its way to a disk: the kernel finishes any part of it.
        let pending = std::mem::take(&mut self.queue).into_vec();
        let mut kept = BinaryHeap::new();
        for Reverse(entry) in pending {
            match entry.what {
                Happening::Disk {
                    node,
                    life: l,
                    op,
                    flush_point,
                    ..
                } if node == n && l == life => {
                    if self.rng.chance(2) {
                        apply(&mut self.nodes[n].data, &op, flush_point);
                    }
                }
                Happening::Meta {
                    node,
                    life: l,
                    writes,
                    ..
                } if node == n && l == life => {
                    if self.rng.chance(2) {
                        for write in writes {
                            self.nodes[n].meta.write(write.offset, &write.bytes, false);
                        }
                        if !power {
                            let point = self.nodes[n].meta.flush_point();
                            self.nodes[n].meta.flush(point);
                        }
                        // Later ones had not begun.
                        if power {
                            self.nodes[n].meta.power_cut(&mut self.rng, true);
                        }
                    }
                }
                what => kept.push(Reverse(Scheduled { what, ..entry })),
            }
        }
        self.queue = kept;
        if power {
            self.nodes[n].data.power_cut(&mut self.rng, false);
        }
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.break_connection(id, n);
        }
    }

    fn break_connection(&mut self, id: ConnectionId, by: usize) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.open[by] = false;
        let peer = 1 - by;
        let arrival = connection.last_arrival[peer];
        if connection.open[peer] && matches!(self.cable, Cable::Fine | Cable::Cut) {
            let life = self.nodes[peer].life;
            let delay = arrival.saturating_sub(self.now) + 1 + self.rng.below(MS);
            self.schedule(
                delay,
                Happening::Lost {
                    node: peer,
                    life,
                    connection: id,
                    why: "connection reset",
                },
            );
        }
    }

    pub fn set_cable(&mut self, cable: Cable) {
        if self.cable != cable {
            self.note(format!("cable: {cable:?}"));
        }
        self.cable = cable;
        if cable == Cable::Cut {
            let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
            for id in ids {
                for node in 0..2 {
                    let life = self.nodes[node].life;
                    let delay = 1 + self.rng.below(5 * MS);
                    self.schedule(
                        delay,
                        Happening::Lost {
                            node,
                            life,
                            connection: id,
                            why: "cut",
                        },
                    );
                }
            }
        }
    }

    pub fn request(&mut self, n: usize, kind: RequestKind) -> RequestId {
        let id = self.next_request();
        self.request_as(id, n, kind);
        id
    }

    pub fn next_request(&mut self) -> RequestId {
        self.next_id += 1;
        RequestId(self.next_id)
    }

    pub fn request_as(&mut self, id: RequestId, n: usize, kind: RequestKind) {
        self.event(n, Event::Request { id, kind });
    }

    pub fn last_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection - 1)
    }

    /// A node sees that the process at the other end is gone.
    pub fn process_gone(&mut self, n: usize, connection: ConnectionId) {
        self.event(n, Event::PeerProcessGone { peer: 0, connection });
    }

    /// When the next thing happens; for walks.
    #[allow(dead_code)]
    pub fn next_at(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse(next)| next.at)
    }

    pub fn command(&mut self, n: usize, command: Command) -> CommandId {
        self.next_id += 1;
        let id = CommandId(self.next_id);
        self.note(format!("{}: {command:?}", NAMES[n]));
        let by = "a test".into();
        self.event(n, Event::Command { id, command, by });
        id
    }

    pub fn status(&self, n: usize) -> Option<CoreStatus> {
        self.nodes[n]
            .replica
            .as_ref()
            .map(|replica| replica.status(self.nodes[n].local(self.now)))
    }

    pub fn replication(&self, n: usize) -> &'static str {
        self.status(n)
            .map_or("down", |status| status.peers[0].replication)
    }

    fn event(&mut self, n: usize, event: Event) {
        let Some(mut replica) = self.nodes[n].replica.take() else {
            return;
        };
        self.nodes[n].events += 1;
        let mut actions = Vec::new();
        let local = self.nodes[n].local(self.now);
        let is_time = matches!(event, Event::Timeout);
        replica.handle(local, event, &mut actions);
        let timeout = replica.next_timeout();
        assert!(
            !is_time || timeout.is_none_or(|at| at > local),
            "a timer that is due for ever: the driver would spin"
        );
        self.nodes[n].replica = Some(replica);
        let life = self.nodes[n].life;
        if let Some(at) = timeout.map(|at| self.nodes[n].global(at)) {
            self.schedule(
                at.saturating_sub(self.now).max(1),
                Happening::Tick { node: n, life },
            );
        }
        for action in actions {
            self.act(n, life, action);
        }
    }

    fn act(&mut self, n: usize, life: u32, action: Action) {
        match action {
            Action::Disk { token, op } => {
                let reads = matches!(op, DiskOp::Read { .. } | DiskOp::Flush);
                assert!(
                    reads || !self.nodes[n].saving,
                    "a write between a bundle and the rewind"
                );
                let flush_point = self.nodes[n].data.flush_point();
                let delay = 1 + self.rng.below(MS);
                self.schedule(
                    delay,
                    Happening::Disk {
                        node: n,
                        life,
                        token,
                        op,
                        flush_point,
                    },
                );
            }
            Action::Recall { token, data } => {
                let recalled = Happening::Recalled {
                    node: n,
                    life,
                    token,
                    data,
                };
                self.schedule(1, recalled);
            }
            Action::Meta { token, writes, .. } => {
                let start = self.nodes[n].meta_free.max(self.now);
                let end = start + 1 + self.rng.below(MS);
                self.nodes[n].meta_free = end;
                self.schedule(
                    end - self.now,
                    Happening::Meta {
                        node: n,
                        life,
                        token,
                        writes,
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
                self.nodes[n].saving = false;
                self.break_connection(connection, n);
            }
            Action::Dial { .. } => {
                let delay = 1 + self.rng.below(2 * MS);
                self.schedule(delay, Happening::Dialled { from: n, life });
            }
            Action::Reply { id, result } => self.replies.push((n, id, result)),
            Action::Export { open } => self.nodes[n].exported = open,
            Action::CommandDone { id, result } => {
                if let Err(error) = &result {
                    self.note(format!("{}: refused: {}", NAMES[n], error.message));
                }
                self.commands.insert(id, result);
            }
            Action::Record(record) => {
                self.note(format!("{}: {}: {}", NAMES[n], record.what, record.text));
                self.nodes[n].records.push(record.what);
            }
            Action::RecordDiscard { token, record } => {
                self.note(format!("{}: {}: {}", NAMES[n], record.what, record.text));
                self.nodes[n].records.push(record.what);
                self.nodes[n].saving = true;
                let what = Happening::Bundle {
                    node: n,
                    life,
                    token,
                    bundle: None,
                };
                let delay = 1 + self.rng.below(MS);
                self.schedule(delay, what);
            }
            Action::DropBundle { .. } => self.nodes[n].saving = false,
            Action::Verified(what) => {
                self.note(format!("{}: {what:?}", NAMES[n]));
                self.nodes[n].verified.push(what);
            }
            Action::Held { ticket, data } => self.nodes[n].held = Some((ticket, data)),
            Action::Ask { ask, request } => {
                assert!(self.arbitration.is_some(), "no arbiter is configured");
                self.check_promise(n, &request);
                self.note(format!("{}: asks {ask}: {request:?}", NAMES[n]));
                self.nodes[n].asking = Some((ask, request));
                let again = false;
                self.schedule(
                    1,
                    Happening::Asking {
                        node: n,
                        life,
                        ask,
                        again,
                    },
                );
            }
            Action::Withdraw { ask } => {
                self.nodes[n].asking.take_if(|(open, _)| *open == ask);
            }
            Action::SaveBundle { token, bundle } => {
                // Of a repair, which the Primary's writes need not wait for.
                self.nodes[n].saving = bundle.rule != "verify";
                let blocks = bundle
                    .runs
                    .iter()
                    .flat_map(|run| run.first..run.first + run.count);
                let bundle = blocks
                    .map(|block| (block, self.nodes[n].data.read(block * BLOCK, BLOCK as usize)))
                    .collect();
                let delay = 1 + self.rng.below(self.bundle_time);
                let what = Happening::Bundle {
                    node: n,
                    life,
                    token,
                    bundle: Some(bundle),
                };
                self.schedule(delay, what);
            }
            Action::Notice(notice) => {
                if notice.name == "resync.started" {
                    self.resyncs += 1;
                }
                self.note(format!("{}: {}: {}", NAMES[n], notice.name, notice.text));
            }
        }
    }

    fn transmit(&mut self, from: usize, id: ConnectionId, epoch: u64, message: Message) {
        let vanishes = match self.cable {
            Cable::Fine => false,
            Cable::Mute(node) => node == from,
            Cable::Silent | Cable::Cut => true,
        };
        if let Message::ChunkData { payload, .. } | Message::ChunkWhole { payload, .. } = &message {
            self.chunk_bytes += payload.len() as u64;
        }
        self.check_confirmation(from, &message);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let to = 1 - from;
        if vanishes {
            // TCP has no holes: what follows on this connection never arrives either.
            connection.open[to] = false;
        }
        if !connection.open[from] || !connection.open[to] {
            return;
        }
        let arrival = connection.last_arrival[to].max(self.now) + 1 + self.rng.below(MS / 2);
        connection.last_arrival[to] = arrival;
        let life = self.nodes[to].life;
        let delay = arrival - self.now;
        self.schedule(
            delay,
            Happening::Deliver {
                to,
                life,
                connection: id,
                epoch,
                message,
            },
        );
    }

    // ---- time ----------------------------------------------------------------------------------------

    /// Runs everything that is due within `span`.
    pub fn run(&mut self, span: Time) {
        let end = self.now + span;
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs until `done`, within a bound of virtual time.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let end = self.now + 120_000 * MS;
        while !done(self) {
            assert!(self.now < end, "never came to be: {what}");
            self.step();
        }
    }

    pub fn step(&mut self) {
        let Some(Reverse(next)) = self.queue.pop() else {
            panic!("nothing will ever happen again")
        };
        self.now = self.now.max(next.at);
        if let Some(thaw) = next.what.happens_in().map(|n| self.nodes[n].frozen) {
            if thaw > self.now {
                return self.queue.push(Reverse(Scheduled { at: thaw, ..next }));
            }
        }
        match next.what {
            Happening::Disk {
                node,
                life,
                token,
                op,
                flush_point,
            } => {
                if self.nodes[node].life == life && self.nodes[node].replica.is_some() {
                    let result = if self.nodes[node].broken {
                        Err(Errno::EIO)
                    } else {
                        Ok(apply(&mut self.nodes[node].data, &op, flush_point))
                    };
                    self.event(node, Event::DiskDone { token, result });
                }
            }
            Happening::Recalled {
                node,
                life,
                token,
                data,
            } => {
                if self.nodes[node].life == life && self.nodes[node].replica.is_some() {
                    let result = Ok(Some(data));
                    self.event(node, Event::DiskDone { token, result });
                }
            }
            Happening::Meta {
                node,
                life,
                token,
                writes,
            } => {
                if self.nodes[node].life == life && self.nodes[node].replica.is_some() {
                    for write in writes {
                        self.nodes[node].meta.write(write.offset, &write.bytes, true);
                    }
                    self.event(
                        node,
                        Event::MetaDone {
                            token,
                            result: Ok(()),
                        },
                    );
                }
            }
            Happening::Dialled { from, life } => self.dialled(from, life),
            Happening::Deliver {
                to,
                life,
                connection,
                epoch,
                message,
            } => {
                let open = self.connections.get(&connection).is_some_and(|c| c.open[to]);
                if open && self.nodes[to].life == life {
                    self.event(
                        to,
                        Event::Received {
                            peer: 0,
                            connection,
                            epoch,
                            message,
                        },
                    );
                }
            }
            Happening::Lost {
                node,
                life,
                connection,
                why,
            } => {
                let open = self.connections.get(&connection).is_some_and(|c| c.open[node]);
                if open && self.nodes[node].life == life {
                    if let Some(c) = self.connections.get_mut(&connection) {
                        c.open[node] = false;
                    }
                    self.event(
                        node,
                        Event::ConnectionLost {
                            peer: 0,
                            connection,
                            why: why.into(),
                        },
                    );
                }
            }
            Happening::Bundle {
                node,
                life,
                token,
                bundle,
            } => {
                if self.nodes[node].life == life {
                    let result = if self.bundles_fail && bundle.is_some() {
                        Err("no room".into())
                    } else {
                        self.nodes[node].bundle = bundle.or(self.nodes[node].bundle.take());
                        Ok(())
                    };
                    self.event(node, Event::BundleSaved { token, result });
                }
            }
            Happening::Asking {
                node,
                life,
                ask,
                again,
            } => self.ask(node, life, ask, again),
            Happening::AtArbiter {
                node,
                life,
                ask,
                request,
            } => self.at_arbiter(node, life, ask, request),
            Happening::Says {
                node,
                life,
                ask,
                configuration,
            } => {
                let open = self.nodes[node]
                    .asking
                    .take_if(|(open, _)| *open == ask)
                    .is_some();
                if self.nodes[node].life == life && open {
                    self.note(format!("{}: the arbiter says {configuration:?}", NAMES[node]));
                    self.event(node, Event::ArbiterSays { ask, configuration });
                }
            }
            Happening::Tick { node, life } => {
                let due = self.nodes[node]
                    .replica
                    .as_ref()
                    .and_then(Replica::next_timeout)
                    .filter(|at| *at <= self.nodes[node].local(self.now));
                if self.nodes[node].life == life && due.is_some() {
                    self.event(node, Event::Timeout);
                }
            }
        }
    }

    /// FENCE: whoever asks to be Primary has promised the epoch, durably.
    fn check_promise(&self, n: usize, request: &AskRequest) {
        let role = self.status(n).map(|status| status.role);
        if let AskRequest::Swap {
            expected: Some(_),
            next,
        } = request
        {
            assert!(
                role == Some(Role::Primary) || self.superblock(n).promised >= next.epoch,
                "FENCE: {} asks for {next:?} before its promise is durable",
                NAMES[n]
            );
        }
    }

    /// FENCE: nobody confirms anything to a Primary whose epoch it has promised to end.
    fn check_confirmation(&self, from: usize, message: &Message) {
        if self.arbitration.is_none() || !matches!(message, Message::Done { .. }) {
            return;
        }
        let reigns = self
            .status(1 - from)
            .and_then(|status| status.arbitration?.configuration);
        if let Some(reigns) = reigns {
            assert!(
                self.superblock(from).promised <= reigns.epoch,
                "FENCE: {} confirms a write of {reigns:?}",
                NAMES[from]
            );
        }
    }

    // ---- the arbiter ---------------------------------------------------------------------------------

    fn ask(&mut self, n: usize, life: u32, ask: u64, again: bool) {
        let node = &self.nodes[n];
        let Some((open, request)) = node.asking.clone() else {
            return;
        };
        if node.life != life || open != ask {
            return;
        }
        let request = if again { AskRequest::Read } else { request };
        let swaps = matches!(request, AskRequest::Swap { .. });
        let reach = node.reach;
        if reach == Reach::Cut {
            return self.schedule(
                200 * MS,
                Happening::Asking {
                    node: n,
                    life,
                    ask,
                    again: again || swaps,
                },
            );
        }
        let late = match reach {
            Reach::Late(by) if swaps => by,
            _ => 0,
        };
        if late > 0 {
            self.schedule(
                300 * MS,
                Happening::Asking {
                    node: n,
                    life,
                    ask,
                    again: true,
                },
            );
        }
        let delay = 1 + late + self.rng.below(MS);
        let what = Happening::AtArbiter {
            node: n,
            life,
            ask,
            request,
        };
        self.schedule(delay, what);
    }

    fn at_arbiter(&mut self, n: usize, life: u32, ask: u64, request: AskRequest) {
        let mut read_again = false;
        if let AskRequest::Swap { expected, next } = &request {
            if self.register == *expected {
                let before = self.register.as_ref().map_or(0, |held| held.epoch);
                assert!(
                    next.epoch > before,
                    "an epoch that goes back: {before} to {next:?}"
                );
                self.reseeds += u64::from(self.register.is_none() && !self.registers.is_empty());
                self.register = Some(next.clone());
                self.registers.push(next.clone());
                self.note(format!("the arbiter holds {next:?}"));
            } else {
                read_again = true;
            }
        }
        if self.nodes[n].reach == Reach::Deaf {
            read_again = true;
        }
        let delay = 1 + self.rng.below(MS);
        if read_again {
            let pause = if self.nodes[n].reach == Reach::Deaf {
                300 * MS
            } else {
                delay
            };
            return self.schedule(
                pause,
                Happening::Asking {
                    node: n,
                    life,
                    ask,
                    again: true,
                },
            );
        }
        let configuration = self.register.clone();
        self.schedule(
            delay,
            Happening::Says {
                node: n,
                life,
                ask,
                configuration,
            },
        );
    }

    fn dialled(&mut self, from: usize, life: u32) {
        if self.nodes[from].life != life || self.nodes[from].replica.is_none() {
            return;
        }
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let to = 1 - from;
        if self.cable != Cable::Fine || self.nodes[to].replica.is_none() {
            let why = "connection refused".to_string();
            return self.event(
                from,
                Event::ConnectionLost {
                    peer: 0,
                    connection: id,
                    why,
                },
            );
        }
        self.connections.insert(
            id,
            Connection {
                open: [true, true],
                last_arrival: [self.now, self.now],
            },
        );
        self.event(
            from,
            Event::ConnectionOpened {
                peer: 0,
                connection: id,
            },
        );
        self.event(
            to,
            Event::ConnectionOpened {
                peer: 0,
                connection: id,
            },
        );
    }
}

/// A failing run shows how it got there.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self
                .trace
                .len()
                .saturating_sub(if std::env::var_os("TRACE_ALL").is_some() {
                    1_000_000
                } else {
                    100
                });
            for line in &self.trace[from..] {
                eprintln!("{line}");
            }
        }
    }
}

fn apply(disk: &mut Disk, op: &DiskOp, flush_point: usize) -> Option<Payload> {
    match op {
        DiskOp::Read { offset, len } => return Some(Payload::copy_from(&disk.read(*offset, *len as usize))),
        DiskOp::Write { offset, payload, fua } => disk.write(*offset, payload, *fua),
        DiskOp::Zero { offset, len, fua, .. } => disk.write(*offset, &vec![0; *len as usize], *fua),
        DiskOp::Flush => disk.flush(flush_point),
    }
    None
}
