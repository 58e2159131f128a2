"""Gossip without a beat: each rank steps at its own pace, and pairs of ranks average their parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from psgdsim import rng
from psgdsim.codecs.base import Codec
from psgdsim.node import Job, Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.graphs import MixingGraph, Neighbours
from psgdsim.task import Task

Rank = Annotated[int, Field(ge=0)]
BipartiteName = Literal["ring", "complete", "custom"]

ASK: Final = "ask"
"""The tag of what an active rank wants: True to average, False when it has made all its steps."""

LEND: Final = "lend"
"""The tag of the answer: the passive rank's parameters, which nobody changes until they come back."""

RETURN: Final = "return"
"""The tag of the mean of both, sent back."""


@register_strategy("ad_psgd")
def ad_psgd(graph: BipartiteName = "ring", edges: list[tuple[Rank, Rank]] | None = None) -> Strategy:
    """Step at one's own pace, and average with a random neighbour each time: asynchronous decentralised parallel SGD.

    Rank i computes g = g_i(x_i). If it is active, it then takes a random neighbour j, which is passive, and at once
    x_i, x_j <- (x_i + x_j) / 2. Then x_i <- x_i - eta * g, active or not. So averaging keeps the sum of all x, and only
    gradients change it. Every edge joins an active and a passive rank; a passive one lends its x to one active rank
    after the other and waits for nobody else, so no ranks can wait for each other in a circle. Per step of an active
    rank, m bytes of parameters go each way. A gradient's staleness is how often x_i was averaged since it was read.
    Without gradients, an average multiplies the expected square distance of all ranks from their mean by at most
    1 - (1 - cos(2 pi / N)) / N on a ring of N; on the complete graph, by 1 - 1 / N, or by 1 - 1 / (N - 1) where ranks
    lie at random.
    Source: Lian, Zhang, Zhang and Liu, ICML 2018, arXiv 1710.06952, algorithm 1 and section 3.

    Note:
        The paper averages while it computes. Here a rank computes one thing at a time: the active rank averages after
        its gradient, which costs it the time of a message each way, and lets the mean return while it goes on; the
        passive rank computes nothing for that. Each rank makes all steps of the run; one that has made them is still
        averaged with until all have. What is evaluated are the parameters of rank 0, which is active.

    Args:
        graph: `ring`, of an even number of ranks; `complete`, each even rank (active) and each odd one (passive); or
            `custom`. The side of rank 0 is active.
        edges: pairs of ranks, of a `custom` graph; its cycles must be of even length.
    """
    if (edges is None) == (graph == "custom"):
        MixingGraph(graph, edges=edges)  # says what is wrong

    @functools.cache
    def partners(world_size: int) -> Neighbours:
        if graph == "complete":
            return [tuple(range(1 - rank % 2, world_size, 2)) for rank in range(world_size)]
        return MixingGraph(graph, edges=edges).neighbours(world_size)

    @functools.cache
    def sides(world_size: int) -> list[bool]:
        return _sides(partners(world_size), graph)

    def check(world_size: int, codec: Codec) -> None:
        sides(world_size)
        if not codec.is_identity:
            raise ValueError("codec: ad_psgd sends parameters, as they are, not gradients; expected codec 'identity'")

    async def worker(node: Node, task: Task) -> None:
        kind = Active if sides(node.world_size)[node.rank] else Passive
        await kind(node, task, partners(node.world_size)[node.rank]).run()

    return Strategy(worker, check, is_replicated=False, is_lock_step=False)


def _sides(graph: Neighbours, kind: BipartiteName) -> list[bool]:
    """Return for each rank whether it is on the side of rank 0.

    Args:
        graph: a connected graph.
        kind: what the user calls it.

    Raises:
        ValueError: it has no two sides.
    """
    sides, queue = {0: True}, [0]
    while queue:
        rank = queue.pop()
        for other in graph[rank]:
            if other not in sides:
                sides[other] = not sides[rank]
                queue.append(other)
            elif sides[other] == sides[rank]:
                raise ValueError(
                    f"graph: graph 'ring' needs an even world_size, for active ranks have passive neighbours; got "
                    f"{len(graph)}"
                    if kind == "ring"
                    else "edges: expected each to join an active rank and a passive one, so no cycle of odd length; "
                    f"got one through [{min(rank, other)}, {max(rank, other)}]"
                )
    return [sides[rank] for rank in range(len(graph))]


