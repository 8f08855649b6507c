"""cluster.toml: what is accepted, what is refused and how that is told, what a node's resource files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockpair.config.cluster import cluster_text, parse_cluster, resource_on, resources_on
from blockpair.config.files import ConfigError
from blockpair.config.resource import resource_config, resource_text

FILE = Path("cluster.toml")
TEXT = """\
[cluster]
name = "pair"
id = "0f8b6c1e-6d6f-4b47-8d7e-0a2f0b8a3d11"

[node.a]
addresses = ["10.0.0.1", "fd00::1"]

[node.b]
addresses = ["10.0.0.2", "fd00::2"]
port = 8001
control_port = 8002

[resource.r0]
protocol = "B"
timeouts = { peer = "2s" }

[resource.r0.on.a]
device = "/dev/vg/r0"
metadata = "internal"
priority = 3

[resource.r0.on.b]
device = "/dev/vg/r0"
metadata = "/dev/vg/r0-meta"
"""


def test_a_node_sees_its_own_copy_and_the_other_as_its_peer() -> None:
    content = parse_cluster(TEXT, FILE)
    config = resource_config(resource_on(content, "r0", "a"), Path("r0.toml"), "a")
    assert (config.device, config.metadata, config.priority) == (Path("/dev/vg/r0"), None, 3)
    assert (config.protocol, config.peer_timeout, config.tls) == ("B", 2.0, True)
    assert [(p.name, [str(a) for a in p.addresses]) for p in config.peers] == [
        ("b", ["10.0.0.2:8001", "[fd00::2]:8001"])
    ]
    assert resource_on(content, "r0", "b").priority == 0
    assert list(resources_on(content, "a")) == ["r0"]
    assert resources_on(content, "c") == {}


def test_what_is_written_reads_the_same() -> None:
    content = parse_cluster(TEXT, FILE)
    text = cluster_text(content)
    assert parse_cluster(text, FILE) == content
    assert cluster_text(parse_cluster(text, FILE)) == text
    # A default is not written: it may change with the version.
    assert "split_brain" not in text


def test_a_rendered_resource_file_has_all_addresses() -> None:
    text = resource_text(resource_on(parse_cluster(TEXT, FILE), "r0", "a"), "rendered")
    assert text.startswith("# rendered\n")
    assert 'addresses = ["10.0.0.2:8001", "[fd00::2]:8001"]' in text


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ('id = "0f8b6c1e', 'id = "nonsense', "cluster.id", "not a UUID"),
        ('name = "pair"', 'name = "Pair!"', "cluster.name", "not a name"),
        ("[node.a]", "[node.A]", "node.A", "not a name"),
        ('["10.0.0.1", "fd00::1"]', "[]", "node.a.addresses", "0 addresses"),
        ('"10.0.0.1", ', '"10.0.0.1:7788", ', "node.a.addresses[0]", "without a port"),
        ('"10.0.0.1", ', '"0.0.0.0", ', "node.a.addresses[0]", "cannot be reached"),
        ('"10.0.0.1", ', '"fd00::1", ', "node.a.addresses[1]", "twice"),
        ("port = 8001", "port = 0", "node.b.port", "not a port"),
        ("control_port = 8002", "control_port = 8001", "node.b.control_port", "too"),
        ("[node.b]", "x = 1\n[node.b]", "node.a.x", "no such key"),
        ('["10.0.0.1", "fd00::1"]', '"10.0.0.1"', "node.a.addresses", "type array"),
        ('metadata = "internal"', "", "resource.r0.on.a.metadata", "is missing"),
        ('protocol = "B"', 'protocol = "D"', "resource.r0.protocol", "is none of its values"),
        ('protocol = "B"', 'tls = "off"', "resource.r0.tls", "loopback"),
        ('protocol = "B"', 'block_size = "3K"', "resource.r0.block_size", "power of two"),
        ('peer = "2s"', 'peer = "2"', "resource.r0.timeouts.peer", "not a duration"),
        ("[resource.r0.on.b]", "[resource.r0.on.c]", "resource.r0.on.c", "no node 'c'"),
        ('device = "/dev/vg/r0"', 'device = "vg/r0"', "resource.r0.on.a.device", "absolute"),
        ("priority = 3", "priority = -3", "resource.r0.on.a.priority", "not from 0"),
        ("/dev/vg/r0-meta", "/dev/vg/r0", "resource.r0.on.b.metadata", "device too"),
        ("[cluster]", "[[cluster", "", "not TOML"),
    ],
)
def test_a_fault_is_told_with_key_reason_and_remedy(old: str, new: str, key: str, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        parse_cluster(TEXT.replace(old, new, 1), FILE)
    assert caught.value.key == key
    assert reason in caught.value.reason
    assert caught.value.remedy


def test_a_resource_has_a_copy_on_two_nodes() -> None:
    with pytest.raises(ConfigError, match="1 nodes have a copy"):
        parse_cluster(TEXT.partition("[resource.r0.on.b]")[0], FILE)


def test_one_device_is_in_one_resource() -> None:
    second = TEXT[TEXT.index("[resource.r0]") :].replace("resource.r0", "resource.r1")
    with pytest.raises(ConfigError) as caught:
        parse_cluster(TEXT + second, FILE)
    assert caught.value.key == "resource.r1.on.a.device"


def test_nodes_on_one_host_have_ports_of_their_own() -> None:
    parse_cluster(TEXT.replace("10.0.0.2", "10.0.0.1"), FILE)


def test_two_nodes_cannot_be_at_one_address_and_port() -> None:
    text = TEXT.replace("[node.b]", '[node.c]\naddresses = ["10.0.0.1"]\n[node.b]')
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1:7788 is node\.a\.port too") as caught:
        parse_cluster(text, FILE)
    assert 'on c, in its blockpair.toml under [node]: listen = "10.0.0.1:PORT"' in caught.value.remedy


def test_a_service_belongs_to_its_resource_and_is_checked() -> None:
    text = TEXT.replace(
        "[resource.r0.on.a]", '[resource.r0.service]\nmount = "/srv/r0"\n\n[resource.r0.on.a]', 1
    )
    content = parse_cluster(text, FILE)
    assert content.resource["r0"].service.mount == "/srv/r0"
    assert parse_cluster(cluster_text(content), FILE) == content
    # What a node's resource file says of it: nothing, so no resource goes on by an old one.
    assert resource_on(content, "r0", "a") == resource_on(parse_cluster(TEXT, FILE), "r0", "a")
    with pytest.raises(ConfigError) as caught:
        parse_cluster(text.replace("/srv/r0", "srv"), FILE)
    assert caught.value.key == "resource.r0.service.mount"
    with pytest.raises(ConfigError) as caught:
        parse_cluster(text.replace("mount =", "mont ="), FILE)
    assert caught.value.key == "resource.r0.service.mont"


def test_what_two_services_would_both_claim_is_refused() -> None:
    service = '[resource.NAME.service]\nmount = "/srv/x"\n'
    r0 = TEXT + service.replace("NAME", "r0")
    _, _, resource = TEXT.partition("[resource.r0]")
    r1 = ("[resource.r0]" + resource).replace("resource.r0", "resource.r1").replace("vg/r0", "vg/r1")
    with pytest.raises(ConfigError) as caught:
        parse_cluster(r0 + r1 + service.replace("NAME", "r1"), FILE)
    assert caught.value.key == "resource.r1.service.mount" and "resource.r0.service.mount too" in str(
        caught.value
    )
