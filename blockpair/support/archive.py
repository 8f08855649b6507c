"""The archive: parts of text, each without secrets, in a tar.gz that is whole or not there."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.secrecy import scrub

# Of each part; of a log the end counts.
MOST_BYTES = 8 << 20
_LEFT_OUT = "[the beginning is left out]\n"


@dataclass(frozen=True)
class Source:
    """``name``: of the file in the archive; ``read`` gives its text, and raises `BlockpairError` or
    `OSError` where there is none to be had.
    """

    name: str
    read: Callable[[], str]


@dataclass(frozen=True)
class Collected:
    """``parts``: file names in the archive; ``missing``: what is not in it, and why."""

    path: Path
    size: int
    parts: list[str]
    missing: dict[str, str]


def write(
    path: Path, folder: str, sources: Sequence[Source], *, known: Collection[str], now: float
) -> Collected:
    """Make the archive, for its owner alone. ``folder``: that it unpacks into; ``known``: secrets of this
    node. Raises `BlockpairError`, and then there is none.
    """
    parts: dict[str, str] = {}
    missing: dict[str, str] = {}
    for source in sources:
        try:
            parts[source.name] = _shortened(scrub(source.read(), known))
        except BlockpairError as error:
            missing[source.name] = scrub(error.message, known)
        except OSError as error:
            missing[source.name] = scrub(str(error), known)
    parts["README.txt"] = _readme(parts, missing)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _not_written(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, folder, parts, now)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _not_written(path, error) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Collected(path, path.stat().st_size, sorted(parts), missing)


def _write(file: io.BufferedWriter, folder: str, parts: dict[str, str], now: float) -> None:
    with (
        gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=now) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name in sorted(parts):
            content = parts[name].encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(now), 0o600
            tar.addfile(entry, io.BytesIO(content))


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_BYTES else _LEFT_OUT + text[-MOST_BYTES:]


def _readme(parts: dict[str, str], missing: dict[str, str]) -> str:
    lines = [
        "A support archive of blockpair. Keys, tokens, passwords and paths of URLs are replaced by [hidden].",
        "Names of nodes, resources and files, and addresses, are in it: read it before you pass it on.",
        "",
        *(f"{name}  {len(text)} characters" for name, text in sorted(parts.items())),
    ]
    if missing:
        lines += ["", "Not to be had:", *(f"{name}  {why}" for name, why in sorted(missing.items()))]
    return "\n".join(lines) + "\n"


def _not_written(path: Path, error: OSError) -> BlockpairError:
    return BlockpairError(
        ErrorKind.IO,
        f"{path} cannot be written: {error.strerror}",
        "name another file: blockpair report --output FILE",
    )
