"""All-reduces beside the computation: parameters against plain loops, times against closed forms and a pipeline."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from psgdsim import wire
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim

COMPUTE, ALPHA, BANDWIDTH = 1e-3, 20e-6, 1e6  # s, s, byte/s
STEPS = 5
BIAS, WEIGHT, LAST_BIAS, LAST_WEIGHT = 8, 48, 4, 32  # float32 in each array of the model, each divisible by the ranks
SIZE = BIAS + WEIGHT + LAST_BIAS + LAST_WEIGHT
ALGORITHMS = {
    "ring": {},
    "recursive_doubling": {},
    "halving_doubling": {},
    "tree": {},
    "pipelined_tree": {"segments": 2},
    "hierarchical": {"group_size": 2},
    "leaders": {"group_size": 2},
}
WAYS = {
    "micro-batches": {"accumulation": 3},
    "buckets": {"bucket_size": "1 B"},
    "a double buffer": {"double_buffer": True},
    "a double buffer of micro-batches": {"double_buffer": True, "accumulation": 2},
}


def train(num=4, *, bandwidth="8 Mbit/s", latency="20 us", changes=None, **strategy):
    scenario = {
        "name": "overlap",
        "seed": 11,
        "world_size": num,
        "model": {"kind": "mlp", "hidden": [8], "activation": "tanh"},
        "data": {"kind": "synthetic_classification", "num_samples": 300, "num_features": 6, "num_classes": 4},
        "batch_size": 8,
        "optimizer": {"kind": "momentum", "learning_rate": 0.3, "momentum": 0.5},
        "strategy": {"kind": "all_reduce", **strategy},
        "topology": {"kind": "star", "bandwidth": bandwidth, "latency": latency},
        "compute": {"kind": "constant", "time": "1 ms"},
        "max_steps": STEPS,
        "evaluate": {"every": None},
        "execution": "exact",
        "trace": "steps",
        **(changes or {}),
    }
    experiment = with_kernels(build(from_dict(scenario)))
    outcome = run_sim(experiment)
    assert outcome.error is None
    assert all(report.unread == 0 for report in outcome.reports)
    assert len({report.digest for report in outcome.reports}) == 1
    return experiment, outcome


TASKS = {}


def with_kernels(experiment):
    """Return the experiment with a task that has been used before, if one is the same: its kernels are compiled."""
    spec = experiment.scenario
    key = (spec.world_size, spec.global_rows, spec.codec.kind)
    return dataclasses.replace(experiment, task=TASKS.setdefault(key, experiment.task))


def times(outcome):
    """When each step ends, the same on every rank [s]."""
    rows = [[row["time"] for row in report.rows] for report in outcome.reports]
    np.testing.assert_allclose(rows, [rows[0]] * len(rows), rtol=1e-12)
    return rows[0]


def ring(num, size, bandwidth=BANDWIDTH):
    """How long a ring takes for so many float32, if all ranks begin together [s]."""
    return 2 * (num - 1) * (ALPHA + wire.nbytes(np.zeros(size // num, np.float32)) / bandwidth)


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def sequential(experiment, delay):
    """Train in a plain loop; each update has the mean gradient of the model `delay` steps before."""
    task, num = experiment.task, experiment.world_size
    state, waiting = task.init.function(0, None), []
    for step in range(1, STEPS + 1):
        ids = np.concatenate([task.blocks(num).ids(step, rank) for rank in range(num)])
        waiting += task.gradients.function([state.params], [ids])[1]
        if len(waiting) > delay:
            state = task.apply.function(state, waiting.pop(0))
    return state.params


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 2, 3, 4])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_it_trains_what_a_plain_loop_does(way, num):
    experiment, outcome = train(num, **way)
    assert_close(outcome.models[0], sequential(experiment, delay=int(way.get("double_buffer", False))))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("way", [WAYS["buckets"], WAYS["a double buffer"]], ids=["buckets", "a double buffer"])
def test_all_algorithms_train_the_same(way, algorithm):
    experiment, outcome = train(algorithm=algorithm, **ALGORITHMS[algorithm], **way)
    assert_close(outcome.models[0], sequential(experiment, delay=int(way.get("double_buffer", False))))


def test_redundant_blocks_may_be_buffered():
    experiment, outcome = train(double_buffer=True, redundancy=2)
    assert_close(outcome.models[0], sequential(experiment, delay=1))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_batched_execution_computes_the_same(way):
    _, exact = train(**way)
    _, batched = train(changes={"execution": "batched"}, **way)
    assert_close(batched.models[0], exact.models[0])
    assert times(batched) == times(exact)


def test_unequal_shares_are_weighted_by_rows():
    changes = {"batch_size": None, "global_batch_size": 31}
    for way in WAYS.values():
        experiment, outcome = train(changes=changes, **way)
        assert_close(outcome.models[0], sequential(experiment, delay=int(way.get("double_buffer", False))))


def test_a_codec_codes_each_bucket():
    _, plain = train()
    coded = {"codec": {"kind": "cast", "dtype": "bfloat16"}}
    _, outcome = train(bucket_size="1 B", changes=coded)
    assert sum(report.payload_nbytes for report in outcome.reports) == STEPS * 2 * 3 * 2 * SIZE
    for a, b in zip(jax.tree.leaves(plain.models), jax.tree.leaves(outcome.models), strict=True):
        np.testing.assert_allclose(a, b, atol=0.02)


def test_staleness_is_one_update_from_the_third_step_on():
    _, outcome = train(double_buffer=True)
    assert all([row["staleness"] for row in report.rows] == [0, 0, 1, 1, 1] for report in outcome.reports)
    _, outcome = train(bucket_size="1 B")
    assert all(report.staleness == {0: STEPS} for report in outcome.reports)


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("megabit", [2, 8, 40])
@pytest.mark.parametrize("num", [2, 4])
def test_a_double_buffer_takes_the_longer_of_computation_and_sum(num, megabit):
    _, outcome = train(num, bandwidth=f"{megabit} Mbit/s", double_buffer=True)
    longer = max(COMPUTE, ring(num, SIZE, megabit * 1e6 / 8))
    assert times(outcome) == pytest.approx([COMPUTE + step * longer for step in range(STEPS)])


BUCKETS = {
    "1 B": [[LAST_BIAS], [LAST_WEIGHT], [BIAS], [WEIGHT]],
    "17 B": [[LAST_BIAS, LAST_WEIGHT], [BIAS], [WEIGHT]],
    "100 B": [[LAST_BIAS, LAST_WEIGHT], [BIAS, WEIGHT]],
    "145 B": [[LAST_BIAS, LAST_WEIGHT, BIAS], [WEIGHT]],
    "1 KiB": [[LAST_BIAS, LAST_WEIGHT, BIAS, WEIGHT]],
}


def pipeline(num, buckets):
    """Return how long a step takes: the last stage's gradients come first, and buckets are added up in turn [s]."""
    works = [BIAS + WEIGHT, LAST_BIAS + LAST_WEIGHT]  # of the first stage and the last, per row
    last_is_done = COMPUTE * (1 / 3 + 2 / 3 * works[1] / sum(works))
    end, num_arrays = 0.0, 0
    for bucket in buckets:
        num_arrays += len(bucket)
        end = max(end, last_is_done if num_arrays <= 2 else COMPUTE) + ring(num, sum(bucket))
    return end


