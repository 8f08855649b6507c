//! One real core against a peer, a disk and a metadata device that a test plays by hand: every completion and
//! every message comes exactly when the test says so.

mod detach;
mod ending;
mod heal;
mod hold;
mod latency;
mod resolve;
mod serve;
mod verify;
mod warm_up;

use std::collections::VecDeque;

use _engine::core::*;
use _engine::meta::{Bitmap, Layout, Superblock, EXTENT_BYTES};
use _engine::payload::Payload;
use _engine::wire::{
    self, DiskState, Generations, Hello, Intent, Message, NodeState, Protocol, Role, SplitBrainPolicy,
};

const MS: u64 = 1_000_000;
const SIZE: u64 = 16 << 20;
const BLOCK: u32 = 4096;
const ID: [u8; 16] = [7; 16];

struct Bench {
    replica: Replica,
    now: Time,
    protocol: Protocol,
    connection: u64,
    next: u64,
    /// What the peer's Hello offers.
    features: u64,
    disk: VecDeque<(Token, DiskOp)>,
    recalled: VecDeque<(Token, Payload)>,
    meta: VecDeque<(Token, Vec<MetaWrite>)>,
    sent: VecDeque<Message>,
    replies: Vec<(RequestId, bool)>,
    read: Vec<(RequestId, Payload)>,
    done: Vec<(CommandId, bool)>,
    dials: usize,
    exported: bool,
    notices: Vec<&'static str>,
    records: Vec<&'static str>,
    bundles: Vec<(Token, BundleRequest)>,
    dropped: Vec<Token>,
    /// Discards without a bundle whose records are not durable yet.
    discards: Vec<Token>,
    verified: Vec<Verified>,
    /// What was held, and its number.
    held: Vec<(u64, Payload)>,
}

/// What a test may want otherwise.
struct Setup<'a> {
    on_io_error: OnIoError,
    protocol: Protocol,
    stale_generation: u64,
    marked: &'a [u64],
    hot: &'a [u64],
}

const SETUP: Setup = Setup {
    on_io_error: OnIoError::PassOn,
    protocol: Protocol::C,
    stale_generation: 0,
    marked: &[],
    hot: &[],
};

/// Of a good copy at this generation.
fn superblock(current: u64) -> Superblock {
    let mut superblock = Superblock::blank("r0", "a", &["b".into()], &Layout::new(SIZE, BLOCK, 1), 2);
    superblock.current = current;
    superblock.resource_id = if current == 0 { [0; 16] } else { ID };
    superblock.disk = DiskState::UpToDate;
    superblock.peers[0].full_sync = false;
    superblock
}

fn state(role: Role, current: u64) -> NodeState {
    NodeState {
        role,
        disk: DiskState::UpToDate,
        generations: Generations {
            current,
            bitmap: 0,
            history: [0; 8],
        },
        dirty_blocks: 0,
        suspect_extents: 0,
        full_sync: false,
        crashed_primary: false,
        last_primary: false,
        epoch: 0,
        promised: 0,
        diverged_at_s: 0,
        changed_at_s: 0,
        resuming: false,
        handshake: true,
    }
}

impl Bench {
    /// In the middle of becoming a copy.
    fn target(on_io_error: OnIoError) -> Bench {
        let mut bench = Bench::with(superblock(5), false, on_io_error);
        let mut newer = state(Role::Primary, 6);
        newer.generations.bitmap = 5;
        bench.handshake(newer);
        bench.settle();
        bench
    }

    fn new(superblock: Superblock, resume: bool) -> Bench {
        Bench::with(superblock, resume, OnIoError::PassOn)
    }

    fn with(superblock: Superblock, resume: bool, on_io_error: OnIoError) -> Bench {
        let setup = Setup { on_io_error, ..SETUP };
        Bench::made(superblock, resume, setup)
    }

    /// With blocks marked for the peer, and extents in the write-intent log.
    fn with_marks(superblock: Superblock, resume: bool, marked: &[u64], hot: &[u64]) -> Bench {
        let setup = Setup { marked, hot, ..SETUP };
        Bench::made(superblock, resume, setup)
    }

    fn made(superblock: Superblock, resume: bool, setup: Setup) -> Bench {
        let Setup {
            on_io_error,
            protocol,
            stale_generation,
            marked,
            hot,
        } = setup;
        let layout = Layout::new(SIZE, BLOCK, 1);
        let mut marks = Bitmap::new(layout.blocks());
        for block in marked {
            marks.set(*block, 1);
        }
        let mut intent = Bitmap::new_intent(layout.extents());
        for extent in hot {
            intent.set(*extent, 1);
        }
        let config = ReplicaConfig {
            resource: "r0".into(),
            node: "a".into(),
            protocol,
            peers: vec![PeerConfig {
                name: "b".into(),
                dial: true,
            }],
            peer_timeout_ns: 3_000 * MS,
            resume_wait_ns: 5_000 * MS,
            seed: 1,
            policy: SplitBrainPolicy::Manual,
            priority: 0,
            on_io_error,
            stale_generation,
            wall_offset_s: 1_800_000_000,
            arbitration: None,
            read_ahead: Some(ReadAhead {
                bytes: 64 << 20,
                keep: true,
            }),
        };
        let metadata = ReplicaMetadata {
            superblock,
            bitmaps: vec![marks],
            intent,
            layout,
        };
        let mut bench = Bench {
            replica: Replica::new(config, metadata, resume, MS),
            now: MS,
            protocol: Protocol::C,
            connection: 0,
            next: 0,
            features: wire::feature::ALL,
            disk: VecDeque::new(),
            recalled: VecDeque::new(),
            meta: VecDeque::new(),
            sent: VecDeque::new(),
            replies: Vec::new(),
            read: Vec::new(),
            done: Vec::new(),
            dials: 0,
            exported: false,
            notices: Vec::new(),
            records: Vec::new(),
            bundles: Vec::new(),
            dropped: Vec::new(),
            discards: Vec::new(),
            verified: Vec::new(),
            held: Vec::new(),
        };
        bench.command(Command::Connect { peer: 0 });
        bench
    }

