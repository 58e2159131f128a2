"""Small experiments for real runs; run as a script, this file is a worker of one of them.

    python real_programs.py worker HOST:PORT
    python real_programs.py relay HOST:PORT

The text that stands for the scenario is `PROGRAM WORLD_SIZE MULTICAST`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np

from psgdsim.errors import StrategyError
from psgdsim.node import Kernel
from psgdsim.real import relay, worker
from psgdsim.real.mesh import TRAINING
from psgdsim.schedule import Schedule
from psgdsim.strategies.base import Strategy
from psgdsim.trace import RankLog

PAYLOAD = np.arange(50_000, dtype=np.float32)
ADD = Kernel("add", lambda a, b: a + b, "gradient")


async def exchange(node, task):
    """Every rank multicasts an array per step, and adds up what it gets."""
    total = np.zeros_like(PAYLOAD)
    others = [rank for rank in range(node.world_size) if rank != node.rank]
    step = 0
    while True:
        step += 1
        results = await node.gather(
            node.multicast(others, PAYLOAD * (node.rank + 1), tag=f"s{step}"),
            *(node.recv(other, tag=f"s{step}") for other in others),
        )
        for message in results[1:]:
            total = await node.compute(ADD, total, message.payload)
        node.record(loss=1.0 / step)
        if not await node.checkpoint(step, [{"w": total}]):
            return


async def _at_step_3(node, task, act):
    async def checkpoint(step, models):
        if node._phase == TRAINING and step == 3 and node.rank == 1:
            await act()
        return await type(node).checkpoint(node, step, models)

    node.checkpoint = checkpoint
    await exchange(node, task)


async def fails(node, task):
    async def act():
        raise ValueError("the loss is a walrus")

    await _at_step_3(node, task, act)


async def disagrees(node, task):
    async def act():
        raise StrategyError("rank 0 sent another checksum")

    await _at_step_3(node, task, act)


async def dies(node, task):
    async def act():
        os.kill(os.getpid(), signal.SIGKILL)

    await _at_step_3(node, task, act)


async def freezes(node, task):
    async def act():
        os.kill(os.getpid(), signal.SIGSTOP)

    await _at_step_3(node, task, act)


async def hangs(node, task):
    async def act():
        print("rank 1 hangs now", flush=True)
        await asyncio.sleep(3600)

    await _at_step_3(node, task, act)


async def strands(node, task):
    async def act():
        await node.recv(0, tag="never sent")

    await _at_step_3(node, task, act)


async def leaves(node, task):
    """Rank 1 ends its program a step before the others do."""
    for step in (1, 2):
        if not await node.checkpoint(step, []) or (step == 1 and node.rank == 1):
            return


async def ponders(node, task):
    """Rank 1 waits for what a job of rank 0 sends late, while the program of rank 0 is at the end of a step."""

    async def send_late():
        await node.sleep(1.5)
        await node.send(1, None, tag="late")

    if node.rank == 0:
        node.spawn(send_late())
    else:
        await node.recv(0, tag="late")
    step = 1
    while await node.checkpoint(step, [{"w": PAYLOAD}]):
        step += 1


async def roams(node, task):
    """Every rank goes its own pace, freely."""
    for step in task.steps():
        await node.sleep(0.01 * (1 + node.rank))
        if not await node.checkpoint(step, [{"w": PAYLOAD * step}]):
            return


_ALL = (exchange, fails, disagrees, dies, freezes, hangs, strands, leaves, ponders, roams)
PROGRAMS = {program.__name__: program for program in _ALL}


def build(text):
    """Return the experiment that a text stands for."""
    program, world_size, multicast = text.split()
    if program == "unbuildable":
        raise StrategyError("there is no such data set")
    schedule = Schedule(steps_per_epoch=1, last_step=6, evaluate_every=2)
    if program == "roams":
        schedule = dataclasses.replace(schedule, last_step=10**6, target_accuracy=0.5)
    real = SimpleNamespace(processes="local", host="127.0.0.1", port=0, heartbeat_timeout=60.0)
    evaluate = lambda model: {"train_loss": float(model["w"][1]), "test_accuracy": 0.5}  # noqa: E731
    return SimpleNamespace(
        world_size=int(world_size),
        num_ranks=int(world_size),
        leaders=range(int(world_size)),
        is_led_by_servers=False,
        start_log=RankLog,
        task=SimpleNamespace(schedule=schedule, evaluate=evaluate, steps=lambda: itertools.count(1)),
        strategy=Strategy(PROGRAMS[program], is_lock_step=program != "roams"),
        topology=SimpleNamespace(multicast=multicast),
        scenario=SimpleNamespace(real=real),
    )


if __name__ == "__main__":
    role, address = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    sys.exit(relay.main(host, int(port)) if role == "relay" else worker.main(host, int(port), build=build))
