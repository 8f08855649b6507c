"""Runs inside a guest: writes stamped blocks whenever its node serves the device, and tells of each outside.

``write DEVICE NODE INDEX LIFE BLOCKS STRIDE PAUSE FIRST`` opens the device as soon as it can be opened, and
writes one random block of those that are INDEX's after the other, each synced before the next; PAUSE seconds
between two. Block number N lies at byte N*STRIDE. After an error it closes the device and begins anew.
SIGUSR1 makes it rest, SIGUSR2 go on; FIRST is ``go`` or ``rest``. What it tells is in ``acknowledged``.

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
import tty
from dataclasses import dataclass, field

from tests.lab.acknowledged import BLOCK, NotWhole, Stamp, blocks_of, read_block
from tests.lab.journal import TERMINAL

_REST, _GO = signal.SIGUSR1, signal.SIGUSR2


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
    _sequence: int = 0
    _tenure: int = 0
    _terminal: int = -1
    _buffer: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, BLOCK))  # O_DIRECT wants aligned memory

    def run(self) -> None:
        """Write for ever."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {_REST, _GO})
        self._terminal = os.open(TERMINAL, os.O_WRONLY | os.O_NOCTTY)
        tty.setraw(self._terminal)
        choice = random.Random(f"{self.node}/{self.life}")
        own, shared = blocks_of(self.index, self.blocks)
        mine = [*own, *shared]
        self._tell("ready")
        while True:
            if self.resting:
                self._tell("rest")
                self._obey(signal.sigwaitinfo({_GO, _REST}))
                continue
            try:
                file = os.open(self.device, os.O_WRONLY | os.O_DIRECT)
            except OSError:
                self._pause()
                continue
            self._tenure += 1
            self._tell("begin", self._tenure)
            self._tell("end", self._tenure, self._serve(file, choice, mine))
            os.close(file)
            self._pause()

    def _serve(self, file: int, choice: random.Random, mine: list[int]) -> str:
        """Write until an error, or until told to rest; which of them."""
        while True:
            block = choice.choice(mine)
            self._sequence += 1
            self._buffer[:] = Stamp(self.life, self.node, self._sequence, block).content()
            self._tell("try", self._sequence, block)
            try:
                if os.pwrite(file, self._buffer, block * self.stride) != BLOCK:
                    return "short"
                os.fsync(file)
            except OSError as error:
                return errno.errorcode.get(error.errno or 0, str(error.errno))
            self._tell("ok", self._sequence)
            self._pause()
            if self.resting:
                return "rest"

    def _pause(self) -> None:
        self._obey(signal.sigtimedwait({_GO, _REST}, self.pause_s))

    def _obey(self, told: signal.struct_siginfo | None) -> None:
        if told is not None:
            self.resting = told.si_signo == _REST

    def _tell(self, what: str, *words: object) -> None:
        line = " ".join(str(word) for word in (what, self.life, *words)) + "\n"
        os.write(self._terminal, line.encode())


def read(device: str, blocks: int, stride: int) -> None:
    """Print what each block holds."""
    file = os.open(device, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, BLOCK) as buffer:
        for block in range(blocks):
            if os.preadv(file, [buffer], block * stride) != BLOCK:
                sys.exit(f"{device}: a short read at {block * stride}")
            try:
                stamp = read_block(buffer[:], block)
            except NotWhole as error:
                print(block, "!", error)
            else:
                print(block, *((stamp.life, stamp.node, stamp.sequence) if stamp else ()))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", device, node, index, life, blocks, stride, pause, first]:
            places = int(blocks), int(stride)
            Writer(device, node, int(index), int(life), *places, float(pause), first == "rest").run()
        case ["read", device, blocks, stride]:
            read(device, int(blocks), int(stride))
        case _:
            sys.exit(__doc__)
