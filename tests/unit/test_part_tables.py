"""The tables of parts in the documentation are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from psgdsim.codecs.base import codecs
from psgdsim.strategies.base import strategies

PAGE = Path(__file__).parents[2] / "docs" / "parts.md"


@pytest.mark.parametrize(("folder", "family"), [("codecs", codecs), ("strategies", strategies)])
def test_every_built_in_part_has_a_row(folder, family):
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    built_in = {part.name for part in family if part.module.startswith(f"psgdsim.{folder}.")}
    assert built_in <= named
