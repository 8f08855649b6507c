//! One run: a plan against a world, with a person who fails over by the book, and an oracle that watches.

use _engine::core::*;
use _engine::wire::{DiskState, Protocol};

use crate::arbitrated::Register;
use crate::disk::stamped;
use crate::durable::{prospect, would_be_found};
use crate::oracle::{Oracle, Promise};
use crate::plan::{places, Op, Plan, Who};
use crate::resolution::Apart;
use crate::verify::Comparing;
use crate::world::{Part, Settings, Violation, World, MS, NAMES};

pub struct Run {
    pub world: World,
    pub oracle: Oracle,
    /// Whom the person wants to be Primary.
    pub primary: usize,
    /// Nobody has used force beside a living Primary: there is one writer.
    pub one_writer: bool,
    pub apart: Apart,
    pub register: Register,
    pub comparing: Comparing,
    /// The stand-in of a Primary without a disk lost power: answers of its that are on their way promise less.
    pub dark: bool,
    /// The Secondary lost power and has not been in sync since: what it had not flushed is on the Primary's disk alone.
    cold: bool,
    /// Whose storage has failed or was replaced.
    pub ailing: [bool; 2],
    /// The Primary's disk was given up, or is stale, and what went with it is accounted for.
    pub written_off: bool,
}

/// How a run ended.
pub struct Outcome {
    pub violation: Option<Violation>,
    pub counts: crate::coverage::Counts,
    pub trace: Vec<String>,
}

pub fn run(plan: &Plan, traced: bool) -> Outcome {
    let settings = Settings {
        protocol: plan.protocol,
        block_size: plan.block_size,
        on_io_error: plan.on_io_error,
        policy: plan.policy,
        priority: plan.priority,
        arbitrated: plan.arbitrated,
    };
    let mut run = Run::new(plan.seed, settings, traced);
    let result = run.follow(plan);
    run.finish(result)
}

impl Run {
    pub fn new(seed: u64, settings: Settings, traced: bool) -> Run {
        Run {
            world: World::new(seed, settings, traced),
            oracle: Oracle::new(),
            primary: 0,
            one_writer: true,
            dark: false,
            cold: false,
            ailing: [false; 2],
            written_off: false,
            apart: Apart::default(),
            register: Register::default(),
            comparing: Comparing::default(),
        }
    }

    pub fn finish(mut self, result: Result<(), Violation>) -> Outcome {
        let counts = &mut self.world.counts;
        counts.add("acknowledged writes", self.oracle.writes);
        counts.add("acknowledged flushes", self.oracle.flushes);
        counts.add("checked reads", self.oracle.reads);
        counts.add("failed requests", self.oracle.errors);
        Outcome {
            violation: result.err(),
            counts: self.world.counts,
            trace: self.world.trace.unwrap_or_default(),
        }
    }

    fn follow(&mut self, plan: &Plan) -> Result<(), Violation> {
        self.begin()?;
        let mut split = plan.split;
        for step in &plan.steps {
            if split.take_if(|at| *at <= step.number).is_some() {
                self.converge()?;
                self.split_and_resolve(plan.seed)?;
            }
            self.world.rng = crate::rng::Rng::new(step.seed);
            self.act(step.op)?;
            self.pass(step.pause_us * 1_000)?;
        }
        self.converge()?;
        if split.is_some() {
            self.split_and_resolve(plan.seed)?;
        }
        if plan.verifies {
            self.plant_and_find()?;
        }
        Ok(())
    }

    /// Both nodes up, first sync done, `a` Primary.
    pub fn begin(&mut self) -> Result<(), Violation> {
        if self.is_arbitrated() {
            self.world.start_witness();
        }
        self.world.start(0, false);
        self.world.start(1, false);
        self.expect("both wait for the first sync", |run| {
            (0..2).all(|n| run.world.replication(n) == "Waiting")
        })?;
        let source = SyncSource::Myself;
        self.world.command(0, Command::SyncFrom { source });
        self.expect("the first sync", Run::is_established)?;
        self.world.command(0, Command::Promote { force: false });
        self.expect("the promotion", |run| run.world.nodes[0].exported)?;
        if self.is_arbitrated() {
            self.begin_arbitrated()?;
        }
        Ok(())
    }

