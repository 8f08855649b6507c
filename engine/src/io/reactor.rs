//! The thread of one resource: waits for sockets, disks, commands and time, feeds the core, and does what it
//! says. One thread does it all, because handing work to another costs more than the work.

mod answered;
mod bundles;
mod clients;
mod links;
mod paths;
mod records;
mod report;
mod watch;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bundle::{Saver, Since};
use super::client::Client;
use super::consult::Answers;
use super::dial::Destination;
use super::disk::{Completion, Device, Disk};
use super::failure::{Failure, FailureKind};
use super::history_writer::HistoryWriter;
use super::inbox::{CommandReply, Inbox, Input};
use super::meta_writer::MetaWriter;
use super::peer::{PeerConnection, WireCounters};
use super::poll::{Interest, Poll, Ready};
use super::shared::Shared;
use super::watchdog::{boottime, Watchdog};
use crate::core::{
    Action, Command, CommandId, ConnectionId, DiskOp, Event, Notice, Replica, Severity, Time, Token,
};
use crate::front::nbd::Export;
use crate::session::Output;
use crate::wire::Role;
use answered::Answered;
use clients::Outstanding;
use paths::{Frame, Several};
use records::HeldAnswer;
use watch::Watch;

/// How long the thread looks for new work before it sleeps, while looking pays: a wake-up costs more than this
/// much of its time (docs/adr/0001).
const POLL_BEFORE_SLEEP: Duration = Duration::from_micros(50);
/// After unsuccessful looks, this many sleeps (as a power of two, at most) go without one.
const POLL_BACKOFF_MAX: u32 = 8;
/// A busy thread renews its published status this often.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// Bytes that the disk moves before what came of them is looked at: a chunk is hashed and sent while the
/// processor's cache still has it.
const DISK_BYTES_A_PASS: u64 = 256 << 10;

/// Who a ready descriptor belongs to: the top byte of its key; the rest is an id.
mod source {
    pub const INBOX: u64 = 0;
    pub const DISK: u64 = 1;
    pub const EXPORT: u64 = 2;
    pub const PEER: u64 = 3;
    pub const CLIENT: u64 = 4;
    pub const SHIFT: u32 = 56;
}

/// Everything a reactor is made of.
pub struct Parts {
    pub replica: Replica,
    pub clock: Clock,
    pub device: Arc<Device>,
    pub disk: Box<dyn Disk>,
    pub meta: MetaWriter,
    pub peers: Vec<Destination>,
    pub export: Arc<Export>,
    pub export_path: PathBuf,
    pub inbox: Arc<Inbox>,
    pub shared: Arc<Shared>,
    pub connect: bool,
    pub bundles: Bundles,
    pub history: Option<HistoryWriter>,
    pub answers: Answers,
    /// Only where an arbiter decides: what it waits for is a lease.
    pub watchdog: Option<Arc<Watchdog>>,
}

/// Where this resource's bundles go, and what their headers name it.
pub struct Bundles {
    pub folder: PathBuf,
    pub resource: String,
    pub node: String,
    pub since: Arc<Since>,
}

/// The core's time: nanoseconds since the engine's start, also those that the machine slept: a lease runs out meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Time);

impl Clock {
    pub fn start() -> Clock {
        Clock(boottime())
    }

    pub fn now(self) -> Time {
        boottime() - self.0
    }

    /// A moment of this clock, on CLOCK_BOOTTIME; [`Time::MAX`] stays what it is.
    fn absolute(self, moment: Time) -> Time {
        moment.saturating_add(self.0)
    }
}

pub struct Reactor {
    replica: Replica,
    clock: Clock,
    now: Time,
    poll: Poll,
    device: Arc<Device>,
    disk: Box<dyn Disk>,
    disk_in_flight: usize,
    meta: MetaWriter,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    history: Option<HistoryWriter>,
    /// Answers to commands that wait for it, in order.
    held_answers: VecDeque<HeldAnswer>,
    actions: Vec<Action>,
    batch: Vec<Action>,
    disk_ops: VecDeque<(Token, DiskOp)>,
    completions: Vec<Completion>,

    peers: Vec<Destination>,
    connections: BTreeMap<u64, PeerConnection>,
    next_connection: u64,
    /// Those of several connections, by the number of the first.
    sessions: BTreeMap<u64, Several>,
    /// What a session has said and was not done yet: empty between two calls.
    path_outputs: Vec<Output<Frame>>,
    /// The last refusal told of, a peer, and when.
    refusals: Vec<Option<(Instant, String)>>,
    /// Why the last try to meet a peer failed, where trust was what was missing.
    untrusted: Vec<Option<String>>,
    /// Bytes of connections that have ended, a peer.
    ended: Vec<WireCounters>,

