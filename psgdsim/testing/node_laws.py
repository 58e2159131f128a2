"""The laws of `Node`, as programs: whatever runs programs must obey them.

Name this module in a scenario's `plugins` and run `strategy: {kind: node_law, law: NAME}` with the driver to check;
the run fails if the law is broken.

Example:
    >>> sorted(LAWS)[:2]
    ['a_cancelled_receive_swallows_nothing', 'a_multicast_reaches_all_and_only_those_named']
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from psgdsim.errors import RecvTimeout, nearest
from psgdsim.node import Job, Kernel, Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.task import Task

Law = Callable[[Node], Coroutine[Any, Any, None]]

LAWS: dict[str, Law] = {}
"""All laws by name; each is a program that every rank runs, and raises if the law is broken."""

_EPILOGUES: dict[str, Law] = {}
"""What belongs to a law, by its name, but comes after the last step."""


def _law(program: Law) -> Law:
    LAWS[program.__name__] = program
    return program


@register_strategy("node_law")
def node_law(law: str = "all") -> Strategy:
    """Run one law of `Node` on every rank, or one after the other; it trains nothing.

    Args:
        law: a name in `psgdsim.testing.node_laws.LAWS`, or `all`.
    """
    if law not in LAWS and law != "all":
        raise ValueError(f"law: no law is called {law!r}; {nearest(law, [*LAWS, 'all'])}")
    names = list(LAWS) if law == "all" else [law]

    async def worker(node: Node, task: Task) -> None:
        state = await node.compute(task.init, 0, None)
        for step in task.steps():
            for name in names:
                await LAWS[name](node)
            if not await node.checkpoint(step, [state.params]):
                break
        for name in names:
            if name in _EPILOGUES:
                await _EPILOGUES[name](node)

    return Strategy(worker)


def _expect(got: object, expected: object) -> None:
    if got != expected:
        raise AssertionError(f"expected {expected!r}; got {got!r}")


def _filled(number: float, size: int = 3) -> Any:
    import jax.numpy as jnp

    return jnp.full((size,), number, jnp.float32)


FILL = Kernel("fill", _filled)
DOUBLE = Kernel("double", lambda tree: {name: 2 * leaf for name, leaf in tree.items()})


async def _numbers(node: Node, value: Any) -> list[float]:
    return [float(number) for number in await node.read(value)]


@_law
async def ranks_are_counted_from_zero(node: Node) -> None:
    """`rank`, `world_size` and `role` are what the scenario says."""
    _expect(0 <= node.rank < node.world_size, True)
    _expect(node.role, "worker")


@_law
async def compute_maps_pytrees_of_values(node: Node) -> None:
    """A kernel takes and gives pytrees; `read` brings their numbers."""
    value = await node.compute(FILL, node.rank)
    doubled = await node.compute(DOUBLE, {"a": value, "b": value})
    _expect(await _numbers(node, doubled["b"]), [2.0 * node.rank] * 3)


@_law
async def messages_carry_trees_and_plain_numbers(node: Node) -> None:
    """Dicts, lists, tuples, None, ints, floats, bools, texts and values arrive as they were sent."""
    value = await node.compute(FILL, node.rank)
    payload = {"value": value, "plain": (1, 2.5, True, None, "text"), "list": [node.rank]}
    successor, predecessor = (node.rank + 1) % node.world_size, (node.rank - 1) % node.world_size
    _, message = await node.gather(node.send(successor, payload, tag="tree"), node.recv(predecessor, tag="tree"))
    _expect((message.src, message.tag), (predecessor, "tree"))
    _expect(message.payload["plain"], (1, 2.5, True, None, "text"))
    _expect(message.payload["list"], [predecessor])
    _expect(await _numbers(node, message.payload["value"]), [float(predecessor)] * 3)


@_law
async def messages_of_one_sender_and_tag_keep_their_order(node: Node) -> None:
    """What is sent first is received first."""
    if node.rank == 0:
        for number in range(20):
            await node.send(1, number, tag="count")
    elif node.rank == 1:
        _expect([(await node.recv(0, tag="count")).payload for _ in range(20)], list(range(20)))


@_law
async def tags_are_received_in_any_order(node: Node) -> None:
    """A receive passes over messages with other tags."""
    if node.rank == 0:
        for tag in ("first", "second", "third"):
            await node.send(1, tag, tag=tag)
    elif node.rank == 1:
        for tag in ("third", "first", "second"):
            _expect((await node.recv(0, tag=tag)).payload, tag)


@_law
async def a_receive_takes_the_oldest_that_fits(node: Node) -> None:
    """A receive from any rank gets each message once, whoever sent it."""
    if node.rank:
        await node.send(0, node.rank, tag="hello")
    else:
        senders = [(await node.recv(tag="hello")).src for _ in range(node.world_size - 1)]
        _expect(sorted(senders), list(range(1, node.world_size)))


@_law
async def a_multicast_reaches_all_and_only_those_named(node: Node) -> None:
    """One payload, several receivers."""
    others = list(range(1, node.world_size))
    if node.rank == 0:
        await node.multicast(others, await node.compute(FILL, 7), tag="news")
    else:
        message = await node.recv(0, tag="news")
        _expect((message.src, await _numbers(node, message.payload)), (0, [7.0] * 3))


@_law
async def everyone_may_send_at_once(node: Node) -> None:
    """Large messages both ways between all ranks at the same time do not block each other."""
    others = [rank for rank in range(node.world_size) if rank != node.rank]
    value = await node.compute(FILL, node.rank, 300_000)
    results = await node.gather(
        *(node.send(rank, value, tag="big") for rank in others), *(node.recv(rank, tag="big") for rank in others)
    )
    for rank, message in zip(others, results[len(others) :], strict=True):
        _expect(float((await node.read(message.payload))[-1]), float(rank))


@_law
async def gather_returns_results_in_order(node: Node) -> None:
    """Also of coroutines that end in another order."""

    async def after(seconds: float, result: int) -> int:
        await node.sleep(seconds)
        return result

    _expect(await node.gather(after(0.03, 1), after(0.0, 2), after(0.01, 3)), [1, 2, 3])
    _expect(await node.gather(), [])


@_law
async def gather_raises_the_first_error_and_cancels_the_rest(node: Node) -> None:
    """And the `finally` blocks of the others run."""
    ended = []

    async def fail() -> None:
        await node.sleep(0.0)
        raise LookupError("on purpose")

    async def wait_for_ever() -> None:
        try:
            await node.recv(tag="never")
        finally:
            ended.append(True)

    try:
        await node.gather(wait_for_ever(), fail())
    except LookupError:
        _expect(ended, [True])
    else:
        raise AssertionError("gather swallowed an error")


@_law
async def time_passes_by_as_much_as_one_sleeps(node: Node) -> None:
    """`now` does not run backwards, and a sleep takes at least its time."""
    before = node.now
    await node.sleep(0.02)
    _expect(node.now - before >= 0.02 * (1 - 1e-9), True)


@_law
async def a_timeout_is_an_error(node: Node) -> None:
    """A receive gives up when nothing came in time, and says for what it waited."""
    try:
        await node.recv(tag="never", timeout=0.01)
    except RecvTimeout as error:
        _expect((error.rank, error.tag), (node.rank, "never"))
    else:
        raise AssertionError("a receive that had nothing to receive returned")


@_law
async def a_cancelled_receive_swallows_nothing(node: Node) -> None:
    """The message goes to the next receive."""
    if node.rank == 0:
        await node.recv(1, tag="ready")
        await node.send(1, 5, tag="late")
    elif node.rank == 1:
        job = node.spawn(node.recv(0, tag="late"))
        await node.sleep(0.01)
        job.cancel()
        _expect(await job.wait(), None)
        await node.send(0, None, tag="ready")
        _expect((await node.recv(0, tag="late")).payload, 5)


@_law
async def spawned_work_runs_beside_its_program(node: Node) -> None:
    """`wait` returns its result or raises its error."""

    async def work(*, fails: bool) -> int:
        await node.sleep(0.01)
        if fails:
            raise LookupError("on purpose")
        return 4

    _expect(await node.spawn(work(fails=False)).wait(), 4)
    try:
        await node.spawn(work(fails=True)).wait()
    except LookupError:
        return
    raise AssertionError("the error of a spawned coroutine got lost")


@_law
async def a_small_message_does_not_overtake_a_large_one(node: Node) -> None:
    """Also when both are under way at the same time, whether they go to one rank or to several."""
    others = list(range(1, node.world_size))
    for size in (200_000, 300_000):
        if node.rank == 0:
            large = await node.compute(FILL, 1, size)
            await node.gather(*(node.send(1, payload, tag="order") for payload in ((1, large), (2,), (3,))))
            await node.gather(*(node.multicast(others, payload, tag="orders") for payload in ((1, large), (2,), (3,))))
        if node.rank == 1:
            _expect([(await node.recv(0, tag="order")).payload[0] for _ in range(3)], [1, 2, 3])
        if node.rank:
            _expect([(await node.recv(0, tag="orders")).payload[0] for _ in range(3)], [1, 2, 3])


@_law
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
        _expect((await node.recv(0, tag="mine")).payload, {"list": [1]})
    else:
        await node.sleep(0.01)
    received = (await node.recv(0, tag="ours")).payload
    _expect(received, {"list": [3]})
    received["list"].clear()


@_law
async def a_multicast_to_nobody_sends_nothing(node: Node) -> None:
    """And takes no time of the network."""
    await node.multicast([], node.rank, tag="nobody")
    try:
        await node.recv(tag="nobody", timeout=0.01)
    except RecvTimeout:
        return
    raise AssertionError("a multicast to nobody arrived")


@_law
async def a_job_ends_with_its_program(node: Node) -> None:
    """What it waits for may come; it is not there any more."""

    async def outlive() -> None:
        await node.recv(1, tag="too late")
        raise AssertionError("a job outlived its program")

    if node.rank == 0:
        node.spawn(outlive())


async def _send_too_late(node: Node) -> None:
    if node.rank == 1:
        await node.sleep(0.05)  # until the program of rank 0 has ended
        await node.send(0, None, tag="too late")
        await node.sleep(0.05)


_EPILOGUES[a_job_ends_with_its_program.__name__] = _send_too_late


@_law
async def a_job_may_cancel_one_that_waits_for_the_same(node: Node) -> None:
    """Of two that wait for a third, the first to wake cancels the other."""
    others: list[Job] = []

    async def wait_and_cancel() -> None:
        await first.wait()
        others[0].cancel()

    async def wait_and_sleep() -> None:
        await first.wait()
        await node.recv(tag="never")

    first = node.spawn(node.sleep(0.01))
    canceller = node.spawn(wait_and_cancel())
    others.append(node.spawn(wait_and_sleep()))
    await canceller.wait()
    _expect(await others[0].wait(), None)


@_law
async def a_job_may_cancel_itself(node: Node) -> None:
    """It ends where it waits next."""
    jobs: list[Job] = []
    went_on = []

    async def give_up() -> None:
        await node.sleep(0.0)
        jobs[0].cancel()
        await node.sleep(0.01)
        went_on.append(True)

    jobs.append(node.spawn(give_up()))
    _expect((await jobs[0].wait(), went_on), (None, []))


@_law
async def a_cancelled_job_ends_even_if_it_awaits_once_more(node: Node) -> None:
    """In its `finally` blocks; whether that is carried out is not said."""

    async def linger() -> None:
        try:
            try:
                await node.recv(tag="never")
            finally:
                await node.sleep(0.01)
        finally:
            await node.sleep(0.01)

    job = node.spawn(linger())
    await node.sleep(0.0)
    job.cancel()
    _expect(await job.wait(), None)


@_law
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
        _expect([message.payload for message in messages], [1, 2, 3])


@_law
async def a_wait_that_is_cancelled_does_not_swallow_the_error(node: Node) -> None:
    """The next one who waits for the job gets it."""

    async def fail() -> None:
        await node.sleep(0.03)
        raise LookupError("on purpose")

    job = node.spawn(fail())
    waiting = node.spawn(job.wait())
    await node.sleep(0.0)
    waiting.cancel()
    _expect(await waiting.wait(), None)
    try:
        await job.wait()
    except LookupError:
        return
    raise AssertionError("the error of a job got lost with one who waited for it")
