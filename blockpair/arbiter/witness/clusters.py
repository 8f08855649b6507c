"""The clusters that a witness serves: a directory each, with its trust in one file, replaced as a whole."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from blockpair.config.files import remove_unfinished, sync_directory, write_atomically
from blockpair.config.names import check_name
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust import authority as ca
from blockpair.trust.authority import TrustError
from blockpair.trust.contexts import witness_cluster_context, witness_context
from blockpair.trust.join import check_witness

MAX_CLUSTERS = 1000
_ID = re.compile(r"[0-9a-f-]{1,63}", re.ASCII)
_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----\n.*?\n-----END \1-----\n", re.DOTALL)
_MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class Membership:
    """A witness's part in a cluster: texts in PEM. The key stays the same as long as it serves the cluster:
    by it nodes know the witness when the authority was changed.
    """

    cluster: str
    name: str
    authority: str
    certificate: str
    key: str = field(repr=False)


class Clusters:
    """The memberships below ``directory``, and the TLS contexts that they make. Methods may block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._members: dict[str, Membership] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.base = witness_context()
        """What new connections begin with; the name that they ask for chooses the cluster's."""
        self.base.sni_callback = self._choose

    def load(self) -> list[BlockpairError]:
        """Read all; what is wrong with those that cannot be served. Raises `BlockpairError`."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_unfinished(self._directory)
            problems = []
            for entry in sorted(self._directory.iterdir()):
                if (entry / "trust.pem").exists():
                    try:
                        self._take(_read(entry))
                    except BlockpairError as error:
                        problems.append(error)
        except OSError as error:
            raise _unwritten(error, self._directory) from None
        return problems

    def all(self) -> Iterable[Membership]:
        """Those that are served."""
        return self._members.values()

    def get(self, cluster: str) -> Membership | None:
        """That of the cluster of that id."""
        return self._members.get(cluster)

    def of(self, context: ssl.SSLContext) -> str | None:
        """The cluster's id whose trust ``context`` is, if it still is."""
        return next((cluster for cluster, found in self._contexts.items() if found is context), None)

    def keep(self, member: Membership) -> None:
        """Serve this cluster, durably, in the place of what was known of it. Raises `BlockpairError`."""
        if member.cluster not in self._members and len(self._members) >= MAX_CLUSTERS:
            raise BlockpairError(
                ErrorKind.FAILED, f"{MAX_CLUSTERS} clusters are served already", "run a second witness"
            )
        if _ID.fullmatch(member.cluster) is None:
            raise BlockpairError(
                ErrorKind.INVALID, "the cluster's id is not one", "use the same version of blockpair"
            )
        directory = self._directory / member.cluster
        try:
            if not directory.exists():
                directory.mkdir(mode=0o700)
                sync_directory(self._directory)
            write_atomically(directory / "name", member.name + "\n")
            write_atomically(
                directory / "trust.pem", member.key + member.certificate + member.authority, 0o600
            )
        except OSError as error:
            raise _unwritten(error, directory) from None
        self._take(member)

    def leave(self, cluster: str) -> None:
        """Serve that cluster no more. Raises `BlockpairError`."""
        try:
            shutil.rmtree(self._directory / cluster)
            sync_directory(self._directory)
        except OSError as error:
            raise _unwritten(error, self._directory) from None
        self._members.pop(cluster, None)
        self._contexts.pop(cluster, None)

    def _take(self, member: Membership) -> None:
        file = self._directory / member.cluster / "trust.pem"
        try:
            context = witness_cluster_context(member.authority, file, file)
        except OSError as error:
            raise _damaged(file, error.strerror or str(error)) from None
        self._members[member.cluster], self._contexts[member.cluster] = member, context

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext
    ) -> int | None:
        label, cluster = [*(name or "").split(".", 1), ""][:2]
        context = self._contexts.get(cluster) if label == ca.WITNESS else None
        if context is None:
            return ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = context
        return None


def renewed(member: Membership, authority: str, certificate: str, now: datetime) -> Membership:
    """``member`` under another authority, or with a fresher certificate of the same. Raises
    `BlockpairError`.
    """
    try:
        check_witness(certificate, authority, member.key, member.cluster, now)
    except TrustError as error:
        raise BlockpairError(
            ErrorKind.MISMATCH,
            f"the witness cannot use what it was sent: {error}",
            "see that its clock and the node's are right",
        ) from None
    return Membership(member.cluster, member.name, authority, certificate, member.key)


def _read(directory: Path) -> Membership:
    file = directory / "trust.pem"
    try:
        found = file.stat()
        if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in (0, os.geteuid()):
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"the key in {file} can be read or replaced by others",
                "if others can have read it, join that cluster anew; "
                f"otherwise: chmod 0600 {file}, and start the witness again",
            )
        with file.open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode()
        name = check_name((directory / "name").read_text().strip())
        blocks = [match[0] for match in _BLOCK.finditer(text)]
        if len(blocks) != 3:
            raise TrustError("it is not a key and two certificates")
        key, certificate, authority = blocks
        ca.check_pair(certificate, key)
        if ca.certified_name(ca.der(certificate)) != ca.witness_name(directory.name):
            raise TrustError("the certificate is not that of this cluster's witness")
    except OSError as error:
        raise _damaged(file, error.strerror or str(error)) from None
    except ValueError as error:
        raise _damaged(file, str(error)) from None
    return Membership(directory.name, name, authority, certificate, key)


def _damaged(file: Path, why: str) -> BlockpairError:
    return BlockpairError(
        ErrorKind.DAMAGED,
        f"this witness's trust cannot be used: {file}: {why}",
        "make a token in that cluster (`blockpair cluster token`) and let the witness join it again "
        "(`blockpair witness join`)",
    )


def _unwritten(error: OSError, directory: Path) -> BlockpairError:
    return BlockpairError(
        ErrorKind.IO,
        f"{error.filename or directory} cannot be used: {error.strerror}",
        "make room, or correct the owner and mode of that directory",
    )
