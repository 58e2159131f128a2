"""Messages between one rank and all of those that are carried on as one, each when its rank is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from psgdsim.per_rank import Parted
from psgdsim.sim.clock import Clock, Signal
from psgdsim.sim.network import Network
from psgdsim.sim.sharing import Floats


class Wave:
    """One message of each of many ranks, or to each of them.

    Args:
        env: the clock.
        network: what carries them.
        payload: what they bring.
        start: told how many set out, whenever some do.
        arrive: told how many arrive, whenever some do.

    Attributes:
        payload: as given.
        ends: when each has arrived [s], NaN until then.
        over: fires when the last one has arrived.
    """

    def __init__(
        self,
        env: Clock,
        network: Network,
        payload: Any,
        start: Callable[[int], None],
        arrive: Callable[[int], None],
    ) -> None:
        self._env, self._network, self._start, self._arrive = env, network, start, arrive
        self.payload = payload
        self.over = Signal(env)

    def send(self, srcs: Sequence[int], dsts: Sequence[int], nbytes: int, times: Floats) -> None:
        """Send all messages.

        Args:
            srcs: the sending host of each.
            dsts: the receiving host of each.
            nbytes: the size of each.
            times: when each sets out [s], none before now.

        Raises:
            Parted: one should have set out before now.
        """
        first = float(times.min())
        if first < self._env.now:
            raise Parted("a message that should have set out before")
        self.ends = np.full(len(times), np.nan)
        self._left = len(times)
        if times.max() == first:
            self._env.at(first, self._sender(srcs, dsts, nbytes, list(range(len(times)))))
            return
        moments, which = np.unique(times, return_inverse=True)
        for i, moment in enumerate(moments.tolist()):
            self._env.at(moment, self._sender(srcs, dsts, nbytes, np.flatnonzero(which == i).tolist()))

    def _sender(self, srcs: Sequence[int], dsts: Sequence[int], nbytes: int, places: list[int]) -> Callable[[], None]:
        def send() -> None:
            self._start(len(places))
            self._network.send_many(
                [srcs[i] for i in places],
                [dsts[i] for i in places],
                [nbytes] * len(places),
                lambda arrived: self._take([places[i] for i in arrived]),
            )

        return send

    def _take(self, places: list[int]) -> None:
        self.ends[places] = self._env.now
        self._left -= len(places)
        self._arrive(len(places))
        if not self._left:
            self.over.fire()
