"""Lazily aggregated gradients against gradient descent, plain loops and the paper's savings."""

from __future__ import annotations

from collections import deque

import jax
import numpy as np
import pytest

from psgdsim import wire
from psgdsim.testing.schedules import tiny_scenario
from psgdsim.testing.training import run_scenario
from psgdsim.testing.unlike_squares import DIM, NUM, SMOOTHNESS, UnlikeSquares, uploads_of

PROBLEM = UnlikeSquares.draw()
HESSIANS, OPTIMA, RATE = PROBLEM.hessians, PROBLEM.optima, PROBLEM.rate


def learn(kind, parameters=None, **changes):
    outcome = PROBLEM.run({"kind": kind, **(parameters or {})}, **changes)
    assert all(report.unread == 0 for report in outcome.reports)
    return outcome


def weights(*arguments, **changes):
    return np.asarray(learn(*arguments, **changes).models[0]["weight"])


# --- what it saves --------------------------------------------------------------------------------------------


def test_workers_with_smooth_losses_send_less_often():
    outcome = learn("lag")
    sent = [sum(row["staleness"] == 0 for row in outcome.reports[rank].rows) for rank in range(NUM)]
    assert sum(sent) == sum(uploads_of(outcome))
    assert sum(sent[:3]) < 0.5 * sum(sent[-3:])


@pytest.mark.parametrize("smoothness", [list(SMOOTHNESS), None])
def test_a_server_that_asks_saves_uploads_downloads_and_gradients(smoothness):
    # 54 steps and 108 uploads with what is known of the losses, 85 and 130 with what it finds out.
    outcome = learn("lag", {"trigger": "server", "smoothness": smoothness}, max_steps=120)
    steps = PROBLEM.num_steps(learn("parameter_server"))
    assert PROBLEM.num_uploads(outcome) <= NUM * steps / 3
    assert PROBLEM.num_steps(outcome) < 120
    computed = sum("loss" in row for rank in range(NUM) for row in outcome.reports[rank].rows)
    assert computed == sum(uploads_of(outcome))


# --- what it is without laziness ------------------------------------------------------------------------------

NETWORK = {
    "model": {"kind": "mlp", "hidden": [7], "activation": "tanh"},
    "data": {"kind": "synthetic_classification", "num_samples": 300, "num_features": 6, "num_classes": 4},
    "batch_size": None,
    "global_batch_size": 31,
    "max_steps": 7,
    "optimizer": {"kind": "adam", "learning_rate": 0.02},
}


def train(kind, **parameters):
    return run_scenario({**tiny_scenario({"kind": kind, **parameters}, 3), **NETWORK})


@pytest.mark.parametrize("parameters", [{}, {"trigger": "server"}, {"trigger": "server", "smoothness": 1.0}], ids=str)
def test_without_laziness_it_is_synchronous_sgd(parameters):
    outcome, plain = train("lag", **parameters, xi=0.0), train("all_reduce")
    for ours, theirs in zip(jax.tree.leaves(outcome.models), jax.tree.leaves(plain.models), strict=True):
        # float32: what is sent is a difference, added again at the server. Adam divides by small numbers.
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)
    assert outcome.reports[0].staleness == {0: 7}


def test_with_many_bits_and_without_laziness_it_is_gradient_descent():
    plain = weights("parameter_server")
    np.testing.assert_allclose(weights("laq", {"bits": 16, "xi": 0.0}), plain, atol=1e-4)
    np.testing.assert_allclose(weights("lag", {"xi": 0.0}), plain, atol=1e-6)


# --- what it computes -----------------------------------------------------------------------------------------


def round_to_grid(change, bits):
    radius = np.abs(change).max()
    step = 2 * radius / (2**bits - 1)
    return np.floor((change + radius) / step + 0.5) * step - radius


def plain_loop(steps, *, xi, history=10, ask=None, bits=None, max_staleness=100, rate=lambda _step: RATE, absent=None):
    """Return the weights and the number of uploads in each step, in float64, straight from the papers' formulas.

    `absent` are the steps that a worker is away for. Then its gradient is missing in the mean, and when it is back, it
    and the server know nothing of what it has sent before; nor does it know of the way until then.
    """
    w, held, ways, uploads = np.zeros(DIM), np.zeros((NUM, DIM)), [deque(maxlen=history) for _ in range(NUM)], []
    read, errors, sent = np.full((NUM, DIM), np.inf), np.zeros(NUM), np.zeros(NUM, int)
    for step in range(1, steps + 1):
        there = [m for m in range(NUM) if step not in (absent or {}).get(m, ())]
        uploads.append(0)
        for m in set(range(NUM)) - set(there):
            held[m], read[m], errors[m], sent[m] = 0, np.inf, 0, 0
            if ask is None:
                ways[m].clear()
        for m in there:
            limit = xi / NUM**2 * sum(ways[m])
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
        before, w = w, w - rate(step) * held.sum(axis=0) * NUM / len(there)
        for m in there if ask is None else range(NUM):
            ways[m].append(np.sum((w - before) ** 2) / rate(step) ** 2)
    return w, uploads


