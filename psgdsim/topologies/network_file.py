"""Networks in files: GraphML, and edge lists with a link on each line.

A file may come from anybody: what it may hold is bounded, and XML may not declare entities.
"""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from psgdsim.errors import nearest, shown
from psgdsim.input_files import read_bounded
from psgdsim.topologies.graph import MAX_NAME, Cable, hint
from psgdsim.topologies.graphml import Edges, outline
from psgdsim.topologies.wiring import room
from psgdsim.units import BANDWIDTH, TIME, Dimension

MAX_NBYTES: Final = 2**23

_ROLE: Final = ("role",)
_COLUMNS: Final = ("bandwidth", "latency", "duplex")
_COMMENT: Final = "#"
_ALIKE: Final = 0.8
"""How similar an attribute's name must be to one of ours to be a misspelling of it, as `difflib` measures it."""


class Network(NamedTuple):
    """What is written about a network.

    Args:
        hosts: their names.
        switches: their names.
        cables: each with the place where it is written.
        source: where all of it is written, if it is one place.
    """

    hosts: tuple[str, ...]
    switches: tuple[str, ...]
    cables: tuple[tuple[str, Cable], ...]
    source: str | None = None


class _Row(NamedTuple):
    """A link as a file says it."""

    line: int
    src: str
    dst: str
    values: Mapping[str, Any]


class _Content(NamedTuple):
    """Hosts and switches by name, with whether they are switches, and the links."""

    switches: list[tuple[str, bool]]
    links: list[_Row]


