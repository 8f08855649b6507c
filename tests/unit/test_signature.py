"""Reading what wipefs prints, and looking for loop devices in a directory like sysfs's."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockpair.signature import Signature, loops_of, parse_signatures


def test_signatures_are_read() -> None:
    text = b"""{"signatures": [
      {"device": "f", "offset": "0x438", "type": "ext4", "uuid": "ff41", "label": null},
      {"device": "f", "offset": "0x1fe", "type": "dos", "uuid": null, "label": null}]}"""
    found = parse_signatures(text)
    assert found == [Signature("ext4", 0x438, None, "ff41"), Signature("dos", 0x1FE)]
    assert str(found[0]) == "ext4 (at byte 1080, UUID ff41)"


@pytest.mark.parametrize("text", [b"", b" \n", b'{"signatures": [\n\n   ]\n}'])
def test_no_signatures(text: bytes) -> None:
    assert parse_signatures(text) == []


@pytest.mark.parametrize(
    "text", [b"nonsense", b"\xff", b'{"signatures": 1}', b'{"signatures": [{"type": "x", "offset": "y"}]}']
)
def test_what_wipefs_never_printed_is_no_free_device(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_signatures(text)


def test_loop_devices_over_a_file_are_found(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    for number, backing in enumerate(["/elsewhere", str(disk)]):
        folder = tmp_path / f"loop{number}/loop"
        folder.mkdir(parents=True)
        (folder / "backing_file").write_text(backing + "\n")
    (tmp_path / "loop2").mkdir()
    assert loops_of(disk, tmp_path) == ["loop1"]
