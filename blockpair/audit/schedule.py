"""When audits run by themselves: a systemd timer, or a line in cron.d."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["timer", "cron"]
KINDS: tuple[Kind, ...] = ("timer", "cron")
UNIT = "blockpair-audit"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FORM = re.compile(r"(?:(?P<day>[A-Za-z]{3})\s+)?(?P<hour>\d{1,2}):(?P<minute>\d{2})", re.ASCII)


@dataclass(frozen=True)
class Moment:
    """Local time; ``day``: one of `_DAYS`, None: every day."""

    day: str | None
    hour: int
    minute: int

    def __str__(self) -> str:
        return f"{self.day or 'every day'} at {self.hour:02d}:{self.minute:02d}"

    @property
    def calendar(self) -> str:
        """As ``OnCalendar=`` of systemd.time(7)."""
        return f"{self.day or '*-*-*'} {self.hour:02d}:{self.minute:02d}:00"

    @property
    def cron(self) -> str:
        """As the first five fields of crontab(5)."""
        day = "*" if self.day is None else str((_DAYS.index(self.day) + 1) % 7)
        return f"{self.minute} {self.hour} * * {day}"


def moment(text: str) -> Moment:
    """Of ``02:30`` or ``Sun 02:30``. Raises `ValueError` that says which forms there are."""
    match = _FORM.fullmatch(text.strip())
    day = None if match is None or match["day"] is None else match["day"].capitalize()
    if match is None or int(match["hour"]) > 23 or int(match["minute"]) > 59 or day not in (None, *_DAYS):
        raise ValueError(f"{text!r} is not a time; write 02:30 (every day) or Sun 02:30")
    return Moment(day, int(match["hour"]), int(match["minute"]))


def files(kind: Kind, root: Path) -> list[Path]:
    """Those of a kind, below ``root``."""
    if kind == "cron":
        return [root / "etc/cron.d" / UNIT]
    return [root / "etc/systemd/system" / f"{UNIT}.{part}" for part in ("service", "timer")]


def contents(kind: Kind, when: Moment, command: Sequence[str], log: str) -> list[str]:
    """What `files` are to have. ``command``: the audit; ``log``: where cron's output goes."""
    words = shlex.join(command)
    if kind == "cron":
        # A percent sign is a line's end to cron.
        line = f"{when.cron} root nice -n 19 {words} >{shlex.quote(log)} 2>&1"
        return [
            f"# blockpair audit schedule: {when}. Exit codes: 0 identical, 1 could not run, 3 differences,\n"
            "# 4 not finished in time; each audit's end is an event too (blockpair events).\n"
            f"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            f"{line.replace('%', chr(92) + '%')}\n"
        ]
    # That the time was short is no failure: the next one goes on.
    service = (
        "[Unit]\nDescription=blockpair: compare all copies\nAfter=blockpaird.service\n\n"
        "[Service]\nType=oneshot\nNice=19\nIOSchedulingClass=idle\nSuccessExitStatus=4\n"
        f"ExecStart={_unit(command)}\n"
    )
    timer = (
        f"[Unit]\nDescription=blockpair: audits, {when}\n\n"
        f"[Timer]\nOnCalendar={when.calendar}\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
    )
    return [service, timer]


def _unit(command: Sequence[str]) -> str:
    """As ``ExecStart=`` has it: words in quotes where they need some, and systemd's own signs doubled."""
    return " ".join(_unit_word(word) for word in command)


def _unit_word(word: str) -> str:
    doubled = word.replace("%", "%%").replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    return doubled if re.fullmatch(r"[\w@%+=:,./$-]+", doubled, re.ASCII) else f'"{doubled}"'
