"""An event: what happened, when, why, and what to do next. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec
from msgspec import Struct

from blockpair.events.catalogue import KINDS, SILENT, Kind
from blockpair.units import utc

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
# A log record may have anything; a line of the stream is bounded.
MOST_TEXT = 2000
MOST_FIELD = 500
MOST_FIELDS = 24
_OWN_FIELDS = frozenset(
    {"event", "level", "timestamp", "text", "why", "reason", "remedy", "resource", "peer", "exception"}
)


class Event(Struct, frozen=True):
    """``seq``: its number in this node's stream, from 1; ``time``: RFC 3339 in UTC; ``node``: whose stream it
    is; ``what``: stable, dotted; ``resource`` and ``peer``: null where it is about none; ``why`` and ``next``
    (what a person does now) may be empty; ``fields``: more, by stable names.
    """

    seq: int
    time: str
    node: str
    severity: Severity
    what: str
    text: str
    why: str = ""
    next: str = ""
    resource: str | None = None
    peer: str | None = None
    fields: dict[str, str] = {}


_DECODER = msgspec.json.Decoder(Event)
_ENCODER = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """Its line in the stream, with the line's end."""
    return _ENCODER.encode(event) + b"\n"


def decode(line: bytes) -> Event | None:
    """The event of a line; None where it is none (torn, or damaged)."""
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def severity_of(level: str) -> Severity:
    """The severity of a log level."""
    if level in ("error", "critical", "exception"):
        return "error"
    return "warning" if level == "warning" else "info"


def event_of(record: Mapping[str, Any], node: str) -> Event | None:
    """The event that a log record tells of, without its number; None for one that is of no interest."""
    what, level = _text(record.get("event", "")), str(record.get("level", "info"))
    named = what in KINDS or ("." in what and " " not in what)
    if level == "debug" or what in SILENT or not named:
        return None
    kind = KINDS.get(what, Kind(""))
    severity = severity_of(level)
    resource, peer = _name(record.get("resource")), _name(record.get("peer"))
    fields = {
        _text(key)[:64]: _text(value)[:MOST_FIELD]
        for key, value in list(record.items())[: MOST_FIELDS + len(_OWN_FIELDS)]
        if key not in _OWN_FIELDS and value is not None
    }
    text = _text(record.get("text") or "") or _described(kind, what, fields)
    advice = _text(record.get("remedy") or "") or kind.next
    if not advice and severity != "info":
        advice = "blockpair status {resource}" if resource else "blockpair status"
    return Event(
        seq=0,
        time=_time(record.get("timestamp")),
        node=node,
        severity=severity,
        what=what[:64],
        text=text,
        why=_text(record.get("why") or record.get("reason") or "") or kind.why,
        next=advice.replace("{resource}", resource or "NAME").replace("{peer}", peer or "the peer"),
        resource=resource,
        peer=peer,
        fields=dict(list(fields.items())[:MOST_FIELDS]),
    )


def _described(kind: Kind, what: str, fields: Mapping[str, str]) -> str:
    known = ", ".join(f"{key} {value}" for key, value in fields.items() if key != "part")
    title = kind.title or what.replace(".", " ").replace("-", " ")
    return (f"{title} ({known})" if known else title)[:MOST_TEXT]


def _name(value: object) -> str | None:
    return None if value is None else _text(value)[:64]


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    # What is no Unicode, such as the bytes of a file's name, has a form all the same.
    return str(value)[:MOST_TEXT].encode(errors="backslashreplace").decode()


def _time(stamp: object) -> str:
    try:
        moment = datetime.fromisoformat(str(stamp))
    except ValueError:
        moment = datetime.now(UTC)
    return utc(moment)


class Filter(Struct, frozen=True):
    """Which events: of at least this ``severity``, of a kind that fits one of the patterns ``kinds``, about
    ``resource`` (None: whatever they are about).
    """

    severity: Severity = "info"
    kinds: tuple[str, ...] = ("*",)
    resource: str | None = None

    def wants(self, event: Event) -> bool:
        """Whether it is one of them."""
        return (
            SEVERITIES.index(event.severity) >= SEVERITIES.index(self.severity)
            and self.resource in (None, event.resource)
            and any(fnmatchcase(event.what, pattern) for pattern in self.kinds)
        )


def lines(event: Event) -> list[str]:
    """For a person."""
    about = f" {event.resource}" if event.resource else ""
    about += f" [{event.peer}]" if event.peer else ""
    found = [f"{event.time}  {event.severity:<7}  {event.what}{about}: {event.text}"]
    if event.why and event.why not in event.text:
        found.append(f"    why: {event.why}")
    if event.next and event.severity != "info":
        found.append(f"    next: {event.next}")
    return found
