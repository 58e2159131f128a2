"""A codec in use, as the kernels that a program runs at both ends of one direction."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from psgdsim import rng, trees
from psgdsim.codecs.base import Codec
from psgdsim.compilation import lazy_jit
from psgdsim.errors import CodecError
from psgdsim.node import Kernel

UPLINK: Final = "codec"
"""What the random keys of gradients are drawn for."""

DOWNLINK: Final = "downlink codec"
"""What the random keys of a server's answers are drawn for."""


@dataclass(frozen=True)
class Coding:
    """The kernels of one direction.

    Args:
        codec: what codes.
        seed: the scenario's seed.
        purpose: what random keys are drawn for.
    """

    codec: Codec
    seed: int
    purpose: str

    @cached_property
    def init(self) -> Kernel:
        """`(like) -> state`: the memory of one end."""
        return Kernel("init_codec", lazy_jit(self.codec.init), "codec")

    @cached_property
    def encode(self) -> Kernel:
        """`(update, state, rank, step) -> (payload, state)`; the random key is that of the rank and the step."""

        @functools.cache
        def base() -> Any:
            import jax

            with jax.ensure_compile_time_eval():
                return rng.key(self.seed, self.purpose)

        @lazy_jit
        def encode(update: Any, state: Any, key: Any, rank: int, step: int) -> tuple[Any, Any]:
            import jax

            return self.codec.encode(update, state, jax.random.fold_in(jax.random.fold_in(key, rank), step))

        pack = self.codec.pack

        def encode_at(update: Any, state: Any, rank: int, step: int) -> tuple[Any, Any]:
            payload, after = encode(update, state, base(), rank, step)
            return (payload if pack is None else pack(_on_host(payload), update)), after

        return Kernel("encode", encode_at, "codec", forwards=self._unchanged)

    @cached_property
    def decode(self) -> Kernel:
        """`(payload, state, like) -> (update, state)`.

        A payload of other shapes than the codec makes is a `CodecError`.
        """

        @lazy_jit
        def decode(payload: Any, state: Any, like: Any) -> tuple[Any, Any]:
            self._check_payload(payload, like)
            update, after = self.codec.decode(payload, state, like)
            got, expected = trees.shapes(update), trees.shapes(like)
            if got != expected:
                raise CodecError(
                    f"the codec decodes to {got}; expected the shapes and dtypes of the update, {expected}"
                )
            return update, after

        unpack = self.codec.unpack
        if unpack is None:
            return Kernel("decode", decode, "codec", forwards=self._unchanged)

        def decode_packed(payload: Any, state: Any, like: Any) -> tuple[Any, Any]:
            return decode(unpack(_on_host(payload), like), state, like)  # type: ignore[no-any-return]

        return Kernel("decode", decode_packed, "codec")

    def _check_payload(self, payload: Any, like: Any) -> None:
        """Raise unless a payload looks like one of this codec's; costs nothing once compiled."""
        import jax

        def encode(update: Any) -> Any:
            return self.codec.encode(update, self.codec.init(update), jax.random.key(0))[0]

        expected = jax.eval_shape(encode, jax.eval_shape(lambda tree: tree, like))
        structures = [str(jax.tree.structure(tree)) for tree in (payload, expected)]
        if structures[0] != structures[1]:
            raise CodecError(f"a payload has the structure {structures[0]}; expected {structures[1]}")
        if trees.shapes(payload) != trees.shapes(expected):
            raise CodecError(f"a payload has {trees.shapes(payload)}; expected {trees.shapes(expected)}")

    @property
    def _unchanged(self) -> tuple[int, int] | None:
        """The arguments that coding returns, update (or payload) and state, if that is all it does."""
        return (0, 1) if self.codec.is_identity else None


def _on_host(payload: Any) -> Any:
    """Return a payload with numpy arrays; being traced by jax it raises, so such kernels are called as they are."""
    import jax
    import numpy as np

    return jax.tree.map(np.asarray, payload)
