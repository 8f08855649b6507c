"""What a command waits for, said on standard error while it does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from blockpair.cli.output import daemon
from blockpair.errors import BlockpairError
from blockpair.status.report import ResourceReport

_AFTER_SECONDS = 1.0
_EVERY_SECONDS = 0.5


@contextmanager
def waiting_told(
    directory: str | None, name: str, text_of: Callable[[ResourceReport], str | None]
) -> Iterator[None]:
    """While the block runs, but for its first second: what ``text_of`` says, each time that it changes."""
    done = threading.Event()

    def tell() -> None:
        told = None
        if done.wait(_AFTER_SECONDS):
            return
        # It is for a person alone: whatever is wrong, the command itself tells of it.
        with contextlib.suppress(BlockpairError), daemon(directory) as client:
            while not done.is_set():
                text = text_of(client.call("resource.status", {"name": name}, ResourceReport))
                if text is not None and text != told:
                    click.echo(f"{name}: {text}", err=True)
                told = text
                done.wait(_EVERY_SECONDS)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
