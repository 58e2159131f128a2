"""How many messages were on each link at once."""

from __future__ import annotations

from collections.abc import Iterable


class Occupancy:
    """Count the messages on links: those that share a link, or the one on it and those that wait for it.

    A number that lasts for no time does not count.

    Args:
        num_links: how many links there are.
    """

    def __init__(self, num_links: int) -> None:
        self._num = [0] * num_links
        self._since = [0.0] * num_links
        self._integral = [0.0] * num_links
        self._max = [0] * num_links

    def enter(self, links: Iterable[int], now: float) -> None:
        """Let a message come to links; to one that is named twice it comes twice."""
        self._add(1, links, now)

    def leave(self, links: Iterable[int], now: float) -> None:
        """Let a message leave the links to which it came."""
        self._add(-1, links, now)

    def _add(self, change: int, links: Iterable[int], now: float) -> None:
        all_num, since = self._num, self._since
        for link in links:
            num = all_num[link]
            if now > since[link]:
                if num:
                    self._integral[link] += num * (now - since[link])
                    self._max[link] = max(self._max[link], num)
                since[link] = now
            all_num[link] = num + change

    def until(self, now: float) -> list[tuple[float, int]]:
        """Return for each link the mean over the time until now, and the maximum."""
        self._add(0, range(len(self._num)), now)
        return [(each / now if now > 0 else 0.0, most) for each, most in zip(self._integral, self._max, strict=True)]
