"""How one resource's asks reach its arbiter: when to call it, what an answer is good for, when to try again.

Pure: the time, in seconds of a clock that never goes back, is an argument. What is wanted and what is
permitted the engine decides; this only sees to it that the engine hears nothing but what the arbiter holds
(rule LATE):

- one call at a time; it belongs to the ask that it was started for, ends with it at the latest, and its
  answer is nobody else's;
- a swap that was done is answered with what it made; one that was not, or nobody knows, with what is read;
- after a swap that was not answered with yes, a read is answered before the next one.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace

from blockpair.arbiter.interface import Configuration, configuration

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class ReadAsk:
    """The engine wants to know what the arbiter holds."""

    number: int


@dataclass(frozen=True)
class SwapAsk:
    """The engine wants it to hold ``next`` instead of ``expected``."""

    number: int
    expected: Configuration | None
    next: Configuration


Ask = ReadAsk | SwapAsk


# What is to be done. ``call`` tells calls apart.


@dataclass(frozen=True)
class Read:
    """Begin to read what the arbiter holds."""

    call: int


@dataclass(frozen=True)
class Swap:
    """Begin to swap."""

    call: int
    expected: Configuration | None
    next: Configuration


@dataclass(frozen=True)
class Cancel:
    """Wait for this call no longer; a call that follows may begin at once."""

    call: int


@dataclass(frozen=True)
class Say:
    """Tell the engine what the arbiter holds."""

    ask: int
    configuration: Configuration | None


Action = Read | Swap | Cancel | Say


# How a call ended.


@dataclass(frozen=True)
class Held:
    """A read: what the arbiter holds."""

    configuration: Configuration | None


@dataclass(frozen=True)
class Swapped:
    """A swap: whether it was done."""

    done: bool


@dataclass(frozen=True)
class Unreachable:
    """No answer; whether a swap was done is not known."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """An answer of no use: a person must mend something."""

    reason: str


Ending = Held | Swapped | Unreachable | Refused


@dataclass(frozen=True)
class Contact:
    """How the arbiter did, for a person; times as the machine was given them.

    ``last``: of its last answer; ``failing_since``: of the first failure after that; ``error``: the latest
    one, and ``refused`` whether it is the arbiter's own no.
    """

    last: float | None = None
    failing_since: float | None = None
    error: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class _Call:
    number: int
    ask: SwapAsk | ReadAsk | None
    """None: nobody's, only to see whether the arbiter answers."""
    swap: bool


@dataclass(frozen=True)
class Machine:
    """The state of one resource's dealings with its arbiter. ``wake_at``: when `woken` is due, if at all."""

    seed: str
    probe_seconds: float | None = None
    """With nothing asked, see so often whether the arbiter answers; None: never."""
    ask: Ask | None = None
    contact: Contact = Contact()
    wake_at: float | None = None
    _call: _Call | None = None
    _calls: int = 0
    _answered: bool = True
    """Whether the open ask has had its answer."""
    _to_read: bool = False
    """Whether a swap was begun, and no read since then was answered."""
    _failures: int = 0


Step = tuple[Machine, tuple[Action, ...]]


def new_machine(seed: str, now: float, probe_seconds: float | None = None) -> Machine:
    """Nothing is asked. ``seed`` sets this resource's pauses apart from those of others."""
    machine = Machine(seed, probe_seconds)
    return replace(machine, wake_at=_probe_at(machine, now))


def parse_ask(text: str) -> Ask | None:
    """What `Engine.asks` returned. Raises `ValueError`."""
    document = json.loads(text)
    if document is None:
        return None
    if not isinstance(document, dict) or type(number := document.get("ask")) is not int:
        raise ValueError(f"not an ask: {text:.200}")
    if document.get("do") == "read":
        return ReadAsk(number)
    if document.get("do") != "swap":
        raise ValueError(f"an ask for neither read nor swap: {text:.200}")
    expected = document.get("expected")
    return SwapAsk(
        number,
        None if expected is None else configuration(expected),
        configuration(document.get("next")),
    )