    // ---- time, and what is looked at as it passes ----------------------------------------------------

    pub fn pass(&mut self, span: Time) -> Result<(), Violation> {
        let end = self.world.now + span;
        self.check()?;
        while self.world.next_at().is_some_and(|at| at <= end) {
            self.world.step();
            self.check()?;
        }
        self.world.now = end;
        Ok(())
    }

    /// Lets so many things happen, however long they take.
    pub fn steps(&mut self, count: u64) -> Result<(), Violation> {
        for _ in 0..count {
            if self.world.next_at().is_some() {
                self.world.step();
            }
            self.check()?;
        }
        Ok(())
    }

    /// Lets time pass until `done`; false when it does not come within `span`.
    pub fn wait(
        &mut self,
        span: Time,
        mut done: impl FnMut(&mut Run) -> bool,
    ) -> Result<bool, Violation> {
        let end = self.world.now + span;
        while self.world.now < end {
            if done(self) {
                return Ok(true);
            }
            self.pass(2 * MS)?;
        }
        Ok(done(self))
    }

    pub fn expect(
        &mut self,
        what: &str,
        done: impl FnMut(&mut Run) -> bool,
    ) -> Result<(), Violation> {
        match self.wait(60_000 * MS, done)? {
            true => Ok(()),
            false => Err(format!("never came to be: {what}; {}", self.describe())),
        }
    }

    pub fn describe(&self) -> String {
        let node = |n: usize| {
            self.world.status(n).map_or("down".to_owned(), |s| {
                let peer = &s.peers[0];
                let refusal = peer.refusal.as_ref().map(|refusal| &refusal.text);
                let arbitration = s.arbitration.map_or(String::new(), |s| {
                    let configuration = crate::witness::text(s.configuration.as_ref());
                    let (epoch, promised, want, why) = (s.epoch, s.promised, s.want, s.why);
                    format!(", epoch {epoch}/{promised} {configuration}, wants {want:?}, {why:?}")
                });
                format!(
                    "{:?} {:?} {} {} {refusal:?}{arbitration}",
                    s.role, s.disk, peer.connection, peer.replication
                )
            })
        };
        format!("a: {}; b: {}", node(0), node(1))
    }

    pub fn check(&mut self) -> Result<(), Violation> {
        self.check_verified()?;
        if self.is_arbitrated() {
            return self.check_arbitrated();
        }
        for n in std::mem::take(&mut self.world.failed_flushes) {
            // Whose disk the promises rest on: a Primary's own, or its stand-in's.
            let served =
                self.is_served() && self.world.replication(1 - self.primary) == "Established";
            if (n == self.primary) != served {
                self.oracle.flush_failed();
            }
        }
        let alone = self.is_diskless(self.primary) && !self.is_served();
        let stale = self.is_stale(self.primary);
        let fresh = !std::mem::replace(&mut self.written_off, stale) && stale;
        self.cold &= !self.is_in_sync();
        // Protocols A and B: what was acknowledged before the peer had it went with this disk. From then on they wait.
        let only_here = self.cold || self.world.settings.protocol != Protocol::C;
        self.dark &= self.is_served();
        if self.dark || fresh && only_here || alone && self.is_diskless(1 - self.primary) {
            self.oracle.only_flushed_counts();
        }
        for (n, id, result) in std::mem::take(&mut self.world.replies) {
            if !self.one_writer {
                self.apart_reply(id, result.is_ok());
                continue;
            }
            let data = result.as_ref().ok().and_then(|data| data.as_deref());
            let promise = self
                .oracle
                .replied(id, result.is_ok(), data)
                .map_err(|why| format!("I1: {} answered: {why}", NAMES[n]))?;
            self.check_promise(n, &promise)?;
        }
        if self.dark {
            self.oracle.only_flushed_counts();
        }
        for n in std::mem::take(&mut self.world.opened) {
            if !self.one_writer {
                continue;
            }
            if self.world.nodes[1 - n].exported {
                return Err("I3: two nodes serve, and nobody used force".into());
            }
            let disk = &self.world.nodes[n].data;
            let taken = self.oracle.takes_over(disk);
            taken.map_err(|why| format!("I1: {} begins to serve: {why}", NAMES[n]))?;
        }
        if std::mem::take(&mut self.world.changed) {
            if !self.one_writer {
                self.check_apart()?;
            }
            self.check_marks()?;
        }
        self.world.violation.take().map_or(Ok(()), Err)
    }

