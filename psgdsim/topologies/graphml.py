"""A first look at a GraphML document: is it safe to parse, and on which line does what stand?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from xml.parsers import expat

from psgdsim.errors import shown
from psgdsim.topologies.wiring import room

MAX_DEPTH: Final = 32

_ENCODINGS: Final = ("utf-8", "utf-16", "us-ascii", "iso-8859-1")
"""Those that the parser knows by itself."""

_GRAPH: Final = 2
"""The level of the graph: inside `graphml`, which is the first."""

Nodes = list[tuple[int, str]]
"""Line and name of each node, in the order of the file."""

Edges = list[tuple[int, str, str]]
"""Line and two ends of each edge, in the order of the file."""


def outline(source: str, data: bytes) -> tuple[Nodes, Edges]:
    """Return the nodes and edges of a GraphML document, without what is said about them.

    Args:
        source: where the document stands; messages begin with it.
        data: the document.

    Raises:
        ValueError: it is no GraphML document with one undirected graph, declares a document type (which may declare
            entities that grow without bound), or is too large.
    """
    look = _Look(source)
    try:
        look.parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.errors.messages.get(error.code, "not well-formed")
        raise ValueError(f"{source}:{error.lineno}: expected XML: {reason}") from None
    if not look.has_graph:
        raise ValueError(f"{source}: expected GraphML with a graph; there is none")
    return look.nodes, look.edges


class _Look:
    """Pass over a document once and remember nothing but nodes and edges."""

    def __init__(self, source: str) -> None:
        self.nodes: Nodes = []
        self.edges: Edges = []
        self.has_graph = False
        self._source, self._depth, self._namespace = source, 0, ""
        self._is_in_graph = False
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.XmlDeclHandler = self._check_encoding
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end

    def _fail(self, message: str) -> ValueError:
        return ValueError(f"{self._source}:{self.parser.CurrentLineNumber}: {message}")

    def _check_encoding(self, _version: str, encoding: str | None, _is_standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise self._fail(f"encoding: expected one of {', '.join(_ENCODINGS)}; got {shown(encoding)}")

    def _refuse_doctype(self, name: str, *_: object) -> None:
        raise self._fail(f"expected no document type, which could declare entities; got <!DOCTYPE {name[:40]}>")

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        namespace, _, element = name.rpartition(" ")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._fail(f"expected at most {MAX_DEPTH} levels of elements; got more")
        if self._depth == 1:
            self._namespace = namespace
            if element != "graphml":
                raise self._fail(f"expected the element graphml; got {shown(element)}")
        if namespace != self._namespace:  # what drawing tools add
            return
        if element == "graph":
            self._enter_graph(attributes)
        elif self._is_in_graph and self._depth == _GRAPH + 1 and element in {"node", "edge"}:
            (self._add_node if element == "node" else self._add_edge)(attributes)

    def _end(self, _name: str) -> None:
        self._is_in_graph &= self._depth != _GRAPH
        self._depth -= 1

    def _enter_graph(self, attributes: Mapping[str, str]) -> None:
        if self.has_graph or self._depth != _GRAPH:
            raise self._fail("expected one graph, directly inside graphml; got another one")
        if attributes.get("edgedefault") == "directed":
            raise self._fail(
                'graph: expected edgedefault="undirected", a link goes both ways; got edgedefault="directed"'
            )
        self.has_graph = self._is_in_graph = True

    def _add_node(self, attributes: Mapping[str, str]) -> None:
        self.nodes.append((self.parser.CurrentLineNumber, self._required("node", "id", attributes)))
        room(len(self.nodes), self._source, "hosts and switches")

    def _add_edge(self, attributes: Mapping[str, str]) -> None:
        if attributes.get("directed") == "true":
            raise self._fail('edge: expected directed="false", a link goes both ways; got directed="true"')
        src, dst = (self._required("edge", key, attributes) for key in ("source", "target"))
        self.edges.append((self.parser.CurrentLineNumber, src, dst))
        room(len(self.edges), self._source, "links")

    def _required(self, element: str, key: str, attributes: Mapping[str, str]) -> str:
        if key not in attributes:
            raise self._fail(f"{element}: {key}: required")
        return attributes[key]
