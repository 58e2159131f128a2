"""The table of strategies in the documentation is complete."""

from __future__ import annotations

import re
from pathlib import Path

from psgdsim.strategies.base import strategies

PAGE = Path(__file__).parents[2] / "docs" / "parts.md"


def test_every_built_in_strategy_has_a_row():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    built_in = {part.name for part in strategies if part.module.startswith("psgdsim.strategies.")}
    assert built_in <= named
