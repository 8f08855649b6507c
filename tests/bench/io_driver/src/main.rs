//! Measures I/O drivers for a replicated 4 KiB write loop: a client on a Unix socket, a primary that writes
//! locally and forwards over loopback TCP, a secondary that writes and acknowledges, a reply when both have.
//!
//! Run: `cargo run --release --manifest-path tests/bench/io_driver/Cargo.toml -- all [SECONDS [ROUNDS [NAME...]]]`
//! (3 s, 3 rounds, every contender by default). It needs 2 GiB, half of it in /dev/shm and half in /tmp.

mod bench;
mod completion;
mod contender;
mod disk;
mod epoll;
mod load;
mod proto;
mod uring;

use std::error::Error;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use bench::Plan;
use contender::{Backing, Contender};

const USAGE: &str = "usage: io-driver-bench all [SECONDS [ROUNDS [NAME...]]]";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["all", ref options @ ..] => {
            let seconds: f64 = options.first().unwrap_or(&"3").parse()?;
            let plan = Plan {
                length: Duration::try_from_secs_f64(seconds)?,
                rounds: options.get(1).unwrap_or(&"3").parse::<usize>()?.max(1),
                patience: Duration::from_secs(100),
                only: options.iter().skip(2).map(|name| name.to_string()).collect(),
            };
            Ok(bench::all(&plan)?)
        }
        // The node processes `all` starts: upstream is standard input, downstream standard output.
        [role @ ("primary" | "secondary"), name, backing, path] => {
            let contender = Contender::named(name).ok_or(USAGE)?;
            let backing = [Backing::Tmpfs, Backing::Disk]
                .into_iter()
                .find(|known| format!("{known:?}") == backing)
                .ok_or(USAGE)?;
            let up = std::io::stdin().as_fd().try_clone_to_owned()?;
            let down = match role {
                "primary" => Some(std::io::stdout().as_fd().try_clone_to_owned()?),
                _ => None,
            };
            Ok(contender.serve(backing, Path::new(path), up, down)?)
        }
        _ => Err(USAGE.into()),
    }
}
