"""Elastic averaging against closed forms of the springs, a plain loop, and its bytes."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE

from psgdsim import wire
from psgdsim.errors import ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
BOWL = {"model": {"kind": "quadratic", "dim": 4}}
STILL = {"schedule": {"kind": "step_decay", "every_steps": 5, "factor": 1e-30}}
"""Nobody moves by itself after five steps: in float32, w + 1e-31 is w."""


def train(sync="async", beta=0.9, period=5, **changes):
    strategy = {"kind": "easgd", "sync": sync, "beta": beta, "period": period}
    experiment = build(from_dict({**BASE, **BOWL, "topology": FREE, "strategy": strategy, **changes}))
    outcome = run_sim(experiment)
    assert outcome.error is None
    return outcome


def centre(*arguments, **changes):
    return np.asarray(train(*arguments, **changes).models[0]["weight"])[0]


# --- the springs alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("num", [1, 3, 8])
def test_springs_of_all_contract_by_the_closed_form(num, beta):
    # Each worker makes five steps from 1 towards 0 and then none: x = 0.9^5, c = 1. From there on, the sum of all is
    # kept, so c goes to L = (N x + c) / (N + 1), and mean(x) - c contracts by 1 - alpha (N + 1) each time.
    still = {"optimizer": {"kind": "sgd", "learning_rate": 0.1, **STILL}}
    x, alpha = 0.9**5, beta / num
    limit = (num * x + 1) / (num + 1)
    for exchanges in (1, 2, 4):
        expected = limit + (1 - limit) * (1 - alpha * (num + 1)) ** exchanges
        found = centre("bsp", beta, world_size=num, max_steps=5 * exchanges, **still)
        assert found == pytest.approx(expected, rel=2e-6)
    if beta == 1:  # N alpha = 1: the centre becomes the mean of the workers at once
        assert centre("bsp", beta, world_size=num, max_steps=5, **still) == pytest.approx(x, rel=2e-6)


@pytest.mark.parametrize("compute", [{"kind": "constant", "time": "1 s"}, {"kind": "exponential", "mean": "1 s"}])
def test_springs_keep_the_sum_whoever_comes_first(compute):
    still = {"optimizer": {"kind": "sgd", "learning_rate": 0.1, **STILL}}
    found = centre(compute=compute, max_steps=400, **still)
    assert found == pytest.approx((4 * 0.9**5 + 1) / 5, rel=1e-5)


# --- springs and steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["bsp", "async"])
def test_it_is_what_a_plain_loop_computes(sync):
    # Equally fast workers on one noisy bowl; asynchronously they come in the order of their ranks.
    noisy = {"model": {"kind": "quadratic", "dim": 4, "noise": 0.5}, "max_steps": 30}
    task = build(from_dict({**BASE, **noisy})).task
    first = np.asarray(task.init.function(0, None).params["weight"])
    workers, middle, alpha = [first] * 4, first, 0.9 / 4
    for step in range(1, 31):
        ids = [task.blocks(4).ids(step, rank) for rank in range(4)]
        gradients = [
            np.asarray(task.gradients.function([{"weight": x}], [rows])[1][0]["weight"])
            for x, rows in zip(workers, ids, strict=True)
        ]
        forces = [np.zeros(4, np.float32)] * 4
        if step > 1 and (step - 1) % 5 == 0:
            begin = middle
            for rank, x in enumerate(workers):
                forces[rank] = alpha * (x - (begin if sync == "bsp" else middle))
                middle = middle + forces[rank]
        workers = [x - 0.1 * g - d for x, g, d in zip(workers, gradients, forces, strict=True)]
    begin = middle
    for x in workers:
        middle = middle + alpha * (x - (begin if sync == "bsp" else middle))
    weight = np.asarray(train(sync, **noisy).models[0]["weight"])
    np.testing.assert_allclose(weight, middle, rtol=1e-5, atol=1e-6)


def test_a_slow_worker_holds_up_nobody():
    slow = {"compute": {"kind": "fixed_slow_set", "time": "1 s", "delay": "9 s", "ranks": [3]}, "max_steps": 100}
    # Three make a step a second and one a tenth of one: 3.1 local steps a second of 400.
    assert train("async", **slow).time == pytest.approx(400 / 3.1, rel=0.06)
    assert train("bsp", **slow).time == pytest.approx(1000, rel=0.02)


def test_ends_are_told_to_all():
    outcome = train("async", max_steps=30)
    assert all(report.unread == 0 for report in outcome.reports)
    assert [row["step"] for row in outcome.reports[4].rows] == list(range(1, 31))


# --- bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [2, 5])
def test_bytes_are_one_model_up_and_one_down_per_period(num):
    outcome = train("bsp", world_size=num, max_steps=20)
    size, rounds = 4 * 4, 4
    # The run is over before anybody has made another five steps; what is left are words without values.
    assert sum(report.payload_nbytes for report in outcome.reports) == 2 * num * rounds * size
    model = {"weight": np.zeros(4, np.float32)}
    up = rounds * wire.nbytes(model) + wire.nbytes(None)
    assert [report.sent_nbytes for report in outcome.reports[:num]] == [up] * num
    down = num * (rounds * wire.nbytes((1, model)) + wire.nbytes(None))
    assert outcome.reports[num].sent_nbytes == down


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"beta": 4.5}, r"strategy\.beta: expected at most 4 with 4 workers and sync 'async'; got 4\.5"),
        (
            {"beta": 1.7, "sync": "bsp"},
            r"strategy\.beta: expected at most 1\.6 with 4 workers and sync 'bsp'; got 1\.7",
        ),
        ({"period": 0}, r"strategy\.period: .*0"),
        ({"sync": "round_robin"}, r"strategy\.sync: expected one of async, bsp; got 'round_robin'"),
    ],
)
def test_what_cannot_work_is_refused(parameters, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": {"kind": "easgd", **parameters}})


def test_codecs_that_leave_out_parameters_are_refused():
    with pytest.raises(ScenarioError, match="easgd sends parameters, not gradients: expected codec 'identity'"):
        from_dict({**BASE, "strategy": {"kind": "easgd"}, "codec": {"kind": "top_k", "ratio": 0.5}})


# --- how runs end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sync", ["async", "bsp"])
def test_runs_end_by_time_too_wherever_messages_are(sync, seed):
    slow = {"kind": "star", "bandwidth": "10 kbit/s", "latency": "50 ms"}
    compute = {"kind": "exponential", "mean": "100 ms"}
    outcome = train(sync, period=2, topology=slow, compute=compute, max_steps=1000, max_time="3 s", seed=seed)
    assert all(report.unread == 0 for report in outcome.reports)
    assert 3 <= outcome.reports[4].rows[-1]["time"] < 5
