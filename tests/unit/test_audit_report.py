"""An audit's report in its forms, and its schedule."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from blockpair.audit.device_map import AGES, FOUND, NEVER, cells, percent, shares
from blockpair.audit.markdown import markdown
from blockpair.audit.outcome import SCHEMA, AuditRecord, AuditReport, Result
from blockpair.audit.page import page
from blockpair.audit.schedule import contents, files, moment
from blockpair.audit.store import load, save
from blockpair.audit.words import covered, sentence
from blockpair.checks.finding import Examination
from blockpair.checks.finding import Finding as Check
from blockpair.errors import BlockpairError
from blockpair.verify.messages import VerifyReport
from blockpair.verify.record import Finding

NOW = 1_000_000_000.0
TIME = "2001-09-09T01:46:40Z"
HOUR, DAY = 3600, 86400
MIB = 1 << 20
BAD = Finding(5 * MIB + 4096, 4096, "a" * 32, "b" * 32, int(NOW) - DAY, "confirmed")


def verified(proved: list[int | None], *findings: Finding, name: str = "r0", short: int = 0) -> VerifyReport:
    """Regions of 1 MiB; the last one lacks ``short`` bytes."""
    size = len(proved) * MIB - short
    return VerifyReport(name, size, MIB, proved, list(findings), False, size, size, "identical", None)


def ago(seconds: float) -> int:
    return int(NOW - seconds)


def report(*resources: VerifyReport, last: AuditRecord | None = None, **more: Any) -> AuditReport:
    checks = Examination("blockpair.checks/1", "a", "1", TIME, True, "warning", more.get("findings", []))
    return AuditReport(SCHEMA, "a", TIME, last, list(resources), checks)


def test_each_region_has_the_shade_of_its_age() -> None:
    ages = [HOUR, DAY + 1, 8 * DAY, 31 * DAY]
    found = cells(verified([*(ago(age) for age in ages), None, ago(HOUR)], BAD), NOW, most=100)
    assert [cell.shade for cell in found] == list(AGES)
    assert [cell.offset for cell in found] == [index * MIB for index in range(6)]


def test_a_cell_of_several_regions_has_the_shade_of_the_worst() -> None:
    proved: list[int | None] = [ago(HOUR)] * 10
    proved[3] = None
    found = cells(verified(proved, BAD, short=MIB // 2), NOW, most=3)
    assert [cell.shade for cell in found] == [NEVER, FOUND, AGES[0]]
    assert [(cell.offset, cell.length) for cell in found] == [
        (0, 4 * MIB),
        (4 * MIB, 4 * MIB),
        (8 * MIB, 2 * MIB - MIB // 2),
    ]


@pytest.mark.parametrize("state", ["repaired", "waived"])
def test_what_is_settled_is_no_mark_on_the_map(state: Any) -> None:
    proved: list[int | None] = [ago(HOUR)] * 10
    found = cells(verified(proved, replace(BAD, state=state)), NOW, most=10)
    assert {cell.shade for cell in found} == {AGES[0]}


def test_shares_are_of_bytes_and_never_say_more_than_is_so() -> None:
    proved: list[int | None] = [ago(HOUR), ago(HOUR), None]
    told = {shade.code: share for shade, share in shares(verified(proved, short=MIB // 2), NOW)}
    assert told == {"c0": "80 %", "never": "20 %"}
    assert [percent(part, 100_000) for part in (0, 1, 99_999, 100_000)] == [
        "0 %",
        "< 0.1 %",
        "99.9 %",
        "100 %",
    ]


@pytest.mark.parametrize(
    ("proved", "findings", "text"),
    [
        ([ago(14 * HOUR)] * 8, [], "Proved identical: 100 %, the oldest part 14h 00m ago; 0 findings"),
        ([ago(80 * DAY), None], [], "Proved identical: 50 %, the oldest part 80 days ago; 0 findings"),
        ([None] * 8, [BAD], "Nothing of it was ever proved identical; 1 finding"),
    ],
)
def test_how_much_is_covered(proved: list[int | None], findings: list[Finding], text: str) -> None:
    assert covered(verified(proved, *findings), NOW) == text


def record(code: int, *results: Result) -> AuditRecord:
    return AuditRecord(SCHEMA, "a", "2001-09-09T00:00:00Z", "2001-09-09T00:46:40Z", code, list(results))


def test_the_verdict_in_words() -> None:
    whole = verified([ago(HOUR)] * 8)
    assert sentence(report(whole))[0] == "note"
    tones = [sentence(report(whole, last=record(code)))[0] for code in (0, 1, 3, 4)]
    assert tones == ["ok", "warning", "error", "note"]
    tone, words, more = sentence(report(verified([None] * 8, BAD), last=record(0)))
    assert (tone, words) == ("error", "Copies differ in 1 place") and "0 errors" in more
    assert "1h 00m ago" in sentence(report(whole, last=record(0)))[2]


class Reader(HTMLParser):
    """What a browser would find."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = '<script>alert("x")</script>&'


