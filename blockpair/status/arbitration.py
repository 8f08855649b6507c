"""Why a resource waits for its arbiter, in words, and what would release it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.status.engine import ArbitrationStatus, EngineStatus, PeerStatus
from blockpair.status.report import Advice, ArbiterReport, ResourceReport
from blockpair.units import format_duration

_WANTS = {
    "create": "the arbiter is to be told that this node is Primary",
    "shrink": "the arbiter is to let this node go on alone",
    "promote": "the arbiter is to let this node take over",
    "resume": "the arbiter is to let this node, which was Primary, go on",
    "grow": "the arbiter is to be told that the other copy is in sync",
    "handover": "the arbiter is to be told of the new Primary",
    "renew": "the arbiter is to give this node a newer epoch",
    "reseed": "the arbiter is to be told again what it has lost",
}
_WATCHDOG_REMEDY = (
    "see to the device, it is tried again every second; or change [watchdog] in blockpair.toml and restart "
    "blockpaird"
)


def manual_because(kind: str, protocol: str, *, clustered: bool, opted_out: bool) -> str | None:
    """Why nobody takes over by itself when a node is lost; None where somebody does. ``opted_out``: the
    resource's own wish.
    """
    if kind == "manual" and not clustered:
        return (
            "this node is in no cluster, so nothing can tell a peer that is dead from one that is out of "
            "reach"
        )
    if kind == "manual" and opted_out:
        return 'the resource says arbiter = "manual"'
    if kind == "manual":
        return (
            "the cluster has no arbiter, and two nodes alone cannot tell a peer that is dead from one "
            "that is "
            "out of reach"
        )
    if protocol == "A" and kind != "fence":
        return (
            "by protocol A a write is acknowledged before the peer has it: the survivor could lack it, "
            "and the "
            "Primary, if it lives, would not know"
        )
    return None


def arbiter_remedy(name: str, kind: str, protocol: str, *, clustered: bool, opted_out: bool) -> str:
    """How failover would be automatic, where `manual_because` says that it is not."""
    if kind == "manual" and not clustered:
        return "make a cluster of the two nodes: `blockpair cluster init --help`"
    # One after the other would leave them with two arbiters.
    again = f"then blockpair down {name} on both nodes, the Primary first, and blockpair up {name} on both"
    if kind == "manual" and opted_out:
        return f"take resource.{name}.arbiter out: `blockpair config edit`; {again}"
    if kind == "manual":
        return (
            "on any third machine: `blockpair witness --help`; then here: blockpair config edit "
            f"--set arbiter.kind=witness --set arbiter.address=HOST:7790; {again}"
        )
    if protocol == "A":
        return (
            f"blockpair config edit --set resource.{name}.protocol=C, or an arbiter of the kind fence; "
            f"{again}"
        )
    return ""


class Failover(Struct, frozen=True):
    """What becomes of a resource when a node is lost: whether the other goes on by itself, ``because`` of
    what not, and how it would. ``arbiter``: for a person.
    """

    automatic: bool
    arbiter: str
    because: str | None
    remedy: str


def failover(name: str, kind: str, place: str, protocol: str, *, clustered: bool) -> Failover:
    """That of a resource that is being made."""
    because = manual_because(kind, protocol, clustered=clustered, opted_out=False)
    remedy = arbiter_remedy(name, kind, protocol, clustered=clustered, opted_out=False)
    return Failover(because is None, place, because, "" if because is None else remedy)


def failover_lines(found: Failover) -> list[str]:
    """The same for a person."""
    if found.automatic:
        return [f"failover: automatic, by the {found.arbiter}"]
    return [
        f"failover: manual, a person promotes: {found.because}",
        f"  automatic: {found.remedy}",
    ]


def head_line(arbiter: ArbiterReport, engine: EngineStatus | None) -> str:
    """One line of the screen: who decides, and what is decided."""
    state = None if engine is None else engine.arbitration
    if arbiter.state == "manual":
        return "manual: no failover without a person"
    told = arbiter.place
    if arbiter.fencing is not None:
        told += f", {_fencing(arbiter)}"
    match arbiter.state:
        case "unasked":
            told += "" if arbiter.fencing is not None else ", not asked yet"
        case "answers":
            ago = "" if arbiter.since_seconds is None else f" {format_duration(arbiter.since_seconds)} ago"
            told += f", answered{ago}"
        case "unreachable":
            told += f", UNREACHABLE{_for(arbiter)}"
        case "refused":
            told += f", REFUSES{_for(arbiter)}"
    if state is not None and state.configuration is not None:
        found = state.configuration
        joint = " (joint)" if state.joint else ""
        told += f"; epoch {found.epoch}, Primary {found.primary}, in sync {', '.join(found.in_sync)}{joint}"
    elif state is not None:
        told += f"; epoch {state.epoch}{_followed(engine)}"
    return told if arbiter.automatic else f"{told}; no failover without a person"


def advice_on(name: str, engine: EngineStatus, arbiter: ArbiterReport | None) -> Iterator[Advice]:
    """What an administrator should know of the arbitration of the resource ``name``."""
    state = engine.arbitration
    if state is None:
        return
    if engine.watchdog is not None:
        yield Advice("critical", "watchdog", _watchdog_text(engine), _WATCHDOG_REMEDY)
    if state.superseded is not None:
        yield Advice(
            "warning",
            "superseded",
            f"this node is Primary no more: {state.superseded}; what used its device got I/O errors",
            "nothing: it catches up by itself, once it is connected; to follow it: "
            f"blockpair sync {name} --wait\n"
            "a file system that was mounted from it has to be unmounted",
        )
    if arbiter is not None and arbiter.state == "refused":
        yield Advice(
            "critical",
            "arbiter-refused",
            f"{arbiter.place} refuses: {arbiter.text}",
            "put that right; it is asked again by itself",
        )
    if state.suspended is not None:
        yield Advice("critical", "suspended", stop(engine, state, arbiter), _release(name, engine, arbiter))
    elif engine.role == "Secondary" and state.want is not None and _may_hope(engine, state):
        yield Advice(
            "warning", "campaign", _campaign(engine, state, arbiter), _campaign_remedy(name, engine, arbiter)
        )
    elif engine.role == "Primary" and (state.want == "reseed" or (state.want is None and state.why)):
        yield Advice(
            "critical", "arbiter-lost-record", _lost_text(state, arbiter), _lost_remedy(name, engine)
        )
    elif state.want is not None and _away(arbiter):
        yield Advice(
            "warning",
            "arbiter-awaited",
            f"{_WANTS.get(state.want, state.want)}: {away_text(arbiter)}{_meanwhile(state)}",
            "see to the arbiter; it is asked again by itself",
        )
    elif arbiter is not None and arbiter.state == "unreachable":
        yield Advice(
            "warning",
            "arbiter-unreachable",
            f"{away_text(arbiter)}; nothing waits for it, but if a node were lost now, the other one would",
            "see to the arbiter; nothing else is to be done",
        )


def watchdog_failure(name: str, engine: EngineStatus | None) -> BlockpairError | None:
    """What a promotion of ``name`` ends with that waits for the watchdog; None: it does not."""
    if engine is None or engine.watchdog is None:
        return None
    given_up = f"; to give it up: blockpair demote {name}" if engine.role == "Primary" else ""
    return BlockpairError(ErrorKind.FAILED, _watchdog_text(engine), _WATCHDOG_REMEDY + given_up)


def _watchdog_text(engine: EngineStatus) -> str:
    served = engine.role == "Primary"
    what = "this node is Primary and serves nothing" if served else "this node does not become Primary"
    return f'{what}, for its blockpair.toml has watchdog.mode = "required": {engine.watchdog}'


def _may_hope(engine: EngineStatus, state: ArbitrationStatus) -> bool:
    """Whether the arbiter's word is what this node waits for: not where it has named another one, or where
    the watchdog comes first.
    """
    return state.superseded is None and engine.watchdog is None


def without_place(text: str, place: str) -> str:
    """An arbiter's complaint, where its place stands before it already."""
    return text.removeprefix(f"the {place}: ")


