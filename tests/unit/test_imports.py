"""The floors: who may import whom, and what an import must not drag in."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import psgdsim
from psgdsim import results

ROOT = Path(__file__).parents[2]
HEAVY = ("jax", "numpy", "matplotlib", "sklearn", "simpy", "optax", "networkx")


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


@pytest.mark.parametrize("module", ["psgdsim", "psgdsim.cli"])
def test_help_needs_nothing_of_what_it_describes(module: str) -> None:
    ended = _python(f"import sys, {module}; print('pydantic' in sys.modules)")
    assert (ended.stdout, ended.stderr) == ("False\n", "")


def test_validating_and_listing_are_light() -> None:
    code = """
from psgdsim.scenario import json_schema, load
from psgdsim.scenario.catalogue import catalogue
load("scenarios/ring_8nodes.yaml"), json_schema(), catalogue([])
"""
    ended = _python(f"{code}\nimport sys; print(*sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == ""


def _imported(folder: Path) -> Iterator[str]:
    """Yield what is imported from outside, by the names of modules."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["zstd"]]
    plain = {re.sub(r"[-_.]+", "-", re.split(r"[<>=~! ]", entry)[0]).lower() for entry in declared}
    owners = packages_distributions()
    packages = {name.split(".")[0] for name in _imported(ROOT / "psgdsim")} - {*sys.stdlib_module_names, "psgdsim"}
    assert {"simpy", "networkx", "ruamel"} <= packages
    missing = {
        name for name in packages if not plain & {re.sub(r"[-_.]+", "-", each).lower() for each in owners.get(name, [])}
    }
    assert missing == set()


def test_public_names() -> None:
    parts = {f"register_{family}" for family in ("codec", "dataset", "model", "strategy", "topology")}
    assert set(psgdsim.__all__) == parts | {"errors", "run", "load_run", "RunResult"}
    assert set(psgdsim.__all__) <= set(dir(psgdsim))
    assert all(callable(getattr(psgdsim, name)) for name in parts)
    assert psgdsim.load_run is results.load_run
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        psgdsim.load_runs()


def test_all_public_names_can_be_imported_and_run_is_the_function_however_much_is_imported() -> None:
    code = "import psgdsim.entry, psgdsim.results\nfrom psgdsim import *\nprint(run is psgdsim.entry.run)"
    assert _python(code).stdout == "True\n"
