"""The laws of codecs, as one function that a user calls on his own: `check_codec(my_codec())`."""

from __future__ import annotations

from typing import Any

from psgdsim import wire
from psgdsim.codecs.base import Codec


def example_updates() -> list[Any]:
    """Return updates of the shapes that trip codecs up: a tree, one value, an odd size, zeros."""
    import numpy as np

    generator = np.random.default_rng(0)
    tree = {
        "layers": [
            {"bias": generator.standard_normal(7), "weight": generator.standard_normal((5, 7))},
            {"bias": generator.standard_normal(()), "weight": generator.standard_normal((1, 1, 3))},
        ]
    }
    updates = [tree, generator.standard_normal(1), generator.standard_normal(1000), np.zeros(33)]
    import jax

    return [jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), update) for update in updates]


def check_codec(codec: Codec, updates: list[Any] | None = None) -> None:
    """Check that a codec keeps the contract of `psgdsim.codecs.base`.

    For each update: what is decoded has the same tree, shapes and dtypes; a frame of the payload is exactly as long
    as `wire.nbytes` says from shapes alone, and comes back whole; jitted and plain calls give the same shapes; the same
    key gives the same bits; zeros decode to zeros; the states keep their shapes, so that nothing compiles twice.

    Args:
        codec: the codec.
        updates: pytrees of float32 arrays to try; `example_updates()` by default.

    Raises:
        AssertionError: a law is broken; the message says which, and for which update.

    Example:
        >>> from psgdsim.codecs import top_k
        >>> check_codec(top_k(ratio=0.1))
    """
    for update in example_updates() if updates is None else updates:
        _check_round_trip(codec, update)
        _check_wire(codec, update)
        _check_zero(codec, update)


def _first(codec: Codec, update: Any, seed: int = 0) -> tuple[Any, Any]:
    import jax

    return codec.encode(update, codec.init(update), jax.random.key(seed))


def _same_bits(a: Any, b: Any) -> bool:
    import jax
    import numpy as np

    structures: list[Any] = [jax.tree.structure(a), jax.tree.structure(b)]
    if structures[0] != structures[1]:
        return False
    pairs = zip(map(np.asarray, jax.tree.leaves(a)), map(np.asarray, jax.tree.leaves(b)), strict=True)
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def _shapes(tree: Any) -> Any:
    import jax
    import numpy as np

    return jax.tree.map(lambda leaf: (np.shape(leaf), str(getattr(leaf, "dtype", type(leaf).__name__))), tree)


def _law(is_kept: bool, law: str, update: Any) -> None:  # noqa: FBT001 - reads as a sentence at the call
    if not is_kept:
        raise AssertionError(f"codec breaks the law that {law}, for an update of shapes {_shapes(update)}")


def _check_round_trip(codec: Codec, update: Any) -> None:
    import jax

    payload, state = _first(codec, update)
    decoded, decoder = codec.decode(payload, codec.init(update), update)
    _law(_shapes(decoded) == _shapes(update), "what is decoded has the tree, shapes and dtypes of the update", update)
    again, _ = _first(codec, update)
    _law(_same_bits(payload, again), "the same update, state and key give the same payload", update)
    jitted, _ = jax.jit(codec.encode)(update, codec.init(update), jax.random.key(0))
    _law(_shapes(jitted) == _shapes(payload), "jitted and plain encode give the same shapes", update)
    start = codec.init(update)
    _law(_shapes(state) == _shapes(start), "the encoder's state keeps its shapes", update)
    _law(_shapes(decoder) == _shapes(start), "the decoder's state keeps its shapes", update)


def _check_wire(codec: Codec, update: Any) -> None:
    import jax
    import numpy as np

    key = jax.random.key(0)
    expected, _ = jax.eval_shape(codec.encode, update, codec.init(update), key)
    payload, _ = jax.jit(codec.encode)(update, codec.init(update), key)
    frame = wire.pack(jax.tree.map(np.asarray, payload))
    _law(wire.nbytes(expected) == len(frame), "the size of a frame is known from shapes alone", update)
    _, received = wire.unpack_frame(frame)
    sent = jax.tree.map(np.asarray, payload)
    _law(_same_bits(sent, received), "a payload crosses the wire bit for bit", update)
    here, _ = codec.decode(payload, codec.init(update), update)
    there, _ = codec.decode(received, codec.init(update), update)
    _law(_same_bits(here, there), "what crossed the wire decodes as what did not", update)


def _check_zero(codec: Codec, update: Any) -> None:
    import jax
    import numpy as np

    zero = jax.tree.map(np.zeros_like, update)
    payload, _ = _first(codec, zero)
    decoded, _ = codec.decode(payload, codec.init(zero), zero)
    is_zero = all(not np.any(leaf) for leaf in jax.tree.leaves(decoded))
    _law(is_zero, "zeros decode to zeros", update)
