"""Synchronous SGD against a plain optax loop on the whole batch, and its bytes against the formula."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from psgdsim import rng, trees, wire
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim

STEPS = 4


def scenario(world_size, algorithm="ring", **changes):
    return {
        "name": "sync",
        "seed": 11,
        "world_size": world_size,
        "model": {"kind": "mlp", "hidden": [7], "activation": "tanh"},
        "data": {"kind": "synthetic_classification", "num_samples": 300, "num_features": 6, "num_classes": 4},
        "global_batch_size": 30,
        "optimizer": {"kind": "sgd", "learning_rate": 0.3},
        "strategy": {"kind": "all_reduce", "algorithm": algorithm},
        "topology": {"kind": "star", "bandwidth": "1 Gbit/s", "latency": "50 us"},
        "max_steps": STEPS,
        **changes,
    }


def reference(experiment, optimizer, num_blocks):
    """Train on the union of the blocks of every step with nothing but jax and optax."""
    task = experiment.task
    data, order = task.dataset, task.blocks(num_blocks)
    params = task.model.init(rng.key(task.seed, "init", 0), data.input_shape, data.num_outputs)
    state = optimizer.init(params)

    def loss(params, rows):
        outputs = task.model.apply(params, data.train_inputs[rows])
        return task.model.loss(outputs, data.train_targets[rows]).mean()

    for step in range(1, STEPS + 1):
        rows = np.concatenate([order.ids(step, block) for block in range(num_blocks)])
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["broadcast", "ring"])
@pytest.mark.parametrize("num", [1, 2, 3, 4, 7])
def test_equals_one_process_on_the_whole_batch(algorithm, num):
    experiment = build(from_dict(scenario(num, algorithm)))
    outcome = run_sim(experiment)
    assert outcome.error is None
    assert len({report.digest for report in outcome.reports}) == 1
    assert all(report.unread == 0 for report in outcome.reports)
    assert_close(outcome.models[0], reference(experiment, optax.sgd(0.3), num))


@pytest.mark.parametrize(
    ("spec", "optimizer"),
    [
        ({"kind": "momentum", "learning_rate": 0.1, "momentum": 0.8}, optax.sgd(0.1, momentum=0.8)),
        ({"kind": "adam", "learning_rate": 0.01}, optax.adam(0.01)),
        (
            {"kind": "sgd", "learning_rate": 0.2, "schedule": {"kind": "step_decay", "every_steps": 2, "factor": 0.5}},
            optax.sgd(optax.piecewise_constant_schedule(0.2, {2: 0.5, 4: 0.5})),
        ),
    ],
)
def test_optimizers_are_those_of_optax(spec, optimizer):
    experiment = build(from_dict(scenario(3, optimizer=spec)))
    outcome = run_sim(experiment)
    assert_close(outcome.models[0], reference(experiment, optimizer, 3))


@pytest.mark.parametrize("assignment", ["subsets", "duplicate", "cyclic"])
@pytest.mark.parametrize("algorithm", ["broadcast", "ring"])
def test_redundant_blocks_change_nothing_but_the_work(assignment, algorithm):
    strategy = {"kind": "all_reduce", "algorithm": algorithm, "redundancy": 2, "assignment": assignment}
    experiment = build(from_dict(scenario(4, strategy=strategy)))
    outcome = run_sim(experiment)
    num_blocks = {"subsets": 6, "duplicate": 2, "cyclic": 4}[assignment]
    assert_close(outcome.models[0], reference(experiment, optax.sgd(0.3), num_blocks))


@pytest.mark.parametrize("num", [2, 3, 8])
def test_bytes_are_the_formulas_plus_headers_exactly(num):
    for algorithm in ("broadcast", "ring"):
        experiment = build(from_dict(scenario(num, algorithm, max_steps=1)))
        outcome = run_sim(experiment)
        model = outcome.models[0]
        size = sum(leaf.size for leaf in jax.tree.leaves(model))
        payload = sum(report.payload_nbytes for report in outcome.reports)
        sent = sum(report.sent_nbytes for report in outcome.reports)
        if algorithm == "broadcast":
            assert payload == num * (num - 1) * 4 * size
            assert sent == num * (num - 1) * wire.nbytes(model)
        else:
            assert payload == 2 * (num - 1) * 4 * size
            messages = 2 * (num - 1) * num
            header = wire.nbytes(np.zeros(0, np.float32))
            assert sent == payload + messages * header


def test_a_codec_saves_what_it_says():
    plain = run_sim(build(from_dict(scenario(3, "broadcast", max_steps=1))))
    spec = {"kind": "top_k", "ratio": 0.1}
    coded = run_sim(build(from_dict(scenario(3, "broadcast", max_steps=1, codec=spec))))
    size = sum(leaf.size for leaf in jax.tree.leaves(plain.models[0]))
    assert sum(report.payload_nbytes for report in coded.reports) == 6 * 8 * int(0.1 * size)
    assert len({report.digest for report in coded.reports}) == 1


def test_top_k_of_everything_is_no_codec():
    a = run_sim(build(from_dict(scenario(3, "broadcast"))))
    b = run_sim(build(from_dict(scenario(3, "broadcast", codec={"kind": "top_k", "ratio": 1.0}))))
    assert trees.digest(a.models) == trees.digest(b.models)
