"""Asks a disk for its own account, by smartctl."""

from __future__ import annotations

from blockpair.raid import mdadm
from blockpair.raid.smart import Smart, parse


def read(device: str) -> Smart | None:
    """What the disk below ``/dev/DEVICE`` tells; None if it sleeps, or cannot tell. It is not woken. Raises
    `BlockpairError` where smartctl is not installed.
    """
    # Its exit code is bits that tell of the disk: whether it could look, the report itself says.
    text = mdadm.run(
        ["smartctl", "--json=c", "--all", "--nocheck=standby", f"/dev/{device}"], ending=range(256)
    )
    try:
        report = parse(text)
    except ValueError:
        return None
    return report if report.protocol and report.passed is not None else None
