"""real.crew: who joins, who leaves before the start, and how others are asked to join."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from psgdsim.real import crew as crew_module
from psgdsim.real.crew import Crew
from psgdsim.real.handshake import Role
from psgdsim.real.seats import Joined, Left, Seat

SETTINGS = SimpleNamespace(processes="manual", host="127.0.0.1", port=0, heartbeat_timeout=10.0)


class QuietChannel:
    """A channel that keeps what it was told."""

    def __init__(self):
        self.said, self.is_closed = [], False

    async def send(self, message):
        self.said.append(message)

    async def close(self):
        self.is_closed = True


def seat(rank):
    return Seat(Role.WORKER, rank, QuietChannel(), 0, ("127.0.0.1", 1))


def test_a_worker_that_leaves_just_as_the_last_one_joins_frees_its_place():
    async def main():
        log, announced = [], []
        crew = Crew(2, has_relay=False, settings=SETTINGS, token="", log=log.append, on_heartbeat=print)
        fickle, steady, late = seat(0), seat(1), seat(0)
        crew.workers |= {0: fickle, 1: steady}
        for event in (Joined(fickle), Joined(steady), Left(fickle, "its connection ended")):
            crew.events.put_nowait(event)
        assembling = asyncio.create_task(crew.assemble(((), ()), announced.append))
        while 0 in crew.workers:
            await asyncio.sleep(0)
        crew.workers[0] = late
        crew.events.put_nowait(Joined(late))
        await assembling
        assert log == ["rank 0 left before the start: its connection ended"]
        assert fickle.channel.is_closed
        assert not steady.channel.is_closed
        assert crew.workers == {0: late, 1: steady}
        assert len(announced) == 1
        await crew.end(patience=0.0)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "psgdsim client --ip 127.0.0.1 --port 5000, or psgdsim worker --connect 127.0.0.1:5000"),
        ("::1", "psgdsim client --ip ::1 --port 5000, or psgdsim worker --connect [::1]:5000"),
        ("0.0.0.0", "psgdsim client --ip here --port 5000, or psgdsim worker --connect here:5000"),
        ("::", "psgdsim client --ip here --port 5000, or psgdsim worker --connect here:5000"),
    ],
)
def test_the_invitation_names_an_address_that_can_be_reached(host, expected, monkeypatch):
    monkeypatch.setattr(crew_module.socket, "gethostname", lambda: "here")
    assert crew_module._invitation(3, host, 5000) == f"waiting for 3 workers: {expected}"
