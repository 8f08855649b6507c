"""Two nodes that keep the rules of arbitration, in a few lines each, the real machine that asks an arbiter
for them, and a register: with a network that loses, delays and reorders, time-outs, late answers and crashes.

There is no clock but for the machine's pauses: what holds here holds under any pause, drift or delay.
``without`` names rules that are switched off, so that a test can see that each of them is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from blockpair.arbiter import machine as rules
from blockpair.arbiter.interface import Configuration
from blockpair.arbiter.machine import (
    Action,
    Ask,
    Cancel,
    Ending,
    Held,
    Machine,
    Read,
    ReadAsk,
    Say,
    Swap,
    SwapAsk,
    Swapped,
    Unreachable,
)

NAMES = ("a", "b")
BOTH = frozenset(NAMES)
MAX_WRITES = 8
MAX_CRASHES = 3
MAX_EPOCH = 14
MAX_MESSAGES = 8

Choose = Callable[[int], int]


class Violation(AssertionError):
    """A rule of the whole does not hold any more; the steps that led there."""


@dataclass
class Want:
    """What a node asks the arbiter for. ``next``: None until it was read."""

    kind: str
    next: Configuration | None = None


@dataclass
class Node:
    """Of these only ``disk``, ``promised`` and ``entered`` are there after a crash."""

    name: str
    disk: set[int] = field(default_factory=set)
    promised: int = 1
    entered: int = 0
    """The last epoch that it was Primary in."""
    up: bool = True
    primary: bool = False
    epoch: int = 0
    need: frozenset[str] = frozenset()
    in_sync: frozenset[str] = frozenset()
    pending: dict[int, set[str]] = field(default_factory=dict)
    word: int = 0
    """The epoch that the other one has handed over."""
    want: Want | None = None
    ask: Ask | None = None
    machine: Machine = field(default_factory=lambda: rules.new_machine("", 0.0))
    unread: bool = False
    """Whether a swap was begun, and nothing since has told what the arbiter holds."""

    @property
    def other(self) -> str:
        return "b" if self.name == "a" else "a"


@dataclass
class Request:
    """A call on its way to the arbiter, or its answer on the way back. ``life``: the node's, then."""

    node: str
    life: int
    call: int
    action: Read | Swap
    answer: Ending | None = None


