"""A parameter server in shards, and servers beside workers: settings, bytes, rows and hosts, in simulation."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from fault_cases import BASE, simulate

import psgdsim
from psgdsim import wire
from psgdsim.errors import PeerLost, RankFailed, ScenarioError, StrategyError
from psgdsim.scenario import from_dict
from psgdsim.strategies import parameter_server
from psgdsim.strategies.server_shards import Shards
from psgdsim.topologies.placement import HostKind, Hosts, Loopback

MODEL = {"kind": "quadratic", "dim": 7, "noise": 0.5}


@pytest.fixture
def run(tmp_path):
    def start(servers, **changes):
        strategy = {"strategy": {"kind": "parameter_server", "servers": servers}}
        scenario = {**BASE, "model": MODEL, **strategy, **changes}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"servers": 0}, r"strategy\.servers: expected at least 1; got 0"),
        (
            {"servers": 2, "sync": "async"},
            r"strategy\.servers: expected 1 with sync 'async', for shards .*; got 2: use",
        ),
        ({"servers": 3, "sync": "k_sync", "k": 2}, r"strategy\.servers: expected 1 with sync 'k_sync', .*; got 3"),
        ({"servers": 2, "on_peer_loss": "drop"}, r"strategy\.servers: expected 1 with on_peer_loss 'drop', .*; got 2"),
        ({"servers": 2, "on_peer_loss": "wait"}, r"strategy\.servers: expected 1 with on_peer_loss 'wait', .*; got 2"),
    ],
)
def test_shards_that_would_come_apart_are_refused(parameters, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": {"kind": "parameter_server", **parameters}})


def test_more_servers_than_parameters_are_refused(run):
    with pytest.raises(StrategyError, match="servers: expected at most one per parameter of the model, 7; got 8"):
        run(8)


def test_workers_alone_have_the_whole_model():
    strategy = parameter_server(servers=2)
    assert (strategy.num_servers, strategy.is_lock_step, strategy.is_sharded) == (2, True, True)
    assert list(strategy.leaders(3)) == [0, 1, 2, 3, 4]
    assert list(strategy.replicas(3)) == [0, 1, 2]
    assert list(parameter_server().replicas(3)) == [0, 1, 2, 3]


def test_a_model_is_cut_where_its_parameters_lie_in_a_row():
    tree = {"bias": np.arange(2, dtype=np.float32), "weight": np.arange(2, 8, dtype=np.float32).reshape(2, 3)}
    seen = {}

    async def worker(node, task):
        if node.rank == 0:
            node.num_servers = 3
            parts = await Shards(node).cut(tree)
            seen["parts"] = [[float(value) for value in await node.read(part)] for part in parts]
            seen["whole"] = await node.read(await Shards(node).join(parts, tree))

    assert simulate(worker).error is None
    assert seen["parts"] == [[0.0, 1.0], [2.0, 3.0, 4.0], [5.0, 6.0, 7.0]]
    jax.tree.map(np.testing.assert_array_equal, seen["whole"], tree)


@pytest.mark.parametrize("servers", [2, 3, 7])
def test_bytes_are_those_of_one_server_in_more_frames(servers, run):
    counted = run(servers).summary["bytes"]
    assert counted["payload_total"] == run(1).summary["bytes"]["payload_total"] == 6 * 2 * 4 * 7 * 4
    parts = [np.zeros((j + 1) * 7 // servers - j * 7 // servers, np.float32) for j in range(servers)]
    up = [sum(wire.nbytes((step, part, 0)) for step in range(6)) for part in parts]
    down = [sum(wire.nbytes((part, step, 0)) for step in range(1, 7)) for part in parts]
    assert counted["sent"] == [sum(up)] * 4 + [4 * nbytes for nbytes in down]


def test_all_ranks_end_every_step_and_the_first_worker_is_evaluated(run):
    result = run(3, evaluate={"every": "2 steps"})
    assert sorted(zip(result.steps["rank"], result.steps["step"], strict=True)) == [
        (rank, step) for rank in range(7) for step in range(1, 7)
    ]
    assert list(result.steps["version"]) == list(result.steps["step"])
    assert list(result.evals["step"]) == [2, 4, 6]
    assert result.evals["train_loss"][-1] < result.evals["train_loss"][0]
    assert result.params["weight"].shape == (7,)


@pytest.mark.parametrize("rank", [1, 5])
def test_a_lost_rank_ends_the_run(rank, run):
    with pytest.raises((PeerLost, RankFailed), match=rf"rank {rank}\b.*: it crashed at 0\.25 s"):
        run(2, faults=[{"kind": "crash", "rank": rank, "at": "250 ms"}])


def test_each_shard_has_a_codec_with_a_memory_of_its_own(run):
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.5}}
    result = run(2, codec=codec, max_steps=40)
    pulled = 40 * 4 * 7 * 4
    assert pulled < result.summary["bytes"]["payload_total"] < 2 * pulled
    assert result.summary["final"]["train_loss"] < 0.2 * result.steps["loss"][0]


# --- servers beside workers -------------------------------------------------------------------------------------------


def place(num_workers, num_servers, **settings):
    hosts = Hosts(**settings)
    topology = hosts.place(from_dict(BASE).topology.build(), num_servers).build(num_workers + num_servers)
    return [topology.host_of(rank) for rank in range(num_workers + num_servers)], topology


@pytest.mark.parametrize(
    ("num_workers", "num_servers", "settings", "hosts"),
    [
        (3, 1, {}, [0, 1, 2, 0]),
        (3, 5, {}, [0, 1, 2, 0, 1, 2, 0, 1]),
        (4, 3, {"ranks_per_host": 2}, [0, 0, 1, 1, 0, 1, 0]),
        (3, 0, {}, [0, 1, 2]),
    ],
)
def test_servers_live_beside_workers(num_workers, num_servers, settings, hosts):
    got, topology = place(num_workers, num_servers, servers="beside", **settings)
    assert got == hosts
    assert len(topology.hosts) == max(hosts) + 1


def test_a_server_has_the_speed_of_its_host_and_its_loopback():
    kinds, loopback = [HostKind(count=1, speed=2.0)], Loopback(latency="1 ms")
    _, topology = place(3, 1, servers="beside", kinds=kinds, loopback=loopback)
    assert [topology.speed(rank) for rank in range(4)] == [2.0, 1.0, 1.0, 2.0]
    [link] = topology.route(topology.host_of(0), topology.host_of(3))
    assert (topology.links[link].name, topology.links[link].latency) == ("host0.loopback", 1e-3)


def test_a_network_needs_no_room_for_servers_beside_workers():
    topology = {
        "kind": "custom",
        "hosts": ["a", "b", "c"],
        "links": [{"src": "a", "dst": name, "bandwidth": None, "latency": "1 ms"} for name in "bc"],
    }
    scenario = {**BASE, "topology": topology, "strategy": {"kind": "parameter_server", "servers": 2}}
    beside = {"hosts": {"servers": "beside"}}
    from_dict({**scenario, **beside, "world_size": 3})
    room = r"topology: expected room for 4 hosts \(4 ranks, 1 per host and 2 servers beside them\); there is room for 3"
    with pytest.raises(ScenarioError, match=room):
        from_dict({**scenario, **beside})
    with pytest.raises(ScenarioError, match=r"hosts\.servers: expected one of own, beside; got 'besides'"):
        from_dict({**scenario, "hosts": {"servers": "besides"}})


def test_a_worker_cannot_be_cut_off_without_the_server_beside_it():
    scenario = {**BASE, "strategy": {"kind": "parameter_server"}, "hosts": {"servers": "beside"}}
    with pytest.raises(ScenarioError, match="expected whole hosts; got rank 0 without rank 4"):
        from_dict({**scenario, "faults": [{"kind": "cut", "ranks": [0], "at": "1 s"}]})
