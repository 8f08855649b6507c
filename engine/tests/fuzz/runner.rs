//! Runs a target: its corpus as it is, then mutations of it.

use std::collections::HashSet;
use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::memory;
use super::mutate::{mutate, Rng};

/// A parser and what is known of its input.
pub struct Target {
    pub name: &'static str,
    /// What the corpus is made of, by file name.
    pub corpus: fn() -> Vec<(String, Vec<u8>)>,
    /// Strings and magics of the format.
    pub words: &'static [&'static [u8]],
    /// Mends checksums and lengths, so that what lies behind them is reached.
    pub mend: fn(Vec<u8>, &mut Rng) -> Vec<u8>,
    /// Parses, and says what is wrong with how that went; else what kind of outcome it was: an input with a new
    /// kind is kept to go on from.
    pub check: fn(&[u8]) -> Result<String, String>,
    /// Most memory that checking an input may take, in bytes.
    pub memory: fn(&[u8]) -> usize,
    /// Inputs in a run of `cargo test`.
    pub runs: u64,
}

/// Inputs that are kept to go on from.
const POOL_MAX: usize = 4096;

struct Options {
    runs: u64,
    until: Option<Duration>,
    seed: u64,
    replay: Option<PathBuf>,
    write_corpus: bool,
}

impl Options {
    fn from_environment(target: &Target) -> Options {
        let text = |name: &str| std::env::var(format!("BLOCKPAIR_FUZZ_{name}")).ok();
        let number = |name: &str| {
            text(name).map(|value| {
                value
                    .parse()
                    .unwrap_or_else(|_| panic!("{name}={value} is no number"))
            })
        };
        let until = number("SECONDS").map(Duration::from_secs);
        Options {
            runs: number("RUNS").unwrap_or(if until.is_some() { u64::MAX } else { target.runs }),
            until,
            seed: number("SEED").unwrap_or(1),
            replay: text("REPLAY").map(PathBuf::from),
            write_corpus: text("CORPUS").as_deref() == Some("write"),
        }
    }
}

/// Runs `target` as the environment says; see `scripts/fuzz`.
///
/// # Panics
/// When an input shows a fault.
pub fn run(target: &Target) {
    let options = Options::from_environment(target);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the engine is in the checkout");
    let folder = root.join("tests/fuzz/corpus").join(target.name);
    if options.write_corpus {
        return write_corpus(target, &folder);
    }
    if let Some(file) = &options.replay {
        let input = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        match judge(target, &input) {
            Ok(outcome) => eprintln!("{}: fine: {outcome}", file.display()),
            Err(fault) => panic!("{}: {fault}", file.display()),
        }
        return;
    }
    let mut pool = read_corpus(target, &folder);
    let mut seen = HashSet::new();
    for (name, input) in &pool {
        match judge(target, input) {
            Ok(outcome) => seen.insert(outcome),
            Err(fault) => panic!("{}: {fault}", folder.join(name).display()),
        };
    }
    let began = Instant::now();
    let (mut done, corpus) = (0, pool.len());
    while done < options.runs && options.until.is_none_or(|until| began.elapsed() < until) {
        let mut rng = Rng::new(options.seed, done);
        let (parent, other) = (rng.below(pool.len()), rng.below(pool.len()));
        let mut input = mutate(&mut rng, &pool[parent].1, &pool[other].1, target.words);
        if !rng.one_in(8) {
            input = (target.mend)(input, &mut rng);
        }
        match judge(target, &input) {
            Ok(outcome) => {
                if pool.len() < corpus + POOL_MAX && seen.insert(outcome) {
                    pool.push((String::new(), input));
                }
            }
            Err(fault) => fail(root, target, options.seed, done, &input, &fault),
        }
        done += 1;
    }
    eprintln!(
        "{}: {done} inputs from {corpus} files, {} kinds of outcome, {:.1} s",
        target.name,
        seen.len(),
        began.elapsed().as_secs_f64()
    );
}

/// Checks one input: no panic, nothing wrong, no more memory than it may take.
fn judge(target: &Target, input: &[u8]) -> Result<String, String> {
    let (result, peak) = memory::measure(|| catch_unwind(AssertUnwindSafe(|| (target.check)(input))));
    let outcome = result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("it panicked: {}", text.unwrap_or("no text"))
    })??;
    let allowed = (target.memory)(input);
    if peak > allowed {
        return Err(format!(
            "{} bytes of input took {peak} bytes of memory; {allowed} are allowed",
            input.len()
        ));
    }
    Ok(outcome)
}

fn fail(root: &Path, target: &Target, seed: u64, run: u64, input: &[u8], fault: &str) -> ! {
    let input = shorten(target, input.to_vec());
    let folder = root.join("engine/target/fuzz");
    let file = folder.join(format!("{}-{seed}-{run}", target.name));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, &input))
        .expect("the failing input is written");
    panic!(
        "{fault}\n  input: {} ({} bytes; seed {seed}, run {run})\n  replay: scripts/fuzz {} --replay {}\n  \
         when it is mended, keep the file in tests/fuzz/corpus/{}/",
        file.display(),
        input.len(),
        target.name,
        file.display(),
        target.name
    );
}

/// Leaves out what the failure does not need, within a bounded number of attempts.
fn shorten(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut piece = input.len() / 2;
    let mut attempts = 2000;
    while piece > 0 {
        let mut at = 0;
        while at < input.len() && attempts > 0 {
            attempts -= 1;
            let mut shorter = input.clone();
            shorter.drain(at..(at + piece).min(input.len()));
            let mended = (target.mend)(shorter.clone(), &mut Rng::new(0, 0));
            if let Some(failing) = [shorter, mended]
                .into_iter()
                .find(|input| judge(target, input).is_err())
            {
                if failing.len() < input.len() {
                    input = failing;
                    continue;
                }
            }
            at += piece;
        }
        piece /= 2;
    }
    input
}

fn read_corpus(target: &Target, folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut corpus: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("the corpus can be listed").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("the corpus can be read"))
        })
        .collect();
    // Beside what is kept, what the present code writes: a new kind of message is fuzzed at once.
    corpus.extend((target.corpus)());
    corpus.sort();
    corpus.dedup_by(|a, b| a.1 == b.1);
    corpus
}

fn write_corpus(target: &Target, folder: &Path) {
    fs::create_dir_all(folder).expect("the corpus' folder is made");
    let files = (target.corpus)();
    for (name, input) in &files {
        fs::write(folder.join(name), input).expect("the corpus is written");
    }
    eprintln!("{}: {} files in {}", target.name, files.len(), folder.display());
}
