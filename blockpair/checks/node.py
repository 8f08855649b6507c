"""What is checked of one node by its own facts. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from blockpair.checks.facts import ArrayFacts, CopyFacts, FenceFacts, NodeFacts, ServiceFacts
from blockpair.checks.finding import Finding, Severity
from blockpair.units import format_size

# What history, events and external metadata must always find room for.
_LEAST_FREE = 100 << 20
# A victim's bundle has what it changed; more than this share of a copy is seldom changed by both sides.
_BUNDLE_SHARE = 10
_MOST_OFFSET = 0.5


def node_findings(facts: NodeFacts) -> Iterator[Finding]:
    """Everything that one node's facts show."""
    yield from _files(facts)
    yield from _kernel(facts)
    yield _watchdog(facts)
    yield _clock(facts)
    if facts.space is not None:
        yield _space(facts)
    for array in facts.arrays:
        yield _array(facts.node, array)
    for copy in facts.copies:
        yield _metadata(facts.node, copy)
    for fence in facts.fences:
        yield _fence(facts.node, fence)
    for service in facts.services:
        yield _service(facts.node, service)
    for text in facts.unseen:
        yield Finding("unseen", facts.node, "note", text, "it was left out", "run it as root")


def _files(facts: NodeFacts) -> Iterator[Finding]:
    for text in facts.unreadable:
        yield Finding(
            "files",
            facts.node,
            "error",
            text,
            "what is described there does not come up",
            "correct that line",
        )
    if not facts.unreadable:
        yield Finding("files", facts.node, "ok", "the configuration files can be used")


def _kernel(facts: NodeFacts) -> Iterator[Finding]:
    kernel, node = facts.kernel, facts.node
    severity: Severity = "error" if kernel.wanted == "required" else "warning"
    socket = "applications reach a Primary by its NBD socket alone"
    if kernel.wanted == "off":
        yield Finding("nbd", node, "ok", "kernel devices are switched off: no nbd module is needed")
    elif kernel.too_old is not None:
        yield Finding("nbd", node, severity, kernel.too_old, socket, "install a newer kernel")
    elif kernel.nbd == "missing":
        yield Finding(
            "nbd",
            node,
            severity,
            f"the kernel {kernel.release} has no nbd module",
            socket,
            "install the kernel's package of extra modules (linux-modules-extra), or set "
            'kernel_device = "off" in [node] of blockpair.toml',
        )
    else:
        loaded = "is loaded" if kernel.nbd == "loaded" else "is there, and is loaded when it is needed"
        yield Finding("nbd", node, "ok", f"the nbd module {loaded}")
    if kernel.io_uring is None:
        yield Finding("io_uring", node, "ok", "io_uring may be used")
    else:
        yield Finding(
            "io_uring",
            node,
            "warning",
            f"io_uring cannot be used: {kernel.io_uring}",
            "disks are driven by threads instead, which is slower",
            "sysctl kernel.io_uring_disabled=0; in a container, allow it in the seccomp profile",
        )


def _watchdog(facts: NodeFacts) -> Finding:
    dog, node = facts.watchdog, facts.node
    if dog.mode == "off":
        return Finding(
            "watchdog",
            node,
            "note",
            "no watchdog guards this node",
            "a machine that hangs, or a virtual one that was paused, may serve stale reads for the time of "
            "its lease",
            'docs/arbiters.md; mode = "required" in [watchdog] of blockpair.toml',
        )
    if not dog.present:
        return Finding(
            "watchdog",
            node,
            "error" if dog.mode == "required" else "warning",
            f"{dog.device} is not there, and [watchdog] wants it",
            "this node does not become Primary where an arbiter decides"
            if dog.mode == "required"
            else "what the watchdog would do is not told either",
            "load its driver (`modprobe softdog` where there is no hardware), or correct device",
        )
    if "software" in dog.identity.lower():
        return Finding(
            "watchdog",
            node,
            "note",
            f"{dog.device} is the kernel's own ({dog.identity})",
            "it resets the machine when programs hang, not when the kernel does",
            "use the machine's hardware watchdog where it has one",
        )
    what = f"{dog.device} is there" + (f" ({dog.identity})" if dog.identity else "")
    return Finding("watchdog", node, "ok", what)


