"""strategies.fedavg: sampling, weights, bytes, and clients that are late or lost, in simulation."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim import rng, wire
from psgdsim.errors import PeerLost, ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim import execution
from psgdsim.testing.watched import WatchedSimulation

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
UNEQUAL = {"partition": {"kind": "quantity_skew", "alpha": 1.0}}
NETWORK = {  # not a quadratic: that the mean of gradients is the gradient of the mean proves nothing
    "model": {"kind": "mlp", "hidden": [7], "activation": "tanh"},
    "data": {"kind": "synthetic_classification", "num_samples": 93, "num_features": 6, "num_classes": 4, **UNEQUAL},
    "world_size": 5,
    "batch_size": 8,
    "max_steps": 4,
    "optimizer": {"kind": "sgd", "learning_rate": 0.3},
}
BOWL = {"data": {"kind": "none", "num_samples": 8}, "execution": "exact"}  # two rows per client, one batch per epoch
DROP = {"client_fraction": 1.0, "local_epochs": 2, "on_peer_loss": "drop", "quorum": 0.5}


@pytest.fixture
def run(tmp_path):
    def start(parameters=None, **changes):
        strategy = {"kind": "fedavg", **(parameters or {})}
        scenario = {**BASE, "topology": FREE, "strategy": strategy, **changes}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


def rows_of(result, rank):
    return {name: column[result.steps["rank"] == rank] for name, column in result.steps.items()}


def rounds_of(result, world_size):
    """Return the clients whose updates were made, by round."""
    made = {}
    for rank, version in zip(result.steps["rank"], result.steps["version"], strict=True):
        if rank < world_size:
            made.setdefault(int(version), set()).add(int(rank))
    return [made[version] for version in sorted(made)]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"client_fraction": 0.0}, "strategy.client_fraction: expected more than 0; got 0.0"),
        ({"local_epochs": 0}, "strategy.local_epochs: expected at least 1; got 0"),
        ({"on_peer_loss": "drop"}, "on_peer_loss: needs quorum, which share of the clients"),
        ({"timeout": "1 s"}, "timeout: needs quorum, which share of the clients"),
        ({"quorum": 0.5}, "quorum: only with timeout or on_peer_loss 'drop'; got 0.5"),
        ({"timeout": "1 s", "quorum": 1.0}, "quorum: expected less than 1 with timeout"),
    ],
)
def test_what_cannot_be_is_refused(parameters, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": {"kind": "fedavg", **parameters}})


# --- what it computes -----------------------------------------------------------------------------------------


def plain_loop(scenario, fraction, epochs, batch_size):
    """Return the model of FedAvg in a plain loop."""
    task = build(from_dict({**BASE, "topology": FREE, **scenario})).task
    num = scenario["world_size"]
    shards = task.partition.split(task.dataset.train_targets, num, rng.stream(task.seed, "partition"))
    assert len({len(shard) for shard in shards}) > 2
    fresh = task.init.function(0, None)
    params = fresh.params
    for number in range(1, scenario["max_steps"] + 1):
        drawn = rng.stream(task.seed, "clients", number).choice(num, round(fraction * num), replace=False)
        models, rows = [], []
        for client in sorted(drawn):
            state, shard = fresh._replace(params=params), shards[client]
            for epoch in range((number - 1) * epochs, number * epochs):
                order = rng.stream(task.seed, "local epoch", int(client), epoch).permutation(shard)
                for batch in np.split(order, range(batch_size or len(order), len(order), batch_size or len(order))):
                    state = task.apply.function(state, task.gradients.function([state.params], [batch])[1][0])
            models.append(state.params)
            rows.append(len(shard))
        params = jax.tree.map(lambda *leaves, rows=rows: np.average(np.stack(leaves), axis=0, weights=rows), *models)
    return params


def assert_is(result, params):
    leaves = [leaf for _, leaf in sorted(result.params.items())]
    expected = [
        leaf
        for _, leaf in sorted(
            (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        )
    ]
    for a, b in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)  # float32; w + (w_k - w) is not w_k to the last bit


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize(("fraction", "epochs", "full_batch"), [(0.4, 2, False), (1.0, 1, True), (0.6, 3, True)])
def test_it_is_what_a_plain_loop_computes(optimizer, fraction, epochs, full_batch, run):
    changes = {**NETWORK, "optimizer": {"kind": optimizer, "learning_rate": 0.1}}
    result = run({"client_fraction": fraction, "local_epochs": epochs, "full_batch": full_batch}, **changes)
    assert_is(result, plain_loop(changes, fraction, epochs, None if full_batch else 8))


def test_all_clients_with_all_their_rows_at_once_are_gradient_descent(run):
    result = run({"client_fraction": 1.0, "local_epochs": 1, "full_batch": True}, **NETWORK)
    task = build(from_dict({**BASE, "topology": FREE, **NETWORK})).task
    state, rows = task.init.function(0, None), np.arange(93, dtype=np.int32)
    for _ in range(4):
        state = task.apply.function(state, task.gradients.function([state.params], [rows])[1][0])
    assert_is(result, state.params)


def test_schedules_count_rounds(run):
    schedule = {"kind": "step_decay", "every_steps": 1, "factor": 1e-9}
    optimizer = {"kind": "sgd", "learning_rate": 0.1}
    one = run({"local_epochs": 3}, **{**NETWORK, "optimizer": optimizer, "max_steps": 1})
    four = run({"local_epochs": 3}, **{**NETWORK, "optimizer": {**optimizer, "schedule": schedule}})
    for name, values in four.params.items():
        np.testing.assert_allclose(values, one.params[name], atol=1e-6)


def test_batched_execution_agrees_with_exact_execution(run, monkeypatch):
    monkeypatch.setattr(execution, "NUM_ALONE", 0)
    exact, batched = (run({"client_fraction": 0.6}, **NETWORK, execution=kind) for kind in ("exact", "batched"))
    for name, values in exact.params.items():
        np.testing.assert_allclose(batched.params[name], values, rtol=1e-4, atol=1e-6)
    assert batched.summary["time_s"] == exact.summary["time_s"]


# --- who takes part, and bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "num"), [(0.01, 1), (0.3, 3), (0.25, 2), (1.0, 10)])
def test_so_many_clients_are_drawn_in_each_round(fraction, num, run):
    result = run({"client_fraction": fraction}, world_size=10, max_steps=12, data={"kind": "none", "num_samples": 20})
    rounds = rounds_of(result, 10)
    assert [len(clients) for clients in rounds] == [num] * 12
    assert num == 10 or len({frozenset(clients) for clients in rounds}) > 5
    assert list(rows_of(result, 10)["clients"]) == [num] * 12
    assert result.summary["staleness"]["histogram"] == {"0": 12 * num}


@pytest.mark.parametrize("on_peer_loss", ["fail", "drop"])
def test_bytes_are_those_of_the_formula(on_peer_loss, run):
    more = {"quorum": 1.0} if on_peer_loss == "drop" else {}
    result = run({"client_fraction": 0.5, "on_peer_loss": on_peer_loss, **more}, **BOWL)
    model = {"weight": np.zeros(4, np.float32)}
    assert result.summary["bytes"]["payload_total"] == 6 * 2 * 2 * 16
    up = 6 * 2 * wire.nbytes((1, model)) + (4 * (wire.nbytes(None) + wire.nbytes(())) if on_peer_loss == "drop" else 0)
    down = 6 * 2 * wire.nbytes((model, 1)) + 4 * wire.nbytes((None, 1))
    assert sum(result.summary["bytes"]["sent"][:4]) == up
    assert result.summary["bytes"]["sent"][4] == down


def test_a_codec_with_memory_has_its_ends_on_client_and_server(run):
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}}
    bowl = {**BOWL, "model": {"kind": "quadratic", "dim": 4}, "max_steps": 60}
    plain, coded = (run({"client_fraction": 0.5}, **bowl, **more) for more in ({}, {"codec": codec}))
    assert coded.summary["bytes"]["payload_total"] < plain.summary["bytes"]["payload_total"]
    assert coded.summary["final"]["train_loss"] < 0.01 * plain.evals["train_loss"][0]


# --- clients that are late ------------------------------------------------------------------------------------


def slow(rank, delay="10 s"):
    return {"compute": {"kind": "fixed_slow_set", "time": "100 ms", "delay": delay, "ranks": [rank]}, **BOWL}


def test_a_round_waits_for_all_of_its_clients(run):
    result = run({"client_fraction": 1.0, "local_epochs": 2}, **slow(2, "100 ms"))
    np.testing.assert_allclose(rows_of(result, 4)["time"], 0.4 * np.arange(1, 7), rtol=1e-12)


def test_after_the_timeout_a_quorum_is_enough(run):
    lazy = {"client_fraction": 1.0, "local_epochs": 2, "timeout": "500 ms", "quorum": 0.7}
    result = run(lazy, **slow(2))
    server = rows_of(result, 4)
    np.testing.assert_allclose(server["time"], 0.5 * np.arange(1, 7), rtol=1e-12)
    assert (list(server["clients"]), list(server["dropped"])) == ([3] * 6, [0] * 6)
    assert len(rows_of(result, 2)["step"]) == 0  # it is called again before it has found anything
    whole = run({**lazy, "quorum": 0.8}, **slow(2, "1 s"))
    np.testing.assert_allclose(rows_of(whole, 4)["time"], 2.2 * np.arange(1, 7), rtol=1e-12)
    assert list(rows_of(whole, 4)["clients"]) == [4] * 6


def test_an_update_that_comes_too_late_is_dropped(run):
    # Rank 2 needs 0.7 s; it is heard of when it is not drawn in the next round.
    late = {"client_fraction": 0.5, "local_epochs": 1, "timeout": "300 ms", "quorum": 0.5}
    result = run(late, **slow(2, "600 ms"), max_steps=20)
    server = rows_of(result, 4)
    made = len(rows_of(result, 2)["step"])
    assert made > 0
    assert server["dropped"][-1] == made
    assert set(server["clients"]) == {1, 2}


# --- clients that are lost ------------------------------------------------------------------------------------


def test_a_lost_client_ends_a_run_that_cannot_do_without(run):
    with pytest.raises(PeerLost, match=r"rank 4: lost rank 1: it crashed at 0\.25 s"):
        run({"client_fraction": 1.0}, **BOWL, faults=[{"kind": "crash", "rank": 1, "at": "250 ms"}])


def test_nobody_waits_for_a_client_that_is_lost(run):
    faults = [{"kind": "crash", "rank": 1, "at": "250 ms", "restart_after": "250 ms"}]
    result = run(DROP, **BOWL, faults=faults)
    server = rows_of(result, 4)
    np.testing.assert_allclose(server["time"], 0.2 * np.arange(1, 7), rtol=1e-12)
    assert list(server["clients"]) == [4, 3, 3, 4, 4, 4]
    assert list(rows_of(result, 1)["incarnation"][1:]) == [2, 2, 2]


def test_a_round_that_has_lost_too_many_changes_nothing(run):
    faults = [{"kind": "crash", "rank": rank, "at": "250 ms"} for rank in range(3)]
    lost = run({**DROP, "quorum": 0.5}, **BOWL, faults=faults, max_steps=2, evaluate={"every": "1 step"})
    assert list(rows_of(lost, 4)["clients"]) == [4, 0]
    assert lost.evals["train_loss"][0] == lost.evals["train_loss"][1]
    enough = run({**DROP, "quorum": 0.25}, **BOWL, faults=faults, max_steps=2, evaluate={"every": "1 step"})
    assert list(rows_of(enough, 4)["clients"]) == [4, 1]
    assert enough.evals["train_loss"][1] < enough.evals["train_loss"][0]


def test_a_run_whose_clients_are_all_lost_has_failed(run):
    with pytest.raises(PeerLost, match="rank 4: lost rank"):
        run(DROP, **BOWL, faults=[{"kind": "crash", "rank": rank, "at": "250 ms"} for rank in range(4)])


@pytest.mark.parametrize("more", [{}, {"timeout": "250 ms"}], ids=str)
@pytest.mark.parametrize("crash", [450, 590])
@pytest.mark.parametrize("back", [591, 598, 600, 602, 604, 605, 606, 607])
def test_a_client_that_comes_back_as_the_run_ends_ends_with_it(more, crash, back):
    # The third and last round ends at 0.606 s, 2 ms before the server does.
    faults = [{"kind": "crash", "rank": 1, "at": f"{crash} ms", "restart_after": f"{back - crash} ms"}]
    scenario = {**BASE, **BOWL, "strategy": {"kind": "fedavg", **DROP, **more}, "faults": faults, "max_steps": 3}
    topology = {"kind": "star", "bandwidth": None, "latency": "1 ms"}
    simulation = WatchedSimulation(build(from_dict({**scenario, "topology": topology})))
    outcome = simulation.run()
    assert outcome.error is None
    assert outcome.time == pytest.approx(0.606)
    assert outcome.reports[1].rows[-1]["version"] == 2
    assert (simulation.unfinished(), simulation.unreceived()) == ([], {})


@pytest.mark.parametrize("seed", range(3))
def test_clients_that_crash_again_and_again_do_not_stop_the_others(seed, run):
    faults = [{"kind": "crash", "mtbf": "2 s", "mttr": "200 ms", "rank": rank} for rank in range(4)]
    topology = {"kind": "star", "bandwidth": "1 Mbit/s", "latency": "1 ms"}
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.5}}
    parameters = {**DROP, "client_fraction": 0.75, "timeout": "250 ms"}
    result = run(parameters, faults=faults, topology=topology, codec=codec, max_steps=60, seed=seed, **BOWL)
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 60)
    assert np.nanmax(result.steps["incarnation"]) >= 2
    assert result.summary["final"]["train_loss"] < 0.2 * result.evals["train_loss"].max()
