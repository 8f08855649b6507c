"""Which devices may become members."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from blockpair.errors import ErrorKind
from blockpair.raid.admission import SIZE_TOLERANCE, Refusal, refusals
from tests.unit.raid_samples import GIB, disk

A, B, C = disk("sda"), disk("sdb"), disk("sdc")


def _only(found: list[Refusal]) -> Refusal:
    (refusal,) = found
    assert refusal.remedy
    return refusal


def test_free_disks_of_one_size_are_taken() -> None:
    assert refusals([A, B, replace(C, size_bytes=GIB - GIB // 200)]) == []


def test_a_device_in_use_is_never_taken() -> None:
    used = replace(B, uses=("mounted on /srv",), signatures=("ext4",))
    for force in (False, True):
        refusal = _only(refusals([A, used], force=force))
        assert refusal.kind is ErrorKind.IN_USE and "mounted on /srv" in refusal.reason
        assert refusal.device == "/dev/sdb"


def test_a_signature_is_overridden_by_force_alone() -> None:
    marked = replace(B, signatures=("ext4 (at byte 1080)",))
    refusal = _only(refusals([A, marked]))
    assert refusal.kind is ErrorKind.UNSAFE and "ext4" in refusal.reason and "--force" in refusal.remedy
    assert refusals([A, marked], force=True) == []


def test_two_members_on_one_physical_disk_are_refused() -> None:
    halves = [disk("sda1", disks=frozenset({"sda"})), disk("sda2", disks=frozenset({"sda"}))]
    refusal = _only(refusals(halves))
    assert (refusal.kind, refusal.device) == (ErrorKind.UNSAFE, "/dev/sda2")
    assert "physical disk sda" in refusal.reason and "/dev/sda1" in refusal.reason
    assert "the same device" in _only(refusals([A, replace(A, path="/dev/disk/by-id/a")])).reason
    assert refusals(halves[:1], present=[halves[1]])


def test_unequal_sizes_are_refused_beyond_a_tolerance() -> None:
    small = replace(B, size_bytes=GIB // 2)
    refusal = _only(refusals([A, small, C]))
    assert "512 MiB" in refusal.reason and "--unequal" in refusal.remedy
    assert refusals([A, small, C], tolerance=None) == []


def test_a_spare_must_have_as_much_as_a_member() -> None:
    refusal = _only(refusals([A], at_least=GIB + 1, tolerance=None))
    assert refusal.kind is ErrorKind.INVALID and refusal.device == "/dev/sda"
    assert _only(refusals([disk("tiny", 1 << 20)])).kind is ErrorKind.INVALID
    assert "read-only" in _only(refusals([replace(A, read_only=True)])).reason


@given(
    st.lists(
        st.builds(
            disk,
            st.sampled_from("abcdef"),
            st.integers(GIB // 2, 2 * GIB),
            disks=st.frozensets(st.sampled_from("uvwxyz"), min_size=1, max_size=2),
            uses=st.sampled_from(((), ("busy",))),
            signatures=st.sampled_from(((), ("xfs",))),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_what_is_taken_breaks_no_rule(disks: list, force: bool) -> None:  # type: ignore[type-arg]
    if refusals(disks, force=force):
        return
    assert not any(entry.uses for entry in disks)
    assert force or not any(entry.signatures for entry in disks)
    below = [name for entry in disks for name in entry.disks]
    assert len(below) == len(set(below))
    sizes = [entry.size_bytes for entry in disks] or [1]
    assert max(sizes) - min(sizes) <= SIZE_TOLERANCE * max(sizes)
