"""Bundles for a person. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from blockpair.units import format_size, utc

if TYPE_CHECKING:
    from rich.table import Table

    from blockpair.bundles import BundleFile, Entry, Exported


def table(entries: list[Entry]) -> Table:
    """The list; a broken bundle has its fault in place of its facts."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("RESOURCE", "BUNDLE", "LOSER", "SAVED", "FILE", "WHY"):
        shown.add_column(title, overflow="fold", no_wrap=True)
    for entry in entries:
        if entry.bundle is None:
            shown.add_row(entry.resource, entry.name, "", "", "", f"unusable: {entry.error}")
        else:
            bundle = entry.bundle
            shown.add_row(
                entry.resource,
                entry.name,
                bundle.facts.node,
                format_size(bundle.saved_bytes),
                format_size(bundle.size_bytes),
                bundle.facts.why,
            )
    return shown


def natural_width(shown: Table) -> int:
    """The columns that a table takes if nothing is cut off or wrapped."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(width=1 << 16)
    return Measurement.get(console, console.options, shown).maximum


def lines(bundle: BundleFile) -> list[str]:
    """The facts of one bundle."""
    facts = bundle.facts
    time = utc(datetime.fromtimestamp(facts.created_s, UTC), "seconds")
    return [
        f"bundle      {bundle.path}",
        f"resource    {facts.resource}, {facts.data_size_bytes} bytes ({format_size(facts.data_size_bytes)})",
        f"loser       {facts.node}, whose blocks these are; {facts.peer}'s took their place",
        f"saved       {time}: {facts.blocks} blocks of {format_size(facts.block_size_bytes)}, "
        f"{bundle.saved_bytes} bytes ({format_size(bundle.saved_bytes)}) "
        f"in a file of {bundle.size_bytes} bytes",
        f"why         {facts.why} (rule {facts.rule})",
        f"generation  {facts.victim.current}; the survivor's {facts.survivor.current}",
    ]


def export_lines(exported: Exported) -> list[str]:
    """Where an export is, what cannot be read of it, and how to mount it."""
    facts = exported.bundle.facts
    uri = f"nbd+unix:///?socket={exported.socket}"
    if exported.changed_blocks is None:
        unreadable = (
            "NOTE: which blocks changed after it was saved is not known: only the bundle's own "
            f"{facts.blocks} blocks can be read, everything else gives I/O errors"
        )
    elif exported.changed_blocks:
        unreadable = (
            f"NOTE: {exported.changed_blocks} blocks changed after it was saved; those that are not in the "
            "bundle give I/O errors"
        )
    else:
        unreadable = "nothing changed since: the whole device can be read"
    return [
        f"{facts.resource} as it was on {facts.node}, read-only: {uri}",
        unreadable,
        "",
        "without the kernel's nbd module:",
        f"  mkdir /run/was && nbdfuse /run/was '{uri}' &      # the device is the file /run/was/nbd",
        "with it, one of:",
        f"  nbd-client -unix {exported.socket} /dev/nbd0 -readonly",
        f"  qemu-nbd --read-only --format=raw --connect=/dev/nbd0 '{uri}'",
        "then, for ext4 (for xfs: -o ro,norecovery):",
        "  mount -o ro,noload /dev/nbd0 /mnt",
        "",
        "serving until interrupted (Ctrl-C)",
    ]
