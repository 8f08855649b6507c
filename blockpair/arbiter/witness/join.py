"""How a witness comes to serve a cluster: by a token, as a node joins, and without becoming one."""

from __future__ import annotations

import secrets
from datetime import datetime

from blockpair.arbiter.witness.clusters import Membership
from blockpair.cluster.joining import conversation, greet, understood
from blockpair.cluster.peers import exchange
from blockpair.config.names import Address
from blockpair.trust import authority as ca
from blockpair.trust import tokens
from blockpair.trust.join import NONCE_BYTES, Joiner, WitnessAnswer

_BOTH = "machines"


async def join(member: Address, token: tokens.Token, now: datetime) -> Membership:
    """What the member whose control port that is issues for ``token``. Raises `BlockpairError`."""
    async with conversation(member) as stream:
        key = ca.new_key()
        joiner = Joiner(token, ca.WITNESS, key, secrets.token_bytes(NONCE_BYTES))
        await greet(stream, joiner, now, both=_BOTH)
        answer = await exchange(stream, "join.witness", joiner.request_witness())
        issued = understood(WitnessAnswer, answer, both=_BOTH)
        joiner.accept_witness(issued, now)
        return Membership(issued.cluster, issued.name, issued.authority, issued.certificate, key)
