"""Certificates, tokens and the join, as pure functions."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.trust import authority as ca
from blockpair.trust import tokens
from blockpair.trust.authority import WITNESS, Authority, TrustError
from blockpair.trust.join import Doorkeeper, HelloAnswer, HelloParams, Joiner, RequestAnswer, RequestParams

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
EAST, OTHER = ca.new_authority("east", NOW), ca.new_authority("east", NOW)
KEY_A, KEY_B = ca.new_key(), ca.new_key()
CERTIFICATE_A = ca.issue(EAST, ca.new_request("a", KEY_A), "a", NOW)
LEAF_A = ca.der(CERTIFICATE_A)
FIFTEEN = timedelta(minutes=15)


# -- Certificates


def test_a_certificate_says_whose_it_is_and_for_how_long() -> None:
    facts = ca.inspect(CERTIFICATE_A)
    assert facts.name == "a"
    assert facts.not_before == NOW - timedelta(hours=1)
    assert facts.not_after == NOW + timedelta(days=365)
    assert ca.check_issued(LEAF_A, EAST.certificate, NOW) == "a"
    assert ca.fingerprint_der(LEAF_A) == ca.fingerprint(CERTIFICATE_A)
    ca.check_pair(CERTIFICATE_A, KEY_A)


@pytest.mark.parametrize(
    ("leaf", "authority", "now", "why"),
    [
        (LEAF_A, OTHER, NOW, "not issued by"),
        (LEAF_A, EAST, NOW - timedelta(hours=2), "not valid yet"),
        (LEAF_A, EAST, NOW + timedelta(days=366), "has expired"),
        (ca.der(EAST.certificate), EAST, NOW, "not that of a node"),
        (LEAF_A, Authority(CERTIFICATE_A, KEY_A), NOW, "not that of an authority"),
    ],
)
def test_what_is_not_believed(leaf: bytes, authority: Authority, now: datetime, why: str) -> None:
    with pytest.raises(TrustError, match=why):
        ca.check_issued(leaf, authority.certificate, now)


def test_a_request_for_another_name_is_not_issued() -> None:
    with pytest.raises(TrustError, match="not for the node b"):
        ca.issue(EAST, ca.new_request("a", KEY_A), "b", NOW)


def test_a_request_that_was_changed_is_not_issued() -> None:
    lines = ca.new_request("a", KEY_A).splitlines()
    body = bytearray(base64.b64decode("".join(lines[1:-1])))
    body[-3] ^= 1
    text = "\n".join([lines[0], base64.b64encode(bytes(body)).decode(), lines[-1], ""])
    with pytest.raises(TrustError):
        ca.issue(EAST, text, "a", NOW)


def test_no_certificate_outlives_its_authority() -> None:
    late = NOW + ca.AUTHORITY_LIFE - timedelta(days=10)
    issued = ca.inspect(ca.issue(EAST, ca.new_request("a", KEY_A), "a", late))
    assert issued.not_after == ca.inspect(EAST.certificate).not_after


def test_a_key_of_another_certificate_is_found() -> None:
    with pytest.raises(TrustError, match="does not belong"):
        ca.check_pair(CERTIFICATE_A, KEY_B)


@given(st.text(max_size=300))
def test_any_text_as_a_certificate_request_or_key_is_refused_without_being_repeated(text: str) -> None:
    for use in (
        lambda: ca.inspect(text),
        lambda: ca.issue(EAST, text, "a", NOW),
        lambda: ca.new_request("a", text),
    ):
        with pytest.raises(TrustError) as caught:
            use()
        assert len(text) < 30 or text not in str(caught.value)


@given(st.binary(max_size=300))
def test_any_bytes_as_a_certificate_are_refused(content: bytes) -> None:
    with pytest.raises(TrustError):
        ca.check_issued(content, EAST.certificate, NOW)


def test_renewal_is_due_after_two_thirds_of_the_life() -> None:
    facts = ca.inspect(CERTIFICATE_A)
    life = facts.not_after - facts.not_before
    assert not ca.renewal_due(facts, facts.not_before + life * 0.66)
    assert ca.renewal_due(facts, facts.not_before + life * 0.67)


@pytest.mark.parametrize("name", ["a", "node-1", "db_2", "alpha.example.org", "1a"])
def test_names_that_a_certificate_can_carry(name: str) -> None:
    assert ca.check_member_name(name) == name
    assert ca.certified_name(ca.der(ca.issue(EAST, ca.new_request(name, KEY_A), name, NOW))) == name


@pytest.mark.parametrize("name", ["a-", "a..b", "a.", "10.0.0.1", "1", "a.-b", "A", "*"])
def test_names_that_it_cannot(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        ca.check_member_name(name)


# -- Tokens


@given(
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)
def test_a_token_survives_its_text_and_hides_its_secret(token_id: bytes, secret: bytes, ca_: bytes) -> None:
    token = tokens.Token(token_id.hex(), secret, ca_)
    assert tokens.parse_token(f"  {token.text()}\n") == token
    assert secret.hex() not in repr(token)


@given(st.data())
def test_a_token_with_one_character_changed_missing_or_added_is_refused(data: st.DataObject) -> None:
    # One and the same in every run: what is drawn depends on it.
    text = tokens.Token("00112233aabbccdd", bytes(range(32)), bytes(32)).text()
    index = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("abcXYZ019-_").filter(lambda char: char != text[index]))
    for changed in (
        text[:index] + other + text[index + 1 :],
        text[:index] + text[index + 1 :],
        text[:index] + other + text[index:],
    ):
        # The last character has bits that mean nothing.
        if changed[:-1] == text[:-1] and len(changed) == len(text):
            continue
        with pytest.raises(ValueError, match=r"^(it|a) ") as caught:
            tokens.parse_token(changed)
        assert changed not in str(caught.value)


def test_a_token_that_was_cut_off_is_said_to_be() -> None:
    text = tokens.new_token(bytes(32)).text()
    for wrong in (text[:-1], text[:-2], text[:10], "bpj1-"):
        with pytest.raises(ValueError, match="too short"):
            tokens.parse_token(wrong)
    with pytest.raises(ValueError, match="too long"):
        tokens.parse_token(text + "A" * 300)
    with pytest.raises(ValueError, match="characters that no token has"):
        tokens.parse_token(text[:-1] + "%")


@given(st.text(max_size=200))
def test_any_other_text_is_no_token(text: str) -> None:
    with pytest.raises(ValueError):
        tokens.parse_token(text)


def refusal(call: object, *arguments: object) -> BlockpairError:
    with pytest.raises(BlockpairError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.remedy
    return caught.value


def test_a_token_lets_one_node_in_before_it_expires() -> None:
    under = bytes(32)
    token = tokens.new_token(under)
    book = tokens.added(tokens.Book(), token, FIFTEEN, NOW)
    assert token.secret.hex() not in msgspec.json.encode(book).decode()
    record = tokens.usable(book, token.id, NOW + FIFTEEN - timedelta(seconds=1), under)
    assert tokens.matches(record, token.secret)
    assert not tokens.matches(record, bytes(32))
    # What is kept does not let anybody in.
    assert not tokens.matches(record, bytes.fromhex(record.secret_hash))
    assert "expired" in refusal(tokens.usable, book, token.id, NOW + FIFTEEN, under).message
    assert "no such token" in refusal(tokens.usable, book, "0" * 16, NOW, under).message
    after = tokens.used(book, token.id, "b", NOW)
    error = refusal(tokens.usable, after, token.id, NOW, under)
    assert "used already, by b" in error.message and "cluster remove b" in error.remedy
    witness = refusal(tokens.usable, tokens.used(book, token.id, WITNESS, NOW), token.id, NOW, under)
    assert "used already, by a witness" in witness.message and "rotate --ca" in witness.remedy
    assert tokens.usable(book, token.id, NOW, under) == record
    # Who was given it before the authority was changed may be the one it was changed for.
    changed = refusal(tokens.usable, book, token.id, NOW, b"\1" * 32)
    assert changed.kind is ErrorKind.UNSAFE and "authority was changed" in changed.message


def test_the_list_of_tokens_stays_small_and_forgets_none_that_is_open() -> None:
    token = tokens.new_token(bytes(32))
    book = tokens.added(tokens.Book(), token, tokens.MAX_LIFE, NOW)
    for number in range(400):
        now = NOW + timedelta(minutes=number)
        book = tokens.added(book, tokens.new_token(bytes(32)), timedelta(seconds=1), now)
        assert len(book.tokens) <= tokens.MAX_REMEMBERED
    tokens.usable(book, token.id, NOW + timedelta(days=1), bytes(32))
    # What is read of the file is bounded.
    assert len(msgspec.json.encode(book)) < 60 << 10


def test_tokens_are_bounded_in_life_and_number() -> None:
    book = tokens.Book()
    for life in (timedelta(0), timedelta(seconds=-1), timedelta(days=8)):
        refusal(tokens.added, book, tokens.new_token(bytes(32)), life, NOW)
    # In units that --ttl takes.
    error = refusal(tokens.added, book, tokens.new_token(bytes(32)), timedelta(hours=1000), NOW)
    assert "1000h" in error.message and "168h" in error.remedy
    for _ in range(tokens.MAX_OPEN):
        book = tokens.added(book, tokens.new_token(bytes(32)), FIFTEEN, NOW)
    refusal(tokens.added, book, tokens.new_token(bytes(32)), FIFTEEN, NOW)
    # Old ones are dropped at last, so the file does not grow.
    later = tokens.added(book, tokens.new_token(bytes(32)), FIFTEEN, NOW + timedelta(days=31))
    assert len(later.tokens) == 1


# -- Joining


def opened(now: datetime = NOW) -> tuple[tokens.Token, tokens.Book]:
    token = tokens.new_token(ca.fingerprint(EAST.certificate))
    return token, tokens.added(tokens.Book(), token, FIFTEEN, now)


def issued(token: tokens.Token, request: RequestParams) -> RequestAnswer:
    certificate = ca.issue(EAST, request.request, request.name, NOW)
    return RequestAnswer(certificate, EAST.certificate, EAST.key, [])


def test_a_join() -> None:
    token, book = opened()
    joiner, keeper = Joiner(token, "b", KEY_B, bytes(32)), Doorkeeper(LEAF_A, EAST.certificate, b"x" * 32)
    answer = keeper.hello(joiner.hello(), book, NOW)
    joiner.check(answer, LEAF_A, NOW)
    request = joiner.request(["10.0.0.2"], 7788, 7789)
    assert keeper.request(request, book, NOW) == token.id
    assert joiner.accept(issued(token, request), NOW) == EAST
    assert token.secret.hex() not in repr(issued(token, request))


def test_whoever_is_in_between_is_not_believed() -> None:
    """It relays the member's honest answer over a connection of its own, with a certificate of its own."""
    token, book = opened()
    joiner, keeper = Joiner(token, "b", KEY_B, bytes(32)), Doorkeeper(LEAF_A, EAST.certificate, b"x" * 32)
    answer = keeper.hello(joiner.hello(), book, NOW)
    strange = ca.der(ca.issue(OTHER, ca.new_request("a", KEY_A), "a", NOW))
    assert "not issued by" in refusal(joiner.check, answer, strange, NOW).message
    # Even a member of the cluster that did not give the token out.
    member = ca.der(ca.issue(EAST, ca.new_request("c", ca.new_key()), "c", NOW))
    assert "cannot prove" in refusal(joiner.check, answer, member, NOW).message


