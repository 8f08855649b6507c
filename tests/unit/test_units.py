"""Sizes and durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.cli.wait import seconds
from blockpair.errors import BlockpairError
from blockpair.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4K", 4096),
        ("4KiB", 4096),
        ("4 kb", 4096),
        ("1M", 1 << 20),
        ("2T", 2 << 40),
        ("0", 0),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "4X", "-1", "4.5K", "4K4K", "٤K", "9" * 19])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 4K"):
        parse_size(text)


@given(st.integers(0, 1 << 60))
def test_a_size_is_written_within_half_a_percent(size: int) -> None:
    number, unit = format_size(size).split()
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)
    assert abs(float(number) * factor - size) <= size * 0.006


@pytest.mark.parametrize(
    ("text", "seconds"), [("300ms", 0.3), ("3s", 3), ("2.5 s", 2.5), ("10m", 600), ("1h", 3600)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "3", "s", "-3s", "3 days", "1e3s", "inf s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 3s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (12.4, "12 s"), (59.6, "1m 00s"), (185, "3m 05s"), (7800, "2h 10m")],
)
def test_durations_are_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("text", "value"), [("30", 30.0), ("2.5", 2.5), ("5m", 300.0), (None, None)])
def test_an_option_takes_seconds_without_a_unit(text: str | None, value: float | None) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5x", ".", "1.2.3", "nan", "1e99", "9" * 30])
def test_the_option_that_was_given_is_the_one_that_is_told(text: str) -> None:
    with pytest.raises(BlockpairError) as caught:
        seconds(text, "--ttl")
    assert caught.value.message.startswith("--ttl: ")
    assert caught.value.remedy == "write it as --ttl 30s"
