"""Who asked for what the daemon is doing, for the engine's history."""

from __future__ import annotations

import pwd
from contextvars import ContextVar

# Set for the time of one call; a task of the daemon's own has nobody else to name.
asked_by: ContextVar[str] = ContextVar("asked_by", default="blockpaird")


def describe_asker(uid: int, method: str) -> str:
    """``root via blockpair promote`` for user 0 and ``resource.promote``. May block: it looks the user up."""
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = f"uid {uid}"
    return f"{user} via blockpair {method.rpartition('.')[2]}"
