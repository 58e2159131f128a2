"""Chains of updates: a kernel whose calls each take up the result of the one before, and what each of them needs.

An asynchronous server applies one gradient after the other; each was computed at an earlier result of the chain, or at
what was there before it. Such a chain is one `scan`: a step computes its row (the gradient, its coding) and the update.
Results that are needed later are kept in slots, as registers are in a compiler, so that memory holds as many versions
as are in use and not as many as there are steps.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from psgdsim.sim.execution.draft import is_shared
from psgdsim.sim.execution.handles import Call, Handle
from psgdsim.sim.execution.rows import Source
from psgdsim.sim.execution.signature import Signature

MAX_STEPS = 8
"""Kernels that a row consists of at most."""


class Shape(NamedTuple):
    """What all rows of a scan have in common.

    Args:
        signatures: the kernels of a row, one after the other.
        sources: for each, and for the update at last, where its data comes from.
        kinds: of what comes from outside: the code of a handle, or the type of a number.
    """

    signatures: tuple[Signature, ...]
    sources: tuple[tuple[Source, ...], ...]
    kinds: tuple[Any, ...]


@dataclass
class Row:
    """What one update of a chain needs.

    Args:
        update: the call that goes along the chain.
        calls: those that run before it, for it alone.
        outside: what comes from outside: numbers, arrays and handles, computed or results of the chain.
        shape: what other rows may have in common with it.
    """

    update: Call
    calls: list[Call]
    outside: list[Any]
    shape: Shape


def row_of(update: Call, chain: dict[Call, int], taken: set[Call]) -> Row | None:
    """Return what an update needs, or None if that is not of its own.

    Args:
        update: the call.
        chain: the updates before it, by place.
        taken: calls that other rows need.
    """
    calls: list[Call] = []
    places: dict[Call, int] = {}
    outside: list[Any] = []
    known: dict[int, int] = {}
    sources: list[tuple[Source, ...]] = []

    def visit(leaf: Any) -> Source | None:
        producer = leaf.call if type(leaf) is Handle else None
        if producer is None or producer in chain:
            if id(leaf) not in known:
                known[id(leaf)] = len(outside)
                outside.append(leaf)
            return Source(-1, known[id(leaf)])
        if producer not in places and not add(producer):
            return None
        return Source(places[producer], leaf.leaf)

    def add(call: Call) -> bool:
        if call in taken or call.signature.num_addends or len(calls) == MAX_STEPS:
            return False
        found = _all_of(map(visit, call.inputs))
        if found is None:
            return False
        places[call] = len(calls)
        calls.append(call)
        sources.append(found)
        return True

    ends = _all_of(map(visit, update.inputs[update.signature.num_carried :]))
    if ends is None:
        return None
    kinds = tuple(leaf.code if type(leaf) is Handle else type(leaf) for leaf in outside)
    return Row(update, calls, outside, Shape(tuple(c.signature for c in calls), (*sources, ends), kinds))


def _all_of(sources: Iterable[Source | None]) -> tuple[Source, ...] | None:
    """Return sources, or None at the first that is missing: to look for the others, too, takes exponentially long."""
    found: list[Source] = []
    for source in sources:
        if source is None:
            return None
        found.append(source)
    return tuple(found)


def follow(first: Call, longest: int) -> list[Row]:
    """Return the rows of a chain of updates, as far as they are alike.

    Args:
        first: the first update; what it takes up has been computed.
        longest: how many at most.
    """
    chain: dict[Call, int] = {}
    taken: set[Call] = set()
    rows: list[Row] = []
    update: Call | None = first
    while update is not None and len(rows) < longest:
        row = row_of(update, chain, taken)
        if row is None or (rows and row.shape != rows[0].shape):
            break
        chain[update] = len(rows)
        taken.update(row.calls)
        rows.append(row)
        following = [call for call in update.consumers if takes_up(call, rows[-1].update)]
        update = following[0] if len(following) == 1 else None
    return rows


def takes_up(call: Call, before: Call) -> bool:
    """Whether the leading data of a call is the result of another call of the same kernel, leaf by leaf."""
    if call.signature is not before.signature:
        return False
    for place, forward in enumerate(before.signature.forwards):
        leaf = call.inputs[place]
        if forward is not None:
            if leaf is not before.inputs[forward]:
                return False
        elif not (type(leaf) is Handle and leaf.call is before and leaf.leaf == place):
            return False
    return True


@dataclass
class Versions:
    """Which result of a chain, or of what was there before, each row reads.

    Args:
        places: which of what comes from outside are results.
        leaves: for each of these, which leaf of a result it is.
        reads: for each row the version: a row of the chain, or `-1 - i` for one that was there before.
        before: those that were there before, each by leaf: the handles for it, of which there may be several.
    """

    places: tuple[int, ...]
    leaves: tuple[int, ...]
    reads: list[int]
    before: list[dict[int, list[Handle]]]


def versions_of(rows: Sequence[Row]) -> Versions | None:
    """Return what the rows read of the chain's results; None if it is not one version per row."""
    update = rows[0].update.signature
    chain = {row.update: i for i, row in enumerate(rows)}
    places, leaves = [], []
    for place in range(len(rows[0].outside)):
        column = [row.outside[place] for row in rows]
        if type(column[0]) is not Handle or is_shared(column):
            continue
        origins = {id(leaf.stack) if leaf.call is None else 0 for leaf in column}
        if len(origins) == 1 and 0 not in origins and not _is_version(column[0], update):
            continue
        numbers = {leaf.leaf for leaf in column}
        leaf = numbers.pop()
        if numbers or leaf in leaves or leaf >= len(update.out_codes) or update.out_codes[leaf] != column[0].code:
            return None
        places.append(place)
        leaves.append(leaf)
    reads: list[int] = []
    known: dict[tuple[tuple[int, int], ...], int] = {}
    before: list[dict[int, list[Handle]]] = []
    for row in rows if places else ():
        column = [row.outside[place] for place in places]
        origins = {chain[leaf.call] if leaf.call is not None else -1 for leaf in column}
        if len(origins) > 1:
            return None
        version = origins.pop()
        if version < 0:
            key = tuple((id(leaf.stack), leaf.row) for leaf in column)
            if key not in known:
                known[key] = len(before)
                before.append({leaf: [] for leaf in leaves})
            version = -1 - known[key]
            for leaf, handle in zip(leaves, column, strict=True):
                before[-1 - version][leaf].append(handle)
        reads.append(version)
    return Versions(tuple(places), tuple(leaves), reads, before)


