"""Times that follow from the model that is trained, or from the machine at hand."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from psgdsim.compute_times.base import ComputeTime, register_compute_time, unknown
from psgdsim.units import FlopRate


@register_compute_time("flops")
def flops(rate: Annotated[FlopRate, Field(gt=0)]) -> ComputeTime:
    """Take the floating-point operations of the gradient, as XLA counts them, over the machine's rate.

    The operations are those of one batch before XLA's optimizations, so they do not depend on the machine that counts.
    The run folder's scenario has the time itself, as `constant`.

    Args:
        rate: what the machine reaches on this kind of work, not its peak.
    """
    return unknown(lambda machine: machine.flops() / rate)


@register_compute_time("measured")
def measured(repeats: Annotated[int, Field(ge=1, le=10_000)] = 10) -> ComputeTime:
    """Time the gradient of one batch on this machine when the run starts, and take the median.

    The run folder's scenario has the time itself, as `constant`, so that the run can be repeated.

    Args:
        repeats: measurements, after one that compiles and is not counted.
    """
    return unknown(lambda machine: machine.seconds(repeats))
