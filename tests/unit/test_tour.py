"""The guided tour: what stands in the book is what scripts/lab runs."""

from __future__ import annotations

import io
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tour
import vagrant_words
from rich.console import Console

from tests.lab.command import Result
from tests.lab.tour_stage import Outcome, Stage, perform
from tests.lab.vagrant import summary

TEXT = tour.SOURCE.read_text()


def test_the_page_is_made_from_it() -> None:
    present = tour.PAGE.read_text()
    assert present == tour.page(TEXT, present), "run: python scripts/tour.py"


def test_the_readme_of_the_virtual_machines_is_made_from_it() -> None:
    present = tour.README.read_text()
    assert present == tour.readme(TEXT, present), "run: python scripts/tour.py"


def test_the_last_run_of_the_virtual_machines_stays_on_the_page() -> None:
    present = "".join(f"old\n{run}a run of {run}\n{tour.END}older" for run in tour.RUNS)
    made = tour.page(TEXT, present)
    assert all(f"{run}a run of {run}\n{tour.END}" in made for run in tour.RUNS)
    assert "older" not in made
    assert made == tour.page(TEXT, made)


def test_every_deed_has_words_that_are_known_and_a_name_in_the_page() -> None:
    steps = tour.steps(TEXT)
    assert len(steps) > 8
    for step in steps:
        for deed in step.deeds:
            assert bool(deed.act) != bool(deed.command(tour.SHOWN))


def test_a_deed_is_told_as_it_is_typed() -> None:
    told = [deed.told(tour.SHOWN) for step in tour.steps(TEXT) for deed in step.deeds]
    assert "alpha# blockpair cluster init lab --address 10.0.0.1" in told
    assert "pull beta's cable to the other node" in told
    assert not any(name in line for line in told for name in ("{disk1}", "{alpha}", "{token}"))


@pytest.mark.parametrize(
    "deed",
    [
        '{ on = "gamma", run = "true" }',
        '{ on = "alpha", run = "true", sees = "x" }',
        '{ act = "burn", of = "alpha" }',
        '{ on = "alpha", run = "true", keep = "token" }',
        '{ act = "cut", of = "alpha", disk = 2 }',
        '{ act = "pull-disk", of = "alpha" }',
    ],
)
def test_what_cannot_be_done_is_told(deed: str) -> None:
    with pytest.raises(ValueError, match=r"tour\.toml: "):
        tour.steps(f'[[step]]\ntitle = "t"\ntext = "t"\ndo = [{deed}]')


def test_every_act_is_one_of_the_virtual_machines_too() -> None:
    deeds = [deed for step in tour.steps(TEXT) for deed in step.deeds if deed.act]
    assert {deed.act for deed in deeds} == set(tour.ACTS)
    for deed in deeds:
        for command in vagrant_words.commands(deed.act, deed.machine, deed.disk):
            assert f"blockpair-{deed.machine}" in " ".join(command)
    with pytest.raises(ValueError, match="burn"):
        vagrant_words.commands("burn", "alpha")


def test_the_virtual_machines_are_what_the_vagrantfile_makes() -> None:
    text = (tour.ROOT / "vagrant/Vagrantfile").read_text()
    for machine in ("alpha", "beta"):
        assert f'"{vagrant_words.WORDS[machine]}"' in text
    assert f'VIP = "{vagrant_words.WORDS["vip"]}"' in text
    made = re.search(r'format\("(\w+)%02x%02x", number', text)
    assert made is not None
    assert vagrant_words.hardware_address(1, "beta") == ":".join(re.findall("..", made[1])) + ":01:0c"


def test_provisioning_does_what_the_tour_does_by_hand() -> None:
    """Each command and option of the steps that `vagrant up` has done is one of its provisioning."""
    done = (tour.ROOT / "vagrant/provision").read_text()
    commands = [deed.run for step in tour.steps(TEXT) if step.setup for deed in step.deeds]
    assert len(commands) > 8
    for command in commands:
        name = " ".join(command.split()[: 3 if command.startswith("blockpair") else 2])
        assert name in done, name
    for option in re.findall(r"--\S+", " ".join(commands)):
        assert option.split("=")[0] in done, option


class Here(Stage):
    """This machine, three times."""

    def __init__(self) -> None:
        self.words = {"word": "hello"}
        self.acts: list[str] = []

    def execute(self, machine: str, command: str, timeout: float) -> Result:
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=timeout, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def act(self, deed: tour.Deed) -> None:
        self.acts.append(deed.told(self.words))


def step(title: str, *deeds: tour.Deed) -> tour.Step:
    return tour.Step(title, "", deeds)


def test_a_tour_ends_at_what_is_not_as_it_should_be_and_says_what_that_was() -> None:
    stage, said = Here(), io.StringIO()
    good = step(
        "good",
        tour.Deed("alpha", run="echo {word}-1", see=r"hello-(\d)", keep="number"),
        tour.Deed("beta", run="echo {number} >&2; exit 4", see="^1$", code=4),
        tour.Deed("alpha", act="pull-disk", disk=2),
    )
    bad = step("bad", tour.Deed("alpha", run="echo {word}; exit 3", see="hello"))
    outcomes = perform([good, bad, step("never")], stage, Console(file=said))
    assert [(each.title, each.wrong) for each in outcomes] == [
        ("good", ""),
        ("bad", "alpha# echo hello; exit 3"),
    ]
    assert stage.acts == ["pull alpha's disk 2 out"]
    assert "ended with 3, expected 0 and 'hello'" in outcomes[1].why
    assert "failed" in said.getvalue() and "beta# echo 1 >&2; exit 4" in said.getvalue()


def test_what_may_take_its_time_is_tried_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    again = tour.Deed("alpha", run=f"[ -e {mark} ] || {{ touch {mark}; exit 1; }}", within_s=60)
    [outcome] = perform([step("again", again)], Here(), Console(file=io.StringIO()))
    assert outcome.wrong == ""


def test_a_summary_has_the_date_the_durations_and_the_verdicts() -> None:
    outcomes = [Outcome("Look", 12.4), Outcome("Cut a link", 3.0, "alpha# blockpair status")]
    text = summary(outcomes, datetime(2026, 11, 30, tzinfo=UTC), "somewhere")
    assert text.splitlines()[0] == "On 2026-11-30, somewhere."
    assert "| Look | 12 | as it should be |" in text
    assert "| Cut a link | 3 | **failed**: `alpha# blockpair status` |" in text
