"""Networks: what is joined to what, which way messages go, and which rank lives where."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter, deque
from itertools import permutations
from pathlib import Path

import pytest

import psgdsim
from psgdsim.errors import ScenarioError
from psgdsim.scenario import dump, from_dict, loads
from psgdsim.scenario.experiment import network
from psgdsim.topologies import (
    Hosts,
    dumbbell,
    fat_tree,
    full_mesh,
    leaf_spine,
    ring,
    shared_medium,
    star,
    torus,
    tree,
    wan,
)
from psgdsim.topologies.wiring import pick

ROOT = Path(__file__).parents[2]
GIGA, MILLI = 1e9, 1e-3
SITES = {
    "sites": ["a", "b", "c"],
    "hosts_per_site": [2, 1, 3],
    "bandwidth": [[None, 1e8, 2e8], [3e8, None, 4e8], [5e8, None, None]],
    "latency": [[None, 0.01, 0.02], [0.03, None, 0.04], [0.05, 0.06, None]],
    "local_bandwidth": GIGA,
    "local_latency": MILLI,
}

NETWORKS = {
    "star": (star(GIGA, MILLI), 5),
    "shared_medium": (shared_medium(GIGA, MILLI), 5),
    "dumbbell": (dumbbell(GIGA, MILLI, 1e8, 0.01), 5),
    "ring of 1": (ring(GIGA, MILLI), 1),
    "ring of 2": (ring(GIGA, MILLI), 2),
    "ring of 8": (ring(GIGA, MILLI), 8),
    "ring of 9": (ring(GIGA, MILLI), 9),
    "full_mesh": (full_mesh(GIGA, MILLI), 5),
    "torus 4x4": (torus([4, 4], GIGA, MILLI), 16),
    "torus 2x3x5": (torus([2, 3, 5], GIGA, MILLI), 30),
    "torus 1x4": (torus([1, 4], GIGA, MILLI), 4),
    "tree": (tree(3, 3, GIGA, MILLI), 27),
    "tree of one switch": (tree(4, 1, GIGA, MILLI), 4),
    "leaf_spine": (leaf_spine(4, 3, 2, GIGA, MILLI), 8),
    "fat_tree 2": (fat_tree(2, GIGA, MILLI), 2),
    "fat_tree 4": (fat_tree(4, GIGA, MILLI), 16),
    "fat_tree 6": (fat_tree(6, GIGA, MILLI), 54),
    "wan": (wan(**SITES), 6),
}


@pytest.fixture(params=NETWORKS)
def topology(request):
    part, num_hosts = NETWORKS[request.param]
    return part.build(num_hosts)


def pairs(topology):
    return permutations(range(len(topology.hosts)), 2)


def walk(topology, start, route):
    """Follow links that each begin where the last one ended; return the place where the route ends."""
    at = start
    for link in (topology.links[index] for index in route):
        if link.src != link.dst:
            assert link.src == at
        at = link.dst
    return at


def hops_from(topology, start):
    """Return the fewest links from a host to every host and switch (breadth first)."""
    out = {}
    for link in topology.links:
        out.setdefault(link.src, []).append(link.dst)
    hops, queue = {start: 0}, deque([start])
    while queue:
        name = queue.popleft()
        for other in out.get(name, []):
            if other not in hops:
                hops[other] = hops[name] + 1
                queue.append(other)
    return hops


# --- routes ---------------------------------------------------------------------------------------------------------


def test_names_differ_and_links_join_named_places(topology):
    names = [*topology.hosts, *topology.switches]
    assert len(set(names)) == len(names)
    assert len({link.name for link in topology.links}) == len(topology.links)
    assert {end for link in topology.links for end in (link.src, link.dst)} <= set(names)


def test_every_route_goes_from_end_to_end_over_the_fewest_links(topology):
    if topology.switches == ("medium",):
        assert {topology.route(*pair) for pair in pairs(topology)} == {(0,)}
        return
    for src, start in enumerate(topology.hosts):
        hops = hops_from(topology, start)
        for dst, end in enumerate(topology.hosts):
            route = topology.route(src, dst)
            assert walk(topology, start, route) == end
            assert len(route) == hops[end]


def test_a_host_reaches_itself_over_nothing(topology):
    assert {topology.route(host, host) for host in range(len(topology.hosts))} == {()}


def test_uploads_and_downloads_meet_at_one_relay(topology):
    places = set()
    for host, name in enumerate(topology.hosts):
        up, down = topology.relay_route(host, True), topology.relay_route(host, False)
        places.add(walk(topology, name, up))
        assert len(up) == len(down)
        relay = topology.links[down[0]].src if down else name
        places.add(relay)
        if topology.switches != ("medium",):
            assert walk(topology, relay, down) == name
    assert len(places) == 1
    assert places <= {*topology.switches, topology.hosts[0]}


def test_a_native_multicast_enters_every_place_at_most_once(topology):
    for src, start in enumerate(topology.hosts):
        others = [host for host in range(len(topology.hosts)) if host != src]
        links = [topology.links[link] for link in topology.tree(src, others)]
        entered = Counter(link.dst for link in links)
        assert max(entered.values(), default=1) == 1
        reached = {start}
        for link in links:  # a parent is listed before its children
            assert link.src in reached or link.src == link.dst
            reached.add(link.dst)
        if topology.switches != ("medium",):
            assert {topology.hosts[host] for host in others} <= reached


def test_a_multicast_on_a_medium_is_one_transmission():
    topology = shared_medium(GIGA, MILLI).build(6)
    assert topology.multicast == "native"
    assert topology.tree(0, [1, 2, 3, 4, 5]) == topology.route(5, 0) == topology.relay_route(3, False) == (0,)


def test_native_multicast_over_equal_routes_crosses_one_spine():
    topology = leaf_spine(2, 4, 8, GIGA, MILLI).build(16)
    far = range(8, 16)
    spines = {topology.links[topology.route(0, dst)[1]].dst for dst in far}
    assert len(spines) > 1
    assert len(topology.tree(0, far)) == 3 + len(far)


# --- equal-cost multipath -------------------------------------------------------------------------------------------


def test_equal_routes_are_picked_by_a_fixed_hash():
    assert [pick(4, 0, dst) for dst in range(8)] == [3, 3, 0, 2, 2, 3, 3, 2]
    assert [pick(1000, 5, 3), pick(1000, 3, 5), pick(1000, 5, 3, 1)] == [612, 128, 416]


def test_routes_do_not_depend_on_the_hash_seed():
    code = (
        "from psgdsim.topologies import fat_tree; t = fat_tree(6, 1e9, 0.0).build(54);"
        "print([t.route(i, j) for i in range(54) for j in range(54)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("name", ["fat_tree 6", "leaf_spine"])
def test_equal_routes_share_the_load(name):
    part, num_hosts = NETWORKS[name]
    topology = part.build(num_hosts)
    tops = [name for name in topology.switches if name.startswith(("core", "spine"))]
    visits = Counter(
        link.dst for pair in pairs(topology) for link in map(topology.links.__getitem__, topology.route(*pair))
    )
    loads = [visits[name] for name in tops]
    mean = sum(loads) / len(loads)
    assert all(abs(load - mean) < 5 * math.sqrt(mean) for load in loads)  # five standard deviations of a fair choice


def test_opposite_hosts_of_a_ring_use_both_ways():
    topology = ring(GIGA, MILLI).build(8)
    first = {topology.links[topology.route(src, (src + 4) % 8)[0]].dst == f"host{(src + 1) % 8}" for src in range(8)}
    assert first == {True, False}


# --- shapes and capacities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hosts", "switches", "links"),
    [
        ("star", 5, 1, 10),
        ("shared_medium", 5, 1, 1),
        ("dumbbell", 5, 2, 12),
        ("ring of 1", 1, 0, 0),
        ("ring of 2", 2, 0, 2),
        ("ring of 8", 8, 0, 16),
        ("full_mesh", 5, 0, 20),
        ("torus 4x4", 16, 0, 64),
        ("torus 2x3x5", 30, 0, 2 * (15 + 30 + 30)),
        ("torus 1x4", 4, 0, 8),
        ("tree", 27, 13, 78),
        ("leaf_spine", 8, 7, 2 * (8 + 12)),
        ("fat_tree 4", 16, 20, 2 * 48),
        ("fat_tree 6", 54, 45, 2 * 162),
        ("wan", 6, 3, 2 * 6 + 6),
    ],
)
def test_sizes(name, hosts, switches, links):
    part, num_hosts = NETWORKS[name]
    topology = part.build(num_hosts)
    assert (len(topology.hosts), len(topology.switches), len(topology.links)) == (hosts, switches, links)


@pytest.mark.parametrize("oversubscription", [1.0, 3.0])
def test_oversubscription_of_a_leaf(oversubscription):
    topology = leaf_spine(3, 2, 6, GIGA, MILLI, oversubscription).build(18)
    down = sum(link.bandwidth for link in topology.links if link.dst == "leaf0" and link.src.startswith("host"))
    up = sum(link.bandwidth for link in topology.links if link.src == "leaf0" and link.dst.startswith("spine"))
    assert down / up == pytest.approx(oversubscription, rel=1e-12)


def test_oversubscription_of_a_fat_tree():
    topology = fat_tree(4, GIGA, MILLI, 4.0).build(16)
    edge = sum(link.bandwidth for link in topology.links if link.src == "edge0" and link.dst.startswith("aggregation"))
    assert edge == 2 * GIGA / 4.0
    assert topology.bandwidth(topology.route(0, 15)) == GIGA / 4.0
    assert topology.bandwidth(topology.route(0, 1)) == GIGA


def test_dumbbell_has_its_bottleneck_only_between_the_halves():
    topology = dumbbell(GIGA, MILLI, 1e8, 0.01).build(5)
    assert [topology.bandwidth(topology.route(0, dst)) for dst in range(1, 5)] == [GIGA, GIGA, 1e8, 1e8]
    assert topology.latency(topology.route(0, 4)) == pytest.approx(0.012, rel=1e-12)


def test_wan_routes_have_the_matrices_entries():
    topology = wan(**SITES).build(6)
    home = [0, 0, 1, 2, 2, 2]
    for src, dst in pairs(topology):
        i, j = home[src], home[dst]
        far = 0.0 if i == j else SITES["latency"][i][j]
        narrow = None if i == j else SITES["bandwidth"][i][j]
        route = topology.route(src, dst)
        assert topology.latency(route) == pytest.approx(far + 2 * MILLI, rel=1e-12)
        assert topology.bandwidth(route) == min(GIGA, narrow or math.inf)


def test_torus_goes_dimension_by_dimension():
    topology = torus([3, 4], GIGA, MILLI).build(12)
    names = [topology.links[link].dst for link in topology.route(0, 7)]  # (0, 0) -> (1, 3), the short way round
    assert names == ["host4", "host7"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: star(0.0, MILLI), "bandwidth: expected more than 0 bit/s, or null for no limit; got 0 bit/s"),
        (lambda: dumbbell(GIGA, MILLI, 0.0), "bottleneck_bandwidth: expected more than 0 bit/s"),
        (lambda: torus([1000, 1000], GIGA, MILLI), "dims: expected at most 100000 hosts in all; got 1000000"),
        (lambda: tree(10, 6, GIGA, MILLI), "levels: expected at most 100000 hosts in all; got 1000000"),
        (lambda: leaf_spine(1000, 1000, 1, GIGA, MILLI), "spines: expected at most 100000 links between switches"),
        (lambda: wan(**{**SITES, "sites": ["a", "b", "b"]}), "sites: expected different names; got 'b' twice"),
        (lambda: wan(**{**SITES, "sites": ["a", "b c", "d"]}), "sites: expected names of 1 to 40"),
        (lambda: wan(**{**SITES, "hosts_per_site": [1]}), "hosts_per_site: expected one number for each of 3 sites"),
        (lambda: wan(**{**SITES, "latency": [[0.0] * 3] * 2}), "latency: expected 3 rows of 3, one for each site"),
        (lambda: wan(**{**SITES, "latency": [[None] * 3] * 3}), "latency: expected a time from site 'a' to 'b'"),
        (lambda: wan(**{**SITES, "bandwidth": [[0.0] * 3] * 3}), "bandwidth: expected more than 0 bit/s"),
    ],
)
def test_wrong_parameters(make, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make()


# --- hosts ----------------------------------------------------------------------------------------------------------

FIXED_RING = {"kind": "ring", "bandwidth": "1 Gbit/s", "latency": "1 us"}


def test_ranks_fill_hosts_in_order():
    topology = Hosts(ranks_per_host=3).place(star(GIGA, MILLI)).build(8)
    assert [topology.host_of(rank) for rank in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert len(topology.hosts) == 3
    assert topology.route(0, 0) == ()


def test_loopback_is_a_link_of_each_host():
    loopback = {"bandwidth": "8 Gbit/s", "latency": "1 us"}
    topology = Hosts(ranks_per_host=2, loopback=loopback).place(star(GIGA, MILLI)).build(4)
    loops = [topology.links[link] for host in (0, 1) for link in topology.route(host, host)]
    assert [(link.name, link.bandwidth, link.latency) for link in loops] == [
        ("host0.loopback", 8e9, 1e-6),
        ("host1.loopback", 8e9, 1e-6),
    ]
    assert [topology.links[link].name for link in topology.tree(0, [0, 1])] == [
        "host0.loopback",
        "host0.up",
        "host1.down",
    ]


def test_hosts_beyond_all_kinds_have_speed_1():
    kinds = ({"count": 1, "speed": 0.5}, {"count": 1, "speed": 4.0})
    topology = Hosts(ranks_per_host=2, kinds=kinds).place(star(GIGA, MILLI)).build(6)
    assert [topology.speed(rank) for rank in range(6)] == [0.5, 0.5, 4.0, 4.0, 1.0, 1.0]
    assert star(GIGA, MILLI).build(2).speed(1) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"topology": {"kind": "torus", "dims": [1, 2], "bandwidth": "1 Gbit/s", "latency": "1 us"}},
            "topology: expected room for 3 hosts (3 ranks, 1 per host); there is room for 2",
        ),
        ({"hosts": {"kinds": [{"count": 4}]}}, "hosts.kinds: expected at most 3 hosts (3 ranks, 1 per host); got 4"),
        ({"hosts": {"ranks_per_host": 0}}, "hosts.ranks_per_host: expected at least 1; got 0"),
        ({"hosts": {"loopback": {"bandwidth": "0 bit/s"}}}, "hosts.loopback.bandwidth: expected more than 0"),
        (
            {"hosts": {"loopback": {"bandwith": None}}},
            "hosts.loopback.bandwith: unknown key; did you mean 'bandwidth'?",
        ),
        ({"hosts": {"kinds": [{"count": 1, "spede": 1}]}}, "hosts.kinds.0.spede: unknown key; did you mean 'speed'?"),
        ({"hosts": {"kinds": [{"count": 1, "speed": 0.0}]}}, "hosts.kinds.0.speed: expected more than 0; got 0.0"),
    ],
)
def test_wrong_hosts(tiny, changes, message):
    with pytest.raises(ScenarioError) as caught:
        from_dict({**tiny, **changes})
    assert message in str(caught.value)


def test_hosts_survive_being_written_and_read(tiny):
    hosts = {"ranks_per_host": 2, "loopback": {"bandwidth": "10 Gbit/s"}, "kinds": [{"count": 1, "speed": 0.5}]}
    scenario = from_dict({**tiny, "hosts": hosts})
    assert loads(dump(scenario)) == scenario
    assert network(scenario).build(3).speed(1) == 0.5


def run_time(scenario, tmp_path, name):
    return psgdsim.run(scenario, out=tmp_path / name).summary["time_s"]


def test_speed_divides_compute_time(tiny, tmp_path):
    tiny["topology"] = {"kind": "star", "bandwidth": None, "latency": "0 s"}
    tiny["compute"] = {"kind": "constant", "time": "4 ms"}
    assert run_time(tiny, tmp_path, "plain") == pytest.approx(4 * 4e-3, rel=1e-12)
    tiny["hosts"] = {"kinds": [{"count": 1, "speed": 2.0}, {"count": 1, "speed": 0.25}]}
    assert run_time(tiny, tmp_path, "slow") == pytest.approx(4 * 16e-3, rel=1e-12)


def test_ranks_of_one_host_talk_over_its_loopback_only(tiny, tmp_path):
    tiny["world_size"], tiny["max_steps"] = 2, 1
    tiny["strategy"] = {"kind": "all_reduce", "algorithm": "broadcast"}
    tiny["compute"] = {"kind": "constant", "time": "0 s"}
    tiny["topology"] = {"kind": "star", "bandwidth": "1 kbit/s", "latency": "1 h"}
    tiny["hosts"] = {"ranks_per_host": 2}
    assert run_time(tiny, tmp_path, "free") == 0.0
    tiny["hosts"]["loopback"] = {"bandwidth": "1 Mbit/s", "latency": "1 s"}
    result = psgdsim.run(tiny, out=tmp_path / "limited")
    nbytes = result.summary["bytes"]["total"]  # both ranks' messages share the loopback at once
    assert result.summary["time_s"] == pytest.approx(1 + 8 * nbytes / 1e6, rel=1e-12)


QUADRATIC = {
    "name": "quadratic",
    "world_size": 4,
    "model": {"kind": "quadratic", "dim": 50, "noise": 1.0},
    "data": {"kind": "none"},
    "batch_size": 1,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "strategy": {"kind": "all_reduce", "algorithm": "broadcast"},
    "max_steps": 1,
}


@pytest.fixture(scope="module")
def model_on_a_star(tmp_path_factory):
    topology = {"kind": "star", "bandwidth": "1 Gbit/s", "latency": "1 us"}
    result = psgdsim.run({**QUADRATIC, "topology": topology}, out=tmp_path_factory.mktemp("star"))
    return result.summary["params_sha256"]


@pytest.mark.parametrize("multicast", ["native", "relay", "unicast"])
@pytest.mark.parametrize(
    "topology",
    [
        {"kind": "shared_medium"},
        {"kind": "dumbbell", "bottleneck_bandwidth": "10 Mbit/s"},
        {"kind": "ring"},
        {"kind": "full_mesh"},
        {"kind": "torus", "dims": [2, 2]},
        {"kind": "tree", "fan_out": 2, "levels": 2},
        {"kind": "leaf_spine", "leaves": 2, "spines": 2, "hosts_per_leaf": 2, "oversubscription": 2.0},
        {"kind": "fat_tree", "k": 4},
    ],
    ids=lambda topology: topology["kind"],
)
def test_training_gives_the_same_model_on_every_network(model_on_a_star, tmp_path, topology, multicast):
    common = {"bandwidth": "100 Mbit/s", "latency": "100 us", "multicast": multicast}
    summary = psgdsim.run({**QUADRATIC, "topology": {**topology, **common}}, out=tmp_path / "run").summary
    assert summary["params_sha256"] == model_on_a_star
    assert summary["time_s"] >= 100e-6
