"""``blockpair fence``, with no daemon: what a person sees, and how a command ends."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cluster import Node, free_ports
from tests.e2e.fence import PowerDevice


class Site:
    """Node a, and b with its power."""

    def __init__(self, base: Path) -> None:
        self.node = Node("a", base, *free_ports(2))
        self.power = PowerDevice(base)
        self.secret = base / "secret"
        self.secret.write_text("hunter2\n")
        self.secret.chmod(0o600)

    def configure(self, *modes: str, options: str = "") -> None:
        """b is fenced by a level a mode; a by one device that works."""
        levels = ", ".join(f"[{self._device(mode, options)}]" for mode in modes)
        (self.node.dir / "config/cluster.toml").write_text(
            '[cluster]\nname = "east"\nid = "x"\n[node.a]\n[node.b]\n'
            f'[fence.b]\ndelay = "300s"\nlevels = [{levels}]\n'
            f"[fence.a]\nlevels = [[{self._device('works', options)}]]\n"
        )

    def _device(self, mode: str, options: str) -> str:
        return (
            f'{{ agent = "{self.power.agent}", password_file = "{self.secret}", timeout = "10s", '
            f"options = {{ "
            f'state_file = "{self.power.state}", log = "{self.power.log}", mode = "{mode}"{options} }} }}'
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_status_asks_every_device_of_the_others(site: Site) -> None:
    site.configure("works", "fails:monitor")
    done = site.node.cli("fence", "status")
    assert done.code == 4
    assert done.out.splitlines()[0] == "b, fenced after a delay of 300 s"
    assert "ok      1.1 fence_test: works" in done.out
    assert "FAILED  2.1 fence_test: monitor: exit code 1, it said: Failed" in done.out
    assert "[hidden]" in done.out and "hunter2" not in done.out + done.err
    assert set(site.power.actions()) == {"monitor"}
    site.configure("works")
    told = site.node.ok("fence", "status", "--json").json()
    [device] = told["devices"]
    assert (told["node"], told["delay_seconds"]) == ("a", {"a": 0.0, "b": 300.0})
    assert (device["node"], device["device"], device["works"]) == ("b", "1.1 fence_test", True)


def test_status_without_a_fence_says_so(site: Site) -> None:
    (site.node.dir / "config/cluster.toml").write_text("[node.a]\n")
    assert "no other node has a fence" in site.node.ok("fence", "status").out
    assert site.node.ok("fence", "status", "--json").json()["devices"] == []


def test_test_asks_whether_the_node_is_on(site: Site) -> None:
    site.configure("works", "works")
    done = site.node.ok("fence", "test", "b")
    assert done.out.splitlines()[0] == "b"
    assert "ok      1.1 fence_test: b is on" in done.out and "ok      2.1 fence_test: b is on" in done.out
    assert set(site.power.actions()) == {"status", "metadata"}
    site.power.state.write_text("off")
    told = site.node.ok("fence", "test", "b", "--json").json()
    assert [(each["power"], each["cuts_power"]) for each in told["devices"]] == [("off", True)] * 2
    site.configure("works", "fails:status")
    done = site.node.cli("fence", "test", "b")
    assert done.code == 1
    assert "FAILED  2.1 fence_test: status: exit code 1" in done.out


def test_test_tells_an_agent_that_does_not_cut_power(site: Site) -> None:
    site.configure("works", options=', fabric = "1"')
    done = site.node.cli("fence", "test", "b")
    assert done.code == 1
    assert "does not cut power" in done.out


def test_off_switches_the_node_off_without_its_delay(site: Site) -> None:
    site.configure("fails:off", "works")
    done = site.node.ok("fence", "test", "b", "--off", "--yes")
    assert done.out.startswith("b is off: every device of level 2 says so")
    assert "level 1 failed: 1.1 fence_test: off: exit code 1" in done.err
    assert "hunter2" not in done.out + done.err
    assert site.power.is_off
    told = site.node.ok("fence", "test", "b", "--off", "--yes", "--json").json()
    assert (told["node"], told["off"], told["level"]) == ("b", True, 2)


def test_off_that_fails_is_no_success(site: Site) -> None:
    site.configure("lies")
    told = site.node.refused(1, "fence", "test", "b", "--off", "--yes")
    assert "b is not proved off: 1.1 fence_test said that it switched it off, and then that it is on" in told
    assert not site.power.is_off


def test_off_is_confirmed_by_the_nodes_name(site: Site) -> None:
    site.configure("works")
    told = site.node.refused(2, "fence", "test", "b", "--off")
    assert "blockpair fence test b --off --yes" in told
    assert typed(site, "a") == 1
    assert not site.power.is_off and "off" not in site.power.actions()
    assert typed(site, "b") == 0
    assert site.power.is_off


def typed(site: Site, name: str) -> int:
    """The exit code of `fence test b --off` where a person types ``name``."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "blockpair.cli.main", "fence", "test", "b", "--off"],
            env=site.node.environment,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.write(ours, f"{name}\n".encode())
        return process.wait(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("test", "a", "--off", "--yes"), 3, "a is this node"),
        (("test", "c"), 1, "there is no [fence.c]"),
    ],
)
def test_what_cannot_be_is_refused(site: Site, arguments: tuple[str, ...], code: int, told: str) -> None:
    site.configure("works")
    assert told in site.node.refused(code, "fence", *arguments)
    assert site.power.calls() == []


def test_a_configuration_that_cannot_be_is_told(site: Site) -> None:
    assert "this node is in no cluster" in site.node.refused(1, "fence", "status")
    (site.node.dir / "config/cluster.toml").write_text("[node.b]\n[fence.b]\nlevels = []\n")
    assert "fence.b.levels: has 0 levels" in site.node.refused(1, "fence", "status")
