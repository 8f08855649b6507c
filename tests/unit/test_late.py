"""When a start that failed is tried again, and what tells one disk from another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blockpair.daemon import late
from blockpair.daemon.backing import Backing, look_at, look_at_device
from blockpair.daemon.desired import DiskMarker
from blockpair.daemon.late import Late, Tried, may_try
from blockpair.status.advice import advice


def test_it_is_tried_at_once_when_something_changed_and_then_a_few_times() -> None:
    tried = Tried("none", 100.0)
    assert may_try(tried, "a disk", 100.0)
    now, starts = 100.0, []
    tried = Tried("a disk", now)
    while now < 1000:
        if may_try(tried, "a disk", now):
            starts.append(now)
            tried = Tried("a disk", now, tried.failures + 1)
        now += 0.5
    assert starts == [101.0, 105.0, 120.0, 180.0]
    assert may_try(tried, "a disk of another size", now)


@pytest.mark.parametrize("absent", [True, False], ids=["pulled between", "not seen without"])
def test_the_former_disk_is_taken_after_one_of_the_same_size_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: bool
) -> None:
    right, wrong = (Backing(there=True, look="8:16:32768", identity=f"wwid {name}") for name in "ab")
    gone = Backing(there=False, look="", identity=None)
    runtime: Any = SimpleNamespace(
        config=SimpleNamespace(
            name="r0", device=Path("/dev/sdb"), metadata=None, dead_connection_timeout=600.0
        ),
        disk=DiskMarker(tmp_path / "r0"),
        failure=None,
    )
    runtime.disk.note(right.identity)
    started = []

    async def start_late(name: str, *, resume: bool) -> None:
        assert resume
        started.append(name)

    found = Late(cast("Any", SimpleNamespace(start_late=start_late)))

    def see(what: Backing) -> None:
        monkeypatch.setattr(late, "look_at", lambda path: what)
        asyncio.run(found._see_to(runtime))

    see(gone)
    see(wrong)
    assert not started and "is not what it was" in runtime.failure.message
    if absent:
        see(gone)
    see(right)
    assert started == ["r0"]
    # It fails each time, for one that holds it, until that one's disk is pulled.
    monkeypatch.setattr(late, "_PAUSES", ())
    see(right)
    assert started == ["r0"]
    see(gone)
    see(right)
    assert started == ["r0", "r0"]


@pytest.mark.parametrize(("after", "resumes"), [(599.0, True), (600.0, False)])
def test_one_that_comes_when_its_users_have_had_errors_is_no_primary_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float, resumes: bool
) -> None:
    there = Backing(there=True, look="8:16:32768", identity="wwid a")
    monkeypatch.setattr(late, "look_at", lambda path: there)
    monkeypatch.setattr(late, "_PAUSES", (0.0,))
    config = SimpleNamespace(name="r0", device=Path("/dev/sdb"), metadata=None, dead_connection_timeout=600.0)
    runtime: Any = SimpleNamespace(config=config, disk=DiskMarker(tmp_path / "r0"), failure=None)
    started = []

    async def start_late(name: str, *, resume: bool) -> None:
        started.append((name, resume))

    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    found = Late(cast("Any", SimpleNamespace(start_late=start_late)))
    clock[0] += after
    asyncio.run(found._see_to(runtime))
    assert started == [("r0", resumes)]


def test_a_file_is_known_by_its_place_and_not_by_its_name_or_size(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    assert not look_at(file).there and look_at(file).identity is None
    file.touch()
    empty = look_at(file)
    assert not empty.there
    file.write_bytes(b"x" * 4096)
    filled = look_at(file)
    assert filled.there and filled.look != empty.look and filled.identity == empty.identity
    other = tmp_path / "other"
    other.write_bytes(b"x" * 4096)
    other.replace(file)
    assert look_at(file).look != filled.look and look_at(file).identity != filled.identity


def test_a_block_device_is_there_when_it_has_a_size(tmp_path: Path) -> None:
    assert not look_at_device(tmp_path).there
    looks = set()
    for size, there in (("0", False), ("32768", True), ("65536", True)):
        (tmp_path / "size").write_text(f"{size}\n")
        found = look_at_device(tmp_path)
        assert found.there is there and found.identity is None
        looks.add(found.look)
    assert len(looks) == 3


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"wwid": "naa.5000c500a\n", "device/serial": "S1"}, "wwid naa.5000c500a"),
        ({"device/serial": "  S1  Y \n"}, "serial S1 Y"),
        ({"dm/uuid": "LVM-abc", "wwid": "x"}, "uuid LVM-abc"),
        ({"md/uuid": "0f:1"}, "uuid 0f:1"),
        ({"serial": ""}, None),
        ({"loop/backing_file": "/nowhere"}, None),
        ({"loop/backing_file": "/"}, f"loop of file {Path('/').stat().st_ino}"),
    ],
)
def test_a_block_device_is_known_by_what_names_it(
    tmp_path: Path, files: dict[str, str], expected: str | None
) -> None:
    whole = tmp_path / "whole"
    for name, text in files.items():
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).write_text(text)
    assert look_at_device(whole).identity == expected
    part = whole / "part"
    part.mkdir()
    (part / "partition").write_text("2\n")
    (tmp_path / "259:7").symlink_to(part)
    of_part = None if expected is None else f"{expected}, partition 2"
    assert look_at_device(tmp_path / "259:7").identity == of_part


def test_what_was_noted_is_kept_and_what_nothing_tells_is_forgotten(tmp_path: Path) -> None:
    marker = DiskMarker(tmp_path / "state/r0")
    assert marker.get() is None
    for identity in ("wwid a", "wwid b", None):
        marker.note(identity)
        assert DiskMarker(tmp_path / "state/r0").get() == identity


def test_status_says_that_it_is_started_by_itself() -> None:
    for waits, words in ((True, "started by itself"), (False, "blockpair down r0")):
        (entry,) = advice("r0", "failed", "the device does not exist", None, waits=waits)
        assert entry.code == "failed" and words in entry.remedy
