"""The daemon's RPC methods of the cluster's configuration: parameters in, results out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from blockpair.cluster.change import Changed, Configuration
from blockpair.cluster.history import History, Version, only_in, text_diff
from blockpair.cluster.report import ArbiterLook
from blockpair.cluster.rules import Task, with_setting, without_setting
from blockpair.config.arbiter import ArbiterTable
from blockpair.config.resource import INTERNAL, OnIoError, Protocol, SplitBrainPolicy, Tls
from blockpair.daemon.changes import change
from blockpair.daemon.creations import Creations
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import Caller, Method


class DiffParams(Struct, forbid_unknown_fields=True):
    """``version``: compare the present one with this one; without, what is not settled."""

    version: int | None = None


class EditParams(Struct, forbid_unknown_fields=True):
    """Either ``text``, which was made from the version of the id ``base``, or ``settings``, each
    ``KEY=VALUE``, after the keys ``unset`` were taken out.
    """

    text: str | None = None
    base: str | None = None
    settings: list[str] = []
    unset: list[str] = []
    why: str | None = None


class AcceptParams(Struct, forbid_unknown_fields=True):
    """``expected``: the id of the head of ``node`` that was shown."""

    node: str
    expected: str


class HistoryParams(Struct, forbid_unknown_fields=True):
    """The newest ``limit`` versions."""

    limit: int = 50


class CreateOnParams(Struct, forbid_unknown_fields=True):
    """``devices``, ``metadata`` and ``priorities`` by node; nodes that are not in ``metadata`` have theirs in
    a file of their state directory.
    """

    name: str
    devices: dict[str, str]
    metadata: dict[str, str] = {}
    priorities: dict[str, int] = {}
    block_size: str = "4K"
    protocol: Protocol = "C"
    split_brain: SplitBrainPolicy = "discard-zero-changes"
    on_io_error: OnIoError = "detach"
    tls: Tls = "on"
    force: bool = False
    up: bool = True


class AnewParams(Struct, forbid_unknown_fields=True):
    """``device`` and ``metadata`` null: where they are."""

    name: str
    device: str | None = None
    metadata: str | None = None
    force: bool = False


class ConfigMethods:
    """The table of methods over one `Configuration`; ``look_at_arbiter`` asks the one that it names now."""

    def __init__(
        self,
        configuration: Configuration,
        creations: Creations,
        look_at_arbiter: Callable[[], Awaitable[ArbiterLook | None]],
    ) -> None:
        self._configuration = configuration
        self._creations = creations
        self._look_at_arbiter = look_at_arbiter

    def table(self) -> dict[str, Method]:
        """Every method by its name."""
        return {
            "config.show": Method(NoParams, self._show, read_only=True),
            "config.diff": Method(DiffParams, self._diff, read_only=True),
            "config.history": Method(HistoryParams, self._history, read_only=True),
            "config.edit": change("config.edit", EditParams, self._edit),
            "config.accept": change("config.accept", AcceptParams, self._accept),
            "resource.create_on": change("resource.create_on", CreateOnParams, self._create),
            "resource.create_anew": change("resource.create_anew", AnewParams, self._anew),
        }

    async def _show(self, caller: Caller, params: NoParams) -> Any:
        history = self._configuration.present()
        edited = await asyncio.to_thread(self._configuration.hand_edited)
        return {**_facts(history.head, history.head_id), "text": history.head.text, "hand_edited": edited}

    async def _diff(self, caller: Caller, params: DiffParams) -> Any:
        history = self._configuration.present()
        node = self._configuration.node
        head_name = f"version {history.head.number}"
        if params.version is not None:
            old = _version(history, params.version)
            name = f"version {old.number}"
            return {"diff": text_diff(old.text, history.head.text, name, head_name)}
        edited = await asyncio.to_thread(self._configuration.hand_edited)
        by_hand = None if edited is None else text_diff(history.head.text, edited, head_name, "cluster.toml")
        conflicts = [
            {
                "node": other,
                "head": theirs.head_id,
                "diff": text_diff(history.head.text, theirs.head.text, node, other),
                "only_here": _several(only_in(history, theirs)),
                "only_there": _several(only_in(theirs, history)),
            }
            for other, theirs in self._configuration.conflicts.items()
        ]
        return {"node": node, "conflicts": conflicts, "hand_edited": by_hand}

    async def _history(self, caller: Caller, params: HistoryParams) -> Any:
        history = self._configuration.present()
        return {"versions": _several(history.versions[-max(1, params.limit) :])}

    async def _edit(self, params: EditParams) -> Any:
        if (params.text is None) == (not params.settings and not params.unset):
            raise BlockpairError(
                ErrorKind.USAGE, "an edit needs either a text or settings", "see blockpair config edit --help"
            )

        def make(text: str) -> str:
            if params.text is not None:
                if params.base not in (None, self._configuration.present().head_id):
                    raise BlockpairError(
                        ErrorKind.UNSAFE,
                        "the configuration was changed while you edited it: nothing was changed",
                        "see what: `blockpair config history`; then edit it again",
                    )
                return params.text
            for key in params.unset:
                text = without_setting(text, key)
            for setting in params.settings:
                text = with_setting(text, setting)
            return text

        done = [
            f"{word} {', '.join(of)}"
            for word, of in (("unset", params.unset), ("set", params.settings))
            if of
        ]
        why = params.why or "; ".join(done) or "edited"
        return await self._changed(self._configuration.change(make, why, Task("edit")))

    async def _accept(self, params: AcceptParams) -> Any:
        return await self._changed(self._configuration.accept(params.node, params.expected))

    async def _changed(self, change: Awaitable[Changed]) -> Any:
        """A change's answer. An arbiter that was appointed is asked at once, before a node is lost; fence
        devices are their monitor's.
        """
        before = self._arbiter()
        changed = await change
        now = self._arbiter()
        appointed = changed.changed and now is not None and now != before and now.kind != "fence"
        look = await self._look_at_arbiter() if appointed else None
        return {**_changed(changed), "arbiter": msgspec.to_builtins(look)}

    def _arbiter(self) -> ArbiterTable | None:
        content = self._configuration.content
        return None if content is None else content.arbiter

    async def _create(self, params: CreateOnParams) -> Any:
        options = {
            key: getattr(params, key)
            for key in ("block_size", "protocol", "split_brain", "on_io_error", "tls")
        }
        return await self._creations.create(
            params.name,
            params.devices,
            params.metadata,
            params.priorities,
            options,
            force=params.force,
            up=params.up,
        )

    async def _anew(self, params: AnewParams) -> Any:
        config, created = await self._creations.anew(
            params.name, params.device, params.metadata, force=params.force
        )
        return {
            "name": config.name,
            "device": str(config.device),
            "metadata": INTERNAL if config.metadata is None else str(config.metadata),
            **msgspec.to_builtins(created),
        }


def _facts(version: Version, version_id: str) -> dict[str, Any]:
    return {
        "version": version.number,
        "id": version_id,
        "author": version.author,
        "time": version.time,
        "why": version.why,
    }


def _several(versions: tuple[Version, ...]) -> list[dict[str, Any]]:
    return [_facts(version, version.id()) for version in versions]


def _version(history: History, number: int) -> Version:
    for version in history.versions:
        if version.number == number:
            return version
    first, last = history.versions[0].number, history.head.number
    raise BlockpairError(
        ErrorKind.NOT_FOUND,
        f"there is no version {number}",
        f"versions {first} to {last} are kept: `blockpair config history`",
    )


def _changed(changed: Changed) -> dict[str, Any]:
    return {
        "changed": changed.changed,
        **_facts(changed.version, changed.version.id()),
        "pending": changed.pending,
        "effects": msgspec.to_builtins(changed.effects),
    }
