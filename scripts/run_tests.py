"""Runs the checks and tests of this checkout stage by stage. Run it by ./scripts/test."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv/bin"
PYTEST_STAGES = ("unit", "sim", "e2e", "lab")
STAGES = ("lint", "rust", *PYTEST_STAGES)
# The simulator is no test of `cargo test`: `--all-targets` leaves it out, and ignores any `--test` beside it.
LINTED = {"clippy": "--all-targets", "clippy, simulator": "--test=sim"}
# The tests of daemons wait most of their time: two more than there are processors. See tests/conftest.py.
SIDE_BY_SIDE = ("-n", str(min(8, (os.cpu_count() or 1) + 2)))
# Where time is real, and what runs beside a test can starve it: what failed there is run once more, alone.
# More failures than that are no accident.
AGAIN_STAGES = ("e2e", "lab")
AGAIN_MOST = 3
# All of cargo in one profile, with the same features: what the engine rests on is compiled once.
CARGO = ("--manifest-path", "engine/Cargo.toml", "--locked", "--profile", "sim")
FAULTS = ("--features", "faults")


@dataclass(frozen=True)
class Check:
    """One command of a stage."""

    stage: str
    name: str
    command: Sequence[str | Path]


@dataclass
class Result:
    """What came of a check or of a suite of tests."""

    stage: str
    name: str
    verdict: str
    seconds: float
    note: str = ""
    skips: Counter[str] = field(default_factory=Counter)

    def forgive(self, tests: Sequence[str]) -> None:
        """Say that these failed beside others and passed alone; nothing where there are none."""
        if tests:
            self.verdict = "passed"
            self.note += f"; failed beside others and passed alone: {', '.join(tests)}"


def shell_scripts() -> list[Path]:
    """The shell scripts of this checkout, known by their first line."""
    found = []
    for folder in ("scripts", ".ci", "packaging", "tests", "vagrant"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in ("", ".sh"):
                with path.open("rb") as handle:
                    first = handle.readline(64)
                if first.startswith(b"#!") and first.rstrip().endswith((b"bash", b"sh")):
                    found.append(path.relative_to(ROOT))
    return found


def checks() -> list[Check]:
    """Everything but pytest, in the order in which it runs: the quick ones first."""
    return [
        Check("lint", "ruff check", [BIN / "ruff", "check", "--quiet", "."]),
        Check("lint", "ruff format", [BIN / "ruff", "format", "--check", "--quiet", "."]),
        Check("lint", "mypy", [BIN / "mypy"]),
        Check("lint", "import contracts", [BIN / "lint-imports", "--no-cache"]),
        Check("lint", "shellcheck", ["shellcheck", *shell_scripts()]),
        Check("lint", "rustfmt", ["cargo", "fmt", "--manifest-path", "engine/Cargo.toml", "--check"]),
        *(
            Check(
                "lint",
                name,
                ["cargo", "clippy", "--quiet", *CARGO, what, "--all-features", "--", "-D", "warnings"],
            )
            for name, what in LINTED.items()
        ),
        # With each rule of the arbitration switched off once: a test can plant faults.
        Check("rust", "cargo test", ["cargo", "test", "--quiet", *CARGO, *FAULTS]),
        # Here and not in a test: a build takes what time it takes.
        Check("sim", "build", [ROOT / "scripts/sim", "--scenarios"]),
    ]


def run_check(check: Check, console: Console) -> Result:
    """Runs one command with its output on the terminal."""
    program = str(check.command[0])
    if shutil.which(program) is None:
        return Result(check.stage, check.name, "skipped", 0.0, f"{program} is not installed")
    line = f"[bold]{check.name}[/]: {shlex.join(map(str, check.command))}"
    console.print(line, highlight=False, soft_wrap=True)
    # A linter that is content has nothing to say that anybody wants to read.
    quiet = check.stage in ("lint", "sim")
    began = time.monotonic()
    done = subprocess.run(
        check.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        check=False,
    )
    seconds = time.monotonic() - began
    if done.returncode == 0:
        return Result(check.stage, check.name, "passed", seconds)
    if quiet:
        sys.stdout.flush()
        sys.stdout.buffer.write(done.stdout)
        sys.stdout.buffer.flush()
    return Result(check.stage, check.name, "failed", seconds, f"exit code {done.returncode}")


def run_pytest(stages: Sequence[str], arguments: Sequence[str], console: Console) -> list[Result]:
    """Runs the suites in one pytest, so that one closing line counts them all; splits its report by suite."""
    results = [
        Result(stage, "pytest", "skipped", 0.0, f"there is no tests/{stage} yet")
        for stage in stages
        if not any((ROOT / "tests" / stage).glob("test_*.py"))
    ]
    present = [stage for stage in stages if stage not in {result.stage for result in results}]
    if not present:
        return results
    with tempfile.TemporaryDirectory(prefix="blockpair-test-") as folder:
        report = Path(folder) / "report.xml"
        folders = [f"tests/{stage}" for stage in present]
        command = [str(BIN / "pytest"), *SIDE_BY_SIDE, f"--junit-xml={report}", *folders, *arguments]
        console.print(f"[bold]pytest[/]: {shlex.join(command)}", highlight=False, soft_wrap=True)
        began = time.monotonic()
        # Beside the environment's programs, tests find system tools that Debian keeps in sbin.
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
        # Thousands of daemons and commands are started: compiled once, each starts in half the time.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        compile_all = [str(BIN / "python"), "-m", "compileall", "-q", "blockpair", "tests", "scripts"]
        subprocess.run(compile_all, cwd=ROOT, env=environment, check=True)
        code = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, env=environment, check=False
        ).returncode
        seconds = time.monotonic() - began
        if not report.exists():
            return [
                *results,
                Result("+".join(present), "pytest", "failed", seconds, f"no report, exit code {code}"),
            ]
        suites = [read_suite(stage, report) for stage in present]
        failed = failed_tests(report)
        if code == 1 and pass_alone(failed, environment, console):
            code = 0
            for suite in suites:
                suite.forgive([test for stage, test in failed if stage == suite.stage])
    if code != 0 and all(suite.verdict == "passed" for suite in suites):
        # An error outside any test, a usage error, or nothing selected by the arguments (5).
        suites.append(Result("+".join(present), "pytest", "failed", seconds, f"exit code {code}"))
    return results + suites


def pass_alone(failed: Sequence[tuple[str, str]], environment: dict[str, str], console: Console) -> bool:
    """Runs the tests (stage, name) once more, one after the other, where they are few and of `AGAIN_STAGES`;
    whether they pass.
    """
    if not 0 < len(failed) <= AGAIN_MOST or any(stage not in AGAIN_STAGES for stage, _ in failed):
        return False
    command = [str(BIN / "pytest"), *(test for _, test in failed)]
    console.print(f"[bold]once more, alone[/]: {shlex.join(command)}", highlight=False, soft_wrap=True)
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, env=environment, check=False)
    return done.returncode == 0


def failed_tests(report: Path) -> list[tuple[str, str]]:
    """The stage and pytest's name of each test that failed, by its JUnit report."""
    found = []
    for case in ET.parse(report).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            where = case.get("classname", "")
            _, _, stage = where.partition("tests.")
            found.append((stage.partition(".")[0], f"{where.replace('.', '/')}.py::{case.get('name', '')}"))
    return found


