//! A random walk of two real cores and the arbiter's register: messages lost and delayed, answers late or never, crashes,
//! power cuts, pauses, clocks that run wrong, commands, a register that forgets. One seed is one walk.
//!
//! After every event: what was acknowledged is on every node that the register has in sync (I1), only such a node is made
//! Primary (I4), no read is older than what was acknowledged before it, and without `--force` nothing ever splits (I3). In the
//! end everything heals. With the feature `faults` each rule is switched off once, and has to be missed.

#[path = "../cluster/disk.rs"]
mod disk;
mod oracle;
#[path = "../../../tests/sim/rng.rs"]
mod rng;
mod walk;
#[allow(dead_code)]
#[path = "../cluster/world.rs"]
mod world;

use walk::{walk, Kind, Walked};

const KINDS: [Kind; 5] = [
    Kind::Kills,
    Kind::Power,
    Kind::Forgets,
    Kind::Forces,
    Kind::ByHand,
];

fn add(total: &mut Walked, more: Walked) {
    total.acknowledged += more.acknowledged;
    total.reads += more.reads;
    for (rule, count) in more.rules {
        *total.rules.entry(rule).or_default() += count;
    }
}

#[test]
fn no_walk_loses_what_was_acknowledged() {
    let seeds: u64 = std::env::var("WALKS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(300);
    let first: u64 = std::env::var("WALK")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let mut total = Walked::default();
    for seed in first..first + seeds {
        let kind = KINDS[seed as usize % KINDS.len()];
        match walk(seed, kind) {
            Ok(walked) => add(&mut total, walked),
            Err(why) => panic!("seed {seed}, {kind:?}: {why}\nagain: WALK={seed} WALKS=1"),
        }
    }
    println!("{total:?}");
    if seeds >= 300 {
        for rule in [
            "shrink", "promote", "grow", "handover", "resume", "renew", "reseed", "force",
        ] {
            let seen = total.rules.get(rule).copied().unwrap_or_default();
            assert!(seen >= 1, "{rule} happened {seen} times only: {total:?}");
        }
        assert!(total.acknowledged > 1_000 && total.reads > 1_000, "{total:?}");
    }
}

#[cfg(feature = "faults")]
#[test]
fn each_rule_that_is_switched_off_is_missed() {
    use _engine::core::fault::{plant, Fault};

    const WALKS: u64 = 3_000;
    let here = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| {
        // What a planted fault makes panic is found, and nothing to tell.
        if std::thread::current().id() != here {
            eprintln!("{panic}");
        }
    }));
    let mut unfound = Vec::new();
    for fault in Fault::ARBITRATION {
        plant(Some(fault));
        let found = (1..=WALKS).find_map(|seed| {
            let kind = KINDS[seed as usize % KINDS.len()];
            match std::panic::catch_unwind(|| walk(seed, kind)) {
                Ok(Ok(_)) => None,
                Ok(Err(why)) => Some((seed, why)),
                Err(_) => Some((seed, "an assertion of the core".into())),
            }
        });
        plant(None);
        match found {
            Some((seed, why)) => println!("{fault:?}: seed {seed}: {why}"),
            None => unfound.push(fault),
        }
    }
    let _ = std::panic::take_hook();
    assert!(unfound.is_empty(), "not found in {WALKS} walks: {unfound:?}");
}
