"""Laws of quantities with units."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from psgdsim.units import BANDWIDTH, SIZE, TIME, Dimension

DIMENSIONS = st.sampled_from([TIME, BANDWIDTH, SIZE])


@given(DIMENSIONS, st.floats(min_value=0, allow_infinity=False))
def test_parse_undoes_format(dimension: Dimension, value: float) -> None:
    assert dimension.parse(dimension.format(value)) == value


@given(DIMENSIONS, st.integers(0, 10**9), st.data())
def test_whole_numbers_scale_exactly(dimension: Dimension, number: int, data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(sorted(dimension.units)))
    assert dimension.parse(f"{number} {unit}") == float(number * dimension.units[unit])


@given(DIMENSIONS, st.text(max_size=80) | st.none() | st.booleans() | st.floats() | st.lists(st.integers()))
def test_anything_is_a_value_or_one_line(dimension: Dimension, value: object) -> None:
    said = ""
    try:
        assert 0 <= dimension.parse(value) < math.inf
    except ValueError as error:
        said = str(error)
    assert said.isprintable()
    assert said.startswith(f"expected a {dimension.name}" if said else "")


@given(DIMENSIONS, st.text(alphabet="kKmMGTibBtps/", max_size=8))
def test_the_proposed_fix_is_right(dimension: Dimension, unit: str) -> None:
    """Where one fix is proposed, it parses."""
    assume(unit not in dimension.units)
    with pytest.raises(ValueError) as caught:
        dimension.parse(f"3 {unit}")
    _, _, fixes = str(caught.value).partition(": write ")
    assert all(dimension.parse(fix.strip("'")) > 0 for fix in fixes.split(" or ") if fix)


def test_every_fix_of_the_tables_parses() -> None:
    for dimension in (TIME, BANDWIDTH, SIZE):
        for unit in dimension.fixes:
            with pytest.raises(ValueError, match=": write '") as caught:
                dimension.parse(f"3 {unit}")
            for fix in str(caught.value).partition(": write ")[2].split(" or "):
                assert dimension.parse(fix.strip("'")) > 0
