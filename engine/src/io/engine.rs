//! One resource's engine: opens everything, runs its thread, passes commands to it.

mod consult;
mod exports;
mod thread;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use thread::{run, thread_name};

use super::bundle::{remove_leftovers, Export as BundleExport, Present, Since};
use super::consult::{Answers, Reports};
use super::dial::{Destination, PeerAddress};
use super::disk::{self, Device, Driver};
use super::failure::{Failure, FailureKind};
use super::history::History;
use super::history_writer::HistoryWriter;
use super::inbox::{Inbox, Input};
use super::listener::{Expected, Listener, Registration};
use super::meta_writer::MetaWriter;
use super::metadata::{MetadataFile, MetadataPlace};
use super::reactor::{Bundles, Clock, Parts, Reactor};
use super::shared::Shared;
use super::tls::TrustStore;
use super::watchdog::Watchdog;
use crate::core::{
    ArbitrationConfig, Command, Configuration, Notice, OnIoError, PeerConfig, ReadAhead, Replica,
    ReplicaConfig, ReplicaMetadata, Severity, SyncSource, Time, Victim,
};
use crate::front::nbd::{Export, ExportInfo};
use crate::payload::Payload;
use crate::wire::{BlockRun, Protocol, SplitBrainPolicy};

/// How long a status may take while the thread is busy; then the last published one has to do.
const STATUS_PATIENCE: Duration = Duration::from_millis(20);
/// How long a stop waits for writes and disks.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How often a waiting command looks whether its engine still lives.
const LIFE_CHECK: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSpec {
    pub name: String,
    /// Where it listens, in the order of preference. None: it is lost, and nobody is spoken to.
    pub addresses: Vec<PeerAddress>,
    /// False only where all addresses are loopback ones.
    pub tls: bool,
}

/// What an engine is started with.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSpec {
    pub resource: String,
    pub node: String,
    pub device: PathBuf,
    pub metadata: MetadataPlace,
    pub protocol: Protocol,
    #[serde(default)]
    pub policy: SplitBrainPolicy,
    #[serde(default)]
    pub priority: u32,
    #[serde(default)]
    pub on_io_error: OnIoError,
    /// As in the status; what these metadata call current, while another node has gone on from there.
    #[serde(default)]
    pub stale_generation: Option<String>,
    pub peers: Vec<PeerSpec>,
    /// Path of the NBD export's Unix socket.
    pub socket: PathBuf,
    pub peer_timeout_ms: u64,
    pub resume: bool,
    pub resume_wait_ms: u64,
    #[serde(default)]
    pub disk_driver: Driver,
    pub connect: bool,
    /// The folder of this resource's bundles; made when the first one is saved.
    pub bundles: PathBuf,
    /// File of the durable history; none is kept without it.
    #[serde(default)]
    pub history: Option<PathBuf>,
    /// None: no arbiter is asked.
    #[serde(default)]
    pub arbitration: Option<ArbitrationSpec>,
    /// Of what the Primary reads most, so much is read ahead of a take-over; 0: nothing.
    #[serde(default = "warm_up_bytes")]
    pub warm_up_bytes: u64,
}

fn warm_up_bytes() -> u64 {
    64 << 20
}

/// The times of arbitration, as the configuration has them.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArbitrationSpec {
    pub beacon_ms: u64,
    pub lease_ms: u64,
    /// Three beacons where it is left out.
    #[serde(default)]
    pub patience_ms: Option<u64>,
    #[serde(default)]
    pub drift_ppm: u32,
    /// Five seconds where it is left out.
    #[serde(default)]
    pub answer_ms: Option<u64>,
    pub automatic: bool,
}

const MS: u64 = 1_000_000;
/// No clock that is of any use runs more wrong.
const DRIFT_PPM_MAX: u32 = 100_000;
const LEASE_MS_MAX: u64 = 3_600_000;
const ANSWER_MS: u64 = 5_000;

