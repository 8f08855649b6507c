"""Joining, both halves: who proves what to whom, in which order. Pure: nonces and the time are arguments.

1. The joining node reads the member's certificate off the TLS connection, unproven, and sends ``hello``: the
   token's id and a nonce. Nothing of worth yet.
2. The member answers with the authority's certificate, a nonce of its own, and a proof that it knows the
   hash of the token's secret, over its certificate and both nonces.
3. The joining node goes on only if the authority has the token's fingerprint, has issued the member's
   certificate, which TLS shows the member to have the key of, and if the proof is right: nobody in between.
   Then it sends ``request``: the secret itself, which proves that it was given the token, and a certificate
   request. Its private key never leaves it.
4. The member uses the token up, durably, and then issues.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Any

from msgspec import Struct

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust import authority as ca
from blockpair.trust import tokens
from blockpair.trust.authority import Authority, TrustError

NONCE_BYTES = 32
_NO_TRUST = (
    "nothing was sent that lets anybody in. Check the address and that the token is of this cluster; "
    "if both are right, something between the two nodes interferes"
)


class HelloParams(Struct, forbid_unknown_fields=True, frozen=True):
    """``join.hello``: which token, and the joining node's nonce in hexadecimal."""

    token_id: str
    nonce: str


class HelloAnswer(Struct, frozen=True):
    """The authority's certificate, the member's nonce and proof in hexadecimal."""

    authority: str
    nonce: str
    proof: str


class RequestParams(Struct, forbid_unknown_fields=True, frozen=True):
    """``join.request``: the secret in hexadecimal, a certificate request, and where the node will be."""

    secret: str
    request: str
    name: str
    addresses: list[str]
    port: int
    control_port: int

    def __repr__(self) -> str:
        return f"RequestParams({self.name})"


class RequestAnswer(Struct, frozen=True):
    """The certificate, the authority as all members keep it, and the configuration as exported."""

    certificate: str
    authority: str
    authority_key: str
    configuration: Any

    def __repr__(self) -> str:
        return "RequestAnswer(...)"


class WitnessParams(Struct, forbid_unknown_fields=True, frozen=True):
    """``join.witness``, in the place of ``join.request``: the secret in hexadecimal and a request for the
    certificate of a witness.
    """

    secret: str
    request: str

    def __repr__(self) -> str:
        return "WitnessParams(...)"


class WitnessAnswer(Struct, frozen=True):
    """The certificate, the authority's certificate, never its key, and which cluster it is."""

    certificate: str
    authority: str
    cluster: str
    name: str


def member_proof(secret_hash: bytes, leaf: bytes, token_id: str, nonces: tuple[bytes, bytes]) -> bytes:
    """By which a member shows that it gave out the token, on the connection where its certificate is
    ``leaf`` (binary).
    """
    parts = (b"blockpair join 1 member", hashlib.sha256(leaf).digest(), token_id.encode(), *nonces)
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(secret_hash, message, "sha256")


class Joiner:
    """The joining node's half, for one connection."""

    def __init__(self, token: tokens.Token, name: str, key: str, nonce: bytes) -> None:
        self._token = token
        self._name = name
        self._key = key
        self._nonce = nonce

    def hello(self) -> HelloParams:
        """What it says first."""
        return HelloParams(self._token.id, self._nonce.hex())

    def check(self, answer: HelloAnswer, leaf: bytes, now: datetime) -> None:
        """Raises `BlockpairError` unless the other side is a member of the cluster that made the token."""
        try:
            found = ca.fingerprint(answer.authority)
            if not hmac.compare_digest(found, self._token.authority):
                raise TrustError(
                    f"its cluster's authority has the fingerprint {found.hex()[:16]}…, the token is of "
                    f"another one, {self._token.authority.hex()[:16]}…"
                )
            ca.check_issued(leaf, answer.authority, now)
            nonces = (self._nonce, _hex(answer.nonce, NONCE_BYTES))
            proof = member_proof(tokens.secret_hash(self._token.secret), leaf, self._token.id, nonces)
            if not hmac.compare_digest(proof, _hex(answer.proof, len(proof))):
                raise TrustError("it cannot prove that it gave out the token")
        except TrustError as error:
            raise BlockpairError(
                ErrorKind.UNSAFE, f"what answers there is not believed: {error}", _NO_TRUST
            ) from None

    def request(self, addresses: list[str], port: int, control_port: int) -> RequestParams:
        """What it says once `check` has passed."""
        asked = ca.new_request(self._name, self._key)
        return RequestParams(self._token.secret.hex(), asked, self._name, addresses, port, control_port)

    def accept(self, answer: RequestAnswer, now: datetime) -> Authority:
        """The authority, if all that was issued fits. Raises `BlockpairError`."""
        try:
            if ca.fingerprint(answer.authority) != self._token.authority:
                raise TrustError("it sent another authority than the token's")
            ca.check_pair(answer.authority, answer.authority_key)
            ca.check_pair(answer.certificate, self._key)
            name = ca.check_issued(ca.der(answer.certificate), answer.authority, now)
            if name != self._name:
                raise TrustError(f"it issued a certificate for {name}")
        except (TrustError, ValueError) as error:
            raise _unusable(error) from None
        return Authority(answer.authority, answer.authority_key)

    def request_witness(self) -> WitnessParams:
        """What a witness says in the place of `request`."""
        return WitnessParams(self._token.secret.hex(), ca.new_request(ca.WITNESS, self._key))

    def accept_witness(self, answer: WitnessAnswer, now: datetime) -> None:
        """Raises `BlockpairError` unless all that was issued fits."""
        try:
            if ca.fingerprint(answer.authority) != self._token.authority:
                raise TrustError("it sent another authority than the token's")
            check_witness(answer.certificate, answer.authority, self._key, answer.cluster, now)
        except (TrustError, ValueError) as error:
            raise _unusable(error) from None


