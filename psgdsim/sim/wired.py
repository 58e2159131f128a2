"""Messages between workers and a server as flows, where `wires` says that one link stops all of a direction."""

from __future__ import annotations

import math

from psgdsim.sim.carriers import FlowCarrier, Message, OnArrival
from psgdsim.sim.clock import Clock
from psgdsim.sim.occupancy import Occupancy
from psgdsim.sim.shared_link import SharedLink
from psgdsim.sim.sharing import Floats
from psgdsim.sim.wires import Wires


class WiredCarrier(FlowCarrier):
    """What `FluidCarrier` does, in the very arithmetic of a run that is taken as a whole (see `as_they_come`).

    Which of many workers comes first may hang on the last bit of a time, and all that follows hangs on that.

    Args:
        env: as in `Carrier`.
        wires: what messages cross; none of its links changes.
        on_arrival: as in `Carrier`.
        occupancy: likewise.
    """

    def __init__(self, env: Clock, wires: Wires, on_arrival: OnArrival, occupancy: Occupancy | None = None) -> None:
        links = wires.topology.links
        super().__init__(env, [e.bandwidth for e in links], [e.latency for e in links], on_arrival, occupancy)
        self._clock, self._wires = env, wires
        self._under_way: dict[SharedLink, dict[int, Message]] = {wires.up.link: {}, wires.down.link: {}}
        self._due = dict.fromkeys(self._under_way, math.inf)  # when somebody looks whether a message is through

    def _admit(self, message: Message) -> None:
        link, worker = self._wires.way(message.path.route)
        self._let_out(link)
        if self.occupancy is not None:
            self.occupancy.enter(message.path.route, self.env.now)
        self._under_way[link][worker] = message
        link.enter(worker, message.nbits, self.env.now)
        self._wait(link)

    def _wait(self, link: SharedLink) -> None:
        """Look again when the next message is through, as it seems now."""
        time = link.next_finish
        if time < self._due[link]:
            self._due[link] = time
            self._clock.at(time, lambda: self._look(link, time))

    def _look(self, link: SharedLink, time: float) -> None:
        if self._due[link] == time:
            self._due[link] = math.inf
            self._let_out(link)
            self._wait(link)

    def _let_out(self, link: SharedLink) -> None:
        """Hand over the messages that are through by now."""
        while link.next_finish <= self.env.now:
            message = self._under_way[link].pop(link.finish())
            if self.occupancy is not None:
                self.occupancy.leave(message.path.route, self.env.now)
            self.on_arrival(message)

    def give_up(self, message: Message) -> None:
        """Refuse: where messages are lost, `FluidCarrier` carries them."""
        raise NotImplementedError

    def set_bandwidth(self, link: int, bandwidth: float) -> None:
        """Refuse, likewise."""
        raise NotImplementedError

    def usage(self, now: float) -> Floats:
        """As in `Carrier`."""
        return self._wires.counters(now)
