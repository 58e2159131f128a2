"""Rebuild a payload from its spec and body.

Both come from the network: every length is checked before it is used, and nothing is allocated that the bytes
received do not pay for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from psgdsim.errors import ProtocolError
from psgdsim.wire.layout import (
    ALIGNMENT,
    DTYPES,
    FLOAT,
    INT,
    LENGTH,
    MAX_DEPTH,
    MAX_DIMENSIONS,
    MAX_TEXT_BYTES,
    Mark,
    dtype_of,
)


def decode(spec: memoryview, body: memoryview) -> Any:
    """Return the payload; its arrays are numpy arrays that look into `body`.

    Raises:
        ProtocolError: spec and body are not those of a payload.
    """
    reader = _Reader(spec, body)
    payload = reader.read(0)
    reader.finish()
    return payload


class _Reader:
    """Reads a tree from the front of a spec and a body."""

    def __init__(self, spec: memoryview, body: memoryview) -> None:
        self._spec, self._body = spec, body
        self._leaves: dict[int, Callable[[], Any]] = {
            Mark.NONE: lambda: None,
            Mark.BOOL: self._read_bool,
            Mark.INT: lambda: INT.unpack(self._take_body(INT.size))[0],
            Mark.FLOAT: lambda: FLOAT.unpack(self._take_body(FLOAT.size))[0],
            Mark.TEXT: self._read_text,
            Mark.ARRAY: self._read_array,
        }

    def read(self, depth: int) -> Any:
        """Read one tree."""
        mark = self._take(1)[0]
        if mark in (Mark.TUPLE, Mark.LIST, Mark.DICT):
            return self._read_container(mark, depth)
        if mark not in self._leaves:
            raise ProtocolError(f"frame: its spec holds {mark}, which stands for nothing")
        return self._leaves[mark]()

    def finish(self) -> None:
        """Check that only the filling of the spec is left."""
        if self._body or len(self._spec) >= ALIGNMENT or any(self._spec):
            left = f"{len(self._spec)} bytes of spec and {len(self._body)} of body"
            raise ProtocolError(f"frame: {left} are left over")

    def _take(self, count: int) -> memoryview:
        if count > len(self._spec):
            raise ProtocolError("frame: its spec ends too early")
        taken, self._spec = self._spec[:count], self._spec[count:]
        return taken

    def _take_body(self, count: int) -> memoryview:
        if count > len(self._body):
            raise ProtocolError(f"frame: its spec asks for {count} bytes; only {len(self._body)} are left")
        taken, self._body = self._body[:count], self._body[count:]
        return taken

    def _read_length(self, limit: int) -> int:
        length = int(LENGTH.unpack(self._take(LENGTH.size))[0])
        if length > limit:
            raise ProtocolError(f"frame: its spec holds the length {length}; at most {limit} is possible")
        return length

    def _read_container(self, mark: int, depth: int) -> Any:
        if depth >= MAX_DEPTH:
            raise ProtocolError(f"frame: more than {MAX_DEPTH} containers inside each other")
        count = self._read_length(len(self._spec))
        if mark != Mark.DICT:
            items = [self.read(depth + 1) for _ in range(count)]
            return tuple(items) if mark == Mark.TUPLE else items
        entries: dict[str, Any] = {}
        for _ in range(count):
            key = self._read_text()
            if key in entries:
                raise ProtocolError(f"frame: the key {key!r} comes twice in one dict")
            entries[key] = self.read(depth + 1)
        return entries

    def _read_text(self) -> str:
        data = self._take(self._read_length(MAX_TEXT_BYTES))
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("frame: a text is not UTF-8") from None

    def _read_bool(self) -> bool:
        value = self._take_body(1)[0]
        if value > 1:
            raise ProtocolError(f"frame: a bool holds {value}")
        return bool(value)

    def _read_array(self) -> Any:
        import numpy as np

        code, dimensions = self._take(2)
        if code >= len(DTYPES) or dimensions > MAX_DIMENSIONS:
            raise ProtocolError(f"frame: no array has {dimensions} dimensions and the dtype code {code}")
        shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        dtype = dtype_of(code)
        data = np.frombuffer(self._take_body(math.prod(shape) * dtype.itemsize), dtype=np.uint8)
        try:
            array = data.view(dtype).reshape(shape)
        except (ValueError, OverflowError):
            raise ProtocolError(f"frame: no array has the shape {shape}") from None
        return array if array.flags.aligned else array.copy()
