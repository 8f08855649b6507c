"""An array fails under a Primary that serves: the service goes to the peer by itself, with everything."""

from __future__ import annotations

import json

import pytest

from tests.lab.harness import Lab
from tests.lab.mounted import MountedStage, down, in_step, longest_wait, turns_of, up
from tests.lab.nodes import ARRAY, Node, eventually

_STEADY = 30
# With the 15 seconds for which a disk must have failed, and for a machine that is busy with other tests.
_MOVED_S = 120.0


def _moves(node: Node) -> list[tuple[str, str]]:
    """The node's own decisions about where the service is, with their reasons, oldest first."""
    shown = node.cli("events r0 --kind 'care.*' --json")
    events = [json.loads(line) for line in shown.splitlines()]
    return [(event["what"], event["why"]) for event in events]


@pytest.mark.timeout(400)
def test_a_failed_array_takes_the_service_to_the_peer_with_all_that_was_acknowledged(lab: Lab) -> None:
    stage = MountedStage(lab, array=True)
    n1, n2 = stage.serving, stage.other
    in_step(n1)
    stage.answered(n1, _STEADY)
    first, second, *_ = n1.guest.disks
    n1.guest.run(f"mdadm {ARRAY} --fail {first}")
    before = len(stage.answers())
    stage.answered(n1, before + _STEADY)
    assert n1.report()["engine"]["disk"] == "UpToDate", "one leg of the mirror is nothing to the resource"

    # md says no to this, and gives up.
    failed = len(stage.answers())
    n1.guest.execute(f"mdadm {ARRAY} --fail {second}", check=False)
    eventually(lambda: n1.report()["engine"]["disk"] == "Diskless", "n1 has given its disk up")
    engine = n1.report()["engine"]
    assert (engine["role"], engine["served_by"]) == ("Primary", "n2")
    stood_in = len(stage.answers())

    # Nobody asks for it.
    eventually(lambda: stage.answers()[-1][0] == n2.name, "the client is answered by n2", _MOVED_S)
    moved = next(n for n, (who, _) in enumerate(stage.answers()) if who == n2.name)
    stage.answered(n2, moved + _STEADY)
    up(n2)
    down(n1)
    eventually(lambda: ("care.switchover-done", "") in _moves(n1), "n1 tells that it is done")
    assert _moves(n1) == [
        ("care.switchover", "its disk has failed, and the peer's copy is the only good one"),
        ("care.switchover-done", ""),
    ]
    assert [what for what, _ in _moves(n2)] == ["care.moved-here"]
    engine = n1.report()["engine"]
    assert (engine["role"], engine["disk"]) == ("Secondary", "Diskless")
    told = json.loads(n1.guest.execute("blockpair raid status r0 --json", check=False).stdout)
    assert [array["failed"] for array in told["arrays"]] == [True]

    answers = stage.answers()
    assert turns_of(answers) == [n2.name]
    assert moved - stood_in >= _STEADY, "n1 served without a disk of its own"
    assert stage.missing(n2, len(answers)) == 0
    assert [app.running for app in stage.applications] == [True, True]
    assert [app.stderr for app in stage.applications] == ["", ""]
    # The array's own errors, and none of what lies on the resource.
    assert [line for line in n1.io_errors() if " on dev md" not in line] == []
    assert n2.io_errors() == []
    print(
        f"{len(answers)} writes acknowledged; longest wait from the failure to the move "
        f"{longest_wait(answers[failed - 1 : moved]):.2f} s, in the move "
        f"{answers[moved][1] - answers[moved - 1][1]:.2f} s, which came "
        f"{answers[moved][1] - answers[failed - 1][1]:.1f} s after the failure"
    )
