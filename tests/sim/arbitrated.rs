//! A run that an arbiter decides: what happens in it, what must hold after every step, and that it heals by itself.

use std::collections::BTreeMap;

use _engine::core::*;
use _engine::wire::{DiskState, Protocol, Role};

use crate::network::Cable;
use crate::plan::{places, Op};
use crate::run::Run;
use crate::witness::{text, Road, Swapped, WITNESS};
use crate::world::{Violation, MS, NAMES};

/// In how long a pair becomes one again once all faults have ended: a campaign's longest pause is 30 seconds, and a node
/// that was Primary waits for its peer's word before.
const HEALS_WITHIN: Time = 150_000 * MS;

/// What the arbiter was made to hold, whatever its disk holds by now; and who went by it.
#[derive(Default)]
pub struct Register {
    pub newest: Option<Configuration>,
    /// The Primary of every epoch.
    entered: BTreeMap<u64, usize>,
    /// Who served in an epoch. In a later life of its process too, if its peer was there and had promised nothing higher.
    served: BTreeMap<u64, usize>,
    /// Epoch, and highest promised one, of each node's metadata.
    durable: [(u64, u64); 2],
    /// What of a node's cache a power cut took has not been made good since: it holds what was flushed, and maybe more.
    cold: [bool; 2],
    /// Who began to serve last, if it did so from a cold cache.
    served_cold: Option<usize>,
    /// Whose data the applications saw last.
    server: Option<usize>,
    /// Until then a machine that was paused may answer reads from before its pause.
    excused_until: [Time; 2],
    /// Nobody is Primary because a person said so.
    pub demoted: bool,
    /// What each node was last told to demote by.
    demoting: [Option<CommandId>; 2],
    /// Whose I/O stood still, and who was told that it is Primary no more, when last looked.
    suspended: [Option<&'static str>; 2],
    superseded: [bool; 2],
}

fn index(name: &str) -> usize {
    usize::from(name == NAMES[1])
}

impl Run {
    pub fn is_arbitrated(&self) -> bool {
        self.world.settings.arbitrated.is_some()
    }

    fn lease(&self) -> Time {
        let arbitrated = self.world.settings.arbitrated;
        arbitrated.map_or(0, |arbitrated| arbitrated.config.lease_ns)
    }

    fn is_automatic(&self) -> bool {
        let arbitrated = self.world.settings.arbitrated;
        arbitrated.is_some_and(|arbitrated| arbitrated.config.automatic)
    }

    /// Both follow the arbiter, and have all.
    fn both_in_sync(&self) -> bool {
        (self.register.newest.as_ref()).is_some_and(|newest| newest.in_sync.len() == 2)
    }

    pub fn begin_arbitrated(&mut self) -> Result<(), Violation> {
        self.world.start_witness();
        self.expect("both in sync by the arbiter's word", |run| {
            run.both_in_sync()
        })
    }

    // ---- what must hold ------------------------------------------------------------------------------

