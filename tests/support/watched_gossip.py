"""A plugin: ad_psgd on the complete graph, whose ranks say where they are when all is over."""

from __future__ import annotations

import dataclasses

from psgdsim.node import Kernel
from psgdsim.strategies import ad_psgd, register_strategy
from psgdsim.strategies.ad_psgd import Active, Passive

FIRST = Kernel("first", lambda params: params["weight"][0])


@register_strategy("watched_ad_psgd")
def watched_ad_psgd():
    """Record, in a row after the last step, the first parameter of each rank."""

    async def worker(node, task):
        kind = Active if node.rank % 2 == 0 else Passive
        gossiper = kind(node, task, tuple(range(1 - node.rank % 2, node.world_size, 2)))
        await gossiper.run()
        node.record(final=await node.compute(FIRST, gossiper.state.params))
        node.end_step(task.schedule.last_step + 1)

    return dataclasses.replace(ad_psgd("complete"), worker=worker)
