"""What scripts/install would do, from what is wanted, what is there and what an earlier run installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import install
import pytest
from install import Change, Entry, InstallError

SOURCE = Path(__file__).parents[2]


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """As scripts/wheels fills it."""
    folder = tmp_path / "wheels"
    for name in (
        "man/blockpair.8",
        *(f"completions/{name}" for name in ("blockpair", "_blockpair", "blockpair.fish")),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "blockpair-0.1.0-cp311-abi3-linux_x86_64.whl").write_bytes(b"one")
    return folder


def installed(root: Path, wheels: Path) -> dict[str, str]:
    """Everything put below ``root``, as a run does; what it records."""
    wanted = install.wanted_entries(SOURCE, wheels)
    for change in install.changes(wanted, install.read_record(root), root):
        install.carry_out(change, root)
    install.write_record(root, {entry.path: entry.digest for entry in wanted})
    return install.read_record(root)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


def test_a_second_run_changes_nothing_and_removal_leaves_nothing(tmp_path: Path, wheels: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/other").write_text("")
    record = installed(root, wheels)
    assert files(root) == {*record, "usr/bin/other", str(install.RECORD)}
    assert install.changes(install.wanted_entries(SOURCE, wheels), record, root) == []
    for path in record:
        install.take_away(root, path)
    assert files(root) == {"usr/bin/other", str(install.RECORD)}
    assert not (root / "usr/share/doc/blockpair").exists()
    assert not (root / "usr/lib/ocf/resource.d/blockpair").exists()
    assert (root / "usr/share/doc").exists()


def test_an_upgrade_replaces_what_changed_and_removes_what_is_no_more(tmp_path: Path, wheels: Path) -> None:
    root = tmp_path / "root"
    record = installed(root, wheels)
    (wheels / "man/blockpair.8").write_text("new")
    (wheels / "man/blockpair-new.8").write_text("new")
    install.write_file(root / "usr/share/man/man8/blockpair-old.8", b"old", 0o644)
    record["usr/share/man/man8/blockpair-old.8"] = "x"
    found = install.changes(install.wanted_entries(SOURCE, wheels), record, root)
    assert {(change.kind, change.path.rpartition("/")[2]) for change in found} == {
        ("replace", "blockpair.8"),
        ("add", "blockpair-new.8"),
        ("remove", "blockpair-old.8"),
    }


def test_a_file_that_is_not_ours_is_not_replaced(tmp_path: Path, wheels: Path) -> None:
    root = tmp_path / "root"
    install.write_file(root / "usr/bin/blockpair", b"#!/bin/sh\n", 0o755)
    with pytest.raises(InstallError, match="/usr/bin/blockpair is there") as refused:
        install.changes(install.wanted_entries(SOURCE, wheels), {}, root)
    assert refused.value.code == 3
    # One of the same content is nobody's loss.
    same = Entry("usr/bin/blockpair", b"#!/bin/sh\n", 0o755)
    assert install.changes([same], {}, root) == []
    assert install.changes([Entry(same.path, b"", 0o755)], {same.path: "x"}, root) == [
        Change("replace", same.path, Entry(same.path, b"", 0o755))
    ]


def test_a_plan_on_a_fresh_checkout_needs_no_wheels(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "ROOT", tmp_path)
    assert install.chosen_wheels(wheels, plan=True) == wheels
    shutil.rmtree(wheels)
    with pytest.raises(InstallError, match="not what scripts/wheels makes"):
        install.chosen_wheels(wheels, plan=True)
    assert install.chosen_wheels(None, plan=True) is None
    monkeypatch.setattr(install, "ROOT", SOURCE)
    install.Installer(plan=True, start=True, units=install.NODE_UNITS).install(None)
    told = capsys.readouterr().out
    assert "would build blockpair by scripts/wheels" in told
    assert "would remove" not in told


def test_a_plan_that_is_read_in_part_ends_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(SOURCE / "scripts/install.py"), "--plan"]
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    install.write_file(tmp_path / install.RECORD, b"{", 0o644)
    with pytest.raises(InstallError, match="damaged"):
        install.read_record(tmp_path)


def test_another_wheel_is_another_version(wheels: Path) -> None:
    first = install.version_of(wheels)
    assert re.fullmatch(r"0\.1\.0-[0-9a-f]{12}", first)
    (wheels / "blockpair-0.1.0-cp311-abi3-linux_x86_64.whl").write_bytes(b"two")
    assert install.version_of(wheels) != first


def test_everything_in_packaging_is_installed(wheels: Path) -> None:
    wanted = {Path(entry.path).name for entry in install.wanted_entries(SOURCE, wheels)}
    assert {path.name for path in (SOURCE / "packaging").rglob("*") if path.is_file()} <= wanted
    units = {path.name for path in (SOURCE / "packaging/systemd").iterdir()}
    assert units == set(install.ALL_UNITS)


def test_the_units_run_what_is_installed(wheels: Path) -> None:
    there = {f"/{entry.path}" for entry in install.wanted_entries(SOURCE, wheels)}
    for unit in (SOURCE / "packaging/systemd").iterdir():
        text = unit.read_text()
        assert set(re.findall(r"/usr/bin/blockpair[\w-]*", text)) <= there
        assert set(re.findall(r"(?<=file:)\S+", text)) <= there
