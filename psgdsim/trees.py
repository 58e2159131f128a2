"""Small helpers over pytrees: names of leaves, their numbers, a digest.

They take numpy or jax arrays alike and import jax only when called.
"""

from __future__ import annotations

import hashlib
from typing import Any


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Return `(name, leaf)` of every leaf in jax's order; a name looks like `layers/0/weight`.

    Args:
        tree: any pytree.

    Returns:
        One pair per leaf; the name of a bare leaf is `value`.
    """
    import jax

    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [("/".join(_part(entry) for entry in path) or "value", leaf) for path, leaf in pairs]


def _part(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def shapes(tree: Any) -> dict[str, str]:
    """Return the dtype and shape of every leaf by name, such as `{"bias": "float32[10]"}`."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named_leaves(tree)}


def numbers(value: Any) -> Any:
    """Return a pytree with its arrays as numpy arrays."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    import jax
    import numpy as np

    return jax.tree.map(lambda leaf: np.asarray(leaf) if hasattr(leaf, "dtype") else leaf, value)


def digest(tree: Any) -> str:
    """Return the sha256 over names, shapes, dtypes and raw bits of all leaves.

    Args:
        tree: a pytree of arrays.

    Returns:
        64 hexadecimal digits; equal for two trees only if they are equal bit for bit.
    """
    import numpy as np

    sha = hashlib.sha256()
    for name, leaf in named_leaves(tree):
        array = np.asarray(leaf)
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(little.tobytes())
    return sha.hexdigest()
