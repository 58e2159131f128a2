"""How the places of a few values among many cross the wire: raw, as a bitmap, or by their gaps. On the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from psgdsim.codecs.bits import BitReader, BitWriter
from psgdsim.codecs.entropy import read_rice, rice_num_bits, rice_parameter, write_rice
from psgdsim.errors import CodecError

if TYPE_CHECKING:
    import numpy as np

    Integers = np.ndarray[Any, np.dtype[Any]]

Coding = Literal["raw", "bitmap", "rice", "delta", "auto"]

_MARKS: Final[tuple[Coding, ...]] = ("raw", "bitmap", "rice", "delta")
"""A coding's place here is its mark on the wire."""

_NAME: Final = "indices"
_DIGIT_BITS: Final = 7
_MAX_DIGITS: Final = 5


def pack_indices(indices: Integers, size: int, coding: Coding) -> Integers:
    """Code some places among many.

    A byte that names the coding comes first. With k of D places, the rest is

    - `raw`: 32k bits;
    - `bitmap`: D bits;
    - `rice`: for each gap g of at least 1, ((g - 1) >> b) + 1 + b bits with b = round(lg(0.69 D / k));
    - `delta`: for each gap, g - 1 to the base 128, a byte per digit, the lowest first;
    - `auto`: whichever of these is the shortest for these places;

    filled up with zero bits to whole bytes.

    Args:
        indices: `(k,)`, ascending and different, of 0 to `size` - 1.
        size: how many places there are, D.
        coding: how.

    Returns:
        A vector of uint8.
    """
    import numpy as np

    indices = np.asarray(indices, np.int64)
    gaps = np.diff(indices, prepend=-1)
    if coding == "auto":
        coding = min(_MARKS, key=_lengths(gaps, size).__getitem__)
    mark = np.asarray([_MARKS.index(coding)], np.uint8)
    return np.concatenate([mark, _code(indices, gaps, size, coding)])


def _lengths(gaps: Integers, size: int) -> dict[str, int]:
    """Return how long each coding is [byte]."""
    import numpy as np

    count = len(gaps)
    rice_bits = rice_num_bits(gaps, rice_parameter(count / size)) if count else 0
    num_digits = sum(int(np.count_nonzero(gaps - 1 >= 1 << _DIGIT_BITS * digit)) for digit in range(1, _MAX_DIGITS))
    return {"raw": 4 * count, "bitmap": -(-size // 8), "rice": -(-rice_bits // 8), "delta": count + num_digits}


def _code(indices: Integers, gaps: Integers, size: int, coding: str) -> Integers:
    import numpy as np

    if coding == "raw":
        return indices.astype("<i4").view(np.uint8)
    if coding == "bitmap":
        bits = np.zeros(size, bool)
        bits[indices] = True
        return np.packbits(bits, bitorder="little")
    if coding == "delta":
        return _to_digits(gaps - 1)
    writer = BitWriter()
    if len(gaps):
        write_rice(writer, gaps, rice_parameter(len(gaps) / size))
    return writer.finish()


def _to_digits(numbers: Integers) -> Integers:
    """Return numbers to the base 128, the lowest digit first; all digits but the last have the highest bit set."""
    import numpy as np

    shifts = _DIGIT_BITS * np.arange(_MAX_DIGITS)
    left = numbers[:, None] >> shifts
    is_last = left < 1 << _DIGIT_BITS
    digits = ((left & 127) | np.where(is_last, 0, 128)).astype(np.uint8)
    is_written = np.concatenate([np.ones((len(numbers), 1), bool), ~is_last[:, :-1]], axis=1)
    written: Integers = digits[is_written]
    return written


def _from_digits(data: Integers, count: int) -> Integers:
    import numpy as np

    ends = np.flatnonzero(data < 128) + 1
    if len(ends) != count or (count and ends[-1] != len(data)) or (not count and len(data)):
        raise CodecError(f"{_NAME}: truncated or damaged: expected {count} numbers of bytes; got {len(ends)}")
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[:count]
    if count and (ends - starts).max() > _MAX_DIGITS:
        raise CodecError(f"{_NAME}: damaged: expected numbers of at most {_MAX_DIGITS} bytes")
    places = np.arange(len(data)) - np.repeat(starts, ends - starts)
    digits = (data & 127).astype(np.int64) << _DIGIT_BITS * places
    numbers: Integers = np.add.reduceat(digits, starts) if count else digits
    return numbers


def unpack_indices(data: Any, count: int, size: int, coding: Coding) -> Integers:
    """Return the places that `pack_indices` has coded.

    Args:
        data: what it returned.
        count: how many places, k.
        size: of how many, D.
        coding: as it was told; with `auto`, any of them.

    Returns:
        `(k,)` int32, ascending and different, of 0 to `size` - 1.

    Raises:
        CodecError: the data is truncated, damaged, or does not stand for so many places.
    """
    import numpy as np

    if getattr(data, "dtype", None) != np.uint8 or data.ndim != 1 or not len(data):
        raise CodecError(f"{_NAME}: expected a vector of bytes that begins with the coding; got {data!r:.80}")
    valid = _MARKS if coding == "auto" else (coding,)
    mark = int(data[0])
    if mark >= len(_MARKS) or _MARKS[mark] not in valid:
        codes = ", ".join(f"{_MARKS.index(each)} ({each})" for each in valid)
        raise CodecError(f"{_NAME}: damaged: expected the coding {codes}; got {mark}")
    indices = _decode(data[1:], count, size, _MARKS[mark])
    is_valid = len(indices) == count and (not count or (indices[0] >= 0 and indices[-1] < size))
    if not is_valid or not (np.diff(indices) > 0).all():
        raise CodecError(f"{_NAME}: damaged: expected {count} ascending numbers of 0 to {size - 1}")
    return indices.astype(np.int32)


def _decode(data: Integers, count: int, size: int, coding: str) -> Integers:
    import numpy as np

    if coding in {"raw", "bitmap"}:
        expected = 4 * count if coding == "raw" else -(-size // 8)
        if len(data) != expected:
            raise CodecError(f"{_NAME}: truncated or damaged: expected {expected} bytes; got {len(data)}")
        if coding == "raw":
            return np.frombuffer(data.tobytes(), "<i4").astype(np.int64)  # whose differences fit
        return np.flatnonzero(np.unpackbits(data, bitorder="little"))
    if coding == "delta":
        return np.cumsum(_from_digits(data, count) + 1) - 1
    reader = BitReader(data, _NAME)
    gaps = read_rice(reader, count, rice_parameter(count / size)) if count else np.zeros(0, np.int64)
    reader.finish()
    indices: Integers = np.cumsum(gaps) - 1
    return indices
