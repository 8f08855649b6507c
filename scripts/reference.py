"""The pages of the reference that are made from the code: docs/reference/rpc.md, wire.md and disk.md.

python scripts/reference.py     writes them; asks a daemon of its own for its methods
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from blockpair.arbiter.witness.calls import FORMS
from blockpair.arbiter.witness.protocol import MAX_LINE_BYTES
from blockpair.daemon.method_list import NAME, MethodList
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc.client import Client
from blockpair.rpc.described import Description, describe
from blockpair.rpc.messages import CODES, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from blockpair.status.schema import status_schema

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/reference"
SOURCES = ROOT / "engine/src"
_LINK = re.compile(r"\[(`[^`\]]+`)\](?:\([^)]*\))?")
_MADE = "Made from the code by `python scripts/reference.py`; a test compares."


_RPC = f"""\
# Remote procedure calls

{_MADE}

[JSON-RPC 2.0](https://www.jsonrpc.org/specification), a line a message, calls of a connection one after the
other. Programs use the daemon's Unix socket, `/run/blockpair/blockpaird.sock`, mode 0660, group `blockpair`;
the caller is known by its process (`SO_PEERCRED`). A request has at most {MAX_REQUEST_BYTES >> 20} MiB, an
answer {MAX_RESPONSE_BYTES >> 20} MiB. The command `blockpair` is a client like any other, and its `--json`
prints the results; that of `resource.status` has [a page of its own](status-json.md).

    echo '{{"jsonrpc":"2.0","id":1,"method":"resource.status","params":{{}}}}' |
        socat - UNIX-CONNECT:/run/blockpair/blockpaird.sock

`{NAME}` answers with the methods of this page, their parameters and results as JSON schemas.

## Errors

`error.code` says which, `error.data` has `kind`, `remedy`, and the `exit_code` of the command. A kind keeps
its code for ever.

| Kind | Code | Exit code |
| --- | ---: | ---: |"""
_SOCKET = """
## On the daemon's socket

What is marked so, *anyone* who may use the socket may call: it only looks, and tells nothing of what the disk
holds. Everything else is for root, or the daemon's own user. A parameter without a default must be given; one
that is not known is refused. Where no result is told of, it is an object whose form is not published.
"""
_NODES = """\
## Between nodes

On the control port (7789), over TLS 1.3 with certificates of the cluster's authority on both sides. A node
that has none yet may call `join.*` alone, with a token ([Security](../security.md)).
"""
_WITNESS = f"""\
## To a witness

On the witness's port (7790), over TLS 1.3 with certificates of the cluster's authority on both sides; a line
has at most {MAX_LINE_BYTES >> 10} KiB. A configuration is `{{epoch, primary, in_sync}}`; `register.swap`
changes it only where it is what was `expected`.
"""
_RESULTS = """\
## Results

What the methods on the daemon's socket answer with. Ignore fields that you do not know.
"""


def rpc(methods: MethodList) -> str:
    """The page of every remote procedure call."""
    codes = [f"| `{kind.value}` | {code} | {_exit(kind)} |" for kind, code in CODES.items()]
    forms = Forms(methods.socket)
    witness = [describe(name, form, anyone=False) for name, form in FORMS.items()]
    parts = [
        *(_RPC, *codes, _SOCKET, *_methods(methods.socket, forms)),
        *(_NODES, *_methods(methods.members), _WITNESS, *_methods(witness)),
        *(_RESULTS, *forms.lines()),
    ]
    return "\n".join(parts)


def _exit(kind: ErrorKind) -> int:
    return int(BlockpairError(kind, "", "").exit_code)


def _methods(described: Iterable[Description], forms: Forms | None = None) -> Iterator[str]:
    for method in described:
        yield f"### `{method.name}`"
        yield ""
        form = _named(method.params, method.params)
        about = _markdown(form.get("description", ""))
        who = "*Anyone.*" if method.anyone else ""
        fields = form.get("properties", {})
        told = [text for text in (who, about if fields else "No parameters.") if text]
        yield " ".join(told)
        yield ""
        if method.result is not None:
            yield from (f"Result: {_type(method.result, method.result, forms)}.", "")
        if not fields:
            continue
        yield from ("| Parameter | | Default |", "| --- | --- | --- |")
        required = form.get("required", [])
        for name, field in fields.items():
            default = "" if name in required else f"`{msgspec.json.encode(field.get('default')).decode()}`"
            yield f"| `{name}` | {_type(field, method.params)} | {default} |"
        yield ""


def _named(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """What a reference within ``whole`` leads to."""
    if "$ref" in schema:
        found: dict[str, Any] = whole["$defs"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


class Forms:
    """The objects that results are made of. Two of one name are told apart by what they are part of; those of
    the status have a page of their own.
    """

    def __init__(self, described: Iterable[Description]) -> None:
        self._titles: dict[str, str] = {}
        self._found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        status = set(map(_content, status_schema()["$defs"].values()))
        for whole in [method.result for method in described if method.result is not None]:
            for name, form in whole.get("$defs", {}).items():
                content, short = _content(form), name.rpartition(".")[2]
                if "properties" not in form or content in status or content in self._titles:
                    continue
                owner = next((o for o, of in whole["$defs"].items() if f'/{name}"' in _encoded(of)), "")
                taken = short in self._found
                title = f"{short} of {owner.rpartition('.')[2]}" if taken else short
                assert title not in self._found, f"two forms are called {title}"
                self._titles[content] = title
                self._found[title] = form, whole

    def link(self, form: dict[str, Any], name: str) -> str:
        """A link to where ``form`` is told of."""
        title = self._titles.get(_content(form))
        if title is None:
            return f"[`{name.rpartition('.')[2]}`](status-json.md)"
        return f"[`{title}`](#object-{title.lower().replace(' ', '-')})"

    def lines(self) -> Iterator[str]:
        """All of them, by name."""
        for title, (form, whole) in sorted(self._found.items()):
            yield from (f"### Object `{title}`", "", *_about(form), "| Field | |", "| --- | --- |")
            for field, of in form["properties"].items():
                yield f"| `{field}` | {_type(of, whole, self)} |"
            yield ""


def _about(form: dict[str, Any]) -> list[str]:
    about = form.get("description")
    return [_markdown(about), ""] if about else []


def _encoded(form: dict[str, Any]) -> str:
    return msgspec.json.encode(form).decode()


def _content(form: dict[str, Any]) -> str:
    """The same for the same form, whichever others are beside it."""
    return re.sub(r"#/\$defs/(?:\w+\.)*", "", _encoded(form))


def _type(field: dict[str, Any], whole: dict[str, Any], forms: Forms | None = None) -> str:
    """A parameter's type, for people; with ``forms``, a form is a link to where it is told of."""
    match field:
        case {"anyOf": several}:
            return " or ".join(_type(each, whole, forms) for each in several)
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"$ref": _}:
            form = _named(field, whole)
            if forms is not None and "properties" in form:
                return forms.link(form, field["$ref"].rpartition("/")[2])
            inner = ", ".join(f"`{name}`" for name in form.get("properties", {}))
            found = f"object of {inner}" if inner else _type(form, whole, forms)
        case {"type": "array", "prefixItems": several}:
            return f"list of {', '.join(_type(each, whole, forms) for each in several)}"
        case {"type": "array"}:
            found = f"list of {_type(field.get('items', {}), whole, forms)}"
        case {"type": "object", "additionalProperties": dict() as of}:
            found = f"object, each value {_type(of, whole, forms)}"
        case _:
            found = str(field.get("type", "anything"))
    return found


