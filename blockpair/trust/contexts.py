"""TLS as the control ports speak it: version 1.3 alone, both sides with certificates of the cluster."""

from __future__ import annotations

import ssl
from pathlib import Path

# A node's certificate is good for replication too: the protocol's name keeps the two apart.
ALPN = "blockpair-control/1"


def server_context(ca_pem: str, chain: Path, key: Path) -> ssl.SSLContext:
    """For the control port. A caller without a certificate is let in by TLS: it can only ask to join. Raises
    `OSError`.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    # Nothing is resumed: who was removed must show its certificate again.
    context.num_tickets = 0
    return _with(context, ca_pem, chain, key)


def client_context(ca_pem: str, chain: Path, key: Path) -> ssl.SSLContext:
    """For calls to a member, whose name is the connection's ``server_hostname``. Raises `OSError`."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
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


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    return context


def _with(context: ssl.SSLContext, ca_pem: str, chain: Path, key: Path) -> ssl.SSLContext:
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=ca_pem)
    context.load_cert_chain(chain, key)
    return context
