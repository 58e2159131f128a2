"""real.node: programs over true sockets, all ranks in one process; bytes, events, and the loss of a peer."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from psgdsim import wire
from psgdsim.errors import PeerLost, ProgramError, RecvTimeout
from psgdsim.node import Kernel, Message
from psgdsim.real import mesh as mesh_module
from psgdsim.real import relay as relay_module
from psgdsim.real.connection import cancel
from psgdsim.real.handshake import Claim, Role
from psgdsim.real.mesh import REHEARSAL, TRAINING, Mesh
from psgdsim.real.node import RealNode
from psgdsim.real.relay import Relay
from psgdsim.real.step_ends import Together
from psgdsim.real.transport import Listener, connect
from psgdsim.schedule import Schedule

DOUBLE = Kernel("double", lambda x: 2 * x, "gradient")
CODE = Kernel("code", lambda x: -x, "codec")


class Cluster:
    """Ranks in one process, fully connected over loopback."""

    def __init__(self, world_size, multicast="unicast", schedule=None):
        self.world_size, self.multicast = world_size, multicast
        self.schedule = schedule or Schedule(1, last_step=10)
        self.executor = ThreadPoolExecutor(1)
        self.relay = None

    async def __aenter__(self):
        listeners = [Listener("127.0.0.1", 0, print) for _ in range(self.world_size)]
        self.meshes = [Mesh(rank, self.world_size, 2**26) for rank in range(self.world_size)]
        self.nodes = [self.node(rank) for rank in range(self.world_size)]
        self.listeners = listeners
        address = None
        if self.multicast != "unicast":
            self.relay = Relay(self.world_size, 2**26, pytest.fail)
            listeners.append(Listener("127.0.0.1", 0, print))
            listeners[-1].serve(b"key", self.relay.admit)
            address = ("127.0.0.1", listeners[-1].port)
        peers = [("127.0.0.1", listener.port) for listener in listeners[: self.world_size]]
        await asyncio.gather(*(mesh.connect(listeners[mesh.rank], peers, address, b"key") for mesh in self.meshes))
        for mesh in self.meshes:
            mesh.start_reading()
        return self

    def node(self, rank, phase=TRAINING):
        return RealNode(self.meshes[rank], self.executor, multicast=self.multicast, schedule=self.schedule, phase=phase)

    async def run(self, program):
        """Run a program on every rank; return the results."""
        results = [None] * self.world_size

        async def keep(node):
            results[node.rank] = await program(node)

        await asyncio.gather(*(node.jobs.run(keep(node)) for node in self.nodes))
        return results

    async def __aexit__(self, *_):
        for closing in [*self.meshes, *([self.relay] if self.relay else []), *self.listeners]:
            await closing.close()
        self.executor.shutdown()


def run(world_size, program, **options):
    async def main():
        async with Cluster(world_size, **options) as cluster:
            return await cluster.run(program), cluster

    return asyncio.run(main())


def test_a_ring_sum():
    async def program(node):
        total = part = np.float32(node.rank + 1)
        right, left = (node.rank + 1) % node.world_size, (node.rank - 1) % node.world_size
        for hop in range(node.world_size - 1):
            _, message = await node.gather(node.send(right, part, tag=f"hop {hop}"), node.recv(left, tag=f"hop {hop}"))
            part = message.payload
            total += part
        return float(total)

    assert run(4, program)[0] == [10.0] * 4


def test_a_concurrent_kernel_runs_while_another_does():
    came = threading.Event()
    until_it_came = Kernel("until it came", lambda: came.wait(60))
    come = Kernel("come", came.set, is_concurrent=True)

    async def program(node):
        return await node.gather(node.compute(until_it_came), node.compute(come))

    assert run(1, program)[0] == [[True, None]]


@pytest.mark.parametrize("multicast", ["unicast", "relay", "native"])
def test_bytes_at_the_socket_are_those_of_the_frames(multicast):
    payload = {"w": np.arange(300_000, dtype=np.float32), "n": (1, None)}

    async def program(node):
        others = [rank for rank in range(3) if rank != node.rank]
        for step in (1, 2):
            await node.gather(
                node.multicast(others, payload, tag=f"g {step}"),
                *(node.recv(other, tag=f"g {step}") for other in others),
            )
        if node.rank == 0:
            await node.send(1, payload, tag="direct")
        elif node.rank == 1:
            message = await node.recv(tag="direct")
            np.testing.assert_array_equal(message.payload["w"], payload["w"])
            assert message.payload["n"] == (1, None)

    _, cluster = run(3, program, multicast=multicast)
    size = wire.nbytes(payload)
    copies = 2 if multicast == "unicast" else 1
    expected = [size * (2 * copies + (rank == 0)) for rank in range(3)]
    assert [mesh.sent("data") for mesh in cluster.meshes] == expected
    assert [node.log.sent_nbytes for node in cluster.nodes] == expected
    assert cluster.nodes[1].log.payload_nbytes == 1_200_000 * 2 * copies
    relayed = 0 if multicast == "unicast" else 4 * size
    assert [node.log.relay_nbytes for node in cluster.nodes] == [relayed] * 3
    if cluster.relay is not None:
        assert dict(cluster.relay._copied) == dict.fromkeys(range(3), relayed)


def test_kernels_run_and_are_logged():
    async def program(node):
        value = await node.compute(DOUBLE, np.float32(3))
        value = await node.compute(CODE, value)
        return float(await node.read(value))

    results, cluster = run(1, program)
    assert results == [-6.0]
    log = cluster.nodes[0].log
    assert [(event.kind, event.name) for event in log.events] == [("compute", "double"), ("encode", "code")]


def test_sends_and_receives_are_logged_with_their_sizes():
    async def program(node):
        if node.rank == 0:
            await node.send(1, np.zeros(10, np.uint8), tag="x")
        else:
            await node.recv(0, tag="x")

    _, cluster = run(2, program)
    size = wire.nbytes(np.zeros(10, np.uint8))
    sent, received = (node.log.events[0] for node in cluster.nodes)
    assert (sent.kind, sent.name, sent.peer, sent.nbytes) == ("send", "x", 1, size)
    assert (received.kind, received.name, received.peer, received.nbytes) == ("receive", "x", 0, size)


def test_from_any_rank_and_in_order():
    async def program(node):
        if node.rank:
            for i in range(3):
                await node.send(0, (node.rank, i), tag="t")
            return None
        messages = [await node.recv(tag="t") for _ in range(6)]
        by_rank = {rank: [m.payload[1] for m in messages if m.src == rank] for rank in (1, 2)}
        assert all(message.payload[0] == message.src for message in messages)
        return by_rank

    assert run(3, program)[0][0] == {1: [0, 1, 2], 2: [0, 1, 2]}


@pytest.mark.parametrize("multicast", ["unicast", "native"])
def test_what_is_sent_first_comes_first_even_if_it_takes_longer_to_pack(multicast):
    large = np.zeros(2**22, np.uint8)

    async def program(node):
        if node.rank == 0:
            await node.gather(
                *(node.send(1, (number, large if number % 2 else None), tag="t") for number in range(4)),
                *(node.multicast([1], (number, large if number % 2 else None), tag="m") for number in range(4)),
            )
            return None
        return [[(await node.recv(0, tag=tag)).payload[0] for _ in range(4)] for tag in ("t", "m")]

    assert run(2, program, multicast=multicast)[0][1] == [[0, 1, 2, 3]] * 2


def test_a_send_does_not_overtake_a_multicast():
    async def program(node):
        if node.rank == 0:
            await node.gather(node.multicast([1], "first", tag="t"), node.send(1, "second", tag="t"))
            return None
        return [(await node.recv(0, tag="t")).payload for _ in range(2)]

    assert run(2, program)[0][1] == ["first", "second"]


def test_a_send_that_is_cancelled_before_its_turn_is_never_made():
    async def main():
        async with Cluster(2) as cluster:
            zero, one = cluster.nodes
            sends = [asyncio.create_task(zero.send(1, np.zeros(2**25, np.uint8), tag="t")) for _ in range(2)]
            while zero.messages_sent < 2:
                await asyncio.sleep(0)
            sends[1].cancel()
            await asyncio.wait(sends)
            await zero.send(1, "last", tag="t")
            payloads = [(await one.recv(0, tag="t")).payload for _ in range(2)]
            assert (payloads[0].nbytes, payloads[1]) == (2**25, "last")
            assert zero.messages_sent == one.messages_received == 2

    asyncio.run(main())


def test_a_message_for_a_cancelled_receive_keeps_its_place():
    async def main():
        async with Cluster(2) as cluster:
            node = cluster.nodes[0]
            receive = asyncio.create_task(node.recv(1, tag="t"))
            await asyncio.sleep(0)
            for number in (1, 2):
                node.mailbox.put(Message(1, "t", number))
            receive.cancel()
            await asyncio.wait({receive})
            assert [(await node.recv(1, tag="t")).payload for _ in range(2)] == [1, 2]

    asyncio.run(main())


def test_a_multicast_names_each_receiver_once():
    async def program(node):
        if node.rank == 0:
            with pytest.raises(ProgramError, match=r"rank 0 multicasts to \[1, 1\]; expected each rank at most once"):
                await node.multicast([1, 1], None, tag="t")

    run(2, program)


def test_groups_of_which_the_relay_knows_only_some_at_a_time(monkeypatch):
    for module in (mesh_module, relay_module):
        monkeypatch.setattr(module, "MAX_GROUPS", 2)
    groups = [[1], [2], [1, 2], [1], [3, 1], [2], [1, 2, 3]]

    async def program(node):
        if node.rank == 0:
            sends = (node.multicast(group, number, tag="t") for number, group in enumerate(groups))
            await node.gather(*sends)
            return None
        mine = [number for number, group in enumerate(groups) if node.rank in group]
        return [(await node.recv(0, tag="t")).payload for _ in mine] == mine

    assert run(4, program, multicast="native")[0] == [None, True, True, True]


def test_a_rank_at_a_meeting_is_idle_only_if_nothing_else_of_it_is_under_way():
    async def main():
        async with Cluster(2, schedule=Schedule(1, last_step=2, evaluate_every=1)) as cluster:
            node = cluster.nodes[0]
            met = asyncio.get_running_loop().create_future()
            node._ends = Together(cluster.schedule, lambda step: met)
            assert node.state == "busy"
            meeting = asyncio.create_task(node.checkpoint(1, []))
            await asyncio.sleep(0)
            assert (node.state, node.waits) == ("meeting", [])
            receiving = asyncio.create_task(node.recv(1, tag="t"))
            await asyncio.sleep(0)
            assert (node.state, node.waits) == ("meeting", ["recv(tag='t') from rank 1"])
            sleeping = asyncio.create_task(node.sleep(3600))
            await asyncio.sleep(0)
            assert (node.state, node.waits) == ("busy", [])
            await cancel(sleeping)
            with node.log.during("compute"):
                assert node.state == "busy"
            assert node.state == "meeting"
            met.set_result(True)
            assert await meeting
            assert node.state == "waiting"
            await cancel(receiving)

    asyncio.run(main())


def test_a_node_that_is_detached_changes_no_more():
    async def main():
        async with Cluster(2) as cluster:
            mesh, (sender, node) = cluster.meshes[1], cluster.nodes
            frame = wire.pack(np.zeros(1000), src=0)
            to_one = cluster.meshes[0]._peers[1]
            await to_one.write([frame[:100]], "data")
            while not node._arrivals:
                await asyncio.sleep(0)
            mesh.attach(TRAINING, None)
            await to_one.write([frame[100:]], "data")
            await sender.send(1, None, tag="dropped")
            await cluster.meshes[0].flush()
            other = cluster.node(1, phase=REHEARSAL)
            await cluster.node(0, phase=REHEARSAL).send(1, "after", tag="t")
            assert (await other.recv(0, tag="t")).payload == "after"
            assert (node.messages_received, node.mailbox.unread, node.log.events) == (0, [], [])

    asyncio.run(main())


def test_a_timeout_names_what_was_missing_and_takes_nothing():
    async def program(node):
        if node.rank == 0:
            with pytest.raises(RecvTimeout, match=r"rank 0: nothing tagged .late. came from rank 1 within 0\.01 s"):
                await node.recv(1, tag="late", timeout=0.01)
            await node.send(1, None, tag="go")
            return (await node.recv(1, tag="late")).payload
        await node.recv(0, tag="go")
        await node.send(0, 5, tag="late")
        return None

    assert run(2, program)[0][0] == 5


def test_frames_of_the_other_phase_never_arrive():
    async def main():
        async with Cluster(2) as cluster:
            rehearsing = [cluster.node(rank, phase=REHEARSAL) for rank in range(2)]
            cluster.meshes[1].attach(REHEARSAL, None)
            await rehearsing[0].send(1, "rehearsed", tag="t")
            await cluster.nodes[0].send(1, "real", tag="t")
            assert (await cluster.nodes[1].recv(tag="t")).payload == "real"
            assert cluster.meshes[0].sent("rehearsal") == wire.nbytes("rehearsed")
            assert cluster.meshes[0].sent("data") == wire.nbytes("real")

    asyncio.run(main())


@pytest.mark.parametrize("dst", [0, 2, -1])
def test_receivers_that_do_not_exist_are_refused(dst):
    async def program(node):
        if node.rank == 0:
            with pytest.raises(ProgramError, match=f"rank 0 sends to rank {dst}; expected another of 0 to 1"):
                await node.send(dst, None, tag="t")

    run(2, program)


def test_a_lost_peer_is_told_to_whoever_waits_for_it_after_its_last_message():
    async def main():
        async with Cluster(3) as cluster:
            zero, one, _ = cluster.nodes
            waiting = asyncio.create_task(zero.recv(1, tag="never"))
            anyone = asyncio.create_task(zero.recv(tag="never"))
            await one.send(0, 7, tag="last")
            await cluster.meshes[1].close()
            for receive in (waiting, anyone):
                with pytest.raises(PeerLost, match="rank 0: lost rank 1: its connection ended"):
                    await receive
            assert (await zero.recv(1, tag="last")).payload == 7
            with pytest.raises(PeerLost):
                await zero.recv(1, tag="more")
            with pytest.raises(PeerLost):
                await zero.send(1, None, tag="more")
            await cluster.nodes[2].send(0, 8, tag="alive")
            assert (await zero.recv(2, tag="alive")).payload == 8

    asyncio.run(main())


@pytest.mark.parametrize(
    ("frame", "cause"),
    [
        (b"nonsense".ljust(64, b"\0"), "expected it to begin with b'PSGD'"),
        (wire.pack(None, src=2), "a frame of kind 1 that says it is from rank 2"),
        (wire.pack([2], src=1, kind=wire.GROUP), "a frame of kind 2"),
        (wire.pack(np.zeros(2**27, np.uint8), src=1)[:64], "at most 67108864"),
        (wire.pack(b"".hex(), src=1)[:-1] + b"\1", "its checksum is wrong"),
    ],
    ids=["noise", "another's rank", "group", "too large", "damaged"],
)
def test_a_peer_that_sends_what_it_must_not_is_lost(frame, cause):
    async def main():
        listeners = [Listener("127.0.0.1", 0, print) for _ in range(3)]
        mesh = Mesh(0, 2, 2**26)
        executor = ThreadPoolExecutor(1)
        node = RealNode(mesh, executor, multicast="unicast", schedule=Schedule(1, last_step=1))
        connecting = asyncio.create_task(mesh.connect(listeners[0], [], None, b"key"))
        hostile = await connect("127.0.0.1", listeners[0].port, b"key", Claim(Role.PEER, 1))
        await connecting
        mesh.start_reading()
        await hostile.write([frame], "data")
        with pytest.raises(PeerLost) as lost:
            await node.recv(1, tag="t")
        assert cause in lost.value.cause
        for closing in (mesh, hostile, *listeners):
            await closing.close()
        executor.shutdown()

    asyncio.run(main())


def test_a_checkpoint_closes_the_row_and_goes_on_until_the_last_step():
    async def program(node):
        node.record(loss=0.5)
        first = await node.checkpoint(1, ["m1"])
        return first, await node.checkpoint(2, ["m2"])

    results, cluster = run(1, program, schedule=Schedule(1, last_step=2))
    assert results == [(True, False)]
    node = cluster.nodes[0]
    assert [(row["step"], row.get("loss")) for row in node.log.rows] == [(1, 0.5), (2, None)]
    assert node.models == ["m2"]
