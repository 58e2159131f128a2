"""real.relay: whole frames to each member of a group, counted; what does not belong is refused by name."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from psgdsim import wire
from psgdsim.real import relay as relay_module
from psgdsim.real.connection import ConnectionEnded
from psgdsim.real.handshake import Claim, Role
from psgdsim.real.relay import Relay
from psgdsim.real.transport import Listener, connect


class Setting:
    def __init__(self, relay, ranks, failures):
        self.relay, self.ranks, self.failures = relay, ranks, failures

    async def announce(self, src, group, members):
        frame = wire.pack_parts(members, src=src, group=group, kind=wire.GROUP)
        await self.ranks[src].write(frame, "control")

    async def receive(self, rank):
        header = wire.parse_header(await self.ranks[rank].read(64), 2**20)
        return header, wire.unpack(header, await self.ranks[rank].read(header.rest_nbytes))

    async def failure(self):
        async with asyncio.timeout(5):
            return await self.failures.get()


@asynccontextmanager
async def relay(world_size=3):
    failures = asyncio.Queue()
    relaying = Relay(world_size, 2**20, failures.put_nowait)
    listener = Listener("127.0.0.1", 0, print)
    listener.serve(b"key", relaying.admit)
    ranks = [await connect("127.0.0.1", listener.port, b"key", Claim(Role.PEER, r)) for r in range(world_size)]
    await relaying.is_complete.wait()
    try:
        yield Setting(relaying, ranks, failures)
    finally:
        for closing in [relaying, listener, *ranks]:
            await closing.close()


def test_a_frame_reaches_every_member_of_its_group_unchanged():
    async def main():
        async with relay() as setting:
            await setting.announce(0, 1, [1, 2])
            await setting.announce(2, 1, [0])
            array = np.arange(1000)
            await setting.ranks[0].write(wire.pack_parts(array, src=0, tag="a", group=1), "data")
            await setting.ranks[2].write(wire.pack_parts("two", src=2, tag="b", group=1), "data")
            for rank in (1, 2):
                header, payload = await setting.receive(rank)
                assert (header.src, header.tag) == (0, "a")
                np.testing.assert_array_equal(payload, array)
            assert (await setting.receive(0))[1] == "two"
            copied = await setting.relay.flush()
            assert copied == {0: 2 * wire.nbytes(array), 2: wire.nbytes("two")}

    asyncio.run(main())


def test_copies_of_the_rehearsal_are_not_counted():
    async def main():
        async with relay() as setting:
            await setting.announce(0, 1, [1])
            await setting.ranks[0].write(wire.pack_parts(None, src=0, group=1, phase=0), "rehearsal")
            await setting.receive(1)
            assert await setting.relay.flush() == {}

    asyncio.run(main())


def test_a_receiver_that_does_not_read_holds_back_the_sender_and_nobody_else(monkeypatch):
    monkeypatch.setattr(relay_module, "OUTBOX_NBYTES", 2**18)

    async def main():
        async with relay() as setting:
            await setting.announce(0, 1, [1])
            await setting.announce(2, 1, [0])
            frame = wire.pack(np.zeros(900_000, np.uint8), src=0, group=1)
            flood = asyncio.create_task(setting.ranks[0].write([frame] * 40, "data"))
            await asyncio.sleep(0.2)
            assert not flood.done()
            await setting.ranks[2].write(wire.pack_parts("through", src=2, group=1), "data")
            assert (await setting.receive(0))[1] == "through"
            for _ in range(40):
                await setting.receive(1)
            await flood

    asyncio.run(main())


@pytest.mark.parametrize(
    ("frame", "cause"),
    [
        (wire.pack(None, src=1, group=1), "rank 0: sent a frame that says it is from rank 1"),
        (wire.pack(None, src=0, group=7), "rank 0: sent a frame to group 7, which it never announced"),
        (wire.pack([0], src=0, group=1, kind=wire.GROUP), r"rank 0: announced the group \[0\]"),
        (wire.pack([5], src=0, group=1, kind=wire.GROUP), r"rank 0: announced the group \[5\]"),
        (wire.pack([1, 1], src=0, group=1, kind=wire.GROUP), r"rank 0: announced the group \[1, 1\]; expected each"),
        (wire.pack([1], src=0, group=0, kind=wire.GROUP), "rank 0: announced group number 0; expected 1 to 1024"),
        (wire.pack([1], src=0, group=1025, kind=wire.GROUP), "rank 0: announced group number 1025; expected 1 to"),
        (wire.pack("all", src=0, group=1, kind=wire.GROUP), "rank 0: announced the group all"),
        (b"x" * 64, "rank 0: frame header"),
        (wire.pack(np.zeros(2**21, np.uint8), src=0)[:64], "rank 0: frame of 2097.* bytes"),
    ],
)
def test_what_a_rank_must_not_send_is_reported_with_its_name(frame, cause):
    import re

    async def main():
        async with relay() as setting:
            await setting.ranks[0].write([frame], "data")
            assert re.match(cause, await setting.failure())

    asyncio.run(main())


def test_a_second_connection_of_a_rank_is_closed():
    async def main():
        failures = asyncio.Queue()
        relaying = Relay(2, 2**20, failures.put_nowait)
        listener = Listener("127.0.0.1", 0, print)
        listener.serve(b"key", relaying.admit)
        one = await connect("127.0.0.1", listener.port, b"key", Claim(Role.PEER, 0))
        two = await connect("127.0.0.1", listener.port, b"key", Claim(Role.PEER, 0))
        with pytest.raises(ConnectionError):
            await two.read(1)
        assert not relaying.is_complete.is_set()
        for closing in [relaying, listener, one, two]:
            await closing.close()

    asyncio.run(main())


def test_nothing_goes_to_a_rank_that_was_dropped():
    async def main():
        async with relay() as setting:
            setting.relay.drop(2)
            await setting.announce(0, 1, [1, 2])
            for _ in range(2):
                await setting.ranks[0].write(wire.pack_parts("both", src=0, tag="a", group=1), "data")
                assert (await setting.receive(1))[1] == "both"
            with pytest.raises(ConnectionEnded):
                await setting.receive(2)
            assert (await setting.relay.flush())[0] == 2 * wire.nbytes("both")

    asyncio.run(main())
