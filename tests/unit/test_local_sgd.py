"""Local SGD and its kin: what is refused, what is evaluated, codecs with memory, and runs that end within a round."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.errors import ScenarioError
from psgdsim.scenario import from_dict

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
ALL = ("local_sgd", "slow_mo", "bmuf", "diloco")


@pytest.fixture
def run(tmp_path):
    def start(kind, parameters=None, **changes):
        strategy = {"kind": kind, "period": 4, **(parameters or {})}
        scenario = {**BASE, "topology": FREE, "strategy": strategy, "execution": "exact", **changes}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("local_sgd", {"period": 0}, r"strategy\.period: .*0"),
        ("local_sgd", {"post_local": -1}, r"strategy\.post_local: .*-1"),
        (
            "local_sgd",
            {"buffers": "keep"},
            "strategy.buffers: expected one of maintain, reset, average; got 'keep'",
        ),
        ("slow_mo", {"slow_momentum": 1.0}, r"strategy\.slow_momentum: .*1"),
        ("bmuf", {"block_momentum": 1.0}, r"strategy\.block_momentum: .*1"),
        ("diloco", {"outer_learning_rate": 0.0}, r"strategy\.outer_learning_rate: .*0"),
        ("diloco", {"buffers": "reset"}, r"strategy\.buffers: "),
        *[(kind, {"algorithm": "hierarchical"}, r"strategy: required with algorithm 'hierarchical'") for kind in ALL],
    ],
)
def test_what_does_not_exist_is_refused(kind, parameters, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": {"kind": kind, **parameters}})


@pytest.mark.parametrize("kind", ALL)
def test_only_broadcast_takes_codecs_whose_payloads_cannot_be_added(kind):
    codec = {"codec": {"kind": "top_k", "ratio": 0.5}}
    with pytest.raises(ScenarioError, match=r"strategy\.algorithm: 'ring' adds payloads without decoding them"):
        from_dict({**BASE, **codec, "strategy": {"kind": kind, "algorithm": "ring"}})
    from_dict({**BASE, **codec, "strategy": {"kind": kind, "algorithm": "broadcast"}})


@pytest.mark.parametrize("kind", ALL)
def test_the_last_average_is_evaluated(kind, run):
    result = run(kind, max_steps=10, evaluate={"every": "1 step"})
    losses = list(result.evals["train_loss"])
    changes = [step for step in range(2, 11) if losses[step - 1] != losses[step - 2]]
    assert changes == [4, 8, 10]  # the last round has two steps
    assert list(result.steps["step"][result.steps["rank"] == 2]) == list(range(1, 11))


def test_a_run_that_ends_within_a_round_ends_with_the_last_average(run):
    short = run("local_sgd", max_steps=100, max_time="650 ms")
    assert short.summary["steps"] == 7
    np.testing.assert_array_equal(short.params["weight"], run("local_sgd", max_steps=4).params["weight"])


@pytest.mark.parametrize("kind", ALL)
def test_a_codec_with_memory_codes_changes(kind, run):
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}}
    momentum = {"slow_mo": "slow_momentum", "bmuf": "block_momentum", "diloco": "outer_momentum"}
    parameters = {momentum[kind]: 0.3} if kind in momentum else {}
    result = run(kind, {**parameters, "algorithm": "broadcast"}, max_steps=80, codec=codec)
    # One number of four and its place, from each of four workers to three, in 20 rounds.
    assert result.summary["bytes"]["payload_total"] == 20 * 4 * 3 * 8
    assert result.summary["final"]["train_loss"] < 0.2 * result.steps["loss"][0]


def test_after_the_switch_a_codec_begins_anew(run):
    # What error feedback kept back of gradients is no change of a model.
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}}
    bowl = {"model": {"kind": "quadratic", "dim": 4, "curvature": (1.0, 1.0, 1.0, 50.0)}}
    parameters = {"algorithm": "broadcast", "post_local": 1, "period": 1}
    rate = {"optimizer": {"kind": "sgd", "learning_rate": 0.01}}
    result = run("local_sgd", parameters, codec=codec, max_steps=2, **bowl, **rate)
    # The steepest coordinate is sent twice; with the gradients' memory, the second step would send a kept-back 1.
    np.testing.assert_allclose(result.params["weight"], [1, 1, 1, 0.25], rtol=1e-6)


def test_a_crash_ends_the_run(run):
    with pytest.raises(psgdsim.errors.PsgdsimError, match="crash"):
        run("local_sgd", faults=[{"kind": "crash", "rank": 1, "at": "250 ms"}])
