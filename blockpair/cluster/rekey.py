"""A new authority for the whole cluster: all members take it up, or none does.

The node where it was asked for coordinates. Each member makes a key of its own and asks for a certificate
(``prepare``); when all have, each gets its certificate and the authority, keeps both durably beside those
that count (``stage``); when all have, the coordinator takes up its own: from then on it is done. Then it
tells the others (``commit``). A member that misses that finds out by itself: either the coordinator answers
under the new authority, which it does only if it is done, or it says under the old one that nothing came of
it.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from msgspec import Struct

from blockpair.cluster.cluster import Cluster
from blockpair.cluster.peers import call_at
from blockpair.cluster.server import PeerMethod
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust import authority
from blockpair.trust.authority import Authority, TrustError
from blockpair.trust.store import Generation, Staged

_STEP_SECONDS = 10.0
_ASK_SECONDS = 3.0

Outcome = Literal["committed", "pending", "aborted"]


class IdParams(Struct, forbid_unknown_fields=True):
    """Which change."""

    id: str


class StageParams(Struct, forbid_unknown_fields=True):
    """What a member shall keep beside what counts."""

    id: str
    authority: str
    authority_key: str
    certificate: str

    def __repr__(self) -> str:
        return f"StageParams({self.id})"


@dataclass(frozen=True)
class _Prepared:
    id: str
    coordinator: str
    key: str = field(repr=False)


class Rekey:
    """Both sides of a change of the authority, and the renewal of this node's own certificate."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._prepared: _Prepared | None = None
        self._running: str | None = None
        self._log = structlog.get_logger().bind(part="cluster")
        cluster.methods.update(
            {
                "peer.trust.prepare": PeerMethod(IdParams, self._prepare),
                "peer.trust.stage": PeerMethod(StageParams, self._stage),
                "peer.trust.commit": PeerMethod(IdParams, self._commit),
                "peer.trust.abort": PeerMethod(IdParams, self._abort),
                "peer.trust.outcome": PeerMethod(IdParams, self._outcome),
            }
        )

    # -- The coordinator

    async def change(self, members: list[str], *, why: str) -> list[str]:
        """Give this node and ``members`` a new authority; what was done, in words. `Cluster.lock` is held.
        Raises `BlockpairError`, and then nothing was changed, unless it says so.
        """
        cluster = self._cluster
        id_ = secrets.token_hex(8)
        cluster_name, now = cluster.content.cluster.name, cluster.now()
        made = authority.new_authority(cluster_name, now)
        before = set(cluster.others())
        self._running = id_
        try:
            await self._stage_everywhere(id_, made, members)
            joined = set(cluster.others()) - before
            if joined:
                raise BlockpairError(
                    ErrorKind.FAILED,
                    f"the authority stays as it is: {', '.join(sorted(joined))} joined meanwhile",
                    "repeat the command",
                )
            old = cluster.client_context()
            addresses = {member: cluster.control_addresses(member) for member in members}
            # This is the moment at which it is done.
            await self._take_up_here(id_)
        except BaseException:
            self._running = None
            await self._undo(id_, members)
            raise
        try:
            await cluster.reload()
        except BlockpairError as error:
            raise BlockpairError(
                error.kind,
                f"the cluster has a new authority, which this node cannot use yet: {error.message}",
                f"{error.remedy}; it is tried again by itself",
            ) from None
        finally:
            self._running = None
        fingerprint = authority.fingerprint(made.certificate).hex()
        self._log.info("authority.changed", why=why, sha256=fingerprint, members=members)

        async def tell(member: str) -> str:
            try:
                await call_at(
                    addresses[member], member, old, "peer.trust.commit", IdParams(id_), timeout=_ASK_SECONDS
                )
            except BlockpairError as error:
                return f"{member} takes it up by itself, once it can ask this node: {error.message}"
            return f"{member} has taken up the new authority"

        return [f"the cluster has a new authority: {fingerprint}", *await asyncio.gather(*map(tell, members))]

    async def _stage_everywhere(self, id_: str, made: Authority, members: list[str]) -> None:
        cluster = self._cluster
        now = cluster.now()
        requests = await self._all(members, "peer.trust.prepare", {name: IdParams(id_) for name in members})
        try:
            certificates = {
                name: authority.issue(made, str(request), name, now) for name, request in requests.items()
            }
        except TrustError as error:
            raise BlockpairError(
                ErrorKind.MISMATCH, f"a member asks for what it cannot have: {error}", "see that member's log"
            ) from None
        await self._all(
            members,
            "peer.trust.stage",
            {
                name: StageParams(id_, made.certificate, made.key, certificate)
                for name, certificate in certificates.items()
            },
        )
        own, key = cluster.node.name, authority.new_key()
        certificate = authority.issue(made, authority.new_request(own, key), own, now)
        await asyncio.to_thread(cluster.store.stage, id_, own, made, certificate, key)

    async def _take_up_here(self, id_: str) -> None:
        store = self._cluster.store
        try:
            await asyncio.to_thread(store.take_up)
        except BlockpairError:
            # An error after the new generation took its place undoes nothing.
            current = await asyncio.to_thread(store.load)
            if current is None or current.id != id_:
                raise

    async def _all(self, members: list[str], method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Every member's answer. Raises `BlockpairError` if one does not agree."""
        answers = await self._cluster.call_all(members, method, params.__getitem__, timeout=_STEP_SECONDS)
        for member, answer in answers.items():
            if isinstance(answer, BlockpairError):
                raise BlockpairError(
                    answer.kind,
                    f"the authority stays as it is: {member} did not agree: {answer.message}",
                    f"every remaining member must take part: {answer.remedy}",
                )
        return answers

    async def _undo(self, id_: str, members: list[str]) -> None:
        """Best effort: who is not told asks."""
        await self._cluster.call_all(
            members, "peer.trust.abort", lambda _: IdParams(id_), timeout=_ASK_SECONDS
        )
        await asyncio.to_thread(self._cluster.store.drop)

    # -- A member

    async def _prepare(self, caller: str, params: IdParams) -> str:
        cluster = self._cluster
        if self._running is not None or cluster.lock.locked():
            raise BlockpairError(
                ErrorKind.FAILED,
                f"the membership is being changed on {cluster.node.name} too",
                "try again in a moment",
            )
        async with cluster.lock:
            staged = await asyncio.to_thread(cluster.store.staged)
            # A coordinator that begins anew under the same authority did not complete what it began before.
            if staged is not None and staged.coordinator != caller:
                raise BlockpairError(
                    ErrorKind.FAILED,
                    f"{cluster.node.name} waits for {staged.coordinator}: what came of an earlier change?",
                    f"start {staged.coordinator}'s daemon, or remove that node there",
                )
            self._prepared = _Prepared(params.id, caller, authority.new_key())
            return authority.new_request(cluster.node.name, self._prepared.key)

    async def _stage(self, caller: str, params: StageParams) -> bool:
        cluster = self._cluster
        async with cluster.lock:
            prepared = self._prepared
            if prepared is None or (prepared.id, prepared.coordinator) != (params.id, caller):
                raise BlockpairError(
                    ErrorKind.FAILED,
                    f"{cluster.node.name} knows nothing of this change: it was started anew, perhaps",
                    "repeat the command",
                )
            made = Authority(params.authority, params.authority_key)
            try:
                authority.check_pair(made.certificate, made.key)
                authority.check_pair(params.certificate, prepared.key)
                issued = authority.der(params.certificate)
                if authority.check_issued(issued, made.certificate, cluster.now()) != cluster.node.name:
                    raise TrustError("the certificate is another node's")
            except TrustError as error:
                raise BlockpairError(
                    ErrorKind.MISMATCH,
                    f"{cluster.node.name} cannot use what it was sent: {error}",
                    "see that the clocks of the nodes are right",
                ) from None
            await asyncio.to_thread(
                cluster.store.stage, params.id, caller, made, params.certificate, prepared.key
            )
            self._prepared = None
            self._log.info("authority.staged", coordinator=caller)
            return True

    async def _commit(self, caller: str, params: IdParams) -> bool:
        cluster = self._cluster
        async with cluster.lock:
            if cluster.generation.id != params.id:
                await self._check_staged(caller, params.id)
                await self._take_up(caller)
            return True

    async def _abort(self, caller: str, params: IdParams) -> bool:
        async with self._cluster.lock:
            staged = await asyncio.to_thread(self._cluster.store.staged)
            if staged is not None and (staged.generation.id, staged.coordinator) == (params.id, caller):
                await asyncio.to_thread(self._cluster.store.drop)
                self._log.info("authority.unchanged", coordinator=caller)
            return True

    async def _outcome(self, caller: str, params: IdParams) -> Outcome:
        if self._running == params.id:
            return "pending"
        # What was done is durable before anybody is told: what is not here did not happen.
        return "committed" if self._cluster.generation.id == params.id else "aborted"

    async def _check_staged(self, caller: str, id_: str) -> Staged:
        staged = await asyncio.to_thread(self._cluster.store.staged)
        if staged is None or (staged.generation.id, staged.coordinator) != (id_, caller):
            raise BlockpairError(
                ErrorKind.NOT_FOUND, "no such change of the authority waits here", "repeat the command"
            )
        return staged

    async def _take_up(self, coordinator: str) -> None:
        await asyncio.to_thread(self._cluster.store.take_up)
        await self._cluster.reload()
        self._log.info("authority.taken-up", coordinator=coordinator)

    # -- By itself

    async def waiting_for(self) -> str | None:
        """The node whose word on a change of the authority this one waits for."""
        staged = await asyncio.to_thread(self._cluster.store.staged)
        return None if staged is None else staged.coordinator

    async def resolve(self) -> None:
        """Find out what came of a change that waits here, if one does. Raises `BlockpairError` while that is
        not to be found out.
        """
        cluster = self._cluster
        if self._running is not None or not cluster.member:
            return
        async with cluster.lock:
            staged = await asyncio.to_thread(cluster.store.staged)
            if staged is None:
                return
            if staged.coordinator == cluster.node.name or staged.generation.id == cluster.generation.id:
                # A coordinator that was killed before it was done, or a member right after.
                await asyncio.to_thread(cluster.store.drop)
                return
            outcome = await self._ask(staged)
            if outcome == "committed":
                await self._take_up(staged.coordinator)
            elif outcome == "aborted":
                await asyncio.to_thread(cluster.store.drop)
                self._log.info("authority.unchanged", coordinator=staged.coordinator)

    async def _ask(self, staged: Staged) -> Outcome:
        cluster = self._cluster
        addresses = cluster.control_addresses(staged.coordinator)
        # Under the new authority first: only a coordinator that is done can answer that.
        failure: BlockpairError | None = None
        for generation in (staged.generation, cluster.generation):
            try:
                answer = await call_at(
                    addresses,
                    staged.coordinator,
                    await asyncio.to_thread(_client, generation),
                    "peer.trust.outcome",
                    IdParams(staged.generation.id),
                    timeout=_ASK_SECONDS,
                )
            except BlockpairError as error:
                failure = error
                continue
            if generation is staged.generation and answer != "pending":
                # Under the new authority at all: it was taken up, whatever became of it since.
                return "committed"
            if answer in ("committed", "pending", "aborted"):
                found: Outcome = answer
                return found
        assert failure is not None
        raise failure

    async def renew(self) -> str:
        """A fresh key and certificate for this node, of the authority that is; when that expires.
        `Cluster.lock` is held. Raises `BlockpairError`.
        """
        cluster = self._cluster
        generation, name = cluster.generation, cluster.node.name
        key = authority.new_key()
        try:
            request = authority.new_request(name, key)
            certificate = authority.issue(generation.authority, request, name, cluster.now())
        except TrustError as error:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"the certificate stays as it is: {error}",
                "set the clock right; if the authority expired: `blockpair cluster rotate --ca`",
            ) from None
        # Of the same change of the authority: who missed that asks for it by this id.
        await asyncio.to_thread(cluster.store.replace, generation.authority, certificate, key, generation.id)
        await cluster.reload()
        expires = authority.inspect(certificate).not_after.isoformat()
        self._log.info("certificate.renewed", expires=expires)
        return expires

    async def renew_if_due(self) -> None:
        """Renew once two thirds of the certificate's life are over. Raises `BlockpairError`."""
        cluster = self._cluster
        if not cluster.member:
            return
        async with cluster.lock:
            facts = authority.inspect(cluster.generation.certificate)
            if authority.renewal_due(facts, cluster.now()):
                await self.renew()


def _client(generation: Generation) -> Any:
    return generation.client()
