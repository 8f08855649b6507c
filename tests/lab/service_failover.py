"""Failover of a service, measured: every fault many times over, in network namespaces, as a client sees it.

Run it by ./scripts/failover --service.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.namespace import Namespace
from tests.lab import keepalived
from tests.lab.failover import LOGS, parsed, save_logs, write
from tests.lab.harness import Lab, LabError, LabUnavailable
from tests.lab.mounted import MountedStage
from tests.lab.rounds import place
from tests.lab.service_rounds import (
    SERVICE_BY_NAME,
    SERVICE_SCENARIOS,
    Fault,
    ServiceRound,
    ServiceScenario,
    service_table,
)
from tests.lab.service_stage import ServiceStage

_MARKER = "service"
_RoundsOf = dict[str, list[ServiceRound]]


def main(words: Sequence[str]) -> int:
    """Run what the command line says; the exit code."""
    chosen = _parse(words)
    if why := _impossible():
        print(f"failover: {why}", file=sys.stderr)
        return 1
    if without := keepalived.missing():
        print(f"failover: {without}", file=sys.stderr)
    # As by Ctrl-C: what was started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began, loads = time.strftime("%Y-%m-%d"), [os.getloadavg()[0]]
    done: _RoundsOf = {}
    beside: _RoundsOf = {}
    for scenario in [SERVICE_BY_NAME[name] for name in chosen.only] if chosen.only else SERVICE_SCENARIOS:
        name = str(scenario.fault)
        done[name], beside[name] = [], []
        for who, into, rounds in (
            ("", done[name], _rounds(scenario, chosen.rounds)),
            ("keepalived ", beside[name], _beside(scenario, 0 if without else chosen.rounds)),
        ):
            for one in rounds:
                into.append(one)
                loads.append(os.getloadavg()[0])
                _tell(who, one)
                if chosen.json:
                    write(chosen.json, json.dumps(_document(done, beside), indent=1) + "\n")
    text = f"{_when(began, loads)}\n\n{service_table(SERVICE_SCENARIOS, done, beside)}"
    print(f"\n{text}")
    if chosen.into:
        write(chosen.into, place(chosen.into.read_text(), _MARKER, text))
    return int(any(one.bad for rounds in done.values() for one in rounds))


def _impossible() -> str | None:
    if not Namespace.possible() or shutil.which("setsid") is None:
        return "it needs root, and ip, unshare, nsenter and setsid (apt-get install iproute2 util-linux)"
    return None


def _rounds(scenario: ServiceScenario, rounds: int) -> Iterator[ServiceRound]:
    """Play them with one pair; with another one after a round in which something was wrong, or that leaves
    something behind.
    """
    if scenario.fault is Fault.KERNEL:
        yield from _between_kernels(rounds)
        return
    number = 0
    while number < rounds:
        with (
            tempfile.TemporaryDirectory(prefix="bp-", ignore_cleanup_errors=True) as base,
            contextlib.ExitStack() as stack,
        ):
            stage: ServiceStage | None = None
            while number < rounds:
                number += 1
                try:
                    stage = stage or ServiceStage(Path(base), stack)
                    one = stage.play(scenario, number)
                except AssertionError as error:
                    one = ServiceRound(
                        str(scenario.fault), number, wrong=[f"the round did not end: {_first_line(error)}"]
                    )
                yield one
                if one.bad:
                    _save_logs(Path(base), LOGS / f"service-{scenario.fault}-{number}", stage)
                if one.bad or scenario.anew:
                    break


def _between_kernels(rounds: int) -> Iterator[ServiceRound]:
    number = 0
    while number < rounds:
        try:
            with Lab() as lab:
                stage: MountedStage | None = None
                while number < rounds:
                    number += 1
                    try:
                        stage = stage or MountedStage(lab)
                        one = stage.play(number)
                    except LabError as error:
                        one = ServiceRound(str(Fault.KERNEL), number, wrong=[f"it did not end: {error}"])
                    yield one
                    if one.bad:
                        save_logs(lab, LOGS / f"service-{Fault.KERNEL}-{number}")
                        break
        except LabUnavailable as error:
            print(f"failover: {error}: without the power cut of a kernel", file=sys.stderr)
            return


def _beside(scenario: ServiceScenario, rounds: int) -> Iterator[ServiceRound]:
    if scenario.fault not in keepalived.FAULTS:
        return
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory(prefix="bp-") as base:
            try:
                yield keepalived.play(scenario.fault, number, Path(base))
            except AssertionError as error:
                yield ServiceRound(str(scenario.fault), number, wrong=[_first_line(error)])


def _first_line(error: AssertionError) -> str:
    return str(error).partition("\n")[0]


def _save_logs(base: Path, folder: Path, stage: ServiceStage | None) -> None:
    for log in base.glob("*/log"):
        target = folder / f"{log.parent.name}.log"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, target)
    for node in () if stage is None else stage.pair.nodes:
        pids = ",".join(map(str, node.net.processes()))
        words = ["ps", "-L", "-o", "pid,tid,stat,wchan:24,etimes,args", "-p", pids or "0"]
        shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        (folder / f"{node.name}.processes").write_text(shown)
    if stage is not None:
        (folder / "told").write_text(stage.told())
    print(f"    logs, and what was told of writes: {folder}", flush=True)


def _tell(who: str, one: ServiceRound) -> None:
    waited = "nothing measured" if one.waited_s is None else f"waited {one.waited_s:.2f} s"
    head = f"{time.strftime('%H:%M:%S')} {who}{one.scenario} {one.number}"
    late = f", {one.late} confirmed before and told late" if one.late else ""
    print(f"{head}: {waited}, {one.acknowledged} writes{late}", flush=True)
    found = {"lost": one.lost, "two holders": one.two_holders, "two writers": one.two_writers}
    for what, count in found.items():
        if count:
            print(f"    {what}: {count}", flush=True)
    for line in one.wrong:
        print(f"    WRONG: {line}", flush=True)


def _when(began: str, loads: Sequence[float]) -> str:
    return f"{began}, {os.cpu_count()} processors, load {min(loads):.1f} to {max(loads):.1f}."


def _document(done: _RoundsOf, beside: _RoundsOf) -> dict[str, Any]:
    rounds = {
        key: [one.document() for rounds in found.values() for one in rounds]
        for key, found in (("rounds", done), ("keepalived", beside))
    }
    return {"schema": "blockpair.failover.service/1", **rounds}


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/failover --service", allow_abbrev=False)
    return parsed(parser, words, SERVICE_BY_NAME, lambda _: _MARKER)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
