"""Runs inside a guest: writes stamped blocks whenever its node serves the device, and tells of each outside.

``write DEVICE NODE INDEX LIFE BLOCKS STRIDE PAUSE FIRST`` opens the device as soon as it can be opened, and
writes one random block of those that are INDEX's after the other, each synced before the next; PAUSE seconds
between two. Beside, a thread reads random blocks. Block number N lies at byte N*STRIDE. After an error both
close the device and begin anew. SIGUSR1 makes them rest, SIGUSR2 go on; FIRST is ``go`` or ``rest``. What
they tell is in ``acknowledged`` and ``reads``.

``read DEVICE BLOCKS STRIDE`` prints what each block holds, a line each: number, life, node and sequence; the
number alone for zeroes; the number, ``!`` and what is wrong.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import sys
import threading
import time
import tty
from dataclasses import dataclass, field

from tests.lab.acknowledged import BLOCK, Stamp, blocks_of, held_text
from tests.lab.journal import TERMINAL

_REST, _GO = signal.SIGUSR1, signal.SIGUSR2
_BETWEEN_READS_S = 0.02


def _aligned() -> mmap.mmap:
    """A block of memory as O_DIRECT wants it."""
    return mmap.mmap(-1, BLOCK)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


class Teller:
    """The way outside for one run of this program."""

    def __init__(self, life: int) -> None:
        self._life = life
        self._terminal = os.open(TERMINAL, os.O_WRONLY | os.O_NOCTTY)
        tty.setraw(self._terminal)

    def __call__(self, what: str, *words: object) -> None:
        line = " ".join(str(word) for word in (what, self._life, *words)) + "\n"
        os.write(self._terminal, line.encode())


class Reader(threading.Thread):
    """Reads while the lock ``quiet`` is free."""

    def __init__(self, device: str, blocks: int, stride: int, tell: Teller, quiet: threading.Lock) -> None:
        super().__init__(daemon=True)
        self._device, self._blocks, self._stride, self._tell, self._quiet = (
            device,
            blocks,
            stride,
            tell,
            quiet,
        )
        self._file: int | None = None

    def run(self) -> None:
        with _aligned() as buffer:
            while True:
                with self._quiet:
                    self._read(random.randrange(self._blocks), buffer)
                time.sleep(_BETWEEN_READS_S)

    def _read(self, block: int, buffer: mmap.mmap) -> None:
        try:
            if self._file is None:
                self._file = os.open(self._device, os.O_RDONLY | os.O_DIRECT)
        except OSError:
            return
        self._tell("read", block)
        try:
            if os.preadv(self._file, [buffer], block * self._stride) != BLOCK:
                raise OSError(errno.EIO, "a short read")
        except OSError as error:
            self._tell("miss", block, _name(error))
            os.close(self._file)
            self._file = None
        else:
            self._tell("saw", block, held_text(buffer[:], block))


@dataclass
class Writer:
    """The writer of one node, in one run of this program."""

    device: str
    node: str
    index: int
    life: int
    blocks: int
    stride: int
    pause_s: float
    resting: bool
    tell: Teller
    _sequence: int = 0
    _tenure: int = 0
    _buffer: mmap.mmap = field(default_factory=_aligned)

    def run(self) -> None:
        """Write for ever."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {_REST, _GO})
        quiet = threading.Lock()
        Reader(self.device, self.blocks, self.stride, self.tell, quiet).start()
        choice = random.Random(f"{self.node}/{self.life}")
        own, shared = blocks_of(self.index, self.blocks)
        mine = [*own, *shared]
        self.tell("ready")
        while True:
            if self.resting:
                with quiet:
                    self.tell("rest")
                    self._obey(signal.sigwaitinfo({_GO, _REST}))
                continue
            try:
                file = os.open(self.device, os.O_WRONLY | os.O_DIRECT)
            except OSError:
                self._pause()
                continue
            self._tenure += 1
            self.tell("begin", self._tenure)
            self.tell("end", self._tenure, self._serve(file, choice, mine))
            os.close(file)
            self._pause()

    def _serve(self, file: int, choice: random.Random, mine: list[int]) -> str:
        """Write until an error, or until told to rest; which of them."""
        while True:
            block = choice.choice(mine)
            self._sequence += 1
            self._buffer[:] = Stamp(self.life, self.node, self._sequence, block).content()
            self.tell("try", self._sequence, block)
            try:
                if os.pwrite(file, self._buffer, block * self.stride) != BLOCK:
                    return "short"
                os.fsync(file)
            except OSError as error:
                return _name(error)
            self.tell("ok", self._sequence)
            self._pause()
            if self.resting:
                return "rest"

    def _pause(self) -> None:
        self._obey(signal.sigtimedwait({_GO, _REST}, self.pause_s))

    def _obey(self, told: signal.struct_siginfo | None) -> None:
        if told is not None:
            self.resting = told.si_signo == _REST


def read(device: str, blocks: int, stride: int) -> None:
    """Print what each block holds."""
    file = os.open(device, os.O_RDONLY | os.O_DIRECT)
    with _aligned() as buffer:
        for block in range(blocks):
            if os.preadv(file, [buffer], block * stride) != BLOCK:
                sys.exit(f"{device}: a short read at {block * stride}")
            print(block, held_text(buffer[:], block))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", device, node, index, life, blocks, stride, pause, first]:
            whose, places = (node, int(index), int(life)), (int(blocks), int(stride))
            Writer(device, *whose, *places, float(pause), first == "rest", Teller(int(life))).run()
        case ["read", device, blocks, stride]:
            read(device, int(blocks), int(stride))
        case _:
            sys.exit(__doc__)