    export: Arc<Export>,
    export_path: PathBuf,
    listener: Option<UnixListener>,
    /// No client is accepted before: the last try failed for want of something.
    accept_pause: Option<Instant>,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    outstanding: Outstanding,
    answered: Answered,

    answers: Answers,
    watch: Option<Watch>,
    bundles: Bundles,
    /// Of the bundle that the core waits for.
    saver: Option<(Token, Saver)>,

    commands: HashMap<u64, (CommandReply, bool)>,
    next_command: u64,
    stopping: bool,
    io_flusher: bool,
    misses: u32,
    skip_polls: u32,
    published: Instant,
    /// Somebody waits for a status; it tells nothing that was not carried out yet, as a role without its export.
    status_wanted: bool,
}

impl Reactor {
    pub fn new(parts: Parts) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        poll.add(parts.inbox.fd(), source::INBOX << source::SHIFT, Interest::READ)?;
        for fd in parts.disk.event_fds() {
            poll.add(fd, source::DISK << source::SHIFT, Interest::READ)?;
        }
        let mut reactor = Reactor {
            replica: parts.replica,
            clock: parts.clock,
            now: parts.clock.now(),
            poll,
            device: parts.device,
            disk: parts.disk,
            disk_in_flight: 0,
            meta: parts.meta,
            inbox: parts.inbox,
            shared: parts.shared,
            history: parts.history,
            held_answers: VecDeque::new(),
            actions: Vec::new(),
            batch: Vec::new(),
            disk_ops: VecDeque::new(),
            completions: Vec::new(),
            ended: vec![WireCounters::default(); parts.peers.len()],
            refusals: vec![None; parts.peers.len()],
            untrusted: vec![None; parts.peers.len()],
            peers: parts.peers,
            connections: BTreeMap::new(),
            next_connection: 1,
            sessions: BTreeMap::new(),
            path_outputs: Vec::new(),
            export: parts.export,
            export_path: parts.export_path,
            listener: None,
            accept_pause: None,
            clients: BTreeMap::new(),
            next_client: 1,
            outstanding: Outstanding::default(),
            answered: Answered::default(),
            answers: parts.answers,
            watch: parts
                .watchdog
                .map(|watchdog| Watch::new(watchdog, parts.bundles.resource.clone())),
            bundles: parts.bundles,
            saver: None,
            commands: HashMap::new(),
            next_command: 1,
            stopping: false,
            io_flusher: false,
            misses: 0,
            skip_polls: 0,
            published: Instant::now(),
            status_wanted: false,
        };
        if parts.connect {
            for peer in 0..reactor.peers.len() {
                let id = CommandId(0);
                reactor.tell(Event::Command {
                    id,
                    command: Command::Connect { peer },
                    by: String::new(),
                });
            }
        }
        reactor.publish();
        Ok(reactor)
    }

    /// Runs until the core has stopped.
    ///
    /// # Errors
    /// When waiting itself fails; nothing goes on then.
    pub fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(64);
        loop {
            self.settle()?;
            self.tend_watchdog();
            if self.stopping {
                break;
            }
            self.wait(&mut ready)?;
            self.now = self.clock.now();
            for ready in ready.drain(..) {
                self.attend(ready);
            }
            if self.replica.next_timeout().is_some_and(|due| due <= self.now) {
                // This thread may have been held up since it looked: what has come until `now` is heard first.
                self.poll.wait(Some(Duration::ZERO), &mut ready)?;
                for ready in ready.drain(..) {
                    self.attend(ready);
                }
                self.tell(Event::Timeout);
            }
            self.sessions_on_time();
        }
        self.close_down();
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        self.replica.handle(self.now, event, &mut self.actions);
    }

    fn notice(&self, severity: Severity, name: &'static str, text: String) {
        self.shared.record(Notice { severity, name, text });
    }

    fn attend(&mut self, ready: Ready) {
        let id = ready.key & ((1 << source::SHIFT) - 1);
        match ready.key >> source::SHIFT {
            source::INBOX => self.read_inbox(),
            source::EXPORT => self.accept_clients(),
            source::PEER => self.attend_peer(id, ready),
            source::CLIENT => self.attend_client(id, ready),
            // Looked at in every turn anyway.
            _ => {}
        }
    }

    /// Waits for something to do; for a moment awake, where that has paid lately.
    fn wait(&mut self, ready: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = self.timeout();
        // A disk is in no such hurry, and without requests in flight nothing is about to arrive.
        if self.disk_in_flight == 0 && !timeout.is_some_and(|wait| wait.is_zero()) {
            if self.skip_polls > 0 {
                self.skip_polls -= 1;
            } else {
                let start = Instant::now();
                while start.elapsed() < POLL_BEFORE_SLEEP {
                    self.poll.wait(Some(Duration::ZERO), ready)?;
                    if !ready.is_empty() {
                        self.misses = 0;
                        return Ok(());
                    }
                    std::thread::yield_now();
                }
                self.misses = (self.misses + 1).min(POLL_BACKOFF_MAX);
                self.skip_polls = (1 << self.misses) - 1;
            }
        }
        self.poll.wait(timeout, ready)
    }

    fn timeout(&self) -> Option<Duration> {
        let core = self
            .replica
            .next_timeout()
            .map(|due| Duration::from_nanos(due.saturating_sub(self.now)));
        let now = Instant::now();
        let closing = self
            .connections
            .values()
            .filter_map(|connection| connection.closing)
            .chain(self.accept_pause)
            .chain(self.watch.as_ref().and_then(|watch| watch.due))
            .map(|at| at.saturating_duration_since(now));
        let sessions = (self.sessions.values())
            .filter_map(|several| several.next_timeout(self.now))
            .map(|due| Duration::from_nanos(due.saturating_sub(self.now)));
        core.into_iter().chain(closing).chain(sessions).min()
    }

    fn read_inbox(&mut self) {
        for input in self.inbox.take() {
            match input {
                Input::Command { command, by, reply } => {
                    let id = self.next_command;
                    self.next_command += 1;
                    let stop = command == Command::Stop;
                    if stop {
                        // The core refuses requests from here on. A kernel device must not hear of that: what
                        // it has asked for and not been answered waits, with the device, for the next daemon.
                        self.detach();
                        self.close_export();
                    }
                    self.commands.insert(id, (reply, stop));
                    self.tell(Event::Command {
                        id: CommandId(id),
                        command,
                        by,
                    });
                }
                Input::Accepted {
                    channel,
                    hello,
                    early,
                } => {
                    self.accepted(channel, *hello, &early);
                }
                Input::Dialled {
                    peer,
                    changes,
                    result,
                } => self.dialled(peer, changes, result),
                Input::Readdress {
                    peer,
                    destination,
                    reply,
                } => {
                    self.readdress(peer, destination);
                    // Nobody waiting any more is no harm.
                    let _ = reply.try_send(());
                }
                Input::PathDialled {
                    session,
                    path,
                    result,
                } => self.path_dialled(session, path, result),
                Input::Consulted { channel, hello } => self.consulted(channel, &hello),
                Input::Consultation { peer, report, reply } => {
                    // Nobody waiting any more is no harm.
                    let _ = reply.try_send(self.replica.consultation(peer, report));
                }
                Input::MetaDone { token, result } => self.tell(Event::MetaDone { token, result }),
                Input::BundleSaved { token, result } => self.bundle_saved(token, result),
                Input::Recorded { token, result } => self.recorded(token, result),
                Input::PeerProcessGone { peer, connection } => {
                    self.tell(Event::PeerProcessGone { peer, connection });
                }
                Input::ArbiterSays { ask, configuration } => {
                    self.tell(Event::ArbiterSays { ask, configuration });
                }
                Input::Attach(fd) => self.attach(fd),
                Input::Detach(reply) => {
                    self.detach();
                    // Nobody waiting any more is no harm.
                    let _ = reply.try_send(());
                }
                Input::IoFlusher(on) => {
                    self.device.set_io_flusher(on);
                    self.device.mark_thread(&mut self.io_flusher);
                }
                Input::Publish => self.status_wanted = true,
                Input::Panic => panic!("the fault command asked for it"),
            }
        }
    }

    /// Does what the core says until it has nothing more to say.
    fn settle(&mut self) -> io::Result<()> {
        self.reap_disk();
        loop {
            self.resume_stalled();
            // Before anything that follows from an event is done: what another thread finds here is never too long.
            let until = self.replica.serves_until();
            self.shared
                .set_serves_until(until.map_or(0, |until| self.clock.absolute(until)));
            if self.actions.is_empty() && self.disk_ops.is_empty() {
                self.resume_accepting();
                // Room for replies lets clients go on, which nothing else might ever do.
                if self.flush_clients() {
                    continue;
                }
                break;
            }
            std::mem::swap(&mut self.actions, &mut self.batch);
            let mut batch = std::mem::take(&mut self.batch);
            let mut sent = false;
            let mut written = VecDeque::new();
            let mut unsaved = Vec::new();
            for action in batch.drain(..) {
                match action {
                    Action::Send {
                        connection,
                        epoch,
                        message,
                        ..
                    } => {
                        sent = true;
                        self.send(connection, message, epoch);
                    }
                    Action::Disk { token, op } => {
                        self.mark_changed(&op);
                        self.disk_ops.push_back((token, op));
                    }
                    Action::Recall { token, data } => {
                        self.disk_in_flight += 1;
                        let result = Ok(Some(data));
                        self.completions.push(Completion { token, result });
                    }
                    Action::Meta {
                        token,
                        writes,
                        after_failure,
                    } => written.push_back((token, writes, after_failure)),
                    Action::Reply { id, result } => self.reply(id, result),
                    Action::Close { connection, .. } => self.close_peer(connection),
                    Action::Dial { peer } => self.dial(peer),
                    Action::Export { open: true } => self.begin_service(),
                    Action::Export { open: false } => self.end_service(),
                    Action::CommandDone { id, result } => {
                        if let Some((reply, stop)) = self.commands.remove(&id.0) {
                            self.stopping |= stop && result.is_ok();
                            if stop && result.is_err() && self.replica.role() == Role::Primary {
                                self.open_export();
                            }
                            self.answer_command(reply, result.map_err(Failure::from));
                        }
                    }
                    Action::Notice(notice) => self.shared.record(notice),
                    Action::Record(record) => self.remember(record),
                    Action::RecordDiscard { token, record } => self.remember_discard(token, record),
                    Action::SaveBundle { token, bundle } => unsaved.push((token, bundle)),
                    Action::DropBundle { token } => {
                        unsaved.retain(|(unsaved, _)| *unsaved != token);
                        self.drop_bundle(token);
                    }
                    Action::Verified(what) => self.shared.verified(&what),
                    Action::Held { ticket, data } => self.shared.held(ticket, data),
                    Action::Ask { ask, request } => self.ask_arbiter(ask, request),
                    Action::Withdraw { ask } => self.withdraw_from_arbiter(ask),
                }
            }
            self.batch = batch;
            // The wire first: its way overlaps the local disk's.
            if sent {
                self.flush_peers();
            }
            for (token, writes, after_failure) in written {
                if let Some(result) = self.meta.submit(token, writes, after_failure) {
                    self.tell(Event::MetaDone { token, result });
                }
            }
            for (token, bundle) in unsaved {
                self.save_bundle(token, bundle);
            }
            self.submit_disk()?;
            self.reap_disk();
        }
        self.flush_peers();
        if std::mem::take(&mut self.status_wanted) || self.published.elapsed() >= PUBLISH_EVERY {
            self.publish();
        }
        Ok(())
    }

    /// Hands the disk as much of what waits for it as one pass takes.
    fn submit_disk(&mut self) -> io::Result<()> {
        let mut bytes = 0;
        while bytes < DISK_BYTES_A_PASS {
            let Some((token, op)) = self.disk_ops.pop_front() else {
                break;
            };
            bytes += match &op {
                DiskOp::Read { len, .. } => u64::from(*len),
                DiskOp::Write { payload, .. } => payload.len() as u64,
                DiskOp::Zero { .. } | DiskOp::Flush => 0,
            };
            self.disk_in_flight += 1;
            self.disk.submit(token, op, &mut self.completions);
        }
        self.disk.kick()
    }

    fn reap_disk(&mut self) {
        if self.disk_in_flight == 0 {
            return;
        }
        let mut done = std::mem::take(&mut self.completions);
        self.disk.reap(&mut done);
        if !done.is_empty() {
            // What a disk took is counted by it; and a thread that was stopped since this turn began must not take
            // its lease for young.
            self.now = self.clock.now();
        }
        for Completion { token, result } in done.drain(..) {
            self.disk_in_flight -= 1;
            self.tell(Event::DiskDone { token, result });
        }
        self.completions = done;
    }

    /// The orderly end.
    fn close_down(&mut self) {
        self.close_export();
        self.detach();
        self.finish_history();
        self.publish();
        self.sessions.clear();
        for (_, connection) in std::mem::take(&mut self.connections) {
            self.ended[connection.slot].add(connection.counters());
        }
        self.refuse_commands("the resource is down", "bring it up again: blockpair up");
        self.saver = None;
        self.keep_changed();
    }

    /// The end after a panic: whatever of the state is trusted no more, the clients are told.
    pub fn abandon(&mut self) {
        for (client, request, _) in self.outstanding.drain() {
            if let Some(client) = self.clients.get_mut(&client) {
                client.fail(&request);
            }
        }
        for client in self.clients.values_mut() {
            // A client that does not take it sees the connection end.
            let _ = client.queue.flush(&client.socket);
        }
        self.clients.clear();
        self.sessions.clear();
        self.connections.clear();
        self.remove_export();
        self.refuse_commands(
            "the engine has failed",
            "see the log, then: blockpair down, blockpair up",
        );
    }

    fn refuse_commands(&mut self, message: &str, remedy: &str) {
        for (_, reply, result) in self.held_answers.drain(..) {
            let _ = reply.try_send(result);
        }
        for (_, (reply, _)) in self.commands.drain() {
            let _ = reply.try_send(Err(Failure::new(FailureKind::Failed, message, remedy)));
        }
    }

    fn connection_id(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        id
    }
}
