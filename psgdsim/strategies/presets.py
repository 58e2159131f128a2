"""The names that the Parallel-SGD platform of 2019 to 2021 gave to strategies; docs/parallel_sgd.md has all of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from psgdsim.codecs.base import Codec
from psgdsim.strategies.all_reduce import all_reduce
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.local_sgd import local_sgd
from psgdsim.strategies.parameter_server import parameter_server

Count = Annotated[int, Field(ge=1)]


@register_strategy("ssgd")
def ssgd(servers: Count = 1, downlink: Codec | None = None) -> Strategy:
    """Synchronous SGD with a parameter server: `parameter_server` with `sync: bsp`.

    Bytes and source are those of that.

    Args:
        servers: as in `parameter_server`.
        downlink: as in `parameter_server`.
    """
    return parameter_server("bsp", servers=servers, downlink=downlink)


@register_strategy("asgd")
def asgd(downlink: Codec | None = None) -> Strategy:
    """Asynchronous SGD with a parameter server: `parameter_server` with `sync: async`.

    Bytes and source are those of that.

    Args:
        downlink: as in `parameter_server`.
    """
    return parameter_server("async", downlink=downlink)


@register_strategy("pa")
def pa(period: Count = 1) -> Strategy:
    """Average the parameters of all workers after every step: `local_sgd` with `period: 1` unless it says otherwise.

    Bytes and source are those of that.

    Args:
        period: local steps between two averages.
    """
    return local_sgd(period=period)


@register_strategy("fast")
def fast() -> Strategy:
    """Add up the gradients of a step while those of the next are computed: `all_reduce` with `double_buffer`.

    Bytes and source are those of that.
    """
    return all_reduce(double_buffer=True)
