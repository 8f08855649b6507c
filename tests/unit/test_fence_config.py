"""[fence.NODE] in cluster.toml: what is taken, and what is told of what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blockpair.config.fence import (
    Device,
    NodeFence,
    check_pair,
    fence_tables,
    node_fences,
    read_fences,
)
from blockpair.config.files import ConfigError

FILE = Path("cluster.toml")
NODES = ("alpha", "beta")
BOARD: dict[str, Any] = {
    "agent": "fence_ipmilan",
    "options": {"ip": "10.0.9.2", "username": "fence", "lanplus": True, "plug": 1},
    "password_file": "/etc/blockpair/fence/beta",
    "timeout": "20s",
}


def fences(raw: object) -> dict[str, NodeFence]:
    return node_fences(fence_tables(raw, FILE), NODES, FILE)


def with_board(**changed: Any) -> dict[str, Any]:
    return {"beta": {"levels": [[{**BOARD, **changed}]]}}


def test_what_a_table_says() -> None:
    socket = {"agent": "/opt/fence_socket", "options": {}, "secret_files": {"snmp-priv-passwd": "/etc/snmp"}}
    found = fences({"beta": {"delay": "15s", "levels": [[BOARD], [socket, socket]]}})["beta"]
    options = (("ip", "10.0.9.2"), ("username", "fence"), ("lanplus", "1"), ("plug", "1"))
    secrets = (("password", Path("/etc/blockpair/fence/beta")),)
    assert found.levels[0] == (Device("fence_ipmilan", options, secrets, 20.0),)
    assert found.delay == 15.0
    assert [name for name, _ in found.devices] == [
        "1.1 fence_ipmilan",
        "2.1 fence_socket",
        "2.2 fence_socket",
    ]
    assert found.levels[1][0].secrets == (("snmp-priv-passwd", Path("/etc/snmp")),)


def test_a_path_to_a_secret_is_not_shown() -> None:
    assert "/etc/blockpair" not in repr(fences(with_board())["beta"])


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ([], "fence: must be of type object"),
        ({"beta": 1}, "fence.beta: "),
        ({"beta": {}}, "fence.beta.levels: is missing"),
        ({"beta": {"levels": [], "x": 1}}, "fence.beta.x: there is no such key"),
        ({"gamma": {"levels": [[BOARD]]}}, "fence.gamma: there is no such node"),
        ({"beta": {"levels": []}}, "fence.beta.levels: has 0 levels"),
        ({"beta": {"levels": [[BOARD]] * 5}}, "fence.beta.levels: has 5 levels"),
        ({"beta": {"levels": [[BOARD], []]}}, "fence.beta.levels[1]: has 0 devices"),
        ({"beta": {"levels": [[BOARD] * 9]}}, "fence.beta.levels[0]: has 9 devices"),
        ({"beta": {"levels": [[BOARD]], "delay": "1"}}, "fence.beta.delay: '1' is not a duration"),
        ({"beta": {"levels": [[BOARD]], "delay": "1h"}}, "fence.beta.delay: 1h is not from 0 to 300"),
        (with_board(agent="ipmilan"), "fence.beta.levels[0][0].agent: 'ipmilan' is not a fence agent"),
        (with_board(agent="/bin/sh"), "levels[0][0].agent: '/bin/sh' is not a fence agent"),
        (with_board(agent="../fence_x"), "levels[0][0].agent: '../fence_x' is not a fence agent"),
        (with_board(agent="fence_x\n"), "levels[0][0].agent: 'fence_x\\n' is not a fence agent"),
        (with_board(timeout="0s"), "levels[0][0].timeout: 0s is not from 1 to 600 seconds"),
        (with_board(options={"a b": "x"}), "options.a b: is not the name of an option"),
        (with_board(options={"action": "on"}), "options.action: is said by blockpair itself"),
        (with_board(options={"delay": 3}), "options.delay: is said by blockpair itself"),
        (with_board(options={"passwd": "x"}), "options.passwd: is a secret"),
        (with_board(options={"secret_key": "x"}), "options.secret_key: is a secret"),
        (with_board(options={"password_script": "/x"}), "options.password_script: would let whoever"),
        (with_board(options={"ssh_options": "-o x"}), "options.ssh_options: would let whoever"),
        (with_board(options={"ip": "a\naction=on"}), "options.ip: is not a line"),
        (with_board(options={"ip": "a" * 2000}), "options.ip: is not a line"),
        (with_board(options={"ip": 1.5}), "levels[0][0].options"),
        (with_board(options={f"o{at}": "x" for at in range(70)}), "options: are more than 64"),
        (with_board(password_file="x"), "password_file: 'x' is not an absolute path"),
        (with_board(secret_files={"ip": "/x"}), "secret_files.ip: 'ip' is no option, or one twice"),
        (with_board(secret_files={"action": "/x"}), "secret_files.action: 'action' is no option"),
    ],
)
def test_what_cannot_be_is_told_with_its_place_and_remedy(raw: object, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        fences(raw)
    assert told in error.value.message
    assert error.value.message.startswith("cluster.toml: fence")
    assert error.value.remedy


def test_a_pair_must_be_able_to_fence_each_other_and_not_at_the_same_moment() -> None:
    one = fences(with_board())
    with pytest.raises(ConfigError, match=r"fence\.alpha: is missing"):
        check_pair(one, NODES, FILE)
    level = [[BOARD]]
    same = fences({"alpha": {"levels": level}, "beta": {"levels": level}})
    with pytest.raises(ConfigError, match=r"fence\.alpha\.delay: is the same as beta's") as error:
        check_pair(same, NODES, FILE)
    assert 'delay = "15s" in [fence.alpha] keeps alpha' in error.value.remedy
    check_pair(fences({"alpha": {"levels": level, "delay": "15s"}, "beta": {"levels": level}}), NODES, FILE)


def test_a_file_is_read_for_its_fences_alone(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        '[cluster]\nname = "east"\n[node.beta]\n[fence.beta]\nlevels = [[{ agent = "fence_x" }]]\n'
    )
    assert list(read_fences(file)) == ["beta"]
    file.write_text("[node.beta]\n")
    assert read_fences(file) == {}
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_fences(file)
    with pytest.raises(FileNotFoundError):
        read_fences(tmp_path / "none")
