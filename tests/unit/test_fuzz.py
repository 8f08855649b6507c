"""A bounded run of the fuzzer's Python targets; `scripts/fuzz` goes on for longer."""

from __future__ import annotations

import pytest

from tests.fuzz.runner import run
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_from_outside_breaks_a_promise(name: str) -> None:
    done = run(TARGETS[name], runs=600, seconds=None, seed=1)
    assert done.inputs == 600 and done.kinds > 3
