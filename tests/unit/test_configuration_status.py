"""What `status` says of the cluster's configuration; how `create` reads its options."""

from __future__ import annotations

import pytest

from blockpair.cli.create import parse_metadata, parse_on
from blockpair.status.advice import healthy
from blockpair.status.configuration import configuration_report
from blockpair.status.report import ConfigurationConflict, ConfigurationReport


def _report(
    seen: dict[str, tuple[str | None, str | None]],
    conflicts: tuple[str, ...] = (),
    problems: tuple[str, ...] = (),
    failure: str | None = None,
    distrusted: frozenset[str] = frozenset(),
) -> ConfigurationReport:
    return configuration_report(
        version=3,
        head="new",
        seen=seen,
        conflicts=[ConfigurationConflict(node, 3, node, "t", "w") for node in conflicts],
        problems=problems,
        failure=failure,
        older=frozenset({"new", "old"}),
        node="a",
        distrusted=distrusted,
    )


def test_all_is_well_where_everybody_has_it() -> None:
    report = _report({"b": ("new", None)})
    assert report.advice == [] and report.pending == []


def test_who_has_an_older_version_or_is_away_is_pending() -> None:
    report = _report(
        {"b": ("old", None), "c": (None, "c cannot be reached"), "d": ("newer", None), "e": ("", None)}
    )
    assert [(entry.node, entry.why) for entry in report.pending] == [
        ("b", "it takes it at the next contact"),
        ("c", "c cannot be reached"),
        ("e", "it takes it at the next contact"),
    ]
    # Who takes it at this moment is nothing to worry about.
    assert [entry.severity for entry in report.advice] == ["info", "warning", "info"]


def test_who_is_away_and_had_the_version_has_it_still() -> None:
    assert _report({"b": ("new", "b cannot be reached")}).advice == []
    (entry,) = _report({"b": ("old", "b cannot be reached")}).advice
    assert entry.severity == "warning" and "b cannot be reached" in entry.text


def test_who_goes_by_another_authority_is_not_waited_for() -> None:
    (entry,) = _report({"b": (None, "no certificate of this cluster")}, distrusted=frozenset("b")).advice
    assert (entry.severity, entry.code) == ("critical", "no-member")
    assert "a was removed" in entry.text and "by itself" not in entry.remedy
    assert "blockpair cluster remove a --lost" in entry.remedy and "cluster token" in entry.remedy


def test_a_conflict_is_critical_and_names_the_commands() -> None:
    report = _report({"b": ("other", None)}, conflicts=("b",))
    (entry,) = report.advice
    assert entry.severity == "critical" and not healthy(report.advice)
    assert "blockpair config diff" in entry.remedy and "blockpair config accept b" in entry.remedy
    assert report.pending == []


def test_what_is_wrong_with_the_files_is_told() -> None:
    assert [entry.code for entry in _report({}, problems=("cluster.toml was edited by hand",)).advice] == [
        "configuration-files"
    ]
    assert _report({}, failure="it cannot be read").advice[0].severity == "critical"


def test_on_names_nodes_and_devices() -> None:
    assert parse_on(("a=/dev/x,b=/dev/y=z",)) == {"a": "/dev/x", "b": "/dev/y=z"}
    assert parse_on(("a=/dev/x", "b=/dev/y")) == {"a": "/dev/x", "b": "/dev/y"}


@pytest.mark.parametrize("text", ["a", "a=", "a=dev/x", "A=/dev/x", "a=/x,a=/y", "", "a=/x,"])
def test_on_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_on((text,))


def test_metadata_for_all_or_by_node() -> None:
    nodes = ("a", "b")
    assert parse_metadata(None, nodes) == {}
    assert parse_metadata("internal", nodes) == {"a": "internal", "b": "internal"}
    assert parse_metadata("a=/m,b=internal", nodes) == {"a": "/m", "b": "internal"}
    for text in ("m", "c=/m", "a=m", "a=/m,"):
        with pytest.raises(ValueError):
            parse_metadata(text, nodes)
