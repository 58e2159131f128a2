"""A gradient in several kernels is the gradient in one, and their shares of its time add up."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build

MODELS = {
    "mlp": {"kind": "mlp", "hidden": [8, 5]},
    "mlp without hidden layers": {"kind": "mlp", "hidden": []},
    "cnn": {"kind": "cnn", "channels": [2, 3], "kernel_size": 3, "hidden": [4]},
    "softmax_regression": {"kind": "softmax_regression"},
}


def task_of(model, tiny):
    return build(from_dict({**tiny, "model": model})).task


def start(task):
    return task.init.function(0, None).params, task.blocks(1).ids(1, 0)


def whole(task):
    params, ids = start(task)
    [loss], [gradient] = task.gradients.function([params], [ids])
    return loss, gradient


def stage_by_stage(task):
    backward, (params, ids) = task.backward, start(task)
    loss, inputs, slope = backward.forward.function(params, ids)
    leaves = {}
    for place in reversed(range(len(backward.stages))):
        own = backward.stages[place].own(params)
        gradient, slope = backward.back[place].function(own, inputs[place], slope)
        leaves.update(zip(backward.leaves[place], jax.tree.leaves(gradient), strict=True))
    assert slope is None
    return loss, backward.whole([leaves[i] for i in range(len(leaves))])


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_stage_by_stage_it_is_the_same_gradient(model, tiny):
    task = task_of(model, tiny)
    assert_same(stage_by_stage(task), whole(task))


def test_a_model_without_stages_is_one(tiny):
    tiny["data"] = {"kind": "none"}
    task = task_of({"kind": "quadratic", "dim": 3, "noise": 0.5}, tiny)
    assert len(task.backward.stages) == 1
    assert_same(stage_by_stage(task), whole(task))


@pytest.mark.parametrize("sizes", [(24,), (8, 16), (23, 1), (9, 8, 7)])
def test_rows_after_rows_it_is_the_same_gradient(sizes, tiny):
    task = task_of(MODELS["mlp"], tiny)
    params, ids = start(task)
    first, *others = np.split(ids, np.cumsum(sizes)[:-1])
    loss, gradient = task.backward.first_rows.function(params, first, 24)
    for each in others:
        loss, gradient = task.backward.more_rows.function(params, each, 24, loss, gradient)
    assert_same((loss, gradient), whole(task))


@pytest.mark.parametrize(
    ("model", "work"),
    [
        (MODELS["mlp"], (65 * 8, 9 * 5, 6 * 10)),
        (MODELS["cnn"], (64 * 10 * 2, 16 * 19 * 3, 13 * 4, 5 * 10)),  # 8 x 8 pixels, then 4 x 4
        (MODELS["softmax_regression"], (65 * 10,)),
    ],
    ids=["mlp", "cnn", "softmax_regression"],
)
def test_shares_go_by_multiplications_and_add_up(model, work, tiny):
    backward = task_of(model, tiny).backward
    assert backward.work == work
    shares = [kernel.share() for kernel in backward.back]
    assert shares == pytest.approx([2 / 3 * each / sum(work) for each in work])
    assert backward.forward.share() + sum(shares) == pytest.approx(1)


def test_micro_batches_share_the_time_by_rows(tiny):
    backward = task_of(MODELS["mlp"], tiny).backward
    ids = np.arange(6)
    for kernel in (backward.first_rows, backward.more_rows):
        assert (kernel.rows({}, ids, 24), kernel.share({}, ids, 24)) == (24, 0.25)
    assert (backward.first_rows.continues, backward.more_rows.continues) == (False, True)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_going_back_computes_no_product_again(name, tiny):
    """Together the kernels make as many operations as the whole gradient, as XLA counts them once it has optimized."""
    task = task_of(MODELS[name], tiny)
    backward, (params, ids) = task.backward, start(task)
    _, inputs, slope = backward.forward.function(params, ids)
    total = operations(lambda at: backward.forward.function(at, ids), params)
    for place in reversed(range(len(backward.stages))):
        own = backward.stages[place].own(params)
        total += operations(backward.back[place].function, own, inputs[place], slope)
        _, slope = backward.back[place].function(own, inputs[place], slope)
    assert total < 1.1 * operations(lambda at: task.gradients.function([at], [ids]), params)


def operations(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]
