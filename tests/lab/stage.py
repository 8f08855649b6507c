"""The three machines of a scenario, writers on both nodes, and what is done to them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.lab.acknowledged import Held, NotWhole, Stamp, Tenure, judge, parse_held, tenures
from tests.lab.harness import Command, CommandFailed, Lab, LabError
from tests.lab.nodes import LINK, Node, eventually
from tests.lab.reads import reads, stale
from tests.lab.rounds import Round, Times, measure, not_as_expected
from tests.lab.scenarios import Cut, Fault, Freeze, GoesOn, Machine, PowerCut, Scenario
from tests.lab.trio import Witness, make_trio

BLOCKS = 384  # stamped blocks, spread over the device
_PAUSE_S = 0.004  # of a writer between two writes
_STEADY = 40  # writes before the fault, and on whoever goes on after it
_KNOWN_S = 1.0  # how long what was under way may still be acknowledged
_READY_S = 60.0


Parts = Mapping[Machine, Node | Witness]


@dataclass
class _Writer:
    """The writer of a node in the present life of its guest."""

    command: Command
    life: int
    since: int  # of the journal's lines, the first of this life


@dataclass
class Stage:
    """Two nodes of r0 and their witness, all in order; `play` one scenario after another."""

    nodes: Sequence[Node]
    witness: Witness
    _writers: dict[str, _Writer] = field(default_factory=dict)
    _lives: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _before: dict[int, Stamp | None] = field(default_factory=lambda: dict.fromkeys(range(BLOCKS)))

    def __post_init__(self) -> None:
        sizes = {int(node.report()["engine"]["size_bytes"]) for node in self.nodes}
        (self._size,) = sizes
        for node in self.nodes:
            self._start_writer(node, "rest")
        for node in self.nodes:
            self._await_writer(node, "rest")

    def play(self, scenario: Scenario, number: int) -> Round:
        """One round. Raises `LabError` where a machine does not do what it must, in time."""
        primary = self._settle()
        secondary = next(node for node in self.nodes if node is not primary)
        parts: Parts = {Machine.PRIMARY: primary, Machine.SECONDARY: secondary, Machine.WITNESS: self.witness}
        marks = {node.name: len(node.guest.journal) for node in self.nodes}
        for node in self.nodes:
            self._writer(node).command.signal("USR2")
        began = time.monotonic()
        self._await_writes(primary, began, "before the fault")

        fault = time.monotonic()
        self._inflict(scenario.faults, parts)
        inflicted = time.monotonic()
        if scenario.goes_on != GoesOn.NOBODY:
            survivor = primary if scenario.goes_on == GoesOn.PRIMARY else secondary
            self._await_writes(survivor, inflicted, "after the fault")
        _until(fault + scenario.lasts_s)
        mended = time.monotonic()
        self._mend(scenario.faults, parts)
        if scenario.goes_on == GoesOn.NOBODY:
            self._await_any(mended)
        self._settle()
        times = Times(fault, mended, time.monotonic(), primary.name)
        self._rest()
        told = {node.name: node.guest.journal.since(marks[node.name]) for node in self.nodes}
        heard = [tenure for name, lines in told.items() for tenure in tenures(name, lines)]
        seen = [read for name, lines in told.items() for read in reads(name, lines)]
        wrong = stale(seen, self._before, heard) + self._judge(heard)
        wrong += not_as_expected(scenario.goes_on, times, heard, _KNOWN_S)
        writes = sum(len(tenure.acknowledged) for tenure in heard)
        numbers = measure(scenario.goes_on, times, heard)
        return Round(scenario.name, number, writes, len(seen), wrong=wrong, **numbers)

    # -- the nodes

    def _settle(self) -> Node:
        """Wait until all is in order; the Primary."""
        found: list[Node] = []
        engines: dict[Node, dict[str, Any] | None] = {}

        def settled() -> bool:
            with ThreadPoolExecutor(len(self.nodes)) as side_by_side:
                engines.update(zip(self.nodes, side_by_side.map(_engine, self.nodes), strict=True))
            found[:] = [node for node, engine in engines.items() if engine and engine["role"] == "Primary"]
            return len(found) == 1 and all(engine and _in_order(engine) for engine in engines.values())

        try:
            eventually(settled, "one Primary, connected, both copies in sync", _READY_S)
        except LabError as error:
            seen = "; ".join(f"{node.name}: {_outline(engine)}" for node, engine in engines.items())
            raise LabError(f"{error}: {seen}") from None
        return found[0]

    def _inflict(self, faults: Iterable[Fault], parts: Parts) -> None:
        for fault in faults:
            match fault:
                case PowerCut(machine):
                    parts[machine].guest.power_cut()
                case Freeze(machine):
                    parts[machine].guest.freeze()
                case Cut(sender, receiver):
                    one, other = parts[sender].guest, parts[receiver].guest
                    one.lab.network.cut(one.number, other.number)

    def _mend(self, faults: Iterable[Fault], parts: Parts) -> None:
        dark: list[Node | Witness] = []
        for fault in faults:
            match fault:
                case PowerCut(machine):
                    dark.append(parts[machine])
                case Freeze(machine):
                    parts[machine].guest.thaw()
                case Cut(sender, receiver):
                    one, other = parts[sender].guest, parts[receiver].guest
                    one.lab.network.mend(one.number, other.number)
        for party in dark:
            party.guest.power_on()
        for party in dark:
            party.come_up()
            if isinstance(party, Node):
                self._start_writer(party, "go")
        for party in dark:
            if isinstance(party, Node):
                party.await_daemon()
                self._await_writer(party, "ready")
            else:
                party.await_ready()

    # -- the writers

    def _start_writer(self, node: Node, first: str) -> None:
        life, index = next(self._lives), self.nodes.index(node)
        since = len(node.guest.journal)
        words = f"{LINK} {node.name} {index} {life} {BLOCKS} {self._stride} {_PAUSE_S} {first}"
        command = node.guest.start(f"exec python -m tests.lab.writer_tool write {words}")
        self._writers[node.name] = _Writer(command, life, since)

    @property
    def _stride(self) -> int:
        return self._size // BLOCKS // 4096 * 4096

    def _writer(self, node: Node) -> _Writer:
        writer = self._writers[node.name]
        if not writer.command.running:
            raise LabError(f"the writer of {node.name} ended: {writer.command.stderr}")
        return writer

    def _acknowledged(self, node: Node, after: float) -> int:
        told = node.guest.journal.since(self._writer(node).since)
        return sum(line.at > after and line.text.startswith("ok ") for line in told)

    def _await_writes(self, node: Node, after: float, when: str) -> None:
        what = f"{_STEADY} acknowledged writes of {node.name} {when}"
        eventually(lambda: self._acknowledged(node, after) >= _STEADY, what, _READY_S)

    def _await_any(self, after: float) -> None:
        def any_node() -> bool:
            return any(self._acknowledged(node, after) >= _STEADY for node in self.nodes)

        eventually(any_node, "acknowledged writes of either node after the mending", _READY_S)

    def _await_writer(self, node: Node, word: str) -> None:
        """Wait until the writer's last word, or one of them if that is ``ready``, is ``word``."""
        awaited = f"{word} {self._writer(node).life}"

        def told() -> bool:
            texts = [line.text for line in node.guest.journal.since(self._writer(node).since)]
            return awaited in (texts if word == "ready" else texts[-1:])

        eventually(told, f"the writer of {node.name} says {word}", _READY_S)

    def _rest(self) -> None:
        """Let the writers and readers rest."""
        for node in self.nodes:
            self._writer(node).command.signal("USR1")
        for node in self.nodes:
            self._await_writer(node, "rest")

    # -- the copies

    def _judge(self, heard: Sequence[Tenure]) -> list[str]:
        """What is wrong with blocks, copies or writers. The next round begins with what the blocks hold."""
        held = self._read()
        sums = {node: node.guest.start(_sum_of(node.device, self._size)) for node in self.nodes}
        wrong = judge(held, self._before, heard)
        copies = {node.name: command.wait(120).stdout.split()[0] for node, command in sums.items()}
        if len(set(copies.values())) != 1:
            wrong.append(f"the copies differ: {copies}")
        for node in self.nodes:
            if any("split_brain.found" in command.stderr for command in node.log):
                wrong.append(f"{node.name} reports a split brain")
        self._before = {block: stamp for block, stamp in held.items() if not isinstance(stamp, NotWhole)}
        return wrong

    def _read(self) -> dict[int, Held]:
        """What the blocks hold, read as an application would."""
        words = f"{LINK} {BLOCKS} {self._stride}"
        deadline = time.monotonic() + _READY_S
        while True:
            # On a machine that is too slow for a profile, the role may move for no other reason.
            primary = self._settle()
            try:
                text = primary.guest.run(f"exec python -m tests.lab.writer_tool read {words}", 120)
            except CommandFailed:
                if time.monotonic() > deadline:
                    raise
            else:
                lines = [line.split() for line in text.splitlines()]
                return {int(block): parse_held(words, int(block)) for block, *words in lines}


