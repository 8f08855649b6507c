"""What a node proves itself with to a witness, and how it has the witness follow the cluster's trust.

A witness has no key of the authority, and takes no part when the authority is changed: it may be down for
weeks. So a node keeps its certificate of the authority before (`TrustStore.former`), by which a witness that
has missed the change still knows it, and hands the new trust over. The certificate it then makes is for the
key that it knows the witness by: whoever else has the old authority's key, as a removed node does, gets none.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from blockpair.arbiter.witness.protocol import TakeParams
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust import authority as ca
from blockpair.trust.authority import TrustError
from blockpair.trust.contexts import WITNESS_ALPN
from blockpair.trust.store import TrustStore


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Identity:
    """Whose certificate a connection is made with; ``version``: of the trust that counts, None: of an
    authority that counts no more.
    """

    context: ssl.SSLContext
    version: str | None


class NodeTrust:
    """The trust of a node of the cluster of id ``cluster``, as it lies on the disk now. Methods may block."""

    def __init__(self, store: TrustStore, cluster: str, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self.cluster = cluster
        self._now = now

    @property
    def witness(self) -> str:
        """The name in the certificate of this cluster's witness."""
        return ca.witness_name(self.cluster)

    def version(self) -> str | None:
        """Another one after every change. Raises `BlockpairError`."""
        return self._store.current()

    def identity(self) -> Identity:
        """The one that counts. Raises `BlockpairError`."""
        version = self.version()
        generation = self._store.load()
        if generation is None:
            raise BlockpairError(
                ErrorKind.FAILED,
                "this node is in no cluster, and a witness serves members of clusters alone",
                "`blockpair cluster init` or `blockpair cluster join`",
            )
        try:
            return Identity(generation.client(WITNESS_ALPN), version)
        except OSError as error:
            raise BlockpairError(
                ErrorKind.DAMAGED,
                f"this node's certificate in {generation.directory} cannot be used: {error}",
                "restore it from a backup, or have the node removed and join again",
            ) from None

    def former(self) -> list[Identity]:
        """Those that counted before, the latest first: for a witness that has missed a change."""
        found = []
        for former in self._store.former():
            try:
                found.append(Identity(former.client(WITNESS_ALPN), None))
            except OSError:
                # It is a help where it can be used, and no more.
                continue
        return found

    def met(self, certificate: bytes) -> bool:
        """A witness was met under the authority that counts. Whether its certificate should be renewed.
        Raises `BlockpairError`.
        """
        fingerprint = ca.certified_key_fingerprint(certificate)
        if self._store.witness_key() != fingerprint:
            self._store.remember_witness_key(fingerprint)
        self._store.drop_former()
        return ca.renewal_due(ca.inspect_der(certificate), self._now())

    def hand_over(self, request: str) -> TakeParams:
        """What the witness that sent ``request`` shall take up. Raises `BlockpairError`."""
        generation = self._store.load()
        if generation is None:
            raise BlockpairError(ErrorKind.FAILED, "this node is in no cluster any more", "join one")
        try:
            if ca.requested_key_fingerprint(request) != self._store.witness_key():
                raise TrustError("its key is not the one that this node knows the witness by")
            certificate = ca.issue_witness(generation.authority, request, self.cluster, self._now())
        except TrustError as error:
            raise BlockpairError(
                ErrorKind.UNSAFE,
                f"the witness is not given a certificate of the cluster's authority: {error}",
                REJOIN,
            ) from None
        return TakeParams(generation.authority.certificate, certificate)


REJOIN = (
    "if it is your witness, let it join again: `blockpair cluster token` here, then `blockpair witness join` "
    "on its machine"
)
