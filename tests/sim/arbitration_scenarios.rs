//! Named scenarios of arbitration: the races that decide who writes, each at many instants.

use _engine::core::*;

use crate::network::Cable;
use crate::plan::{Op, Who};
use crate::run::Run;
use crate::scenarios::{arbitrated, crash, write, Scenario};
use crate::witness::{Ill, Road};
use crate::world::{Violation, MS};

pub const ALL: [Scenario; 19] = [
    arbitrated("failover-by-itself", 60, failover),
    arbitrated("isolated-primary-comes-back", 60, isolated_primary),
    arbitrated("cut-between-the-nodes-alone", 80, cut_between),
    arbitrated("one-way-cuts-between-the-nodes", 40, one_way_cuts),
    arbitrated("both-ask-at-once", 120, both_ask),
    arbitrated("swap-done-answer-lost", 120, answer_lost),
    arbitrated("swap-arrives-late", 120, swap_arrives_late),
    arbitrated("witness-dies-at-each-step-of-a-failover", 120, witness_dies),
    arbitrated("witness-away-link-comes-back", 80, witness_away),
    arbitrated(
        "primary-restarts-while-its-peer-campaigns",
        120,
        restarts_in_campaign,
    ),
    arbitrated("follower-restarts-and-gave-its-word", 60, follower_restarts),
    arbitrated("stopped-primary-wakes-late", 60, stopped_primary),
    arbitrated("paused-machine-wakes-late", 60, paused_machine),
    arbitrated("register-lost", 60, register_lost),
    arbitrated("register-from-an-old-copy", 60, register_restored),
    arbitrated("peer-joins-and-the-answer-is-lost", 120, grow_answer_lost),
    arbitrated("handover-at-each-instant", 120, handover),
    arbitrated("both-lose-power-one-returns", 60, both_lose_power),
    arbitrated("first-epoch-at-each-instant", 240, first_epoch).begins_itself(),
];

fn both<T>(k: u64, choices: [T; 2]) -> T {
    let [first, second] = choices;
    if k.is_multiple_of(2) {
        first
    } else {
        second
    }
}

/// Some writes, and a flush, with the reads of them.
fn work(run: &mut Run) -> Result<(), Violation> {
    for first in [1015, 1024, 2290] {
        write(run, first, 3)?;
        run.act(Op::Read { first, count: 2 })?;
        run.pass(MS)?;
    }
    run.act(Op::Flush)
}

/// In so many milliseconds, with work at every tenth of it.
fn work_for(run: &mut Run, ms: u64) -> Result<(), Violation> {
    for _ in 0..10 {
        work(run)?;
        run.pass(ms * MS / 10)?;
    }
    Ok(())
}

fn serves(run: &Run, n: usize) -> bool {
    run.world.nodes[n].exported
}

fn survivor_serves(run: &mut Run, n: usize) -> Result<(), Violation> {
    run.expect("the survivor goes on by itself", |run| {
        serves(run, n) && run.primary == n
    })
}

fn failover(run: &mut Run, k: u64) -> Result<(), Violation> {
    work(run)?;
    run.pass(k * MS / 20)?;
    let other = 1 - run.primary;
    run.act(Op::Failover {
        power: k.is_multiple_of(2),
        survivor_too: k.is_multiple_of(5),
        replaced: false,
    })?;
    survivor_serves(run, other)?;
    work(run)?;
    run.converge()
}

/// Neither its peer nor the witness reach it; it must stop, and then give way without a word from anybody.
fn isolated_primary(run: &mut Run, k: u64) -> Result<(), Violation> {
    let old = run.primary;
    work(run)?;
    run.world.set_cable(both(k, [Cable::Cut, Cable::Silent]));
    let road = [Road::Cut, Road::Deaf, Road::Mute][(k / 2 % 3) as usize];
    run.world.set_road(old, road);
    work_for(run, 100 + k * 20)?;
    if road == Road::Cut {
        survivor_serves(run, 1 - old)?;
    }
    work_for(run, 3_000)?;
    run.converge()
}

fn cut_between(run: &mut Run, k: u64) -> Result<(), Violation> {
    work(run)?;
    for _ in 0..3 {
        run.world.set_cable(both(k, [Cable::Cut, Cable::Silent]));
        work_for(run, 10 + k * k)?;
        run.world.set_cable(Cable::Fine);
        work_for(run, 20 + k * 10)?;
    }
    run.converge()
}