def make_stage(lab: Lab, profile: str) -> Stage:
    """Boot the three machines, and make a resource that fails over by itself with this profile's timing."""
    return Stage(*make_trio(lab, profile))


def _sum_of(device: str, size: int) -> str:
    read = f"dd if={device} iflag=direct,count_bytes bs=1M count={size} status=none"
    return f"set -eo pipefail; {read} | sha256sum"


def _engine(node: Node) -> dict[str, Any] | None:
    """A node's own view; None while its resource is not up."""
    engine: dict[str, Any] | None = node.report()["engine"]
    return engine


def _in_order(engine: dict[str, Any]) -> bool:
    """Whether a node and its peer have all, and both may be promoted."""
    (peer,) = engine["peers"]
    arbitration = engine["arbitration"]
    # Who may write, only a Primary has to know.
    known = engine["role"] == "Secondary" or len((arbitration["configuration"] or {}).get("in_sync", ())) == 2
    return bool(
        (engine["disk"], peer["disk"]) == ("UpToDate", "UpToDate")
        and (peer["connection"], peer["replication"]) == ("Connected", "Established")
        and peer["out_of_sync_bytes"] == 0
        and known
        and not arbitration["joint"]
        and arbitration["suspended"] is None
    )


def _outline(engine: dict[str, Any] | None) -> str:
    """What keeps a node from being in order, for whoever reads of a round that failed."""
    if engine is None:
        return "not up"
    (peer,) = engine["peers"]
    brief = {key: engine[key] for key in ("role", "disk", "arbitration")}
    return str(brief | {key: peer[key] for key in ("connection", "replication", "split_brain", "refusal")})


def _until(moment: float) -> None:
    """A fault has to last: nothing else is waited for."""
    time.sleep(max(0.0, moment - time.monotonic()))
