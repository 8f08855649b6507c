"""The configuration on one node's disk: what is rendered from it, and what is left alone."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from blockpair.cluster.history import History, first_version
from blockpair.cluster.rules import with_setting, without_resource
from blockpair.cluster.store import Store
from blockpair.config.cluster import parse_cluster
from blockpair.config.locations import Locations, locations
from blockpair.config.resource import read_resource
from blockpair.errors import BlockpairError, ErrorKind
from tests.unit.test_cluster_config import TEXT

START = first_version(TEXT, author="a", time="t", why="init")


def _down(name: str) -> bool:
    return False


def _next(history: History, text: str) -> History:
    return history.with_next(history.followed_by(text, author="a", time="t", why="w"))


@pytest.fixture
def places(tmp_path: Path) -> Locations:
    return locations(directory=str(tmp_path))


@pytest.fixture
def store(places: Locations) -> Store:
    made = Store(places, "a")
    made.save(START)
    assert made.render(START, _down) == []
    return made


def test_a_node_that_never_had_one_has_none(places: Locations) -> None:
    assert Store(places, "a").load() is None
    assert Store(places, "a").rendered_content() is None


def test_what_is_saved_is_loaded(places: Locations, store: Store) -> None:
    later = _next(_next(START, TEXT + "# 1\n"), TEXT + "# 2\n")
    store.save(later)
    assert Store(places, "a").load() == later
    # Back to another branch: both remain, and the head says which counts.
    other = _next(START, TEXT + "# other\n")
    store.save(other)
    assert Store(places, "a").load() == other
    assert (places.cluster_history / f"00000002-{later.ids[1]}.json").exists()
    assert places.cluster_history.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"number": 1, "id": "x"}', "\xff"])
def test_a_damaged_head_is_told(places: Locations, store: Store, content: str) -> None:
    (places.cluster_history / "head.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BlockpairError) as caught:
        store.load()
    assert caught.value.kind is ErrorKind.DAMAGED
    assert str(places.cluster_history) in caught.value.message


def test_the_resource_files_are_what_the_node_reads(places: Locations, store: Store) -> None:
    config = read_resource(places.resource_file("r0"), "a")
    assert (str(config.device), config.protocol, config.priority) == ("/dev/vg/r0", "B", 3)
    assert places.cluster_file.read_text() == TEXT
    assert "Rendered from version 1 " in places.resource_file("r0").read_text()


def test_a_file_is_written_anew_only_where_it_says_something_else(places: Locations, store: Store) -> None:
    later = _next(START, with_setting(TEXT, "cluster.name=other"))
    store.save(later)
    store.render(later, _down)
    assert "Rendered from version 1 " in places.resource_file("r0").read_text()
    again = _next(later, with_setting(later.head.text, "resource.r0.protocol=C"))
    store.save(again)
    store.render(again, _down)
    assert "Rendered from version 3 " in places.resource_file("r0").read_text()


def test_what_was_edited_by_hand_is_left_and_told_of(places: Locations, store: Store) -> None:
    places.cluster_file.write_text(TEXT + "# mine\n")
    resource = places.resource_file("r0")
    resource.write_text(resource.read_text() + "# mine too\n")
    assert store.hand_edited(START) == TEXT + "# mine\n"
    later = _next(START, with_setting(TEXT, "resource.r0.protocol=C"))
    store.save(later)
    problems = store.render(later, _down)
    assert [problem.partition(" ")[0] for problem in problems] == [str(places.cluster_file), str(resource)]
    assert "# mine" in places.cluster_file.read_text()
    assert "# mine too" in resource.read_text()
    # Put in force, or removed: in order again.
    resource.unlink()
    put = _next(later, TEXT + "# mine\n")
    store.save(put)
    assert store.render(put, _down) == []
    assert store.hand_edited(put) is None


def test_a_crash_before_the_files_were_written_is_no_edit_by_hand(places: Locations, store: Store) -> None:
    later = _next(START, with_setting(TEXT, "resource.r0.protocol=C"))
    store.save(later)
    restarted = Store(places, "a")
    assert restarted.hand_edited(later) is None
    assert restarted.render(later, _down) == []
    assert places.cluster_file.read_text() == later.head.text


def test_a_resource_made_by_hand_stays(places: Locations, store: Store) -> None:
    own = places.resource_file("own")
    own.write_text("# by hand\n")
    gone = _next(START, without_resource(TEXT, "r0"))
    store.save(gone)
    assert store.render(gone, _down) == []
    assert not places.resource_file("r0").exists()
    assert own.read_text() == "# by hand\n"


def test_the_file_of_a_resource_that_is_up_stays_until_it_is_down(places: Locations, store: Store) -> None:
    gone = _next(START, without_resource(TEXT, "r0"))
    store.save(gone)
    (problem,) = store.render(gone, lambda name: True)
    assert "blockpair down r0" in problem
    assert places.resource_file("r0").exists()
    assert store.render(gone, _down) == []
    assert not places.resource_file("r0").exists()


def test_a_node_that_leaves_keeps_its_resources(places: Locations, store: Store) -> None:
    store.forget()
    assert store.load() is None
    assert not places.cluster_file.exists()
    assert places.resource_file("r0").exists()
    store.forget()


def test_who_joins_the_same_cluster_again_has_its_files_rendered_anew(
    places: Locations, store: Store
) -> None:
    # What it changed on its own, before it was told that it is no member any more.
    own = _next(START, with_setting(TEXT, "resource.r0.protocol=A"))
    store.save(own)
    assert store.render(own, _down) == []
    store.forget()
    theirs = _next(_next(START, TEXT + "# 2\n"), with_setting(TEXT, "resource.r0.protocol=C"))
    again = Store(places, "a")
    again.save(theirs)
    assert again.render(theirs, _down) == []
    assert read_resource(places.resource_file("r0"), "a").protocol == "C"
    # What a person changed in between is a person's.
    again.forget()
    edited = places.resource_file("r0")
    edited.write_text(edited.read_text() + "# mine\n")
    again.save(own)
    (problem,) = again.render(own, _down)
    assert "edited by hand" in problem and edited.read_text().endswith("# mine\n")


def test_another_cluster_takes_no_file_over(places: Locations, store: Store) -> None:
    store.forget()
    other = TEXT.replace(parse_cluster(TEXT, places.cluster_file).cluster.id, str(uuid.uuid4()))
    theirs = first_version(with_setting(other, "resource.r0.protocol=C"), author="b", time="t", why="init")
    store.save(theirs)
    (problem,) = store.render(theirs, _down)
    assert str(places.resource_file("r0")) in problem
    assert read_resource(places.resource_file("r0"), "a").protocol == "B"


def test_what_cannot_be_written_is_told(places: Locations, store: Store) -> None:
    head = places.cluster_history / "head.json"
    head.unlink()
    head.mkdir()
    (head / "x").touch()
    with pytest.raises(BlockpairError) as caught:
        store.save(_next(START, TEXT + "#\n"))
    assert caught.value.kind is ErrorKind.IO