@pytest.mark.parametrize(
    ("kind", "parameters", "settings"),
    [
        ("lag", {}, {"xi": 0.1}),
        ("lag", {"xi": 0.3, "history": 3}, {"xi": 0.3, "history": 3}),
        ("lag", {"trigger": "server", "smoothness": list(SMOOTHNESS)}, {"xi": 1.0, "ask": SMOOTHNESS}),
        ("lag", {"trigger": "server", "smoothness": 50.0, "xi": 0.5}, {"xi": 0.5, "ask": [50.0] * NUM}),
        ("laq", {"bits": 4}, {"xi": 0.08, "bits": 4}),
        ("laq", {"bits": 3, "max_staleness": 7}, {"xi": 0.08, "bits": 3, "max_staleness": 7}),
    ],
    ids=str,
)
def test_it_is_what_a_plain_loop_computes(kind, parameters, settings):
    # 20 steps: until then no change comes so near to the limit, or to half a step of the grid, that float32 decides or
    # rounds otherwise than float64.
    outcome = learn(kind, parameters, max_steps=20)
    expected, counts = plain_loop(20, **settings)
    assert uploads_of(outcome) == counts
    assert sum(counts) < 0.6 * 20 * NUM
    np.testing.assert_allclose(outcome.models[0]["weight"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "parameters", "settings"),
    [
        ("lag", {}, {"xi": 0.1}),
        ("lag", {"trigger": "server", "smoothness": list(SMOOTHNESS)}, {"xi": 1.0, "ask": SMOOTHNESS}),
        ("laq", {"bits": 4}, {"xi": 0.08, "bits": 4}),
    ],
    ids=str,
)
def test_without_workers_that_are_lost_it_is_what_a_plain_loop_computes(kind, parameters, settings):
    # A step takes 1 s. Worker 8 is back in the ninth and takes part from the tenth; 0 is never there, 4 is at first.
    faults = [
        {"kind": "crash", "rank": 0, "at": "0 s"},
        {"kind": "crash", "rank": 4, "at": "11500 ms"},
        {"kind": "crash", "rank": 8, "at": "3500 ms", "restart_after": "5 s"},
    ]
    absent = {0: range(1, 17), 4: range(12, 17), 8: range(4, 10)}
    outcome = learn(kind, {**parameters, "on_peer_loss": "drop"}, max_steps=16, faults=faults)
    expected, counts = plain_loop(16, **settings, absent=absent)
    assert uploads_of(outcome) == counts
    np.testing.assert_allclose(outcome.models[0]["weight"], expected, atol=1e-4)


def test_under_a_schedule_each_way_is_measured_in_its_own_rate():
    schedule = {"kind": "step_decay", "every_steps": 5, "factor": 0.5}
    optimizer = {"kind": "sgd", "learning_rate": RATE, "schedule": schedule}
    outcome = learn("lag", max_steps=20, optimizer=optimizer)
    expected, counts = plain_loop(20, xi=0.1, rate=lambda step: RATE * 0.5 ** ((step - 1) // 5))
    assert uploads_of(outcome) == counts
    np.testing.assert_allclose(outcome.models[0]["weight"], expected, atol=1e-4)


# --- bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("lag", {}, np.zeros(DIM, np.float32)),
        ("lag", {"trigger": "server", "smoothness": list(SMOOTHNESS)}, np.zeros(DIM, np.float32)),
        *[
            ("laq", {"bits": b}, {"points": np.zeros(-(-b * DIM // 8), np.uint8), "radius": np.float32(0)})
            for b in (1, 3, 8)
        ],
    ],
    ids=str,
)
def test_bytes_are_those_of_the_formula(kind, parameters, message):
    steps = 12
    outcome = learn(kind, parameters, max_steps=steps)
    num, called = sum(uploads_of(outcome)), steps * NUM
    if "trigger" in parameters:
        called = num
    payload = sum(leaf.nbytes for leaf in (message.values() if kind == "laq" else [message]))
    assert payload == (4 + -(-parameters["bits"] * DIM // 8) if kind == "laq" else 4 * DIM)
    assert sum(report.payload_nbytes for report in outcome.reports) == called * 4 * DIM + num * payload
    change = {"weight": message} if kind == "lag" else message
    up = num * wire.nbytes(change) + (called - num) * wire.nbytes(None)
    down = called * wire.nbytes(({"weight": np.zeros(DIM, np.float32)}, 1)) + NUM * wire.nbytes((None, 1))
    assert sum(report.sent_nbytes for report in outcome.reports) == up + down
