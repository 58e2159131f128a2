"""Ranks that are carried on as one: what differs from rank to rank among what their one program holds.

Workers that do the same thing, each with numbers of its own (single program, multiple data), need not be simulated one
by one: their program runs once, and `Node.rank` is then a `PerRank`, one number for each of them. A program may compute
with it, hand it to a kernel or ask a block's samples with it. Whatever would need one answer where the ranks have
different ones raises `Parted`, and the simulation begins anew, rank by rank. No program ever sees the difference.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn


class Parted(BaseException):
    """Ranks that are carried on as one would have to part: the simulation begins anew, rank by rank.

    Not an `Exception`, for no program is meant to catch it.
    """


class PerRank:
    """One plain number or array for each of several ranks.

    Args:
        items: by rank; an array has the ranks along its first axis.

    Example:
        >>> rank = PerRank(range(4))
        >>> (2 * rank + 1).items
        [1, 3, 5, 7]
        >>> rank < 4
        True
    """

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __repr__(self) -> str:
        return f"PerRank({self.items!r})"

    def map(self, function: Callable[[Any], Any]) -> Any:
        """Return what a function makes of each, as one if that is the same number for all."""
        return per_rank([function(item) for item in self.items])

    def _with(self, other: Any, function: Callable[[Any, Any], Any]) -> Any:
        others = other.items if type(other) is PerRank else [other] * len(self.items)
        return per_rank([function(item, each) for item, each in zip(self.items, others, strict=True)])

    def _decide(self, other: Any, function: Callable[[Any, Any], Any]) -> bool:
        """Return whether something holds for all ranks, or for none."""
        answer = self._with(other, function)
        if type(answer) is not bool:
            raise Parted(f"{self!r} compared with {other!r}")
        return answer

    def __add__(self, other: Any) -> Any:
        return self._with(other, operator.add)

    def __radd__(self, other: Any) -> Any:
        return self._with(other, lambda item, each: each + item)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, operator.sub)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, lambda item, each: each - item)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, operator.mul)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return self._with(other, operator.floordiv)

    def __mod__(self, other: Any) -> Any:
        return self._with(other, operator.mod)

    def __truediv__(self, other: Any) -> Any:
        return self._with(other, operator.truediv)

    def __getitem__(self, place: Any) -> Any:
        return self.map(lambda item: item[place])

    def __eq__(self, other: object) -> bool:
        return self._decide(other, operator.eq)

    def __ne__(self, other: object) -> bool:
        return self._decide(other, operator.ne)

    def __lt__(self, other: Any) -> bool:
        return self._decide(other, operator.lt)

    def __le__(self, other: Any) -> bool:
        return self._decide(other, operator.le)

    def __gt__(self, other: Any) -> bool:
        return self._decide(other, operator.gt)

    def __ge__(self, other: Any) -> bool:
        return self._decide(other, operator.ge)

    def __len__(self) -> int:
        lengths = {self.items.shape[1]} if hasattr(self.items, "shape") else set(map(len, self.items))
        if len(lengths) > 1:
            raise Parted(f"lengths {sorted(lengths)}")
        return int(lengths.pop())

    def _part(self, *_: object) -> NoReturn:
        raise Parted(f"{self!r} asked for one answer")

    __hash__ = _part
    __bool__ = __int__ = __float__ = __index__ = __iter__ = __contains__ = __str__ = __format__ = _part


class Each:
    """A list with one tree for each of several ranks, whose leaves are values of all of them.

    Args:
        tree: the tree.
        num: how many ranks.
    """

    __slots__ = ("num", "tree")

    def __init__(self, tree: Any, num: int) -> None:
        self.tree, self.num = tree, num

    def __len__(self) -> int:
        return self.num

    def _part(self, *_: object) -> NoReturn:
        raise Parted("a list of all ranks asked for one of its elements")

    __getitem__ = __iter__ = __contains__ = _part


class ByRank:
    """What is kept for each of several ranks.

    Args:
        ranks: for whom.
        item: what is kept of each at first.
    """

    def __init__(self, ranks: Sequence[int], item: Any) -> None:
        self._items = dict.fromkeys(ranks, item)
        self._shared = item  # of all ranks that are carried on as one

    def __getitem__(self, rank: Any) -> Any:
        return self._shared if type(rank) is PerRank else self._items[rank]

    def __setitem__(self, rank: Any, item: Any) -> None:
        if type(rank) is PerRank:
            self._shared = item
        else:
            self._items[rank] = item


def per_rank(items: Sequence[Any]) -> Any:
    """Return one thing for each rank, or the one that they all have if it is the same number."""
    first = items[0]
    if isinstance(first, bool | int | float) and all(type(item) is type(first) and item == first for item in items):
        return first
    return PerRank(items)


def pick(choices: Sequence[Any], rank: Any) -> Any:
    """Return what belongs to a rank among what there is for all: `choices[rank]`, where `rank` may be a `PerRank`.

    Args:
        choices: by rank.
        rank: which one.

    Example:
        >>> pick([3, 3, 2], 2), pick([3, 3, 3], PerRank(range(3))), pick([3, 2], PerRank(range(2)))
        (2, 3, PerRank([3, 2]))
    """
    return rank.map(choices.__getitem__) if type(rank) is PerRank else choices[rank]
