"""YAML text to plain data: the core schema, positions, bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest

from psgdsim.errors import ScenarioError
from psgdsim.scenario.document import Mark
from psgdsim.scenario.yaml_text import MAX_NBYTES, decode, parse, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2.5E+2", -250.0),
        ("12", 12),
        ("-7", -7),
        ("+7", 7),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-.inf", -math.inf),
        (".Inf", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("10 ms", "10 ms"),
        ("e5", "e5"),
    ],
)
def test_scalar_by_the_core_schema(text: str, value: Any) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_scalar_nan() -> None:
    assert math.isnan(scalar(".nan"))


def test_quoted_scalars_are_text() -> None:
    assert parse("a: '1'\nb: \"true\"\nc: |\n  2\n", "x").data == {"a": "1", "b": "true", "c": "2\n"}


def test_marks_of_keys_and_values() -> None:
    document = parse("a: 1\nb:\n  - {c: x}\n  - 2\nd:\ne: 3\n", "x")
    assert document.data == {"a": 1, "b": [{"c": "x"}, 2], "d": None, "e": 3}
    assert document.keys["b", 0, "c"] == Mark(3, 6)
    assert document.values["b", 0, "c"] == Mark(3, 9)
    assert document.values["b", 1] == Mark(4, 5)
    assert document.values["d",] == document.keys["d",] == Mark(5, 1)


def test_anchors_are_copied() -> None:
    document = parse("a: &x {b: [1]}\nc: *x\n", "x")
    assert document.data == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert document.data["a"] is not document.data["c"]
    assert document.values["c",] == Mark(2, 4)


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert parse(decode(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "x"), "x").data == {"a": 1, "b": 2}


def test_text_beyond_the_limit() -> None:
    with pytest.raises(ScenarioError, match=r"^x: expected a scenario of at most 1048576 bytes; got a larger file$"):
        decode(b" " * (MAX_NBYTES + 1), "x")
    with pytest.raises(ScenarioError, match="got a larger text"):
        parse(" " * (MAX_NBYTES + 1), "x")


def test_many_values_beyond_the_limit() -> None:
    with pytest.raises(ScenarioError, match="expected at most 100000 values; got more"):
        parse("a: [" + "1," * 100_000 + "]", "x")


def test_position_of_a_wrong_byte_counts_characters() -> None:
    with pytest.raises(ScenarioError, match=r"^x:2:4: expected text in UTF-8; got the byte 0xff$"):
        decode("ä: 1\näöü".encode() + b"\xff", "x")


def test_long_lines_are_cut_around_the_caret() -> None:
    with pytest.raises(ScenarioError) as caught:
        parse("a: '" + "x" * 500 + "'\nb: ['" + "y" * 500 + "', *nothing]\n", "x")
    _, line, caret = str(caught.value).split("\n")
    assert len(line) <= 104
    assert line[caret.index("^") :].startswith("*nothing")


def test_what_is_quoted_cannot_steer_a_terminal() -> None:
    with pytest.raises(ScenarioError) as caught:
        parse("a: '\u202e\u2028' *x\n", "x")
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