def asked(machine: Machine, ask: Ask | None, now: float) -> Step:
    """The engine's open ask is ``ask``; it may be the one that is known already."""
    if _number(ask) == _number(machine.ask):
        return machine, ()
    machine = replace(machine, ask=ask, _answered=ask is None, _failures=0)
    if ask is None:
        # Nor may a call go on that does more than ask: a node that nobody wants off any more stays on.
        actions = () if machine._call is None else (Cancel(machine._call.number),)
        return replace(machine, _call=None, wake_at=_probe_at(machine, now)), actions
    return _begin(machine)


def woken(machine: Machine, now: float) -> Step:
    """``wake_at`` may have come."""
    if machine.wake_at is None or now < machine.wake_at or machine._call is not None:
        return machine, ()
    return _begin(machine)


def ended(machine: Machine, call: int, ending: Ending, now: float) -> Step:
    """The call of that number ended so. One that was cancelled, or ended already, changes nothing."""
    current = machine._call
    if current is None or current.number != call:
        return machine, ()
    machine = replace(machine, _call=None, contact=_contact(machine.contact, ending, now))
    ours = _belongs(current, machine.ask)
    match ending:
        case Unreachable() | Refused():
            return _later(machine, now, worst=isinstance(ending, Refused)), ()
        case Held(found):
            machine = replace(machine, _to_read=False, _failures=0)
            if ours and not machine._answered:
                return _say(machine, found, now)
        case Swapped(done):
            machine = replace(machine, _failures=0)
            if ours and _settles(done):
                assert isinstance(current.ask, SwapAsk)
                machine = replace(machine, _to_read=False)
                return _say(machine, current.ask.next, now)
    if machine._answered:
        return replace(machine, wake_at=_probe_at(machine, now)), ()
    return _begin(machine)


def _number(ask: Ask | None) -> int | None:
    return None if ask is None else ask.number


def _belongs(call: _Call, ask: Ask | None) -> bool:
    """Whether a call was started for the ask that is open: its answer is then of a time after it was put."""
    return call.ask is not None and _number(call.ask) == _number(ask)


def _settles(done: bool) -> bool:
    """Whether the end of a swap says what the arbiter holds."""
    return done


def _reads_first(machine: Machine) -> bool:
    """Whether the open ask's next call is a read."""
    return machine._to_read or not isinstance(machine.ask, SwapAsk)


def _begin(machine: Machine) -> Step:
    """Start the call that the open ask needs next, in the place of an older one's."""
    actions: list[Action] = [] if machine._call is None else [Cancel(machine._call.number)]
    number = machine._calls + 1
    ask = machine.ask
    if isinstance(ask, SwapAsk) and not _reads_first(machine):
        actions.append(Swap(number, ask.expected, ask.next))
        call = _Call(number, ask, swap=True)
    else:
        actions.append(Read(number))
        call = _Call(number, None if machine._answered else ask, swap=False)
    return (
        replace(machine, _call=call, _calls=number, _to_read=machine._to_read or call.swap, wake_at=None),
        tuple(actions),
    )


def _say(machine: Machine, found: Configuration | None, now: float) -> Step:
    assert machine.ask is not None
    said = Say(machine.ask.number, found)
    return replace(machine, _answered=True, wake_at=_probe_at(machine, now)), (said,)


def _later(machine: Machine, now: float, *, worst: bool) -> Machine:
    """After a failure: the next try, or the next look where nothing is asked."""
    if machine._answered:
        return replace(machine, wake_at=_probe_at(machine, now))
    pause = LONGEST_PAUSE_SECONDS
    if not worst:
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(machine._failures, 16), LONGEST_PAUSE_SECONDS)
    # From half of it on: many resources that lost one arbiter do not come back to it at once.
    share = random.Random(f"{machine.seed}/{machine._calls}").uniform(0.5, 1.0)
    return replace(machine, _failures=machine._failures + 1, wake_at=now + pause * share)


def _probe_at(machine: Machine, now: float) -> float | None:
    if machine.probe_seconds is None:
        return None
    share = random.Random(f"{machine.seed}/probe/{machine._calls}").uniform(0.5, 1.0)
    return now + machine.probe_seconds * share


def _contact(contact: Contact, ending: Ending, now: float) -> Contact:
    match ending:
        case Held() | Swapped():
            return Contact(last=now)
        case Unreachable(reason):
            refused = False
        case Refused(reason):
            refused = True
    since = now if contact.failing_since is None else contact.failing_since
    return Contact(contact.last, since, reason, refused)
