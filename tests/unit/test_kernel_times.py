"""sim.kernel_times: one draw per computation, shared by its kernels; concurrent kernels wait for nobody."""

from __future__ import annotations

import itertools

import numpy as np
from fault_cases import only, simulate

from psgdsim.node import Kernel
from psgdsim.sim.kernel_times import KernelTimes

WHOLE = Kernel("whole", lambda: 0, "gradient", rows=lambda: 4)
FIRST = Kernel("first", lambda: 0, "gradient", rows=lambda: 4, share=lambda: 0.25)
NEXT = Kernel("next", lambda: 0, "gradient", rows=lambda: 4, share=lambda: 0.75, continues=True)
ADD = Kernel("add", lambda: 0, is_concurrent=True)
APPLY = Kernel("apply", lambda: 0)


def kernel_times(codec_rate=None):
    """Times of a machine of double speed: a batch of 2 rows takes 10 s, then 20 s, 30 s, ..., at single speed."""
    draws = itertools.count(1)
    return KernelTimes(lambda _now, load: 10.0 * next(draws) * load, rank_rows=2, speed=2.0, codec_rate=codec_rate)


def seconds(times, kernel, *arguments, result=None):
    return times.timer(kernel, arguments, result)(0.0)


def test_kernels_of_one_computation_share_one_draw():
    times = kernel_times()
    assert [seconds(times, kernel) for kernel in (WHOLE, FIRST, NEXT, FIRST, NEXT, WHOLE)] == [
        10.0,
        5.0,
        15.0,
        7.5,
        22.5,
        40.0,
    ]


def test_a_codec_takes_time_by_its_larger_end():
    encode = Kernel("encode", lambda: 0, "codec")
    assert kernel_times().is_free(encode)
    times = kernel_times(codec_rate=100.0)
    assert not times.is_free(encode)
    assert seconds(times, encode, np.zeros(50, np.float32), result=np.zeros(10, np.float32)) == 1.0
    assert times.is_free(APPLY)


def test_what_is_concurrent_waits_for_no_kernel():
    ends = {}

    async def program(node):
        async def call(kernel):
            await node.compute(kernel)
            ends[kernel.name] = round(node.now, 6)

        await node.gather(call(WHOLE), call(ADD), call(APPLY))

    assert simulate(only(program)).error is None
    assert ends == {"add": 0.0, "whole": 0.2, "apply": 0.2}  # 4 rows; a batch has 2 and takes 100 ms
