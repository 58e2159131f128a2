"""Gossip: every rank has a model of its own and averages it with those of a few others; there is no server."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field

from psgdsim.codecs.base import Codec
from psgdsim.compilation import lazy_jit
from psgdsim.node import Job, Kernel, Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.graphs import DirectedName, GraphName, Mixing, MixingGraph, directed
from psgdsim.task import Task

Rank = Annotated[int, Field(ge=0)]
Extent = Annotated[int, Field(ge=1, le=100_000)]
Weight = Annotated[float, Field(gt=0, le=1)]
Mix = Literal["with_step", "after_step"]


# --- D-PSGD -------------------------------------------------------------------------------------------------------


@register_strategy("d_psgd")
def d_psgd(
    graph: GraphName = "ring",
    mix: Mix = "with_step",
    dims: Annotated[list[Extent], Field(min_length=1, max_length=8)] | None = None,
    degree: Annotated[int, Field(ge=2)] | None = None,
    graph_seed: Annotated[int, Field(ge=0)] = 0,
    edges: list[tuple[Rank, Rank]] | None = None,
    weights: list[Weight] | None = None,
) -> Strategy:
    """Average the parameters with those of the neighbours in a graph: decentralised parallel SGD.

    x_i <- sum_j W_ij x_j - eta * g_i(x_i), with W symmetric and doubly stochastic, so that the mean over all ranks
    moves by -eta * mean_i g_i(x_i), as in synchronous SGD. Per step each rank sends its m bytes of parameters to each
    of its neighbours: 2 m on a ring, or m where the network copies a multicast. W has Metropolis weights, 1 / (1 + the
    larger degree) for each edge: 1/3 on a ring. Without gradients, the distance of the ranks from their mean shrinks
    per step at least by the second largest absolute eigenvalue of W: on a ring of N, (1 + 2 cos(2 pi / N)) / 3.
    The graph says who talks to whom; what that costs is the topology's business.
    Source: Lian et al., NIPS 2017, arXiv 1705.09056.

    Note:
        What is evaluated are the parameters of rank 0. The codec codes parameters, not differences: one that is far
        from exact (`top_k`, say) spoils them. Momentum and the like are each rank's own.

    Args:
        graph: `ring`, `torus`, `exponential` (the ranks 1, 2, 4, ... away), `complete`, `random_regular` or `custom`.
        mix: `with_step`, as above: gradients are computed while parameters are exchanged; `after_step`,
            x_i <- sum_j W_ij (x_j - eta * g_j(x_j)), which on the complete graph is synchronous SGD.
        dims: ranks along each dimension of a `torus`, such as [4, 4].
        degree: neighbours of each rank in a `random_regular` graph.
        graph_seed: of the `random_regular` graph.
        edges: pairs of ranks, of a `custom` graph.
        weights: of the edges of a `custom` graph, at most 1 for all edges of a rank; what is left is its own.
    """
    mixing_graph = MixingGraph(graph, dims, degree, graph_seed, edges, weights)

    @functools.cache
    def mixing(world_size: int) -> Mixing:
        return mixing_graph.mixing(world_size)

    def check(world_size: int, _codec: Codec) -> None:
        mixing(world_size)

    async def worker(node: Node, task: Task) -> None:
        blocks = task.blocks(node.world_size)
        state = await node.compute(task.init, 0, None)
        mixer = _Mixer(node, task, mixing(node.world_size)[node.rank])
        await mixer.start(state.params)
        for step in task.steps():
            gradient = node.compute(task.gradients, [state.params], [blocks.ids(step, node.rank)])
            if mix == "with_step":
                mixed, (losses, gradients) = await node.gather(mixer(state.params, step), gradient)
                state = await node.compute(task.apply, state._replace(params=mixed), gradients[0])
            else:
                losses, gradients = await gradient
                state = await node.compute(task.apply, state, gradients[0])
                state = state._replace(params=await mixer(state.params, step))
            node.record(loss=losses[0])
            if not await node.checkpoint(step, [state.params]):
                return

    return Strategy(worker, check, is_replicated=False)


class _Mixer:
    """Average the parameters of a rank with those of its neighbours.

    Args:
        node: the rank.
        task: what is trained.
        row: the weights of its own parameters and its neighbours', by rank.
    """

    def __init__(self, node: Node, task: Task, row: dict[int, float]) -> None:
        self._node, self._task, self._row = node, task, row
        self._others = [rank for rank in row if rank != node.rank]

    async def start(self, params: Any) -> None:
        self._encoder = await self._node.compute(self._task.init_codec, params)
        self._decoders = dict.fromkeys(self._others, self._encoder)

    async def __call__(self, params: Any, step: int) -> Any:
        node, task, tag = self._node, self._task, f"params {step}"
        payload, self._encoder = await node.compute(task.encode, params, self._encoder, node.rank, step)
        receives = [node.recv(src, tag=tag) for src in self._others]
        _, *messages = await node.gather(node.multicast(self._others, payload, tag=tag), *receives)
        models = {node.rank: params}
        for message in messages:
            src, decoder = message.src, self._decoders[message.src]
            models[src], self._decoders[src] = await node.compute(task.decode, message.payload, decoder, params)
        return await node.compute(task.weighted_sum, list(self._row.values()), [models[rank] for rank in self._row])


# --- SGP ----------------------------------------------------------------------------------------------------------


def _one() -> Any:
    import jax.numpy as jnp

    return jnp.float32(1)


def _divide(params: Any, weight: Any) -> Any:
    import jax

    return jax.tree.map(lambda leaf: leaf / weight, params)


ONE: Final = Kernel("one", lazy_jit(_one))
DIVIDE: Final = Kernel("divide", lazy_jit(_divide))


class _Peers(NamedTuple):
    """Whom each rank sends to, and whom it receives from, in one step."""

    dsts: list[tuple[int, ...]]
    srcs: list[tuple[int, ...]]


@register_strategy("sgp")
def sgp(
    graph: DirectedName = "one_peer_exponential",
    tau: Annotated[int, Field(ge=0, le=1000)] = 0,
    edges: list[tuple[Rank, Rank]] | None = None,
) -> Strategy:
    """Push shares of the parameters along a directed graph: stochastic gradient push.

    Each rank has x and a weight w, at first 1. x <- x - eta * g(z) with z = x / w; of x and w it keeps a share p =
    1 / (1 + its receivers) and sends the same share to each receiver; x and w are then what it has kept and received.
    The sums of x and w over all ranks and all that is under way change by gradients alone. So z nears the mean of all
    ranks also where some receive more than they send. Along `one_peer_exponential`, without gradients, all of 2^k
    ranks have the exact mean after k steps. Per step and receiver, m bytes of parameters and 4 of w are sent.
    Source: Assran, Loizou, Ballas and Rabbat, ICML 2019, arXiv 1811.10792.

    Note:
        With `tau` > 0 a rank takes in the shares of `tau` steps ago, and sends while it computes; the paper takes in
        those that have come, `tau` steps ago at the latest. Thus values do not depend on times. What is evaluated is
        the z of rank 0. The codec codes shares of x.

    Args:
        graph: whom each rank sends to: `one_peer_exponential`, the rank 1, 2, 4, ... after it in turn, one per step;
            `exponential`, all of these; `ring`, the next; `complete`, all others; or `custom`.
        tau: how many steps later shares are taken in.
        edges: `[src, dst]` pairs of a `custom` graph.
    """

    @functools.cache
    def cycle(world_size: int) -> list[_Peers]:
        return [_Peers(each, _reverse(each)) for each in directed(graph, world_size, edges)]

    def check(world_size: int, _codec: Codec) -> None:
        cycle(world_size)

    async def worker(node: Node, task: Task) -> None:
        blocks = task.blocks(node.world_size)
        state = await node.compute(task.init, 0, None)
        weight, estimate = await node.compute(ONE), state.params
        push = _Push(node, task, cycle(node.world_size), tau)
        await push.start(state.params)
        for step in task.steps():
            losses, gradients = await node.compute(task.gradients, [estimate], [blocks.ids(step, node.rank)])
            state = await node.compute(task.apply, state, gradients[0])
            params, weight = await push(state.params, weight, step)
            state = state._replace(params=params)
            estimate = await node.compute(DIVIDE, params, weight)
            node.record(loss=losses[0], push_weight=weight)
            if not await node.checkpoint(step, [estimate]):
                await push.end(step)
                return

    return Strategy(worker, check, is_replicated=False)


def _reverse(graph: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    srcs: list[list[int]] = [[] for _ in graph]
    for src, dsts in enumerate(graph):
        for dst in dsts:
            srcs[dst].append(src)
    return [tuple(each) for each in srcs]


class _Push:
    """Push shares of a rank's parameters and weight, and take in those of others.

    Args:
        node: the rank.
        task: what is trained.
        cycle: who sends to whom, in one step after the other.
        tau: how many steps later shares are taken in.
    """

    def __init__(self, node: Node, task: Task, cycle: list[_Peers], tau: int) -> None:
        self._node, self._task, self._cycle, self._tau = node, task, cycle, tau
        self._sends: deque[Job] = deque()

    async def start(self, params: Any) -> None:
        self._encoder = await self._node.compute(self._task.init_codec, params)
        self._decoders = {src: self._encoder for peers in self._cycle for src in peers.srcs[self._node.rank]}

    async def __call__(self, params: Any, weight: Any, step: int) -> tuple[Any, Any]:
        node, task = self._node, self._task
        dsts = self._peers(step).dsts[node.rank]
        share = 1 / (1 + len(dsts))
        kept = await node.compute(task.weighted_sum, [share], [(params, weight)])
        payload, self._encoder = await node.compute(task.encode, kept[0], self._encoder, node.rank, step)
        self._sends.append(node.spawn(node.multicast(dsts, (payload, kept[1]), tag=_share_tag(step))))
        total = [kept, *(await self._receive(step - self._tau, kept[0]))]
        if len(self._sends) > self._tau:
            await self._sends.popleft().wait()
        params, weight = await node.compute(task.weighted_sum, [1.0] * len(total), total)
        return params, weight

    async def end(self, step: int) -> None:
        """Let all that is under way after the last step arrive."""
        for late in range(step - self._tau + 1, step + 1):
            await self._await_shares(late)
        await self._node.gather(*(job.wait() for job in self._sends))

    def _peers(self, step: int) -> _Peers:
        return self._cycle[(step - 1) % len(self._cycle)]

    async def _await_shares(self, step: int) -> list[Any]:
        """Return the messages sent to this rank in a step, none before the first."""
        node, srcs = self._node, self._peers(step).srcs[self._node.rank] if step > 0 else ()
        return await node.gather(*(node.recv(src, tag=_share_tag(step)) for src in srcs))

    async def _receive(self, step: int, like: Any) -> list[tuple[Any, Any]]:
        """Return the shares sent to this rank in a step."""
        shares = []
        for message in await self._await_shares(step):
            payload, weight = message.payload
            decoder = self._decoders[message.src]
            params, self._decoders[message.src] = await self._node.compute(self._task.decode, payload, decoder, like)
            shares.append((params, weight))
        return shares


def _share_tag(step: int) -> str:
    return f"share {step}"
