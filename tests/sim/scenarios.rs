//! Named scenarios: what broke a shipped replicator once, each at many instants.

use _engine::core::*;
use _engine::wire::{Protocol, SplitBrainPolicy};

use crate::network::Cable;
use crate::plan::{Op, Who};
use crate::run::Run;
use crate::world::{Arbitrated, Part, Settings, Violation, MS};

type Script = fn(&mut Run, u64) -> Result<(), Violation>;

pub struct Scenario {
    pub name: &'static str,
    /// At how many instants, or with how many of something.
    variations: u64,
    policy: SplitBrainPolicy,
    arbitrated: bool,
    /// The script starts the nodes itself.
    from_nothing: bool,
    script: Script,
}

const fn scenario(name: &'static str, variations: u64, script: Script) -> Scenario {
    Scenario {
        name,
        variations,
        policy: SplitBrainPolicy::Manual,
        arbitrated: false,
        from_nothing: false,
        script,
    }
}

/// One in which an arbiter says who may write.
pub const fn arbitrated(name: &'static str, variations: u64, script: Script) -> Scenario {
    let mut scenario = scenario(name, variations, script);
    scenario.arbitrated = true;
    scenario
}

/// Every scenario there is.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    ALL.iter().chain(&crate::arbitration_scenarios::ALL)
}

impl Scenario {
    pub const fn begins_itself(mut self) -> Scenario {
        self.from_nothing = true;
        self
    }

    const fn with(mut self, policy: SplitBrainPolicy) -> Scenario {
        self.policy = policy;
        self
    }
}

const ALL: [Scenario; 21] = [
    scenario(
        "equal-generation-dirty-bits",
        40,
        equal_generation_dirty_bits,
    ),
    scenario("label-before-data", 60, label_before_data),
    scenario(
        "survivor-promoted-before-reconciling",
        40,
        survivor_promoted,
    ),
    scenario("writes-while-a-resync-ends", 60, writes_while_a_resync_ends),
    scenario("split-brain-seen-by-both", 20, split_brain),
    scenario(
        "idle-isolated-primary-is-no-split-brain",
        10,
        idle_isolated_primary,
    ),
    scenario("messages-of-a-resync-lost", 80, messages_of_a_resync_lost),
    scenario("stale-disk-comes-back", 20, stale_disk),
    scenario("metadata-write-error", 20, metadata_write_error),
    scenario("unflushed-writes-in-either-order", 40, unflushed_writes),
    scenario("both-promote-at-once", 40, both_promote),
    scenario("link-flaps-at-each-message", 80, link_flaps),
    scenario("paused-node-wakes-late", 20, paused_node),
    scenario("refused-plan-is-not-retried-for-ever", 5, refused_plan),
    scenario("damaged-frames", 60, damaged_frames),
    scenario("disk-errors-on-either-side", 48, disk_errors),
    scenario("primary-without-a-disk", 5 * 6 * 20, primary_without_a_disk),
    scenario("split-brain-ends-by-policy", 60, split_brain_by_policy)
        .with(SplitBrainPolicy::DiscardYoungerPrimary),
    scenario("split-brain-ends-by-hand", 120, split_brain_by_hand),
    scenario("no-room-for-the-bundle", 12, no_room_for_the_bundle),
    scenario(
        "split-brain-older-than-the-bitmaps",
        120,
        split_brain_older_than_the_bitmaps,
    ),
];

impl Scenario {
    /// Plays every variation.
    ///
    /// # Errors
    /// The first that violated something, with its trace.
    pub fn play(&self) -> Result<(), String> {
        for variation in 0..self.variations {
            let settings = Settings {
                protocol: Protocol::C,
                block_size: 4096,
                on_io_error: if self.name == "disk-errors-on-either-side" && variation / 12 % 2 == 1
                {
                    OnIoError::PassOn
                } else {
                    OnIoError::Detach
                },
                policy: self.policy,
                priority: [0, 0],
                arbitrated: self.arbitrated.then(|| Arbitrated {
                    config: ArbitrationConfig {
                        beacon_ns: 250 * MS,
                        lease_ns: 2_000 * MS,
                        patience_ns: 750 * MS,
                        answer_ns: 5_000 * MS,
                        drift_ppm: 10_000,
                        automatic: true,
                    },
                    drift_ppm: [[0, 0], [10_000, -10_000], [-10_000, 10_000]]
                        [(variation % 3) as usize],
                }),
            };
            let mut run = Run::new(variation, settings, true);
            let begun = match self.from_nothing {
                true => Ok(()),
                false => run.begin(),
            };
            let result = begun.and_then(|()| (self.script)(&mut run, variation));
            let outcome = run.finish(result);
            if let Some(why) = outcome.violation {
                let from = outcome.trace.len().saturating_sub(80);
                let trace = outcome.trace[from..].join("\n");
                return Err(format!(
                    "{trace}\n{}, variation {variation}: {why}",
                    self.name
                ));
            }
        }
        Ok(())
    }
}

