"""Handles: what a program holds instead of numbers in a simulation."""

from __future__ import annotations

from typing import Any, NoReturn

from psgdsim.errors import ProgramError


class Value:
    """A tensor that a program holds; its shape and dtype are known, its numbers only through `Node.read`."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> Any:
        """The tensor's dtype."""
        return self.array.dtype

    def __repr__(self) -> str:
        return f"Value({self.dtype}{list(self.shape)})"

    def _refuse(self, *_: object) -> NoReturn:
        raise ProgramError(
            "a program did arithmetic on a value, or asked for its number; pass it to node.compute(kernel, ...), or "
            "read it with await node.read(value)"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __matmul__ = _refuse
    __neg__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __float__ = __int__ = __index__ = __iter__ = _refuse
    __array__ = __getitem__ = __len__ = _refuse


def wrap(tree: Any) -> Any:
    """Return a pytree with every array replaced by a handle."""
    import jax

    return jax.tree.map(lambda leaf: Value(leaf) if hasattr(leaf, "dtype") else leaf, tree)


def unwrap(tree: Any) -> Any:
    """Return a pytree with every handle replaced by its array."""
    import jax

    return jax.tree.map(lambda leaf: leaf.array if isinstance(leaf, Value) else leaf, tree)


def numbers(tree: Any) -> Any:
    """Return a pytree with every handle or array replaced by a numpy array."""
    import jax
    import numpy as np

    return jax.tree.map(lambda leaf: np.asarray(leaf) if hasattr(leaf, "dtype") else leaf, unwrap(tree))