class World:
    """Everything, one step at a time."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        self.without = without
        self.register: Configuration | None = Configuration(1, "a", BOTH)
        self.nodes = {name: Node(name) for name in NAMES}
        first = self.nodes["a"]
        first.primary, first.epoch, first.entered = True, 1, 1
        first.need = first.in_sync = BOTH
        self.acked: set[int] = set()
        self.messages: list[tuple[str, str, str, int, int]] = []
        """From, to, what, epoch, write."""
        self.requests: list[Request] = []
        self.lives = dict.fromkeys(NAMES, 0)
        self.asks = 0
        self.writes = 0
        self.crashes = 0
        self.now = 0.0
        self.story: list[str] = []
        for name in NAMES:
            self._fresh_machine(name)

    # -- One step

    def step(self, choose: Choose) -> None:
        """Do one of the things that may happen now. Raises `Violation`."""
        enabled = self._enabled()
        name, action = enabled[choose(len(enabled))]
        self.story.append(name)
        self.now += 0.001
        action()
        self._check()

    def _enabled(self) -> list[tuple[str, Callable[[], None]]]:
        found: list[tuple[str, Callable[[], None]]] = []
        for node in self.nodes.values():
            found += self._of(node)
        for index, message in enumerate(self.messages):
            text = "{}->{} {} @{} {}".format(*message)
            found += [(text, lambda i=index: self._receive(self.messages.pop(i)))] * 3  # type: ignore[misc]
            found.append((f"lost: {text}", lambda i=index: self._lose(i)))  # type: ignore[misc]
        for request in self.requests:
            text = f"{request.node}/{request.call}"
            if request.answer is None:
                found += [(f"arbiter does {text}", lambda r=request: self._perform(r))] * 3  # type: ignore[misc]
            else:
                found += [(f"answer of {text}", lambda r=request: self._answer(r))] * 3  # type: ignore[misc]
            if self._waited_for(request):
                found.append((f"time-out of {text}", lambda r=request: self._time_out(r)))  # type: ignore[misc]
            else:
                found.append((f"lost: {text}", lambda r=request: self.requests.remove(r)))  # type: ignore[misc]
        a, b = self.nodes.values()
        if a.up and b.up:
            found.append(("contact", self._contact))
        return found

    def _of(self, x: Node) -> list[tuple[str, Callable[[], None]]]:
        if not x.up:
            return [(f"{x.name} starts", lambda: self._start(x))] * 2
        y = self.nodes[x.other]
        found: list[tuple[str, Callable[[], None]]] = []
        if self.crashes < MAX_CRASHES:
            found.append((f"{x.name} crashes", lambda: self._crash(x)))
        if x.machine.wake_at is not None:
            found += [(f"{x.name} wakes", lambda: self._wake(x))] * 2
        if x.want is not None:
            found.append((f"{x.name} wants no more", lambda: self._want(x, None)))
        if x.primary and self.writes < MAX_WRITES and (x.want is None or x.want.kind != "shrink"):
            found += [(f"{x.name} writes", lambda: self._write(x))] * 3
        if x.want is not None or self.register is None or self.register.epoch >= MAX_EPOCH:
            return found
        if not x.primary:
            found.append((f"{x.name} wants to promote", lambda: self._want(x, "promote")))
            if x.entered and "once" in self.without:
                found.append((f"{x.name} wants to resume", lambda: self._want(x, "resume")))
            return found
        if y.name in x.need:
            found.append((f"{x.name} wants to shrink", lambda: self._want(x, "shrink")))
            if y.name in x.in_sync and (not x.pending or "handover" in self.without):
                found.append((f"{x.name} hands over", lambda: self._hand_over(x)))
            if y.name not in x.in_sync:
                found += [(f"{x.name} wants to grow", lambda: self._want(x, "grow"))] * 2
        elif y.up and not y.primary and y.promised <= x.epoch:
            found += [(f"{x.name} resyncs {y.name}", lambda: self._resync(x, y))] * 2
        return found

    # -- The data path

    def _write(self, x: Node) -> None:
        number, self.writes = self.writes, self.writes + 1
        x.disk.add(number)
        x.pending[number] = {x.name}
        self._replicate(x, number)
        self._complete(x)

    def _replicate(self, x: Node, number: int) -> None:
        if x.other in x.need and len(self.messages) < MAX_MESSAGES:
            self.messages.append((x.name, x.other, "write", x.epoch, number))

    def _complete(self, x: Node) -> None:
        """Rule ACK."""
        need = frozenset((x.name,)) if "ack" in self.without else x.need
        for number, has in list(x.pending.items()):
            if need <= has:
                del x.pending[number]
                self.acked.add(number)

    def _receive(self, message: tuple[str, str, str, int, int]) -> None:
        source, target, what, epoch, number = message
        x = self.nodes[target]
        if not x.up:
            return
        if what == "word":
            x.word = epoch
        elif what == "done":
            if x.primary and x.epoch == epoch and number in x.pending:
                x.pending[number].add(source)
                self._complete(x)
        elif epoch >= x.promised or "fence" in self.without:
            # Rule FENCE.
            if x.primary and epoch > x.epoch:
                self._step_down(x)
            if x.primary:
                raise self._violation(f"two writers: {x.name} confirms to {source} and is Primary itself")
            x.promised = max(x.promised, epoch)
            x.disk.add(number)
            self.messages.append((target, source, "done", epoch, number))

    def _lose(self, index: int) -> None:
        del self.messages[index]

    def _contact(self) -> None:
        """Nodes that meet tell each other the highest epoch they know; a Primary sends again what waits."""
        if "fence" not in self.without:
            highest = max(node.promised for node in self.nodes.values())
            for node in self.nodes.values():
                node.promised = highest
                if node.primary and node.epoch < highest:
                    self._step_down(node)
        for node in self.nodes.values():
            for number in node.pending:
                self._replicate(node, number)

    def _step_down(self, x: Node) -> None:
        x.primary = False
        x.pending.clear()
        self._want(x, None)

    def _resync(self, x: Node, y: Node) -> None:
        """Rule GROW: the peer has everything, and its word counts first."""
        y.disk = set(x.disk)
        y.promised = x.epoch
        if "grow" not in self.without:
            x.need = BOTH
        self._want(x, "grow")

    def _hand_over(self, x: Node) -> None:
        """Rule HANDOVER: drained and demoted first."""
        self._step_down(x)
        self.messages.append((x.name, x.other, "word", x.epoch, 0))

    # -- What a node asks

    def _want(self, x: Node, kind: str | None) -> None:
        if kind == "shrink" and "shrink" in self.without:
            x.need = frozenset((x.name,))
            self._complete(x)
            return
        if kind == "shrink" and "joint" in self.without and x.other not in x.in_sync:
            # It never was in sync, so why ask? Because a late swap may still make it so.
            x.need = x.in_sync
            self._complete(x)
            return
        x.want = None if kind is None else Want(kind)
        self._put(x, None if kind is None else ReadAsk(self._number()))

    def _number(self) -> int:
        self.asks += 1
        return self.asks

    def _put(self, x: Node, ask: Ask | None) -> None:
        x.ask = ask
        self._take(x, rules.asked(x.machine, ask, self.now))

    def _told(self, x: Node, ask: int, found: Configuration | None) -> None:
        """The engine's half of an answer: judge, and ask on."""
        if x.ask is None or x.ask.number != ask or x.want is None or found is None:
            return
        if x.primary and (found.primary != x.name or found.epoch < x.epoch):
            x.promised = max(x.promised, found.epoch)
            self._step_down(x)
            return
        if x.want.next is not None or (x.primary and found.epoch > x.epoch):
            # The end of a swap, or of one whose answer never came.
            # What a Primary finds unchanged proves nothing: its swap may still arrive. It stays as it was.
            newer = found.epoch > x.epoch or "stay" in self.without
            mine = found == x.want.next or (x.primary and found.primary == x.name and newer)
            x.want = x.ask = None
            if mine and found.epoch >= x.promised:
                self._enter(x, found)
            return
        if x.want.kind == "resume" and found.primary == x.name and found.epoch == x.entered:
            x.want = x.ask = None
            self._enter(x, found)
            return
        wanted = self._judge(x, x.want.kind, found)
        if wanted is None:
            x.want = x.ask = None
            return
        x.want.next = wanted
        # Rule FENCE: durable before it is acted on.
        x.promised = max(x.promised, wanted.epoch) if not x.primary else x.promised
        self._put(x, SwapAsk(self._number(), found, wanted))

    def _judge(self, x: Node, kind: str, found: Configuration) -> Configuration | None:
        alone = frozenset((x.name,))
        following = max(found.epoch + 1, x.promised)
        if kind == "shrink":
            return Configuration(following, x.name, alone)
        if kind == "grow":
            return Configuration(following, x.name, BOTH)
        if x.name not in found.in_sync and "promote" not in self.without:
            return None
        if x.word == found.epoch and found.in_sync == BOTH and found.primary == x.other:
            return Configuration(following, x.name, BOTH)
        return Configuration(following, x.name, alone)

    def _enter(self, x: Node, found: Configuration) -> None:
        """Rule ONCE: an epoch is entered when the arbiter holds it, and never again."""
        x.primary, x.epoch, x.entered = True, found.epoch, found.epoch
        x.promised = max(x.promised, found.epoch)
        x.need = x.in_sync = found.in_sync
        if "grow" in self.without and found.in_sync == BOTH and x.other not in self.nodes[x.name].need:
            x.need = frozenset((x.name,))
        x.word = 0
        for number in x.pending:
            self._replicate(x, number)
        self._complete(x)

    # -- The machine and the arbiter

    def _fresh_machine(self, name: str) -> None:
        self.lives[name] += 1
        node = self.nodes[name]
        node.machine = rules.new_machine(f"{name}/{self.lives[name]}", self.now)
        node.unread = False

    def _take(self, x: Node, step: tuple[Machine, tuple[Action, ...]]) -> None:
        x.machine, actions = step
        for action in actions:
            match action:
                case Read(call) | Swap(call):
                    if isinstance(action, Swap):
                        if x.unread:
                            raise self._violation("two swaps, and nobody knows what became of the first")
                        x.unread = True
                    self.requests.append(Request(x.name, self.lives[x.name], call, action))
                case Cancel():
                    # What is on its way arrives all the same, or not.
                    pass
                case Say(ask, found):
                    self._told(x, ask, found)

    def _perform(self, request: Request) -> None:
        action = request.action
        if isinstance(action, Read):
            request.answer = Held(self.register)
            return
        done = self.register == action.expected or "swap" in self.without
        if done:
            self.register = action.next
        request.answer = Swapped(done)

    def _waited_for(self, request: Request) -> bool:
        node = self.nodes[request.node]
        return node.up and request.life == self.lives[request.node]

    def _answer(self, request: Request) -> None:
        self.requests.remove(request)
        assert request.answer is not None
        self._end(request, request.answer)

    def _time_out(self, request: Request) -> None:
        """The caller waits no longer; what it sent may arrive later."""
        # Its answer is nobody's from here on.
        lost = Request(request.node, -1, request.call, request.action, request.answer)
        self.requests[self.requests.index(request)] = lost
        unknown = isinstance(request.action, Swap) and "unknown" in self.without
        self._end(request, Swapped(True) if unknown else Unreachable("cut"))

    def _end(self, request: Request, ending: Ending) -> None:
        node = self.nodes[request.node]
        if not self._waited_for(request):
            return
        call = request.call
        current = node.machine._call
        if "late" in self.without and current and current.swap == isinstance(ending, Swapped):
            call = current.number
        told = isinstance(ending, Held) or ending == Swapped(True)
        if current is not None and current.number == call and told:
            node.unread = False
        self._take(node, rules.ended(node.machine, call, ending, self.now))

    def _wake(self, x: Node) -> None:
        assert x.machine.wake_at is not None
        self.now = max(self.now, x.machine.wake_at)
        self._take(x, rules.woken(x.machine, self.now))

    # -- Crashes

    def _crash(self, x: Node) -> None:
        self.crashes += 1
        self.nodes[x.name] = Node(x.name, x.disk, x.promised, x.entered, up=False)
        self._fresh_machine(x.name)

    def _start(self, x: Node) -> None:
        x.up = True

    # -- What must hold

    def _violation(self, what: str) -> Violation:
        return Violation(f"{what}; " + "; ".join(self.story))

    def _check(self) -> None:
        held = self.register
        assert held is not None
        for name in held.in_sync:
            lost = self.acked - self.nodes[name].disk
            if lost:
                raise self._violation(f"acknowledged writes {lost} are not on {name}, which may be promoted")
        writers = [node for node in self.nodes.values() if node.primary]
        if len(writers) == 2 and all(node.need == {node.name} for node in writers):
            raise self._violation("two writers: both complete writes alone")
        for node in writers:
            if node.epoch > held.epoch:
                raise self._violation(f"{node.name} writes in an epoch that the arbiter never held")
            if node.epoch == held.epoch and held.primary != node.name:
                raise self._violation(f"{node.name} writes in an epoch that is the other one's")
            if node.epoch == held.epoch and held.in_sync == BOTH:
                unmarked = (node.disk ^ self.nodes[node.other].disk) - node.pending.keys()
                if unmarked:
                    raise self._violation(f"the nodes differ in {unmarked}, and nothing says so")
