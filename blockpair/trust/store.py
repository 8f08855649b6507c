"""This node's trust on disk: one generation of certificate, key and authority, replaced as a whole.

``DIRECTORY/current`` is a link to the generation that counts, ``staged`` to one that this node has agreed to
take up when the node that coordinates a change of the authority has (`blockpair.cluster.rekey`).

``DIRECTORY/former`` keeps this node's certificates of earlier authorities, never the keys of those: a witness
that has missed a change of the authority still believes them (`blockpair.arbiter.witness.hand_over`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from blockpair.config.files import sync_directory, write_atomically
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust.authority import Authority, TrustError, certified_name, check_pair, der
from blockpair.trust.contexts import ALPN, client_context, server_context
from blockpair.trust.tokens import Book

_MAX_BYTES = 64 << 10
_FILES = ("ca.pem", "ca.key", "node.pem", "node.key")
_FORMER_FILES = ("ca.pem", "node.pem", "node.key")
_MAX_FORMER = 4


@dataclass(frozen=True)
class Generation:
    """A node's trust at one time. ``node``: whose certificate it is; ``id``: the same on all nodes whose
    authority was changed at once.
    """

    id: str
    directory: Path
    node: str
    authority: Authority
    certificate: str
    key: str

    def __repr__(self) -> str:
        return f"Generation({self.id} of {self.node})"

    def server(self) -> ssl.SSLContext:
        """The control port's side of TLS. Raises `OSError`."""
        files = self.directory / "node.pem", self.directory / "node.key"
        return server_context(self.authority.certificate, *files)

    def client(self, alpn: str = ALPN) -> ssl.SSLContext:
        """The callers' side of TLS. Raises `OSError`."""
        files = self.directory / "node.pem", self.directory / "node.key"
        return client_context(self.authority.certificate, *files, alpn)


@dataclass(frozen=True)
class Former:
    """A certificate of this node that is of an authority that counts no more."""

    directory: Path

    def client(self, alpn: str) -> ssl.SSLContext:
        """The callers' side of TLS, for who has not heard of the change. Raises `OSError`."""
        ca, chain, key = (self.directory / file for file in _FORMER_FILES)
        return client_context(ca.read_text(), chain, key, alpn)


@dataclass(frozen=True)
class Staged:
    """A generation that is not taken up yet, and the node whose word it waits for."""

    generation: Generation
    coordinator: str


