"""The laws of `Node`, as programs: whatever runs programs must obey them.

Name this module in a scenario's `plugins` and run `strategy: {kind: node_law, law: NAME}` with the driver to check;
the run fails if the law is broken.

Example:
    >>> "messages_of_one_sender_and_tag_keep_their_order" in LAWS
    True
"""

from __future__ import annotations

from psgdsim.errors import nearest
from psgdsim.node import Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.task import Task
from psgdsim.testing import job_laws, message_laws
from psgdsim.testing.laws import EPILOGUES, LAWS

__all__ = ["LAWS", "job_laws", "message_laws", "node_law"]


@register_strategy("node_law")
def node_law(law: str = "all") -> Strategy:
    """Run one law of `Node` on every rank, or one after the other; it trains nothing.

    Args:
        law: a name in `psgdsim.testing.node_laws.LAWS`, or `all`.
    """
    if law not in LAWS and law != "all":
        raise ValueError(f"law: no law is called {law!r}; {nearest(law, [*LAWS, 'all'])}")
    names = list(LAWS) if law == "all" else [law]

    async def worker(node: Node, task: Task) -> None:
        state = await node.compute(task.init, 0, None)
        for step in task.steps():
            for name in names:
                await LAWS[name](node)
            if not await node.checkpoint(step, [state.params]):
                break
        for name in names:
            if name in EPILOGUES:
                await EPILOGUES[name](node)

    return Strategy(worker)
