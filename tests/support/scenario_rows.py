"""The scenarios that are shipped, and the rows of their comments: further runs, each with other settings."""

from __future__ import annotations

import re
from pathlib import Path

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))

_ROW = re.compile(r"^#   (\w[\w.]*=.*?)(?:   .*)?$", re.MULTILINE)


def rows(path: Path) -> list[list[str]]:
    """Return the overrides of each row, such as `#   codec={kind: sign} max_steps=3   what came out`."""
    found = _ROW.findall(path.read_text(encoding="utf-8"))
    return [re.split(r"\s+(?=\w+(?:\.\w+)*=)", row.strip()) for row in found]