def _markdown(text: str) -> str:
    """A docstring's own marks as Markdown's."""
    return re.sub(r"``([^`]*)``", r"`\1`", " ".join(text.split()))


_WIRE = f"""\
# The replication protocol

{_MADE}

Two nodes speak it over TCP on the replication port (7788), inside TLS 1.3. Hello, both ways; State, both
ways; then whatever the verdict over the two states says ([Concepts](../concepts.md)).

## Frame
"""


def wire(kinds: str) -> str:
    """The page of the replication protocol.

    ``kinds``: the table of its messages, as it is (see `kinds_of`).
    """
    parts = [
        *(_WIRE, *_module("wire/frame.rs"), "\n## Bodies\n", *_module("wire/body.rs")),
        *("\n## Messages\n", kinds, "\n## What they say\n", *_meanings("wire/message.rs")),
    ]
    return "\n".join(parts) + "\n"


def kinds_of(page: str) -> str:
    """The table of messages in a page: the engine's own tests compare it with what it speaks."""
    found = re.search(r"## Messages\n\n(.*?)\n\n## ", page, re.DOTALL)
    assert found is not None
    return found[1]


_DISK = f"""\
# The metadata on the disk

{_MADE}

Internal metadata lies at the end of the backing device, external in a file or on a device of its own.
`blockpair metadata show|dump` reads it.

## Region
"""
_BITS = """
The out-of-sync bitmap of a slot has a bit a block for one peer; the write-intent log a bit an extent of
4 MiB.

## Superblock
"""


