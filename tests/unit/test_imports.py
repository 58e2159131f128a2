"""The floors: who may import whom, and what an import must not drag in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("jax", "numpy", "matplotlib", "sklearn", "simpy", "optax")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_imports_go_only_downwards() -> None:
    ended = _python("from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " 0 broken" in ended.stdout


@pytest.mark.parametrize("module", ["psgdsim", "psgdsim.cli", "psgdsim.scenario"])
def test_import_is_light(module: str) -> None:
    ended = _python(f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == ""


def test_public_names() -> None:
    code = "import psgdsim, types; print(*(n for n, v in vars(psgdsim).items() if not isinstance(v, types.ModuleType)))"
    names = {name for name in _python(code).stdout.split() if not name.startswith("_")}
    parts = {f"register_{family}" for family in ("codec", "dataset", "model", "strategy", "topology")}
    assert names == parts | {"run", "load_run", "RunResult"}
