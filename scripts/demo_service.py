"""The demonstration's last part: a service moves with its virtual address, while a client asks.

Its machines are network namespaces, which nobody else sees and which end with this program.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from demo_nodes import RESOURCE, DemoFailed, Node, Witness, wait_for
from demo_story import Row, Story
from rich.console import Console

from tests.e2e.block_app import lost
from tests.e2e.namespace import Namespace
from tests.e2e.service_pair import ADDRESS, VIP, Client, install_systemctl

SIZE = 16 << 20
UNIT = "app.service"


class Machine(Node):
    """A node in a network namespace; its unit is an application that ends with the disk, and a script stands
    in for systemd.
    """

    def __init__(self, name: str, folder: Path, console: Console, net: Namespace) -> None:
        super().__init__(name, folder, console, net.prefix)
        self.net = net

    @property
    def environment(self) -> Mapping[str, str]:
        found = super().environment
        return {**found, "PATH": f"{self.folder}/bin:{found['PATH']}"}

    def install(self, host: str) -> None:
        """Puts there what the machine needs before its daemon starts."""
        install_systemctl(self.folder, self.name, self.folder / f"run/nbd/{RESOURCE}.sock")
        self.configure(host, 7788, 7789)
        with self.backing.open("wb") as disk:
            disk.truncate(SIZE)

    def holds_address(self) -> bool:
        """Whether the virtual address is here."""
        return self.net.has_address(ADDRESS)


class ServicePart(contextlib.ExitStack):
    """Two nodes, a witness and a client, a network namespace each; leaving it ends and removes them all."""

    def __init__(self, story: Story, folder: Path) -> None:
        super().__init__()
        self.story = story
        self.folder = folder

    @staticmethod
    def impossible() -> str | None:
        """Why this machine cannot show it and what would help, or None."""
        if os.geteuid() != 0:
            return "It needs root: sudo ./scripts/demo --only-service"
        if not Namespace.possible() or shutil.which("setsid") is None:
            return "It needs ip, unshare, nsenter and setsid: apt-get install iproute2 util-linux"
        try:
            with contextlib.closing(Namespace()) as switch, contextlib.closing(Namespace()) as host:
                host.plug(switch, "port1", "192.0.2.1/24")
        except OSError as error:
            return f"It needs a machine that allows network namespaces and bridges: {error}"
        return None

    def run(self) -> None:
        """Both chapters; raises `DemoFailed` at the first thing that is not as promised."""
        first, second, client = self.the_address_follows_the_data()
        self.and_back(first, second, client)
        numbers = client.acknowledged()
        for node in (first, second):
            disk = node.backing.read_bytes()
            if missing := lost(disk, numbers):
                raise DemoFailed(f"node {node.name} lacks {len(missing)} writes that the client was told of")
        self.story.tell(f"{len(numbers)} writes acknowledged to the client, all of them on both disks")

    def the_address_follows_the_data(self) -> tuple[Machine, Machine, Client]:
        """A service comes up, its node is killed, and the other one has it."""
        self.story.chapter(
            "The address follows the data",
            "A service: an application that writes what a client sends, and a virtual address. Two new\n"
            "nodes, a witness and a client have a network namespace each. The client sends one number after\n"
            "the other to the address; it is answered when both disks have it. Then: kill -9.",
        )
        switch, *hosts = (self.enter_context(contextlib.closing(Namespace())) for _ in range(5))
        for number, host in enumerate(hosts, 1):
            host.plug(switch, f"port{number}", f"192.0.2.{number}/24")
        first, second = self.pair(hosts)
        first.run("service", "set", RESOURCE, "--unit", UNIT, "--vip", VIP)
        first.run("promote", RESOURCE)
        client = self.enter_context(contextlib.closing(Client(hosts[3])))
        self.answers(client, first, second)
        first.wait_for_in_sync_set()
        assert first.daemon is not None
        began = time.monotonic()
        first.kill()
        self.story.show(f"kill -9 {first.daemon.pid}")
        self.answers(client, second, first)
        self.silent("the client's wait when its primary was killed", client, began, second)
        return first, second, client

    def and_back(self, first: Machine, second: Machine, client: Client) -> None:
        """The killed node returns, and a person moves the service to it."""
        self.story.chapter(
            "And back, as planned",
            "The killed node returns and is told what it missed. A switchover stops the service here and\n"
            "starts it there.",
        )
        first.start()
        second.succeed("wait", RESOURCE, "--until", "synced", "--timeout", "15s")
        second.wait_for_in_sync_set()
        began = time.monotonic()
        moved = second.ask("switchover", RESOURCE)
        self.answers(client, first, second)
        stopped = float(moved["stopped_seconds"])
        self.story.measured(
            Row("the service stopped for the switchover", None, stopped, "as blockpair counts it")
        )
        self.silent("the client's wait for the switchover", client, began, first)

    def pair(self, hosts: list[Namespace]) -> tuple[Machine, Machine]:
        """Two nodes with a witness and an empty disk in sync, made as in the first chapters."""
        first, second = (
            Machine(name, self.folder / f"service-{name}", self.story.console, net)
            for name, net in zip("ab", hosts, strict=False)
        )
        for number, node in enumerate((first, second), 1):
            node.install(f"192.0.2.{number}")
            self.callback(node.stop)
            node.start()
        witness = Witness(self.folder / "service-w", self.story.console, "192.0.2.3", hosts[2].prefix)
        self.callback(witness.stop)
        witness.start()
        first.succeed("cluster", "init", "service", "--address", "192.0.2.1")
        token = json.loads(first.succeed("cluster", "token", "--json"))
        joined = ("cluster", "join", str(token["address"]), "-", "--address", "192.0.2.2")
        second.succeed(*joined, text=str(token["text"]))
        token = json.loads(first.succeed("cluster", "token", "--json"))
        witness.join(str(token["address"]), str(token["text"]))
        settings = ("arbiter.kind=witness", f"arbiter.address={witness.address}")
        first.succeed("config", "edit", *(word for setting in settings for word in ("--set", setting)))
        first.succeed("create", RESOURCE, "--on", f"a={first.backing},b={second.backing}")
        first.succeed("sync", RESOURCE, "--from", "a", "--wait")
        for node in (first, second):
            node.succeed("wait", RESOURCE, "--until", "synced", "--timeout", "15s")
        self.story.tell("made as above: a cluster, its witness, and a disk of 16 MiB in sync")
        return first, second

    def answers(self, client: Client, node: Machine, other: Machine) -> None:
        """Waits until `node` answers the client, and it alone has the address."""
        wanted = len(client.answers) + 5

        def so() -> bool:
            answered = len(client.answers) >= wanted and client.answers[-1][0] == node.name
            return answered and node.holds_address() and not other.holds_address()

        try:
            wait_for(f"node {node.name}, at {ADDRESS}, answers the client", 30, so)
        except DemoFailed as failure:
            raise DemoFailed(f"{failure}; its daemon's log ends:\n{node.log_tail()}") from None
        self.story.tell(f"{ADDRESS} is on node {node.name} alone, which answers the client")

    def silent(self, what: str, client: Client, since: float, node: Machine) -> None:
        """Notes the longest time without an answer from `since` on."""
        note = f"then answered by {node.name}, which has {ADDRESS}"
        self.story.measured(Row(what, None, client.silence(since), note))
