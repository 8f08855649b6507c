"""The kernel device's arguments, names and counts: what needs no kernel."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest

from blockpair.bridge import Running
from blockpair.daemon.desired import DeviceMarker
from blockpair.daemon.kernel import LockedMemory, ResourceDevice
from blockpair.kernel_device import device as kernel_device
from blockpair.kernel_device import memory, netlink
from blockpair.kernel_device.device import (
    Attachment,
    Device,
    KernelDeviceError,
    attach,
    open_up,
    parse_backend,
    publish,
    withdraw,
)
from tests.unit.status_samples import engine


def test_the_backend_text_gives_back_the_device() -> None:
    for identity in ("alpha/r0", "a:b:c", "4fd9e0b2-0b6f-4a86-8d2e-0d6f3d1c6a51"):
        device = Device(identity, 3, 2)
        assert parse_backend(device.backend + "\n", 3) == device


@pytest.mark.parametrize(
    "text", ["", "\n", "qemu", "blockpair:", "blockpair:x:r0", "blockpair:1:", "xblockpair:1:r0"]
)
def test_a_foreign_backend_is_not_ours(text: str) -> None:
    assert parse_backend(text, 0) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"block_size": 1000}, "power of two"),
        ({"block_size": 8192}, "power of two"),
        ({"connections": 0}, "1 to 64"),
        ({"connections": 2}, "CAN_MULTI_CONN"),
        ({"dead_conn_timeout_s": 0}, "I/O fails at a restart"),
        ({"io_timeout_s": -1}, "0 \\(none\\) or more"),
        ({"identity": "a\nb"}, "printable"),
        ({"identity": ""}, "printable"),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_made(
    change: dict[str, object], reason: str
) -> None:
    arguments: dict[str, object] = {"identity": "n/r", **change}
    with pytest.raises(ValueError, match=reason):
        attach(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "retry", "reason"),
    [
        (0, 1, "positive multiple"),
        (4097, 1, "positive multiple of the block size 4096"),
        (4096, 0.01, "retry interval"),
    ],
)
def test_an_impossible_size_is_refused(size: int, retry: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        open_up(Device("n/r", 99, 1), size, retry_s=retry)


def test_the_stable_name_follows_the_device(tmp_path: Path) -> None:
    first, second = Device("n/r", 1, 1), Device("n/r", 2, 1)
    link = publish(first, tmp_path / "names", "r")
    assert link.readlink() == Path("/dev/nbd1")
    publish(second, tmp_path / "names", "r")
    assert link.readlink() == Path("/dev/nbd2")
    assert [entry.name for entry in link.parent.iterdir()] == ["r"]
    withdraw(first, tmp_path / "names", "r")
    assert link.is_symlink()
    withdraw(second, tmp_path / "names", "r")
    assert not link.is_symlink()
    withdraw(second, tmp_path / "names", "r")


def test_a_file_in_the_place_of_the_stable_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("precious")
    with pytest.raises(KernelDeviceError, match="not a symbolic link of ours"):
        publish(Device("n/r", 1, 1), tmp_path, "r")
    assert (tmp_path / "r").read_text() == "precious"


def test_connections_are_capped_at_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for possible, wanted, useful in (
        ("0\n", 4, 1),
        ("0-3\n", 4, 4),
        ("0-3\n", 2, 2),
        ("0,2-7\n", 99, 8),
        ("", 3, 1),
    ):
        monkeypatch.setattr(Path, "read_text", lambda _self, text=possible: text)
        assert kernel_device.useful_connections(wanted) == useful


def test_netlink_is_refused_on_an_event_loop() -> None:
    async def wrong() -> None:
        netlink.status()

    with pytest.raises(RuntimeError, match="to_thread"):
        asyncio.run(wrong())


def test_memory_protection_is_not_released_more_often_than_held() -> None:
    with pytest.raises(RuntimeError, match="more often than held"):
        memory.Protection().release()


def resource_device(tmp_path: Path, identity: str | None) -> ResourceDevice:
    """That of n1/r0; ``identity``: what an earlier daemon served."""
    marker = DeviceMarker(tmp_path / "marker")
    if identity is not None:
        marker.set(identity)
    return ResourceDevice(
        "n1/r0",
        marker=marker,
        link=tmp_path / "names/r0",
        mode="auto",
        queues=1,
        sector_size=4096,
        dead_connection_timeout=60,
        locked=LockedMemory(),
    )


@pytest.mark.parametrize("live", [None, "n1/r0/1"])
def test_a_device_is_set_up_and_served_before_it_has_a_size_that_something_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: str | None
) -> None:
    """Linux 6.11 and later answer whoever sets something of a queue when its reads are done: udev's come with
    the size. A device that an earlier daemon made, and ended before it had one, is brought up too.
    """
    events: list[tuple[str, str]] = []
    folder = tmp_path / "sys/nbd0"
    (folder / "queue").mkdir(parents=True)
    (folder / "size").write_text("0")
    timer = folder / "queue/io_timeout"
    timer.write_text("30000")
    kernels: list[int] = []

    def connect(*, descriptors: list[int], **_: object) -> int:
        kernels.extend(os.dup(descriptor) for descriptor in descriptors)
        return 0

    def resize(index: int, _backend: str, size_bytes: int) -> None:
        # Whoever waits for it begins now, by this name.
        assert (tmp_path / "names/r0").readlink() == Path("/dev/nbd0")
        events.append(("sized", timer.read_text()))
        (folder / "size").write_text(str(size_bytes // 512))

    class Engine:
        def io_flusher(self, on: bool) -> None:
            assert on

        def attach(self, descriptor: int) -> None:
            events.append(("served", timer.read_text()))
            kernels.append(descriptor)

    def reconfigure(_index: int, _backend: str, descriptors: list[int]) -> None:
        connect(descriptors=descriptors)

    monkeypatch.setattr(kernel_device, "_SYS_BLOCK", tmp_path / "sys")
    monkeypatch.setattr(kernel_device, "_ensure_node", lambda _device: None)
    monkeypatch.setattr(kernel_device, "why_unavailable", lambda: None)
    monkeypatch.setattr(netlink, "connect", connect)
    monkeypatch.setattr(netlink, "reconfigure", reconfigure)
    monkeypatch.setattr(netlink, "resize", resize)
    monkeypatch.setattr("blockpair.daemon.kernel.memory.lock_memory", lambda: None)
    monkeypatch.setattr("blockpair.daemon.kernel.memory.spare", lambda: 0)
    if live is not None:
        (folder / "backend").write_text(f"blockpair:1:{live}")
    device = resource_device(tmp_path, live)
    device.attach(cast(Running, cast(Any, Engine())), engine())
    for descriptor in kernels:
        os.close(descriptor)
    assert device.attached and device.status().error is None
    assert [what for what, _ in events] == ["served", "sized"]
    assert events[-1] == ("sized", "1000")
    assert int((folder / "size").read_text()) * 512 == engine().size_bytes


def test_a_device_whose_size_cannot_be_read_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be in use: sysfs has refused for want of memory."""
    monkeypatch.setattr(kernel_device, "_SYS_BLOCK", tmp_path)
    for call in ("resize", "disconnect"):
        monkeypatch.setattr(netlink, call, lambda *_, call=call: pytest.fail(call))
    with pytest.raises(KernelDeviceError, match="does not say which size it has"):
        open_up(Device("n1/r0/1", 0, 1), 1 << 20, retry_s=1)


