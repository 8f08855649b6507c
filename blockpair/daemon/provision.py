"""Creating and deleting resources: every check first, then the metadata, then the configuration file."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from pathlib import Path

from blockpair import bridge, bundles
from blockpair.config.files import ConfigError, sync_directory
from blockpair.config.names import check_name
from blockpair.config.resource import (
    OnIoError,
    PeerTable,
    Protocol,
    ResourceConfig,
    ResourceFile,
    SplitBrainPolicy,
    resource_config,
    write_resource,
)
from blockpair.daemon.manager import Manager
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.signature import check_free

_REMEDIES = {
    "priority": "write it as --priority 1, 2, ...",
    "peer": "a resource has two nodes: give one --peer",
    "tls": "make a cluster of the two nodes first: `blockpair cluster init NAME`, `blockpair cluster token` "
    "here, on the other what that prints; then: blockpair create NAME --on NODE=DEVICE,NODE=DEVICE",
}
_NO_TRUST = "nodes in no cluster do not trust each other: their peers have loopback addresses only"


async def create(
    manager: Manager,
    name: str,
    *,
    device: str,
    metadata: str | None,
    peers: list[PeerTable],
    block_size: str,
    protocol: Protocol,
    split_brain: SplitBrainPolicy,
    priority: int,
    on_io_error: OnIoError,
    force: bool,
) -> tuple[ResourceConfig, bridge.Created]:
    """Make ``device`` a copy of the new resource ``name``. Raises `BlockpairError`, and then nothing was
    changed.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise BlockpairError(ErrorKind.USAGE, str(error), "choose another name, such as r0") from None
    async with manager.lock(name):
        place = metadata if metadata is not None else str(manager.places.metadata_file(name))
        content = ResourceFile(
            device=device,
            metadata=place,
            peer=peers,
            block_size=block_size,
            protocol=protocol,
            split_brain=split_brain,
            priority=priority,
            on_io_error=on_io_error,
            # Trust is a cluster's; without one, a resource does not leave this machine.
            tls="off",
        )
        return await asyncio.to_thread(_create, manager, name, content, metadata is None, force)


def _create(
    manager: Manager, name: str, content: ResourceFile, default_metadata: bool, force: bool
) -> tuple[ResourceConfig, bridge.Created]:
    if default_metadata:
        manager.places.metadata_file(name).parent.mkdir(parents=True, exist_ok=True)
    config, _ = check_copy(manager, name, content, force=force)
    file = manager.places.resource_file(name)
    made = config.metadata is not None and not config.metadata.exists()
    try:
        created = make_copy(manager, config, force=force)
        write_resource(file, content)
    except BaseException as error:
        if made and config.metadata is not None:
            config.metadata.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise BlockpairError(
                ErrorKind.IO,
                f"{error.filename or file} cannot be written: {error.strerror}",
                "make room or correct its mode",
            ) from None
        raise
    return config, created


def check_copy(
    manager: Manager, name: str, content: ResourceFile, *, force: bool, anew: bool = False
) -> tuple[ResourceConfig, bridge.Created]:
    """What `make_copy` would make of ``content``, with ``anew`` for a resource that is there; nothing is
    changed. Raises `BlockpairError` where it could not.
    """
    file = manager.places.resource_file(name)
    if file.exists() and not anew:
        raise BlockpairError(
            ErrorKind.EXISTS,
            f"the resource {name} exists already ({file})",
            f"choose another name, or delete it first: blockpair delete {name}",
        )
    try:
        config = resource_config(content, file, manager.node.name)
    except ConfigError as error:
        # The file is not there yet: name what was asked for, not a place in it.
        remedy = _REMEDIES.get(error.key, error.remedy)
        reason = _NO_TRUST if error.key == "tls" else error.reason
        raise BlockpairError(ErrorKind.USAGE, f"{name}: {reason}", remedy) from None
    _check_path(config.device, "device")
    _check_unused(manager, config)
    check_free(config.device, "device of a resource", force=force)
    if config.metadata is not None and config.metadata.exists():
        _check_path(config.metadata, "metadata")
        check_free(config.metadata, "metadata of a resource", force=force)
    return config, _metadata(manager, config, force=force, check_only=True)


async def make_anew(manager: Manager, name: str, *, force: bool) -> tuple[ResourceConfig, bridge.Created]:
    """Fresh metadata for this node's copy, where it is: it counts as one that never had data. ``force``: even
    where metadata of another resource are in that place. Raises `BlockpairError`, and then nothing was
    changed.
    """
    async with manager.lock(name):
        config = manager.config(name)
        check_down(manager, name)
        return config, await asyncio.to_thread(_make_anew, manager, config, force)


def check_down(manager: Manager, name: str) -> None:
    """Raises `BlockpairError` while the resource is up."""
    if manager.is_up(name):
        raise BlockpairError(
            ErrorKind.IN_USE, f"the resource {name} is up", f"take it down first: blockpair down {name}"
        )


def _make_anew(manager: Manager, config: ResourceConfig, force: bool) -> bridge.Created:
    _check_path(config.device, "device")
    _check_unused(manager, config)
    # What is on the device is the resource's own data; only who uses it is looked for.
    check_free(config.device, "device of a resource", force=True)
    try:
        manager.forget(config.name)
        return make_copy(manager, config, force=force or _is_own(manager, config))
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO, f"{error.filename} cannot be written: {error.strerror}", "make room"
        ) from None