def test_another_cluster_is_not_believed() -> None:
    token, book = opened()
    leaf = ca.der(ca.issue(OTHER, ca.new_request("a", KEY_A), "a", NOW))
    joiner, keeper = Joiner(token, "b", KEY_B, bytes(32)), Doorkeeper(leaf, OTHER.certificate, b"x" * 32)
    # A member that lies of what it knows.
    record = msgspec.structs.replace(book.tokens[token.id], authority=ca.fingerprint(OTHER.certificate).hex())
    book = tokens.Book({token.id: record})
    error = refusal(joiner.check, keeper.hello(joiner.hello(), book, NOW), leaf, NOW)
    assert error.kind is ErrorKind.UNSAFE
    assert "another one" in error.message


@settings(max_examples=50)
@given(st.sampled_from(["nonce", "proof"]), st.integers(0, 63), st.sampled_from("0123456789abcdef"))
def test_an_answer_with_one_digit_changed_is_not_believed(field: str, index: int, digit: str) -> None:
    token, book = opened()
    joiner, keeper = Joiner(token, "b", KEY_B, bytes(32)), Doorkeeper(LEAF_A, EAST.certificate, b"x" * 32)
    answer = keeper.hello(joiner.hello(), book, NOW)
    text = getattr(answer, field)
    changed = text[:index] + digit + text[index + 1 :]
    if changed != text:
        refusal(joiner.check, msgspec.structs.replace(answer, **{field: changed}), LEAF_A, NOW)


