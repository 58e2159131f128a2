"""Lazily aggregated gradients against gradient descent, plain loops and the paper's savings."""

from __future__ import annotations

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fault_cases import BASE

from psgdsim import wire
from psgdsim.data.base import Dataset, DatasetPart, Partition, register_dataset, register_partition
from psgdsim.models.base import Model, register_model
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
NUM, DIM = 9, 20

# Nine least-squares problems as in the paper: worker m's loss has smoothness L_m = (1.3^m + 1)^2, m = 1, ..., 9.
SMOOTHNESS = [(1.3**m + 1) ** 2 for m in range(1, NUM + 1)]
GENERATOR = np.random.default_rng(28)
HESSIANS, OPTIMA = [], GENERATOR.standard_normal((NUM, DIM))
for _smoothness in SMOOTHNESS:
    _rows = GENERATOR.standard_normal((DIM, DIM))
    HESSIANS.append(_rows.T @ _rows * (_smoothness / np.linalg.norm(_rows, 2) ** 2))
MEAN = np.mean(HESSIANS, axis=0)
RATE = 1 / np.linalg.norm(MEAN, 2)
OPTIMUM = np.linalg.solve(MEAN, np.mean([h @ c for h, c in zip(HESSIANS, OPTIMA, strict=True)], axis=0))
GAP = 0.5 * OPTIMUM @ MEAN @ OPTIMUM
"""How much worse than the best the start, zero, is."""


@register_model("least_squares_of_nine")
def least_squares_of_nine() -> Model:
    """Minimise (w - c_m)^T H_m (w - c_m) / 2 on id m; on id 9 the loss is the distance of all from their minimum."""
    hessians = jnp.asarray([*HESSIANS, MEAN], jnp.float32)
    centres = jnp.asarray([*OPTIMA, OPTIMUM], jnp.float32)

    def apply(params, ids):
        away = params["weight"] - centres[ids]
        return 0.5 * jnp.einsum("ri,rij,rj->r", away, hessians[ids], away)

    return Model(lambda *_: {"weight": jnp.zeros(DIM)}, apply, loss=lambda outputs, _targets: outputs)


@register_dataset("nine_ids")
def nine_ids() -> DatasetPart:
    """Give ids 0 to 8 to train on, and 9 to test with."""
    ids = np.arange(10, dtype=np.int32)
    return DatasetPart(lambda _seed: Dataset(ids[:9], np.zeros(9, np.float32), ids[9:], np.zeros(1, np.float32), 1))


@register_partition("in_order")
def in_order() -> Partition:
    """Give block b row b."""
    return Partition(lambda _targets, num, _rng: [np.array([block], np.int32) for block in range(num)])


NINE = {
    "world_size": NUM,
    "batch_size": 1,
    "model": {"kind": "least_squares_of_nine"},
    "data": {"kind": "nine_ids", "partition": {"kind": "in_order"}},
    "optimizer": {"kind": "sgd", "learning_rate": float(RATE)},
    "evaluate": {"every": "1 step"},
    "max_steps": 60,
}


def train(kind, parameters=None, **changes):
    strategy = {"kind": kind, **(parameters or {})}
    outcome = run_sim(build(from_dict({**BASE, "topology": FREE, "strategy": strategy, **changes})))
    assert outcome.error is None
    assert all(report.unread == 0 for report in outcome.reports)
    return outcome


def weights(*arguments, **changes):
    return np.asarray(train(*arguments, **changes).models[0]["weight"])


def rows_of(outcome, rank):
    [report] = [report for report in outcome.reports if report.rank == rank]
    return report.rows


def uploads(outcome):
    return [int(row["uploads"]) for row in rows_of(outcome, NUM)]


def num_steps(outcome):
    """Return after how many steps the loss is within 1e-8 of the best, of what it was at the start."""
    gaps = [row["test_loss"] / GAP for row in outcome.evals]
    return next(step for step, gap in enumerate(gaps, start=1) if gap <= 1e-8)


# --- what it saves --------------------------------------------------------------------------------------------


