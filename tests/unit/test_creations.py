"""What is said of copies that cannot be made."""

from __future__ import annotations

import pytest

from blockpair.bridge import Created
from blockpair.config.cluster import CopyEntry
from blockpair.daemon.creations import unequal

MIB = 1 << 20
NAME_ONE = "make and name a partition, logical volume or file"


def made(device: int, metadata: int) -> Created:
    return Created(
        data_size_bytes=device - metadata,
        block_size_bytes=4096,
        metadata_bytes=metadata,
        device_size_bytes=device,
    )


@pytest.mark.parametrize(
    ("a", "b", "remedy"),
    [
        (
            (256 * MIB, "internal"),
            (64 * MIB, "internal"),
            f"on a, {NAME_ONE} of {64 * MIB} bytes, as large as /dev/b on b",
        ),
        (
            (64 * MIB, "internal"),
            (64 * MIB, "/meta"),
            "have the metadata internal on both nodes, or external on both",
        ),
        (
            (64 * MIB, "internal"),
            (65 * MIB, "/meta"),
            "have the metadata internal on both nodes, or external on both\n"
            f"on b, {NAME_ONE} of {64 * MIB} bytes, as large as /dev/a on a",
        ),
    ],
)
def test_copies_of_unequal_size_are_told_what_makes_them_equal(
    a: tuple[int, str], b: tuple[int, str], remedy: str
) -> None:
    copies = {"a": CopyEntry("/dev/a", a[1]), "b": CopyEntry("/dev/b", b[1])}
    found = {
        "a": made(a[0], MIB if a[1] == "internal" else 0),
        "b": made(b[0], MIB if b[1] == "internal" else 0),
    }
    error = unequal(copies, found)
    assert f"{found['a'].data_size_bytes} on a" in error.message
    assert error.remedy == remedy
