"""Accuracies on the full MNIST that others have published; skipped where the files are not at hand."""

from __future__ import annotations

import os

import pytest

import psgdsim

pytestmark = pytest.mark.skipif(
    not os.environ.get("PSGDSIM_DATA_DIR"), reason="set PSGDSIM_DATA_DIR to test with MNIST"
)


def test_one_rank_with_adam_reaches_the_platform_s_published_accuracy(tmp_path):
    # EngineerDDP/Parallel-SGD, README: mlp 128-128 tanh, Adam, batch 64, 2 epochs, one worker: 95.4 to 95.8 %.
    overrides = [
        "world_size=1",
        "batch_size=64",
        "data={kind: mnist, scale: centered}",
        "optimizer={kind: adam, learning_rate: 0.001}",
        "epochs=2",
    ]
    result = psgdsim.run("scenarios/plain_8nodes.yaml", out=tmp_path / "run", overrides=overrides)
    assert result.summary["final"]["test_accuracy"] >= 0.954


def test_eight_ranks_with_plain_sgd_pass_ninety_percent_in_two_epochs(tmp_path):
    overrides = ["data.kind=mnist", "optimizer.learning_rate=0.1", "epochs=2"]
    result = psgdsim.run("scenarios/plain_8nodes.yaml", out=tmp_path / "run", overrides=overrides)
    assert result.summary["final"]["test_accuracy"] >= 0.90
