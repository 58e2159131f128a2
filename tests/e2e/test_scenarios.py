"""Every scenario that is shipped runs, at a tiny scale, and leaves a complete run folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from scenario_rows import SCENARIOS, rows

import psgdsim

TABLES = {"steps.csv", "evals.csv", "links.csv", "link_series.csv"}
FILES = {"scenario.yaml", "summary.json", "trace.json", "params.npz", "log.txt", *TABLES}
SUMMARY = {
    "status",
    "mode",
    "scenario",
    "seed",
    "world_size",
    "steps",
    "time_s",
    "wall_s",
    "compile_s",
    "bytes",
    "final",
    "params_sha256",
    "versions",
}

REPEATED = ("params_sha256", "time_s", "bytes")


def test_there_are_scenarios() -> None:
    assert SCENARIOS


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_says_what_it_asks_and_what_to_see(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# Question: ")
    assert lines[1].startswith("# See: ")


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_runs(path: Path, tmp_path: Path) -> None:
    result = psgdsim.run(path, mode="sim", out=tmp_path / "run", overrides=["max_steps=2"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert {file.name for file in result.folder.iterdir()} == FILES
    assert summary.keys() >= SUMMARY
    assert (summary["status"], summary["mode"], summary["steps"]) == ("completed", "sim", 2)
    assert (summary["ended_by"], summary["time_s"] > 0) == ("max_steps", True)
    num_workers, num_servers = summary["world_size"], summary.get("num_servers", 0)
    assert len(summary["bytes"]["sent"]) == num_workers + num_servers
    assert summary["bytes"]["total"] == sum(summary["bytes"]["sent"])
    assert all(value is not None for value in summary["final"].values())
    with (tmp_path / "run" / "steps.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ended = sorted((int(row["rank"]), int(row["step"])) for row in rows)
    if "histogram" in summary["staleness"]:  # ranks run freely: a step of a server is an update per worker
        leaders = range(num_workers, num_workers + num_servers)
        # Whoever exchanges only once in a period has made more steps when that is over; and where an update takes fewer
        # gradients than there are workers, the last one may use some more than it takes to end.
        made = sum(rank < num_workers for rank, _ in ended)
        is_more = path.stem in ("easgd_8nodes", "backup_16nodes")
        num_active = 5 if path.stem == "fedavg_20clients" else num_workers  # a quarter of them is drawn in each step
        assert made > 2 * num_workers if is_more else made == 2 * num_active
        ended = [place for place in ended if place[0] in leaders]
    else:
        leaders = range(num_workers + num_servers)
    assert ended == [(rank, step) for rank in leaders for step in (1, 2)]
    # What the folder says of the scenario is all that it takes to run it again.
    again = psgdsim.run(result.folder / "scenario.yaml", out=tmp_path / "again").summary
    assert [again[key] for key in REPEATED] == [summary[key] for key in REPEATED]


ROWS = [(path, row) for path in SCENARIOS for row in rows(path)]


@pytest.mark.parametrize(("path", "row"), ROWS, ids=[f"{path.stem}: {' '.join(row)}" for path, row in ROWS])
def test_every_row_of_a_scenario_runs(path: Path, row: list[str], tmp_path: Path) -> None:
    if "compressed" in row[0]:
        pytest.importorskip("zstandard")
    summary = psgdsim.run(path, out=tmp_path / "run", overrides=[*row, "max_steps=1", "batch_size=2"]).summary
    assert (summary["status"], summary["steps"]) == ("completed", 1)
    assert min(summary["time_s"], summary["bytes"]["total"]) > 0


def test_the_timeline_of_asynchronous_faults_shows_all_three(tmp_path: Path) -> None:
    path = next(path for path in SCENARIOS if path.stem == "faults_async_8nodes")
    result = psgdsim.run(path, out=tmp_path / "run")
    events = json.loads((result.folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    shown = [
        (event["pid"], event["name"], round(event["ts"] / 1e3), round(event["dur"] / 1e3))
        for event in events
        if event.get("cat") in ("fault", "change")
    ]
    assert sorted(shown) == [
        (4, "crash", 400, 150),
        (6, "cut", 650, 250),
        (7, "cut", 650, 250),
        (9, "host1.*: 10 Mbit/s", 100, 250),
    ]
    assert {
        row
        for row, incarnation in zip(result.steps["rank"], result.steps["incarnation"], strict=True)
        if incarnation == 2
    } == {4}
