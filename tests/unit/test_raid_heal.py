"""What is done without asking a person, and the steps of it."""

from __future__ import annotations

from dataclasses import replace

from blockpair.raid import steps
from blockpair.raid.conf import Entry
from blockpair.raid.heal import MOST_RETURNS, RETURNS_SECONDS, Action, actions, may_return
from blockpair.raid.health import Health
from blockpair.raid.layout import geometry
from blockpair.raid.model import Array
from tests.unit.raid_samples import FAULTY, GIB, SPARE, array, disk, member

AWAY = replace(array(members=(*array("x", "ab").members, member("sdd", 3)), slots=4), bitmap=True)
SPARE_ROOM = array("other", (member("sde", 0), member("sdf", 1), member("sdg", None)), level="raid1", slots=2)


def _do(*arrays: Array, health: dict[str, Health] | None = None, **returned: str) -> list[Action]:
    return actions({known.uuid: known for known in arrays}, health, returned)


def _shown(action: Action) -> list[str]:
    return [step.shown for step in action.steps]


def test_nothing_is_done_for_arrays_that_are_whole_or_cannot_be_helped() -> None:
    assert _do(array(), SPARE_ROOM) == []
    assert _do(AWAY) == []
    assert _do(array(members=(member("sda", 0), member("sdb", 1)), slots=4), sdc="uuid-data") == []


def test_a_member_that_comes_back_is_taken_back_by_the_bitmap() -> None:
    (action,) = _do(AWAY, sdc="uuid-data", sdz="uuid-else")
    assert action.code == "member.returns"
    assert _shown(action) == ["mdadm /dev/md/data --re-add /dev/sdc"]
    assert _do(replace(AWAY, bitmap=False), sdc="uuid-data") == []
    failed = replace(AWAY, members=(*AWAY.members, member("sdc", None, FAULTY)))
    (action,) = _do(failed, sdc="uuid-data")
    assert _shown(action)[0] == "mdadm /dev/md/data --remove sdc"


def test_a_shared_spare_goes_where_it_is_needed_but_a_return_comes_first() -> None:
    taker, giver = replace(AWAY, group="pool"), replace(SPARE_ROOM, group="pool")
    (action,) = _do(taker, giver)
    assert action.code == "spare.moved"
    assert _shown(action) == [
        "mdadm /dev/md/other --remove sdg",
        "mdadm /dev/md/data --add-spare /dev/sdg",
    ]
    assert [action.code for action in _do(taker, giver, sdc="uuid-data")] == ["member.returns"]


def test_an_array_that_waits_for_its_first_write_rebuilds() -> None:
    waits = replace(AWAY, state="read-auto", members=(*AWAY.members, member("sdc", 2, SPARE)))
    (action,) = _do(waits)
    assert (action.code, _shown(action)) == ("array.writable", ["mdadm --readwrite /dev/md/data"])
    assert _do(replace(array(), state="read-auto")) == []
    assert _do(replace(array(), state="read-auto", unequal=True)) != []


def test_a_member_likely_to_fail_is_copied_onto_a_spare() -> None:
    whole = array(members=(*array().members, member("sdx", None)), slots=4)
    (action,) = _do(whole, health={"sdb": Health(10)})
    assert action.code == "member.replace"
    assert _shown(action) == ["mdadm /dev/md/data --replace /dev/sdb --with /dev/sdx"]


def test_a_device_that_flaps_is_left_to_a_person() -> None:
    times = [float(at) for at in range(MOST_RETURNS)]
    assert may_return(times[:-1], 10)
    assert not may_return(times, 10)
    assert may_return(times, RETURNS_SECONDS + 10)


def test_creating_is_exactly_one_command_for_what_was_asked() -> None:
    disks = [disk(f"sd{letter}") for letter in "bcde"]
    marked = replace(disk("sdf"), signatures=("ext4",))
    made = steps.create(
        "data",
        geometry("raid10", 4),
        disks,
        chunk_bytes=512 << 10,
        spares=[marked],
        bitmap_bytes=1 << 20,
        group="pool",
        uuid="1:2:3:4",
    )
    assert [step.shown for step in made] == [
        "wipefs --all /dev/sdf",
        "mdadm --create /dev/md/data --run --metadata=1.2 --name=data --uuid=1:2:3:4 --level=10 --layout=n2 "
        "--chunk=512K --raid-devices=4 --spare-devices=1 --bitmap=internal "
        "--bitmap-chunk=1024K /dev/sdb /dev/sdc /dev/sdd /dev/sde /dev/sdf",
        "mdadm.conf: add `ARRAY /dev/md/data metadata=1.2 UUID=1:2:3:4 spare-group=pool`",
        "mdadm --readwrite /dev/md/data",
    ]
    assert all(step.consequence for step in made)
    (wiped,) = steps.wipe([replace(disks[0], metadata_at=4096)])
    assert wiped.shown == "blkdiscard --zeroout --force --offset=4096 --length=8192 /dev/sdb"
    mirror = steps.create("m", geometry("raid1", 2), disks[:2], chunk_bytes=0, uuid="5")
    assert "--level=1 --raid-devices=2" in mirror[0].shown


def test_the_steps_of_the_other_commands() -> None:
    whole = array(members=(*array().members, member("sdx", None)), slots=4)
    new = [disk("sdy"), disk("sdz")]
    shown = {
        "grow": [step.shown for step in steps.grow(whole, new)],
        "delete": [step.shown for step in steps.delete(whole)],
        "remove": [step.shown for step in steps.remove_spare(whole, "sdx")],
        "replace": [step.shown for step in steps.replace(whole, "sda", "sdy", new[0])],
        "start": [step.shown for step in steps.scrub(whole, start=True)],
        "stop": [step.shown for step in steps.scrub(whole, start=False)],
        "share": [step.shown for step in steps.share(whole, "pool")],
    }
    assert shown == {
        "grow": [
            "mdadm /dev/md/data --add-spare /dev/sdy /dev/sdz",
            "mdadm --grow /dev/md/data --raid-devices=6",
        ],
        "delete": [
            "mdadm --stop /dev/md/data",
            "mdadm --zero-superblock /dev/sda /dev/sdb /dev/sdc /dev/sdd /dev/sdx",
            "mdadm.conf: remove `ARRAY /dev/md/data metadata=1.2 UUID=uuid-data`",
        ],
        "remove": ["mdadm /dev/md/data --remove sdx", "mdadm --zero-superblock /dev/sdx"],
        "replace": [
            "mdadm /dev/md/data --add-spare /dev/sdy",
            "mdadm /dev/md/data --replace /dev/sda --with /dev/sdy",
        ],
        "start": ["echo check > /sys/block/md127/md/sync_action"],
        "stop": ["echo idle > /sys/block/md127/md/sync_action"],
        "share": ["mdadm.conf: add `ARRAY /dev/md/data metadata=1.2 UUID=uuid-data spare-group=pool`"],
    }
    assert "3 GiB" in steps.grow(replace(whole, component_bytes=GIB), new)[-1].consequence
    assert isinstance(steps.share(whole, None)[0], steps.Remember)
    assert str(Entry("/dev/md/a", "1", metadata="external:imsm")) == "ARRAY /dev/md/a UUID=1"
    assert str(Entry("/dev/md/a", "1")) == "ARRAY /dev/md/a metadata=1.2 UUID=1"
