"""Failover, measured: every scenario many times over, in two real kernels and a third for the witness.

Run it by ./scripts/failover.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.lab.harness import SOURCE, Lab, LabError, LabUnavailable
from tests.lab.rounds import MarkerMissing, Round, place, table
from tests.lab.scenarios import BY_NAME, SCENARIOS, Scenario
from tests.lab.stage import Stage, make_stage

LOGS = SOURCE / ".cache/failover"


def main(words: Sequence[str]) -> int:
    """Run what the command line says; the exit code."""
    chosen = _parse(words)
    scenarios = [BY_NAME[name] for name in chosen.only] if chosen.only else list(SCENARIOS)
    done: dict[str, list[Round]] = {}
    try:
        for scenario in scenarios:
            done[scenario.name] = []
            for one in _rounds(scenario, chosen.rounds, chosen.profile):
                done[scenario.name].append(one)
                _tell(scenario, one)
                if chosen.json:
                    write(chosen.json, json.dumps(_document(chosen.profile, done), indent=1) + "\n")
    except LabUnavailable as error:
        print(f"failover: {error}", file=sys.stderr)
        return 1
    text = table(SCENARIOS, done)
    print(f"\n{text}")
    if chosen.into:
        write(chosen.into, place(chosen.into.read_text(), chosen.profile, text))
    return int(any(one.wrong for rounds in done.values() for one in rounds))


def _rounds(scenario: Scenario, rounds: int, profile: str) -> Iterator[Round]:
    """Play them in one lab; after one in which something was wrong, in another."""
    number = 0
    while number < rounds:
        with Lab() as lab:
            stage: Stage | None = None
            while number < rounds:
                number += 1
                try:
                    stage = stage or make_stage(lab, profile)
                    one = stage.play(scenario, number)
                except LabError as error:
                    one = Round(scenario.name, number, wrong=[f"the round did not end: {error}"])
                yield one
                if one.wrong:
                    folder = LOGS / f"{scenario.name}-{profile}-{number}"
                    save_logs(lab, folder)
                    print(f"    logs: {folder}", flush=True)
                    break


def save_logs(lab: Lab, folder: Path) -> None:
    """Keep what the guests of a lab have said."""
    folder.mkdir(parents=True, exist_ok=True)
    logs = lab.logs()
    for name, guest in lab.guests.items():
        logs[f"{name}.journal"] = "".join(f"{line.at:.4f} {line.text}\n" for line in guest.journal.since(0))
    for name, text in logs.items():
        (folder / name).write_text(text)


def _tell(scenario: Scenario, one: Round) -> None:
    numbers = [(name, getattr(one, name)) for name in ("takeover_s", "stall_s", "resumed_s")]
    told = ", ".join(
        f"{name.removesuffix('_s')} {value:.2f} s" for name, value in numbers if value is not None
    )
    head = f"{time.strftime('%H:%M:%S')} {scenario.name} {one.number}"
    print(f"{head}: {told or 'nothing measured'}, {one.acknowledged} writes", flush=True)
    for line in one.wrong:
        print(f"    WRONG: {line}", flush=True)


def _document(profile: str, done: dict[str, list[Round]]) -> dict[str, Any]:
    rounds = [one.document() for rounds in done.values() for one in rounds]
    return {"schema": "blockpair.failover/1", "profile": profile, "rounds": rounds}


def write(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/failover", allow_abbrev=False)
    parser.add_argument("--profile", choices=("default", "fast", "wan"), default="default")
    return parsed(parser, words, BY_NAME, lambda chosen: str(chosen.profile))


def parsed(
    parser: argparse.ArgumentParser,
    words: Sequence[str],
    names: Iterable[str],
    marker: Callable[[argparse.Namespace], str],
) -> argparse.Namespace:
    """What a command line says that measures faults of these names; ``marker`` is of the table's place."""
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", action="append", choices=sorted(names), metavar="NAME")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--into", type=Path)
    chosen = parser.parse_args(words)
    if chosen.rounds < 1:
        parser.error(f"--rounds {chosen.rounds}: at least 1")
    if chosen.into:
        try:  # now, not after hours
            place(chosen.into.read_text(), marker(chosen), "")
        except (OSError, MarkerMissing) as error:
            parser.error(f"--into {chosen.into}: {error}")
    return chosen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
