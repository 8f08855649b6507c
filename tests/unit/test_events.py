"""What becomes an event, which of them somebody wants, and how repetitions are held back."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from blockpair.events.catalogue import KINDS, SILENT
from blockpair.events.damper import MOST, WINDOW_SECONDS, Damper
from blockpair.events.event import Event, Filter, decode, encode, event_of, lines

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"[a-z]+\.[a-z_-]+")
TELLING = (
    "info",
    "warning",
    "error",
    "exception",
    "tell",
    "_tell",
    "_told",
    "_once",
    "_say",
    "_note",
    "note",
)
# The witness is another program; it keeps no stream.
WITNESS = ("arbiter/witness/methods.py", "arbiter/witness/server.py", "arbiter/witness/serve.py")


def event(
    what: str = "peer.lost", *, seq: int = 1, resource: str | None = "r0", severity: Any = "info"
) -> Event:
    return Event(seq, "2026-11-24T10:00:00.000Z", "a", severity, what, f"{what} {seq}", resource=resource)


def told_in(source: str) -> set[str]:
    """The names that a module logs under, by itself or by a helper of its own."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TELLING:
            texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
            found |= {text for text in texts if isinstance(text, str) and NAME.fullmatch(text)}
    return found


def names_in_sources() -> set[str]:
    """Every name that the daemon logs under, and that an engine gives a notice."""
    found: set[str] = set()
    for file in (ROOT / "blockpair").glob("**/*.py"):
        if str(file.relative_to(ROOT / "blockpair")) not in WITNESS:
            found |= told_in(file.read_text())
    for file in (ROOT / "engine/src").glob("**/*.rs"):
        text = file.read_text().split("#[cfg(test)]\nmod tests {")[0]
        calls = re.findall(r"(?:notice|tell|tell_once)\(\s*(?:Severity::\w+,\s*)?\"([a-z._-]+)\"", text)
        found |= {name for name in calls if NAME.fullmatch(name)}
        found |= set(re.findall(r'name: "([a-z]+\.[a-z._-]+)"', text))
    return found


def test_every_kind_that_there_is_is_described() -> None:
    found = names_in_sources()
    assert {"peer.lost", "fence.begun", "disk.detached", "events.lost", "notify.failed"} <= found
    assert found - KINDS.keys() - SILENT == set()


def test_the_page_has_every_kind_as_it_is() -> None:
    page = (ROOT / "docs/events.md").read_text()
    table = page.partition("## The kinds")[2]
    rows = dict(re.findall(r"^\| `([a-z._-]+)` \| (.*) \|$", table, re.MULTILINE))
    shown = {
        name: f"{kind.title} | {kind.next.replace('{resource}', 'NAME').replace('{peer}', 'the peer')}"
        for name, kind in KINDS.items()
    }
    assert {name: row.rstrip(" |") for name, row in rows.items()} == {
        name: row.rstrip(" |") for name, row in shown.items()
    }


def test_a_record_becomes_an_event_with_what_when_why_and_what_to_do() -> None:
    record = {
        "event": "arbiter.unreachable",
        "level": "warning",
        "timestamp": "2026-11-24T10:00:00.123456Z",
        "resource": "r0",
        "part": "arbiter",
        "text": "no answer",
        "why": "the link is down",
        "kind": "witness",
    }
    found = event_of(record, "a")
    assert found is not None
    assert (found.what, found.severity, found.time) == (
        "arbiter.unreachable",
        "warning",
        "2026-11-24T10:00:00.123Z",
    )
    assert (found.text, found.why, found.resource, found.node) == ("no answer", "the link is down", "r0", "a")
    assert found.next.endswith("blockpair status r0")
    assert found.fields == {"part": "arbiter", "kind": "witness"}


def test_what_has_no_text_is_described_by_its_fields() -> None:
    found = event_of({"event": "resource.up", "level": "info", "resource": "r0", "device": "/dev/sdb"}, "a")
    assert found is not None and found.text == "the resource is up (device /dev/sdb)" and found.next == ""
    unknown = event_of({"event": "new.thing", "level": "error", "resource": "r0"}, "a")
    assert unknown is not None and (unknown.text, unknown.next) == ("new thing", "blockpair status r0")


def test_what_is_of_no_interest_is_no_event() -> None:
    for record in (
        {"event": "disk.error", "level": "debug"},
        {"event": "configuration.contact", "level": "info"},
        {"event": "a sentence. With a stop", "level": "info"},
        {},
    ):
        assert event_of(record, "a") is None


@given(
    st.dictionaries(
        st.sampled_from(
            ["event", "level", "text", "why", "remedy", "resource", "peer", "timestamp", "x", "y"]
        ),
        st.one_of(
            st.text(), st.none(), st.integers(), st.lists(st.text(max_size=9), max_size=4), st.just("\ud800x")
        ),
    )
)
def test_whatever_is_logged_is_a_line_or_nothing(record: dict[str, Any]) -> None:
    found = event_of({**record, "event": f"kind.{record.get('event')}"}, "a")
    if found is not None:
        line = encode(found)
        assert line.count(b"\n") == 1 and decode(line[:-1]) == found and len(line) < 200_000


def test_a_line_for_a_person() -> None:
    found = event_of(
        {"event": "peer.lost", "level": "warning", "resource": "r0", "peer": "b", "text": "it is gone"}, "a"
    )
    assert found is not None
    first, *rest = lines(found)
    assert first.endswith("warning  peer.lost r0 [b]: it is gone")
    assert rest[0].startswith("    why: ") and rest[1].startswith("    next: ")


def test_a_filter_goes_by_severity_kind_and_resource() -> None:
    assert Filter().wants(event())
    assert not Filter("warning").wants(event()) and Filter("warning").wants(event(severity="error"))
    assert Filter(kinds=("disk.*", "peer.lost")).wants(event())
    assert not Filter(kinds=("disk.*",)).wants(event())
    assert Filter(resource="r0").wants(event()) and not Filter(resource="r1").wants(event())


def test_a_flood_is_counted_and_the_rest_passes() -> None:
    damper = Damper()
    passed = [damper.passes(event(seq=seq), 0.0) for seq in range(100)]
    assert passed == [True] * MOST + [False] * (100 - MOST)
    assert damper.passes(event("disk.error"), 0.0) and damper.passes(event(resource="r1"), 0.0)
    assert damper.over(WINDOW_SECONDS - 1) == [] and damper.due() == WINDOW_SECONDS
    assert damper.over(WINDOW_SECONDS) == [(("peer.lost", "r0", None), 100 - MOST, "peer.lost 99")]
    assert damper.due() is None
    assert damper.passes(event(seq=100), WINDOW_SECONDS)


def test_a_flood_of_kinds_takes_no_more_memory() -> None:
    damper = Damper()
    for number in range(1000):
        damper.passes(event(f"kind.{number}"), 0.0)
        damper.over(0.0)
    assert len(damper._windows) <= 257