def waits_for(report: ResourceReport) -> str | None:
    """What a resource waits for the arbiter for, without times, which would differ at each look; None: it
    does not.
    """
    engine = report.engine
    state = None if engine is None else engine.arbitration
    if engine is not None and engine.watchdog is not None:
        return f"waits for the watchdog: {engine.watchdog}"
    if state is None or state.want is None:
        return None
    text = f"waits: {_WANTS.get(state.want, state.want)}"
    arbiter = report.arbiter
    if arbiter is not None and _away(arbiter):
        return f"{text}: {away_text(replace(arbiter, since_seconds=None))}"
    return f"{text}: {state.why}" if state.why else text


def stop(engine: EngineStatus, state: ArbitrationStatus, arbiter: ArbiterReport | None) -> str:
    """Why I/O waits, and what it goes on with."""
    what = "reads and writes wait" if state.suspended == "all" else "writes wait"
    away = [peer for peer in engine.peers if peer.connection != "Connected"]
    # The engine's own words say more where it wants nothing of the arbiter, or the peer is there.
    own = state.why is not None and (state.want is None or not away)
    reasons = [str(state.why).removeprefix(f"{what}: ")] if own else [_silence(peer) for peer in away]
    if state.suspended == "all" and away and state.lease_seconds is None:
        reasons.append("its word that it does not take over has run out")
    fences = arbiter is not None and arbiter.fencing is not None
    if arbiter is not None and fences:
        reasons.append(_fencing(arbiter))
    elif _away(arbiter):
        reasons.append(away_text(arbiter))
    elif state.want is not None:
        reasons.append(_WANTS.get(state.want, state.want))
    if fences:
        release = "goes on by itself once that is proved"
    elif state.fenced and away:
        # A peer with a higher promise confirms nothing of this epoch, connected or not.
        release = "goes on when the arbiter answers"
    elif away and own:
        release = "goes on when both nodes are connected and the arbiter can be reached"
    elif _away(arbiter):
        release = "goes on when either answers" if away else "goes on when the arbiter answers"
    else:
        release = "goes on by itself when that is settled"
    return f"{what}: {', '.join(reasons) or 'no reason is known'}; {release}"


