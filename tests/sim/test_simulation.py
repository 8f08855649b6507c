"""The simulator: every named scenario, many seeds, and that planted faults are found."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SIM = HERE.parents[1] / "scripts/sim"
SCRIPTS = "".join((HERE / name).read_text() for name in ("scenarios.rs", "arbitration_scenarios.rs"))
SCENARIOS = re.findall(r'(?:scenario|arbitrated)\(\s*"([a-z-]+)"', SCRIPTS)
SEEDS = 1400
# Many seeds beside other tests, on a slow machine.
PATIENCE = 1200


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the simulator to its end; its first run builds it."""
    return subprocess.run(
        [str(SIM), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module", autouse=True)
def build() -> None:
    done = simulate("--scenarios")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    done = simulate("--scenario", name)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(PATIENCE)
def test_no_seed_violates_anything() -> None:
    done = simulate("--seeds", str(SEEDS), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["seeds"] == SEEDS
    # The workload must not lose its teeth.
    for what in (
        "arbitrated runs",
        "power cuts",
        "failovers",
        "finished resyncs",
        "split brains",
        "resolved split brains",
        "resolutions by resolve",
        "bundles",
        "damaged frames",
        "failed writes",
        "connects",
        "verifies to the end",
        "verifies cut short",
        "planted differences",
        # Where an arbiter decides.
        "creates",
        "epochs",
        "promotions by the arbiter",
        "shrinks",
        "grows",
        "renewals",
        "reseeds",
        "handovers",
        "superseded Primaries",
        "suspensions of writes",
        "leases run out",
        "refused swaps",
        "swaps of unknown outcome",
        "swaps given up while under way",
        "processes seen to be gone",
        "witnesses killed",
        "witnesses frozen",
        "registers lost",
        "paused machines",
    ):
        assert summary["counts"][what] > SEEDS / 50, what
    for what in (
        "resolutions by discard-least-changes",
        "resolutions by discard-older-primary",
        "resolutions by priority",
        "failed bundles",
        "bundles cut by a crash",
        "registers restored from an old copy",
        "reads of a machine that was paused",
    ):
        assert summary["counts"][what] > SEEDS / 500, what
    # A rewind takes no longer than one write.
    assert summary["counts"]["rewinds cut by a crash"] > 0


@pytest.mark.timeout(PATIENCE)
def test_every_planted_fault_is_found() -> None:
    done = simulate("--mutants", "--seeds", "2000")
    assert done.returncode == 0, done.stdout


@pytest.mark.timeout(PATIENCE)
def test_a_failing_seed_is_made_short_and_can_be_replayed() -> None:
    done = simulate("--plant", "FlushNotForwarded", "--manual", "--seeds", "50")
    assert done.returncode == 1
    replay = re.search(r"replay what counts: ./scripts/sim (.*)", done.stderr)
    assert replay, done.stderr
    again = simulate(*replay[1].split())
    assert again.returncode == 1
    assert "I1" in again.stdout


def test_usage_errors_exit_with_2() -> None:
    done = simulate("--seeds", "many")
    assert done.returncode == 2
    assert "many" in done.stderr
