"""Carries out steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid import conf, mdadm, sysfs
from blockpair.raid.devices import sysfs_folder
from blockpair.raid.steps import Attribute, Command, Remember, Step, Writable

# A machine that is busy with something else, or emulated, names its devices late.
_NAME_SECONDS, _LOOK_SECONDS = 60.0, 0.1


def carry_out(steps: Sequence[Step], done: Callable[[Step], None] = lambda _: None) -> None:
    """Do one step after the other, and tell of each when it is done. Raises `BlockpairError` at the first
    that fails: it says what was done before, which stays.
    """
    finished: list[Step] = []
    for step in steps:
        try:
            _do(step)
        except (BlockpairError, OSError) as error:
            raise _failure(step, finished, error) from None
        finished.append(step)
        done(step)


def _do(step: Step) -> None:
    match step:
        case Command():
            mdadm.run(step.arguments)
        case Remember():
            path = conf.place()
            text = conf.read(path)
            conf.replace(
                path,
                conf.without(text, step.entry.uuid) if step.forget else conf.with_entry(text, step.entry),
            )
        case Attribute():
            sysfs.write_attribute(step.device, step.name, step.value)
        case Writable():
            if sysfs.state(sysfs_folder(_named(Path(step.path))).name) == "read-auto":
                mdadm.run(["mdadm", "--readwrite", step.path])


def _named(path: Path) -> Path:
    """An array's path, once udev has made it: mdadm waits for that itself, but for a few seconds only."""
    deadline = time.monotonic() + _NAME_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return path


def _failure(step: Step, finished: Sequence[Step], error: BlockpairError | OSError) -> BlockpairError:
    if isinstance(error, BlockpairError):
        kind, message, remedy = error.kind, error.message, error.remedy
    else:
        kind, remedy = ErrorKind.IO, "what the kernel says of it: dmesg"
        message = f"`{step.shown}` failed: {error.strerror}"
    if finished:
        message += "; done before, and it stays: " + "; ".join(f"`{before.shown}`" for before in finished)
    return BlockpairError(kind, message, remedy)
