//! The command line.

use crate::faults::Planted;

pub enum Mode {
    Seeds,
    /// One seed; `keep`: only these steps of its plan.
    Replay {
        seed: u64,
        keep: Option<Vec<usize>>,
    },
    Mutants,
    /// One of them, or their names.
    Scenarios {
        name: Option<String>,
    },
}

pub struct Options {
    pub mode: Mode,
    pub seeds: u64,
    pub from: u64,
    pub jobs: usize,
    /// Only seeds that an arbiter decides, or only the others.
    pub arbitrated: Option<bool>,
    /// Goes on after a seed that fails, and names each.
    pub go_on: bool,
    pub trace: bool,
    pub json: bool,
    /// A fault to run with: for tests of the simulator itself.
    pub fault: Option<Planted>,
}

impl Options {
    /// # Errors
    /// What is wrong with which argument.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            mode: Mode::Seeds,
            seeds: 2_000,
            from: 1,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            arbitrated: None,
            go_on: false,
            trace: false,
            json: false,
            fault: None,
        };
        let (mut seed, mut keep) = (None, None);
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{name} wants a value"));
            let number = |text: String| {
                text.parse::<u64>()
                    .map_err(|_| format!("{name} {text}: not a number"))
            };
            match name.as_str() {
                "--seeds" => options.seeds = number(value()?)?,
                "--from" => options.from = number(value()?)?,
                "--jobs" => options.jobs = number(value()?)?.clamp(1, 256) as usize,
                "--seed" => seed = Some(number(value()?)?),
                "--keep" => keep = Some(parse_steps(&value()?)?),
                "--plant" => {
                    let name = value()?;
                    let known = Planted::all().find(|fault| format!("{fault:?}") == name);
                    options.fault = Some(known.ok_or(format!("--plant {name}: no such fault"))?);
                }
                "--arbitrated" => options.arbitrated = Some(true),
                "--manual" => options.arbitrated = Some(false),
                "--go-on" => options.go_on = true,
                "--trace" => options.trace = true,
                "--json" => options.json = true,
                "--scenarios" => options.mode = Mode::Scenarios { name: None },
                "--scenario" => {
                    options.mode = Mode::Scenarios {
                        name: Some(value()?),
                    }
                }
                "--mutants" => options.mode = Mode::Mutants,
                _ => return Err(format!("unknown argument {name}")),
            }
        }
        match (seed, keep) {
            (Some(seed), keep) => options.mode = Mode::Replay { seed, keep },
            (None, Some(_)) => return Err("--keep wants --seed".into()),
            (None, None) => {}
        }
        Ok(options)
    }
}

/// `3,7-9`, or `none`.
fn parse_steps(text: &str) -> Result<Vec<usize>, String> {
    let mut steps = Vec::new();
    for part in text.split(',').filter(|part| *part != "none") {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) if last < 1 << 20 => steps.extend(first..=last),
            _ => {
                return Err(format!(
                    "--keep {text}: wants numbers and ranges, like 3,7-9"
                ))
            }
        }
    }
    Ok(steps)
}

/// The opposite of reading them.
pub fn steps_text(steps: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for step in steps {
        match parts.last_mut().filter(|(_, last)| last + 1 == *step) {
            Some((_, last)) => *last = *step,
            None => parts.push((*step, *step)),
        }
    }
    let texts: Vec<String> = parts
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    if texts.is_empty() {
        "none".into()
    } else {
        texts.join(",")
    }
}
