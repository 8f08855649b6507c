"""Disks that fail, engines that panic, and what acknowledgements mean in each protocol."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockpair.errors import BlockpairError
from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.nbd_client import Command, Flag, NbdClient

SIZE = 16 << 20
ROOM = 4 << 20
CHUNK = 256 << 10


class SmallFileSystem:
    """A tmpfs with less room than the device on it: writes fail with ENOSPC."""

    def __init__(self, node: Node, undo: contextlib.ExitStack) -> None:
        need_root("mount", "umount")
        self._path = node.dir / "small"
        self._path.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs")
        undo.callback(subprocess.run, ["umount", "--lazy", str(self._path)], check=False, capture_output=True)
        self.device = self._path / "disk"
        # Where its bytes end up, whatever is in a cache above.
        self.stored = self.device

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(self._path)], check=True, capture_output=True)

    def start(self) -> None:
        """It is small from the start."""

    def heal(self) -> None:
        """Make room for everything."""
        self._mount("-o", f"remount,size={4 * SIZE}")


class FailingBlockDevice(SmallFileSystem):
    """A block device over a file that cannot grow: writes fail with EIO or, in newer kernels, ENOSPC."""

    def __init__(self, node: Node, undo: contextlib.ExitStack) -> None:
        super().__init__(node, undo)
        need_root("losetup")
        with self.device.open("wb") as file:
            file.truncate(SIZE)
        done = subprocess.run(
            ["losetup", "--find", "--show", str(self.device)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"there is no loop device: {done.stderr.strip()}")
        self.device = Path(done.stdout.strip())
        undo.callback(subprocess.run, ["losetup", "--detach", str(self.device)], check=False)


class FileSizeLimit:
    """The daemon may not write past the first part of its file (EFBIG): needs no root."""

    def __init__(self, node: Node, undo: contextlib.ExitStack) -> None:
        if shutil.which("prlimit") is None:
            pytest.skip("prlimit is not installed")
        self._node = node
        self.device = self.stored = node.disk

    def start(self) -> None:
        """Limit the running daemon."""
        self._limit(str(ROOM))

    def heal(self) -> None:
        """Lift the limit."""
        self._limit("unlimited")

    def _limit(self, soft: str) -> None:
        assert self._node.process is not None
        subprocess.run(
            ["prlimit", "--pid", str(self._node.process.pid), f"--fsize={soft}:unlimited"], check=True
        )


KINDS: dict[str, type[SmallFileSystem | FileSizeLimit]] = {
    "full-file-system": SmallFileSystem,
    "failing-block-device": FailingBlockDevice,
    "file-size-limit": FileSizeLimit,
}


@pytest.fixture
def undo(cluster: Cluster) -> Iterator[contextlib.ExitStack]:
    """What a test has changed on the machine is put back once the daemons are gone."""
    with contextlib.ExitStack() as stack:
        yield stack
        cluster.close()


def need_root(*programs: str) -> None:
    """Skip without the means to make a failing disk."""
    if os.geteuid() != 0:
        pytest.skip("making a disk that fails needs root")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def mirrored(cluster: Cluster, devices: dict[str, Path], *options: str) -> None:
    """Bring r0 up on ``devices`` by node, in sync, Primary on a."""
    cluster.start()
    for node in cluster.nodes:
        device = devices.get(node.name, node.disk)
        if not device.exists():
            with device.open("wb") as file:
                file.truncate(SIZE)
        node.ok("create", "r0", "--device", str(device), *cluster.peer_option(node), *options)
    cluster.up()
    cluster.a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    cluster.b.wait("synced")
    cluster.a.ok("promote", "r0")


def fill(client: NbdClient, seed: int) -> list[int]:
    """Write the whole device with noise; the errnos of what failed."""
    noise = random.Random(seed)
    found = []
    for offset in range(0, SIZE, CHUNK):
        request = client.call(Command.WRITE, offset, data=noise.randbytes(CHUNK))
        if request.error:
            found.append(request.error)
    return found


def nobody(node: Node) -> None:
    """Wait until the clients of the export are gone."""
    eventually(lambda: not node.rpc("resource.status", name="r0")["engine"]["clients"], "no client is left")


def ended_equal(cluster: Cluster, devices: dict[str, Path]) -> bytes:
    """Take both down; their devices, byte-identical."""
    for node in cluster.nodes:
        node.ok("down", "r0")
    first, second = (devices.get(node.name, node.disk).read_bytes() for node in cluster.nodes)
    assert first == second
    return first


@pytest.mark.parametrize("kind", KINDS)
def test_the_primarys_disk_fails_and_its_peer_stands_in(
    cluster: Cluster, undo: contextlib.ExitStack, kind: str
) -> None:
    disk = KINDS[kind](cluster.a, undo)
    a, b = cluster.nodes
    devices = {"a": disk.device}
    mirrored(cluster, devices)
    disk.start()
    with NbdClient(a.nbd) as client:
        # The application notices nothing.
        assert fill(client, 8) == []
        client.flush()
        assert client.read(0, SIZE) == random.Random(8).randbytes(SIZE)
        engine = a.rpc("resource.status", name="r0")["engine"]
        assert (engine["disk"], engine["served_by"]) == ("Diskless", "b")
        # Metadata that come back with this generation are not believed.
        assert (a.dir / "state/stale/r0").read_text().strip() == engine["generation"]["current"]
        assert a.cli("status").code == 4 and b.cli("status").code == 4
        assert "reads and writes go to b" in a.cli("status").out
        assert "demote r0" in a.refused(3, "disconnect", "r0")
        assert "demote" in b.refused(3, "down", "r0")
        client.write(0, b"through b".ljust(4096, b"."))
        client.flush()
    nobody(a)
    # Nothing is forced: b knows that its copy is the newest.
    a.ok("demote", "r0")
    b.ok("promote", "r0")
    with NbdClient(b.nbd) as client:
        assert client.read(0, 4096) == b"through b".ljust(4096, b".")
        assert client.read(4096, SIZE - 4096) == random.Random(8).randbytes(SIZE)[4096:]
        client.write(4096, b"by b alone".ljust(4096, b"."))
        client.flush()
    nobody(b)
    disk.heal()
    a.ok("down", "r0")
    a.ok("up", "r0")
    a.wait("synced")
    b.wait("synced")
    ended = ended_equal(cluster, devices)
    expected = random.Random(8).randbytes(SIZE)
    assert ended[:4096] == b"through b".ljust(4096, b".")
    assert ended[4096:8192] == b"by b alone".ljust(4096, b".")
    assert ended[8192:] == expected[8192:]
    assert disk.stored.read_bytes() == ended


@pytest.mark.parametrize("kind", KINDS)
def test_with_pass_on_the_application_hears_of_the_primarys_disk(
    cluster: Cluster, undo: contextlib.ExitStack, kind: str
) -> None:
    disk = KINDS[kind](cluster.a, undo)
    a, b = cluster.nodes
    devices = {"a": disk.device}
    mirrored(cluster, devices, "--on-io-error", "pass-on")
    disk.start()
    with NbdClient(a.nbd) as client:
        errors = fill(client, 8)
        assert errors and set(errors) <= {errno.EIO, errno.ENOSPC}, errors
        # The connection outlives it, and so does what was written before.
        assert client.read(0, 4096) == random.Random(8).randbytes(4096)
    report = a.status()
    assert report["state"] == "running" and not report["healthy"] and report["engine"]["disk_error"]
    assert a.cli("status").code == 4
    assert b.status()["engine"]["disk_error"] is None
    disk.heal()
    nobody(a)
    a.ok("down", "r0")
    a.ok("up", "r0")
    a.wait("synced")
    b.wait("synced")
    a.ok("promote", "r0")
    with NbdClient(a.nbd) as client:
        assert fill(client, 9) == []
        client.flush()
    nobody(a)
    assert ended_equal(cluster, devices)[:4096] == random.Random(9).randbytes(4096)


@pytest.mark.parametrize("kind", KINDS)
def test_the_secondarys_disk_fails(cluster: Cluster, undo: contextlib.ExitStack, kind: str) -> None:
    disk = KINDS[kind](cluster.b, undo)
    a, b = cluster.nodes
    devices = {"b": disk.device}
    mirrored(cluster, devices)
    disk.start()
    with NbdClient(a.nbd) as client:
        # The application notices nothing.
        assert fill(client, 8) == []
        client.flush()
        assert client.read(0, 4096) == random.Random(8).randbytes(4096)
    nobody(a)

    def told() -> bool:
        engine = b.rpc("resource.status", name="r0")["engine"]
        return bool(engine["disk_error"]) and engine["disk"] == "Diskless"

    eventually(told, "b has given its disk up")
    assert a.cli("status").code == 4 and b.cli("status").code == 4
    assert a.status()["engine"]["peers"][0]["out_of_sync_bytes"] > 0
    assert "no usable disk" in b.refused(1, "promote", "r0")
    assert "on b: mend" in a.cli("status").out
    disk.heal()
    b.ok("down", "r0")
    b.ok("up", "r0")
    b.wait("synced")
    a.wait("synced")
    assert ended_equal(cluster, devices)[-4096:] == random.Random(8).randbytes(SIZE)[-4096:]


def test_a_read_error_is_mended_from_the_peer(cluster: Cluster, undo: contextlib.ExitStack) -> None:
    need_root("losetup")
    a, b = cluster.nodes
    backing = a.dir / "backing"
    with backing.open("wb") as file:
        file.truncate(SIZE)
    done = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", str(backing)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"there is no loop device: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    undo.callback(subprocess.run, ["losetup", "--detach", str(device)], check=False)
    mirrored(cluster, {"a": device})
    with NbdClient(a.nbd) as client:
        assert fill(client, 8) == []
        client.flush()
        # Behind the end of its file, a loop device answers reads with EIO.
        os.truncate(backing, ROOM)
        a.ok("disconnect", "r0")
        failed = client.call(Command.READ, SIZE - CHUNK, CHUNK)
        assert failed.error == errno.EIO
        assert client.read(0, 4096) == random.Random(8).randbytes(4096)
        a.ok("connect", "r0")
        a.wait("synced")
        assert client.read(SIZE - CHUNK, CHUNK) == random.Random(8).randbytes(SIZE)[-CHUNK:]
    eventually(lambda: a.status()["engine"]["io"]["healed_reads"] == 1, "the block was written anew")
    assert backing.read_bytes()[SIZE - CHUNK : SIZE] == random.Random(8).randbytes(SIZE)[-CHUNK:]
    assert "read failed" in a.status()["engine"]["disk_error"]
    assert "disk.healed" in a.cli("history", "r0", "--json").out
    assert a.cli("status").code == 4
    assert b.status()["engine"]["disk"] == "UpToDate" and b.status()["engine"]["disk_error"] is None
    assert b.disk.read_bytes() == random.Random(8).randbytes(SIZE)


def test_a_panic_under_load_stops_its_resource_alone(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    for node in cluster.nodes:
        other = node.dir / "other"
        with other.open("wb") as file:
            file.truncate(SIZE)
        node.ok("create", "r1", "--device", str(other), *cluster.peer_option(node))
        node.ok("up", "r1")
    a.wait("connected", "r1")
    a.ok("sync", "r1", "--from", "a", "--wait", "--timeout", "60s")
    a.ok("promote", "r1")
    with NbdClient(a.dir / "run/nbd/r1.sock") as going_on, NbdClient(a.nbd) as client:
        client.write(0, b"before".ljust(4096, b"."))
        for number in range(16):
            client.send(Command.WRITE, number * 65536, data=bytes([number]) * 65536)
        with contextlib.suppress(BlockpairError):
            a.rpc("resource.fault", name="r0", what="panic")
        # Everything still open is answered, or the connection ends: nothing hangs.
        with contextlib.suppress(ConnectionError):
            while client.in_flight:
                client.reap()
            request = client.call(Command.WRITE, 0, data=bytes(4096))
            assert request.error == errno.EIO
        report = a.status()
        assert report["state"] == "failed" and "panic" in report["failure"].lower(), report["failure"]
        assert "failed" in a.cli("status", "r0").out
        going_on.write(8192, b"going on".ljust(4096, b"."), Flag.FUA)
        assert going_on.read(8192, 4096).startswith(b"going on")
    assert (b.dir / "other").read_bytes()[8192:8200] == b"going on"
    a.ok("down", "r0")
    a.ok("up", "r0")
    a.wait("synced")
    b.wait("synced")
    a.ok("promote", "r0")
    assert cluster.assert_equal()[:6] in (b"before", bytes(6))


@pytest.mark.parametrize("protocol", ["A", "B", "C"])
def test_what_an_acknowledgement_means(cluster: Cluster, protocol: str) -> None:
    mirrored(cluster, {}, "--protocol", protocol)
    a, b = cluster.nodes
    assert a.status()["engine"]["protocol"] == protocol
    with NbdClient(a.nbd) as client:
        for step in range(1, 51):
            offset = step * 65536
            client.write(offset, bytes([step]) * 4096)
            if protocol == "C":
                assert b.disk.read_bytes()[offset : offset + 4096] == bytes([step]) * 4096
            # In every protocol FUA and flush promise the peer's disk too, at the time of the answer.
            client.write(offset + 8192, bytes([step + 100]) * 4096, Flag.FUA)
            seen = b.disk.read_bytes()
            assert seen[offset + 8192 : offset + 12288] == bytes([step + 100]) * 4096
            client.write(offset + 16384, bytes([step + 50]) * 8192)
            client.flush()
            assert a.disk.read_bytes() == b.disk.read_bytes()
    cluster.assert_equal()


def test_trim_and_write_zeroes_leave_equal_copies(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    with NbdClient(a.nbd) as client:
        assert fill(client, 3) == []
        expected = bytearray(random.Random(3).randbytes(SIZE))
        chosen = random.Random(4)
        for step in range(200):
            offset = chosen.randrange(SIZE // 4096 - 64) * 4096
            length = chosen.randrange(1, 65) * 4096
            command = Command.TRIM if step % 2 else Command.WRITE_ZEROES
            flags = Flag.NO_HOLE if step % 4 == 0 else Flag.FUA if step % 5 == 0 else Flag(0)
            assert client.call(command, offset, length, flags=flags).error == 0
            expected[offset : offset + length] = bytes(length)
        client.call(Command.TRIM, 0, 8 << 20)
        expected[: 8 << 20] = bytes(8 << 20)
        client.flush()
    assert cluster.assert_equal() == bytes(expected)
    # A trim gives the space back, on both.
    for node in (a, b):
        assert node.disk.stat().st_blocks * 512 < SIZE * 3 // 4