def test_nine_unlike_workers_take_the_steps_of_gradient_descent_and_a_third_of_the_uploads():
    # O28: 50 steps and 95 uploads here, instead of 50 steps and 450 uploads.
    steps = num_steps(train("parameter_server", **NINE))
    lazy = train("lag", **NINE)
    assert num_steps(lazy) == pytest.approx(steps, rel=0.05)
    assert sum(uploads(lazy)[: num_steps(lazy)]) <= NUM * steps / 3
    rounded = train("laq", {"bits": 8}, **NINE)
    assert num_steps(rounded) == pytest.approx(steps, rel=0.05)
    assert sum(uploads(rounded)[: num_steps(rounded)]) <= NUM * steps / 3


def test_workers_with_smooth_losses_send_less_often():
    outcome = train("lag", **NINE)
    sent = [sum(row["staleness"] == 0 for row in rows_of(outcome, rank)) for rank in range(NUM)]
    assert sum(sent) == sum(uploads(outcome))
    assert sum(sent[:3]) < 0.5 * sum(sent[-3:])


@pytest.mark.parametrize("smoothness", [SMOOTHNESS, None])
def test_a_server_that_asks_saves_uploads_downloads_and_gradients(smoothness):
    # 56 steps and 113 uploads with what is known of the losses, 92 and 137 with what it finds out.
    outcome = train("lag", {"trigger": "server", "smoothness": smoothness}, **{**NINE, "max_steps": 120})
    assert sum(uploads(outcome)[: num_steps(outcome)]) <= NUM * 50 / 3
    computed = sum("loss" in row for rank in range(NUM) for row in rows_of(outcome, rank))
    assert computed == sum(uploads(outcome))


# --- what it is without laziness ------------------------------------------------------------------------------

NETWORK = {
    "model": {"kind": "mlp", "hidden": [7], "activation": "tanh"},
    "data": {"kind": "synthetic_classification", "num_samples": 300, "num_features": 6, "num_classes": 4},
    "batch_size": None,
    "global_batch_size": 31,
    "world_size": 3,
    "max_steps": 7,
    "optimizer": {"kind": "adam", "learning_rate": 0.02},
}


@pytest.mark.parametrize("parameters", [{}, {"trigger": "server"}, {"trigger": "server", "smoothness": 1.0}], ids=str)
def test_without_laziness_it_is_synchronous_sgd(parameters):
    outcome = train("lag", {**parameters, "xi": 0.0}, **NETWORK)
    plain = train("all_reduce", **NETWORK)
    for ours, theirs in zip(jax.tree.leaves(outcome.models), jax.tree.leaves(plain.models), strict=True):
        # float32: what is sent is a difference, added again at the server. Adam divides by small numbers.
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)
    assert outcome.reports[0].staleness == {0: 7}


def test_with_many_bits_and_without_laziness_it_is_gradient_descent():
    plain = weights("parameter_server", **NINE)
    np.testing.assert_allclose(weights("laq", {"bits": 16, "xi": 0.0}, **NINE), plain, atol=1e-4)
    np.testing.assert_allclose(weights("lag", {"xi": 0.0}, **NINE), plain, atol=1e-6)


# --- what it computes -----------------------------------------------------------------------------------------


def round_to_grid(change, bits):
    radius = np.abs(change).max()
    step = 2 * radius / (2**bits - 1)
    return np.floor((change + radius) / step + 0.5) * step - radius


