"""What etcd's JSON gateway is told and understood to say, without an etcd."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.arbiter.etcd import messages
from blockpair.arbiter.etcd.gateway import check_endpoint
from blockpair.arbiter.etcd.messages import Held
from blockpair.arbiter.interface import Configuration, Key
from blockpair.config.names import Address

KEY = Key("c", "0" * 32, "r0")
PATH = messages.path_of("/blockpair", KEY)
NAMES = st.text("abcdefghij", min_size=1, max_size=8)
CONFIGURATIONS = st.builds(
    Configuration, st.integers(1, 2**63 - 1), NAMES, st.frozensets(NAMES, min_size=1, max_size=8)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@given(CONFIGURATIONS)
def test_what_is_kept_is_what_is_read(configuration: Configuration) -> None:
    assert messages.configuration_of(messages.value_of(KEY, configuration)) == configuration


def test_a_read_is_linearizable() -> None:
    assert not messages.range_request(PATH).get("serializable", False)


def test_a_swap_compares_revision_and_value() -> None:
    request = messages.swap_request(PATH, Held(b"old", 7), b"new")
    name = base64.b64encode(PATH.encode()).decode()
    equal = {"key": name, "result": "EQUAL"}
    assert request["compare"] == [
        {**equal, "target": "MOD", "mod_revision": "7"},
        {**equal, "target": "VALUE", "value": base64.b64encode(b"old").decode()},
    ]
    assert messages.swap_request(PATH, None, b"new")["compare"] == [
        {**equal, "target": "CREATE", "create_revision": "0"}
    ]


@given(JSON, st.sampled_from(["header", "kvs", "succeeded", "cluster_id"]))
def test_any_json_is_understood_or_told_to_be_wrong(document: object, key: str) -> None:
    for form in (document, {key: document}, {"header": {"cluster_id": "1"}, key: document}):
        for parse in (messages.swap_answer, lambda found: messages.range_answer(found, PATH)):
            try:
                parse(form)
            except ValueError as error:
                assert str(error)


@given(st.integers(100, 599), st.binary(max_size=60))
def test_any_failure_has_a_reason(status: int, body: bytes) -> None:
    assert messages.failure(status, body).reason


@pytest.mark.parametrize(
    "text", ["https://10.0.0.5:2379", "https://etcd-1.example:2379", "https://[fd00::5]:2379"]
)
def test_an_endpoint(text: str) -> None:
    address = check_endpoint(text)
    assert isinstance(address, Address) and f"https://{address}" == text


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.5:2379", "http://10.0.0.5:2379", "https://10.0.0.5", "https://10.0.0.5:0", "https://:2379",
     "https://10.0.0.5:99999", "https://10.0.0.5:2379/", "https://u:p@10.0.0.5:2379", "https://[fd00:5]:2379"],
)  # fmt: skip
def test_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="is not an endpoint"):
        check_endpoint(text)


@pytest.mark.parametrize("prefix", ["", "/", "blockpair", "/blockpair/", "/a b", "//a", "/" + "a" * 300])
def test_no_prefix(prefix: str) -> None:
    with pytest.raises(ValueError, match="is not a prefix"):
        messages.check_prefix(prefix)
