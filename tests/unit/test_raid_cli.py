"""What the commands of `blockpair raid` show, and what they ask before they do anything."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from blockpair.cli import raid
from blockpair.cli.raid_run import admit, paths, perform
from blockpair.cli.raid_text import advice, list_lines, mirror_words, status_json, status_lines
from blockpair.errors import BlockpairError, ErrorKind, ExitCode
from blockpair.raid.admission import refusals
from blockpair.raid.health import score
from blockpair.raid.layout import geometry
from blockpair.raid.model import Array, Sync
from blockpair.raid.smart import Smart
from blockpair.raid.steps import Command, Step
from tests.unit.raid_samples import FAULTY, GIB, SPARE, array, disk, member

REBUILDS = array(
    members=(
        member("sda", 0),
        member("sdb", None, FAULTY),
        member("sdc", 2, errors=3),
        member("sdd", 3, frozenset({"in_sync", "want_replacement"})),
        member("sde", 1, SPARE),
        member("sdf", None),
    ),
    slots=4,
    sync=Sync("recover", GIB // 2, GIB, GIB // 100),
    group="pool",
)
AWAY = array(members=(member("sda", 0), member("sdc", 2), member("sdd", 3)), slots=4)
LOST = array(members=(member("sda", 0), member("sdb", None, FAULTY)), level="raid5", slots=3)


def test_the_list_has_a_line_an_array() -> None:
    assert list_lines([array("whole"), REBUILDS, LOST]) == [
        "ARRAY  LEVEL      SIZE   MEMBERS  SPARES  GROUP  STATE",
        "whole  raid10 n2  2 GiB  4/4      0       -      healthy",
        "data   raid10 n2  2 GiB  3/4      1       pool   DEGRADED, recover 50.0 % at 10.2 MiB/s, 50 s left",
        "data   raid5      2 GiB  1/3      0       -      FAILED",
    ]


def test_the_status_says_all_about_it() -> None:
    health = {"sdc": score(Smart("ATA", passed=True, pending=2))}
    assert status_lines(REBUILDS, health) == [
        "data: DEGRADED",
        "  device    /dev/md/data (md127), 2 GiB",
        "  layout    raid10 n2 of 4, chunk 512 KiB, no write-intent bitmap",
        "  state     clean",
        "  sync      recover 50.0 % at 10.2 MiB/s, 50 s left",
        "  outlook   50 s to full redundancy; survives any one more failure except sda",
        "  spares    of the group pool",
        "    0  sda        active",
        "    1  sde        rebuilding",
        "    2  sdc        active, 3 sectors mended, health 60",
        "         2 sectors on probation",
        "    3  sdd        active, being replaced",
        "    -  sdb        faulty",
        "    -  sdf        spare",
        "  -> blockpair raid spare remove data sdb",
    ]
    assert "    1  missing" in status_lines(AWAY)


def test_what_to_do() -> None:
    assert advice(array()) == []
    assert advice(AWAY) == ["blockpair raid spare add data DEVICE"]
    assert advice(LOST) == []


@pytest.mark.parametrize("known", [array(), REBUILDS, AWAY, LOST])
def test_the_json_has_the_same_keys_for_every_array(known: Array) -> None:
    told = msgspec.json.decode(msgspec.json.encode(status_json(known, {})))
    assert set(told) == set(status_json(array()))
    assert {frozenset(entry) for entry in told["members"]} == {
        frozenset(("device", "slot", "part", "leaving", "flags", "errors", "size_bytes", "health"))
    }


def test_the_pairs_that_hold_the_same() -> None:
    names = ["/dev/a", "/dev/b", "/dev/c", "/dev/d"]
    assert mirror_words(geometry("raid10", 4), names) == ["/dev/a + /dev/b", "/dev/c + /dev/d"]


def test_devices_are_named_by_path_or_kernels_name_once_or_often() -> None:
    assert paths(["/dev/sda,sdb", "sdc"]) == ["/dev/sda", "/dev/sdb", "/dev/sdc"]


def test_all_refusals_are_told_and_the_gravest_counts() -> None:
    found = refusals([disk("sda", uses=("mounted on /",)), disk("sdb", 1 << 20)])
    with pytest.raises(BlockpairError) as caught:
        admit(found)
    assert caught.value.exit_code is ExitCode.UNSAFE
    assert all(name in caught.value.message for name in ("/dev/sda", "mounted on /", "/dev/sdb"))
    admit([])


def _steps(path: Path) -> list[Step]:
    return [Command(("touch", str(path)), "something is lost")]


def test_a_plan_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "done"
    assert perform(_steps(path), plan=True, as_json=False, yes=False, also=["note"]) is False
    assert capsys.readouterr().out == f"note\ntouch {path}\n  -> something is lost\nNothing was done.\n"
    assert perform(_steps(path), plan=True, as_json=True, yes=False) is False
    told = msgspec.json.decode(capsys.readouterr().out)
    assert told == {"plan": [{"command": f"touch {path}", "consequence": "something is lost"}], "notes": []}
    assert not path.exists()


@pytest.mark.parametrize("typed", [None, "data"])
def test_nothing_is_done_where_nobody_can_be_asked(tmp_path: Path, typed: str | None) -> None:
    with pytest.raises(BlockpairError) as caught:
        perform(_steps(tmp_path / "done"), plan=False, as_json=True, yes=False, typed=typed)
    assert caught.value.kind is ErrorKind.USAGE and caught.value.remedy.endswith("--yes")
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(("answer", "done"), [("data", True), ("dat", False), ("", False), ("y", False)])
def test_the_name_must_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, done: bool
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(click, "prompt", lambda *_, **__: answer)
    path = tmp_path / "done"
    if done:
        assert perform(_steps(path), plan=False, as_json=False, yes=False, typed="data") is True
    else:
        with pytest.raises(BlockpairError, match="nothing was changed"):
            perform(_steps(path), plan=False, as_json=False, yes=False, typed="data")
    assert path.exists() is done


LOOKING = {"list", "status", "watch"}


def _leaves(group: click.Group) -> Iterator[click.Command]:
    for found in group.commands.values():
        if isinstance(found, click.Group):
            yield from _leaves(found)
        else:
            yield found


def test_every_command_that_changes_something_can_only_say_what_it_would_do() -> None:
    changing = [leaf for leaf in _leaves(raid.command) if leaf.name not in LOOKING]
    assert {"create", "delete", "replace", "readd", "assign", "start"} <= {leaf.name for leaf in changing}
    without = [leaf.name for leaf in changing if "--plan" not in {o for p in leaf.params for o in p.opts}]
    assert without == []
