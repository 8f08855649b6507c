"""A real other user at the daemon's socket: the group may look, only root may change."""

from __future__ import annotations

import grp
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from blockpair.errors import BlockpairError, ErrorKind, kind_of
from blockpair.rpc.client import Client
from tests.e2e.cluster import Cluster, Node

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


def call_as(node: Node, group: int, method: str, **params: Any) -> Any:
    """What the daemon answers user nobody, whose only group is ``group``. Raises `BlockpairError` as told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing may escape into pytest's own code, which this process is a copy of.
        try:
            os.setgroups([])
            os.setresgid(group, group, group)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            told = {"result": _call(socket_of(node), method, params)}
        except BlockpairError as error:
            told = {"error": [error.kind.value, error.message, error.remedy]}
        except BaseException as error:
            told = {"crash": repr(error)}
        finally:
            os.write(writing, json.dumps(told).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = json.loads(stream.read())
    os.waitpid(child, 0)
    if "error" in answer:
        kind, message, remedy = answer["error"]
        raise BlockpairError(kind_of(kind), message, remedy)
    return answer["result"]


def _call(socket: Path, method: str, params: dict[str, Any]) -> Any:
    with Client(socket) as client:
        return json.loads(client.call_raw(method, params))


def socket_of(node: Node) -> Path:
    """The daemon's socket."""
    return node.dir / "run/blockpaird.sock"


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """Node a with the resource r0, whose directories anybody may pass through as on an installed system."""
    cluster.start()
    cluster.create()
    a = cluster.a
    for folder in (a.dir.parent, a.dir, a.dir / "run"):
        folder.chmod(0o755)
    return a


def refusal(node: Node, group: int, method: str, **params: Any) -> BlockpairError:
    """The error of a call that must be refused."""
    with pytest.raises(BlockpairError) as caught:
        call_as(node, group, method, **params)
    return caught.value


def test_a_member_of_the_group_may_look_and_change_nothing(node: Node) -> None:
    socket = socket_of(node).stat()
    assert stat.S_IMODE(socket.st_mode) == 0o660
    assert call_as(node, socket.st_gid, "daemon.info")["node"] == "a"
    assert call_as(node, socket.st_gid, "resource.status")["resources"][0]["name"] == "r0"
    assert call_as(node, socket.st_gid, "resource.metadata", name="r0")["metadata"]
    assert call_as(node, socket.st_gid, "resource.history", name="r0")["name"] == "r0"
    assert call_as(node, socket.st_gid, "bundle.list") == []
    assert call_as(node, socket.st_gid, "events.read")["events"]
    before = node.status()
    changes: dict[str, dict[str, Any]] = {
        "resource.up": {},
        "resource.down": {},
        "resource.promote": {"force": True},
        "resource.delete": {},
        "resource.sync": {"source": "a"},
        "resource.resolve": {"victim": "a"},
        "resource.loss": {},
        "notify.test": {},
        "bundle.export": {},
        "bundle.delete": {},
    }
    for method, params in changes.items():
        error = refusal(node, socket.st_gid, method, name="r0", **params)
        assert error.kind == ErrorKind.NOT_PERMITTED, error.message
        assert f"user {NOBODY} may not call {method}" in error.message and "root" in error.remedy
    assert node.status() == before
    denied = [line for line in node.log.read_text().splitlines() if "command.denied" in line]
    assert len(denied) == len(changes) and all(str(NOBODY) in line for line in denied)


def test_a_path_is_not_opened_for_a_member_of_the_group(node: Node) -> None:
    """Not even to say that there is no such file, in a directory that only root may read."""
    group = socket_of(node).stat().st_gid
    told = [
        refusal(node, group, "bundle.show", name=str(node.dir / "config" / name))
        for name in ("blockpair.toml", "nothing")
    ]
    assert [error.kind for error in told] == [ErrorKind.NOT_PERMITTED] * 2
    assert told[0].message.replace("blockpair.toml", "nothing") == told[1].message


def test_a_user_outside_the_group_is_not_let_in(node: Node) -> None:
    error = refusal(node, NOBODY, "daemon.info")
    assert "may not use the daemon's socket" in error.message and "group blockpair" in error.remedy


def test_the_nbd_sockets_are_for_the_group_of_block_devices(node: Node) -> None:
    """Who may use one reads and writes the disk."""
    exports = (node.dir / "run/nbd").stat()
    groups = {entry.gr_name: entry.gr_gid for entry in grp.getgrall()}
    assert stat.S_IMODE(exports.st_mode) == 0o2750
    assert exports.st_gid == groups.get("disk", os.getegid())
