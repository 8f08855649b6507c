"""What a change of the configuration takes, told."""

from __future__ import annotations

import pytest

from blockpair.cli.version_text import tell_version


@pytest.mark.parametrize(
    ("service", "told"),
    [
        ({}, []),
        ({"service": "", "manual": ""}, []),
        ({"manual": "by protocol A"}, ["from then on nobody takes r0 over by itself: by protocol A"]),
        (
            {"service": "first"},
            ["where r0 is Primary already, its service is brought up by: blockpair promote r0"],
        ),
    ],
)
def test_a_daemon_that_is_older_than_the_command_says_nothing_of_these(
    capsys: pytest.CaptureFixture[str], service: dict[str, str], told: list[str]
) -> None:
    effect = {"resource": "r0", "nodes": ["a"], "arbiter": False, **service}
    answer = {"changed": True, "version": 5, "why": "set x", "pending": {}, "effects": [effect]}
    assert tell_version(answer, unchanged="", as_json=False) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == ["r0 goes on as before until: blockpair down r0 && blockpair up r0 (on a)", *told]
