"""The laws of losses: programs for a run whose rank 1 is lost while it waits in step 2.

How it is lost is the driver's business: in simulation it crashes, in real mode its process is killed. The strategy is
`{kind: loss_law, law: NAME}`; the run fails if the law is broken.

Example:
    >>> "a_loss_is_told_once" in LOSS_LAWS
    True
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from psgdsim.errors import PeerLost, nearest
from psgdsim.node import Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.task import Task
from psgdsim.testing.laws import expect

LOST = 1
"""The rank that is lost."""


async def a_loss_is_told_once(node: Node) -> None:
    """Whoever receives from any rank is told in its turn, and then goes on with those that are left."""
    expect((await node.recv(tag="early")).src, LOST)
    await _expect_loss(node, None)
    others = [rank for rank in range(node.world_size) if rank not in (node.rank, LOST)]
    for rank in others:
        await node.send(rank, node.rank, tag="late")
    expect(sorted([(await node.recv(tag="late")).src for _ in others]), others)


async def a_loss_is_told_to_whoever_names_the_peer(node: Node) -> None:
    """As often as it is asked, also when it sends; what came before is received before."""
    expect((await node.recv(LOST, tag="early")).src, LOST)
    await _expect_loss(node, LOST)
    await _expect_loss(node, LOST)
    try:
        await node.send(LOST, None, tag="late")
    except PeerLost as lost:
        expect(lost.peer, LOST)
    else:
        raise AssertionError("a send to a rank that is lost returned")


async def _expect_loss(node: Node, src: int | None) -> None:
    try:
        await node.recv(src, tag="never")
    except PeerLost as lost:
        expect((lost.rank, lost.peer), (node.rank, LOST))
    else:
        raise AssertionError("a receive that had nothing to receive returned")


LossLaw = Callable[[Node], Coroutine[Any, Any, None]]

LOSS_LAWS: dict[str, LossLaw] = {
    law.__name__: law for law in (a_loss_is_told_once, a_loss_is_told_to_whoever_names_the_peer)
}
"""All laws by name; each is what the ranks that are left run."""


@register_strategy("loss_law")
def loss_law(law: str) -> Strategy:
    """Run one law of losses in step 2; it trains nothing.

    Args:
        law: a name in `psgdsim.testing.loss_laws.LOSS_LAWS`.
    """
    if law not in LOSS_LAWS:
        raise ValueError(f"law: no law is called {law!r}; {nearest(law, LOSS_LAWS)}")

    async def worker(node: Node, task: Task) -> None:
        state = await node.compute(task.init, 0, None)
        for step in task.steps():
            if step == 2:
                await (wait_to_be_lost if node.rank == LOST else LOSS_LAWS[law])(node)
            if not await node.checkpoint(step, [state.params]):
                return

    return Strategy(worker, is_replicated=False, is_lock_step=False, survives_loss=True)


async def wait_to_be_lost(node: Node) -> None:
    """Send each rank something, and wait for ever."""
    for rank in range(node.world_size):
        if rank != node.rank:
            await node.send(rank, None, tag="early")
    await node.recv(tag="never")
