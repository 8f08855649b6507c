"""The reference of the remote procedure calls is what a daemon says of itself."""

from __future__ import annotations

import reference

from blockpair.daemon.method_list import NAME


def test_the_page_of_the_calls_is_made_from_a_daemon() -> None:
    methods = reference.ask()
    names = [method.name for method in methods.socket]
    assert {"resource.status", "resource.promote", NAME} <= set(names)
    assert "peer.checks.echo" in {method.name for method in methods.members}
    page = (reference.PAGES / "rpc.md").read_text()
    assert page == reference.rpc(methods), "run: python scripts/reference.py"
