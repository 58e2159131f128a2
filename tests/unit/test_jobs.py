"""real.jobs: what is gathered or spawned ends with its program, and no error gets lost."""

from __future__ import annotations

import asyncio

import pytest

from psgdsim.real.jobs import Jobs, gather


async def give(value):
    await asyncio.sleep(0)
    return value


async def fail(message="no"):
    await asyncio.sleep(0)
    raise ValueError(message)


class Endless:
    """A coroutine that never ends, and says whether it was ended."""

    def __init__(self):
        self.is_ended = False

    async def run(self):
        try:
            await asyncio.sleep(3600)
        finally:
            self.is_ended = True


def test_gather_returns_results_in_order():
    async def main():
        return await gather([give(2), give(1)]), await gather([])

    assert asyncio.run(main()) == ([2, 1], [])


def test_the_first_error_ends_the_others_and_is_raised():
    endless = Endless()

    async def main():
        with pytest.raises(ValueError, match="no"):
            await gather([endless.run(), fail(), give(1)])
        assert endless.is_ended

    asyncio.run(main())


def test_cancelling_a_gather_ends_what_it_gathers():
    endless = Endless()

    async def main():
        task = asyncio.create_task(gather([endless.run()]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert endless.is_ended

    asyncio.run(main())


def test_a_job_gives_its_result_or_its_error():
    async def main():
        jobs = Jobs()

        async def program():
            assert await jobs.start(give(7)).wait() == 7
            with pytest.raises(ValueError, match="no"):
                await jobs.start(fail()).wait()

        await jobs.run(program())

    asyncio.run(main())


def test_a_cancelled_job_gives_none():
    async def main():
        jobs, endless = Jobs(), Endless()

        async def program():
            job = jobs.start(endless.run())
            await asyncio.sleep(0.01)
            job.cancel()
            assert await job.wait() is None
            job.cancel()

        await jobs.run(program())
        assert endless.is_ended

    asyncio.run(main())


def test_an_error_that_nobody_waits_for_ends_the_program():
    async def main():
        jobs, endless = Jobs(), Endless()

        async def program():
            jobs.start(fail("unheard"))
            await endless.run()

        with pytest.raises(ValueError, match="unheard"):
            await jobs.run(program())
        assert endless.is_ended

    asyncio.run(main())


def test_an_error_is_unheard_once_whoever_waited_has_been_cancelled():
    async def main():
        jobs, endless, may_fail = Jobs(), Endless(), asyncio.Event()

        async def fail_later():
            await may_fail.wait()
            raise ValueError("unheard")

        async def program():
            job = jobs.start(fail_later())
            waiting = asyncio.create_task(job.wait())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
            may_fail.set()
            await endless.run()

        with pytest.raises(ValueError, match="unheard"):
            await jobs.run(program())
        assert endless.is_ended

    asyncio.run(main())


def test_an_error_is_unheard_if_whoever_waited_is_cancelled_at_the_same_moment():
    async def main():
        jobs, endless = Jobs(), Endless()

        async def program():
            async def fail_and_cancel():
                waiting.cancel()
                raise ValueError("unheard")

            job = jobs.start(fail_and_cancel())
            waiting = asyncio.create_task(job.wait())
            await endless.run()

        with pytest.raises(ValueError, match="unheard"):
            await jobs.run(program())

    asyncio.run(main())


def test_jobs_end_with_their_program():
    async def main():
        jobs, endless = Jobs(), Endless()

        async def program():
            jobs.start(endless.run())
            await asyncio.sleep(0.01)

        await jobs.run(program())
        assert endless.is_ended

    asyncio.run(main())
