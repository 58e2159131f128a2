"""Receives from any rank when peers are lost: each loss is told once, in its turn, in simulation."""

from __future__ import annotations

import pytest
from fault_cases import only, simulate

from psgdsim.errors import PeerLost
from psgdsim.mailbox import Loss, Mailbox, Waiter
from psgdsim.node import Message


def crash(rank, at, **more):
    return {"kind": "crash", "rank": rank, "at": at, **more}


async def lost(node, tag="news"):
    with pytest.raises(PeerLost) as error:
        await node.recv(tag=tag)
    return node.now, error.value.peer


async def sleep(node):
    await node.sleep(20)


def test_a_loss_is_told_once_and_the_others_are_heard():
    seen = []

    async def receive(node):
        seen.append(await lost(node))
        seen.append(((await node.recv(tag="news")).src, node.now > 3))

    async def send(node):
        await node.sleep(3)
        await node.send(0, 7, tag="news")

    assert simulate(only(receive, sleep, send), faults=[crash(1, "2 s")]).error is None
    assert seen == [(2.0, 1), (2, True)]


def test_a_loss_comes_after_what_came_before_it_and_before_what_came_later():
    seen = []

    async def receive(node):
        await node.sleep(5)
        seen.append((await node.recv(tag="news")).payload)
        seen.append((await lost(node))[1])
        seen.append((await node.recv(tag="news")).payload)

    async def send(node):
        for second in (1, 3):
            await node.sleep(second - node.now)
            await node.send(0, second, tag="news")

    assert simulate(only(receive, sleep, send), faults=[crash(1, "2 s")]).error is None
    assert seen == [1, 1, 3]


def test_a_message_with_another_tag_does_not_hide_a_loss():
    seen = []

    async def receive(node):
        await node.sleep(5)
        seen.append((await lost(node, "other"))[1])
        seen.append((await node.recv(tag="news")).src)

    async def send(node):
        await node.send(0, None, tag="news")

    assert simulate(only(receive, sleep, send), faults=[crash(1, "2 s")]).error is None
    assert seen == [1, 2]


def test_a_rank_that_comes_back_and_is_lost_again_is_told_again():
    seen = []

    async def receive(node):
        for _ in range(2):
            seen.append(await lost(node))
        seen.append((await node.recv(tag="news")).payload)

    async def send(node):
        await node.sleep(1 if node.now else 10)
        if node.now < 6:
            await node.sleep(10)
        await node.send(0, node.now, tag="news")

    faults = [crash(1, "2 s", restart_after="1 s"), crash(1, "4500 ms", restart_after="1 s")]
    assert simulate(only(receive, send), faults=faults).error is None
    assert seen[:2] == [(2.0, 1), (4.5, 1)]
    assert seen[2] == 6.5


def test_where_all_others_are_lost_every_receive_says_so():
    seen = []

    async def receive(node):
        for _ in range(5):
            seen.append(await lost(node))

    assert simulate(only(receive, sleep, sleep, sleep), faults=[crash(rank, "2 s") for rank in (1, 2, 3)]).error is None
    assert [time for time, _ in seen] == [2.0] * 5
    assert [peer for _, peer in seen[:3]] == [1, 2, 3]


def test_one_of_several_receives_is_told():
    seen = []

    async def receive(node):
        async def take(tag):
            try:
                seen.append((await node.recv(tag=tag)).payload)
            except PeerLost as error:
                seen.append((tag, error.peer))

        await node.gather(take("first"), take("second"))

    async def send(node):
        await node.sleep(3)
        await node.send(0, "second", tag="second")

    assert simulate(only(receive, sleep, send), faults=[crash(1, "2 s")]).error is None
    assert seen == [("first", 1), "second"]


def test_a_receive_that_is_cancelled_at_the_moment_of_a_loss_leaves_it_to_the_next():
    seen = []

    async def receive(node):
        job = node.spawn(node.recv(tag="news"))
        named = node.spawn(cancel_when_lost(node, job))
        await named.wait()
        seen.append((await lost(node))[1])

    async def cancel_when_lost(node, job):
        with pytest.raises(PeerLost):
            await node.recv(1, tag="named")
        job.cancel()
        assert await job.wait() is None

    assert simulate(only(receive, sleep), faults=[crash(1, "2 s")]).error is None
    assert seen == [1]


def test_a_rank_that_begins_again_is_told_who_is_gone():
    seen = []

    async def receive(node):
        if node.now:
            seen.append((node.now, (await lost(node))[1]))
        await node.sleep(10)

    faults = [crash(0, "1 s", restart_after="2 s"), crash(1, "2 s")]
    assert simulate(only(receive, sleep, sleep), faults=faults).error is None
    assert seen == [(3.0, 1)]


def test_a_mailbox_keeps_losses_in_the_order_of_arrival():
    mailbox = Mailbox()
    mailbox.put(Message(2, "a", 1))
    assert mailbox.lose(Loss(1, "first")) == []
    mailbox.put(Message(2, "b", 2))
    assert mailbox.lose(Loss(2, "second")) == []
    assert mailbox.take_loss("a") is None
    assert [mailbox.take_loss("b") for _ in range(3)] == [Loss(1, "first"), None, None]
    assert mailbox.take(None, "b").payload == 2
    assert mailbox.take_loss("b") == Loss(2, "second")


def test_a_loss_fails_all_that_name_the_rank_and_the_oldest_that_names_none():
    mailbox = Mailbox()
    waiters = [Waiter(src, "t", lambda _: None) for src in (1, None, 2, 1, None)]
    for waiter in waiters:
        mailbox.wait(waiter)
    assert mailbox.lose(Loss(1, "")) == [waiters[0], waiters[3], waiters[1]]
    assert mailbox.waiters == (waiters[2], waiters[4])
    assert mailbox.take_loss("t") is None


def test_messages_of_many_senders_are_taken_in_the_order_of_arrival():
    mailbox = Mailbox()
    for number in range(6):
        mailbox.put(Message(number % 3, "ab"[number % 2], number))
    assert mailbox.take(1, "b").payload == 1
    assert mailbox.take(None, "a").payload == 0
    assert [message.payload for message in mailbox.unread] == [2, 3, 4, 5]
    assert [mailbox.take(None, "b").payload for _ in range(2)] == [3, 5]
    assert mailbox.take(None, "b") is None
    assert [mailbox.take(src, "a").payload for src in (1, 2)] == [4, 2]
    assert mailbox.unread == []