    pub fn check_arbitrated(&mut self) -> Result<(), Violation> {
        for swap in std::mem::take(&mut self.world.witness.swaps) {
            self.swapped(&swap)?;
            self.world.changed = true;
        }
        let bids = std::mem::take(&mut self.world.bids);
        if !self.one_writer {
            return self.check_forced();
        }
        for (n, expected, next) in bids {
            self.check_bid(n, expected.as_ref(), &next)?;
        }
        if std::mem::take(&mut self.world.split_brain_found) {
            return Err("I3: a split brain is found, and nobody used force".into());
        }
        self.register.demoted |= std::mem::take(&mut self.world.starts_forgotten);
        self.lead();
        self.look_at_disks();
        for (n, id, result) in std::mem::take(&mut self.world.replies) {
            let excused = self.register.excused_until[n];
            let issued_at = self.oracle.was_issued_at(id);
            if issued_at.is_some_and(|at| at <= excused) && self.oracle.excuse_read(id) {
                self.world
                    .counts
                    .add("reads of a machine that was paused", 1);
                continue;
            }
            let other_lost_power =
                self.world.now <= excused && self.register.served_cold == Some(1 - n);
            if other_lost_power && self.oracle.excuse_unflushed(id) {
                self.world
                    .counts
                    .add("writes of a machine that was paused", 1);
                continue;
            }
            let data = result.as_ref().ok().and_then(|data| data.as_deref());
            self.oracle
                .replied(id, result.is_ok(), data)
                .map_err(|why| format!("I1: {} answered: {why}", NAMES[n]))?;
            self.world.changed = true;
        }
        for n in std::mem::take(&mut self.world.opened) {
            self.begins_to_serve(n)?;
        }
        for target in std::mem::take(&mut self.world.resyncs_begun) {
            // What it receives is no better than where it comes from.
            self.register.cold[target] |= self.register.cold[1 - target];
        }
        if self.register.cold != [false; 2] && self.is_in_sync() {
            if self.register.server.is_some_and(|n| self.register.cold[n]) {
                // The one that the applications saw last came back without what it had not flushed, and its copy won.
                self.oracle.only_flushed_counts();
            }
            self.register.cold = [false; 2];
        }
        self.check_epochs()?;
        if std::mem::take(&mut self.world.changed) {
            self.check_marks()?;
            self.check_durable_epochs()?;
            self.check_members()?;
        }
        self.world.violation.take().map_or(Ok(()), Err)
    }

    /// Somebody used force: from here on the history of each side is what counts, as without an arbiter.
    fn check_forced(&mut self) -> Result<(), Violation> {
        for (_, id, result) in std::mem::take(&mut self.world.replies) {
            self.apart_reply(id, result.is_ok());
        }
        self.world.opened.clear();
        self.world.failed_flushes.clear();
        if std::mem::take(&mut self.world.changed) {
            self.check_apart()?;
            self.check_marks()?;
            self.check_durable_epochs()?;
        }
        self.world.violation.take().map_or(Ok(()), Err)
    }

    /// What was done by force is settled: this node's copy is what counts, and the arbiter is to say so.
    pub fn end_of_force(&mut self, survivor: usize) -> Result<(), Violation> {
        (0..2).for_each(|n| self.world.set_road(n, Road::Fine));
        self.world.start_witness();
        let newest = self.register.newest.as_ref();
        let keeps = newest.is_some_and(|newest| newest.in_sync.contains(NAMES[survivor]));
        if !keeps && !self.world.nodes[survivor].exported {
            self.world
                .command(survivor, Command::Promote { force: true });
            self.expect("the survivor is Primary by force", |run| {
                run.world.nodes[survivor].exported
            })?;
        }
        self.expect("the arbiter goes by the survivor", |run| {
            let newest = run.register.newest.as_ref();
            newest.is_some_and(|newest| newest.in_sync.contains(NAMES[survivor]))
        })?;
        self.register.served.clear();
        self.register.cold = [false; 2];
        let serves = (0..2).find(|n| self.world.nodes[*n].exported);
        self.register.server = Some(serves.unwrap_or(survivor));
        self.register.demoted = true;
        self.world.split_brain_found = false;
        Ok(())
    }

    /// Who is taken for the Primary by whoever looks from outside.
    fn lead(&mut self) {
        let epoch = |n: usize| {
            let node = &self.world.nodes[n];
            let replica = node.replica.as_ref().filter(|_| node.exported);
            replica.map(Replica::epoch)
        };
        self.primary = match (epoch(0), epoch(1)) {
            (None, None) => match &self.register.newest {
                Some(newest) => index(&newest.primary),
                None => self.primary,
            },
            (a, b) => usize::from(b > a),
        };
    }

