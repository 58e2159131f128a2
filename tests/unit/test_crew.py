"""real.crew: who joins, who leaves before the start, and how others are asked to join."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace

import pytest

from psgdsim.errors import RankFailed
from psgdsim.real import control
from psgdsim.real import crew as crew_module
from psgdsim.real.crew import Crew
from psgdsim.real.handshake import Role
from psgdsim.real.seats import Exited, Joined, Left, Said, Seat

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


@pytest.mark.parametrize("first", ["Left", "Exited"])
def test_the_loss_of_an_expendable_rank_is_told_once_and_its_process_ends(first):
    async def main():
        log, signals = [], []
        crew = Crew(3, has_relay=False, settings=SETTINGS, token="", log=log.append, on_heartbeat=print)
        crew.workers |= {rank: seat(rank) for rank in range(3)}
        for rank, worker in crew.workers.items():
            worker.pid = 100 + rank
        child = SimpleNamespace(name="rank 1", pid=101, fate="its process was killed", send_signal=signals.append)
        crew._children = [child]
        crew.expendable = {1, 2}
        left = Left(crew.workers[1], "it gave no sign of life for 2 s")
        events = [left, Exited(child)] if first == "Left" else [Exited(child), left]
        heard = Said(crew.workers[1], control.Ready()), Said(crew.workers[2], control.Ready())
        for event in (*events, *heard):
            crew.events.put_nowait(event)
        lost = await crew.next()
        assert (lost.seat.rank, lost.cause) == (1, left.cause if first == "Left" else child.fate)
        assert await crew.next() == heard[1]
        assert [worker.rank for worker in crew.present] == [0, 2]
        assert log == [f"rank 1 is lost: {lost.cause}; the run goes on"]
        assert signals == [signal.SIGKILL]
        assert lost.seat.channel.is_closed

    asyncio.run(main())


def test_the_loss_of_another_rank_ends_the_run():
    async def main():
        crew = Crew(1, num_servers=1, has_relay=False, settings=SETTINGS, token="", log=print, on_heartbeat=print)
        crew.workers |= {0: seat(0), 1: Seat(Role.WORKER, 1, QuietChannel(), 0, ("127.0.0.1", 1), is_server=True)}
        crew.expendable = {0}
        crew.events.put_nowait(Left(crew.workers[1], "its connection ended"))
        with pytest.raises(RankFailed, match=r"rank 1 \(server\): start-up: its connection ended"):
            await crew.next()

    asyncio.run(main())


def test_the_invitation_says_who_will_be_a_server():
    said = crew_module._invitation(3, "127.0.0.1", 5000, 1)
    assert said.startswith("waiting for 3 workers and 1 server, the last to join: psgdsim client --ip 127.0.0.1")