def read_network(path: str, switches: tuple[str, ...] = ()) -> Network:
    """Return the network in a file.

    Args:
        path: a GraphML file (`.graphml`) or an edge list (`.edges`, `.edgelist`, `.csv`) of at most 8 MiB; a relative
            one is looked for in the working directory.
        switches: names, or patterns such as `leaf*`, of switches that the file does not call so.

    Raises:
        ValueError: it cannot be read, or says what is not valid; the message names the line.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"file: expected a name that ends in {', '.join(_READERS)}; got {shown(path)}")
    try:
        data = read_bounded(path, MAX_NBYTES)
    except ValueError as error:
        raise ValueError(f"file: {error}") from None
    return _network(path, data, _READERS[suffix], switches)


@functools.lru_cache(maxsize=2)  # a scenario's parts are built several times
def _network(path: str, data: bytes, read: Callable[[str, bytes], _Content], patterns: tuple[str, ...]) -> Network:
    source = f"file: {path}"
    content = read(source, data)
    names = [name for name, _ in content.switches]
    listed = _matching(patterns, names)
    switches = {name for name, is_switch in content.switches if is_switch or name in listed}
    hosts = tuple(name for name in names if name not in switches)
    if not hosts:
        raise ValueError(f"{source}: expected at least one host; there are {len(switches)} switches and no host")
    cables = []
    for row in content.links:
        place = f"{source}:{row.line}: {row.src} to {row.dst}"
        cables.append((place, _cable(place, row)))
    return Network(hosts, tuple(name for name in names if name in switches), tuple(cables), source)


def _matching(patterns: tuple[str, ...], names: list[str]) -> set[str]:
    known, found = set(names), set[str]()
    for pattern in patterns:
        matches = {pattern} if pattern in known else {name for name in names if fnmatchcase(name, pattern)}
        if not matches:
            raise ValueError(f"switches: nothing in the file is called {shown(pattern)}; {hint(pattern, names)}")
        found |= matches
    return found


# --- one link -------------------------------------------------------------------------------------------------


def _cable(place: str, row: _Row) -> Cable:
    values = row.values
    missing = next((key for key in ("bandwidth", "latency") if key not in values), None)
    if missing is not None:
        raise ValueError(f"{place}: {missing}: required")
    duplex = _choice(f"{place}: duplex", values.get("duplex", "full"), ("full", "shared"))
    return {
        "src": row.src,
        "dst": row.dst,
        "bandwidth": None if values["bandwidth"] == "null" else _quantity(place, "bandwidth", BANDWIDTH, values),
        "latency": _quantity(place, "latency", TIME, values),
        "duplex": "shared" if duplex == "shared" else "full",
    }


def _quantity(place: str, key: str, dimension: Dimension, values: Mapping[str, Any]) -> float:
    try:
        return dimension.parse(values[key])
    except ValueError as error:
        raise ValueError(f"{place}: {key}: {error}") from None


def _ours(place: str, values: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """Return the attributes that mean something here; drawing tools add many others, which are fine."""
    for key in values:
        if key not in known and _is_misspelt(key, known):
            raise ValueError(f"{place}: unknown attribute {shown(key)}; {nearest(key.lower(), known)}")
    return {key: values[key] for key in known if key in values}


@functools.lru_cache(maxsize=64)  # the same few keys at every link
def _is_misspelt(key: str, known: tuple[str, ...]) -> bool:
    return bool(difflib.get_close_matches(key.lower(), known, n=1, cutoff=_ALIKE))


def _choice(place: str, value: Any, valid: tuple[str, ...]) -> str:
    if value not in valid:
        raise ValueError(f"{place}: expected one of {', '.join(valid)}; got {shown(value)}")
    return str(value)


def _name(place: str, text: str) -> str:
    if not (0 < len(text) <= MAX_NAME and text.isprintable()):
        raise ValueError(f"{place}: expected a name of 1 to {MAX_NAME} printable characters; got {shown(text)}")
    return text


def _row(source: str, line: int, src: str, dst: str, values: Mapping[str, Any]) -> _Row:
    return _Row(line, _name(f"{source}:{line}", src), _name(f"{source}:{line}", dst), values)


# --- the formats ----------------------------------------------------------------------------------------------


def _read_graphml(source: str, data: bytes) -> _Content:
    nodes, edges = outline(source, data)
    graph = _graphml_graph(source, data)
    defaults = _ours(source, graph.graph["node_default"], _ROLE)
    switches = []
    for line, name in nodes:
        place = f"{source}:{line}: {_name(f'{source}:{line}', name)}"
        values = {**defaults, **_ours(place, graph.nodes[name], _ROLE)}
        role = _choice(f"{place}: role", values.get("role", "host"), ("host", "switch"))
        switches.append((name, role == "switch"))
    return _Content(switches, list(_graphml_links(source, edges, graph)))


def _graphml_links(source: str, edges: Edges, graph: Any) -> Iterator[_Row]:
    """Yield the links in the order of the file, which networkx keeps only between the same two ends."""
    defaults = _ours(source, graph.graph["edge_default"], _COLUMNS)
    parallel: dict[frozenset[str], Iterator[dict[str, Any]]] = {}
    for line, src, dst in edges:
        values = next(parallel.setdefault(frozenset((src, dst)), iter(graph[src][dst].values())), None)
        if values is None:
            raise ValueError(f"{source}:{line}: expected an id that no other link between these ends has")
        yield _row(source, line, src, dst, {**defaults, **_ours(f"{source}:{line}", values, _COLUMNS)})


def _graphml_graph(source: str, data: bytes) -> Any:
    """Return the graph in a GraphML document that `outline` has looked through; one with parallel edges."""
    import networkx as nx

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what networkx leaves out, such as ports, nothing matters here
            return nx.read_graphml(BytesIO(data), force_multigraph=True)
    # It takes texts for numbers and names for types without asking whether they are any.
    except (nx.NetworkXError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: not valid GraphML: {shown(str(error))}") from None


def _read_edge_list(source: str, data: bytes) -> _Content:
    import networkx as nx

    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{source}: expected text in UTF-8") from None
    names: dict[str, None] = {}
    links: list[_Row] = []
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.partition(_COMMENT)[0].split(",")]
        if cells == [""]:
            continue
        if not 4 <= len(cells) <= 5:
            expected = "src, dst, bandwidth, latency and, if it is shared, duplex"
            raise ValueError(f"{source}:{number}: expected {expected}, with commas between; got {shown(line)}")
        types = [(column, str) for column in _COLUMNS[: len(cells) - 2]]
        graph = nx.parse_edgelist([",".join(cells)], delimiter=",", data=types, create_using=nx.DiGraph)
        src, dst, values = next(iter(graph.edges(data=True)))
        links.append(_row(source, number, src, dst, values))
        names |= {src: None, dst: None}
        room(len(links), source, "links")
    return _Content([(name, False) for name in names], links)


_READERS: Final[dict[str, Callable[[str, bytes], _Content]]] = {
    ".graphml": _read_graphml,
    ".edges": _read_edge_list,
    ".edgelist": _read_edge_list,
    ".csv": _read_edge_list,
}
