"""Metadata for a person. Pure."""

from __future__ import annotations

from typing import Any

from blockpair.units import format_size

_NONE = "0" * 16


def lines(answer: dict[str, Any]) -> list[str]:
    """The superblock of what ``resource.metadata`` answers."""
    meta = answer["metadata"]
    copies = ", ".join(
        f"{copy['slot']}: {copy['state']}"
        + (f" (sequence {copy['sequence']})" if copy.get("sequence") else "")
        for copy in meta["copies"]
    )
    history = [entry for entry in meta["generations"]["history"] if entry != _NONE]
    found = [
        f"resource       {meta['resource']} ({meta['resource_id']}) on {meta['node']}, "
        f"format {meta['version']}",
        f"size           {meta['data_size_bytes']} bytes ({format_size(meta['data_size_bytes'])}), "
        f"blocks of {format_size(meta['block_size_bytes'])}",
        f"superblocks    {copies}",
        f"state          {meta['disk']}{', Primary' if meta['role_primary'] else ''}, "
        f"{'clean' if meta['clean'] else 'not closed cleanly'}",
        f"generation     {_id(meta['generations']['current'])}"
        + (f", before: {' '.join(history)}" if history else ""),
        f"epoch          {meta['epoch']}, promised {meta['promised']}",
        f"write-intent   {meta['intent_extents']} extents ({format_size(meta['intent_bytes'])})",
    ]
    for peer in meta["peers"]:
        behind = "needs a full sync" if peer["full_sync"] else f"{peer['dirty_bytes']} bytes out of sync"
        found.append(f"peer {peer['name']:<9} {behind}, since generation {_id(peer['bitmap_generation'])}")
    if answer["up"]:
        found.append("The resource is up: what is in memory may be newer than this.")
    return found


def run_lines(meta: dict[str, Any]) -> list[str]:
    """The runs of the bitmaps and of the write-intent log, from a dump."""
    found: list[str] = []
    for peer in meta["peers"]:
        for kind in ("dirty_runs", "intent_runs"):
            found += _runs(f"{kind.replace('_', ' ')} of {peer['name']}", peer, kind)
    for kind in ("dirty_runs", "intent_runs"):
        found += _runs(kind.replace("_", " "), meta, kind)
    if meta.get("truncated") or any(peer.get("truncated") for peer in meta["peers"]):
        found.append("There are more runs than are shown.")
    return found


def _runs(title: str, place: dict[str, Any], key: str) -> list[str]:
    if key not in place:
        return []
    runs = place[key]
    return [f"{title}:{'' if runs else ' none'}", *(f"  {first} +{count}" for first, count in runs)]


def _id(text: str) -> str:
    return "none" if text == _NONE else text
