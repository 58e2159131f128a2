"""Codes of few bits as bytes, in jax: value i of b bits takes the bits b i to b i + b - 1, lowest first.

Compiled, each direction runs through some 10^9 bytes of float32 values per second and core. `bits` is the same on the
host, for codes of unlike widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Final

from psgdsim.codecs.bits import BitReader, BitWriter
from psgdsim.compilation import lazy_jit
from psgdsim.errors import CodecError

if TYPE_CHECKING:
    import jax

    from psgdsim.codecs.bits import Integers

MAX_CODE_BITS: Final = 16
"""Codes are of 1 to so many bits."""

TRITS: Final = 5
"""Digits of base 3 in a byte: 3**5 = 243."""


def packed_nbytes(size: int, bits: int) -> int:
    """Return the bytes that so many codes take, ceil(size bits / 8).

    Example:
        >>> packed_nbytes(3, 3)
        2
    """
    return -(-size * bits // 8)


def code_type(bits: int) -> Any:
    """Return the smallest type of integers for codes of so many bits."""
    import jax.numpy as jnp

    return jnp.uint8 if bits <= 8 else jnp.uint16


@partial(lazy_jit, static=("bits",))
def pack_codes(codes: jax.Array, bits: int) -> jax.Array:
    """Return codes as a vector of bytes.

    Args:
        codes: a vector of unsigned integers below 2**bits, of any type.
        bits: per code, 1 to 16.

    Returns:
        uint8, `packed_nbytes` of them; zeros in what is left of the last.
    """
    import jax.numpy as jnp

    num_codes, num_bytes = _group(bits)

    def pack(grouped: jax.Array) -> jax.Array:
        if num_bytes == 1:
            shifts = bits * jnp.arange(num_codes, dtype=jnp.uint8)
            return jnp.sum(grouped << shifts, axis=1, dtype=jnp.uint8)
        columns = []
        for byte in range(num_bytes):
            parts = [_shift(grouped[:, code], start).astype(jnp.uint8) for code, start in _overlaps(bits, byte)]
            columns.append(reduce(jnp.bitwise_or, parts))
        return jnp.stack(columns, axis=1).reshape(-1)

    data = _pack_groups(codes.astype(code_type(bits)), num_codes, pack)
    return data[: packed_nbytes(codes.size, bits)]


@partial(lazy_jit, static=("bits", "size"))
def unpack_codes(data: jax.Array, bits: int, size: int) -> jax.Array:
    """Return the codes in a vector of bytes.

    Args:
        data: what `pack_codes` made.
        bits: per code, 1 to 16.
        size: how many codes.

    Returns:
        uint8, or uint16 for more than 8 bits.

    Raises:
        CodecError: so many codes take another number of bytes.
    """
    import jax.numpy as jnp

    _check(data, packed_nbytes(size, bits), f"{size} codes of {bits} bits")
    num_codes, num_bytes = _group(bits)
    kind, mask = code_type(bits), 2**bits - 1
    if num_bytes == 1:
        codes: jax.Array = data[:, None] >> bits * jnp.arange(num_codes, dtype=jnp.uint8) & mask
        return codes.reshape(-1)[:size]
    grouped = _in_groups(data, num_bytes).astype(kind)
    columns: list[Any] = [0] * num_codes
    for byte in range(num_bytes):
        for code, start in _overlaps(bits, byte):
            columns[code] |= _shift(grouped[:, byte], -start)
    codes = jnp.stack(columns, axis=1) & kind(mask)
    return codes.reshape(-1)[:size]


def pack_on_host(codes: Integers, bits: int) -> Integers:
    """Do what `pack_codes` does, in numpy."""
    import numpy as np

    num_codes, num_bytes = _group(bits)
    if num_bytes > 1:
        writer = BitWriter()
        writer.write_fields(codes, bits)
        return writer.finish()
    data = np.zeros(packed_nbytes(codes.size, bits), np.uint8)
    for place in range(num_codes):
        part = codes[place::num_codes]
        data[: part.size] |= part << np.uint8(bits * place)
    return data


def unpack_on_host(data: Integers, bits: int, size: int) -> Integers:
    """Do what `unpack_codes` does, in numpy."""
    import numpy as np

    _check(data, packed_nbytes(size, bits), f"{size} codes of {bits} bits")
    num_codes, num_bytes = _group(bits)
    if num_bytes > 1:
        fields = BitReader(data, "codes").read_fields(bits, size)
        return fields.astype(np.uint8 if bits <= 8 else np.uint16)
    codes = np.empty(size, np.uint8)
    for place in range(num_codes):
        part = codes[place::num_codes]
        part[:] = data[: part.size] >> np.uint8(bits * place) & np.uint8(2**bits - 1)
    return codes


@lazy_jit
def pack_trits(trits: jax.Array) -> jax.Array:
    """Return digits of base 3 as bytes, five in each, the lowest first: ceil(size / 5) bytes.

    Args:
        trits: a vector of 0, 1 and 2.
    """
    import jax.numpy as jnp

    weights = 3 ** jnp.arange(TRITS, dtype=jnp.uint8)
    return _pack_groups(
        trits.astype(jnp.uint8), TRITS, lambda grouped: jnp.sum(grouped * weights, axis=1, dtype=jnp.uint8)
    )


@partial(lazy_jit, static=("size",))
def unpack_trits(data: jax.Array, size: int) -> jax.Array:
    """Return the digits of base 3 in a vector of bytes.

    Args:
        data: what `pack_trits` made; bytes above 242, which it never makes, count as 242.
        size: how many digits.

    Raises:
        CodecError: so many digits take another number of bytes.
    """
    import jax.numpy as jnp

    _check(data, -(-size // TRITS), f"{size} digits of base 3")
    # ceil(2**16 / 3**j) finds the quotient of any byte by 3**j exactly, and quicker than a division.
    reciprocals = jnp.asarray([-(-(2**16) // 3**place) for place in range(TRITS)], jnp.uint32)
    valid = jnp.minimum(data, 3**TRITS - 1)
    quotients = valid[:, None].astype(jnp.uint32) * reciprocals >> 16
    return (quotients % 3).astype(jnp.uint8).reshape(-1)[:size]


def _group(bits: int) -> tuple[int, int]:
    """Return the least number of codes that fill whole bytes, and how many bytes."""
    if not 1 <= bits <= MAX_CODE_BITS:
        raise ValueError(f"expected codes of 1 to {MAX_CODE_BITS} bits; got {bits}")
    num_codes = 8 // math.gcd(bits, 8)
    return num_codes, num_codes * bits // 8


def _in_groups(vector: jax.Array, size: int) -> jax.Array:
    import jax.numpy as jnp

    return jnp.pad(vector, (0, -vector.size % size)).reshape(-1, size)


def _pack_groups(codes: jax.Array, size: int, pack: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Pack whole groups, and then what is left: what fills up the last group must not slow down all others."""
    import jax.numpy as jnp

    num_whole = codes.size // size * size
    whole = pack(codes[:num_whole].reshape(-1, size))
    if num_whole == codes.size:
        return whole
    return jnp.concatenate([whole, pack(_in_groups(codes[num_whole:], size))])


def _overlaps(bits: int, byte: int) -> Iterator[tuple[int, int]]:
    """Yield the codes of a group that have bits in one of its bytes, each with the place of its lowest bit there."""
    for code in range(_group(bits)[0]):
        start = bits * code - 8 * byte
        if -bits < start < 8:
            yield code, start


def _shift(values: jax.Array, places: int) -> jax.Array:
    """Return integers shifted up, or down if `places` is negative."""
    return values << places if places >= 0 else values >> -places


def _check(data: Any, nbytes: int, what: str) -> None:
    if data.dtype != "uint8" or data.shape != (nbytes,):
        raise CodecError(
            f"a payload is truncated or damaged: expected uint8[{nbytes}], {what}; got {data.dtype}{list(data.shape)}"
        )
