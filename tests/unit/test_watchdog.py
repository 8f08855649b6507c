"""The watchdog in the daemon: what is configured, and its descriptor kept by the service manager."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from blockpair.config.files import ConfigError
from blockpair.config.node import NodeFile, WatchdogConfig, WatchdogMode, WatchdogTable, node_config
from blockpair.daemon.watchdog import NodeWatchdog
from blockpair.errors import BlockpairError
from blockpair.failover.plan import Watchdog
from blockpair.service.notify import give_signs_of_life, kept_descriptors, notify, sign_of_life_seconds


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The service manager's end of what the daemon tells it."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return listening


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (WatchdogTable(device="watchdog"), "not an absolute path"),
        (WatchdogTable(timeout="soon"), "watchdog.timeout"),
        (WatchdogTable(timeout="1500ms"), "whole number of seconds"),
        (WatchdogTable(timeout="10m"), "from 1 to 300"),
    ],
)
def test_what_makes_no_watchdog_is_refused(table: WatchdogTable, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        node_config(NodeFile(watchdog=table), Path("blockpair.toml"), "a")


def test_without_a_table_there_is_none() -> None:
    found = node_config(NodeFile(), Path("blockpair.toml"), "a").watchdog
    assert found == WatchdogConfig("off", Path("/dev/watchdog"), 10)
    assert NodeWatchdog(found).engine is None


def test_a_descriptor_travels_to_the_service_manager(manager: socket.socket, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        notify("FDSTORE=1\nFDNAME=x", [file.fileno()])
    message, descriptors, _, _ = socket.recv_fds(manager, 1000, 4)
    assert message == b"FDSTORE=1\nFDNAME=x"
    os.write(descriptors[0], b"here")
    os.close(descriptors[0])
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", "own", 15.0),
        ("500000", None, 0.25),
        ("30000000", "1", None),
        ("", "own", None),
        ("0", "own", None),
    ],
)
def test_how_often_a_sign_of_life_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert sign_of_life_seconds() == seconds


def test_an_event_loop_that_turns_gives_signs_of_life_and_one_that_hangs_gives_none(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)

    def heard() -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while manager.recv(100) == b"WATCHDOG=1":
                count += 1
        return count

    async def live() -> None:
        alive = asyncio.create_task(give_signs_of_life())
        async with asyncio.timeout(20):
            seen = 0
            while seen < 3:
                await asyncio.sleep(0.01)
                seen += heard()
        time.sleep(0.1)  # noqa: ASYNC251 - the loop hangs
        assert heard() == 0
        alive.cancel()

    asyncio.run(live())


def inheriting(device: Path, mode: WatchdogMode, works: Callable[[NodeWatchdog], bool]) -> bool:
    """Whether ``works`` is so in a daemon that was given the open device as systemd does: by descriptor 3.
    Here that is the test runner's own, so in a child.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(device, os.O_WRONLY | os.O_CREAT), 3)
            os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
            os.environ["LISTEN_FDNAMES"] = "blockpair-watchdog"
            status = 0 if works(NodeWatchdog(WatchdogConfig(mode, device, 10))) else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("mode", "serves", "stopped"), [("required", True, False), ("required", False, True), ("off", True, True)]
)
def test_an_inherited_one_is_stopped_where_nobody_will_pet_it(
    manager: socket.socket, tmp_path: Path, *, mode: WatchdogMode, serves: bool, stopped: bool
) -> None:
    device = tmp_path / "device"

    def settles(watchdog: NodeWatchdog) -> bool:
        watchdog.settle(serves=serves)
        kept = None if watchdog.engine is None else watchdog.engine.descriptor()
        return (kept is None) == stopped

    assert inheriting(device, mode, settles)
    assert device.read_bytes() == (b"V" if stopped else b"")
    if stopped:
        assert manager.recv(1000) == b"FDSTOREREMOVE=1\nFDNAME=blockpair-watchdog"
    else:
        with pytest.raises(BlockingIOError):
            manager.recv(1000)


def test_an_inherited_one_is_stopped_once_nobody_is_to_be_primary_again(
    manager: socket.socket, tmp_path: Path
) -> None:
    """A daemon that was killed comes back, and its peer has taken over meanwhile."""
    device = tmp_path / "device"

    def settles(watchdog: NodeWatchdog) -> bool:
        told = [watchdog.inherited]
        for serves in (True, True, False):
            watchdog.settle(serves=serves)
            told.append(watchdog.inherited)
        return told == [True, True, True, False]

    assert inheriting(device, "required", settles)
    assert device.read_bytes() == b"V"
    assert manager.recv(1000) == b"FDSTOREREMOVE=1\nFDNAME=blockpair-watchdog"


def test_descriptors_for_another_process_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "blockpair-watchdog")
    assert kept_descriptors("blockpair-watchdog") == []


def test_a_machine_that_cannot_stop_is_reset_by_a_watchdog_that_nobody_pets(tmp_path: Path) -> None:
    device = tmp_path / "watchdog"
    for mode in ("off", "log"):
        watchdog = NodeWatchdog(WatchdogConfig(mode, device, 10))
        assert watchdog.state() is Watchdog.NONE
        with pytest.raises(BlockpairError, match="no watchdog"):
            watchdog.reset_machine()
    required = NodeWatchdog(WatchdogConfig("required", device, 10))
    assert required.state() is Watchdog.DISARMED
    with pytest.raises(BlockpairError, match="cannot be started"):
        required.reset_machine()
    device.touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    required.reset_machine()
    required.reset_machine()
    # Open, and open for good: a close could stop it.
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