    /// In step with its peer, and Primary.
    fn primary() -> Bench {
        Bench::primary_with(OnIoError::PassOn)
    }

    fn primary_with(on_io_error: OnIoError) -> Bench {
        Bench::with(superblock(5), false, on_io_error).promoted()
    }

    fn with_protocol(protocol: Protocol) -> Bench {
        let mut bench = Bench::made(
            superblock(5),
            false,
            Setup {
                on_io_error: OnIoError::Detach,
                protocol,
                ..SETUP
            },
        );
        bench.protocol = protocol;
        bench.promoted()
    }

    fn promoted(mut self) -> Bench {
        let bench = &mut self;
        bench.handshake(state(Role::Secondary, 5));
        let id = bench.command(Command::Promote { force: false });
        bench.receive(Message::PromoteReply { allowed: true });
        bench.settle();
        assert!(bench.is_done(id, true) && bench.exported);
        bench.sent.clear();
        self
    }

    fn event(&mut self, event: Event) {
        let mut actions = Vec::new();
        let is_time = matches!(event, Event::Timeout);
        self.replica.handle(self.now, event, &mut actions);
        let due = self.replica.next_timeout().is_some_and(|at| at <= self.now);
        assert!(!is_time || !due, "a timer that stays due");
        for action in actions {
            match action {
                Action::Disk { token, op } => self.disk.push_back((token, op)),
                Action::Recall { token, data } => self.recalled.push_back((token, data)),
                Action::Meta { token, writes, .. } => self.meta.push_back((token, writes)),
                Action::Send { message, .. } => self.sent.push_back(message),
                Action::Close { .. } => {}
                Action::Dial { .. } => self.dials += 1,
                Action::Reply { id, result } => {
                    self.replies.push((id, result.is_ok()));
                    self.read.extend(result.ok().flatten().map(|data| (id, data)));
                }
                Action::Export { open } => self.exported = open,
                Action::CommandDone { id, result } => {
                    assert!(self.done.iter().all(|(d, _)| *d != id), "{id:?} answered twice");
                    self.done.push((id, result.is_ok()));
                }
                Action::Record(record) => self.records.push(record.what),
                Action::RecordDiscard { token, record } => {
                    self.records.push(record.what);
                    self.discards.push(token);
                }
                Action::DropBundle { token } => self.dropped.push(token),
                Action::Verified(what) => self.verified.push(what),
                Action::Held { ticket, data } => self.held.push((ticket, data)),
                Action::SaveBundle { token, bundle } => self.bundles.push((token, bundle)),
                Action::Notice(notice) => self.notices.push(notice.name),
                Action::Ask { .. } | Action::Withdraw { .. } => panic!("no arbiter is configured"),
            }
        }
    }

    fn command(&mut self, command: Command) -> CommandId {
        self.next += 1;
        let id = CommandId(self.next);
        let by = "a test".into();
        self.event(Event::Command { id, command, by });
        id
    }

    fn request(&mut self, kind: RequestKind) -> RequestId {
        self.next += 1;
        let id = RequestId(self.next);
        self.event(Event::Request { id, kind });
        id
    }

    fn write(&mut self, offset: u64) -> RequestId {
        let payload = Payload::copy_from(&[9; BLOCK as usize]);
        self.request(RequestKind::Write {
            offset,
            payload,
            fua: false,
        })
    }

    fn is_done(&self, id: CommandId, ok: bool) -> bool {
        self.done.contains(&(id, ok))
    }