    /// FENCE, LEASE: a node asks to be Primary in another one's place only when it can confirm nothing for that one any
    /// more, durably, and when its word to that one has run out.
    fn check_bid(
        &mut self,
        n: usize,
        expected: Option<&Configuration>,
        next: &Configuration,
    ) -> Result<(), Violation> {
        let (Some(expected), false) = (expected, self.world.nodes[n].exported) else {
            return Ok(());
        };
        let told = format!("{} asks for {}", NAMES[n], text(Some(next)));
        let durable = self.world.durable(n);
        if durable.is_some_and(|durable| durable.superblock.promised < next.epoch) {
            return Err(format!("FENCE: {told} before its promise is durable"));
        }
        let other = 1 - n;
        let promotes = index(&expected.primary) == other && next.in_sync.len() == 1;
        if !promotes || !self.world.nodes[other].exported {
            return Ok(());
        }
        if self.world.replication(n) != "Off" {
            return Err(format!("FENCE: {told} while it follows {}", NAMES[other]));
        }
        let arbitration = self.world.status(other).and_then(|s| s.arbitration);
        let lease = arbitration.and_then(|status| status.lease_seconds);
        let excused = self.world.now <= self.register.excused_until[other];
        if lease.is_some_and(|seconds| seconds > 0.0) && !excused {
            return Err(format!(
                "LEASE: {told} while {} may read for {lease:?} s more",
                NAMES[other]
            ));
        }
        Ok(())
    }

    /// I4, ONCE: a swap was carried out.
    fn swapped(&mut self, swap: &Swapped) -> Result<(), Violation> {
        let Swapped { by, before, next } = swap;
        let register = &mut self.register;
        let who = index(&next.primary);
        let told = format!(
            "{} made it {}, from {}; the newest was {}",
            NAMES[*by],
            text(Some(next)),
            text(before.as_ref()),
            text(register.newest.as_ref())
        );
        let newest_epoch = register.newest.as_ref().map_or(0, |newest| newest.epoch);
        if next.epoch <= newest_epoch {
            // Of a register that was lost nobody can know what it held last, if nobody had heard of it.
            let served = register
                .served
                .last_key_value()
                .map_or(0, |(epoch, _)| *epoch);
            let unheard = register.newest != *before && next.epoch > served;
            if !unheard && self.one_writer {
                return Err(format!("ONCE: an epoch is entered again: {told}"));
            }
        }
        let kind = match &register.newest {
            _ if before.is_none() && newest_epoch == 0 => "creates",
            newest if newest != before => "reseeds",
            Some(newest) if newest.primary != next.primary => {
                if !newest.in_sync.contains(&next.primary) && self.one_writer {
                    return Err(format!(
                        "I4: a node that is not in sync is promoted: {told}"
                    ));
                }
                match next.in_sync.len() {
                    1 => "promotions by the arbiter",
                    _ => "handovers",
                }
            }
            Some(newest) if newest.in_sync.len() < next.in_sync.len() => "grows",
            Some(newest) if newest.in_sync.len() > next.in_sync.len() => "shrinks",
            _ => "renewals",
        };
        if *by != who && kind != "reseeds" {
            return Err(format!("I4: a node makes another one Primary: {told}"));
        }
        register.newest = Some(next.clone());
        register.entered.insert(next.epoch, who);
        self.world.counts.add(kind, 1);
        self.world.counts.add("epochs", 1);
        Ok(())
    }

    /// A disk that was given up, or failed a flush, takes with it what was on no other.
    fn look_at_disks(&mut self) {
        let primary = self.primary;
        for n in std::mem::take(&mut self.world.failed_flushes) {
            self.register.cold[n] = true;
            let served = self.is_served() && self.world.replication(1 - primary) == "Established";
            if (n == primary) != served {
                self.oracle.flush_failed();
            }
        }
        if self.ailing == [false; 2] {
            return;
        }
        let status = self.world.status(primary);
        let stale = status
            .as_ref()
            .is_some_and(|s| s.disk <= DiskState::Inconsistent);
        let served = status.as_ref().is_some_and(|s| s.served_by.is_some());
        let fresh = !std::mem::replace(&mut self.written_off, stale) && stale;
        let only_here =
            self.world.settings.protocol != Protocol::C || self.register.cold[1 - primary];
        self.dark &= served;
        if self.dark || fresh && only_here || stale && !served && self.is_diskless(1 - primary) {
            self.oracle.only_flushed_counts();
        }
    }

