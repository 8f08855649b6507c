"""Fencing with an agent that keeps ClusterLabs' interface: what counts as off, and what never does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from blockpair.arbiter.fence import AgentError, FenceFailed, Fencer, Monitor
from blockpair.arbiter.fence.agent import run_agent
from blockpair.arbiter.fence.fencer import cuts_power
from blockpair.config.fence import Device, NodeFence
from tests.e2e.cluster import eventually
from tests.e2e.fence import PowerDevice

SOON = 15.0


@pytest.fixture
def power(tmp_path: Path) -> PowerDevice:
    return PowerDevice(tmp_path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# -- One agent


def test_the_agent_is_told_by_lines_of_its_standard_input(power: PowerDevice) -> None:
    result = asyncio.run(run_agent(power.device(plug="7"), "status"))
    assert (result.code, result.output) == (0, "Status: ON")
    [call] = power.calls()
    assert call["input"] == (
        f"action=status\nstate_file={power.state}\nmode=works\nlog={power.log}\nplug=7\n"
    )
    assert call["arguments"] == []
    assert asyncio.run(run_agent(power.device(), "off")).code == 0
    assert power.is_off
    assert asyncio.run(run_agent(power.device(), "status")).code == 2


def test_a_secret_is_on_the_standard_input_and_nowhere_else(power: PowerDevice, tmp_path: Path) -> None:
    secret = "hunter2 = x"
    power.secret = tmp_path / "secret"
    power.secret.write_text(f"{secret}\n")
    power.secret.chmod(0o600)
    device = power.device("fails")
    assert secret not in repr(device)
    result = asyncio.run(run_agent(device, "off"))
    assert result.code == 1
    assert "[hidden]" in result.output and secret not in result.output
    [call] = power.calls()
    assert f"\npassword={secret}\n" in call["input"]
    assert secret not in str(call["arguments"]) + str(call["environment"])
    with pytest.raises(FenceFailed) as failed:
        asyncio.run(Fencer({"b": NodeFence(((device,),))}).fence("b"))
    assert secret not in str(failed.value) and "[hidden]" in str(failed.value)


def test_an_agent_that_hangs_is_ended_with_all_that_it_started(power: PowerDevice) -> None:
    power.timeout = 1.0
    result = asyncio.run(run_agent(power.device("hangs"), "off"))
    assert result.code is None
    [call] = power.calls()
    assert not alive(call["pid"])
    # What was killed may take a moment to be gone.
    eventually(
        lambda: not [pid for pid in _processes() if _group(pid) == call["pid"] and alive(pid)],
        "its children are gone",
    )


def test_what_an_agent_says_is_bounded(power: PowerDevice) -> None:
    result = asyncio.run(run_agent(power.device("floods"), "status"))
    assert result.code == 0
    assert len(result.output) <= 64 << 10


def test_a_child_that_is_left_behind_is_not_waited_for(power: PowerDevice) -> None:
    power.timeout = 60.0
    result = asyncio.run(run_agent(power.device("lingers"), "status"))
    assert result.code == 0
    assert result.seconds < power.timeout
    os.kill(int(Path(f"{power.log}.child").read_text()), signal.SIGKILL)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def _writable(power: PowerDevice) -> Device:
    power.agent.chmod(0o775)
    return power.device()


def _no_program(power: PowerDevice) -> Device:
    power.agent.chmod(0o644)
    return power.device()


def _secret(power: PowerDevice, content: str, mode: int) -> Device:
    power.secret = power.agent.parent / "secret"
    power.secret.write_text(content)
    power.secret.chmod(mode)
    return power.device()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda power: Device("fence_that_is_not_there"), r"not here .*remedy: install"),
        (lambda power: Device("/nowhere/fence_x"), r"not here \(looked for /nowhere/fence_x\)"),
        (_writable, r"could be changed by others.*remedy: chown root"),
        (_no_program, r"is no program.*remedy"),
        (lambda power: _secret(power, "x", 0o644), r"may be read by others; remedy: chmod 600"),
        (lambda power: _secret(power, "", 0o600), r"does not hold one line"),
        (lambda power: _secret(power, "x\naction=on", 0o600), r"does not hold one line"),
    ],
)
def test_an_agent_that_cannot_be_run_is_told_with_its_remedy(
    power: PowerDevice, made: Callable[[PowerDevice], Device], told: str
) -> None:
    device = made(power)
    with pytest.raises(AgentError, match=told):
        asyncio.run(run_agent(device, "off"))
    with pytest.raises(FenceFailed, match=told):
        asyncio.run(Fencer({"b": NodeFence(((device,),))}).fence("b"))
    assert not power.is_off


# -- Levels


def test_off_is_believed_once_it_was_seen(power: PowerDevice) -> None:
    proof = asyncio.run(Fencer({"b": power.fence()}).fence("b"))
    assert (proof.node, proof.level) == ("b", 1)
    assert power.is_off
    assert power.actions() == ["off", "status"]


def test_a_node_that_is_off_already_is_fenced(power: PowerDevice) -> None:
    power.state.write_text("off")
    assert asyncio.run(Fencer({"b": power.fence()}).fence("b")).level == 1


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("fails:off", "1.1 fence_test: off: exit code 1, it said: Failed"),
        ("hangs:off", "1.1 fence_test: off: no answer within 1 s"),
        ("fails:status", "1.1 fence_test: status: exit code 1"),
        ("hangs:status", "1.1 fence_test: status: no answer within 1 s"),
        ("lies", "1.1 fence_test said that it switched it off, and then that it is on"),
    ],
)
def test_anything_else_is_a_failure(power: PowerDevice, mode: str, told: str) -> None:
    power.timeout = 1.0
    with pytest.raises(FenceFailed, match=f"b is not proved off: {told}"):
        asyncio.run(Fencer({"b": power.fence(mode)}).fence("b"))


def test_the_next_level_is_tried_where_one_fails(tmp_path: Path) -> None:
    board, socket = PowerDevice(tmp_path, "board"), PowerDevice(tmp_path, "socket")
    fence = NodeFence(((board.device("fails"),), (socket.device(),)))
    events: list[str] = []

    def hear(event: str, fields: Mapping[str, object]) -> None:
        events.append(f"{event} {fields.get('by_level', '')}".strip())

    assert asyncio.run(Fencer({"b": fence}, told=hear).fence("b")).level == 2
    assert events == ["fence.begun", "fence.level-failed 1", "fence.done 2"]
    assert not board.is_off and socket.is_off


def test_the_next_level_is_not_touched_where_one_succeeds(tmp_path: Path) -> None:
    board, socket = PowerDevice(tmp_path, "board"), PowerDevice(tmp_path, "socket")
    fence = NodeFence(((board.device(),), (socket.device(),)))
    assert asyncio.run(Fencer({"b": fence}).fence("b")).level == 1
    assert socket.calls() == []


@pytest.mark.parametrize("mode", ["fails", "lies", "fails:status"])
def test_of_a_level_every_device_must_be_off(tmp_path: Path, mode: str) -> None:
    """Two power supplies: with one socket on, the node runs."""
    one, two = PowerDevice(tmp_path, "one"), PowerDevice(tmp_path, "two")
    fence = NodeFence(((one.device(), two.device(mode)),))
    with pytest.raises(FenceFailed, match=r"1\.2 fence_test"):
        asyncio.run(Fencer({"b": fence}).fence("b"))


def test_all_devices_of_a_level_are_off_before_any_is_asked(tmp_path: Path) -> None:
    one, two = PowerDevice(tmp_path, "one"), PowerDevice(tmp_path, "two")
    two.log = one.log
    asyncio.run(Fencer({"b": NodeFence(((one.device(), two.device()),))}).fence("b"))
    assert one.actions() == ["off", "off", "status", "status"]


# -- Many who ask, and one who gives up


def test_resources_that_fence_one_node_together_share_it(power: PowerDevice) -> None:
    async def work() -> None:
        fencer = Fencer({"b": power.fence()})
        proofs = await asyncio.gather(*(fencer.fence("b") for _ in range(10)))
        assert {proof.node for proof in proofs} == {"b"}
        assert power.actions() == ["off", "status"]
        await fencer.fence("b")
        assert power.actions() == ["off", "status"] * 2, "a proof is not kept: the node may be on again"

    asyncio.run(work())


def test_who_gives_up_leaves_the_others_their_fencing(power: PowerDevice) -> None:
    async def work() -> None:
        begun = asyncio.Event()
        fencer = Fencer({"b": power.fence()}, told=lambda event, fields: begun.set())
        one, other = (asyncio.create_task(fencer.fence("b")) for _ in range(2))
        await begun.wait()
        one.cancel()
        assert (await other).node == "b"

    asyncio.run(work())


def test_what_nobody_waits_for_is_given_up(power: PowerDevice) -> None:
    """The link is back within the delay: nobody is switched off."""

    async def work() -> None:
        begun = asyncio.Event()
        fencer = Fencer({"b": power.fence(delay=3600)}, told=lambda event, fields: begun.set())
        asked = asyncio.create_task(fencer.fence("b"))
        await begun.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert power.calls() == []
        assert (await fencer.fence("b", delayed=False)).node == "b", "the next one begins anew"

    asyncio.run(work())


def test_an_agent_of_a_fencing_that_was_given_up_is_ended(power: PowerDevice) -> None:
    async def work() -> None:
        fencer = Fencer({"b": power.fence("hangs")})
        asked = asyncio.create_task(fencer.fence("b"))
        await until(lambda: len(power.calls()) == 1)
        asked.cancel()
        await asyncio.wait([asked])
        assert not alive(power.calls()[0]["pid"])

    asyncio.run(work())


# -- Monitoring


def test_the_monitor_tells_how_each_device_does(tmp_path: Path) -> None:
    good, bad = PowerDevice(tmp_path, "good"), PowerDevice(tmp_path, "bad")
    fences = {"b": NodeFence(((good.device(),), (bad.device("fails"),)))}
    now = 1000.0

    async def work() -> None:
        nonlocal now
        fencer = Fencer(fences)
        monitor = Monitor(fencer, ["b", "unknown"], now=lambda: now)
        assert [state.works for state in monitor.states] == [None, None]
        await monitor.once()
        now += 60
        await monitor.once()
        first, second = monitor.states
        assert (first.device, first.works, first.problem, first.failures) == ("1.1 fence_test", True, None, 0)
        assert (first.checked_at, first.worked_at) == (1060, 1060)
        assert (second.works, second.failures, second.worked_at) == (False, 2, None)
        assert second.problem is not None and "exit code 1" in second.problem
        fencer.fences["b"] = NodeFence(((good.device(),), (bad.device(),)))
        now += 60
        await monitor.once()
        assert [(state.works, state.failures) for state in monitor.states] == [(True, 0), (True, 0)]
        assert set(good.actions()) == {"monitor"}, "nothing is switched"

    asyncio.run(work())


def test_the_monitor_goes_on_until_it_is_ended(power: PowerDevice) -> None:
    async def work() -> None:
        monitor = Monitor(Fencer({"b": power.fence()}), ["b"], interval=0.01)
        running = asyncio.create_task(monitor.run())
        await until(lambda: len(power.calls()) >= 3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(work())


def test_fencing_does_not_wait_for_monitoring(power: PowerDevice) -> None:
    """Whose management board speaks with one at a time is fenced all the same, and at once."""
    power.timeout = 120.0

    async def work() -> None:
        fencer = Fencer({"b": power.fence("hangs:monitor")})
        monitor = Monitor(fencer, ["b"])
        watching = asyncio.create_task(monitor.once())
        await until(lambda: power.actions() == ["monitor"])
        began = time.monotonic()
        await fencer.fence("b")
        assert time.monotonic() - began < power.timeout / 2
        await watching
        assert monitor.states[0].works is None, "what was cut short says nothing"
        assert not alive(power.calls()[0]["pid"])

    asyncio.run(work())


def test_nothing_is_monitored_while_a_node_is_fenced(power: PowerDevice) -> None:
    async def work() -> None:
        begun = asyncio.Event()
        fencer = Fencer({"b": power.fence(delay=3600)}, told=lambda event, fields: begun.set())
        asked = asyncio.create_task(fencer.fence("b"))
        await begun.wait()
        assert await fencer.check("b", "monitor") == []
        assert power.calls() == []
        asked.cancel()
        await asyncio.wait([asked])

    asyncio.run(work())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, and let the loop run meanwhile."""
    await asyncio.to_thread(eventually, condition, "the agent was started", SOON)


