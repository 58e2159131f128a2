"""Results found again: a call with the very same arguments as another need not run."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from psgdsim.sim.execution.handles import Call

PATIENCE: Final = 256
"""After so many calls of a kernel without a single repetition, nobody looks for one any more."""

NUM_KEPT: Final = 2
"""So many results of a kernel are kept at most."""

PLAIN: Final = (int, float, np.generic)
"""What is compared by value; all else by identity."""

Key = tuple[Any, ...]


class Memory:
    """Results of the calls of one kernel, by their arguments.

    It holds neither arguments nor results alive, but for a few that it is asked to keep: a result is found as long as
    somebody else holds it, or it is still to be computed.
    """

    def __init__(self) -> None:
        self._known: dict[Key, tuple[list[Any], Call]] = {}
        self._num_missed = 0
        self._kept: deque[Sequence[Any]] = deque(maxlen=NUM_KEPT)

    @property
    def is_worth_it(self) -> bool:
        """Whether calls repeat, as far as is known."""
        return self._num_missed < PATIENCE

    def recall(self, key: Key, data: Sequence[Any]) -> Call | None:
        """Return a call with the same data whose result can still be had, or None.

        Args:
            key: of the data (see `key_of`).
            data: the data of the call.
        """
        known = self._known.get(key)
        if known is None:
            return None
        refs, call = known
        if any(ref() is not leaf for ref, leaf in zip(refs, _objects(data), strict=True)) or not call.can_be_had:
            return None
        self._num_missed = -1 << 60
        return call

    def remember(self, key: Key, data: Sequence[Any], call: Call) -> None:
        """Keep a call in mind."""
        self._num_missed += 1
        self._known[key] = [weakref.ref(leaf) for leaf in _objects(data)], call

    def keep(self, results: Sequence[Any]) -> None:
        """Hold the results of a call that has run, until a few others have: other ranks may be about to make it."""
        self._kept.append(results)

    def tidy(self) -> None:
        """Forget what nobody can ask for any more, and let go of what has been kept."""
        self._kept.clear()
        if not self.is_worth_it:
            self._known.clear()
        for key, (refs, call) in list(self._known.items()):
            if not call.can_be_had or any(ref() is None for ref in refs):
                del self._known[key]


def key_of(data: Sequence[Any]) -> Key:
    """Return what two calls with the same data have in common; others may have it, too, once some data is gone."""
    return tuple([leaf if isinstance(leaf, PLAIN) else id(leaf) for leaf in data])


def _objects(data: Sequence[Any]) -> list[Any]:
    return [leaf for leaf in data if not isinstance(leaf, PLAIN)]
