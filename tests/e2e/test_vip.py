"""Virtual addresses on real interfaces: two nodes and a client on a bridge, each in a network namespace."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from blockpair import vip_guard
from tests.e2e.namespace import Namespace

pytestmark = pytest.mark.skipif(not Namespace.possible(), reason="network namespaces need root and iproute2")

FOUR, SIX = "192.0.2.10/24@eth0", "2001:db8::10/64@eth0"
BOTH = pytest.mark.parametrize("vip", [FOUR, SIX], ids=["IPv4", "IPv6"])


@dataclass
class Net:
    """Who is on the bridge."""

    a: Namespace
    b: Namespace
    client: Namespace


@pytest.fixture
def net() -> Iterator[Net]:
    with contextlib.ExitStack() as stack:
        switch, *hosts = (stack.enter_context(contextlib.closing(Namespace())) for _ in range(4))
        for number, host in enumerate(hosts, 1):
            host.plug(switch, f"port{number}", f"192.0.2.{number}/24", f"2001:db8::{number}/64")
        yield Net(*hosts)


def tool(host: Namespace, *words: str) -> str:
    """What the tool prints there."""
    return host.run(sys.executable, "-m", "tests.e2e.vip_tool", *words).strip()


@contextlib.contextmanager
def staying(host: Namespace, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The tool, running on, and its first line."""
    process = subprocess.Popen(
        [*host.prefix, sys.executable, "-m", "tests.e2e.vip_tool", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


def mac(host: Namespace, interface: str = "eth0") -> str:
    found = re.search(r"link/ether (\S+)", host.shows("link", interface))
    assert found
    return found[1]


def neighbour(client: Namespace, vip: str) -> str:
    """The MAC address that a client has in its cache for it."""
    address, _, interface = vip.replace("@", "/").split("/")
    shown = client.shows("neigh", interface)
    found = re.search(rf"^{re.escape(address)} .*lladdr (\S+)", shown, re.MULTILINE)
    return found[1] if found else ""


def holds(host: Namespace, vip: str) -> bool:
    return f" {vip.partition('@')[0]} " in host.shows("address", "eth0")


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 5.0) -> float:
    """Wait until it holds; for how long that was."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not after {seconds} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began


@BOTH
def test_an_address_moves_and_the_clients_cache_follows_at_once(net: Net, vip: str) -> None:
    tool(net.a, "claim", vip)
    # Twice is once.
    tool(net.a, "claim", vip)
    tool(net.client, "poke", vip.partition("/")[0])
    wait_for(lambda: neighbour(net.client, vip) == mac(net.a), "the client knows a")

    tool(net.a, "withdraw", vip)
    tool(net.a, "withdraw", vip)
    assert not holds(net.a, vip)
    assert tool(net.b, "probe", vip) == "free"
    tool(net.b, "claim", vip)
    assert holds(net.b, vip)
    # Nobody has told it yet: this is what a missing announcement would leave.
    assert neighbour(net.client, vip) == mac(net.a)
    with staying(net.b, "announce", vip) as (_, said):
        assert said == "announced"
        wait_for(lambda: neighbour(net.client, vip) == mac(net.b), "the client knows b", seconds=5.0)


# On top of eth0, of every host.
_KINDS = {
    "bridge": ("link add v7 type bridge", "link set eth0 master v7"),
    "VLAN": ("link add link eth0 name v7 type vlan id 7",),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_it_may_be_on_a_bridge_or_a_vlan(net: Net, kind: str) -> None:
    for number, host in enumerate((net.a, net.b, net.client), 1):
        for command in (*_KINDS[kind], f"address add 198.51.100.{number}/24 dev v7", "link set v7 up"):
            try:
                host.ip(*command.split())
            except OSError as error:
                if "Unknown device type" in str(error):
                    pytest.skip(f"this kernel has no {kind}")
                raise
        host.ip("link", "set", "eth0", "up")
    vip = "198.51.100.10/24@v7"
    assert tool(net.b, "probe", vip) == "free"
    tool(net.a, "claim", vip)
    assert tool(net.b, "probe", vip) == mac(net.a, "v7")
    tool(net.client, "poke", "198.51.100.10")
    wait_for(lambda: neighbour(net.client, vip) == mac(net.a, "v7"), "the client knows a")
    tool(net.a, "withdraw", vip)
    tool(net.b, "claim", vip)
    with staying(net.b, "announce", vip) as (_, said):
        assert said == "announced"
        wait_for(lambda: neighbour(net.client, vip) == mac(net.b, "v7"), "the client knows b", seconds=5.0)


def test_an_ipv6_address_can_be_used_as_soon_as_it_is_there(net: Net) -> None:
    tool(net.a, "claim", SIX)
    line = next(line for line in net.a.shows("address", "eth0").splitlines() if " 2001:db8::10/64 " in line)
    assert "tentative" not in line


@BOTH
def test_somebody_else_who_has_it_is_found_by_the_probe_with_the_mac_address(net: Net, vip: str) -> None:
    assert tool(net.b, "probe", vip) == "free"
    tool(net.client, "claim", vip)
    assert tool(net.b, "probe", vip) == mac(net.client)


def test_an_interface_that_is_not_there_is_named(net: Net) -> None:
    with pytest.raises(OSError, match="there is no interface 'eth7'"):
        tool(net.a, "claim", "192.0.2.10/24@eth7")
    tool(net.a, "withdraw", "192.0.2.10/24@eth7")


@BOTH
def test_the_guard_outlives_a_daemon_that_is_killed_and_takes_the_address_away(
    net: Net, vip: str, tmp_path: Path
) -> None:
    with staying(net.a, "guard", str(tmp_path / "vips"), vip, "600") as (daemon, guard):
        assert holds(net.a, vip)
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        wait_for(lambda: not holds(net.a, vip), "the address is gone", seconds=3.0)
        wait_for(lambda: not Path(f"/proc/{guard}").exists() or _is_zombie(int(guard)), "the guard has ended")
    assert (tmp_path / "vips").read_text() == ""


def test_a_daemon_that_is_frozen_loses_the_address_when_the_time_is_up(net: Net, tmp_path: Path) -> None:
    with staying(net.a, "guard", str(tmp_path / "vips"), FOUR, "3") as (daemon, _):
        daemon.send_signal(signal.SIGSTOP)
        assert holds(net.a, FOUR)
        waited = wait_for(lambda: not holds(net.a, FOUR), "the address is gone", seconds=10)
        assert waited < 5
        daemon.send_signal(signal.SIGCONT)


def lifetime(host: Namespace, vip: str) -> int:
    """The seconds that it has in the kernel."""
    line = next(
        line for line in host.shows("address", "eth0").splitlines() if f" {vip.partition('@')[0]} " in line
    )
    found = re.search(r"valid_lft (\d+)sec", line)
    assert found is not None, line
    return int(found[1])


@BOTH
def test_the_kernel_removes_what_nobody_renews_any_more(net: Net, vip: str) -> None:
    tool(net.a, "claim", vip)
    assert 15 <= lifetime(net.a, vip) <= vip_guard.LIFETIME_SECONDS
    # There already: from here on for two seconds.
    tool(net.a, "claim", vip, "2")
    tool(net.b, "claim", vip, "2")
    program = f"import blockpair.vip_guard as g; g.renew({vip!r})"
    net.b.run(sys.executable, "-c", program)
    assert 15 <= lifetime(net.b, vip) <= vip_guard.LIFETIME_SECONDS
    address = vip.partition("/")[0]
    assert all(
        "tentative" not in line for line in net.b.shows("address", "eth0").splitlines() if address in line
    )
    wait_for(lambda: not holds(net.a, vip), "the kernel has removed it", seconds=10.0)
    # What is not there is not brought back by it.
    net.a.run(sys.executable, "-c", program)
    assert not holds(net.a, vip) and holds(net.b, vip)


def test_what_a_killed_guard_leaves_is_removed_by_its_list_and_by_the_next(net: Net, tmp_path: Path) -> None:
    file = tmp_path / "vips"
    for way in ("list", "next"):
        with staying(net.a, "guard", str(file), FOUR, "600") as (daemon, guard):
            os.kill(int(guard), signal.SIGKILL)
            daemon.kill()
            daemon.wait()
        assert holds(net.a, FOUR) and file.read_text() == f"{FOUR}\n"
        if way == "list":
            net.a.run(sys.executable, "-S", vip_guard.__file__, "--drop", str(file))
        else:
            net.a.run("sh", "-c", f"{sys.executable} -S {vip_guard.__file__} --list {file} </dev/null")
        assert not holds(net.a, FOUR)


def test_the_guard_ends_on_sigterm_with_the_address_gone(net: Net, tmp_path: Path) -> None:
    with staying(net.a, "guard", str(tmp_path / "vips"), FOUR, "600") as (_, guard):
        os.kill(int(guard), signal.SIGTERM)
        wait_for(lambda: not holds(net.a, FOUR), "the address is gone", seconds=3.0)


def _is_zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
