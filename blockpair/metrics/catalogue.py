"""All families; run as a program, it prints the table of docs/metrics.md."""

from __future__ import annotations

from blockpair.metrics import (
    arbitration,
    arrays,
    audits,
    cluster,
    collectors,
    fencing,
    health,
    machine,
    peers,
    resources,
    services,
)
from blockpair.metrics.family import Family

SUBJECTS = {
    "The node": machine,
    "Resources": resources,
    "Peers and resync": peers,
    "Arbitration": arbitration,
    "Fencing": fencing,
    "Verify and audits": audits,
    "Services": services,
    "Health": health,
    "The cluster": cluster,
    "Arrays": arrays,
    "The metrics themselves": collectors,
}


def families() -> list[Family]:
    """Every family that a node may have, in the table's order."""
    return [
        value for module in SUBJECTS.values() for value in vars(module).values() if isinstance(value, Family)
    ]


def table() -> str:
    """The families by subject, in Markdown."""
    parts = []
    for subject, module in SUBJECTS.items():
        parts.append(f"\n### {subject}\n\n| Metric | Labels | Meaning |\n| --- | --- | --- |")
        for value in vars(module).values():
            if isinstance(value, Family):
                labels = ", ".join(f"`{label}`" for label in value.labels)
                parts.append(f"| `{value.name}` | {labels} | {value.meaning} |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(table(), end="")
