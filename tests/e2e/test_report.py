"""`blockpair report` of a live node that knows secrets, and of one whose daemon is gone."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from tests.e2e.cluster import Cluster

URL = "https://127.0.0.1:9/services/abcSECRETdef"


def contents(path: Path) -> dict[str, str]:
    """Every file of an archive, by name without the folder."""
    with tarfile.open(path) as tar:
        read = {entry.name.partition("/")[2]: tar.extractfile(entry) for entry in tar.getmembers()}
        return {name: file.read().decode() for name, file in read.items() if file is not None}


def test_everything_is_in_it_but_secrets(cluster: Cluster, base: Path) -> None:
    a = cluster.a
    token_file = base / "token"
    token_file.write_text("tok-SECRET-1\n")
    a.configure(f'[notify.webhook.chat]\nurl = "{URL}"\ntoken_file = "{token_file}"\n')
    cluster.start(a)
    a.ok("cluster", "init", "test")
    token = a.rpc("cluster.token")["text"]
    keys = [file.read_text() for file in (a.dir / "state/trust").rglob("*.key")]
    assert keys
    # What a program at fault might have written.
    with a.log.open("a") as log:
        log.write(f"oops: {token} {keys[0]} tok-SECRET-1 {URL}\n")
    done = a.ok("report", "--json", "--output", str(base / "live.tar.gz")).json()
    told = contents(base / "live.tar.gz")
    assert set(done["parts"]) == told.keys()
    whole = "".join(told.values())
    needles = [
        "SECRET",
        token.removeprefix("bpj1-"),
        *(line for key in keys for line in key.splitlines()[1:-1]),
    ]
    assert [needle for needle in needles if needle in whole] == []
    assert "daemon.ready" in told["log.txt"] and "oops: [hidden]" in told["log.txt"]
    assert json.loads(told["status.json"])["node"] == "a"
    assert json.loads(told["checks.json"])["schema"] == "blockpair.checks/1"
    assert "cluster.begun" in told["events.jsonl"]

    a.kill()
    done = a.ok("report", "--json", "--output", str(base / "dead.tar.gz")).json()
    assert "no blockpaird answers" in done["missing"]["status.json"]
    assert "cluster.begun" in contents(base / "dead.tar.gz")["events.jsonl"]
    assert "is there already" in a.refused(1, "report", "--output", str(base / "dead.tar.gz"))
