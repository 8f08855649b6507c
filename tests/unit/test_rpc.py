"""JSON-RPC: framing and messages, without a socket."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.errors import BlockpairError, ErrorKind, ExitCode
from blockpair.rpc import messages
from blockpair.rpc.client import DAEMON, Client
from blockpair.rpc.framing import LineSplitter, LineTooLong
from blockpair.rpc.messages import RpcError, decode_request, decode_response


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """``data`` cut at the given places."""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)), st.lists(st.integers(0, 400)))
def test_lines_come_out_whole_however_the_stream_is_cut(lines: list[bytes], cuts: list[int]) -> None:
    splitter = LineSplitter(20)
    found = [
        line for piece in pieces(b"".join(x + b"\n" for x in lines), cuts) for line in splitter.feed(piece)
    ]
    assert found == lines and splitter.held == 0


@given(st.lists(st.binary(min_size=1, max_size=30)))
def test_never_more_than_the_limit_is_held(chunks: list[bytes]) -> None:
    splitter = LineSplitter(50)
    try:
        for chunk in chunks:
            assert all(len(line) <= 50 for line in splitter.feed(chunk))
            assert splitter.held <= 50
    except LineTooLong:
        assert max(len(line) for line in b"".join(chunks).split(b"\n")) > 50


def test_a_line_of_just_the_limit_passes_and_one_more_does_not() -> None:
    assert LineSplitter(4).feed(b"1234\n") == [b"1234"]
    with pytest.raises(LineTooLong):
        LineSplitter(4).feed(b"12345\n")
    splitter = LineSplitter(4)
    splitter.feed(b"123")
    with pytest.raises(LineTooLong):
        splitter.feed(b"45")


@given(st.binary(max_size=200))
def test_garbage_is_answered_with_one_of_json_rpcs_codes(line: bytes) -> None:
    try:
        decode_request(line)
    except RpcError as error:
        assert error.code in (messages.PARSE_ERROR, messages.INVALID_REQUEST)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", messages.PARSE_ERROR),
        (b"\xff", messages.PARSE_ERROR),
        (b"[" * 100_000, messages.INVALID_REQUEST),
        (b"[]", messages.INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","method":"x"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","method":1}', messages.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","method":"x","id":1.5}', messages.INVALID_REQUEST),
    ],
)
def test_bad_requests(line: bytes, code: int) -> None:
    with pytest.raises(RpcError) as caught:
        decode_request(line)
    assert caught.value.code == code


def test_a_request_without_id_is_a_notification() -> None:
    assert isinstance(decode_request(b'{"jsonrpc":"2.0","method":"x"}').id, msgspec.UnsetType)
    assert decode_request(b'{"jsonrpc":"2.0","method":"x","id":null}').id is None


@given(st.integers(1, 1 << 31), st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.integers(0, 9)))
def test_a_request_is_one_line_and_survives_the_wire(
    call_id: int, method: str, params: dict[str, int]
) -> None:
    line = messages.encode_request(call_id, method, params)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    request = decode_request(line)
    assert (request.id, request.method, msgspec.json.decode(request.params)) == (call_id, method, params)


@given(st.sampled_from(list(ErrorKind)), st.text(max_size=40), st.text(max_size=40))
def test_an_error_keeps_its_kind_text_remedy_and_exit_code(kind: ErrorKind, text: str, remedy: str) -> None:
    sent = BlockpairError(kind, text, remedy)
    response = decode_response(messages.encode_error(7, messages.error_object(sent)))
    assert isinstance(response.error, messages.ErrorObject)
    got = messages.error_from(response.error)
    assert (got.kind, got.message, got.remedy, got.exit_code) == (kind, text, remedy, sent.exit_code)


def test_each_kind_has_a_code_of_its_own() -> None:
    codes = [messages.error_object(BlockpairError(kind, "x")).code for kind in ErrorKind]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ErrorKind.FAILED, ExitCode.FAILED),
        (ErrorKind.UNSAFE, ExitCode.UNSAFE),
        (ErrorKind.IN_USE, ExitCode.UNSAFE),
        (ErrorKind.USAGE, ExitCode.USAGE),
        (ErrorKind.NO_DAEMON, ExitCode.NO_DAEMON),
        (ErrorKind.DAMAGED, ExitCode.FAILED),
        (ErrorKind.INTERNAL, ExitCode.FAILED),
    ],
)
def test_exit_codes(kind: ErrorKind, code: ExitCode) -> None:
    assert BlockpairError(kind, "x").exit_code == code


def test_who_finds_no_daemon_is_told_how_this_one_is_started(tmp_path: Path) -> None:
    with pytest.raises(BlockpairError, match="no blockpaird answers") as found:
        Client(tmp_path / "run" / "blockpaird.sock")
    assert f"`BLOCKPAIR_DIR={tmp_path} blockpaird`" in found.value.remedy
    assert DAEMON.start(Path("/run/blockpair/blockpaird.sock")) == "`systemctl start blockpaird`"


@pytest.mark.parametrize("line", [b"", b"{}", b'{"jsonrpc":"2.0","id":1}', b"[]", b"\xff"])
def test_answers_that_are_none(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode_response(line)


def test_a_daemon_that_is_frozen_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        # The kernel takes the connection, as it does for a stopped process.
        listener.listen()
        with (
            Client(tmp_path / "s") as client,
            pytest.raises(BlockpairError, match="has not answered") as found,
        ):
            client.call("resource.status", {}, dict, patience=0.01)
    assert found.value.exit_code == ExitCode.NO_DAEMON
