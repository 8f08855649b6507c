"""What an administrator gets wrong: a clear message with the remedy, the exit code, nothing changed."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually


def blank(path: Path, size: int = 16 << 20) -> Path:
    """A file of zeroes."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def files(node: Node) -> dict[str, int]:
    """What is configured and kept on a node, by path and time of change; that it was asked is an event."""
    return {
        str(path): path.stat().st_mtime_ns
        for folder in ("config/resources", "state")
        for path in (node.dir / folder).rglob("*")
        if path.is_file() and path.parent.name not in ("events", "deliveries")
    }


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """Node a, its daemon running."""
    cluster.a.start()
    return cluster.a


def create(node: Node, device: Path | str, *options: str, code: int = 1, name: str = "r0") -> str:
    """A ``create`` that must be refused and change nothing; the message."""
    before = files(node)
    content = Path(device).read_bytes() if Path(device).is_file() else b""
    told = node.refused(code, "create", name, "--device", str(device), "--peer", "b=127.0.0.1:1", *options)
    assert files(node) == before
    assert content == (Path(device).read_bytes() if Path(device).is_file() else b"")
    return told


def test_a_path_that_does_not_exist(node: Node) -> None:
    path = node.dir / "nothing"
    assert f"truncate -s 10G {path}" in create(node, path)
    assert not path.exists()


@pytest.mark.parametrize("path", ["/dev/null", "/tmp"])
def test_a_path_that_is_no_disk(node: Node, path: str) -> None:
    assert "neither a block device nor a file" in create(node, path)


@pytest.mark.parametrize(
    ("program", "kind"), [("mkfs.ext4", "ext4"), ("mkswap", "swap"), ("mkfs.xfs", "xfs")]
)
def test_a_device_that_carries_a_signature(node: Node, program: str, kind: str) -> None:
    tool = shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if tool is None:
        pytest.skip(f"{program} is not installed")
    path = blank(node.dir / "disk", 512 << 20)
    subprocess.run([tool, str(path)], check=True, capture_output=True)
    told = create(node, path, code=3)
    assert kind in told and "--force" in told
    node.ok("create", "r0", "--device", str(path), "--peer", "b=127.0.0.1:1", "--force")


def test_a_file_behind_a_loop_device(node: Node) -> None:
    path = blank(node.dir / "disk")
    done = subprocess.run(
        ["/sbin/losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no loop devices here: {done.stderr.strip()}")
    loop = done.stdout.strip()
    try:
        assert Path(loop).name in create(node, path, code=3)
        # --force overrides what a device carries, never that it is in use.
        create(node, path, "--force", code=3)
    finally:
        subprocess.run(["/sbin/losetup", "--detach", loop], check=True)


def test_a_device_of_another_resource(node: Node) -> None:
    path = blank(node.dir / "disk")
    node.ok("create", "r0", "--device", str(path), "--peer", "b=127.0.0.1:1")
    link = node.dir / "link"
    link.symlink_to(path)
    assert "belongs to the resource r0" in create(node, link, code=3, name="r1")
    assert "exists already" in create(node, path)


@pytest.mark.parametrize(
    ("size", "place"), [((16 << 20) + 1, ()), (0, ()), (4096, ("--metadata", "internal"))]
)
def test_a_size_that_does_not_fit(node: Node, size: int, place: tuple[str, ...]) -> None:
    create(node, blank(node.dir / "disk", size), *place)


@pytest.mark.parametrize(
    "options",
    [
        ("--block-size", "5K"),
        ("--block-size", "2M"),
        ("--block-size", "huge"),
    ],
)
def test_a_bad_block_size(node: Node, options: tuple[str, ...]) -> None:
    assert "--block-size" in create(node, blank(node.dir / "disk"), *options, code=2)


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--metadata", ""), 2, "--metadata is empty"),
        (("--metadata", "/tmp"), 1, "the metadata /tmp is neither a block device nor a file"),
        (("--peer", "c=127.0.0.1:2"), 2, "give one --peer"),
    ],
)
def test_metadata_and_peers_that_cannot_be(
    node: Node, options: tuple[str, ...], code: int, told: str
) -> None:
    assert told in create(node, blank(node.dir / "disk"), *options, code=code)


def test_this_node_as_its_own_peer(node: Node) -> None:
    path = blank(node.dir / "disk")
    told = node.refused(2, "create", "r0", "--device", str(path), "--peer", f"{node.name}=127.0.0.1:1")
    assert "is this node itself" in told and "r0.toml" not in told


def test_metadata_that_exists_is_kept_without_force(node: Node) -> None:
    path = blank(node.dir / "disk")
    node.ok("create", "r0", "--device", str(path), "--peer", "b=127.0.0.1:1", "--metadata", "internal")
    node.ok("delete", "r0", "--yes")
    assert "--force" in create(node, path, "--metadata", "internal", code=3)
    node.ok(
        "create", "r0", "--device", str(path), "--peer", "b=127.0.0.1:1", "--metadata", "internal", "--force"
    )