@pytest.mark.parametrize("live", [None, "n1/r0/1"])
def test_a_device_that_cannot_be_opened_up_goes_unless_it_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: str | None
) -> None:
    made = Device("n1/r0/2", 0, 1) if live is None else Device(live, 0, 1)
    gone: list[Device] = []

    def fails(*_: object, **__: object) -> None:
        raise KernelDeviceError("no size")

    monkeypatch.setattr(kernel_device, "why_unavailable", lambda: None)
    monkeypatch.setattr(kernel_device, "find", lambda _identity: None if live is None else made)
    monkeypatch.setattr(kernel_device, "attach", lambda *_, **__: Attachment(made, []))
    monkeypatch.setattr(kernel_device, "reattach", lambda *_, **__: Attachment(made, []))
    monkeypatch.setattr(kernel_device, "open_up", fails)
    monkeypatch.setattr(kernel_device, "detach", lambda device, **_: gone.append(device))
    monkeypatch.setattr("blockpair.daemon.kernel.memory.lock_memory", lambda: None)
    monkeypatch.setattr("blockpair.daemon.kernel.memory.spare", lambda: 0)
    monkeypatch.setattr("blockpair.daemon.kernel.memory.unlock_memory", lambda: None)
    monkeypatch.setattr("blockpair.daemon.kernel.memory.unspare", lambda _score: None)
    device = resource_device(tmp_path, live)

    class Served:
        def io_flusher(self, on: bool) -> None:
            assert on

    device.attach(cast(Running, cast(Any, Served())), engine())
    assert device.status().error == "no size"
    assert device.attached == (live is not None)
    assert gone == ([made] if live is None else [])


def test_connections_are_replaced_when_two_looks_miss_them_and_the_fault_goes_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def another_serves_it(device: Device, *, dead: int | None = None) -> Attachment:
        asked.append(dead)
        raise KernelDeviceError("another process still serves it")

    monkeypatch.setattr(kernel_device, "why_unavailable", lambda: None)
    monkeypatch.setattr(kernel_device, "find", lambda identity: Device(identity, 0, 1))
    monkeypatch.setattr(kernel_device, "reattach", lambda device: Attachment(device, []))
    monkeypatch.setattr(kernel_device, "publish", lambda *_: None)
    monkeypatch.setattr("blockpair.daemon.kernel.memory.lock_memory", lambda: None)
    monkeypatch.setattr("blockpair.daemon.kernel.memory.spare", lambda: 0)
    monkeypatch.setattr(kernel_device, "open_up", lambda *_, **__: None)
    device = resource_device(tmp_path, "n1/r0/1")

    class Served:
        def io_flusher(self, on: bool) -> None:
            assert on

    running = cast(Running, cast(Any, Served()))
    device.attach(running, engine())
    assert device.attached
    monkeypatch.setattr(kernel_device, "reattach", another_serves_it)
    connected = engine(clients=[{"kind": "kernel", "pid": None, "uid": None, "in_flight": 0}])
    # A look that is older than the connection misses it, once.
    for status in (engine(), connected, engine(), connected):
        device.mend(running, status)
    assert asked == [] and device.status().error is None
    for _ in range(2):
        device.mend(running, engine())
    assert asked == [1] and device.status().error == "another process still serves it"
    device.mend(running, connected)
    assert device.status().error is None


def test_sectors_smaller_than_the_disk_s_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    number = disk.stat().st_dev
    queue = tmp_path / f"{os.major(number)}:{os.minor(number)}/queue"
    monkeypatch.setattr(kernel_device, "_SYS_DEV_BLOCK", tmp_path)
    # Nothing is known of it; it has gone.
    kernel_device.check_sector(512, disk)
    kernel_device.check_sector(512, tmp_path / "none")
    queue.mkdir(parents=True)
    (queue / "logical_block_size").write_text("4096\n")
    kernel_device.check_sector(4096, disk)
    with pytest.raises(KernelDeviceError, match="has sectors of 4096 bytes: set it to 4096"):
        kernel_device.check_sector(512, disk)
