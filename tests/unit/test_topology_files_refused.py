"""Networks in files that are refused: what does not mean a network, and what is too much."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from network_files import LINKS, edge_list, graphml, write

from psgdsim.topologies import custom
from psgdsim.topologies.network_file import MAX_NBYTES

A_TO_B = ("a", "b", {"bandwidth": "1 Gbit/s", "latency": "0 s"})
TWO = [("a", None), ("b", None)]
BOMB = '<!DOCTYPE g [<!ENTITY a "x"><!ENTITY b "&a;&a;">]>\n'


def edge(**attributes):
    return ("a", "b", {**A_TO_B[2], **attributes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (graphml(TWO, [edge(bandwidth="1 Gbps")]), ":5: a to b: bandwidth: expected a bandwidth .*write '1 Gbit/s'"),
        (graphml(TWO, [edge(bandwidth="0 bit/s")]), ":5: a to b: bandwidth: expected more than 0 bit/s, or null"),
        (graphml(TWO, [edge(latency="50")]), ":5: a to b: latency: expected a time .*; got '50': the unit is missing"),
        (graphml(TWO, [edge(duplex="half")]), ":5: a to b: duplex: expected one of full, shared; got 'half'"),
        (graphml(TWO, [("a", "b", {"latency": "0 s"})]), ":5: a to b: bandwidth: required"),
        (graphml(TWO, [("a", "b", {"bandwidth": "null"})]), ":5: a to b: latency: required"),
        (graphml([("a", None), ("b", "router")], [A_TO_B]), ":4: b: role: expected one of host, switch; got 'router'"),
        (graphml(TWO, [("a", "bb", A_TO_B[2])]), ":5: a to bb: nothing is called 'bb'; did you mean 'b'"),
        (graphml(TWO, [("a", "a", A_TO_B[2])]), ":5: a to a: expected two different ends; got 'a' twice"),
        (graphml([*TWO, ("a", None)], [A_TO_B]), ": expected every name once, .*; got 'a' twice"),
        (graphml([*TWO, ("c", None)], [A_TO_B]), ": expected a route between all hosts; got none from 'a' to 'c'"),
        (graphml([("a", "switch"), ("b", "switch")], [A_TO_B]), "expected at least one host; there are 2 switches"),
        (graphml([("a" * 81, None)], []), ":3: expected a name of 1 to 80 printable characters; got 'aaa"),
        (graphml([("\u009b31m", None)], []), r":3: expected a name of 1 to 80 printable characters; got '\\x9b31m'"),
        (graphml(TWO, [A_TO_B], 'edgedefault="directed"'), ':2: graph: expected edgedefault="undirected", .*both ways'),
        (graphml(TWO, [A_TO_B]).replace("<edge ", '<edge directed="true" '), ':5: edge: expected directed="false"'),
        (graphml(TWO, [A_TO_B]).replace('target="b"', ""), ":5: edge: target: required"),
        (graphml(TWO, [A_TO_B]).replace(' id="b"', ""), ":4: node: id: required"),
        (graphml(TWO, [A_TO_B, A_TO_B]).replace("<edge ", '<edge id="e" '), ":6: expected an id that no other link"),
        (graphml(TWO, [A_TO_B]).replace("</graph>", "</graph><graph/>"), ":6: expected one graph, .*; got another"),
        (graphml([], []).replace("<graph ", "<desc ").replace("</graph>", "</desc>"), "expected GraphML with a graph"),
        (graphml(TWO, [A_TO_B]).replace('"string"', '"quaternion"', 1), "not valid GraphML: .*quaternion"),
        (
            graphml(TWO, [A_TO_B]).replace('"latency" attr.type="string"', '"latency" attr.type="int"'),
            "not valid GraphML: \"invalid literal for int.. with base 10: '0 s'\"",
        ),
        (
            graphml(TWO, [A_TO_B]).replace('attr.name="bandwidth"', 'attr.name="Bandwith"'),
            ":5: unknown attribute 'Bandwith'; did you mean 'bandwidth'",
        ),
        (graphml(TWO, [A_TO_B]).replace("</edge>", ""), ":6: expected XML: mismatched tag"),
        ("a,b,1 Gbit/s,0 s", ":1: expected XML: syntax error"),
        ("", ":1: expected XML: no element found"),
        ("<html/>", ":1: expected the element graphml; got 'html'"),
        ("<graphml>" + "<a>" * 40, "expected at most 32 levels of elements; got more"),
        ('<?xml version="1.0" encoding="utf-7"?><graphml/>', ":1: encoding: expected one of utf-8, .*; got 'utf-7'"),
        (graphml(TWO, [edge(bandwidth="&b;")], head=BOMB), ":1: expected no document type, .*; got <!DOCTYPE g>"),
        (graphml(TWO, [A_TO_B], head='<!DOCTYPE graphml SYSTEM "file:///etc/passwd">'), "expected no document type"),
        (graphml(TWO, [A_TO_B], head=BOMB).encode("utf-16"), "expected no document type"),
    ],
)
def test_graphml_that_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=f"^file: .*n.graphml.*{message}"):
        custom(file=write(tmp_path / "n.graphml", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,1 Gbps,0 s", ":1: a to b: bandwidth: expected a bandwidth .*; got '1 Gbps': write '1 Gbit/s'"),
        ("a,b,1 Gbit/s,0 s\na,c,1 Mbit/s,-1 s", ":2: a to c: latency: expected a time of at least 0.*; got '-1 s'"),
        ("# a\n\na,b,0 bit/s,0 s", ":3: a to b: bandwidth: expected more than 0 bit/s, or null for no limit"),
        ("a,b,1 Gbit/s,0 s,half", ":1: a to b: duplex: expected one of full, shared; got 'half'"),
        ("a,b,1 Gbit/s", ":1: expected src, dst, bandwidth, latency and.* got 'a,b,1 Gbit/s'"),
        ("a,b,1 Gbit/s,0 s,full,1", ":1: expected src, dst, bandwidth, latency and"),
        ("a b {'bandwidth': __import__('os').getpid()}", ":1: expected src, dst, bandwidth"),
        (",b,1 Gbit/s,0 s", ":1: expected a name of 1 to 80 printable characters; got ''"),
        ("a,a,1 Gbit/s,0 s", ":1: a to a: expected two different ends; got 'a' twice"),
        ("a,b,null,0 s\nc,d,null,0 s", ": expected a route between all hosts; got none from 'a' to 'c'"),
        ("# nothing", ": expected at least one host; there are 0 switches and no host"),
        (b"a,b,1 Gbit/s,50 \xb5s", ": expected text in UTF-8"),
    ],
)
def test_edge_lists_that_are_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=f"^file: .*n.edges{message}"):
        custom(file=write(tmp_path / "n.edges", text))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"file": "n.yaml"}, r"file: expected a name that ends in .graphml, .edges, .*; got 'n.yaml'"),
        ({"file": "nowhere.edges"}, "file: nowhere.edges: cannot be read: No such file"),
        ({"file": "n.edges", "switches": ("lef*",)}, r"switches: nothing in the file is called 'lef\*'; did you mean"),
        ({"file": "n.edges", "hosts": ("a",)}, "file: expected either a file or hosts and links; got a file and hosts"),
        ({}, "expected hosts and links, or a file .*; got neither"),
    ],
)
def test_parameters_that_do_not_go_together(parameters, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "n.edges", edge_list(LINKS))
    with pytest.raises(ValueError, match=message):
        custom(**parameters)


def test_a_hint_does_not_list_a_thousand_names(tmp_path):
    names = [f"h{i}" for i in range(1000)]
    text = "".join(f"{src},{dst},null,0 s\n" for src, dst in pairwise(names))
    with pytest.raises(ValueError, match=r"is called 'rack7'; none of 1000 names is like it$"):
        custom(file=write(tmp_path / "n.edges", text), switches=("rack7",))
    with pytest.raises(ValueError, match=r"is called 'h77\.'; did you mean 'h77'\?$"):
        custom(file=write(tmp_path / "n.edges", text), switches=("h77.",))


@pytest.mark.parametrize("name", ["n.graphml", "n.edges"])
def test_a_file_that_is_too_large_is_not_read(name, tmp_path):
    with (tmp_path / name).open("wb") as file:
        file.truncate(MAX_NBYTES + 1)
    with pytest.raises(ValueError, match=rf"{name}: expected at most {MAX_NBYTES} bytes; there are more"):
        custom(file=str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("n.graphml", '<graphml><graph edgedefault="undirected">' + '<node id="a"/>' * 200_000, "hosts and switches"),
        ("n.graphml", "<graphml><graph>" + '<edge source="a" target="b"/>' * 200_000, "links"),
        ("n.edges", "a,b,null,0 s\n" * 200_000, "links"),
    ],
)
def test_a_file_of_too_many_things_is_refused_before_they_are_built(name, text, message, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}: expected at most 100000 {message}; got 100001"):
        custom(file=write(tmp_path / name, text))


def test_defaults_do_not_multiply(tmp_path):
    keys = "".join(
        f'<key id="k{i}" for="edge" attr.name="q{i}" attr.type="string"><default>1</default></key>' for i in range(2000)
    )
    text = graphml(TWO, [A_TO_B] * 2000, keys=keys)
    path = write(tmp_path / "n.graphml", text)
    tracemalloc.start()
    assert len(custom(file=path).build(2).links) == 4000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6  # one copy of the defaults for each edge would be 150 MB
