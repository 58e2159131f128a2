"""Bulk-synchronous SGD: every rank computes a gradient, all take the mean, all apply it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from psgdsim.codecs.base import Codec
from psgdsim.data.assignment import AssignmentName, assign
from psgdsim.node import Node
from psgdsim.strategies.addition import Adder, Addition, Algorithm
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.contributions import Blocks, Contribution, MicroBatches
from psgdsim.strategies.overlap import Buckets, DoubleBuffer
from psgdsim.task import Task
from psgdsim.units import Size


@register_strategy("all_reduce")
def all_reduce(
    algorithm: Algorithm = "ring",
    redundancy: Annotated[int, Field(ge=1)] = 1,
    assignment: AssignmentName = "cyclic",
    group_size: Annotated[int, Field(ge=1)] | None = None,
    segments: Annotated[int, Field(ge=1, le=4096)] | None = None,
    *,
    accumulation: Annotated[int, Field(ge=1)] = 1,
    bucket_size: Annotated[Size, Field(gt=0)] | None = None,
    double_buffer: bool = False,
) -> Strategy:
    """Average the gradients of all ranks after every step: synchronous SGD without a server.

    w <- w - eta * sum_b (rows_b / rows) g_b(w). With m bytes of gradient, N ranks send per step, all together,
    N(N-1) m (`broadcast` over unicast), N m (`broadcast` where the network copies a multicast), N m lg N
    (`recursive_doubling`) or 2 (N-1) m (all others, and what folding adds where N is not 2^k). The times are in
    `psgdsim.collectives`. With buckets or a double buffer the tensors are the same bytes; buckets have more headers.

    With `bucket_size` the time of a step is that of a pipeline: a third of the compute time for the forward pass, then
    for each stage of the model its part of the rest, by its multiplications, from the last to the first. A bucket's sum
    begins when its layers are done and the sum before has ended. With `double_buffer` a step takes the longer of
    computation and sum: w_{t+1} = w_t - eta g(w_{t-1}). T steps make T - 1 updates, for the first has no gradient to
    apply yet; its `staleness` in `steps.csv` is 0 at first and 1 from the third step on.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005; Patarasuk and Yuan, JPDC 69(2), 2009 (ring); Li et al.,
    VLDB 2020, arXiv 2006.15704 (buckets); Li et al., NeurIPS 2018, arXiv 1811.03619 (double buffer: Pipe-SGD, K = 2).

    Note:
        On the way back each stage computes its activations again from its inputs, but no product (see
        `psgdsim.models.Stage`). A codec has a memory for each bucket.

    Args:
        algorithm: `broadcast`, every rank sends its coded gradient to all others; all other algorithms need a codec
            whose payloads can be added: `ring`, the fewest bytes; `recursive_doubling`, the fewest latencies;
            `halving_doubling`, few of both; `tree`, up and down a binomial tree; `pipelined_tree`, in segments along
            two trees; `hierarchical`, inside groups and then between all their ranks; `leaders`, inside groups and then
            between their first ranks.
        redundancy: how many ranks compute each block; more than one costs compute time and, without a code, gains
            nothing: the smallest of the ranks that hold a block contributes it.
        assignment: which ranks hold which block when there is redundancy.
        group_size: ranks per group of neighbours, for `hierarchical` (a divisor of world_size) and `leaders`.
        segments: into how many segments `pipelined_tree` cuts each half of the gradient; 8 if null.
        accumulation: in how many micro-batches a rank computes its rows (batch_size stays what it is), one after the
            other; their gradients are added up before ranks exchange anything. Less memory for activations, the same
            time and, but for rounding, the same parameters.
        bucket_size: what a bucket of gradients holds at least, such as 25 MiB; a bucket is added up while the layers
            before it are computed. Null adds up all at once, at the end.
        double_buffer: whether a step's gradients are added up while those of the next are computed; they are applied
            one step late.
    """
    addition = Addition(algorithm, group_size, segments)
    plan = _Plan(addition, redundancy, assignment, accumulation, bucket_size, double_buffer)
    is_spmd = addition.is_spmd and redundancy == accumulation == 1 and bucket_size is None and not double_buffer
    return Strategy(plan.work, plan.check, plan.num_blocks, is_spmd=is_spmd)


@dataclass(frozen=True)
class _Plan:
    """The settings of the strategy."""

    addition: Addition
    redundancy: int
    assignment: AssignmentName
    accumulation: int
    bucket_size: float | None
    double_buffer: bool

    def check(self, world_size: int, codec: Codec) -> None:
        """Accept the settings for so many workers and this codec, or raise `ValueError`."""
        assign(self.assignment, world_size, self.redundancy)
        self.addition.check(world_size, codec)
        ways = {"redundancy": self.redundancy, "accumulation": self.accumulation, "bucket_size": self.bucket_size}
        used = [name for name, value in ways.items() if value not in (1, None)]
        if len(used) > 1:
            raise ValueError(f"{used[1]}: expected at most one of {', '.join(ways)}; got {' and '.join(used)}")
        if self.double_buffer and self.bucket_size is not None:
            raise ValueError("double_buffer: expected false with bucket_size; got true")
        if self.double_buffer or self.bucket_size is not None:
            self._check_sums("double_buffer" if self.double_buffer else "bucket_size", codec)
        if self.bucket_size is not None and codec.is_structured:
            raise ValueError(
                "bucket_size: expected null with a codec that looks at single arrays of the model, such as layers, for "
                f"a bucket has only some of them; got {self.bucket_size:g} bytes"
            )

    def _check_sums(self, name: str, codec: Codec) -> None:
        """Raise `ValueError` if gradients are not added up by a collective in one go."""
        if self.addition.algorithm == "broadcast":
            raise ValueError(f"{name}: expected an algorithm that adds up gradients on the way; got 'broadcast'")
        if not codec.is_summable:
            raise ValueError(
                f"{name}: expected a codec whose payloads can be added in one round, such as identity, cast, random_k "
                "or count_sketch; got one that takes several rounds"
            )

    def num_blocks(self, world_size: int) -> int:
        """Return into how many blocks the rows of a step are dealt out."""
        return len(assign(self.assignment, world_size, self.redundancy).holders)

    async def work(self, node: Node, task: Task) -> None:
        """Make all steps."""
        state = await node.compute(task.init, 0, None)
        mean = self._mean(node, task)
        await mean.start(state.params)
        for step in task.steps():
            loss, gradient = await mean(state.params, step)
            if gradient is not None:
                state = await node.compute(task.apply, state, gradient)
            node.record(loss=loss, staleness=mean.staleness(step))
            if not await node.checkpoint(step, [state.params]):
                await mean.end()
                return

    def _mean(self, node: Node, task: Task) -> _InTurn | DoubleBuffer | Buckets:
        if self.bucket_size is not None:
            return Buckets(node, task, self.addition, self.bucket_size)
        contribution: Contribution
        if self.accumulation > 1:
            contribution = MicroBatches(node, task, self.accumulation)
        else:
            contribution = Blocks(node, task, assign(self.assignment, node.world_size, self.redundancy))
        return (DoubleBuffer if self.double_buffer else _InTurn)(node, task, self.addition, contribution)


class _InTurn:
    """The mean gradient, added up once this rank's part is computed.

    Args:
        node: this rank.
        task: what is trained.
        addition: how parts are added up.
        contribution: what this rank contributes.
    """

    def __init__(self, node: Node, task: Task, addition: Addition, contribution: Contribution) -> None:
        self._node, self._task, self._addition, self._contribution = node, task, addition, contribution
        self._add: Adder

    async def start(self, params: Any) -> None:
        """Set up the codec's memory."""
        senders = self._contribution.senders
        self._add = await self._addition.start(self._node, self._task, params, senders=senders)

    async def __call__(self, params: Any, step: int) -> tuple[Any, Any]:
        """Return this rank's loss and the mean gradient of all ranks."""
        loss, part = await self._contribution(params, step)
        return loss, await self._add(part, step)

    def staleness(self, _step: int) -> int:
        """Return 0: a step applies the gradient of the model that it begins with."""
        return 0

    async def end(self) -> None:
        """Do nothing: no sum outlives its step."""
