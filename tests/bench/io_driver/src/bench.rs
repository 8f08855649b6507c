//! Runs the matrix: contenders interleaved within each round, a process a node, medians over rounds.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{clock_getcpuclockid, ClockId};
use nix::unistd::Pid;

use crate::contender::{Backing, Contender, CONTENDERS};
use crate::load::{Load, Sample};
use crate::proto::BLOCK;

const BLOCKS: usize = (512 << 20) / BLOCK;
const WARM_UP: Duration = Duration::from_millis(300);
const DEPTHS: [usize; 2] = [1, 32];
/// Processor use of others, in cores, below which the machine counts as quiet.
const QUIET_CORES: f64 = 0.15;

pub struct Plan {
    pub length: Duration,
    pub rounds: usize,
    /// How long, over the whole plan, to wait for the machine to be quiet.
    pub patience: Duration,
    /// Runs only the contenders named here; all if empty.
    pub only: Vec<String>,
}

/// One run's numbers; processor use in cores, `other` being all of the machine's but the three processes'.
#[derive(Clone, Copy)]
struct Run {
    load: Sample,
    primary: f64,
    secondary: f64,
    other: f64,
}

/// The two nodes' backing files, removed when dropped.
struct Files {
    dirs: [PathBuf; 2],
}

impl Files {
    fn create() -> io::Result<Self> {
        let own = format!("io-driver-bench-{}", std::process::id());
        let files = Self {
            dirs: [Path::new("/dev/shm").join(&own), Path::new("/tmp").join(&own)],
        };
        let zeroes = vec![0u8; 1 << 20];
        for backing in [Backing::Tmpfs, Backing::Disk] {
            for path in files.pair(backing) {
                fs::create_dir_all(path.parent().expect("a backing file is in its folder"))?;
                let mut file = File::create(&path)?;
                // Written in full, so that no run allocates or converts extents.
                for _ in 0..BLOCKS * BLOCK / zeroes.len() {
                    file.write_all(&zeroes)?;
                }
                file.sync_all()?;
            }
        }
        Ok(files)
    }

    fn pair(&self, backing: Backing) -> [PathBuf; 2] {
        let dir = &self.dirs[backing as usize];
        [dir.join("primary"), dir.join("secondary")]
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for dir in &self.dirs {
            if let Err(error) = fs::remove_dir_all(dir) {
                eprintln!("{} is left behind: {error}", dir.display());
            }
        }
    }
}

/// A node process; ended when dropped.
struct NodeProcess(Child);

impl NodeProcess {
    fn spawn(
        contender: &Contender,
        backing: Backing,
        path: &Path,
        up: OwnedFd,
        down: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let role = if down.is_some() { "primary" } else { "secondary" };
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(role)
            .arg(contender.name)
            .arg(format!("{backing:?}"))
            .arg(path)
            .stdin(Stdio::from(up));
        if let Some(down) = down {
            command.stdout(Stdio::from(down));
        }
        Ok(Self(command.spawn()?))
    }

    /// Processor time used by all the process's threads, the kernel's io_uring workers among them.
    fn cpu(&self) -> io::Result<Duration> {
        Ok(clock_getcpuclockid(Pid::from_raw(self.0.id() as i32))?
            .now()?
            .into())
    }

    fn finish(mut self) -> io::Result<()> {
        let status = self.0.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("a node ended with {status}")));
        }
        Ok(())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Fails only if it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time the whole machine has used, steal included.
fn machine_cpu() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user's already.
    let busy: u64 = ticks.iter().take(8).sum::<u64>() - ticks[3] - ticks[4];
    Ok(Duration::from_millis(busy * 10))
}

/// Waits until the machine is quiet, at most `patience`; returns how long it took.
fn wait_for_quiet(patience: Duration) -> io::Result<Duration> {
    let window = Duration::from_millis(300);
    let start = Instant::now();
    while start.elapsed() < patience.min(Duration::from_secs(6)) {
        let before = machine_cpu()?;
        thread::sleep(window);
        if (machine_cpu()? - before).as_secs_f64() / window.as_secs_f64() < QUIET_CORES {
            break;
        }
    }
    Ok(start.elapsed())
}

