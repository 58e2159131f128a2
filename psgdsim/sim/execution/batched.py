"""Put calls off until a number is needed, then run those that are alike together.

Values do not decide when things happen, so a call need not run when its program makes it. It is noted down; the shapes
of its result are known from tracing its kernel, so the program gets handles. When somebody reads a number, what that
depends on is run in batches (see `waves`); when many calls have come together, the older ones are. Calls with the very
same arguments run once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from psgdsim.node import Kernel
from psgdsim.sim.execution.handles import Call, Handle, Stack
from psgdsim.sim.execution.memory import key_of
from psgdsim.sim.execution.signature import Signature, total, trace
from psgdsim.sim.execution.waves import Runner
from psgdsim.sim.values import code_of, unwrap

MAX_PENDING: Final = 100_000
"""Calls that are put off at most, whatever they are."""

PATIENCE: Final = 8
"""So often a gradient is passed over because what uses it has not been noted down."""

FEW_ADDENDS: Final = 4
"""A weighted sum of so many trees is a kernel like any other; of more, it is a product of weights and rows."""

Key = tuple[Any, ...]
"""A kernel's id, the structure of its arguments, for each leaf what it is like, and plain numbers that matter."""

_UNKNOWN: Final[Any] = object()


class Batched:
    """Execution in batches.

    Args:
        max_gradients: how many gradients are put off at most.
        num_alone: so many calls are made at once first, just as `Exact` makes them.
    """

    def __init__(self, max_gradients: int, num_alone: int = 0) -> None:
        from jax.tree_util import tree_flatten

        self._flatten = tree_flatten
        self._max_gradients = self._limit = max_gradients
        self._num_gradients = 0
        self._pending: list[Call] = []
        self._signatures: dict[Key, Signature | None] = {}
        self._plain: dict[Key, tuple[int, ...]] = {}
        self._kernels: list[Kernel] = []  # all that were ever used: their ids must stay theirs
        self._num_alone = num_alone
        self._runner = Runner()
        self._failure: Exception | None = None

    # --- noting calls down ------------------------------------------------------------------------------------

    def call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> Any:
        """Put a call off and return handles for its result."""
        if kernel.is_mapped and len(arguments[0]) > 1:
            singles = [self._call(kernel, tuple([each] for each in place)) for place in zip(*arguments, strict=True)]
            return tuple([each for [each] in lists] for lists in zip(*singles, strict=True))
        return self._call(kernel, arguments)

    def _call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> Any:
        leaves, tree = self._flatten(arguments)
        key: list[Any] = [id(kernel), tree]
        for i, leaf in enumerate(leaves):
            if type(leaf) is Handle:
                key.append(leaf.code)
            else:
                if isinstance(leaf, np.ndarray) and leaf.flags.writeable:
                    leaves[i] = leaf.copy()
                key.append(code(leaf))
        signature = self._signature(kernel, tuple(key), leaves, arguments)
        if signature is None:
            return self.wrap(kernel.function(*unwrap(arguments)))
        data = leaves if len(signature.dynamic) == len(leaves) else [leaves[i] for i in signature.dynamic]
        if signature.is_view:
            return signature.out_tree.unflatten([data[place] for place in signature.forwards if place is not None])
        call = self._call_of(signature, data)
        results = self._results(call, data)
        if not (call.is_put_off or call.is_done):
            self._run_at_once(call, arguments)
            if signature.memory.is_worth_it and kernel.kind != "gradient":
                signature.memory.keep(results)
        else:
            self._run_some()
        return signature.out_tree.unflatten(results)

    def _call_of(self, signature: Signature, data: list[Any]) -> Call:
        """Return the call with the same data whose result can be had, or a new one."""
        memory = signature.memory
        if not memory.is_worth_it:
            return self._new_call(signature, data)
        key = key_of(data)
        call = memory.recall(key, data)
        if call is None:
            call = self._new_call(signature, data)
            memory.remember(key, data, call)
        return call

    def wrap(self, tree: Any) -> Any:
        """Return a pytree with every array replaced by a handle."""
        import jax

        return jax.tree.map(self._wrapped, tree)

    def _wrapped(self, leaf: Any) -> Any:
        if not hasattr(leaf, "dtype"):
            return leaf
        handle = Handle(self, tuple(leaf.shape), leaf.dtype, code_of(tuple(leaf.shape), leaf.dtype))
        handle.stack = Stack(leaf)
        return handle

    def _results(self, call: Call, data: Sequence[Any]) -> list[Any]:
        """Return what stands for the leaves of a call's result; `data` is what it was called with this time."""
        return [
            call.result(leaf) if forward is None else data[forward]
            for leaf, forward in enumerate(call.signature.forwards)
        ]

    def _new_call(self, signature: Signature, data: list[Any]) -> Call:
        """Return a call that is put off, or one that is to be run at once."""
        call = Call(self, signature, data, is_put_off=not self._num_alone)
        if call.is_put_off:
            self._note(call)
        else:
            self._num_alone -= 1
        return call

    def _note(self, call: Call) -> None:
        """Add a call to those that are put off."""
        self._pending.append(call)
        self._num_gradients += call.num * (call.signature.kernel.kind == "gradient")

    def _put_off(self, call: Call) -> None:
        """Put a new call off, and run others if they are too many."""
        self._note(call)
        self._run_some()

    def _run_some(self) -> None:
        """Run the older calls if too many have come together."""
        if self._num_gradients >= self._limit or len(self._pending) >= MAX_PENDING:
            self._run_older()

    def _run_at_once(self, call: Call, arguments: tuple[Any, ...]) -> None:
        """Run a call by the very function that `Exact` calls."""
        import jax

        for leaf, array in enumerate(jax.tree.leaves(call.signature.kernel.function(*unwrap(arguments)))):
            call.settle(leaf, Stack(array))
        call.is_done, call.inputs = True, []

    # --- signatures -------------------------------------------------------------------------------------------

    def _signature(self, kernel: Kernel, key: Key, leaves: list[Any], arguments: tuple[Any, ...]) -> Signature | None:
        """Return what is known of such a call; trace it if it is the first of its kind."""
        found = self._signatures.get(key, _UNKNOWN)
        if found is _UNKNOWN and key in self._plain:
            key = (*key, *[leaves[i] for i in self._plain[key]])
            found = self._signatures.get(key, _UNKNOWN)
        if found is not _UNKNOWN:
            return found  # type: ignore[no-any-return]
        signature = self._trace(kernel, key[1], leaves, arguments)
        self._kernels.append(kernel)
        if signature is not None and signature.plain and len(key) == len(leaves) + 2:
            self._plain[key] = signature.plain
            key = (*key, *[leaves[i] for i in signature.plain])
        self._signatures[key] = signature
        return signature

    def _trace(self, kernel: Kernel, tree: Any, leaves: list[Any], arguments: tuple[Any, ...]) -> Signature | None:
        if kernel.is_weighted_sum and len(arguments[1]) > FEW_ADDENDS and _are_alike(arguments[1]):
            signature: Signature | None = total(kernel, *arguments)
        else:
            signature = trace(kernel, tree, leaves)
        if signature is None:
            return None
        return self.with_codes(signature)

    @staticmethod
    def with_codes(signature: Signature) -> Signature:
        """Return a signature that has a number for what each leaf of its result is like."""
        codes = tuple(code_of(aval.shape, aval.dtype) for aval in signature.out_avals)
        return dataclasses.replace(signature, out_codes=codes)

    # --- running ----------------------------------------------------------------------------------------------

    def flush(self, handle: Handle) -> None:
        """Run all calls that a handle depends on."""
        assert handle.call is not None
        needed = _ancestors(handle.call)
        calls = [call for call in self._pending if call in needed]
        self._pending = [call for call in self._pending if call not in needed]
        self._run(calls)

    def finish(self) -> None:
        """Run all calls that are still needed."""
        calls, self._pending = _needed(self._pending), []
        self._run(calls, may_leave=False)

    def _run_older(self) -> None:
        """Run the older calls: what programs have let go of meanwhile need not be kept."""
        place = _cut(self._pending)
        older, later = self._pending[:place], self._pending[place:]
        run, waiting = [], []
        needed, wanted = set[Call](), _producers(later)
        for call in reversed(older):
            can_wait = call not in needed and (call.is_left or call.signature.kernel.kind == "gradient")
            if call not in needed and call not in wanted and not call.is_held:
                call.is_done, call.inputs = True, []  # nobody wants it
            elif can_wait and call.num_passed < PATIENCE:  # whoever adds it up or applies it will run along with it
                call.num_passed += 1
                waiting.append(call)
            else:
                run.append(call)
                needed |= _producers([call])
        self._pending = [*reversed(waiting), *later]
        self._run(run[::-1])
        # Those that have been passed over must be given the time to be used.
        self._limit = max(self._max_gradients, self._num_gradients + self._max_gradients // 2)

    def _run(self, calls: list[Call], *, may_leave: bool = True) -> None:
        """Run calls, all but those that are left for later; once that has failed nothing can be computed any more."""
        if self._failure is not None:
            raise self._failure
        try:
            left = self._runner.run(calls, _producers(self._pending) if may_leave else set(calls))
        except Exception as error:
            self._failure = error
            raise
        self._pending = [*left, *self._pending]
        self._num_gradients = sum(call.num for call in self._pending if call.signature.kernel.kind == "gradient")
        for signature in self._signatures.values():
            if signature is not None:
                signature.memory.tidy()


def _are_alike(trees: Sequence[Any]) -> bool:
    """Whether trees have handles of the same shapes and dtypes, and nothing else."""
    import jax

    codes = [[leaf.code if type(leaf) is Handle else None for leaf in jax.tree.leaves(tree)] for tree in trees]
    return None not in codes[0] and all(each == codes[0] for each in codes)


def code(leaf: Any) -> Any:
    """Return what tells apart leaves for which a kernel must be traced anew."""
    if isinstance(leaf, int | float):
        return type(leaf)
    return ("array", leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf


def _producers(calls: Sequence[Call]) -> set[Call]:
    """Return the calls that some calls wait for."""
    return {leaf.call for call in calls for leaf in call.inputs if isinstance(leaf, Handle) and leaf.call is not None}


def _needed(calls: Sequence[Call]) -> list[Call]:
    """Return the calls whose results somebody holds, or others of them need."""
    found: list[Call] = []
    needed: set[Call] = set()
    for call in reversed(calls):
        if call in needed or call.is_held:
            found.append(call)
            needed |= _producers([call])
    return found[::-1]


def _ancestors(call: Call) -> set[Call]:
    """Return a call and all that must run before it."""
    needed, queue = {call}, [call]
    while queue:
        for leaf in queue.pop().inputs:
            if isinstance(leaf, Handle) and leaf.call is not None and leaf.call not in needed:
                needed.add(leaf.call)
                queue.append(leaf.call)
    return needed


def _cut(calls: Sequence[Call]) -> int:
    """Return the place, in the middle half, where the fewest bytes pass from earlier calls to later ones."""
    change = [0] * (len(calls) + 1)
    place = {call: i for i, call in enumerate(calls)}
    last: dict[Call, int] = {}
    for i, call in enumerate(calls):
        for leaf in call.inputs:
            if isinstance(leaf, Handle) and leaf.call is not None:
                last[leaf.call] = i
    for call, end in last.items():
        nbytes = call.num * call.signature.row_nbytes
        change[place[call] + 1] += nbytes
        change[end + 1 if end + 1 < len(change) else end] -= nbytes
    crossing, best, lowest = 0, len(calls), None
    for i, step in enumerate(change):
        crossing += step
        if len(calls) // 4 <= i <= 3 * len(calls) // 4 and (lowest is None or crossing <= lowest):
            best, lowest = i, crossing
    return best
