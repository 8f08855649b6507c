"""One configuration on both nodes, with real daemons: changed on both or neither, caught up with, in
conflict, and through daemons that are killed at any moment.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from blockpair.errors import BlockpairError
from tests.e2e.cluster import Cluster, Node, eventually, free_ports

MIB = 1 << 20


def _disks(cluster: Cluster, size: int = 16 * MIB) -> str:
    """New backing files; the value of --on."""
    for node in cluster.nodes:
        with node.disk.open("wb") as disk:
            disk.truncate(size)
    return ",".join(f"{node.name}={node.disk}" for node in cluster.nodes)


def _version(node: Node) -> tuple[int, str]:
    found = node.rpc("config.show")
    return found["version"], found["id"]


def _same(cluster: Cluster) -> bool:
    return _version(cluster.a) == _version(cluster.b)


def _text(node: Node) -> str:
    return (node.dir / "config/cluster.toml").read_text()


def _rendered(node: Node) -> str:
    return (node.dir / "config/resources/r0.toml").read_text()


def _in_conflict(node: Node) -> bool:
    return bool(node.rpc("config.diff")["conflicts"])


def _formed(cluster: Cluster) -> None:
    cluster.form()
    cluster.a.ok("create", "r0", "--on", _disks(cluster), "--no-up")


def test_from_nothing_to_a_replicated_resource_in_six_commands(cluster: Cluster) -> None:
    a, b = cluster.nodes
    cluster.start()
    devices = _disks(cluster)
    began = time.monotonic()
    a.ok("cluster", "init", "pair")
    join = a.ok("cluster", "token").out
    words = next(line for line in join.splitlines() if "blockpair cluster join" in line).split()
    b.ok(*words[1:])
    a.ok("create", "r0", "--on", devices)
    a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    a.ok("promote", "r0")
    took = time.monotonic() - began
    print(f"from nothing to a replicated resource: 6 commands, {took:.1f} s")
    a.write(0, b"x" * 4096)
    cluster.assert_equal()
    assert _same(cluster)
    assert a.status()["healthy"]
    assert took < 60


def test_a_change_is_made_on_both_and_says_what_it_takes(cluster: Cluster) -> None:
    _formed(cluster)
    a, b = cluster.nodes
    for node in cluster.nodes:
        node.ok("up", "r0")
    done = b.ok("config", "edit", "--set", "resource.r0.protocol=A", "--why", "the other site is far")
    assert "blockpair down r0 && blockpair up r0 (on a and b)" in done.out
    for node in cluster.nodes:
        assert 'protocol = "A"' in _text(node)
        assert 'protocol = "A"' in _rendered(node)
        assert _rendered(node).startswith("# Rendered from version ")
        assert "the other site is far" in node.ok("config", "history").out
    assert _same(cluster)
    for node in cluster.nodes:
        node.ok("down", "r0")
    for node in cluster.nodes:
        node.ok("up", "r0")
        assert node.status()["engine"]["protocol"] == "A"
    a.refused(3, "config", "edit", "--set", "resource.r0.block_size=8K")
    message = a.refused(3, "config", "edit", "--set", f"resource.r0.on.b.device={a.disk}")
    assert "b refuses: resource.r0.on.b.device: it cannot change while r0 is up on b" in message
    a.refused(1, "config", "edit", "--set", "resource.r0.protocol=Z")
    a.refused(2, "config", "edit", "--set", "nonsense")
    a.refused(3, "delete", "r0", "--yes")
    assert _same(cluster)
    for node in cluster.nodes:
        node.ok("down", "r0")
    b.ok("delete", "r0", "--yes")
    for node in cluster.nodes:
        assert node.ok("status", "--json").json()["resources"] == []
        assert not (node.dir / "state/metadata/r0.meta").exists()


def test_a_whole_text_is_taken_from_a_file_or_standard_input(cluster: Cluster) -> None:
    _formed(cluster)
    a = cluster.a
    file = a.dir / "new.toml"
    file.write_text("# ours\n" + _text(a).replace('name = "test"', 'name = "east"'))
    a.ok("config", "edit", "--file", str(file))
    assert _text(cluster.b).startswith("# ours\n")
    assert "nothing was changed" in a.ok("config", "edit", "--file", str(file)).out
    file.write_text("[cluster\n")
    assert "is not TOML" in a.refused(1, "config", "edit", "--file", str(file))
    a.refused(2, "config", "edit")
    assert "nothing is to be settled" in a.ok("config", "diff").out
    assert '+name = "east"' in a.ok("config", "diff", "1").out


def test_an_arbiter_that_cannot_be_asked_is_told_when_it_is_appointed(cluster: Cluster) -> None:
    _formed(cluster)
    nobodys = f"127.0.0.1:{free_ports(1)[0]}"
    words = ("--set", "arbiter.kind=witness", "--set", f"arbiter.address={nobodys}")
    told = cluster.a.cli("config", "edit", *words)
    assert told.code == 4 and f"the arbiter, witness {nobodys}, cannot be asked: " in told.out
    assert _same(cluster)
    assert cluster.a.cli("config", "edit", "--set", "resource.r0.protocol=B").code == 0


def test_who_was_away_catches_up(cluster: Cluster) -> None:
    _formed(cluster)
    a, b = cluster.nodes
    b.stop()
    done = a.cli("config", "edit", "--set", "resource.r0.protocol=B", "--json")
    assert done.code == 4
    assert list(done.json()["pending"]) == ["b"]
    a.rpc("config.edit", settings=["resource.r0.on.b.priority=7"])
    report = a.cli("status", "--json").json()
    assert report["configuration"]["pending"][0]["node"] == "b"
    assert not report["healthy"]
    b.start()
    eventually(lambda: _same(cluster), "b has caught up")
    assert "priority = 7" in _rendered(b)
    eventually(
        lambda: a.cli("status", "--json").json()["configuration"]["pending"] == [], "a knows that b has it"
    )


def test_both_were_edited_while_apart(cluster: Cluster) -> None:
    _formed(cluster)
    a, b = cluster.nodes
    for node, other, value in ((a, b, "A"), (b, a, "B")):
        other.stop()
        if node.process is None:
            node.start()
        assert node.cli("config", "edit", "--set", f"resource.r0.protocol={value}").code == 4
    a.start()
    for node in cluster.nodes:
        eventually(partial(_in_conflict, node), "the conflict is known")
    versions = _version(a), _version(b)
    report = a.cli("status", "--json")
    assert report.code == 4
    assert report.json()["configuration"]["conflicts"][0]["node"] == "b"
    assert "blockpair config accept b" in a.cli("status").out
    for node, value in ((a, "B"), (b, "A")):
        shown = node.cli("config", "diff")
        assert shown.code == 4
        assert f'+protocol = "{value}"' in shown.out
        node.refused(3, "config", "edit", "--set", "resource.r0.protocol=C")
    assert (_version(a), _version(b)) == versions
    # Nothing is settled without a person who says so.
    a.refused(2, "config", "accept", "b")
    a.refused(1, "config", "accept", "a")
    a.ok("config", "accept", "b", "--yes")
    assert _same(cluster)
    assert 'protocol = "B"' in _rendered(a)
    eventually(lambda: not _in_conflict(b), "b knows that it is over")
    b.ok("config", "edit", "--set", "resource.r0.protocol=C")
    assert _same(cluster)


@pytest.mark.parametrize("what", ["missing", "too small", "in use", "other data"])
def test_a_node_that_cannot_keeps_a_resource_from_being_made(cluster: Cluster, what: str) -> None:
    cluster.form()
    a, b = cluster.nodes
    devices = _disks(cluster)
    code = 1
    if what == "missing":
        b.disk.unlink()
    elif what == "too small":
        b.disk.write_bytes(b"\0" * 2048)
    elif what == "in use":
        a.ok("create", "other", "--on", devices, "--no-up", "--metadata", "internal")
        # By another name, which only a look at the device itself finds out.
        (b.dir / "alias").symlink_to(b.disk)
        code = 3
    else:
        with b.disk.open("r+b") as disk:
            disk.seek(1080)
            disk.write(b"\x53\xef")
        code = 3
    before = _version(a), a.disk.read_bytes()
    on = f"a={_second(a)},b={b.dir / 'alias'}" if what == "in use" else devices
    message = a.refused(code, "create", "r0", "--on", on, "--metadata", "internal")
    assert "b refuses: " in message
    assert str(b.dir) in message
    assert (_version(a), a.disk.read_bytes()) == before
    assert _same(cluster)
    for node in cluster.nodes:
        assert not (node.dir / "config/resources/r0.toml").exists()
        assert list((node.dir / "state/cluster").glob("creating/*")) == []
    # It holds nobody up.
    a.ok("config", "edit", "--set", "cluster.name=later")


def _second(node: Node) -> Path:
    file = node.dir / "second"
    with file.open("wb") as disk:
        disk.truncate(16 * MIB)
    return file


def test_a_copy_begins_anew_on_another_disk(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    a.ok("create", "r0", "--on", _disks(cluster), "--metadata", "internal")
    a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    a.ok("promote", "r0")
    a.write(0, b"x" * 8192)
    other = _second(b)
    b.refused(3, "create", "r0", "--anew", "--yes")
    b.ok("down", "r0")
    b.refused(2, "create", "r0", "--anew")
    message = b.refused(1, "config", "edit", "--set", f"resource.r0.on.b.device={other}")
    assert "blockpair create r0 --anew --device" in message
    # While it goes on on the other node.
    b.ok("create", "r0", "--anew", "--yes", "--device", str(other))
    assert _same(cluster)
    assert str(other) in _rendered(b)
    b.ok("up", "r0")
    a.ok("sync", "r0", "--wait", "--timeout", "60s")
    b.wait("synced")
    assert other.read_bytes()[:8192] == b"x" * 8192
    # The same place again, with metadata that had data.
    b.ok("down", "r0")
    b.ok("create", "r0", "--anew", "--yes")
    assert "Inconsistent" in b.ok("metadata", "show", "r0").out
    b.ok("up", "r0")
    b.wait("synced")


def test_copies_of_different_size_are_taken_back(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    devices = _disks(cluster)
    with b.disk.open("r+b") as disk:
        disk.truncate(8 * MIB)
    before = _version(a)
    message = a.refused(1, "create", "r0", "--on", devices, "--metadata", "internal")
    assert "would not have the same size" in message
    assert f"on a, make and name a partition, logical volume or file of {8 * MIB} bytes" in message
    assert "external" not in message
    assert "--metadata internal" in a.refused(2, "create", "r0", "--on", devices, "--metadata", "relative")
    assert "--block-size 4K" in a.refused(2, "create", "r0", "--on", devices, "--block-size", "3K")
    assert _version(a) == before
    assert _same(cluster)
    with b.disk.open("r+b") as disk:
        disk.truncate(16 * MIB)
    # Without --force: no metadata were left behind on either.
    b.ok("create", "r0", "--on", devices, "--metadata", "internal")
    a.wait("connected")


def test_who_is_down_keeps_a_resource_from_being_made(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    devices = _disks(cluster)
    b.stop()
    assert "b cannot be reached" in a.refused(1, "create", "r0", "--on", devices)
    assert "no node 'c'" in a.refused(1, "create", "r0", "--on", devices.replace("b=", "c="))
    a.refused(2, "create", "r0", "--on", f"a={a.disk}")
    a.refused(2, "create", "r0", "--on", devices, "--priority", "3")
    a.refused(2, "create", "r0", "--device", str(a.disk), "--peer", "b=127.0.0.1:1")


def test_without_a_cluster_a_resource_does_not_leave_the_machine(cluster: Cluster) -> None:
    cluster.start()
    a = cluster.a
    devices = _disks(cluster)
    message = a.refused(2, "create", "r0", "--device", str(a.disk), "--peer", "b=10.0.0.2:7788")
    assert "do not trust each other" in message
    assert "blockpair cluster init" in message
    assert "in no cluster" in a.refused(1, "create", "r0", "--on", devices)
    for words in (["show"], ["diff"], ["history"], ["edit", "--set", "cluster.name=x"], ["accept", "b"]):
        assert "in no cluster" in a.refused(1, "config", *words)
    done = a.ok("create", "r0", "--device", str(a.disk), *cluster.peer_option(a))
    assert "tls            off" in done.out
    assert 'tls = "off"' in _rendered(a)


def test_a_file_edited_by_hand_is_told_of_and_left_alone(cluster: Cluster) -> None:
    _formed(cluster)
    a, b = cluster.nodes
    file = a.dir / "config/cluster.toml"
    edited = _text(a).replace('name = "test"', 'name = "west"')
    file.write_text(edited)
    eventually(lambda: a.cli("status").code == 4 and "edited by hand" in a.cli("status").out, "it is noticed")
    shown = a.cli("config", "diff")
    assert shown.code == 4
    assert '+name = "west"' in shown.out
    # Another change goes on, and does not overwrite it; a restart does not either.
    b.ok("config", "edit", "--set", "resource.r0.protocol=A")
    a.stop()
    a.start()
    assert _text(a) == edited
    assert 'protocol = "A"' in _rendered(a)
    a.ok("config", "edit", "--file", str(file))
    eventually(lambda: a.rpc("config.diff")["hand_edited"] is None, "it is in force")
    assert _text(a) == _text(b) == edited
    # To drop one, remove the file.
    file.write_text("nonsense")
    file.unlink()
    eventually(file.exists, "it is written again")
    assert _text(a) == edited


@pytest.mark.parametrize("seed", range(3))
def test_daemons_killed_at_random_moments_of_changes(cluster: Cluster, seed: int) -> None:
    """Afterwards both ends are equal: no half change, no change that was confirmed and lost."""
    _formed(cluster)
    rng = random.Random(seed)
    confirmed = ""
    for turn in range(6):
        editor = rng.choice(cluster.nodes)
        victim = rng.choice(cluster.nodes)
        value = f"t{seed}-{turn}"
        made: list[str] = []

        def edit(editor: Node = editor, value: str = value, made: list[str] = made) -> None:
            # Killed under it, it may or may not have been made.
            with contextlib.suppress(BlockpairError):
                made.append(editor.rpc("config.edit", settings=[f"cluster.name={value}"])["id"])

        thread = threading.Thread(target=edit)
        thread.start()
        # The moment is the point of the test; nothing is waited for.
        time.sleep(rng.random() * 0.12)
        victim.kill()
        thread.join()
        victim.start()
        eventually(lambda: _same(cluster), f"both have the same version (turn {turn})")
        if made:
            confirmed = made[0]
        for node in cluster.nodes:
            versions = [entry["id"] for entry in node.rpc("config.history", limit=500)["versions"]]
            assert not confirmed or confirmed in versions
            assert _text(node) == node.rpc("config.show")["text"]
    assert not cluster.a.rpc("config.diff")["conflicts"]
    # Nobody holds still for a change of the dead for long.
    eventually(
        lambda: cluster.b.cli("config", "edit", "--set", "cluster.name=end").code == 0, "it can be changed"
    )
    assert _same(cluster)


@pytest.mark.parametrize("seed", range(3))
def test_daemons_killed_while_a_resource_is_made(cluster: Cluster, seed: int) -> None:
    """Afterwards it is on both or on neither, and where it is not, it can be made without --force."""
    cluster.form()
    rng = random.Random(seed)
    devices = _disks(cluster)
    for turn in range(4):
        name = f"r{turn}"
        editor, victim = rng.choice(cluster.nodes), rng.choice(cluster.nodes)
        copies = dict(part.split("=") for part in devices.split(","))

        def create(editor: Node = editor, name: str = name, copies: dict[str, str] = copies) -> None:
            places = dict.fromkeys(copies, "internal")
            with contextlib.suppress(BlockpairError):
                editor.rpc("resource.create_on", name=name, devices=copies, metadata=places, up=False)

        thread = threading.Thread(target=create)
        thread.start()
        time.sleep(rng.random() * 0.25)
        victim.kill()
        thread.join()
        victim.start()
        eventually(lambda: _same(cluster), f"both have the same version (turn {turn})")
        there = [(node.dir / f"config/resources/{name}.toml").exists() for node in cluster.nodes]
        assert there[0] == there[1]

        def settled() -> bool:
            return not any(list((node.dir / "state/cluster").glob("creating/*")) for node in cluster.nodes)

        eventually(settled, "what was half made is taken back")
        if not there[0]:
            eventually(partial(_creates, cluster.a, name, devices), "it can be made")
        cluster.a.ok("delete", name, "--yes")
        devices = _disks(cluster)


def _creates(node: Node, name: str, devices: str) -> bool:
    return node.cli("create", name, "--on", devices, "--metadata", "internal", "--no-up").code == 0


def test_a_node_refuses_a_port_that_it_does_not_listen_on(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    (free,) = free_ports(1)
    for key, own, port in (("port", "listen", b.port), ("control_port", "control", b.control)):
        for node in cluster.nodes:
            said = node.refused(3, "config", "edit", "--set", f"node.b.{key}={free}")
            assert f'{own} = "127.0.0.1:{port}"' in said and str(b.dir / "config/blockpair.toml") in said
            assert f'{own} = "127.0.0.1:{free}"' in said.partition("remedy: ")[2]
    assert a.rpc("resource.status")["configuration"]["version"] == 2
    # In the order that the remedy gives.
    b.stop()
    b.port = free
    b.configure()
    b.start()
    a.ok("config", "edit", "--set", f"node.b.port={free}")
