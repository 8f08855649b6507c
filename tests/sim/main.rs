//! The simulator: two real replica cores and a witness on virtual clocks, network and disks, driven by a seed.
//!
//! No file, no socket, no thread below a run: the same seed does the same again. `plan` makes what a seed does,
//! `run` does it, `world`, `network` and `disk` are what it is done to, `oracle` and `durable` know what must hold,
//! `resolution` and `bundles` are about split brains and their end, `verify` about comparing the copies,
//! `witness`, `runner` and `arbitrated` about who may write,
//! `campaign` runs many seeds, `shrink` makes a failing one short.

mod arbitrated;
mod arbitration_scenarios;
mod bundles;
mod campaign;
mod clock;
mod coverage;
mod disk;
mod durable;
mod faults;
mod network;
mod options;
mod oracle;
mod panics;
mod plan;
mod resolution;
mod rng;
mod run;
mod runner;
mod scenarios;
mod shrink;
mod verify;
mod witness;
mod world;

use std::process::ExitCode;

use options::{Mode, Options};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("sim: {why} (see scripts/sim --help)");
            return ExitCode::from(2);
        }
    };
    panics::catch_all();
    let well = match &options.mode {
        Mode::Seeds => campaign::seeds(&options),
        Mode::Replay { seed, keep } => campaign::replay(&options, *seed, keep.as_deref()),
        Mode::Scenarios { name } => campaign::scenarios(name.as_deref()),
        Mode::Mutants => campaign::mutants(&options),
    };
    ExitCode::from(u8::from(!well))
}
