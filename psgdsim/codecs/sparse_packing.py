"""Packing of sparse payloads, `{"indices": ..., "values": ...}`, on the host."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from psgdsim.codecs.indices import Coding, pack_indices, unpack_indices
from psgdsim.errors import CodecError


def num_kept(ratio: float, size: int) -> int:
    """Return how many of `size` values a ratio, as it is written in decimals, keeps: at least one, rounded down.

    Example:
        >>> num_kept(0.01, 250), num_kept(0.01, 5), num_kept(0.29, 100)
        (2, 1, 29)
    """
    return max(1, int(Decimal(str(ratio)) * size))


def sparse_pack(coding: Coding) -> Callable[[Any, Any], dict[str, Any]]:
    """Return a codec's `pack`: indices are coded, with `raw` as plain int32; those beyond the end are left out."""

    def pack(payload: Any, like: Any) -> dict[str, Any]:
        import numpy as np

        indices, values = np.asarray(payload["indices"]), np.asarray(payload["values"])
        is_kept = indices < like.size
        indices, values = indices[is_kept], values[is_kept]
        coded = indices.astype(np.int32) if coding == "raw" else pack_indices(indices, like.size, coding)
        return {"indices": coded, "values": values}

    return pack


def sparse_unpack(coding: Coding, count_of: Callable[[Any], int] | None = None) -> Callable[[Any, Any], dict[str, Any]]:
    """Return the inverse of `sparse_pack`.

    Args:
        coding: as it was told.
        count_of: `(like) -> number of values`; None if any number up to that of `like` may come.
    """

    def unpack(payload: Any, like: Any) -> dict[str, Any]:
        values = _checked_values(payload, like, None if count_of is None else count_of(like))
        coded = payload["indices"]
        indices = _checked_raw(coded, len(values), like.size) if coding == "raw" else None
        return {
            "indices": unpack_indices(coded, len(values), like.size, coding) if indices is None else indices,
            "values": values,
        }

    return unpack


def _checked_values(payload: Any, like: Any, count: int | None) -> Any:
    if not isinstance(payload, dict) or set(payload) != {"indices", "values"}:
        raise CodecError(f"payload: expected a dict of indices and values; got {payload!r:.80}")
    values = payload["values"]
    if getattr(values, "dtype", None) != like.dtype or values.ndim != 1:
        raise CodecError(f"values: expected a vector of {like.dtype}; got {values!r:.80}")
    if count is not None and len(values) != count:
        raise CodecError(f"values: truncated or damaged: expected {count} of them; got {len(values)}")
    if len(values) > like.size:
        raise CodecError(f"values: damaged: expected at most {like.size} of them; got {len(values)}")
    return values


def _checked_raw(indices: Any, count: int, size: int) -> Any:
    import numpy as np

    if getattr(indices, "dtype", None) != np.int32 or indices.shape != (count,):
        raise CodecError(f"indices: truncated or damaged: expected {count} of int32; got {indices!r:.80}")
    if count and (indices[0] < 0 or indices[-1] >= size or (np.diff(indices.astype(np.int64)) <= 0).any()):
        raise CodecError(f"indices: damaged: expected {count} ascending numbers of 0 to {size - 1}")
    return indices
