from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psgdsim
from psgdsim import results
from psgdsim.errors import Deadlock, PsgdsimError, StrategyError
from psgdsim.node import Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.task import Task

FAILED_FILES = {"scenario.yaml", "summary.json", "steps.csv", "evals.csv", "trace.json", "log.txt"}


@register_strategy("results_test_breaks")
def results_test_breaks(last_good_step: int) -> Strategy:
    """Train alone, then break.

    Args:
        last_good_step: the step after which rank 1 raises; with 0 all wait for ever instead.
    """

    async def worker(node: Node, task: Task) -> None:
        state = await node.compute(task.init, 0, None)
        for step in range(1, last_good_step + 1):
            node.record(loss=0.5 / step)
            await node.checkpoint(step, [state.params])
        if last_good_step and node.rank == 1:
            raise StrategyError("rank 1 gives up")
        await node.recv(tag="never sent")

    return Strategy(worker, lambda _world_size, _codec: None)


@register_strategy("results_test_stops")
def results_test_stops() -> Strategy:
    """End after one step, whatever the schedule says."""

    async def worker(node: Node, task: Task) -> None:
        state = await node.compute(task.init, 0, None)
        await node.checkpoint(1, [state.params])

    return Strategy(worker, lambda _world_size, _codec: None)


@register_strategy("results_test_is_not_async")
def results_test_is_not_async(*, raises: bool) -> Strategy:
    """Run what is no coroutine function.

    Args:
        raises: whether it raises when it is called.
    """

    def worker(_node: Node, _task: Task) -> Any:
        if raises:
            raise RuntimeError("boom")
        return 3

    return Strategy(worker)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- files ----------------------------------------------------------------------------------------------------


def test_a_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    results.write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    results.write_text(path, "replaced\n")
    assert path.read_text(encoding="utf-8") == "replaced\n"
    assert _names(tmp_path) == ["a.txt"]


# --- run folders ----------------------------------------------------------------------------------------------


def test_a_run_reads_back_as_it_was_returned(tiny: dict[str, Any], tmp_path: Path) -> None:
    returned = psgdsim.run(tiny, out=tmp_path / "run")
    loaded = psgdsim.load_run(tmp_path / "run")
    assert loaded.summary == json.loads(json.dumps(returned.summary))
    assert loaded.folder == returned.folder == tmp_path / "run"
    assert list(zip(loaded.steps["step"], loaded.steps["rank"], strict=True)) == [
        (step, rank) for step in range(1, 5) for rank in range(3)
    ]
    last = loaded.steps["step"] == 4
    assert loaded.steps["bytes"][last].tolist() == loaded.summary["bytes"]["sent"]
    assert loaded.steps["time"].max() == loaded.summary["time_s"]
    assert loaded.evals["test_accuracy"][-1] == loaded.summary["final"]["test_accuracy"]


def test_seconds_of_a_step_add_up_to_its_length(tiny: dict[str, Any], tmp_path: Path) -> None:
    steps = psgdsim.run(tiny, out=tmp_path / "run").steps
    spent = sum(steps[f"{name}_s"] for name in ("compute", "encode", "transfer", "wait"))
    first = steps["step"] == 1
    np.testing.assert_allclose(spent[first], steps["time"][first], rtol=1e-9)


def test_parameters_read_back_by_name(tiny: dict[str, Any], tmp_path: Path) -> None:
    params = psgdsim.run(tiny, out=tmp_path / "run").params
    shapes = sorted(array.shape for array in params.values())
    assert shapes == [(8,), (8, 10), (10,), (64, 8)]
    assert all(array.dtype == np.float32 for array in params.values())


def test_parameters_of_several_models_are_told_apart(tiny: dict[str, Any], tmp_path: Path) -> None:
    strategy = {"kind": "coded_shuffle", "redundancy": 1}
    result = psgdsim.run({**tiny, "strategy": strategy, "max_steps": 1}, out=tmp_path / "run")
    assert {name.split("/")[0] for name in result.params} == {"model0", "model1", "model2"}
    assert [model["model"] for model in result.summary["models"]] == [0, 1, 2]


def test_summary_is_plain_json(tiny: dict[str, Any], tmp_path: Path) -> None:
    psgdsim.run({**tiny, "max_steps": 1}, out=tmp_path / "run")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "run" / "summary.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse)["status"] == "completed"


