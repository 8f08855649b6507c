"""A wire between two nodes of this machine that can be cut: nothing is delivered then, nor refused."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

_CHUNK = 256 << 10
# A node that takes nothing for so long is as good as gone, and must not hold up the wire.
_SEND_SECONDS = 5.0


class _Half:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink


class Wire:
    """Takes connections at ``here`` and makes them at ``there``, while it is whole."""

    def __init__(self, here: tuple[str, int], there: tuple[str, int]) -> None:
        self._there = there
        self._selector = selectors.DefaultSelector()
        self._server = socket.create_server(here, backlog=16)
        self._server.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        self._halves: dict[socket.socket, _Half] = {}
        self._cut = False
        self._closed = False
        # Held by the thread while it moves bytes: once `cut` has it, nothing is under way.
        self._mutex = threading.Lock()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """From here on nothing gets through, either way."""
        with self._mutex:
            self._cut = True
            for half in self._halves.values():
                self._watch(half, 0)

    def mend(self) -> None:
        """Whole again: what was sent meanwhile is delivered, as TCP does."""
        with self._mutex:
            self._cut = False
            for half in self._halves.values():
                self._watch(half, selectors.EVENT_READ)
        self._wake.send(b"x")

    def close(self) -> None:
        """End it, and every connection through it."""
        self._closed = True
        self._wake.send(b"x")
        self._thread.join()
        for entry in (*self._halves, self._server, self._wake, self._woken):
            entry.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select():
                with self._mutex:
                    self._ready(key.fileobj)

    def _ready(self, entry: object) -> None:
        if entry is self._woken:
            self._woken.recv(1)
        elif entry is self._server:
            self._accept()
        elif isinstance(entry, socket.socket) and not self._cut and entry in self._halves:
            self._move(self._halves[entry])

    def _accept(self) -> None:
        ours, _ = self._server.accept()
        # A connection that comes while the wire is cut is taken, and hears nothing: nobody refuses it.
        theirs = socket.socket(socket.AF_INET6 if ":" in self._there[0] else socket.AF_INET)
        try:
            theirs.connect(self._there)
        except OSError:
            ours.close()
            theirs.close()
            return
        for source, sink in ((ours, theirs), (theirs, ours)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            source.settimeout(_SEND_SECONDS)
            half = _Half(source, sink)
            self._halves[source] = half
            if not self._cut:
                self._watch(half, selectors.EVENT_READ)

    def _move(self, half: _Half) -> None:
        try:
            data = half.source.recv(_CHUNK)
            if not data:
                raise ConnectionError
            half.sink.sendall(data)
        except OSError:
            for end in (half.source, half.sink):
                self._forget(end)

    def _forget(self, end: socket.socket) -> None:
        if (half := self._halves.pop(end, None)) is not None:
            self._watch(half, 0)
        # Reset, as the end of a process is: what the other side sent last is no matter.
        with contextlib.suppress(OSError):
            end.close()

    def _watch(self, half: _Half, events: int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(half.source)
        if events:
            self._selector.register(half.source, events)
