"""A unit that dies: restarted, then moved, then left to a person; never for ever, and never to and fro."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from blockpair.failover.restart import Memory, Remedy, RestartPolicy, Verdict, judge

UNITS = ("db.service", "web.service")
POLICY = RestartPolicy()


def run(
    seconds: int, up: dict[float, frozenset[str]], *, peer_can: bool = True, memory: Memory | None = None
) -> tuple[Memory, list[tuple[float, Verdict]]]:
    """What is done, second by second; ``up``: what is active from each moment on, whatever is done about
    it.
    """
    memory = memory or Memory()
    active: frozenset[str] = frozenset(UNITS)
    done: list[tuple[float, Verdict]] = []
    for now in range(seconds):
        active = up.get(now, active)
        memory, verdict = judge(memory, POLICY, UNITS, active, float(now), peer_can=peer_can)
        if verdict.remedy is not Remedy.NOTHING:
            done.append((now, verdict))
    return memory, done


def test_all_is_well() -> None:
    assert run(1000, {})[1] == []


def test_restarts_come_with_growing_pauses_then_a_switchover_then_a_word() -> None:
    _, done = run(200, {10: frozenset({"db.service"})})
    assert [(at, verdict.remedy) for at, verdict in done[:5]] == [
        (11, Remedy.RESTART),
        (16, Remedy.RESTART),
        (31, Remedy.RESTART),
        (32, Remedy.SWITCHOVER),
        (33, Remedy.STAY),
    ]
    assert {verdict.unit for _, verdict in done} == {"web.service"}
    assert {verdict.remedy for _, verdict in done[5:]} == {Remedy.STAY}
    assert "did not help" in done[-1][1].why


def test_the_unit_that_others_may_need_is_seen_to_first() -> None:
    _, done = run(20, {10: frozenset()})
    assert done[0][1].unit == "db.service"


def test_a_unit_that_recovers_is_forgiven_after_a_while() -> None:
    memory, done = run(700, {10: frozenset({"db.service"}), 12: frozenset(UNITS)})
    assert [verdict.remedy for _, verdict in done] == [Remedy.RESTART]
    assert memory.restarts == {}


def test_without_a_peer_that_can_it_stays() -> None:
    _, done = run(60, {10: frozenset({"db.service"})}, peer_can=False)
    assert Remedy.SWITCHOVER not in {verdict.remedy for _, verdict in done}
    assert "the peer cannot take over" in done[-1][1].why


@given(
    st.lists(st.tuples(st.floats(0, 30), st.sets(st.sampled_from(UNITS)), st.booleans()), max_size=300),
)
def test_whatever_units_do_remedies_are_bounded(course: list[tuple[float, set[str], bool]]) -> None:
    memory, now = Memory(), 0.0
    restarts: dict[str, list[float]] = {unit: [] for unit in UNITS}
    counts: Counter[Remedy] = Counter()
    for passed, active, peer_can in course:
        now += passed
        memory, verdict = judge(memory, POLICY, UNITS, frozenset(active), now, peer_can=peer_can)
        counts[verdict.remedy] += 1
        if verdict.remedy is Remedy.RESTART:
            assert verdict.unit not in active
            restarts[verdict.unit].append(now)
    for times in restarts.values():
        for first, after in zip(times, times[POLICY.restarts :], strict=False):
            assert after - first >= POLICY.memory
    # A course of 300 looks lasts less than the memory of a switchover.
    assert counts[Remedy.SWITCHOVER] <= POLICY.switchovers
