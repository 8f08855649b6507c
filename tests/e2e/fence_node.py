"""A node that has lost its peer and would go on alone: a process of its own, so that fencing can end it.

    python -m tests.e2e.fence_node SETTING.json

Prints "ready", waits for a line, then swaps; prints what came of it, and stays until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from blockpair.arbiter.fence import FenceArbiter, Fencer
from blockpair.arbiter.interface import ArbiterRefused, ArbiterUnreachable, Key, configuration
from blockpair.config.fence import read_fences
from tests.e2e.fence import Alone


def main() -> None:
    setting = json.loads(Path(sys.argv[1]).read_text())
    fencer = Fencer(read_fences(Path(setting["cluster"])), told=lambda event, fields: None)
    pair = Alone(met=setting["met"])
    arbiter = FenceArbiter(setting["node"], fencer, Path(setting["records"]), pair)
    expected, new = configuration(setting["expected"]), configuration(setting["new"])
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        won = asyncio.run(arbiter.compare_and_swap(Key(*setting["key"]), expected, new))
        print("won" if won else "lost", flush=True)
    except ArbiterRefused as error:
        print(f"refused: {error}", flush=True)
    except ArbiterUnreachable as error:
        print(f"unknown: {error}", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
