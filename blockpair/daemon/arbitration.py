"""A running resource and the cluster's arbiter: what its engine asks is passed on, what comes of it told."""

from __future__ import annotations

import asyncio

import structlog
from msgspec.structs import replace

from blockpair.arbiter.interface import Key
from blockpair.arbiter.runner import Runner, clock
from blockpair.bridge import Running
from blockpair.config.resource import ResourceConfig
from blockpair.daemon.judges import Judges
from blockpair.errors import BlockpairError
from blockpair.status.arbitration import manual_because, without_place
from blockpair.status.report import ArbiterReport, ArbiterState


class Arbitration:
    """For a resource whose configuration names an arbiter, from `begin` until `end`, in the event loop."""

    def __init__(self, config: ResourceConfig, running: Running, judges: Judges) -> None:
        self._config = config
        self._running = running
        self._judges = judges
        self._runner: Runner | None = None
        self._finding: asyncio.Task[None] | None = None
        self._ended = False
        self._log = structlog.get_logger().bind(part="arbiter", resource=config.name)

    def wake(self) -> None:
        """The engine may ask something else than before."""
        if self._runner is not None:
            self._runner.wake()
        elif self._finding is None and not self._ended:
            self._finding = asyncio.create_task(self._find())

    async def _find(self) -> None:
        """Begin to ask once the resource has an id, by which the arbiter knows it: before its first sync it
        has none, and nothing to ask.
        """
        try:
            status = await asyncio.to_thread(self._running.status)
            if status.resource_id is None or self._config.arbiter == "manual" or self._ended:
                return
            key = Key(self._judges.cluster_id, status.resource_id, self._config.name)
            arbiter = self._judges.by(self._config.arbiter)
            if arbiter.kind == "fence":
                # To switch a node off takes its devices' own time, and they are watched as it is.
                runner = Runner(key, self._running, arbiter, call_seconds=None, probe_seconds=None)
            else:
                runner = Runner(key, self._running, arbiter)
            self._runner = runner
            runner.start()
        except BlockpairError as error:
            self._log.error("arbiter.not-asked", text=error.message)
        finally:
            self._finding = None

    async def end(self) -> None:
        """Ask nothing more."""
        self._ended = True
        if self._finding is not None:
            await asyncio.wait({self._finding})
        if self._runner is not None:
            await self._runner.stop()
            self._runner = None

    def report(self) -> ArbiterReport:
        """How the arbiter does, for a person."""
        return arbiter_report(self._config, self._judges, self._runner)


def arbiter_report(config: ResourceConfig, judges: Judges, runner: Runner | None = None) -> ArbiterReport:
    """Who says which node may go on with a resource; ``runner`` asks for it, if anybody does."""
    opted_out = config.arbiter == "manual" and judges.kind != "manual"
    why = manual_because(config.arbiter, config.protocol, clustered=judges.clustered, opted_out=opted_out)
    kind, where = config.arbiter, judges.place(config.arbiter)
    if kind == "manual":
        return ArbiterReport(kind, where, automatic=False, manual_because=why, state="manual")
    report = _asked(config, judges, runner, why)
    for peer in config.peers:
        seconds = judges.being_fenced(peer.name) if kind == "fence" else None
        if seconds is not None:
            report = replace(report, fencing=peer.name, fencing_seconds=seconds)
    return report


def _asked(config: ResourceConfig, judges: Judges, runner: Runner | None, why: str | None) -> ArbiterReport:
    """How the last question to an arbiter ended."""
    kind, where = config.arbiter, judges.place(config.arbiter)
    now = clock()
    contact = None if runner is None else runner.contact
    if contact is not None and contact.error is not None:
        since = None if contact.failing_since is None else now - contact.failing_since
        state: ArbiterState = "refused" if contact.refused else "unreachable"
        text = without_place(contact.error, where)
        return ArbiterReport(kind, where, config.automatic, why, state, since, text)
    if (ailing := judges.ailing()) is not None:
        return ArbiterReport(kind, where, config.automatic, why, "unreachable", None, ailing)
    if contact is not None and contact.last is not None:
        return ArbiterReport(kind, where, config.automatic, why, "answers", now - contact.last)
    return ArbiterReport(kind, where, config.automatic, why, "unasked")