    fn replication(&self) -> &'static str {
        self.replica.status(self.now).peers[0].replication
    }

    fn receive(&mut self, message: Message) {
        let connection = ConnectionId(self.connection);
        self.event(Event::Received {
            peer: 0,
            connection,
            epoch: 0,
            message,
        });
    }

    fn open(&mut self) {
        self.connection += 1;
        let connection = ConnectionId(self.connection);
        self.event(Event::ConnectionOpened { peer: 0, connection });
    }

    fn lose(&mut self) {
        let connection = ConnectionId(self.connection);
        self.event(Event::ConnectionLost {
            peer: 0,
            connection,
            why: "cut".into(),
        });
    }

    fn hello(&mut self) {
        self.hello_of(ID);
    }

    fn hello_of(&mut self, resource_id: [u8; 16]) {
        self.hello_with(resource_id, Intent::Replicate);
    }

    fn hello_with(&mut self, resource_id: [u8; 16], intent: Intent) {
        self.receive(Message::Hello(Hello {
            version_min: wire::VERSION_MIN,
            version_max: wire::VERSION_MAX,
            features: self.features,
            resource: "r0".into(),
            resource_id,
            node: "b".into(),
            peer: "a".into(),
            data_size_bytes: SIZE,
            block_size_bytes: BLOCK,
            protocol: self.protocol,
            channel: 0,
            nonce: 1,
            intent,
            policy: SplitBrainPolicy::Manual,
            priority: 0,
            session: None,
        }));
    }

    fn handshake(&mut self, state: NodeState) {
        self.open();
        self.hello();
        self.receive(Message::State(state));
    }

    fn disk_done(&mut self) -> DiskOp {
        self.finish_disk(true)
    }

    fn finish_disk(&mut self, ok: bool) -> DiskOp {
        let (token, op) = self.disk.pop_front().expect("a disk operation under way");
        let result = match &op {
            _ if !ok => Err(Errno::EIO),
            DiskOp::Read { len, .. } => Ok(Some(Payload::copy_from(&vec![1; *len as usize]))),
            _ => Ok(None),
        };
        self.event(Event::DiskDone { token, result });
        op
    }

    /// What the core remembers comes back to it.
    fn recall_all(&mut self) {
        for (token, data) in std::mem::take(&mut self.recalled) {
            let result = Ok(Some(data));
            self.event(Event::DiskDone { token, result });
        }
    }

    fn meta_done(&mut self, ok: bool) -> Vec<MetaWrite> {
        let (token, writes) = self.meta.pop_front().expect("a metadata write under way");
        let result = if ok { Ok(()) } else { Err(Errno::EIO) };
        self.event(Event::MetaDone { token, result });
        writes
    }

    /// Every disk and metadata operation completes.
    fn settle(&mut self) {
        while !self.disk.is_empty() || !self.meta.is_empty() {
            if self.meta.is_empty() {
                self.disk_done();
            } else {
                self.meta_done(true);
            }
        }
    }

    /// Every metadata write completes, and nothing else.
    fn settle_meta(&mut self) {
        while !self.meta.is_empty() {
            self.meta_done(true);
        }
    }

    fn pass(&mut self, span: Time) {
        self.now += span;
        self.event(Event::Timeout);
    }

    /// Takes what was sent, and finds the first that fits.
    fn find<T>(&mut self, fits: impl Fn(&Message) -> Option<T>) -> Option<T> {
        let found = self.sent.iter().find_map(&fits);
        self.sent.clear();
        found
    }

    /// The next chunk to compare was read and its checksum sent: its number.
    fn next_chunk(&mut self) -> u64 {
        self.settle();
        self.find(|message| match message {
            Message::ChunkHash { id, .. } => Some(*id),
            _ => None,
        })
        .expect("a chunk to compare")
    }

    fn suspect_bytes(&self) -> u64 {
        self.replica.status(self.now).peers[0].suspect_bytes
    }
}

/// Source of a resync over one block that the target did not confirm.
fn resyncing() -> Bench {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle();
    bench.lose();
    bench.settle();
    bench.pass(100 * MS);
    bench.handshake(state(Role::Secondary, 5));
    assert_eq!(bench.replication(), "SyncSource");
    bench.receive(Message::BitmapRuns {
        runs: Vec::new(),
        last: true,
    });
    bench
}

#[test]
fn equal_checksums_prove_nothing_about_what_the_target_flushed() {
    let mut bench = resyncing();
    let id = bench.next_chunk();
    bench.receive(Message::ChunkSame { id });
    // The target's machine dies before it flushed: what was equal in its cache may be gone.
    bench.lose();
    assert_eq!(bench.suspect_bytes(), EXTENT_BYTES);
}

#[test]
fn a_demote_during_a_resync_leaves_its_chunks_in_the_write_intent_log() {
    let mut bench = resyncing();
    let id = bench.next_chunk();
    let demote = bench.command(Command::Demote);
    while !bench.is_done(demote, true) {
        bench.settle();
        let seq = bench.find(|m| match m {
            Message::Flush { seq } => Some(*seq),
            _ => None,
        });
        if let Some(seq) = seq {
            bench.receive(Message::Done { seq, status: 0 });
        }
    }
    assert_eq!(bench.replica.status(bench.now).hot_extents, 1);
    bench.receive(Message::ChunkSame { id });
    bench.settle();
    bench.lose();
    assert_eq!(bench.suspect_bytes(), EXTENT_BYTES);
}

#[test]
fn a_failed_flush_at_the_stop_leaves_the_write_intent_log() {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.meta_done(true);
    bench.disk_done();
    bench.receive(Message::Done { seq: 1, status: 0 });
    let stop = bench.command(Command::Stop);
    bench.receive(Message::Done { seq: 2, status: 0 });
    assert_eq!(bench.finish_disk(false), DiskOp::Flush);
    bench.settle();
    assert!(bench.is_done(stop, true));
    assert_eq!(bench.replica.status(bench.now).hot_extents, 1);
}

#[test]
fn a_node_that_resumes_never_becomes_primary_behind_a_handshake() {
    let mut superblock = superblock(5);
    (superblock.role_primary, superblock.last_primary) = (true, true);
    let mut bench = Bench::new(superblock, true);
    bench.pass(4_900 * MS);
    bench.open();
    bench.hello();
    bench.pass(200 * MS);
    // Meanwhile the peer was promoted, and has newer data.
    let mut peer = state(Role::Primary, 6);
    peer.generations.bitmap = 5;
    bench.receive(Message::State(peer));
    bench.settle();
    assert_eq!(bench.replication(), "SyncTarget");
    assert!(bench.replica.role() == Role::Secondary && !bench.exported);
}

#[test]
fn a_promotion_on_its_way_to_the_metadata_counts_in_a_handshake() {
    let mut superblock = superblock(5);
    superblock.last_primary = true;
    for newer in [false, true] {
        let mut bench = Bench::new(superblock.clone(), false);
        let promote = bench.command(Command::Promote { force: false });
        let mut peer = state(Role::Primary, 5);
        if newer {
            (peer.generations.current, peer.generations.bitmap) = (6, 5);
        }
        bench.handshake(peer);
        bench.settle();
        if newer {
            assert_eq!(bench.replication(), "SyncTarget");
            assert!(bench.replica.role() == Role::Secondary && !bench.exported);
            assert!(bench.is_done(promote, false));
        } else {
            assert_ne!(bench.replication(), "Established", "two connected Primaries");
            assert!(bench.is_done(promote, true));
        }
    }
}

