"""The OCF resource agent: its description by the rules of the RA schema, and codes that need no daemon."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from blockpair.ocf import Code, meta_data, run, score

AGENT = Path(__file__).parents[2] / "packaging/ocf/blockpair"
# The attributes that the schema (ra-api 1.1) lets an action have, and those without which it is none.
ACTION_ATTRIBUTES = {"name", "timeout", "interval", "start-delay", "depth", "role"}
MANDATORY = {"start", "stop", "monitor", "meta-data", "promote", "demote"}


def test_the_description_follows_the_schema() -> None:
    # Without it validators, such as that of ocf-tester, refuse the text as a whole.
    assert meta_data().splitlines()[1] == '<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">'
    root = ElementTree.fromstring(meta_data())
    assert root.tag == "resource-agent" and root.get("name") == "blockpair"
    assert [child.tag for child in root] == ["version", "longdesc", "shortdesc", "parameters", "actions"]
    assert root.findtext("version") == "1.1"
    for described in (root, *root.iter("parameter")):
        for tag in ("longdesc", "shortdesc"):
            (text,) = described.findall(tag)
            assert text.get("lang") == "en" and text.text
    names = []
    for parameter in root.iter("parameter"):
        assert set(parameter.attrib) == {"name", "unique", "required"}
        assert {parameter.get("unique"), parameter.get("required")} <= {"0", "1"}
        assert [child.tag for child in parameter] == ["longdesc", "shortdesc", "content"]
        content = parameter.find("content")
        assert content is not None and content.get("type") in ("boolean", "string", "integer")
        # What may be left out has a default, and only that.
        assert ("default" in content.attrib) == (parameter.get("required") == "0")
        names.append(parameter.get("name"))
    assert names == ["resource", "directory"]
    actions = list(root.iter("action"))
    assert not MANDATORY - {action.get("name") for action in actions}
    for action in actions:
        assert set(action.attrib) <= ACTION_ATTRIBUTES
        assert re.fullmatch(r"\d+s", action.get("timeout", ""))
    monitors = {
        action.get("role"): action.get("interval") for action in actions if action.get("name") == "monitor"
    }
    # Pacemaker tells two monitors of a promotable resource apart by their intervals.
    assert set(monitors) == {"Promoted", "Unpromoted"} and len(set(monitors.values())) == 2


@pytest.mark.parametrize("action", ["start", "stop", "monitor", "promote", "demote", "validate-all"])
def test_parameters_that_will_not_do(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCF_RESKEY_resource", raising=False)
    assert run(action) is Code.CONFIGURED
    monkeypatch.setenv("OCF_RESKEY_resource", "../etc")
    assert run(action) is Code.ARGS


def test_without_a_daemon_what_was_not_primary_is_not_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OCF_RESKEY_resource", "r0")
    monkeypatch.setenv("OCF_RESKEY_directory", str(tmp_path))
    assert run("monitor") is Code.NOT_RUNNING
    assert run("stop") is Code.SUCCESS
    assert run("validate-all") is Code.INSTALLED
    assert run("start") is Code.INSTALLED
    assert run("promote") is Code.NOT_RUNNING
    assert run("migrate_to") is Code.UNIMPLEMENTED
    # A Primary whose daemon is gone is no node's to start anew: only fencing, or its daemon, ends that.
    marker = tmp_path / "run/primary/r0"
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert run("monitor") is Code.FAILED_PROMOTED
    assert run("stop") is Code.GENERIC


@pytest.mark.parametrize(
    ("disk", "wanted"),
    [("UpToDate", 10000), ("Consistent", 10), ("Outdated", None), ("Inconsistent", None), ("Diskless", None)],
)
def test_only_a_good_copy_may_be_promoted(disk: str, wanted: int | None) -> None:
    assert score({"disk": disk, "role": "Secondary", "served_by": None}) == wanted


def test_a_primary_that_goes_on_through_its_peer_stays_but_is_no_choice() -> None:
    assert score({"disk": "Diskless", "role": "Primary", "served_by": "b"}) == 5


def test_the_agent_says_where_it_is_not_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", AGENT, "monitor"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Code.INSTALLED and "not installed" in done.stderr
    program = tmp_path / "blockpair-ocf"
    program.write_text('#!/bin/sh\necho "$1"\nexit 8\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", AGENT, "monitor"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (8, "monitor\n")
