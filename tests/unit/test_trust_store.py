"""This node's trust on disk: modes, generations, and a crash between any two steps."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust import authority as ca
from blockpair.trust.store import TokenFile, TrustStore
from blockpair.trust.tokens import Book

NOW = datetime.now(UTC)
EAST, NEXT = ca.new_authority("east", NOW), ca.new_authority("east", NOW)
KEY = ca.new_key()
CERTIFICATE = ca.issue(EAST, ca.new_request("a", KEY), "a", NOW)
NEXT_CERTIFICATE = ca.issue(NEXT, ca.new_request("a", KEY), "a", NOW)


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    made = TrustStore(tmp_path / "trust")
    made.replace(EAST, CERTIFICATE, KEY)
    return made


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "trust").rglob("*") if path.is_file() and not path.is_symlink()]


def test_a_generation_comes_back_and_nobody_else_can_read_it(store: TrustStore, tmp_path: Path) -> None:
    found = store.load()
    assert found is not None
    assert (found.node, found.authority, found.certificate, found.key) == ("a", EAST, CERTIFICATE, KEY)
    assert KEY not in repr(found)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)} == {0o600}
    directories = [tmp_path / "trust", *(p for p in (tmp_path / "trust").rglob("*") if p.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o700}
    found.server()
    found.client()


def test_a_node_in_no_cluster_has_none(tmp_path: Path) -> None:
    assert TrustStore(tmp_path / "trust").load() is None


@pytest.mark.parametrize("name", ["ca.key", "node.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o606])
def test_a_key_that_others_can_reach_is_refused(
    store: TrustStore, tmp_path: Path, name: str, mode: int
) -> None:
    (tmp_path / "trust/current" / name).chmod(mode)
    with pytest.raises(BlockpairError, match=name) as caught:
        store.load()
    assert caught.value.kind is ErrorKind.UNSAFE
    assert "chmod 0600" in caught.value.remedy


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "node.pem", "node.key"])
@pytest.mark.parametrize("content", [None, b"", b"\xff", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_damaged_generation_is_told_without_its_content(
    store: TrustStore, tmp_path: Path, name: str, content: bytes | None
) -> None:
    file = tmp_path / "trust/current" / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(BlockpairError) as caught:
        store.load()
    assert caught.value.kind is ErrorKind.DAMAGED
    assert caught.value.remedy


def test_a_new_generation_takes_the_place_of_the_old_one_whose_keys_go(
    store: TrustStore, tmp_path: Path
) -> None:
    before = store.load()
    store.replace(NEXT, NEXT_CERTIFICATE, KEY)
    after = store.load()
    assert before is not None and after is not None
    assert after.authority == NEXT
    assert not before.directory.exists()


def test_a_staged_generation_counts_once_it_is_taken_up(store: TrustStore) -> None:
    store.stage("0123", "b", NEXT, NEXT_CERTIFICATE, KEY)
    current, staged = store.load(), store.staged()
    assert current is not None and current.authority == EAST
    assert staged is not None and (staged.coordinator, staged.generation.id) == ("b", "0123")
    store.take_up()
    current = store.load()
    assert current is not None and (current.authority, current.id) == (NEXT, "0123")
    assert store.staged() is None


def test_a_staged_generation_is_dropped(store: TrustStore, tmp_path: Path) -> None:
    store.stage("0123", "b", NEXT, NEXT_CERTIFICATE, KEY)
    store.stage("4567", "b", NEXT, NEXT_CERTIFICATE, KEY)
    store.drop()
    current = store.load()
    assert current is not None and current.authority == EAST
    assert store.staged() is None
    assert len(list((tmp_path / "trust/generations").iterdir())) == 1


class Killed(BaseException):
    """The process ended here."""


class Bomb:
    """Ends the process at the call after ``left`` ones of those that change the disk."""

    CALLS = (
        (Path, "replace"),
        (Path, "unlink"),
        (Path, "mkdir"),
        (Path, "symlink_to"),
        (os, "fsync"),
        (shutil, "rmtree"),
    )

    def __init__(self, left: int) -> None:
        self._left = left

    def _armed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if self._left == 0:
                raise Killed
            self._left -= 1
            return original(*arguments, **more)

        return call

    def run(self, work: Callable[[], Any]) -> bool:
        """Whether ``work`` came to its end."""
        with pytest.MonkeyPatch.context() as patch:
            for place, name in self.CALLS:
                patch.setattr(place, name, self._armed(getattr(place, name)))
            try:
                work()
            except Killed:
                return False
        return True


def work_of(store: TrustStore, what: str) -> Callable[[], Any]:
    """What changes the store, and what was there before it."""
    if what == "replace":
        return lambda: store.replace(NEXT, NEXT_CERTIFICATE, KEY)
    if what == "stage":
        return lambda: store.stage("0123", "b", NEXT, NEXT_CERTIFICATE, KEY)
    if what != "forget":
        store.stage("0123", "b", NEXT, NEXT_CERTIFICATE, KEY)
    return {"take_up": store.take_up, "drop": store.drop, "forget": store.forget}[what]


AFTER = {
    "replace": (EAST, NEXT),
    "take_up": (EAST, NEXT),
    "stage": (EAST,),
    "drop": (EAST,),
    "forget": (EAST, None),
}


@pytest.mark.parametrize("what", AFTER)
def test_a_crash_between_any_two_steps_leaves_the_old_or_the_new(tmp_path: Path, what: str) -> None:
    """Every call that changes the disk is once the last one."""
    for last in range(200):
        trust = tmp_path / str(last)
        store = TrustStore(trust)
        store.replace(EAST, CERTIFICATE, KEY)
        ended = Bomb(last).run(work_of(store, what))
        found = TrustStore(trust).load()
        assert (found and found.authority) in AFTER[what]
        again = TrustStore(trust)
        again.tidy()
        named = {link.readlink().name for link in trust.iterdir() if link.is_symlink()}
        assert {entry.name for entry in (trust / "generations").iterdir()} == named
        # And the next change goes as ever.
        again.replace(NEXT, NEXT_CERTIFICATE, KEY)
        if ended:
            assert last > 2
            return
    raise AssertionError("it never ended")


def test_what_is_no_link_is_not_taken_for_no_generation(store: TrustStore, tmp_path: Path) -> None:
    """A backup restored without its links: the keys are not tidied away."""
    current = tmp_path / "trust" / "current"
    kept = files(tmp_path)
    current.unlink()
    current.mkdir()
    for call in (store.load, store.tidy):
        with pytest.raises(BlockpairError) as caught:
            call()
        assert caught.value.kind is ErrorKind.DAMAGED and str(current) in caught.value.message
    assert files(tmp_path) == kept


def test_tokens_are_kept_for_root_alone(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "trust/tokens.json")
    assert file.load() == Book()
    file.save(Book())
    assert stat.S_IMODE((tmp_path / "trust/tokens.json").stat().st_mode) == 0o600
    (tmp_path / "trust/tokens.json").write_text("{")
    with pytest.raises(BlockpairError) as caught:
        file.load()
    assert caught.value.kind is ErrorKind.DAMAGED


def test_certificates_of_earlier_authorities_are_kept_without_the_authorities_keys(
    store: TrustStore, tmp_path: Path
) -> None:
    assert store.former() == []
    # Renewed under the same authority: nobody needs the old one.
    store.replace(EAST, CERTIFICATE, KEY)
    assert store.former() == []
    store.stage("id", "b", NEXT, NEXT_CERTIFICATE, KEY)
    assert store.former() == []
    store.take_up()
    (former,) = store.former()
    assert {path.name for path in former.directory.iterdir()} == {"ca.pem", "node.pem", "node.key"}
    assert (former.directory / "ca.pem").read_text() == EAST.certificate
    former.client("blockpair-witness/1")
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)} == {0o600}
    for authority, certificate in ((EAST, CERTIFICATE), (NEXT, NEXT_CERTIFICATE)) * 3:
        store.replace(authority, certificate, KEY)
    # The latest first, and no more than are of use.
    texts = [(former.directory / "ca.pem").read_text() for former in store.former()]
    assert texts == [EAST.certificate, NEXT.certificate] * 2
    store.drop_former()
    store.drop_former()
    assert store.former() == []


def test_what_is_kept_for_a_witness_goes_with_the_cluster(store: TrustStore, tmp_path: Path) -> None:
    assert store.witness_key() is None
    store.remember_witness_key("00ff")
    store.replace(NEXT, NEXT_CERTIFICATE, KEY)
    assert store.witness_key() == "00ff" and len(store.former()) == 1
    store.forget()
    assert store.witness_key() is None and store.former() == [] and files(tmp_path) == []


def test_each_generation_has_a_name_of_its_own(store: TrustStore) -> None:
    first = store.current()
    store.replace(EAST, CERTIFICATE, KEY)
    assert first is not None and store.current() not in (None, first)


def test_trust_that_cannot_be_read_can_be_replaced(store: TrustStore, tmp_path: Path) -> None:
    (tmp_path / "trust/current/node.pem").write_bytes(b"\xff")
    store.replace(NEXT, NEXT_CERTIFICATE, KEY)
    found = store.load()
    assert found is not None and found.authority == NEXT and store.former() == []