fn one_way_cuts(run: &mut Run, k: u64) -> Result<(), Violation> {
    work(run)?;
    run.world.set_cable(Cable::Mute((k % 2) as usize));
    if k % 4 < 2 {
        let who = both(k / 4, [Who::Primary, Who::Secondary]);
        let road = both(k / 8, [Road::Deaf, Road::Mute]);
        run.act(Op::Road { who, road })?;
    }
    work_for(run, 100 + k * 100)?;
    run.converge()
}

fn both_ask(run: &mut Run, k: u64) -> Result<(), Violation> {
    write(run, 1015, 3)?;
    for n in 0..2 {
        let road = [Road::Fine, Road::Slow, Road::Lossy][((k + n) % 3) as usize];
        run.world.set_road(n as usize, road);
    }
    run.world.set_cable(both(k, [Cable::Cut, Cable::Silent]));
    run.act(Op::Promote {
        who: Who::Secondary,
    })?;
    work_for(run, 500 + k * 30)?;
    run.world.set_cable(Cable::Fine);
    work_for(run, k * 20)?;
    run.converge()
}

/// The swap of either node is done, and only the register knows.
fn answer_lost(run: &mut Run, k: u64) -> Result<(), Violation> {
    let (who, n) = both(
        k,
        [
            (Who::Primary, run.primary),
            (Who::Secondary, 1 - run.primary),
        ],
    );
    work(run)?;
    run.world.set_cable(Cable::Silent);
    if who == Who::Secondary {
        run.world.set_road(1 - n, Road::Cut);
    }
    let epochs = run.world.counts.get("epochs");
    run.world.set_road(n, Road::Mute);
    // It never learns what the register holds until the way back is free; a read must reach it first.
    run.world.set_road(n, Road::Lossy);
    let swapped = run.wait(20_000 * MS, |run| run.world.counts.get("epochs") > epochs)?;
    run.world.set_road(n, Road::Mute);
    run.world.counts.add("swaps caught", u64::from(swapped));
    run.pass(k * 40 * MS)?;
    match k / 2 % 3 {
        0 => run.act(crash(who, k.is_multiple_of(4)))?,
        1 => run.world.set_cable(Cable::Fine),
        _ => {}
    }
    work_for(run, 1_000)?;
    run.converge()
}

/// A swap is on its way for seconds, while the link comes back, or its node dies.
fn swap_arrives_late(run: &mut Run, k: u64) -> Result<(), Violation> {
    let n = both(k, [run.primary, 1 - run.primary]);
    work(run)?;
    run.world.set_cable(Cable::Cut);
    run.world.set_road(1 - n, Road::Cut);
    let asked = run.world.counts.get("asks for a swap");
    run.wait(20_000 * MS, |run| {
        run.world.counts.get("asks for a swap") > asked
    })?;
    run.act(Op::Witness(Ill::Frozen { ms: 1 + k * 25 }))?;
    run.pass(k / 4 * 10 * MS)?;
    match k / 2 % 4 {
        0 => run.world.set_cable(Cable::Fine),
        1 => {
            run.world.set_cable(Cable::Fine);
            run.world.set_road(1 - n, Road::Fine);
        }
        2 => {
            run.dies(n, k.is_multiple_of(3))?;
            run.pass(k * MS)?;
            run.world.start(n, true);
            run.world.set_road(1 - n, Road::Fine);
        }
        _ => run.world.set_road(n, Road::Slow),
    }
    work_for(run, 2_000)?;
    run.converge()
}

fn witness_dies(run: &mut Run, k: u64) -> Result<(), Violation> {
    let old = run.primary;
    work(run)?;
    run.dies(old, k.is_multiple_of(2))?;
    let asked = run.world.counts.get("asks");
    run.wait(20_000 * MS, |run| run.world.counts.get("asks") > asked)?;
    run.steps(k / 2)?;
    run.act(Op::Witness(Ill::Killed))?;
    run.pass(k * 10 * MS)?;
    if k.is_multiple_of(3) {
        run.world.start(old, true);
        run.pass(k * 10 * MS)?;
    }
    run.act(Op::Witness(Ill::Started))?;
    work_for(run, 3_000)?;
    run.converge()
}