#[test]
fn who_keeps_the_nodes_apart_is_in_the_history() {
    let mut bench = Bench::primary();
    bench.records.clear();
    // The start of the resource is nobody's decision.
    bench.event(Event::Command {
        id: CommandId(0),
        command: Command::Connect { peer: 0 },
        by: String::new(),
    });
    assert!(bench.records.is_empty());
    bench.command(Command::Disconnect { peer: 0 });
    bench.command(Command::Connect { peer: 0 });
    assert_eq!(bench.records, ["peer.disconnect", "peer.connect"]);
}

#[test]
fn commands_wait_for_a_promotion_that_is_being_saved() {
    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Secondary, 5));
    let promote = bench.command(Command::Promote { force: false });
    bench.receive(Message::PromoteReply { allowed: true });
    let demote = bench.command(Command::Demote);
    for _ in 0..4 {
        bench.settle();
        if let Some(seq) = bench.find(|m| match m {
            Message::Flush { seq } => Some(*seq),
            _ => None,
        }) {
            bench.receive(Message::Done { seq, status: 0 });
        }
    }
    assert!(bench.is_done(promote, true) && bench.is_done(demote, true));
    assert!(bench.replica.role() == Role::Secondary && !bench.exported);
}

#[test]
fn a_stop_is_final_from_its_last_flush_on() {
    let mut superblock = superblock(5);
    (superblock.role_primary, superblock.last_primary) = (true, true);
    let mut bench = Bench::new(superblock, true);
    let promote = bench.command(Command::Promote { force: false });
    let stop = bench.command(Command::Stop);
    while !bench.is_done(stop, true) {
        if bench.meta.is_empty() {
            bench.disk_done();
        }
        // Between the last flush and the end of the last metadata write.
        bench.command(Command::Connect { peer: 0 });
        bench.command(Command::Promote { force: true });
        if !bench.meta.is_empty() {
            bench.meta_done(true);
        }
    }
    bench.settle();
    let dials = bench.dials;
    bench.pass(6_000 * MS);
    bench.settle();
    assert!(bench.done.iter().any(|(id, _)| *id == promote));
    assert_eq!(
        (bench.replica.role(), bench.exported, bench.dials),
        (Role::Secondary, false, dials)
    );
}

#[test]
fn a_failed_metadata_write_answers_the_command_that_waits_for_it() {
    let mut bench = Bench::primary();
    let stop = bench.command(Command::Stop);
    bench.disk_done();
    bench.receive(Message::Done { seq: 1, status: 0 });
    while !bench.meta.is_empty() {
        bench.meta_done(false);
    }
    assert_eq!(bench.done.iter().filter(|(id, _)| *id == stop).count(), 1);

    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Secondary, 5));
    let promote = bench.command(Command::Promote { force: false });
    bench.receive(Message::PromoteReply { allowed: true });
    bench.meta_done(false);
    assert!(bench.is_done(promote, false) && !bench.exported);
}

#[test]
fn a_resume_that_is_still_asking_at_its_deadline_does_not_spin() {
    let mut superblock = superblock(5);
    (superblock.role_primary, superblock.last_primary) = (true, true);
    let mut bench = Bench::new(superblock, true);
    bench.pass(4_000 * MS);
    bench.handshake(state(Role::Secondary, 5));
    // `event` checks that no timer stays due.
    bench.pass(1_100 * MS);
    bench.receive(Message::PromoteReply { allowed: true });
    bench.settle();
    assert!(bench.exported);
}

#[test]
fn a_node_that_goes_on_alone_resumes_until_it_is_primary() {
    for disk_fails in [false, true] {
        let mut superblock = superblock(5);
        (superblock.role_primary, superblock.last_primary) = (true, true);
        let mut bench = Bench::new(superblock, true);
        bench.pass(5_100 * MS);
        // Its metadata are being written: whoever looks now must not take its device away from what has it mounted.
        assert!(bench.notices.contains(&"role.resumed_alone"));
        assert_eq!(bench.replica.role(), Role::Secondary);
        assert!(bench.replica.status(bench.now).resuming);
        bench.meta_done(!disk_fails);
        assert!(!bench.replica.status(bench.now).resuming);
        // `event` checks that no timer stays due.
        bench.pass(1_000 * MS);
        assert_eq!(bench.exported, !disk_fails);
    }
}

#[test]
fn a_disconnect_at_the_end_of_a_resync_gives_away_no_generation_the_peer_lacks() {
    let mut bench = resyncing();
    bench.settle();
    while bench.replica.status(bench.now).peers[0].out_of_sync_bytes > 0 {
        let message = bench.sent.pop_front().expect("a chunk to compare");
        if let Message::ChunkHash { id, .. } = message {
            bench.receive(Message::ChunkSame { id });
            while !bench.disk.is_empty() {
                bench.disk_done();
            }
        }
    }
    let before = bench.replica.status(bench.now).generation.current;
    bench.command(Command::Disconnect { peer: 0 });
    bench.write(8 << 20);
    bench.settle();
    assert_ne!(bench.replica.status(bench.now).generation.current, before);
    let given = bench.find(|m| matches!(m, Message::ResyncEnd { .. }).then_some(()));
    assert!(
        given.is_none(),
        "the peer would take itself for a full copy of the new generation"
    );
}

#[test]
fn a_copy_with_a_hole_never_becomes_up_to_date_by_an_old_resync() {
    let mut bench = Bench::new(superblock(5), false);
    let mut peer = state(Role::Primary, 6);
    peer.generations.bitmap = 5;
    bench.handshake(peer);
    bench.settle();
    bench.receive(Message::ResyncStart { blocks: 1 });
    let payload = Payload::copy_from(&[9; BLOCK as usize]);
    bench.receive(Message::Write {
        seq: 1,
        offset: 0,
        payload,
        fua: false,
    });
    bench.receive(Message::ResyncEnd {
        current: 6,
        history: [5, 0, 0, 0, 0, 0, 0, 0],
        resource_id: ID,
    });
    bench.finish_disk(false);
    bench.settle();
    assert_eq!(bench.replica.status(bench.now).disk, DiskState::Inconsistent);
}

