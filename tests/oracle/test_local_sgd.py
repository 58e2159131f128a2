"""Local SGD and its outer optimizers against each other and plain loops; closed forms: `psgdsim verify strategies`."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from fault_cases import BASE

from psgdsim import wire
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
SUMS = ("ring", "broadcast", "recursive_doubling")


def train(kind=None, parameters=None, **changes):
    strategy = {"strategy": {"kind": kind, **(parameters or {})}} if kind else {}
    outcome = run_sim(build(from_dict({**BASE, "topology": FREE, **strategy, **changes})))
    assert outcome.error is None
    assert all(report.unread == 0 for report in outcome.reports)
    return outcome


def weights(*arguments, **changes):
    return np.asarray(train(*arguments, **changes).models[0]["weight"])


def assert_same(one, other, atol=2e-6):
    """Compare the models of two runs; float32 sums in another order differ by a few units in the last place."""
    for a, b in zip(jax.tree.leaves(one.models), jax.tree.leaves(other.models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


NETWORK = {  # not a quadratic: that the mean of gradients is the gradient of the mean proves nothing
    "model": {"kind": "mlp", "hidden": [7], "activation": "tanh"},
    "data": {"kind": "synthetic_classification", "num_samples": 300, "num_features": 6, "num_classes": 4},
    "batch_size": None,
    "global_batch_size": 31,
    "world_size": 3,
    "max_steps": 7,
    "optimizer": {"kind": "sgd", "learning_rate": 0.3},
}


def reference(scenario, period, outer=None, buffers="maintain"):
    """Return the model of local SGD in a plain loop; the optimizer steps `outer` with the mean change, if there is one.

    Args:
        outer: an optax transformation, fed with minus the mean change.
    """
    task = build(from_dict({**BASE, "topology": FREE, **scenario})).task
    num = scenario["world_size"]
    blocks = task.blocks(num)
    first = task.init.function(0, None)
    states, base, slow = [first] * num, first.params, None if outer is None else outer.init(first.params)
    for step in range(1, scenario["max_steps"] + 1):
        for rank, state in enumerate(states):
            _, [gradient] = task.gradients.function([state.params], [blocks.ids(step, rank)])
            states[rank] = task.apply.function(state, gradient)
        if step % period and step < scenario["max_steps"]:
            continue
        rows = [len(blocks.ids(step, rank)) for rank in range(num)]

        def mean(trees, rows=rows):
            return jax.tree.map(lambda *leaves: np.average(np.stack(leaves), axis=0, weights=rows), *trees)

        after = mean([state.params for state in states])
        if outer is not None:
            updates, slow = outer.update(jax.tree.map(np.subtract, base, after), slow, base)
            after = optax.apply_updates(base, updates)
        memory = mean([state.opt_state for state in states]) if buffers == "average" else first.opt_state
        states = [
            state._replace(params=after, opt_state=state.opt_state if buffers == "maintain" else memory)
            for state in states
        ]
        base = after
    return base


def assert_is(outcome, params):
    for a, b in zip(jax.tree.leaves(outcome.models[0]), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


# --- local SGD ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SUMS)
def test_a_period_of_one_is_synchronous_sgd(algorithm):
    local = train("local_sgd", {"period": 1, "algorithm": algorithm}, **NETWORK)
    assert_same(local, train("all_reduce", **NETWORK))


@pytest.mark.parametrize("buffers", ["maintain", "average"])
def test_a_period_of_one_is_synchronous_sgd_with_momentum(buffers):
    changes = {**NETWORK, "optimizer": {"kind": "momentum", "learning_rate": 0.1, "momentum": 0.8}}
    local = train("local_sgd", {"period": 1, "buffers": buffers}, **changes)
    assert_same(local, train("all_reduce", **changes))


def test_a_period_of_one_without_memory_is_synchronous_sgd_without_momentum():
    momentum = {"kind": "momentum", "learning_rate": 0.3, "momentum": 0.8}
    local = train("local_sgd", {"period": 1, "buffers": "reset"}, **{**NETWORK, "optimizer": momentum})
    assert_same(local, train("all_reduce", **NETWORK))


@pytest.mark.parametrize("buffers", ["maintain", "reset", "average"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_it_is_what_a_plain_loop_computes(buffers, optimizer):
    changes = {**NETWORK, "optimizer": {"kind": optimizer, "learning_rate": 0.02}}
    expected = reference(changes, 3, buffers=buffers)
    assert_is(train("local_sgd", {"period": 3, "buffers": buffers}, **changes), expected)


def test_buffers_of_an_optimizer_without_memory_average_to_nothing():
    assert_is(train("local_sgd", {"period": 3, "buffers": "average"}, **NETWORK), reference(NETWORK, 3))


def test_post_local_sgd_is_synchronous_first():
    changes = {**NETWORK, "optimizer": {"kind": "adam", "learning_rate": 0.02}}
    early = [train("local_sgd", {"period": 3, "post_local": 4}, **{**changes, "max_steps": n}) for n in (4, 5)]
    sync = [train("all_reduce", **{**changes, "max_steps": n}) for n in (4, 5)]
    assert_same(early[0], sync[0], atol=0)
    with pytest.raises(AssertionError):
        assert_same(early[1], sync[1])
    payload = [sum(report.payload_nbytes for report in outcome.reports) for outcome in (*early, *sync)]
    assert payload[0] == payload[2]
    assert payload[1] == payload[3]  # the last round has one step


def test_a_round_after_the_switch_begins_with_it():
    outcome = train("local_sgd", {"period": 3, "post_local": 4}, **{**NETWORK, "max_steps": 10})
    size = wire_size(outcome.models[0])
    assert sum(report.payload_nbytes for report in outcome.reports) == 2 * 2 * size * (4 + 2)


def wire_size(model):
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(model))


# --- outer optimizers -----------------------------------------------------------------------------------------


def test_slow_momentum_alone_is_momentum():
    optimizer = {"kind": "momentum", "learning_rate": 0.3, "momentum": 0.6}
    slow = train("slow_mo", {"period": 1, "slow_momentum": 0.6}, **NETWORK)
    assert_same(slow, train("all_reduce", **{**NETWORK, "optimizer": optimizer}))


def test_slow_momentum_takes_the_rate_of_the_schedule():
    schedule = {"kind": "step_decay", "every_steps": 2, "factor": 0.5}
    changes = {**NETWORK, "max_steps": 6, "optimizer": {"kind": "sgd", "learning_rate": 0.3, "schedule": schedule}}
    slow = train("slow_mo", {"period": 1, "slow_momentum": 0.6}, **changes)
    momentum = {"kind": "momentum", "learning_rate": 0.3, "momentum": 0.6, "schedule": schedule}
    assert_same(slow, train("all_reduce", **{**changes, "optimizer": momentum}))


@pytest.mark.parametrize(
    ("kind", "parameters", "buffers"),
    [
        ("slow_mo", {"slow_momentum": 0.0}, "reset"),
        ("bmuf", {"block_momentum": 0.0, "buffers": "average"}, "average"),
        ("diloco", {"outer_learning_rate": 1.0, "outer_momentum": 0.0}, "maintain"),
    ],
)
def test_an_outer_optimizer_that_does_nothing_is_local_sgd(kind, parameters, buffers):
    changes = {**NETWORK, "optimizer": {"kind": "momentum", "learning_rate": 0.05}}
    outer = train(kind, {"period": 3, **parameters}, **changes)
    assert_same(outer, train("local_sgd", {"period": 3, "buffers": buffers}, **changes))


def test_slow_learning_of_one_worker_is_lookahead():
    # Zhang et al., NeurIPS 2019, as optax has it.
    changes = {**NETWORK, "world_size": 1, "max_steps": 9}
    slow = train("slow_mo", {"period": 3, "slow_momentum": 0.0, "slow_learning_rate": 0.5}, **changes)
    task = build(from_dict({**BASE, "topology": FREE, **changes})).task
    params = optax.LookaheadParams.init_synced(task.init.function(0, None).params)
    optimizer = optax.lookahead(optax.sgd(0.3), sync_period=3, slow_step_size=0.5)
    state = optimizer.init(params)
    for step in range(1, 10):
        _, [gradient] = task.gradients.function([params.fast], [task.blocks(1).ids(step, 0)])
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert_is(slow, params.slow)


def test_block_momentum_is_slow_momentum_at_a_constant_rate():
    block = train("bmuf", {"period": 3, "block_momentum": 0.6, "block_learning_rate": 0.8}, **NETWORK)
    slow = {"period": 3, "slow_momentum": 0.6, "slow_learning_rate": 0.8, "buffers": "maintain"}
    assert_same(block, train("slow_mo", slow, **NETWORK))


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_constant_change_moves_the_model_by_as_much_as_all_workers_together(world_size):
    # A bowl so wide that its gradient is 1 all along; after r rounds the block has moved G (1 - eta^r) / (1 - eta).
    wide = {"model": {"kind": "quadratic", "dim": 4, "curvature": 1e-6, "optimum": -1e6, "start": 0.0}}
    period, rounds, eta = 5, 30, 1 - 1 / world_size
    places = [
        weights("bmuf", {"period": period}, **wide, world_size=world_size, max_steps=period * n)[0]
        for n in (rounds - 1, rounds)
    ]
    change = -0.1 * period
    expected = [change * sum((1 - eta ** (r + 1)) / (1 - eta) for r in range(n)) for n in (rounds - 1, rounds)]
    np.testing.assert_allclose(places, expected, rtol=1e-4)
    assert places[1] - places[0] == pytest.approx(world_size * change, rel=1e-3)


@pytest.mark.parametrize("nesterov", [False, True])
def test_block_momentum_by_hand(nesterov):
    # A bowl without noise: H steps multiply by q = (1 - eta a)^H.
    bowl = {"model": {"kind": "quadratic", "dim": 4}, "max_steps": 20}
    q, zeta, eta = 0.9**4, 0.9, 0.5
    model = begin = 1.0
    delta = 0.0
    for _ in range(5):
        delta = eta * delta + zeta * (q - 1) * begin
        model += delta
        begin = model + eta * delta if nesterov else model
    parameters = {"period": 4, "block_momentum": eta, "block_learning_rate": zeta, "nesterov": nesterov}
    np.testing.assert_allclose(weights("bmuf", parameters, **bowl), model, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_diloco_steps_like_the_outer_optimizer_of_optax(nesterov):
    changes = {**NETWORK, "optimizer": {"kind": "adamw", "learning_rate": 0.02}}
    outer = optax.sgd(0.7, momentum=0.9, nesterov=nesterov)
    assert_is(train("diloco", {"period": 3, "nesterov": nesterov}, **changes), reference(changes, 3, outer))


# --- bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local_sgd", "slow_mo", "bmuf", "diloco"])
@pytest.mark.parametrize("num", [2, 3, 8])
def test_bytes_are_those_of_one_all_reduce_per_round(kind, num):
    changes = {"world_size": num, "max_steps": 12, "model": {"kind": "quadratic", "dim": 101}}
    outcome = train(kind, {"period": 4}, **changes)
    payload = sum(report.payload_nbytes for report in outcome.reports)
    assert payload == 3 * 2 * (num - 1) * 4 * 101
    header = wire.nbytes(np.zeros(0, np.float32))
    assert sum(report.sent_nbytes for report in outcome.reports) == payload + 3 * 2 * (num - 1) * num * header


def test_averaging_a_momentum_doubles_the_bytes():
    changes = {"max_steps": 4, "optimizer": {"kind": "momentum", "learning_rate": 0.1}}
    payloads = [
        sum(report.payload_nbytes for report in train("local_sgd", {"period": 2, "buffers": each}, **changes).reports)
        for each in ("maintain", "reset", "average")
    ]
    assert payloads == [2 * 2 * 3 * 16] * 2 + [2 * 2 * 3 * 32]


@pytest.mark.parametrize("kind", ["local_sgd", "slow_mo", "bmuf", "diloco"])
def test_rounds_take_as_long_as_their_steps_and_one_all_reduce(kind):
    model, topology = {"kind": "quadratic", "dim": 4000}, {"kind": "star", "bandwidth": "8 Mbit/s", "latency": "1 ms"}
    changes = {"model": model, "topology": topology, "max_steps": 1}
    message = train("all_reduce", **changes).time - 0.1
    outcome = train(kind, {"period": 4}, **{**changes, "max_steps": 12})
    assert outcome.time == pytest.approx(1.2 + 3 * message, rel=1e-4)
