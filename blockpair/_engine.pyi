"""The native data path. Structured values are JSON text; sizes are bytes; ids are 16 hexadecimal digits."""

class EngineError(Exception):
    """A refusal or failure of the engine.

    `kind` is one of "unsafe", "failed", "invalid", "in_use", "no_metadata", "damaged", "newer", "mismatch",
    "io".
    """

    kind: str
    message: str
    remedy: str

def create_metadata(spec: str) -> str:
    """Make metadata for a resource that never had data, and return what was made.

    `spec`: {"resource", "node", "device", "metadata": {"kind": "external", "path"} or {"kind": "internal"},
    "block_size_bytes", "peers": [name, ...], "overwrite", "check_only"}; with `check_only` nothing is made.
    Raises EngineError and changes nothing when a path is missing, in use, of a wrong size, or
    bears metadata already.
    """

def erase_metadata(spec: str) -> None:
    """Erase metadata ({"resource", "node", "device", "metadata"}) that was just made, if there is any.

    Raises EngineError, of kind "unsafe" for metadata of another resource or node, or that had data.
    """

def inspect_metadata(spec: str) -> str:
    """Read metadata ({"device", "metadata"}) without a lock: superblock, peers, layout.

    Raises EngineError of kind "no_metadata", "damaged", "newer", "invalid" or "io".
    """

def dump_metadata(spec: str) -> str:
    """As `inspect_metadata`, with the runs that are out of sync or may be."""

def show_bundle(path: str, verify: bool) -> str:
    """A bundle's facts: {"path", "id", "size_bytes", "saved_bytes", "facts": {...}}; with `verify`, after all
    its blocks were compared with their checksums.

    Raises EngineError of kind "invalid", "newer", "damaged" or "io".
    """

def restore_bundle(path: str, socket: str) -> int:
    """Verify a bundle, write its blocks through a Primary's NBD socket and flush; the bytes written.

    Raises EngineError; of kind "io", some of it may be written: it can be repeated.
    """

def copy_image(socket: str, file: str) -> int:
    """Copy the export on an NBD socket to `file`, which is there and empty; its bytes. Raises EngineError."""

class Listener:
    """The replication port, one a daemon; routes connections to the engines by resource name."""

    def __init__(self, address: str, port: int) -> None:
        """Listen; port 0 takes any free one. Raises EngineError of kind "in_use" when the port is taken."""
    @property
    def port(self) -> int:
        """The port in use."""
    def set_trust(self, trust: str | None) -> None:
        """What new connections trust and show: {"node", "ca_pem", "chain_pem", "key_pem"}; None: no TLS.

        Raises EngineError of kind "invalid", whose words quote nothing of the key; nothing has changed then.
        """
    def event_fd(self) -> int:
        """A descriptor, the listener's own, that is readable when `events` has something."""
    def events(self) -> str:
        """Refused connections that are no resource's, as `Engine.events`; never a flood of them."""
    def close(self) -> None:
        """Stop listening; engines keep their connections. Idempotent."""

class Watchdog:
    """The node's watchdog, one a daemon; opened when a resource where an arbiter decides becomes Primary."""

    def __init__(self, path: str, timeout_seconds: int, mode: str) -> None:
        """``mode``: "log" (never opened, only told of) or "required" (no promotion without it)."""
    def inherit(self, fd: int) -> str | None:
        """Go on with a descriptor that an earlier process of this daemon had open, and own it; what went
        wrong, or None.
        """
    def descriptor(self) -> int | None:
        """The open device's descriptor, the watchdog's own; None while it is not armed."""
    def release(self) -> str | None:
        """Stop it where no resource is Primary here; what went wrong, or None."""

class Engine:
    """One resource: its metadata and backing device locked, its thread running."""

    def __init__(self, spec: str, listener: Listener, watchdog: Watchdog | None = None) -> None:
        """Open, lock, load, start and register. Raises EngineError and changes nothing if refused."""
    def call(self, command: str) -> None:
        """Execute one command and wait for its end. Raises EngineError, unsafe, failed or invalid."""
    def status(self) -> str:
        """The status, at most a few milliseconds old unless the engine is stuck; also after its end."""
    def event_fd(self) -> int:
        """A descriptor, the engine's own, that is readable when `events` has something."""
    def events(self) -> str:
        """The events since the last call: [{"severity", "name", "text", "time_ns"}, ...]."""
    def verified(self) -> str:
        """What comparing both copies has shown since the last call, in order: [{"what": "proved" or
        "skipped", "offset", "length"}, {"what": "found", "offset", "length", "own", "peer"}, {"what":
        "ended", "why", "passing"}]. `event_fd` is readable when there is any.
        """
    def hold(self, offset: int, length: int) -> tuple[int, bytes]:
        """Hold whole blocks, so that nothing is written to them until the command `settle`, or for two
        seconds: the hold's number, and the peer's copy. One range at a time. Raises EngineError, failed.
        """
    def serves_until(self) -> float:
        """Until when this node may serve as Primary, in seconds of CLOCK_BOOTTIME: 0 when it may not,
        infinity where it needs no lease. Never too long, also while the engine's thread stands still.
        """
    def asks(self) -> str:
        """What the arbiter is to be asked now: null, {"ask", "do": "read"}, or {"ask", "do": "swap",
        "expected": configuration or null, "next": configuration}. `event_fd` is readable when it has changed.

        A newer one takes the place of the one before, which nobody waits for any more.
        """
    def arbiter_says(self, ask: int, configuration: str) -> None:
        """What the arbiter holds, read after `ask` was there, and after its swap: a configuration, or null.

        Ignored for any other ask than the open one. Raises EngineError of kind "invalid".
        """
    def attach(self, fd: int) -> None:
        """Take over (and close in the end) a connected NBD socket that is past the handshake."""
    def detach(self) -> None:
        """Close the sockets that were attached."""
    def io_flusher(self, on: bool) -> None:
        """Mark the engine's threads as I/O flushers (PR_SET_IO_FLUSHER), or no more."""
    def export_bundle(self, path: str, socket: str) -> int | None:
        """Serve a bundle over the present device, read-only, on a Unix socket. Blocks that changed since, and
        cannot be read; None when that is not known, and only the bundle's own blocks can be read.
        """
    def end_export(self, socket: str) -> None:
        """End that export. Idempotent."""
    def consult(self, spec: str) -> str:
        """What a connect would do now ({"peer", "report"}): asks the peer, changes nothing. Takes seconds;
        with `report`, which asks for the peer's own words on what it changed, minutes.

        JSON of `blockpair.status.plan.Plan`, and "report". A peer that cannot be asked is its "problem".
        """
    def marks(self, peer: str) -> str:
        """What is marked for a peer now: JSON of `blockpair.status.loss.Marks`. Raises EngineError."""
    def reports_asked(self) -> list[str]:
        """Peers that wait for `report`, each named once; `event_fd` is readable when there are any."""
    def report(self, peer: str, text: str) -> None:
        """Tell a waiting peer. Raises EngineError of kind "invalid" for more than 64 KiB."""
    def stop(self) -> None:
        """Drain, flush both sides, leave clean metadata, end the thread, unlock. Idempotent.

        Raises EngineError of kind "failed" when a disk keeps it from finishing within a minute.
        """
