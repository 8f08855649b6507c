"""The kinds of event: what each is, and what a person does about it where it is no mere news. Pure data."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """``title``: what it is, and its text where whoever tells has none; ``next``: what a person does now,
    with ``{resource}`` and ``{peer}``; ``why``: why it is of importance, where the text cannot know.
    """

    title: str
    next: str = ""
    why: str = ""


_STATUS = "blockpair status {resource}"
_LOG = "see this node's log, and report it"
_RAID = "blockpair raid status"
_DISK = "look at that disk (dmesg, SMART); replace it: docs/operations.md, A disk is replaced"

KINDS: dict[str, Kind] = {
    # the daemon
    "daemon.ready": Kind("the daemon is ready"),
    "daemon.stopping": Kind("the daemon ends, as it was told"),
    "resource.up": Kind("the resource is up"),
    "resource.down": Kind("the resource is down"),
    "resource.start-failed": Kind("the resource could not be started", "blockpair up {resource}"),
    "resource.stop-failed": Kind("the resource could not be stopped in good order", _STATUS),
    "resource.demote-failed": Kind("the resource was stopped as Primary", _STATUS),
    "resource.device-failed": Kind("the kernel device is not as it should be", _STATUS),
    "resource.device-taken-down": Kind(
        "the kernel device was taken away: this node may not write",
        "find the node that is Primary now: " + _STATUS,
        "another node may be Primary, and only one may write",
    ),
    "resource.marker-not-written": Kind("the daemon could not note its role", "make room for the state"),
    "resource.not-readdressed": Kind("the peers' new addresses were not taken up", _STATUS),
    "command.done": Kind("a command was carried out"),
    "command.refused": Kind("a command was refused"),
    "command.denied": Kind("a command was denied to a user who is not root"),
    # roles, epochs, the arbiter, fencing
    "role.primary": Kind("this node has become Primary"),
    "role.secondary": Kind("this node has become Secondary"),
    "role.resumed": Kind("this node is Primary again after a restart"),
    "role.resumed_alone": Kind("this node is Primary again, without its peer's word", _STATUS),
    "role.not_resumed": Kind("this node is not Primary again after a restart", _STATUS),
    "role.forced": Kind(
        "this node has become Primary by force",
        "when the peer is back, look for a split brain: " + _STATUS,
        "writes that only the peer has may be lost",
    ),
    "role.superseded": Kind("another node is Primary now", "see which, and how this copy is: " + _STATUS),
    "epoch.won": Kind("the arbiter let this node go on"),
    "epoch.entered": Kind("a new epoch has begun"),
    "arbiter.asked": Kind("this node asks the arbiter: writes wait", _STATUS),
    "arbiter.lost": Kind(
        "the arbiter has let another node go on", _STATUS, "this node may not write until it is in sync again"
    ),
    "arbiter.refused": Kind("the arbiter refuses", _STATUS),
    "arbiter.unreachable": Kind(
        "the arbiter cannot be reached",
        "see that it runs and can be reached: " + _STATUS,
        "while it is away, nobody goes on by itself when a node is lost",
    ),
    "arbiter.answers": Kind("the arbiter answers again"),
    "arbiter.not-asked": Kind("the arbiter could not be asked", _STATUS),
    "arbiter.failed": Kind("the arbiter's configuration cannot be used", "blockpair config show"),
    "arbiter.not-closed": Kind("the connection to the arbiter could not be ended", _LOG),
    "arbiter.crash": Kind("asking the arbiter met an error that was not expected", _LOG),
    "witness.authority-handed-over": Kind("the witness knows the cluster's new authority"),
    "fence.begun": Kind("fencing a node"),
    "fence.done": Kind("a node was fenced", "find out what was wrong with it before it is back"),
    "fence.level-failed": Kind("a fence device did not say that the node is off", "blockpair fence test"),
    "fence.not-needed": Kind("a node need not be fenced: it left in good order"),
    "fence.device-failed": Kind(
        "a fence device does not work", "blockpair fence test", "a node that is lost could not be fenced"
    ),
    "fence.device-works": Kind("a fence device works again"),
    "fence.not-told": Kind("the peer could not be told of the configuration", _STATUS),
    "fence.not-settled": Kind("the two nodes' records are not settled yet"),
    "record.learned": Kind("the record was brought up to date by the peer's"),
    "peer.met": Kind("the nodes have met in this boot"),
    "watchdog": Kind("the watchdog would have reset, or resets, the machine", "blockpair status"),
    "watchdog.started": Kind("the watchdog was started to reset this machine"),
    "watchdog.failed": Kind("the watchdog cannot be armed", "see [watchdog] in docs/reference/config.md"),
    # the peer, its paths, resync
    "peer.established": Kind("the copies are equal, replication goes on"),
    "peer.lost": Kind(
        "the connection to a peer ended",
        "see that the peer and the links are up: " + _STATUS,
        "until it is back, there is one copy that is up to date",
    ),
    "peer.refused": Kind("a connection was refused", _STATUS),
    "peer.socket": Kind("a connection could not be set up", _STATUS),
    "peer.protocol_error": Kind("a peer sent what is not understood", "compare the versions of both nodes"),
    "peer.disk_failed": Kind("the peer's disk has failed", _DISK, "there is one copy left"),
    "peer.split_brain": Kind(
        "split brain: both sides have changes that the other lacks",
        "blockpair resolve {resource}",
    ),
    "peer.split_brain_resolving": Kind("a split brain is being resolved"),
    "peer.split_brain_kept": Kind("a split brain could not be resolved", "blockpair resolve {resource}"),
    "peer.readdressed": Kind("a peer's addresses have changed"),
    "path.up": Kind("a path to a peer is up"),
    "path.active": Kind("another path to a peer is in use"),
    "path.down": Kind("a path to a peer is down", "look at that link: " + _STATUS),
    "path.alone": Kind("one path only is used", _STATUS),
    "handshake.verdict": Kind("what a handshake with a peer came to"),
    "resync.started": Kind("a resync has begun"),
    "resync.finished": Kind("a resync has ended"),
    "resync.first_source": Kind("the source of the first sync is chosen"),
    "generation.new": Kind("a new generation of the data has begun"),
    "verify.started": Kind("both copies are being compared"),
    "verify.found": Kind(
        "blocks differ between both copies",
        "blockpair verify {resource} --report",
        "no resync mends them: nothing marks them, and which copy is right nobody knows",
    ),
    "verify.finished": Kind("a comparison of both copies has ended"),
    "verify.stopped": Kind("a comparison of both copies was stopped"),
    "verify.failed": Kind("both copies could not be compared to the end", _STATUS),
    "verify.repaired": Kind("blocks that differed were overwritten with the Primary's"),
    "verify.waived": Kind("blocks that differ may do so"),
    "verify.record-unreadable": Kind("what was verified cannot be read", "move that file away"),
    "verify.record-not-written": Kind("what was verified could not be kept", "make room for the state"),
    "discard.unrecorded": Kind(
        "a split brain was not resolved: it could not be recorded", "make room for the state"
    ),
    "bundle.saving": Kind("what is about to be overwritten is being saved"),
    "bundle.saved": Kind("what is about to be overwritten is saved"),
    "bundle.failed": Kind("a bundle could not be saved", "make room, then blockpair resolve {resource}"),
    "bundle.changes-lost": Kind(
        "which blocks changed since a bundle cannot be kept", "make room for the state"
    ),
    # disks, clients, the engine
    "disk.error": Kind("a request failed on the disk", _DISK),
    "disk.healed": Kind(
        "a block that could not be read was mended from the peer", "look at the disk's health"
    ),
    "disk.detached": Kind("the disk was given up", _DISK, "this node has no copy any more"),
    "disk.served": Kind("the peer's disk stands in for this node's", _DISK, "there is one copy left"),
    "disk.standing_in": Kind("this node's disk stands in for the peer's", "replace the peer's disk"),
    "disk.lost_stand_in": Kind("the disk that stood in is gone: all I/O fails", _STATUS),
    "metadata.failed": Kind("the metadata could not be written", _DISK),
    "metadata.damaged": Kind("damaged pages of the metadata count as out of sync", _DISK),
    "history.unwritten": Kind("the history lacks an entry", "make room for the state"),
    "client.refused": Kind("an NBD client was turned away"),
    "client.protocol": Kind("an NBD client sent what is not understood"),
    "export.failed": Kind("the NBD socket could not be opened", _STATUS),
    "engine.failed": Kind("the engine has ended", _LOG),
    # the cluster and its configuration
    "cluster.begun": Kind("a cluster was begun"),
    "cluster.joined": Kind("this node has joined a cluster"),
    "cluster.left": Kind("this node has left its cluster"),
    "cluster.member": Kind("this node takes part in its cluster"),
    "cluster.failed": Kind("this node cannot take part in its cluster", "blockpair cluster status"),
    "cluster.removed": Kind("this node was removed from its cluster", "blockpair cluster join"),
    "cluster.node-added": Kind("a node was added to the cluster"),
    "cluster.node-removed": Kind("a node was removed from the cluster"),
    "cluster.node-lost": Kind("a node of the cluster is lost for good", "let its successor join"),
    "cluster.cluster-waits": Kind("this node cannot take part yet", "blockpair cluster status"),
    "cluster.join-waits": Kind("the join is not complete yet", "blockpair cluster status"),
    "cluster.authority-waits": Kind(
        "the change of the authority is not complete yet", "blockpair cluster status"
    ),
    "cluster.renewal-waits": Kind("the certificate could not be renewed yet", "blockpair cluster status"),
    "cluster.cluster-failed": Kind("looking after the membership failed", _LOG),
    "cluster.join-failed": Kind("looking after the join failed", _LOG),
    "cluster.authority-failed": Kind("looking after the authority failed", _LOG),
    "cluster.renewal-failed": Kind("looking after the certificate failed", _LOG),
    "control.open": Kind("the control port is open"),
    "control.closed": Kind("the control port could not be opened", "free that port"),
    "authority.changed": Kind("the cluster has a new authority"),
    "authority.staged": Kind("a new authority is prepared"),
    "authority.taken-up": Kind("the new authority is taken up"),
    "authority.unchanged": Kind("the new authority was given up"),
    "certificate.renewed": Kind("this node's certificate was renewed"),
    "token.made": Kind("a join token was made"),
    "join.admitted": Kind("a node was let in"),
    "join.witness-admitted": Kind("a witness was let in"),
    "configuration.caught-up": Kind("the configuration was taken over from a member"),
    "configuration.conflict": Kind("two configurations have parted", "blockpair config diff"),
    "configuration.not-rendered": Kind(
        "a part of the configuration could not be written", "blockpair config diff"
    ),
    "configuration.unreadable": Kind(
        "the configuration's versions cannot be read", "blockpair cluster status"
    ),
    "configuration.contact-failed": Kind(
        "a member's configuration could not be compared", "blockpair cluster status"
    ),
    "create.undone": Kind("a resource that was made on one node only was undone"),
    "create.not-undone": Kind(
        "a resource that was made on one node only could not be undone", "blockpair delete {resource}"
    ),
    "create.record-unreadable": Kind("the record of a creation cannot be read", _LOG),
    # metrics
    "metrics.open": Kind("the metrics are served"),
    "metrics.closed": Kind("the metrics cannot be served", "free that port, or choose another"),
    "metrics.collector-failed": Kind(
        "some metrics cannot be told", "see why in the text; `blockpair_collector_ok` says which"
    ),
    "metrics.collector-works": Kind("metrics that were missing are told again"),
    # services
    "service.up": Kind("the service is up"),
    "service.down": Kind("the service is down"),
    "service.step": Kind("a step of the service's way up or down"),
    "service.failed": Kind("the service could not be brought up or down", _STATUS),
    "service.stops": Kind("this node is Primary no more: its service is stopped"),
    "service.taken-back": Kind("a switchover was cut: the service goes on here"),
    "service.addresses-lost": Kind("the service's addresses are gone", _STATUS),
    "service.addresses-dropped": Kind("the service's addresses were given up", _STATUS),
    "service.address-stays": Kind("an address of the service could not be removed", _STATUS),
    "service.mount-lost": Kind("what the service had mounted was taken away", _STATUS),
    "service.announcement": Kind("the service's addresses could not be announced", _STATUS),
    "service.watch-failed": Kind("looking after the service failed", _LOG),
    "service.not-watched": Kind("the service cannot be looked after", _LOG),
    "service.not-moved": Kind("the service could not be moved before the machine goes down", _STATUS),
    "service.not-stopped": Kind("the service could not be stopped before the machine goes down", _STATUS),
    "switchover.begun": Kind("the resource moves to another node"),
    "switchover.done": Kind("the resource has moved to another node"),
    "switchover.failed": Kind("the resource could not be moved to another node", _STATUS),
    # health, and what is done about it
    "health.sick": Kind("this node is sick", "blockpair health"),
    "health.recovered": Kind("this node is well again"),
    "health.failed": Kind("this node's health could not be measured", _LOG),
    "health.configured": Kind("a changed [health] of blockpair.toml is in use"),
    "health.misconfigured": Kind(
        "blockpair.toml was changed and cannot be used: health goes on by what was read before",
        "correct the file",
        "the daemon would not start with it",
    ),
    "care.unit-restart": Kind("a unit of the service is down: it is restarted", "journalctl -u the unit"),
    "care.unit-recovered": Kind("the service's units are active again"),
    "care.unit-unseen": Kind("systemd cannot be asked about the service's units", "systemctl status"),
    "care.switchover": Kind("the service moves to the peer by itself", _STATUS),
    "care.switchover-done": Kind("the service has moved to the peer"),
    "care.switchover-failed": Kind("the service could not be moved to the peer", _STATUS),
    "care.moved-here": Kind("the service comes here by its Primary's own decision"),
    "care.stays": Kind(
        "the service stays where it is though it is not well", "see to it by hand: " + _STATUS
    ),
    "care.failed": Kind("looking after the service failed", _LOG),
    # the arrays below
    "raid.array-found": Kind("an array is there", _RAID),
    "raid.array-gone": Kind("an array was stopped", _RAID),
    "raid.array-failed": Kind("an array has failed: data is missing", _RAID),
    "raid.array-writable": Kind("an array that waited for its first write rebuilds"),
    "raid.member-failed": Kind("a member failed", _RAID),
    "raid.member-gone": Kind("a member has gone", _RAID),
    "raid.member-filling": Kind("a member is being filled"),
    "raid.member-filled": Kind("a member's place is full again"),
    "raid.member-replacing": Kind("a member is copied onto a spare while it serves"),
    "raid.member-replaced": Kind("a member was replaced"),
    "raid.member-removed": Kind("a member that failed was taken out"),
    "raid.member-returns": Kind("a member is back, and gets what it missed", _RAID),
    "raid.member-flaps": Kind("a member came back too often", "see its cable and its health"),
    "raid.member-read-errors": Kind("sectors of a member could not be read, and were mended", _RAID),
    "raid.member-health": Kind("a member's health got worse", "blockpair raid status --health"),
    "raid.member-replace": Kind("a member that is likely to fail is replaced", _RAID),
    "raid.spare-added": Kind("an array has one more spare"),
    "raid.spare-removed": Kind("a spare was taken out"),
    "raid.spare-failed": Kind("a spare failed", _RAID),
    "raid.spare-took-over": Kind("a spare took over", _RAID),
    "raid.spare-moved": Kind("a shared spare goes where it is needed", _RAID),
    "raid.spare-adopted": Kind("a new disk becomes a spare by rule", _RAID),
    "raid.spare-refused": Kind("a new disk does not become a spare", "blockpair raid spare add"),
    "raid.scrub-started": Kind("a scrub began"),
    "raid.scrub-ended": Kind("a scrub ended", "blockpair raid scrub status"),
    "raid.scrub-not-begun": Kind("a scrub that is due could not begin", "blockpair raid scrub start"),
    "raid.copies-healed": Kind("copies of a member were wrong, and healed as the peer has them", _RAID),
    "raid.copies-undecided": Kind("copies differ, and the peer's does not decide", "blockpair verify"),
    "raid.copies-same": Kind("copies that a scrub had doubts about are the same"),
    "raid.vote-failed": Kind("comparing copies with the peer's failed, and is tried again", _LOG),
    "raid.resync-started": Kind("the copies of an array are made equal"),
    "raid.resync-ended": Kind("the copies of an array are equal"),
    "raid.reshape-started": Kind("an array grows, or changes its layout"),
    "raid.reshape-ended": Kind("an array has its new layout"),
    "raid.sync-held-back": Kind("a sync gives way to the application"),
    "raid.watch-problem": Kind("the arrays cannot be watched", _RAID),
    "raid.failed": Kind("watching the arrays failed", _LOG),
    # audits
    "audit.started": Kind("an audit has begun"),
    "audit.waits": Kind("an audit waits"),
    "audit.finished": Kind("an audit has ended", "blockpair audit report"),
    "audit.not-kept": Kind("what an audit found could not be kept", "make room for the state"),
    # the stream and its deliveries
    "events.torn": Kind("the end of the stream was torn by a crash"),
    "events.lost": Kind("events could not be recorded", "make room for the state"),
    "events.repeated": Kind("events of one kind came too often: they were counted only"),
    "notify.failed": Kind("events cannot be delivered", "blockpair notify test"),
    "notify.works": Kind("events can be delivered again"),
    "notify.given-up": Kind("an event was not delivered, and will not be", "blockpair notify test"),
    "notify.skipped": Kind("events were gone before they could be delivered", "blockpair notify test"),
    "notify.test": Kind("a test of the deliveries"),
    "rpc.crash": Kind("a command met an error that was not expected", _LOG),
    "peer.crash": Kind("a call of a member met an error that was not expected", _LOG),
}
"""By the event's ``what``. One that is not here is an event all the same."""

SILENT = frozenset(
    {
        "configuration.contact",
        "daemon.stopped",
        "events.unwritten",
        "file.unfinished-removed",
    }
)
"""What the log tells and the stream does not."""
