"""The registers of all resources, in one SQLite database. Every method may block, and is for one thread at a
time.

What one call of `apply` is given is carried out in order, in one transaction, which is on the disk when it
returns: however many nodes swap at once, the disk is waited for once.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockpair.arbiter.interface import Configuration, configuration
from blockpair.arbiter.witness.protocol import names
from blockpair.config.files import sync_directory
from blockpair.errors import BlockpairError, ErrorKind

MAX_RESOURCES = 10_000
"""Of one cluster."""

_VERSION = 1
_APPLICATION = 0x62707769  # "bpwi"
_SCHEMA = """
CREATE TABLE register (
    cluster TEXT NOT NULL,
    resource TEXT NOT NULL,
    name TEXT NOT NULL,
    configuration TEXT NOT NULL,
    changed_ns INTEGER NOT NULL,
    changed_by TEXT NOT NULL,
    PRIMARY KEY (cluster, resource)
) STRICT, WITHOUT ROWID;
CREATE TABLE contact (
    cluster TEXT NOT NULL,
    node TEXT NOT NULL,
    last_ns INTEGER NOT NULL,
    PRIMARY KEY (cluster, node)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class ReadOperation:
    """What is there, if anything."""

    cluster: str
    resource: str


@dataclass(frozen=True)
class SwapOperation:
    """``new``, if ``expected`` is there; asked for by ``node``."""

    cluster: str
    node: str
    resource: str
    name: str
    expected: Configuration | None
    new: Configuration


@dataclass(frozen=True)
class ForgetOperation:
    """Nothing is there any more."""

    cluster: str
    resource: str


@dataclass(frozen=True)
class ContactOperation:
    """When nodes were heard last: wall clock, by cluster and node."""

    last_ns: tuple[tuple[str, str, int], ...]


Operation = ReadOperation | SwapOperation | ForgetOperation | ContactOperation
Answer = Configuration | bool | None | BlockpairError


@dataclass(frozen=True)
class Row:
    """A register, for people; ``changed_ns``: wall clock."""

    cluster: str
    resource: str
    name: str
    configuration: Configuration
    changed_ns: int
    changed_by: str


class DiskFailed(Exception):
    """What is on the disk is not known any more: this process must not go on by what it remembers."""


class Register:
    """The database in ``file``, made where there is none. Raises `BlockpairError`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            # The thread may change between calls; there is never more than one in here.
            self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _unopened(file, error) from None
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            self._database.close()
            raise _unopened(file, error) from None
        except BaseException:
            self._database.close()
            raise

    def _open(self) -> None:
        run = self._database.execute
        run("PRAGMA locking_mode=EXCLUSIVE")
        version = run("PRAGMA user_version").fetchone()[0]
        application = run("PRAGMA application_id").fetchone()[0]
        tables = run("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version > _VERSION and application == _APPLICATION:
            raise BlockpairError(
                ErrorKind.NEWER,
                f"{self._file} is of a newer blockpair (version {version}, this one knows {_VERSION})",
                "install that version of blockpair",
            )
        if tables and application != _APPLICATION:
            raise BlockpairError(
                ErrorKind.DAMAGED, f"{self._file} is another program's database", "choose another directory"
            )
        # A commit is one append and one fsync in this mode, and three or four in the others. FULL is what
        # makes it durable when it returns: NORMAL would sync at checkpoints only.
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        # After a sync that failed, the log may be right in the kernel's memory and have a hole on the disk:
        # nothing that is appended behind that is found again. So first it goes into the database, synced.
        run("PRAGMA wal_checkpoint(TRUNCATE)")
        if not tables:
            run("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                run(statement)
            run(f"PRAGMA application_id={_APPLICATION}")
            run(f"PRAGMA user_version={_VERSION}")
            run("COMMIT")
            # SQLite syncs the directory for its journals, not for the database itself.
            sync_directory(self._file.parent)
        found = run("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(str(found))

    def close(self) -> None:
        """Idempotent."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

    def apply(self, operations: Sequence[Operation]) -> list[Answer]:
        """Carry out ``operations`` in order, durably; the answer to each. Raises `DiskFailed`;
        `BlockpairError` where nothing was done, of any.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                answers = [self._carry_out(operation) for operation in operations]
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise _no_room(self._file) from None
            raise DiskFailed(f"{self._file}: {error}") from None
        return answers

    def rows(self) -> list[Row]:
        """All registers. Raises `DiskFailed`."""
        with self._told():
            found = self._database.execute(
                "SELECT cluster, resource, name, configuration, changed_ns, changed_by FROM register "
                "ORDER BY cluster, name, resource"
            ).fetchall()
        return [
            Row(cluster, resource, name, _decoded(text), changed_ns, changed_by)
            for cluster, resource, name, text, changed_ns, changed_by in found
        ]

    def contacts(self) -> dict[tuple[str, str], int]:
        """When nodes were heard last, as it was written last. Raises `DiskFailed`."""
        with self._told():
            found = self._database.execute("SELECT cluster, node, last_ns FROM contact").fetchall()
        return {(cluster, node): last_ns for cluster, node, last_ns in found}

    def _carry_out(self, operation: Operation) -> Answer:
        match operation:
            case ReadOperation(cluster, resource):
                return self._held(cluster, resource)
            case SwapOperation():
                return self._swap(operation)
            case ForgetOperation(cluster, resource):
                done = self._database.execute(
                    "DELETE FROM register WHERE cluster = ? AND resource = ?", (cluster, resource)
                )
                return done.rowcount > 0
            case ContactOperation(last_ns):
                self._database.executemany("INSERT OR REPLACE INTO contact VALUES (?, ?, ?)", last_ns)
                return None

    def _held(self, cluster: str, resource: str) -> Configuration | None:
        row = self._database.execute(
            "SELECT configuration FROM register WHERE cluster = ? AND resource = ?", (cluster, resource)
        ).fetchone()
        return None if row is None else _decoded(row[0])

    def _swap(self, swap: SwapOperation) -> bool | BlockpairError:
        if not names(swap.node, swap.expected, swap.new):
            return BlockpairError(
                ErrorKind.NOT_PERMITTED,
                f"{swap.node} may change the configuration of its own resources only, not of {swap.name}",
                "see `blockpair witness status` on the witness",
            )
        if swap.expected is not None and swap.new.epoch <= swap.expected.epoch:
            return BlockpairError(
                ErrorKind.INVALID, "an epoch follows a smaller one", "use the same version of blockpair"
            )
        if self._held(swap.cluster, swap.resource) != swap.expected:
            return False
        if swap.expected is None and self._count(swap.cluster) >= MAX_RESOURCES:
            return BlockpairError(
                ErrorKind.FAILED,
                f"the witness keeps {MAX_RESOURCES} resources of this cluster already",
                "forget those that are deleted: `blockpair witness forget` on the witness",
            )
        self._database.execute(
            "INSERT OR REPLACE INTO register VALUES (?, ?, ?, ?, ?, ?)",
            (swap.cluster, swap.resource, swap.name, _encoded(swap.new), time.time_ns(), swap.node),
        )
        return True

    def _count(self, cluster: str) -> int:
        found = self._database.execute("SELECT count(*) FROM register WHERE cluster = ?", (cluster,))
        return int(found.fetchone()[0])

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DiskFailed(f"{self._file}: {error}") from None


def _encoded(value: Configuration) -> str:
    return json.dumps(value.document(), separators=(",", ":"))


def _decoded(text: str) -> Configuration:
    try:
        return configuration(json.loads(text))
    except ValueError as error:
        raise DiskFailed(f"a configuration was changed by somebody else: {error}") from None


def _no_room(file: Path) -> BlockpairError:
    return BlockpairError(ErrorKind.IO, f"there is no room for {file}", "make room on its file system")


def _unopened(file: Path, error: Exception) -> BlockpairError:
    match getattr(error, "sqlite_errorcode", None):
        case sqlite3.SQLITE_BUSY:
            return BlockpairError(
                ErrorKind.IN_USE, f"{file} is used by another process", "stop the other witness first"
            )
        case sqlite3.SQLITE_FULL:
            return _no_room(file)
    return BlockpairError(
        ErrorKind.DAMAGED,
        f"the witness's registers in {file} cannot be used: {error}",
        "mend that disk or directory. If the file itself is damaged, move it away: nodes that are connected "
        "write the registers anew, and fail over by themselves again from then on",
    )
