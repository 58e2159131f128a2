"""Links that carry nothing for so long that ranks lose each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import simpy

from psgdsim.sim.network import Network
from psgdsim.sim.post import Post
from psgdsim.units import TIME


class Outages:
    """Links without bandwidth, and the ranks that lose each other because of them.

    Args:
        env: the clock.
        network: whose links they are.
        post: told who has lost whom.
        hosts: the host of each rank.
        timeout: after how long silence counts [s].
        look: called when ranks have lost each other.
    """

    def __init__(
        self,
        env: simpy.Environment,
        network: Network,
        post: Post,
        hosts: Sequence[int],
        timeout: float,
        look: Callable[[], None],
    ) -> None:
        self._env, self._network, self._post, self._hosts = env, network, post, hosts
        self._timeout, self._look = timeout, look
        self._since: dict[int, float] = {}
        self._causes: dict[int, str] = {}

    def expect(self, links: Sequence[int], cause: str) -> None:
        """Say why links are about to stop."""
        self._causes.update(dict.fromkeys(links, cause))

    def begin(self, link: int) -> None:
        """Take note that a link has stopped."""
        self._since[link] = now = float(self._env.now)
        self._env.timeout(self._timeout).callbacks.append(lambda _: self._give_up(now))

    def end(self, link: int) -> None:
        """Take note that it goes again."""
        self._since.pop(link, None)
        self._causes.pop(link, None)

    def look_again(self) -> None:
        """Begin to count anew: a rank has come back and cannot know what was before."""
        for link in list(self._since):
            self.begin(link)

    def _give_up(self, since: float) -> None:
        """Let those lose each other who meet on links that have been out since then."""
        out = {link for link, start in self._since.items() if start == since}
        if not out:
            return
        ranks = range(len(self._hosts))
        for rank in ranks:
            for other in ranks[rank + 1 :]:
                ends = self._hosts[rank], self._hosts[other]
                link = self._first_of(out, self._post.route(*ends), self._post.route(*ends[::-1]))
                if link is not None:
                    self._post.part(rank, other, self._cause(link))
        if self._network.topology.multicast == "relay":
            self._strand(out, ranks)
        self._look()

    def _strand(self, out: set[int], ranks: range) -> None:
        """Let ranks lose everybody that cannot reach the relay, as in real mode."""
        topology = self._network.topology
        for rank in ranks:
            routes = [topology.relay_route(self._hosts[rank], is_upload) for is_upload in (True, False)]
            link = self._first_of(out, *routes)
            if link is not None:
                cause = f"the relay is gone: {self._cause(link)}"
                for other in ranks:
                    if other != rank:
                        self._post.part(rank, other, cause)
                self._post.strand(rank, cause)

    @staticmethod
    def _first_of(out: set[int], *routes: tuple[int, ...]) -> int | None:
        return next((link for route in routes for link in route if link in out), None)

    def _cause(self, link: int) -> str:
        cause = self._causes.get(link, f"link {self._network.topology.links[link].name} has no bandwidth")
        return f"no heartbeat for {TIME.format(self._timeout)} ({cause})"