#[test]
fn a_flush_is_not_promised_without_a_peer_that_lost_data_and_may_be_promoted() {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.lose();
    bench.pass(100 * MS);
    bench.open();
    bench.hello();
    let flush = bench.request(RequestKind::Flush);
    bench.disk_done();
    bench.receive(Message::State(state(Role::Secondary, 5)));
    assert_eq!(bench.replication(), "SyncSource");
    assert!(
        !bench.replies.contains(&(flush, true)),
        "before the peer's loss is durable"
    );
    bench.settle();
    assert!(bench.replies.contains(&(flush, true)));
    assert_ne!(
        bench.replica.status(bench.now).generation.current,
        format!("{:016x}", 5)
    );
}

#[test]
fn a_flush_sent_before_a_role_change_is_answered() {
    let mut bench = Bench::primary();
    bench.receive(Message::Flush { seq: 1 });
    bench.settle();
    assert_eq!(bench.replication(), "Established");
    assert!(bench.sent.contains(&Message::Done { seq: 1, status: 0 }));
}

#[test]
fn a_confused_peer_ends_its_connection_and_nothing_else() {
    // As the source it is a target's business what it says.
    let target = || {
        let mut bench = Bench::new(superblock(5), false);
        let mut peer = state(Role::Primary, 6);
        peer.generations.bitmap = 5;
        bench.handshake(peer);
        bench.settle();
        bench
    };
    let end = Message::ResyncEnd {
        current: 6,
        history: [0; 8],
        resource_id: ID,
    };
    let chunk = |len| Message::ChunkHash {
        id: 1,
        offset: 0,
        len,
        hash: 0,
        zero: false,
    };
    for messages in [
        vec![Message::ResyncStart { blocks: u64::MAX }],
        vec![end.clone(), chunk(BLOCK)],
        vec![end.clone(), end.clone()],
        vec![chunk(4 << 20)],
    ] {
        let mut bench = target();
        for message in messages.clone() {
            bench.receive(message);
        }
        assert_eq!(bench.replication(), "Off", "{messages:?}");
    }
    for answer in [
        Message::ChunkSame { id: 1 },
        Message::ChunkDone { id: 1, status: 0 },
    ] {
        // Before any checksum was sent.
        let mut bench = resyncing();
        bench.receive(answer.clone());
        assert_eq!(bench.replication(), "Off", "{answer:?}");
        assert!(bench.replica.status(bench.now).peers[0].out_of_sync_bytes > 0);
    }
    let mut bench = Bench::new(superblock(5), false);
    bench.open();
    let mut early = state(Role::Primary, 5);
    early.handshake = false;
    bench.receive(Message::State(early));
    assert!(bench.notices.contains(&"peer.protocol_error"));
}

#[test]
fn a_peer_that_never_ends_its_handshake_is_let_go() {
    let mut bench = Bench::new(superblock(5), false);
    bench.open();
    let promote = bench.command(Command::Promote { force: false });
    for n in 0..8 {
        bench.receive(Message::Ping { sent_ns: n });
        bench.pass(500 * MS);
    }
    assert!(
        bench.done.iter().any(|(id, _)| *id == promote),
        "the command waits for ever"
    );
}

#[test]
fn one_hung_write_on_the_peer_does_not_grow_the_window_without_end() {
    let mut bench = Bench::primary();
    let mut seq = 0;
    while bench.replica.accepts_requests() {
        bench.write(seq % 64 * u64::from(BLOCK));
        bench.settle();
        bench.sent.clear();
        seq += 1;
        assert!(
            seq < 200_000,
            "the window of unanswered operations grows without end"
        );
        if seq > 1 {
            bench.receive(Message::Done { seq, status: 0 });
        }
    }
    bench.receive(Message::Done { seq: 1, status: 0 });
    assert!(bench.replica.accepts_requests());
}

#[test]
fn reads_and_flushes_count_against_the_bounds() {
    let mut bench = Bench::primary();
    let mut reads = 0;
    while bench.replica.accepts_requests() {
        bench.request(RequestKind::Read {
            offset: 0,
            len: 1 << 20,
        });
        reads += 1;
        assert!(reads <= IN_FLIGHT_BYTES_MAX >> 20);
    }
    bench.settle();
    let mut flushes = 0;
    while bench.replica.accepts_requests() {
        bench.request(RequestKind::Flush);
        flushes += 1;
        assert!(flushes <= IN_FLIGHT_WRITES_MAX);
    }
}

#[test]
fn a_superseded_node_ends_the_demote_that_waited_for_its_writes() {
    let mut bench = Bench::primary();
    bench.lose();
    bench.pass(100 * MS);
    bench.open();
    bench.hello();
    // The handshake holds it back; then the verdict fails it.
    let write = bench.write(0);
    bench.settle();
    let stop = bench.command(Command::Stop);
    let mut peer = state(Role::Primary, 6);
    peer.generations.bitmap = 5;
    bench.receive(Message::State(peer));
    bench.settle();
    assert!(bench.replies.contains(&(write, false)));
    assert!(bench.is_done(stop, true));
}

#[test]
fn asking_twice_for_a_first_sync_answers_twice() {
    let mut bench = Bench::new(superblock(0), false);
    let mut peer = state(Role::Secondary, 0);
    peer.disk = DiskState::Inconsistent;
    bench.handshake(peer);
    assert_eq!(bench.replication(), "Waiting");
    let ask = || Command::SyncFrom {
        source: SyncSource::Peer(0),
    };
    let (first, second) = (bench.command(ask()), bench.command(ask()));
    bench.receive(Message::SyncReply { allowed: true });
    for id in [first, second] {
        assert_eq!(bench.done.iter().filter(|(d, _)| *d == id).count(), 1);
    }
}

