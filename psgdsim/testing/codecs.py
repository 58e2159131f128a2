"""The laws of codecs, as one function that a user calls on his own: `check_codec(my_codec())`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from psgdsim import trees, wire
from psgdsim.checkpoint import load, save
from psgdsim.codecs.base import Codec
from psgdsim.codecs.shapes import returned

ROUNDING: Final = 2**-6
"""By how much sums of payloads may be off, relative to the largest addends: some roundings of bfloat16."""


def example_updates() -> list[Any]:
    """Return updates of the shapes that trip codecs up: a tree, one value, an odd size."""
    import numpy as np

    generator = np.random.default_rng(0)
    tree = {
        "layers": [
            {"bias": generator.standard_normal(7), "weight": generator.standard_normal((5, 7))},
            {"bias": generator.standard_normal(()), "weight": generator.standard_normal((1, 1, 3))},
        ]
    }
    updates = [tree, generator.standard_normal(1), generator.standard_normal(1001)]
    import jax

    return [jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), update) for update in updates]


def check_codec(codec: Codec, updates: list[Any] | None = None, *, keeps_zero: bool = True) -> None:
    """Check that a codec keeps the contract of `psgdsim.codecs.base`.

    For each update: what is decoded has the same tree, shapes and dtypes; a frame of the payload is exactly as long
    as `wire.nbytes` says from shapes alone, and comes back whole; so does what `pack` makes of it; the same key gives
    the same bits; states that come from a checkpoint (`psgdsim.checkpoint`) go on, bit for bit, as those that were
    never saved; zeros decode to zeros; all that compiles once; if payloads may be added (`is_summable`), the sum of
    two is that of the sum, but for rounding. For the last update also: jitted or not, the payload has the same bits,
    and decodes to the same values but for rounding.

    Args:
        codec: the codec.
        updates: pytrees of float32 arrays to try; `example_updates()` by default.
        keeps_zero: whether zeros must decode to zeros.

    Raises:
        AssertionError: a law is broken; the message says which, and for which update.
        CodecError: `init`, `encode` or `decode` fails, or one returns no pair.
        TypeError: it is no codec.

    Example:
        >>> from psgdsim.codecs import top_k
        >>> check_codec(top_k(ratio=0.1))
    """
    if not isinstance(codec, Codec):
        raise TypeError(f"expected a codec, as its factory returns it, such as top_k(ratio=0.1); got {codec!r}")
    tried = example_updates() if updates is None else updates
    for update in tried:
        returned(codec, update)
        jitted = _Jitted(codec, update)
        _check_steps(jitted)
        _check_wire(jitted)
        if codec.pack is not None or codec.unpack is not None:
            _check_pack(jitted)
        _check_resume(jitted)
        if keeps_zero:
            _check_zero(jitted)
        if codec.is_summable:
            _check_sum(jitted)
        _law(jitted.num_traces == 2, "what is called many times with the same shapes compiles once", update)
    _check_plain(_Jitted(codec, tried[-1]))


class _Jitted:
    """A codec whose functions are compiled for one update, and count how often.

    Attributes:
        codec: the codec.
        update: the update.
        start: the state of a new end.
        num_traces: how often `encode` and `decode` have been traced.
    """

    def __init__(self, codec: Codec, update: Any) -> None:
        import jax

        self.codec, self.update, self.num_traces = codec, update, 0
        self._encode, self._decode = jax.jit(self._counted(codec.encode)), jax.jit(self._counted(codec.decode))
        self.start = jax.jit(codec.init)(update)

    def _counted(self, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self.num_traces += 1
            return function(*arguments)

        return call

    def encode(self, update: Any = None, state: Any = None, seed: int = 0) -> tuple[Any, Any]:
        """Encode the update, or another of its shapes; by default with a new state."""
        import jax

        given = self.update if update is None else update, self.start if state is None else state
        return self._encode(*given, jax.random.key(seed))  # type: ignore[no-any-return]

    def decode(self, payload: Any, state: Any = None) -> tuple[Any, Any]:
        """Decode a payload, by default with a new state."""
        return self._decode(payload, self.start if state is None else state, self.update)  # type: ignore[no-any-return]


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


def _check_steps(jitted: _Jitted) -> None:
    """Encode and decode three times, with the states of the time before."""
    update, start = jitted.update, jitted.start
    encoder = decoder = start
    for seed in range(3):
        payload, encoder = jitted.encode(state=encoder, seed=seed)
        decoded, decoder = jitted.decode(payload, decoder)
        _law(_shapes(encoder) == _shapes(start), "the encoder's state keeps its shapes", update)
        _law(_shapes(decoder) == _shapes(start), "the decoder's state keeps its shapes", update)
        is_like = _shapes(decoded) == _shapes(update)
        _law(is_like, "what is decoded has the tree, shapes and dtypes of the update", update)
    first, again = (jitted.encode()[0] for _ in range(2))
    _law(_same_bits(first, again), "the same update, state and key give the same payload", update)


def _check_wire(jitted: _Jitted) -> None:
    import jax
    import numpy as np

    codec, update = jitted.codec, jitted.update
    expected, _ = jax.eval_shape(codec.encode, update, jitted.start, jax.random.key(0))
    sent = jax.tree.map(np.asarray, jitted.encode()[0])
    frame = wire.pack(sent)
    _law(wire.nbytes(expected) == len(frame), "the size of a frame is known from shapes alone", update)
    _, received = wire.unpack_frame(frame)
    _law(_same_bits(sent, received), "a payload crosses the wire bit for bit", update)
    here, there = (jitted.decode(payload)[0] for payload in (sent, received))
    _law(_same_bits(here, there), "what crossed the wire decodes as what did not", update)


def _check_pack(jitted: _Jitted) -> None:
    import jax
    import numpy as np

    codec, update = jitted.codec, jitted.update
    _law(codec.pack is not None and codec.unpack is not None, "`pack` and `unpack` come together", update)
    payload = jax.tree.map(np.asarray, jitted.encode()[0])
    packed: Any = codec.pack and codec.pack(payload, update)
    _, received = wire.unpack_frame(wire.pack(packed))
    unpacked = codec.unpack and codec.unpack(received, update)
    _law(_same_bits(payload, unpacked), "`unpack` gives back what was packed", update)


def _check_resume(jitted: _Jitted) -> None:
    """Save the states of both ends after two steps, and compare going on from the file with going on without it."""
    ends, _ = _two_steps(jitted, (jitted.start, jitted.start), 0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "states.safetensors"
        save(file, ends)
        loaded = load(file, (jitted.start, jitted.start)).tree
    _law(_same_bits(ends, loaded), "states come back from a checkpoint bit for bit", jitted.update)
    after, seen = _two_steps(jitted, ends, 2)
    resumed, seen_again = _two_steps(jitted, loaded, 2)
    is_same = _same_bits((after, seen), (resumed, seen_again))
    _law(is_same, "what goes on from a checkpoint gives the same bits as what was never interrupted", jitted.update)


def _two_steps(jitted: _Jitted, ends: tuple[Any, Any], first: int) -> tuple[tuple[Any, Any], list[Any]]:
    """Return the states of encoder and decoder after two more steps, and what crossed the wire and what was decoded."""
    codec, seen = jitted.codec, []
    for seed in (first, first + 1):
        payload, encoder = jitted.encode(state=ends[0], seed=seed)
        sent = trees.numbers(payload)
        packed = sent if codec.pack is None else codec.pack(sent, jitted.update)
        received = packed if codec.unpack is None else codec.unpack(packed, jitted.update)
        decoded, decoder = jitted.decode(received, ends[1])
        ends = encoder, decoder
        seen.append((packed, decoded))
    return ends, seen


def _check_zero(jitted: _Jitted) -> None:
    import jax
    import numpy as np

    payload, _ = jitted.encode(jax.tree.map(np.zeros_like, jitted.update))
    decoded, _ = jitted.decode(payload)
    is_zero = all(not np.any(leaf) for leaf in jax.tree.leaves(decoded))
    _law(is_zero, "zeros decode to zeros", jitted.update)


def _check_plain(jitted: _Jitted) -> None:
    """Compare what is compiled with what is not."""
    import jax
    import numpy as np

    codec, update = jitted.codec, jitted.update
    plain, _ = codec.encode(update, jitted.start, jax.random.key(0))
    _law(_same_bits(plain, jitted.encode()[0]), "jitted and plain encode give the same bits", update)
    decoded = codec.decode(plain, jitted.start, update)[0], jitted.decode(plain)[0]
    pairs = zip(*map(jax.tree.leaves, decoded), strict=True)
    is_close = all(np.allclose(a, b, rtol=1e-6, atol=1e-6 * np.max(np.abs(a), initial=0)) for a, b in pairs)
    _law(is_close, "jitted and plain decode give the same values", update)


def _check_sum(jitted: _Jitted) -> None:
    import jax
    import numpy as np

    generator = np.random.default_rng(1)
    other = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape).astype(leaf.dtype), jitted.update)
    both = jax.tree.map(lambda a, b: a + b, jitted.update, other)
    payloads = [jitted.encode(each)[0] for each in (jitted.update, other, both)]
    coded = [[np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(payload)] for payload in payloads]
    is_kept = all(
        np.abs(a + b - total).max(initial=0.0) <= ROUNDING * (np.abs(a) + np.abs(b)).max(initial=0.0)
        for a, b, total in zip(*coded, strict=True)
    )
    _law(is_kept, "payloads may be added (is_summable): the sum of two is the payload of the sum", jitted.update)