def _clock(facts: NodeFacts) -> Finding:
    offset = facts.clock.offset
    remedy = "run chrony or systemd-timesyncd (`timedatectl`)"
    # Generations and epochs decide what happens to data, and no clock.
    why = "certificates are judged by the clock, and the two nodes' logs are compared by it"
    if offset is None:
        return Finding("clock", facts.node, "note", "nothing synchronises this clock", why, remedy)
    if abs(offset) > _MOST_OFFSET:
        return Finding("clock", facts.node, "warning", f"the clock is {offset:.1f} s off", why, remedy)
    return Finding("clock", facts.node, "ok", "the clock is synchronised")


def _space(facts: NodeFacts) -> Finding:
    space = facts.space
    assert space is not None
    largest = max((copy.data_bytes or copy.device_bytes or 0 for copy in facts.copies), default=0)
    what = f"{format_size(space.free_bytes)} of {format_size(space.total_bytes)} are free for {space.path}"
    remedy = (
        "make room there, or move it to a larger file system; old bundles go by `blockpair bundle delete`"
    )
    if space.free_bytes < _LEAST_FREE:
        why = "history, events and metadata may find no room"
        return Finding("space", facts.node, "error", what, why, remedy)
    if space.free_bytes < largest // _BUNDLE_SHARE:
        why = (
            f"the largest resource has {format_size(largest)}: the bundle of what a split brain's victim "
            "lost may find no room, and `resolve` then refuses"
        )
        return Finding("space", facts.node, "warning", what, why, remedy)
    return Finding("space", facts.node, "ok", what)


def _array(node: str, array: ArrayFacts) -> Finding:
    see = f"blockpair raid status {array.name}"
    if array.lost:
        what = f"the array {array.name} {array.survival}"
        return Finding("array", node, "error", what, array.until_whole, see)
    if not array.sound:
        what = f"the array {array.name} is not whole: it {array.survival}"
        return Finding("array", node, "warning", what, array.until_whole, see)
    if array.mismatch_bytes:
        what = f"the last scrub of {array.name} found {format_size(array.mismatch_bytes)} that may differ"
        why = "md cannot tell which copy is right, and a read may answer either"
        return Finding("array", node, "warning", what, why, f"{see} --health; then scrub it again")
    return Finding("array", node, "ok", f"the array {array.name} {array.survival}")


def _metadata(node: str, copy: CopyFacts) -> Finding:
    if copy.problem is not None:
        return Finding(
            "metadata",
            node,
            "error",
            f"{copy.name}: {copy.problem}",
            "this copy does not come up like that",
            f"see `blockpair metadata show {copy.name}`, and the disk's own words (`dmesg`)",
        )
    broken = [state for state in copy.superblocks if state != "valid"]
    valid = copy.superblocks.count("valid")
    if broken:
        return Finding(
            "metadata",
            node,
            "warning" if valid else "error",
            f"{copy.name}: {valid} of {len(copy.superblocks)} superblocks are good ({', '.join(broken)})",
            "the next one that is damaged loses the marks of what is out of sync",
            "the next change writes it anew; look at the disk that it is on (`dmesg`, `smartctl -a`)",
        )
    return Finding("metadata", node, "ok", f"{copy.name}: the metadata's checksums are right")


def _fence(node: str, fence: FenceFacts) -> Finding:
    name = f"{fence.device}, which switches {fence.node} off,"
    if fence.works is None:
        return Finding("fencing", node, "note", f"{name} has not been asked yet", "", "ask again in a moment")
    if fence.works:
        return Finding("fencing", node, "ok", f"{name} works")
    return Finding(
        "fencing",
        node,
        "error",
        f"{name} does not work: {fence.problem}",
        f"if {fence.node} were lost, its peer would not go on without it",
        f"blockpair fence test {fence.node}",
    )


def _service(node: str, service: ServiceFacts) -> Finding:
    if not service.lacks:
        return Finding("service", node, "ok", f"{service.name}: all that its service wants is here")
    return Finding(
        "service",
        node,
        "error",
        f"{service.name}: {'; '.join(service.lacks)}",
        "the service does not come up here: a take-over by this node would get stuck there",
        f"put it there, or correct the service (`blockpair service show {service.name}`)",
    )