    /// I3: only by the arbiter's word. I1: what it shows from here on is all that was promised.
    fn begins_to_serve(&mut self, n: usize) -> Result<(), Violation> {
        let epoch = self.world.nodes[n]
            .replica
            .as_ref()
            .map_or(0, Replica::epoch);
        if self.register.entered.get(&epoch) != Some(&n) {
            return Err(format!(
                "I3: {} serves in epoch {epoch}, which the arbiter never gave it; it holds {}",
                NAMES[n],
                text(self.register.newest.as_ref())
            ));
        }
        let newest = self.register.newest.as_ref();
        if newest.is_none_or(|newest| index(&newest.primary) != n) {
            // It does not know yet: nothing that is asked of it may end well.
            self.world.counts.add("exports opened too late", 1);
            return Ok(());
        }
        let other = self.register.server != Some(n);
        if self.register.cold[n] || other && self.world.settings.protocol == Protocol::A {
            self.oracle.only_flushed_counts();
        }
        let now = self.world.now;
        let taken = self.oracle.succeeds(&self.world.nodes[n].data, now);
        taken.map_err(|why| format!("I1: {} begins to serve: {why}", NAMES[n]))?;
        self.register.served_cold = Some(n).filter(|_| self.register.cold[n]);
        self.register.cold[n] = false;
        self.register.server = Some(n);
        // A demotion that was asked for meanwhile is still to come.
        let awaited = |id: &CommandId| !self.world.commands.contains_key(id);
        self.register.demoted = self.register.demoting.iter().flatten().any(awaited);
        self.world.counts.add("exports opened", 1);
        self.world.changed = true;
        Ok(())
    }

    /// ONCE: in an epoch one node serves. And what there is to count.
    fn check_epochs(&mut self) -> Result<(), Violation> {
        for n in [0, 1] {
            let node = &self.world.nodes[n];
            let Some(replica) = &node.replica else {
                self.register.suspended[n] = None;
                self.register.superseded[n] = false;
                continue;
            };
            if node.exported && replica.role() == Role::Primary {
                let epoch = replica.epoch();
                let served = *self.register.served.entry(epoch).or_insert(n);
                if served != n {
                    return Err(format!(
                        "ONCE: {} serves in epoch {epoch}, as {} did",
                        NAMES[n], NAMES[served]
                    ));
                }
            }
            let arbitration = self.world.status(n).and_then(|status| status.arbitration);
            let suspended = arbitration.as_ref().and_then(|status| status.suspended);
            let superseded = arbitration.is_some_and(|status| status.superseded.is_some());
            let counts = &mut self.world.counts;
            let before = std::mem::replace(&mut self.register.suspended[n], suspended);
            counts.add(
                "suspensions of writes",
                u64::from(before.is_none() && suspended == Some("writes")),
            );
            counts.add(
                "leases run out",
                u64::from(before != suspended && suspended == Some("all")),
            );
            let known = std::mem::replace(&mut self.register.superseded[n], superseded);
            counts.add("superseded Primaries", u64::from(superseded && !known));
        }
        Ok(())
    }

    /// FENCE: what was promised stays promised.
    fn check_durable_epochs(&mut self) -> Result<(), Violation> {
        for n in [0, 1] {
            let Some(durable) = self.world.nodes[n].durable_read() else {
                continue;
            };
            let (epoch, promised) = (durable.superblock.epoch, durable.superblock.promised);
            let before = &mut self.register.durable[n];
            if epoch < before.0 || promised < before.1 {
                return Err(format!(
                    "FENCE: on the disk of {} epoch and promised go from {before:?} to {:?}",
                    NAMES[n],
                    (epoch, promised)
                ));
            }
            *before = (epoch, promised);
        }
        Ok(())
    }

