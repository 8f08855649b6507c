"""Debian's cron runs the line that `blockpair audit schedule` installs: exit code and report of each case."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import unpacked
from tests.lab.harness import Command, Lab
from tests.lab.nodes import Node, eventually, make_pair

_LINE = "/etc/cron.d/blockpair-audit"
_LOG = "/var/log/blockpair-audit.log"
# For a daemon that has begun shortly before the minute, on a busy machine.
_AHEAD_S = 4
_BLOCK = 4096


@pytest.fixture
def cron() -> Iterator[Path]:
    """Where the package of Debian's cron is unpacked."""
    root = unpacked.cache_dir() / "cron"
    try:
        unpacked.ensure("cron", root, lambda _root: "cron")
    except unpacked.PackageUnavailable as error:
        pytest.skip(f"there is no cron: {error}")
    yield root


class Cron:
    """The daemon in a node's guest, and what it logs."""

    def __init__(self, node: Node, package: Path) -> None:
        self._node = node
        # Nothing of the host's own is to be run.
        node.guest.run(
            "rm -rf /etc/cron.d/* /etc/crontab; mkdir -p /var/spool/cron/crontabs;"
            f" cp -a {package}/etc {package}/usr /"
        )
        self._log: Command = node.guest.start("exec python -m tests.lab.syslog_tool")
        eventually(lambda: "open" in self._log.stdout, "the system's log is open")

    def audit(self, options: str) -> int:
        """Have an audit scheduled for the minute that comes, and be run by cron; its exit code."""
        guest, since = self._node.guest, len(self._log.stdout)
        # The guest's clock is its own: nobody waits for the minute.
        installed = guest.run(
            "set -e; minute=$((($(date +%s) / 60 + 1) * 60))\n"
            f"blockpair audit schedule --cron --at $(date -d @$minute +%H:%M) {options}\n"
            f"date -s @$((minute - {_AHEAD_S}))"
        )
        assert _LINE in installed
        daemon = guest.start("exec cron -f -L 15")
        eventually(lambda: "END (" in self._log.stdout[since:], "cron has run the audit", 120)
        daemon.signal("TERM")
        daemon.wait(check=False)
        told = self._log.stdout[since:]
        assert len(re.findall(r"CMD \(.*blockpair audit run", told)) == 1, told
        failed = re.search(r"failed with exit status (\d+)", told)
        return int(failed[1]) if failed else 0

    def said(self) -> str:
        """By the last audit."""
        return self._node.guest.run(f"cat {_LOG}")


def _report(node: Node) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(node.cli("audit report --json"))
    return report


def _outcome(report: dict[str, Any]) -> tuple[int, str, str | None]:
    (result,) = report["last"]["results"]
    return report["last"]["code"], result["outcome"], result["why"]


@pytest.mark.long
def test_each_exit_code_and_the_report_are_right(cron: Path) -> None:
    with Lab(shown=[cron]) as lab:
        n1, n2 = make_pair(lab, array=False)
        n1.cli("promote r0")
        daemon = Cron(n1, cron)

        # Not finished in time; the part that was compared is proved.
        assert daemon.audit("--max-time 4s --max-rate 2M") == 4
        assert "r0: not finished" in daemon.said()
        report = _report(n1)
        assert _outcome(report)[:2] == (4, "unfinished")
        proved = report["resources"][0]["proved"]
        assert proved[0] is not None and proved[-1] is None

        # Identical.
        assert daemon.audit("--max-time 1h") == 0
        assert "r0: identical" in daemon.said()
        report = _report(n1)
        assert _outcome(report)[:2] == (0, "identical")
        assert None not in report["resources"][0]["proved"]

        # It could not run.
        n2.cli("down r0")
        assert daemon.audit("--max-time 1h") == 1
        assert "n2 is not connected" in daemon.said()
        assert _outcome(_report(n1)) == (1, "failed", "n2 is not connected")
        n2.cli("up r0")
        n1.wait("synced")

        # A block of one disk has changed by itself.
        n2.guest.run(
            f"dd if=/dev/urandom of={n2.device} bs={_BLOCK} count=1 seek=1000 conv=notrunc oflag=direct"
        )
        assert daemon.audit("--max-time 1h") == 3
        assert "r0: differences, 1 finding" in daemon.said()
        report = _report(n1)
        assert _outcome(report)[:2] == (3, "differences")
        (finding,) = report["resources"][0]["findings"]
        assert (finding["offset"], finding["length"]) == (1000 * _BLOCK, _BLOCK)
        assert "audit.finished" in n1.cli("events --json")
