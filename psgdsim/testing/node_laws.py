"""The laws of `Node`, as programs: whatever runs programs must obey them.

Name this module in a scenario's `plugins` and run `strategy: {kind: node_law, law: NAME}` with the driver to check;
the run fails if the law is broken.

Example:
    >>> "messages_of_one_sender_and_tag_keep_their_order" in LAWS
    True
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from psgdsim.errors import nearest
from psgdsim.node import Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.task import Task
from psgdsim.testing import job_laws, message_laws
from psgdsim.testing.laws import EPILOGUES, LAWS, SERVER_PARTS, Law

__all__ = ["LAWS", "job_laws", "message_laws", "node_law"]


@register_strategy("node_law")
def node_law(law: str = "all", num_servers: Annotated[int, Field(ge=0, le=8)] = 0) -> Strategy:
    """Run one law of `Node` on every rank, or one after the other; it trains nothing.

    Args:
        law: a name in `psgdsim.testing.node_laws.LAWS`, or `all`.
        num_servers: how many servers there are besides the workers.
    """
    if law not in LAWS and law != "all":
        raise ValueError(f"law: no law is called {law!r}; {nearest(law, [*LAWS, 'all'])}")
    names = list(LAWS) if law == "all" else [law]

    async def worker(node: Node, task: Task) -> None:
        await _run(node, task, [LAWS[name] for name in names])
        for name in names:
            if name in EPILOGUES:
                await EPILOGUES[name](node)

    async def server(node: Node, task: Task) -> None:
        await _run(node, task, [SERVER_PARTS[name] for name in names if name in SERVER_PARTS])

    return Strategy(worker, server=server if num_servers else None, num_servers=num_servers)


async def _run(node: Node, task: Task, laws: list[Law]) -> None:
    state = await node.compute(task.init, 0, None)
    for step in task.steps():
        for law in laws:
            await law(node)
        if not await node.checkpoint(step, [state.params]):
            return
