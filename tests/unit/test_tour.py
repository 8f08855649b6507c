"""The guided tour: what stands in the book is what scripts/lab runs."""

from __future__ import annotations

import pytest
import tour

TEXT = tour.SOURCE.read_text()


def test_the_page_is_made_from_it() -> None:
    assert tour.PAGE.read_text() == tour.page(TEXT), "run: python scripts/tour.py"


def test_every_deed_has_words_that_are_known_and_a_name_in_the_page() -> None:
    steps = tour.steps(TEXT)
    assert len(steps) > 8
    for step in steps:
        for deed in step.deeds:
            assert bool(deed.act) != bool(deed.command(tour.SHOWN))


@pytest.mark.parametrize(
    "deed",
    [
        '{ on = "gamma", run = "true" }',
        '{ on = "alpha", run = "true", sees = "x" }',
        '{ act = "burn", of = "alpha" }',
        '{ on = "alpha", run = "true", keep = "token" }',
    ],
)
def test_what_cannot_be_done_is_told(deed: str) -> None:
    with pytest.raises(ValueError, match=r"tour\.toml: "):
        tour.steps(f'[[step]]\ntitle = "t"\ntext = "t"\ndo = [{deed}]')
