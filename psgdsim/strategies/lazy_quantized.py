"""Lazily aggregated quantized gradients: what has changed enough to be worth a message is sent in a few bits."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Final

from pydantic import Field

from psgdsim.codecs import grid
from psgdsim.codecs.base import Codec
from psgdsim.compilation import lazy_jit
from psgdsim.errors import PeerLost
from psgdsim.node import Kernel, Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.lazy_base import (
    TOLERATED,
    History,
    LazyWorker,
    OnPeerLoss,
    Pace,
    Xi,
    lazy_strategy,
    size,
)
from psgdsim.strategies.lazy_server import LazyServer
from psgdsim.strategies.local_sgd import MOVE
from psgdsim.task import Task


@register_strategy("laq")
def laq(
    bits: Annotated[int, Field(ge=1, le=16)] = 4,
    xi: Xi = 0.08,
    history: History = 10,
    max_staleness: Annotated[int, Field(ge=1)] = 100,
    on_peer_loss: OnPeerLoss = "fail",
) -> Strategy:
    """Send gradients only where they have changed enough, and then only the change, rounded to a grid: LAQ.

    As `lag` with trigger `worker`, but q_i, what the server has of worker i, is on a grid around what it had before.
    With d = (rows_i / rows) g_i(w) - q_i, D values, and R = max |d|, the message is R and, for each value, the nearest
    of 2^b points from -R to R, t = 2 R / (2^b - 1) apart: rounded so, d is Q, no further than t / 2 from d in any
    coordinate. Nothing is sent, and q_i stays, if q_i is no older than `max_staleness` steps, and

    ||Q||^2 <= xi / (eta N)^2 * sum_{j=1..H} ||w_{k+1-j} - w_{k-j}||^2 + 3 (||e||^2 + ||e'||^2),

    where e = d - Q and e' is the same at the worker's last message. Else q_i <- q_i + Q at both ends. The server steps
    with the sum of all q_i.

    Each step, m bytes of parameters come down to each of N workers; 4 + ceil(b D / 8) bytes come up from each that
    sends: `uploads` in the server's rows. The others say in an empty message that they do not. `staleness` is how many
    steps old q_i was. xi = 0 and many bits are nearly synchronous SGD.
    Source: Sun, Chen, Giannakis and Yang, "Communication-Efficient Distributed Learning via Lazily Aggregated Quantized
    Gradients", NeurIPS 2019, arXiv 1909.07588.

    Note:
        The paper's weights xi_1, ..., xi_H are equal here. Points are sent as numbers of b bits without gaps; R is that
        of all parameters together. The notes of `lag` hold here, too.

    Args:
        bits: per value, b; 1 to 16, beyond which float32 knows no finer grid worth its bits.
        xi: how large a change may be that is not sent.
        history: over how many of the last steps w's way is added up, H.
        max_staleness: a worker that has sent nothing for so many steps sends in the next.
        on_peer_loss: as in `lag`.
    """
    tolerated = TOLERATED[on_peer_loss]

    def check(_world_size: int, codec: Codec) -> None:
        if not codec.is_identity:
            raise ValueError("codec: laq rounds gradients by itself, to `bits` bits; expected codec 'identity'")

    async def worker(node: Node, task: Task) -> None:
        pace = Pace(node, task, xi=xi, history=history)
        await _Worker(node, task, pace, tolerated, bits, max_staleness).run()

    async def server(node: Node, task: Task) -> None:
        await _Server(node, task, tolerated, bits).run()

    return lazy_strategy("laq", worker, server, check, tolerated)


class _Worker(LazyWorker):
    """The program of a worker.

    Args:
        node: its node.
        task: what is trained.
        pace: what its change must exceed.
        tolerated: the errors that do not end the run.
        bits: per value.
        max_staleness: for how many steps it may send nothing.
    """

    def __init__(
        self, node: Node, task: Task, pace: Pace, tolerated: tuple[type[PeerLost], ...], bits: int, max_staleness: int
    ) -> None:
        super().__init__(node, task, pace, tolerated)
        self._bits, self._max_staleness = bits, max_staleness
        self._error = 0.0  # squared, of its last message

    async def _change(self, gradient: Any, limit: float, step: int) -> Any:
        node = self._node
        gradient = await node.compute(self._task.uplink.guard, gradient, node.rank, step)
        payload = await node.compute(to_grid(self._bits), gradient, self._held, self._share)
        rounded = await node.compute(from_grid(self._bits), payload, self._held)
        measured = await node.compute(MEASURE, gradient, self._held, self._share, rounded)
        length, error = map(float, await node.read(measured))
        may_wait = self._has_sent and step - self._sent <= self._max_staleness
        if may_wait and length <= limit + 3 * (error + self._error):
            return None
        self._error = error
        self._held = await node.compute(MOVE, self._held, rounded)
        return payload


class _Server(LazyServer):
    """The program of the server.

    Args:
        node: its node.
        task: what is trained.
        tolerated: the errors that do not end the run.
        bits: per value.
    """

    def __init__(self, node: Node, task: Task, tolerated: tuple[type[PeerLost], ...], bits: int) -> None:
        super().__init__(node, task, tolerated)
        self._bits = bits

    async def _decode(self, payload: Any, worker: int) -> Any:
        return await self._node.compute(from_grid(self._bits), payload, self._held[worker])


# --- kernels ------------------------------------------------------------------------------------------------------


@functools.cache
def to_grid(bits: int) -> Kernel:
    """Return `(gradient, held, share) -> payload`: the change of a gradient, rounded to a grid of 2**bits points."""

    def function(gradient: Any, held: Any, share: Any) -> dict[str, Any]:
        from jax.flatten_util import ravel_pytree

        return grid.to_grid(share * ravel_pytree(gradient)[0] - ravel_pytree(held)[0], bits)

    return Kernel("to_grid", lazy_jit(function), "codec")


@functools.cache
def from_grid(bits: int) -> Kernel:
    """Return `(payload, like) -> tree`: the points of a grid as numbers."""

    def function(payload: dict[str, Any], like: Any) -> Any:
        from jax.flatten_util import ravel_pytree

        vector, unravel = ravel_pytree(like)
        return unravel(grid.from_grid(payload, bits, vector))

    return Kernel("from_grid", lazy_jit(function), "codec")


def _measure(gradient: Any, held: Any, share: Any, rounded: Any) -> tuple[Any, Any]:
    import jax

    return size(rounded), size(jax.tree.map(lambda g, h, q: share * g - h - q, gradient, held, rounded))


MEASURE: Final = Kernel("measure", lazy_jit(_measure))
