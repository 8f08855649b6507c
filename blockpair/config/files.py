"""Reading and writing TOML files, and state: every fault is told with its file, key, reason and remedy."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from blockpair.errors import BlockpairError, ErrorKind, nearest

if TYPE_CHECKING:
    from msgspec import inspect

_MAX_BYTES = 1 << 20
_UNFINISHED = ".unfinished"
_Form = TypeVar("_Form")


class ConfigError(BlockpairError):
    """A value in a configuration file that cannot be used."""

    def __init__(self, file: Path, key: str, reason: str, remedy: str) -> None:
        where = f"{file}: {key}" if key else str(file)
        super().__init__(ErrorKind.CONFIG, f"{where}: {reason}", remedy)
        self.file = file
        self.key = key
        self.reason = reason


def read_toml(file: Path, form: type[_Form]) -> _Form:
    """The file's content as a ``form``. Raises `ConfigError`; `FileNotFoundError` if it is not there."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(file, "", f"cannot be read: {error.strerror}", "check its owner and mode") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(
            file, "", f"is larger than {_MAX_BYTES} bytes", "it is not a blockpair configuration file"
        )
    try:
        table = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(file, "", f"is not UTF-8 text (byte {error.start})", "write it as UTF-8") from None
    except ValueError as error:
        # TOMLDecodeError, or Python's own about a number of thousands of digits.
        raise ConfigError(file, "", f"is not TOML: {error}", "correct that line") from None
    except RecursionError:
        raise ConfigError(
            file, "", "is nested too deeply", "it is not a blockpair configuration file"
        ) from None
    try:
        return msgspec.convert(table, type=form)
    except msgspec.ValidationError as error:
        key, reason, remedy = explain(str(error), form)
        raise ConfigError(file, key, reason, remedy) from None


def explain(text: str, form: type[Any] | None = None) -> tuple[str, str, str]:
    """Key, reason and remedy of what msgspec says about a value that does not fit in a ``form``."""
    reason, _, path = text.partition(" - at ")
    key = re.sub(r"^\$\.?", "", path.strip("`"))
    if match := re.fullmatch(r"Object contains unknown field `(.+)`", reason):
        near = None if form is None else nearest(match[1], _keys(form, key))
        key = f"{key}.{match[1]}" if key else match[1]
        meant = "remove it, or look for a typing mistake" + (f": did you mean {near}?" if near else "")
        return key, "there is no such key", meant
    if match := re.fullmatch(r"Object missing required field `(.+)`", reason):
        key = f"{key}.{match[1]}" if key else match[1]
        return key, "is missing", "add it"
    if match := re.fullmatch(r"Expected `(.+)`, got `(.+)`", reason):
        remedy = (
            'write it in quotes, a time or a size with its unit: "2s", "4K"'
            if match[1] == "str"
            else "correct it"
        )
        return key, f"must be of type {match[1]}, not {match[2]}", remedy
    if match := re.fullmatch(r"Invalid enum value (.+)", reason):
        known = [] if form is None else _choices(form, key)
        return (
            key,
            f"{match[1]} is none of its values",
            f"write one of: {', '.join(known)}" if known else "correct it",
        )
    return key, reason[:1].lower() + reason[1:], "correct the value"


def _type_at(form: type[Any], key: str) -> inspect.Type | None:
    """The type of a key of a form; None where its tables are not of one form each, as in a list."""
    from msgspec import inspect

    found: inspect.Type = inspect.type_info(form)
    for part in filter(None, key.split(".")):
        if not isinstance(found, inspect.StructType):
            return None
        found = next((field.type for field in found.fields if field.encode_name == part), inspect.AnyType())
    return found


def _keys(form: type[Any], key: str) -> list[str]:
    """What the table at ``key`` of a form may have in it, where that is known."""
    from msgspec import inspect

    found = _type_at(form, key)
    options = found.types if isinstance(found, inspect.UnionType) else (found,)
    structs = [one for one in options if isinstance(one, inspect.StructType)]
    return [field.encode_name for one in structs for field in one.fields]


def _choices(form: type[Any], key: str) -> list[str]:
    """The values that a key of a form may have, where they are few."""
    from msgspec import inspect

    found = _type_at(form, key)
    options = found.types if isinstance(found, inspect.UnionType) else (found,)
    return [f'"{value}"' for one in options if isinstance(one, inspect.LiteralType) for value in one.values]


def read_state(file: Path, form: type[_Form], subject: str, remedy: str) -> _Form | None:
    """The JSON that this node wrote into ``file`` for itself; None where there is none. Raises
    `BlockpairError`, with ``subject`` and ``remedy``, where it cannot be read or understood.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=form)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BlockpairError(ErrorKind.DAMAGED, f"{subject} cannot be read: {error}", remedy) from None


def write_atomically(file: Path, text: str, mode: int = 0o644) -> None:
    """Replace ``file`` durably: afterwards, and after a crash at any moment, it is the old or the new one,
    whole.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=_UNFINISHED)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        Path(temporary).replace(file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    sync_directory(file.parent)


def remove_unfinished(*trees: Path) -> list[Path]:
    """Remove from ``trees`` what a process killed in `write_atomically` left (a key, perhaps); while nobody
    else writes there. What was removed. Raises `OSError`.
    """
    left = [file for tree in trees for file in tree.rglob(f".*{_UNFINISHED}") if file.is_file()]
    for file in left:
        file.unlink(missing_ok=True)
    return left


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed or removed in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
