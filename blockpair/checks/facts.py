"""What checks are made of, as it crosses from one node to the other. Sizes are bytes, times seconds."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from blockpair.config.node import KernelDevice, WatchdogMode


class KernelFacts(Struct, frozen=True):
    """``too_old``: why this kernel can have no kernel device; ``nbd``: of the module; ``wanted``: what the
    configuration says of kernel devices; ``io_uring``: why it cannot be used, or null.
    """

    release: str
    too_old: str | None
    nbd: Literal["loaded", "loadable", "missing"]
    wanted: KernelDevice
    io_uring: str | None


class WatchdogFacts(Struct, frozen=True):
    """``identity``: what the driver calls itself, empty where that is not to be seen."""

    mode: WatchdogMode
    device: str
    present: bool
    identity: str


class ClockFacts(Struct, frozen=True):
    """``offset``: by what it is off, as its synchronisation says; null where nothing synchronises it."""

    offset: float | None


class SpaceFacts(Struct, frozen=True):
    """Of the file system that has the state, and bundles in it."""

    path: str
    free_bytes: int
    total_bytes: int


class ArrayFacts(Struct, frozen=True):
    """An md array. ``survival`` and ``until_whole`` in words; ``mismatch_bytes``: by its last scrub."""

    name: str
    lost: bool
    sound: bool
    survival: str
    until_whole: str
    mismatch_bytes: int
    scrubbed: bool


class CopyFacts(Struct, frozen=True):
    """This node's copy of a resource. ``superblocks``: the states of the metadata's two; ``problem``: why
    metadata or device cannot be read.
    """

    name: str
    device: str
    device_bytes: int | None = None
    data_bytes: int | None = None
    block_bytes: int | None = None
    superblocks: list[str] = []
    problem: str | None = None


class FenceFacts(Struct, frozen=True):
    """How a device that fences ``node`` did when it was last asked; ``works`` is null before that."""

    node: str
    device: str
    works: bool | None
    problem: str | None


class ServiceFacts(Struct, frozen=True):
    """Of the service that follows resource ``name``. ``lacks``: what is not on this node, in words."""

    name: str
    lacks: list[str]


class NodeFacts(Struct, frozen=True):
    """Of one node. ``member``: whether it is in a cluster; ``unreadable``: configuration files that cannot be
    used, in words; ``unseen``: what could not be looked at, and why.
    """

    node: str
    version: str
    member: bool
    kernel: KernelFacts
    watchdog: WatchdogFacts
    clock: ClockFacts
    space: SpaceFacts | None
    arrays: list[ArrayFacts] = []
    copies: list[CopyFacts] = []
    fences: list[FenceFacts] = []
    services: list[ServiceFacts] = []
    unreadable: list[str] = []
    unseen: list[str] = []


class Way(Struct, frozen=True):
    """An attempt to reach a port of node ``to`` from node ``origin``. ``port``: "replication" or "control";
    ``why``: it failed; ``large``: it answers small calls, and why it does not answer large ones;
    ``seconds``: for a connection; ``interface`` and what follows is of the way out; ``mbps`` is null where
    the driver does not say; ``path_mtu``: as the kernel knows it.
    """

    origin: str
    to: str
    address: str
    port: Literal["replication", "control"]
    why: str | None = None
    large: str | None = None
    seconds: float | None = None
    interface: str | None = None
    mtu: int | None = None
    mbps: int | None = None
    half_duplex: bool = False
    path_mtu: int | None = None


class Clocks(Struct, frozen=True):
    """``ahead``: by how much the clock of ``node`` is ahead of this node's; ``give_or_take``: how far that
    may be off.
    """

    node: str
    ahead: float
    give_or_take: float
