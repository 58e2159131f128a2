"""Write a payload's spec and buffers, or only measure them."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from psgdsim.errors import CodecError
from psgdsim.wire.layout import (
    FLOAT,
    HEADER_NBYTES,
    INT,
    LENGTH,
    MAX_DEPTH,
    MAX_DIMENSIONS,
    MAX_SPEC_BYTES,
    MAX_TEXT_BYTES,
    Buffer,
    Mark,
    aligned,
    dtype_code,
    dtype_of,
)

_EXPECTED = "expected dicts, lists, tuples, None, arrays, bools, ints, floats or short texts"
_CONTAINERS: dict[type, int] = {tuple: Mark.TUPLE, list: Mark.LIST, dict: Mark.DICT}


def nbytes(payload: Any) -> int:
    """Return the size of the frame that carries a payload [byte]: exactly `len(pack(payload))`.

    Args:
        payload: the tree; leaves may be arrays or anything with a shape and a dtype, such as
            `jax.ShapeDtypeStruct`.

    Raises:
        CodecError: the payload holds what no frame can carry.

    Example:
        >>> nbytes(None), nbytes((1, 2.0))
        (72, 88)
    """
    spec, body, _ = _measure(payload, "payload", 0)
    return HEADER_NBYTES + aligned(spec) + body


def tensor_nbytes(payload: Any) -> int:
    """Return the size of the arrays alone [byte], without header, spec and plain numbers.

    Example:
        >>> tensor_nbytes((1, None))
        0
    """
    return _measure(payload, "payload", 0)[2]


def encode(payload: Any) -> tuple[bytes, list[Buffer]]:
    """Return a payload's spec and its buffers, which are views of its arrays where these lie in C order.

    Raises:
        CodecError: the payload holds what no frame can carry; the message names the place and the type.
    """
    spec = bytearray()
    body = list(_encode(payload, "payload", 0, spec))
    spec.extend(bytes(aligned(len(spec)) - len(spec)))
    if len(spec) > MAX_SPEC_BYTES:
        raise CodecError(f"payload: its structure takes {len(spec)} bytes; at most {MAX_SPEC_BYTES} fit")
    return bytes(spec), body


def _reject(path: str, leaf: Any, why: str = _EXPECTED) -> CodecError:
    kind = type(leaf)
    return CodecError(f"{path}: {why}; got {kind.__module__}.{kind.__qualname__} {str(leaf)[:60]!r}")


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def _array_code(leaf: Any, path: str) -> int:
    code = dtype_code(leaf.dtype)
    if code is None or len(leaf.shape) > MAX_DIMENSIONS:
        raise _reject(path, leaf, f"no frame carries {len(leaf.shape)}-dimensional arrays of {leaf.dtype}")
    return code


def _text(text: Any, path: str) -> bytes:
    if type(text) is not str:
        raise _reject(path, text, "expected a text as dict key")
    data = text.encode()
    if len(data) > MAX_TEXT_BYTES:
        raise _reject(path, text, f"expected a text of at most {MAX_TEXT_BYTES} bytes, not {len(data)}")
    return LENGTH.pack(len(data)) + data


def _children(tree: Any, path: str, depth: int) -> list[tuple[str, bytes, Any]]:
    """Return the path, the encoded key (if any) and the value of each child of a container."""
    if depth >= MAX_DEPTH:
        raise _reject(path, tree, f"expected at most {MAX_DEPTH} containers inside each other")
    if type(tree) is dict:
        return [(f"{path}[{key!r}]", _text(key, path), child) for key, child in tree.items()]
    return [(f"{path}[{place}]", b"", child) for place, child in enumerate(tree)]


def _measure(tree: Any, path: str, depth: int) -> tuple[int, int, int]:
    """Return the length of a tree's spec, of its body, and of the arrays in its body [byte]."""
    kind = type(tree)
    if kind in _CONTAINERS:
        spec, body, tensors = 1 + LENGTH.size, 0, 0
        for place, key, child in _children(tree, path, depth):
            sizes = _measure(child, place, depth + 1)
            spec, body, tensors = spec + len(key) + sizes[0], body + sizes[1], tensors + sizes[2]
        return spec, body, tensors
    if _is_array(tree):
        size = math.prod(tree.shape) * dtype_of(_array_code(tree, path)).itemsize
        return 3 + 8 * len(tree.shape), size, size
    if kind is str:
        return 1 + len(_text(tree, path)), 0, 0
    return 1, len(_scalar(tree, path)[1]), 0


def _encode(tree: Any, path: str, depth: int, spec: bytearray) -> Iterator[Buffer]:
    """Append a tree's spec and yield its buffers."""
    kind = type(tree)
    if kind in _CONTAINERS:
        spec.append(_CONTAINERS[kind])
        spec += LENGTH.pack(len(tree))
        for place, key, child in _children(tree, path, depth):
            spec += key
            yield from _encode(child, place, depth + 1, spec)
    elif _is_array(tree):
        yield _encode_array(tree, path, spec)
    elif kind is str:
        spec.append(Mark.TEXT)
        spec += _text(tree, path)
    else:
        mark, data = _scalar(tree, path)
        spec.append(mark)
        yield data


def _encode_array(leaf: Any, path: str, spec: bytearray) -> Buffer:
    import numpy as np

    code = _array_code(leaf, path)
    array = np.asarray(leaf).astype(dtype_of(code), copy=False)
    spec += struct.pack(f"<BBB{len(leaf.shape)}Q", Mark.ARRAY, code, len(leaf.shape), *leaf.shape)
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


def _scalar(leaf: Any, path: str) -> tuple[int, bytes]:
    """Return the mark and the bytes of None or a plain number."""
    kind = type(leaf)
    if leaf is None:
        return Mark.NONE, b""
    if kind is bool:
        return Mark.BOOL, bytes([leaf])
    if kind is float:
        return Mark.FLOAT, FLOAT.pack(leaf)
    if kind is not int:
        raise _reject(path, leaf)
    if not -(2**63) <= leaf < 2**63:
        raise _reject(path, leaf, "expected an int of 64 bits")
    return Mark.INT, INT.pack(leaf)