    /// I1: every node that may be promoted now has all that was acknowledged.
    fn check_members(&self) -> Result<(), Violation> {
        let Some(newest) = &self.register.newest else {
            return Ok(());
        };
        for n in newest.in_sync.iter().map(|name| index(name)) {
            let node = &self.world.nodes[n];
            let Some(durable) = node.durable_read() else {
                continue;
            };
            let superblock = &durable.superblock;
            let stale = node.is_known_stale(superblock.current);
            let promotable = superblock.disk >= DiskState::Consistent && !stale;
            // The only one in sync is needed whatever its metadata say, unless its disk has failed it.
            let needed = newest.in_sync.len() == 1 && self.ailing == [false; 2];
            if !promotable && !needed || self.world.needs_start(n) {
                continue;
            }
            let lags =
                self.world.settings.protocol != Protocol::C && self.register.server != Some(n);
            let cold = self.register.cold[n] || lags;
            self.oracle.check_member(&node.data, cold).map_err(|why| {
                format!(
                    "I1: {} is in sync by {}, but {why}",
                    NAMES[n],
                    text(Some(newest))
                )
            })?;
        }
        Ok(())
    }

    // ---- what happens --------------------------------------------------------------------------------

    pub fn act_arbitrated(&mut self, op: Op) -> Result<(), Violation> {
        let (primary, other) = (self.primary, 1 - self.primary);
        match op {
            Op::Write { .. } | Op::Zero { .. } | Op::Read { .. } | Op::Flush => {
                // Whoever has not heard of a takeover goes on asking the old Primary.
                let stays = self.world.nodes[other].exported && self.world.rng.chance(2);
                self.issue_at(if stays { other } else { primary }, op);
            }
            Op::Cable(cable) => self.world.set_cable(cable),
            Op::Damage => self.world.corrupt_next = true,
            Op::Crash { who, power } => {
                let n = self.node(who);
                self.dies(n, power)?;
                let span = [50 * MS, 4_000 * MS][self.world.rng.below(2) as usize];
                let span = self.world.rng.below(span);
                self.pass(span)?;
                self.world.start(n, true);
            }
            Op::Failover {
                power,
                survivor_too,
                replaced,
            } => {
                self.dies(primary, power)?;
                if survivor_too {
                    self.dies(other, true)?;
                    self.world.start(other, true);
                }
                if replaced {
                    let span = 2 * self.lease() + 2_000 * MS;
                    self.pass(span)?;
                    self.replace_arbitrated(primary)?;
                }
            }
            Op::Disconnect { who } => self.connect(self.node(who), false),
            Op::Connect { who } => self.connect(self.node(who), true),
            Op::Restart => self.restart_arbitrated()?,
            Op::Switchover => self.switch_over_arbitrated()?,
            Op::Promote { who } => {
                self.world
                    .command(self.node(who), Command::Promote { force: false });
            }
            Op::Demote { who } => {
                self.demote(self.node(who));
            }
            Op::Pause { who, ms } => self.world.pause(self.node(who), ms * MS),
            Op::StandStill { who, ms } => {
                let n = self.node(who);
                self.world.stand_still(n, ms * MS);
                if let Some(until) = self.world.paused_until(n) {
                    let lease = self.lease();
                    self.register.excused_until[n] = until + lease + lease / 100;
                }
            }
            Op::Isolate { who } => {
                self.world.set_road(self.node(who), Road::Cut);
                let cable = [Cable::Cut, Cable::Silent][self.world.rng.below(2) as usize];
                self.world.set_cable(cable);
            }
            Op::Witness(ill) => self.world.harm_witness(ill),
            Op::Road { who, road } => self.world.set_road(self.node(who), road),
            Op::Fail {
                who,
                part,
                errno,
                times,
            } => self.fail_storage(who, part, errno, times),
            Op::Replace => {
                let good =
                    (self.world.status(primary)).is_some_and(|s| s.disk == DiskState::UpToDate);
                if self.world.nodes[primary].exported && good {
                    self.dies(other, false)?;
                    self.replace_arbitrated(other)?;
                    self.world.start(other, false);
                }
            }
            Op::Verify { who, first, count } => self.compare(self.node(who), first, count),
            Op::Heal => self.heal_arbitrated(),
        }
        self.check()
    }

