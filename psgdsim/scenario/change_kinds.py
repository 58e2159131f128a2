"""The kinds of changes that are built in."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from psgdsim.scenario.changes import Background, Change, Course, Effect, Jitter, Loss, Moment, register_change
from psgdsim.scenario.link_rows import MAX_PATH, LinkRow, Rows, read_rows
from psgdsim.units import Bandwidth, Duration, Size

if TYPE_CHECKING:
    import numpy as np

Pattern = Annotated[str, Field(min_length=1, max_length=200)]
Patterns = Pattern | Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=10_000)]
TracePath = Annotated[str, Field(min_length=1, max_length=MAX_PATH)]
PositiveDuration = Annotated[Duration, Field(gt=0)]


def _tuple(links: str | tuple[str, ...]) -> tuple[str, ...]:
    return (links,) if isinstance(links, str) else tuple(links)


def _from_rows(rows: Rows, path: str | None, quantity: Literal["bandwidth", "latency"]) -> Course:
    if (path is None) == (not rows):
        raise ValueError(f"rows: expected either rows or path; got {'both' if rows else 'neither'}")
    times = [time for time, _, _ in rows]
    early = next((i for i in range(1, len(times)) if times[i] < times[i - 1]), None)
    if early is not None:
        raise ValueError(f"rows: expected times in order; got {times[early]:g} s after {times[early - 1]:g} s")

    @functools.cache
    def moments() -> list[Moment]:
        found: Iterable[LinkRow] = rows if path is None else read_rows(path, quantity)
        return [Moment(time, (link,), Effect(**{quantity: value})) for time, link, value in found]

    return Course(tuple(dict.fromkeys(link for _, link, _ in rows)), moments, "rows")


@register_change("bandwidth_trace")
def bandwidth_trace(
    path: TracePath | None = None, rows: tuple[tuple[Duration, Pattern, Bandwidth], ...] = ()
) -> Change:
    """Give links the bandwidths that were measured, or made up, over time.

    Each row says: from this time on, these links have this bandwidth; 0 stops them. Before its first row a link is as
    the topology says.

    Args:
        path: a CSV file with the header `time,link,bandwidth` and cells such as `1.5 s,host3.*,20 Mbit/s`; a relative
            path is looked for in the working directory.
        rows: the same here, such as `[[1.5 s, host3.*, 20 Mbit/s], [3 s, host3.*, 100 Mbit/s]]`.
    """
    return _from_rows(rows, path, "bandwidth")


@register_change("latency_trace")
def latency_trace(path: TracePath | None = None, rows: tuple[tuple[Duration, Pattern, Duration], ...] = ()) -> Change:
    """Give links the latencies that were measured, or made up, over time; for messages that start from then on.

    Args:
        path: a CSV file with the header `time,link,latency` and cells such as `1.5 s,host3.*,20 ms`; a relative path
            is looked for in the working directory.
        rows: the same here, such as `[[1.5 s, host3.*, 20 ms]]`.
    """
    return _from_rows(rows, path, "latency")


@register_change("periodic")
def periodic(
    links: Patterns,
    period: PositiveDuration,
    low: Annotated[float, Field(ge=0, le=1)],
    shape: Literal["square", "sine"] = "square",
    duty: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    steps: Annotated[int, Field(ge=2, le=1000)] = 16,
) -> Change:
    """Let the bandwidth go down and up again, over and over.

    Args:
        links: which links, such as `host3.*`.
        period: how long one round takes; it begins at full bandwidth.
        low: the lowest bandwidth, as a part of the full one.
        shape: `square`, full and then low; or `sine`, in between as well.
        duty: with `square`, for which part of the period the bandwidth is full.
        steps: with `sine`, in how many steps a period is drawn; each has the value of its middle.
    """
    if shape == "square":
        levels = [(0.0, 1.0), (duty, low)]
    else:
        wave = [0.5 + 0.5 * math.cos(2 * math.pi * (i + 0.5) / steps) for i in range(steps)]
        levels = [(i / steps, low + (1 - low) * height) for i, height in enumerate(wave)]
    names = _tuple(links)

    def moments() -> Iterator[Moment]:
        round_ = 0
        while True:
            for part, factor in levels:
                yield Moment((round_ + part) * period, names, Effect(factor=factor))
            round_ += 1

    return Course(names, moments)


@register_change("link_down")
def link_down(links: Patterns, at: Duration, for_: PositiveDuration, every: PositiveDuration | None = None) -> Change:
    """Take links out of service for a while; messages on them wait.

    Args:
        links: which links, such as `host3.*`.
        at: when.
        for_: how long.
        every: again after so long, over and over; null for once. More than `for`.
    """
    if every is not None and every <= for_:
        raise ValueError(f"every: expected more than for, {for_:g} s; got {every:g} s")
    names = _tuple(links)

    def moments() -> Iterator[Moment]:
        round_ = 0
        while round_ == 0 or every is not None:
            begin = at + round_ * (every or 0.0)
            yield Moment(begin, names, Effect(factor=0.0))
            yield Moment(begin + for_, names, Effect())
            round_ += 1

    return Course(names, moments)


@register_change("jitter")
def jitter(
    mean: PositiveDuration, links: Patterns = "*", distribution: Literal["exponential", "uniform"] = "exponential"
) -> Change:
    """Delay each message by a random time of its own, besides the latency.

    The times of each pair of ranks are a stream of their own, derived from the seed.

    Args:
        mean: of that time.
        links: for messages that cross at least one of these links.
        distribution: `exponential`, or `uniform` between 0 and twice the mean.
    """

    def draw(rng: np.random.Generator) -> float:
        return float(rng.exponential(mean) if distribution == "exponential" else rng.uniform(0.0, 2 * mean))

    return Jitter(_tuple(links), draw)


@register_change("loss")
def loss(
    probability: Annotated[float, Field(gt=0, le=0.5)],
    links: Patterns = "*",
    segment: Annotated[Size, Field(gt=0)] = 1460.0,
    timeout: Duration = 0.2,
) -> Change:
    """Lose segments as a network does that TCP still gets all bytes through.

    Between two hosts TCP goes at no more than `segment / RTT * C / sqrt(p)` with C = sqrt(3/2), where p is the
    probability that a segment is lost on the way and RTT twice the latency that the topology says (Mathis, Semke,
    Mahdavi, Ott, "The macroscopic behavior of the TCP congestion avoidance algorithm", CCR 27(3), 1997). A message of
    fewer than 4 segments is too short for that; whenever a segment of it is lost, it comes later by
    `max(timeout, 3 RTT)`, doubled each time (RFC 6298).

    Args:
        probability: of each segment on each of the links.
        links: on which links segments are lost.
        segment: the payload of one segment.
        timeout: the shortest time after which a segment is sent again; Linux has 200 ms.
    """
    return Loss(_tuple(links), probability, segment, timeout)


@register_change("background")
def background(
    from_: Pattern,
    to: Pattern,
    size: Annotated[Size, Field(gt=0)],
    interval: PositiveDuration | None = None,
    rate: Annotated[Bandwidth, Field(gt=0)] | None = None,
    arrivals: Literal["regular", "poisson"] = "regular",
    at: Duration = 0.0,
    until: Duration | None = None,
) -> Change:
    """Let messages that are no rank's share the links.

    At most 64 of them are under way at once; what would be more is left out.

    Args:
        from_: the host that sends them.
        to: the host that gets them.
        size: of each message.
        interval: between the starts of two.
        rate: instead of the interval, what they amount to on average.
        arrivals: `regular`, or `poisson` with exponential intervals of the same mean.
        at: when the first may start.
        until: when no more start; null for never.
    """
    if (interval is None) == (rate is None):
        raise ValueError(f"interval: expected either interval or rate; got {'neither' if rate is None else 'both'}")
    mean = interval if interval is not None else 8 * size / (rate or math.inf)

    def gap(rng: np.random.Generator) -> float:
        return float(rng.exponential(mean)) if arrivals == "poisson" else mean

    return Background((), from_, to, size, gap, at, math.inf if until is None else until)
