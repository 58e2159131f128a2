"""A codec in use, as the kernels that a program runs at both ends of one direction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from psgdsim import rng, trees
from psgdsim.codecs.base import Codec
from psgdsim.codecs.shapes import payload_shapes
from psgdsim.compilation import jit_of
from psgdsim.errors import CodecError
from psgdsim.node import Kernel

TOO_LARGE: Final = -1
"""The mark of an update that is finite, of which a codec makes something that is not."""

OnNonfinite = Literal["fail", "skip"]

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
        on_nonfinite: what becomes of an update with NaN or infinity in it, or too large for the codec: `fail`, it ends
            the run; `skip`, zeros are coded in its place. A codec that codes nothing does not look.
    """

    codec: Codec
    seed: int
    purpose: str
    on_nonfinite: OnNonfinite = "fail"

    @cached_property
    def init(self) -> Kernel:
        """`(like) -> state`: the memory of one end."""
        return Kernel("init_codec", jit_of(self.codec, self.codec.init), "codec")

    @cached_property
    def encode(self) -> Kernel:
        """`(update, state, rank, step) -> (payload, state)`; the random key is that of the rank and the step."""

        @functools.cache
        def base() -> Any:
            import jax

            with jax.ensure_compile_time_eval():
                return rng.key(self.seed, self.purpose)

        def encode(update: Any, state: Any, key: Any, rank: int, step: int) -> tuple[Any, Any, Any]:
            import jax

            key = jax.random.fold_in(jax.random.fold_in(key, rank), step)
            update, mark = self._marked(update)
            payload, after = self.codec.encode(update, state, key)
            too_large = _is_odd(payload) & (mark == 0)
            if self.on_nonfinite == "skip":
                blank = self.codec.encode(jax.tree.map(lambda leaf: 0 * leaf, update), state, key)
                payload, after = _choose(too_large, blank, (payload, after))
            return payload, after, jax.numpy.where(too_large, TOO_LARGE, mark)

        encode = jit_of(self.codec, encode, self.on_nonfinite)
        pack = self.codec.pack

        def encode_at(update: Any, state: Any, rank: int, step: int) -> Any:
            payload, after, mark = encode(update, state, base(), rank, step)
            if pack is not None:  # it needs the numbers: a simulation cannot trace that, and calls this as it is
                payload = pack(trees.numbers(payload), update)
            return (payload, after), mark

        if self.codec.is_identity:
            return Kernel("encode", lambda update, state, _rank, _step: (update, state), "codec", forwards=(0, 1))
        return Kernel("encode", encode_at, "codec", judge=self._judge)

    @cached_property
    def guard(self) -> Kernel:
        """`(update, rank, step) -> update`: look at an update as `encode` does, before it is coded otherwise."""
        marked = jit_of(self.codec, self._marked, self.on_nonfinite)

        def judge(update: Any, rank: int, step: int) -> Callable[[Any], bool]:
            return self._judge(update, None, rank, step)

        return Kernel("guard", lambda update, _rank, _step: marked(update), judge=judge)

    def _marked(self, update: Any) -> tuple[Any, Any]:
        """Return what is to be coded, and 1 + the place of the first leaf that is not finite, 0 if all are."""
        import jax
        import jax.numpy as jnp

        is_odd = jnp.stack([~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(update)])
        mark = jnp.where(is_odd.any(), 1 + jnp.argmax(is_odd), 0)
        if self.on_nonfinite == "skip":
            update = jax.tree.map(lambda leaf: jnp.where(mark == 0, leaf, 0), update)
        return update, mark

    def _judge(self, update: Any, _state: Any, rank: int, step: int) -> Callable[[Any], bool]:
        """Return what takes the mark of an update, and fails if that must not be used."""
        import jax

        structure: Any = jax.tree.structure(update)

        def verdict(mark: Any) -> bool:
            place = int(mark)
            if place == TOO_LARGE and self.on_nonfinite == "fail":
                raise CodecError(
                    f"rank {rank}, step {step}: the update has values that are too large for the codec, which makes "
                    "NaN or infinity of them; choose another codec, or leave such updates out with on_nonfinite: skip"
                )
            if place and self.on_nonfinite == "fail":
                names = [name for name, _ in trees.named_leaves(structure.unflatten(range(structure.num_leaves)))]
                raise CodecError(
                    f"rank {rank}, step {step}: the update of {names[place - 1]} has NaN or infinity in it; lower "
                    "optimizer.learning_rate, or leave out such updates with on_nonfinite: skip"
                )
            return place != 0

        return verdict

    @cached_property
    def decode(self) -> Kernel:
        """`(payload, state, like) -> (update, state)`.

        A payload of other shapes than the codec makes is a `CodecError`.
        """

        def decode(payload: Any, state: Any, like: Any) -> tuple[Any, Any]:
            self._check_payload(payload, like)
            update, after = self.codec.decode(payload, state, like)
            got, expected = trees.shapes(update), trees.shapes(like)
            if got != expected:
                raise CodecError(
                    f"the codec decodes to {got}; expected the shapes and dtypes of the update, {expected}"
                )
            return update, after

        decode = jit_of(self.codec, decode)
        unpack = self.codec.unpack
        if unpack is None:
            return Kernel("decode", decode, "codec", forwards=(0, 1) if self.codec.is_identity else None)

        def decode_packed(payload: Any, state: Any, like: Any) -> tuple[Any, Any]:
            return decode(unpack(trees.numbers(payload), like), state, like)

        return Kernel("decode", decode_packed, "codec")

    def _check_payload(self, payload: Any, like: Any) -> None:
        """Raise unless a payload looks like one of this codec's; costs nothing once compiled."""
        import jax

        expected = payload_shapes(self.codec, like)
        structures = [str(jax.tree.structure(tree)) for tree in (payload, expected)]
        if structures[0] != structures[1]:
            raise CodecError(f"a payload has the structure {structures[0]}; expected {structures[1]}")
        if trees.shapes(payload) != trees.shapes(expected):
            raise CodecError(f"a payload has {trees.shapes(payload)}; expected {trees.shapes(expected)}")


def _is_odd(payload: Any) -> Any:
    """Return whether a payload has a float in it that is not finite."""
    import jax
    import jax.numpy as jnp

    floats = [leaf for leaf in jax.tree.leaves(payload) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.any(jnp.stack([~jnp.isfinite(leaf).all() for leaf in floats])) if floats else jnp.bool_(False)


def _choose(is_first: Any, first: Any, second: Any) -> Any:
    """Return one of two pytrees of the same shapes."""
    import jax

    return jax.tree.map(lambda a, b: jax.numpy.where(is_first, a, b), first, second)
