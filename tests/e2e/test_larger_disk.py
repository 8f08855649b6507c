"""A resource whose devices were made larger: what it says, and how it is made anew with its data."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.nbd_client import NbdClient
from tests.e2e.trio import SIZE, Trio, engine

DATA = os.urandom(4 << 20)


@pytest.fixture
def trio(base: Path) -> Iterator[Trio]:
    with closing(Trio(base)) as made:
        yield made


def test_it_is_made_anew_on_the_larger_devices_and_its_data_are_there(trio: Trio) -> None:
    a, b = trio.a, trio.b
    trio.synced("default", "--metadata", "internal")
    image = a.dir / "image"
    with image.open("wb") as file:
        file.truncate(SIZE // 4)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with NbdClient(a.nbd) as client:
        # A file system, and data behind it.
        client.write(0, image.read_bytes())
        client.write(SIZE // 2, DATA)
        client.flush()
    a.ok("demote", "r0")
    for node in (a, b):
        node.ok("down", "r0")
        os.truncate(node.disk, 2 * SIZE)
    # Nobody takes it for a new disk.
    refused = a.cli("up", "r0")
    assert refused.code == 1 and "no blockpair metadata at the end" in refused.err
    assert "its old size" in refused.err

    a.ok("delete", "r0", "--yes")
    create = ("create", "r0", "--on", f"a={a.disk},b={b.disk}", "--metadata", "internal")
    refused = a.cli(*create)
    assert refused.code == 3 and "ext4" in refused.err
    a.ok(*create, "--force")
    a.ok("sync", "r0", "--from", "a", "--wait")
    a.ok("promote", "r0")
    trio.entered("a", "a", "b")
    assert SIZE < engine(a)["size_bytes"] < 2 * SIZE
    with NbdClient(a.nbd) as client:
        assert client.read(SIZE // 2, len(DATA)) == DATA
    a.ok("verify", "r0", "--wait")
