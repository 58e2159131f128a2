"""Pictures of networks, their routes as rows, and `psgdsim show topology`."""

from __future__ import annotations

import json
import math
from itertools import combinations

import pytest

from psgdsim.cli import main
from psgdsim.report.network_layout import cables, place
from psgdsim.report.topology import plot_topology, properties, routes
from psgdsim.scenario import dump, from_dict
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

FAR = [[0.0, 0.1, 0.2], [0.1, 0.0, 0.3], [0.2, 0.4, 0.0]]
NETWORKS = {
    "star": (star(1e9, 1e-3), 8),
    "shared_medium": (shared_medium(1e9, 1e-3), 8),
    "dumbbell": (dumbbell(1e9, 1e-3, 1e8), 9),
    "ring": (ring(1e9, 1e-3), 8),
    "full_mesh": (full_mesh(1e9, 1e-3), 7),
    "torus": (torus([4, 4], 1e9, 1e-3), 16),
    "torus of three dimensions": (torus([2, 3, 4], 1e9, 1e-3), 24),
    "torus of four dimensions": (torus([2, 2, 2, 2], 1e9, 1e-3), 16),
    "tree": (tree(3, 3, 1e9, 1e-3), 27),
    "leaf_spine": (leaf_spine(4, 2, 4, 1e9, 1e-3, 2.0), 16),
    "fat_tree": (fat_tree(4, 1e9, 1e-3, 2.0), 16),
    "wan": (wan(["a", "b", "c"], [2, 1, 4], [[1e8] * 3] * 3, FAR, 1e9, 1e-3), 7),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    part, num_hosts = NETWORKS[request.param]
    return part.build(num_hosts)


def test_every_place_has_a_spot_of_its_own(network):
    points = place(network)
    assert set(points) == {*network.hosts, *network.switches}
    assert min(math.dist(a, b) for a, b in combinations(points.values(), 2)) > 0.25


def test_every_place_and_cable_is_drawn(network):
    axes = plot_topology(network, title="a network")
    assert axes.get_title(loc="left") == "a network"
    texts = {text.get_text() for text in axes.texts}
    assert {str(rank) for rank in range(len(network.hosts))} <= texts
    assert {name for name in network.switches if name != "medium"} <= texts
    lines = sum(
        len(collection.get_segments()) for collection in axes.collections if hasattr(collection, "get_segments")
    )
    assert lines + len(axes.patches) == len(cables(network))


def test_cables_are_the_links_in_pairs_unless_the_directions_differ():
    part, num_hosts = NETWORKS["wan"]
    found = cables(part.build(num_hosts))
    assert [(c.src, c.dst, c.latency) for c in found if c.is_one_way] == [
        ("b.router", "c.router", 0.3),
        ("c.router", "b.router", 0.4),
    ]
    assert sum(not c.is_one_way for c in found) == 7 + 2


def test_loopbacks_are_not_drawn_and_ranks_share_a_square():
    hosts = Hosts(ranks_per_host=2, loopback={"bandwidth": "1 Gbit/s"}, kinds=({"count": 1, "speed": 0.5},))
    network = hosts.place(star(1e9, 1e-3)).build(5)
    assert len(cables(network)) == 3
    axes = plot_topology(network, 5)
    assert {"0-1", "2-3", "4"} <= {text.get_text() for text in axes.texts}
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [
        "1 Gbit/s, 500 us  (3 x)",
        "switch",
        "host with its ranks, speed 1",
        "host with its ranks, speed 0.5",
    ]


def test_a_large_network_has_no_names():
    axes = plot_topology(star(1e9, 1e-3).build(500))
    assert not axes.texts


def test_routes_as_rows():
    network = leaf_spine(2, 1, 2, 1e9, 1e-3, 2.0).build(4)
    near, far = routes(network, [(0, 1), (0, 3)])
    assert str(near) == "0 -> 1: host0 > leaf0 > host1  (1 Gbit/s, 2 ms)"
    assert far.path == ("host0", "leaf0", "spine0", "leaf1", "host3")
    assert far.links == ("host0->leaf0", "leaf0->spine0", "spine0->leaf1", "leaf1->host3")
    assert (far.bandwidth, far.latency) == (1e9, 4e-3)


def test_routes_over_a_medium_and_inside_a_host():
    network = Hosts(ranks_per_host=2).place(shared_medium(None, 1e-3)).build(4)
    assert [str(row) for row in routes(network, [(0, 1), (3, 1)])] == [
        "0 -> 1: host0  (no limit, 0 s)",
        "3 -> 1: host1 > medium > host0  (no limit, 1 ms)",
    ]


def test_properties_are_rounded_to_four_digits():
    assert properties(1e10 / 3, 1 / 3) == "3.333 Gbit/s, 333.3 ms"


# --- psgdsim show topology ------------------------------------------------------------------------------------------


@pytest.fixture
def show(tiny, tmp_path, capsys):
    file = tmp_path / "tiny.yaml"
    file.write_text(dump(from_dict(tiny)))

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["show", "topology", str(file), "--out", str(tmp_path / "net.png"), *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_show_prints_routes_and_writes_a_picture(show, tmp_path):
    code, out, err = show("--from", "2")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "star: 3 ranks; 3 hosts, 6 links, multicast native",
        "  2 -> 0: host2 > switch > host0  (100 Mbit/s, 200 us)",
        "  2 -> 1: host2 > switch > host1  (100 Mbit/s, 200 us)",
        f"picture: {tmp_path / 'net.png'}",
    ]
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")


def test_show_prints_a_bounded_number_of_routes(show):
    _, out, _ = show("--set", "world_size=20")
    assert out.count(" -> ") == 64
    assert "... 316 more; see those from one rank with --from RANK" in out


def test_show_prints_json(show):
    code, out, _ = show("--json", "--set", "topology={kind: ring, bandwidth: null, latency: 1 ms}")
    document = json.loads(out)
    assert code == 0
    assert (document["kind"], document["hosts"], document["switches"]) == ("ring", ["host0", "host1", "host2"], [])
    assert [(row["src"], row["dst"], row["bandwidth"]) for row in document["routes"]][:2] == [
        (0, 1, None),
        (0, 2, None),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--from", "3"), 2, "--from: expected a rank, 0 to 2; got 3"),
        (("--out", "net.gfi"), 1, "net.gfi: cannot be the picture: Format 'gfi' is not supported"),
        (("--out", "no/such/folder/net.png"), 1, "net.png: cannot be the picture: No such file or directory"),
    ],
)
def test_show_refuses(show, arguments, code, message):
    got, out, err = show(*arguments)
    assert (got, out) == (code, "")
    assert message in err
