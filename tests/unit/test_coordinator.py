"""real.coordinator: what it tells of a run under way, and signals."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace

from psgdsim.real.control import Heartbeat
from psgdsim.real.coordinator import Conductor
from psgdsim.real.seats import Signalled
from psgdsim.schedule import Schedule
from psgdsim.strategies.base import Strategy


def conductor(progress=None):
    experiment = SimpleNamespace(
        world_size=2,
        num_ranks=2,
        leaders=range(2),
        strategy=Strategy(None),
        task=SimpleNamespace(schedule=Schedule(1, last_step=6)),
        topology=SimpleNamespace(multicast="unicast"),
        scenario=SimpleNamespace(real=None),
    )
    return Conductor(experiment, "", token="", log=print, progress=progress)


def test_progress_is_that_of_rank_0():
    told = []
    run = conductor(lambda *values: told.append(values))
    beats = [Heartbeat(step=2, time=1.5, loss=0.5, nbytes=nbytes) for nbytes in (10, 20)]
    zero, one = (SimpleNamespace(name=f"rank {i}", is_lost=False, progress=beat) for i, beat in enumerate(beats))
    run._crew.workers |= {0: zero, 1: one}
    run._note_heartbeat(one)
    run._note_heartbeat(zero)
    assert told == [(1.5, 2, 6, 0.5, 10)]


def test_an_interrupt_is_an_event_at_any_time():
    run = conductor()
    run.interrupt(signal.SIGINT)

    async def main():
        run._loop = asyncio.get_running_loop()
        run.interrupt(signal.SIGTERM)
        return [await run._crew.events.get() for _ in range(2)]

    assert asyncio.run(main()) == [Signalled(signal.SIGINT), Signalled(signal.SIGTERM)]
    run.interrupt(signal.SIGTERM)
    assert run._crew.events.empty()
