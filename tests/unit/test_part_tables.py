"""The tables of parts in the documentation are complete, and every part is used by a scenario."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from scenario_rows import SCENARIOS, rows

from psgdsim.codecs.base import codecs
from psgdsim.scenario import load
from psgdsim.scenario.families import FAMILIES
from psgdsim.scenario.spec import PartSpec
from psgdsim.strategies.base import strategies

PAGE = Path(__file__).parents[2] / "docs" / "parts.md"


@pytest.mark.parametrize(("folder", "family"), [("codecs", codecs), ("strategies", strategies)])
def test_every_built_in_part_has_a_row(folder, family):
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    built_in = {part.name for part in family if part.module.startswith(f"psgdsim.{folder}.")}
    assert built_in <= named


NOT_SHIPPED = {"mnist", "fashion_mnist"}
"""Data sets of files that are not in the repository: a scenario of these would not run as it is."""


def specs(value: Any) -> Iterator[PartSpec]:
    """Yield all parts that a setting names, however deep."""
    if isinstance(value, PartSpec):
        yield value
        value = value.parameters
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from specs(each)


@cache
def used() -> frozenset[tuple[str, str]]:
    """Return the modules and names of all parts in scenarios and in the rows of their comments."""
    scenarios = [load(path, overrides) for path in SCENARIOS for overrides in ([], *rows(path))]
    found = (spec.part for scenario in scenarios for spec in specs([value for _, value in scenario]))
    return frozenset((part.module, part.name) for part in found)


@pytest.mark.parametrize("family", ["codecs", "strategies", "models", "datasets", "topologies", "optimizers"])
def test_every_built_in_part_is_used_by_a_scenario(family):
    built_in = {(part.module, part.name) for part in FAMILIES[family] if re.match(r"psgdsim\.(?!testing)", part.module)}
    assert {name for _, name in built_in - used()} - NOT_SHIPPED == set()
