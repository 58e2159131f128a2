"""The idx format of MNIST's files: a big-endian header, then the values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from psgdsim.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np

UNSIGNED_BYTE = 0x08
"""The only element type read here; it is the only one that image data sets use."""


def parse_idx(content: bytes, source: str) -> np.ndarray:
    """Return the array in the uncompressed content of an idx file.

    Layout: two zero bytes, one byte of element type (8: unsigned byte), one byte with the number of
    dimensions, each dimension as a big-endian uint32, then the values in C order. Nothing is allocated on
    the word of the header.
    Source: LeCun, Cortes, Burges, "The MNIST Database of Handwritten Digits", 1998.

    Args:
        content: the file's bytes.
        source: the file's name, for messages.

    Returns:
        A read-only uint8 array over `content`.

    Raises:
        DatasetError: not an idx file of unsigned bytes, or the header disagrees with the length.
    """
    import numpy as np

    if len(content) < 4 or content[:2] != b"\0\0":
        raise DatasetError(
            f"{source}: not an idx file: expected it to start 00 00; got {content[:4].hex(' ') or 'nothing'}"
        )
    element_type, num_dims = content[2], content[3]
    if element_type != UNSIGNED_BYTE:
        raise DatasetError(f"{source}: expected idx elements of type 0x08 (unsigned byte); got 0x{element_type:02x}")
    start = 4 + 4 * num_dims
    if num_dims == 0 or len(content) < start:
        raise DatasetError(
            f"{source}: the idx header promises {num_dims} dimensions; the file has {len(content)} bytes"
        )
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise DatasetError(
            f"{source}: the idx header promises {' x '.join(map(str, shape))} = {math.prod(shape)} values; "
            f"the file has {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
