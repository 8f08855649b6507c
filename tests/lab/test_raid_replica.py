"""An array fails under a resource: both legs of a mirror are lost, and the application notices nothing."""

from __future__ import annotations

import json

from tests.lab.harness import Lab
from tests.lab.nodes import ARRAY, LINK, eventually, make_pair
from tests.metric_rules import alerts, dashboard_queries, names

TOOL = "python -m tests.lab.blocks_tool"
_BLOCKS = 400
_METRICS = 9101


def test_a_mirror_is_lost_under_the_primary_and_the_peer_carries_on(lab: Lab) -> None:
    n1, n2 = make_pair(lab, disk_mib=48)
    n1.cli("promote r0")
    writer = n1.guest.start(f"exec {TOOL} write {LINK} 1 0 {_BLOCKS} 1")
    writer.wait_output("ok 20\n")
    first, second, *_ = n1.guest.disks
    n1.guest.run(f"mdadm {ARRAY} --fail {first}")
    # One leg: the array copes, the resource does not know.
    acknowledged = writer.stdout.count("ok")
    eventually(lambda: writer.stdout.count("ok") > acknowledged + 5, "the writer goes on")
    assert n1.report()["engine"]["disk"] == "UpToDate"
    # The other: md gives up, and says no to this.
    n1.guest.execute(f"mdadm {ARRAY} --fail {second}", check=False)
    assert writer.wait(120).stdout.splitlines() == [f"ok {block}" for block in range(_BLOCKS)]
    engine = n1.report()["engine"]
    assert (engine["disk"], engine["served_by"]) == ("Diskless", "n2")
    everything = " ".join(map(str, range(_BLOCKS)))
    n1.guest.run(f"{TOOL} check {LINK} 1 {everything}")
    n2.guest.run(f"{TOOL} check {n2.device} 1 {everything}")
    told = n1.guest.execute("blockpair raid status r0 --json", check=False)
    assert told.returncode == 4
    (array,) = json.loads(told.stdout)["arrays"]
    assert array["failed"] and not array["advice"]


def test_the_metrics_tell_of_the_array_under_the_replica(lab: Lab) -> None:
    n1, _ = make_pair(lab, disk_mib=48)
    n1.end("TERM")
    n1.guest.run(f"printf '[metrics]\\nlisten = \"127.0.0.1:{_METRICS}\"\\n' >>/etc/blockpair/blockpair.toml")
    n1.start()

    def found() -> dict[str, float]:
        """The samples, by what precedes the value."""
        url = f"http://127.0.0.1:{_METRICS}/metrics"
        text = n1.guest.run(
            f"python -c 'import urllib.request as u; print(u.urlopen(\"{url}\").read().decode())'"
        )
        lines = [line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#"]
        return {name: float(value) for name, _, value in lines}

    name = ARRAY.rpartition("/")[2]
    before = found()
    asked = names([*alerts().values(), *dashboard_queries()])
    known = {sample.partition("{")[0] for sample in before}
    assert not {metric for metric in asked if metric.startswith("blockpair_array_")} - known
    assert before[f'blockpair_array_missing_members{{array="{name}"}}'] == 0
    first = n1.guest.disks[0]
    n1.guest.run(f"mdadm {ARRAY} --fail {first}")
    after = found()
    assert after[f'blockpair_array_missing_members{{array="{name}"}}'] == 1
    device = first.rpartition("/")[2]
    assert after[f'blockpair_array_member{{array="{name}",device="{device}",part="faulty"}}'] == 1
