"""mdadm.conf: which arrays are assembled at boot under which name, and their spare groups. Pure but for
reading and replacing the file. The form is that of mdadm.conf(5).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Debian's place; other distributions have /etc/mdadm.conf, which mdadm reads where this one is not.
PLACES = (Path("/etc/mdadm/mdadm.conf"), Path("/etc/mdadm.conf"))
_HEAD = "# mdadm.conf(5). After a change: update-initramfs -u\nHOMEHOST <system>\nMAILADDR root\n"


@dataclass(frozen=True)
class Entry:
    """An ARRAY line."""

    path: str
    uuid: str
    group: str | None = None
    metadata: str = "1.2"

    def __str__(self) -> str:
        group = f" spare-group={self.group}" if self.group else ""
        # Of another kind than md's own, the UUID alone says enough.
        version = f" metadata={self.metadata}" if self.metadata[:1].isdigit() else ""
        return f"ARRAY {self.path}{version} UUID={self.uuid}{group}"


def _statements(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Each statement: its lines, and its words. A line that begins with white space continues the one
    before.
    """
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        if lines and not line[:1].isspace():
            yield lines, _words(lines)
            lines = []
        lines.append(line)
    if lines:
        yield lines, _words(lines)


def _words(lines: list[str]) -> list[str]:
    return [word for line in lines for word in line.partition("#")[0].split()]


def _is_array(words: list[str]) -> bool:
    # Keywords may be shortened to three letters, in any case.
    return bool(words) and len(words[0]) >= 3 and "array".startswith(words[0].lower())


def _is_of(words: list[str], uuid: str) -> bool:
    return _is_array(words) and (_value(words, "uuid") or "").lower() == uuid.lower()


def _value(words: list[str], key: str) -> str | None:
    for word in words:
        name, _, value = word.partition("=")
        if name.lower() == key:
            return value
    return None


def entries(text: str) -> list[Entry]:
    """The ARRAY lines that have a UUID."""
    found = []
    for _, words in _statements(text):
        uuid = _value(words, "uuid") if _is_array(words) else None
        if uuid:
            path = words[1] if len(words) > 1 and "=" not in words[1] else ""
            found.append(
                Entry(path, uuid.lower(), _value(words, "spare-group"), _value(words, "metadata") or "1.2")
            )
    return found


def groups(text: str) -> dict[str, str]:
    """The spare group by UUID."""
    return {entry.uuid: entry.group for entry in entries(text) if entry.group}


def with_entry(text: str, entry: Entry) -> str:
    """The text with a line for ``entry``'s array. One that is there keeps its words, for whoever wrote them
    knew why; only its spare group becomes that of ``entry``. Everything else stays as it is.
    """
    found: list[str] = []
    there = False
    for lines, words in _statements(text or _HEAD):
        if not _is_of(words, entry.uuid):
            found += lines
        elif not there:
            there = True
            kept = [word for word in words if not word.lower().startswith("spare-group=")]
            found.append(" ".join([*kept, *([f"spare-group={entry.group}"] if entry.group else [])]) + "\n")
    if not there:
        if found and not found[-1].endswith("\n"):
            found.append("\n")
        found.append(f"{entry}\n")
    return "".join(found)


def without(text: str, uuid: str) -> str:
    """The text without the line of that array."""
    return "".join(line for lines, words in _statements(text) if not _is_of(words, uuid) for line in lines)


def place() -> Path:
    """The file that mdadm reads, or would."""
    return next((path for path in PLACES if path.exists()), PLACES[0])


def read(path: Path) -> str:
    """The file's text; empty where there is none. Raises `OSError`."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def replace(path: Path, text: str) -> None:
    """Replace the file: a crash leaves the old one or the new one. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
