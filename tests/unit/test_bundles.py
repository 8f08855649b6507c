"""Which bundle a person means, and that nothing but a bundle is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockpair import bundles
from blockpair.cli.main import group
from blockpair.config.locations import Locations, locations
from blockpair.errors import BlockpairError, ErrorKind
from tests.bundle_file import BLOCK, write_bundle

OLD, NEW = "20240101T000000Z-00000000000000aa.bpb", "20250101T000000Z-00000000000000aa.bpb"


@pytest.fixture
def places(tmp_path: Path) -> Locations:
    """A node with two bundles of r0 and one of r1."""
    made = locations(directory=str(tmp_path))
    for resource, name in (("r0", OLD), ("r0", NEW), ("r1", OLD.replace("aa", "bb"))):
        write_bundle(made.bundles(resource) / name, 64 * BLOCK, [(1, b"x" * BLOCK)], resource)
    return made


def test_a_resource_means_its_newest_bundle(places: Locations) -> None:
    assert bundles.find(places, "r0") == places.bundles("r0") / NEW
    assert bundles.find(places, OLD) == places.bundles("r0") / OLD
    path = places.bundles("r1") / OLD.replace("aa", "bb")
    assert bundles.find(places, str(path)) == path


@pytest.mark.parametrize(
    "which", ["r2", "", "..", "*.bpb", "r0/", "./x.bpb", "/", "x" * 300, "./" + "x" * 300, "./\0"]
)
def test_nothing_else_means_one(places: Locations, which: str) -> None:
    with pytest.raises(BlockpairError) as refused:
        bundles.find(places, which)
    assert refused.value.kind is ErrorKind.NOT_FOUND and refused.value.remedy


def test_the_list_has_every_resource_or_one(places: Locations) -> None:
    assert [(e.resource, e.name) for e in bundles.listing(places)][:2] == [("r0", OLD), ("r0", NEW)]
    assert len(bundles.listing(places)) == 3 and len(bundles.listing(places, "r1")) == 1
    for none in ("r9", "..", "../x", "r0/"):
        assert bundles.listing(places, none) == []
    (entry,) = bundles.listing(places, "r1")
    assert entry.bundle is not None and entry.bundle.facts.why == "a test"


def test_only_bundles_of_this_node_are_deleted(places: Locations, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine.bpb"
    elsewhere.write_bytes((places.bundles("r0") / NEW).read_bytes())
    other = places.bundles("r0") / "changed-since"
    other.write_bytes(b"")
    for path in (elsewhere, other):
        with pytest.raises(BlockpairError) as refused:
            bundles.delete(places, str(path))
        assert refused.value.kind is ErrorKind.INVALID and path.exists()
    assert bundles.delete(places, "r0").name == NEW
    assert [entry.name for entry in bundles.listing(places, "r0")] == [OLD]


def test_what_changed_is_forgotten_with_the_device(places: Locations) -> None:
    kept = places.bundles("r0") / "changed-since"
    kept.write_bytes(b"x")
    bundles.forget_changes(places, "r0")
    bundles.forget_changes(places, "r9")
    assert not kept.exists() and len(bundles.listing(places, "r0")) == 2


def test_a_list_cuts_no_name_off_however_narrow_the_terminal(
    places: Locations, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    run = group.main(["--dir", str(places.run.parent), "bundle", "list", "r0"], standalone_mode=False)
    assert not run
    told = capsys.readouterr().out
    assert OLD in told and NEW in told and "RESOURCE" in told
