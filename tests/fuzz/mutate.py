"""Changes inputs at random, from a seed; the Python side of ``engine/tests/fuzz/mutate.rs``."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

LONGEST = 64 << 10
# Where comparisons, conversions and the parsers' own limits tip over.
NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"7",
    b"65535",
    b"65536",
    b"1048577",
    b"2147483648",
    b"4294967296",
    b"9223372036854775807",
    b"18446744073709551616",
    b"1e999",
    b"-0.0",
    b"NaN",
    b"1_0",
    b"9" * 400,
    b"9" * 5000,
]
# What is dangerous to text, whatever the format: controls, half a UTF-8 sequence, a surrogate, deep nesting.
TEXTS = [
    b"\x00",
    b"\x1b[2J",
    b"\n",
    b"\r",
    b"\\u0000",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xff\xfe",
    b"\xf0\x9f",
    b"\xe2\x80\xae",
    b'"',
    b"\\",
    b"../../etc/passwd",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"{a=" * 400,
    b"null",
    b"true",
    b"[]",
    b"{}",
]


def mutate(rng: random.Random, parent: bytes, other: bytes, words: Sequence[bytes]) -> bytes:
    """A child of ``parent``; ``other`` is what pieces may be taken from, ``words`` belong to the format."""
    data = bytearray(parent)
    for _ in range(rng.randint(1, 4)):
        _step(rng, data, other, words)
    return bytes(data[:LONGEST])


def _step(rng: random.Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    at = rng.randint(0, len(data))
    end = min(len(data), at + rng.randint(0, 64))
    match rng.randint(0, 8):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randint(0, 7)
        case 1 if at < len(data):
            data[at] = rng.randint(0, 255)
        case 2 | 3 if numbers := list(re.finditer(rb"\d+", data)):
            place = rng.choice(numbers)
            data[place.start() : place.end()] = rng.choice(NUMBERS)
        case 4:
            del data[at : len(data) if rng.random() < 0.2 else end]
        case 5:
            data[at:at] = data[at:end]
        case 6 if other:
            begin = rng.randrange(len(other))
            data[at:end] = other[begin : begin + rng.randint(1, 256)]
        case 7 if words:
            data[at : rng.choice((at, end))] = rng.choice(words)
        case _:
            data[at : rng.choice((at, end))] = rng.choice(TEXTS)
