"""The live screen of ``blockpair status --watch``: from what was seen to what is drawn. Pure but for rich's
types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from math import isinf

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from blockpair.cli.raid_text import word
from blockpair.cli.status_text import (
    advice_lines,
    head,
    peer_lines,
    percent,
    resource_lines,
    resync_label,
    row,
    verify_line,
)
from blockpair.raid.layout import mirrors
from blockpair.raid.model import Array, Part
from blockpair.status.arbitration import head_line
from blockpair.status.engine import EngineStatus, PeerStatus, Resync
from blockpair.status.report import EventRecord, ResourceReport, StatusReport
from blockpair.status.service import service_line
from blockpair.status.traffic import Row, traffic
from blockpair.units import format_duration, format_latency, format_size

_BAR_WIDTH = 40
# Below this many columns what is counted in bytes gives way, so that the latencies stay.
_NARROW = 56
_EVENT_STYLES = {"error": "red", "warning": "yellow"}


@dataclass(frozen=True)
class Look:
    """What was seen at a moment, ``at`` seconds of a clock that only goes forward; ``arrays``: of this node,
    ``unseen``: why they could not be looked at.
    """

    report: StatusReport
    at: float
    arrays: tuple[Array, ...] = ()
    unseen: str | None = None


@dataclass(frozen=True)
class View:
    """The screen after ``now``, with the one ``before`` it, if there was one. ``trouble``: why there has been
    no newer look. It fills the height that it is given: the events are cut first.
    """

    now: Look
    before: Look | None = None
    trouble: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        free = options.update(height=None)
        body = console.render_lines(Group(*self._body(options.max_width)), free, pad=False)
        events = console.render_lines(Group(*_events(self.now.report)), free, pad=False)
        for line in _fit(body, events, options.height, console, free):
            yield from line
            yield Segment.line()

    def _body(self, width: int) -> Iterator[RenderableType]:
        report = self.now.report
        yield _title(report)
        if self.trouble is not None:
            yield Text.assemble(("no news", "bold red"), f": {self.trouble}; what follows is of before")
        for entry in report.node_advice:
            yield from advice_lines(entry)
        if not report.resources:
            yield Text("no resources; make one: blockpair create --help")
        for resource in report.resources:
            yield Rule(style="dim")
            moment = datetime.fromisoformat(report.time).timestamp()
            yield from _resource(resource, moment, self._earlier(resource.name), self._seconds(), width)
        if self.now.arrays or self.now.unseen:
            yield Rule(style="dim")
        for array in self.now.arrays:
            yield from _array(array, width)
        if self.now.unseen:
            yield Text(f"arrays are not shown: {self.now.unseen}", "dim")

    def _earlier(self, name: str) -> EngineStatus | None:
        if self.before is None:
            return None
        found = (resource for resource in self.before.report.resources if resource.name == name)
        return next((resource.engine for resource in found), None)

    def _seconds(self) -> float:
        return 0.0 if self.before is None else self.now.at - self.before.at


Lines = list[list[Segment]]


def _fit(body: Lines, events: Lines, height: int | None, console: Console, options: ConsoleOptions) -> Lines:
    """Of what there is, as much as there is room for; the newest events."""
    if height is None:
        return body + events
    if len(body) > height:
        more = Text(f"… {len(body) - height + 1} lines more; a higher window shows them", "reverse")
        return [*body[: height - 1], *console.render_lines(more, options, pad=False)[:1]]
    room = height - len(body)
    if len(events) <= room:
        return body + events
    # A line for what these are, which comes first.
    return body if room < 2 else [*body, events[0], *events[len(events) - room + 1 :]]


def _title(report: StatusReport) -> Text:
    well = ("all is well", "green") if report.healthy else ("needs attention", "bold red")
    told = f"  blockpair {report.version}  {report.time}  "
    return Text.assemble(("node ", "dim"), (report.node, "bold"), (told, "dim"), well)


def _resource(
    resource: ResourceReport, moment: float, before: EngineStatus | None, seconds: float, width: int
) -> Iterator[RenderableType]:
    engine = resource.engine
    if engine is None or resource.state != "running":
        yield from resource_lines(resource)
        return
    yield head(resource, engine)
    if resource.service is not None:
        yield row("service", Text(service_line(resource.service)))
    if resource.arbiter is not None:
        yield row("arbiter", Text(head_line(resource.arbiter, engine)))
    for peer in engine.peers:
        yield from peer_lines(peer)
        if peer.lag is not None:
            yield row("  behind", _lag(peer))
        if peer.resync is not None:
            yield from _resync(peer.resync, width)
    if resource.verify is not None:
        yield row("verify", verify_line(resource.verify, moment))
    if engine.role == "Primary":
        yield _traffic(traffic(before, engine, seconds), width)
    for entry in resource.advice:
        yield from advice_lines(entry)


def _lag(peer: PeerStatus) -> Text:
    lag = peer.lag
    if lag is None or not lag.bytes:
        return Text("nothing")
    age = "since before this daemon" if lag.seconds is None else f"for {format_duration(lag.seconds)}"
    return Text(f"{format_size(lag.bytes)}, {age}", "" if peer.connection == "Connected" else "yellow")


def _resync(resync: Resync, width: int) -> Iterator[RenderableType]:
    label = resync_label(resync)
    yield _bar(label, resync.done_bytes, resync.total_bytes, percent(resync), width)
    done = f"{format_size(resync.done_bytes)} of {format_size(resync.total_bytes)}"
    yield row("", Text(f"{done}{_pace(resync.rate_bytes_per_second, resync.eta_seconds)}"))


def _pace(rate: float, left: float | None) -> str:
    ends = "" if left is None else f", {format_duration(left)} left"
    return (f", {format_size(rate)}/s" if rate else "") + ends


def _bar(label: str, done: int, total: int, share: float, width: int) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    name, words = Text(f"  {label:<12}", "dim"), Text(f"{share:.1f} %")
    room = width - len(name) - len(words) - 3
    bar = ProgressBar(total=total or 1, completed=done if total else 1, width=max(4, min(_BAR_WIDTH, room)))
    grid.add_row(name, bar, words)
    return grid


def _traffic(rows: list[Row], width: int) -> Table:
    narrow = width < _NARROW
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=True, header_style="dim", collapse_padding=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    titles = ("/s", "half", "99 %") if narrow else ("a second", "bytes/s", "half within", "99 % within")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True, overflow="ellipsis")
    for entry in rows:
        name = Text(f"  {entry.what}" if entry.part else entry.what, "dim" if entry.part else "")
        bytes_word = "" if entry.bytes_per_second is None else format_size(round(entry.bytes_per_second))
        table.add_row(
            name,
            "" if entry.per_second is None else f"{entry.per_second:,.0f}",
            *(() if narrow else (bytes_word,)),
            _latency(entry.half),
            _latency(entry.most),
        )
    return table


def _latency(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return "over 17 s" if isinf(seconds) else format_latency(seconds)


def _array(array: Array, width: int) -> Iterator[RenderableType]:
    shape = array.geometry
    state = word(array)
    yield Text.assemble(
        ("array ", "dim"),
        (array.name, "bold"),
        f"  {shape.level}{' ' + shape.layout if shape.layout else ''}, {format_size(array.size_bytes)}  ",
        (state, "green" if state == "healthy" else "bold red"),
    )
    yield Text("  ") + diagram(array)
    if array.sync is not None:
        sync = array.sync
        yield _bar(sync.action, sync.done_bytes, sync.total_bytes, 100 * sync.fraction, width)
        done = f"{format_size(sync.done_bytes)} of {format_size(sync.total_bytes)}"
        yield row("", Text(f"{done} of each member{_pace(sync.bytes_per_second, sync.eta_seconds)}"))


def diagram(array: Array) -> Text:
    """Which members hold the same data, ``[sda = sdb] [sdc = sdd]``, and those that hold none of it."""
    sets = mirrors(array.geometry)
    slots = range(array.geometry.slots)
    apart = sum(map(len, sets)) == array.geometry.slots
    groups = [sorted(mirror) for mirror in sets] if apart else [list(slots)]
    text = Text()
    for group in groups:
        text.append("[" if not text else " [")
        for index, slot in enumerate(group):
            if index:
                text.append(" = " if apart else " ")
            text.append_text(_slot(array, slot))
        text.append("]")
    for part, style in ((Part.SPARE, "dim"), (Part.JOURNAL, "dim"), (Part.FAULTY, "red")):
        for member in array.having(part):
            text.append(f"  {part.value} ", "dim")
            text.append(member.device, style)
    return text


def _slot(array: Array, slot: int) -> Text:
    here = {member.part: member for member in array.members if member.slot == slot}
    text = Text()
    if (active := here.get(Part.ACTIVE)) is not None:
        text.append(active.device, "yellow" if active.leaving or active.errors else "green")
    elif (filled := here.get(Part.REBUILDING)) is not None:
        text.append(f"{filled.device} (rebuilding)", "yellow")
    else:
        text.append("missing", "bold red")
    if (following := here.get(Part.REPLACEMENT)) is not None:
        text.append(f" > {following.device}", "yellow")
    return text


def _events(report: StatusReport) -> list[RenderableType]:
    """The last ones of all resources, the newest below."""
    found = sorted(
        ((event.time, resource.name, event) for resource in report.resources for event in resource.events),
        key=lambda each: each[0],
    )
    if not found:
        return []
    lines = [_event(name, event) for _, name, event in found]
    return [Rule("last events, times in UTC", align="left", style="dim"), *lines]


def _event(resource: str, event: EventRecord) -> Text:
    line = Text.assemble(
        (f"{event.time[11:19]} ", "dim"),
        (f"{resource} ", "bold"),
        (event.name, _EVENT_STYLES.get(event.severity, "")),
        f"  {event.text}",
    )
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
