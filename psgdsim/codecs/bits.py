"""Bit strings on the host: many bits, or many fields of bits, are written and read in a few calls of numpy.

Bits fill each byte from the lowest on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from psgdsim.errors import CodecError

if TYPE_CHECKING:
    import numpy as np

    Integers = np.ndarray[Any, np.dtype[Any]]

MAX_BITS: Final = 48
"""Fields are of at most so many bits."""

CHUNK: Final = 2**13
"""So many numbers are coded at a time: what is computed on the way stays in the processor's cache."""


def chunks(values: Integers) -> Iterator[Integers]:
    """Yield a vector in pieces of `CHUNK`."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


class BitWriter:
    """Collect bits, many at a time.

    Attributes:
        num_bits: how many have been written.
    """

    def __init__(self) -> None:
        self.num_bits = 0
        self._pieces: list[tuple[int, Integers]] = []

    def write_bits(self, bits: Any) -> None:
        """Append one bit for each element of a vector of booleans."""
        import numpy as np

        ahead = self.num_bits % 8
        padded = np.concatenate([np.zeros(ahead, bool), np.asarray(bits, bool)])
        self._append(np.packbits(padded, bitorder="little"), len(padded) - ahead)

    def write_unary(self, counts: Any) -> None:
        """Append so many zeros and a one, for each element."""
        import numpy as np

        ends = np.cumsum(np.asarray(counts, np.int64) + 1)
        bits = np.zeros(int(ends[-1]) if len(ends) else 0, bool)
        bits[ends - 1] = True
        self.write_bits(bits)

    def write_fields(self, values: Any, widths: Any) -> None:
        """Append the lowest bits of each value.

        Args:
            values: integers of at least 0 and less than 2**width.
            widths: how many bits of each, at most `MAX_BITS`; one number for all, or one for each.
        """
        import numpy as np

        values = np.asarray(values)
        widths = np.broadcast_to(np.asarray(widths), values.shape)
        for some_values, some_widths in zip(chunks(values), chunks(widths), strict=True):
            self._write_fields(some_values.astype(np.uint64), some_widths.astype(np.int64))

    def _write_fields(self, values: Integers, widths: Integers) -> None:
        import numpy as np

        ends = np.cumsum(widths)
        total = int(ends[-1]) if len(ends) else 0
        ahead = self.num_bits % 8
        starts = ends - widths + ahead
        words = np.zeros((ahead + total) // 64 + 2, np.uint64)
        _deposit(words, starts, values, widths)
        self._append(words.astype("<u8", copy=False).view(np.uint8)[: -(-(ahead + total) // 8)], total)

    def write_all(self, other: BitWriter) -> None:
        """Append what another writer has collected."""
        import numpy as np

        ahead = self.num_bits % 8
        data = np.append(other.finish(), np.uint8(0))
        shifted = data << np.uint8(ahead)
        if ahead:
            shifted[1:] |= data[:-1] >> np.uint8(8 - ahead)
        self._append(shifted[: -(-(ahead + other.num_bits) // 8)], other.num_bits)

    def finish(self) -> Integers:
        """Return the bytes, zeros in what is left of the last."""
        import numpy as np

        data = np.zeros(-(-self.num_bits // 8), np.uint8)
        for start, piece in self._pieces:
            data[start : start + len(piece)] |= piece
        return data

    def _append(self, piece: Integers, num_bits: int) -> None:
        self._pieces.append((self.num_bits // 8, piece))
        self.num_bits += num_bits


def _deposit(words: Integers, starts: Integers, values: Integers, widths: Integers) -> None:
    """Set bits of 64-bit words from each start on; starts ascend and nothing overlaps."""
    import numpy as np

    is_some = widths > 0
    if not is_some.all():
        starts, values, widths = starts[is_some], values[is_some], widths[is_some]
    if not len(starts):
        return
    places, shifts = starts >> 6, (starts & 63).astype(np.uint64)
    firsts = np.append(0, 1 + np.flatnonzero(places[1:] != places[:-1]))
    words[places[firsts]] |= np.bitwise_or.reduceat(values << shifts, firsts)
    lasts = np.append(firsts[1:], len(places)) - 1  # of each word: only these may go on in the next
    over = lasts[(starts[lasts] & 63) + widths[lasts] > 64]
    words[places[over] + 1] |= values[over] >> (np.uint64(64) - shifts[over])


class BitReader:
    """Read what a `BitWriter` has written, in the same order; every call checks that the bits are there.

    Args:
        data: bytes.
        name: what messages call them.
    """

    def __init__(self, data: Integers, name: str) -> None:
        import numpy as np

        if getattr(data, "dtype", None) != np.uint8 or data.ndim != 1:
            raise CodecError(f"{name}: expected a vector of bytes; got {data!r:.60}")
        self._data, self._name, self._place = data, name, 0

    def read_bits(self, count: int) -> Integers:
        """Return so many booleans.

        Raises:
            CodecError: so many bits are not left.
        """
        import numpy as np

        start = self._take(count)
        first = start // 8
        bits = np.unpackbits(self._data[first : -(-self._place // 8)], bitorder="little")
        return bits[start - 8 * first : self._place - 8 * first].view(bool)

    def read_unary(self, count: int) -> Integers:
        """Return how many zeros stand before each of so many ones.

        Raises:
            CodecError: so many ones are not left.
        """
        import numpy as np

        first = self._place // 8
        bits = np.unpackbits(self._data[first:], bitorder="little")[self._place - 8 * first :]
        ones = np.flatnonzero(bits)[:count]
        if len(ones) < count:
            raise CodecError(f"{self._name}: truncated or damaged: expected {count} numbers in unary; got {len(ones)}")
        self._take(int(ones[-1]) + 1 if count else 0)
        counts: Integers = np.diff(ones, prepend=-1) - 1
        return counts

    def read_fields(self, widths: Any, count: int | None = None) -> Integers:
        """Return one integer for each width.

        Args:
            widths: how many bits each has, at most `MAX_BITS`; one for each, or one number for all `count`.
            count: how many integers, if all have one width.

        Raises:
            CodecError: so many bits are not left.
        """
        import numpy as np

        widths = np.asarray(widths)
        widths = widths if count is None else np.broadcast_to(widths, (count,))
        values = np.empty(len(widths), np.uint64)
        for some, some_widths in zip(chunks(values), chunks(widths), strict=True):
            some[:] = self._read_fields(some_widths.astype(np.int64))
        return values

    def _read_fields(self, widths: Integers) -> Integers:
        import numpy as np

        ends = np.cumsum(widths)
        start = self._take(int(ends[-1]) if len(ends) else 0)
        first = start // 8
        data = self._data[first : -(-self._place // 8)]
        words = np.zeros(len(data) // 8 + 2, "<u8")
        words.view(np.uint8)[: len(data)] = data
        starts = ends - widths + (start - 8 * first)
        places, shifts = starts >> 6, (starts & 63).astype(np.uint64)
        low = words[places] >> shifts
        # Twice, for a shift by all 64 bits is undefined.
        high = (words[places + 1] << (np.uint64(63) - shifts)) << np.uint64(1)
        values: Integers = (low | high) & ((np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1))
        return values

    def finish(self) -> None:
        """Check that nothing is left but the zeros that fill the last byte.

        Raises:
            CodecError: something is.
        """
        left = 8 * len(self._data) - self._place
        if left >= 8 or (left and self._data[-1] >> (8 - left)):
            raise CodecError(f"{self._name}: damaged: {left} bits are left over after the last number")

    def fail(self, why: str) -> CodecError:
        """Return the error that says why these bytes cannot be read."""
        return CodecError(f"{self._name}: damaged: {why}")

    def _take(self, count: int) -> int:
        """Move on by so many bits; return where they begin."""
        left = 8 * len(self._data) - self._place
        if count > left:
            raise CodecError(f"{self._name}: truncated or damaged: expected {count} more bits; got {left}")
        self._place += count
        return self._place - count