class TrustStore:
    """The generations below a directory. Every method may block; what it changed is durable then."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def _generations(self) -> Path:
        return self._directory / "generations"

    def load(self) -> Generation | None:
        """The generation that counts, None on a node that is in no cluster. Raises `BlockpairError`."""
        target = _target(self._directory / "current")
        if target is None:
            return None
        _check_owner(self._directory)
        return self._read(target)

    def current(self) -> str | None:
        """A name for the generation that counts: another one for each that ever did. Raises
        `BlockpairError`.
        """
        return _target(self._directory / "current")

    def staged(self) -> Staged | None:
        """The generation that waits to be taken up, if there is one. Raises `BlockpairError`."""
        target = _target(self._directory / "staged")
        if target is None:
            return None
        generation = self._read(target)
        return Staged(generation, _text(generation.directory / "coordinator").strip())

    def replace(self, authority: Authority, certificate: str, key: str, id_: str | None = None) -> Generation:
        """Make this the generation that counts, of a new ``id`` unless it is given. Raises `BlockpairError`,
        and then the old one does.
        """
        with _told(self._directory):
            name = self._write(id_ or secrets.token_hex(8), authority, certificate, key, {})
            self._keep_former(authority.certificate)
            self._point("current", name)
            self.tidy()
        return self._read(name)

    def stage(
        self, id_: str, coordinator: str, authority: Authority, certificate: str, key: str
    ) -> Generation:
        """Keep a generation until `take_up` or `drop`. Raises `BlockpairError`."""
        with _told(self._directory):
            name = self._write(id_, authority, certificate, key, {"coordinator": coordinator})
            self._point("staged", name)
            self.tidy()
        return self._read(name)

    def take_up(self) -> Generation:
        """Make the staged generation the one that counts. Raises `BlockpairError`."""
        target = _target(self._directory / "staged")
        if target is None:
            raise BlockpairError(
                ErrorKind.NOT_FOUND, "no change of the authority waits here", "repeat the change"
            )
        with _told(self._directory):
            self._keep_former(_text(self._generations / target / "ca.pem"))
            self._point("current", target)
            (self._directory / "staged").unlink()
            sync_directory(self._directory)
            self.tidy()
        return self._read(target)

    def drop(self) -> None:
        """Forget the staged generation. Raises `BlockpairError`."""
        with _told(self._directory):
            (self._directory / "staged").unlink(missing_ok=True)
            self.tidy()

    def forget(self) -> None:
        """Leave the cluster: no generation counts any more, the keys are gone. Raises `BlockpairError`."""
        with _told(self._directory):
            for name in ("current", "staged"):
                (self._directory / name).unlink(missing_ok=True)
            self.tidy()
            self.drop_former()
            for file in ("tokens.json", "witness-key"):
                (self._directory / file).unlink(missing_ok=True)

    def former(self) -> list[Former]:
        """The certificates of earlier authorities, the latest first."""
        try:
            return [Former(directory) for directory in sorted(self._former.iterdir(), reverse=True)]
        except FileNotFoundError:
            return []

    def drop_former(self) -> None:
        """Nobody needs to be told of an earlier change any more. Raises `BlockpairError`."""
        with _told(self._directory):
            if self._former.exists():
                shutil.rmtree(self._former)
                sync_directory(self._directory)

    def witness_key(self) -> str | None:
        """The fingerprint of the key by which this node knows its witness. Raises `BlockpairError`."""
        try:
            return _text(self._directory / "witness-key").strip() or None
        except FileNotFoundError:
            return None

    def remember_witness_key(self, fingerprint: str) -> None:
        """Make that the key of the witness. Raises `BlockpairError`."""
        with _told(self._directory):
            write_atomically(self._directory / "witness-key", fingerprint + "\n", mode=0o600)

    @property
    def _former(self) -> Path:
        return self._directory / "former"

    def _keep_former(self, new_authority: str) -> None:
        """Keep the certificate that counts, if its authority is about to count no more."""
        target = _target(self._directory / "current")
        if target is None:
            return
        try:
            texts = {file: _text(self._generations / target / file) for file in _FORMER_FILES}
        except (BlockpairError, FileNotFoundError):
            # What cannot be read is of no use to anybody, and is replaced for that, perhaps.
            return
        if texts["ca.pem"] == new_authority:
            return
        kept = self.former()
        if kept and _text(kept[0].directory / "node.pem") == texts["node.pem"]:
            # A change before that was cut off here.
            return
        number = int(kept[0].directory.name) + 1 if kept else 1
        directory = self._former / f"{number:08d}"
        unfinished = self._directory / ".former"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        for file, text in texts.items():
            write_atomically(unfinished / file, text, mode=0o600)
        self._former.mkdir(mode=0o700, exist_ok=True)
        unfinished.rename(directory)
        sync_directory(self._former)
        for entry in kept[_MAX_FORMER - 1 :]:
            shutil.rmtree(entry.directory)

    def tidy(self) -> None:
        """Remove generations that no link names: a crash may have left some. Raises `BlockpairError`."""
        if not self._generations.is_dir():
            return
        with _told(self._directory):
            self._tidy()

    def _tidy(self) -> None:
        kept = {_target(self._directory / name) for name in ("current", "staged")}
        for entry in self._generations.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry)
        for leftover in self._directory.glob(".link-*"):
            leftover.unlink()
        shutil.rmtree(self._directory / ".former", ignore_errors=True)
        sync_directory(self._directory)

    def _write(self, id_: str, authority: Authority, certificate: str, key: str, more: dict[str, str]) -> str:
        self._generations.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self._directory, self._generations):
            directory.chmod(0o700)
        # A generation that is staged anew must not write into one that a link names.
        name = f"{id_}.{secrets.token_hex(4)}"
        directory = self._generations / name
        directory.mkdir(mode=0o700)
        contents = (authority.certificate, authority.key, certificate, key)
        for file, text in (*zip(_FILES, contents, strict=True), *more.items()):
            write_atomically(directory / file, text, mode=0o600)
        sync_directory(self._generations)
        return name

    def _point(self, link: str, name: str) -> None:
        temporary = self._directory / f".link-{secrets.token_hex(4)}"
        temporary.symlink_to(Path("generations") / name)
        temporary.replace(self._directory / link)
        sync_directory(self._directory)

    def _read(self, name: str) -> Generation:
        directory = self._generations / name
        ca, ca_key, certificate, key = (_secret(directory / file) for file in _FILES)
        try:
            check_pair(ca, ca_key)
            check_pair(certificate, key)
            node = certified_name(der(certificate))
        except (TrustError, ValueError) as error:
            raise _damaged(directory, str(error)) from None
        return Generation(name.partition(".")[0], directory, node, Authority(ca, ca_key), certificate, key)


class TokenFile:
    """The join tokens that this node gave out, on disk. Every method may block."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def load(self) -> Book:
        """Raises `BlockpairError`."""
        try:
            return msgspec.json.decode(_text(self._file), type=Book)
        except FileNotFoundError:
            return Book()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BlockpairError(
                ErrorKind.DAMAGED,
                f"the list of join tokens {self._file} cannot be understood: {error}",
                "remove it: the tokens given out so far are worth nothing then",
            ) from None

    def save(self, book: Book) -> None:
        """Durable when it returns. Raises `BlockpairError`."""
        with _told(self._file.parent):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._file, msgspec.json.encode(book).decode() + "\n", mode=0o600)