def read_suite(stage: str, report: Path) -> Result:
    """The part of pytest's JUnit report that belongs to one folder of tests."""
    counts: Counter[str] = Counter()
    skips: Counter[str] = Counter()
    seconds = 0.0
    for case in ET.parse(report).getroot().iter("testcase"):
        where = case.get("classname", "") or case.get("name", "")
        if not where.startswith(f"tests.{stage}"):
            continue
        seconds += float(case.get("time", "0"))
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
        elif skipped is not None:
            counts["skipped"] += 1
            skips[skipped.get("message", "no reason given")] += 1
        else:
            counts["passed"] += 1
    note = ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "none selected"
    return Result(stage, "pytest", "failed" if counts["failed"] else "passed", seconds, note, skips)


def closing_table(results: Sequence[Result]) -> Table:
    """What ran, how long it took, how it ended, and what was skipped why."""
    colours = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
    table = Table(title="Stages", title_justify="left")
    table.add_column("stage")
    table.add_column("check")
    table.add_column("verdict")
    table.add_column("seconds", justify="right")
    table.add_column("note")
    for result in results:
        lines = [result.note] if result.note else []
        lines += [f"{count} skipped: {reason}" for reason, count in result.skips.most_common()]
        verdict = f"[{colours[result.verdict]}]{result.verdict}[/]"
        table.add_row(result.stage, result.name, verdict, f"{result.seconds:.1f}", "\n".join(lines))
    return table


def parse(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the command line into stages and pytest's arguments; exits with 2 on an unknown stage."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    named, for_pytest = list(arguments[:cut]), list(arguments[cut + 1 :])
    unknown = [name for name in named if name not in (*STAGES, "all")]
    if unknown:
        print(f"unknown stage '{unknown[0]}': one of {', '.join(STAGES)}, all (see --help)", file=sys.stderr)
        raise SystemExit(2)
    if not named or "all" in named:
        return list(STAGES), for_pytest
    return [stage for stage in STAGES if stage in named], for_pytest


def main() -> int:
    """Runs the stages; returns the exit code."""
    stages, arguments = parse(sys.argv[1:])
    console = Console(width=None if sys.stdout.isatty() else 120)
    began = time.monotonic()
    results = [run_check(check, console) for check in checks() if check.stage in stages]
    suites = [stage for stage in PYTEST_STAGES if stage in stages]
    if suites:
        results += run_pytest(suites, arguments, console)
    failed = [result for result in results if result.verdict == "failed"]
    console.print()
    console.print(closing_table(results))
    console.print(
        f"[bold red]{len(failed)} failed[/]" if failed else "[bold green]all passed[/]",
        f"in {time.monotonic() - began:.0f} s",
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