    pub fn dies(&mut self, n: usize, power: bool) -> Result<(), Violation> {
        self.check()?;
        if !self.world.is_up(n) {
            return Ok(());
        }
        let stands_in = self.is_served() && n != self.primary;
        self.dark |= power && stands_in;
        // What it only had in memory it loses in any case.
        self.register.cold[n] |= power || self.world.settings.protocol == Protocol::B;
        let only_good = power && n != self.primary && self.is_stale(self.primary);
        if only_good {
            self.oracle.only_flushed_counts();
        }
        self.world.crash(n, power);
        self.register.demoting[n] = None;
        self.check()?;
        self.oracle.forget_open_at(n);
        Ok(())
    }

    /// A node gets another disk, once the other one has all by the arbiter's word.
    fn replace_arbitrated(&mut self, n: usize) -> Result<(), Violation> {
        let newest = self.register.newest.as_ref();
        let needed = newest.is_none_or(|newest| index(&newest.primary) == n);
        let good = self
            .world
            .status(1 - n)
            .is_some_and(|s| s.disk == DiskState::UpToDate);
        if needed || !good || self.world.is_up(n) || !self.world.nodes[1 - n].exported {
            return Ok(());
        }
        self.ailing[n] = true;
        // It takes a person longer than anything is on its way.
        self.world.forget_calls_of(n);
        self.world.replace(n, &places());
        self.register.durable[n] = (0, 0);
        self.register.cold[n] = false;
        self.check()
    }

    fn restart_arbitrated(&mut self) -> Result<(), Violation> {
        let n = self.primary;
        if !self.world.is_up(n) {
            return Ok(());
        }
        self.world.counts.add("planned restarts", 1);
        let id = self.world.command(n, Command::Stop);
        self.wait(20_000 * MS, |run| run.world.commands.contains_key(&id))?;
        self.check()?;
        // A stop that has to wait for the arbiter is cut short.
        self.dies(n, false)?;
        self.world.start(n, true);
        Ok(())
    }

    fn demote(&mut self, n: usize) -> CommandId {
        self.register.demoted = true;
        let id = self.world.command(n, Command::Demote);
        self.register.demoting[n] = Some(id);
        id
    }

    fn switch_over_arbitrated(&mut self) -> Result<(), Violation> {
        let (old, new) = (self.primary, 1 - self.primary);
        if !self.world.nodes[old].exported {
            return Ok(());
        }
        self.warm_up(new)?;
        let done = |run: &Run, id: &CommandId| run.world.commands.get(id).map(Result::is_ok);
        let demote = self.demote(old);
        self.wait(20_000 * MS, |run| run.world.commands.contains_key(&demote))?;
        if done(self, &demote) != Some(true) {
            return Ok(());
        }
        let promote = self.world.command(new, Command::Promote { force: false });
        self.wait(20_000 * MS, |run| run.world.commands.contains_key(&promote))?;
        if done(self, &promote) == Some(true) {
            self.world.counts.add("switchovers", 1);
        } else {
            self.world.command(old, Command::Promote { force: false });
        }
        Ok(())
    }