pub fn write(run: &mut Run, first: usize, count: usize) -> Result<(), Violation> {
    run.act(Op::Write {
        first,
        count,
        fua: false,
    })
}

pub fn crash(who: Who, power: bool) -> Op {
    Op::Crash { who, power }
}

/// The Secondary misses some writes; the resync of them begins.
fn begin_resync(run: &mut Run) -> Result<(), Violation> {
    run.act(crash(Who::Secondary, false))?;
    run.pass(10 * MS)?;
    for first in [1015, 1024, 1030, 2290] {
        write(run, first, 4)?;
    }
    run.pass(20 * MS)?;
    run.act(Op::Heal)?;
    run.expect("a resync", |run| {
        (0..2).any(|n| run.world.replication(n) == "SyncSource")
    })
}

fn equal_generation_dirty_bits(run: &mut Run, k: u64) -> Result<(), Violation> {
    write(run, 1015, 4)?;
    write(run, 1020, 4)?;
    run.pass(k * MS / 20)?;
    run.act(crash(Who::Primary, k.is_multiple_of(2)))?;
    run.expect("a comparison of equal generations", |run| {
        run.world.counts.get("verdicts same-dirty") > 0
    })?;
    run.converge()
}

fn label_before_data(run: &mut Run, k: u64) -> Result<(), Violation> {
    begin_resync(run)?;
    run.pass(k * MS / 4)?;
    run.act(crash(Who::Secondary, true))?;
    run.act(Op::Heal)?;
    run.converge()
}

fn survivor_promoted(run: &mut Run, k: u64) -> Result<(), Violation> {
    write(run, 1015, 4)?;
    run.pass(k * MS / 20)?;
    run.act(Op::Failover {
        power: true,
        survivor_too: k.is_multiple_of(3),
        replaced: false,
    })?;
    run.pass(5 * MS)?;
    if k.is_multiple_of(2) {
        write(run, 1016, 2)?;
    }
    run.act(crash(Who::Primary, k.is_multiple_of(4)))?;
    run.converge()
}

fn writes_while_a_resync_ends(run: &mut Run, k: u64) -> Result<(), Violation> {
    begin_resync(run)?;
    run.pass(k * MS / 4)?;
    for first in [1015, 1024, 2290] {
        write(run, first, 2)?;
        run.pass(MS / 3)?;
    }
    run.act(crash(
        if k.is_multiple_of(2) {
            Who::Primary
        } else {
            Who::Secondary
        },
        k.is_multiple_of(3),
    ))?;
    run.converge()
}

fn split_brain(run: &mut Run, _: u64) -> Result<(), Violation> {
    write(run, 1015, 4)?;
    run.pass(50 * MS)?;
    run.split()
}

/// It wrote nothing since it was cut off: the other side's changes win, and nobody calls it a split brain.
fn idle_isolated_primary(run: &mut Run, k: u64) -> Result<(), Violation> {
    write(run, 1015, 4)?;
    run.act(Op::Flush)?;
    run.pass(20 * MS)?;
    run.act(Op::Cable(Cable::Cut))?;
    run.pass(100 * MS)?;
    run.take_over_beside_an_idle_primary()?;
    if k.is_multiple_of(2) {
        write(run, 1016, 2)?;
    }
    run.pass(20 * MS)?;
    run.converge()?;
    match run.world.counts.get("verdicts split-brain") {
        0 => Ok(()),
        _ => Err("an idle Primary was taken for a writer".into()),
    }
}

fn messages_of_a_resync_lost(run: &mut Run, k: u64) -> Result<(), Violation> {
    begin_resync(run)?;
    run.pass(k / 2 * MS / 4)?;
    run.act(Op::Cable(Cable::Mute((k % 2) as usize)))?;
    run.pass(5_000 * MS)?;
    run.converge()
}

fn stale_disk(run: &mut Run, k: u64) -> Result<(), Violation> {
    run.act(crash(Who::Secondary, k.is_multiple_of(2)))?;
    for round in 0..1 + k as usize % 4 {
        write(run, 1015 + round, 3)?;
        run.pass(3_000 * MS)?;
        run.act(crash(Who::Primary, k.is_multiple_of(3)))?;
        run.pass(6_000 * MS)?;
    }
    run.converge()
}

fn metadata_write_error(run: &mut Run, k: u64) -> Result<(), Violation> {
    let who = if k.is_multiple_of(2) {
        Who::Primary
    } else {
        Who::Secondary
    };
    write(run, 1015, 4)?;
    run.act(Op::Fail {
        who,
        part: Part::Meta,
        errno: Errno::EIO,
        times: 1,
    })?;
    run.pass(k * MS)?;
    write(run, 2290, 4)?;
    run.pass(5_000 * MS)?;
    run.converge()
}

