"""Whether a node can go down without taking the only good copy, or a disk in use, with it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from blockpair.errors import ExitCode
from blockpair.status.engine import EngineStatus, PeerStatus
from blockpair.status.report import ResourceReport

SCHEMA: Literal["blockpair.may-stop/1"] = "blockpair.may-stop/1"


class Obstacle(Struct, frozen=True):
    """One reason to stay up, and what removes it; ``code`` is stable."""

    resource: str
    code: Literal["in-use", "only-copy", "stand-in"]
    text: str
    remedy: str


class MayStop(Struct, frozen=True):
    """The answer for a node."""

    schema: Literal["blockpair.may-stop/1"]
    node: str
    may_stop: bool
    obstacles: list[Obstacle]


def may_stop(node: str, resources: Iterable[ResourceReport]) -> MayStop:
    """Whether ``node``, with these resources, may go down."""
    obstacles = [found for found in map(_obstacle, resources) if found is not None]
    return MayStop(SCHEMA, node, not obstacles, obstacles)


def exit_code(answer: MayStop) -> ExitCode:
    """0: it may; 3: it would be unsafe."""
    return ExitCode.FINE if answer.may_stop else ExitCode.UNSAFE


def _obstacle(report: ResourceReport) -> Obstacle | None:
    engine = report.engine
    if engine is None or report.state != "running" or engine.state != "running":
        # Down by a person's will, or failed: nothing is served, and no stop makes that worse.
        return None
    name = report.name
    move = f"blockpair switchover {name}"
    # A service's mount goes with it; what was mounted by hand does not.
    hand_over = move if report.service is not None else f"stop or unmount what uses it, then: {move}"
    alone = _good(engine) and not any(_has_it_all(engine, peer) for peer in engine.peers)
    if engine.role == "Primary" or engine.resuming:
        text = f"{engine.node} is Primary of {name}{_users(report, engine)}"
        if alone:
            only = _only_copy(name, engine)
            return Obstacle(name, "in-use", f"{text}; {only.text}", f"{only.remedy}; then {hand_over}")
        return Obstacle(name, "in-use", text, hand_over)
    for peer in engine.peers:
        if (peer.connection, peer.role, peer.disk) == ("Connected", "Primary", "Diskless"):
            return Obstacle(
                name,
                "stand-in",
                f"{peer.name} has no disk and lives on the copy of {engine.node}",
                f"hand the role over first: blockpair demote {name} (on {peer.name})",
            )
    return _only_copy(name, engine) if alone else None


def _users(report: ResourceReport, engine: EngineStatus) -> str:
    if engine.clients:
        return f", and {len(engine.clients)} clients use it"
    return f", and offers it as {report.kernel_device.link}" if report.kernel_device.attached else ""


def _good(engine: EngineStatus) -> bool:
    """Whether this copy may be the newest: one that never had data, or is known to be old, is not."""
    state = engine.arbitration
    configuration = None if state is None else state.configuration
    behind = configuration is not None and engine.node not in configuration.in_sync
    return engine.disk in ("UpToDate", "Consistent") and not behind


def _has_it_all(engine: EngineStatus, peer: PeerStatus) -> bool:
    """Whether ``peer``, at this moment, has everything that this copy has."""
    return (
        peer.connection == "Connected"
        and peer.disk == "UpToDate"
        and not peer.out_of_sync_bytes
        and not peer.full_sync
        and peer.replication in ("Established", "SyncTarget")
    )


def _only_copy(name: str, engine: EngineStatus) -> Obstacle:
    told = []
    for peer in engine.peers:
        if peer.connection != "Connected":
            told.append(f"{peer.name} is not connected")
        elif peer.replication == "SyncSource":
            told.append(f"{peer.name} is being resynced from here")
        else:
            told.append(f"the copy of {peer.name} is {peer.disk or 'not known'}")
    return Obstacle(
        name,
        "only-copy",
        f"{engine.node} has the only good copy of {name}: {', '.join(told)}",
        f"wait until the other copy is in sync: blockpair wait {name} --until synced",
    )