def plain_loop(steps, *, xi, history=10, ask=None, bits=None, max_staleness=100, rate=lambda _step: RATE):
    """Return the weights and the number of uploads in each step, in float64, straight from the papers' formulas."""
    w, held, way, uploads = np.zeros(DIM), np.zeros((NUM, DIM)), deque(maxlen=history), []
    read, errors, sent = np.full((NUM, DIM), np.inf), np.zeros(NUM), np.zeros(NUM, int)
    for step in range(1, steps + 1):
        limit = xi / NUM**2 * sum(way)
        uploads.append(0)
        for m in range(NUM):
            change = HESSIANS[m] @ (w - OPTIMA[m]) / NUM - held[m]
            if bits is not None:
                rounded = round_to_grid(change, bits)
                error = np.sum((change - rounded) ** 2)
                change, is_lazy = rounded, sent[m] > 0 and step - sent[m] <= max_staleness
                is_lazy = is_lazy and np.sum(rounded**2) <= limit + 3 * (error + errors[m])
            elif ask is None:
                is_lazy = np.sum(change**2) <= limit
            else:
                is_lazy = (ask[m] / NUM) ** 2 * np.sum((w - read[m]) ** 2) <= limit
            if is_lazy:
                continue
            uploads[-1] += 1
            held[m] += change
            read[m], sent[m] = w, step
            errors[m] = 0 if bits is None else error
        before, w = w, w - rate(step) * held.sum(axis=0)
        way.append(np.sum((w - before) ** 2) / rate(step) ** 2)
    return w, uploads


@pytest.mark.parametrize(
    ("kind", "parameters", "settings"),
    [
        ("lag", {}, {"xi": 0.1}),
        ("lag", {"xi": 0.3, "history": 3}, {"xi": 0.3, "history": 3}),
        ("lag", {"trigger": "server", "smoothness": SMOOTHNESS}, {"xi": 1.0, "ask": SMOOTHNESS}),
        ("lag", {"trigger": "server", "smoothness": 50.0, "xi": 0.5}, {"xi": 0.5, "ask": [50.0] * NUM}),
        ("laq", {"bits": 4}, {"xi": 0.08, "bits": 4}),
        ("laq", {"bits": 3, "max_staleness": 7}, {"xi": 0.08, "bits": 3, "max_staleness": 7}),
    ],
    ids=str,
)
def test_it_is_what_a_plain_loop_computes(kind, parameters, settings):
    # 25 steps: until then no change comes so near to the limit that float32 decides otherwise than float64.
    outcome = train(kind, parameters, **{**NINE, "max_steps": 25})
    expected, counts = plain_loop(25, **settings)
    assert uploads(outcome) == counts
    assert sum(counts) < 0.6 * 25 * NUM
    np.testing.assert_allclose(outcome.models[0]["weight"], expected, atol=1e-4)


def test_under_a_schedule_each_way_is_measured_in_its_own_rate():
    schedule = {"kind": "step_decay", "every_steps": 5, "factor": 0.5}
    optimizer = {"kind": "sgd", "learning_rate": float(RATE), "schedule": schedule}
    outcome = train("lag", **{**NINE, "max_steps": 20, "optimizer": optimizer})
    expected, counts = plain_loop(20, xi=0.1, rate=lambda step: RATE * 0.5 ** ((step - 1) // 5))
    assert uploads(outcome) == counts
    np.testing.assert_allclose(outcome.models[0]["weight"], expected, atol=1e-4)


# --- bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("lag", {}, np.zeros(DIM, np.float32)),
        ("lag", {"trigger": "server", "smoothness": SMOOTHNESS}, np.zeros(DIM, np.float32)),
        *[
            ("laq", {"bits": b}, {"points": np.zeros(-(-b * DIM // 8), np.uint8), "radius": np.float32(0)})
            for b in (1, 3, 8)
        ],
    ],
    ids=str,
)
def test_bytes_are_those_of_the_formula(kind, parameters, message):
    steps = 12
    outcome = train(kind, parameters, **{**NINE, "max_steps": steps})
    num, called = sum(uploads(outcome)), steps * NUM
    if "trigger" in parameters:
        called = num
    payload = sum(leaf.nbytes for leaf in (message.values() if kind == "laq" else [message]))
    assert payload == (4 + -(-parameters["bits"] * DIM // 8) if kind == "laq" else 4 * DIM)
    assert sum(report.payload_nbytes for report in outcome.reports) == called * 4 * DIM + num * payload
    change = {"weight": message} if kind == "lag" else message
    up = num * wire.nbytes(change) + (called - num) * wire.nbytes(None)
    down = called * wire.nbytes(({"weight": np.zeros(DIM, np.float32)}, 1)) + NUM * wire.nbytes((None, 1))
    assert sum(report.sent_nbytes for report in outcome.reports) == up + down
