"""The notebooks run from start to end, at a tiny scale, and are kept in the repository as they ran."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

import psgdsim
from psgdsim.report import speedups

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# An absolute path, on Unix or Windows.
MACHINE_PATH = re.compile(r"(?<![\w.:/])/\w+/|[A-Z]:\\")


class _ThisInterpreter(KernelSpecManager):
    """Runs notebooks with the interpreter of the tests, whatever kernels the machine knows."""

    def get_kernel_spec(self, kernel_name: str) -> Any:
        spec = super().get_kernel_spec(kernel_name)
        spec.argv = [sys.executable, *spec.argv[1:]]
        return spec


KEPT_TEMPLATE = """
import atexit
from psgdsim.real import launch
kept = launch.kept_template()
kept.__enter__()
atexit.register(kept.__exit__, None, None, None)
"""
"""What lets all real runs of a notebook share one template process."""


def _execute(path: Path, parameters: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a notebook in its own folder with other values in its parameters cell, as its user would change them."""
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += f"\n{parameters}{KEPT_TEMPLATE}"
    client = NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    manager = client.create_kernel_manager()
    manager.kernel_spec_manager = _ThisInterpreter()
    return client.execute()


def _pictures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.real
@pytest.mark.timeout(600)  # a dozen runs, each of which compiles its own
def test_speedup_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = f"""
RUNS, PICTURE, STEPS = Path({str(tmp_path / "runs")!r}), Path({str(tmp_path / "speedup.png")!r}), 2
RANKS = {{"sim": [1, 2, 4], "real": [1, 2]}}
"""
    notebook = _execute(FOLDER / "speedup_curves.ipynb", parameters, monkeypatch)
    assert _pictures(notebook) == 2
    assert (tmp_path / "speedup.png").read_bytes().startswith(b"\x89PNG")

    (table,) = (output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)
    twins = [line for line in table.splitlines() if re.search(r" 2 +1 ", line)]
    assert len(twins) == 3
    assert all(line.split()[-2:] == ["True", "True"] for line in twins), table

    runs = {path.name: psgdsim.load_run(path) for path in (tmp_path / "runs").iterdir()}
    assert sum(result.summary["mode"] == "real" for result in runs.values()) == 4
    assert all(result.summary["status"] == "completed" for result in runs.values())
    alone = runs["10-Mbit-per-s-ring-1"]
    slow = {name: speedups([runs[f"10-Mbit-per-s-{name}-4"]], alone)[4] for name in ("plain", "ring", "ccdc-r-N-1")}
    assert slow["plain"] < slow["ccdc-r-N-1"] < slow["ring"]
    assert slow["ccdc-r-N-1"] < 4 / 3


@pytest.mark.real
@pytest.mark.timeout(600)  # ten runs, each of which compiles its own
def test_strategies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = f"""
RUNS, PICTURE = Path({str(tmp_path / "runs")!r}), Path({str(tmp_path / "strategies.png")!r})
RANKS, STEPS = 2, 5
"""
    notebook = _execute(FOLDER / "strategies.ipynb", parameters, monkeypatch)
    assert _pictures(notebook) == 1
    assert (tmp_path / "strategies.png").read_bytes().startswith(b"\x89PNG")
    (table,) = (output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)
    twins = {line[:15].strip(): line.split()[-1] for line in table.splitlines()[1:]}
    assert twins["all-reduce"] == twins["local SGD"] == "True"
    runs = [psgdsim.load_run(path).summary for path in (tmp_path / "runs").iterdir()]
    assert sorted(run["mode"] for run in runs) == ["real"] * 5 + ["sim"] * 5
    assert all(run["status"] == "completed" for run in runs)


@pytest.mark.real
@pytest.mark.timeout(600)  # sixteen runs, each of which compiles its own
def test_codecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = f"""
RUNS, PICTURE = Path({str(tmp_path / "runs")!r}), Path({str(tmp_path / "codecs.png")!r})
RANKS, STEPS = 2, 2
"""
    notebook = _execute(FOLDER / "codecs.ipynb", parameters, monkeypatch)
    assert _pictures(notebook) == 1
    assert (tmp_path / "codecs.png").read_bytes().startswith(b"\x89PNG")
    (table,) = (output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)
    lines = table.splitlines()[1:]
    assert len(lines) == 8
    assert all(line.split()[-2:] == ["True", "True"] for line in lines), table


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_as_it_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in kinds
    assert _pictures(notebook) > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_tells_nothing_of_the_machine(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(cell["metadata"].keys() <= {"tags"} for cell in notebook["cells"])
    texts = [cell["source"] for cell in notebook["cells"]]
    texts += [o.get("text", "") for cell in notebook["cells"] for o in cell.get("outputs", [])]
    assert MACHINE_PATH.findall(" ".join("".join(text) for text in texts)) == []
    assert path.stat().st_size < 500_000
