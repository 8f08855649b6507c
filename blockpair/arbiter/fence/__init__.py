"""The arbiter that is proof of death: whoever has switched the other node off, and seen it off, may go on."""

from blockpair.arbiter.fence.agent import AgentError, Result
from blockpair.arbiter.fence.arbiter import FenceArbiter, Known, Pair
from blockpair.arbiter.fence.fencer import FenceFailed, Fencer
from blockpair.arbiter.fence.monitor import DeviceState, Monitor

__all__ = [
    "AgentError",
    "DeviceState",
    "FenceArbiter",
    "FenceFailed",
    "Fencer",
    "Known",
    "Monitor",
    "Pair",
    "Result",
]
