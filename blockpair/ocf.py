"""``blockpair-ocf``: the OCF resource agent's actions (OCF Resource Agent API 1.1), for those whose
Pacemaker decides who is Primary. A promotable clone: started is Secondary, promoted is Primary.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any
from xml.sax.saxutils import escape

import msgspec

from blockpair.config.locations import Locations, locations
from blockpair.config.names import check_name
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.client import Client


class Code(IntEnum):
    """OCF exit codes."""

    SUCCESS = 0
    GENERIC = 1
    ARGS = 2
    UNIMPLEMENTED = 3
    PERMISSION = 4
    INSTALLED = 5
    CONFIGURED = 6
    NOT_RUNNING = 7
    RUNNING_PROMOTED = 8
    FAILED_PROMOTED = 9


class Refused(Exception):
    """An action that ends with ``code``, for a reason in words."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


_PARAMETER = "OCF_RESKEY_"
_LONG = (
    "Manages a blockpair resource, a block device that two servers keep a copy of, as a promotable clone:"
    " started, it is Secondary and takes part in the replication; promoted, it is Primary and has the device."
    " The daemon blockpaird runs on both nodes all the time and is not managed here. blockpair's own failover"
    ' must be off for the resource (arbiter = "manual"), and Pacemaker needs working fencing: a node that'
    " cannot be reached is not known to have stopped."
)
_RESOURCE = "The name of the blockpair resource, as `blockpair status` shows it on both nodes."
_ACTIONS = """\
    <action name="start" timeout="120s"/>
    <action name="promote" timeout="90s"/>
    <action name="demote" timeout="90s"/>
    <action name="stop" timeout="120s"/>
    <action name="monitor" role="Unpromoted" timeout="20s" interval="20s" depth="0"/>
    <action name="monitor" role="Promoted" timeout="20s" interval="10s" depth="0"/>
    <action name="meta-data" timeout="5s"/>
    <action name="validate-all" timeout="20s"/>"""


def meta_data() -> str:
    """What the agent can do, as the RA schema wants it."""
    return f"""\
<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="blockpair" version="1.0">
  <version>1.1</version>
  <longdesc lang="en">{escape(_LONG)}</longdesc>
  <shortdesc lang="en">A block device that lives on two servers</shortdesc>
  <parameters>
    <parameter name="resource" unique="1" required="1">
      <longdesc lang="en">{escape(_RESOURCE)}</longdesc>
      <shortdesc lang="en">blockpair resource</shortdesc>
      <content type="string"/>
    </parameter>
    <parameter name="directory" unique="0" required="0">
      <longdesc lang="en">The node whose files are below this directory; empty: the system's own.</longdesc>
      <shortdesc lang="en">directory of the node</shortdesc>
      <content type="string" default=""/>
    </parameter>
  </parameters>
  <actions>
{_ACTIONS}
  </actions>
</resource-agent>
"""


_HELP = """\
Usage: blockpair-ocf {actions}

The actions of the OCF resource agent ocf:blockpair:blockpair; its parameters are in the environment.

Example: OCF_RESKEY_resource=r0 blockpair-ocf monitor"""


