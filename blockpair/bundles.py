"""The bundles on this node's disk: finding them, reading them, deleting them. Where a split brain's victim
lost blocks, a bundle has them as they were; `docs/reference/bundles.md`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from msgspec import Struct

from blockpair import bridge
from blockpair.config.files import sync_directory
from blockpair.config.locations import Locations
from blockpair.errors import BlockpairError, ErrorKind

SUFFIX = ".bpb"


class Generations(Struct, frozen=True):
    """Generation ids, 16 hexadecimal digits each; ``history`` newest first."""

    current: str
    bitmap: str
    history: list[str]


class Facts(Struct, frozen=True):
    """What a bundle says of itself. ``node``: the victim; ``peer``: the survivor; ``blocks``: how many it
    has.
    """

    resource: str
    node: str
    peer: str
    rule: str
    why: str
    created_s: int
    victim: Generations
    survivor: Generations
    block_size_bytes: int
    data_size_bytes: int
    blocks: int


class BundleFile(Struct, frozen=True):
    """A bundle. ``size_bytes``: of the file; ``saved_bytes``: of the blocks in it."""

    path: str
    id: str
    size_bytes: int
    saved_bytes: int
    facts: Facts


class Entry(Struct, frozen=True):
    """A line of the list; ``bundle`` is None where the file cannot be used, and ``error`` says why."""

    name: str
    resource: str
    path: str
    bundle: BundleFile | None = None
    error: str | None = None


class Exported(Struct, frozen=True):
    """``changed_blocks``: blocks beside the bundle's that changed since and cannot be read; None: not known,
    and only the bundle's own blocks can be read.
    """

    socket: str
    bundle: BundleFile
    changed_blocks: int | None


def read(path: Path, *, verify: bool) -> BundleFile:
    """A bundle's facts; with ``verify``, after all its blocks were compared with their checksums. Raises
    `BlockpairError`.
    """
    return msgspec.json.decode(bridge.show_bundle(path, verify=verify), type=BundleFile)


def listing(places: Locations, resource: str | None = None) -> list[Entry]:
    """The bundles of one resource or all, oldest first in each. A broken file is an entry, not an error."""
    root = places.bundles("x").parent
    folders = [folder for folder in sorted(root.glob("*")) if resource in (None, folder.name)]
    found: list[Entry] = []
    for folder in folders:
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                found.append(Entry(path.name, folder.name, str(path), read(path, verify=False)))
            except BlockpairError as error:
                found.append(Entry(path.name, folder.name, str(path), error=error.message))
    return found


def find(places: Locations, which: str) -> Path:
    """The file that ``which`` means: a path, the name of a bundle, or a resource (its newest bundle). Raises
    `BlockpairError`.
    """
    if "/" in which:
        path = Path(which)
        # Of no file: too long a name, or a character that none can have.
        with contextlib.suppress(OSError, ValueError):
            if path.is_file():
                return path
        raise BlockpairError(
            ErrorKind.NOT_FOUND, f"there is no file {which}", "name one that `blockpair bundle list` shows"
        )
    root = places.bundles("x").parent
    files = sorted(root.glob(f"*/*{SUFFIX}"))
    named = [path for path in files if path.name == which]
    found = named or [path for path in files if path.parent.name == which]
    if found:
        return found[-1]
    raise BlockpairError(
        ErrorKind.NOT_FOUND,
        f"{which!r} is neither a bundle nor a resource with bundles on this node",
        "`blockpair bundle list` shows them; one that was copied here is named by its path: ./FILE",
    )


def forget_changes(places: Locations, resource: str) -> None:
    """Drop what is known of the blocks that changed since the newest bundle: the resource gets another
    device or another beginning, and what is on it then was never the victim's. Raises `OSError`.
    """
    # The engine's; see engine/src/io/bundle/since.rs.
    file = places.bundles(resource) / "changed-since"
    if file.exists():
        file.unlink()
        sync_directory(file.parent)


def delete(places: Locations, which: str) -> Path:
    """Remove a bundle of this node for good. Raises `BlockpairError`."""
    path = find(places, which)
    if path.suffix != SUFFIX or path.resolve().parent.parent != places.bundles("x").parent.resolve():
        raise BlockpairError(
            ErrorKind.INVALID, f"{path} is not one of this node's bundles", f"remove the file: rm {path}"
        )
    try:
        path.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO, f"{path} cannot be removed: {error.strerror}", "correct that and repeat"
        ) from None
    return path
