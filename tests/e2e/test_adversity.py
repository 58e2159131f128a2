"""What a run does when things go wrong around it: divergence, full disks, parts that break their contract."""

from __future__ import annotations

import errno
import json
import math
import os

import numpy as np
import pytest

import psgdsim
from psgdsim import results
from psgdsim.codecs import codecs, stateless
from psgdsim.entry import _early_end
from psgdsim.errors import ProgramError, PsgdsimError, ScenarioError
from psgdsim.registry import Part
from psgdsim.scenario import load
from psgdsim.scenario.experiment import build
from psgdsim.strategies.coded_placement import MAX_BLOCKS
from psgdsim.trace import Outcome, RankLog


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


def test_a_full_disk_is_one_error_and_the_summary_says_so(tmp_path, monkeypatch):
    write_text = results.write_text

    def full(path, text):
        if path.name == "steps.csv":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_text(path, text)

    monkeypatch.setattr(results, "write_text", full)
    with pytest.raises(PsgdsimError, match=r"run: what the run had cannot be written: No space left on device"):
        psgdsim.run("scenarios/ring_8nodes.yaml", out=tmp_path / "run", overrides="max_steps=1")
    assert psgdsim.load_run(tmp_path / "run").summary["status"] == "failed"


def test_a_strategy_that_ends_early_has_failed(tmp_path):
    experiment = [
        "plugins=[psgdsim.testing.node_laws]",
        "strategy={kind: node_law, law: gather_returns_results_in_order}",
    ]
    result = psgdsim.run("scenarios/ring_8nodes.yaml", out=tmp_path / "run", overrides=[*experiment, "max_steps=2"])
    assert result.summary["steps"] == 2
    experiment = build(load("scenarios/ring_8nodes.yaml", [*experiment, "max_steps=2"]))
    outcome = Outcome(0.0, [], [], [])
    assert "ended after step 0 of 2" in str(_early_end(experiment, outcome))


def test_a_codec_that_decodes_to_another_shape_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(codecs._parts, "narrow", Part("codec", "narrow", narrow))
    with pytest.raises(PsgdsimError, match="codec 'narrow': it decodes to"):
        psgdsim.run(
            "scenarios/plain_8nodes.yaml", out=tmp_path / "run", overrides=["codec={kind: narrow}", "max_steps=1"]
        )


def narrow():
    """Decode everything to one value."""
    return stateless(lambda update, key: update, lambda payload, like: {"wrong": np.zeros(1, np.float32)})
