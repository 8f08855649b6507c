"""The support archive: what is in it, and that no secret is."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from blockpair.config.locations import locations
from blockpair.config.node import read_node
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.secrecy import HIDDEN, scrub
from blockpair.support import archive
from blockpair.support.archive import Source, write
from blockpair.support.sources import secrets, sources

URL = "https://hooks.example.org/services/T0/abcSECRETdef?x=1"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"password": "s3cr3t-1"}', '{"password": "[hidden]"}'),
        ('password = "s3cr3t-1"', 'password = "[hidden]"'),
        ("bmc_password=s3cr3t-1,lanplus=1", "bmc_password=[hidden],lanplus=1"),
        ("api-key: s3cr3t-1", "api-key: [hidden]"),
        ('{"token": null, "a": {"b": 1}}', '{"token": "[hidden]", "a": {"b": 1}}'),
        ("Authorization: Bearer s3cr3t-1", "Authorization: Bearer [hidden]"),
        ("https://user:s3cr3t-1@host:8443/s3cr3t-1/x", "https://host:8443/[hidden]"),
        ('"url": "https://host/s3cr3t-1"', '"url": "https://host/[hidden]"'),
        ("'secret': 's3cr3t-1'", "'secret': '[hidden]'"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_and_a_document_stays_one(text: str, kept: str) -> None:
    assert scrub(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        'password_file = "/etc/blockpair/fence/beta-bmc"',
        'token_file = "/etc/blockpair/token"',
        '{"secret_files": {"sid": "/etc/x"}}',
        "token.made node=beta",
        "see docs/arbiters.md; run blockpair cluster token",
        "10.0.0.1:7788 listens",
    ],
)
def test_what_is_none_stays(text: str) -> None:
    assert scrub(text) == text


def test_known_secrets_go_wherever_they_are() -> None:
    known = ['pa"ss\\word', "plain-one", "plain-one-longer"]
    told = scrub(json.dumps({"why": f"x {known[0]} y"}) + " plain-one-longer plain-one", known)
    assert json.loads(told.partition("}")[0] + "}") == {"why": f"x {HIDDEN} y"}
    assert told.endswith(f"{HIDDEN} {HIDDEN}")


def refuses() -> str:
    raise BlockpairError(ErrorKind.NO_DAEMON, "no daemon answers; password=s3cr3t-1")


def test_what_cannot_be_had_keeps_nothing_from_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    path = tmp_path / "r.tar.gz"
    parts = [
        Source("a/long.txt", lambda: "x" * 1000 + "end"),
        Source("b.txt", refuses),
        Source("c.txt", (tmp_path / "none").read_text),
        Source("d.txt", lambda: "the key-4711 of it"),
    ]
    found = write(path, "report", parts, known=["key-4711"], now=0.0)
    assert found.parts == ["README.txt", "a/long.txt", "d.txt"] and found.missing.keys() == {"b.txt", "c.txt"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = contents(path)
    assert told["report/d.txt"] == "the [hidden] of it"
    assert told["report/a/long.txt"].startswith("[the beginning") and told["report/a/long.txt"].endswith(
        "end"
    )
    assert "s3cr3t" not in "".join(told.values()) and "b.txt  no daemon answers" in told["report/README.txt"]


def contents(path: Path) -> dict[str, str]:
    """Every file of an archive, by name."""
    with tarfile.open(path) as tar:
        read = {entry.name: tar.extractfile(entry) for entry in tar.getmembers()}
        return {name: file.read().decode() for name, file in read.items() if file is not None}


def test_an_archive_is_not_overwritten_and_none_is_left_half_made(tmp_path: Path) -> None:
    path = tmp_path / "r.tar.gz"
    path.write_text("mine")
    with pytest.raises(BlockpairError, match="cannot be written"):
        write(path, "report", [], known=[], now=0.0)
    assert path.read_text() == "mine"

    def fails() -> str:
        raise RuntimeError("not foreseen")

    with pytest.raises(RuntimeError):
        write(tmp_path / "other", "report", [Source("x", fails)], known=[], now=0.0)
    assert not (tmp_path / "other").exists()


def test_the_secrets_of_a_node_are_known_and_its_files_are_collected_without_them(tmp_path: Path) -> None:
    places = locations(directory=str(tmp_path))
    places.resources.mkdir(parents=True)
    token, bmc = tmp_path / "token", tmp_path / "bmc"
    token.write_text("tok-SECRET-1\n")
    bmc.write_text("bmc-SECRET-2\n")
    places.node_file.write_text(
        f'[node]\nname = "a"\n[notify.webhook.chat]\nurl = "{URL}"\ntoken_file = "{token}"\n'
    )
    places.cluster_file.write_text(
        '[cluster]\nname = "t"\nid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"\n'
        '[node.a]\naddresses = ["10.0.0.1"]\n[node.b]\naddresses = ["10.0.0.2"]\n'
        f'[fence.b]\nlevels = [[{{ agent = "fence_ipmilan", password_file = "{bmc}" }}]]\n'
    )
    places.resource_file("r0").write_text('device = "/dev/x"\nmetadata = "internal"\n')
    log = tmp_path / "log"
    log.write_text(f"the agent said: bmc-SECRET-2\nposted to {URL} with tok-SECRET-1\nall is well\n")
    known = secrets(read_node(places.node_file), places)
    assert known == {URL.removeprefix("https://hooks.example.org"), "tok-SECRET-1", "bmc-SECRET-2"}

    def call(method: str, _params: object) -> bytes:
        return json.dumps({"method": method, "url": URL}).encode()

    path = tmp_path / "r.tar.gz"
    write(path, "r", list(sources(places, call, log=str(log), hours=1.0)), known=known, now=0.0)
    told = contents(path)
    assert "SECRET" not in "".join(told.values())
    assert "all is well" in told["r/log.txt"] and "hooks.example.org" in told["r/config/blockpair.toml"]
    assert str(bmc) in told["r/config/cluster.toml"]
    assert json.loads(told["r/status.json"])["method"] == "resource.status"
    assert {"r/metadata/r0.json", "r/config/r0.toml", "r/versions.json"} <= told.keys()
