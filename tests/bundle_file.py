"""Writes bundles by the tables of docs/reference/bundles.md, so that the document and the engine check each
other.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

BLOCK = 4096
PAGE = Path(__file__).parents[1] / "docs/reference/bundles.md"
_ZSTD_BLOCK = 128 << 10


@dataclass(frozen=True)
class Format:
    """What the page says of the bytes. Widths and limits are bytes; ``index``: the fields of an entry with
    their widths, in order; ``facts``: their names.
    """

    magic: bytes
    version: int
    version_width: int
    length_width: int
    facts_most: int
    checksum_width: int
    run_width: int
    chunk_most: int
    entry_width: int
    index: tuple[tuple[str, int], ...]
    end_magic: bytes
    number_width: int
    numbers_width: int
    facts: tuple[str, ...]


def _found(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text, re.MULTILINE | re.DOTALL)
    assert match is not None, f"{PAGE.name} has nothing like {pattern}"
    return match


@cache
def described() -> Format:
    """The format in the page."""
    page = PAGE.read_text().partition("## The file, format ")[2]
    header = _found(r"^\| Header \| (\d+) \| `(\w+)` \|$", page)
    version = _found(r"^\| \| (\d+) \| format: (\d+) \|$", page)
    length = _found(r"^\| \| (\d+) \| length of the facts, at most (\d+) KiB \|$", page)
    checksum = _found(r"^\| \| (\d+) \| checksum of all the above \|$", page)
    chunk = _found(
        r"its runs \(first block, number of blocks: (\d+) bytes each\).*?At most (\d+) MiB of", page
    )
    index = _found(r"^\| Index \| (\d+) a chunk \| (.*?) \|$", page)
    trailer = _found(r"^\| Trailer \| (\d+) \| `(\w+)` \|$", page)
    numbers = _found(r"^\| \| (\d+) \| offset of the index, chunks, blocks: (\d+) bytes each \|$", page)
    last = _found(
        r"^\| \| (\d+) \| checksum of the header's checksum, the index, and the (\d+) bytes before", page
    )
    names = re.sub(r"\([^)]*\)", "", _found(r"The facts are (.*?)\.\n", page + "\n")[1])
    assert page.startswith(f"{version[2]}\n") and "are little-endian" in page and "XXH3-128" in page
    assert int(header[1]) == len(header[2]) and int(trailer[1]) == len(trailer[2])
    assert last[1] == checksum[1] and last[2] == numbers[1]
    return Format(
        magic=header[2].encode(),
        version=int(version[2]),
        version_width=int(version[1]),
        length_width=int(length[1]),
        facts_most=int(length[2]) << 10,
        checksum_width=int(checksum[1]),
        run_width=int(chunk[1]),
        chunk_most=int(chunk[2]) << 20,
        entry_width=int(index[1]),
        index=tuple((name, int(width)) for name, width in re.findall(r"(?:, )?([^(]+) \((\d+)\)", index[2])),
        end_magic=trailer[2].encode(),
        number_width=int(numbers[2]),
        numbers_width=int(numbers[1]),
        facts=tuple(re.findall(r"`(\w+)`", names)),
    )


def _number(value: int, width: int) -> bytes:
    return value.to_bytes(width, "little")


def _sum(data: bytes) -> int:
    return xxhash.xxh3_128_intdigest(data)


def _stored(data: bytes) -> bytes:
    """A zstd frame that stores ``data`` as it is (RFC 8878: a single segment of raw blocks)."""
    parts = [struct.pack("<IBI", 0xFD2FB528, 0xA0, len(data))]
    for at in range(0, len(data), _ZSTD_BLOCK):
        piece = data[at : at + _ZSTD_BLOCK]
        last = at + len(piece) == len(data)
        parts += [(len(piece) << 3 | last).to_bytes(3, "little"), piece]
    return b"".join(parts)


def facts_of(device_bytes: int, runs: list[tuple[int, bytes]], resource: str = "r0") -> dict[str, Any]:
    """What the bundle of ``runs`` says of itself."""
    generations = {"current": "00000000000000aa", "bitmap": "0" * 16, "history": []}
    return {
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


def bundle_bytes(facts: dict[str, Any], runs: list[tuple[int, bytes]]) -> bytes:
    """A bundle of ``runs``, first block and data in order, each a chunk of its own."""
    form = described()
    told = json.dumps(facts).encode()
    header = (
        form.magic + _number(form.version, form.version_width) + _number(len(told), form.length_width) + told
    )
    checksum = _number(_sum(header), form.checksum_width)
    header += checksum
    chunks, index, blocks = b"", b"", 0
    for first, data in runs:
        count = len(data) // BLOCK
        raw = _number(first, form.run_width) + _number(count, form.run_width) + data
        stored = _stored(raw)
        values = {
            "offset in the file": len(header) + len(chunks),
            "length there": len(stored),
            "runs": 1,
            "first block": first,
            "the block after its last": first + count,
            "blocks": count,
            "zero": 0,
            "checksum of the chunk before compression": _sum(raw),
        }
        index += b"".join(_number(values[name], width) for name, width in form.index)
        chunks += stored
        blocks += count
    numbers = b"".join(
        _number(value, form.number_width) for value in (len(header) + len(chunks), len(runs), blocks)
    )
    end = _number(_sum(checksum + index + numbers), form.checksum_width)
    return header + chunks + index + form.end_magic + numbers + end


def write_bundle(path: Path, device_bytes: int, runs: list[tuple[int, bytes]], resource: str = "r0") -> None:
    """A file with the bundle of ``runs``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bundle_bytes(facts_of(device_bytes, runs, resource), runs))
