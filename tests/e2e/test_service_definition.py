"""A service's definition is one configuration on both nodes, and a plan shows what it comes to."""

from __future__ import annotations

from tests.e2e.cluster import Cluster, Node

VIP = "192.0.2.10/24@bp-none0"


def _text(node: Node) -> str:
    return (node.dir / "config/cluster.toml").read_text()


def test_a_service_is_set_on_both_shown_planned_and_cleared(cluster: Cluster) -> None:
    cluster.form()
    a, b = cluster.nodes
    devices = []
    for node in cluster.nodes:
        with node.disk.open("wb") as disk:
            disk.truncate(16 << 20)
        devices.append(f"{node.name}={node.disk}")
    a.ok("create", "r0", "--on", ",".join(devices))
    assert "nothing follows the data" in b.ok("service", "show", "r0").out
    a.ok("service", "set", "r0", "--mount", "/srv/r0", "--unit", "db.service", "--vip", VIP)
    b.ok("service", "set", "r0", "--option", "noatime", "--timeout", "start=2m")
    assert _text(a) == _text(b)
    assert "service of r0" in b.ok("config", "history").out
    shown = a.ok("service", "show", "r0", "--json").json()
    assert (shown["mount"], shown["options"], shown["vips"]) == ("/srv/r0", ["noatime"], [VIP])
    assert shown["timeouts"]["start"] == "2m"
    assert f"address    {VIP}" in b.ok("service", "show", "r0").out
    assert "nothing was changed" in a.ok("service", "set", "r0", "--mount", "/srv/r0").out

    # What cannot be is refused with its place, and nothing is changed.
    before = _text(a)
    assert "service.vips[0]: '192.0.2.10' " in a.refused(1, "service", "set", "r0", "--vip", "192.0.2.10")
    assert "belongs to the system" in b.refused(1, "service", "set", "r0", "--mount", "/usr")
    a.refused(2, "service", "set", "r0")
    a.refused(2, "service", "set", "r0", "--timeout", "soon=1s")
    a.refused(1, "service", "set", "r9", "--mount", "/srv/r9")
    a.refused(1, "service", "show", "r9")
    assert _text(a) == _text(b) == before

    plan = b.ok("plan", "r0", "promote", "--json").json()
    assert [step["name"] for step in plan["steps"]] == [
        "epoch", "promote", "fsck", "mount", "unit db.service", "health", "probe", f"vip {VIP}", "announce",
    ]  # fmt: skip
    assert not any(step["satisfied"] for step in plan["steps"])
    a.ok("sync", "r0", "--from", "a", "--wait", "--timeout", "60s")
    a.ok("promote", "r0", "--without-service")
    plan = a.ok("plan", "r0", "promote", "--json").json()
    assert [step["name"] for step in plan["steps"] if step["satisfied"]] == ["epoch", "promote"]
    assert plan["refused"] is None
    refused = b.ok("plan", "r0", "promote").out.splitlines()[-2:]
    assert "a is connected, and Primary of r0" in refused[0] and "blockpair switchover r0" in refused[1]
    assert "a is connected" in b.ok("plan", "r0", "promote", "--json").json()["refused"]
    text = a.ok("plan", "r0", "demote").out
    assert "become Secondary" in text and "SIGKILL" not in text
    assert "kill who uses /srv/r0 (SIGKILL)" in a.ok("plan", "r0", "demote", "--kill-users").out
    a.refused(2, "plan", "r0", "--kill-users")
    a.refused(2, "plan", "r0", "stop", "--peer", "b")

    b.ok("service", "clear", "r0")
    assert "nothing follows the data" in a.ok("service", "show", "r0").out
    assert _text(a) == _text(b)
    assert [step["name"] for step in a.ok("plan", "r0", "demote", "--json").json()["steps"]] == ["promote"]
