"""A plugin: strategies with a worker, rank 1, that a signal stops in its second step in real mode."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import Literal

from psgdsim.real.mesh import TRAINING
from psgdsim.strategies import fedavg, lag, laq, parameter_server, register_strategy


@register_strategy("dying_parameter_server")
def dying_parameter_server(
    sync: Literal["bsp", "async"] = "bsp",
    on_peer_loss: Literal["fail", "drop", "wait"] = "fail",
    who: Literal["worker", "server"] = "worker",
    stop: Literal["SIGKILL", "SIGSTOP"] = "SIGKILL",
    servers: int = 1,
):
    """Stop one process in its second step.

    Args:
        sync: as in `parameter_server`.
        on_peer_loss: likewise.
        who: rank 1, or the last server.
        stop: by which signal.
        servers: as in `parameter_server`.
    """
    strategy = parameter_server(sync, on_peer_loss, servers=servers)

    async def worker(node, task):
        if who == "worker" and node.rank == 1:
            stop_in_step_2(node, "record", stop)
        await strategy.worker(node, task)

    async def server(node, task):
        if who == "server" and node.rank == node.servers[-1]:
            stop_in_step_2(node, "record", stop)
        await strategy.server(node, task)

    return dataclasses.replace(strategy, worker=worker, server=server)


@register_strategy("dying_fedavg")
def dying_fedavg(quorum: float = 0.5):
    """Kill rank 1 when it is to send its second update.

    Args:
        quorum: as in `fedavg`.
    """
    strategy = fedavg(1.0, 1, "drop", quorum=quorum)

    async def worker(node, task):
        if node.rank == 1:
            stop_in_step_2(node, "send", "SIGKILL")
        await strategy.worker(node, task)

    return dataclasses.replace(strategy, worker=worker)


@register_strategy("dying_lazy")
def dying_lazy(which: Literal["lag", "laq"] = "lag", trigger: Literal["worker", "server"] = "worker"):
    """Kill rank 1 in its second step.

    Args:
        which: strategy it is.
        trigger: as in `lag`.
    """
    drop = {"on_peer_loss": "drop", "xi": 0.0}
    strategy = lag(trigger, **drop) if which == "lag" else laq(**drop)

    async def worker(node, task):
        if node.rank == 1:
            stop_in_step_2(node, "record", "SIGKILL")
        await strategy.worker(node, task)

    return dataclasses.replace(strategy, worker=worker)


def stop_in_step_2(node, name, stop):
    """Stop this process when it first calls a method of its node in its second step."""
    method = getattr(node, name)

    def call_or_stop(*args, **values):
        if node._phase == TRAINING and node.log.step == 2:
            os.kill(os.getpid(), getattr(signal, stop))
        return method(*args, **values)

    setattr(node, name, call_or_stop)
