"""TLS as the control ports speak it: version 1.3 alone, both sides with certificates of the cluster."""

from __future__ import annotations

import ssl
from pathlib import Path

# A node's certificate is good for replication too: the protocol's name keeps the two apart.
ALPN = "blockpair-control/1"
WITNESS_ALPN = "blockpair-witness/1"


def server_context(ca_pem: str, chain: Path, key: Path) -> ssl.SSLContext:
    """For the control port. A caller without a certificate is let in by TLS: it can only ask to join. Raises
    `OSError`.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    # Nothing is resumed: who was removed must show its certificate again.
    context.num_tickets = 0
    return _with(context, ca_pem, chain, key)


def witness_context() -> ssl.SSLContext:
    """For a witness's port, before it is known which cluster's caller it is. It has no certificate: the name
    that the caller gives chooses one of `witness_cluster_context`.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, WITNESS_ALPN)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.num_tickets = 0
    return context


def witness_cluster_context(ca_pem: str, chain: Path, key: Path) -> ssl.SSLContext:
    """The same for one cluster. Raises `OSError`."""
    return _with(witness_context(), ca_pem, chain, key)


def client_context(ca_pem: str, chain: Path, key: Path, alpn: str = ALPN) -> ssl.SSLContext:
    """For calls to a member or a witness, whose name is the connection's ``server_hostname``. Raises
    `OSError`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, alpn)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.hostname_checks_common_name = False
    return _with(context, ca_pem, chain, key)


def joining_context() -> ssl.SSLContext:
    """For a node that has no trust yet: TLS proves nothing here, `blockpair.trust.join` does."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int, alpn: str = ALPN) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([alpn])
    return context


def _with(context: ssl.SSLContext, ca_pem: str, chain: Path, key: Path) -> ssl.SSLContext:
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=ca_pem)
    context.load_cert_chain(chain, key)
    return context