    /// I1: what was promised is where it must be, on every node that might be promoted.
    fn check_promise(&self, n: usize, promise: &Promise) -> Result<(), Violation> {
        let Promise::Written { pages, stable } = promise else {
            return Ok(());
        };
        let follows = self.is_in_sync() && (*stable || self.world.settings.protocol == Protocol::C);
        // A Primary without a disk promises what its peer has.
        let served = self.is_diskless(n);
        let dark = self.dark && !stable;
        let nodes = [
            (!served).then_some(n),
            (follows || served && !dark).then_some(1 - n),
        ];
        for node in nodes.into_iter().flatten() {
            let disk = &self.world.nodes[node].data;
            for (page, order) in pages {
                let stamp = if *stable {
                    disk.stable(*page)
                } else {
                    disk.current(*page)
                };
                if self
                    .oracle
                    .order_of(*page, stamp)
                    .is_none_or(|has| has < *order)
                {
                    return Err(format!(
                        "I1: {} promised write {order} of page {page}{}, but {} holds {stamp}",
                        NAMES[n],
                        if *stable { " to be stable" } else { "" },
                        NAMES[node],
                    ));
                }
            }
        }
        Ok(())
    }

    pub fn is_diskless(&self, n: usize) -> bool {
        (self.world.status(n)).is_some_and(|s| s.disk == DiskState::Diskless)
    }

    pub fn is_stale(&self, n: usize) -> bool {
        (self.world.status(n)).is_some_and(|s| s.disk <= DiskState::Inconsistent)
    }

    pub fn is_served(&self) -> bool {
        (self.world.status(self.primary)).is_some_and(|s| s.served_by.is_some())
    }

    /// I2: should both nodes die now, the next handshake finds every difference. I7: their metadata open.
    pub fn check_marks(&mut self) -> Result<(), Violation> {
        for n in 0..2 {
            self.world.durable(n);
        }
        if let Some(why) = self.world.violation.take() {
            return Err(why);
        }
        let [a, b] = &self.world.nodes;
        let (Some(first), Some(second)) = (a.durable_read(), b.durable_read()) else {
            return Ok(());
        };
        let (rule, prospect) = prospect(first, second);
        for page in self.oracle.used.iter().copied() {
            let differs = a.data.current(page) != b.data.current(page)
                || a.data.stable(page) != b.data.stable(page)
                || a.data.current(page) != b.data.stable(page)
                || a.data.stable(page) != b.data.current(page);
            if differs && !would_be_found(&prospect, first, second, page) {
                return Err(format!(
                    "I2: page {page} may differ (a {}, {} stable; b {}, {} stable), and by rule {rule} nothing says so",
                    a.data.current(page),
                    a.data.stable(page),
                    b.data.current(page),
                    b.data.stable(page),
                ));
            }
        }
        Ok(())
    }

    // ---- states --------------------------------------------------------------------------------------

    pub fn is_established(&mut self) -> bool {
        (0..2).all(|n| self.world.replication(n) == "Established")
    }

    /// The Secondary has all that was acknowledged: only then may a person promote it beside a dead Primary.
    pub fn is_in_sync(&self) -> bool {
        let (Some(a), Some(b)) = (self.world.status(0), self.world.status(1)) else {
            return false;
        };
        let good = |s: &CoreStatus| {
            let peer = &s.peers[0];
            let marked = peer.out_of_sync_bytes + peer.suspect_bytes > 0;
            s.disk == DiskState::UpToDate && peer.replication == "Established" && !marked
        };
        good(&a) && good(&b) && a.generation.current == b.generation.current
    }

