"""Families of parts: registration, and what is read off a factory."""

from __future__ import annotations

from typing import Annotated, get_args

import pytest
from pydantic import Field

from psgdsim.errors import PsgdsimError
from psgdsim.registry import REQUIRED, Family


class Thing:
    """What the factories of these tests make."""


@pytest.fixture
def things() -> Family:
    return Family("thing", product=Thing)


def test_parameters_come_from_signature_and_docstring(things: Family) -> None:
    @things.register("round")
    def make_round(radius: Annotated[float, Field(gt=0)], *, sides: int = 3) -> Thing:
        """Make it round.

        Longer text.

        Args:
            radius: how round,
                in metres.
            sides (optional): how many.
        """
        return Thing()

    part = things["round"]
    assert (part.name, part.family, part.module) == ("round", "thing", __name__)
    assert part.summary == "Make it round."
    radius, sides = part.parameters
    assert (radius.name, radius.default, radius.help) == ("radius", REQUIRED, "how round, in metres.")
    assert get_args(radius.annotation)[0] is float
    assert (sides.name, sides.annotation, sides.default, sides.help) == ("sides", int, 3, "how many.")
    assert isinstance(part.build(radius=1.0), Thing)


def test_a_part_without_docstring_has_no_help(things: Family) -> None:
    def bare(size: int) -> Thing:
        return Thing()

    things.register("bare")(bare)
    assert things["bare"].summary == ""
    assert [each.help for each in things["bare"].parameters] == [""]


def test_unknown_name_proposes_the_nearest(things: Family) -> None:
    things.register("square")(Thing)
    with pytest.raises(PsgdsimError, match=r"no thing is called 'squar'; did you mean 'square'\? \(valid: square\)"):
        things["squar"]


@pytest.mark.parametrize("name", ["", "Round", "2d", "a-b", "a b", "_x"])
def test_names_are_snake_case(things: Family, name: str) -> None:
    with pytest.raises(PsgdsimError, match="expected snake_case, such as 'my_thing'"):
        things.register(name)


def test_second_part_of_one_name_names_both(things: Family) -> None:
    def first() -> Thing:
        return Thing()

    def second() -> Thing:
        return Thing()

    things.register("same")(first)
    things.register("same")(first)  # importing a module twice is no second part
    with pytest.raises(PsgdsimError, match=rf"'same' is registered twice: by {__name__}\..*first and by .*second"):
        things.register("same")(second)
    assert things["same"].factory is first


@pytest.mark.parametrize(("made", "got"), [(None, "nothing"), (3, "3")])
def test_a_factory_that_returns_something_else_is_told(made: object, got: str, things: Family) -> None:
    things.register("odd")(lambda: made)
    with pytest.raises(PsgdsimError, match=rf"thing 'odd' \(.*<lambda>\) returns {got}; expected a Thing"):
        things["odd"].build()


def test_a_factory_that_fails_is_told_with_the_line(things: Family) -> None:
    def failing() -> Thing:
        raise KeyError("x")

    things.register("failing")(failing)
    with pytest.raises(
        PsgdsimError, match=r"thing 'failing' .* cannot be built: KeyError: 'x' \(.*test_registry.py:\d+\)"
    ):
        things["failing"].build()


def test_parts_are_listed_by_name(things: Family) -> None:
    for name in ("b", "c", "a"):
        things.register(name)(Thing)
    assert [part.name for part in things] == ["a", "b", "c"]
    assert "a" in things
    assert "z" not in things


def test_annotation_that_is_only_there_for_type_checkers(things: Family) -> None:
    def make(size: NotImported) -> Thing:  # type: ignore[name-defined]  # noqa: F821
        return Thing()

    things.register("late")(make)
    with pytest.raises(PsgdsimError, match=r"thing 'late' \(.*\): an annotation cannot be resolved: .*NotImported"):
        _ = things["late"].parameters