@pytest.mark.parametrize(
    ("stops", "key"),
    [
        ({"max_steps": 2}, "max_steps"),
        ({"max_steps": None, "epochs": 1}, "epochs"),
        ({"max_steps": 10**6, "epochs": 1}, "epochs"),
        ({"max_steps": 10**6, "max_time": "20 ms"}, "max_time"),
        ({"max_steps": 10**6, "target_accuracy": 0.5, "evaluate": {"every": "5 steps"}}, "target_accuracy"),
        # The model is good enough when time is up, but nobody has looked before.
        (
            {"max_steps": 10**6, "max_time": "0.1 s", "target_accuracy": 0.2, "evaluate": {"every": "1000 steps"}},
            "max_time",
        ),
    ],
)
def test_the_summary_says_what_ended_a_run(tiny: dict[str, Any], tmp_path: Path, stops: Any, key: str) -> None:
    summary = psgdsim.run({**tiny, "batch_size": 100, **stops}, out=tmp_path / "run").summary
    assert summary["ended_by"] == key


def test_a_target_that_is_not_reached_excuses_no_early_end(tiny: dict[str, Any]) -> None:
    stops = {"max_steps": 5, "target_accuracy": 1.0, "evaluate": {"every": "1 steps"}}
    with pytest.raises(StrategyError, match="programs ended after step 1 of 5"):
        psgdsim.run({**tiny, "strategy": {"kind": "results_test_stops"}, **stops})


@pytest.mark.parametrize(
    ("raises", "message"),
    [
        (True, r"RuntimeError: boom \(.*test_results.py:"),
        (False, "must be an `async def`; .*worker is none and returned 3"),
    ],
)
def test_a_program_that_is_no_coroutine_leaves_a_failed_run(raises, message, tiny, tmp_path):
    tiny["strategy"] = {"kind": "results_test_is_not_async", "raises": raises}
    with pytest.raises(StrategyError, match=message):
        psgdsim.run(tiny, out=tmp_path / "run")
    assert psgdsim.load_run(tmp_path / "run").summary["status"] == "failed"


def test_a_run_never_overwrites(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(PsgdsimError, match="not empty; a run never overwrites"):
        psgdsim.run(tiny, out=tmp_path / "run")
    assert _names(tmp_path / "run") == ["precious.txt"]


def test_loading_what_is_no_run_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(PsgdsimError, match=r"nothing: no run here: expected a folder with summary\.json"):
        psgdsim.load_run(tmp_path / "nothing")
    with pytest.raises(PsgdsimError, match="no run here"):
        psgdsim.load_run(tmp_path)


def test_loading_a_damaged_summary_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"status": ', encoding="utf-8")
    with pytest.raises(PsgdsimError, match=r"summary\.json: not valid JSON: .*line 1"):
        psgdsim.load_run(tmp_path)


# --- runs that fail -------------------------------------------------------------------------------------------


def test_a_failed_run_leaves_what_it_had(tiny: dict[str, Any], tmp_path: Path) -> None:
    broken = {**tiny, "strategy": {"kind": "results_test_breaks", "last_good_step": 2}}
    with pytest.raises(StrategyError, match="rank 1 gives up") as caught:
        psgdsim.run(broken, out=tmp_path / "run")
    assert any(str(tmp_path / "run") in note for note in caught.value.__notes__)
    loaded = psgdsim.load_run(tmp_path / "run")
    assert loaded.summary["status"] == "failed"
    assert loaded.summary["error"]["type"] == "StrategyError"
    assert "rank 1 gives up" in loaded.summary["error"]["message"]
    assert loaded.summary["steps"] == 2
    assert "ended_by" not in loaded.summary
    assert loaded.steps["loss"].tolist() == [0.5] * 3 + [0.25] * 3
    assert set(_names(tmp_path / "run")) >= FAILED_FILES


def test_a_failed_run_is_returned_if_asked(tiny: dict[str, Any], tmp_path: Path) -> None:
    broken = {**tiny, "strategy": {"kind": "results_test_breaks", "last_good_step": 0}}
    result = psgdsim.run(broken, out=tmp_path / "run", check=False)
    assert result.summary["status"] == "failed"
    assert result.summary["error"]["type"] == Deadlock.__name__
    assert "never sent" in result.summary["error"]["message"]
    assert result.summary["steps"] == 0
    with (tmp_path / "run" / "steps.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [list(results.STEP_COLUMNS)]


def test_an_invalid_scenario_leaves_no_folder(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(PsgdsimError):
        psgdsim.run({**tiny, "world_size": 0}, out=tmp_path / "run")
    assert _names(tmp_path) == []