def _is_own(manager: Manager, config: ResourceConfig) -> bool:
    """Whether the metadata in place are those of this copy."""
    try:
        found = bridge.read_metadata(config, dump=False)
    except BlockpairError:
        return False
    return bool((found["resource"], found["node"]) == (config.name, manager.node.name))


def make_copy(manager: Manager, config: ResourceConfig, *, force: bool) -> bridge.Created:
    """Write the metadata of a copy that `check_copy` found in order. Raises `BlockpairError`, and then there
    is none, or `OSError`.
    """
    bundles.forget_changes(manager.places, config.name)
    return _metadata(manager, config, force=force, check_only=False)


def unmake_copy(manager: Manager, config: ResourceConfig, *, made_file: bool) -> None:
    """Take back what `make_copy` made, unless another resource has that place by now; ``made_file``: the
    metadata file was not there before. Raises `BlockpairError`, `OSError`.
    """
    _check_unused(manager, config)
    if config.metadata is None or config.metadata.exists():
        bridge.erase_metadata(config, manager.node.name)
    if made_file and config.metadata is not None:
        config.metadata.unlink(missing_ok=True)
        sync_directory(config.metadata.parent)


def _metadata(manager: Manager, config: ResourceConfig, *, force: bool, check_only: bool) -> bridge.Created:
    try:
        return bridge.create_metadata(config, manager.node.name, overwrite=force, check_only=check_only)
    except BlockpairError as error:
        if error.kind is ErrorKind.UNSAFE:
            # The engine's remedy may name it already.
            named = force or "--force" in error.remedy
            error.remedy += "" if named else " (`--force`)"
        raise


def _check_path(path: Path, key: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise BlockpairError(
            ErrorKind.INVALID,
            f"the {key} {path} does not exist",
            f"correct the path, or make a file to hold the data: truncate -s 10G {path}",
        ) from None
    except OSError as error:
        raise BlockpairError(
            ErrorKind.INVALID, f"the {key} {path} cannot be used: {error.strerror}", "correct the path"
        ) from None
    if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
        raise BlockpairError(
            ErrorKind.INVALID,
            f"the {key} {path} is neither a block device nor a file",
            "name a disk, partition, logical volume, RAID array or a regular file",
        )


def _check_unused(manager: Manager, config: ResourceConfig) -> None:
    """No other resource of this node may have the same device or metadata, by whatever name."""
    ours = [path for path in (config.device, config.metadata) if path is not None]
    if len({path.resolve() for path in ours}) < len(ours):
        raise BlockpairError(
            ErrorKind.INVALID,
            f"{config.device} cannot be both the device and the metadata",
            "name another path for the metadata, or `--metadata internal`",
        )
    for name in manager.names():
        if name == config.name:
            continue
        try:
            other = manager.config(name)
        except BlockpairError:
            continue
        for path in (other.device, other.metadata):
            if path is not None and any(_same(path, mine) for mine in ours):
                raise BlockpairError(
                    ErrorKind.IN_USE,
                    f"{path} belongs to the resource {name} already",
                    f"choose another device or metadata path, or delete that one: blockpair delete {name}",
                )


def _is_unused(manager: Manager, config: ResourceConfig) -> bool:
    try:
        _check_unused(manager, config)
    except BlockpairError:
        return False
    return True


def _same(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    with contextlib.suppress(OSError):
        first, second = one.stat(), other.stat()
        if stat.S_ISBLK(first.st_mode) and stat.S_ISBLK(second.st_mode):
            return first.st_rdev == second.st_rdev
        return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
    return False


async def delete(manager: Manager, name: str) -> list[str]:
    """Forget a resource and remove its metadata file; its device keeps its data. What was done, in words."""
    async with manager.lock(name):
        check_down(manager, name)
        config = manager.config(name)
        return await asyncio.to_thread(delete_copy, manager, config)


def delete_copy(manager: Manager, config: ResourceConfig) -> list[str]:
    """Forget a resource that is down, with its metadata file. What was done, in words. Raises
    `BlockpairError`.
    """
    file = manager.places.resource_file(config.name)
    # A member may have named any file at all, and another resource may have it by now.
    own = _is_own(manager, config) and _is_unused(manager, config)
    try:
        manager.forget(config.name)
        file.unlink(missing_ok=True)
        sync_directory(file.parent)
        done = [f"removed {file}"]
        if config.metadata is None:
            done.append(
                f"{config.device} keeps its internal metadata; `blockpair create --force` overwrites it"
            )
        elif config.metadata.is_file() and not own:
            done.append(
                f"{config.metadata} stays: it is not, or cannot be recognized as, the metadata of this copy; "
                "if it is, remove it by hand"
            )
        elif config.metadata.is_file():
            config.metadata.unlink()
            done.append(f"removed the metadata {config.metadata}")
        elif config.metadata.exists():
            done.append(f"{config.metadata} keeps its metadata; `blockpair create --force` overwrites it")
        kept = manager.places.bundles(config.name)
        if any(kept.glob(f"*{bundles.SUFFIX}")):
            done.append(f"{kept} keeps its bundles; `blockpair bundle delete` removes one")
        return done
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO, f"{error.filename} cannot be removed: {error.strerror}", "correct that and repeat"
        ) from None
