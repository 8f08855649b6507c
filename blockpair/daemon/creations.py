"""Making and deleting a resource on several nodes of a cluster: on all of them, or on none.

The metadata are made on every node while all hold still for the change, and the configuration is committed
then. Each node remembers on its disk what it made for a version that may not come: when a node dies in the
middle, what it made is taken back as soon as it is known that the version did not come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from blockpair import bridge
from blockpair.cluster.change import Changed, Configuration
from blockpair.cluster.history import Version
from blockpair.cluster.replicate import Caller, parse_text
from blockpair.cluster.rules import Task, moved, with_resource, without_resource
from blockpair.cluster.server import PeerMethod
from blockpair.config.cluster import ClusterFile, CopyEntry, ResourceEntry, resource_on
from blockpair.config.files import sync_directory, write_atomically
from blockpair.config.names import check_name
from blockpair.config.resource import INTERNAL, ResourceConfig, resource_config
from blockpair.daemon import provision
from blockpair.daemon.asker import asked_by
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError, ErrorKind

_ASK_SECONDS = 10.0
# Metadata of many terabytes on a slow disk.
_MAKE_SECONDS = 600.0


class PlaceParams(Struct, forbid_unknown_fields=True):
    """Where a node would put the metadata of a resource."""

    name: str


class MakeParams(Struct, forbid_unknown_fields=True):
    """Make this node's copy of ``name``, as ``version`` says, which is being prepared."""

    name: str
    version: Version
    force: bool


class UndoParams(Struct, forbid_unknown_fields=True):
    """Take back the copy that was made for the version of this id."""

    name: str
    version: str


class FinishParams(Struct, forbid_unknown_fields=True):
    """The version of this id was committed; ``up``: bring the resource up."""

    name: str
    version: str
    up: bool


class ForgetParams(Struct, forbid_unknown_fields=True):
    """Forget the copy that ``before``, the id of a version, has, and the present one has not."""

    name: str
    before: str


class Place(Struct):
    """A path on the answering node."""

    metadata: str


class _Making(Struct, forbid_unknown_fields=True):
    """What was begun here for a version, on disk; ``made_file``: the metadata file was not there before."""

    version: str
    author: str
    text: str
    made_file: bool


def unequal(copies: dict[str, CopyEntry], made: dict[str, bridge.Created]) -> BlockpairError:
    """What to say of copies that would not have the same room for data."""
    told = ", ".join(f"{created.data_size_bytes} on {node}" for node, created in made.items())
    remedies = []
    if len({copies[node].metadata == INTERNAL for node in made}) > 1:
        remedies.append("have the metadata internal on both nodes, or external on both")
    smallest = min(made, key=lambda node: made[node].device_size_bytes)
    bytes_ = made[smallest].device_size_bytes
    remedies += [
        f"on {node}, make and name a partition, logical volume or file of {bytes_} bytes, as large as "
        f"{copies[smallest].device} on {smallest}"
        for node, created in made.items()
        if created.device_size_bytes != bytes_
    ]
    return BlockpairError(
        ErrorKind.INVALID,
        f"the copies would not have the same size in bytes: {told}",
        "\n".join(remedies),
    )


