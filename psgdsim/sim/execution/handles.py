"""Values of calls that are still to be made, and where they are once the calls have been made."""

from __future__ import annotations

import weakref
from functools import cached_property
from typing import TYPE_CHECKING, Any

from psgdsim.sim.execution.devices import put
from psgdsim.sim.values import Value

if TYPE_CHECKING:
    from psgdsim.sim.execution.batched import Batched
    from psgdsim.sim.execution.signature import Signature


class Stack:
    """An array, or arrays of one shape along a first axis.

    Args:
        array: all of them.
        num: how many; 0 if it is one array, without that axis.

    Attributes:
        family: what it shares rows with, if it is part of the slots of a chain.
    """

    __slots__ = ("__dict__", "array", "family", "num")

    def __init__(self, array: Any, num: int = 0) -> None:
        self.array, self.num = array, num
        self.family: Family | None = None

    def share(self) -> Any:
        """Return the array, which from now on is on all devices."""
        self.array = put(self.array, "shared")
        return self.array

    @cached_property
    def numbers(self) -> Any:
        """The numbers, kept: of stacks of scalars, many are read one by one."""
        import numpy as np

        return np.asarray(self.array)

    @property
    def is_ready(self) -> bool:
        """Whether the array has been computed, so that reading it does not wait."""
        return bool(self.array.is_ready())


class Layer(Stack):
    """The array of one of several rounds; it is taken out of theirs only if somebody asks for it.

    Args:
        rounds: the arrays of all rounds.
        place: which one.
        num: as of a stack.
    """

    def __init__(self, rounds: Stack, place: int, num: int) -> None:
        self._rounds, self._place, self.num = rounds, place, num
        self.family = None

    @cached_property
    def array(self) -> Any:
        """The array."""
        return self._rounds.array[self._place]

    @property
    def numbers(self) -> Any:
        """The numbers."""
        return self._rounds.numbers[self._place]

    @property
    def is_ready(self) -> bool:
        """Whether the array has been computed."""
        return self._rounds.is_ready


class Family:
    """The slots of a chain's results after it has run: a stack for each leaf, a row for each version.

    Args:
        update: the kernel of the chain.
        stacks: by leaf.

    Attributes:
        residents: by row, who holds what is there: leaves and handles.
    """

    def __init__(self, update: Signature, stacks: dict[int, Stack]) -> None:
        self.update, self.stacks = update, stacks
        self.residents: dict[int, list[tuple[int, weakref.ref[Handle]]]] = {}
        for stack in stacks.values():
            stack.family = self


class Call:
    """A kernel with its arguments, to be run.

    Args:
        execution: what it is part of.
        signature: the kernel and the shapes.
        inputs: the data among the leaves of its arguments.
        is_put_off: whether it runs together with others, later.

    Attributes:
        outputs: for each leaf of the result the handle, as long as anybody holds it; None if it is an argument.
        missing: how many other calls must run before.
        consumers: the calls that wait for this one.
        is_done: whether it has run.
        is_left: whether others ran without it, so that it must run only if somebody needs its result.
        num_passed: how often others ran and it did not.
    """

    num = 1
    """How many ranks it is made for."""

    __slots__ = (
        "consumers", "execution", "inputs", "is_done", "is_left", "is_put_off", "missing", "num_passed", "outputs",
        "signature",
    )  # fmt: skip

    def __init__(self, execution: Batched, signature: Signature, inputs: list[Any], *, is_put_off: bool = True) -> None:
        self.execution, self.signature, self.inputs, self.is_put_off = execution, signature, inputs, is_put_off
        self.is_left = False
        self.outputs: list[weakref.ref[Handle] | None] = [None] * len(signature.out_avals)
        self.missing = 0
        self.consumers: list[Call] = []
        self.is_done = False
        self.num_passed = 0

    @property
    def group(self) -> Any:
        """What tells the calls that may run as rows of one segment."""
        return self.signature

    def is_wanted(self, leaf: int) -> bool:
        """Whether anybody holds a leaf of the result."""
        output = self.outputs[leaf]
        return output is not None and output() is not None

    @property
    def is_held(self) -> bool:
        """Whether anybody holds any leaf of the result."""
        return any(output is not None and output() is not None for output in self.outputs)

    @property
    def can_be_had(self) -> bool:
        """Whether its whole result is there, or will be if somebody wants it."""
        return not self.is_done or all(output is None or output() is not None for output in self.outputs)

    def result(self, leaf: int) -> Any:
        """Return what stands for a leaf of the result: the handle that there is, or a new one."""
        forward, output = self.signature.forwards[leaf], self.outputs[leaf]
        if forward is not None:
            return self.inputs[forward]
        handle = None if output is None else output()
        if handle is None:
            handle = self.new_handle(leaf)
            handle.call, handle.leaf = self, leaf
            self.outputs[leaf] = weakref.ref(handle)
        return handle

    def new_handle(self, leaf: int) -> Handle:
        """Return a handle for a leaf of the result."""
        aval = self.signature.out_avals[leaf]
        return Handle(self.execution, aval.shape, aval.dtype, self.signature.out_codes[leaf])

    def settle(self, leaf: int, stack: Stack, row: int = 0) -> None:
        """Tell a handle where its array is."""
        output = self.outputs[leaf]
        handle = None if output is None else output()
        if handle is not None and handle.stack is None:
            handle.call, handle.stack, handle.row = None, stack, row if stack.num else 0


class Handle(Value):
    """A tensor whose numbers may not have been computed yet.

    Args:
        execution: who will compute them.
        shape: its shape.
        dtype: its dtype.
        code: a number that stands for shape and dtype.

    Attributes:
        call: what computes it; None once it has been computed.
        leaf: which leaf of the call's result it is.
        stack: where it is; None until it has been computed.
        row: in which row of the stack.
    """

    __slots__ = ("__weakref__", "call", "code", "dtype", "execution", "leaf", "row", "shape", "stack")

    def __init__(self, execution: Batched, shape: tuple[int, ...], dtype: Any, code: int) -> None:
        self.execution, self.shape, self.dtype, self.code = execution, shape, dtype, code
        self.call: Call | None = None
        self.leaf = self.row = 0
        self.stack: Stack | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the numbers are there, so that reading them does not wait."""
        return self.stack is not None and self.stack.is_ready

    @property
    def array(self) -> Any:
        """The array; what it depends on is computed if that has not been done."""
        stack = self.ready
        return stack.array[self.row] if stack.num else stack.array

    @property
    def numbers(self) -> Any:
        """The numbers, in numpy."""
        import numpy as np

        stack = self.ready
        if self.shape == ():
            return stack.numbers[self.row] if stack.num else stack.numbers
        return np.asarray(self.array)

    @property
    def ready(self) -> Stack:
        """Where it is; what it depends on is computed if that has not been done."""
        if self.stack is None:
            self.execution.flush(self)
        assert self.stack is not None
        return self.stack
