"""The engine's own status, as it crosses from Rust. Sizes in bytes, ids as 16 hexadecimal digits."""

from __future__ import annotations

from msgspec import Struct


class Generation(Struct, frozen=True):
    """Which data this is: the current id, and those it grew from, newest first."""

    current: str
    history: list[str]


class Requests(Struct, frozen=True):
    """What the application has asked for and not been answered yet."""

    in_flight: int
    in_flight_bytes: int


class IoCounters(Struct, frozen=True):
    """What the application has asked for since the resource came up; ``healed_*``: reads that the disk
    failed, that the peer answered, and whose blocks were written anew.
    """

    reads: int
    read_bytes: int
    writes: int
    written_bytes: int
    flushes: int
    trims: int
    zeroes: int
    healed_reads: int
    healed_bytes: int
    trimmed_bytes: int = 0
    zeroed_bytes: int = 0


class Failed(Struct, frozen=True):
    """Requests that the application got an error for, since the resource came up."""

    reads: int = 0
    writes: int = 0
    flushes: int = 0
    trims: int = 0
    zeroes: int = 0


class Histogram(Struct, frozen=True):
    """How long things took, since the resource came up. ``buckets``: how many up to each bound but not up to
    the one before, and in the last how many above all; ``sum_seconds``: of all together.
    """

    buckets: list[int]
    sum_seconds: float


class Latency(Struct, frozen=True):
    """How long what succeeded took, but trims and zeroes. ``bounds_seconds``: of the buckets, all but the
    last; ``reads``, ``writes``, ``flushes``: as the application saw them; ``disk_*``: this node's disk for
    them, from when it was asked.
    """

    bounds_seconds: list[float]
    reads: Histogram
    writes: Histogram
    flushes: Histogram
    disk_reads: Histogram
    disk_writes: Histogram


class WarmUp(Struct, frozen=True):
    """What the Primary reads most, in bytes: known here, still to be read ahead, and held in memory for
    whoever reads it; ``answered_reads``: reads that were answered from there.
    """

    known_bytes: int
    left_bytes: int
    held_bytes: int
    answered_reads: int


class Backing(Struct, frozen=True):
    """The backing device and how it is driven."""

    path: str
    kind: str
    direct: bool
    driver: str


class MetadataPlace(Struct, frozen=True):
    """Where the metadata is."""

    kind: str
    path: str


class NbdClient(Struct, frozen=True):
    """A connection to the export."""

    kind: str
    pid: int | None
    uid: int | None
    in_flight: int


class Refusal(Struct, frozen=True):
    """Why a handshake ended in StandAlone."""

    reason: str
    text: str


class Resync(Struct, frozen=True):
    """A resync in progress."""

    direction: str
    total_bytes: int
    done_bytes: int
    same_bytes: int
    sent_bytes: int
    elapsed_seconds: float
    rate_bytes_per_second: float
    eta_seconds: float | None


class LastResync(Struct, frozen=True):
    """The resync before; ``finished`` is false for one that was cut off."""

    direction: str
    total_bytes: int
    done_bytes: int
    same_bytes: int
    sent_bytes: int
    elapsed_seconds: float
    rate_bytes_per_second: float
    finished: bool


class Wire(Struct, frozen=True):
    """Bytes that crossed to a peer, by our count and by the sockets'."""

    sent_bytes: int
    received_bytes: int
    kernel_sent_bytes: int
    kernel_received_bytes: int


class PathStatus(Struct, frozen=True):
    """One of the ways to a peer: ``active`` carries the frames, ``standby`` is ready to, ``down`` is neither,
    ``why`` says for what reason. ``since_seconds``: for how long it has been up or down, null if it never was
    up. ``own``: the address is this node's, where the peer dials it; ``heard`` is false where this node does
    not listen.
    """

    address: str
    state: str
    since_seconds: float | None
    why: str | None
    own: bool = False
    heard: bool = True


class Lag(Struct, frozen=True):
    """How far a peer is behind: ``seconds``, the age of the oldest write that its disk is not known to have,
    0 for none, null where that is not known (marks from before the resource came up); ``bytes``: of all of
    those.
    """

    seconds: float | None
    bytes: int


class PeerStatus(Struct, frozen=True):
    """What this node knows of a peer; ``role`` and ``disk`` are the last it heard; ``paths`` in the order of
    preference; ``cipher`` is of the connection that is there, ``untrusted`` why there is none for want of
    trust; ``address`` is null where the peer is lost; ``lag`` is the Primary's alone to know; ``latency``:
    from the sending of a write to the peer's word that its disk has it, in the buckets of the engine's.
    """

    slot: int
    name: str
    address: str | None
    paths: list[PathStatus]
    tls: bool
    cipher: str | None
    untrusted: str | None
    connection: str
    replication: str
    role: str | None
    disk: str | None
    last_contact_seconds: float | None
    refusal: Refusal | None
    rule: str | None
    split_brain: bool
    resolving: str | None
    out_of_sync_bytes: int
    suspect_bytes: int
    full_sync: bool
    resync: Resync | None
    last_resync: LastResync | None
    unacked: int
    wire: Wire
    lag: Lag | None = None
    latency: Histogram | None = None


class ConfigurationStatus(Struct, frozen=True):
    """What an arbiter holds of a resource: who may write in an epoch, and which nodes have every write that
    was acknowledged.
    """

    epoch: int
    primary: str
    in_sync: list[str]


class ArbitrationStatus(Struct, frozen=True):
    """``configuration``: the newest that the engine knows to have been entered; ``promised``: below this
    epoch it hears nobody; ``joint``: a node's confirmation is needed already that is not in the in-sync set
    yet; ``lease_seconds``: what is left of the peer's word to this Primary, ``promise_seconds``: of this
    node's own; ``want``: what it waits for the arbiter for; ``suspended``: "writes", "all" (reads too) or
    null, and ``why``; ``superseded``: why it is Primary no more though nobody here demoted it, until it has
    caught up; ``fenced``: the peer has promised a higher epoch than this Primary's.
    """

    epoch: int
    promised: int
    configuration: ConfigurationStatus | None
    joint: bool
    lease_seconds: float | None
    promise_seconds: float | None
    want: str | None
    want_seconds: float | None
    asking: bool
    suspended: str | None
    why: str | None
    superseded: str | None
    resource_id: str | None = None
    fenced: bool = False


class EngineStatus(Struct, frozen=True):
    """All of it; ``resource_id`` (32 digits) is null until the first sync; ``served_by`` is the peer whose
    copy stands in for this node's; ``arbitration`` is null where a person decides who goes on; ``watchdog``:
    why a promotion, or service, waits for the watchdog of the machine.
    """

    resource: str
    resource_id: str | None
    node: str
    state: str
    failure: str | None
    role: str
    resuming: bool
    disk: str
    disk_error: str | None
    served_by: str | None
    size_bytes: int
    block_size_bytes: int
    extent_size_bytes: int
    protocol: str
    split_brain_policy: str
    priority: int
    generation: Generation
    hot_extents: int
    suspended: str | None
    requests: Requests
    io: IoCounters
    warm_up: WarmUp
    backing: Backing
    metadata: MetadataPlace
    clients: list[NbdClient]
    peers: list[PeerStatus]
    arbitration: ArbitrationStatus | None = None
    watchdog: str | None = None
    failed: Failed = Failed()
    latency: Latency | None = None
