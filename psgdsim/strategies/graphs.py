"""Graphs along which ranks gossip, and the weights with which they mix; apart from the network that carries it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from psgdsim import rng

GraphName = Literal["ring", "torus", "exponential", "complete", "random_regular", "custom"]
DirectedName = Literal["one_peer_exponential", "exponential", "ring", "complete", "custom"]

Edge = tuple[int, int]
"""Two ranks; in a directed graph, from the first to the second."""
Neighbours = list[tuple[int, ...]]
"""For each rank its neighbours, ascending, itself not among them; in a directed graph those that it sends to."""
Mixing = list[dict[int, float]]
"""For each rank the weights of its own value and its neighbours', by rank, ascending; each row adds up to 1."""

MAX_DRAWS: Final = 1000
"""Random graphs that are drawn at most until one is connected."""

TOLERANCE: Final = 1e-9
"""By how much a sum of given weights may differ from 1."""

_SETTINGS: Final = {"torus": "dims", "random_regular": "degree", "custom": "edges"}
"""The setting that a kind of graph cannot do without, and that no other has."""


# --- undirected graphs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MixingGraph:
    """An undirected graph on the ranks.

    Args:
        kind: which one.
        dims: ranks along each dimension of a `torus`.
        degree: neighbours of each rank in a `random_regular` graph.
        seed: of its draw.
        edges: of a `custom` graph.
        weights: of these edges; Metropolis weights if None.

    Example:
        >>> MixingGraph("ring").neighbours(4)
        [(1, 3), (0, 2), (1, 3), (0, 2)]
        >>> MixingGraph("ring").mixing(4)[1] == {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}
        True
    """

    kind: GraphName
    dims: Sequence[int] | None = None
    degree: int | None = None
    seed: int = 0
    edges: Sequence[Edge] | None = None
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Check what does not depend on the number of ranks."""
        for kind, name in _SETTINGS.items():
            if (getattr(self, name) is None) == (kind == self.kind):
                raise ValueError(
                    f"graph: graph {kind!r} needs {name}; got none"
                    if kind == self.kind
                    else f"{name}: only graph {kind!r} has {name}; got graph {self.kind!r}"
                )
        if self.weights is not None and len(self.weights) != len(self.edges or ()):
            raise ValueError(f"weights: expected one per edge, {len(self.edges or ())}; got {len(self.weights)}")

    def neighbours(self, world_size: int) -> Neighbours:
        """Return the neighbours of each rank.

        Raises:
            ValueError: there is no such graph on so many ranks, or it is not connected.
        """
        if self.kind == "random_regular":
            return self._draw(world_size)
        if self.kind == "torus":
            edges = _torus_edges(self.dims or (), world_size)
        elif self.kind == "custom":
            edges = _checked([(min(edge), max(edge)) for edge in self.edges or ()], world_size)
        else:
            edges = _circulant_edges(_offsets(self.kind, world_size), world_size)
        graph = _adjacent(_both_ways(edges), world_size)
        missing = set(range(world_size)) - _reached(graph)
        if missing:
            raise ValueError(f"edges: expected a connected graph; rank {min(missing)} cannot be reached from rank 0")
        return graph

    def mixing(self, world_size: int) -> Mixing:
        """Return the weights of each rank; as a matrix they are symmetric and doubly stochastic.

        Raises:
            ValueError: as `neighbours`, or the weights given to a rank's edges add up to more than 1.
        """
        graph = self.neighbours(world_size)
        if self.weights is None:
            return metropolis(graph)
        rows: Mixing = [{} for _ in range(world_size)]
        for (a, b), weight in zip(self.edges or (), self.weights, strict=True):
            rows[a][b] = rows[b][a] = weight
        for rank, row in enumerate(rows):
            rest = 1 - math.fsum(row.values())
            if rest < -TOLERANCE:
                raise ValueError(f"weights: expected at most 1 for all edges of a rank; those of rank {rank} have more")
            row[rank] = max(0.0, rest)
        rows = [dict(sorted(row.items())) for row in rows]
        check_doubly_stochastic(rows)
        return rows

    def _draw(self, world_size: int) -> Neighbours:
        import networkx

        degree = self.degree or 0
        if not 2 <= degree < world_size or degree * world_size % 2:
            raise ValueError(
                f"degree: expected 2 to {world_size - 1}, less than world_size, and an even number of edge ends in all "
                f"(degree times world_size); got {degree} for {world_size} ranks"
            )
        for draw in range(MAX_DRAWS):
            seed = rng.derive(self.seed, "mixing graph", draw) % 2**32
            edges = networkx.random_regular_graph(degree, world_size, seed=seed).edges()
            graph = _adjacent(_both_ways(edges), world_size)
            if len(_reached(graph)) == world_size:
                return graph
        raise ValueError(
            f"degree: no connected graph in {MAX_DRAWS} draws; expected a degree of at least 3, got {degree}"
        )


def metropolis(graph: Neighbours) -> Mixing:
    """Return Metropolis weights: 1 / (1 + the larger degree) for each edge, and what is left for the rank itself.

    Source: Xiao, Boyd and Kim, JPDC 67(1), 2007.

    Args:
        graph: undirected.

    """
    rows = []
    for rank, neighbours in enumerate(graph):
        sizes = {other: 1 + max(len(neighbours), len(graph[other])) for other in neighbours}
        rest = 1 - sum(Fraction(count, size) for size, count in Counter(sizes.values()).items())
        weights = {rank: float(rest), **{other: 1 / size for other, size in sizes.items()}}
        rows.append(dict(sorted(weights.items())))
    return rows


def check_doubly_stochastic(rows: Mixing) -> None:
    """Raise unless all weights are at least 0 and those of each row and of each column add up to 1.

    Args:
        rows: the weights of each rank.

    Raises:
        ValueError: they are not; the mean over all ranks would then change when they mix.
    """
    columns: list[list[float]] = [[] for _ in rows]
    for row in rows:
        for other, weight in row.items():
            columns[other].append(weight)
    for rank, row in enumerate(rows):
        for name, values in (("row", list(row.values())), ("column", columns[rank])):
            if min(values, default=0.0) < 0 or abs(math.fsum(values) - 1) > TOLERANCE:
                raise ValueError(
                    f"weights: expected weights of at least 0 that add up to 1; those of {name} {rank} add up to "
                    f"{math.fsum(values):.9g}, the least is {min(values, default=0.0):.9g}"
                )


def second_eigenvalue(rows: Mixing) -> float:
    """Return the second largest absolute eigenvalue of symmetric weights; 1 minus that is the spectral gap.

    In each round of mixing, the distance of all ranks from their mean shrinks by this factor at least.

    Args:
        rows: the weights of each rank.

    Example:
        >>> round(second_eigenvalue(MixingGraph("ring").mixing(8)), 5)
        0.80474
    """
    import numpy as np

    matrix = np.zeros((len(rows), len(rows)))
    for rank, row in enumerate(rows):
        matrix[rank, list(row)] = list(row.values())
    return float(np.sort(np.abs(np.linalg.eigvalsh(matrix)))[-2]) if len(rows) > 1 else 0.0


# --- directed graphs ----------------------------------------------------------------------------------------------


def directed(kind: DirectedName, world_size: int, edges: Sequence[Edge] | None = None) -> list[Neighbours]:
    """Return a cycle of directed graphs; step k uses graph (k - 1) modulo their number.

    Args:
        kind: `one_peer_exponential`, each rank sends to the rank 1, 2, 4, ... after it in turn; `exponential`, to all
            of these at once; `ring`, to the next; `complete`, to all others; or `custom`.
        world_size: number of ranks.
        edges: `(src, dst)` of the custom graph.

    Raises:
        ValueError: edges are missing, not needed, or some rank cannot be reached from some other.

    Example:
        >>> directed("one_peer_exponential", 4)
        [[(1,), (2,), (3,), (0,)], [(2,), (3,), (0,), (1,)]]
    """
    if (edges is None) == (kind == "custom"):
        raise ValueError(
            "graph: graph 'custom' needs edges; got none"
            if edges is None
            else f"edges: only graph 'custom' has edges; got graph {kind!r}"
        )
    if edges is not None:
        arcs = _checked(list(edges), world_size)
        graph, reverse = _adjacent(arcs, world_size), _adjacent([(b, a) for a, b in arcs], world_size)
        missing = set(range(world_size)) - (_reached(graph) & _reached(reverse))
        if missing:
            raise ValueError(
                f"edges: expected a way from each rank to each; none from 0 to {min(missing)}, or none back"
            )
        return [graph]
    if kind == "one_peer_exponential":
        steps = [[offset] for offset in _offsets("exponential", world_size)] or [[]]
    else:
        steps = [_offsets(kind, world_size)]
    return [_adjacent(_circulant_edges(offsets, world_size), world_size) for offsets in steps]


# --- parts of both ------------------------------------------------------------------------------------------------


def _offsets(kind: str, world_size: int) -> list[int]:
    """Return how far from each rank those are that it sends to, in a graph that looks alike from every rank."""
    if kind == "ring":
        return [1] if world_size > 1 else []
    if kind == "complete":
        return list(range(1, world_size))
    return [2**k for k in range((world_size - 1).bit_length())]


def _circulant_edges(offsets: Iterable[int], world_size: int) -> list[Edge]:
    return [(rank, (rank + offset) % world_size) for offset in offsets for rank in range(world_size)]


def _torus_edges(dims: Sequence[int], world_size: int) -> list[Edge]:
    """Return the edges of a grid closed to rings; rank i has the coordinates of i in row-major order."""
    if math.prod(dims) != world_size:
        raise ValueError(f"dims: expected a product of world_size, {world_size}; got {math.prod(dims)}")
    ranks = {place: rank for rank, place in enumerate(itertools.product(*map(range, dims)))}
    edges = []
    for place, rank in ranks.items():
        for axis, size in enumerate(dims):
            other = (*place[:axis], (place[axis] + 1) % size, *place[axis + 1 :])
            edges.append((rank, ranks[other]))
    return [(a, b) for a, b in edges if a != b]


def _checked(edges: list[Edge], world_size: int) -> list[Edge]:
    """Return edges, each of which joins two different ranks that exist, and is there once."""
    for i, (a, b) in enumerate(edges):
        if a == b or max(a, b) >= world_size or (a, b) in edges[:i]:
            raise ValueError(
                f"edges: expected two different ranks of 0 to {world_size - 1}, each pair once; got [{a}, {b}], edge "
                f"number {i + 1}"
            )
    return edges


def _both_ways(edges: Iterable[Edge]) -> list[Edge]:
    return [each for a, b in edges for each in ((a, b), (b, a))]


def _adjacent(edges: Iterable[Edge], world_size: int) -> Neighbours:
    heads: list[set[int]] = [set() for _ in range(world_size)]
    for tail, head in edges:
        heads[tail].add(head)
    return [tuple(sorted(each)) for each in heads]


def _reached(graph: Neighbours) -> set[int]:
    """Return the ranks to which there is a way from rank 0."""
    reached, queue = {0}, [0]
    while queue:
        for other in graph[queue.pop()]:
            if other not in reached:
                reached.add(other)
                queue.append(other)
    return reached