#[test]
fn a_failed_flush_leaves_everything_since_the_last_good_one_suspect() {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    assert_eq!(bench.suspect_bytes(), 0);
    let flush = bench.request(RequestKind::Flush);
    assert_eq!(bench.finish_disk(false), DiskOp::Flush);
    bench.receive(Message::Done { seq: 2, status: 0 });
    assert!(bench.replies.contains(&(flush, false)));
    // The kernel has dropped what it could not write, and reports no more of it.
    let flush = bench.request(RequestKind::Flush);
    bench.settle();
    bench.receive(Message::Done { seq: 3, status: 0 });
    assert!(bench.replies.contains(&(flush, true)));
    assert_eq!(bench.suspect_bytes(), EXTENT_BYTES);
    // Nor does a rest of any length, with flushes that succeed, take the mark away.
    for _ in 0..3 {
        bench.pass(2_100 * MS);
        let (now, connection) = (bench.now, bench.connection);
        bench.receive(Message::Pong {
            sent_ns: now,
            lease_ns: 0,
        });
        assert_eq!(connection, bench.connection);
        while let Some(seq) = bench.find(|m| match m {
            Message::Flush { seq } => Some(*seq),
            _ => None,
        }) {
            bench.receive(Message::Done { seq, status: 0 });
            bench.settle();
        }
        bench.settle();
    }
    assert_eq!(bench.replica.status(bench.now).hot_extents, 1);
    assert_eq!(bench.suspect_bytes(), EXTENT_BYTES);
}

#[test]
fn the_application_hears_of_a_flush_that_failed_behind_its_back() {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    // The write-intent log is cleaned in the second cycle after the write: that flush takes the error.
    let mut failed = false;
    for _ in 0..4 {
        bench.pass(2_100 * MS);
        let now = bench.now;
        bench.receive(Message::Pong {
            sent_ns: now,
            lease_ns: 0,
        });
        if !failed && !bench.disk.is_empty() {
            failed = true;
            assert_eq!(bench.finish_disk(false), DiskOp::Flush);
            let seq = bench.find(|m| match m {
                Message::Flush { seq } => Some(*seq),
                _ => None,
            });
            bench.receive(Message::Done {
                seq: seq.unwrap(),
                status: 0,
            });
            break;
        }
    }
    assert!(failed, "the log was never cleaned");
    let flush = bench.request(RequestKind::Flush);
    bench.settle();
    bench.receive(Message::Done { seq: 3, status: 0 });
    assert!(bench.replies.contains(&(flush, false)));
    let flush = bench.request(RequestKind::Flush);
    bench.settle();
    bench.receive(Message::Done { seq: 4, status: 0 });
    assert!(bench.replies.contains(&(flush, true)));
}

#[test]
fn a_thread_that_was_held_up_hears_what_has_come_before_it_calls_a_peer_silent() {
    let mut bench = Bench::primary();
    let write = bench.write(0);
    bench.settle_meta();
    let seq = bench.find(|message| match message {
        Message::Write { seq, .. } => Some(*seq),
        _ => None,
    });
    bench.now += 10_000 * MS;
    // Its disk's answer is looked at first; the peer's words wait in the socket.
    bench.disk_done();
    assert_eq!(bench.replication(), "Established");
    let seq = seq.expect("the peer was sent the write");
    bench.receive(Message::Done { seq, status: 0 });
    bench.event(Event::Timeout);
    assert_eq!(bench.replication(), "Established");
    assert!(bench.replies.contains(&(write, true)));
    // Without such words it is silent.
    bench.pass(10_000 * MS);
    assert_ne!(bench.replication(), "Established");
}

#[test]
fn a_peer_whose_messages_are_not_read_is_not_silent() {
    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    let payload = Payload::copy_from(&vec![1; 1 << 20]);
    let mut seq = 0;
    while bench.replica.accepts_messages(0) {
        seq += 1;
        bench.receive(Message::Write {
            seq,
            offset: (seq % 16) << 20,
            payload: payload.clone(),
            fua: false,
        });
        assert!(seq < 1000, "no bound");
    }
    bench.pass(1_000 * MS);
    bench.pass(5_000 * MS);
    assert_eq!(
        bench.replication(),
        "Established",
        "its disk is slow, its peer is not dead"
    );
    bench.disk_done();
    while !bench.disk.is_empty() {
        bench.disk_done();
    }
    bench.pass(2_900 * MS);
    assert_eq!(bench.replication(), "Established");
    bench.pass(200 * MS);
    assert_ne!(bench.replication(), "Established", "now it is");
}

#[test]
fn flushes_and_resync_data_of_a_peer_are_bounded() {
    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    let mut seq = 0;
    while bench.replica.accepts_messages(0) {
        seq += 1;
        bench.receive(Message::Flush { seq });
        assert!(seq < 10_000, "no bound to the flushes of a peer");
    }
    bench.settle();
    assert!(bench.replica.accepts_messages(0));

    let mut bench = Bench::target(OnIoError::PassOn);
    assert_eq!(bench.replication(), "SyncTarget");
    let (offset, len) = (0, 256 << 10);
    let (id, hash, zero) = (1, 0, false);
    bench.receive(Message::ResyncStart { blocks: 64 });
    bench.receive(Message::ChunkHash {
        id,
        offset,
        len,
        hash,
        zero,
    });
    bench.disk_done();
    let payload = Payload::copy_from(&vec![1; len as usize]);
    let mut sent = 0;
    while bench.replica.accepts_messages(0) {
        sent += u64::from(len);
        let payload = payload.clone();
        bench.receive(Message::ChunkData { id, offset, payload });
        assert!(sent < 1 << 30, "no bound to the data of a chunk");
    }
    assert_eq!(bench.replication(), "SyncTarget");
    bench.settle();
    assert!(bench.replica.accepts_messages(0));
}

