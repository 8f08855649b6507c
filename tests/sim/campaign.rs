//! Many seeds on several threads; one again; every planted fault.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use crate::coverage::Counts;
use crate::faults::{plant, Planted};
use crate::options::{steps_text, Options};
use crate::plan::Plan;
use crate::run::run;
use crate::scenarios;
use crate::shrink::shrink;

/// What many seeds came to.
struct Tally {
    counts: Counts,
    /// The first seed that failed, and how.
    failure: Option<(u64, String)>,
    ran: u64,
}

/// Runs seeds until all are done or one fails; `fault`: with this planted.
fn campaign(options: &Options, fault: Option<Planted>) -> Tally {
    let next = AtomicU64::new(options.from);
    let stop = AtomicBool::new(false);
    let tally = Mutex::new(Tally {
        counts: Counts::default(),
        failure: None,
        ran: 0,
    });
    let end = options.from + options.seeds;
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                plant(fault);
                let mut counts = Counts::default();
                let mut ran = 0;
                let mut failure = None;
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let plan = Plan::new(seed);
                    let is_arbitrated = plan.arbitrated.is_some();
                    if options.arbitrated.is_some_and(|only| only != is_arbitrated) {
                        continue;
                    }
                    counts.add("arbitrated runs", u64::from(is_arbitrated));
                    let outcome = run(&plan, false);
                    counts.merge(&outcome.counts);
                    ran += 1;
                    if let Some(why) = outcome.violation {
                        if options.go_on {
                            println!("seed {seed}: {why}");
                            continue;
                        }
                        failure = Some((seed, why));
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                if let Ok(mut tally) = tally.lock() {
                    tally.counts.merge(&counts);
                    tally.ran += ran;
                    let earlier = tally.failure.as_ref().map_or(u64::MAX, |(seed, _)| *seed);
                    if failure.as_ref().is_some_and(|(seed, _)| *seed < earlier) {
                        tally.failure = failure;
                    }
                }
            });
        }
    });
    tally
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Returns whether nothing was violated.
pub fn seeds(options: &Options) -> bool {
    let began = Instant::now();
    let tally = campaign(options, options.fault);
    let seconds = began.elapsed().as_secs_f64();
    if options.json {
        let failure = tally.failure.as_ref();
        let summary = serde_json::json!({
            "seeds": tally.ran,
            "from": options.from,
            "seconds": seconds,
            "counts": tally.counts,
            "failed_seed": failure.map(|(seed, _)| seed),
            "violation": failure.map(|(_, why)| why),
        });
        println!("{summary}");
    } else {
        println!("{}", tally.counts.text());
        let rate = tally.ran as f64 / seconds;
        println!("{} seeds in {seconds:.1} s ({rate:.0} a second)", tally.ran);
    }
    match tally.failure {
        None => {
            eprintln!("sim: no violation");
            true
        }
        Some((seed, why)) => {
            eprintln!("sim: seed {seed}: {why}");
            explain(seed, &why, options.fault);
            false
        }
    }
}

/// Shrinks a failing seed and shows the short run.
fn explain(seed: u64, why: &str, fault: Option<Planted>) {
    plant(fault);
    let plan = Plan::new(seed);
    let short = shrink(&plan, why);
    let outcome = run(&short, true);
    let kept: Vec<usize> = short.steps.iter().map(|step| step.number).collect();
    eprintln!(
        "sim: {} of {} steps are enough:",
        kept.len(),
        plan.steps.len()
    );
    for line in outcome.trace.iter().rev().take(120).rev() {
        eprintln!("{line}");
    }
    eprintln!("violated: {}", outcome.violation.unwrap_or_default());
    let planted = fault.map_or(String::new(), |fault| format!("--plant {fault:?} "));
    eprintln!("replay all of it:   ./scripts/sim {planted}--seed {seed} --trace");
    eprintln!(
        "replay what counts: ./scripts/sim {planted}--seed {seed} --keep {} --trace",
        steps_text(&kept)
    );
}

/// Returns whether nothing was violated.
pub fn replay(options: &Options, seed: u64, keep: Option<&[usize]>) -> bool {
    plant(options.fault);
    let traced = options.trace;
    let mut plan = Plan::new(seed);
    if let Some(keep) = keep {
        plan.steps.retain(|step| keep.contains(&step.number));
    }
    if traced {
        println!(
            "protocol {:?}, blocks of {} bytes, split brain policy {}",
            plan.protocol,
            plan.block_size,
            plan.policy.name()
        );
        if let Some(arbitrated) = plan.arbitrated {
            println!("{arbitrated:?}");
        }
        if let Some(step) = plan.split {
            println!("the data split before step {step}, or at the end");
        }
        for step in &plan.steps {
            println!(
                "step {:>3}: {:?}, then {} us",
                step.number, step.op, step.pause_us
            );
        }
    }
    let outcome = run(&plan, traced);
    for line in outcome.trace {
        println!("{line}");
    }
    match outcome.violation {
        None => println!("seed {seed}: no violation"),
        Some(why) => {
            println!("seed {seed}: {why}");
            return false;
        }
    }
    true
}

/// Plants every fault in turn; returns whether each was found.
pub fn mutants(options: &Options) -> bool {
    let mut survivors = Vec::new();
    for fault in Planted::all() {
        let began = Instant::now();
        let tally = campaign(options, Some(fault));
        let seconds = began.elapsed().as_secs_f64();
        match tally.failure {
            Some((seed, why)) => {
                println!("{fault:?}: found by seed {seed} ({seconds:.1} s): {why}")
            }
            None => {
                println!("{fault:?}: SURVIVED {} seeds ({seconds:.1} s)", tally.ran);
                survivors.push(format!("{fault:?}"));
            }
        }
    }
    if !survivors.is_empty() {
        eprintln!("sim: not found: {}", survivors.join(", "));
    }
    survivors.is_empty()
}

/// Plays one scenario, or lists all; returns whether it went well.
pub fn scenarios(name: Option<&str>) -> bool {
    let Some(name) = name else {
        for scenario in scenarios::all() {
            println!("{}", scenario.name);
        }
        return true;
    };
    let Some(scenario) = scenarios::all().find(|scenario| scenario.name == name) else {
        eprintln!("sim: no scenario {name}; --scenarios lists them");
        return false;
    };
    let result = scenario.play();
    match &result {
        Ok(()) => println!("{name}: as it must be"),
        Err(why) => eprintln!("sim: {why}"),
    }
    result.is_ok()
}
