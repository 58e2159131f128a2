"""Values and calls of many ranks at once: a handle for all of them, a call whose rows they are.

Where ranks are carried on as one (see `per_rank`), nobody has to find out which calls of theirs are alike: a call is
made once for all of them, and stands in the graph of calls as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psgdsim.sim.execution.handles import Call, Handle
from psgdsim.sim.values import Value

if TYPE_CHECKING:
    from psgdsim.sim.execution.batched import Batched
    from psgdsim.sim.execution.signature import Signature


class LaneHandle(Handle):
    """A tensor of each of many ranks, whose numbers may not have been computed yet; `shape` is that of one of them.

    Args:
        execution: who will compute them.
        aval: shape and dtype of one.
        code: a number that stands for that.
        num: how many ranks.
    """

    __slots__ = ("num",)

    def __init__(self, execution: Batched, aval: Any, code: int, num: int) -> None:
        super().__init__(execution, aval.shape, aval.dtype, code)
        self.num = num

    @property
    def array(self) -> Any:
        """The arrays of all ranks, one behind the other along the first axis."""
        array = self.ready.array
        return array if len(array) == self.num else array[: self.num]

    @property
    def numbers(self) -> Any:
        """The numbers of all ranks, in numpy."""
        return self.ready.numbers[: self.num]

    def of(self, place: int) -> LaneView:
        """Return the tensor of one rank."""
        return LaneView(self, place)


class LaneView(Value):
    """The tensor of one of many ranks.

    Args:
        handle: of all.
        place: which rank's.
    """

    __slots__ = ("_handle", "_place", "code", "dtype", "shape")

    def __init__(self, handle: LaneHandle, place: int) -> None:
        self._handle, self._place = handle, place
        self.shape, self.dtype, self.code = handle.shape, handle.dtype, handle.code

    @property
    def is_ready(self) -> bool:
        """Whether the numbers are there."""
        return self._handle.is_ready

    @property
    def array(self) -> Any:
        """The tensor."""
        return self._handle.ready.array[self._place]

    @property
    def numbers(self) -> Any:
        """The numbers, in numpy."""
        import numpy as np

        return self._handle.ready.numbers[self._place] if self.shape == () else np.asarray(self.array)


class LaneCall(Call):
    """A call of many ranks, which among its inputs has handles of theirs, or numbers (`PerRank`).

    Args:
        execution: what it is part of.
        signature: the kernel and the shapes, for one rank.
        inputs: the data among the leaves of its arguments.
        num: how many ranks.
    """

    __slots__ = ("num",)

    def __init__(self, execution: Batched, signature: Signature, inputs: list[Any], num: int) -> None:
        super().__init__(execution, signature, inputs)
        self.num = num

    @property
    def group(self) -> Any:
        """What runs together with it as the same kernel: nothing else."""
        return self

    def new_handle(self, leaf: int) -> Handle:
        """Return a handle for a leaf of the results of all ranks."""
        return LaneHandle(self.execution, self.signature.out_avals[leaf], self.signature.out_codes[leaf], self.num)


class LaneTotal(Call):
    """A weighted sum over the ranks of what they have.

    Args:
        execution: what it is part of.
        signature: of the sum.
        inputs: a handle of all ranks for each leaf.
        weights: of the ranks, float32.
    """

    __slots__ = ("weights",)

    def __init__(self, execution: Batched, signature: Signature, inputs: list[Any], weights: Any) -> None:
        super().__init__(execution, signature, inputs)
        self.weights = weights

    @property
    def group(self) -> Any:
        """What runs together with it as the same kernel: nothing else."""
        return self


def view(leaf: Any, place: int) -> Any:
    """Return what one rank has where a leaf is a handle of all, else the leaf."""
    return leaf.of(place) if type(leaf) is LaneHandle else leaf