#[test]
fn resync_data_that_waits_when_the_connection_ends_is_let_go() {
    let mut bench = Bench::target(OnIoError::PassOn);
    bench.receive(Message::ResyncStart { blocks: 64 });
    let payload = Payload::copy_from(&vec![1; 256 << 10]);
    // Both take the same range: the second waits for the first.
    for id in 1..3 {
        let payload = payload.clone();
        bench.receive(Message::ChunkWhole {
            id,
            offset: 0,
            payload,
        });
    }
    bench.lose();
    bench.settle();
    assert!(bench.replica.accepts_messages(0));
}

#[test]
fn a_flush_that_fails_on_a_secondary_opens_a_hole_even_if_no_primary_asked_for_it() {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    let demote = bench.command(Command::Demote);
    bench.disk_done();
    bench.receive(Message::Done { seq: 2, status: 0 });
    bench.settle();
    assert!(bench.is_done(demote, true));
    let mut primary = state(Role::Primary, 5);
    primary.handshake = false;
    bench.receive(Message::State(primary));
    bench.settle();
    let stop = bench.command(Command::Stop);
    assert_eq!(bench.finish_disk(false), DiskOp::Flush);
    bench.settle();
    assert!(bench.is_done(stop, true));
    assert_eq!(bench.replica.status(bench.now).disk, DiskState::Inconsistent);
}

#[test]
fn a_promotion_waits_for_the_last_writes_of_the_former_primary() {
    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    bench.receive(Message::Write {
        seq: 1,
        offset: 0,
        payload: Payload::copy_from(&vec![1; BLOCK as usize]),
        fua: false,
    });
    bench.lose();
    let promote = bench.command(Command::Promote { force: true });
    while !bench.meta.is_empty() {
        bench.meta_done(true);
    }
    assert!(
        !bench.exported,
        "a reader could see the write appear out of nothing"
    );
    bench.disk_done();
    assert!(bench.exported && bench.is_done(promote, true));
}

#[test]
fn a_new_copy_takes_the_resource_id_only_from_a_source_that_has_noted_what_it_lacks() {
    // The source of a whole resync: nothing is said to the target before the flag is durable.
    let mut bench = Bench::new(superblock(5), false);
    let mut blank = state(Role::Secondary, 0);
    blank.disk = DiskState::Inconsistent;
    bench.open();
    bench.hello_of([0; 16]);
    bench.receive(Message::State(blank));
    bench.receive(Message::BitmapRuns {
        runs: Vec::new(),
        last: true,
    });
    let started = |m: &Message| matches!(m, Message::ResyncStart { .. }).then_some(());
    assert!(bench.find(started).is_none());
    bench.meta_done(true);
    assert!(bench.find(started).is_some());
    // Its target: the id comes with the start.
    let mut bench = Bench::new(superblock(0), false);
    bench.handshake(state(Role::Primary, 5));
    bench.settle();
    assert_eq!(bench.replica.status(bench.now).resource_id, None);
    bench.receive(Message::ResyncStart { blocks: 9 });
    assert!(bench.replica.status(bench.now).resource_id.is_some());
}

#[test]
fn a_forced_promotion_is_ahead_of_the_former_primary_before_it_wrote() {
    let mut bench = Bench::new(superblock(5), false);
    let promote = bench.command(Command::Promote { force: true });
    bench.settle();
    assert!(bench.is_done(promote, true));
    // The former Primary comes back from a power cut, with the generation that both had.
    let mut former = state(Role::Secondary, 5);
    (former.crashed_primary, former.last_primary) = (true, true);
    bench.handshake(former);
    assert_eq!(bench.replication(), "SyncSource");
    assert_eq!(bench.replica.status(bench.now).peers[0].rule, Some("self-ahead"));
}

#[test]
fn a_target_that_is_forced_half_way_is_a_split_brain_and_no_newer_copy() {
    // Equal generations, and a block that the target confirmed and may have lost.
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.lose();
    bench.settle();
    bench.pass(100 * MS);
    bench.handshake(state(Role::Secondary, 5));
    assert_eq!(bench.replica.status(bench.now).peers[0].rule, Some("same-dirty"));
    bench.receive(Message::BitmapRuns {
        runs: Vec::new(),
        last: true,
    });
    let started = |m: &Message| matches!(m, Message::ResyncStart { .. }).then_some(());
    assert!(
        bench.find(started).is_none(),
        "nothing is overwritten before the new generation is durable"
    );
    bench.meta_done(true);
    assert!(bench.find(started).is_some());
    bench.lose();
    bench.settle();
    bench.pass(100 * MS);
    let mut forced = state(Role::Primary, 77);
    forced.generations.bitmap = 5;
    forced.generations.history[0] = 5;
    bench.handshake(forced);
    assert_eq!(bench.replica.status(bench.now).peers[0].rule, Some("split-brain"));
}

#[test]
fn a_flush_during_a_disconnect_is_not_promised_without_what_the_peer_has_not_flushed() {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    bench.settle();
    bench.command(Command::Disconnect { peer: 0 });
    bench.replies.clear();
    bench.request(RequestKind::Flush);
    while !bench.disk.is_empty() {
        bench.disk_done();
    }
    assert!(
        bench.replies.is_empty(),
        "the peer may be promoted, and has not flushed"
    );
    bench.settle();
    assert_eq!(bench.replies.len(), 1);
}

