"""The laws of what runs at the same time: `gather`, `spawn` and cancelling."""

from __future__ import annotations

from psgdsim.node import Job, Node
from psgdsim.testing.laws import EPILOGUES, expect, law


@law
async def gather_returns_results_in_order(node: Node) -> None:
    """Also of coroutines that end in another order."""

    async def after(seconds: float, result: int) -> int:
        await node.sleep(seconds)
        return result

    expect(await node.gather(after(0.03, 1), after(0.0, 2), after(0.01, 3)), [1, 2, 3])
    expect(await node.gather(), [])


@law
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
        expect(ended, [True])
    else:
        raise AssertionError("gather swallowed an error")


@law
async def spawned_work_runs_beside_its_program(node: Node) -> None:
    """`wait` returns its result or raises its error."""

    async def work(*, fails: bool) -> int:
        await node.sleep(0.01)
        if fails:
            raise LookupError("on purpose")
        return 4

    expect(await node.spawn(work(fails=False)).wait(), 4)
    try:
        await node.spawn(work(fails=True)).wait()
    except LookupError:
        return
    raise AssertionError("the error of a spawned coroutine got lost")


@law
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


EPILOGUES[a_job_ends_with_its_program.__name__] = _send_too_late


@law
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
    expect(await others[0].wait(), None)


@law
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
    expect((await jobs[0].wait(), went_on), (None, []))


@law
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
    expect(await job.wait(), None)


@law
async def a_wait_that_is_cancelled_does_not_swallow_the_error(node: Node) -> None:
    """The next one who waits for the job gets it."""

    async def fail() -> None:
        await node.sleep(0.03)
        raise LookupError("on purpose")

    job = node.spawn(fail())
    waiting = node.spawn(job.wait())
    await node.sleep(0.0)
    waiting.cancel()
    expect(await waiting.wait(), None)
    try:
        await job.wait()
    except LookupError:
        return
    raise AssertionError("the error of a job got lost with one who waited for it")
