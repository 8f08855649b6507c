"""The published status agrees with its schema file and its page."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import msgspec

from blockpair import __version__
from blockpair.status.report import SCHEMA, KernelDeviceStatus, ResourceReport, StatusReport
from blockpair.status.schema import schema_text, status_schema
from tests.unit.status_samples import engine

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs/reference/status-1.schema.json"


def test_the_schema_file_is_what_the_code_says() -> None:
    assert FILE.read_text() == schema_text(), f"python -m blockpair.status.schema > {FILE.relative_to(ROOT)}"


def test_a_report_fits_the_schema_and_the_schema_refuses_others() -> None:
    resource = ResourceReport(
        "r0", "running", None, True, "/d", "internal", [], None, KernelDeviceStatus(False), engine(), [], []
    )
    sent = json.loads(msgspec.json.encode(StatusReport(SCHEMA, "1", "a", "now", True, [resource])))
    validator = jsonschema.Draft202012Validator(status_schema())
    assert list(validator.iter_errors(sent)) == []
    sent["schema"] = "blockpair.status/2"
    assert list(validator.iter_errors(sent))


def test_the_page_explains_every_field() -> None:
    page = (ROOT / "docs/reference/status-json.md").read_text()
    names = {name for part in status_schema()["$defs"].values() for name in part.get("properties", {})}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


def test_there_is_one_version() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
