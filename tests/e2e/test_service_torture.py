"""Daemons are killed at any moment of a switchover: in the end the service is up on one node, by itself, and
what was acknowledged is there.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import eventually
from tests.e2e.namespace import Namespace
from tests.e2e.service_pair import NetNode, ServicePair, background

pytestmark = pytest.mark.skipif(
    not Namespace.possible() or shutil.which("setsid") is None,
    reason="needs root, network namespaces and setsid",
)

_ROUNDS = 4
# From before the first step of a switchover until after its last.
_LATEST_SECONDS = 1.5


@pytest.fixture
def trio(base: Path) -> Iterator[ServicePair]:
    with contextlib.ExitStack() as stack:
        made = ServicePair(base, stack, arbitrated=True)
        try:
            yield made
        finally:
            print(made.logs())


def _state(node: NetNode) -> str:
    return str(node.service()["state"])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_switchover_in_which_daemons_are_killed_ends_up_on_one_node(trio: ServicePair, seed: int) -> None:
    chance = random.Random(seed)
    trio.a.ok("promote", "r0")
    with trio.client() as client:
        for number in range(_ROUNDS):
            trio.in_step()
            victims = chance.choice(([trio.a], [trio.b], [trio.a, trio.b]))
            after = chance.uniform(0, _LATEST_SECONDS)
            print(f"round {number}: {', '.join(node.name for node in victims)} killed after {after:.3f} s")
            with background(chance.choice(trio.nodes), "switchover", "r0") as process:
                # The moment is what this is about.
                time.sleep(after)
                for node in victims:
                    node.kill()
                for node in victims:
                    node.start()
                process.wait(90)
            eventually(
                lambda: sorted(map(_state, trio.nodes)) == ["stopped", "up"], "it is up on one node", 90
            )
            [up] = [node for node in trio.nodes if _state(node) == "up"]
            client.answered_by(up.name)
            up.is_up()
            for node in trio.nodes:
                if node is not up:
                    node.is_down()
        trio.in_step()
        numbers = client.acknowledged()
    for node in trio.nodes:
        assert trio.kept(node, numbers), f"{node.name} lacks what was acknowledged"
    assert trio.holders.most <= 1, "two nodes had the address at once"
