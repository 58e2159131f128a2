"""How large frames are; found out once for payloads that look alike."""

from __future__ import annotations

from typing import Any

from psgdsim import wire
from psgdsim.sim.values import Value


class FrameSizes:
    """Remember the sizes of frames."""

    def __init__(self) -> None:
        from jax.tree_util import tree_flatten

        self._flatten = tree_flatten
        self._known: dict[Any, tuple[int, int]] = {}

    def of(self, payload: Any) -> tuple[int, int]:
        """Return the size of a payload's frame and of the tensors in it [byte]; no frame depends on a number's value.

        Raises:
            CodecError: no frame can carry it.
        """
        leaves, tree = self._flatten(payload)
        key = (tree, *[leaf.code if isinstance(leaf, Value) else type(leaf) for leaf in leaves])
        sizes = self._known.get(key)
        if sizes is None:
            sizes = wire.nbytes(payload), wire.tensor_nbytes(payload)
            if all(isinstance(leaf, Value | bool | float) or type(leaf) is int for leaf in leaves):
                self._known[key] = sizes
        return sizes
