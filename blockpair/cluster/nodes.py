"""Adding a node to the text of the cluster's configuration, and taking one out. Pure; comments are kept."""

from __future__ import annotations

import tomlkit

from blockpair.config.cluster import NodeEntry, as_tables


def with_node(text: str, name: str, entry: NodeEntry) -> str:
    """``text`` with the node ``name``, which it does not have."""
    document = tomlkit.parse(text)
    table = tomlkit.table()
    table.update(as_tables(entry))
    document.setdefault("node", tomlkit.table(is_super_table=True))[name] = table
    return tomlkit.dumps(document)


def without_node(text: str, name: str) -> str:
    """``text`` without the node ``name``."""
    document = tomlkit.parse(text)
    nodes = document.get("node", {})
    if name in nodes:
        del nodes[name]
    return tomlkit.dumps(document)
