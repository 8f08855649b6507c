"""From a resource's state to what an administrator should do next. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from blockpair.status.arbitration import advice_on
from blockpair.status.conditions import copies_synced
from blockpair.status.configuration import no_member
from blockpair.status.engine import EngineStatus, PathStatus, PeerStatus, Refusal, Resync
from blockpair.status.report import (
    Advice,
    ArbiterReport,
    KernelDeviceStatus,
    ServiceStatus,
    Severity,
    State,
    VerifyStatus,
)
from blockpair.status.service import advice_on_service
from blockpair.units import counted, format_duration, format_size


@dataclass(frozen=True)
class Outside:
    """What keeps this node from its peers beside the network. ``no_cluster``: they must prove to be members,
    and it is in no cluster; ``distrusted``: who does not go by the same authority.
    """

    no_cluster: bool = False
    distrusted: frozenset[str] = frozenset()


_ORDER = {"critical": 0, "warning": 1, "info": 2}


def advice(
    name: str,
    state: State,
    failure: str | None,
    engine: EngineStatus | None,
    kernel_device: KernelDeviceStatus | None = None,
    *,
    waits: bool = False,
    pending: Sequence[str] = (),
    misconfigured: str | None = None,
    outside: Outside = Outside(),
    arbiter: ArbiterReport | None = None,
    service: ServiceStatus | None = None,
    arrays: Sequence[Advice] = (),
    verify: VerifyStatus | None = None,
) -> list[Advice]:
    """What is wrong or worth knowing of the resource ``name``, the gravest first; empty when all is well.
    ``waits``: it is started as soon as its device comes; ``pending``: keys whose values in its file are not
    those in use; ``misconfigured``: why the file of a resource that is up cannot be used; ``arrays``: what
    there is to say of those below it.
    """
    found = [*_advice(name, state, failure, engine, outside, waits=waits), *arrays]
    if state == "running" and engine is not None:
        found += advice_on(name, engine, arbiter)
    if service is not None:
        found += advice_on_service(name, service)
    if verify is not None and verify.findings:
        found.append(_findings(name, engine, verify))
    if pending:
        again = f"on both nodes, one after the other: blockpair down {name} && blockpair up {name}"
        if "arbiter" in pending:
            # While only one node goes by an arbiter, writes wait, or old data is taken for new.
            again = f"on both nodes, Primary first: blockpair down {name}; then on both: blockpair up {name}"
        found.append(
            Advice(
                "warning",
                "pending-settings",
                f"configured and not in use yet: {', '.join(pending)}; a daemon that restarts takes it up",
                again,
            )
        )
    if misconfigured is not None:
        found.append(
            Advice(
                "warning",
                "misconfigured",
                f"it goes on as it was brought up, and would not come up again: {misconfigured}",
                "correct that before it, or the daemon, is restarted",
            )
        )
    if kernel_device is not None and kernel_device.error is not None:
        found.append(
            Advice(
                "warning",
                "kernel-device",
                f"there is no kernel block device: {kernel_device.error}",
                "load the nbd module (`modprobe nbd`), then demote and promote; the NBD socket works",
            )
        )
    return sorted(found, key=lambda entry: _ORDER[entry.severity])


def healthy(entries: Iterable[Advice]) -> bool:
    """Whether nothing is wrong."""
    return all(entry.severity == "info" for entry in entries)


def _advice(
    name: str,
    state: State,
    failure: str | None,
    engine: EngineStatus | None,
    outside: Outside,
    *,
    waits: bool,
) -> Iterator[Advice]:
    if state == "down" and outside.no_cluster:
        yield Advice(
            "warning",
            "down",
            "the resource is down, and this node is in no cluster: outside it connects to nobody",
            "join the cluster of the other node, by the command that `blockpair cluster token` prints there; "
            f"then: blockpair up {name}",
        )
        return
    if state == "down":
        yield Advice("warning", "down", "the resource is down: nothing is replicated", f"blockpair up {name}")
        return
    if state == "failed" or engine is None:
        again = (
            f"see the daemon's log, put the cause right, then: blockpair down {name} && blockpair up {name}"
        )
        if waits:
            again = (
                "attach the disk, or assemble the array or volume that it is: the resource is started by "
                f"itself when the device comes, or its size changes; at once: blockpair up {name}"
            )
        yield Advice(
            "critical", "failed", f"the resource has failed: {failure or 'no reason is known'}", again
        )
        return
    yield from _local(name, engine)
    for peer in engine.peers:
        yield from _peer(name, engine, peer, outside)
    nobody = engine.role == "Secondary" and not any(peer.role == "Primary" for peer in engine.peers)
    if nobody and not engine.resuming and copies_synced(engine):
        yield Advice(
            "info", "no-primary", "no node is Primary; the data is not in use", f"blockpair promote {name}"
        )


def _findings(name: str, engine: EngineStatus | None, verify: VerifyStatus) -> Advice:
    """Nobody knows which copy is the right one: no resync and no handshake decides it."""
    primary = engine is not None and engine.role == "Primary"
    where = "here" if primary else "on the node that is Primary"
    return Advice(
        "warning",
        "findings",
        f"both copies differ in {counted(verify.findings, 'block')}, the first at byte "
        f"{verify.first_finding}; "
        "nothing marks them, so no resync mends them, and which copy is right nobody knows",
        f"see them: blockpair verify {name} --report\n"
        "look at both disks and the memory (`dmesg`, `smartctl -a`), then have the Primary's copy overwrite "
        f"the other's, {where}: blockpair verify {name} --repair",
    )


def _local(name: str, engine: EngineStatus) -> Iterator[Advice]:
    # With an arbiter there is more to say of it (`arbitration.advice_on`).
    if engine.suspended is not None and (engine.arbitration is None or not engine.arbitration.suspended):
        yield Advice(
            "critical",
            "suspended",
            f"writes wait: {engine.suspended}",
            "see the advice on the peer; they go on by themselves once the cause is gone",
        )
    if engine.resuming:
        yield Advice(
            "warning",
            "resuming",
            "this node was Primary when its daemon ended and waits for its peer's word before it goes on",
            "it goes on by itself in a moment: blockpair wait " + name + " --until primary",
        )
    match engine.disk:
        case "Diskless":
            why = f": {engine.disk_error}" if engine.disk_error else ""
            yield Advice(
                "critical",
                "diskless",
                f"the backing device {engine.backing.path} is detached{why}{_served(engine)}",
                _hand_over(name, engine) + "repair or replace it (`dmesg`, `smartctl -a`), then: "
                f"blockpair down {name} && blockpair up {name}",
            )
        case "Inconsistent":
            if not any(peer.replication in ("SyncTarget", "Waiting") for peer in engine.peers):
                yield Advice(
                    "critical",
                    "inconsistent",
                    "this node's copy is not usable: it is new, or has not been fully synced from a good one",
                    "it is synced by itself once it is connected to a node that has data: "
                    f"blockpair connect {name}; if no node has any yet: blockpair sync {name} --from NODE",
                )
        case "Outdated" if not _syncing_to_us(engine):
            yield Advice(
                "warning",
                "outdated",
                "this node's copy is intact but old: the peer went on without it",
                _resynced_by(name, engine),
            )
        # One that resumes goes on by itself, and no --force decides a split brain.
        case "Consistent" if not (engine.resuming or _superseded(engine)) and not any(
            peer.connection == "Connected" or peer.split_brain for peer in engine.peers
        ):
            yield Advice(
                "warning",
                "consistent",
                "this node's copy is intact, but only the peer knows whether it is the newest",
                _without_the_peer(name, engine),
            )
        case _:
            pass
    if engine.disk != "Diskless" and engine.disk_error is not None:
        yield Advice(
            "warning",
            "disk-error",
            f"the backing device {engine.backing.path} has had an error: {engine.disk_error}"
            + _healed(engine),
            "look at its health (`dmesg`, `smartctl -a`)",
        )


def _superseded(engine: EngineStatus) -> bool:
    return engine.arbitration is not None and engine.arbitration.superseded is not None


def _without_the_peer(name: str, engine: EngineStatus) -> str:
    override = f"only when it is certainly stopped: blockpair promote {name} --force"
    if engine.arbitration is None:
        return f"bring the peer up; to go on without it, {override}"
    return (
        f"bring the peer up, or have the arbiter decide: blockpair promote {name}; without either, {override}"
    )


def _served(engine: EngineStatus) -> str:
    if engine.served_by is None:
        return "; all I/O fails" if engine.role == "Primary" else ""
    return f"; reads and writes go to {engine.served_by}, whose copy is the only good one"


def _hand_over(name: str, engine: EngineStatus) -> str:
    if engine.served_by is None:
        return ""
    return (
        f"hand the role over as soon as the application allows: blockpair demote {name}; then on "
        f"{engine.served_by}: blockpair promote {name}; "
    )


def _healed(engine: EngineStatus) -> str:
    if not engine.io.healed_reads:
        return ""
    size = format_size(engine.io.healed_bytes)
    return f"; {engine.io.healed_reads} failed reads ({size}) were answered and mended from the peer"


def _syncing_to_us(engine: EngineStatus) -> bool:
    return any(peer.replication == "SyncTarget" for peer in engine.peers)


def _peer(name: str, engine: EngineStatus, peer: PeerStatus, outside: Outside) -> Iterator[Advice]:
    diskless = peer.refusal is not None and peer.refusal.reason == "Diskless"
    if engine.served_by == peer.name:
        return
    if peer.connection == "Connected":
        yield from _connected(name, engine, peer)
    elif not diskless:
        yield _outside(engine, peer, outside) or _unconnected(name, engine, peer)
    elif engine.disk != "Diskless":
        yield _peer_diskless(name, peer)


def _peer_diskless(name: str, peer: PeerStatus) -> Advice:
    why = "" if peer.refusal is None else f" ({peer.refusal.text})"
    return Advice(
        "critical",
        "peer-diskless",
        f"{peer.name} has given its disk up{why}: there is one copy left; {behind(peer)}",
        f"on {peer.name}: mend or replace the disk (`blockpair status {name}` there says what failed), then "
        f"there: blockpair down {name} && blockpair up {name}; the resync begins by itself",
    )


# Goodbyes that pass by themselves.
_PASSING = ("Disconnect", "Busy")
# What the peer or we ourselves said when the handshake ended: severity, and the remedy.
_REFUSALS: dict[str, tuple[Severity, str]] = {
    "UnknownResource": (
        "warning",
        "on {peer}: blockpair up {name} (if it was never made there, `blockpair create {name} ...` first); "
        "then it connects by itself within seconds, at once with: blockpair connect {name}",
    ),
    "OtherResource": (
        "critical",
        "the peer's device belongs to another resource of this name: correct its address or device; if one "
        "copy is to be given up, there: `blockpair down {name}`, `blockpair create {name} --anew` (not "
        "`delete`: that is of both nodes), `blockpair up {name}`",
    ),
    "Version": (
        "warning",
        "install the same blockpair on both nodes (`blockpair --version`), then: blockpair connect {name}",
    ),
    "Size": (
        "critical",
        "give the smaller copy a device as large as the other's, there: blockpair create {name} --anew "
        "--device PATH",
    ),
    "BlockSize": (
        "warning",
        "create the resource on one of the nodes anew, with the block size of the other (`--block-size`)",
    ),
    "Protocol": (
        "warning",
        "set the same `protocol` on both nodes; in a cluster it is the same, and one has not taken it "
        "up (`blockpair config show`). Then on the one that has another: "
        "blockpair down {name} && blockpair up {name}",
    ),
    "Policy": (
        "warning",
        "set the same `split_brain` on both nodes; in a cluster it is the same, and one has not taken "
        "it up (`blockpair config show`). Then on the one that has another: "
        "blockpair down {name} && blockpair up {name}",
    ),
    "UnknownNode": (
        "warning",
        "on {peer}, list this node as `{node}` under [[peer]] in {name}.toml and bring {name} up again",
    ),
    "ProtocolError": ("warning", "see both daemons' logs, then: blockpair connect {name}"),
}


def _outside(engine: EngineStatus, peer: PeerStatus, outside: Outside) -> Advice | None:
    if peer.address is None or (peer.split_brain and peer.connection == "StandAlone"):
        return None
    if peer.name in outside.distrusted and peer.tls:
        return no_member(engine.node, peer.name)
    if outside.no_cluster:
        return Advice(
            "critical",
            "no-cluster",
            f"this node is in no cluster: it and {peer.name} do not connect; {behind(peer)}",
            f"join the cluster of {peer.name}, by the command that `blockpair cluster token` prints there",
        )
    return None


def _resynced_by(name: str, engine: EngineStatus) -> str:
    """What brings an old copy up to date: a connect, on the node that does not want to be connected."""
    if any(peer.connection == "StandAlone" for peer in engine.peers):
        return f"connect to that peer, the resync begins by itself: blockpair connect {name}"
    others = " and ".join(peer.name for peer in engine.peers)
    return (
        f"the resync begins by itself once {others} is connected; if it was disconnected by command, on "
        f"{others}: blockpair connect {name}"
    )


def _unconnected(name: str, engine: EngineStatus, peer: PeerStatus) -> Advice:
    if peer.address is None:
        return Advice(
            "warning",
            "lost",
            f"{peer.name} is lost: the copy on {engine.node} is the only one; {behind(peer)}",
            f"on another machine of the name {peer.name}: what `blockpair cluster token` prints here; then "
            f"blockpair create {name} --anew --yes && blockpair up {name}",
        )
    # Tried again, it is being ended, or the next handshake says that it is not.
    if peer.split_brain and peer.connection == "StandAlone":
        return _split_brain(name, engine, peer)
    if peer.untrusted is not None:
        return Advice(
            "critical",
            "untrusted",
            f"{peer.name} and this node do not trust each other: {peer.untrusted}; {behind(peer)}",
            "see what both say: blockpair cluster status; it reconnects by itself",
        )
    if peer.refusal is not None and peer.refusal.reason not in _PASSING:
        return _refused(name, engine, peer, peer.refusal)
    if peer.connection == "StandAlone":
        return Advice(
            "warning",
            "disconnected",
            f"disconnected from {peer.name} by command; {behind(peer)}",
            f"blockpair connect {name}",
        )
    if peer.last_contact_seconds is not None:
        heard = f"last heard of {format_duration(peer.last_contact_seconds)} ago"
    else:
        heard = "not heard of since this daemon started"
    return Advice(
        "warning",
        "unreachable",
        f"{peer.name} ({_addresses(peer)}) is not connected, {heard}; {behind(peer)}",
        f"see that {peer.name} runs, blockpaird on it too, and that its port is open; it reconnects by "
        f"itself, unless {peer.name} was told not to; on {peer.name}: blockpair status {name}",
    )


def _addresses(peer: PeerStatus) -> str:
    return ", ".join(path.address for path in peer.paths)


def _refused(name: str, engine: EngineStatus, peer: PeerStatus, refusal: Refusal) -> Advice:
    words = {"name": name, "peer": peer.name, "node": engine.node}
    if (peer.rule or "").startswith("unrelated") and refusal.reason == "Refused":
        return Advice(
            "critical",
            "refused-refused",
            f"{peer.name} and this node do not connect: {refusal.text}",
            _one_copy_anew(name, engine, peer),
        )
    severity, remedy = _REFUSALS.get(
        refusal.reason,
        ("critical", "see both daemons' logs; when the cause is gone: blockpair connect {name}"),
    )
    reason = refusal.text
    if refusal.reason == "UnknownResource":
        # The peer's own words say "here", which is there.
        reason = f"on {peer.name}, no resource {name} is up"
    return Advice(
        severity,
        f"refused-{refusal.reason.lower()}",
        f"{peer.name} and this node do not connect: {reason}",
        remedy.format_map(words),
    )


def _split_brain(name: str, engine: EngineStatus, peer: PeerStatus) -> Advice:
    # The handshake's own words say why nobody gives way; what they advise stands below.
    text = "" if peer.refusal is None else peer.refusal.text.partition(". See `")[0]
    if not text.startswith("split brain"):
        known = f"split brain: {engine.node} and {peer.name} were both written without each other"
        text = f"{known}; nothing was overwritten" + (f". {text}" if text else "")
    by_policy = ""
    if engine.split_brain_policy != "manual":
        by_policy = f"\nor let the policy decide anew after a demote, on both nodes: blockpair connect {name}"
    return Advice(
        "critical",
        "split-brain",
        text,
        f"what a connect would do, and why: blockpair plan {name}\n"
        f"what each node would lose: blockpair resolve {name}\n"
        f"on the node whose changes shall go, if it is Primary: blockpair demote {name}\n"
        "give up its changes, here or there; they are saved in a bundle on it first: "
        f"blockpair resolve {name} --discard NODE" + by_policy,
    )


def _one_copy_anew(name: str, engine: EngineStatus, peer: PeerStatus) -> str:
    """How to give up one of two copies that do not fit: a line on the choice and one for either outcome. The
    commands can be pasted as they are.
    """
    return (
        "choose the node whose data is to be given up, and save what you need of it\n"
        f"if {engine.node} (this node): stop what uses it here, then: blockpair down {name} && "
        f"blockpair create {name} --anew --yes && blockpair up {name}; "
        f"then on {peer.name}: blockpair connect {name}\n"
        f"if {peer.name}: the same there; then here: blockpair connect {name}"
    )


def behind(peer: PeerStatus) -> str:
    """What the peer lacks, or may lack: suspect extents count too, a crash has cost them their marks."""
    if peer.full_sync:
        return "it needs a full sync"
    if not peer.out_of_sync_bytes and not peer.suspect_bytes:
        return "nothing was written here without it"
    marked = f"{format_size(peer.out_of_sync_bytes)} out of sync" if peer.out_of_sync_bytes else ""
    suspect = f"{format_size(peer.suspect_bytes)} may differ" if peer.suspect_bytes else ""
    return ", ".join(part for part in (marked, suspect) if part)


def _path_down(node: str, peer: PeerStatus, path: PathStatus) -> Advice:
    others = ", ".join(other.address for other in peer.paths if other.state != "down")
    since = "" if path.since_seconds is None else f" for {format_duration(path.since_seconds)}"
    why = "" if path.why is None else f" ({path.why})"
    way = f"from {peer.name} to {path.address}, here," if path.own else f"{path.address} to {peer.name}"
    remedy = (
        f"see that the cable, the switch and both ends of {path.address} work (`ip link`, `ping`), and that "
        "no firewall is between them; it is used again by itself"
    )
    if not path.heard:
        remedy = (
            "listen on all addresses (0.0.0.0, or [::]) there, with the same port, and restart blockpaird on "
            f"this node; or take that address of {node} away: blockpair config edit"
        )
    return Advice(
        "warning",
        "path-down",
        f"the path {way} is down{since}{why}; replication goes on over {others}, "
        "and nothing is lost, but if that fails too the copies part",
        remedy,
    )


def _connected(name: str, engine: EngineStatus, peer: PeerStatus) -> Iterator[Advice]:
    if any(path.state != "down" for path in peer.paths):
        yield from (_path_down(engine.node, peer, path) for path in peer.paths if path.state == "down")
    if engine.role == "Primary" and peer.role == "Primary":
        yield Advice(
            "critical",
            "two-primaries",
            f"both this node and {peer.name} are Primary",
            f"stop using it on one of them, and there: blockpair demote {name}",
        )
    if peer.resolving is not None:
        yield Advice(
            "warning",
            "resolving",
            f"the split brain with {peer.name} is being ended: {peer.resolving}",
            f"it goes on by itself; to follow it: blockpair sync {name} --wait",
        )
        return
    match peer.replication:
        case "Waiting":
            yield Advice(
                "warning",
                "first-sync",
                f"neither this node nor {peer.name} has data yet: both copies are new",
                "say which node's device is to be kept, the other is overwritten: "
                f"blockpair sync {name} --from NODE --wait",
            )
        case "SyncSource" | "SyncTarget":
            way = f"to {peer.name}" if peer.replication == "SyncSource" else f"from {peer.name}"
            yield Advice(
                "warning",
                "resync",
                f"resync {way} is running{_progress(peer.resync)}",
                f"it goes on by itself; to follow it: blockpair sync {name} --wait",
            )
        case _:
            yield from _settled(name, peer)


def _progress(resync: Resync | None) -> str:
    if resync is None or resync.total_bytes == 0:
        return ""
    percent = 100 * resync.done_bytes / resync.total_bytes
    left = "" if resync.eta_seconds is None else f", {format_duration(resync.eta_seconds)} left"
    return f": {percent:.1f} % of {format_size(resync.total_bytes)}{left}"


def _settled(name: str, peer: PeerStatus) -> Iterator[Advice]:
    if peer.disk == "Diskless":
        yield Advice(
            "critical",
            "peer-diskless",
            f"the backing device of {peer.name} is detached, and this node's copy stands in: "
            "there is one copy left",
            f"leave this node up; on {peer.name}: blockpair status {name}",
        )
    elif peer.out_of_sync_bytes or peer.full_sync or peer.disk in ("Inconsistent", "Outdated"):
        yield Advice(
            "warning",
            "out-of-sync",
            f"the copy of {peer.name} is {peer.disk or 'unknown'}; {behind(peer)}, and no resync runs",
            f"blockpair disconnect {name} && blockpair connect {name}",
        )
