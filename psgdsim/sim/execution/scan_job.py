"""One chain of updates, made ready and run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from psgdsim.sim.execution import devices
from psgdsim.sim.execution.compiled import Compiled
from psgdsim.sim.execution.draft import is_shared
from psgdsim.sim.execution.handles import Call, Family, Handle, Stack
from psgdsim.sim.execution.rows import Layout, Scan, Source, compile_scan
from psgdsim.sim.execution.scans import Row, Slots, Versions, allot, round_up

SHORTEST: Final = 64
"""So many rows, or a power of two that is more, a chain is compiled for."""

Origin = dict[int, tuple[Stack, int]]
"""Where a version is: for each leaf a stack and a row of it."""


class ScanJob:
    """A chain of updates.

    Args:
        rows: what each of them needs; nothing else holds on to them.
        versions: what they read of the chain's own results.
    """

    def __init__(self, rows: list[Row], versions: Versions) -> None:
        self._update = rows[0].update.signature
        self._length = max(SHORTEST, 1 << (len(rows) - 1).bit_length())
        self._shape = rows[0].shape
        self._updates = [row.update for row in rows]
        self._calls = [row.calls for row in rows]
        self._versions = versions
        self._carry = [located(leaf) for leaf in rows[0].update.inputs[: self._update.num_carried]]
        self._inputs: list[Any] = []
        self._layouts: list[Layout] = []
        dtypes = self._dtypes(len(rows[0].outside))
        for place, dtype in enumerate(dtypes):
            if place in versions.places:
                array, layout = None, "slot"
            else:
                array, layout = along([row.outside[place] for row in rows], dtype, self._length)
            self._inputs.append(array)
            self._layouts.append(layout)  # type: ignore[arg-type]
        self._before: list[Origin] = [
            {leaf: (handles[0].ready, handles[0].row) for leaf, handles in version.items()}
            for version in versions.before
        ]
        self._holders = [
            [(leaf, weakref.ref(handle)) for leaf, handles in version.items() for handle in handles]
            for version in versions.before
        ]
        self._take_along()
        self._release(rows)

    def _take_along(self) -> None:
        """Add the versions that no row reads but that live beside others that rows do: they move along with them."""
        families = {id(stack.family): stack.family for origin in self._before for stack, _ in origin.values()}
        read = {(id(stack.family), row) for origin in self._before for stack, row in origin.values()}
        for number, family in families.items():
            if family is None or family.update is not self._update:
                continue
            for row, holders in family.residents.items():
                if (number, row) not in read and any(ref() is not None for _, ref in holders):
                    self._before.append({leaf: (stack, row) for leaf, stack in family.stacks.items()})
                    self._holders.append(holders)

    def _dtypes(self, num: int) -> list[Any]:
        """Return the dtype of each piece of data from outside."""
        dtypes = [None] * num
        data = [signature.dtypes for signature in self._shape.signatures]
        data.append(self._update.dtypes[self._update.num_carried :])
        for sources, each in zip(self._shape.sources, data, strict=True):
            for source, dtype in zip(sources, each, strict=True):
                if source.step < 0:
                    dtypes[source.leaf] = dtype
        return dtypes

    def _release(self, rows: list[Row]) -> None:
        """Let go of all handles: from now on a handle is alive only if somebody else wants it."""
        for row in rows:
            for call in (*row.calls, row.update):
                call.inputs = []
            row.outside.clear()
        rows.clear()
        self._versions.before.clear()

    def run(self, compiled: Compiled) -> list[Call]:
        """Run the chain and tell all handles where their arrays are; return the calls that have run."""
        num, leaves = len(self._updates), self._kept_leaves()
        slots, buffers = self._slots(leaves, compiled)
        size = len(buffers[0]) if buffers else 1
        live = tuple(
            Source(step, leaf)
            for step, signature in enumerate(self._shape.signatures)
            for leaf in range(len(signature.out_avals))
            if any(calls[step].is_wanted(leaf) for calls in self._calls)
        )
        signatures, sources, layouts = self._shape.signatures, self._shape.sources, tuple(self._layouts)
        carry, carried = self._carried(buffers)
        scan = Scan(self._update, signatures, sources, layouts, self._versions.leaves, tuple(leaves), live, carried)
        consts = [*(compiled.consts(signature) for signature in signatures), compiled.consts(self._update)]
        reads = _indices(slots.reads or [0] * num, self._length)
        writes = _indices([size - 1 if slot < 0 else slot for slot in slots.writes], self._length)
        last, buffers, arrays = compiled.call(
            scan, compile_scan, np.int32(num), consts, carry, buffers, self._inputs, reads, writes
        )
        stacks = {leaf: Stack(buffer, size) for leaf, buffer in zip(leaves, buffers, strict=True)}
        self._settle_updates(last, stacks, slots)
        for source, array in zip(live, arrays, strict=True):
            stack = Stack(array, self._length)
            for row, calls in enumerate(self._calls):
                calls[source.step].settle(source.leaf, stack, row)
        return [*(call for calls in self._calls for call in calls), *self._updates]

    def _carried(self, buffers: Sequence[Any]) -> tuple[list[tuple[Any, Any]], tuple[int | None, ...]]:
        """Return what is carried at first, and in which slots it is: these are given away, and must be given once."""
        places = {id(buffer): place for place, buffer in enumerate(buffers)}
        carried = tuple(places.get(id(array)) for array, _ in self._carry)
        pairs = zip(self._carry, carried, strict=True)
        return [(array if place is None else None, row) for (array, row), place in pairs], carried

    def _slots(self, leaves: Sequence[int], compiled: Compiled) -> tuple[Slots, list[Any]]:
        """Return which version is in which slot, and the slots as they are before the first row."""
        num, num_before = len(self._updates), len(self._before)
        kept = {i for i, update in enumerate(self._updates) if any(update.is_wanted(leaf) for leaf in leaves)}
        kept |= {-1 - i for i, refs in enumerate(self._holders) if any(ref() is not None for _, ref in refs)}
        kept.add(num - 1)
        stacks = self._common_stacks(leaves)
        if stacks is not None:
            starts = [next(iter(origin.values()))[1] for origin in self._before]
            slots = allot(self._versions.reads, num, num_before, kept, starts)
            if slots.num < stacks[0].num and not self._is_gathered(stacks):
                return slots, [stack.share() for stack in stacks]
        slots = allot(self._versions.reads, num, num_before, kept, None)
        # As many as before if they are enough: that is compiled already.
        sizes = [stack.num for origin in self._before for stack, _ in origin.values() if stack.family is not None]
        return slots, self._load(leaves, max([round_up(slots.num + 1), *sizes]), slots.starts, compiled)

    def _kept_leaves(self) -> list[int]:
        """Return the leaves of the results that rows read, or that somebody wants of others than the last."""
        wanted = {
            leaf
            for leaf in range(self._update.num_carried)
            if any(update.is_wanted(leaf) for update in self._updates[:-1])
        }
        of_others = {leaf for origin in self._before for leaf in origin}
        return sorted(wanted | set(self._versions.leaves) | of_others)

    def _common_stacks(self, leaves: Sequence[int]) -> list[Stack] | None:
        """Return the stacks in which all versions from before are already, one for each leaf, with a row to spare."""
        if not self._before or any(set(origin) != set(leaves) for origin in self._before):
            return None
        stacks = [self._before[0][leaf][0] for leaf in leaves]
        size = stacks[0].num
        for origin in self._before:
            rows = {origin[leaf][1] for leaf in leaves}
            if len(rows) > 1 or rows.pop() >= size - 1:
                return None
            if any(origin[leaf][0] is not stack for leaf, stack in zip(leaves, stacks, strict=True)):
                return None
        return stacks if size and all(stack.num == size for stack in stacks) else None

    def _is_gathered(self, stacks: Sequence[Stack]) -> bool:
        """Whether rows find data in stacks otherwise than as versions."""
        found = {
            id(each[0] if layout == "gather" else each)
            for each, layout in zip(self._inputs, self._layouts, strict=True)
        }
        return any(id(stack.array) in found for stack in stacks)

    def _load(self, leaves: Sequence[int], size: int, starts: Sequence[int], compiled: Compiled) -> list[Any]:
        """Return slots with the versions from before in them."""
        buffers = []
        for leaf in leaves:
            aval = self._update.out_avals[leaf]
            buffer = devices.put(np.zeros((size, *aval.shape), aval.dtype), "shared")
            by_stack: dict[int, tuple[Stack, Any, Any]] = {}
            for origin, slot in zip(self._before, starts, strict=True):
                if leaf in origin:
                    stack, row = origin[leaf]
                    new = stack, np.zeros(size, np.int32), np.zeros(size, bool)
                    _, rows, is_there = by_stack.setdefault(id(stack), new)
                    rows[slot], is_there[slot] = row, True
            for stack, rows, is_there in by_stack.values():
                array = stack.share() if stack.num else stack.share()[None]
                buffer = compiled.call("put", _compile_put, buffer, array, rows, is_there)
            buffers.append(buffer)
        return buffers

    def _settle_updates(self, last: Sequence[Any], stacks: dict[int, Stack], slots: Slots) -> None:
        """Tell the handles of the chain's results where these are, and those of versions from before, too.

        The latter are now where the others are: old stacks need not be kept for them.
        """
        family = Family(self._update, stacks)
        for update, slot in zip(self._updates, slots.writes, strict=True):
            if slot >= 0 and update.is_held:
                family.residents[slot] = [(leaf, ref) for leaf in stacks if (ref := update.outputs[leaf]) is not None]
                for leaf, stack in stacks.items():
                    update.settle(leaf, stack, slot)
        for leaf, array in enumerate(last):
            if leaf not in stacks:
                self._updates[-1].settle(leaf, Stack(array))
        for holders, slot in zip(self._holders, slots.starts, strict=True):
            alive = [(leaf, ref, handle) for leaf, ref in holders if (handle := ref()) is not None]
            for leaf, _, handle in alive:
                handle.stack, handle.row = stacks[leaf], slot
            if alive:
                family.residents[slot] = [(leaf, ref) for leaf, ref, _ in alive]


def is_head(update: Call) -> bool:
    """Whether what an update takes up has been computed."""
    return not any(
        type(leaf) is Handle and leaf.call is not None for leaf in update.inputs[: update.signature.num_carried]
    )


def located(leaf: Any) -> tuple[Any, Any]:
    """Return the array that a leaf is in, and its row, None if it is all of it."""
    if type(leaf) is not Handle:
        return leaf, None
    return leaf.ready.share(), np.int32(leaf.row) if leaf.ready.num else None


def along(leaves: Sequence[Any], dtype: Any, length: int) -> tuple[Any, Layout]:
    """Return what rows find their data in, and how; what they find each its own is as many as asked."""
    first = leaves[0]
    is_same = is_shared(leaves)
    if type(first) is not Handle:
        if is_same:
            return np.asarray(first, dtype), "shared"
        return np.asarray([*leaves, *[first] * (length - len(leaves))], dtype), "row"
    if is_same:
        return devices.put(first.array if first.ready.num else first.ready.share(), "shared"), "shared"
    return (first.ready.share(), _indices([leaf.row for leaf in leaves], length)), "gather"


def _compile_put(_: str) -> Callable[..., Any]:
    import jax.numpy as jnp

    def put(buffer: Any, array: Any, rows: Any, is_there: Any) -> Any:
        return jnp.where(is_there.reshape(-1, *[1] * (buffer.ndim - 1)), array[rows], buffer)

    return devices.jit(put, "shared")


def _indices(numbers: Sequence[int], length: int) -> Any:
    """Return numbers as an array of some length, zeros after them."""
    found = np.zeros(length, np.int32)
    found[: len(numbers)] = numbers
    return found
