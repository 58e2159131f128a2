"""A server keeps the model; workers push gradients to it and pull parameters from it, in lock step or as they come."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Annotated, Final, Literal

from pydantic import Field

from psgdsim.codecs.base import Codec
from psgdsim.errors import PeerLost
from psgdsim.node import Node
from psgdsim.strategies.as_they_come import AsTheyCome
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.delay_compensation import DelayCompensation
from psgdsim.strategies.server_base import Rule, Server, SynchronousServer
from psgdsim.strategies.server_calls import BoundedServer, RestartingServer
from psgdsim.strategies.server_shards import ShardServer
from psgdsim.strategies.server_workers import BoundedWorker, RestartedWorker, work
from psgdsim.task import Task

Sync = Literal[
    "bsp",
    "async",
    "backup",
    "k_sync",
    "k_batch_sync",
    "k_async",
    "k_batch_async",
    "staleness_aware",
    "ssp",
]
OnPeerLoss = Literal["fail", "drop", "wait"]

RESTARTING: Final = ("backup", "k_sync", "k_batch_sync")
"""All workers begin anew after every update."""

WAITING: Final = ("bsp", "backup", "k_sync", "k_async", "ssp")
"""Others' progress may need a certain worker's; in the other modes, any gradients will do."""

USERS: Final[dict[str, tuple[str, ...]]] = {
    "k": ("k_sync", "k_batch_sync", "k_async", "k_batch_async", "staleness_aware"),
    "backup": ("backup",),
    "staleness_bound": ("ssp",),
    "cached_reads": ("ssp",),
    "delay_compensation": ("async", "k_async", "k_batch_async", "staleness_aware"),
    "downlink": ("bsp", "async", "k_async", "k_batch_async", "staleness_aware"),
}
"""The values of `sync` that each setting goes with."""

REQUIRED: Final = {
    "k": "how many gradients make an update",
    "backup": "how many workers nobody waits for",
    "staleness_bound": "how many gradients a worker may be ahead of the slowest",
}
"""What the settings are that must be there with those; without one, `staleness_aware` updates with each gradient."""


@register_strategy("parameter_server")
def parameter_server(
    sync: Sync = "bsp",
    on_peer_loss: OnPeerLoss = "fail",
    *,
    k: Annotated[int, Field(ge=1)] | None = None,
    backup: Annotated[int, Field(ge=0)] | None = None,
    staleness_bound: Annotated[int, Field(ge=0)] | None = None,
    cached_reads: bool = False,
    delay_compensation: DelayCompensation | None = None,
    servers: Annotated[int, Field(ge=1, le=10_000)] = 1,
    downlink: Codec | None = None,
) -> Strategy:
    """Keep the model on a server, to which all workers push gradients and from which they pull parameters.

    With N workers, m bytes of parameters, w <- w - eta * mean of K gradients, and `tau`, how many updates the server
    has made between a gradient's reading w and its being used:

    - bsp: in each step the server waits for all, w <- w - eta * sum_i (rows_i / rows) g_i(w), and answers all of them.
      Per step and worker, one coded gradient goes up and m bytes of parameters come down; with the codec `identity`
      2 N m in all. The parameters are those of `all_reduce`, and those of plain SGD with one worker.
      Source: Li et al., OSDI 2014; Zinkevich et al., NIPS 2010.
    - async: the server applies each gradient as it comes, w <- w - eta * g_i(w_read), and answers its worker alone,
      which goes on at once. Per update one gradient up and m down; each worker pulls the first parameters. The mean of
      tau is N - 1 however fast each worker is. Source: Dean et al., NIPS 2012 (Downpour SGD); Lian et al., NIPS 2015.
    - k_sync: K = `k` gradients of different workers at the present w; then all begin anew from the new w, and what the
      others compute is given up. Per update N m down, and K gradients up with those that come too late, which are
      dropped. tau is 0.
    - k_batch_sync: the same with any K gradients: a worker goes on at the same w, with other rows, until there are K.
    - k_async: K gradients of different workers, however old: these wait for the new w, the others go on. Per update K m
      down and K gradients up. The mean of tau is N / K - 1.
    - k_batch_async: any K gradients; a worker reads w as soon as it has pushed, and never waits for others. The bytes
      are those of `k_async`; the mean of tau is (N - 1) / K.
      Source of these four: Dutta et al., AISTATS 2018.
    - backup: `k_sync` with K = N - `backup`. Source: Chen et al., ICLR workshop 2016.
    - staleness_aware: `k_batch_async` where a gradient with tau > 1 counts for 1 / tau; `k: 1` if not given. That is
      n-softsync with n = N / K. Source: Zhang et al., IJCAI 2016.
    - ssp: each gradient is applied as it comes, and a worker that has pushed c begins the next one only if
      c - min c <= `staleness_bound`; 0 takes the time of bsp, a large one is async. Per gradient one up and m down.
      Source: Ho et al., NIPS 2013.

    With `servers: s`, each of s servers keeps a shard of w: contiguous parts of all D parameters in a row, as equal as
    possible; server j has [floor(j D / s), floor((j + 1) D / s)). A worker cuts its gradient, codes each part as a
    vector of its own, pushes all parts at once and pulls all. Per step, N s messages go up and down: the bytes of one
    server and s - 1 more headers each way for each worker. On a star, a step takes 2 (alpha + N m / (s B)) besides
    computing, and no less than 2 (alpha + m / B). With `identity` the parameters are those of one server, bit for bit
    with `sgd` and `momentum`, but for how compiled code rounds with others; `clip_norm` shortens each shard's gradient
    by itself.

    With a `downlink` codec C the answer to a gradient is C(w - w_i) instead of w, where w_i is what worker i has; both
    ends add to w_i what that decodes to. So whatever C drops is in the next difference, and w_i follows w if C is a
    contraction, E||C(x) - x||^2 < ||x||^2. The bytes of an answer are those of C instead of m; the first parameters
    that a worker asks for are sent as they are. With bsp and on_peer_loss `fail` all w_i are the same, coded once per
    step (of each shard), and are the model that is evaluated; else it is w. Where answers differ, the server keeps
    each w_i, N D numbers, and for each what C remembers. Source: the server of SGQ in the Parallel-SGD project; Tang et
    al., ICML 2019, arXiv 1905.05957 (DoubleSqueeze), where the server keeps a residual instead.

    The optimizer and its memory are on the server, which sends a message of its own to each worker. But
    for bsp the server leads: its steps are as many updates as use N gradients, so K updates of N in N steps. Workers
    have a row for each gradient that was used; the server counts those that came too late in `dropped`.

    Note:
        Over TCP a computation cannot be stopped: a worker that is to begin anew does so when it is through, and
        what it has found is dropped. `staleness_aware` makes the gradient smaller, not the learning rate: the same
        for `sgd`, but not for an optimizer that scales gradients.

    Args:
        sync: when the server updates the model, and who waits for that.
        on_peer_loss: `fail`, a worker that is lost ends the run; `drop`, the run goes on with those that are left, and
            with one that has come back as soon as it has asked for the model. With bsp the mean is then over the
            gradients that there are, weighted by rows, and the server alone decides when to end, as with async: each
            worker pulls the first parameters, computes one gradient more, and is told to end when it pushes that.
            `wait`, that same, but what needs a worker that is lost waits until it is back: with bsp the step, with
            `backup` and the k_ modes the update if fewer than K are left, with `ssp` those that would get too far
            ahead. A worker that will not come back ends the run, and so does the loss of all at once; in real mode
            nobody comes back. Not with `async`, `k_batch_sync`, `k_batch_async` and `staleness_aware`, which wait for
            no one in particular.
        k: how many gradients make an update, 1 to N; only with the k_ modes and `staleness_aware`.
        backup: how many workers nobody waits for, fewer than N; only with `backup`.
        staleness_bound: how many gradients a worker may have pushed more than the slowest when it begins another; only
            with `ssp`.
        cached_reads: a worker goes on with its copy of w and its own updates as long as these may be missing no more
            than the bound allows, and pulls only then: fewer bytes down, but what it reads is older. The copy is
            updated with an optimizer's memory of the worker's own; only with `ssp`.
        delay_compensation: how a stale gradient is corrected, null for not at all; only with `async`, `k_async`,
            `k_batch_async` and `staleness_aware`.
        servers: into how many shards the model is cut, each on a server of its own; more than one only with bsp and
            on_peer_loss `fail`: there all shards count the same updates.
        downlink: how answers are coded, null or `identity` for not at all; a codec that itself brings back what it
            dropped, such as `error_feedback`, would do so twice. Only with bsp, `async`, `k_async`, `k_batch_async` and
            `staleness_aware`.
    """
    downlink = None if downlink is None or downlink.is_identity else downlink
    settings = {"k": k, "backup": backup, "staleness_bound": staleness_bound, "delay_compensation": delay_compensation}
    _check_settings(sync, {**settings, "cached_reads": cached_reads or None, "downlink": downlink})
    _check_losses(sync, on_peer_loss, servers)
    is_led = sync != "bsp" or on_peer_loss != "fail"
    tolerated = () if on_peer_loss == "fail" else (PeerLost,)

    def check(world_size: int, codec: Codec) -> None:
        _check_counts(world_size, k, backup)
        if servers > 1 and (codec.is_structured or (downlink is not None and downlink.is_structured)):
            raise ValueError(
                "servers: expected 1 with a codec that looks at single arrays of the model, such as layers or "
                f"power_sgd, for each of several servers gets a piece without names; got {servers}"
            )

    async def worker(node: Node, task: Task) -> None:
        # Without the server there is nothing left to do; but one that is waited for must say that it will not come.
        with contextlib.suppress(*(tolerated if on_peer_loss == "drop" else ())):
            if sync in RESTARTING:
                num = k if k is not None and sync == "k_batch_sync" else 1
                await RestartedWorker(node, task, tolerated, num=num).run()
            elif sync == "ssp":
                await BoundedWorker(node, task, tolerated, bound=staleness_bound if cached_reads else None).run()
            else:
                await work(node, task, downlink, is_led=is_led)

    async def server(node: Node, task: Task) -> None:
        rule = _rule(sync, k if backup is None else node.world_size - backup, delay_compensation)
        rule = replace(rule, awaits_lost=on_peer_loss == "wait", downlink=downlink)
        if staleness_bound is not None:
            await BoundedServer(node, task, rule, tolerated, bound=staleness_bound).run(is_led=is_led)
            return
        program: type[Server] = RestartingServer if sync in RESTARTING else Server
        if not is_led:
            program = SynchronousServer if servers == 1 else ShardServer
        await program(node, task, rule, tolerated).run(is_led=is_led)

    return Strategy(
        worker,
        check,
        server=server,
        num_servers=servers,
        is_lock_step=not is_led,
        survives_loss=on_peer_loss == "drop",
        awaits_lost=on_peer_loss == "wait",
        needs_all=_needs(sync, servers, on_peer_loss),
        is_sharded=servers > 1,
        is_spmd=not is_led and servers == 1,
        as_they_come=AsTheyCome(delay_compensation) if sync == "async" and downlink is None else None,
    )


def _check_counts(world_size: int, k: int | None, backup: int | None) -> None:
    """Raise `ValueError` if there are not as many workers as are waited for."""
    if k is not None and k > world_size:
        raise ValueError(f"k: expected at most world_size ({world_size}); got {k}")
    if backup is not None and backup >= world_size:
        raise ValueError(f"backup: expected fewer than world_size ({world_size}); got {backup}")


def _needs(sync: Sync, servers: int, on_peer_loss: OnPeerLoss) -> str:
    """Return why a run without on_peer_loss 'drop' cannot go on without a rank."""
    if servers > 1:
        return "the parts of the model that lie on the servers must all take up the same gradients"
    return f"on_peer_loss is {on_peer_loss!r}; with 'drop', sync {sync!r} goes on with the workers that are left"


def _rule(sync: Sync, num: int | None, compensation: DelayCompensation | None) -> Rule:
    """Return the rule of a mode in which so many gradients, one if None, make an update."""
    if sync == "bsp":
        return Rule()
    return Rule(
        num_gradients=num or 1,
        is_waiting=False,
        is_distinct=sync not in ("k_batch_sync", "k_batch_async", "staleness_aware"),
        is_discounted=sync == "staleness_aware",
        compensation=compensation,
    )


def _check_losses(sync: Sync, on_peer_loss: OnPeerLoss, servers: int) -> None:
    """Raise `ValueError` if a mode cannot wait for a worker, or its shards would come apart."""
    if on_peer_loss == "wait" and sync not in WAITING:
        waiting = f"{', '.join(map(repr, WAITING[:-1]))} or {WAITING[-1]!r}"
        raise ValueError(
            f"on_peer_loss: 'wait' only with sync {waiting}, for with {sync!r} nobody waits for a certain worker; "
            "expected 'fail' or 'drop'"
        )
    if servers > 1 and sync != "bsp":
        raise ValueError(
            f"servers: expected 1 with sync {sync!r}, for shards that update at different times have no model in "
            f"common; got {servers}: use sync 'bsp'"
        )
    if servers > 1 and on_peer_loss != "fail":
        raise ValueError(
            f"servers: expected 1 with on_peer_loss {on_peer_loss!r}, for each shard would go on with workers of its "
            f"own; got {servers}: use on_peer_loss 'fail'"
        )


def _check_settings(sync: Sync, settings: dict[str, object]) -> None:
    """Raise `ValueError` if a setting is missing or would be ignored."""
    for name, value in settings.items():
        users = USERS[name]
        if value is not None and sync not in users:
            named = " or ".join([", ".join(map(repr, users[:-1])), repr(users[-1])]) if users[1:] else repr(users[0])
            raise ValueError(f"{name}: only with sync {named}; got sync {sync!r}")
        if value is None and sync in users and name in REQUIRED and sync != "staleness_aware":
            raise ValueError(f"sync: needs {name}, {REQUIRED[name]}; got {sync!r} without it")