@given(
    st.builds(
        HelloAnswer, authority=st.text(max_size=99), nonce=st.text(max_size=99), proof=st.text(max_size=99)
    )
)
def test_any_other_answer_is_not_believed(answer: HelloAnswer) -> None:
    token, _ = opened()
    refusal(Joiner(token, "b", KEY_B, bytes(32)).check, answer, LEAF_A, NOW)


def test_who_does_not_know_the_secret_is_not_let_in() -> None:
    token, book = opened()
    joiner, keeper = Joiner(token, "b", KEY_B, bytes(32)), Doorkeeper(LEAF_A, EAST.certificate, b"x" * 32)
    request = joiner.request(["10.0.0.2"], 7788, 7789)
    assert "before a hello" in refusal(keeper.request, request, book, NOW).message
    keeper.hello(joiner.hello(), book, NOW)
    kept = book.tokens[token.id].secret_hash
    for secret in ("", "zz", bytes(32).hex(), kept, token.secret.hex()[:-2]):
        error = refusal(keeper.request, msgspec.structs.replace(request, secret=secret), book, NOW)
        assert error.kind is ErrorKind.UNSAFE
    bad = msgspec.structs.replace(request, name="10.0.0.1")
    assert refusal(keeper.request, bad, book, NOW).kind is ErrorKind.INVALID
    # It may have been used up, or have expired, between hello and request.
    assert (
        "used already" in refusal(keeper.request, request, tokens.used(book, token.id, "c", NOW), NOW).message
    )
    assert "expired" in refusal(keeper.request, request, book, NOW + FIFTEEN).message


def test_a_nonce_of_another_length_is_refused() -> None:
    token, book = opened()
    keeper = Doorkeeper(LEAF_A, EAST.certificate, b"x" * 32)
    for nonce in ("", "00", "zz" * 32):
        refusal(keeper.hello, HelloParams(token.id, nonce), book, NOW)


def test_what_was_issued_must_fit() -> None:
    token, _ = opened()
    joiner = Joiner(token, "b", KEY_B, bytes(32))
    good = issued(token, joiner.request(["10.0.0.2"], 7788, 7789))
    other_name = ca.issue(EAST, ca.new_request("c", KEY_B), "c", NOW)
    for change in (
        {"authority": OTHER.certificate, "authority_key": OTHER.key},
        {"authority_key": OTHER.key},
        {"certificate": CERTIFICATE_A},
        {"certificate": other_name},
        {"certificate": "x"},
    ):
        refusal(joiner.accept, msgspec.structs.replace(good, **change), NOW)
    refusal(joiner.accept, good, NOW + timedelta(days=400))
