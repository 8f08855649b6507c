"""The node's watchdog in the daemon: made from the configuration, its descriptor kept over a restart.

Arming, petting and stopping are the engines', on their own threads. A daemon that is killed leaves a watchdog
that goes on counting: the service manager keeps it open, and the next daemon goes on with it.
"""

from __future__ import annotations

import os

import structlog

from blockpair import _engine
from blockpair.config.node import WatchdogConfig
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.failover.plan import Watchdog
from blockpair.service.notify import kept_descriptors, notify

_NAME = "blockpair-watchdog"


class NodeWatchdog:
    """``engine`` is for the engines; None where the configuration wants no watchdog."""

    def __init__(self, config: WatchdogConfig) -> None:
        self.engine: _engine.Watchdog | None = None
        self._config = config
        self._kept = False
        self._inherited = False
        # Never closed: what was started here is to bite.
        self._biting: int | None = None
        self._log = structlog.get_logger()
        inherited = kept_descriptors(_NAME)
        if config.mode == "off" and not inherited:
            return
        mode = "log" if config.mode == "log" else "required"
        watchdog = _engine.Watchdog(str(config.device), config.timeout, mode)
        for descriptor in inherited[:1]:
            self._tell(watchdog.inherit(descriptor))
            self._kept = self._inherited = True
        if config.mode == "off":
            # Nobody pets it from now on.
            self._release(watchdog)
            self._forget()
        else:
            self.engine = watchdog

    @property
    def inherited(self) -> bool:
        """Whether an earlier daemon's counts still: to be told then, often, who will pet it (`settle`)."""
        return self._inherited

    def settle(self, *, serves: bool) -> None:
        """Where no resource that an arbiter decides about is Primary or is to be again (``serves``), what was
        inherited shall not bite: so once the resources are up, and when the last of them was not resumed.
        """
        if self.engine is not None and self._inherited and not serves:
            self._release(self.engine)
        self.keep()

    def keep(self) -> None:
        """Give the open device to the service manager to keep, or have it let go; to be called often."""
        if self.engine is None:
            return
        descriptor = self.engine.descriptor()
        if descriptor is not None and not self._kept:
            notify(f"FDSTORE=1\nFDNAME={_NAME}", [descriptor])
            self._kept = True
        elif descriptor is None and self._kept:
            self._forget()

    def state(self) -> Watchdog:
        """As a service's plan has it."""
        if self.engine is None or self._config.mode != "required":
            return Watchdog.NONE
        return Watchdog.DISARMED if self.engine.descriptor() is None else Watchdog.ARMED

    def reset_machine(self) -> None:
        """Start it and never pet it. Raises `BlockpairError` where it cannot reset this machine."""
        config = self._config
        if self.state() is Watchdog.NONE:
            raise BlockpairError(
                ErrorKind.FAILED,
                "this node has no watchdog that could reset it",
                'set mode = "required" in [watchdog] of blockpair.toml',
            )
        if self.state() is Watchdog.ARMED:
            raise BlockpairError(
                ErrorKind.FAILED,
                f"{config.device} is petted for a resource that this node may serve",
                "reset this machine by hand, or fence it from the other node",
            )
        if self._biting is None:
            try:
                self._biting = os.open(config.device, os.O_WRONLY | os.O_CLOEXEC)
            except OSError as error:
                raise BlockpairError(
                    ErrorKind.IO,
                    f"{config.device} cannot be started: {error.strerror}",
                    "reset this machine by hand, or fence it from the other node",
                ) from None
            self._log.error("watchdog.started", text=f"{config.device} resets this machine")

    def _release(self, watchdog: _engine.Watchdog) -> None:
        self._tell(watchdog.release())

    def _tell(self, problem: str | None) -> None:
        if problem is not None:
            self._log.error("watchdog", text=problem)

    def _forget(self) -> None:
        # Stopped before: closing the manager's copy is harmless.
        notify(f"FDSTOREREMOVE=1\nFDNAME={_NAME}")
        self._kept = self._inherited = False
