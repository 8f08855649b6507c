"""The daemon's socket: callers that misbehave."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from blockpair.daemon.methods import NoParams
from blockpair.rpc.server import Caller, Method, Server


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