class Creations:
    """One node's part in it; registers its methods for the other members in ``methods``."""

    def __init__(
        self,
        manager: Manager,
        configuration: Configuration,
        peers: Caller,
        methods: dict[str, PeerMethod],
    ) -> None:
        self._manager = manager
        self._configuration = configuration
        self._peers = peers
        self._log = structlog.get_logger().bind(part="configuration")
        self._methods = {
            "peer.create.place": PeerMethod(PlaceParams, self._on_place),
            "peer.create.make": PeerMethod(MakeParams, self._on_make),
            "peer.create.undo": PeerMethod(UndoParams, self._on_undo),
            "peer.create.finish": PeerMethod(FinishParams, self._on_finish),
            "peer.delete.forget": PeerMethod(ForgetParams, self._on_forget),
        }
        methods.update(self._methods)
        configuration.after_contact = self._settle

    # -- The node where the command was given

    async def create(
        self,
        name: str,
        devices: dict[str, str],
        metadata: dict[str, str],
        priorities: dict[str, int],
        options: dict[str, Any],
        *,
        force: bool,
        up: bool,
    ) -> dict[str, Any]:
        """Make the resource ``name`` on the nodes of ``devices``; ``metadata``: where that is not the
        default. What was made, for a person. Raises `BlockpairError`, and then nothing was made anywhere.
        """
        try:
            check_name(name)
        except ValueError as error:
            raise BlockpairError(ErrorKind.USAGE, str(error), "choose another name, such as r0") from None
        self._check_nodes(devices)
        copies = {}
        for node, device in devices.items():
            place = metadata.get(node) or (await self._place(node, name)).metadata
            copies[node] = CopyEntry(device, place, priorities.get(node, 0))
        entry = msgspec.convert({**options, "on": msgspec.to_builtins(copies)}, ResourceEntry)
        made: dict[str, bridge.Created] = {}

        def text_with(text: str) -> str:
            if name in parse_text(text).resource:
                raise BlockpairError(
                    ErrorKind.EXISTS,
                    f"the cluster has a resource {name} already",
                    f"choose another name, or delete it first: blockpair delete {name}",
                )
            return with_resource(text, name, entry)

        async def make(version: Version) -> None:
            made.update(await self._make(name, version, devices, force=force))

        changed = await self._configuration.change(
            text_with, f"create {name}", Task("create", name, force), needed=devices, before_commit=make
        )
        version = changed.version.id()
        problems: dict[str, BlockpairError] = {}
        # The node that comes first by its name dials: it had to try again if the other were not up yet.
        for nodes in (set(devices) - {min(devices)}, {min(devices)}):
            finish = FinishParams(name, version, up)
            problems |= await self._on_all(nodes, "peer.create.finish", finish, _MAKE_SECONDS)
        return {
            "name": name,
            "version": changed.version.number,
            "pending": changed.pending,
            "copies": {
                node: {"device": copies[node].device, "metadata": copies[node].metadata}
                | msgspec.to_builtins(made[node])
                for node in devices
            },
            "up": up and not problems,
            "problems": {node: error.message for node, error in problems.items()},
            "failover": self._manager.failover(name, entry.protocol),
        }

    async def delete(self, name: str) -> tuple[Changed, list[str]]:
        """Delete the resource ``name`` on all its nodes; the data stays on the devices. What was done, in
        words. Raises `BlockpairError`, and then nothing was changed.
        """
        history = self._configuration.present()
        before, content = history.head_id, parse_text(history.head.text)
        nodes = [node for node in content.resource[name].on if node in content.members]
        changed = await self._configuration.change(
            lambda text: without_resource(text, name), f"delete {name}", Task("delete", name), needed=nodes
        )
        done = []
        for node in nodes:
            try:
                answer = await self._call(
                    node, "peer.delete.forget", ForgetParams(name, before), _ASK_SECONDS
                )
                done += [f"{node}: {line}" for line in msgspec.convert(answer, list[str])]
            except BlockpairError as error:
                done.append(f"{node}: its metadata may still be there: {error.message}")
        done += [f"{node}: it is lost" for node in content.resource[name].on if node not in nodes]
        return changed, done

    async def anew(
        self, name: str, device: str | None, metadata: str | None, *, force: bool
    ) -> tuple[ResourceConfig, bridge.Created]:
        """A fresh copy of ``name`` on this node, which the other one is synced to: where it is, or on another
        device or with its metadata in another place. Raises `BlockpairError`, and then nothing was changed.
        """
        provision.check_down(self._manager, name)
        config = self._manager.config(name)
        present = (str(config.device), INTERNAL if config.metadata is None else str(config.metadata))
        wanted = (device or present[0], metadata or present[1])
        if wanted == present:
            return await provision.make_anew(self._manager, name, force=force)
        if not self._configuration.shares(name):
            raise BlockpairError(
                ErrorKind.USAGE,
                f"{name} is this node's own, in no cluster's configuration",
                f"blockpair delete {name}, then create it with the other device",
            )
        node = self._manager.node.name
        made: dict[str, bridge.Created] = {}

        def text_with(text: str) -> str:
            entry = parse_text(text).resource[name]
            copy = msgspec.structs.replace(entry.on[node], device=wanted[0], metadata=wanted[1])
            return with_resource(text, name, msgspec.structs.replace(entry, on={**entry.on, node: copy}))

        async def make(version: Version) -> None:
            made.update(await self._make(name, version, [node], force=force))

        why = f"a fresh copy of {name} on {node}: {wanted[0]}"
        changed = await self._configuration.change(
            text_with, why, Task("move", name, force), before_commit=make
        )
        await self._on_all([node], "peer.create.finish", FinishParams(name, changed.version.id(), False), 1)
        return self._manager.config(name), made[node]

    def _check_nodes(self, nodes: Iterable[str]) -> None:
        content = parse_text(self._configuration.present().head.text)
        for node in nodes:
            if node not in content.members:
                lost = node in content.node
                raise BlockpairError(
                    ErrorKind.NOT_FOUND,
                    f"{node} is lost" if lost else f"the cluster {content.cluster.name} has no node {node!r}",
                    f"its members are: {', '.join(content.members)}; `blockpair cluster token` prints the "
                    "command that another one joins with",
                )
        if len(list(nodes)) != 2:
            raise BlockpairError(
                ErrorKind.USAGE, "a resource is on two nodes", "write it as --on a=/dev/vg/r0,b=/dev/vg/r0"
            )

    async def _place(self, node: str, name: str) -> Place:
        answer = await self._call(node, "peer.create.place", PlaceParams(name), _ASK_SECONDS)
        return msgspec.convert(answer, Place)

    async def _make(
        self, name: str, version: Version, nodes: Iterable[str], *, force: bool
    ) -> dict[str, bridge.Created]:
        """Make all copies, or none."""
        chosen = list(nodes)
        params = MakeParams(name, version, force)
        calls = (self._call(node, "peer.create.make", params, _MAKE_SECONDS) for node in chosen)
        ends = dict(zip(chosen, await asyncio.gather(*calls, return_exceptions=True), strict=True))
        failed = {node: end for node, end in ends.items() if isinstance(end, BaseException)}
        made = {
            node: msgspec.convert(end, bridge.Created) for node, end in ends.items() if node not in failed
        }
        sizes = {created.data_size_bytes for created in made.values()}
        if not failed and len(sizes) == 1:
            return made
        # Those that failed too: it may have been the answer alone that was lost.
        await self._on_all(chosen, "peer.create.undo", UndoParams(name, version.id()), _MAKE_SECONDS)
        for node, end in failed.items():
            if isinstance(end, BlockpairError):
                raise BlockpairError(end.kind, f"{node} could not: {end.message}", end.remedy)
            raise end
        raise unequal(parse_text(version.text).resource[name].on, made)

    async def _on_all(
        self, nodes: Iterable[str], method: str, params: Struct, seconds: float
    ) -> dict[str, BlockpairError]:
        """Call all of ``nodes``; the errors by node."""
        chosen = list(nodes)
        calls = (self._call(node, method, params, seconds) for node in chosen)
        ends = zip(chosen, await asyncio.gather(*calls, return_exceptions=True), strict=True)
        errors = {}
        for node, end in ends:
            if isinstance(end, BlockpairError):
                errors[node] = end
            elif isinstance(end, BaseException):
                raise end
        return errors

    async def _call(self, node: str, method: str, params: Struct, seconds: float) -> Any:
        own = self._manager.node.name
        if node != own:
            return await self._peers.call(node, method, msgspec.to_builtins(params), timeout=seconds)
        return msgspec.to_builtins(await self._methods[method].run(own, params))

    # -- Every node with a copy

    async def _on_place(self, caller: str, params: PlaceParams) -> Any:
        try:
            check_name(params.name)
        except ValueError as error:
            raise BlockpairError(ErrorKind.USAGE, str(error), "choose another name") from None
        return Place(str(self._manager.places.metadata_file(params.name)))

    async def _on_make(self, caller: str, params: MakeParams) -> Any:
        name, version_id = params.name, params.version.id()
        if not self._configuration.holds(version_id) or caller != params.version.author:
            raise BlockpairError(
                ErrorKind.FAILED, f"nothing was prepared for making {name}", "give the whole command again"
            )
        old, new = parse_text(self._configuration.present().head.text), parse_text(params.version.text)
        if name in old.resource and name not in moved(old, new, self._manager.node.name):
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"{name} is there already, and stays where it is",
                "give the whole command again",
            )
        async with self._manager.lock(name):
            config = self._config(new, name)
            made_file = config.metadata is not None and not config.metadata.exists()
            making = _Making(version_id, caller, params.version.text, made_file)
            return await asyncio.to_thread(self._make_here, config, making, force=params.force)

    def _make_here(self, config: ResourceConfig, making: _Making, *, force: bool) -> bridge.Created:
        record = self._record(config.name)
        try:
            # First: what was made without a record would be in the way for good.
            write_atomically(record, msgspec.json.encode(making).decode() + "\n", 0o600)
            try:
                return provision.make_copy(self._manager, config, force=force)
            except BlockpairError:
                record.unlink()
                raise
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO, f"{error.filename or record} cannot be written: {error.strerror}", "make room"
            ) from None

    async def _on_undo(self, caller: str, params: UndoParams) -> Any:
        async with self._manager.lock(params.name):
            making = await asyncio.to_thread(self._read, params.name)
            known = self._configuration.history
            if making is None or making.version != params.version or making.author != caller:
                return {}
            if known is None or making.version not in known.known:
                await asyncio.to_thread(self._undo, params.name, making)
        return {}

    async def _on_finish(self, caller: str, params: FinishParams) -> Any:
        history = self._configuration.history
        if history is None or params.version not in history.known:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{self._manager.node.name} does not have that version of the configuration yet",
                f"it takes it at the next contact; then: blockpair up {params.name}, there",
            )
        async with self._manager.lock(params.name):
            making = await asyncio.to_thread(self._read, params.name)
            if making is not None and making.version == params.version:
                await asyncio.to_thread(self._record(params.name).unlink, missing_ok=True)
        if params.up:
            if caller != self._manager.node.name:
                asked_by.set(f"blockpair create on {caller}")
            await self._manager.up(params.name)
        return {}

    async def _on_forget(self, caller: str, params: ForgetParams) -> Any:
        present = self._configuration.content
        if present is None or params.name in present.resource:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{params.name} is still in the configuration",
                f"blockpair delete {params.name}",
            )
        async with self._manager.lock(params.name):
            if self._manager.is_up(params.name):
                raise BlockpairError(
                    ErrorKind.IN_USE, f"{params.name} is up", f"blockpair down {params.name}"
                )
            # By this node's own history: what a version says was checked when it was made.
            history = self._configuration.present()
            before = history.version(params.before)
            if before is None:
                raise BlockpairError(
                    ErrorKind.NOT_FOUND,
                    f"{self._manager.node.name} does not have that version of the configuration",
                    f"remove what is left of {params.name} there by hand",
                )
            config = self._config(parse_text(before.text), params.name)
            return await asyncio.to_thread(provision.delete_copy, self._manager, config)

    async def recover(self) -> None:
        """At the start: take back what the daemon before did not get to the end of making, as far as that is
        known without the other nodes.
        """
        try:
            await self._settle(self._manager.node.name)
        except BlockpairError as error:
            self._log.error("create.not-undone", text=error.message)

    async def _settle(self, node: str) -> None:
        """After contact with ``node``: what was made for a version of its, or of this node, that did not
        come, is taken back.
        """
        for record in await asyncio.to_thread(self._records):
            name = record.stem
            async with self._manager.lock(name):
                making = await asyncio.to_thread(self._read, name)
                history = self._configuration.history
                if making is None or history is None or self._configuration.holds(making.version):
                    continue
                if making.version in history.known:
                    await asyncio.to_thread(record.unlink, missing_ok=True)
                elif making.author in (node, self._manager.node.name):
                    await asyncio.to_thread(self._undo, name, making)

    def _undo(self, name: str, making: _Making) -> None:
        """Raises `BlockpairError`; the record stays then, and it is tried again."""
        try:
            config = self._config(parse_text(making.text), name)
            provision.unmake_copy(self._manager, config, made_file=making.made_file)
            self._log.info("create.undone", resource=name, device=str(config.device))
        except BlockpairError as error:
            if error.kind in (ErrorKind.UNSAFE, ErrorKind.IN_USE, ErrorKind.INVALID):
                # Somebody has use for the place by now, or there is none any more: it is not ours to clear.
                self._log.warning("create.not-undone", resource=name, text=error.message)
            else:
                raise
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO, f"{error.filename} cannot be removed: {error.strerror}", "correct that"
            ) from None
        self._record(name).unlink(missing_ok=True)
        sync_directory(self._manager.places.creating)

    def _config(self, content: ClusterFile, name: str) -> ResourceConfig:
        node = self._manager.node.name
        if name not in content.resource or node not in content.resource[name].on:
            raise BlockpairError(
                ErrorKind.INVALID, f"{node} has no copy of {name} there", "look at `blockpair config show`"
            )
        file = self._manager.places.resource_file(name)
        return resource_config(resource_on(content, name, node), file, node)

    def _record(self, name: str) -> Path:
        return self._manager.places.creating_file(name)

    def _records(self) -> list[Path]:
        return sorted(self._manager.places.creating.glob("*.json"))

    def _read(self, name: str) -> _Making | None:
        try:
            return msgspec.json.decode(self._record(name).read_bytes(), type=_Making)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            self._log.error("create.record-unreadable", resource=name, text=str(error))
            return None
