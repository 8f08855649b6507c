"""Which command may change what in the cluster's configuration, and how its text is edited."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from blockpair.cluster.rules import (
    Effect,
    Task,
    check_change,
    check_local,
    effects,
    moved,
    with_node,
    with_resource,
    with_setting,
    without_node,
    without_resource,
    without_setting,
)
from blockpair.config.cluster import (
    ClusterFile,
    CopyEntry,
    NodeEntry,
    ResourceEntry,
    parse_cluster,
    resource_on,
)
from blockpair.config.names import Address
from blockpair.config.node import NodeConfig, NodeFile, NodeTable, node_config
from blockpair.config.resource import PeerTable
from blockpair.daemon.local import check_ports
from blockpair.errors import BlockpairError, ErrorKind
from tests.unit.test_cluster_config import TEXT

FILE = Path("cluster.toml")
R1 = ResourceEntry(
    {"a": CopyEntry("/dev/r1", "internal"), "b": CopyEntry("/dev/r1", "internal", 2)}, protocol="A"
)


def _parsed(text: str) -> ClusterFile:
    return parse_cluster(text, FILE)


def test_editing_keeps_the_comments_and_the_rest() -> None:
    text = "# ours\n" + TEXT.replace('protocol = "B"', 'protocol = "B"  # fast')
    more = with_node(with_resource(text, "r1", R1), "c", NodeEntry(["10.0.0.3"]))
    content = _parsed(more)
    assert content.resource["r1"] == R1
    assert content.resource["r0"] == _parsed(TEXT).resource["r0"]
    assert content.node["c"] == NodeEntry(["10.0.0.3"])
    assert "# ours" in more
    assert "# fast" in more
    less = without_node(without_resource(more, "r1"), "c")
    assert _parsed(less) == _parsed(TEXT)
    assert "# fast" in less


def test_tables_out_of_order_are_edited_too() -> None:
    text = TEXT + '\n[node.d]\naddresses = ["10.0.0.4"]\n'
    content = _parsed(with_resource(with_node(text, "e", NodeEntry(["10.0.0.5"])), "r1", R1))
    assert list(content.node) == ["a", "b", "d", "e"] or content.node.keys() == {"a", "b", "d", "e"}
    assert content.resource["r1"] == R1


def test_the_first_resource_makes_the_table() -> None:
    text = TEXT.partition("[resource.r0]")[0]
    assert _parsed(with_resource(text, "r1", R1)).resource == {"r1": R1}
    assert _parsed(without_resource(with_resource(text, "r1", R1), "r1")).resource == {}


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("resource.r0.protocol=A", lambda c: c.resource["r0"].protocol == "A"),
        ("resource.r0.on.a.priority = 7", lambda c: c.resource["r0"].on["a"].priority == 7),
        ("resource.r0.timeouts.peer=5s", lambda c: c.resource["r0"].timeouts.peer == "5s"),
        ("resource.r0.nbd.queues=2", lambda c: c.resource["r0"].nbd.queues == 2),
        ('node.a.addresses=["10.0.0.9"]', lambda c: c.node["a"].addresses == ["10.0.0.9"]),
        ('resource."r0".protocol="C"', lambda c: c.resource["r0"].protocol == "C"),
    ],
)
def test_a_setting_is_set(setting: str, found: Callable[[ClusterFile], bool]) -> None:
    assert found(_parsed(with_setting(TEXT, setting)))


def test_what_was_set_is_taken_out_again() -> None:
    edited = with_setting(with_setting(TEXT, "resource.r0.arbiter=manual"), "arbiter.kind=manual")
    for key in ("resource.r0.arbiter", "arbiter"):
        edited = without_setting(edited, key)
    assert _parsed(edited) == _parsed(TEXT)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("resource.r0.arbiter", ErrorKind.NOT_FOUND),
        ("cluster.name.x", ErrorKind.NOT_FOUND),
        ("arbiter=manual", ErrorKind.USAGE),
        ("", ErrorKind.USAGE),
    ],
)
def test_what_is_not_there_is_not_taken_out(key: str, kind: ErrorKind) -> None:
    with pytest.raises(BlockpairError) as caught:
        without_setting(TEXT, key)
    assert caught.value.kind is kind and caught.value.remedy


@pytest.mark.parametrize("setting", ["resource.r0.protocol", "=A", "a b=1", "cluster.name.x=1"])
def test_what_is_no_setting_is_refused(setting: str) -> None:
    with pytest.raises(BlockpairError) as caught:
        with_setting(TEXT, setting)
    assert caught.value.kind is ErrorKind.USAGE


@pytest.mark.parametrize(
    ("setting", "missing", "known"),
    [
        ("resource.ro.protocol=A", "no resource 'ro'", "there are: r0"),
        ("node.x.port=1", "no node 'x'", "there are: a, b"),
    ],
)
def test_a_setting_of_what_is_not_there_is_told_what_is(setting: str, missing: str, known: str) -> None:
    with pytest.raises(BlockpairError) as caught:
        with_setting(TEXT, setting)
    assert missing in caught.value.message
    assert caught.value.remedy == known


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('protocol = "B"', 'block_size = "8K"', "resource.r0.block_size"),
        ("0f8b6c1e", "0f8b6c1f", "cluster.id"),
        ("[node.b]", '[node.c]\naddresses = ["10.0.0.3"]\n[node.b]', "node.c"),
    ],
)
def test_what_cannot_change_is_refused(old: str, new: str, key: str) -> None:
    with pytest.raises(BlockpairError) as caught:
        check_change(_parsed(TEXT), _parsed(TEXT.replace(old, new)), Task())
    assert caught.value.kind is ErrorKind.UNSAFE
    assert caught.value.message.startswith(f"{key}: ")
    assert caught.value.remedy


def test_a_resource_comes_and_goes_by_its_own_command() -> None:
    old, new = _parsed(TEXT), _parsed(with_resource(TEXT, "r1", R1))
    check_change(old, new, Task("create", "r1"))
    check_change(new, old, Task("delete", "r1"))
    for before, after, task in (
        (old, new, Task()),
        (old, new, Task("create", "r2")),
        (new, old, Task()),
        (new, old, Task("delete", "r0")),
    ):
        with pytest.raises(BlockpairError, match=r"resource\.r1"):
            check_change(before, after, task)


def test_a_copy_does_not_move_to_another_node_by_an_edit() -> None:
    text = with_node(TEXT, "c", NodeEntry(["10.0.0.3"]))
    with pytest.raises(BlockpairError, match=r"resource\.r0\.on"):
        check_change(_parsed(text), _parsed(text.replace("on.b]", "on.c]")), Task())


def _lost(text: str, node: str = "b") -> str:
    return with_node(text, node, replace(_parsed(text).node[node], lost=True))


def test_a_node_is_lost_and_succeeded_by_its_own_commands() -> None:
    old, new = _parsed(TEXT), _parsed(_lost(TEXT))
    assert new.members == ["a"]
    for before, after in ((old, new), (new, old)):
        check_change(before, after, Task("nodes"))
        for task in (Task(), Task("create", "r1"), Task("move", "r0")):
            with pytest.raises(BlockpairError, match=r"node\.b\.lost") as caught:
                check_change(before, after, task)
            assert "remove b --lost" in caught.value.remedy


def test_nothing_is_made_on_a_lost_node() -> None:
    lost = _lost(TEXT)
    with pytest.raises(BlockpairError, match="b is lost"):
        check_change(_parsed(lost), _parsed(with_resource(lost, "r1", R1)), Task("create", "r1"))
    # What is there may be changed, and go.
    check_change(_parsed(lost), _parsed(lost.replace('protocol = "B"', 'protocol = "C"')), Task())
    check_change(_parsed(lost), _parsed(without_resource(lost, "r0")), Task("delete", "r0"))


def test_where_a_lost_node_was_another_may_be() -> None:
    other = with_node(_lost(TEXT), "c", NodeEntry(_parsed(TEXT).node["b"].addresses))
    assert _parsed(other).members == ["a", "c"]
    assert resource_on(_parsed(other), "r0", "a").peer == [PeerTable("b", lost=True)]


def test_a_device_changes_only_while_the_resource_is_down() -> None:
    old, new = _parsed(TEXT), _parsed(TEXT.replace('"/dev/vg/r0"', '"/dev/vg/other"', 1))
    assert moved(old, new, "a") == ["r0"]
    assert moved(old, new, "b") == []
    check_local(old, new, "a", lambda name: False)
    check_local(old, new, "b", lambda name: True)
    with pytest.raises(BlockpairError, match=r"r0\.on\.a\.device"):
        check_local(old, new, "a", lambda name: True)


def test_a_resource_that_is_up_does_not_vanish() -> None:
    old, new = _parsed(TEXT), _parsed(without_resource(TEXT, "r0"))
    check_local(old, new, "a", lambda name: False)
    with pytest.raises(BlockpairError, match="would be gone"):
        check_local(old, new, "a", lambda name: True)


def test_which_resources_must_be_restarted_and_where() -> None:
    old = _parsed(TEXT)
    assert effects(old, _parsed(TEXT.replace('"B"', '"A"'))) == [Effect("r0", ["a", "b"])]
    assert effects(old, _parsed(TEXT.replace("priority = 3", "priority = 4"))) == [Effect("r0", ["a"])]
    witness = '\n[arbiter]\nkind = "witness"\naddress = "10.0.0.9:7790"\n'
    assert effects(old, _parsed(TEXT + witness)) == [Effect("r0", ["a", "b"], arbiter=True)]
    [told] = effects(_parsed(TEXT + witness), _parsed(TEXT.replace('"B"', '"A"') + witness))
    assert told.manual.startswith("by protocol A")
    # It was so before.
    assert effects(old, _parsed(TEXT.replace('"B"', '"A"')))[0].manual == ""
    # Where the other node is, is taken up at once.
    assert effects(old, _parsed(TEXT.replace("10.0.0.2", "10.0.0.9"))) == []
    assert effects(old, _parsed(TEXT.replace('"pair"', '"two"'))) == []


@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        ("node.b.port=7788", 'listen = "10.0.0.2:8001"'),
        ("node.b.control_port=7789", 'control = "10.0.0.2:8002"'),
        # Right as it is, another node's, and another key.
        ("node.b.port=8001", ""),
        ("node.a.port=9000", ""),
        ("resource.r0.protocol=C", ""),
    ],
)
def test_a_node_refuses_ports_that_it_does_not_listen_on(setting: str, refused: str) -> None:
    own = NodeTable("b", listen="10.0.0.2:8001", control="10.0.0.2:8002")
    node = node_config(NodeFile(own), Path("blockpair.toml"), "host")
    old, new = parse_cluster(TEXT, FILE), parse_cluster(with_setting(TEXT, setting), FILE)
    if not refused:
        check_ports(old, new, node, Path("blockpair.toml"))
        return
    with pytest.raises(BlockpairError) as caught:
        check_ports(old, new, node, Path("blockpair.toml"))
    assert refused in caught.value.message and "[node] of blockpair.toml" in caught.value.message
    # Any free port: which one, nobody here knows.
    check_ports(old, new, replace_ports(node), Path("blockpair.toml"))


def replace_ports(node: NodeConfig) -> NodeConfig:
    """The same node, on any free ports."""
    return dataclasses.replace(node, listen=Address("10.0.0.2", 0), control=Address("10.0.0.2", 0))
