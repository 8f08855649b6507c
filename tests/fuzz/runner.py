"""Runs a target of the Python side: its corpus as it is, then mutations of it."""

from __future__ import annotations

import random
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import mutate
from tests.fuzz.target import Target, demand
from tests.fuzz.targets import corpus_folder, read_corpus

ROOT = Path(__file__).resolve().parents[2]
_POOL = 1024
# Counting memory makes everything several times slower: it is done for one input of so many.
_MEASURED = 32


class FuzzFailure(AssertionError):
    """A fault that an input shows, with how to see it again."""


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    inputs: int
    kinds: int
    seconds: float


def judge(target: Target, data: bytes, *, measure: bool = False) -> str:
    """Check one input. Raises what the target raises; `Fault` when it took too much memory."""
    if not measure:
        return target.check(data)
    tracemalloc.start()
    try:
        kind = target.check(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    allowed = (4 << 20) + 128 * len(data)
    demand(peak <= allowed, f"{len(data)} bytes of input took {peak} bytes of memory; {allowed} are allowed")
    return kind


def run(target: Target, *, runs: int | None, seconds: float | None, seed: int) -> Outcome:
    """``runs`` inputs, or as many as ``seconds`` allow. Raises `FuzzFailure`."""
    pool = read_corpus(target)
    seen: set[str] = set()
    for name, data in pool:
        seen.add(_checked(target, data, f"{corpus_folder(target.name) / name}", measure=True))
    began = time.monotonic()
    inputs = [data for _, data in pool]
    done = 0
    while (runs is None or done < runs) and (seconds is None or time.monotonic() - began < seconds):
        # A string of both: the same inputs whatever the number of runs.
        rng = random.Random(f"{seed}-{done}")
        data = mutate(rng, rng.choice(inputs), rng.choice(inputs), target.words)
        kind = _checked(target, data, f"seed {seed}, run {done}", measure=done % _MEASURED == 0)
        if kind not in seen and len(inputs) < _POOL:
            seen.add(kind)
            inputs.append(data)
        done += 1
    return Outcome(done, len(seen), time.monotonic() - began)


def _checked(target: Target, data: bytes, where: str, *, measure: bool) -> str:
    try:
        return judge(target, data, measure=measure)
    except Exception as error:
        data = _shortened(target, data)
        folder = ROOT / "engine/target/fuzz"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{target.name}-{abs(hash(data)):x}"
        file.write_bytes(data)
        raise FuzzFailure(
            f"{target.name}: {type(error).__name__}: {str(error)[:2000]}\n  from: {where}\n"
            f"  input: {file} ({len(data)} bytes)\n  replay: scripts/fuzz {target.name} --replay {file}\n"
            f"  when it is mended, keep the file in {corpus_folder(target.name)}/"
        ) from error


def _fails(target: Target, data: bytes) -> bool:
    try:
        target.check(data)
    except Exception:
        return True
    return False


def _shortened(target: Target, data: bytes) -> bytes:
    """Without what the failure does not need, within a bounded number of attempts."""
    if not _fails(target, data):
        return data
    piece, attempts = len(data) // 2, 500
    while piece and attempts:
        at = 0
        while at < len(data) and attempts:
            attempts -= 1
            shorter = data[:at] + data[at + piece :]
            if _fails(target, shorter):
                data = shorter
            else:
                at += piece
        piece //= 2
    return data
