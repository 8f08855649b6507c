"""What is known of whether both copies are the same: the record, and its file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from blockpair.config.locations import locations
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.verify import store
from blockpair.verify.messages import StartParams
from blockpair.verify.record import (
    REGIONS_MAX,
    SETTLED_MAX,
    Finding,
    Record,
    begin,
    end,
    found,
    fresh,
    interrupted,
    proof,
    proved,
    skipped,
    waived,
)

MIB = 1 << 20
SIZE = 10 * MIB + 4096


def new(size: int = SIZE) -> Record:
    return fresh("a" * 32, size)


def block(offset: int, local: str = "1", peer: str = "2", at: int = 50) -> Finding:
    return Finding(offset, 4096, local * 32, peer * 32, at)


def run(record: Record, offset: int | None = None, length: int | None = None, now: int = 10) -> Record:
    return begin(record, offset=offset, length=length, max_rate=None, now=now)


@pytest.mark.parametrize("size", [1, MIB, SIZE, 4 << 30, (1 << 50) + 1])
def test_a_map_of_any_device_is_bounded(size: int) -> None:
    record = new(size)
    assert len(record.proved) <= REGIONS_MAX
    assert (len(record.proved) - 1) * record.region_bytes < size <= len(record.proved) * record.region_bytes


def test_a_region_is_proved_when_all_of_it_was_the_same_in_one_pass() -> None:
    record = proved(run(new()), 0, MIB - 4096, 20)
    assert record.proved[0] is None
    record = proved(record, MIB - 4096, 4096, 21)
    assert record.proved[:2] == [21, None]
    # A gap in between proves neither region around it.
    record = proved(record, MIB + 4096, 2 * MIB, 22)
    assert record.proved[:4] == [21, None, 22, None]
    # The last one is shorter.
    record = proved(record, 9 * MIB, SIZE - 9 * MIB, 23)
    assert record.proved[9:] == [23, 23]


def test_what_is_known_to_differ_is_no_proof() -> None:
    record = skipped(proved(run(new()), 0, 512 << 10, 20), 512 << 10, 4096)
    record = proved(record, (512 << 10) + 4096, MIB, 21)
    assert record.proved[0] is None
    assert record.run is not None
    assert record.run.done == (512 << 10) + 4096 + MIB


def test_a_run_goes_round_the_end_and_begins_where_the_proof_is_the_oldest() -> None:
    record = proved(run(new()), 0, SIZE, 20)
    record = end(record, None, None, 20)
    assert record.ended == "identical"
    record = replace(record, proved=[9 if at == 4 else 20 for at in range(len(record.proved))])
    record = run(record)
    assert record.run is not None
    assert record.run.rest(SIZE) == (4 * MIB, SIZE - 4 * MIB)
    record = proved(record, 4 * MIB, SIZE - 4 * MIB, 30)
    assert record.run is not None
    assert record.run.rest(SIZE) == (0, 4 * MIB)
    record = proved(record, 0, 4 * MIB, 31)
    assert record.run is not None
    assert record.run.rest(SIZE) is None


def test_a_run_that_stopped_goes_on_at_the_beginning_of_its_region() -> None:
    record = proved(run(new()), 0, 3 * MIB + 4096, 20)
    stopped = end(record, "stopped", "by a person", 21)
    again = run(stopped, now=30)
    assert again.run is not None
    assert (again.run.rest(SIZE), again.ended) == ((3 * MIB, SIZE - 3 * MIB), None)
    # The same where the daemon or the connection ended in the middle.
    cut = interrupted(record)
    assert cut.run is not None
    assert cut.run.done == 3 * MIB
    assert proved(cut, 3 * MIB, MIB, 40).proved[3] == 40
    # One that came to its end is not gone on with.
    record = end(proved(record, 3 * MIB + 4096, SIZE - 3 * MIB - 4096, 50), None, None, 50)
    fresh_run = run(record, now=60).run
    assert fresh_run is not None
    assert fresh_run.done == 0


def test_a_range_may_begin_in_the_middle_and_ends_with_the_device() -> None:
    record = run(new(), offset=3 * MIB + 8192, length=99 * MIB)
    assert record.run is not None
    assert record.run.rest(SIZE) == (3 * MIB + 8192, SIZE - 3 * MIB - 8192)
    # What it stopped in lies before its beginning: it is not left behind.
    cut = interrupted(proved(record, 3 * MIB + 8192, 4096, 20))
    assert cut.run is not None
    assert cut.run.done == 0


def test_a_finding_is_confirmed_by_another_run_and_settled_by_a_proof() -> None:
    record = found(run(new()), block(MIB))
    assert [each.state for each in record.findings] == ["found"]
    record = found(run(record), block(MIB, local="3", at=90))
    assert [(each.state, each.found_at, each.local) for each in record.findings] == [
        ("confirmed", 50, "3" * 32)
    ]
    record = proved(record, 0, 2 * MIB, 99)
    assert [(each.state, each.settled_at) for each in record.findings] == [("repaired", 99)]
    # It may come back, and is new then.
    record = found(record, block(MIB, at=120))
    assert [(each.state, each.found_at) for each in record.findings] == [("found", 120)]


def test_a_part_of_a_block_settles_no_finding() -> None:
    record = proved(found(run(new()), block(MIB)), MIB + 2048, MIB, 60)
    assert record.findings[0].state == "found"


def test_what_was_waived_stays_so_until_either_copy_changes() -> None:
    record = waived(found(run(new()), block(MIB)), lambda finding: finding.offset == MIB, 60)
    record = found(run(record), block(MIB, at=70))
    assert record.findings[0].state == "waived"
    assert found(record, block(MIB, peer="9", at=80)).findings[0].state == "found"


def test_how_a_run_ends_is_told_by_what_it_found_where_it_looked() -> None:
    record = found(run(new()), block(MIB))
    assert end(record, None, None, 60).ended == "differences"
    elsewhere = end(run(record, offset=5 * MIB, length=MIB), None, None, 60)
    assert (elsewhere.ended, elsewhere.reason) == ("identical", None)
    excused = end(waived(record, lambda _: True, 60), None, None, 60)
    assert (excused.ended, excused.reason) == ("identical", "but for 1 that differ and are waived")
    failed = end(record, "failed", "a has no disk", 60)
    assert (failed.ended, failed.wanted) == ("failed", None)


def test_settled_findings_do_not_pile_up() -> None:
    record = new(1 << 30)
    many = [replace(block(at * 4096), state="repaired", settled_at=at) for at in range(SETTLED_MAX)]
    record = found(replace(record, findings=many), block(SETTLED_MAX * 4096))
    record = found(waived(record, lambda _: True, 999_999), block((SETTLED_MAX + 1) * 4096))
    assert len(record.findings) == SETTLED_MAX + 1
    assert record.findings[0].offset == 4096


def test_the_proof_in_numbers() -> None:
    record = proved(run(new()), 0, 5 * MIB, 30)
    told = proof(found(record, block(7 * MIB)))
    assert (told.oldest, told.findings) == (30, 1)
    assert told.share == 5 * MIB / SIZE
    assert proof(proved(record, 5 * MIB, SIZE - 5 * MIB, 40)).share == 1.0


def test_a_record_survives_in_its_file(tmp_path: Path) -> None:
    file = locations(directory=str(tmp_path)).verify_file("r0")
    assert store.load(file) is None
    record = found(proved(run(new()), 0, MIB, 20), block(MIB))
    store.save(file, record)
    assert store.load(file) == record
    store.remove(file)
    store.remove(file)
    assert store.load(file) is None


@pytest.mark.parametrize(
    "change", [lambda text: text[:40], lambda text: text.replace('"proved":[', '"proved":[7,')]
)
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, change: object) -> None:
    file = tmp_path / "r0.json"
    store.save(file, new())
    assert callable(change)
    file.write_text(change(file.read_text()))
    with pytest.raises(BlockpairError) as refused:
        store.load(file)
    assert refused.value.kind is ErrorKind.DAMAGED
    assert str(file) in refused.value.message


def test_what_is_asked_for_crosses_as_documented() -> None:
    asked = msgspec.convert({"name": "r0", "from": 4096}, type=StartParams)
    assert asked == StartParams("r0", offset=4096)
    assert msgspec.to_builtins(asked)["from"] == 4096