@pytest.mark.parametrize("bucket_size", BUCKETS)
@pytest.mark.parametrize("num", [2, 4])
def test_buckets_take_the_time_of_a_pipeline(num, bucket_size):
    _, outcome = train(num, bucket_size=bucket_size)
    step = pipeline(num, BUCKETS[bucket_size])
    assert times(outcome) == pytest.approx([step * i for i in range(1, STEPS + 1)])


@pytest.mark.parametrize("megabit", [0.5, 8, 1000])
def test_overlap_takes_no_longer_than_one_after_the_other(megabit):
    for bucket_size, buckets in BUCKETS.items():
        _, outcome = train(bandwidth=f"{megabit} Mbit/s", bucket_size=bucket_size)
        sums = sum(ring(4, sum(bucket), megabit * 1e6 / 8) for bucket in buckets)
        step = times(outcome)[0]
        if len(buckets[0]) <= 2:  # it is full when the last stage is done
            assert max(COMPUTE, sums) < step < COMPUTE + sums
        else:
            assert step == pytest.approx(COMPUTE + sums)


@pytest.mark.parametrize("kind", ["exponential", "bernoulli_slowdown", "markov"])
def test_a_gradient_in_parts_takes_the_time_of_a_whole_one(kind):
    """Its time is drawn once, whatever the law; nothing else takes time here."""
    laws = {
        "exponential": {"mean": "1 ms"},
        "bernoulli_slowdown": {"time": "1 ms", "delay": "5 ms", "probability": 0.5},
        "markov": {"fast": "1 ms", "slow": "5 ms", "to_slow": 0.5, "to_fast": 0.5},
    }
    changes = {"compute": {"kind": kind, **laws[kind]}}
    expected = times(train(bandwidth=None, latency="0 s", changes=changes)[1])
    for way in ({"accumulation": 3}, {"bucket_size": "1 B"}):
        assert times(train(bandwidth=None, latency="0 s", changes=changes, **way)[1]) == pytest.approx(expected)


def test_what_is_kept_of_a_run_does_not_change_its_times():
    """With all events kept nothing is computed as a whole (see `sim.shortcuts`)."""
    for way in WAYS.values():
        _, outcome = train(changes={"trace": "full"}, **way)
        assert times(outcome) == pytest.approx(times(train(**way)[1]))


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket_size", BUCKETS)
@pytest.mark.parametrize("num", [2, 4])
def test_buckets_are_the_same_tensors_with_headers_of_their_own(bucket_size, num):
    _, outcome = train(num, bucket_size=bucket_size)
    tensors = 2 * (num - 1) * 4 * SIZE
    messages = 2 * (num - 1) * num * len(BUCKETS[bucket_size])
    assert sum(report.payload_nbytes for report in outcome.reports) == STEPS * tensors
    header = wire.nbytes(np.zeros(0, np.float32))
    assert sum(report.sent_nbytes for report in outcome.reports) == STEPS * (tensors + messages * header)


@pytest.mark.parametrize("way", [WAYS["micro-batches"], WAYS["a double buffer"]])
def test_other_ways_send_what_plain_steps_send(way):
    _, plain = train()
    _, outcome = train(**way)
    assert [report.sent_nbytes for report in outcome.reports] == [report.sent_nbytes for report in plain.reports]
