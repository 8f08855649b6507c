"""From many connections to one database: what is asked while the disk is waited for goes into the next
transaction together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor

from blockpair.arbiter.witness.register import Answer, DiskFailed, Operation, Register, Row
from blockpair.errors import BlockpairError, ErrorKind

MAX_BATCH = 1000


class Commits:
    """Carries out operations, until cancelled in `run`."""

    def __init__(self, register: Register) -> None:
        self._register = register
        self._thread = ThreadPoolExecutor(1, "register")
        self._waiting: list[tuple[Operation, asyncio.Future[Answer]]] = []
        self._more = asyncio.Event()
        self._failed = False

    def submit(self, operation: Operation) -> Awaitable[Answer]:
        """What becomes of it; durable when it is there. The answer may be a `BlockpairError`, and so may what
        is raised: then nothing was done.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self._failed:
            future.set_exception(_gone())
            return future
        self._waiting.append((operation, future))
        self._more.set()
        return future

    async def run(self) -> None:
        """Never returns. Raises `DiskFailed`: whoever waits is told, and what was done nobody knows."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._more.wait()
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                if not self._waiting:
                    self._more.clear()
                work = loop.run_in_executor(
                    self._thread, self._register.apply, [operation for operation, _ in batch]
                )
                try:
                    answers = await asyncio.shield(work)
                except BlockpairError as error:
                    _settle(batch, error)
                except DiskFailed:
                    self._failed = True
                    _settle([*batch, *self._waiting], _gone())
                    raise
                except asyncio.CancelledError:
                    # It has begun: it is ended before the database is closed.
                    await asyncio.wait({work})
                    raise
                else:
                    for (_, future), answer in zip(batch, answers, strict=True):
                        if not future.done():
                            future.set_result(answer)
        finally:
            self._thread.shutdown(wait=False)

    async def rows(self) -> list[Row]:
        """All registers. Raises `DiskFailed`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._register.rows)


def _gone() -> BlockpairError:
    return BlockpairError(
        ErrorKind.IO, "the witness's disk failed, and it stops", "see the log on the witness's machine"
    )


def _settle(batch: list[tuple[Operation, asyncio.Future[Answer]]], error: BlockpairError) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
