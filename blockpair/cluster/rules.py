"""What may change in the cluster's configuration by which command, and what a change means. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import Struct

from blockpair.config.cluster import ClusterFile, NodeEntry, ResourceEntry, arbiter_of, as_tables
from blockpair.config.moments import CLUSTER_KEYS, Moment, changed, moment
from blockpair.config.service import ServiceTable
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.arbitration import manual_because


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """What a change is for. ``resource``: the one that is created, deleted, or gets a fresh copy elsewhere;
    ``force``: whatever is on the devices of a new one.
    """

    kind: Literal["edit", "create", "delete", "move", "nodes", "accept"] = "edit"
    resource: str = ""
    force: bool = False


class Effect(Struct, frozen=True):
    """A resource that works by the new configuration only after `down` and `up` on ``nodes``; where none is
    named, its service alone waits. ``arbiter``: it goes by another kind of arbiter then, or by none.
    ``service``: its first definition, or another than the one that what is up goes by. ``manual``: why nobody
    takes over by itself from then on, where somebody did before.
    """

    resource: str
    nodes: list[str]
    arbiter: bool = False
    service: Literal["", "first", "changed"] = ""
    manual: str = ""


@dataclass(frozen=True)
class _Refusal:
    key: str
    why: str
    remedy: str

    def error(self) -> BlockpairError:
        return BlockpairError(ErrorKind.UNSAFE, f"{self.key}: {self.why}", self.remedy)


def check_change(old: ClusterFile, new: ClusterFile, task: Task) -> None:
    """Raises `BlockpairError` where ``task`` may not make ``new`` of ``old``, on any node."""
    if new.cluster.id != old.cluster.id:
        raise _Refusal("cluster.id", "it says which cluster this is, and cannot change", "leave it").error()
    if task.kind == "accept":
        # Whole commands of the other side: each was checked when it was made.
        return
    if task.kind != "nodes" and old.node.keys() != new.node.keys():
        name = sorted(old.node.keys() ^ new.node.keys())[0]
        how = "`blockpair cluster join`" if name in new.node else f"`blockpair cluster remove {name}`"
        raise _Refusal(f"node.{name}", "an edit neither adds nor removes a node", f"use {how}").error()
    if task.kind != "nodes":
        for name in sorted(old.node.keys() & new.node.keys()):
            if old.node[name].lost != new.node[name].lost:
                raise _Refusal(
                    f"node.{name}.lost",
                    "an edit neither loses a node nor finds one",
                    f"use `blockpair cluster remove {name} --lost`; its successor joins by its name",
                ).error()
    for name in sorted(old.resource.keys() ^ new.resource.keys()):
        added = name in new.resource
        if (task.kind, task.resource) != ("create" if added else "delete", name):
            how = f"`blockpair {'create' if added else 'delete'} {name}`"
            raise _Refusal(
                f"resource.{name}",
                f"an edit does not {'make' if added else 'remove'} a resource",
                f"use {how}",
            ).error()
        lost = [node for node in new.resource[name].on if new.node[node].lost] if added else []
        if lost:
            raise _Refusal(
                f"resource.{name}.on.{lost[0]}",
                f"{lost[0]} is lost: nothing can be made there",
                f"choose another node, or let a successor join as {lost[0]} first",
            ).error()
    for name in old.resource.keys() & new.resource.keys():
        before, after = old.resource[name], new.resource[name]
        if before.block_size != after.block_size:
            raise _Refusal(
                f"resource.{name}.block_size",
                "the block size is fixed when the resource is made",
                f"delete {name} and create it again with another one",
            ).error()
        if before.on.keys() != after.on.keys():
            raise _Refusal(
                f"resource.{name}.on",
                "an edit does not move a copy to another node",
                f"delete {name}, its data stays on the devices, and create it again with --on",
            ).error()


def check_local(old: ClusterFile, new: ClusterFile, node: str, is_up: Callable[[str], bool]) -> None:
    """Raises `BlockpairError` where ``node`` cannot go from ``old`` to ``new`` while a resource is up."""
    for name, before in old.resource.items():
        if node not in before.on or not is_up(name):
            continue
        remedy = f"blockpair down {name} (on {node}), then repeat"
        after = new.resource.get(name)
        if after is None or node not in after.on:
            raise BlockpairError(
                ErrorKind.IN_USE, f"the resource {name} is up on {node}, and would be gone", remedy
            )
        for key in ("device", "metadata"):
            if getattr(before.on[node], key) != getattr(after.on[node], key):
                raise BlockpairError(
                    ErrorKind.IN_USE,
                    f"resource.{name}.on.{node}.{key}: it cannot change while {name} is up on {node}",
                    remedy,
                )


def moved(old: ClusterFile, new: ClusterFile, node: str) -> list[str]:
    """The resources whose copy on ``node`` is elsewhere in ``new``."""
    found = []
    for name in old.resource.keys() & new.resource.keys():
        before, after = old.resource[name].on.get(node), new.resource[name].on.get(node)
        if before and after and (before.device, before.metadata) != (after.device, after.metadata):
            found.append(name)
    return sorted(found)


def effects(old: ClusterFile, new: ClusterFile) -> list[Effect]:
    """The resources that go on by ``old``, or whose service does, and until when: by `CLUSTER_KEYS`."""
    found = []
    for name in (name for name in new.resource if name in old.resource):
        before, after = old.resource[name], new.resource[name]
        moments = {path: moment(CLUSTER_KEYS, ("resource", name, *path)) for path in changed(before, after)}
        # Which one it goes by is the cluster's matter too.
        moments.pop(("arbiter",), None)
        arbiter = arbiter_of(old, before) != arbiter_of(new, after)
        held = [path for path, when in moments.items() if when in (Moment.UP, Moment.FIXED)]
        nodes = [
            node
            for node in after.on
            if node in before.on and (arbiter or any(path[0] != "on" or path[1] == node for path in held))
        ]
        service: Literal["", "first", "changed"] = ""
        if Moment.SERVICE in moments.values():
            service = "first" if before.service == ServiceTable() else "changed"
        if nodes or service:
            manual = "" if _manual(old, before) else _manual(new, after) or ""
            found.append(Effect(name, nodes, arbiter, service, manual))
    return found


def _manual(content: ClusterFile, entry: ResourceEntry) -> str | None:
    opted_out = entry.arbiter is not None
    return manual_because(arbiter_of(content, entry), entry.protocol, clustered=True, opted_out=opted_out)


def with_resource(text: str, name: str, entry: ResourceEntry) -> str:
    """``text`` with a resource more; its comments stay."""
    return _changed(text, ("resource", name), as_tables(entry))


def without_resource(text: str, name: str) -> str:
    """``text`` without a resource."""
    return _changed(text, ("resource", name), None)


def with_node(text: str, name: str, entry: NodeEntry) -> str:
    """``text`` with a node more, or another entry for one."""
    return _changed(text, ("node", name), as_tables(entry))


def without_node(text: str, name: str) -> str:
    """``text`` without a node, and without what would switch it off."""
    if name in tomllib.loads(text).get("fence", {}):
        text = _changed(text, ("fence", name), None)
    return _changed(text, ("node", name), None)


def with_setting(text: str, setting: str) -> str:
    """``text`` with ``KEY=VALUE`` in it, such as ``resource.r0.protocol=A``; a value that is no TOML is a
    string. Raises `BlockpairError`.
    """
    key, separator, value_text = setting.partition("=")
    try:
        if not separator:
            raise ValueError
        path = _path(tomllib.loads(f"{key.strip()} = 0"))
    except (tomllib.TOMLDecodeError, ValueError):
        raise BlockpairError(
            ErrorKind.USAGE, f"{setting!r} is not KEY=VALUE", "write it as resource.r0.protocol=A"
        ) from None
    try:
        value = tomllib.loads(f"x = {value_text.strip()}")["x"]
    except tomllib.TOMLDecodeError:
        value = value_text.strip()
    found: Any = tomllib.loads(text)
    if len(path) > 2 and path[0] in ("node", "resource"):
        names = found.get(path[0], {})
        if path[1] not in names:
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"{key.strip()}: there is no {path[0]} {path[1]!r}",
                f"there are: {', '.join(names)}" if names else f"there is no {path[0]} at all yet",
            )
    for part in path[:-1]:
        found = found.get(part, {}) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise BlockpairError(
            ErrorKind.USAGE, f"{key.strip()} is no key of a table", "`blockpair config show` shows the keys"
        )
    return _changed(text, path, value)


def without_setting(text: str, key: str) -> str:
    """``text`` without the key or table ``key``, such as ``resource.r0.arbiter``. Raises `BlockpairError`."""
    try:
        path = _path(tomllib.loads(f"{key.strip()} = 0"))
    except (tomllib.TOMLDecodeError, ValueError):
        raise BlockpairError(
            ErrorKind.USAGE, f"{key!r} is no key", "write it as resource.r0.arbiter, without a value"
        ) from None
    found: Any = tomllib.loads(text)
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
        if found is None:
            raise BlockpairError(
                ErrorKind.NOT_FOUND,
                f"{key.strip()} is not in the configuration",
                "`blockpair config show` shows what is; the others have their defaults",
            )
    return _changed(text, path, None)


def _path(table: dict[str, Any]) -> tuple[str, ...]:
    [(key, value)] = table.items()
    return (key, *_path(value)) if isinstance(value, dict) else (key,)


def _changed(text: str, path: tuple[str, ...], value: Any) -> str:
    """``text`` with ``value`` at ``path``; None removes what is there."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    expected = tomllib.loads(text)
    _put(expected, path, value)
    try:
        document = tomlkit.parse(text)
        _put(document, path, value)
        edited = tomlkit.dumps(document)
        if tomllib.loads(edited) == expected:
            return edited
    except (TOMLKitError, tomllib.TOMLDecodeError, KeyError):
        pass
    # Tables in an order that the editor of TOML cannot handle: the content counts more than the comments.
    return tomlkit.dumps(expected)


def _put(table: Any, path: tuple[str, ...], value: Any) -> None:
    *parents, last = path
    for part in parents:
        if part not in table:
            table[part] = {}
        table = table[part]
    if value is None:
        del table[last]
    else:
        table[last] = value