def _is_version(leaf: Handle, update: Signature) -> bool:
    """Whether a leaf is in the slots of an earlier chain of an update."""
    family = None if leaf.stack is None else leaf.stack.family
    return family is not None and family.update is update


class Slots(NamedTuple):
    """Where versions are kept while a chain runs.

    Args:
        num: how many slots are in use.
        reads: the slot that each row reads.
        writes: the slot into which each row's result goes; -1 if nobody needs it.
        starts: the slot of each version that was there before.
    """

    num: int
    reads: list[int]
    writes: list[int]
    starts: list[int]


def allot(reads: Sequence[int], num_rows: int, num_before: int, kept: set[int], rows: Sequence[int] | None) -> Slots:
    """Give versions slots, each from when it comes to be until nobody needs it.

    Args:
        reads: the version that each row reads; none if they read none.
        num_rows: the number of rows.
        num_before: how many versions were there before.
        kept: versions that are needed after the last row.
        rows: the slots that the versions from before are in already; without, they get the first.
    """
    last = dict.fromkeys(range(-num_before, num_rows), -1)
    for place, version in enumerate(reads):
        last[version] = place
    last.update(dict.fromkeys(kept, num_rows))
    starts = list(range(num_before)) if rows is None else list(rows)
    slot = {-1 - i: start for i, start in enumerate(starts)}
    free = [each for each in range(max(starts, default=-1) + 1) if each not in set(starts)]
    for version in range(-num_before, 0):
        if last[version] < 0:
            free.append(slot[version])
    heapq.heapify(free)
    top = max(starts, default=-1) + 1
    found, writes = [], []
    for place in range(num_rows):
        if reads:
            version = reads[place]
            found.append(slot[version])
            if last[version] == place:
                heapq.heappush(free, slot[version])
        if last[place] < 0:
            writes.append(-1)
            continue
        if not free:
            heapq.heappush(free, top)
            top += 1
        slot[place] = heapq.heappop(free)
        writes.append(slot[place])
    return Slots(top, found, writes, starts)


def round_up(num: int) -> int:
    """Return a number that is not much larger and has few bits, so that few sizes are compiled."""
    step = 1 << max(2, num.bit_length() - 2)
    return -(-num // step) * step