def sample() -> AuditReport:
    proved: list[int | None] = [ago(HOUR)] * 100 + [None] * 28
    check = Check("port", "b", "error", HOSTILE, "it follows", "do this\nthen that")
    results = [Result("r0", "failed", HOSTILE), Result("r1", "left", "b leads it")]
    return report(
        verified(proved, replace(BAD, local=HOSTILE)),
        verified([ago(HOUR)] * 2, name="r1"),
        last=record(1, *results),
        findings=[check, Check("nbd", "a", "ok", "the nbd module is loaded")],
    )


def test_the_page_is_whole_needs_nothing_else_and_hides_nothing() -> None:
    html = page(sample())
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    names = {tag for tag, _ in reader.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert [
        value for _, found in reader.tags for value in (found.get("src"), found.get("href")) if value
    ] == []
    assert "http" not in html.replace("http-equiv", "") and "@import" not in html and "url(" not in html
    for text in (
        HOSTILE,
        "could not run",
        "b leads it",
        "the nbd module is loaded",
        "then that",
        "confirmed",
    ):
        assert text in reader.text, text


def test_the_maps_say_in_words_what_they_show() -> None:
    reader = Reader()
    html = page(sample())
    reader.feed(html)
    maps = [found for tag, found in reader.tags if tag == "svg" and found.get("role") == "img"]
    assert [found["aria-labelledby"] for found in maps] == ["t-r0 d-r0", "t-r1 d-r1"]
    ids = [found["id"] for _, found in reader.tags if "id" in found]
    assert len(ids) == len(set(ids)) and {"t-r0", "d-r0", "t-r1", "d-r1"} <= set(ids)
    drawn = [part.partition("</svg>")[0] for part in html.split("<svg ")[1:]]
    [first, *_] = [ET.fromstring(f"<svg {part}</svg>") for part in drawn if 'role="img"' in part]
    assert len(first.findall("g")) == 128
    titles = [str(group.findtext("title")) for group in first.findall("g")]
    assert titles[0] == "0 B to 1 MiB: proved identical 1h 00m ago"
    assert titles[5] == "5 MiB to 6 MiB: found to differ" and "never" in titles[127]
    # Not by colour alone.
    assert first.findall("g")[5].find("path") is not None
    assert first.findall("g")[127].find("path") is not None


def test_markdown_has_the_same() -> None:
    told = markdown(sample())
    assert told.startswith("# Audit of a\n") and "**Copies differ in 1 place.**" in told
    assert "| within a day | 77.3 % |" in told and "| 5246976 | 4 KiB | confirmed |" in told
    assert "- **error** port (b): " in told and "- 1 check in order" in told
    rows = [line for line in told.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_what_the_last_audit_found_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "audit/last.json"
    assert load(file) is None
    save(file, record(3, Result("r0", "differences", findings=2)))
    assert load(file) == record(3, Result("r0", "differences", findings=2))
    file.write_text("{")
    with pytest.raises(BlockpairError, match="cannot be read"):
        load(file)


@pytest.mark.parametrize(
    ("text", "calendar", "cron"),
    [
        ("02:30", "*-*-* 02:30:00", "30 2 * * *"),
        ("sun 2:05", "Sun 02:05:00", "5 2 * * 0"),
        ("Mon 23:59", "Mon 23:59:00", "59 23 * * 1"),
        ("Sat 00:00", "Sat 00:00:00", "0 0 * * 6"),
    ],
)
def test_a_moment_as_timers_and_cron_have_it(text: str, calendar: str, cron: str) -> None:
    assert (moment(text).calendar, moment(text).cron) == (calendar, cron)


@pytest.mark.parametrize(
    "text", ["", "24:00", "2:60", "02:30:00", "Sunday 02:00", "Son 02:00", "hourly", "0230"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 02:30"):
        moment(text)


def test_what_is_written() -> None:
    words = ["/usr/bin/blockpair", "--dir", "/a b/50%$x", "audit", "run"]
    [cron] = contents("cron", moment("Sun 02:00"), words, "/var/log/a.log")
    [line] = [line for line in cron.splitlines() if not line.startswith(("#", "PATH="))]
    assert line == (
        "0 2 * * 0 root nice -n 19 /usr/bin/blockpair --dir '/a b/50\\%$x' audit run >/var/log/a.log 2>&1"
    )
    service, timer = contents("timer", moment("02:00"), words, "")
    assert 'ExecStart=/usr/bin/blockpair --dir "/a b/50%%$$x" audit run\n' in service and "Nice=19" in service
    assert "OnCalendar=*-*-* 02:00:00\n" in timer and "WantedBy=timers.target" in timer
    # cron reads no file whose name has a dot.
    assert [file.name for file in files("cron", Path("/"))] == ["blockpair-audit"]