def _target(link: Path) -> str | None:
    """The name of the generation that a link names; None where there is no link. Raises `BlockpairError`."""
    try:
        return link.readlink().name
    except FileNotFoundError:
        return None
    except OSError as error:
        # Were it taken for none, what it names would be tidied away.
        raise _damaged(link, f"it is no link to a generation ({error.strerror})") from None


def _check_owner(directory: Path) -> None:
    found = directory.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"{directory} belongs to another user (uid {found.st_uid}), who can replace this node's keys",
            f"see how that came to be; then: chown -R root {directory}",
        )


def _secret(file: Path) -> str:
    """A file that nobody else may read nor write. Raises `BlockpairError`."""
    try:
        found = file.stat()
    except OSError as error:
        raise _damaged(file, error.strerror or str(error)) from None
    mode = stat.S_IMODE(found.st_mode)
    if file.suffix == ".key" and (mode & 0o077 or found.st_uid not in (0, os.geteuid())):
        raise BlockpairError(
            ErrorKind.UNSAFE,
            f"the key {file} can be read or replaced by others (mode {mode:04o}, uid {found.st_uid})",
            "if others can have read it: `blockpair cluster rotate --ca` on another member; "
            f"then: chown root {file} && chmod 0600 {file}",
        )
    try:
        return _text(file)
    except FileNotFoundError as error:
        raise _damaged(file, error.strerror or str(error)) from None


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES)
        return content.decode()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(file, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _damaged(file, "it is not text") from None


def _damaged(place: Path, why: str) -> BlockpairError:
    return BlockpairError(
        ErrorKind.DAMAGED,
        f"this node's trust cannot be used: {place}: {why}",
        "restore it from a backup of this node; or have the node removed on another member, "
        "`blockpair cluster remove` here too, and join again",
    )


@contextlib.contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BlockpairError(
            ErrorKind.IO,
            f"{error.filename or directory} cannot be written: {error.strerror}",
            "make room, or correct the owner and mode of that directory",
        ) from None
