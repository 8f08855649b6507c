"""What is known of the differences that the last scrub of an array found, kept over restarts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from blockpair.raid.events import Event, Severity
from blockpair.raid.model import Array
from blockpair.raid.vote import Tally
from blockpair.units import format_size


class Standing(msgspec.Struct, frozen=True):
    """``mismatch``: what that scrub counted, in bytes; ``pending``: the peer has not decided on all of it,
    and ``waits`` says for what. Then, in bytes: ``healed`` as the peer has it, ``undecided``: no two copies
    agree, or they differ again; ``peer_differs``: the copies of the array agree, and the peer's does not.
    """

    mismatch: int
    pending: bool = True
    waits: str = ""
    healed: int = 0
    undecided: int = 0
    peer_differs: int = 0
    members: dict[str, int] = {}

    @property
    def settled(self) -> bool:
        """Whether nothing of it is left to anybody."""
        return not (self.pending or self.undecided or self.peer_differs)

    @property
    def words(self) -> str:
        """For a person."""
        if self.pending:
            return f"the peer's copy is to decide{f': {self.waits}' if self.waits else ''}"
        parts = [f"{format_size(self.healed)} healed by the peer's copy"] if self.healed else []
        if self.undecided:
            parts.append(f"{format_size(self.undecided)} that no two copies agree on")
        if self.peer_differs:
            parts.append(f"{format_size(self.peer_differs)} that differ from the peer's copy")
        return "; ".join(parts) or "the copies are the same"


def with_tally(before: Standing, tally: Tally, *, ended: bool, waits: str = "") -> Standing:
    """After a pass, or a part of one."""
    members = dict(before.members)
    for device, count in tally.members.items():
        members[device] = members.get(device, 0) + count
    return Standing(
        before.mismatch,
        pending=not ended,
        waits=waits,
        healed=before.healed + tally.healed,
        undecided=before.undecided + tally.undecided + tally.stubborn,
        peer_differs=before.peer_differs + tally.peer_differs,
        members=members,
    )


def standing_of(array: Array, known: Mapping[str, Standing]) -> Standing | None:
    """Of the differences that the array has on record; None where nobody has looked at them."""
    found = known.get(array.uuid)
    return found if found is not None and array.mismatch_bytes == found.mismatch else None


def read(texts: Mapping[str, str]) -> dict[str, Standing]:
    """As they were kept, by the array's UUID; what is damaged is left out."""
    found = {}
    for uuid, text in texts.items():
        try:
            found[uuid] = msgspec.json.decode(text, type=Standing)
        except msgspec.DecodeError:
            continue
    return found


def begun_anew(known: Mapping[str, Standing]) -> dict[str, Standing]:
    """After a restart: a pass that had not ended begins anew, and finds what it left once more."""
    return {
        uuid: msgspec.structs.replace(standing, undecided=0, peer_differs=0) if standing.pending else standing
        for uuid, standing in known.items()
    }


def text_of(standing: Standing) -> str:
    """As it is kept."""
    return msgspec.json.encode(standing).decode()


def told(array: Array, standing: Standing) -> Sequence[Event]:
    """How it ended, as events."""

    def event(code: str, severity: Severity, cause: str, consequence: str) -> Event:
        device = next(iter(standing.members)) if len(standing.members) == 1 else None
        return Event(array.name, array.uuid, code, severity, cause, consequence, device)

    found = []
    if standing.healed:
        whose = ", ".join(
            f"{format_size(count)} of {device}" for device, count in sorted(standing.members.items())
        )
        found.append(
            event(
                "copies.healed",
                Severity.WARNING,
                f"copies in {array.name} differed, and the peer's decided: wrong were {whose}",
                f"{format_size(standing.healed)} written anew; see the health of what was wrong once",
            )
        )
    if standing.undecided or standing.peer_differs:
        left = [
            f"{format_size(size)} {what}"
            for size, what in (
                (standing.undecided, "on which no two copies agree, or that differ again"),
                (standing.peer_differs, "in which the peer's copy is another one"),
            )
            if size
        ]
        found.append(
            event(
                "copies.undecided",
                Severity.CRITICAL,
                f"copies in {array.name} differ: {', '.join(left)}",
                "nothing was changed there: compare both nodes with `blockpair verify`, and decide",
            )
        )
    return found or [
        event(
            "copies.same",
            Severity.INFO,
            f"the copies in {array.name} are the same",
            "the scrub had counted writes under way" if standing.mismatch else "all of it can be read",
        )
    ]
