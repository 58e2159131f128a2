"""The network in virtual time: messages cross a topology's links and share them as the network model says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import simpy

from psgdsim.network_model import NetworkModel
from psgdsim.sim.batches import Batch, Bundler, OnArrivals, Part
from psgdsim.sim.carriers import Carrier, FluidCarrier, IdealCarrier, Message
from psgdsim.sim.clock import Clock
from psgdsim.sim.fifo import FifoCarrier
from psgdsim.sim.link_usage import LinkUsage
from psgdsim.sim.occupancy import Occupancy
from psgdsim.sim.paths import MAX_CACHED, Hop, Path, Paths, hops
from psgdsim.sim.sharing import Floats
from psgdsim.sim.wired import WiredCarrier
from psgdsim.sim.wires import Wires
from psgdsim.topologies.base import Topology

_CARRIERS: dict[str, type[Carrier]] = {"fluid": FluidCarrier, "fifo": FifoCarrier, "ideal": IdealCarrier}


class Delivery(simpy.Event):
    """A message under way; fires when all of it has arrived.

    Args:
        env: the clock.
        receivers: the hosts that it is for, by index; none if nobody's processor is to be charged.
    """

    def __init__(self, env: simpy.Environment, receivers: Sequence[int] = ()) -> None:
        super().__init__(env)
        self.receivers = receivers
        self.message: Message | None = None
        self.is_cancelled = False


class Network:
    """Carry messages over a topology.

    Args:
        env: the clock.
        topology: what the network looks like.
        model: how messages share it; plain max-min fairness by default.
        occupancy: told which messages are on which links, if anybody wants to know; not with the model `ideal`, where
            nothing queues.
        wires: what messages cross if they meet nowhere else; only with a `Clock`.

    Attributes:
        topology: as given; `set_link` changes nothing in it.
    """

    def __init__(
        self,
        env: simpy.Environment,
        topology: Topology,
        model: NetworkModel | None = None,
        *,
        occupancy: Occupancy | None = None,
        wires: Wires | None = None,
    ) -> None:
        self.topology = topology
        self.model = NetworkModel() if model is None else model
        self._env = env
        self._bandwidth = [link.bandwidth for link in topology.links]
        self._latency = [link.latency for link in topology.links]
        self._paths = Paths(self._bandwidth, self._latency, self.model.tcp_model)
        self._ways: dict[tuple[int, int], tuple[Path, tuple[Hop, ...]]] = {}
        self._has_hops = self.model.model == "fifo"
        self._carrier: Carrier
        if wires is not None:
            assert isinstance(env, Clock)
            self._carrier = WiredCarrier(env, wires, self._arrive, occupancy)
        else:
            kind = _CARRIERS[self.model.model]
            self._carrier = kind(env, self._bandwidth, self._latency, self._arrive, occupancy)
        self._header = 8.0 * self.model.message_overhead.nbytes
        self._cpu = float(self.model.message_overhead.cpu)
        self._bundler: Bundler | None = None
        if isinstance(self._carrier, FluidCarrier) and self.model.tcp_model is None and not self._cpu:
            self._bundler = Bundler(topology.route, self._latency, self._carrier, self._header)
        self._cpu_is_free: dict[int, float] = {}

    # --- messages ---------------------------------------------------------------------------------------------

    def send(self, src: int, dst: int, nbytes: float) -> Delivery:
        """Send one message from host to host.

        Args:
            src: the sending host, by index.
            dst: the receiving host, by index.
            nbytes: its size, without what the model's overhead adds [byte].

        Returns:
            An event that fires when all of it has arrived.
        """
        delivery = Delivery(self._env, (dst,))
        path, way = self._ways.get((src, dst)) or self._find_way(src, dst)
        self._start(delivery, path, way, nbytes, src)
        return delivery

    def send_many(
        self, srcs: Sequence[int], dsts: Sequence[int], nbytes: Sequence[float], on_arrival: OnArrivals
    ) -> None:
        """Send messages that start together, as many as there are senders.

        Nothing else than sending one after the other, but quick where many of them are equally large: with the model
        `fluid`, without TCP's corrections and without a processor's overhead, those are carried together.

        Args:
            srcs: the sending host of each, by index.
            dsts: the receiving host of each, by index.
            nbytes: the size of each, without what the model's overhead adds [byte].
            on_arrival: called whenever messages have arrived, with the places in `srcs` of those that have at that
                instant, ascending; once more if others arrive at the same instant in consequence.

        Raises:
            ValueError: there are not as many receivers or sizes as senders.
        """
        if not len(srcs) == len(dsts) == len(nbytes):
            raise ValueError(
                f"expected as many receivers and sizes as senders, {len(srcs)}; got {len(dsts)} and {len(nbytes)}"
            )
        if len(srcs) == 1:  # nothing to gather, so do it for what `send` costs
            self.send(srcs[0], dsts[0], nbytes[0]).callbacks.append(lambda _: on_arrival([0]))
            return
        batch = Batch(self._env, on_arrival)
        alone: Iterable[int] = range(len(srcs))
        if self._bundler is not None:
            alone = self._bundler.send(srcs, dsts, nbytes, batch)
        for i in alone:
            path, way = self._ways.get((srcs[i], dsts[i])) or self._find_way(srcs[i], dsts[i])
            self._start(Part(batch, i, (dsts[i],)), path, way, nbytes[i], srcs[i])

    def _find_way(self, src: int, dst: int) -> tuple[Path, tuple[Hop, ...]]:
        """Return how a message gets from host to host, and remember it."""
        if len(self._ways) >= MAX_CACHED:
            self._ways.clear()
        route = self.topology.route(src, dst)
        reverse = self.topology.route(dst, src) if self._paths.needs_reverse else ()
        way = self._ways[src, dst] = self._paths.path(route, reverse), hops([route]) if self._has_hops else ()
        return way

    def multicast(self, src: int, dsts: Sequence[int], nbytes: float) -> Delivery:
        """Send one message to several hosts, copied by the network on the way: each link of the tree carries it once.

        It goes at the rate of its slowest branch and arrives everywhere when the last bit has reached the last host.
        TCP's corrections treat it as one flow without acknowledgements.

        Args:
            src: the sending host, by index.
            dsts: the receiving hosts.
            nbytes: its size [byte].

        Returns:
            An event that fires when all of it has arrived everywhere.
        """
        routes = [self.topology.route(src, dst) for dst in dsts]
        latency = max((sum(self._latency[link] for link in route) for route in routes), default=0.0)
        path = self._paths.path(self.topology.tree(src, dsts), (), latency)
        delivery = Delivery(self._env, dsts)
        self._start(delivery, path, hops(routes) if self._has_hops else (), nbytes, src)
        return delivery

    def carry(self, links: Sequence[int], nbytes: float, *, latency: float | None = None) -> Delivery:
        """Send one message over links given by hand; no host's processor is charged for it.

        Args:
            links: the links that it crosses, in order.
            nbytes: its size, headers included [byte].
            latency: what it waits before it enters [s]; the sum over the links by default.

        Returns:
            An event that fires when all of it has arrived.
        """
        path = self._paths.path(links, (), latency)
        delivery = Delivery(self._env)
        self._start(delivery, path, hops([links]) if self._has_hops else (), nbytes, None)
        return delivery

    def cancel(self, delivery: Delivery) -> None:
        """Give a message up: it leaves the network where it is, and its event never fires.

        Nothing happens if it has arrived. What a link has carried of it stays counted.
        """
        if delivery.triggered or delivery.is_cancelled:
            return
        delivery.is_cancelled = True
        if delivery.message is not None:
            self._carrier.give_up(delivery.message)

    def _start(
        self, delivery: Delivery | Part, path: Path, way: tuple[Hop, ...], nbytes: float, src: int | None
    ) -> None:
        message = delivery.message = Message(path, 8.0 * nbytes + self._header, delivery, way)
        if self._cpu and src is not None:

            def leave(_: simpy.Event) -> None:
                if not delivery.is_cancelled:
                    self._carrier.start(message)

            self._env.timeout(self._cpu_until(src) - self._env.now).callbacks.append(leave)
        else:
            self._carrier.start(message)

    def _cpu_until(self, host: int) -> float:
        """Keep a host's processor busy for one message, after those before; return when it is through."""
        until = max(self._cpu_is_free.get(host, 0.0), float(self._env.now)) + self._cpu
        self._cpu_is_free[host] = until
        return until

    def _arrive(self, message: Message) -> None:
        delivery: Delivery | Part = message.owner
        delivery.message = None  # they name each other; nothing of that should wait for the garbage collector
        if not (self._cpu and delivery.receivers):
            delivery.succeed()
            return

        def hand_over(_: simpy.Event) -> None:
            if not delivery.is_cancelled:
                delivery.succeed()

        until = max(self._cpu_until(host) for host in delivery.receivers)
        self._env.timeout(until - self._env.now).callbacks.append(hand_over)

    # --- links ------------------------------------------------------------------------------------------------

    def set_link(self, link: int, *, bandwidth: float | None = None, latency: float | None = None) -> None:
        """Change a link from now on.

        Args:
            link: which one, by index.
            bandwidth: its capacity [bit/s]; 0 stops what crosses it until it changes again; None leaves it as it is.
            latency: for messages that start from now on [s]; None leaves it as it is.
        """
        if bandwidth is not None:
            self._bandwidth[link] = bandwidth
            self._carrier.set_bandwidth(link, bandwidth)
        if latency is not None:
            self._latency[link] = latency
        self._paths.forget()
        self._ways.clear()
        if self._bundler is not None:
            self._bundler.forget()

    def bandwidth(self, link: int) -> float:
        """Return a link's capacity now [bit/s]."""
        return self._bandwidth[link]

    def usage(self) -> list[LinkUsage]:
        """Return what each link has done until now, in the order of the topology's links."""
        return [
            LinkUsage(link.name, nbits / 8.0, busy)
            for link, (nbits, busy) in zip(self.topology.links, self.counters(self._env.now).tolist(), strict=True)
        ]

    def counters(self, now: float) -> Floats:
        """Return what each link has carried until a time [bit], and for how long it would have been busy with that [s].

        Args:
            now: any time [s] from the last event to the next: links go on as they do until something happens.
        """
        return self._carrier.usage(now)
