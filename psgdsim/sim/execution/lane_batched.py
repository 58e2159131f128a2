"""Execution in batches where ranks are carried on as one: a call of theirs is noted down once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from psgdsim.node import Kernel
from psgdsim.per_rank import Each, Parted, PerRank
from psgdsim.sim.execution.batched import Batched, code
from psgdsim.sim.execution.handles import Handle
from psgdsim.sim.execution.lanes import LaneCall, LaneHandle, LaneTotal, view
from psgdsim.sim.execution.signature import Signature, total
from psgdsim.sim.values import Value


class LaneBatched(Batched):
    """Execution in batches that knows values of many ranks.

    Args:
        num: how many ranks are carried on as one.
        max_gradients: how many gradients are put off at most.
    """

    def __init__(self, num: int, max_gradients: int) -> None:
        super().__init__(max_gradients)
        self._num = num
        self._totals: dict[Any, Signature] = {}

    def _call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> Any:
        if kernel.is_weighted_sum and type(arguments[1]) is Each:
            return self._total(kernel, arguments[0], arguments[1])
        leaves, tree = cast(tuple[list[Any], Any], self._flatten(arguments))
        if not any(type(leaf) in (LaneHandle, PerRank, Each) for leaf in leaves):
            return super()._call(kernel, arguments)
        samples = [_sample(leaf) for leaf in leaves]
        key = (id(kernel), tree, *[each.code if isinstance(each, Handle) else code(each) for each in samples])
        signature = self._signature(kernel, key, samples, tree.unflatten(samples))
        if signature is None or any(type(leaves[i]) is PerRank for i in signature.plain):
            raise Parted(f"kernel {kernel.name!r} needs numbers of its own for each rank")
        data = [leaves[i] for i in signature.dynamic]
        if signature.is_view:
            return signature.out_tree.unflatten([data[place] for place in signature.forwards if place is not None])
        if not any(type(leaf) in (LaneHandle, PerRank) for leaf in data):  # it looks at shapes alone
            return super()._call(kernel, tree.unflatten([view(each, 0) for each in samples]))
        for i, leaf in enumerate(data):
            if isinstance(leaf, np.ndarray) and leaf.flags.writeable:
                data[i] = leaf.copy()
        call = LaneCall(self, signature, data, self._num)
        results = self._results(call, data)
        self._put_off(call)
        return signature.out_tree.unflatten(results)

    def _total(self, kernel: Kernel, weights: Sequence[Any], addends: Each) -> Any:
        leaves, tree = cast(tuple[list[Any], Any], self._flatten(addends.tree))
        if not all(type(leaf) is LaneHandle for leaf in leaves) or any(isinstance(each, Value) for each in weights):
            raise Parted(f"kernel {kernel.name!r} of other values than one of each rank")
        key = (id(kernel), tree, *[leaf.code for leaf in leaves])
        if key not in self._totals:
            self._totals[key] = self.with_codes(total(kernel, weights, [addends.tree]))
            self._kernels.append(kernel)
        call = LaneTotal(self, self._totals[key], leaves, np.asarray(weights, np.float32))
        results = [call.result(leaf) for leaf in range(len(leaves))]
        self._put_off(call)
        return tree.unflatten(results)


def _sample(leaf: Any) -> Any:
    """Return what the first rank has in place of what each rank has."""
    if type(leaf) is Each:
        raise Parted("a list of all ranks in a kernel that is no sum of them")
    return leaf.items[0] if type(leaf) is PerRank else leaf
