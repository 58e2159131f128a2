"""What the coded shuffles compute: values cut out of gradients, packets XORed on raw bits, sums over blocks.

Shapes: H blocks held by a rank, F functions, G groups of a rank, r redundancy, R rounds, W words of a segment. A word
is the 32 raw bits of one float32. Tables are int32 arrays of indices, so that one compiled function serves all groups.
"""

from __future__ import annotations

from typing import Any

from psgdsim.compilation import lazy_jit
from psgdsim.node import Kernel


def _values(gradients: list[Any], weights: Any, functions: int, segments: int) -> Any:
    """Cut each weighted gradient in values and segments: words of shape (H, F, r, W), zero-padded at the end."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    vectors = jnp.stack([ravel_pytree(gradient)[0] for gradient in gradients]) * weights[:, None]
    words = -(-vectors.shape[1] // (functions * segments))
    padded = jnp.pad(vectors, ((0, 0), (0, functions * segments * words - vectors.shape[1])))
    bits = jax.lax.bitcast_convert_type(padded, jnp.uint32)
    return bits.reshape(len(gradients), functions, segments, words)


def _xor(words: Any, axis: int) -> Any:
    import jax
    import numpy as np

    return jax.lax.reduce(words, np.uint32(0), jax.lax.bitwise_xor, (axis,))


def _checksum(words: Any) -> Any:
    """Hash the last axis to 32 bits: a sum, mod 2**32, with odd weights that differ by position.

    A change of one word always changes the sum, any other change does so but for one case in 2**32.
    """
    import jax.numpy as jnp

    position = jnp.arange(words.shape[-1], dtype=jnp.uint32)
    mixed = (position ^ (position >> 16)) * jnp.uint32(0x7FEB352D)
    weights = (mixed ^ (mixed >> 15)) * jnp.uint32(0x846CA68B) | jnp.uint32(1)
    return jnp.sum(words * weights, axis=-1, dtype=jnp.uint32)


def _encode(values: Any, table: Any) -> list[dict[str, Any]]:
    """Make one packet per group: per round the XOR of r segments, with the checksum of each.

    `table` has shape (G, R, r, 3): block, function and segment of each term.
    """
    terms = values[table[..., 0], table[..., 1], table[..., 2]]
    packets, checksums = _xor(terms, axis=2), _checksum(terms)
    return [{"packet": packets[g], "checksums": checksums[g]} for g in range(table.shape[0])]


def _decode(values: Any, packets: list[dict[str, Any]], table: Any, is_wanted: Any) -> tuple[Any, Any]:
    """Take the known terms out of packets, and compare every term with the sender's checksum.

    Packets come group by group, in each by sender; `table` (G, r, R, r, 3) names the terms of each, `is_wanted`
    (G, r, R, r) the one that this rank does not know. Returns the values decoded, (G * R, r, W), and for every term
    whether it is what the sender says, (G, r, R, r).
    """
    import jax.numpy as jnp

    groups, senders, rounds = table.shape[:3]
    coded = jnp.stack([packet["packet"] for packet in packets]).reshape(groups, senders, rounds, -1)
    checksums = jnp.stack([packet["checksums"] for packet in packets]).reshape(is_wanted.shape)
    terms = values[table[..., 0], table[..., 1], table[..., 2]]
    known = jnp.where(is_wanted[..., None], jnp.uint32(0), terms)
    segments = coded ^ _xor(known, axis=3)
    complete = jnp.where(is_wanted[..., None], segments[..., None, :], terms)
    decoded = segments.transpose(0, 2, 1, 3).reshape(groups * rounds, senders, -1)
    return decoded, _checksum(complete) == checksums


def _reduce(values: Any, function: Any, arrived: Any, table: Any, is_used: Any) -> Any:
    """Add up values: floats of shape (J, r * W), one sum per row of the table, in the table's order.

    `table` (J, n) counts the rank's own blocks first, then the values that arrived, (n', r, W); `is_used` masks it.
    """
    import jax
    import jax.numpy as jnp

    own = values[:, function]
    words = own if arrived is None else jnp.concatenate([own, arrived.reshape(-1, *own.shape[1:])])
    floats = jax.lax.bitcast_convert_type(words, jnp.float32).reshape(words.shape[0], -1)
    total = jnp.where(is_used[:, :1], floats[table[:, 0]], 0.0)
    for i in range(1, table.shape[1]):
        total = jnp.where(is_used[:, i : i + 1], total + floats[table[:, i]], total)
    return total


def _assemble(shards: list[Any], like: Any) -> list[Any]:
    """Join the shards of all ranks, each (J, words), to one gradient per job."""
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    vector, unravel = ravel_pytree(like)
    joined = jnp.concatenate(shards, axis=1)[:, : vector.shape[0]]
    return [unravel(row) for row in joined]


def _bits(floats: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return jax.lax.bitcast_convert_type(jnp.concatenate(floats), jnp.uint32)


VALUES = Kernel("values", lazy_jit(_values, static=("functions", "segments")), "codec")
ENCODE = Kernel("xor_encode", lazy_jit(_encode), "codec")
DECODE = Kernel("xor_decode", lazy_jit(_decode), "codec")
REDUCE = Kernel("reduce", lazy_jit(_reduce), "codec")
ASSEMBLE = Kernel("assemble", lazy_jit(_assemble), "codec")
BITS = Kernel("bits", lazy_jit(_bits), "codec")
