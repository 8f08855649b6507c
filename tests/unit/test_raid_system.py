"""Reading what md and mdadm tell: a directory like sysfs's, mdadm's exports, mdadm.conf."""

from __future__ import annotations

import json
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.cli.main import run
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid import apply, conf, devices, mdadm, sysfs
from blockpair.raid.conf import Entry
from blockpair.raid.model import Part, Speed, Sync
from blockpair.raid.steps import Attribute, Command, Remember, Step, Writable
from blockpair.raid.sysfs import Identity, Place, SpeedLimit

IDENTITY = Identity("80ee8b2b:f91b4708:9079a2fa:e035d617", "data")


def _tree(base: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def _md(base: Path, **changed: str) -> None:
    """As a 6.1 kernel shows a RAID10 of four with a spare that fills the place of a member that failed."""
    files = {
        "size": "253952",
        "md/level": "raid10",
        "md/raid_disks": "4",
        "md/layout": "258",
        "md/chunk_size": "524288",
        "md/array_state": "active",
        "md/component_size": "63488",
        "md/sync_action": "recover",
        "md/sync_completed": "63488 / 126976",
        "md/sync_speed": "1000",
        "md/mismatch_cnt": "128",
        "md/resync_start": "none",
        "md/bitmap/location": "+8",
        "md/metadata_version": "0.90",
        "md/dev-sda/state": "in_sync",
        "md/dev-sda/slot": "0",
        "md/dev-sda/errors": "3",
        "md/dev-sda/size": "63488",
        "md/dev-sdb/state": "faulty",
        "md/dev-sdb/slot": "none",
        "md/dev-sdc/state": "in_sync,want_replacement",
        "md/dev-sdc/slot": "2",
        "md/dev-sdd/state": "in_sync,write_mostly",
        "md/dev-sdd/slot": "3",
        "md/dev-sde/state": "spare",
        "md/dev-sde/slot": "1",
        "md/dev-sdf/state": "spare",
        "md/dev-sdf/slot": "none",
        **{name.replace("__", "/"): value for name, value in changed.items()},
    }
    _tree(base / "md127", files)


def test_an_array_is_read_from_sysfs(tmp_path: Path) -> None:
    _md(tmp_path)
    (tmp_path / "sda").mkdir()
    assert sysfs.array_names(tmp_path) == ["md127"]
    array = sysfs.read_array(
        "md127", IDENTITY, group="pool", block=tmp_path, place_of=lambda _: Place(Speed.SSD)
    )
    assert array is not None
    assert (array.path, array.geometry.layout, array.size_bytes) == ("/dev/md/data", "n2", 253952 * 512)
    assert [member.part for member in array.members] == [
        Part.ACTIVE,
        Part.FAULTY,
        Part.ACTIVE,
        Part.ACTIVE,
        Part.REBUILDING,
        Part.SPARE,
    ]
    assert (array.failed_slots, array.empty_slots) == (frozenset({1}), frozenset())
    assert array.members[2].leaving and array.members[0].errors == 3
    assert array.members[0].speed is Speed.SSD
    assert array.sync == Sync("recover", 63488 * 512, 126976 * 512, 1000 << 10)
    assert array.sync.eta_seconds == 31.744
    assert (array.bitmap, array.unequal, array.mismatch_bytes) == (True, False, 65536)
    assert array.metadata == "0.90"


def test_a_member_that_is_being_taken_out_is_none_any_more(tmp_path: Path) -> None:
    _md(tmp_path)
    (tmp_path / "md127/md/dev-sdb/state").write_text("")
    (tmp_path / "md127/md/dev-sdf/state").unlink()
    array = sysfs.read_array("md127", IDENTITY, block=tmp_path)
    assert array is not None
    assert [member.device for member in array.members] == ["sda", "sdc", "sdd", "sde"]


def test_what_is_not_there_yet_is_no_array(tmp_path: Path) -> None:
    _md(tmp_path, md__level="", md__raid_disks="0")
    assert sysfs.read_array("md127", IDENTITY, block=tmp_path) is None
    _md(tmp_path, md__level="container")
    assert sysfs.read_array("md127", IDENTITY, block=tmp_path) is None
    assert sysfs.read_array("md5", IDENTITY, block=tmp_path) is None
    assert not sysfs.running("md5", tmp_path)


@pytest.mark.parametrize(
    ("action", "completed", "expected"),
    [
        ("idle", "none", None),
        ("frozen", "none", None),
        ("resync", "none", Sync("resync", 0, 0, 0)),
        ("check", "delayed", Sync("check", 0, 0, 0)),
    ],
)
def test_what_sync_says_before_it_moves(
    tmp_path: Path, action: str, completed: str, expected: Sync | None
) -> None:
    _md(tmp_path, md__sync_action=action, md__sync_completed=completed)
    array = sysfs.read_array("md127", IDENTITY, block=tmp_path)
    assert array is not None and array.sync == expected


def test_classes_of_disks(tmp_path: Path) -> None:
    _tree(
        tmp_path, {"sda/queue/rotational": "1", "sdb/queue/rotational": "0", "nvme0n1/queue/rotational": "0"}
    )
    (tmp_path / "sdc").mkdir()
    found = [sysfs.speed_of(tmp_path / name) for name in ("sda", "sdb", "nvme0n1", "sdc")]
    assert found == [Speed.ROTATIONAL, Speed.SSD, Speed.NVME, Speed.UNKNOWN]
    slot = tmp_path / "enclosure/2:0:0:0/Slot 01"
    slot.mkdir(parents=True)
    (tmp_path / "sda/device").mkdir()
    (tmp_path / "sda/device/enclosure_device:Slot 01").symlink_to(slot)
    assert sysfs.enclosure_of(tmp_path / "sda") == "2:0:0:0"
    assert sysfs.enclosure_of(tmp_path / "sdb") is None
    _tree(tmp_path, {"sda/sda1/partition": "1"})
    (tmp_path / "sda1").symlink_to(tmp_path / "sda/sda1")
    assert [sysfs.whole_disk(name, tmp_path) for name in ("sda1", "sdb")] == ["sda", "sdb"]


def test_the_physical_disks_below_a_device(tmp_path: Path) -> None:
    """Partitions, a device on two disks, and two paths to one disk."""
    _tree(
        tmp_path,
        {
            "sda/size": "1",
            "sda/sda1/partition": "1",
            "sda/sda2/partition": "2",
            "sdb/device/wwid": "naa.5002538e40a22954",
            "sdc/device/wwid": "naa.5002538e40a22954",
            "nvme0n1/wwid": "eui.0025",
            "dm-0/size": "1",
        },
    )
    slaves = tmp_path / "dm-0/slaves"
    slaves.mkdir()
    for name, target in (("sda1", "sda/sda1"), ("nvme0n1", "nvme0n1")):
        (slaves / name).symlink_to(tmp_path / target)
    assert devices.physical(tmp_path / "sda/sda1") == devices.physical(tmp_path / "sda/sda2") == {"sda"}
    assert devices.physical(tmp_path / "sdb") == devices.physical(tmp_path / "sdc")
    assert devices.physical(tmp_path / "dm-0") == {"sda", "eui.0025"}


def test_a_disk_with_metadata_of_ours_is_known(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    size = (1 << 20) + 512  # the end of the last whole page counts
    for at, expected in (((1 << 20) - 4096, True), ((1 << 20) - 8192, True), (0, False)):
        content = bytearray(size)
        content[at : at + 8] = b"blkpair\0"
        path.write_bytes(content)
        assert devices.own_metadata(path, size) == ((1 << 20) - 8192 if expected else None)
    assert devices.own_metadata(path, 4096) is None
    assert devices.own_metadata(tmp_path / "none", size) is None


def test_a_device_of_a_resource_that_is_down_is_somebodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {Path("/dev/a"): 1, Path("/dev/disk/by-id/a"): 1, Path("/dev/m"): 2, Path("/dev/b"): 3}
    monkeypatch.setattr(devices, "_device_number", numbers.get)
    (tmp_path / "r0.toml").write_text('device = "/dev/disk/by-id/a"\nmetadata = "/dev/m"\n')
    (tmp_path / "broken.toml").write_text("device = ")
    assert devices.resources_on(Path("/dev/a"), tmp_path) == ["r0"]
    assert devices.resources_on(Path("/dev/m"), tmp_path) == ["r0"]
    assert devices.resources_on(Path("/dev/b"), tmp_path) == []
    assert devices.resources_on(Path("/dev/none"), tmp_path) == []
    assert devices.resources_on(Path("/dev/a"), None) == []


def test_the_arrays_below_a_resource(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The array itself, a partition of it, a logical volume on it, an image on a file system on that."""
    image = tmp_path / "image"
    _tree(
        tmp_path,
        {
            "md127/md/level": "raid10",
            "md127/md127p1/partition": "1",
            "dm-0/size": "1",
            "loop0/loop/backing_file": str(image),
            "sda/size": "1",
        },
    )
    (tmp_path / "dm-0/slaves").mkdir()
    (tmp_path / "dm-0/slaves/md127").symlink_to(tmp_path / "md127")
    numbers: dict[Path, int] = {}
    for number, name in enumerate(("md127", "md127/md127p1", "dm-0", "loop0", "sda"), start=1):
        numbers[Path("/dev") / name] = number
        (tmp_path / f"0:{number}").symlink_to(tmp_path / name)
    monkeypatch.setattr(devices, "_SYSFS", tmp_path)
    monkeypatch.setattr(devices, "_device_number", numbers.get)
    under = {image: tmp_path / "dm-0"}
    monkeypatch.setattr(devices, "_under_file", under.get)
    found = {path.name: devices.arrays_below(path) for path in [*numbers, image, Path("/dev/none")]}
    on_it = frozenset({"md127"})
    assert found == dict.fromkeys(["md127", "md127p1", "dm-0", "loop0", "image"], on_it) | dict.fromkeys(
        ["sda", "none"], frozenset()
    )
    resources = tmp_path / "resources"
    resources.mkdir()
    (resources / "r0.toml").write_text('device = "/dev/dm-0"\nmetadata = "internal"\n')
    (resources / "r1.toml").write_text('device = "/dev/sda"\nmetadata = "/dev/md127/md127p1"\n')
    (resources / "r2.toml").write_text('device = "/dev/sda"\nmetadata = "internal"\n')
    (resources / "r3.toml").write_text('device = "/dev/md127"\nmetadata = "internal"\n')
    (resources / "r4.toml").write_text('device = "/dev/sda"\nmetadata = "/dev/md127"\n')
    (resources / "r5.toml").write_text('device = "/dev/md127"\nmetadata = "/var/r5.meta"\n')
    (resources / "r6.toml").write_text('device = "/dev/md127/md127p1"\nmetadata = "internal"\n')
    assert devices.resources_above("md127", resources) == ["r0", "r1", "r3", "r4", "r5", "r6"]
    # A partition, and what the device mapper makes of it, keep their size.
    assert devices.lost_by_growth("md127", resources) == ["r3", "r4"]


def test_where_a_disk_is_plugged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysfs, "whole_disk", lambda device: device.rstrip("1"))
    for name, disk in (("pci-1-ata-2", "sda"), ("pci-1-ata-2.0", "sda"), ("pci-1-ata-3", "sdb")):
        (tmp_path / name).symlink_to(f"../../{disk}")
    assert sysfs.places("sda", tmp_path) == ["pci-1-ata-2", "pci-1-ata-2.0", "/dev/sda"]
    assert sysfs.places("sda1", tmp_path) == []
    assert sysfs.places("sdc", tmp_path / "none") == ["/dev/sdc"]


def test_how_fast_an_array_may_be_synced(tmp_path: Path) -> None:
    _md(tmp_path, md__sync_speed_max="200000 (system)", md__sync_speed_min="500 (local)")
    assert sysfs.speed_limit("md127", "sync_speed_max", tmp_path) == SpeedLimit(200_000, local=False)
    assert sysfs.speed_limit("md127", "sync_speed_min", tmp_path) == SpeedLimit(500, local=True)
    assert sysfs.speed_limit("md5", "sync_speed_min", tmp_path) is None
    assert sysfs.system_speed_max(tmp_path / "none") is None


def test_idle_devices_are_those_that_nothing_is_built_on(tmp_path: Path) -> None:
    _tree(tmp_path, {"sda/size": "9", "sdb/size": "9", "sdc/size": "0", "md127/size": "9"})
    (tmp_path / "sda/holders/md127").mkdir(parents=True)
    assert sysfs.idle_devices(tmp_path) == ["sdb"]


def test_what_is_no_block_device_is_told(tmp_path: Path) -> None:
    for path, kind in ((tmp_path, ErrorKind.INVALID), (tmp_path / "none", ErrorKind.NOT_FOUND)):
        with pytest.raises(BlockpairError) as caught:
            devices.look(str(path))
        assert caught.value.kind is kind and str(path) in caught.value.message and caught.value.remedy


def test_mdadms_export_is_read() -> None:
    text = "MD_LEVEL=raid10\nMD_UUID=80ee:1\nMD_DEVNAME=data\nMD_NAME=a:data=x\n\nnoise\n"
    found = mdadm.parse_export(text)
    assert found["MD_NAME"] == "a:data=x" and mdadm.array_name(found) == "data"
    assert mdadm.array_name({"MD_NAME": "host:other"}) == "other"
    assert mdadm.array_name({"MD_NAME": "plain"}) == "plain" and mdadm.array_name({}) == ""


def test_programs_that_fail_or_are_not_there_are_told() -> None:
    with pytest.raises(BlockpairError, match="no such-program"):
        mdadm.run(["such-program"])
    with pytest.raises(BlockpairError, match=r"`ls /nowhere-at-all` failed: .*No such file"):
        mdadm.run(["ls", "/nowhere-at-all"])
    assert mdadm.run(["false"], ending=(1,)) == ""


CONF = """\
# a comment that ends with ARRAY /dev/md/x UUID=1
HOMEHOST <system>
ARRAY /dev/md/data metadata=1.2 UUID=80EE8B2B:f91b4708:9079a2fa:e035d617
   spare-group=pool   # continued
array <ignore> UUID=2
ARRAY metadata=imsm UUID=3
MAILADDR root
"""


def test_the_arrays_of_mdadm_conf() -> None:
    assert conf.entries(CONF) == [
        Entry("/dev/md/data", IDENTITY.uuid, "pool"),
        Entry("<ignore>", "2"),
        Entry("", "3", metadata="imsm"),
    ]
    assert conf.groups(CONF) == {IDENTITY.uuid: "pool"}


def test_an_entry_is_replaced_and_nothing_else_is_touched() -> None:
    lone = conf.with_entry(CONF, Entry("/dev/md/other", IDENTITY.uuid))
    assert conf.groups(lone) == {}
    # Its own words stay, also those that are not known here.
    assert conf.entries(lone) == [replace(conf.entries(CONF)[0], group=None), *conf.entries(CONF)[1:]]
    old = "ARRAY /dev/md0 metadata=0.90 UUID=7 devices=/dev/sda,/dev/sdb spare-group=a\n"
    assert conf.with_entry(old, Entry("x", "7", "b")) == old.replace("group=a", "group=b")
    assert conf.without(CONF, IDENTITY.uuid) == CONF.replace(
        "ARRAY /dev/md/data metadata=1.2 UUID=80EE8B2B:f91b4708:9079a2fa:e035d617\n"
        "   spare-group=pool   # continued\n",
        "",
    )
    assert conf.without(CONF, "4") == CONF
    new = conf.with_entry("", Entry("/dev/md/a", "1"))
    assert "HOMEHOST <system>" in new and new.endswith("ARRAY /dev/md/a metadata=1.2 UUID=1\n")


lines = st.sampled_from(
    (
        "",
        "# x\n",
        "MAILADDR root\n",
        "ARRAY /dev/md/a UUID=1\n",
        "ARRAY /dev/md/b UUID=2\n",
        "  spare-group=g\n",
        "\n",
    )
)


@given(st.lists(lines).map("".join), st.sampled_from("123"))
def test_adding_and_removing_leaves_the_other_arrays(text: str, uuid: str) -> None:
    others = [entry for entry in conf.entries(text) if entry.uuid != uuid]
    entry = Entry("/dev/md/n", uuid, "g")
    added = conf.with_entry(text, entry)
    (mine,) = (known for known in conf.entries(added) if known.uuid == uuid)
    assert mine.group == "g"
    assert [known for known in conf.entries(added) if known.uuid != uuid] == others
    assert conf.with_entry(added, entry) == added
    assert conf.entries(conf.without(added, uuid)) == others


def test_the_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "etc/mdadm.conf"
    assert conf.read(path) == ""
    conf.replace(path, "one\n")
    path.chmod(0o640)
    conf.replace(path, "two\n")
    assert path.read_text() == "two\n" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["mdadm.conf"]


def test_steps_are_done_in_order_and_a_failure_says_what_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conf, "PLACES", (tmp_path / "mdadm.conf",))
    entry = Entry("/dev/md/a", "1")
    steps: list[Step] = [
        Command(("touch", str(tmp_path / "done")), "x"),
        Remember(entry, "x"),
        Attribute("md-none", "sync_action", "check", "x"),
        Command(("touch", str(tmp_path / "never")), "x"),
    ]
    told: list[object] = []
    with pytest.raises(BlockpairError, match=r"md-none.* failed: No such file.*done before.*touch") as caught:
        apply.carry_out(steps, told.append)
    assert caught.value.kind is ErrorKind.IO
    assert told == steps[:2]
    assert conf.entries((tmp_path / "mdadm.conf").read_text()) == [entry]
    assert (tmp_path / "done").exists() and not (tmp_path / "never").exists()
    apply.carry_out([Remember(entry, "x", forget=True)])
    assert conf.entries((tmp_path / "mdadm.conf").read_text()) == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("raid create data --devices /dev/none", 1, "/dev/none"),
        ("raid create data --devices /dev/null", 1, "/dev/null is not a block device"),
        ("raid create md5 --devices /dev/null", 2, "md5"),
        ("raid create DATA --devices /dev/null", 2, "DATA"),
        ("raid status no-such-array", 1, "no-such-array"),
        ("raid scrub stop no-such-array", 1, "no-such-array"),
    ],
)
def test_bad_input_is_told(
    *,
    words: str,
    code: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(sysfs.array_names, "__defaults__", (tmp_path,))
    assert run([*words.split(), "--json"]) == code
    error = json.loads(capsys.readouterr().err)["error"]
    assert told in error["message"] and error["remedy"]


def test_who_is_not_root_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert run(["raid", "list"]) == 1
    assert "root" in capsys.readouterr().err


def test_an_array_whose_name_udev_makes_late_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "data"
    naming = threading.Timer(0.4, path.touch)
    naming.start()
    # What appears is no array: so it was seen.
    with pytest.raises(BlockpairError, match="data is not a block device"):
        apply.carry_out([Writable(str(path))])
    naming.join()