    /// What a person does who finds everything mended: starts what is down, connects what was told to stay apart, and
    /// promotes only where that is not the arbiter's.
    fn heal_arbitrated(&mut self) {
        self.world.mend();
        self.world.start_witness();
        (0..2).for_each(|n| self.world.set_road(n, Road::Fine));
        for n in 0..2 {
            if self.world.needs_start(n) {
                self.register.cold[n] |= self.world.settings.protocol == Protocol::B;
                self.world.crash(n, false);
                self.register.demoting[n] = None;
                self.oracle.forget_open_at(n);
            }
            if self.world.is_up(n) {
                self.world.command(n, Command::Connect { peer: 0 });
            } else {
                self.world.start(n, true);
            }
        }
        self.promote_by_hand();
    }

    fn promote_by_hand(&mut self) {
        let exported = (0..2).any(|n| self.world.nodes[n].exported);
        if exported || self.is_automatic() && !self.register.demoted {
            return;
        }
        let idle = |n: &usize| self.world.status(*n).is_some_and(|s| !s.resuming);
        let candidates = [self.primary, 1 - self.primary];
        if let Some(n) = candidates.into_iter().find(idle) {
            let data = self
                .world
                .status(n)
                .is_some_and(|s| s.disk > DiskState::Inconsistent);
            if self.register.newest.is_none() && !data {
                let source = SyncSource::Myself;
                self.world.command(n, Command::SyncFrom { source });
            }
            self.world.command(n, Command::Promote { force: false });
        }
    }

    // ---- the end -------------------------------------------------------------------------------------

    /// One Primary, one Secondary that has all, and the arbiter says so.
    fn is_whole(&mut self) -> bool {
        let exported = [0, 1].map(|n| self.world.nodes[n].exported);
        let newest = &self.register.newest;
        let primary = newest.as_ref().map(|newest| index(&newest.primary));
        let ends = (self.world.status(self.primary)).is_some_and(|s| s.suspended.is_some());
        exported.iter().filter(|on| **on).count() == 1
            && exported[self.primary]
            && !ends
            && primary == Some(self.primary)
            && self.both_in_sync()
            && self.is_established()
    }

    /// Faults end, and nobody does anything: the two become one again.
    pub fn converge_arbitrated(&mut self) -> Result<(), Violation> {
        self.world.note(|| "faults end".into());
        self.heal_arbitrated();
        let frozen = self
            .world
            .witness
            .frozen_until
            .saturating_sub(self.world.now);
        let pause = self.world.longest_pause().max(frozen);
        self.pass(pause)?;
        let began = self.world.now;
        let mut round = 0;
        while !self.is_whole() || self.has_marks() {
            if self.world.now - began > HEALS_WITHIN {
                return Err(format!(
                    "L: the nodes do not come together again: {}; the arbiter has {}",
                    self.describe(),
                    text(self.world.witness.register.as_ref())
                ));
            }
            self.pass(3_000 * MS)?;
            round += 1;
            if self.is_whole() && !self.has_marks() {
                break;
            }
            if self.ailing != [false; 2] {
                // What failed disks leave behind is a person's.
                if self.is_whole() {
                    let primary = self.primary;
                    self.world.command(primary, Command::Disconnect { peer: 0 });
                    self.pass(100 * MS)?;
                }
                self.heal_arbitrated();
            }
            self.promote_by_hand();
            if round == 10 {
                self.force_without_a_good_copy()?;
            }
        }
        let taken = (self.world.now - began) / (1_000 * MS);
        self.world
            .counts
            .add("seconds until the pair was whole", taken);
        self.settle_down()
    }

    fn has_marks(&self) -> bool {
        let marked = |s: &CoreStatus| s.peers[0].suspect_bytes + s.peers[0].out_of_sync_bytes > 0;
        (0..2).any(|n| self.world.status(n).as_ref().is_some_and(marked))
    }
}

impl crate::world::World {
    /// What a node has on its way to the witness never arrives.
    fn forget_calls_of(&mut self, n: usize) {
        use crate::world::Happening;
        for what in self.take_happenings(WITNESS) {
            match what {
                Happening::Asked { from, .. } if from == n => {}
                what => self.schedule(WITNESS, MS, what),
            }
        }
    }
}
