"""Join tokens: what an administrator carries from a member to the node that shall join. Pure: the time is an
argument.

A token holds a secret and the fingerprint of the cluster's authority. The cluster keeps only a hash of the
secret; the hash lets a member prove that it gave the token out, and does not let anybody join.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec import Struct, field
from msgspec.structs import replace

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust.authority import WITNESS

MAX_LIFE = timedelta(days=7)
MAX_OPEN = 100
MAX_REMEMBERED = 200
# So long a token that is used or expired is told apart from one that never was.
_REMEMBERED = timedelta(days=30)
_PREFIX = "bpj1-"
_ID_BYTES, _SECRET_BYTES, _FINGERPRINT_BYTES, _CHECK_BYTES = 8, 32, 32, 4
# Characters of base64 without padding: 6 bits each.
_ENCODED = -(-(_ID_BYTES + _SECRET_BYTES + _FINGERPRINT_BYTES + _CHECK_BYTES) * 8 // 6)
_NEW_TOKEN = "on a member: `blockpair cluster token`, and join with the command that it prints"


@dataclass(frozen=True)
class Token:
    """What is printed, taken apart. Its ``repr`` shows no secret."""

    id: str
    secret: bytes
    authority: bytes

    def __repr__(self) -> str:
        return f"Token({self.id})"

    def text(self) -> str:
        """As it is handed over."""
        body = bytes.fromhex(self.id) + self.secret + self.authority
        return _PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")


def new_token(authority: bytes) -> Token:
    """A fresh token for the cluster whose authority has that fingerprint (SHA-256)."""
    return Token(secrets.token_hex(_ID_BYTES), secrets.token_bytes(_SECRET_BYTES), authority)


def parse_token(text: str) -> Token:
    """The token in ``text``. Raises `ValueError`, which never repeats it."""
    text = text.strip()
    encoded = text.removeprefix(_PREFIX)
    if encoded == text:
        raise ValueError(f"it does not begin with {_PREFIX}")
    # First: base64 itself calls a text of some lengths no base64, whatever it is made of.
    if len(encoded) != _ENCODED:
        short = len(encoded) < _ENCODED
        raise ValueError("it is too short: a part is missing" if short else "it is too long")
    try:
        content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it has characters that no token has") from None
    body, check = content[:-_CHECK_BYTES], content[-_CHECK_BYTES:]
    if check != _check(body):
        raise ValueError("a character of it was changed")
    secret_end = _ID_BYTES + _SECRET_BYTES
    return Token(body[:_ID_BYTES].hex(), body[_ID_BYTES:secret_end], body[secret_end:])


def _check(body: bytes) -> bytes:
    return hashlib.sha256(b"blockpair token check" + body).digest()[:_CHECK_BYTES]


def secret_hash(secret: bytes) -> bytes:
    """What a member keeps of a secret, and proves to know. The secret has 256 random bits: no salt and no
    slowness would add anything.
    """
    return hashlib.sha256(b"blockpair join token 1\0" + secret).digest()


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """What a member keeps of a token. ``authority``: the fingerprint of the one it was made under, in
    hexadecimal; ``used_by``: the node it let in, and ``used`` when.
    """

    secret_hash: str
    authority: str
    created: datetime
    expires: datetime
    used: datetime | None = None
    used_by: str | None = None


class Book(Struct, frozen=True, forbid_unknown_fields=True):
    """All tokens of this node that are remembered, by their id."""

    tokens: dict[str, Record] = field(default_factory=dict)


def added(book: Book, token: Token, life: timedelta, now: datetime) -> Book:
    """``book`` with a new token that lives for ``life``. Raises `BlockpairError`."""
    if not timedelta(0) < life <= MAX_LIFE:
        raise BlockpairError(
            ErrorKind.USAGE,
            f"a token cannot live for {life / timedelta(hours=1):g}h",
            f"choose a time up to {MAX_LIFE.total_seconds() / 3600:g}h, such as --ttl 15m",
        )
    kept = {id_: record for id_, record in book.tokens.items() if now < record.expires + _REMEMBERED}
    opened = {id_: record for id_, record in kept.items() if record.used is None and now < record.expires}
    if len(opened) >= MAX_OPEN:
        raise BlockpairError(
            ErrorKind.FAILED, f"{MAX_OPEN} tokens are open already", "use one, or wait until they expire"
        )
    done = sorted((id_ for id_ in kept if id_ not in opened), key=lambda id_: kept[id_].created)
    for id_ in done[: max(0, len(kept) + 1 - MAX_REMEMBERED)]:
        del kept[id_]
    record = Record(secret_hash(token.secret).hex(), token.authority.hex(), now, now + life)
    return Book({**kept, token.id: record})


def usable(book: Book, token_id: str, now: datetime, authority: bytes) -> Record:
    """The record of a token that may still be used under the authority of that fingerprint. Raises
    `BlockpairError`.
    """
    record = book.tokens.get(token_id)
    if record is None:
        raise BlockpairError(
            ErrorKind.NOT_FOUND,
            "this node gave out no such token: it is another node's or another cluster's, or long expired",
            _NEW_TOKEN,
        )
    if record.used is not None:
        raise BlockpairError(
            ErrorKind.FAILED,
            f"the token was used already, by {_whom(record)} at {_when(record.used)}",
            f"each token lets one node or witness in; {_NEW_TOKEN}. If that was not you: {_undo(record)}",
        )
    if now >= record.expires:
        raise BlockpairError(ErrorKind.TIMEOUT, f"the token expired at {_when(record.expires)}", _NEW_TOKEN)
    if record.authority != authority.hex():
        # Who holds it may be the very one whom the authority was changed to keep out.
        raise BlockpairError(
            ErrorKind.UNSAFE,
            "the token is worth nothing any more: the cluster's authority was changed since it was made",
            _NEW_TOKEN,
        )
    return record


def _whom(record: Record) -> str:
    return "a witness" if record.used_by == WITNESS else str(record.used_by)


def _undo(record: Record) -> str:
    # A witness is no member: what it has is worthless under another authority.
    return (
        "`blockpair cluster rotate --ca`"
        if record.used_by == WITNESS
        else f"`blockpair cluster remove {record.used_by}`"
    )


def matches(record: Record, secret: bytes) -> bool:
    """Whether ``secret`` is the token's."""
    return hmac.compare_digest(secret_hash(secret).hex(), record.secret_hash)


def used(book: Book, token_id: str, node: str, now: datetime) -> Book:
    """``book`` after its token, which is `usable`, let ``node`` in."""
    record = replace(book.tokens[token_id], used=now, used_by=node)
    return Book({**book.tokens, token_id: record})


def _when(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")