class _Gossiper:
    """A rank that steps at its own pace.

    Args:
        node: its node.
        task: what is trained.
        partners: those on the other side that it may average with.
    """

    def __init__(self, node: Node, task: Task, partners: tuple[int, ...]) -> None:
        self._node, self._task, self._partners = node, task, partners
        self.state: Any = None
        self._num_averages = 0

    async def run(self) -> None:
        """Make all steps, and stay until all have made theirs."""
        node, task = self._node, self._task
        blocks = task.blocks(node.world_size)
        self.state = await node.compute(task.init, 0, None)
        self._begin()
        for step in task.steps():
            before = self._num_averages
            losses, gradients = await node.compute(task.gradients, [self.state.params], [blocks.ids(step, node.rank)])
            await self._update(gradients[0])
            node.record(loss=losses[0], staleness=self._num_averages - before)
            if not await node.checkpoint(step, [self.state.params]):
                break
        await self._end()

    def _begin(self) -> None:
        """Start what goes on beside the steps."""

    async def _update(self, gradient: Any) -> None:
        """Bring a gradient into the model."""
        raise NotImplementedError

    async def _end(self) -> None:
        """Do what is left to do for others."""
        raise NotImplementedError


class Active(_Gossiper):
    """A rank that asks a random partner for its parameters before each update.

    Args:
        node: its node.
        task: what is trained.
        partners: whom it may ask; if nobody, it steps alone.
    """

    def __init__(self, node: Node, task: Task, partners: tuple[int, ...]) -> None:
        super().__init__(node, task, partners)
        self._generator = rng.stream(task.seed, "gossip partner", node.rank)
        self._return: Job | None = None

    async def _update(self, gradient: Any) -> None:
        if self._partners:
            await self._average(self._partners[int(self._generator.integers(len(self._partners)))])
        self.state = await self._node.compute(self._task.apply, self.state, gradient)

    async def _average(self, partner: int) -> None:
        """Take the mean with a partner's parameters, and send it back."""
        node = self._node
        await self._await_return()
        await node.send(partner, True, tag=ASK)
        lent = (await node.recv(partner, tag=LEND)).payload
        mean = await node.compute(self._task.weighted_sum, [0.5, 0.5], [self.state.params, lent])
        self._return = node.spawn(node.send(partner, mean, tag=RETURN))
        self.state = self.state._replace(params=mean)
        self._num_averages += 1
        node.record(partner=partner)

    async def _await_return(self) -> None:
        if self._return is not None:
            await self._return.wait()

    async def _end(self) -> None:
        await self._await_return()
        await self._node.gather(*(self._node.send(partner, False, tag=ASK) for partner in self._partners))


class Passive(_Gossiper):
    """A rank that lends its parameters to whoever asks, also while it computes and when it has made its steps.

    Args:
        node: its node.
        task: what is trained.
        partners: who may ask it.
    """

    def __init__(self, node: Node, task: Task, partners: tuple[int, ...]) -> None:
        super().__init__(node, task, partners)
        self._turn: Job | None = None

    def _begin(self) -> None:
        self._listener = self._node.spawn(self._listen())

    async def _listen(self) -> None:
        """Lend whenever somebody asks, until all have made their steps."""
        left = len(self._partners)
        while left:
            message = await self._node.recv(tag=ASK)
            if message.payload:
                await self._in_turn(self._lend, message.src)
            else:
                left -= 1

    async def _lend(self, borrower: int) -> None:
        """Lend the parameters; nothing is computed, which would have to wait for the gradient under way."""
        await self._node.send(borrower, self.state.params, tag=LEND)
        mean = (await self._node.recv(borrower, tag=RETURN)).payload
        self.state = self.state._replace(params=mean)
        self._num_averages += 1

    async def _update(self, gradient: Any) -> None:
        await self._in_turn(self._apply, gradient)

    async def _apply(self, gradient: Any) -> None:
        self.state = await self._node.compute(self._task.apply, self.state, gradient)

    async def _in_turn(self, change: Callable[[Any], Coroutine[Any, Any, None]], argument: Any) -> None:
        """Let a change of the model be over before the next one begins, for each starts from what it finds."""
        previous = self._turn

        async def wait_and_change() -> None:
            if previous is not None:
                await previous.wait()
            await change(argument)

        self._turn = self._node.spawn(wait_and_change())
        await self._turn.wait()

    async def _end(self) -> None:
        await self._listener.wait()
