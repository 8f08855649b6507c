"""The cluster's authority and what it issues: keys, certificates, requests. Pure: text in, text out, and
the time is an argument.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blockpair.config.names import check_name

AUTHORITY_LIFE = timedelta(days=20 * 365)
NODE_LIFE = timedelta(days=365)
# Clocks differ: a certificate is good on a node whose clock is this much behind the issuer's.
BACKDATED = timedelta(hours=1)
# The part of a certificate's life after which the daemon renews it.
_RENEW_AFTER = 2 / 3
_MAX_PEM_BYTES = 16 << 10
# A node's name begins with a letter or digit.
WITNESS = "_witness"

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


class TrustError(ValueError):
    """A certificate, request or key that cannot be accepted, in words."""


@dataclass(frozen=True)
class Authority:
    """The cluster's CA, as PEM texts."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Facts:
    """What a certificate says. ``sha256``: of the whole certificate, in hexadecimal."""

    name: str
    not_before: datetime
    not_after: datetime
    sha256: str


def check_member_name(name: str) -> str:
    """``name``, if a cluster's node may have it: it is a DNS name in certificates. Raises `ValueError`."""
    check_name(name)
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdecimal():
        raise ValueError(
            f"{name!r} cannot be the name of a cluster's node: between dots, letters, digits, '_' and '-' "
            "are allowed, with no '-' at either end, and it must not look like an address"
        )
    return name


def new_key() -> str:
    """A fresh private key (ECDSA P-256)."""
    return _key_text(ec.generate_private_key(ec.SECP256R1()))


