"""The program of ``scripts/fuzz``: every target, of the engine and of the Python side, by one command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from tests.fuzz.runner import ROOT, FuzzFailure, judge, run
from tests.fuzz.targets import TARGETS, corpus_folder

# The tests of engine/tests/fuzz.
ENGINE = ("wire", "nbd", "superblock", "bitmap", "bundle")
# Inputs when neither a count nor a time is given: some ten seconds a target.
RUNS = 20_000
ENGINE_RUNS = 1_000_000


def engine(targets: list[str], environment: dict[str, str]) -> bool:
    """Run targets of the engine; whether all went well."""
    cargo = ["cargo", "test", "--quiet", "--manifest-path", str(ROOT / "engine/Cargo.toml"), "--locked"]
    # A failing input is told by its fault; the panic's stack says nothing more.
    variables = {**os.environ, "RUST_BACKTRACE": "0"}
    variables |= {f"BLOCKPAIR_FUZZ_{name}": value for name, value in environment.items()}
    command = [*cargo, "--test", "fuzz", "--", "--exact", "--nocapture", *targets]
    return subprocess.run(command, env=variables, check=False).returncode == 0


def python(targets: list[str], runs: int | None, seconds: float | None, seed: int) -> bool:
    """Run targets of the Python side; whether all went well."""
    fine = True
    for name in targets:
        try:
            done = run(TARGETS[name], runs=runs, seconds=seconds, seed=seed)
        except FuzzFailure as failure:
            click.echo(str(failure), err=True)
            fine = False
        else:
            click.echo(
                f"{name}: {done.inputs} inputs, {done.kinds} kinds of outcome, {done.seconds:.1f} s", err=True
            )
    return fine


def write_corpus(targets: list[str]) -> None:
    """Write what the corpus is made of, for targets of the Python side."""
    for name in targets:
        corpus_folder(name).mkdir(parents=True, exist_ok=True)
        for file, data in TARGETS[name].corpus().items():
            (corpus_folder(name) / file).write_bytes(data)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("target", required=False, type=click.Choice([*ENGINE, *TARGETS]))
@click.option("--runs", type=click.IntRange(1), help="Inputs a target.")
@click.option("--seconds", type=click.IntRange(1), help="Time a target, instead of --runs.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=1,
    show_default=True,
    help="Another seed, other inputs.",
)
@click.option(
    "--replay", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Check this input alone."
)
@click.option(
    "--write-corpus",
    "corpus",
    is_flag=True,
    help="Write the corpus' files anew, keep the others, run nothing.",
)
def command(
    *, target: str | None, runs: int | None, seconds: int | None, seed: int, replay: Path | None, corpus: bool
) -> None:
    """Fuzz every parser that reads bytes from outside, or one TARGET.

    A corpus of small files (tests/fuzz/corpus/TARGET) is mutated from a seed; checksums are mended, so that
    what lies behind them is reached. More is checked than that nothing crashes: bounded memory, the same
    messages however the stream is cut, what was decoded encodes to the same bytes, every error has words.
    A failing input is made short and written to engine/target/fuzz, and the command that replays it is
    shown. Keep it in the corpus when the fault is mended: `./scripts/test` runs every file of it, and some
    thousand mutations.

    Exit code: 0 no fault found, 1 a fault, 2 usage.

    \b
    Examples:
      scripts/fuzz
      scripts/fuzz wire --seconds 600 --seed 7
      scripts/fuzz bundle --replay engine/target/fuzz/bundle-7-1234
      scripts/fuzz --write-corpus
    """
    if replay is not None and target is None:
        raise click.UsageError("--replay needs the TARGET that the input is for")
    chosen = [target] if target else [*ENGINE, *TARGETS]
    ours, engines = [name for name in chosen if name in TARGETS], [name for name in chosen if name in ENGINE]
    if replay is not None:
        sys.exit(0 if again(chosen[0], replay) else 1)
    if corpus:
        write_corpus(ours)
        sys.exit(0 if not engines or engine(engines, {"CORPUS": "write"}) else 1)
    environment = {"SEED": str(seed)}
    environment |= {"SECONDS": str(seconds)} if seconds else {"RUNS": str(runs or ENGINE_RUNS)}
    fine = not engines or engine(engines, environment)
    fine &= python(ours, None if seconds else runs or RUNS, seconds, seed)
    sys.exit(0 if fine else 1)


def again(name: str, file: Path) -> bool:
    """Check one input; whether it went well."""
    if name in ENGINE:
        return engine([name], {"REPLAY": str(file.resolve())})
    try:
        kind = judge(TARGETS[name], file.read_bytes(), measure=True)
    except Exception as error:
        click.echo(f"{file}: {type(error).__name__}: {error}", err=True)
        return False
    click.echo(f"{file}: fine: {kind}", err=True)
    return True


if __name__ == "__main__":
    command(prog_name="scripts/fuzz")