    pub fn fail_storage(&mut self, who: Who, part: Part, errno: Errno, times: u32) {
        let n = self.node(who);
        self.ailing[n] = true;
        self.world.break_storage(n, part, errno, times);
    }

    pub fn node(&self, who: Who) -> usize {
        match who {
            Who::Primary => self.primary,
            Who::Secondary => 1 - self.primary,
        }
    }

    // ---- steps ---------------------------------------------------------------------------------------

    pub fn act(&mut self, op: Op) -> Result<(), Violation> {
        if self.is_arbitrated() {
            return self.act_arbitrated(op);
        }
        let primary = self.primary;
        match op {
            Op::Write { .. } | Op::Zero { .. } | Op::Read { .. } | Op::Flush => self.issue(op),
            Op::Cable(cable) => self.world.set_cable(cable),
            Op::Damage => self.world.corrupt_next = true,
            Op::Crash {
                who: Who::Secondary,
                power,
            } => {
                self.dark |= power && self.is_served();
                self.cold |= power;
                if power && self.is_stale(primary) {
                    // The only good copy: what it had not flushed is on no other.
                    self.oracle.only_flushed_counts();
                }
                self.world.crash(1 - primary, power);
            }
            Op::Crash { power, .. } => {
                self.primary_dies(power)?;
                self.pass(self.world.now % (4_000 * MS))?;
                self.world.start(primary, true);
            }
            Op::Failover {
                power,
                survivor_too,
                replaced,
            } => self.fail_over(power, survivor_too, replaced)?,
            Op::Disconnect { who } => self.connect(self.node(who), false),
            Op::Connect { who } => self.connect(self.node(who), true),
            Op::Restart => self.restart()?,
            Op::Switchover => self.switch_over()?,
            Op::Pause { who, ms } => self.world.pause(self.node(who), ms * MS),
            Op::Fail {
                who,
                part,
                errno,
                times,
            } => self.fail_storage(who, part, errno, times),
            Op::Replace => self.replace(),
            Op::Verify { who, first, count } => self.compare(self.node(who), first, count),
            Op::Heal => self.heal(),
            Op::Promote { .. }
            | Op::Demote { .. }
            | Op::StandStill { .. }
            | Op::Isolate { .. }
            | Op::Witness(_)
            | Op::Road { .. } => {}
        }
        self.check()
    }

    pub fn issue(&mut self, op: Op) {
        self.issue_at(self.primary, op);
    }

    pub fn issue_at(&mut self, n: usize, op: Op) {
        if !self.world.nodes[n].exported {
            return;
        }
        let newest = self.register.newest.as_ref();
        let doomed = newest.is_some_and(|newest| newest.primary != NAMES[n]);
        self.oracle.asks(n, doomed);
        let now = self.world.now;
        let bytes = |count: usize| (count as u64) * crate::disk::PAGE;
        let offset = |first: usize| bytes(first);
        match op {
            Op::Flush => {
                let promised = self.oracle.flushable();
                let id = self.world.request(n, RequestKind::Flush);
                self.oracle.flush_issued(id, promised);
            }
            Op::Read { first, count } => {
                let floors = self.oracle.floors(first, count);
                let (offset, len) = (offset(first), bytes(count) as u32);
                let id = self.world.request(n, RequestKind::Read { offset, len });
                self.oracle.read_issued(id, first, floors, now);
            }
            Op::Zero {
                first,
                count,
                fua,
                trim,
            } => {
                let (order, _) = self.oracle.issue_write(first, count, true);
                let (offset, len) = (offset(first), bytes(count));
                let kind = if trim {
                    RequestKind::Trim { offset, len, fua }
                } else {
                    RequestKind::WriteZeroes {
                        offset,
                        len,
                        fua,
                        unmap: false,
                    }
                };
                let id = self.world.request(n, kind);
                self.oracle.write_issued(id, order, first, count, fua);
            }
            Op::Write { first, count, fua } => {
                let (order, stamp) = self.oracle.issue_write(first, count, false);
                let payload = stamped(first, count, stamp);
                let offset = offset(first);
                let id = self.world.request(
                    n,
                    RequestKind::Write {
                        offset,
                        payload,
                        fua,
                    },
                );
                self.oracle.write_issued(id, order, first, count, fua);
            }
            _ => {}
        }
    }

