"""[arbiter] and [arbitration]: what is accepted, and how what is not is told."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from blockpair.cluster.rules import with_setting
from blockpair.config.arbiter import ArbiterChoice, ArbiterTable, place
from blockpair.config.arbitration import PROFILES, ArbitrationTable, Profile, Timing, timing
from blockpair.config.cluster import ClusterFile, cluster_text, parse_cluster, resource_on
from blockpair.config.files import ConfigError
from blockpair.config.resource import ResourceConfig, changed_keys, resource_config, resource_text

FILE = Path("cluster.toml")
WITNESS = 'kind = "witness"\naddress = "10.0.0.3:7790"\n'
ETCD = 'kind = "etcd"\nendpoints = ["https://10.0.0.3:2379"]\nca = "/ca"\ncert = "/cert"\nkey = "/key"\n'


def text(arbiter: str = WITNESS, resource: str = "", more: str = "") -> str:
    """A cluster of a and b with one resource."""
    return (
        '[cluster]\nname = "pair"\nid = "0f8b6c1e-6d6f-4b47-8d7e-0a2f0b8a3d11"\n'
        '[node.a]\naddresses = ["10.0.0.1"]\n[node.b]\naddresses = ["10.0.0.2"]\n'
        f"[arbiter]\n{arbiter}\n[resource.r0]\n{resource}\n"
        '[resource.r0.on.a]\ndevice = "/d"\nmetadata = "internal"\n'
        f'[resource.r0.on.b]\ndevice = "/d"\nmetadata = "internal"\n{more}'
    )


def parsed(arbiter: str = WITNESS, resource: str = "") -> ClusterFile:
    return parse_cluster(text(arbiter, resource), FILE)


def config(arbiter: str = WITNESS, resource: str = "") -> ResourceConfig:
    """The resource on a."""
    return resource_config(resource_on(parsed(arbiter, resource), "r0", "a"), Path("r0.toml"), "a")


def refusal(arbiter: str = WITNESS, resource: str = "") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parsed(arbiter, resource)
    assert caught.value.remedy
    return caught.value


def test_a_resource_goes_by_the_clusters_arbiter_unless_it_says_otherwise() -> None:
    assert (config().arbiter, config().automatic) == ("witness", True)
    assert (config(ETCD).arbiter, config(ETCD).automatic) == ("etcd", True)
    own = config(WITNESS, 'arbiter = "manual"')
    assert (own.arbiter, own.automatic) == ("manual", False)
    none = config("")
    assert (none.arbiter, none.automatic) == ("manual", False)


def test_by_protocol_a_only_a_fence_lets_the_survivor_go_on_by_itself() -> None:
    assert not config(WITNESS, 'protocol = "A"').automatic
    assert config(WITNESS, 'protocol = "B"').automatic
    with_fence = resource_config(
        msgspec.structs.replace(resource_on(parsed(WITNESS, 'protocol = "A"'), "r0", "a"), arbiter="fence"),
        Path("r0.toml"),
        "a",
    )
    assert with_fence.automatic


def test_what_is_written_reads_the_same() -> None:
    for arbiter in (WITNESS, ETCD, 'kind = "manual"'):
        content = parsed(arbiter, 'arbitration = { profile = "wan", lease = "20s" }')
        assert parse_cluster(cluster_text(content), FILE) == content
        assert "prefix" not in cluster_text(content)
        rendered = resource_text(resource_on(content, "r0", "a"))
        assert ("arbiter" in rendered) == (content.arbiter.kind != "manual")
        assert 'lease = "20s"' in rendered


def test_a_change_is_named_as_in_the_file() -> None:
    assert changed_keys(config(), config("")) == ["arbiter"]
    assert changed_keys(config(), config(WITNESS, 'arbitration = { profile = "fast" }')) == ["arbitration"]


def test_one_command_sets_it() -> None:
    edited = text("").replace("[arbiter]\n", "")
    for setting in ("arbiter.kind=witness", "arbiter.address=10.0.0.3:7790"):
        edited = with_setting(edited, setting)
    assert place(parse_cluster(edited, FILE).arbiter) == "witness 10.0.0.3:7790"


@pytest.mark.parametrize(
    ("arbiter", "key", "reason"),
    [
        ('kind = "oracle"', "arbiter.kind", "none of its values"),
        ('kind = "witness"', "arbiter.address", "is missing"),
        ('kind = "witness"\naddress = "10.0.0.3"', "arbiter.address", "not HOST:PORT"),
        ('kind = "witness"\naddress = "10.0.0.2:7790"', "arbiter.address", "is the node b"),
        (WITNESS + 'prefix = "/x/"', "arbiter.prefix", "means nothing to"),
        ('address = "10.0.0.3:7790"', "arbiter.address", "means nothing to"),
        (WITNESS + "port = 7790", "arbiter.port", "no such key"),
        ('kind = "etcd"', "arbiter.endpoints", "0 endpoints"),
        (ETCD.replace("https", "http"), "arbiter.endpoints[0]", "is not an endpoint"),
        (ETCD.replace(":2379", ""), "arbiter.endpoints[0]", "is not an endpoint"),
        (ETCD.replace("https://", ""), "arbiter.endpoints[0]", "is not an endpoint"),
        (ETCD.replace('"]', '", "https://10.0.0.3:2379"]'), "arbiter.endpoints[1]", "there twice"),
        (ETCD.replace('key = "/key"\n', ""), "arbiter.key", "is missing"),
        (ETCD.replace('"/ca"', '"ca"'), "arbiter.ca", "not an absolute path"),
        (ETCD + 'prefix = "x"', "arbiter.prefix", "is not a prefix of keys"),
    ],
)
def test_a_bad_arbiter_is_told_with_key_reason_and_remedy(arbiter: str, key: str, reason: str) -> None:
    found = refusal(arbiter)
    assert found.key == key
    assert reason in found.reason


@pytest.mark.parametrize(
    ("table", "key", "reason"),
    [
        ('profile = "slow"', "profile", "none of its values"),
        ('beacon = "1"', "beacon", "not a duration"),
        ('beacon = "1ms"', "beacon", "not from 10ms to 60s"),
        ('beacon = "2m"\nlease = "10m"', "beacon", "not from 10ms to 60s"),
        ('patience = "700ms"', "patience", "less than three beacons (750ms)"),
        ('lease = "750ms"', "lease", "reads would stop before"),
        ('lease = "751ms"', "lease", "drift 1000 ppm"),
        ('lease = "2h"', "lease", "more than 3600s"),
        ("drift = -1", "drift", "not from 0 to"),
        ("drift = 2000000", "drift", "not from 0 to"),
        ('profile = "fast"\nbeacon = "250ms"', "lease", "the patience is 750ms"),
    ],
)
def test_times_that_do_not_fit_are_told_with_key_reason_and_remedy(table: str, key: str, reason: str) -> None:
    found = refusal(WITNESS, "[resource.r0.arbitration]\n" + table)
    assert found.key == f"resource.r0.arbitration.{key}"
    assert reason in found.reason


def test_every_profile_fits_its_own_rules() -> None:
    assert set(PROFILES) == set(get_args(Profile))
    for profile in get_args(Profile):
        found = timing(Path("r0.toml"), ArbitrationTable(profile=profile))
        assert found == PROFILES[profile]
        assert round(3 * found.beacon, 9) <= found.patience < found.usable_lease < found.lease


def test_single_values_take_the_place_of_the_profiles() -> None:
    table = ArbitrationTable(profile="fast", beacon="20ms", lease="1s", drift=0)
    assert timing(Path("r0.toml"), table) == Timing(beacon=0.02, lease=1.0, patience=0.06, drift_ppm=0)


def test_every_kind_has_words() -> None:
    assert [place(ArbiterTable(kind)) for kind in get_args(ArbiterChoice) if kind != "etcd"]
    assert (
        place(ArbiterTable("etcd", endpoints=["https://h:1", "https://i:1"]))
        == "etcd https://h:1, https://i:1"
    )
