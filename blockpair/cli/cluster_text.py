"""A cluster's report as a person reads it. Pure."""

from __future__ import annotations

from typing import Any


def lines(report: dict[str, Any]) -> list[str]:
    """The report of `cluster.status`."""
    if report["state"] == "none":
        return [
            f"{report['node']} is in no cluster",
            "  make one: `blockpair cluster init NAME`; or join one: `blockpair cluster join --help`",
        ]
    if report["state"] == "failed":
        return [f"{report['node']} takes no part in its cluster: {report['failure']}"]
    found = [
        f"cluster {report['cluster']}  configuration {report['configuration']}",
        f"  authority  SHA-256 {report['authority_sha256']}, until {_day(report['authority_expires'])}",
    ]
    width = max(len(member["name"]) for member in report["members"]) if report["members"] else 0
    for member in report["members"]:
        addresses = ", ".join(member["addresses"])
        where = f"{addresses}  (replication {member['port']}, control {member['control_port']})"
        if member["lost"]:
            where = "its place is kept: a successor joins by its name (`blockpair cluster token`)"
        found.append(f"  {member['name']:<{width}}  {_state(member)}")
        found.append(f"  {'':<{width}}  {where}")
    arbiter = report.get("arbiter")
    if arbiter is None:
        found.append("  arbiter    none: no failover without a person")
    elif arbiter["reachable"]:
        found.append(f"  arbiter    {arbiter['place']}, reachable in {arbiter['seconds'] * 1000:.0f} ms")
    else:
        found.append(f"  arbiter    {arbiter['place']}, UNREACHABLE after {arbiter['seconds']:.1f} s")
    found += [f"  ! {warning}" for warning in report["warnings"]]
    return found


def copy_lines(copies: list[dict[str, Any]]) -> list[str]:
    """What each resource that has a copy on the node that has joined needs there."""
    found = ["Its place has copies of resources. Next:"]
    for copy in copies:
        name = copy["name"]
        match copy["state"]:
            case "up":
                step = f"it is up; to take up what has changed: blockpair down {name} && blockpair up {name}"
            case "present":
                step = f"its copy is here, and gets what it lacks: blockpair up {name}"
            case _:
                step = f"its copy is not here: blockpair create {name} --anew && blockpair up {name}"
        found.append(f"  {name}: {step}")
    return found


def _state(member: dict[str, Any]) -> str:
    if member["lost"]:
        return "lost, no member any more"
    if not member["reachable"]:
        return f"UNREACHABLE after {member['seconds']:.1f} s"
    until = f"certificate until {_day(member['certificate_expires'])}"
    if member["here"]:
        return f"this node, {until}"
    return f"reachable in {member['seconds'] * 1000:.0f} ms, {until}"


def _day(time: str) -> str:
    return time[:10]