fn unflushed_writes(run: &mut Run, k: u64) -> Result<(), Violation> {
    write(run, 1020, 2)?;
    write(run, 1020, 1)?;
    write(run, 1021, 2)?;
    run.pass(k * MS / 10)?;
    run.act(Op::Failover {
        power: true,
        survivor_too: true,
        replaced: false,
    })?;
    run.converge()
}

fn both_promote(run: &mut Run, k: u64) -> Result<(), Violation> {
    run.world.command(0, Command::Demote);
    run.expect("no Primary", |run| !run.world.nodes[0].exported)?;
    run.pass(20 * MS)?;
    if k.is_multiple_of(2) {
        run.act(Op::Cable(Cable::Cut))?;
        run.pass(20 * MS)?;
        run.act(Op::Heal)?;
        run.pass(40 * MS + k * MS / 2)?;
    }
    run.world.command(0, Command::Promote { force: false });
    run.pass(k % 8 * MS / 8)?;
    run.world.command(1, Command::Promote { force: false });
    run.pass(5_000 * MS)?;
    run.primary = usize::from(run.world.nodes[1].exported);
    run.converge()
}

fn link_flaps(run: &mut Run, k: u64) -> Result<(), Violation> {
    write(run, 1015, 4)?;
    run.act(Op::Cable(Cable::Cut))?;
    run.pass(10 * MS)?;
    write(run, 1018, 4)?;
    run.pass(10 * MS)?;
    for _ in 0..4 {
        run.act(Op::Heal)?;
        run.pass(50 * MS + k * MS / 4)?;
        run.act(Op::Cable(Cable::Cut))?;
        run.pass(10 * MS)?;
    }
    run.converge()
}

fn paused_node(run: &mut Run, k: u64) -> Result<(), Violation> {
    let who = if k.is_multiple_of(2) {
        Who::Primary
    } else {
        Who::Secondary
    };
    write(run, 1015, 4)?;
    run.act(Op::Pause {
        who,
        ms: 500 + k * 700,
    })?;
    run.pass(3_500 * MS)?;
    write(run, 1016, 4)?;
    run.pass(15_000 * MS)?;
    run.converge()
}

fn refused_plan(run: &mut Run, _: u64) -> Result<(), Violation> {
    run.split()?;
    let before = run.world.counts.get("connections");
    run.pass(120_000 * MS)?;
    match run.world.counts.get("connections") - before {
        0..=5 => Ok(()),
        tries => Err(format!("a refused plan was tried again {tries} times")),
    }
}

fn damaged_frames(run: &mut Run, k: u64) -> Result<(), Violation> {
    begin_resync(run)?;
    run.pass(k * MS / 4)?;
    run.act(Op::Damage)?;
    write(run, 1015, 4)?;
    run.pass(100 * MS)?;
    run.act(Op::Damage)?;
    write(run, 1020, 4)?;
    run.pass(100 * MS)?;
    run.converge()
}

fn disk_errors(run: &mut Run, k: u64) -> Result<(), Violation> {
    let who = if k.is_multiple_of(2) {
        Who::Primary
    } else {
        Who::Secondary
    };
    let part = [Part::Read, Part::Write, Part::Flush][(k / 2 % 3) as usize];
    let errno = if k % 4 < 2 { Errno::EIO } else { Errno::ENOSPC };
    let errno = if part == Part::Write {
        errno
    } else {
        Errno::EIO
    };
    run.act(Op::Fail {
        who,
        part,
        errno,
        times: 1 + (k / 6) as u32 % 4,
    })?;
    for first in [1015, 1018, 2290] {
        write(run, first, 4)?;
        run.act(Op::Read { first, count: 2 })?;
        run.act(Op::Flush)?;
        run.pass(5 * MS)?;
    }
    run.converge()
}

