"""All deliveries of a node, as its configuration has them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blockpair.config.notify import NotifyConfig
from blockpair.events.courier import Courier, Tell
from blockpair.events.event import Event
from blockpair.events.hooks import Hooks
from blockpair.events.mail import Mail
from blockpair.events.stream import Stream
from blockpair.events.targets import Target, attempt
from blockpair.events.webhook import Webhook
from blockpair.units import utc

# In which a program that is run, too, is ended.
_END_SECONDS = 3.0


@dataclass(frozen=True)
class Tried:
    """What became of a test of one target, which delivers to ``place``; ``problem``: null where it was
    delivered.
    """

    target: str
    place: str
    problem: str | None


def targets(config: NotifyConfig, hooks: Path) -> list[Target]:
    """What events are delivered to; ``hooks``: the directory of the programs."""
    found: list[Target] = []
    if config.hooks is not None:
        found.append(Hooks(hooks, config.hooks.chosen, config.hooks.timeout))
    for name, hook in config.webhooks.items():
        found.append(
            Webhook(f"webhook {name}", hook.url, hook.chosen, hook.timeout, hook.ca, hook.token_file)
        )
    if config.mail is not None:
        mail = config.mail
        found.append(
            Mail(
                mail.host,
                mail.port,
                mail.security,
                mail.sender,
                mail.to,
                mail.chosen,
                mail.timeout,
                mail.ca,
                mail.user,
                mail.password_file,
            )
        )
    return found


class Post:
    """The couriers of all targets. ``folder``: where they note what they have delivered."""

    def __init__(self, chosen: list[Target], stream: Stream, folder: Path, tell: Tell) -> None:
        self.chosen = chosen
        self._couriers = [
            Courier(target, stream, folder / f"{target.name.replace(' ', '-')}.json", tell)
            for target in chosen
        ]

    def start(self) -> None:
        """Begin to deliver; after the stream was started."""
        for courier in self._couriers:
            courier.start()

    def close(self) -> None:
        """End; what was not delivered is by the next daemon."""
        for courier in self._couriers:
            courier.stop()
        deadline = time.monotonic() + _END_SECONDS
        for courier in self._couriers:
            courier.join(deadline - time.monotonic())


def try_all(chosen: list[Target], node: str) -> list[Tried]:
    """Send a test event to each target, whatever it is configured for; takes as long as they do. A directory
    without programs is no target.
    """
    event = Event(
        seq=0,
        time=utc(datetime.now(UTC)),
        node=node,
        severity="info",
        what="notify.test",
        text=f"this is a test of the deliveries of {node}",
        why="somebody asked for it: blockpair notify test",
        next="nothing: it has arrived",
    )
    found = []
    for target in chosen:
        if isinstance(target, Hooks) and target.empty():
            continue
        failure = attempt(target, event, lambda: False)
        found.append(Tried(target.name, target.place(), None if failure is None else failure.why))
    return found
