"""A model in shards, each on a server of its own: workers cut what they send, and join what they are sent."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from psgdsim.collectives.base import offsets
from psgdsim.compilation import lazy_jit
from psgdsim.errors import StrategyError
from psgdsim.node import Kernel, Node
from psgdsim.strategies.server_base import SynchronousServer


def _cut(tree: Any, parts: int) -> list[Any]:
    from jax.flatten_util import ravel_pytree

    vector = ravel_pytree(tree)[0]
    if vector.shape[0] < parts:
        raise StrategyError(f"servers: expected at most one per parameter of the model, {vector.shape[0]}; got {parts}")
    places = offsets(vector.shape[0], parts)
    return [vector[start:stop] for start, stop in itertools.pairwise(places)]


def _join(parts: list[Any], like: Any) -> Any:
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    return ravel_pytree(like)[1](jnp.concatenate(parts))


CUT_SHARDS: Final = Kernel("cut_shards", lazy_jit(_cut, static=("parts",)))
JOIN_SHARDS: Final = Kernel("join_shards", lazy_jit(_join))


class Shards:
    """How a model lies on the servers: whole on a single one, else as contiguous parts of all parameters in a row.

    Args:
        node: this rank.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    async def cut(self, tree: Any) -> list[Any]:
        """Return what concerns each server: vectors `(d,)` as equal as possible, or the tree if there is one server."""
        if self._node.num_servers == 1:
            return [tree]
        parts: list[Any] = await self._node.compute(CUT_SHARDS, tree, self._node.num_servers)
        return parts

    async def join(self, parts: Sequence[Any], like: Any) -> Any:
        """Return the tree that was cut into these parts; `like` has its shapes."""
        if len(parts) == 1:
            return parts[0]
        return await self._node.compute(JOIN_SHARDS, list(parts), like)

    def stream(self, rank: int, place: int) -> int:
        """Return the number by which random keys for a rank's part are drawn: that of no other rank and part."""
        return rank + place * self._node.world_size


class ShardServer(SynchronousServer):
    """A server that keeps one of the shards."""

    async def _begin(self) -> Any:
        whole = await super()._begin()
        parts = await Shards(self._node).cut(whole.params)
        return await self._node.compute(self._task.start, parts[self._node.servers.index(self._node.rank)])
