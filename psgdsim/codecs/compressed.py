"""A lossless back end: what a codec sends, compressed by a library."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from typing import Annotated, Any, Final

from pydantic import Field

from psgdsim.codecs.base import Codec, register_codec
from psgdsim.codecs.shapes import payload_shapes
from psgdsim.errors import CodecError

_GROWTH: Final = 4
"""A packed payload takes at most so many times the bytes that it has unpacked ..."""

_ROOM: Final = 4096
"""... and so many [byte]."""


@register_codec("compressed")
def compressed(codec: Codec, level: Annotated[int, Field(ge=1, le=22)] = 3) -> Codec:
    """Compress what another codec sends with Zstandard, without loss.

    Wire size: one Zstandard frame for all arrays of the payload together; it differs from message to message. The
    package `zstandard` is needed: `pip install 'psgdsim[zstd]'`.
    Source: Collet and Kucherawy, "Zstandard Compression and the 'application/zstd' Media Type", RFC 8878, 2021.

    Args:
        codec: makes the payloads.
        level: how hard to try; higher is slower and smaller.
    """
    if importlib.util.find_spec("zstandard") is None:
        raise ValueError("the package zstandard is missing; `pip install 'psgdsim[zstd]'`")

    def pack(payload: Any, like: Any) -> dict[str, Any]:
        import jax
        import numpy as np
        import zstandard

        packed = jax.tree.map(np.asarray, payload if codec.pack is None else codec.pack(payload, like))
        data = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(packed))
        frame = zstandard.ZstdCompressor(level=level).compress(data)
        # An empty array of each shape tells the receiver how to cut the bytes.
        shapes = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape), leaf.dtype), packed)
        return {"frame": np.frombuffer(frame, np.uint8), "shapes": shapes}

    def unpack(payload: Any, like: Any) -> Any:
        import jax
        import numpy as np

        shapes, frame = _checked(payload)
        sizes = [math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)]
        bound = _ROOM + _GROWTH * sum(map(_nbytes, jax.tree.leaves(payload_shapes(codec, like))))
        data = _decompress(frame, sum(sizes), bound)
        starts = np.cumsum([0, *sizes])
        leaves = [
            np.frombuffer(data, leaf.dtype, offset=start, count=math.prod(leaf.shape[1:])).reshape(leaf.shape[1:])
            for leaf, start in zip(jax.tree.leaves(shapes), starts, strict=False)
        ]
        packed = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
        return packed if codec.unpack is None else codec.unpack(packed, like)

    return dataclasses.replace(
        codec, is_summable=False, is_identity=False, reduction=None, pack=pack, unpack=unpack, is_ragged=True
    )


def _nbytes(leaf: Any) -> int:
    nbytes: int = math.prod(leaf.shape) * leaf.dtype.itemsize
    return nbytes


def _checked(payload: Any) -> tuple[Any, Any]:
    """Return the shapes and the frame of a payload."""
    import jax
    import numpy as np

    if not isinstance(payload, dict) or set(payload) != {"frame", "shapes"}:
        raise CodecError(f"payload: expected a dict of frame and shapes; got {payload!r:.80}")
    frame, shapes = payload["frame"], payload["shapes"]
    if getattr(frame, "dtype", None) != np.uint8 or frame.ndim != 1:
        raise CodecError(f"frame: expected a vector of bytes; got {frame!r:.80}")
    for leaf in jax.tree.leaves(shapes):
        if not hasattr(leaf, "dtype") or leaf.shape[:1] != (0,):
            raise CodecError(f"shapes: damaged: expected empty arrays; got {leaf!r:.80}")
    return shapes, frame


def _decompress(frame: Any, size: int, bound: int) -> bytes:
    """Return so many bytes; nothing is allocated before their number is known to be right."""
    import zstandard

    if size > bound:
        raise CodecError(f"shapes: damaged: they stand for {size} bytes; expected at most {bound}")
    data = frame.tobytes()
    try:
        told = zstandard.frame_content_size(data)
        if told != size:
            raise CodecError(f"frame: damaged: it holds {told} bytes; expected {size}")
        content: bytes = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"frame: truncated or damaged: {error}") from None
    if len(content) != size:
        raise CodecError(f"frame: damaged: it holds {len(content)} bytes; expected {size}")
    return content
