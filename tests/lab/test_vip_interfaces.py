"""Virtual addresses on VLANs and bonds, which not every machine's kernel can make: the lab's can."""

from __future__ import annotations

from tests.lab.harness import GuestSpec, Lab


def test_addresses_move_on_vlans_and_bonds(lab: Lab) -> None:
    (guest,) = lab.boot(GuestSpec("a"))
    guest.run("modprobe -a bridge veth 8021q bonding")
    told = guest.run(
        "python -m pytest tests/e2e/test_vip.py -k 'VLAN or bond' -q -p no:cacheprovider -p no:xdist", 240
    )
    assert "2 passed" in told and "skipped" not in told, told