/// The Primary's disk fails at each kind of operation, and in the middle of handing over to its peer, after each event of
/// it, either node dies, or the cable does. What was acknowledged is on whatever serves next.
fn primary_without_a_disk(run: &mut Run, k: u64) -> Result<(), Violation> {
    // Each third instant, another third for each way to fail and end.
    let (part, end, steps) = (k % 5, k / 5 % 6, k / 30 % 20 * 3 + k % 30 % 3);
    write(run, 1015, 4)?;
    run.act(Op::Flush)?;
    run.pass(20 * MS)?;
    let fail = |part, times| Op::Fail {
        who: Who::Primary,
        part,
        errno: Errno::EIO,
        times,
    };
    let kinds = [
        Part::Write,
        Part::Flush,
        Part::Meta,
        Part::Read,
        Part::Write,
    ];
    // With metadata that never recover and a second disk that fails, only a person can say which copy is to be believed.
    let times = if part == 2 { 1 + k as u32 % 2 } else { 9 };
    run.act(fail(kinds[part as usize], times))?;
    if part == 3 {
        // A read that is mended, if the disk takes it.
        run.act(fail(Part::Write, (k % 2) as u32))?;
        run.act(Op::Read {
            first: 1015,
            count: 2,
        })?;
    }
    for first in [1016, 1018, 2290] {
        write(run, first, 4)?;
        run.act(Op::Flush)?;
        run.act(Op::Read { first, count: 2 })?;
    }
    run.issue(Op::Write {
        first: 1020,
        count: 2,
        fua: true,
    });
    run.steps(steps)?;
    match end {
        0 | 1 => run.act(crash(Who::Secondary, end == 1))?,
        2 | 3 => run.lose_served_primary(end == 3)?,
        4 => run.act(Op::Cable(Cable::Cut))?,
        // Its stand-in's disk fails too.
        _ => run.act(Op::Fail {
            who: Who::Secondary,
            part: [Part::Write, Part::Flush, Part::Meta][(k % 3) as usize],
            errno: Errno::EIO,
            times: 1,
        })?,
    }
    for first in [1017, 2291] {
        write(run, first, 3)?;
        run.act(Op::Flush)?;
        run.act(Op::Read { first, count: 2 })?;
        run.pass(30 * MS)?;
    }
    run.pass(4_000 * MS)?;
    run.converge()
}

/// One of the two dies at some instant of it.
fn split_brain_by_policy(run: &mut Run, k: u64) -> Result<(), Violation> {
    run.go_apart()?;
    run.both_secondary()?;
    run.world.set_cable(Cable::Fine);
    run.pass(k / 2 * MS)?;
    run.world.crash((k % 2) as usize, k.is_multiple_of(3));
    run.pass(100 * MS)?;
    run.reconcile()
}

/// The same, with every way in which a person can say it.
fn split_brain_by_hand(run: &mut Run, k: u64) -> Result<(), Violation> {
    run.go_apart()?;
    run.both_secondary()?;
    run.world.set_cable(Cable::Fine);
    run.expect("both report it", |run| (0..2).all(|n| run.is_told(n)))?;
    let bit = |place: u64| (k >> place & 1) as usize;
    run.resolve_by_hand(bit(0), bit(1), true);
    run.pass(k / 8 * MS * 2)?;
    run.world.crash(bit(2), k.is_multiple_of(3));
    run.pass(100 * MS)?;
    run.reconcile()
}

fn no_room_for_the_bundle(run: &mut Run, k: u64) -> Result<(), Violation> {
    run.go_apart()?;
    run.both_secondary()?;
    run.world.set_cable(Cable::Fine);
    run.expect("both report it", |run| (0..2).all(|n| run.is_told(n)))?;
    // The node that was Primary before has changes for certain.
    let (asked, victim) = ((k % 2) as usize, run.primary);
    run.world
        .break_storage(victim, Part::Bundle, Errno::ENOSPC, 1);
    let id = run.resolve_by_hand(asked, victim, true);
    run.expect("an answer", |run| run.world.commands.contains_key(&id))?;
    match run.world.commands.get(&id) {
        Some(Err(error)) if error.message.contains("no room") => {}
        other => return Err(format!("without room for a bundle: {other:?}")),
    }
    run.expect("both stay apart", |run| (0..2).all(|n| run.is_told(n)))?;
    run.reconcile()
}

/// The target of a resync dies as it ends, and is promoted by force all the same; both are written.
fn split_brain_older_than_the_bitmaps(run: &mut Run, k: u64) -> Result<(), Violation> {
    begin_resync(run)?;
    // The source has noted that the end of it is near; its target has not heard so, mostly.
    for _ in 0..2_000 {
        let source = run.world.durable(run.primary);
        if source.is_some_and(|source| source.superblock.peers[0].bitmap_generation == 0) {
            break;
        }
        run.pass(MS / 20)?;
    }
    run.pass(k % 8 * MS / 4)?;
    let target = 1 - run.primary;
    run.world.crash(target, k.is_multiple_of(2));
    run.world.set_cable(Cable::Cut);
    run.world.start(target, false);
    run.go_apart()?;
    run.both_secondary()?;
    run.world.set_cable(Cable::Fine);
    run.pass(3_000 * MS)?;
    run.resolve_by_hand((k % 2) as usize, (k / 2 % 2) as usize, true);
    run.pass(k % 16 * 10 * MS)?;
    if k.is_multiple_of(3) {
        run.world.crash((k % 4 / 2) as usize, k.is_multiple_of(2));
    }
    run.reconcile()
}