    /// A person connects or disconnects at a node.
    pub fn connect(&mut self, n: usize, on: bool) {
        if self.world.is_up(n) {
            let what = if on { "connects" } else { "disconnects" };
            self.world.counts.add(what, 1);
            let command = if on {
                Command::Connect { peer: 0 }
            } else {
                Command::Disconnect { peer: 0 }
            };
            self.world.command(n, command);
        }
    }

    /// A connect that was carried out, and not taken back, leads to a connection once faults stop.
    fn check_connects(&mut self) -> Result<(), Violation> {
        self.world.mend();
        let wanted =
            |run: &Run, n: usize| run.world.nodes[n].wants_peer.1 && !run.world.needs_start(n);
        let refused = |run: &Run| {
            let status = (0..2).map(|n| run.world.status(n));
            status.flatten().any(|s| s.peers[0].refusal.is_some())
        };
        if !(0..2).all(|n| self.world.is_up(n) && wanted(self, n)) {
            return Ok(());
        }
        let connected = |run: &Run| {
            (0..2).all(|n| {
                let status = run.world.status(n);
                status.is_some_and(|s| s.peers[0].connection == "Connected")
            })
        };
        let end = |run: &mut Run| connected(run) || refused(run) || !(0..2).all(|n| wanted(run, n));
        if self.wait(60_000 * MS, end)? {
            return Ok(());
        }
        Err(format!(
            "L: both are told to connect, and do not: {}",
            self.describe()
        ))
    }

    fn primary_dies(&mut self, power: bool) -> Result<(), Violation> {
        self.check()?;
        self.world.crash(self.primary, power);
        self.check()?;
        self.oracle.forget_open();
        if power {
            self.oracle.only_flushed_counts();
        }
        Ok(())
    }

    /// The Primary dies while its peer stands in for its disk, or is about to; a person promotes that peer.
    pub fn lose_served_primary(&mut self, power: bool) -> Result<(), Violation> {
        let (old, survivor) = (self.primary, 1 - self.primary);
        self.check()?;
        if !self.is_served() {
            return self.fail_over(power, false, false);
        }
        let agreed = self.world.counts.get("Primaries without a disk") > 0;
        self.world
            .counts
            .add("failovers from a Primary without a disk", 1);
        self.world.crash(old, power);
        self.check()?;
        self.oracle.forget_open();
        self.expect("the survivor notices", |run| {
            run.world.replication(survivor) != "Established"
        })?;
        let answer = |run: &mut Run, force| {
            let id = run.world.command(survivor, Command::Promote { force });
            run.wait(20_000 * MS, |run| run.world.commands.contains_key(&id))?;
            Ok::<_, Violation>(matches!(run.world.commands.get(&id), Some(Ok(()))))
        };
        self.primary = survivor;
        if !answer(self, false)? {
            if agreed {
                return Err("the node that stood in may not go on without force".into());
            }
            if !answer(self, true)? {
                return Err("a survivor in step cannot be promoted".into());
            }
        }
        self.world.start(old, !power);
        Ok(())
    }

