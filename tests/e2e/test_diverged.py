"""A run that diverges is a result, not an accident; a scenario that cannot be dealt out is an error before the run."""

from __future__ import annotations

import json
import math

import pytest

import psgdsim
from psgdsim.errors import ProgramError, ScenarioError
from psgdsim.strategies.coded_placement import MAX_BLOCKS
from psgdsim.trace import RankLog


def test_a_diverged_run_completes_and_its_summary_is_json(tmp_path):
    overrides = ["optimizer.learning_rate=1e38", "max_steps=4"]
    result = psgdsim.run("scenarios/ring_8nodes.yaml", out=tmp_path / "run", overrides=overrides)
    summary = json.loads((result.folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "completed"
    assert summary["final"]["train_loss"] is None
    assert math.isnan(result.evals["train_loss"][-1])


def test_the_best_of_several_models_is_not_one_that_diverged(tmp_path):
    rates = "[0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 1e38]"
    overrides = [f"strategy.learning_rates={rates}", "max_steps=6"]
    result = psgdsim.run("scenarios/ccdc_8nodes_sweep.yaml", out=tmp_path / "run", overrides=overrides)
    accuracies = [model["test_accuracy"] for model in result.summary["models"]]
    assert result.summary["final"]["test_accuracy"] == max(accuracies)
    assert result.summary["models"][7]["train_loss"] is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["strategy={kind: all_reduce, redundancy: 4, assignment: subsets}", "batch_size=1"],
            "70 blocks need at least",
        ),
        (["data.partition={kind: label_shards, shards_per_block: 1000}"], "label_shards|shards"),
        (["strategy={kind: coded_shuffle, code: cdc_all_gather, redundancy: 4}", "batch_size=1"], "70 blocks need"),
    ],
)
def test_what_cannot_be_dealt_out_starts_nothing(tmp_path, overrides, words):
    with pytest.raises(ScenarioError, match=words):
        psgdsim.run("scenarios/ring_8nodes.yaml", out=tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("values", [{"time": 99.0}, {"rank": 7}, {"compute_s": 1.0}, {"note": "text"}])
def test_a_program_cannot_overwrite_the_columns_of_a_step(values):
    with pytest.raises(ProgramError):
        RankLog(0, lambda: 0.0).record(values)


def test_there_is_a_bound_on_blocks():
    overrides = ["world_size=100000", "strategy={kind: coded_shuffle, redundancy: 50000}"]
    with pytest.raises(ScenarioError, match=f"more than {MAX_BLOCKS} blocks"):
        psgdsim.run("scenarios/ring_8nodes.yaml", overrides=overrides)
