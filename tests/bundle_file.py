"""Writes bundles by docs/reference/bundles.md alone, so that the document and the engine check each other."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import xxhash

BLOCK = 4096
_CHUNK_BYTES = 1 << 20
_ZSTD_BLOCK = 128 << 10


def _sum(data: bytes) -> bytes:
    return xxhash.xxh3_128_intdigest(data).to_bytes(16, "little")


def _stored(data: bytes) -> bytes:
    """A zstd frame that stores ``data`` as it is (RFC 8878: a single segment of raw blocks)."""
    parts = [struct.pack("<IBI", 0xFD2FB528, 0xA0, len(data))]
    for at in range(0, len(data), _ZSTD_BLOCK):
        piece = data[at : at + _ZSTD_BLOCK]
        last = at + len(piece) == len(data)
        parts += [(len(piece) << 3 | last).to_bytes(3, "little"), piece]
    return b"".join(parts)


def write_bundle(path: Path, device_bytes: int, runs: list[tuple[int, bytes]], resource: str = "r0") -> None:
    """A bundle of ``runs``: first block and data, in order."""
    generations = {"current": "00000000000000aa", "bitmap": "0" * 16, "history": []}
    facts = {
        "resource": resource,
        "node": "a",
        "peer": "b",
        "rule": "split-brain",
        "why": "a test",
        "created_s": 1_700_000_000,
        "victim": generations,
        "survivor": generations,
        "block_size_bytes": BLOCK,
        "data_size_bytes": device_bytes,
        "blocks": sum(len(data) for _, data in runs) // BLOCK,
    }
    told = json.dumps(facts).encode()
    header = b"BPBUNDLE" + struct.pack("<II", 1, len(told)) + told
    header += _sum(header)
    chunks, index = b"", b""
    for first, data in runs:
        assert len(data) <= _CHUNK_BYTES
        count = len(data) // BLOCK
        raw = struct.pack("<QQ", first, count) + data
        stored = _stored(raw)
        offset = len(header) + len(chunks)
        index += struct.pack("<QIIQQII", offset, len(stored), 1, first, first + count, count, 0) + _sum(raw)
        chunks += stored
    numbers = struct.pack("<QQQ", len(header) + len(chunks), len(runs), facts["blocks"])
    trailer = b"BPBNDEND" + numbers + _sum(header[-16:] + index + numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + chunks + index + trailer)
