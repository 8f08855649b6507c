"""The guided tour of the book, on real kernels: every step is as it says."""

from __future__ import annotations

import pytest
from rich.console import Console
from tour import SOURCE, steps

from tests.lab import tour
from tests.lab.harness import Lab


# Beside others on two processors; alone it takes a minute and a half.
@pytest.mark.timeout(600)
def test_every_step_ends_as_the_tour_says(lab: Lab) -> None:
    tour.run(lab, steps(SOURCE.read_text()), Console(soft_wrap=True))
