"""Who events are delivered to, for real: an HTTP and an SMTP server on loopback."""

from __future__ import annotations

import json
import socketserver
import ssl
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self


class _Receiver:
    """Serves in a thread, within ``with``."""

    _server: socketserver.TCPServer
    _thread: Thread

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class HttpReceiver(_Receiver):
    """Keeps what is posted to it. ``answer`` gives the status for the request of that number, from 0."""

    def __init__(
        self, answer: Callable[[int], int] = lambda _: 204, tls: ssl.SSLContext | None = None
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        """Of those that were answered with success."""
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = answer(receiver.requests)
                receiver.requests += 1
                if status < 300:
                    receiver.bodies.append(json.loads(body))
                    receiver.headers.append(dict(self.headers.items()))
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its parent's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if tls is None else "https"
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/hook?team=a"


class SmtpReceiver(_Receiver):
    """Keeps the messages it is given. ``refuse``: what it answers to a recipient; None: it takes it."""

    def __init__(self, refuse: Callable[[str], str | None] = lambda _: None) -> None:
        self.messages: list[str] = []
        receiver = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 mail.test")
                while line := self.rfile.readline():
                    word = line.decode().strip()
                    verb = word[:4].upper()
                    if verb == "RCPT":
                        self._say(refuse(word) or "250 fine")
                    elif verb == "DATA":
                        self._say("354 go on")
                        receiver.messages.append(self._body())
                        self._say("250 taken")
                    elif verb == "QUIT":
                        return self._say("221 bye")
                    else:
                        self._say("250 fine")
                return None

            def _body(self) -> str:
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line.decode())
                return "".join(lines)

            def _say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """Where it is."""
        port: int = self._server.server_address[1]
        return port