def _campaign(engine: EngineStatus, state: ArbitrationStatus, arbiter: ArbiterReport | None) -> str:
    asks = _WANTS.get(state.want or "", state.want)
    why = f" ({state.why})" if state.why else ""
    away = f"; {away_text(arbiter)}" if _away(arbiter) else ""
    if arbiter is not None and arbiter.fencing is not None:
        away = f"; {_fencing(arbiter)}"
    told = f"{asks}{why}{away}"
    if any(peer.role == "Primary" for peer in _connected(engine)):
        return told
    who = "only the Primary of that record may write, if it lives" if _may_lack(state) else "nobody can write"
    return f"{told}; until then {who}"


def _may_lack(state: ArbitrationStatus) -> bool:
    """The arbiter has named another one, without this copy."""
    return "may lack acknowledged writes" in (state.why or "")


def _campaign_remedy(name: str, engine: EngineStatus, arbiter: ArbiterReport | None) -> str:
    if engine.arbitration is None or not _may_lack(engine.arbitration):
        return _override(name, engine, arbiter)
    peers = " and ".join(peer.name for peer in engine.peers)
    return (
        f"have {peers} connected again: it may be Primary, and has newer data; to override, only when "
        f"{peers} and its disk are gone for good, for what was written without this node is lost then: "
        f"blockpair promote {name} --force"
    )


def _release(name: str, engine: EngineStatus, arbiter: ArbiterReport | None) -> str:
    """What ends a wait of the Primary's."""
    peers = _connected(engine)
    if _away(arbiter) or len(peers) < len(engine.peers) or (arbiter is not None and arbiter.fencing):
        return _override(name, engine, arbiter)
    names = " and ".join(peer.name for peer in peers)
    return (
        f"nothing, unless it lasts: then see on {names} whether it goes by the same arbiter: blockpair "
        f"status {name}; where it does not, there: blockpair down {name} && blockpair up {name}"
    )


def _connected(engine: EngineStatus) -> list[PeerStatus]:
    return [peer for peer in engine.peers if peer.connection == "Connected"]


def _override(name: str, engine: EngineStatus, arbiter: ArbiterReport | None) -> str:
    peers = " and ".join(peer.name for peer in engine.peers)
    fenced = arbiter is not None and arbiter.kind == "fence"
    mend = (
        f"bring {peers} back, or see to its fence: blockpair fence test {peers}"
        if fenced
        else f"bring {peers} or the arbiter back"
    )
    when = f"only when {peers} is certainly off or cut off"
    return f"{mend}; to override, {when}: blockpair promote {name} --force"


def _silence(peer: PeerStatus) -> str:
    if peer.connection == "StandAlone":
        return f"peer {peer.name} disconnected"
    if peer.last_contact_seconds is None:
        return f"peer {peer.name} not heard of since this daemon started"
    return f"peer {peer.name} silent for {format_duration(peer.last_contact_seconds)}"


def _fencing(arbiter: ArbiterReport) -> str:
    since = "" if arbiter.fencing_seconds is None else f" for {format_duration(arbiter.fencing_seconds)}"
    return f"{arbiter.fencing} is being switched off{since}"


def _followed(engine: EngineStatus | None) -> str:
    """A follower does not know the in-sync set, but whom it follows."""
    peers = [] if engine is None or engine.role == "Primary" else _connected(engine)
    return "".join(f", Primary {peer.name}" for peer in peers if peer.role == "Primary")


def _away(arbiter: ArbiterReport | None) -> bool:
    return arbiter is not None and arbiter.state in ("unreachable", "refused")


def away_text(arbiter: ArbiterReport | None) -> str:
    """``witness 10.0.0.3:7790 unreachable for 3.0 s (connection refused)``."""
    if arbiter is None:
        return "the arbiter is not known"
    word = "refuses" if arbiter.state == "refused" else "unreachable"
    why = "" if arbiter.text is None else f" ({arbiter.text})"
    return f"{arbiter.place} {word}{_for(arbiter)}{why}"


def _for(arbiter: ArbiterReport) -> str:
    return "" if arbiter.since_seconds is None else f" for {format_duration(arbiter.since_seconds)}"


def _meanwhile(state: ArbitrationStatus) -> str:
    if state.want == "grow":
        return "; until then the other node does not take over by itself"
    return ""


def _lost_text(state: ArbitrationStatus, arbiter: ArbiterReport | None) -> str:
    place = "the arbiter" if arbiter is None else arbiter.place
    return (
        f"{place} has no record of this resource, or one that is older than epoch {state.epoch}: "
        "nobody goes on "
        "by what it says"
    )


def _lost_remedy(name: str, engine: EngineStatus) -> str:
    peers = " and ".join(peer.name for peer in engine.peers)
    if len(_connected(engine)) == len(engine.peers):
        return "nothing: the two nodes tell it again by themselves"
    return (
        f"connect {peers}: the two nodes tell it again by themselves; if {peers} is lost for good, or "
        f"certainly off: blockpair promote {name} --force"
    )
