"""Networks in files: one network in YAML, and how tests write files."""

from __future__ import annotations

# Two racks of two hosts, and two equal ways between them over the spines. The order of names and links is not that in
# which networkx goes through them.
LINKS = [
    {"src": "h3", "dst": "leaf1", "bandwidth": "1 Gbit/s", "latency": "50 us"},
    {"src": "leaf0", "dst": "h0", "bandwidth": "1 Gbit/s", "latency": "50 us"},
    {"src": "h2", "dst": "leaf1", "bandwidth": "100 Mbit/s", "latency": "10 us", "duplex": "shared"},
    {"src": "spine1", "dst": "leaf1", "bandwidth": "10 Gbit/s", "latency": "5 us"},
    {"src": "leaf1", "dst": "spine0", "bandwidth": None, "latency": "5 us"},
    {"src": "spine1", "dst": "leaf0", "bandwidth": "10 Gbit/s", "latency": "5 us"},
    {"src": "leaf0", "dst": "spine0", "bandwidth": None, "latency": "5 us", "duplex": "shared"},
    {"src": "h1", "dst": "leaf0", "bandwidth": "1 Gbit/s", "latency": "50 us", "duplex": "full"},
    {"src": "leaf0", "dst": "h1", "bandwidth": "1 Gbit/s", "latency": "20 us"},
]
HOSTS, SWITCHES = ["h3", "h0", "h2", "h1"], ["leaf1", "leaf0", "spine1", "spine0"]
IN_YAML = {"kind": "custom", "hosts": HOSTS, "switches": SWITCHES, "links": LINKS}

KEYS = {"role": "node", "bandwidth": "edge", "latency": "edge", "duplex": "edge"}


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def edge_list(links):
    rows = [[link["src"], link["dst"], link["bandwidth"] or "null", link["latency"]] for link in links]
    shared = [["shared"] if link.get("duplex") == "shared" else [] for link in links]
    return "".join(",".join(row + end) + "\n" for row, end in zip(rows, shared, strict=True))


def graphml(nodes, edges, graph='edgedefault="undirected"', head="", keys=""):
    """Return a document: (name, role or None) and (src, dst, attributes), a node or an edge on each line."""
    declared = "".join(f'<key id="{key}" for="{of}" attr.name="{key}" attr.type="string"/>' for key, of in KEYS.items())
    lines = [f'{head}<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{declared}{keys}', f"<graph {graph}>"]
    for name, role in nodes:
        lines.append(f'<node id="{name}">' + (f'<data key="role">{role}</data>' if role else "") + "</node>")
    for src, dst, attributes in edges:
        data = "".join(f'<data key="{key}">{value}</data>' for key, value in attributes.items())
        lines.append(f'<edge source="{src}" target="{dst}">{data}</edge>')
    return "\n".join([*lines, "</graph></graphml>"])


def as_graphml(links):
    nodes = [("h3", None), ("leaf1", "switch"), ("leaf0", "switch"), ("h0", "host"), ("h2", None)]
    nodes += [("spine1", "switch"), ("spine0", "switch"), ("h1", None)]
    edges = []
    for link in links:
        attributes = {key: link[key] or "null" for key in ("bandwidth", "latency", "duplex") if key in link}
        edges.append((link["src"], link["dst"], attributes))
    return graphml(nodes, edges)
