"""A service between real kernels: a file system that is mounted and an address, on whichever node is Primary;
and what a client of an application on it sees when the power goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from tests.e2e.block_app import BLOCK, BLOCKS
from tests.lab.harness import Command, Lab
from tests.lab.nodes import LINK, MOUNT, Node, eventually
from tests.lab.service_rounds import Fault, ServiceRound
from tests.lab.trio import make_trio

Answer = tuple[str, float]
"""Who has written the number, and when that was heard, in seconds on the client's clock."""
ADDRESS = "10.77.0.100"
VIP = f"{ADDRESS}/24@vec0"
_FILE = f"{MOUNT}/blocks"
_STEADY = 30
_READY_S = 90.0


def up(node: Node, timeout: float = 60) -> None:
    """Wait until all of the service is there."""

    def so() -> bool:
        found = node.report()["service"]
        return found is not None and found["state"] == "up"

    eventually(so, f"the service is up on {node.name}", timeout)
    device = node.report()["kernel_device"]["path"]
    assert node.guest.run(f"findmnt -no SOURCE {MOUNT}").strip() == device
    assert ADDRESS in node.guest.run("ip -o -4 address show dev vec0")


def down(node: Node) -> None:
    """None of it is."""
    assert ADDRESS not in node.guest.run("ip -o -4 address show dev vec0")
    node.guest.run(f"! mountpoint -q {MOUNT}")


def in_step(node: Node) -> None:
    """Wait until the peer of this one, the Primary, may go on."""

    def so() -> bool:
        engine = node.report()["engine"]
        configuration = engine["arbitration"]["configuration"] or {}
        return len(configuration.get("in_sync", ())) == 2 and not engine["peers"][0]["out_of_sync_bytes"]

    eventually(so, f"{node.name} has a peer in sync", 60)


class MountedStage:
    """Two nodes, ``serving`` and ``other``, and their witness, where the client is that has numbers written
    through the address; `play` one power cut after another. ``array``: each node's disk is a RAID10.
    """

    def __init__(self, lab: Lab, *, array: bool = False) -> None:
        (n1, n2), witness = make_trio(lab, "default", array=array)
        self.serving, self.other = n1, n2
        n1.guest.run(f"mkfs.ext4 -q {LINK}")
        n1.cli(f"service set r0 --mount {MOUNT} --vip {VIP}")
        n1.cli("promote r0")
        up(n1)
        n1.guest.run(f"dd if=/dev/zero of={_FILE} bs={BLOCK} count={BLOCKS} conv=fsync status=none")
        self.applications = [_serve(node) for node in (n1, n2)]
        self._client = witness.guest.start(f"exec python -m tests.e2e.number_client {ADDRESS} 0.01")

    def play(self, number: int) -> ServiceRound:
        """One round. Raises `LabError` where something does not come about in time."""
        serving, other = self.serving, self.other
        in_step(serving)
        first = len(self.answers())
        self.answered(serving, first + _STEADY)
        before = len(self.answers())
        serving.guest.power_cut()
        self.answered(other, before + _STEADY)
        answers = self.answers()
        waited = longest_wait(answers[before - 1 :])
        missing = self.missing(other, len(answers))
        turns = turns_of(answers[first:])
        wrong = [] if turns == [other.name] else [f"the client was answered in turn by: {turns}"]
        self.serving, self.other = other, serving
        serving.power_up()
        _serve(serving)
        return ServiceRound(str(Fault.KERNEL), number, waited, len(answers) - first, missing, wrong=wrong)

    def answers(self) -> list[Answer]:
        """All that the client was given so far; the n-th is that number n is durable."""
        lines = [
            line.split() for line in self._client.stdout.splitlines(keepends=True) if line.endswith("\n")
        ]
        return [(who, float(at)) for who, _, at in lines]

    def answered(self, node: Node, count: int) -> None:
        """Wait until the client has been answered so often, and by ``node`` last."""

        def so() -> bool:
            answers = self.answers()
            return len(answers) >= count and answers[-1][0] == node.name

        eventually(so, f"the client has been answered {count} times, and by {node.name}", _READY_S)

    def missing(self, node: Node, count: int) -> int:
        """How many of the first ``count`` numbers the mounted file of ``node`` lacks."""
        return int(node.guest.run(f"python -m tests.lab.mount_app check {_FILE} {count}"))


def longest_wait(answers: Iterable[Answer]) -> float:
    """The longest time from one answer to the next, in seconds."""
    return max(later - earlier for (_, earlier), (_, later) in pairwise(answers))


def turns_of(answers: Iterable[Answer]) -> list[str]:
    """Who answers from each change on."""
    return [who for (last, _), (who, _) in pairwise(answers) if who != last]


def _serve(node: Node) -> Command:
    server = node.guest.start(f"exec python -m tests.lab.mount_app serve {node.name} {_FILE}")
    eventually(lambda: "serving" in server.stdout, f"{node.name} serves", 30)
    return server
