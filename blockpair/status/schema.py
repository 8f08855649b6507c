"""The JSON schema of the published status; run as a program, it prints it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from blockpair.status.report import StatusReport


def status_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of `StatusReport`."""
    schema = msgspec.json.schema(StatusReport)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "blockpair.status/1",
        **schema,
    }


def schema_text() -> str:
    """The text of docs/reference/status-1.schema.json."""
    return json.dumps(status_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
