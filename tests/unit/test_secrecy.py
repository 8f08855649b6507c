"""No key and no join token reaches a log, a crash report or a repr."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

import blockpair
from blockpair.cli.output import report_crash
from blockpair.config.node import LogFormat
from blockpair.secrecy import HIDDEN, NAMES, redact, redacted
from blockpair.service import logs
from blockpair.trust.authority import new_authority
from blockpair.trust.tokens import new_token

AUTHORITY = new_authority("east", datetime(2026, 1, 1, tzinfo=UTC))
KEY = AUTHORITY.key
TOKEN = new_token(secrets.token_bytes(32))
TEXT = TOKEN.text()
# What no record may contain: a line from the middle of the key, and the token but for its prefix.
BODY = KEY.splitlines()[2]
NEEDLES = (BODY, TEXT.removeprefix("bpj1-"), TOKEN.secret.hex())


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Whatever a test makes of structlog, the others get it as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def clean(text: str) -> bool:
    """Whether nothing secret is in ``text``."""
    return not any(needle in text for needle in NEEDLES)


def crash(key: str, token: str) -> None:
    """Fails with secrets in local variables, in an argument and in the error's text."""
    kept = {"key": key, "token": token, "raw": TOKEN.secret}
    raise ValueError(f"cannot use {token} and {key}", kept)


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_crash_with_secrets_in_reach_is_logged_without_them(
    form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(form, "info")
    try:
        crash(KEY, TEXT)
    except ValueError:
        structlog.get_logger().exception("rpc.crash", method="cluster.join")
    told = capsys.readouterr().err
    assert "ValueError" in told and "cannot use" in told and "test_secrecy.py" in told
    assert BODY not in told and TEXT.removeprefix("bpj1-") not in told
    assert "locals" not in told


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_record_that_is_given_secrets_does_not_show_them(
    form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(form, "info")
    structlog.get_logger().bind(bound=KEY).info(
        f"joined with {TEXT}",
        params={"deep": [{"ca_key": "abc", "x": KEY}]},
        raw=KEY.encode(),
        secret=TOKEN.secret,
        token=TOKEN,
        node="beta",
        port=7789,
    )
    told = capsys.readouterr().err
    assert clean(told) and HIDDEN in told and "abc" not in told
    # The rest is as it was; a token's id opens nothing, and is what an administrator looks for.
    assert "beta" in told and "7789" in told and TOKEN.id in told


def test_a_crash_of_the_command_is_reported_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        crash(KEY, TEXT)
    except ValueError as error:
        report_crash(error, as_json=False)
    told = capsys.readouterr().err
    file = Path(told.partition("the details are in ")[2].partition(";")[0])
    written = file.read_text()
    file.unlink()
    assert "in crash" in written and clean(told) and clean(written)


@pytest.mark.parametrize("text", [KEY, repr(KEY), KEY[: len(KEY) // 2], f"x{TEXT}y", f"--token={TEXT}"])
def test_secrets_are_found_in_any_text(text: str) -> None:
    assert clean(redact(text)) and HIDDEN in redact(text)


def test_what_is_no_secret_stays() -> None:
    record = {
        "event": "daemon.ready",
        "pid": 7,
        "ok": True,
        "none": None,
        "list": ["a", 1.5],
        "token": "00ff",
    }
    assert redacted(record) == record
    assert redact(AUTHORITY.certificate) == AUTHORITY.certificate


def holders() -> Iterator[type[Any]]:
    """Every structure of blockpair that has a field for a secret."""
    for module in pkgutil.walk_packages(blockpair.__path__, "blockpair."):
        if ".cli" in module.name or module.name.endswith("._engine"):
            continue
        for found in vars(importlib.import_module(module.name)).values():
            if isinstance(found, type) and found.__module__ == module.name and fields(found) & SECRET_FIELDS:
                yield found


# `key` and `token` too: what is kept in a structure under such a name is the secret itself.
SECRET_FIELDS = NAMES | {"key", "token"}
# Fields of such a name that are something else.
# Keys of a table, and paths of files that hold one.
HARMLESS = {("_Refusal", "key"), ("Credentials", "key"), ("ArbiterTable", "key")}


def fields(form: type[Any]) -> set[str]:
    """The names of its fields."""
    if issubclass(form, msgspec.Struct):
        return set(form.__struct_fields__)
    return {field.name for field in dataclasses.fields(form)} if dataclasses.is_dataclass(form) else set()


def test_no_structure_shows_its_secret() -> None:
    """Not even one that is made tomorrow: it hides it in its ``repr``, or is entered above."""
    looked = []
    for form in holders():
        hidden = {name for name in fields(form) & SECRET_FIELDS if (form.__name__, name) not in HARMLESS}
        values = {name: f"needle-{name}" if name in hidden else "x" for name in fields(form)}
        # Neither kind checks what it is made of.
        value: Any = form(**values)
        shown = [name for name in hidden if f"needle-{name}" in repr(value)]
        assert not shown, f"{form.__module__}.{form.__name__} shows {shown}: give it a __repr__ without them"
        looked.append(form.__name__)
    assert {"Token", "Generation"} <= set(looked)
