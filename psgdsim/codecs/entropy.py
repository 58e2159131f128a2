"""Codes of variable length for positive integers, on the host: Elias omega, and Rice.

The bits of one number do not lie together: first come the first bits of all numbers, then the next of those that have
more, and so on. So all numbers are written and read at the same time, in a few calls of numpy, and are as long as the
codes one after the other, to the bit. Numbers are of 1 to 2**48 - 1.

Source: Elias, "Universal codeword sets and representations of the integers", IEEE Trans. Inf. Theory 21(2), 1975;
Rice and Plaunt, "Adaptive variable-length coding", IEEE Trans. Commun. 19(6), 1971.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psgdsim.codecs.bits import MAX_BITS, BitReader, BitWriter, chunks

if TYPE_CHECKING:
    import numpy as np

    Integers = np.ndarray[Any, np.dtype[Any]]


TABLE_SIZE: Final = 2**12
"""The codes of smaller numbers are looked up."""


def bit_lengths(values: Any) -> Integers:
    """Return how many binary digits each integer of 0 to 2**48 - 1 has.

    Example:
        >>> bit_lengths([0, 1, 2, 255, 256]).tolist()
        [0, 1, 2, 8, 9]
    """
    import numpy as np

    lengths: Integers = np.frexp(np.asarray(values, np.float64))[1].astype(np.int64)
    return lengths


def _checked(numbers: Any) -> Integers:
    import numpy as np

    values: Integers = np.asarray(numbers, np.int64)
    if values.size and (values.min() < 1 or values.max() >> MAX_BITS):
        raise ValueError(f"expected integers of 1 to 2**{MAX_BITS} - 1; got {values.min()} to {values.max()}")
    return values


def omega_lengths(values: Any) -> Integers:
    """Return the length of each integer's Elias omega code [bit].

    Example:
        >>> omega_lengths([1, 2, 4, 8, 16, 100]).tolist()
        [1, 3, 6, 7, 11, 13]
    """
    import numpy as np

    left = _checked(values)
    lengths = np.ones(left.shape, np.int64)
    while (left > 1).any():
        digits = bit_lengths(left)
        lengths += np.where(left > 1, digits, 0)
        left = np.where(left > 1, digits - 1, 1)
    return lengths


def _read_tails(reader: BitReader, widths: Integers) -> Integers:
    """Read all digits but the first of each integer."""
    import numpy as np

    if len(widths) and widths.max() >= MAX_BITS:
        raise reader.fail(f"expected numbers of at most {MAX_BITS} digits; got {widths.max() + 1}")
    return (1 << widths) + reader.read_fields(widths).astype(np.int64)


def write_omega(writer: BitWriter, values: Any) -> None:
    """Write positive integers in Elias omega code.

    Each is groups of digits that begin with a one, the value of one being the number of further digits of the next,
    and a zero at the end.
    """
    import numpy as np

    planes: list[tuple[BitWriter, BitWriter]] = []
    for some in chunks(np.asarray(values)):
        _write_planes(planes, _checked(some))
    for marks, digits in planes:
        writer.write_all(marks)
        writer.write_all(digits)


def _write_planes(planes: list[tuple[BitWriter, BitWriter]], values: Integers) -> None:
    """Write the n-th groups of all numbers to the n-th plane: whether there is one, and its digits but the first."""
    import numpy as np

    if values.max() < TABLE_SIZE:
        active, groups = values, _table()
    else:
        active, groups = np.arange(len(values)), _groups(values)
    planes.extend((BitWriter(), BitWriter()) for _ in range(len(groups.digits) + 1 - len(planes)))
    for written, (marks, digits) in enumerate(planes):
        has_more = groups.counts[active] > written
        marks.write_bits(has_more)
        active = active[np.flatnonzero(has_more)]
        if not len(active):
            return
        if written == 0:  # two digits each
            digits.write_bits(groups.digits[0][active])
        else:
            digits.write_fields(groups.digits[written][active], groups.widths[written][active])


class _Groups(NamedTuple):
    """The groups of digits of some numbers in omega code.

    Attributes:
        counts: how many groups each number has.
        digits: of the n-th group of each, all digits but the first; 0 where there is no such group.
        widths: how many digits these are.
    """

    counts: Integers
    digits: Integers
    widths: Integers


def _groups(values: Integers) -> _Groups:
    import numpy as np

    levels = [values]
    while (levels[-1] > 1).any():
        levels.append(np.where(levels[-1] > 1, bit_lengths(levels[-1]) - 1, 1))
    stacked = np.stack(levels)
    counts = np.sum(stacked > 1, axis=0)
    places = counts - 1 - np.arange(len(levels) - 1)[:, None]
    groups = np.where(places >= 0, np.take_along_axis(stacked, np.maximum(places, 0), axis=0), 1)
    widths = bit_lengths(groups) - 1
    return _Groups(counts, groups - (1 << widths), widths)


@cache
def _table() -> _Groups:
    """Return the groups of all small numbers; those of 0 mean nothing."""
    import numpy as np

    groups = _groups(np.maximum(1, np.arange(TABLE_SIZE)))
    return _Groups(*(each.astype(np.uint16) for each in groups))


def read_omega(reader: BitReader, count: int) -> Integers:
    """Read so many integers in Elias omega code.

    Raises:
        CodecError: there are none.
    """
    import numpy as np

    values = np.ones(count, np.int64)
    active = np.flatnonzero(reader.read_bits(count))
    groups = 2 + reader.read_bits(len(active))
    while len(active):
        values[active] = groups
        more = np.flatnonzero(reader.read_bits(len(active)))
        active = active[more]
        groups = _read_tails(reader, groups[more])
    return values


def rice_parameter(density: float) -> int:
    """Return the best number of low bits for gaps between elements of which so many are there: round(lg(0.69 / f)).

    Args:
        density: the share f of the elements, 0 < f <= 1.

    Example:
        >>> rice_parameter(0.01), rice_parameter(0.001), rice_parameter(0.9)
        (6, 9, 0)
    """
    return max(0, round(math.log2(0.69 / density)))


def rice_num_bits(values: Any, low_bits: int) -> int:
    """Return the length of positive integers in Rice code, all together [bit]: of each, (n - 1) >> b, 1 and b."""
    import numpy as np

    values = np.asarray(values, np.int64)
    return int(np.sum((values - 1) >> low_bits)) + len(values) * (1 + low_bits)


def write_rice(writer: BitWriter, values: Any, low_bits: int) -> None:
    """Write positive integers n in Rice code: (n - 1) >> b in unary, then the b lowest bits of n - 1."""
    values = _checked(values) - 1
    writer.write_unary(values >> low_bits)
    writer.write_fields(values & ((1 << low_bits) - 1), low_bits)


def read_rice(reader: BitReader, count: int, low_bits: int) -> Integers:
    """Read so many integers in Rice code (see `read_omega`)."""
    import numpy as np

    high = reader.read_unary(count)
    return (high << low_bits) + reader.read_fields(low_bits, count).astype(np.int64) + 1
