"""The cluster's configuration on this node's disk: its versions, and the files that are rendered from the
last one.

A crash at any moment leaves the old version or the new one: versions are files of their own, written before
the small file that names the head. cluster.toml and the resource files follow from it; what a crash has left
undone of them, the next `Store.render` does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct, field

from blockpair.cluster.history import MAX_VERSIONS, History, Version, history_of
from blockpair.config.cluster import ClusterFile, parse_cluster, resources_on
from blockpair.config.files import sync_directory, write_atomically
from blockpair.config.locations import Locations
from blockpair.config.resource import resource_text
from blockpair.errors import BlockpairError, ErrorKind

_VERSION_FILE = re.compile(r"(\d{8})-([0-9a-f]{64})\.json")
_CLUSTER = "cluster.toml"


class _Head(Struct, forbid_unknown_fields=True):
    number: int
    id: str


class _Rendered(Struct, forbid_unknown_fields=True):
    """SHA-256 of what was written last, by file name: a file that has another was edited by hand.
    ``cluster``: the id of whose configuration it was.
    """

    files: dict[str, str] = field(default_factory=dict)
    cluster: str = ""


class Store:
    """The durable side of one node's configuration. Its methods block; one at a time."""

    def __init__(self, places: Locations, node: str) -> None:
        self._places = places
        self._node = node
        self._directory = places.cluster_history
        self._head_file = places.cluster_history / "head.json"
        self._rendered_file = places.cluster_history / "rendered.json"

    def load(self) -> History | None:
        """The history; None where this node never had one. Raises `BlockpairError` where it is damaged."""
        try:
            head = msgspec.json.decode(self._head_file.read_bytes(), type=_Head)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _damaged(self._head_file, str(error)) from None
        versions: list[Version] = []
        number, version_id = head.number, head.id
        while number > 0 and len(versions) < MAX_VERSIONS:
            file = self._version_file(number, version_id)
            try:
                version = msgspec.json.decode(file.read_bytes(), type=Version)
            except FileNotFoundError:
                break
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                raise _damaged(file, str(error)) from None
            if version.id() != version_id:
                raise _damaged(file, "its content is not what its name says")
            versions.append(version)
            number, version_id = version.number - 1, version.parent
        if not versions:
            raise _damaged(self._version_file(head.number, head.id), "it is missing")
        try:
            return history_of(versions[::-1])
        except ValueError as error:
            raise _damaged(self._directory, str(error)) from None

    def rendered_content(self) -> ClusterFile | None:
        """What cluster.toml says; None where there is none that is understood."""
        try:
            return parse_cluster(self._places.cluster_file.read_text(), self._places.cluster_file)
        except (OSError, UnicodeDecodeError, BlockpairError):
            return None

    def save(self, history: History) -> None:
        """Make ``history`` the one that `load` returns, durably. Raises `BlockpairError`, and then it is the
        one before.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for version, version_id in zip(history.versions, history.ids, strict=True):
                file = self._version_file(version.number, version_id)
                if not file.exists():
                    write_atomically(file, _json(version), 0o600)
            head = _Head(history.head.number, history.head_id)
            write_atomically(self._head_file, _json(head), 0o600)
            self._prune(history.head.number)
        except OSError as error:
            raise _unwritten(error, self._directory) from None

    def forget(self) -> None:
        """This node is in no cluster any more: its history goes, the resource files that were rendered stay,
        as its own. What was written of them is remembered: should it join the same cluster again, they are
        the cluster's again. Raises `BlockpairError`.
        """
        try:
            # First what makes it a history: the rest means nothing without it.
            for file in (self._head_file, self._places.cluster_file):
                file.unlink(missing_ok=True)
            if self._directory.exists():
                sync_directory(self._directory)
                for file in self._directory.iterdir():
                    if _VERSION_FILE.fullmatch(file.name):
                        file.unlink()
        except OSError as error:
            raise _unwritten(error, self._directory) from None

    def render(self, history: History, is_up: Callable[[str], bool]) -> list[str]:
        """Write cluster.toml and this node's resource files as ``history`` says. What could not be done, in
        words: a file edited by hand is left as it is, and so is that of a resource that ``is_up`` and should
        be gone. Raises `BlockpairError`.
        """
        try:
            content = parse_cluster(history.head.text, self._places.cluster_file)
            rendered = self._read_rendered()
            if rendered.cluster not in ("", content.cluster.id):
                # Of another cluster, which this node has left: the files are its own.
                rendered = _Rendered()
            problems: list[str] = []
            files = dict(rendered.files)
            text = history.head.text
            if not _write(self._places.cluster_file, text, files, _CLUSTER):
                problems.append(_edited(self._places.cluster_file))
            wanted = resources_on(content, self._node)
            comment = (
                f"Rendered from version {history.head.number} of the cluster's configuration: "
                "edit it with `blockpair config edit`, not here."
            )
            for name, resource in wanted.items():
                file = self._places.resource_file(name)
                if not _write(file, resource_text(resource, comment), files, file.name):
                    problems.append(_edited(file))
            for key in [key for key in files if key != _CLUSTER and key.removesuffix(".toml") not in wanted]:
                name = key.removesuffix(".toml")
                if is_up(name):
                    problems.append(
                        f"the resource {name} is no longer in the cluster's configuration, but up here: "
                        f"blockpair down {name}"
                    )
                elif not _remove(self._places.resource_file(name), files, key):
                    problems.append(_edited(self._places.resource_file(name)))
            now = _Rendered(files, content.cluster.id)
            if now != rendered:
                write_atomically(self._rendered_file, _json(now), 0o600)
        except OSError as error:
            raise _unwritten(error, self._places.config) from None
        return problems

    def hand_edited(self, history: History) -> str | None:
        """The text of a cluster.toml that somebody edited; None while it is as it was written."""
        try:
            text = self._places.cluster_file.read_text()
        except (OSError, UnicodeDecodeError):
            return None
        known = (_sha(history.head.text), self._read_rendered().files.get(_CLUSTER))
        return None if _sha(text) in known else text

    def _read_rendered(self) -> _Rendered:
        try:
            return msgspec.json.decode(self._rendered_file.read_bytes(), type=_Rendered)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            # Without the record every file counts as somebody's own, unless it is as it should be.
            return _Rendered()

    def _version_file(self, number: int, version_id: str) -> Path:
        return self._directory / f"{number:08d}-{version_id}.json"

    def _prune(self, newest: int) -> None:
        """Remove versions far older than the head, given up or not."""
        for file in self._directory.iterdir():
            match = _VERSION_FILE.fullmatch(file.name)
            if match is not None and int(match[1]) <= newest - 2 * MAX_VERSIONS:
                file.unlink(missing_ok=True)


def _write(file: Path, text: str, files: dict[str, str], key: str) -> bool:
    """Write ``file`` where it was written by us last, or is not there; whether it is as it should be."""
    try:
        present: bytes | None = file.read_bytes()
    except FileNotFoundError:
        present = None
    if present is not None and _body(present) == _body(text.encode()):
        # The first line of a resource file names a version: where nothing else would change, it stays.
        files[key] = hashlib.sha256(present).hexdigest()
        return True
    if present is not None and hashlib.sha256(present).hexdigest() != files.get(key):
        return False
    write_atomically(file, text)
    files[key] = _sha(text)
    return True


def _remove(file: Path, files: dict[str, str], key: str) -> bool:
    try:
        if hashlib.sha256(file.read_bytes()).hexdigest() != files[key]:
            return False
        file.unlink()
        sync_directory(file.parent)
    except FileNotFoundError:
        pass
    del files[key]
    return True


def _body(content: bytes) -> bytes:
    return re.sub(rb"\A# Rendered from version \d+ ", b"# ", content)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _json(value: Struct) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode() + "\n"


def _edited(file: Path) -> str:
    return (
        f"{file} was edited by hand and is left alone: change it by `blockpair config edit`, which begins "
        "with what is in cluster.toml; or remove the file, and it is written again as the cluster has it"
    )


def _damaged(file: Path, why: str) -> BlockpairError:
    return BlockpairError(
        ErrorKind.DAMAGED,
        f"the history of the cluster's configuration cannot be read: {file}: {why}",
        "move that directory away and start the daemon: it takes the configuration from the other nodes",
    )


def _unwritten(error: OSError, directory: Path) -> BlockpairError:
    return BlockpairError(
        ErrorKind.IO,
        f"{error.filename or directory} cannot be written: {error.strerror}",
        "make room or correct its mode",
    )