def disk() -> str:
    """The page of the metadata on the disk."""
    parts = [
        *(_DISK, *_module("meta/layout.rs"), _BITS, *_module("meta/superblock.rs")),
        *("\n## Page of a bitmap, or of the write-intent log\n", *_module("meta/page.rs")),
    ]
    return "\n".join(parts) + "\n"


def _module(path: str) -> Iterator[str]:
    """The text at the head of a module of the engine."""
    fence = False
    for line in (SOURCES / path).read_text().splitlines():
        if not line.startswith("//!"):
            return
        text = line.removeprefix("//!").removeprefix(" ")
        if text.startswith("```"):
            fence = not fence
            yield "```" + ("text" if fence else "")
        elif text.startswith("# "):
            yield f"##{text}"
        else:
            yield _LINK.sub(r"\1", text)


def _meanings(path: str) -> Iterator[str]:
    """The documented messages of the enum, with their text."""
    source = (SOURCES / path).read_text()
    body = source.partition("pub enum Message {\n")[2].partition("\n}\n")[0]
    about: list[str] = []
    for line in body.splitlines():
        text = line.strip()
        if text.startswith("///"):
            about.append(text.removeprefix("///").strip())
        elif (variant := re.match(r"    (\w+)", line)) and about:
            told = re.sub(r"\b(?:Message|super|feature)::", "", _LINK.sub(r"\1", " ".join(about)))
            yield f"- **{variant[1]}**: {told}"
            about = []
        else:
            about = []


def ask() -> MethodList:
    """The methods of a daemon that is started for this, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="blockpair-reference-") as folder:
        config = Path(folder) / "config"
        config.mkdir()
        (config / "blockpair.toml").write_text(
            textwrap.dedent("""\
                [node]
                name = "alpha"
                listen = "127.0.0.1:0"
                control = "127.0.0.1:0"
                """)
        )
        daemon = subprocess.Popen(
            [sys.executable, "-m", "blockpair.daemon.main"],
            env={**os.environ, "BLOCKPAIR_DIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert daemon.stdout is not None
            said = []
            for line in daemon.stdout:
                said.append(line)
                if "daemon.ready" in line:
                    break
            else:
                raise SystemExit(f"the daemon did not start:\n{''.join(said)}")
            with Client(Path(folder) / "run/blockpaird.sock") as client:
                return client.call(NAME, {}, MethodList)
        finally:
            daemon.terminate()
            daemon.communicate()


if __name__ == "__main__":
    (PAGES / "rpc.md").write_text(rpc(ask()))
    (PAGES / "wire.md").write_text(wire(kinds_of((PAGES / "wire.md").read_text())))
    (PAGES / "disk.md").write_text(disk())
