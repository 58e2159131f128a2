"""Every built-in strategy keeps the laws of `check_strategy`, and broken ones are found out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from psgdsim.errors import Interrupted
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.testing import check_strategy
from psgdsim.testing.schedules import RandomSchedules
from psgdsim.testing.variants import built_in_variants
from psgdsim.testing.watched import WatchedSimulation

VARIANTS = list(built_in_variants())
RUN = WatchedSimulation.run


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_built_in_strategies_keep_the_laws(variant):
    # `psgdsim verify strategies --schedules 10000` runs many more schedules.
    alone = None if variant.alone is None else {**variant.spec, **variant.alone}
    check_strategy(
        variant.spec,
        world_size=variant.world_size,
        num_schedules=70,
        alone=alone,
        is_symmetric=variant.is_symmetric,
    )


# --- what is broken is found out ----------------------------------------------------------------------------------


async def exchange(flaw, node, mine, step):
    others = [rank for rank in range(node.world_size) if rank != node.rank]
    tag = "gradients" if flaw == "no step in its tags" else f"gradients {step}"
    await node.multicast(others, mine, tag=tag)
    gradients = {node.rank: mine}
    for _ in others[1 if flaw == "forgets a message" and step == 2 else 0 :]:
        message = await node.recv(tag=tag)
        gradients[message.src] = message.payload
    if flaw == "waits once too often" and step == 3:
        await node.recv(tag=tag)
    places = list(gradients) if flaw == "adds up as they come" else sorted(gradients)
    return [gradients[place] for place in places]


@register_strategy("broken_of_a_test")
def broken(flaw: str = "none") -> Strategy:
    """Add up all gradients with one multicast each, with a flaw.

    Args:
        flaw: which.
    """

    async def worker(node, task):
        blocks, num = task.blocks(node.world_size), node.world_size
        state = await node.compute(task.init, 0, None)
        for step in task.steps():
            losses, [mine] = await node.compute(task.gradients, [state.params], [blocks.ids(step, node.rank)])
            gradients = await exchange(flaw, node, mine, step)
            shares = [1 / num if flaw != "is no mean" else 1.0 + node.rank] * len(gradients)
            if flaw == "favours rank 0":
                shares[0] = 2 / num
            mean = await node.compute(task.weighted_sum, shares, gradients)
            state = await node.compute(task.apply, state, mean)
            node.record(loss=losses[0])
            if not await node.checkpoint(step, [state.params]):
                return

    async def stubborn(node, task):
        while True:
            try:
                await worker(node, task)
                return
            except GeneratorExit:
                continue

    return Strategy(stubborn if flaw == "does not let itself be cancelled" else worker)


KEPT = {"num_schedules": 60, "alone": "broken_of_a_test", "is_symmetric": True}


def test_the_strategy_without_a_flaw_keeps_the_laws():
    check_strategy("broken_of_a_test", **KEPT)


@pytest.mark.parametrize(
    ("flaw", "law"),
    [
        ("no step in its tags", r"comes to its end.*schedule of seed \d+: "),
        ("forgets a message", r"comes to its end.*rank \d: 'gradients 2' from rank \d not received"),
        ("waits once too often", "comes to its end.*deadlock"),
        ("adds up as they come", r"comes to its end.*ends with other parameters than rank 0"),
        ("is no mean", r"comes to its end.*ends with other parameters than rank 0"),
        ("favours rank 0", r"(one worker alone is plain SGD|which worker has which rows): expected .*; got"),
        ("does not let itself be cancelled", "a run that is cancelled leaves nothing behind: .*cannot be cancelled"),
    ],
)
def test_a_flaw_is_found_out(flaw, law):
    spec = {"kind": "broken_of_a_test", "flaw": flaw}
    with pytest.raises(AssertionError, match=f"(?s)the strategy breaks the law that .*{law}"):
        check_strategy(spec, **{**KEPT, "alone": spec})


def test_a_failure_names_the_seed_that_shows_it_again():
    schedules = RandomSchedules.of({"kind": "broken_of_a_test", "flaw": "forgets a message"})
    failures = list(schedules.failures(range(10)))
    assert failures
    seed = int(failures[0].split()[3].strip(":,"))
    with pytest.raises(AssertionError) as again:
        schedules.run(seed)
    assert str(again.value) == failures[0]


def test_a_signal_ends_it_and_is_no_failure(monkeypatch):
    def interrupted(simulation):
        return replace(RUN(simulation), error=Interrupted(15))

    monkeypatch.setattr(WatchedSimulation, "run", interrupted)
    with pytest.raises(Interrupted):
        list(RandomSchedules.of("all_reduce").failures(range(3)))


@pytest.mark.real
def test_the_twin_of_a_strategy_in_lock_step_is_the_same():
    check_strategy("all_reduce", world_size=2, num_schedules=1, has_twin=True)
