"""The laws of messages, kernels and time."""

from __future__ import annotations

from typing import Any

from psgdsim.errors import RecvTimeout
from psgdsim.node import Job, Message, Node
from psgdsim.testing.laws import DOUBLE, FILL, SERVER_PARTS, expect, law, numbers


@law
async def ranks_are_counted_from_zero(node: Node) -> None:
    """Those of the workers, and then those of the servers."""
    expect(0 <= node.rank < node.world_size, True)
    expect(node.role, "worker")
    expect(list(node.servers), [node.world_size + number for number in range(node.num_servers)])
    for server in node.servers:
        await node.send(server, node.rank, tag="to a server")
        expect((await node.recv(server, tag="from a server")).payload, "server")


async def _answer_all(node: Node) -> None:
    expect(node.rank in node.servers, True)
    for rank in range(node.world_size):
        expect((await node.recv(rank, tag="to a server")).payload, rank)
        await node.send(rank, node.role, tag="from a server")


SERVER_PARTS[ranks_are_counted_from_zero.__name__] = _answer_all


@law
async def several_are_heard_and_answered_in_one_go(node: Node) -> None:
    """A receive from each of several ranks returns what comes of their messages in the order asked for."""
    for server in node.servers:
        await node.sleep(1e-3 * (node.world_size - node.rank))  # so that the last is heard first
        await node.send(server, {"x": await node.compute(FILL, node.rank)}, tag="to be doubled")
        answer = await node.recv(server, tag="doubled")
        expect(await numbers(node, answer.payload), [2.0 * (node.world_size - 1)] * 3)


async def _double_each(node: Node) -> None:
    async def take(message: Message) -> Any:
        return (await node.compute(DOUBLE, message.payload))["x"]

    workers = range(node.world_size)
    doubled = await node.recv_each(workers, take, tag="to be doubled")
    expect([await numbers(node, value) for value in doubled], [[2.0 * rank] * 3 for rank in workers])
    await node.send_each(workers, doubled[-1], tag="doubled")


SERVER_PARTS[several_are_heard_and_answered_in_one_go.__name__] = _double_each


@law
async def compute_maps_pytrees_of_values(node: Node) -> None:
    """A kernel takes and gives pytrees; `read` brings their numbers."""
    value = await node.compute(FILL, node.rank)
    doubled = await node.compute(DOUBLE, {"a": value, "b": value})
    expect(await numbers(node, doubled["b"]), [2.0 * node.rank] * 3)


@law
async def messages_carry_trees_and_plainnumbers(node: Node) -> None:
    """Dicts, lists, tuples, None, ints, floats, bools, texts and values arrive as they were sent."""
    value = await node.compute(FILL, node.rank)
    payload = {"value": value, "plain": (1, 2.5, True, None, "text"), "list": [node.rank]}
    successor, predecessor = (node.rank + 1) % node.world_size, (node.rank - 1) % node.world_size
    _, message = await node.gather(node.send(successor, payload, tag="tree"), node.recv(predecessor, tag="tree"))
    expect((message.src, message.tag), (predecessor, "tree"))
    expect(message.payload["plain"], (1, 2.5, True, None, "text"))
    expect(message.payload["list"], [predecessor])
    expect(await numbers(node, message.payload["value"]), [float(predecessor)] * 3)


@law
async def messages_of_one_sender_and_tag_keep_their_order(node: Node) -> None:
    """What is sent first is received first."""
    if node.rank == 0:
        for number in range(20):
            await node.send(1, number, tag="count")
    elif node.rank == 1:
        expect([(await node.recv(0, tag="count")).payload for _ in range(20)], list(range(20)))


@law
async def tags_are_received_in_any_order(node: Node) -> None:
    """A receive passes over messages with other tags."""
    if node.rank == 0:
        for tag in ("first", "second", "third"):
            await node.send(1, tag, tag=tag)
    elif node.rank == 1:
        for tag in ("third", "first", "second"):
            expect((await node.recv(0, tag=tag)).payload, tag)


@law
async def a_receive_takes_the_oldest_that_fits(node: Node) -> None:
    """A receive from any rank gets each message once, whoever sent it."""
    if node.rank:
        await node.send(0, node.rank, tag="hello")
    else:
        senders = [(await node.recv(tag="hello")).src for _ in range(node.world_size - 1)]
        expect(sorted(senders), list(range(1, node.world_size)))


@law
async def a_multicast_reaches_all_and_only_those_named(node: Node) -> None:
    """One payload, several receivers."""
    others = list(range(1, node.world_size))
    if node.rank == 0:
        await node.multicast(others, await node.compute(FILL, 7), tag="news")
    else:
        message = await node.recv(0, tag="news")
        expect((message.src, await numbers(node, message.payload)), (0, [7.0] * 3))


