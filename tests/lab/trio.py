"""Two nodes and a witness, each a guest of its own: a resource that fails over by itself."""

from __future__ import annotations

import json

from tests.lab.harness import Command, Guest, GuestSpec, Lab, LabError
from tests.lab.nodes import ARRAY, Node, disks_of_node, eventually, first_start

_PORT = 7790


class Witness:
    """The witness in its guest; what it remembers is on its disk."""

    def __init__(self, guest: Guest) -> None:
        self.guest, self.name = guest, guest.name
        self.log: list[Command] = []

    @property
    def address(self) -> str:
        """Where the nodes reach it."""
        return f"{self.guest.address}:{_PORT}"

    def prepare(self, *, first: bool) -> None:
        """Make its freshly booted guest ready."""
        (disk,) = self.guest.disks
        steps = [f"mkfs.ext4 -q {disk}"] if first else []
        steps += [f"mkdir -p /var/lib/blockpair-witness && mount {disk} /var/lib/blockpair-witness"]
        self.guest.run("set -e\n" + "\n".join(steps))

    def launch(self) -> None:
        """Start it; does not wait for it."""
        self.log.append(self.guest.start("exec blockpair witness serve"))

    def await_ready(self, timeout: float = 60) -> None:
        """Wait until it answers. Raises `LabError` with its log."""
        serves = self.log[-1]

        def ready() -> bool:
            if not serves.running:
                raise LabError(f"the witness ended: {serves.stderr}")
            return "witness.ready" in serves.stderr

        eventually(ready, f"the witness serves: {serves.stderr}", timeout)

    def come_up(self) -> None:
        """After a power cut, from the boot to the start."""
        self.guest.wait_ready()
        self.prepare(first=False)
        self.launch()


def make_trio(
    lab: Lab, profile: str, *, disk_mib: int = 48, array: bool = False
) -> tuple[tuple[Node, Node], Witness]:
    """Nodes n1 and n2 with r0 in sync on both, on a plain disk or a RAID10 of four, n1 Primary; and the
    witness of their cluster.
    """
    disks = disks_of_node(disk_mib, array=array)
    *guests, third = lab.boot(GuestSpec("n1", disks), GuestSpec("n2", disks), GuestSpec("w", [16]))
    nodes = n1, n2 = [Node(guest, ARRAY if array else guest.disks[0]) for guest in guests]
    witness = Witness(third)
    witness.prepare(first=True)
    first_start(n1, n2)
    token = json.loads(n1.cli("cluster token --json"))
    witness.launch()
    witness.await_ready()
    witness.guest.run(f"blockpair witness join {token['address']} {token['text']}")
    n1.cli(f"config edit --set arbiter.kind=witness --set arbiter.address={witness.address}")
    n1.cli(f"create r0 --on n1={n1.device},n2={n2.device} --metadata internal --no-up")
    n1.cli(f"config edit --set resource.r0.arbitration.profile={profile}")
    for node in nodes:
        node.cli("up r0")
    n1.wait("connected")
    n1.cli("sync r0 --from n1 --wait", 120)
    n1.cli("promote r0")
    return (n1, n2), witness