/// Without the witness the two lose each other: both wait, and the link that comes back is enough.
fn witness_away(run: &mut Run, k: u64) -> Result<(), Violation> {
    work(run)?;
    run.act(Op::Witness(Ill::Killed))?;
    run.pass(k * MS)?;
    run.world.set_cable(both(k, [Cable::Cut, Cable::Silent]));
    work_for(run, k * 100)?;
    run.world.set_cable(Cable::Fine);
    run.expect("the pair goes on without the witness", |run| {
        run.is_established() && serves(run, 0)
    })?;
    let writes = run.oracle.writes;
    work(run)?;
    run.expect("writes go on without the witness", |run| {
        run.oracle.writes > writes
    })?;
    run.converge()
}

fn restarts_in_campaign(run: &mut Run, k: u64) -> Result<(), Violation> {
    let old = run.primary;
    work(run)?;
    run.dies(old, k.is_multiple_of(2))?;
    if k.is_multiple_of(3) {
        run.world.set_road(1 - old, Road::Slow);
    }
    let asked = run.world.counts.get("asks");
    run.wait(20_000 * MS, |run| run.world.counts.get("asks") > asked)?;
    run.pass(k / 3 * MS / 4)?;
    run.world.start(old, true);
    if k % 4 < 2 {
        run.world.set_cable(Cable::Cut);
        run.pass(k * 20 * MS)?;
        run.world.set_cable(Cable::Fine);
    }
    work_for(run, 4_000)?;
    run.converge()
}

/// It promised not to campaign, and has forgotten that it did: what the isolated Primary reads must not be old.
fn follower_restarts(run: &mut Run, k: u64) -> Result<(), Violation> {
    let (old, other) = (run.primary, 1 - run.primary);
    work(run)?;
    run.pass(k * 10 * MS)?;
    run.dies(other, k.is_multiple_of(2))?;
    run.world.set_cable(Cable::Silent);
    run.world.set_road(old, Road::Cut);
    run.world.start(other, true);
    for _ in 0..400 {
        for n in [old, other] {
            let first = 1015 + (k as usize % 3);
            run.issue_at(n, Op::Read { first, count: 2 });
        }
        run.issue_at(
            other,
            Op::Write {
                first: 1015,
                count: 4,
                fua: false,
            },
        );
        run.pass(10 * MS)?;
    }
    run.converge()
}

/// Its clock went on: the first thing that it hears of is a request.
fn stopped_primary(run: &mut Run, k: u64) -> Result<(), Violation> {
    let old = run.primary;
    work(run)?;
    run.act(Op::Pause {
        who: Who::Primary,
        ms: 100 + k * 150,
    })?;
    for _ in 0..50 {
        for n in 0..2 {
            run.issue_at(
                n,
                Op::Read {
                    first: 1015,
                    count: 2,
                },
            );
            run.issue_at(
                n,
                Op::Write {
                    first: 1014 + k as usize % 3,
                    count: 3,
                    fua: false,
                },
            );
        }
        run.pass((2 + k * 3) * MS)?;
    }
    run.pass(k * 150 * MS)?;
    run.world
        .counts
        .add("stopped Primaries that lost", u64::from(run.primary != old));
    run.converge()
}

fn paused_machine(run: &mut Run, k: u64) -> Result<(), Violation> {
    work(run)?;
    run.act(Op::StandStill {
        who: both(k, [Who::Primary, Who::Secondary]),
        ms: 100 + k * 150,
    })?;
    work_for(run, 200 + k * 200)?;
    run.converge()
}

/// The register forgets everything: while the two are one, while they lose each other, while one of them is away.
fn register_lost(run: &mut Run, k: u64) -> Result<(), Violation> {
    work(run)?;
    match k % 4 {
        0 => {
            run.act(Op::Witness(Ill::Lost))?;
            // Nobody asks it anything before something changes.
            run.world.set_cable(Cable::Cut);
            run.pass(10 * MS)?;
            run.world.set_cable(Cable::Fine);
        }
        1 => {
            run.act(Op::Witness(Ill::Lost))?;
            run.world.set_cable(Cable::Cut);
        }
        2 => {
            run.world.set_cable(Cable::Cut);
            run.pass(k * 40 * MS)?;
            run.act(Op::Witness(Ill::Lost))?;
        }
        _ => {
            run.dies(run.primary, k.is_multiple_of(8))?;
            run.pass(k * 40 * MS)?;
            run.act(Op::Witness(Ill::Lost))?;
        }
    }
    work_for(run, 3_000)?;
    run.converge()?;
    // Its word counts again.
    let old = run.primary;
    run.dies(old, false)?;
    survivor_serves(run, 1 - old)?;
    run.converge()
}

