"""docs/reference/config.md has every key, default, choice and bound of the configuration, and no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomlkit
from msgspec import inspect

from blockpair.config.arbitration import PROFILES
from blockpair.config.cluster import ClusterFile, ResourceEntry, parse_cluster
from blockpair.config.files import ConfigError
from blockpair.config.locations import Locations, locations
from blockpair.config.node import NodeFile, node_config
from blockpair.config.resource import ResourceFile, resource_config
from blockpair.config.service import ServiceTable, service_config
from blockpair.health.score import DEFAULT_SCALES
from tests.unit.config_page import DOCS, Key, Row, amount, bounds, keys, rows

PAGE = "reference/config.md"
SERVICE = "resource.NAME.service."
FORMS: dict[str, dict[str, Key]] = {
    "node": keys(NodeFile),
    "cluster": {name: key for name, key in keys(ClusterFile).items() if not name.startswith(SERVICE)},
    "resource": keys(ResourceFile),
    "service": keys(ServiceTable),
}
ROWS: dict[str, list[Row]] = {
    "node": rows(PAGE, "`blockpair.toml`: the node"),
    "cluster": rows(PAGE, "`cluster.toml`: what all nodes of a cluster have in common"),
    "resource": rows(PAGE, "`resources/NAME.toml`: a resource as one node sees it"),
    "service": rows("service.md", "The definition"),
}
AS_BELOW = "as below"


def covered(name: str, known: dict[str, Key]) -> list[str]:
    """The keys that ``name`` in the page stands for: itself, or all of a table that is told of elsewhere."""
    return [name] if name in known else [key for key in known if key.startswith(f"{name}.")]


@pytest.mark.parametrize("which", FORMS)
def test_the_page_has_every_key_once_and_no_other(which: str) -> None:
    told = [key for row in ROWS[which] for name in row.keys for key in covered(name, FORMS[which]) or [name]]
    assert len(told) == len(set(told))
    assert set(told) == set(FORMS[which])


EACH = {
    f"{which}: {name}": (which, name, row)
    for which, table in ROWS.items()
    for row in table
    for name in row.keys
    if row.meaning != AS_BELOW and name in FORMS[which]
}


@pytest.mark.parametrize(("which", "name", "row"), EACH.values(), ids=EACH)
def test_a_default_is_the_code_s(which: str, name: str, row: Row) -> None:
    key = FORMS[which][name]
    if key.required or row.default.startswith("must be given"):
        assert row.default.startswith("must be given") and not row.defaults
        assert key.required or " with " in row.default, "it may be left out"
        return
    told = row.defaults
    if not told:
        assert key.default in ("", None, [], {}), "the page does not tell it"
        return
    assert len(told) in (1, len(row.keys))
    assert told[row.keys.index(name) if len(told) > 1 else 0] == key.default


@pytest.mark.parametrize(("which", "name", "row"), EACH.values(), ids=EACH)
def test_the_choices_are_the_code_s(which: str, name: str, row: Row) -> None:
    key = FORMS[which][name]
    choices = key.choices or ({True, False} if isinstance(key.default, bool) else set())
    if not choices:
        return
    if same := re.search(r"\bas `([\w.]+)`", row.meaning):
        others = [form[same[1]].choices for form in FORMS.values() if same[1] in form]
        assert choices in others
    elif choices == {True, False}:
        assert row.choices <= choices and row.choices
    else:
        assert row.choices == choices


@pytest.mark.parametrize(
    "name", [name for row in ROWS["cluster"] if row.meaning == AS_BELOW for name in row.keys]
)
def test_what_is_as_below_is_what_a_resource_s_own_file_has(name: str) -> None:
    known = FORMS["cluster"]
    own = {key: key.removeprefix("resource.NAME.").removeprefix("on.NODE.") for key in covered(name, known)}
    assert own
    for key, short in own.items():
        assert known[key] == FORMS["resource"][short]


def test_what_differs_between_the_copies_is_not_written_for_all() -> None:
    shared = set(ResourceFile.__struct_fields__) - set(ResourceEntry.__struct_fields__)
    assert shared == {"device", "metadata", "peer", "priority"}


# Bounds: each is tried, on a file that is right but for that key.

NODE: dict[str, Any] = {
    "notify": {
        "webhook": {"x": {"url": "https://x/y"}},
        "mail": {"host": "x", "from": "a@x", "to": ["b@x"]},
    },
    "health": {"parts": {"cpu": {}}},
}
RESOURCE: dict[str, Any] = {
    "device": "/dev/x",
    "metadata": "internal",
    "peer": [{"name": "beta", "address": "10.0.0.2:7788"}],
}
COPY = {"device": "/dev/x", "metadata": "internal"}
CLUSTER: dict[str, Any] = {
    "cluster": {"name": "east", "id": "0f8b6c1e-6d6f-4b47-8d7e-0a2f0b8a3d11"},
    "node": {"alpha": {"addresses": ["10.0.0.1"]}, "beta": {"addresses": ["10.0.0.2"]}},
    "arbiter": {
        **{"kind": "etcd", "endpoints": ["https://e1:2379"]},
        **{"ca": "/ca", "cert": "/cert", "key": "/key"},
    },
    "fence": {name: {"levels": [[{"agent": f"fence_{name}"}]]} for name in ("alpha", "beta")},
    "resource": {"r0": {"on": {"alpha": COPY, "beta": COPY}}},
}
BASE = {"node": NODE, "resource": RESOURCE, "cluster": CLUSTER, "service": {"mount": "/srv/x"}}
PLACES = {
    "node": {"NAME": "x", "KIND": "cpu"},
    "cluster": {"NODE": "beta", "NAME": "r0", "a device's ": "fence.beta.levels.0.0."},
}
# What else must be so for a bound to be reached, because it is a rule between two keys.
BESIDE: dict[str, dict[str, Any]] = {
    "health.sick_below": {"health.recovered_above": 100.0, "health.peer_above": 100.0},
    "health.recovered_above": {"health.sick_below": 1e-9, "health.peer_above": 100.0},
    "health.peer_above": {"health.sick_below": 1e-9, "health.recovered_above": 1e-8},
    "arbitration.beacon": {"arbitration.lease": "1h"},
}
# By how much a bound is passed, where the smallest step would break another rule.
WHOLE = {"watchdog.timeout"}
DOUBLED = {"block_size"}
# A list, or a table, of so many: the key that it is written into, and its value.
MANY: dict[str, tuple[str, Callable[[int], Any]]] = {
    "notify.webhook.NAME.url": (
        "notify.webhook",
        lambda count: {f"w{at}": {"url": "https://x/y"} for at in range(count)},
    ),
    "notify.mail.to": ("notify.mail.to", lambda count: [f"p{at}@x" for at in range(count)]),
    "node.NODE.addresses": (
        "node.beta.addresses",
        lambda count: [f"10.1.0.{at}" for at in range(1, count + 1)],
    ),
    "arbiter.endpoints": ("arbiter.endpoints", lambda count: [f"https://e{at}:1" for at in range(count)]),
    "fence.NODE.levels": ("fence.beta.levels", lambda count: [[{"agent": "fence_x"}]] * count),
    "a device's agent": ("fence.beta.levels.0", lambda count: [{"agent": "fence_x"}] * count),
    "a device's options": (
        "fence.beta.levels.0.0.options",
        lambda count: {f"o{at}": 1 for at in range(count)},
    ),
    "options": ("options", lambda count: [f"o{at}" for at in range(count)]),
    "units": ("units", lambda count: [f"u{at}.service" for at in range(count)]),
    "vips": ("vips", lambda count: [f"10.0.0.{at}/24@e0" for at in range(1, count + 1)]),
}
# Those that have none of their own: what they may be depends on others, or on what there is.
UNBOUNDED = {
    "health.parts.KIND.good",
    "health.parts.KIND.bad",
    "notify.hooks.kinds",
    "notify.webhook.NAME.kinds",
    "notify.mail.kinds",
    "peer.addresses",
    "arbitration.patience",
    "raid.adopt.ARRAY",
}


def put(document: Any, place: str, value: Any) -> Any:
    """``document`` with ``value`` at ``place``."""
    first, _, rest = place.partition(".")
    if isinstance(document, list):
        at = int(first)
        return [
            put(one, rest, value) if rest else value if here == at else one
            for here, one in enumerate(document)
        ]
    inner = put(document.get(first, {}), rest, value) if rest else value
    return {**document, first: inner}


def refused(which: str, place: str, value: Any, beside: dict[str, Any]) -> bool:
    """Whether the key at ``place`` is refused because of its ``value``."""
    document = BASE[which]
    for other, its in beside.items():
        document = put(document, other, its)
    document = put(document, place, value)
    file = Path("r0.toml")
    try:
        if which == "node":
            node_config(msgspec.convert(document, NodeFile), file, "alpha")
        elif which == "cluster":
            parse_cluster(tomlkit.dumps(document), file)
        elif which == "resource":
            resource_config(msgspec.convert(document, ResourceFile), file, "alpha")
        else:
            service_config(msgspec.convert(document, ServiceTable), file)
    except ConfigError as error:
        told = re.sub(r"\[(\d+)\]", r".\1", error.key).removeprefix("service.")
        # Of a part of a score, the refusal names the part.
        return told == place or (told.startswith("health.parts.") and place.startswith(f"{told}."))
    return False


BOUNDED = {
    key: (which, name, row)
    for key, (which, name, row) in EACH.items()
    if (FORMS[which][name].measured or name in MANY or bounds(row.meaning)) and name not in UNBOUNDED
}


@pytest.mark.parametrize(("which", "name", "row"), BOUNDED.values(), ids=BOUNDED)
def test_the_bounds_are_the_code_s(which: str, name: str, row: Row) -> None:
    told = bounds(row.meaning)
    assert told is not None, "the page does not tell its bounds"
    place = name
    for word, real in PLACES.get(which, {}).items():
        place = place.replace(word, real)
    key = FORMS[which][name]
    written = isinstance(key.default, str) and name not in MANY
    ends = [end for end in (told.least, told.most) if end is not None]
    assert not written or any(amount(end) is not None for end in ends), "it has a unit"
    size = any(end.endswith(("K", "M", "G")) for end in ends)
    whole = size or isinstance(key.type, inspect.IntType) or name in MANY
    step = 1.0 if whole or name in WHOLE else 1e-3

    def fits(number: float) -> bool:
        if name in MANY:
            where, make = MANY[name]
            return not refused(which, where, make(int(number)), {})
        value: Any = int(number) if whole else number
        if written:
            value = str(value) if size else f"{value:.3f}s"
        return not refused(which, place, value, BESIDE.get(name, {}))

    if told.most is not None:
        most = number(told.most)
        assert fits(most) and not fits(most * 2 if name in DOUBLED else most + step)
    if told.least is not None:
        least = number(told.least)
        assert fits(least + step if told.open else least)
        if told.open:
            assert not fits(least)
        elif least > 0 or not (written or name in MANY):  # no text is less than nothing
            assert not fits(least / 2 if name in DOUBLED else least - step)
    if told.either:
        assert not any(fits(other) for other in (least + 1, least * 2, most // 2 + 1, most - 1, most * 2))


def number(text: str) -> float:
    """What a bound of the page is, in bytes, seconds or as it is."""
    found = amount(text)
    return float(text) if found is None else found


def table(page: str, head: str) -> list[list[str]]:
    """The cells of the table that begins with ``head``."""
    lines = (DOCS / page).read_text().partition(head)[2].splitlines()[2:]
    end = next(at for at, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def test_the_profiles_are_the_code_s() -> None:
    told = {
        name.strip("`"): tuple(map(amount, values)) for name, *values in table(PAGE, "| Profile | `beacon`")
    }
    assert told == {name: (one.beacon, one.patience, one.lease) for name, one in PROFILES.items()}


def test_the_places_are_the_code_s() -> None:
    def places(found: Locations) -> dict[str, str]:
        members = [name for name in vars(Locations) if not name.startswith("_")]
        by_name = [name for name in members if callable(getattr(found, name)) and name != "service_file"]
        values = {name: getattr(found, name) for name in members if not callable(getattr(found, name))}
        values |= {name: getattr(found, name)("NAME") for name in by_name}
        return {name: str(path) for name, path in (values | {"state": found.state}).items()}

    installed, moved = places(locations({})), places(locations(directory="/D"))
    told = table(PAGE, "| | Installed | With `BLOCKPAIR_DIR=D` |")
    assert len(told) > 10
    for what, *paths in told:
        own, other = (path.strip("`").rstrip("/") for path in paths)
        here = {name for name, path in installed.items() if path == own}
        assert here & {name for name, path in moved.items() if path == f"/{other}"}, what


def test_the_parts_of_the_health_are_the_code_s() -> None:
    """Good and bad in the units of `Scale.unit`, where the page has numbers."""
    units = {"": 1.0, "%": 1.0, "ms": 1.0, "s": 1.0, "MiB": 1.0, "GiB": 1024.0}
    told = {}
    for names, _, good, bad in table("service.md", "| Part | What is measured | 100 up to | 0 from |"):
        kinds = re.findall(r"`([\w-]+)`", names)
        for kind, *ends in zip(kinds, good.split(", "), bad.split(", "), strict=True):
            told[kind] = ends
    assert set(told) == set(DEFAULT_SCALES)
    for kind, ends in told.items():
        scale = DEFAULT_SCALES[kind]
        for end, real in zip(ends, (scale.good, scale.bad), strict=True):
            if number := re.fullmatch(r"([\d.]+) ?(\S*)", end):
                assert float(number[1]) * units[number[2]] == real, kind
            else:
                assert (end, real) in {("up", 0), ("down", 1), ("all", 1)}, kind
