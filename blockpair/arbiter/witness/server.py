"""The witness's port: nodes' calls to the registers of their own cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import structlog

from blockpair.arbiter.interface import Configuration
from blockpair.arbiter.witness import protocol
from blockpair.arbiter.witness.calls import meaning
from blockpair.arbiter.witness.clusters import Clusters, renewed
from blockpair.arbiter.witness.commits import Commits
from blockpair.arbiter.witness.register import ContactOperation, SwapOperation
from blockpair.cluster.door import Door, Kind, full
from blockpair.cluster.tls import TlsStream
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc import messages
from blockpair.rpc.messages import ErrorObject, Request, RpcError
from blockpair.trust import authority as ca
from blockpair.trust.contexts import WITNESS_ALPN

MAX_NODES = 4096
MAX_OF_ONE_NODE = 4
_KIND = Kind(
    part="witness",
    alpn=WITNESS_ALPN,
    title="witness's port",
    plain=BlockpairError(
        ErrorKind.FAILED,
        "this is a witness of blockpair: it speaks TLS 1.3 to members of its clusters alone",
        "to have it serve another cluster: `blockpair witness join` on its machine",
    ),
    unopened="free that port, or choose another one: `blockpair witness serve --listen ADDRESS:PORT`",
    proven=MAX_NODES,
    proven_of_one=MAX_OF_ONE_NODE,
    # A node that was cut off comes back by a new connection; its old ones say nothing of their end.
    newest_stays=True,
)
_ANSWER_SECONDS = 10.0


class WitnessServer:
    """Serves ``clusters`` from what ``commits`` keeps."""

    def __init__(self, clusters: Clusters, commits: Commits, now: Callable[[], datetime]) -> None:
        self._clusters = clusters
        self._commits = commits
        self._now = now
        self._door = Door(_KIND, self._converse)
        self.contacts: dict[tuple[str, str], int] = {}
        """When a node was heard last, by cluster and name; nanoseconds of the wall clock."""
        self._log = structlog.get_logger().bind(part=_KIND.part)

    @property
    def port(self) -> int | None:
        """Where it listens, if it does."""
        return self._door.port

    async def start(self, address: Address) -> None:
        """Listen. Raises `BlockpairError`."""
        await self._door.start(address, self._clusters.base)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        await self._door.close()

    def end(self, cluster: str) -> None:
        """End the connections of a cluster's nodes, which proved what they are to another trust."""
        self._door.end(lambda name: name.startswith(f"{cluster}/"))

    def contact(self) -> ContactOperation:
        """When nodes were heard, to be written down."""
        return ContactOperation(tuple((*key, at) for key, at in self.contacts.items()))

    async def _converse(self, stream: TlsStream, who: str) -> None:
        cluster, certificate = self._clusters.of(stream.context()), stream.certificate()
        if cluster is None or certificate is None:
            raise ValueError("its cluster's authority was changed meanwhile")
        node = ca.certified_name(certificate)
        if not self._door.prove(f"{cluster}/{node}"):
            self._door.refused(who, f"{node} has too many connections")
            await stream.write(full())
            return
        stream.keep_alive()
        await _Conversation(self, stream, cluster, node).run()

    async def answer(self, cluster: str, node: str, line: bytes) -> bytes:
        """Carry out one call, and encode what it gives."""
        request: Request | None = None
        try:
            request = messages.decode_request(line)
            return messages.encode_result(_id(request), await self._carry_out(cluster, node, request))
        except RpcError as error:
            self._door.refused(f"{node} of {cluster}", str(error))
            return messages.encode_error(_id(request), ErrorObject(error.code, str(error)))
        except BlockpairError as error:
            self._door.refused(f"{node} of {cluster}", error.message)
            return messages.encode_error(_id(request), messages.error_object(error))

    async def _carry_out(self, cluster: str, node: str, request: Request) -> Any:
        asked = meaning(cluster, node, request)
        self.contacts[cluster, node] = time.time_ns()
        if isinstance(asked, protocol.NoParams | protocol.TakeParams):
            return await self._trust(cluster, node, asked)
        answer = await self._commits.submit(asked)
        if isinstance(answer, BlockpairError):
            raise answer
        if answer is True and isinstance(asked, SwapOperation):
            self._log.info(
                "register.swapped",
                cluster=cluster,
                node=node,
                resource=asked.name,
                **asked.new.document(),
            )
        return answer.document() if isinstance(answer, Configuration) else answer

    async def _trust(self, cluster: str, node: str, params: protocol.NoParams | protocol.TakeParams) -> Any:
        member = self._clusters.get(cluster)
        if member is None:
            raise BlockpairError(
                ErrorKind.NOT_FOUND, "this witness has left the cluster", "let it join again"
            )
        if not isinstance(params, protocol.TakeParams):
            return ca.new_request(ca.WITNESS, member.key)
        after = renewed(member, params.authority, params.certificate, self._now())
        await asyncio.to_thread(self._clusters.keep, after)
        expires = ca.inspect(after.certificate).not_after.isoformat()
        if after.authority == member.authority:
            self._log.info("certificate.renewed", cluster=cluster, node=node, expires=expires)
        else:
            fingerprint = ca.fingerprint(after.authority).hex()
            self._log.info("authority.taken-up", cluster=cluster, node=node, sha256=fingerprint)
            # Who has no certificate of the new authority was removed, and is heard no more.
            self.end(cluster)
        return True


class _Conversation:
    """One connection of a node: calls are carried out side by side, and answered as they end."""

    def __init__(self, server: WitnessServer, stream: TlsStream, cluster: str, node: str) -> None:
        self._server = server
        self._stream = stream
        self._cluster = cluster
        self._node = node
        self._room = asyncio.Semaphore(protocol.MAX_IN_FLIGHT)
        self._answers: list[bytes] = []
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Until the other side ends it. Raises `OSError`, `ValueError`."""
        calls: set[asyncio.Task[None]] = set()
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read(calls))
        try:
            await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            for task in (reader, writer):
                if task.done():
                    task.result()
        except TimeoutError:
            raise ValueError(f"{self._node} does not read its answers") from None
        finally:
            for task in (writer, reader, *calls):
                task.cancel()
            await asyncio.wait({writer, reader, *calls})

    async def _read(self, calls: set[asyncio.Task[None]]) -> None:
        while True:
            await self._room.acquire()
            line = await self._stream.read_line(protocol.MAX_LINE_BYTES)
            if line is None:
                return
            task = asyncio.create_task(self._answer(line))
            calls.add(task)
            task.add_done_callback(calls.discard)

    async def _answer(self, line: bytes) -> None:
        self._answers.append(await self._server.answer(self._cluster, self._node, line))
        self._more.set()

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            answers, self._answers = self._answers, []
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._stream.write(b"".join(answers))
            for _ in answers:
                self._room.release()


def _id(request: Request | None) -> str | int | None:
    return None if request is None or isinstance(request.id, msgspec.UnsetType) else request.id