fn register_restored(run: &mut Run, k: u64) -> Result<(), Violation> {
    for _ in 0..2 {
        let old = run.primary;
        run.dies(old, k.is_multiple_of(2))?;
        survivor_serves(run, 1 - old)?;
        work(run)?;
        run.converge()?;
    }
    if k.is_multiple_of(3) {
        run.world.set_cable(Cable::Cut);
        run.pass(k * 40 * MS)?;
    }
    run.act(Op::Witness(Ill::Restored { back: 1 + k % 6 }))?;
    match k / 3 % 3 {
        0 => run.dies(run.primary, true)?,
        1 => run.world.set_cable(Cable::Silent),
        _ => {}
    }
    work_for(run, 3_000)?;
    run.converge()
}

/// The resync ends, the peer is waited for, and what the register holds is not known; then one of them dies.
fn grow_answer_lost(run: &mut Run, k: u64) -> Result<(), Violation> {
    run.dies(1 - run.primary, k.is_multiple_of(2))?;
    run.pass(1_500 * MS)?;
    work(run)?;
    run.pass(1_500 * MS)?;
    run.world.start(1 - run.primary, true);
    let asked = run.world.counts.get("asks for a swap");
    run.wait(20_000 * MS, |run| {
        run.world.counts.get("asks for a swap") > asked
    })?;
    run.steps(k / 12)?;
    run.act(Op::Road {
        who: Who::Primary,
        road: both(k, [Road::Mute, Road::Deaf]),
    })?;
    work_for(run, k)?;
    let who = both(k / 2, [Who::Primary, Who::Secondary]);
    run.dies(run.node(who), k.is_multiple_of(3))?;
    work_for(run, 3_000)?;
    run.converge()
}

fn handover(run: &mut Run, k: u64) -> Result<(), Violation> {
    let (old, new) = (run.primary, 1 - run.primary);
    work(run)?;
    run.act(Op::Demote { who: Who::Primary })?;
    if k.is_multiple_of(2) {
        run.pass(10 * MS)?;
    }
    run.world.command(new, Command::Promote { force: false });
    run.steps(k / 2)?;
    match k % 6 {
        0 => run.dies(old, true)?,
        1 => run.dies(new, false)?,
        2 => run.world.set_cable(Cable::Cut),
        3 => run.act(Op::Witness(Ill::Killed))?,
        4 => run.world.set_road(new, Road::Mute),
        _ => {}
    }
    work_for(run, 2_000)?;
    run.converge()
}

fn both_lose_power(run: &mut Run, k: u64) -> Result<(), Violation> {
    work(run)?;
    run.pass(k * MS / 10)?;
    let (primary, returns) = (run.primary, (k % 2) as usize);
    run.dies(primary, true)?;
    run.dies(1 - primary, true)?;
    run.pass(100 * MS)?;
    run.world.start(returns, true);
    survivor_serves(run, returns)?;
    work(run)?;
    run.pass(k * 10 * MS)?;
    run.converge()
}

/// A person makes the first Primary; either node, the link or the witness goes at each step of it.
fn first_epoch(run: &mut Run, k: u64) -> Result<(), Violation> {
    run.world.start_witness();
    run.world.start(0, false);
    run.world.start(1, false);
    run.expect("both wait for the first sync", |run| {
        (0..2).all(|n| run.world.replication(n) == "Waiting")
    })?;
    let source = SyncSource::Myself;
    run.world.command(0, Command::SyncFrom { source });
    run.expect("the first sync", Run::is_established)?;
    if k.is_multiple_of(7) {
        run.world.set_road(0, Road::Slow);
    }
    run.world.command(0, Command::Promote { force: false });
    run.register.demoted = true;
    run.steps(k / 6)?;
    match k % 6 {
        0 => run.dies(0, true)?,
        1 => run.dies(1, true)?,
        2 => run.act(Op::Witness(Ill::Killed))?,
        3 => run.world.set_road(0, Road::Mute),
        4 => run.world.set_cable(Cable::Silent),
        _ => run.act(Op::Witness(Ill::Lost))?,
    }
    work_for(run, 2_000)?;
    run.converge()
}
