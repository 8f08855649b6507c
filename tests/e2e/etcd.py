"""A real etcd cluster of three members on loopback, with TLS by certificates made here; ways to harm it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import shutil
import signal
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blockpair.arbiter.etcd import Credentials
from tests.e2e.cluster import eventually, free_ports

MEMBERS = 3


class Authority:
    """A certificate authority below ``base``, and what it signed."""

    def __init__(self, base: Path, name: str = "etcd-ca") -> None:
        self.base = base
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        base.mkdir(parents=True, exist_ok=True)
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = base / f"{name}.pem"
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> Credentials:
        """A certificate for 127.0.0.1, good for both ends: etcd's gateway calls itself with its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        paths = Credentials(self.ca, self.base / f"{name}.pem", self.base / f"{name}.key")
        paths.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
        )


class Relays:
    """Stands before every member's peer port, and knows by its process which member calls."""

    def __init__(self, ports: list[tuple[int, int]], cluster: EtcdCluster) -> None:
        self._cluster = cluster
        self._away: set[int] = set()
        self._streams: list[tuple[int, int, asyncio.StreamWriter]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for member, (outer, inner) in enumerate(ports):
            self._run(self._serve(member, outer, inner))

    def cut(self, member: int) -> None:
        """Nothing passes between this member and the others any more; its clients reach it."""
        self._run(self._cut(member))

    def heal(self, member: int) -> None:
        """Connections to and from it pass again."""

        async def heal() -> None:
            self._away.discard(member)
            await self._drop(member)

        self._run(heal())

    def close(self) -> None:
        """Ends the relaying."""

        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _cut(self, member: int) -> None:
        self._away.add(member)
        await self._drop(member)

    async def _drop(self, member: int) -> None:
        for one, other, writer in self._streams:
            if member in (one, other):
                writer.transport.abort()

    async def _serve(self, member: int, outer: int, inner: int) -> None:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            port = writer.get_extra_info("peername")[1]
            source = self._cluster.member_of(port)
            self._streams.append((source, member, writer))
            if self._away & {source, member}:
                # As a cut cable: the call is neither refused nor answered.
                with contextlib.suppress(OSError):
                    while await reader.read(65536):
                        pass
                return
            with contextlib.suppress(OSError):
                onward, back = await asyncio.open_connection("127.0.0.1", inner)
                self._streams.append((source, member, back))
                await asyncio.gather(_copy(reader, back), _copy(onward, writer))

        await asyncio.start_server(relay, "127.0.0.1", outer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class EtcdCluster:
    """Three members below ``base``, ready when made. ``relayed``: single members can be cut off."""

    def __init__(self, base: Path, *, relayed: bool = False) -> None:
        program = shutil.which("etcd")
        assert program is not None, "etcd is missing: apt-get install etcd-server"
        self._program = program
        self._base = base
        self.authority = Authority(base / "certificates")
        self._server = self.authority.issue("server")
        self.credentials = self.authority.issue("client")
        self._clients = free_ports(MEMBERS)
        self._peers = free_ports(MEMBERS)
        self._inner = free_ports(MEMBERS) if relayed else self._peers
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * MEMBERS
        self._relays = Relays(list(zip(self._peers, self._inner, strict=True)), self) if relayed else None
        self._stopped: set[int] = set()
        for member in range(MEMBERS):
            self.start(member)
        for member in range(MEMBERS):
            self.await_member(member)

    @property
    def endpoints(self) -> list[str]:
        """Where clients reach the members, in their order."""
        return [f"https://127.0.0.1:{port}" for port in self._clients]

    def start(self, member: int) -> None:
        """Start a member, with what it has on its disk; does not wait for it."""
        names = [f"m{at}=https://127.0.0.1:{port}" for at, port in enumerate(self._peers)]
        client, peer = self.endpoints[member], f"https://127.0.0.1:{self._peers[member]}"
        files = {"cert-file": self._server.cert, "key-file": self._server.key}
        with self.log(member).open("ab") as log:
            self._processes[member] = subprocess.Popen(
                [
                    self._program,
                    f"--name=m{member}",
                    f"--data-dir={self._base / f'm{member}'}",
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                    f"--listen-peer-urls=https://127.0.0.1:{self._inner[member]}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster={','.join(names)}",
                    "--heartbeat-interval=100",
                    "--election-timeout=1000",
                    "--logger=zap",
                    "--log-level=warn",
                    *(f"--{name}={file}" for name, file in files.items()),
                    *(f"--peer-{name}={file}" for name, file in files.items()),
                    f"--trusted-ca-file={self.authority.ca}",
                    f"--peer-trusted-ca-file={self.authority.ca}",
                    "--client-cert-auth",
                    "--peer-client-cert-auth",
                ],
                stdout=log,
                stderr=log,
            )

    def log(self, member: int) -> Path:
        """What a member logs."""
        return self._base / f"m{member}.log"

    def kill(self, member: int) -> None:
        """SIGKILL, as a crash."""
        process = self._process(member)
        process.kill()
        process.wait()
        self._processes[member] = None

    def hang(self, member: int) -> None:
        """It lives, its kernel takes connections, and nobody is answered."""
        self._process(member).send_signal(signal.SIGSTOP)
        self._stopped.add(member)

    def go_on(self, member: int) -> None:
        """End `hang`."""
        self._stopped.discard(member)
        self._process(member).send_signal(signal.SIGCONT)

    def cut(self, member: int) -> None:
        """Part a member from the others, not from its clients."""
        assert self._relays is not None
        self._relays.cut(member)

    def heal(self, member: int) -> None:
        """End `cut`."""
        assert self._relays is not None
        self._relays.heal(member)

    def leader(self) -> int:
        """The member that leads now."""
        found: list[int] = []

        def led() -> bool:
            for at in range(MEMBERS):
                answer = self.ask(at, "/v3/maintenance/status")
                if answer is not None and answer.get("leader") == answer["header"]["member_id"]:
                    found.append(at)
            return bool(found)

        eventually(led, "a member of etcd leads")
        return found[0]

    def await_member(self, member: int) -> None:
        """Wait until a member reads with a quorum."""

        def reads() -> bool:
            process = self._process(member)
            assert process.poll() is None, f"etcd ended:\n{self.log(member).read_text()}"
            return self.ask(member, "/v3/kv/range", {"key": "AA=="}) is not None

        eventually(reads, f"etcd's member {member} answers")

    def ask(self, member: int, path: str, body: Any = None) -> Any:
        """What a member answers, or None; by another client than the one that is tested."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        context.load_cert_chain(self.credentials.cert, self.credentials.key)
        request = urllib.request.Request(
            self.endpoints[member] + path, json.dumps(body or {}).encode(), method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=1, context=context) as response:
                return json.load(response)
        except (OSError, ValueError):
            return None

    def member_of(self, port: int) -> int:
        """Whose connection it is that comes from a port; -1: none of theirs."""
        for member, process in enumerate(self._processes):
            if process is None:
                continue
            with contextlib.suppress(psutil.Error):
                for found in psutil.Process(process.pid).net_connections("tcp"):
                    if found.laddr and found.laddr.port == port:
                        return member
        return -1

    def close(self) -> None:
        """End all members."""
        for process in self._processes:
            if process is not None:
                process.kill()
                process.wait()
        if self._relays is not None:
            self._relays.close()

    def _process(self, member: int) -> subprocess.Popen[bytes]:
        process = self._processes[member]
        assert process is not None
        return process