    fn fail_over(
        &mut self,
        power: bool,
        survivor_too: bool,
        replaced: bool,
    ) -> Result<(), Violation> {
        let (primary, survivor) = (self.primary, 1 - self.primary);
        self.check()?;
        if !self.world.nodes[primary].exported
            || !self.is_in_sync()
            || self.world.needs_start(survivor)
        {
            return Ok(());
        }
        self.world.counts.add("failovers", 1);
        self.world.crash(primary, power);
        self.check()?;
        self.oracle.forget_open();
        if survivor_too {
            // The whole room goes dark; only this one comes back.
            self.world.counts.add("double power cuts", 1);
            self.world.crash(survivor, true);
            self.world.start(survivor, false);
        }
        if survivor_too || self.world.settings.protocol == Protocol::A {
            self.oracle.only_flushed_counts();
        }
        self.expect("the survivor notices", |run| {
            run.world.replication(survivor) != "Established"
        })?;
        let spoilt = self
            .world
            .status(survivor)
            .is_none_or(|s| s.disk <= DiskState::Inconsistent);
        if spoilt || self.world.nodes[survivor].broken {
            // Its disk failed meanwhile: the person waits for the other one, and for what that had flushed.
            if power {
                self.oracle.only_flushed_counts();
            }
            self.world.start(primary, true);
            return Ok(());
        }
        self.primary = survivor;
        let command = self
            .world
            .command(survivor, Command::Promote { force: true });
        self.wait(20_000 * MS, |run| run.world.commands.contains_key(&command))?;
        if !matches!(self.world.commands.get(&command), Some(Ok(()))) {
            // Its metadata failed under it: mended, it is asked again. The old Primary stays away, because the
            // promotion may have become durable all the same.
            self.world.mend();
            self.world.crash(survivor, false);
            self.world.start(survivor, false);
            let again = self
                .world
                .command(survivor, Command::Promote { force: true });
            self.expect("a promotion of the mended survivor", |run| {
                matches!(run.world.commands.get(&again), Some(Ok(())))
            })?;
        }
        if replaced {
            self.ailing[primary] = true;
            self.world.replace(primary, &places());
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Violation> {
        let primary = self.primary;
        if !self.world.is_up(primary) {
            return Ok(());
        }
        self.world.counts.add("planned restarts", 1);
        let id = self.world.command(primary, Command::Stop);
        // On a slow cable its flush comes behind all that a resync has on its way.
        let stopped = self.wait(120_000 * MS, |run| run.world.commands.contains_key(&id))?;
        if !stopped {
            return Err(format!("a stop was never answered; {}", self.describe()));
        }
        self.check()?;
        self.world.crash(primary, false);
        self.oracle.forget_open();
        self.world.start(primary, true);
        Ok(())
    }

    fn switch_over(&mut self) -> Result<(), Violation> {
        let old = self.primary;
        if !self.world.nodes[old].exported || !self.is_in_sync() {
            return Ok(());
        }
        let answered = |world: &World, id: &CommandId| world.commands.get(id).map(Result::is_ok);
        self.warm_up(1 - old)?;
        let demote = self.world.command(old, Command::Demote);
        self.wait(20_000 * MS, |run| run.world.commands.contains_key(&demote))?;
        if answered(&self.world, &demote) == Some(true) {
            let promote = self
                .world
                .command(1 - old, Command::Promote { force: false });
            self.wait(20_000 * MS, |run| run.world.commands.contains_key(&promote))?;
            if answered(&self.world, &promote) == Some(true) {
                self.world.counts.add("switchovers", 1);
                self.primary = 1 - old;
            } else {
                self.world.command(old, Command::Promote { force: false });
            }
        }
        Ok(())
    }

    /// Now and then who hands over has the other node read ahead before.
    pub fn warm_up(&mut self, n: usize) -> Result<(), Violation> {
        if self.world.rng.chance(2) {
            let id = self.world.command(n, Command::WarmUp);
            self.wait(5_000 * MS, |run| run.world.commands.contains_key(&id))?;
        }
        Ok(())
    }

    fn replace(&mut self) {
        let (primary, other) = (self.primary, 1 - self.primary);
        let good = self
            .world
            .status(primary)
            .is_some_and(|s| s.disk == DiskState::UpToDate);
        if self.world.nodes[primary].exported && good {
            self.world.crash(other, false);
            self.ailing[other] = true;
            self.world.replace(other, &places());
            self.world.start(other, false);
        }
    }

    pub fn heal(&mut self) {
        self.world.mend();
        for n in 0..2 {
            if self.world.needs_start(n) {
                self.world.crash(n, false);
                if n == self.primary {
                    self.oracle.forget_open();
                }
            }
            if self.world.is_up(n) {
                self.world.command(n, Command::Connect { peer: 0 });
            } else {
                self.world.start(n, n == self.primary);
            }
        }
        let primary = self.primary;
        let idle = self.world.status(primary).is_some_and(|s| !s.resuming);
        if idle && !self.world.nodes[primary].exported {
            self.world
                .command(primary, Command::Promote { force: false });
        }
    }

    // ---- the end -------------------------------------------------------------------------------------

    /// Everything heals; both copies must become equal, and right.
    pub fn converge(&mut self) -> Result<(), Violation> {
        if self.is_arbitrated() {
            return self.converge_arbitrated();
        }
        self.world.note(|| "faults end".into());
        self.check_connects()?;
        self.pass(self.world.longest_pause())?;
        let mut together = false;
        for round in 0..40 {
            self.heal();
            self.pass(3_000 * MS)?;
            if round == 10 {
                self.force_without_a_good_copy()?;
            }
            if !self.is_established() || !self.world.nodes[self.primary].exported {
                continue;
            }
            let marked =
                |s: &CoreStatus| s.peers[0].suspect_bytes + s.peers[0].out_of_sync_bytes > 0;
            if (0..2).any(|n| self.world.status(n).as_ref().is_some_and(marked)) {
                // What a failed disk operation left behind is compared at the next handshake.
                let primary = self.primary;
                self.world.command(primary, Command::Disconnect { peer: 0 });
                self.pass(100 * MS)?;
                continue;
            }
            together = true;
            break;
        }
        if !together {
            return Err(format!(
                "the nodes do not come together again: {}",
                self.describe()
            ));
        }
        self.settle_down()
    }

    /// The two are one: every request is answered, both copies are equal, and right.
    pub fn settle_down(&mut self) -> Result<(), Violation> {
        self.verifies_end()?;
        for first in [1015, 1020, 1030] {
            self.issue(Op::Write {
                first,
                count: 3,
                fua: false,
            });
        }
        self.issue(Op::Flush);
        self.expect("every request has its answer", |run| !run.oracle.has_open())?;
        // At rest, the write-intent log empties itself.
        let primary = self.primary;
        self.expect("the write-intent log empties", |run| {
            run.world
                .status(primary)
                .is_some_and(|s| s.hot_extents == 0)
        })?;
        if !self.is_in_sync() {
            return Err(format!("the nodes fell apart again: {}", self.describe()));
        }
        let [a, b] = &self.world.nodes;
        if let Some(page) =
            (0..crate::disk::PAGES).find(|n| a.data.current(*n) != b.data.current(*n))
        {
            let (left, right) = (a.data.current(page), b.data.current(page));
            return Err(format!(
                "the copies differ, and nothing says so: page {page}: {left}, {right}"
            ));
        }
        self.oracle
            .check_disk(&a.data)
            .map_err(|why| format!("I1: in the end: {why}"))
    }

    /// Both disks have failed, and neither node takes its own for the good copy: a person says which one has to do, and
    /// what it holds is what there is.
    pub fn force_without_a_good_copy(&mut self) -> Result<(), Violation> {
        let states = [0, 1].map(|n| self.world.status(n));
        let stuck = |s: &Option<CoreStatus>| {
            s.as_ref().is_some_and(|s| {
                s.disk == DiskState::Inconsistent && s.peers[0].rule == Some("no-good-copy")
            })
        };
        if self.ailing != [true; 2] || !states.iter().all(stuck) {
            return Ok(());
        }
        let is_new = |s: &Option<CoreStatus>| {
            s.as_ref()
                .is_none_or(|s| s.generation.current.ends_with("0000000000000000"))
        };
        if is_new(&states[self.primary]) {
            self.primary = 1 - self.primary;
        }
        let n = self.primary;
        self.world.counts.add("copies declared good by force", 1);
        self.oracle.declare(&self.world.nodes[n].data);
        let command = self.world.command(n, Command::Promote { force: true });
        self.expect("a promotion by force", |run| {
            matches!(run.world.commands.get(&command), Some(Ok(())))
        })
    }

    /// A person takes the isolated Primary for dead. It never wrote again, so that nothing has split.
    pub fn take_over_beside_an_idle_primary(&mut self) -> Result<(), Violation> {
        let other = 1 - self.primary;
        self.one_writer = false;
        self.world.command(other, Command::Promote { force: true });
        self.expect("a second Primary", |run| run.world.nodes[other].exported)?;
        self.one_writer = true;
        self.primary = other;
        Ok(())
    }
}
