"""Coded distributed computing for SGD: store blocks several times, combine, and let one packet serve many ranks."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from psgdsim import collectives, wire
from psgdsim.codecs.base import Codec
from psgdsim.errors import StrategyError
from psgdsim.node import Node
from psgdsim.strategies import coded_kernels as kernels
from psgdsim.strategies.base import Row, Strategy, register_strategy
from psgdsim.strategies.coded_placement import Group, Placement, ccdc, cdc, expected_load, uncoded_sends
from psgdsim.task import Task

if TYPE_CHECKING:
    import numpy as np

Code = Literal["ccdc", "combine", "cdc_all_gather"]


@register_strategy("coded_shuffle")
def coded_shuffle(
    redundancy: Annotated[int, Field(ge=1)],
    code: Code = "ccdc",
    learning_rates: list[Annotated[float, Field(gt=0)]] | None = None,
    seeds: list[Annotated[int, Field(ge=0)]] | None = None,
) -> Strategy:
    """Compute every block on r ranks and shuffle what is missing in coded multicasts.

    `ccdc` trains J = C(K, r+1) models at once (one for r = K-1). Ranks sum the gradients of a block (combine), cut
    the sum in K shards, and exchange the shards they miss as XORs of raw float bits; each rank adds up its shard of
    every model, then all gather the shards. Load of the shuffle: (1 - r/K)(r + 1)/r, exactly. On the wire each packet
    carries, beside its words, a 4-byte checksum of each of its r terms: a corrupted packet, or ranks whose arithmetic
    differs, are found and named, never summed.
    The gain is real only where the network copies a multicast (`topology.multicast: native` or `relay`).
    Source: Li, Maddah-Ali, Avestimehr, ISIT 2018, arXiv 1805.01993; `cdc_all_gather`: Li, Maddah-Ali, Yu,
    Avestimehr, IEEE T-IT 2018, arXiv 1604.07086.

    Args:
        redundancy: ranks that store each block, r, from 1 to world_size.
        code: `ccdc`; `combine`, the same placement and sums without the code; or `cdc_all_gather`, every rank gets
            every block's whole gradient, coded but not combined.
        learning_rates: one per model; the optimizer's for all by default.
        seeds: one per model, added to the scenario's; by default 0, 1, ... or, with learning_rates, 0 for all.
    """

    def placement(world_size: int) -> Placement:
        return (cdc if code == "cdc_all_gather" else ccdc)(world_size, redundancy)

    def check(world_size: int, codec: Codec) -> None:
        jobs = placement(world_size).num_jobs
        for name, values in (("learning_rates", learning_rates), ("seeds", seeds)):
            if values is not None and len(values) != jobs:
                raise ValueError(f"{name}: expected one per model, {jobs} for this code; got {len(values)}")
        if not codec.is_identity:
            raise ValueError("codec: coded_shuffle XORs the raw bits of gradients; expected codec 'identity'")

    def jobs(world_size: int) -> list[tuple[int, float | None]]:
        num = placement(world_size).num_jobs
        offsets = seeds if seeds is not None else ([0] * num if learning_rates is not None else list(range(num)))
        rates: Sequence[float | None] = learning_rates or [None] * num
        return list(zip(offsets, rates, strict=True))

    def summarize(world_size: int, rows: Sequence[Row]) -> dict[str, Any]:
        return {"coded": _summary(code, placement(world_size), rows)}

    async def worker(node: Node, task: Task) -> None:
        shuffle = (
            _Uncoded(node, placement(node.world_size))
            if code == "combine"
            else _Coded(node, placement(node.world_size))
        )
        await _train(node, task, shuffle, jobs(node.world_size))

    return Strategy(
        worker,
        check,
        lambda world_size: placement(world_size).num_slots,
        summarize,
        is_bitwise=True,
        needs_all="each group decodes with packets of all its members",
    )


async def _train(node: Node, task: Task, shuffle: _Shuffle, jobs: list[tuple[int, float | None]]) -> None:
    """Train all jobs, one optimizer step each per step."""
    placement = shuffle.placement
    samples = task.blocks(placement.num_slots)
    states = [await node.compute(task.init, offset, rate) for offset, rate in jobs]
    held = [placement.blocks[i] for i in shuffle.held]
    for step in task.steps():
        ids = [samples.ids(step, block.slot) for block in held]
        models = [states[block.job].params for block in held]
        losses, gradients = await node.compute(task.gradients, models, ids)
        shares = [len(rows) / task.global_rows for rows in ids]
        gradients = await shuffle(node, gradients, shares, step)
        states = [
            await node.compute(task.apply, state, gradient) for state, gradient in zip(states, gradients, strict=True)
        ]
        node.record(loss=await node.compute(task.weighted_sum, [share / sum(shares) for share in shares], losses))
        if not await node.checkpoint(step, [state.params for state in states]):
            return


class _Shuffle:
    """Turn the gradients of the blocks a rank holds into the whole gradient of every job."""

    def __init__(self, node: Node, placement: Placement) -> None:
        import numpy as np

        self.placement = placement
        self.held = placement.held_by(node.rank)
        self.local = {block: i for i, block in enumerate(self.held)}
        self.function = np.int32(placement.function_of(node.rank))

    async def __call__(self, node: Node, gradients: list[Any], shares: list[float], step: int) -> list[Any]:
        import numpy as np

        placement = self.placement
        values = await node.compute(
            kernels.VALUES,
            gradients,
            np.asarray(shares, np.float32),
            placement.num_functions,
            placement.redundancy,
        )
        arrived, sent = await self.exchange(node, values, step)
        shards = [await node.compute(kernels.REDUCE, values, self.function, arrived, *self.sums)]
        if placement.num_functions > 1:
            shards = await collectives.all_gather(node, shards[0], tag=f"shards {step}")
        value_nbytes = wire.tensor_nbytes(values) // (len(self.held) * placement.num_functions)
        node.record(shuffle_nbytes=sum(map(wire.tensor_nbytes, sent)), packets=len(sent), value_nbytes=value_nbytes)
        return await node.compute(kernels.ASSEMBLE, shards, gradients[0])  # type: ignore[no-any-return]

    async def exchange(self, node: Node, values: Any, step: int) -> tuple[Any, list[Any]]:
        """Return the values that this rank missed, (n, r, W), and what it sent."""
        raise NotImplementedError

    sums: tuple[np.ndarray, np.ndarray]
    """The table and the mask of `REDUCE`."""


class _Coded(_Shuffle):
    """Exchange XORs within every group of r+1 ranks."""

    def __init__(self, node: Node, placement: Placement) -> None:
        import numpy as np

        super().__init__(node, placement)
        rank = node.rank
        self.groups = [(i, group) for i, group in enumerate(placement.groups) if rank in group.members]
        self.encode_table = np.asarray([self._terms(group, rank) for _, group in self.groups], np.int32)
        senders = [[self._terms(group, sender) for sender in group.others(rank)] for _, group in self.groups]
        self.decode_table = np.asarray(senders, np.int32)
        self.is_wanted = np.asarray(
            [
                [[[k == rank for k in group.others(sender)] for _ in group.rounds] for sender in group.others(rank)]
                for _, group in self.groups
            ]
        )
        self.sums = self._sums(rank)

    def _terms(self, group: Group, sender: int) -> list[list[tuple[int, int, int]]]:
        """Return, per round, what a sender XORs: a local block, a function and a segment per receiver.

        The term that this rank wants is not known here; its entry points at block 0 and is masked.
        """
        return [
            [
                (self.local.get(block, 0), function, group.others(member).index(sender))
                for member, (block, function) in zip(group.members, needs, strict=True)
                if member != sender
            ]
            for needs in group.rounds
        ]

    def _sums(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        position = dict(self.local)
        for _, group in self.groups:
            for needs in group.rounds:
                block, _ = needs[group.members.index(rank)]
                position[block] = len(position)
        by_job = np.asarray([position[i] for i in range(len(self.placement.blocks))], np.int32)
        table = by_job.reshape(self.placement.num_jobs, self.placement.num_slots)
        return table, np.ones(table.shape, bool)

    async def exchange(self, node: Node, values: Any, step: int) -> tuple[Any, list[Any]]:
        if not self.groups:
            return None, []
        packets = await node.compute(kernels.ENCODE, values, self.encode_table)
        sends, receives = [], []
        for (number, group), packet in zip(self.groups, packets, strict=True):
            others = group.others(node.rank)
            tag = f"packet {step} {number}"
            sends.append(node.multicast(others, packet, tag=tag))
            receives += [node.recv(sender, tag=tag) for sender in others]
        results = await node.gather(*sends, *receives)
        received = [message.payload for message in results[len(sends) :]]
        decoded, is_right = await node.compute(kernels.DECODE, values, received, self.decode_table, self.is_wanted)
        await self._verify(node, is_right, step)
        return decoded, [packet["packet"] for packet in packets]

    async def _verify(self, node: Node, is_right: Any, step: int) -> None:
        """Raise if any term of any packet is not what its sender says it is."""
        import numpy as np

        wrong = np.argwhere(~(await node.read(is_right)))
        if not len(wrong):
            return
        known = [entry for entry in wrong if not self.is_wanted[tuple(entry)]]
        g, s, r, t = (known or list(wrong))[0]
        group = self.groups[g][1]
        sender = group.others(node.rank)[s]
        receiver = group.others(sender)[t]
        block = self.placement.blocks[group.rounds[r][group.members.index(receiver)][0]]
        what = f"step {step}: block {block.slot} of model {block.job}"
        if known:
            raise StrategyError(
                f"rank {node.rank}: {what}: ranks {node.rank} and {sender} hold replicas that differ; their arithmetic "
                "is not the same (other hardware, libraries or versions), so packets cannot be decoded"
            )
        raise StrategyError(f"rank {node.rank}: {what}: the packet from rank {sender} is corrupted")


class _Uncoded(_Shuffle):
    """Exchange the same sums one by one: what the code is compared with."""

    def __init__(self, node: Node, placement: Placement) -> None:
        super().__init__(node, placement)
        others = [rank for rank in range(node.world_size) if rank != node.rank]
        self.outgoing = {dst: sends for dst in others if (sends := uncoded_sends(placement, node.rank, dst))}
        self.incoming = {src: sends for src in others if (sends := uncoded_sends(placement, src, node.rank))}
        self.sums = self._sums()

    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        jobs: list[list[int]] = [[] for _ in range(self.placement.num_jobs)]
        for block in self.held:
            jobs[self.placement.blocks[block].job].append(self.local[block])
        arrived = len(self.held)
        for sends in self.incoming.values():
            for item in sends:
                jobs[item.job].append(arrived)
                arrived += 1
        return _padded(jobs)

    async def exchange(self, node: Node, values: Any, step: int) -> tuple[Any, list[Any]]:
        import numpy as np

        tag = f"sums {step}"
        payloads = []
        for dst, items in self.outgoing.items():
            table, is_used = _padded([[self.local[block] for block in item.blocks] for item in items])
            function = np.int32(self.placement.function_of(dst))
            payloads.append(await node.compute(kernels.REDUCE, values, function, None, table, is_used))
        sends = [node.send(dst, payload, tag=tag) for dst, payload in zip(self.outgoing, payloads, strict=True)]
        results = await node.gather(*sends, *(node.recv(src, tag=tag) for src in self.incoming))
        received = [message.payload for message in results[len(sends) :]]
        return (await node.compute(kernels.BITS, received) if received else None), payloads


def _padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of different lengths as one table and a mask of what counts."""
    import numpy as np

    width = max(map(len, rows))
    table = np.asarray([row + [0] * (width - len(row)) for row in rows], np.int32)
    return table, np.asarray([[i < len(row) for i in range(width)] for row in rows])


def _summary(code: Code, placement: Placement, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the loads of a run: bytes multicast, each counted once, per byte of values wanted."""
    summary: dict[str, Any] = {
        "code": code,
        "redundancy": placement.redundancy,
        "jobs": placement.num_jobs,
        "load_expected": str(expected_load(code, placement.world_size, placement.redundancy)),
    }
    last = {row["rank"]: row for row in rows}.values()  # a rank sends the same in every step
    if len(last) == placement.world_size:
        wanted = placement.num_demands * rows[0]["value_nbytes"]
        summary["packets_per_step"] = str(sum(row["packets"] for row in last))
        summary["load_shuffle"] = str(Fraction(sum(row["shuffle_nbytes"] for row in last), wanted))
    return summary
