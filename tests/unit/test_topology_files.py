"""Networks in files: GraphML and edge lists mean what the same network in YAML means."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import networkx as nx
import pytest
from network_files import HOSTS, IN_YAML, LINKS, as_graphml, edge_list, graphml, write

from psgdsim.errors import ScenarioError
from psgdsim.scenario import dump, from_dict, load, loads
from psgdsim.scenario.experiment import build
from psgdsim.sim import simulate_flows
from psgdsim.topologies import custom


@pytest.fixture(params=["network.graphml", "network.edges"])
def in_file(request, tmp_path):
    """Return the spec of the network `IN_YAML`, in a file."""
    if request.param.endswith(".graphml"):
        return {"kind": "custom", "file": write(tmp_path / request.param, as_graphml(LINKS))}
    path = write(tmp_path / request.param, "# two racks\n\n" + edge_list(LINKS))
    return {"kind": "custom", "file": path, "switches": ["leaf?", "spine0", "spine*"]}


def built(spec):
    return from_dict(scenario(spec)).topology.build().build(4)


def scenario(topology, **changes):
    return {
        "name": "files", "world_size": 4, "batch_size": 1, "max_steps": 1,
        "model": {"kind": "quadratic", "dim": 2}, "data": {"kind": "none"},
        "optimizer": {"kind": "sgd", "learning_rate": 0.1}, "strategy": {"kind": "all_reduce", "algorithm": "ring"},
        "topology": topology, **changes,
    }  # fmt: skip


# --- what a file means ----------------------------------------------------------------------------------------


def test_a_file_means_the_same_network_as_yaml(in_file):
    expected, found = built({**IN_YAML, "multicast": "relay"}), built({**in_file, "multicast": "relay"})
    assert (found.hosts, found.switches) == (expected.hosts, expected.switches)
    assert found.links == expected.links
    for src, dst in permutations(range(4), 2):
        assert found.route(src, dst) == expected.route(src, dst)
        assert found.relay_route(src, True) == expected.relay_route(src, True)


def test_flows_take_as_long_in_a_file_as_in_yaml(in_file):
    flows = [(src, dst, 1_000_000, 0.001 * i) for i, (src, dst) in enumerate(permutations(HOSTS, 2))]
    assert list(simulate_flows(in_file, flows)) == list(simulate_flows(IN_YAML, flows))
    ends = simulate_flows(in_file, [("h0", "h1", 1_250_000, 0.0), ("h0", "h2", 1_250_000, 0.0)])
    # h2 has 100 Mbit/s, which leaves 900 Mbit/s of h0's 1 Gbit/s; h1's second link has less latency than its first.
    assert list(ends) == pytest.approx([0.00007 + 1 / 90, 0.00007 + 0.1])


def test_what_networkx_writes_is_read(tmp_path):
    graph = nx.Graph()
    graph.add_node("s", role="switch", x=1.5)
    for host in ("a", "b"):
        graph.add_edge(host, "s", bandwidth="1 Gbit/s", latency="50 us", duplex="full", weight=3, label="cable")
    nx.write_graphml(graph, tmp_path / "n.graphml")
    nx.write_edgelist(graph, tmp_path / "n.edges", delimiter=",", data=["bandwidth", "latency", "duplex"])
    links = [{"src": src, "dst": "s", "bandwidth": 1e9, "latency": 50e-6} for src in ("a", "b")]
    expected = custom(hosts=("a", "b"), links=tuple(links), switches=("s",)).build(2)
    for part in (custom(file=str(tmp_path / "n.graphml")), custom(file=str(tmp_path / "n.edges"), switches=("s",))):
        topology = part.build(2)
        assert (topology.hosts, topology.switches) == (("a", "b"), ("s",))
        assert {frozenset((link.src, link.dst)) for link in topology.links} == {frozenset("as"), frozenset("bs")}
        assert simulate_flows(topology, [("a", "b", 125_000, 0.0)]) == simulate_flows(
            expected, [("a", "b", 125_000, 0.0)]
        )


def test_defaults_of_graphml_hold_where_nothing_else_is_said(tmp_path):
    defaults = {"kind": ("node", "role", "switch"), "rate": ("edge", "bandwidth", "8 Mbit/s")}
    keys = "".join(
        f'<key id="{key}" for="{of}" attr.name="{name}" attr.type="string"><default>{value}</default></key>'
        for key, (of, name, value) in defaults.items()
    )
    edges = [("a", "s", {"latency": "0 s"}), ("b", "s", {"latency": "0 s", "bandwidth": "4 Mbit/s"})]
    text = graphml([("a", "host"), ("s", None), ("b", "host")], edges, keys=keys)
    topology = custom(file=write(tmp_path / "n.graphml", text)).build(2)
    assert (topology.hosts, topology.switches) == (("a", "b"), ("s",))
    assert [link.bandwidth for link in topology.links] == [8e6, 8e6, 4e6, 4e6]


def test_parallel_links_stay_apart(tmp_path):
    slow, fast = ({"bandwidth": "1 Mbit/s", "latency": latency} for latency in ("2 ms", "1 ms"))
    text = graphml([("a", None), ("b", None)], [("a", "b", slow), ("b", "a", fast)])
    topology = custom(file=write(tmp_path / "n.graphml", text)).build(2)
    assert [(link.name, link.latency) for link in topology.links] == [
        ("a->b", 0.002), ("b->a", 0.002), ("b->a", 0.001), ("a->b", 0.001),
    ]  # fmt: skip
    assert (topology.route(0, 1), topology.route(1, 0)) == ((3,), (2,))


def test_comments_blanks_and_a_mark_at_the_beginning_are_nothing(tmp_path):
    text = "\ufeff# a comment, with a comma\n\n  a , b , 1 Mbit/s , 1 ms , shared  # and another\n"
    topology = custom(file=write(tmp_path / "n.CSV", text)).build(2)
    assert [(link.name, link.bandwidth, link.latency) for link in topology.links] == [("a--b", 1e6, 0.001)]


# --- in a scenario --------------------------------------------------------------------------------------------


def test_a_relative_path_is_looked_for_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "n.edges", edge_list(LINKS))
    monkeypatch.chdir(tmp_path)
    spec = {"kind": "custom", "file": "n.edges", "switches": ["leaf*", "spine*"]}
    read = from_dict(scenario(spec))
    assert "file: n.edges\n" in dump(read)
    assert loads(dump(read)) == read
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ScenarioError, match=r"topology\.file: n\.edges: cannot be read: No such file"):
        from_dict(scenario(spec))


def test_a_scenario_needs_no_more_hosts_than_the_file_has(in_file):
    with pytest.raises(ScenarioError, match=r"topology: expected room for 5 hosts .*; there is room for 4"):
        from_dict(scenario(in_file, world_size=5))


def test_a_file_that_is_gone_when_the_run_begins_is_one_clear_error(tmp_path):
    path = write(tmp_path / "n.edges", edge_list(LINKS))
    read = from_dict(scenario({"kind": "custom", "file": path, "switches": ["leaf*", "spine*"]}))
    Path(path).unlink()
    with pytest.raises(ScenarioError, match=r"topology\.file: .*n\.edges: cannot be read"):
        build(read)


def test_a_mistake_in_a_file_is_shown_at_the_key_in_the_scenario(tmp_path):
    path = write(tmp_path / "n.edges", "a,b,1 Gbps,0 s\n")
    text = dump(from_dict(scenario(IN_YAML)))
    head, tail = re.split(r"topology:\n(?:  .*\n)*", text)
    file = tmp_path / "s.yaml"
    file.write_text(f"{head}topology: {{kind: custom, file: {path}}}\n{tail}")
    with pytest.raises(ScenarioError) as error:
        load(file)
    assert re.match(rf"{file}:\d+:\d+: topology\.file: {path}:1: a to b: bandwidth: expected", str(error.value))


def test_networkx_is_imported_only_where_a_file_is_read(tmp_path):
    path = write(tmp_path / "n.edges", edge_list(LINKS))
    code = (
        "import sys; from psgdsim.topologies import custom\n"
        f"custom(hosts=('a',)); before = 'networkx' in sys.modules\n"
        f"custom(file={path!r}, switches=('leaf*', 'spine*')); print(before, 'networkx' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "True"]
