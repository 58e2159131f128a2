"""Quantities with units: exact values, and what is said about wrong ones."""

from __future__ import annotations

import pytest

from psgdsim.units import BANDWIDTH, SIZE, TIME, Dimension


@pytest.mark.parametrize(
    ("dimension", "text", "value"),
    [
        (TIME, "50 us", 5e-5),
        (TIME, "0.1 ms", 1e-4),
        (TIME, "1.5 h", 5400.0),
        (TIME, "2 min", 120.0),
        (TIME, "10 ns", 1e-8),
        (TIME, "0 s", 0.0),
        (TIME, "1e-3 s", 1e-3),
        (TIME, " 3s ", 3.0),
        (BANDWIDTH, "10 Gbit/s", 1e10),
        (BANDWIDTH, "100 Mbit/s", 1e8),
        (BANDWIDTH, ".5 kbit/s", 500.0),
        (BANDWIDTH, "7 bit/s", 7.0),
        (SIZE, "25 MiB", 25.0 * 2**20),
        (SIZE, "25 MB", 25e6),
        (SIZE, "1 KiB", 1024.0),
        (SIZE, "3 B", 3.0),
    ],
)
def test_parse_is_exact(dimension: Dimension, text: str, value: float) -> None:
    assert dimension.parse(text) == value


@pytest.mark.parametrize(
    ("dimension", "value", "message"),
    [
        (TIME, 5, "expected a time with its unit, such as '50 us'; got the bare number 5"),
        (TIME, 0.5, "expected a time with its unit, such as '50 us'; got the bare number 0.5"),
        (TIME, "5", "expected a time such as '50 us'; got '5': the unit is missing; one of h, min, s, ms, us, ns"),
        (TIME, "5 m", "expected a time such as '50 us'; got '5 m': write '5 min' or '5 ms'"),
        (TIME, "5 µs", "expected a time such as '50 us'; got '5 µs': write '5 us'"),
        (TIME, "5 MS", "expected a time such as '50 us'; got '5 MS': write '5 ms'"),
        (TIME, "5 days", "expected a time such as '50 us'; got '5 days': no such unit; one of h, min, s, ms, us, ns"),
        (TIME, "-5 s", "expected a time of at least 0, such as '50 us'; got '-5 s'"),
        (TIME, "1e999 s", "expected a time of at least 0, such as '50 us'; got '1e999 s'"),
        (TIME, "soon", "expected a time such as '50 us'; got 'soon'"),
        (TIME, None, "expected a time such as '50 us'; got null"),
        (TIME, True, "expected a time such as '50 us'; got true"),
        (TIME, ["5 s"], "expected a time such as '50 us'; got a list"),
        (BANDWIDTH, "10 Gbps", "expected a bandwidth such as '10 Gbit/s'; got '10 Gbps': write '10 Gbit/s'"),
        (BANDWIDTH, "10 Gb/s", "expected a bandwidth such as '10 Gbit/s'; got '10 Gb/s': write '10 Gbit/s'"),
        (BANDWIDTH, "10 Gbit", "expected a bandwidth such as '10 Gbit/s'; got '10 Gbit': write '10 Gbit/s'"),
        (BANDWIDTH, "1.25 GB/s", "expected a bandwidth such as '10 Gbit/s'; got '1.25 GB/s': write '10 Gbit/s'"),
        (SIZE, "1 KB", "expected a size such as '25 MiB'; got '1 KB': write '1 kB' or '1 KiB'"),
        (SIZE, "1 Mb", "expected a size such as '25 MiB'; got '1 Mb': write '1 MB'"),
    ],
)
def test_wrong_quantity(dimension: Dimension, value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        dimension.parse(value)
    assert str(caught.value) == message


def test_long_text_is_refused_without_parsing() -> None:
    with pytest.raises(ValueError, match=r"got '1{49}\.\.\. \(100002 characters\)"):
        TIME.parse("1" * 100_000 + " s")


@pytest.mark.parametrize(
    ("dimension", "value", "text"),
    [
        (TIME, 5e-5, "50 us"),
        (TIME, 0.0, "0 s"),
        (TIME, 10.0, "10 s"),
        (TIME, 90.0, "1.5 min"),
        (TIME, 1e-12, "0.000000000001 s"),
        (BANDWIDTH, 1e8, "100 Mbit/s"),
        (BANDWIDTH, 2.5e9, "2.5 Gbit/s"),
        (SIZE, 26214400.0, "25 MiB"),
        (SIZE, 1000.0, "1 kB"),
    ],
)
def test_format_in_the_unit_that_reads_best(dimension: Dimension, value: float, text: str) -> None:
    assert dimension.format(value) == text