impl ArbitrationSpec {
    /// The core rests on these; the configuration says it in more words.
    fn checked(self, resource: &str) -> Result<ArbitrationConfig, Failure> {
        let patience_ms = self.patience_ms.unwrap_or(self.beacon_ms.saturating_mul(3));
        let drift = u64::from(self.drift_ppm);
        let fits = self.beacon_ms > 0
            && self.lease_ms <= LEASE_MS_MAX
            && self.drift_ppm <= DRIFT_PPM_MAX
            && patience_ms > self.beacon_ms
            && patience_ms < self.lease_ms * (1_000_000 - drift) / (1_000_000 + drift);
        if !fits {
            return Err(Failure::new(
                FailureKind::Invalid,
                format!(
                    "times of arbitration for {resource} that do not fit each other: beacon {} ms, patience {patience_ms} ms, \
                     lease {} ms, drift {} ppm",
                    self.beacon_ms, self.lease_ms, self.drift_ppm
                ),
                "choose beacon < patience < lease, less the drift of both clocks",
            ));
        }
        Ok(ArbitrationConfig {
            beacon_ns: self.beacon_ms * MS,
            lease_ns: self.lease_ms * MS,
            patience_ns: patience_ms * MS,
            drift_ppm: self.drift_ppm,
            answer_ns: self.answer_ms.unwrap_or(ANSWER_MS).saturating_mul(MS),
            automatic: self.automatic,
        })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
enum CommandSpec {
    Connect {
        peer: String,
    },
    Disconnect {
        peer: String,
    },
    Promote {
        force: bool,
    },
    Demote {},
    Sync {
        source: String,
    },
    Resolve {
        victim: String,
        bundle: bool,
    },
    #[serde(rename = "warm_up")]
    WarmUp {},
    Verify {
        offset: u64,
        length: u64,
        max_rate: Option<u64>,
    },
    #[serde(rename = "verify_stop")]
    VerifyStop {},
    Repair {
        /// First block and number of blocks of each.
        runs: Vec<(u64, u64)>,
    },
    Settle {
        ticket: u64,
        runs: Vec<(u64, u64)>,
        why: String,
    },
    Readdress {
        peer: String,
        addresses: Vec<PeerAddress>,
    },
    Fault {
        what: Fault,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Fault {
    Panic,
}

pub struct Engine {
    resource: String,
    node: String,
    data_size_bytes: u64,
    peers: Vec<String>,
    /// How each is reached.
    destinations: Mutex<Vec<Destination>>,
    reports: Arc<Reports>,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Ends when the thread does, or here.
    registration: Mutex<Option<Registration>>,
    /// What exports of bundles read beside them; until the stop.
    present: Mutex<Option<Present>>,
    exports: Mutex<Vec<BundleExport>>,
    /// A stop has run out of patience: the last one who lets go does not wait as long again.
    gave_up: AtomicBool,
}

fn invalid_json(what: &str, error: &serde_json::Error) -> Failure {
    Failure::new(
        FailureKind::Invalid,
        format!("{what} is not understood: {error}"),
        "use a control plane and an engine of the same version",
    )
}

/// A command, and who asked for it.
fn parse_call(text: &str) -> Result<(CommandSpec, String), serde_json::Error> {
    let mut value: serde_json::Value = serde_json::from_str(text)?;
    let by = match value.as_object_mut().and_then(|fields| fields.remove("by")) {
        Some(by) => serde_json::from_value(by)?,
        None => "the control plane".into(),
    };
    Ok((serde_json::from_value(value)?, by))
}

/// First block and number of blocks of each.
fn block_runs(runs: Vec<(u64, u64)>) -> Vec<BlockRun> {
    runs.into_iter()
        .map(|(first, count)| BlockRun { first, count })
        .collect()
}

impl Engine {
    /// Opens and locks metadata and backing device, starts the thread, and accepts connections.
    ///
    /// # Errors
    /// What cannot be opened, is locked, damaged or belongs to something else; nothing was changed.
    pub fn start(spec: &str, listener: &Listener) -> Result<Engine, Failure> {
        Engine::start_watched(spec, listener, None)
    }

    /// As `start`; where an arbiter decides, this watchdog is armed while the node is Primary.
    ///
    /// # Errors
    /// As of `start`.
    pub fn start_watched(
        spec: &str,
        listener: &Listener,
        watchdog: Option<Arc<Watchdog>>,
    ) -> Result<Engine, Failure> {
        let spec: EngineSpec =
            serde_json::from_str(spec).map_err(|error| invalid_json("the engine's specification", &error))?;
        let metadata = MetadataFile::open(&spec.metadata, &spec.device, true)?;
        metadata.require(&spec.resource, &spec.node)?;
        let loaded = metadata.load()?;
        let known: Vec<&str> = loaded
            .superblock
            .peers
            .iter()
            .map(|peer| peer.name.as_str())
            .collect();
        let peers = in_slots(&spec, &known, loaded.layout.peer_slots(), &listener.trust())?;
        let device = Arc::new(Device::open(&spec.device, spec.disk_driver)?);
        if !metadata.device().is_open_as(device.file()) {
            return Err(Failure::new(
                FailureKind::Failed,
                format!(
                    "{} has become another device while it was opened",
                    spec.device.display()
                ),
                "name it by a path that does not change (/dev/disk/by-id), then try again",
            ));
        }
        let system = |error: std::io::Error| Failure::system(&spec.resource, &error);
        let inbox = Arc::new(Inbox::new().map_err(system)?);
        let shared = Arc::new(Shared::new().map_err(system)?);
        if loaded.damaged_pages > 0 {
            shared.record(Notice {
                severity: Severity::Warning,
                name: "metadata.damaged",
                text: format!(
                    "{} damaged pages of {}'s metadata count as out of sync; a resync repairs them",
                    loaded.damaged_pages, spec.resource
                ),
            });
        }
        let in_bundles = |error: std::io::Error| {
            Failure::new(
                FailureKind::Io,
                format!(
                    "the bundles in {} cannot be looked at: {error}",
                    spec.bundles.display()
                ),
                "make that folder readable and writable for blockpaird",
            )
        };
        remove_leftovers(&spec.bundles).map_err(in_bundles)?;
        let since = Since::take_over(
            &spec.bundles,
            loaded.layout.blocks(),
            u64::from(loaded.layout.block_size_bytes()),
            loaded.superblock.sequence,
        );
        let since = Arc::new(since.map_err(in_bundles)?);
        // Refused now, rather than found out when something happens that must not go unrecorded.
        let history = match &spec.history {
            Some(path) => Some(History::open(path, &spec.node).map_err(|error| {
                Failure::new(
                    FailureKind::Io,
                    format!("the history {} cannot be opened: {error}", path.display()),
                    "make room or correct the mode of that directory, then bring the resource up again",
                )
            })?),
            None => None,
        };
        let stale_generation = match &spec.stale_generation {
            Some(id) => u64::from_str_radix(id, 16).map_err(|error| {
                Failure::new(
                    FailureKind::Invalid,
                    format!("{id:?} is no generation id: {error}"),
                    "use a control plane and an engine of the same version",
                )
            })?,
            None => 0,
        };
        let arbitration = spec
            .arbitration
            // Alone there is nobody to agree with.
            .filter(|_| !peers.is_empty())
            .map(|times| times.checked(&spec.resource))
            .transpose()?;
        let watchdog = watchdog.filter(|_| arbitration.is_some());
        if arbitration.is_some() && peers.len() > 1 {
            return Err(Failure::new(
                FailureKind::Invalid,
                format!(
                    "{} has {} peers: an arbiter decides between two nodes",
                    spec.resource,
                    peers.len()
                ),
                "say arbiter = \"manual\" for this resource, or leave it with one peer",
            ));
        }
        // What lies in memory anyway need not be read ahead.
        let read_ahead = (spec.warm_up_bytes > 0 && !device.in_memory()).then_some(ReadAhead {
            bytes: spec.warm_up_bytes,
            keep: device.is_direct(),
        });
        let clock = Clock::start();
        let config = ReplicaConfig {
            resource: spec.resource.clone(),
            node: spec.node.clone(),
            protocol: spec.protocol,
            peers: peers
                .iter()
                // Either side can tell which of the two dials.
                .map(|peer| PeerConfig {
                    name: peer.name.clone(),
                    dial: spec.node < peer.name,
                })
                .collect(),
            peer_timeout_ns: spec.peer_timeout_ms.saturating_mul(1_000_000),
            resume_wait_ns: spec.resume_wait_ms.saturating_mul(1_000_000),
            // The standard library's hash keys are random, and fresh each time.
            seed: RandomState::new().build_hasher().finish(),
            policy: spec.policy,
            priority: spec.priority,
            on_io_error: spec.on_io_error,
            stale_generation,
            wall_offset_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_secs()),
            arbitration,
            read_ahead,
        };
        let info = ExportInfo {
            min_block: device.alignment() as u32,
            ..ExportInfo::new(&spec.resource, loaded.layout.data_size_bytes())
        };
        let data_size_bytes = info.size_bytes;
        let export = Export::new(info).map_err(|error| {
            Failure::new(
                FailureKind::Invalid,
                error.to_string(),
                "choose another name or size for the resource",
            )
        })?;
        let replica = Replica::new(
            config,
            ReplicaMetadata {
                superblock: loaded.superblock,
                layout: loaded.layout,
                bitmaps: loaded.bitmaps,
                intent: loaded.intent,
            },
            spec.resume,
            clock.now(),
        );
        let destinations = Mutex::new(peers.clone());
        let expected = (peers.iter())
            .map(|peer| Expected {
                name: peer.name.clone(),
                tls: peer.tls,
            })
            .collect();
        let reports = Arc::new(Reports::new(shared.clone()));
        let answers = Answers::new(reports.clone());
        let names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
        let meta = MetaWriter::new(metadata, device.clone(), inbox.clone()).map_err(system)?;
        let history = history
            .map(|history| HistoryWriter::new(history, inbox.clone(), shared.clone()))
            .transpose()
            .map_err(system)?;
        let wanted = spec.disk_driver;
        let present = Present {
            device: device.clone(),
            since: since.clone(),
        };
        let (resource, node) = (spec.resource.clone(), spec.node.clone());
        let ended_inbox = inbox.clone();
        let (parts_inbox, parts_shared) = (inbox.clone(), shared.clone());
        let (started, start_result) = sync_channel(1);
        let registration = listener.register(&spec.resource, expected, inbox.clone(), shared.clone())?;
        let thread = std::thread::Builder::new()
            .name(thread_name(&spec.resource))
            .spawn(move || {
                #[cfg(feature = "faults")]
                crate::core::fault::plant_from_environment();
                // The disk belongs to the thread that submits to it.
                let reactor = disk::start(device.clone(), wanted).and_then(|disk| {
                    let parts = Parts {
                        replica,
                        clock,
                        device,
                        disk,
                        meta,
                        peers,
                        export: Arc::new(export),
                        export_path: spec.socket,
                        inbox: parts_inbox,
                        shared: parts_shared.clone(),
                        connect: spec.connect,
                        bundles: Bundles {
                            folder: spec.bundles,
                            resource: spec.resource.clone(),
                            node: spec.node,
                            since,
                        },
                        history,
                        answers,
                        watchdog,
                    };
                    Reactor::new(parts).map_err(|error| Failure::system(&spec.resource, &error))
                });
                match reactor {
                    Ok(reactor) => {
                        let _ = started.send(Ok(()));
                        run(reactor, &parts_shared, &ended_inbox);
                    }
                    Err(failure) => {
                        let _ = started.send(Err(failure));
                    }
                }
            })
            .map_err(|error| Failure::system("a thread for the engine", &error))?;
        let panicked = || {
            Failure::new(
                FailureKind::Failed,
                "the engine failed while starting",
                "see the log",
            )
        };
        if let Err(failure) = start_result.recv().unwrap_or_else(|_| Err(panicked())) {
            // With its end its locks are gone: the next try must not find them.
            let _ = thread.join();
            return Err(failure);
        }
        Ok(Engine {
            resource,
            node,
            data_size_bytes,
            peers: names,
            destinations,
            reports,
            inbox,
            shared,
            thread: Mutex::new(Some(thread)),
            registration: Mutex::new(Some(registration)),
            present: Mutex::new(Some(present)),
            exports: Mutex::default(),
            gave_up: AtomicBool::new(false),
        })
    }

    /// Executes one command, given as JSON; returns when it is done. Its optional `by` says who asked, for the
    /// history.
    ///
    /// # Errors
    /// `unsafe` and `failed` as the core decides, `invalid` for a command or a name that does not exist.
    pub fn call(&self, command: &str) -> Result<(), Failure> {
        let (command, by) = parse_call(command).map_err(|error| invalid_json("the command", &error))?;
        let command = match command {
            CommandSpec::Connect { peer } => Command::Connect {
                peer: self.slot(&peer)?,
            },
            CommandSpec::Disconnect { peer } => Command::Disconnect {
                peer: self.slot(&peer)?,
            },
            CommandSpec::Promote { force } => Command::Promote { force },
            CommandSpec::Demote {} => Command::Demote,
            CommandSpec::Sync { source } if source == self.node => Command::SyncFrom {
                source: SyncSource::Myself,
            },
            CommandSpec::Sync { source } => Command::SyncFrom {
                source: SyncSource::Peer(self.slot(&source)?),
            },
            CommandSpec::Resolve { victim, bundle } => Command::Resolve {
                victim: if victim == self.node {
                    Victim::Myself
                } else {
                    Victim::Peer(self.slot(&victim)?)
                },
                bundle,
            },
            CommandSpec::WarmUp {} => Command::WarmUp,
            CommandSpec::Verify {
                offset,
                length,
                max_rate,
            } => Command::Verify {
                offset,
                len: length,
                max_rate,
            },
            CommandSpec::VerifyStop {} => Command::VerifyStop,
            CommandSpec::Repair { runs } => Command::Repair {
                runs: block_runs(runs),
            },
            CommandSpec::Settle { ticket, runs, why } => Command::Settle {
                ticket,
                runs: block_runs(runs),
                why,
            },
            CommandSpec::Readdress { peer, addresses } => return self.readdress(&peer, addresses),
            CommandSpec::Fault { what: Fault::Panic } => {
                if std::env::var_os("BLOCKPAIR_FAULTS").is_none_or(|value| value != "1") {
                    return Err(Failure::new(
                        FailureKind::Invalid,
                        "faults are only made on purpose",
                        "start the daemon with BLOCKPAIR_FAULTS=1 in a test",
                    ));
                }
                self.inbox.push(Input::Panic);
                return Ok(());
            }
        };
        self.ask(command, by, Duration::MAX)
    }

    /// Holds these bytes, so that nothing is written to them, until a `settle` or for two seconds: the hold's number, and
    /// the peer's copy of them.
    ///
    /// # Errors
    /// `failed` where the peer cannot decide, or another range is held.
    pub fn hold(&self, offset: u64, len: u64) -> Result<(u64, Payload), Failure> {
        self.ask(Command::Hold { offset, len }, String::new(), Duration::MAX)?;
        self.shared.take_held().ok_or_else(|| {
            Failure::new(
                FailureKind::Failed,
                "what is held was taken by somebody else",
                "hold one range at a time",
            )
        })
    }

    /// From here on `peer` is at these addresses; none: it is lost, and what stands to it ends.
    fn readdress(&self, peer: &str, addresses: Vec<PeerAddress>) -> Result<(), Failure> {
        let slot = self.slot(peer)?;
        let (reply, answer) = sync_channel(1);
        {
            let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
            let known = &mut destinations[slot];
            check_addresses(&self.resource, peer, &addresses, known.tls)?;
            known.changes += 1;
            known.addresses = addresses;
            self.inbox.push(Input::Readdress {
                peer: slot,
                destination: known.clone(),
                reply,
            });
        }
        self.answer(&answer, Duration::MAX)
    }

    fn slot(&self, name: &str) -> Result<usize, Failure> {
        self.peers.iter().position(|peer| peer == name).ok_or_else(|| {
            Failure::new(
                FailureKind::Invalid,
                format!("{name} is no peer of this resource"),
                format!("its peers are: {}", self.peers.join(", ")),
            )
        })
    }

    fn ask(&self, command: Command, by: String, patience: Duration) -> Result<(), Failure> {
        let (reply, answer) = sync_channel(1);
        self.inbox.push(Input::Command { command, by, reply });
        self.answer(&answer, patience)?
    }

    /// Waits for the thread's answer, as long as the thread lives.
    fn answer<T>(&self, answer: &Receiver<T>, patience: Duration) -> Result<T, Failure> {
        let mut waited = Duration::ZERO;
        loop {
            match answer.recv_timeout(LIFE_CHECK) {
                Ok(told) => return Ok(told),
                Err(RecvTimeoutError::Timeout) if !self.shared.has_ended() => {}
                Err(_) => {
                    return Err(Failure::new(
                        FailureKind::Failed,
                        "the engine has ended",
                        "bring the resource up again: blockpair up",
                    ))
                }
            }
            waited = waited.saturating_add(LIFE_CHECK);
            if waited >= patience {
                return Err(Failure::new(
                    FailureKind::Failed,
                    format!("the engine did not finish within {} s", patience.as_secs()),
                    "see what the status says it waits for",
                ));
            }
        }
    }

    /// The status as JSON: fresh within a few milliseconds, or the last one there is.
    pub fn status(&self) -> String {
        let version = self.shared.version();
        self.inbox.push(Input::Publish);
        self.shared.status_after(version, STATUS_PATIENCE)
    }

    /// What comparing both copies has shown since the last call, as JSON.
    pub fn verified(&self) -> String {
        self.shared.take_verified()
    }

    /// What the arbiter is to be asked now, as JSON: null, or the open ask.
    pub fn asks(&self) -> String {
        self.shared.asks()
    }

    /// Passes on what the arbiter holds, as the answer to an ask; one that nobody waits for any more is ignored.
    ///
    /// # Errors
    /// `invalid` for what is no configuration.
    pub fn arbiter_says(&self, ask: u64, configuration: &str) -> Result<(), Failure> {
        let configuration: Option<Configuration> =
            serde_json::from_str(configuration).map_err(|error| invalid_json("a configuration", &error))?;
        if let Some(told) = &configuration {
            told.check().map_err(|why| {
                Failure::new(
                    FailureKind::Invalid,
                    format!("the arbiter's configuration of {}: {why}", self.resource),
                    "see what is at the arbiter under this resource's key",
                )
            })?;
        }
        self.inbox.push(Input::ArbiterSays { ask, configuration });
        Ok(())
    }

    pub fn event_fd(&self) -> RawFd {
        self.shared.event_fd()
    }

    /// Until when this node may serve as Primary, in nanoseconds of CLOCK_BOOTTIME: 0 when it may not, [`Time::MAX`] when
    /// no lease is needed. Never older than what the engine's thread knows to be true, however long that thread stands still.
    pub fn serves_until(&self) -> Time {
        self.shared.serves_until()
    }

    /// The events since the last call, as JSON.
    pub fn events(&self) -> String {
        serde_json::to_string(&self.shared.take_events()).expect("events have no keys but text")
    }

    /// Takes over a connected NBD socket that is in the transmission phase.
    pub fn attach(&self, fd: OwnedFd) {
        self.inbox.push(Input::Attach(fd));
    }

    /// Ends the connections that were attached; returns when they are closed.
    pub fn detach(&self) {
        let (reply, answer) = sync_channel(1);
        self.inbox.push(Input::Detach(reply));
        while matches!(answer.recv_timeout(LIFE_CHECK), Err(RecvTimeoutError::Timeout))
            && !self.shared.has_ended()
        {}
    }

    /// Marks the engine's threads as ones whose memory must not wait for their own flushing.
    pub fn io_flusher(&self, on: bool) {
        self.inbox.push(Input::IoFlusher(on));
    }

    /// Drains, flushes, leaves clean metadata, ends the thread and unlocks. Idempotent.
    ///
    /// # Errors
    /// When a disk or a peer keeps it from finishing; it goes on trying.
    pub fn stop(&self) -> Result<(), Failure> {
        self.close_exports();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_some() && !self.shared.has_ended() {
            match self.ask(Command::Stop, "the end of the resource".into(), STOP_PATIENCE) {
                Err(failure) if !self.shared.has_ended() => {
                    self.gave_up.store(true, Ordering::Relaxed);
                    return Err(failure);
                }
                _ => {}
            }
        }
        if let Some(thread) = thread.take() {
            // How it ended is in the status.
            let _ = thread.join();
        }
        self.registration
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Ok(())
    }
}

impl Engine {
    /// Stops it if that was not tried in vain before.
    pub fn let_go(&self) {
        if !self.gave_up.load(Ordering::Relaxed) {
            // Nobody is left to be told of a failure.
            let _ = self.stop();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// The configured peers in the order of the metadata's slots, new ones after those it knows.
fn in_slots(
    spec: &EngineSpec,
    known: &[&str],
    slots: usize,
    trust: &TrustStore,
) -> Result<Vec<Destination>, Failure> {
    let mismatch = |message: String| {
        Failure::new(
            FailureKind::Mismatch,
            message,
            "correct the configuration, or begin this copy anew: `blockpair create NAME --anew --force`",
        )
    };
    let destination = |peer: &PeerSpec| Destination {
        name: peer.name.clone(),
        addresses: peer.addresses.clone(),
        tls: peer.tls,
        trust: trust.clone(),
        changes: 0,
    };
    for peer in &spec.peers {
        check_addresses(&spec.resource, &peer.name, &peer.addresses, peer.tls)?;
    }
    let mut peers = Vec::new();
    for name in known {
        let peer = spec.peers.iter().find(|peer| peer.name == *name).ok_or_else(|| {
            mismatch(format!(
                "the metadata of {} has a slot for peer {name}, which is not configured",
                spec.resource
            ))
        })?;
        peers.push(destination(peer));
    }
    peers.extend(
        spec.peers
            .iter()
            .filter(|peer| !known.contains(&peer.name.as_str()))
            .map(destination),
    );
    if peers.len() > slots {
        return Err(mismatch(format!(
            "{} peers are configured for {}, but its metadata has room for {slots}",
            peers.len(),
            spec.resource
        )));
    }
    Ok(peers)
}

/// Refuses addresses where a peer may not be spoken to.
fn check_addresses(resource: &str, peer: &str, addresses: &[PeerAddress], tls: bool) -> Result<(), Failure> {
    let open = (addresses.iter()).find(|address| !tls && !address.is_loopback());
    open.map_or(Ok(()), |address| {
        Err(Failure::new(
            FailureKind::Invalid,
            format!(
                "peer {peer} of {resource} at {address} is on another machine, and may not be spoken to without TLS"
            ),
            "make a cluster (blockpair cluster init, blockpair cluster join), and leave tls on",
        ))
    })
}