# -- An agent as it is delivered


@pytest.mark.skipif(not Path("/usr/sbin/fence_dummy").exists(), reason="apt-get install fence-agents")
def test_an_agent_of_clusterlabs_own(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("on")
    device = Device("fence_dummy", (("status_file", str(state)),), (), 60.0)

    async def work() -> None:
        fencer = Fencer({"b": NodeFence(((device,),))})
        [monitored] = await fencer.check("b", "monitor")
        assert monitored.problem is None
        [described] = await fencer.check("b", "metadata")
        assert cuts_power(described)
        [found] = await fencer.check("b", "status")
        assert found.power == "on"
        assert (await fencer.fence("b")).level == 1
        assert state.read_text() == "off"
        [found] = await fencer.check("b", "status")
        assert found.power == "off"
        broken = Device("fence_dummy", (("type", "fail"), ("plug", "1"), ("power_timeout", "1")), (), 60.0)
        with pytest.raises(FenceFailed, match="off: exit code"):
            await Fencer({"b": NodeFence(((broken,),))}).fence("b")

    asyncio.run(work())


@pytest.mark.skipif(not Path("/usr/sbin/fence_ifmib").exists(), reason="apt-get install fence-agents")
def test_an_agent_that_cuts_a_network_is_told_from_one_that_cuts_power() -> None:
    async def work(agent: str) -> bool | None:
        fence = NodeFence(((Device(agent, (("ip", "127.0.0.1"), ("plug", "1")), (), 60.0),),))
        [described] = await Fencer({"b": fence}).check("b", "metadata")
        return cuts_power(described)

    assert asyncio.run(work("fence_ifmib")) is False
    assert asyncio.run(work("fence_apc_snmp")) is True
    assert asyncio.run(work("fence_ipmilan")) is True
