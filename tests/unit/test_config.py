"""Configuration: each fault names the file, the key, the reason and the remedy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.config.files import ConfigError, remove_unfinished, write_atomically
from blockpair.config.locations import check_socket_path, locations
from blockpair.config.names import Address, check_name, parse_address
from blockpair.config.node import NodeFile, NodeTable, node_config, read_node
from blockpair.config.resource import (
    MAX_PRIORITY,
    NbdTable,
    OnIoError,
    PeerTable,
    ResourceFile,
    SplitBrainPolicy,
    TimeoutsTable,
    changed_keys,
    read_resource,
    resource_config,
    resource_text,
    write_resource,
)
from blockpair.errors import BlockpairError

GOOD = """
device = "/dev/md/r0"
metadata = "internal"
block_size = "64K"
protocol = "B"
[timeouts]
peer = "500ms"
[nbd]
kernel_device = "off"
dead_connection_timeout = "1h"
[[peer]]
name = "b"
address = "10.0.0.2:7788"
"""


def test_a_whole_resource_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "r0.toml"
    file.write_text(GOOD)
    config = read_resource(file, "a")
    assert (config.name, config.device, config.metadata) == ("r0", Path("/dev/md/r0"), None)
    assert (config.block_size, config.protocol, config.peer_timeout) == (65536, "B", 0.5)
    assert (config.kernel_device, config.dead_connection_timeout) == ("off", 3600)
    assert [(peer.name, str(peer.address)) for peer in config.peers] == [("b", "10.0.0.2:7788")]
    assert config.metadata_spec() == {"kind": "internal"}


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ('device = "/dev/md/r0"', "", "device", "is missing"),
        ('device = "/dev/md/r0"', "device = 7", "device", "type str, not int"),
        ('device = "/dev/md/r0"', 'device = "md/r0"', "device", "not an absolute path"),
        ('metadata = "internal"', 'metadata = "inside"', "metadata", "not an absolute path"),
        ('block_size = "64K"', 'block_size = "5K"', "block_size", "not a power of two"),
        ('block_size = "64K"', 'block_size = "2M"', "block_size", "not a power of two"),
        ('block_size = "64K"', 'block_size = "big"', "block_size", "not a size"),
        ('protocol = "B"', 'protocol = "D"', "protocol", "is none of its values"),
        ('protocol = "B"', 'split_brain = "discard"', "split_brain", "is none of its values"),
        ('protocol = "B"', "priority = -1", "priority", "not from 0 to"),
        ('protocol = "B"', 'protokol = "B"', "protokol", "no such key"),
        ('peer = "500ms"', 'peer = "500"', "timeouts.peer", "not a duration"),
        ('peer = "500ms"', 'peer = "1h"', "timeouts.peer", "not from 0.1 to 300"),
        ('peer = "500ms"', 'pear = "1h"', "timeouts.pear", "no such key"),
        ('kernel_device = "off"', "queues = 99", "nbd.queues", "not from 0 to 16"),
        ('kernel_device = "off"', "sector_size = 1024", "nbd.sector_size", "neither 512 nor 4096"),
        ('name = "b"', 'name = "B"', "peer[0].name", "is not a name"),
        ('name = "b"', 'name = "a"', "peer[0].name", "is this node itself"),
        ('"10.0.0.2:7788"', '"10.0.0.2"', "peer[0].address", "not HOST:PORT"),
        ('"10.0.0.2:7788"', '"10.0.0.2:0"', "peer[0].address", "cannot be reached"),
        ("[[peer]]", "[[peer", "", "is not TOML"),
    ],
)
def test_a_bad_value_is_told_with_file_key_reason_and_remedy(
    tmp_path: Path, old: str, new: str, key: str, reason: str
) -> None:
    file = tmp_path / "r0.toml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_resource(file, "a")
    assert caught.value.key == key
    assert reason.lower() in caught.value.reason.lower()
    assert str(file) in caught.value.message
    assert caught.value.remedy
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("old", "new", "meant"),
    [
        ('protocol = "B"', 'protokol = "B"', "protocol"),
        ('peer = "500ms"', 'pear = "1s"', "peer"),
        ('protocol = "B"', "xyzzy = 1", None),
    ],
)
def test_a_key_that_is_nearly_one_is_told(tmp_path: Path, old: str, new: str, meant: str | None) -> None:
    file = tmp_path / "r0.toml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_resource(file, "a")
    wanted = "" if meant is None else f": did you mean {meant}?"
    assert caught.value.remedy == f"remove it, or look for a typing mistake{wanted}"


def test_a_number_where_a_text_belongs_is_put_in_quotes(tmp_path: Path) -> None:
    file = tmp_path / "r0.toml"
    file.write_text(GOOD.replace('peer = "500ms"', "peer = 500"))
    with pytest.raises(ConfigError, match="must be of type str, not int") as caught:
        read_resource(file, "a")
    assert "quotes" in caught.value.remedy


def test_of_few_values_all_are_named(tmp_path: Path) -> None:
    file = tmp_path / "r0.toml"
    for old, new, values in (
        ('protocol = "B"', 'protocol = "D"', '"A", "B", "C"'),
        ('kernel_device = "off"', 'kernel_device = "no"', '"auto", "off", "required"'),
    ):
        file.write_text(GOOD.replace(old, new))
        with pytest.raises(ConfigError) as caught:
            read_resource(file, "a")
        assert values in caught.value.remedy


def test_what_differs_is_named_as_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r0.toml"
    file.write_text(GOOD)
    old = read_resource(file, "a")
    file.write_text(GOOD.replace('protocol = "B"', 'protocol = "C"').replace("500ms", "600ms"))
    assert changed_keys(old, read_resource(file, "a")) == ["protocol", "timeouts.peer"]
    # Where the peer is, is taken up at once.
    file.write_text(GOOD.replace("10.0.0.2:7788", "10.0.0.3:7788"))
    assert changed_keys(old, read_resource(file, "a")) == []


def test_a_second_peer_is_refused() -> None:
    peers = [PeerTable("b", "h:1"), PeerTable("c", "h:2")]
    with pytest.raises(ConfigError, match="2 peers are too many"):
        resource_config(ResourceFile("/d", "internal", peers), Path("r0.toml"), "a")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r0.toml"
    file.write_bytes(b"device = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_resource(file, "a")


_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(
    device=_text,
    protocol=st.sampled_from(["A", "B", "C"]),
    split_brain=st.sampled_from(get_args(SplitBrainPolicy)),
    priority=st.integers(0, MAX_PRIORITY),
    on_io_error=st.sampled_from(get_args(OnIoError)),
    timeout=st.sampled_from(["3s", "250ms"]),
    queues=st.integers(0, 16),
)
def test_what_is_written_is_read_back(  # noqa: PLR0917 - an argument, a key
    tmp_path_factory: pytest.TempPathFactory,
    device: str,
    protocol: str,
    split_brain: str,
    priority: int,
    on_io_error: str,
    timeout: str,
    queues: int,
) -> None:
    content = ResourceFile(
        device="/" + device,
        metadata="/m",
        peer=[PeerTable("b", "[fd00::1]:7788")],
        protocol=protocol,  # type: ignore[arg-type]
        split_brain=split_brain,  # type: ignore[arg-type]
        priority=priority,
        on_io_error=on_io_error,  # type: ignore[arg-type]
        timeouts=TimeoutsTable(peer=timeout),
        nbd=NbdTable(queues=queues, sector_size=512 if queues % 2 else 4096),
    )
    file = tmp_path_factory.mktemp("config") / "r0.toml"
    write_resource(file, content)
    assert read_resource(file, "a") == resource_config(content, file, "a")


def test_defaults_that_nobody_changed_are_not_written() -> None:
    text = resource_text(ResourceFile("/d", "internal", [PeerTable("b", "h:1")]))
    assert "[timeouts]" not in text and "[nbd]" not in text


def test_a_node_without_a_file_is_named_after_its_host() -> None:
    config = node_config(NodeFile(), Path("/etc/blockpair/blockpair.toml"), "Alpha.example.org")
    assert (config.name, str(config.listen), config.kernel_device) == ("alpha", "0.0.0.0:7788", "auto")


def test_a_host_name_that_cannot_name_a_node_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError) as caught:
        node_config(NodeFile(), Path("blockpair.toml"), "-x-")
    assert caught.value.key == "node.name" and "[node]" in caught.value.remedy


def test_a_bad_listen_address_is_told() -> None:
    with pytest.raises(ConfigError, match=r"node\.listen"):
        node_config(NodeFile(node=NodeTable(name="a", listen="7788")), Path("blockpair.toml"), "h")


def test_the_node_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "blockpair.toml"
    file.write_text('[node]\nname = "n1"\nlisten = "[::]:0"\n[log]\nformat = "json"\nlevel = "debug"\n')
    config = read_node(file)
    assert (config.name, config.listen, config.log_format) == ("n1", Address("::", 0), "json")


@pytest.mark.parametrize("name", ["a", "0", "r0.data_1-x", "a" * 64])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "A", "a/b", "a b", "a\n", "ä", "a" * 65, ".."])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="begins with a letter or digit"):
        check_name(name)


@pytest.mark.parametrize(
    "text", ["", ":1", "h", "h:", "h:x", "h:65536", "h:-1", "fd00::1:80", "[x]:80", "h h:80", "[fd00::1]"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@given(st.sampled_from(["h", "10.0.0.1", "fd00::1", "a.example.org"]), st.integers(1, 65535))
def test_an_address_is_read_as_it_is_written(host: str, port: int) -> None:
    assert parse_address(str(Address(host, port))) == Address(host, port)


def test_one_variable_moves_everything(tmp_path: Path) -> None:
    places = locations({"BLOCKPAIR_DIR": str(tmp_path)})
    for path in (places.node_file, places.rpc_socket, places.desired_file, places.device_link("r0")):
        assert path.is_relative_to(tmp_path)
    assert locations({}).node_file == Path("/etc/blockpair/blockpair.toml")
    assert locations({"BLOCKPAIR_DIR": "/x"}, "/y").config == Path("/y/config")


def test_a_path_no_socket_can_have_is_refused_with_the_remedy() -> None:
    with pytest.raises(BlockpairError) as caught:
        check_socket_path(Path("/" + "x" * 107))
    assert "BLOCKPAIR_DIR" in caught.value.remedy
    assert check_socket_path(Path("/" + "x" * 106))


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "f"
    write_atomically(file, "one")
    write_atomically(file, "two", 0o600)
    assert file.read_text() == "two" and file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_what_a_writer_killed_in_the_middle_left_is_removed(tmp_path: Path) -> None:
    file, other = tmp_path / "sub" / "f", tmp_path / "sub" / ".mine"
    write_atomically(file, "one")
    other.write_text("a person's")
    child = os.fork()
    if child == 0:
        with patch.object(Path, "replace", lambda *_: os._exit(0)):
            write_atomically(file, "two")
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(file.parent.iterdir())) == 3
    assert len(remove_unfinished(tmp_path)) == 1
    assert sorted(file.parent.iterdir()) == [other, file] and file.read_text() == "one"