#[test]
fn a_primary_that_fails_a_flush_of_its_time_as_secondary_stays_a_source() {
    let mut bench = Bench::new(superblock(5), false);
    bench.handshake(state(Role::Secondary, 5));
    bench.settle();
    bench.receive(Message::Flush { seq: 1 });
    let promote = bench.command(Command::Promote { force: false });
    bench.receive(Message::PromoteReply { allowed: true });
    while !bench.meta.is_empty() {
        bench.meta_done(true);
    }
    assert!(bench.is_done(promote, true));
    bench.finish_disk(false);
    assert_eq!(bench.replica.status(bench.now).disk, DiskState::UpToDate);
    let flush = bench.request(RequestKind::Flush);
    while !bench.disk.is_empty() {
        bench.disk_done();
    }
    bench.receive(Message::Done { seq: 1, status: 0 });
    assert!(
        bench.replies.contains(&(flush, false)),
        "the application hears of it"
    );
}

/// Primary, with a disconnect that waits for its flush.
fn draining() -> (Bench, CommandId) {
    let mut bench = Bench::primary();
    bench.write(0);
    bench.settle();
    bench.receive(Message::Done { seq: 1, status: 0 });
    let disconnect = bench.command(Command::Disconnect { peer: 0 });
    (bench, disconnect)
}

#[test]
fn a_connect_that_comes_while_a_disconnect_drains_is_not_lost() {
    let (mut bench, disconnect) = draining();
    let connect = bench.command(Command::Connect { peer: 0 });
    assert!(bench.done.iter().all(|(id, _)| *id != connect), "it waits");
    let dials = bench.dials;
    bench.receive(Message::Done { seq: 2, status: 0 });
    bench.settle();
    assert!(bench.is_done(disconnect, true) && bench.is_done(connect, true));
    assert_eq!(
        bench.dials,
        dials + 1,
        "it tries the peer again, in the same turn"
    );
}

#[test]
fn nor_is_one_when_patience_with_the_drain_ends() {
    let (mut bench, disconnect) = draining();
    let connect = bench.command(Command::Connect { peer: 0 });
    let dials = bench.dials;
    bench.pass(2_900 * MS);
    bench.receive(Message::Pong {
        sent_ns: 0,
        lease_ns: 0,
    });
    bench.pass(100 * MS);
    assert!(bench.is_done(disconnect, true) && bench.is_done(connect, true));
    assert_eq!(bench.dials, dials + 1);
}

#[test]
fn the_last_of_connects_and_disconnects_counts() {
    let (mut bench, first) = draining();
    let connect = bench.command(Command::Connect { peer: 0 });
    let second = bench.command(Command::Disconnect { peer: 0 });
    assert!(bench.is_done(connect, false));
    let dials = bench.dials;
    bench.receive(Message::Done { seq: 2, status: 0 });
    bench.settle();
    bench.pass(10_000 * MS);
    assert!(bench.is_done(first, true) && bench.is_done(second, true));
    assert_eq!(bench.dials, dials);
}

#[test]
fn a_stop_ends_a_connect_that_waits_for_a_drain() {
    let (mut bench, disconnect) = draining();
    let connect = bench.command(Command::Connect { peer: 0 });
    let stop = bench.command(Command::Stop);
    let late = bench.command(Command::Connect { peer: 0 });
    assert!(bench.is_done(late, false));
    bench.settle();
    bench.receive(Message::Done { seq: 2, status: 0 });
    bench.receive(Message::Done { seq: 3, status: 0 });
    bench.settle();
    bench.pass(3_000 * MS);
    bench.settle();
    assert!(bench.is_done(disconnect, true) && bench.is_done(stop, true));
    let answered = bench.done.iter().any(|(id, _)| *id == connect);
    assert!(answered, "nobody waits for ever");
    let dials = bench.dials;
    bench.pass(10_000 * MS);
    assert_eq!(bench.dials, dials, "a stopped resource tries nothing");
}

#[test]
fn a_peer_that_asks_again_and_again_to_be_primary_costs_one_metadata_write() {
    let mut bench = Bench::with(superblock(5), false, OnIoError::PassOn);
    bench.handshake(state(Role::Secondary, 5));
    bench.settle();
    bench.sent.clear();
    for _ in 0..100 {
        bench.receive(Message::PromoteRequest);
    }
    assert_eq!(bench.meta.len(), 1);
    bench.settle();
    let allowed = |message: &&Message| matches!(message, Message::PromoteReply { allowed: true });
    assert_eq!(bench.sent.iter().filter(allowed).count(), 1);
    // Nor is one that tries again, while that write takes its time, told that this node is Primary.
    let denied = |message: &&Message| matches!(message, Message::PromoteReply { allowed: false });
    assert_eq!(bench.sent.iter().filter(denied).count(), 0);
}

#[test]
fn who_asks_again_to_be_primary_on_a_new_connection_hears_the_yes_there() {
    let mut bench = Bench::with(superblock(5), false, OnIoError::PassOn);
    bench.handshake(state(Role::Secondary, 5));
    bench.settle();
    bench.receive(Message::PromoteRequest);
    let (token, _) = bench.meta.pop_front().expect("the permission is on its way");
    bench.lose();
    bench.handshake(state(Role::Secondary, 5));
    bench.sent.clear();
    bench.receive(Message::PromoteRequest);
    let replies = |bench: &Bench| -> Vec<bool> {
        let reply = |message: &Message| match message {
            Message::PromoteReply { allowed } => Some(*allowed),
            _ => None,
        };
        bench.sent.iter().filter_map(reply).collect()
    };
    assert!(replies(&bench).is_empty(), "not before it is durable");
    bench.event(Event::MetaDone {
        token,
        result: Ok(()),
    });
    assert_eq!(replies(&bench), [true]);
}
