"""Automatic failover with a witness, one round of three of the scenarios of ./scripts/failover."""

from __future__ import annotations

import pytest

from tests.lab.harness import Lab
from tests.lab.scenarios import BY_NAME
from tests.lab.stage import make_stage

# How long an application may have to wait: with margin, for a machine that is busy with other tests.
_LONGEST_S = 10.0


@pytest.mark.timeout(400)
def test_power_link_and_freeze(lab: Lab) -> None:
    stage = make_stage(lab, "default")
    for number, name in enumerate(("primary-power", "link", "primary-mute")):
        played = stage.play(BY_NAME[name], number)
        assert played.wrong == []
        (waited,) = [value for value in (played.takeover_s, played.stall_s) if value is not None]
        assert waited < _LONGEST_S, name