fn measure(
    contender: &Contender,
    backing: Backing,
    depth: usize,
    files: &Files,
    length: Duration,
) -> io::Result<Run> {
    let (client, up) = UnixStream::pair()?;
    // A node that hangs fails the run instead of stopping it.
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let down = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    down.set_nodelay(true)?;
    peer.set_nodelay(true)?;
    let [primary_path, secondary_path] = files.pair(backing);
    let secondary = NodeProcess::spawn(contender, backing, &secondary_path, peer.into(), None)?;
    let primary = NodeProcess::spawn(contender, backing, &primary_path, up.into(), Some(down.into()))?;
    let mut load = Load::new(client, depth, BLOCKS);
    load.run(WARM_UP)?;
    let own = || -> io::Result<Duration> { Ok(ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?.into()) };
    let before = [primary.cpu()?, secondary.cpu()?, own()?, machine_cpu()?];
    let start = Instant::now();
    let sample = load.run(length)?;
    let seconds = start.elapsed().as_secs_f64();
    let after = [primary.cpu()?, secondary.cpu()?, own()?, machine_cpu()?];
    let cores = |index: usize| (after[index] - before[index]).as_secs_f64() / seconds;
    for path in [&primary_path, &secondary_path] {
        load.verify(&File::open(path)?)?;
    }
    // Closing the client's socket ends the primary, and that the secondary.
    drop(load);
    primary.finish()?;
    secondary.finish()?;
    let ours = cores(0) + cores(1) + cores(2);
    Ok(Run {
        load: sample,
        primary: cores(0),
        secondary: cores(1),
        other: (cores(3) - ours).max(0.0),
    })
}

/// Measures the plan's matrix and prints a table of medians, with the spread of IOPS.
pub fn all(plan: &Plan) -> io::Result<()> {
    let files = Files::create()?;
    let mut cells = Vec::new();
    for backing in [Backing::Tmpfs, Backing::Disk] {
        for depth in DEPTHS {
            for contender in CONTENDERS {
                if contender.runs_on(backing)
                    && (plan.only.is_empty() || plan.only.iter().any(|name| name == contender.name))
                {
                    cells.push((backing, depth, contender, Vec::new()));
                }
            }
        }
    }
    let mut patience = plan.patience;
    for round in 1..=plan.rounds {
        for (backing, depth, contender, runs) in &mut cells {
            patience = patience.saturating_sub(wait_for_quiet(patience)?);
            let run = measure(contender, *backing, *depth, &files, plan.length).map_err(|error| {
                io::Error::other(format!(
                    "{} on {backing:?} at depth {depth}: {error}",
                    contender.name
                ))
            })?;
            eprintln!(
                "round {round} {backing:?} {depth} {}: {:.0} IOPS, others {:.2} cores",
                contender.name, run.load.iops, run.other
            );
            runs.push(run);
        }
    }
    println!("| backing | depth | contender | IOPS | min..max | p50 µs | p99 µs | primary cores | secondary cores | other cores |");
    println!("|---|--:|---|--:|--:|--:|--:|--:|--:|--:|");
    for (backing, depth, contender, runs) in &cells {
        let sorted = |of: fn(&Run) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(of).collect();
            values.sort_unstable_by(f64::total_cmp);
            values
        };
        let median = |of: fn(&Run) -> f64| sorted(of)[runs.len() / 2];
        let iops = sorted(|run| run.load.iops);
        println!(
            "| {backing:?} | {depth} | {} | {:.0} | {:.0}..{:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} |",
            contender.name,
            median(|run| run.load.iops),
            iops[0],
            iops[iops.len() - 1],
            median(|run| run.load.p50_us),
            median(|run| run.load.p99_us),
            median(|run| run.primary),
            median(|run| run.secondary),
            median(|run| run.other),
        );
    }
    Ok(())
}
