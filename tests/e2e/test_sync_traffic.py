"""A resync moves what changed and little else: by the status, the sockets and the network interface."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.namespace import Namespace
from tests.e2e.nbd_client import Command, NbdClient

SIZE = 1 << 30
CHANGED = 64 << 20
MOST = 80 << 20
BLOCK = 4096
DEPTH = 32


def roomy() -> str | None:
    """Memory where it has room for three images, else where temporary files go."""
    shm = Path("/dev/shm")
    if shm.is_dir() and shutil.disk_usage(shm).free > 5 * SIZE:
        return str(shm)
    return None


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace | None]:
    """An own network for the daemons, where this user may make one."""
    if not Namespace.possible():
        yield None
        return
    made = Namespace()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def cluster(namespace: Namespace | None) -> Iterator[Cluster]:
    """A mirrored GiB, Primary on a."""
    with ExitStack() as stack:
        base = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="bp-", dir=roomy(), ignore_cleanup_errors=True)
        )
        made = Cluster(Path(base))
        stack.callback(made.close)
        if namespace is not None:
            for node in made.nodes:
                node.prefix = namespace.prefix
        made.start()
        made.create(SIZE)
        made.up()
        made.a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "90s")
        made.b.wait("synced")
        made.a.ok("promote", "r0")
        yield made


def same(first: Path, second: Path) -> bool:
    """Whether two files are byte-identical."""
    return subprocess.run(["cmp", "--silent", first, second], check=False).returncode == 0


def wire(cluster: Cluster) -> dict[str, int]:
    """The Primary's counters of its connections to the peer."""
    counters: dict[str, int] = cluster.a.status()["engine"]["peers"][0]["wire"]
    return counters


def test_a_copied_file_arrives_whole(cluster: Cluster) -> None:
    program = shutil.which("nbdcopy")
    if program is None:
        pytest.skip("nbdcopy is missing: apt-get install libnbd-bin")
    source = cluster.base / "source"
    with source.open("wb") as file:
        for _ in range(SIZE >> 24):
            file.write(os.urandom(1 << 24))
    try:
        subprocess.run(
            [program, "--flush", str(source), f"nbd+unix:///?socket={cluster.a.nbd}"],
            check=True,
            timeout=250,
        )
        cluster.a.ok("sync", "r0", "--wait", "--timeout", "60s")
        assert same(source, cluster.b.disk)
        assert same(source, cluster.a.disk)
    finally:
        source.unlink()


def offsets(kind: str) -> list[int]:
    """Where the changed blocks are: anywhere, each once; or side by side."""
    if kind == "scattered":
        return [block * BLOCK for block in random.Random(2).sample(range(SIZE // BLOCK), CHANGED // BLOCK)]
    start = 300 << 20
    return list(range(start, start + CHANGED, BLOCK))


@pytest.mark.parametrize("kind", ["contiguous", "scattered"])
def test_only_what_changed_crosses_the_wire(cluster: Cluster, namespace: Namespace | None, kind: str) -> None:
    a, b = cluster.nodes
    a.ok("disconnect", "r0")
    b.wait("disconnected")
    with NbdClient(a.nbd) as client:
        for offset in offsets(kind):
            if len(client.in_flight) >= DEPTH:
                assert client.reap().error == 0
            client.send(Command.WRITE, offset, data=os.urandom(BLOCK))
        while client.in_flight:
            assert client.reap().error == 0
        client.flush()
    assert a.status()["engine"]["peers"][0]["out_of_sync_bytes"] == CHANGED
    assert not same(a.disk, b.disk)
    before = wire(cluster)
    on_interface = namespace.bytes_sent() if namespace is not None else 0

    a.ok("connect", "r0")
    a.ok("sync", "r0", "--wait", "--timeout", "90s")
    b.wait("synced")

    peer: dict[str, Any] = a.status()["engine"]["peers"][0]
    moved = {name: peer["wire"][name] - before[name] for name in before}
    carried = namespace.bytes_sent() - on_interface if namespace is not None else None
    counted = moved["sent_bytes"] + moved["received_bytes"]
    print(f"{kind}: {counted} bytes by our count, {moved}, {carried} on the interface")
    # The data themselves are random: they cannot have crossed in less.
    assert CHANGED <= counted <= MOST
    assert peer["last_resync"]["sent_bytes"] == CHANGED and peer["last_resync"]["finished"]
    for way in ("sent", "received"):
        ours, kernels = moved[f"{way}_bytes"], moved[f"kernel_{way}_bytes"]
        assert abs(ours - kernels) <= 0.02 * kernels + 4096, (way, moved)
    if carried is not None:
        # With headers and acknowledgements of TCP on a link of 64 KiB packets.
        assert counted <= carried <= min(1.1 * counted, MOST)
    assert same(a.disk, b.disk)
    assert peer["out_of_sync_bytes"] == 0