def check_witness(certificate: str, authority: str, key: str, cluster: str, now: datetime) -> None:
    """Raises `TrustError` unless the certificate is that of a witness of the cluster of that id, of this
    authority, for this key, and valid now.
    """
    ca.check_pair(certificate, key)
    name = ca.check_issued(ca.der(certificate), authority, now)
    if name != ca.witness_name(cluster):
        raise TrustError(f"the certificate is for {name}, not for the witness of the cluster {cluster}")


def _unusable(error: Exception) -> BlockpairError:
    return BlockpairError(
        ErrorKind.MISMATCH,
        f"what was issued cannot be used: {error}",
        "make a new token and join again; if it stays so, please report it",
    )


class Doorkeeper:
    """A member's half, for one connection, on which its certificate is ``leaf`` (binary)."""

    def __init__(self, leaf: bytes, authority: str, nonce: bytes) -> None:
        self._leaf = leaf
        self._authority = authority
        self._fingerprint = ca.fingerprint(authority)
        self._nonce = nonce
        self._token_id: str | None = None

    def hello(self, params: HelloParams, book: tokens.Book, now: datetime) -> HelloAnswer:
        """Raises `BlockpairError` for a token that cannot be used."""
        record = tokens.usable(book, params.token_id, now, self._fingerprint)
        try:
            nonces = (_hex(params.nonce, NONCE_BYTES), self._nonce)
        except TrustError as error:
            raise BlockpairError(ErrorKind.INVALID, f"nonce: {error}", "use blockpair to join") from None
        proof = member_proof(bytes.fromhex(record.secret_hash), self._leaf, params.token_id, nonces)
        self._token_id = params.token_id
        return HelloAnswer(self._authority, self._nonce.hex(), proof.hex())

    def request(self, params: RequestParams, book: tokens.Book, now: datetime) -> str:
        """The id of the token by which the node is let in. Raises `BlockpairError`."""
        token_id = self.proved(params.secret, book, now)
        try:
            ca.check_member_name(params.name)
        except ValueError as error:
            raise BlockpairError(
                ErrorKind.INVALID, str(error), "set another name in [node] of blockpair.toml"
            ) from None
        return token_id

    def proved(self, secret_text: str, book: tokens.Book, now: datetime) -> str:
        """The id of the token that the caller has shown to have. Raises `BlockpairError`."""
        if self._token_id is None:
            raise BlockpairError(ErrorKind.INVALID, "a request came before a hello", "use blockpair to join")
        record = tokens.usable(book, self._token_id, now, self._fingerprint)
        try:
            secret = _hex(secret_text, 32)
        except TrustError:
            secret = b""
        if not tokens.matches(record, secret):
            raise BlockpairError(
                ErrorKind.UNSAFE,
                "the secret is not that of the token",
                "copy the whole join command that `blockpair cluster token` printed",
            )
        return self._token_id


def _hex(text: str, length: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        raise TrustError("it is not hexadecimal") from None
    if len(found) != length:
        raise TrustError(f"it has {len(found)} bytes, not {length}")
    return found
