"""The witness's register, its port, and a node's way to it: one process, real TLS, a real database."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from blockpair.arbiter.interface import ArbiterRefused, ArbiterUnreachable, Configuration, Key
from blockpair.arbiter.witness import protocol
from blockpair.arbiter.witness.client import WitnessArbiter
from blockpair.arbiter.witness.clusters import Clusters
from blockpair.arbiter.witness.commits import Commits
from blockpair.arbiter.witness.register import (
    ContactOperation,
    DiskFailed,
    ForgetOperation,
    ReadOperation,
    Register,
    SwapOperation,
)
from blockpair.arbiter.witness.trust import NodeTrust
from blockpair.cluster.tls import TlsStream, dial
from blockpair.config.names import Address
from blockpair.errors import BlockpairError, ErrorKind
from blockpair.rpc import messages
from blockpair.trust import authority as ca
from blockpair.trust.contexts import ALPN
from tests.witness_world import EAST, R0, WEST, ClusterTrust, Witness, now, witness

ONE = Configuration(1, "a", frozenset("a"))
TWO = Configuration(2, "a", frozenset("ab"))
THREE = Configuration(3, "b", frozenset("b"))
ID = R0.resource_id


def swap(
    expected: Configuration | None,
    new: Configuration,
    node: str = "a",
    cluster: str = EAST,
    resource: str = ID,
) -> SwapOperation:
    return SwapOperation(cluster, node, resource, "r0", expected, new)


# -- The register


def test_a_register_is_swapped_only_from_what_it_holds(tmp_path: Path) -> None:
    register = Register(tmp_path / "r")
    read = ReadOperation(EAST, ID)
    assert register.apply([read, swap(ONE, TWO), swap(None, ONE), read]) == [None, False, True, ONE]
    assert register.apply([swap(None, ONE), swap(ONE, TWO), swap(ONE, THREE), read]) == [
        False,
        True,
        False,
        TWO,
    ]
    # Of another cluster, and of another resource.
    assert register.apply([ReadOperation(WEST, ID), ReadOperation(EAST, "f" * 32)]) == [None, None]


def test_a_register_is_there_again_after_a_restart(tmp_path: Path) -> None:
    register = Register(tmp_path / "r")
    register.apply([swap(None, ONE), ContactOperation(((EAST, "a", 7),))])
    register.close()
    register = Register(tmp_path / "r")
    assert register.apply([ReadOperation(EAST, ID)]) == [ONE]
    assert register.contacts() == {(EAST, "a"): 7}
    row = register.rows()[0]
    assert (row.cluster, row.resource, row.name, row.configuration, row.changed_by) == (
        EAST,
        ID,
        "r0",
        ONE,
        "a",
    )
    assert register.apply([ForgetOperation(EAST, ID), ForgetOperation(EAST, ID)]) == [True, False]
    assert register.rows() == []


def test_what_a_start_finds_in_the_log_is_in_the_database_before_anything_is_answered(tmp_path: Path) -> None:
    """A log whose sync failed is right in the kernel's memory alone."""
    script = (
        "import os, sys; from pathlib import Path; from tests.unit.test_witness import *\n"
        "Register(Path(sys.argv[1])).apply([swap(None, ONE)])\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "r"], check=True, timeout=60)
    log = tmp_path / "r-wal"
    assert log.stat().st_size > 0
    register = Register(tmp_path / "r")
    assert log.stat().st_size == 0
    (tmp_path / "copy").write_bytes((tmp_path / "r").read_bytes())
    assert Register(tmp_path / "copy").apply([ReadOperation(EAST, ID)]) == [ONE]
    register.close()


def test_an_answer_is_on_the_disk_before_it_is_given(tmp_path: Path) -> None:
    """A kill alone does not show that: the system would still write what it was given."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace")
    script = (
        "import os, sys; from pathlib import Path; from tests.unit.test_witness import *\n"
        "register = Register(Path(sys.argv[1]))\n"
        "for number in range(5):\n"
        "    answers = register.apply([swap(None, ONE, resource=f'{number:032x}')])\n"
        "    os.write(1, repr(answers).encode())\n"
    )
    trace = tmp_path / "trace"
    subprocess.run(
        [
            strace,
            "-f",
            "-o",
            trace,
            "-e",
            "trace=fsync,fdatasync,write",
            sys.executable,
            "-c",
            script,
            tmp_path / "r",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    synced, answers = False, 0
    for line in trace.read_text().splitlines():
        if "sync(" in line and line.endswith("= 0"):
            synced = True
        elif "write(1, " in line:
            assert synced, "an answer that was not on the disk yet"
            synced, answers = False, answers + 1
    assert answers == 5


def test_only_a_node_that_it_is_about_may_swap_and_epochs_grow(tmp_path: Path) -> None:
    register = Register(tmp_path / "r")
    (answer,) = register.apply([swap(None, ONE, node="c")])
    assert isinstance(answer, BlockpairError) and answer.kind is ErrorKind.NOT_PERMITTED
    register.apply([swap(None, TWO)])
    # The one that goes, and the one that comes.
    assert register.apply([swap(TWO, THREE, node="a")]) == [True]
    (answer,) = register.apply([swap(THREE, TWO)])
    assert isinstance(answer, BlockpairError) and answer.kind is ErrorKind.INVALID
    assert register.apply([ReadOperation(EAST, ID)]) == [THREE]


def test_a_cluster_has_a_bound_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockpair.arbiter.witness.register.MAX_RESOURCES", 2)
    register = Register(tmp_path / "r")
    many = [swap(None, ONE, resource=f"{number:032x}") for number in range(3)]
    *done, last = register.apply(many)
    assert done == [True, True]
    assert isinstance(last, BlockpairError) and "forget" in last.remedy
    assert register.apply([swap(None, ONE, cluster=WEST), swap(ONE, TWO, resource=f"{1:032x}")]) == [
        True,
        True,
    ]


def test_one_database_is_for_one_process(tmp_path: Path) -> None:
    register = Register(tmp_path / "r")
    register.apply([swap(None, ONE)])
    with pytest.raises(BlockpairError) as caught:
        Register(tmp_path / "r")
    assert caught.value.kind is ErrorKind.IN_USE
    register.close()


@pytest.mark.parametrize(
    "content", [b"not a database at all, but some text" * 40, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_what_is_no_database_is_told_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(BlockpairError) as caught:
        Register(tmp_path / "r")
    assert caught.value.kind is ErrorKind.DAMAGED
    assert "move it away" in caught.value.remedy


def test_a_disk_that_fails_ends_everything(tmp_path: Path) -> None:
    register = Register(tmp_path / "r")
    register.apply([swap(None, ONE)])
    register._database.execute("PRAGMA query_only=1")
    with pytest.raises(DiskFailed):
        register.apply([swap(ONE, TWO)])


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    register = Register(tmp_path / "r")
    register.apply([swap(None, ONE)])
    pages = register._database.execute("PRAGMA page_count").fetchone()[0]
    register._database.execute(f"PRAGMA max_page_count={pages}")
    many = [swap(None, ONE, resource=f"{number:032x}") for number in range(2, 400)]
    with pytest.raises(BlockpairError) as caught:
        register.apply([*many, swap(ONE, TWO)])
    assert caught.value.kind is ErrorKind.IO
    assert register.apply([ReadOperation(EAST, ID)]) == [ONE] and len(register.rows()) == 1


# -- Through the port


def run(base: Path, body: Callable[[Witness, ClusterTrust], Awaitable[None]], nodes: str = "ab") -> None:
    async def whole() -> None:
        cluster = ClusterTrust(base)
        for node in nodes:
            cluster.admit(node)
        async with asyncio.timeout(60), witness(base / "witness", cluster.witness()) as third:
            await body(third, cluster)

    asyncio.run(whole())


def test_two_nodes_share_a_register(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        a, b = (third.arbiter(cluster.trust(node)) for node in "ab")
        assert await a.read(R0) is None
        assert await a.compare_and_swap(R0, None, TWO)
        assert await b.read(R0) == TWO
        assert not await b.compare_and_swap(R0, ONE, THREE)
        assert await b.compare_and_swap(R0, TWO, THREE)
        assert await a.read(R0) == THREE
        assert {node for _, node in third.server.contacts} == {"a", "b"}
        for arbiter in (a, b):
            await arbiter.close()
            await arbiter.close()

    run(tmp_path, body)


def test_what_a_node_may_not_is_told_with_a_remedy(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        c = third.arbiter(cluster.trust("c"))
        with pytest.raises(ArbiterRefused, match=r"127\.0\.0\.1:\d+: c may change .* of its own resources"):
            await c.compare_and_swap(R0, None, ONE)
        with pytest.raises(ArbiterRefused, match="of another cluster"):
            await c.read(Key(WEST, ID, "r0"))
        await c.close()

    run(tmp_path, body, nodes="c")


def test_a_cluster_sees_nothing_of_another(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        west = ClusterTrust(tmp_path, "west", WEST)
        third.clusters.keep(west.witness())
        ours, theirs = third.arbiter(cluster.trust("a")), third.arbiter(west.admit("a"))
        assert await ours.compare_and_swap(R0, None, ONE)
        theirs_r0 = Key(WEST, ID, "r0")
        assert await theirs.read(theirs_r0) is None
        assert await theirs.compare_and_swap(theirs_r0, None, TWO)
        assert await ours.read(R0) == ONE
        # Called by the name of the other cluster's witness, with a certificate of one's own.
        mixed = NodeTrust(cluster.store("a"), WEST, now)
        stranger = third.arbiter(mixed)
        with pytest.raises(ArbiterRefused):
            await stranger.read(theirs_r0)
        for arbiter in (ours, theirs, stranger):
            await arbiter.close()

    run(tmp_path, body)


def test_a_witness_that_does_not_serve_the_cluster_says_so(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        west = ClusterTrust(tmp_path, "west", WEST)
        arbiter = third.arbiter(west.admit("a"))
        with pytest.raises(ArbiterRefused, match=r"does not serve this cluster .*witness join"):
            await arbiter.read(Key(WEST, ID, "r0"))
        await arbiter.close()

    run(tmp_path, body)


def test_a_witness_that_is_away_and_comes_back(tmp_path: Path) -> None:
    async def whole() -> None:
        cluster = ClusterTrust(tmp_path)
        trust = cluster.admit("a")
        async with witness(tmp_path / "w", cluster.witness()) as third:
            address = third.address
            arbiter = third.arbiter(trust)
            assert await arbiter.compare_and_swap(R0, None, ONE)
        with pytest.raises(ArbiterUnreachable, match=f"the witness {address}: "):
            await arbiter.read(R0)
        with pytest.raises(ArbiterUnreachable, match="Connection refused"):
            await arbiter.read(R0)
        async with witness(tmp_path / "w", port=address.port) as third:
            while True:
                try:
                    assert await arbiter.read(R0) == ONE
                    break
                except ArbiterUnreachable:
                    # Of the attempt before: it holds for a tenth of a second.
                    await asyncio.sleep(0.02)
            await arbiter.close()

    asyncio.run(asyncio.wait_for(whole(), 60))


def test_what_answers_nothing_costs_a_call_its_time_and_no_more(tmp_path: Path) -> None:
    async def whole() -> None:
        cluster = ClusterTrust(tmp_path)
        silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        arbiter = WitnessArbiter(Address("127.0.0.1", port), cluster.admit("a"), call_seconds=0.2)
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(*(arbiter.read(R0) for _ in range(500)), return_exceptions=True)
        assert all(isinstance(found, ArbiterUnreachable) for found in results)
        assert "no answer within 0.2 s" in str(results[0])
        assert asyncio.get_running_loop().time() - began < 5
        await arbiter.close()
        silent.close()

    asyncio.run(asyncio.wait_for(whole(), 60))


def test_hundreds_of_resources_share_a_connection(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        arbiter = third.arbiter(cluster.trust("a"))
        keys = [Key(EAST, f"{number:032x}", f"r{number}") for number in range(500)]
        assert all(await asyncio.gather(*(arbiter.compare_and_swap(key, None, ONE) for key in keys)))
        assert set(await asyncio.gather(*(arbiter.read(key) for key in keys))) == {ONE}
        assert len(third.server._door._proven) == 1
        await arbiter.close()

    run(tmp_path, body)


def test_a_call_given_up_does_not_disturb_the_others(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        arbiter = third.arbiter(cluster.trust("a"))
        await arbiter.read(R0)
        calls = [asyncio.create_task(arbiter.read(R0)) for _ in range(10)]
        await asyncio.sleep(0)
        calls[3].cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in found] == [n == 3 for n in range(10)]
        assert await arbiter.read(R0) is None
        await arbiter.close()

    run(tmp_path, body)


def test_a_disk_that_fails_is_told_to_all_who_wait_and_after(tmp_path: Path) -> None:
    async def whole() -> None:
        register = Register(tmp_path / "r")
        commits = Commits(register)
        register._database.execute("PRAGMA query_only=1")
        waiting = [commits.submit(swap(None, ONE, resource=f"{number:032x}")) for number in range(3)]
        with pytest.raises(DiskFailed):
            await commits.run()
        for future in (*waiting, commits.submit(ReadOperation(EAST, ID))):
            with pytest.raises(BlockpairError, match="disk failed"):
                await future

    asyncio.run(asyncio.wait_for(whole(), 20))


# -- What strangers and broken callers can do


async def _stream(third: Witness, context: ssl.SSLContext, cluster: ClusterTrust) -> TlsStream:
    stream = TlsStream(
        await dial(third.address), context, server_side=False, name=ca.witness_name(cluster.id)
    )
    await stream.handshake()
    return stream


def test_without_a_certificate_nobody_is_heard(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["blockpair-witness/1"])
        context.load_verify_locations(cadata=cluster.authority.certificate)
        stream = await _stream(third, context, cluster)
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            await stream.read_line(1000)
        await stream.close()

    run(tmp_path, body)


def test_the_witness_may_call_nobody(tmp_path: Path) -> None:
    """Its certificate is for a server: as a caller's, TLS itself refuses it."""

    async def body(third: Witness, cluster: ClusterTrust) -> None:
        file = tmp_path / "witness/clusters" / EAST / "trust.pem"
        context = cluster.store("a").load()
        assert context is not None
        as_witness = context.client("blockpair-witness/1")
        as_witness.load_cert_chain(file, file)
        stream = await _stream(third, as_witness, cluster)
        with pytest.raises(ssl.SSLError, match="UNSUPPORTED_CERTIFICATE"):
            await stream.read_line(1000)
        await stream.close()

    run(tmp_path, body)


def test_another_protocol_than_the_witness_s_is_refused(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        generation = cluster.store("a").load()
        assert generation is not None
        stream = await _stream(third, generation.client(ALPN), cluster)
        assert stream.protocol() is None and await stream.read_line(1000) is None
        await stream.close()

    run(tmp_path, body)


BROKEN = [
    b"{}",
    b"[" * 5000,
    b'{"jsonrpc":"2.0","id":1,"method":"register.burn"}',
    b'{"jsonrpc":"2.0","id":1,"method":"register.read","params":{"resource":"../../etc"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"register.swap","params":{"resource":"' + b"0" * 32 + b'"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"register.swap","params":{"resource":"'
    + b"0" * 32
    + b'","name":"r0","expected":null,"new":{"epoch":0,"primary":"a","in_sync":["a"]}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"trust.take","params":{"authority":"x","certificate":"y"}}',
]


@pytest.mark.parametrize("line", BROKEN)
def test_what_is_no_call_is_answered_with_an_error(tmp_path: Path, line: bytes) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        stream = await _stream(third, (cluster.trust("a").identity()).context, cluster)
        await stream.write(line + b"\n")
        answer = await stream.read_line(messages.MAX_RESPONSE_BYTES)
        assert answer is not None and messages.decode_response(answer).error
        # It is heard as before.
        await stream.write(messages.encode_request(2, protocol.READ, protocol.ReadParams(ID)))
        answer = await stream.read_line(messages.MAX_RESPONSE_BYTES)
        assert answer is not None and messages.decode_response(answer).id == 2
        await stream.close()

    run(tmp_path, body)


def test_a_line_without_end_is_bounded(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        stream = await _stream(third, (cluster.trust("a").identity()).context, cluster)
        await stream.write(b"x" * (protocol.MAX_LINE_BYTES + 2))
        assert await stream.read_line(1000) is None
        await stream.close()

    run(tmp_path, body)


def test_who_does_not_read_its_answers_is_put_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockpair.arbiter.witness.server._ANSWER_SECONDS", 0.2)

    async def body(third: Witness, cluster: ClusterTrust) -> None:
        stream = await _stream(third, cluster.trust("a").identity().context, cluster)
        ask = messages.encode_request(1, protocol.READ, protocol.ReadParams("x" * 8000))
        with pytest.raises(OSError):
            async with asyncio.timeout(40):
                while True:
                    await stream.write(ask * 20)
        await stream.close()
        async with asyncio.timeout(20):
            while third.server._door._proven:
                await asyncio.wait(set(third.server._door._proven))

    run(tmp_path, body)


def test_the_newest_connections_of_a_node_stay(tmp_path: Path) -> None:
    """A node that was cut off comes back by a new one; its old ones say nothing of their end."""

    async def body(third: Witness, cluster: ClusterTrust) -> None:
        context = cluster.trust("a").identity().context
        streams = [await _stream(third, context, cluster) for _ in range(6)]
        ask = messages.encode_request(2, protocol.READ, protocol.ReadParams(ID))
        for stream in streams[-4:]:
            await stream.write(ask)
            assert await stream.read_line(1000) is not None
        for stream in streams[:2]:
            with pytest.raises((OSError, AssertionError)):
                await stream.write(ask)
                assert await stream.read_line(1000) is not None
        for stream in streams:
            await stream.close()

    run(tmp_path, body)


# -- Trust that changes


def test_a_witness_follows_a_new_authority_and_a_removed_node_is_out(tmp_path: Path) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        a, removed = third.arbiter(cluster.trust("a")), third.arbiter(cluster.trust("c"))
        assert await a.compare_and_swap(R0, None, ONE)
        assert await removed.read(R0) == ONE
        cluster.rekey("a", "b")
        # The connection that stands was judged when it was made; the next one is made anew.
        await a.close()
        assert await a.read(R0) == ONE
        member = third.clusters.get(EAST)
        assert member is not None and member.authority == cluster.authority.certificate
        assert cluster.store("a").former() == []
        with pytest.raises((ArbiterRefused, ArbiterUnreachable)):
            await removed.read(R0)
        with pytest.raises(ArbiterRefused, match="removed"):
            await removed.read(R0)
        # The other one has nothing left to hand over.
        b = third.arbiter(cluster.trust("b"))
        assert await b.read(R0) == ONE
        assert cluster.store("b").former() == []
        for arbiter in (a, b, removed):
            await arbiter.close()

    run(tmp_path, body, nodes="abc")


def test_a_connection_that_stands_is_made_anew_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else the witness would hear of a removal when a cable is pulled, perhaps."""
    monkeypatch.setattr("blockpair.arbiter.witness.client._TRUST_SECONDS", 0.0)

    async def body(third: Witness, cluster: ClusterTrust) -> None:
        a = third.arbiter(cluster.trust("a"))
        assert await a.compare_and_swap(R0, None, ONE)
        cluster.rekey("a", "b")
        assert await asyncio.gather(*(a.read(R0) for _ in range(20))) == [ONE] * 20
        member = third.clusters.get(EAST)
        assert member is not None and member.authority == cluster.authority.certificate
        await a.close()

    run(tmp_path, body)


def test_a_connection_made_anew_answers_what_was_asked_on_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockpair.arbiter.witness.client._TRUST_SECONDS", 0.0)
    monkeypatch.setattr("blockpair.arbiter.witness.client._LINK_SECONDS", 0.0)

    async def body(third: Witness, cluster: ClusterTrust) -> None:
        a = third.arbiter(cluster.trust("a"))
        for _ in range(20):
            assert await asyncio.gather(*(a.read(R0) for _ in range(10))) == [None] * 10
        # What is not used any more is closed.
        async with asyncio.timeout(20):
            while a._retiring:
                await asyncio.wait(set(a._retiring))
        await a.close()

    run(tmp_path, body)


def test_a_witness_that_missed_two_changes_is_told_of_the_last(tmp_path: Path) -> None:
    async def whole() -> None:
        cluster = ClusterTrust(tmp_path)
        cluster.admit("a")
        async with witness(tmp_path / "w", cluster.witness()) as third:
            a = third.arbiter(cluster.trust("a"))
            assert await a.compare_and_swap(R0, None, ONE)
            await a.close()
        cluster.rekey("a")
        cluster.rekey("a")
        assert len(cluster.store("a").former()) == 2
        async with witness(tmp_path / "w") as third:
            a = third.arbiter(cluster.trust("a"))
            assert await a.read(R0) == ONE
            await a.close()

    asyncio.run(asyncio.wait_for(whole(), 60))


def test_who_has_the_old_authority_s_key_gets_no_certificate_of_the_new_one(tmp_path: Path) -> None:
    """A removed node that stands between: it can make itself a witness under the old authority."""

    async def whole() -> None:
        cluster = ClusterTrust(tmp_path)
        cluster.admit("a")
        async with witness(tmp_path / "w", cluster.witness()) as third:
            a = third.arbiter(cluster.trust("a"))
            assert await a.read(R0) is None
            await a.close()
        impostor = cluster.witness()
        cluster.rekey("a")
        async with witness(tmp_path / "impostor", impostor) as third:
            a = third.arbiter(cluster.trust("a"))
            with pytest.raises(ArbiterRefused, match="not the one that this node knows the witness by"):
                await a.read(R0)
            member = third.clusters.get(EAST)
            assert member is not None and member.authority != cluster.authority.certificate
            await a.close()

    asyncio.run(asyncio.wait_for(whole(), 60))


def test_a_node_renews_the_witness_s_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(third: Witness, cluster: ClusterTrust) -> None:
        before = third.clusters.get(EAST)
        monkeypatch.setattr(ca, "renewal_due", lambda *_: True)
        a = third.arbiter(cluster.trust("a"))
        assert await a.read(R0) is None
        after = third.clusters.get(EAST)
        assert before is not None and after is not None
        assert after.certificate != before.certificate
        assert (after.authority, after.key) == (before.authority, before.key)
        await a.close()

    run(tmp_path, body)


def test_trust_is_there_again_after_a_restart_and_damage_is_told(tmp_path: Path) -> None:
    east, west = ClusterTrust(tmp_path), ClusterTrust(tmp_path, "west", WEST)
    clusters = Clusters(tmp_path / "c")
    assert clusters.load() == []
    clusters.keep(east.witness())
    clusters.keep(west.witness())
    again = Clusters(tmp_path / "c")
    assert again.load() == []
    assert {member.name for member in again.all()} == {"east", "west"}
    file = tmp_path / "c" / EAST / "trust.pem"
    file.write_text(file.read_text().replace("A", "B", 1))
    (problem,) = Clusters(tmp_path / "c").load()
    assert problem.kind is ErrorKind.DAMAGED and "join it again" in problem.remedy
    (tmp_path / "c" / WEST / "trust.pem").chmod(0o644)
    assert {problem.kind for problem in Clusters(tmp_path / "c").load()} == {
        ErrorKind.DAMAGED,
        ErrorKind.UNSAFE,
    }
    again.leave(WEST)
    assert not (tmp_path / "c" / WEST).exists()