@pytest.mark.parametrize(
    "command",
    ["up", "down", "connect", "disconnect", "promote", "demote", "sync", "status", "metadata show", "delete"],
)
def test_an_unknown_name(node: Node, command: str) -> None:
    assert "no resource 'nobody'" in node.refused(1, *command.split(), "nobody")


def test_unknown_peers_nodes_and_states(node: Node) -> None:
    blank(node.disk)
    node.ok("create", "r0", "--device", str(node.disk), "--peer", "b=127.0.0.1:1")
    assert "blockpair up r0" in node.refused(1, "promote", "r0")
    node.ok("up", "r0")
    assert "its peers are: b" in node.refused(1, "connect", "r0", "--peer", "z")
    told = node.refused(1, "sync", "r0", "--from", "z")
    assert "its nodes are: a, b" in told and "overwritten" not in told
    assert "the states are" in node.refused(2, "wait", "r0", "--until", "happy")
    assert "blockpair status r0" in node.refused(
        1, "wait", "r0", "--until", "connected", "--timeout", "100ms"
    )
    assert "blockpair down r0" in node.refused(3, "delete", "r0", "--yes")
    assert "--yes" in node.refused(2, "delete", "r0")


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "r0"),
        ("frobnicate",),
        ("up",),
        ("wait", "r0"),
        ("create", "r0", "--device", "/x", "--peer", "b"),
        ("create", "r0", "--device", "/x", "--peer", "b=h:1", "--protocol", "D"),
        ("create", "R0", "--device", "/x", "--peer", "b=h:1"),
        ("wait", "r0", "--until", "up", "--timeout", "soon"),
    ],
)
def test_usage(node: Node, arguments: tuple[str, ...]) -> None:
    done = node.cli(*arguments)
    assert done.code == 2 and done.err and not done.out
    done = node.cli(*arguments, "--json")
    assert done.code == 2 and json.loads(done.err)["error"]["kind"] == "usage"


def test_no_daemon(cluster: Cluster) -> None:
    for command in (("status",), ("up", "r0"), ("wait", "r0", "--until", "up")):
        assert "blockpaird" in cluster.a.refused(5, *command)
    error = json.loads(cluster.a.cli("status", "--json").err)["error"]
    assert (error["kind"], error["exit_code"]) == ("no_daemon", 5)


def test_a_second_daemon_in_the_same_directory(node: Node) -> None:
    assert node.process is not None
    before = node.log.stat().st_size
    second = node.spawn()
    assert second.wait(20) == 3
    told = node.log.read_text()[before:]
    assert f"pid {node.process.pid}" in told and "remedy" in told and "Traceback" not in told
    node.ok("status")


