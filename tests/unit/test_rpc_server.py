"""The daemon's socket: callers that misbehave."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from blockpair.rpc.messages import NoParams
from blockpair.rpc.server import MAX_CONNECTIONS, RESERVED_CONNECTIONS, Caller, Method, Server


def test_a_caller_that_reads_no_answers_does_not_keep_the_daemon_from_ending(tmp_path: Path) -> None:
    async def answer(_caller: Caller, _params: Any) -> str:
        return "x" * (1 << 20)

    async def run() -> None:
        server = Server({"big": Method(NoParams, answer)}, "nowhere")
        path = tmp_path / "rpc.sock"
        await server.start(path)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            request = b'{"jsonrpc":"2.0","id":1,"method":"big","params":{}}\n'
            await asyncio.get_running_loop().run_in_executor(None, caller.sendall, request * 4)
            # Something has come, so that an answer is on its way.
            await asyncio.to_thread(caller.recv, 1)
            await asyncio.wait_for(server.close(), 10)

    asyncio.run(run())


def test_who_may_only_look_cannot_keep_root_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_caller: Caller, _params: Any) -> str:
        return "fine"

    async def ask(path: Path, kept: list[asyncio.StreamWriter]) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(path))
        kept.append(writer)
        writer.write(b'{"jsonrpc":"2.0","id":1,"method":"look","params":{}}\n')
        return await asyncio.wait_for(reader.readline(), 10)

    async def run() -> None:
        server = Server({"look": Method(NoParams, answer, read_only=True)}, "nowhere")
        path = tmp_path / "rpc.sock"
        await server.start(path)
        kept: list[asyncio.StreamWriter] = []
        with monkeypatch.context() as patch:
            # All callers of this test are one user: for the server it is another one for a time.
            patch.setattr(Caller, "administers", False)
            for _ in range(MAX_CONNECTIONS - RESERVED_CONNECTIONS):
                assert b"fine" in await ask(path, kept)
            assert b"already serves" in await ask(path, kept)
        assert b"fine" in await ask(path, kept)
        for writer in kept:
            writer.close()
        await asyncio.wait_for(server.close(), 10)

    asyncio.run(run())
