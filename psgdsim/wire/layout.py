"""How a payload lies in a frame: limits, marks and codes that the encoder and the decoder share.

The spec names each part of the tree by one byte (`Mark`), then

- a container's number of children, u32, and its children; a dict's children each follow their key;
- an array's dtype code u8, number of dimensions u8 and dimensions u64;
- a text's length, u32, and its UTF-8 bytes.

Arrays, bools (1 byte), ints and floats (8 bytes each) have their values in the body. Zeros fill the spec up
to a multiple of 8 bytes, so that the first array lies where numpy and jax can use it without a copy.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

Buffer = bytes | bytearray | memoryview

VERSION: Final = 1
"""The version of frames; it changes with anything in this module."""

HEADER_NBYTES: Final = 64

ALIGNMENT: Final = 8

MAX_TAG_BYTES: Final = 32
"""Longest tag, in UTF-8 bytes; headers carry tags in a field of this size."""

MAX_TEXT_BYTES: Final = 256
"""Longest text in a payload, dict keys included, in UTF-8 bytes."""

MAX_SPEC_BYTES: Final = 2**20
MAX_DEPTH: Final = 32
MAX_DIMENSIONS: Final = 32

LENGTH: Final = struct.Struct("<I")
INT: Final = struct.Struct("<q")
FLOAT: Final = struct.Struct("<d")

DTYPES: Final = (
    "bool",
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64"),
    *("complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2"),
)
"""A dtype's code is its place here: append only, never reorder."""


class Mark:
    """The bytes that name the parts of a tree."""

    NONE: Final = ord("N")
    TUPLE: Final = ord("T")
    LIST: Final = ord("L")
    DICT: Final = ord("D")
    ARRAY: Final = ord("A")
    BOOL: Final = ord("B")
    INT: Final = ord("I")
    FLOAT: Final = ord("F")
    TEXT: Final = ord("S")


@lru_cache(maxsize=256)
def dtype_code(dtype: Any) -> int | None:
    """Return a dtype's code, or None if frames do not carry it."""
    name = getattr(dtype, "name", str(dtype))
    return DTYPES.index(name) if name in DTYPES else None


@lru_cache(maxsize=64)
def dtype_of(code: int) -> np.dtype[Any]:
    """Return the little-endian dtype that a code stands for."""
    import ml_dtypes
    import numpy as np

    name = DTYPES[code]
    return np.dtype(getattr(ml_dtypes, name, name)).newbyteorder("<")


def aligned(length: int) -> int:
    """Round a length up to a multiple of `ALIGNMENT`."""
    return -(-length // ALIGNMENT) * ALIGNMENT