def test_a_port_in_use(cluster: Cluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", cluster.a.port))
        taken.listen()
        process = cluster.a.spawn()
        assert process.wait(20) == 3
    told = cluster.a.log.read_text()
    assert str(cluster.a.port) in told and "remedy" in told and "Traceback" not in told


def test_a_second_daemon_on_the_same_metadata(cluster: Cluster) -> None:
    a, b = cluster.nodes
    cluster.start()
    blank(a.disk)
    a.ok("create", "r0", "--device", str(a.disk), "--peer", "c=127.0.0.1:1")
    a.ok("up", "r0")
    # The same configuration copied to another node, by mistake.
    shutil.copy(a.dir / "config/resources/r0.toml", b.dir / "config/resources/r0.toml")
    b.refused(3, "up", "r0")
    a.ok("down", "r0")
    assert b.cli("status", "--json").json()["resources"][0]["state"] == "down"


def test_a_bad_configuration_file_hurts_its_resource_alone(node: Node) -> None:
    blank(node.disk)
    node.ok("create", "r0", "--device", str(node.disk), "--peer", "b=127.0.0.1:1")
    (node.dir / "config/resources/r1.toml").write_text('device = "/x"\nmetdata = "internal"\n')
    told = node.refused(1, "up", "r1")
    assert "r1.toml" in told
    done = node.cli("status", "--json")
    assert done.code == 4
    assert {r["name"]: r["state"] for r in done.json()["resources"]} == {"r0": "down", "r1": "failed"}
    node.ok("up", "r0")


def test_a_bad_node_file(cluster: Cluster) -> None:
    cluster.a.configure("[log]\nlevel = 'loud'\n")
    process = cluster.a.spawn()
    assert process.wait(20) == 1
    told = cluster.a.log.read_text()
    assert "blockpair.toml: log.level" in told and "remedy" in told


def test_damaged_metadata(node: Node) -> None:
    blank(node.disk)
    node.ok("create", "r0", "--device", str(node.disk), "--peer", "b=127.0.0.1:1")
    file = node.dir / "state/metadata/r0.meta"
    shown = node.ok("metadata", "show", "r0", "--json").json()["metadata"]
    with file.open("r+b") as metadata:
        for offset in shown["layout"]["superblock"]:
            metadata.seek(offset + 40)
            metadata.write(b"\xa5" * 16)
    told = node.refused(1, "up", "r0")
    node.refused(1, "metadata", "show", "r0")
    # What it says works, and is of this node alone: `delete` would be of both.
    assert "blockpair create NAME --anew --force" in told and "delete" not in told
    # Nor does the question, where nobody can be asked, drop what was asked for.
    command = ("create", "r0", "--anew", "--force", "--device", str(node.disk))
    assert shlex.join(["blockpair", *command, "--yes"]) in node.refused(2, *command)
    node.ok(*command, "--yes")
    node.ok("up", "r0")


def test_a_device_that_has_gone(node: Node) -> None:
    blank(node.disk)
    node.ok("create", "r0", "--device", str(node.disk), "--peer", "b=127.0.0.1:1")
    node.disk.rename(node.dir / "away")
    assert str(node.disk) in node.refused(1, "up", "r0")
    blank(node.disk, 8 << 20)
    node.refused(1, "up", "r0")


def test_an_unsafe_promotion(cluster: Cluster) -> None:
    cluster.synced()
    a, b = cluster.nodes
    b.refused(3, "promote", "r0")
    b.refused(3, "promote", "r0", "--force", "--yes")
    assert a.status()["engine"]["role"] == "Primary"


def test_demoting_names_who_holds_the_export(cluster: Cluster) -> None:
    cluster.synced()
    a = cluster.a
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(a.nbd))
        eventually(lambda: len(a.status()["engine"]["clients"]) == 1, "the client is seen")
        told = a.refused(3, "demote", "r0")
        # This program, by whatever words it was started.
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode()
        assert f"{words} " in told and f"(pid {os.getpid()})" in told
        a.refused(3, "down", "r0")
    eventually(lambda: not a.status()["engine"]["clients"], "the client is gone")
    a.ok("demote", "r0")


@pytest.mark.parametrize(
    ("option", "advice"), [("--protocol=B", "refused-protocol"), ("--block-size=64K", "refused-blocksize")]
)
def test_peers_that_do_not_fit(cluster: Cluster, option: str, advice: str) -> None:
    cluster.start()
    for node, options in ((cluster.a, ()), (cluster.b, (option,))):
        blank(node.disk)
        node.ok("create", "r0", "--device", str(node.disk), *cluster.peer_option(node), *options)
        node.ok("up", "r0")
    eventually(
        lambda: advice in [entry["code"] for entry in cluster.a.status()["advice"]], f"a is told of {advice}"
    )


def test_a_peer_of_a_smaller_size(cluster: Cluster) -> None:
    cluster.start()
    for node, size in ((cluster.a, 16 << 20), (cluster.b, 8 << 20)):
        blank(node.disk, size)
        node.ok("create", "r0", "--device", str(node.disk), *cluster.peer_option(node))
        node.ok("up", "r0")
    cluster.a.cli("sync", "r0", "--from", "a")
    eventually(
        lambda: "refused-size" in [entry["code"] for entry in cluster.a.status()["advice"]],
        "a is told of the size",
    )


def test_a_peer_without_the_resource(cluster: Cluster) -> None:
    cluster.start()
    a = cluster.a
    blank(a.disk)
    a.ok("create", "r0", "--device", str(a.disk), *cluster.peer_option(a))
    a.ok("up", "r0")
    eventually(
        lambda: "refused-unknownresource" in [entry["code"] for entry in a.status()["advice"]],
        "a is told that b lacks the resource",
    )
    assert a.cli("status").code == 4


def test_garbage_on_the_rpc_socket_ends_that_connection_alone(node: Node) -> None:
    path = str(node.dir / "run/blockpaird.sock")
    for garbage in (
        b"\0" * 100 + b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{}\n[]\n",
        b'{"jsonrpc":"2.0","method":"x","id":1}\n',
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(path)
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            assert b'"error"' in client.recv(1 << 16)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        with contextlib.suppress(OSError):
            client.sendall(b"x" * (3 << 20))
        with contextlib.suppress(ConnectionError):
            while client.recv(1 << 16):
                pass
    node.ok("status")


def test_garbage_on_the_replication_port_ends_that_connection_alone(cluster: Cluster) -> None:
    cluster.synced()
    a = cluster.a
    for garbage in (b"\0" * 100, b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", a.port), timeout=20) as client:
            # The daemon may hang up before all of it is sent.
            with contextlib.suppress(OSError):
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while client.recv(4096):
                    pass
    a.wait("primary,synced", timeout="5s")
    a.write(0, b"still..." * 512)