class Agent:
    """The actions on one resource of this node."""

    def __init__(self, name: str, places: Locations) -> None:
        self._name = name
        self._places = places

    def monitor(self) -> Code:
        """Its state; in doubt it has failed, for only what is known to be down may be started elsewhere."""
        marked = self._places.primary_marker(self._name).exists()
        try:
            report = self._report()
        except BlockpairError as error:
            if error.kind is not ErrorKind.NO_DAEMON:
                raise
            # Without its daemon nothing is served; a Primary's device waits for it to come back.
            return Code.FAILED_PROMOTED if marked else Code.NOT_RUNNING
        if report["state"] == "down":
            return Code.NOT_RUNNING
        engine = report.get("engine") or {}
        promoted = engine.get("role") == "Primary"
        if report["state"] != "running" or not engine:
            return Code.FAILED_PROMOTED if promoted or marked else Code.GENERIC
        _tell_score(score(engine))
        return Code.RUNNING_PROMOTED if promoted else Code.SUCCESS

    def start(self) -> Code:
        """Bring it up, as Secondary."""
        self.check()
        if self.monitor() in (Code.NOT_RUNNING, Code.GENERIC):
            self._call("resource.up")
        # A daemon that was Primary when it ended is so again; what is started is not promoted.
        if self.monitor() is Code.RUNNING_PROMOTED:
            self._call("resource.demote")
        return Code.SUCCESS if self.monitor() is Code.SUCCESS else Code.GENERIC

    def stop(self) -> Code:
        """Bring it down; it is down already where nothing runs."""
        if self.monitor() is not Code.NOT_RUNNING:
            self._call("resource.down")
        _tell_score(None)
        return Code.SUCCESS if self.monitor() is Code.NOT_RUNNING else Code.GENERIC

    def promote(self) -> Code:
        """Primary, without force: what that could lose, Pacemaker cannot know."""
        state = self.monitor()
        if state is Code.NOT_RUNNING:
            raise Refused(Code.NOT_RUNNING, f"{self._name} is not started")
        if state is not Code.RUNNING_PROMOTED:
            self._call("resource.promote")
        return Code.SUCCESS if self.monitor() is Code.RUNNING_PROMOTED else Code.GENERIC

    def demote(self) -> Code:
        """Secondary; refused while somebody uses the device, which Pacemaker answers by stopping or
        fencing.
        """
        state = self.monitor()
        if state is Code.NOT_RUNNING:
            raise Refused(Code.NOT_RUNNING, f"{self._name} is not started")
        if state is not Code.SUCCESS:
            self._call("resource.demote")
        return Code.SUCCESS if self.monitor() is Code.SUCCESS else Code.GENERIC

    def validate(self) -> Code:
        """Whether the parameters and the resource will do."""
        self.check()
        return Code.SUCCESS

    def check(self) -> None:
        """Raises `Refused` where the resource is not there, or its failover is blockpair's own."""
        try:
            report = self._report()
        except BlockpairError as error:
            if error.kind is ErrorKind.NO_DAEMON:
                raise Refused(Code.INSTALLED, f"{error.message}; enable it on every node") from None
            raise
        if (report.get("engine") or {}).get("arbitration") is not None:
            raise Refused(
                Code.CONFIGURED,
                f"{self._name} has failover of its own, and two that decide part the data:"
                ' give it arbiter = "manual"',
            )

    def _report(self) -> dict[str, Any]:
        report: dict[str, Any] = msgspec.json.decode(self._call("resource.status"))
        return report

    def _call(self, method: str) -> bytes:
        with Client(self._places.rpc_socket) as client:
            return client.call_raw(method, {"name": self._name})


def score(engine: dict[str, Any]) -> int | None:
    """How good a Primary this node would be, for Pacemaker's choice; None: it must not be one."""
    match engine["disk"]:
        case "UpToDate":
            return 10000
        case "Consistent":
            return 10
        case "Diskless" if engine["served_by"] and engine["role"] == "Primary":
            return 5
        case _:
            return None


def _tell_score(value: int | None) -> None:
    """Tell Pacemaker, where there is one."""
    program = shutil.which("crm_attribute")
    if program is None or "OCF_RESOURCE_INSTANCE" not in os.environ:
        return
    change = ["--delete"] if value is None else ["--update", str(value)]
    # The score is a hint: a monitor does not fail for want of it.
    subprocess.run(
        [program, "--promotion", "--lifetime", "reboot", *change], capture_output=True, check=False
    )


def _agent() -> Agent:
    name = os.environ.get(f"{_PARAMETER}resource", "")
    if not name:
        raise Refused(Code.CONFIGURED, "the parameter resource is missing: name a blockpair resource")
    try:
        check_name(name)
    except ValueError as error:
        raise Refused(Code.ARGS, f"resource: {error}") from None
    return Agent(name, locations(directory=os.environ.get(f"{_PARAMETER}directory") or None))


_METHODS: dict[str, Callable[[Agent], Code]] = {
    "start": Agent.start,
    "stop": Agent.stop,
    "monitor": Agent.monitor,
    "promote": Agent.promote,
    "demote": Agent.demote,
    "validate-all": Agent.validate,
}
_CODES = {
    ErrorKind.NOT_FOUND: Code.CONFIGURED,
    ErrorKind.NOT_PERMITTED: Code.PERMISSION,
    ErrorKind.NO_DAEMON: Code.GENERIC,
}


def run(action: str) -> Code:
    """Carry out an action; what goes wrong is told on standard error."""
    method = _METHODS.get(action)
    if method is None:
        print(f"blockpair-ocf: {action!r} is no action of this agent", file=sys.stderr)
        return Code.UNIMPLEMENTED
    try:
        return method(_agent())
    except Refused as refusal:
        print(f"blockpair-ocf: {refusal}", file=sys.stderr)
        return refusal.code
    except BlockpairError as error:
        print(f"blockpair-ocf: {error.message}", file=sys.stderr)
        # A resource that nobody has made is not running.
        if error.kind is ErrorKind.NOT_FOUND and action in ("monitor", "stop"):
            return Code.NOT_RUNNING if action == "monitor" else Code.SUCCESS
        return _CODES.get(error.kind, Code.GENERIC)


def main() -> int:
    """The program."""
    actions = ["meta-data", *_METHODS]
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(_HELP.format(actions="|".join(actions)))
        return 0
    if len(sys.argv) != 2:
        print(f"Usage: blockpair-ocf {'|'.join(actions)}", file=sys.stderr)
        return Code.ARGS
    if sys.argv[1] == "meta-data":
        print(meta_data(), end="")
        return 0
    return run(sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
