"""Networks written out link by link: routes, both kinds of link, the relay, and what is refused."""

from __future__ import annotations

import pytest

from psgdsim.topologies import custom


def cable(src, dst, latency=0.0, duplex="full"):
    return {"src": src, "dst": dst, "bandwidth": 1e6, "latency": latency, "duplex": duplex}


def names(topology, src, dst):
    route = topology.route(topology.hosts.index(src), topology.hosts.index(dst))
    return [topology.links[link].name for link in route]


def test_the_shortest_route_has_the_fewest_links_then_the_least_latency():
    links = (
        cable("a", "s", 1.0), cable("s", "b", 1.0),
        cable("a", "t", 1.0), cable("t", "b", 0.5),
        cable("a", "u"), cable("u", "v"), cable("v", "b"),
    )  # fmt: skip
    topology = custom(hosts=("a", "b"), links=links, switches=("s", "t", "u", "v")).build(2)
    assert names(topology, "a", "b") == ["a->t", "t->b"]
    assert names(topology, "b", "a") == ["b->t", "t->a"]
    assert names(topology, "a", "a") == []


def test_among_equal_routes_the_one_listed_first():
    links = (cable("a", "s"), cable("a", "t"), cable("t", "b"), cable("s", "b"))
    topology = custom(hosts=("a", "b"), links=links, switches=("s", "t")).build(2)
    assert names(topology, "a", "b") == ["a->s", "s->b"]


def test_directions_of_a_shared_link_are_one_link():
    topology = custom(hosts=("a", "b"), links=(cable("a", "b", duplex="shared"),)).build(2)
    assert topology.route(0, 1) == topology.route(1, 0) == (0,)
    assert [link.name for link in topology.links] == ["a--b"]


def test_links_are_full_duplex_unless_they_say_otherwise():
    link = {"src": "a", "dst": "b", "bandwidth": None, "latency": 0.0}
    topology = custom(hosts=("a", "b"), links=(link,)).build(2)
    assert [link.name for link in topology.links] == ["a->b", "b->a"]
    assert topology.bandwidth(topology.route(0, 1)) == float("inf")


def test_hosts_pass_messages_on_and_ranks_live_on_hosts_in_their_order():
    topology = custom(hosts=("x", "y", "z"), links=(cable("x", "y"), cable("y", "z"))).build(2)
    assert names(topology, "x", "z") == ["x->y", "y->z"]
    assert topology.hosts == ("x", "y", "z")
    assert custom(hosts=("x", "y", "z"), links=(cable("x", "y"), cable("y", "z"))).max_hosts == 3


def test_the_relay_is_in_the_switch_nearest_to_all_hosts():
    links = (cable("a", "edge"), cable("edge", "core"), cable("core", "b"), cable("core", "c"))
    topology = custom(hosts=("a", "b", "c"), links=links, switches=("edge", "core"), multicast="relay").build(3)
    up, down = ([topology.links[link].name for link in topology.relay_route(0, is_up)] for is_up in (True, False))
    assert up == ["a->edge", "edge->core"]
    assert down == ["core->edge", "edge->a"]


@pytest.mark.parametrize(
    ("hosts", "links", "message"),
    [
        (("a", "a"), (), "hosts: expected every name once, among hosts and switches; got 'a' twice"),
        (("a", "b"), (cable("a", "bb"),), "links: number 0: nothing is called 'bb'; did you mean 'b'"),
        (("a", "b"), (cable("a", "b"), cable("b", "b")), "links: number 1: expected two different ends"),
        (("a", "b"), (), "links: expected a route between all hosts; got none from 'a' to 'b'"),
        (("a", "b"), ({**cable("a", "b"), "bandwidth": 0.0},), "links: number 0: bandwidth: expected more than 0"),
    ],
)
def test_mistakes(hosts, links, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        custom(hosts=hosts, links=links)


def test_too_few_hosts():
    part = custom(hosts=("a", "b"), links=(cable("a", "b"),))
    with pytest.raises(ValueError, match="hosts: expected at least 3, one per rank; got 2"):
        part.build(3)
