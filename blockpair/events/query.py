"""What somebody asks of the stream; answered from its files, by the daemon or without one."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from blockpair.events.event import Event, Filter
from blockpair.events.files import Reader, load, segments

MOST = 1000


class Answer(Struct, frozen=True):
    """``events``, oldest first; ``last``: the number up to which the stream was looked through."""

    events: list[Event]
    last: int


def newest(folder: Path, chosen: Filter, since: str | None, most: int) -> Answer:
    """The last ``most`` events that ``chosen`` wants, none before the time ``since``. Raises `OSError`."""
    files = segments(folder)
    last = files[-1][0] - 1 if files else 0
    found: list[Event] = []
    # Backwards: most who ask want what has just been.
    for _, path in reversed(files):
        events = load(path)
        last = max(last, events[-1].seq if events else 0)
        found = [event for event in events if _fits(event, chosen, since)] + found
        if len(found) >= most:
            break
    return Answer(found[max(0, len(found) - most) :], last)


def following(folder: Path, chosen: Filter, after: int, most: int) -> Answer:
    """The next ``most`` events after the number ``after`` that ``chosen`` wants. Raises `OSError`."""
    reader = Reader(folder, after)
    found: list[Event] = []
    while len(found) < most and (batch := reader.read(most - len(found))):
        found += [event for event in batch if chosen.wants(event)]
    return Answer(found, reader.after)


def _fits(event: Event, chosen: Filter, since: str | None) -> bool:
    return (since is None or event.time >= since) and chosen.wants(event)
