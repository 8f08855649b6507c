"""Following what an array does: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from blockpair.errors import BlockpairError, ErrorKind

if TYPE_CHECKING:
    from blockpair.raid.model import Array

_POLL_SECONDS = 0.5
_LINE_SECONDS = 5.0


def follow(uuid: str, done: Callable[[Array], bool], *, quiet: bool = False) -> Array:
    """Show what the array of that UUID does until ``done``; the array as it is then. Raises `BlockpairError`
    if it fails or is stopped meanwhile.
    """
    from blockpair.raid.inventory import Inventory
    from blockpair.raid.outlook import lost, survival

    inventory = Inventory()
    show, end = _shown(quiet=quiet)
    with end:
        while True:
            array = inventory.arrays().get(uuid)
            if array is None:
                raise BlockpairError(
                    ErrorKind.FAILED, "the array was stopped meanwhile", "blockpair raid list"
                )
            if lost(array):
                raise BlockpairError(
                    ErrorKind.FAILED,
                    f"{array.name} failed meanwhile: it {survival(array)}",
                    f"blockpair raid status {array.name}",
                )
            if done(array):
                return array
            show(array)
            time.sleep(_POLL_SECONDS)


def _shown(*, quiet: bool) -> tuple[Callable[[Array], None], AbstractContextManager[object]]:
    """What draws, and what ends the drawing."""
    if quiet:
        return lambda _: None, nullcontext()
    if sys.stderr.isatty():
        return _bar()
    return _lines(), nullcontext()


def _lines() -> Callable[[Array], None]:
    from blockpair.cli.raid_text import sync_words

    said = [float("-inf")]

    def show(array: Array) -> None:
        now = time.monotonic()
        if array.sync is not None and now - said[0] >= _LINE_SECONDS:
            said[0] = now
            print(f"{array.name}: {sync_words(array.sync)}", file=sys.stderr, flush=True)

    return show


def _bar() -> tuple[Callable[[Array], None], AbstractContextManager[object]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from blockpair.cli.raid_text import sync_words

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        console=Console(stderr=True),
        transient=True,
    )
    task = progress.add_task("", total=None, detail="")

    def show(array: Array) -> None:
        sync = array.sync
        progress.update(
            task,
            description=array.name,
            total=sync.total_bytes if sync and sync.total_bytes else None,
            completed=sync.done_bytes if sync else 0,
            detail=sync_words(sync) if sync else "waiting",
        )

    return show, progress
