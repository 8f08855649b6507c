"""Keeps keys and join tokens out of what is logged or reported. Types that hold one hide it in their
``repr``; this is for what slips through all the same: a text, a traceback, a field of that name. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

HIDDEN = "[hidden]"
# In any text: a private key in PEM, whole or cut off, also with its line ends escaped; a join token.
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|bpj1-[A-Za-z0-9_=-]+",
    re.DOTALL,
)
# Names under which nothing else is kept. (A log's ``token`` is the token's id, which opens nothing.)
NAMES = frozenset({"secret", "ca_key", "authority_key", "key_pem", "private_key", "password"})


def redact(text: str) -> str:
    """``text`` without private keys and join tokens."""
    return _SECRETS.sub(HIDDEN, text)


def redacted(value: Any) -> Any:
    """``value`` of a log record, however deep the secret lies. Bytes are shown as their text would be."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes | bytearray):
        return redact(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return {key: HIDDEN if key in NAMES else redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    # Whatever it is, the record shows its repr.
    return redact(repr(value))


# For what goes to strangers, also what other programs wrote: better too much hidden than too little.
_NAMED = re.compile(
    r"""(?ix) (?P<name> (?:password|passwd|passphrase|secret|token|api[_-]?key|credentials?)
        (?P<quote>["']?) \s* [:=] \s* )
    (?P<value> "(?:[^"\\]|\\.)*" | '[^']*' | [^\s,;{}[\]()"']+ )"""
)
_AUTHORIZATION = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.~=-]{6,}")
# What of a URL may be a secret: who logs in, and everything after the host.
_URL = re.compile(r"""(?i)\b(https?://)(?:[^\s/"'@]+@)?([^\s/"'?#<>\\]+)(?:[/?#][^\s"'<>\\]*)?""")


def scrub(text: str, known: Collection[str] = ()) -> str:
    """``text`` for strangers: without keys and tokens, the values of names that sound like a secret, and
    URLs beyond their host; and without those that are ``known`` to be secrets, wherever they are.
    """
    text = _URL.sub(rf"\1\2/{HIDDEN}", redact(text))
    for secret in sorted(filter(None, known), key=len, reverse=True):
        text = text.replace(secret, HIDDEN).replace(json.dumps(secret)[1:-1], HIDDEN)
    return _NAMED.sub(_hide_value, _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text))


def _hide_value(match: re.Match[str]) -> str:
    # A document stays one: what was in quotes still is.
    quote = match["quote"] or (match["value"][0] if match["value"][0] in "\"'" else "")
    return f"{match['name']}{quote}{HIDDEN}{quote}"
