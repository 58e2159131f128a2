"""Every broken scenario of the table, and exactly what is said about it.

`python tests/unit/test_broken_scenarios.py` writes the messages anew; look at the difference before keeping it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from psgdsim.errors import ScenarioError
from psgdsim.scenario.load import loads
from psgdsim.scenario.yaml_text import decode

FOLDER = Path(__file__).parent / "broken_scenarios"
FILES = sorted(FOLDER.glob("*.yaml"))


def message(file: Path) -> str:
    with pytest.raises(ScenarioError) as caught:
        loads(decode(file.read_bytes(), file.name), file.name)
    # New parts and keys must not touch these messages; what is listed has a test of its own.
    return re.sub(r"valid: [^)\n]*", "valid: ...", str(caught.value)) + "\n"


def test_the_table_is_large() -> None:
    assert len(FILES) >= 60


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_message(file: Path) -> None:
    assert message(file) == file.with_suffix(".txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_first_line_names_the_file(file: Path) -> None:
    assert message(file).startswith(f"{file.name}:")


if __name__ == "__main__":
    for each in FILES:
        each.with_suffix(".txt").write_text(message(each), encoding="utf-8")