def new_authority(cluster: str, now: datetime) -> Authority:
    """A CA of its own for the cluster of that name."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities of a cluster, before and after a removal, are never taken for each other.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "blockpair"),
            x509.NameAttribute(NameOID.COMMON_NAME, cluster),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, secrets.token_hex(8)),
        ]
    )
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return Authority(_certificate_text(certificate), _key_text(key))


def new_request(name: str, key: str) -> str:
    """A request for the certificate of node ``name``, signed with its key. Raises `TrustError`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    request = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False).sign(
        _load_key(key), hashes.SHA256()
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def issue(authority: Authority, request: str, name: str, now: datetime) -> str:
    """The certificate that ``request`` asks for, if it is for node ``name`` and its sender has the key.
    Raises `TrustError`.
    """
    check_member_name(name)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(authority, request, name, name=name, usages=usages, now=now)


def witness_name(cluster: str) -> str:
    """The name in the certificate of the witness of the cluster of that id. No node can have it."""
    return f"{WITNESS}.{cluster}"


def issue_witness(authority: Authority, request: str, cluster: str, now: datetime) -> str:
    """The certificate of a witness of the cluster of that id, for a request in the name `WITNESS`. Who has it
    can be called, and call nobody. Raises `TrustError`.
    """
    usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    return _issue(authority, request, WITNESS, name=witness_name(cluster), usages=usages, now=now)


def _issue(
    authority: Authority,
    request: str,
    requested: str,
    *,
    name: str,
    usages: list[x509.ObjectIdentifier],
    now: datetime,
) -> str:
    asked = _load_request(request)
    key = asked.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError("the request's key is not of the kind ECDSA P-256")
    if not asked.is_signature_valid:
        raise TrustError("the request is not signed with its own key")
    if _names(asked.extensions) != [requested]:
        raise TrustError(f"the request is not for the node {requested}")
    issuer = _load(authority.certificate)
    if not issuer.not_valid_before_utc <= now <= issuer.not_valid_after_utc:
        raise TrustError(
            f"this node's clock says {now:%Y-%m-%d %H:%M:%S UTC}, and the cluster's authority is valid from "
            f"{issuer.not_valid_before_utc:%Y-%m-%d} to {issuer.not_valid_after_utc:%Y-%m-%d}"
        )
    end = min(now + NODE_LIFE, issuer.not_valid_after_utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(_load_key(authority.key), hashes.SHA256())
    )
    return _certificate_text(certificate)


def inspect(certificate: str) -> Facts:
    """What a node's or an authority's certificate says. Raises `TrustError`."""
    return _facts(_load(certificate))


def inspect_der(certificate: bytes) -> Facts:
    """Like `inspect`, of the binary form. Raises `TrustError`."""
    return _facts(_load_der(certificate))


def certified_name(certificate: bytes) -> str:
    """The node that a certificate (binary), verified already, is of. Raises `TrustError`."""
    names = _names(_load_der(certificate).extensions)
    if len(names) != 1:
        raise TrustError("the certificate is not of exactly one node")
    return names[0]


def check_issued(certificate: bytes, authority: str, now: datetime) -> str:
    """The node that a certificate (binary) is of, if ``authority`` issued it, for nodes, and it is valid now.
    Raises `TrustError`.
    """
    loaded, issuer = _load_der(certificate), _load(authority)
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise TrustError("the authority's certificate is not that of an authority")
    try:
        loaded.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise TrustError("the certificate was not issued by the cluster's authority") from None
    for which, text in ((issuer, "authority's certificate"), (loaded, "certificate")):
        if now < which.not_valid_before_utc:
            raise TrustError(f"the {text} is not valid yet (is this node's clock right?)")
        if now > which.not_valid_after_utc:
            raise TrustError(f"the {text} has expired (is this node's clock right?)")
    usage = _extension(loaded, x509.ExtendedKeyUsage)
    if usage is None or ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise TrustError("the certificate is not that of a node")
    return certified_name(certificate)


def check_pair(certificate: str, key: str) -> None:
    """Raises `TrustError` where the key is not the certificate's."""
    if _load(certificate).public_key() != _load_key(key).public_key():
        raise TrustError("the key does not belong to the certificate")


def key_fingerprint(key: str) -> str:
    """SHA-256 of the public half of a private key, in hexadecimal. Raises `TrustError`."""
    return _public_fingerprint(_load_key(key).public_key())


def certified_key_fingerprint(certificate: bytes) -> str:
    """That of the key of a certificate (binary). Raises `TrustError`."""
    return _public_fingerprint(_load_der(certificate).public_key())


def requested_key_fingerprint(request: str) -> str:
    """That of the key of a certificate request. Raises `TrustError`."""
    return _public_fingerprint(_load_request(request).public_key())


def _public_fingerprint(key: CertificatePublicKeyTypes) -> str:
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def fingerprint(certificate: str) -> bytes:
    """SHA-256 of the whole certificate. Raises `TrustError`."""
    return _load(certificate).fingerprint(hashes.SHA256())


def fingerprint_der(certificate: bytes) -> bytes:
    """Like `fingerprint`, of the binary form."""
    return hashlib.sha256(certificate).digest()


def der(certificate: str) -> bytes:
    """The binary form of a certificate. Raises `TrustError`."""
    return _load(certificate).public_bytes(serialization.Encoding.DER)


def renewal_due(facts: Facts, now: datetime) -> bool:
    """Whether two thirds of a certificate's life are over, or it was made by a clock that was ahead of this
    one.
    """
    return (
        now < facts.not_before
        or now >= facts.not_before + (facts.not_after - facts.not_before) * _RENEW_AFTER
    )


def _facts(certificate: x509.Certificate) -> Facts:
    names = _names(certificate.extensions)
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = names[0] if names else str(common[0].value) if common else ""
    return Facts(
        name,
        certificate.not_valid_before_utc.astimezone(UTC),
        certificate.not_valid_after_utc.astimezone(UTC),
        certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(extensions: x509.Extensions) -> list[str]:
    try:
        alternative = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    if len(list(alternative)) != len(names := alternative.get_values_for_type(x509.DNSName)):
        raise TrustError("it has names of another kind than a node's")
    return names


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _load(text: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_bounded(text))
    except ValueError:
        raise TrustError("not a certificate") from None


def _load_der(content: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(content)
    except ValueError:
        raise TrustError("not a certificate") from None


def _load_request(text: str) -> x509.CertificateSigningRequest:
    try:
        return x509.load_pem_x509_csr(_bounded(text))
    except ValueError:
        raise TrustError("not a certificate request") from None


def _load_key(text: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_bounded(text), password=None)
    except (ValueError, TypeError):
        # Nothing of a key is ever said.
        raise TrustError("not a private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TrustError("not a private key of the kind ECDSA P-256")
    return key


def _bounded(text: str) -> bytes:
    content = text.encode(errors="replace")
    if len(content) > _MAX_PEM_BYTES:
        raise TrustError(f"longer than {_MAX_PEM_BYTES} bytes")
    return content


def _certificate_text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
