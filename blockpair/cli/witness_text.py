"""What a witness knows, in lines. Pure."""

from __future__ import annotations

from typing import Any


def lines(answer: dict[str, Any]) -> list[str]:
    """The answer of ``witness.status``."""
    if not answer["clusters"]:
        return ["this witness serves no cluster: see `blockpair witness join --help`"]
    return [line for cluster in answer["clusters"] for line in _cluster(cluster)]


def _cluster(cluster: dict[str, Any]) -> list[str]:
    if cluster["name"] is None:
        found = [f"cluster {cluster['id']}: served no more"]
    else:
        found = [f"cluster {cluster['name']}: certificate until {cluster['certificate_expires'][:10]}"]
    for node in cluster["nodes"]:
        found.append(f"  node {node['name']}: heard last at {node['last_contact']}")
    if not cluster["nodes"] and cluster["name"] is not None:
        found.append("  no node was heard yet")
    for resource in cluster["resources"]:
        found.append(
            f"  {resource['name']}: epoch {resource['epoch']}, Primary {resource['primary']}, "
            f"in sync {', '.join(resource['in_sync'])}; since {resource['changed']}, by "
            f"{resource['changed_by']}"
        )
    return found
