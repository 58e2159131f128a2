"""The README and the pages of the documentation are true: every example in them runs and prints what they say.

The blocks of a page run in order, in one folder of their own that has the repository's scenarios in it:

- ```bash is run by bash, ```python by Python; a ```text right after one is what it prints, to the letter;
- a block whose first line is `# file: NAME` is written to that file;
- ```yaml that is no file is a whole scenario and must be valid;
- ```console and ```json are only to be read.

`make demo` is run for real, with an environment that is installed already; of `make test` only the command is looked
at, since it is what runs this file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from psgdsim import scenario

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "tests/README.md", ROOT / "benchmarks/README.md"]
TIMEOUT = 600
"""For a run of eight processes, each with its own compilation, on a machine with other work to do [s]."""

READ_ONLY = {"console", "json", "text", "{toctree}", "{eval-rst}"}

_BLOCK = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


class Block(NamedTuple):
    """A fenced block: its language, content, first line, and what it prints if the page says so."""

    language: str
    content: str
    line: int
    output: str | None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    for match, after in zip(found, [*found[1:], None], strict=True):
        is_output = after and after[1] == "text" and not text[match.end() : after.start()].strip()
        output = after[2] if is_output else None
        yield Block(match[1], match[2], text[: match.start()].count("\n") + 1, output)


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A stand-in for the `bin` of an environment in which psgdsim is installed."""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    path = f'PYTHONPATH="{ROOT}${{PYTHONPATH:+:$PYTHONPATH}}"'
    for name, command in (("psgdsim", f'"{sys.executable}" -m psgdsim'), ("python", f'"{sys.executable}"')):
        script = folder / name
        script.write_text(f'#!/bin/sh\n{path} exec {command} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that looks like the repository to the examples."""
    folder = tmp_path / "place"
    folder.mkdir()
    shutil.copytree(ROOT / "scenarios", folder / "scenarios")
    return folder


def execute(command: list[str], place: Path, bin_folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKEFLAGS")}
    environment["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def perform(block: Block, place: Path, bin_folder: Path) -> None:
    """Do what a block says, and check that it goes as the page says."""
    file = re.match(r"# file: (\S+)\n", block.content)
    if file is not None:
        (place / file[1]).write_text(block.content, encoding="utf-8")
        return
    if block.language == "yaml":
        assert scenario.loads(block.content).name
        return
    shell = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [str(bin_folder / "python"), "-c"]}
    ended = execute([*shell[block.language], block.content], place, bin_folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert block.output is None or ended.stdout.rstrip() == block.output.rstrip()


def assert_runs_completed(place: Path) -> None:
    """Find no run that failed or left nothing: what a shell starts in the background fails silently."""
    for folder in place.glob("runs/*/"):
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        assert summary["status"] == "completed", f"{folder}: {summary.get('error')}"


def page_params() -> list[Any]:
    """Return the pages, those marked whose examples start processes."""
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    is_real = {page: any(sign in text for sign in ("--mode real", "psgdsim server")) for page, text in texts.items()}
    return [pytest.param(page, id=page.name, marks=[pytest.mark.real] * is_real[page]) for page in PAGES]


@pytest.mark.timeout(2 * TIMEOUT)
@pytest.mark.parametrize("page", page_params())
def test_examples_run(page: Path, place: Path, bin_folder: Path) -> None:
    for block in blocks(page):
        if block.language in READ_ONLY or block.content.startswith("make "):
            continue
        try:
            perform(block, place, bin_folder)
            assert_runs_completed(place)
        except Exception as error:
            error.add_note(f"{page.name}:{block.line}: this example:\n{block.content}")
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_known_language(page: Path) -> None:
    languages = {block.language for block in blocks(page)}
    assert languages <= {"bash", "python", "yaml", *READ_ONLY}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_first_commands_of_the_readme() -> None:
    first = next(blocks(ROOT / "README.md"))
    assert first.content.splitlines() == ["make demo", "make test"]


@pytest.mark.real
@pytest.mark.timeout(2 * TIMEOUT)
def test_make_demo(tmp_path: Path, bin_folder: Path) -> None:
    stamp = bin_folder.parent / "core.stamp"
    stamp.touch()
    runs = tmp_path / "runs"
    ended = execute(["make", "demo", f"VENV={bin_folder.parent}", f"RUNS={runs}"], ROOT, bin_folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "the same parameters in both modes, bit for bit" in ended.stdout
    for mode in ("sim", "real"):
        assert json.loads((runs / "demo" / mode / "summary.json").read_text(encoding="utf-8"))["mode"] == mode
        assert f"{runs}/demo/{mode}/trace.json" in ended.stdout


def test_make_test_installs_and_runs_pytest(tmp_path: Path, bin_folder: Path) -> None:
    ended = execute(["make", "--dry-run", "test", f"VENV={tmp_path / 'new'}"], ROOT, bin_folder)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    installs = [i for i, line in enumerate(lines) if line.endswith('-e ".[dev]"')]
    runs = [i for i, line in enumerate(lines) if f"{tmp_path / 'new'}/bin/python -m pytest" in line]
    assert len(installs) == len(runs) == 1
    assert installs < runs