@law
async def everyone_may_send_at_once(node: Node) -> None:
    """Large messages both ways between all ranks at the same time do not block each other."""
    others = [rank for rank in range(node.world_size) if rank != node.rank]
    value = await node.compute(FILL, node.rank, 300_000)
    results = await node.gather(
        *(node.send(rank, value, tag="big") for rank in others), *(node.recv(rank, tag="big") for rank in others)
    )
    for rank, message in zip(others, results[len(others) :], strict=True):
        expect(float((await node.read(message.payload))[-1]), float(rank))


@law
async def time_passes_by_as_much_as_one_sleeps(node: Node) -> None:
    """`now` does not run backwards, and a sleep takes at least its time."""
    before = node.now
    await node.sleep(0.02)
    expect(node.now - before >= 0.02 * (1 - 1e-9), True)


@law
async def a_timeout_is_an_error(node: Node) -> None:
    """A receive gives up when nothing came in time, and says for what it waited."""
    try:
        await node.recv(tag="never", timeout=0.01)
    except RecvTimeout as error:
        expect((error.rank, error.tag), (node.rank, "never"))
    else:
        raise AssertionError("a receive that had nothing to receive returned")


@law
async def a_cancelled_receive_swallows_nothing(node: Node) -> None:
    """The message goes to the next receive."""
    if node.rank == 0:
        await node.recv(1, tag="ready")
        await node.send(1, 5, tag="late")
    elif node.rank == 1:
        job = node.spawn(node.recv(0, tag="late"))
        await node.sleep(0.01)
        job.cancel()
        expect(await job.wait(), None)
        await node.send(0, None, tag="ready")
        expect((await node.recv(0, tag="late")).payload, 5)


@law
async def a_small_message_does_not_overtake_a_large_one(node: Node) -> None:
    """Also when both are under way at the same time, whether they go to one rank or to several."""
    others = list(range(1, node.world_size))
    for size in (200_000, 300_000):
        if node.rank == 0:
            large = await node.compute(FILL, 1, size)
            await node.gather(*(node.send(1, payload, tag="order") for payload in ((1, large), (2,), (3,))))
            await node.gather(*(node.multicast(others, payload, tag="orders") for payload in ((1, large), (2,), (3,))))
        if node.rank == 1:
            expect([(await node.recv(0, tag="order")).payload[0] for _ in range(3)], [1, 2, 3])
        if node.rank:
            expect([(await node.recv(0, tag="orders")).payload[0] for _ in range(3)], [1, 2, 3])


@law
async def a_payload_is_what_it_was_when_it_was_sent(node: Node) -> None:
    """Whatever sender and receivers do to their containers afterwards."""
    others = list(range(1, node.world_size))
    if node.rank == 0:
        payload = {"list": [1]}

        async def change() -> None:
            payload["list"].append(2)
            payload["more"] = []

        await node.gather(node.send(1, payload, tag="mine"), change())
        payload = {"list": [3]}
        await node.gather(node.multicast(others, payload, tag="ours"), change())
        return
    if node.rank == 1:
        expect((await node.recv(0, tag="mine")).payload, {"list": [1]})
    else:
        await node.sleep(0.01)
    received = (await node.recv(0, tag="ours")).payload
    expect(received, {"list": [3]})
    received["list"].clear()


@law
async def a_multicast_to_nobody_sends_nothing(node: Node) -> None:
    """And takes no time of the network."""
    await node.multicast([], node.rank, tag="nobody")
    try:
        await node.recv(tag="nobody", timeout=0.01)
    except RecvTimeout:
        return
    raise AssertionError("a multicast to nobody arrived")


@law
async def a_cancelled_receive_keeps_the_order(node: Node) -> None:
    """A message that it gets at the moment it is cancelled comes before those sent later."""
    if node.rank == 0:
        await node.recv(1, tag="ready")
        await node.gather(node.send(1, 0, tag="stop"), *(node.send(1, number, tag="kept") for number in (1, 2, 3)))
    elif node.rank == 1:
        jobs: list[Job] = []

        async def stop() -> None:
            await node.recv(0, tag="stop")
            for job in jobs:
                job.cancel()

        stopping = node.spawn(stop())
        jobs += [node.spawn(node.recv(0, tag="kept")) for _ in range(2)]
        await node.sleep(0.0)
        await node.send(0, None, tag="ready")
        await stopping.wait()
        early = [await job.wait() for job in jobs]
        messages = [message for message in early if message is not None]
        messages += [await node.recv(0, tag="kept") for _ in range(3 - len(messages))]
        expect([message.payload for message in messages], [1, 2, 3])
