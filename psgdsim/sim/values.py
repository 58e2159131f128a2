"""Handles: what a program holds instead of numbers in a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from psgdsim import trees
from psgdsim.errors import ProgramError

_codes: dict[tuple[tuple[int, ...], Any], int] = {}


def code_of(shape: tuple[int, ...], dtype: Any) -> int:
    """Return a number that stands for a shape and a dtype, in this process."""
    return _codes.setdefault((shape, dtype), len(_codes))


class Value:
    """A tensor that a program holds; its shape and dtype are known, its numbers only through `Node.read`.

    Attributes:
        array: the tensor.
        shape: its shape.
        dtype: its dtype.
        code: a number that stands for shape and dtype (see `code_of`).
    """

    __slots__ = ()

    array: Any
    shape: tuple[int, ...]
    dtype: Any
    code: int

    @property
    def is_ready(self) -> bool:
        """Whether the numbers are there."""
        return True

    @property
    def numbers(self) -> Any:
        """The numbers, in numpy."""
        import numpy as np

        return np.asarray(self.array)

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


class Computed(Value):
    """A tensor whose numbers are there.

    Args:
        array: the tensor.
    """

    __slots__ = ("array", "code", "dtype", "shape")

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, tuple(array.shape), array.dtype
        self.code = code_of(self.shape, self.dtype)


def wrap(tree: Any) -> Any:
    """Return a pytree with every array replaced by a handle."""
    import jax

    return jax.tree.map(lambda leaf: Computed(leaf) if hasattr(leaf, "dtype") else leaf, tree)


def unwrap(tree: Any) -> Any:
    """Return a pytree with every handle replaced by its array."""
    import jax

    return jax.tree.map(lambda leaf: leaf.array if isinstance(leaf, Value) else leaf, tree)


def numbers(tree: Any) -> Any:
    """Return a pytree with every handle or array replaced by a numpy array."""
    import jax
    import numpy as np

    def number(leaf: Any) -> Any:
        if isinstance(leaf, Value):
            return leaf.numbers
        return np.asarray(leaf) if hasattr(leaf, "dtype") else leaf

    return jax.tree.map(number, tree)


def known(leaf: Any) -> Any:
    """Return a number if it is there, else None: nothing is computed for it."""
    if not isinstance(leaf, Value):
        return leaf
    return leaf.numbers if leaf.is_ready else None


class Digests:
    """Digests of models, each computed once however many ranks have the very same."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], str] = {}

    def of(self, models: Sequence[Any]) -> str:
        """Return the sha256 of models (see `trees.digest`); they must stay alive as long as this does."""
        import jax

        key = tuple(map(id, jax.tree.leaves(list(models))))
        if key not in self._known:
            self._known[key] = trees.digest(numbers(list(models)))
        return self._known[key]
