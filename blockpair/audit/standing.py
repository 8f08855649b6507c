"""How a resource stands for an audit, and what keeps audits waiting, from what is reported of both. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blockpair.audit.decide import Copies
from blockpair.raid.model import Array
from blockpair.status.engine import EngineStatus
from blockpair.status.report import ResourceReport
from blockpair.verify.messages import VerifyReport

_IN_SYNC = ("Established", "VerifySource", "VerifyTarget")


def copies(node: str, resource: ResourceReport, verified: VerifyReport | None) -> Copies:
    """A resource on ``node``; ``verified``: what comparing has shown, None: nothing yet."""
    engine = resource.engine if resource.state == "running" else None
    proved = [] if verified is None else verified.proved
    known = [at for at in proved if at is not None]
    return Copies(
        leader=node if engine is None else _leader(node, engine),
        problem=f"it is {resource.state}: {resource.failure or 'blockpair up ' + resource.name}"
        if engine is None
        else _problem(engine),
        oldest=min(known) if known and len(known) == len(proved) else None,
        running=verified is not None and verified.running,
        ended=None if verified is None else verified.ended,
        reason=None if verified is None else verified.reason,
        findings=0 if verified is None else sum(finding.open for finding in verified.findings),
    )


def _leader(node: str, engine: EngineStatus) -> str:
    """The Primary keeps what comparing has shown; where there is none, one of both does."""
    if engine.role == "Primary":
        return node
    primary = next((peer.name for peer in engine.peers if peer.role == "Primary"), None)
    return primary or min(node, *(peer.name for peer in engine.peers))


def _problem(engine: EngineStatus) -> str | None:
    if any(peer.resync is not None for peer in engine.peers):
        # It passes; until then nothing is compared.
        return None
    if engine.disk != "UpToDate":
        return f"the copy here is {engine.disk}"
    for peer in engine.peers:
        if peer.connection != "Connected":
            return f"{peer.name} is not connected"
        if peer.replication not in _IN_SYNC:
            return f"its replication with {peer.name} is {peer.replication}"
        if peer.disk != "UpToDate":
            return f"the copy on {peer.name} is {peer.disk or 'not known'}"
    return None


def obstacles(node: str, resources: Iterable[ResourceReport], arrays: Iterable[Array]) -> Iterator[str]:
    """Why nothing should be compared while ``node`` does this."""
    for resource in resources:
        for peer in [] if resource.engine is None else resource.engine.peers:
            if peer.resync is not None:
                yield f"{resource.name} resyncs between {node} and {peer.name}"
    for array in arrays:
        if array.sync is not None:
            yield f"the array {array.name} on {node} is busy: {array.sync.action}"
