"""`EtcdArbiter`: a resource's configuration as a key of an etcd cluster (version 3).

A swap reads the key, then asks for one transaction on what was read: the same revision and the same bytes, or
no such key. No etcd lease is used: the key stays when everybody is away. A transaction is given to one
endpoint only and never again: where its answer is lost, whoever asked reads. (A second one would do no harm,
for the first changes the revision that both compare; but its "no" could be the first one's doing, and be
taken for a rival's.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from blockpair.arbiter.etcd.gateway import Credentials, Gateway
from blockpair.arbiter.etcd.messages import (
    RANGE,
    TXN,
    Answer,
    Held,
    check_prefix,
    configuration_of,
    path_of,
    range_answer,
    range_request,
    swap_answer,
    swap_request,
    value_of,
)
from blockpair.arbiter.interface import ArbiterRefused, ArbiterUnreachable, Configuration, Key

DEFAULT_PREFIX = "/blockpair"
DEFAULT_TIMEOUT = 2.5


class EtcdArbiter:
    """The members of one etcd cluster as an `Arbiter`, for any number of resources.

    ``endpoints``: ``https://HOST:PORT``, the preferred one first. ``timeout``: seconds that a call may take.
    Raises `ValueError` for endpoints or a prefix that cannot be.
    """

    kind: Literal["etcd"] = "etcd"

    def __init__(
        self,
        endpoints: Sequence[str],
        credentials: Credentials,
        *,
        prefix: str = DEFAULT_PREFIX,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._gateway = Gateway(endpoints, credentials, timeout)
        self._prefix = check_prefix(prefix)
        self._timeout = timeout
        self._cluster: str | None = None

    async def read(self, key: Key) -> Configuration | None:
        """What it holds now: etcd answers after a quorum confirmed that nothing newer exists."""
        path = path_of(self._prefix, key)
        held = await self._held(path, self._deadline())
        return None if held is None else self._configuration(path, held)

    async def compare_and_swap(self, key: Key, expected: Configuration | None, new: Configuration) -> bool:
        """As `Arbiter` says."""
        deadline = self._deadline()
        path = path_of(self._prefix, key)
        held = await self._held(path, deadline)
        if (None if held is None else self._configuration(path, held)) != expected:
            return False
        request = swap_request(path, held, value_of(key, new))
        answer = await self._gateway.call(TXN, request, deadline=deadline, repeatable=False)
        return self._parsed(swap_answer, answer).succeeded

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._gateway.close()

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout

    async def _held(self, path: str, deadline: float) -> Held | None:
        answer = await self._gateway.call(RANGE, range_request(path), deadline=deadline, repeatable=True)
        return self._parsed(lambda document: range_answer(document, path), answer).held

    def _parsed(self, parse: Callable[[object], Answer], document: object) -> Answer:
        try:
            answer = parse(document)
        except ValueError as error:
            raise ArbiterUnreachable(f"etcd's answer cannot be understood: {error}") from None
        # Two registers are two truths: endpoints of different clusters would let both nodes go on.
        if self._cluster not in (None, answer.cluster):
            raise ArbiterRefused(
                f"etcd's endpoints are of different clusters ({self._cluster} and {answer.cluster}); "
                "remedy: name under [arbiter] the endpoints of one; if that etcd was made anew, restart "
                "blockpaird on both nodes"
            )
        self._cluster = answer.cluster
        return answer

    def _configuration(self, path: str, held: Held) -> Configuration:
        try:
            return configuration_of(held.value)
        except ValueError as error:
            raise ArbiterRefused(
                f"etcd's key {path} holds no configuration: {error}; remedy: find out who wrote it "
                f"(`etcdctl get {path}`), then remove it (`etcdctl del {path}`): both nodes, once connected, "
                "write it anew"
            ) from None
