"""When a changed key is in use: said of each, on the page as in the code, and what a change advises."""

from __future__ import annotations

import tomllib

import msgspec
import pytest
from msgspec.structs import replace

from blockpair.cluster.rules import Effect, effects, with_setting
from blockpair.config.cluster import ClusterFile
from blockpair.config.moments import CLUSTER_KEYS, NODE_KEYS, Moment, waiting
from blockpair.config.node import NodeFile
from tests.key_samples import CLUSTER_VALUES, NODE_VALUES, named, tables
from tests.unit.config_page import DOCS, keys, names
from tests.unit.test_cluster_config import TEXT

NAMES = {"NODE": "a", "NAME": "r0", "KIND": "clock", "ARRAY": "md0"}
FILES = {"`blockpair.toml`": NODE_KEYS, "`cluster.toml`": CLUSTER_KEYS}
WORDS = {
    "at once": Moment.AT_ONCE,
    "by `down` and `up`": Moment.UP,
    "by the next promotion or switchover": Moment.SERVICE,
    "by a restart": Moment.RESTART,
    "never": Moment.FIXED,
}


def test_it_is_said_of_every_key_and_of_no_other() -> None:
    assert set(NODE_KEYS) == set(keys(NodeFile))
    # A device is part of the value of `levels`.
    assert set(CLUSTER_KEYS) == {key for key in keys(ClusterFile) if not key.startswith("a device's ")}
    assert set(NODE_VALUES) == set(NODE_KEYS) and set(CLUSTER_VALUES) == set(CLUSTER_KEYS)


def test_the_page_says_the_same() -> None:
    page = (DOCS / "reference/config.md").read_text()
    lines = page.partition("| Of | Keys | A change takes effect |\n| --- | --- | --- |\n")[2].splitlines()
    told: dict[str, dict[str, Moment]] = {file: {} for file in FILES}
    file = ""
    for line in lines[: lines.index("")]:
        of, which, when = (cell.strip() for cell in line.strip("|").split(" | "))
        file = of or file
        if file not in FILES:
            continue
        [found] = [moment for words, moment in WORDS.items() if when.startswith(words)]
        for name in (name for part in which.split(";") for name in names(part)):
            covered = [key for key in FILES[file] if key == name or key.startswith(f"{name}.")]
            assert covered, name
            for key in covered:
                assert key not in told[file], f"{key} is there twice"
                told[file][key] = found
    assert told == FILES


# Where they are given at all, these must be.
DELIVERIES = """\
[notify.webhook.r0]
url = "https://x/"
[notify.mail]
host = "x"
from = "x@x"
to = ["x@x"]
"""


def _node(*chosen: str) -> NodeFile:
    document = tables(NODE_VALUES, NAMES, chosen, into=tomllib.loads(DELIVERIES))
    return msgspec.convert(document, NodeFile)


@pytest.mark.parametrize("key", NODE_KEYS)
def test_what_waits_for_a_restart_is_named(key: str) -> None:
    told = waiting(_node(), _node(key))
    assert told == ([] if NODE_KEYS[key] is Moment.AT_ONCE else [named(key, NAMES)])


def test_a_delivery_that_is_new_is_named_as_a_whole() -> None:
    assert waiting(NodeFile(), _node()) == ["notify.webhook.r0", "notify.mail"]
    assert waiting(_node(), NodeFile()) == ["notify.webhook.r0", "notify.mail"]
    assert waiting(_node(*NODE_VALUES), _node(*NODE_VALUES)) == []


# What a value may need beside it.
BESIDE = {
    "resource.NAME.arbiter": '\n[arbiter]\nkind = "witness"\naddress = "10.0.0.9:7790"\n',
    "fence.NODE.delay": '\n[fence.a]\nlevels = [[{ agent = "fence_y" }]]\n',
}


@pytest.mark.parametrize("key", CLUSTER_KEYS)
def test_a_change_advises_what_is_said_of_it(key: str) -> None:
    text = TEXT + BESIDE.get(key, "")
    edited = with_setting(text, f"{named(key, NAMES)}={CLUSTER_VALUES[key]}")
    found = effects(_unchecked(text), _unchecked(edited))
    on = ["a"] if ".on.NODE." in key else ["a", "b"]
    advised = {
        Moment.AT_ONCE: [],
        Moment.UP: [Effect("r0", on, key in ("arbiter.kind", "resource.NAME.arbiter"))],
        Moment.SERVICE: [Effect("r0", [], service="first")],
        # Only `accept` can bring it.
        Moment.FIXED: [Effect("r0", on)] if key.startswith("resource.") else [],
    }
    # Who takes over is told of where that changes, and is another test's.
    assert [replace(effect, manual="") for effect in found] == advised[CLUSTER_KEYS[key]]


def _unchecked(text: str) -> ClusterFile:
    """Values of keys alone: whether they fit each other is no matter here."""
    return msgspec.convert(tomllib.loads(text), ClusterFile)


def test_another_service_than_the_first_is_told_apart() -> None:
    first = with_setting(TEXT, 'resource.r0.service.units=["x.service"]')
    other = with_setting(first, 'resource.r0.service.units=["y.service"]')
    assert effects(_unchecked(first), _unchecked(other)) == [Effect("r0", [], service="changed")]
    assert effects(_unchecked(other), _unchecked(TEXT)) == [Effect("r0", [], service="changed")]
    both = with_setting(other, "resource.r0.protocol=A")
    assert effects(_unchecked(first), _unchecked(both)) == [Effect("r0", ["a", "b"], service="changed")]
