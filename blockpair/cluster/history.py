"""The versions of the cluster's configuration: a chain by hashes, the same on every node that has caught up.
Pure.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import msgspec
from msgspec import Struct

# What is kept, and sent to a node that was away: beyond it the oldest versions go. A node whose version is
# not known any more counts as one that went its own way, and a person decides.
MAX_VERSIONS = 500
MAX_TEXT_BYTES = 2 << 20


class Version(Struct, frozen=True, forbid_unknown_fields=True):
    """One version. ``parent``: the id of the one before it, empty for the first; ``author``: the node it was
    made on; ``time``: RFC 3339 in UTC; ``why``: what was done, in words; ``over``: ids of versions of other
    nodes that a person gave up for this one.
    """

    number: int
    parent: str
    author: str
    time: str
    why: str
    text: str
    over: tuple[str, ...] = ()

    def id(self) -> str:
        """SHA-256 over all of it, and by ``parent`` over all before it."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.astuple(self))).hexdigest()


class Relation(Enum):
    """How one history stands to another."""

    EQUAL = "equal"
    BEHIND = "behind"
    AHEAD = "ahead"
    CONFLICT = "conflict"


@dataclass(frozen=True)
class History:
    """A chain of at least one version, oldest first; of a long one only the end. Made by `history_of`."""

    versions: tuple[Version, ...]
    ids: tuple[str, ...]

    @property
    def head(self) -> Version:
        """The present version."""
        return self.versions[-1]

    @property
    def head_id(self) -> str:
        """Its id."""
        return self.ids[-1]

    @cached_property
    def known(self) -> frozenset[str]:
        """Every version that led here or was given up on the way: a node at one of them may go forward to
        this head, and nothing is lost that a person did not give up.
        """
        over = (version_id for version in self.versions for version_id in version.over)
        return frozenset((*self.ids, *over, *filter(None, [self.versions[0].parent])))

    def version(self, version_id: str) -> Version | None:
        """The version of that id, if it is here."""
        return dict(zip(self.ids, self.versions, strict=True)).get(version_id)

    def followed_by(
        self, text: str, *, author: str, time: str, why: str, over: Collection[str] = ()
    ) -> Version:
        """The next version; it is not added yet."""
        return Version(self.head.number + 1, self.head_id, author, time, why, text, tuple(sorted(over)))

    def with_next(self, version: Version) -> History:
        """This and ``version``, without the oldest where it grows too long. Raises `ValueError` if that does
        not follow.
        """
        return _bounded(history_of((*self.versions, version)))

    def since(self, have: Collection[str]) -> tuple[Version, ...]:
        """What comes after the newest version in ``have``; everything where none of it is there."""
        for index in range(len(self.ids) - 1, -1, -1):
            if self.ids[index] in have:
                return self.versions[index + 1 :]
        return self.versions

    def grafted(self, versions: Sequence[Version]) -> History:
        """The history of a node that answered ``versions`` to this one's ids. Raises `ValueError` if they are
        no chain.
        """
        if not versions:
            raise ValueError("no version is there")
        parent = versions[0].parent
        kept = self.ids.index(parent) + 1 if parent in self.ids else 0
        return _bounded(history_of((*self.versions[:kept], *versions)))


def history_of(versions: Sequence[Version]) -> History:
    """The history of ``versions``, oldest first. Raises `ValueError` where they are no chain."""
    if not versions:
        raise ValueError("a history has at least one version")
    if versions[0].number < 1 or (versions[0].number == 1) != (versions[0].parent == ""):
        raise ValueError(f"version {versions[0].number} cannot be the first")
    ids = [version.id() for version in versions]
    for before, before_id, version in zip(versions, ids, versions[1:], strict=False):
        if (version.number, version.parent) != (before.number + 1, before_id):
            raise ValueError(f"version {version.number} does not follow version {before.number}")
    return History(tuple(versions), tuple(ids))


def first_version(text: str, *, author: str, time: str, why: str) -> History:
    """The history that begins with ``text``."""
    return history_of([Version(1, "", author, time, why, text)])


def relation(ours: History, theirs: History) -> Relation:
    """How ``ours`` stands to ``theirs``: behind may go forward, in conflict a person decides."""
    if ours.head_id == theirs.head_id:
        return Relation.EQUAL
    if ours.head_id in theirs.known:
        return Relation.BEHIND
    if theirs.head_id in ours.known:
        return Relation.AHEAD
    return Relation.CONFLICT


def only_in(ours: History, theirs: History) -> tuple[Version, ...]:
    """The versions that ``theirs`` neither has nor gave up."""
    return tuple(
        version
        for version, version_id in zip(ours.versions, ours.ids, strict=True)
        if version_id not in theirs.known
    )


def accepted(ours: History, theirs: History, *, author: str, time: str, why: str) -> History:
    """``theirs``, and after it a version that gives up what only ``ours`` has: a node that followed ``ours``
    may go forward to it.
    """
    over = ours.known - theirs.known
    return theirs.with_next(
        theirs.followed_by(theirs.head.text, author=author, time=time, why=why, over=over)
    )


def text_diff(old: str, new: str, old_name: str, new_name: str) -> str:
    """The unified diff of two texts; empty where they are equal."""
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), old_name, new_name
    )
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def _bounded(history: History) -> History:
    first, size = len(history.versions) - 1, len(history.head.text)
    while first > 0 and len(history.versions) - first < MAX_VERSIONS:
        size += len(history.versions[first - 1].text)
        if size > MAX_TEXT_BYTES:
            break
        first -= 1
    return history if first == 0 else History(history.versions[first:], history.ids[first:])
