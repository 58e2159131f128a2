"""Every model against values known by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from psgdsim import trees
from psgdsim.errors import ScenarioError
from psgdsim.models import cnn, linear_regression, mlp, models, quadratic, softmax_regression

KEY = jax.random.key(3)
CLASSIFIERS = {
    "softmax_regression": softmax_regression(),
    "mlp": mlp(hidden=(5, 4)),
    "mlp_without_hidden": mlp(hidden=()),
    "cnn": cnn(channels=(2, 3), kernel_size=3, hidden=(4,)),
}
ALL = {**CLASSIFIERS, "linear_regression": linear_regression()}


def mean_loss(model, params, inputs, targets):
    return model.loss(model.apply(params, inputs), targets).mean()


def shapes_of(model, inputs, outputs):
    """Return what `init` returns but for the values: nothing is compiled."""
    return jax.eval_shape(lambda key: model.init(key, inputs, outputs), KEY)


@pytest.mark.parametrize("model", ALL.values(), ids=ALL)
def test_init_is_glorot_float32_and_decided_by_the_key(model):
    params = model.init(KEY, (8, 8), 10)
    for name, leaf in trees.named_leaves(params):
        assert leaf.dtype == jnp.float32
        if name.endswith("bias"):
            assert not leaf.any()
            continue
        *window, fan_in, fan_out = leaf.shape
        limit = math.sqrt(6 / (math.prod(window) * (fan_in + fan_out)))
        assert 0.5 * limit < np.abs(leaf).max() <= limit
    assert trees.digest(model.init(KEY, (8, 8), 10)) == trees.digest(params)
    assert trees.digest(model.init(jax.random.key(4), (8, 8), 10)) != trees.digest(params)


def test_glorot_weights_have_the_variance_of_equation_16():
    weight = softmax_regression().init(KEY, (200,), 100)["weight"]
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / 300), rel=0.02)
    assert float(weight.mean()) == pytest.approx(0, abs=0.002)


@pytest.mark.parametrize("model", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_uniform_logits_lose_log_of_the_number_of_classes(model):
    params = jax.tree.map(jnp.zeros_like, model.init(KEY, (8, 8), 10))
    targets = jnp.arange(6) % 10
    outputs = model.apply(params, jax.random.normal(KEY, (6, 8, 8)))
    np.testing.assert_allclose(model.loss(outputs, targets), math.log(10), rtol=1e-6)
    assert model.is_correct(outputs, targets).tolist() == [True] + [False] * 5  # a tie goes to class 0


@pytest.mark.parametrize("model", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_gradient_agrees_with_finite_differences(model):
    inputs, targets = jax.random.normal(KEY, (4, 8, 8)), jnp.array([0, 2, 1, 2])
    params = model.init(KEY, (8, 8), 3)
    generator = np.random.default_rng(3)
    direction = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape).astype(np.float32), params)
    loss_and_gradient = jax.jit(jax.value_and_grad(lambda at: mean_loss(model, at, inputs, targets)))
    _, gradient = loss_and_gradient(params)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: float((np.asarray(g) * d).sum()), gradient, direction)))

    def along(distance):
        moved = jax.tree.map(lambda leaf, arrow: np.asarray(leaf) + np.float32(distance) * arrow, params, direction)
        return float(loss_and_gradient(moved)[0])

    assert (along(1e-3) - along(-1e-3)) / 2e-3 == pytest.approx(slope, rel=0.02, abs=2e-3)


STAGED = {
    **{name: model for name, model in ALL.items() if model.stages},
    "cnn_without_hidden": cnn(channels=(2, 3), kernel_size=3, hidden=()),
}


@pytest.mark.parametrize("model", STAGED.values(), ids=STAGED)
def test_stages_compose_the_model_and_share_no_parameter(model):
    params = model.init(KEY, (8, 8), 10)
    inputs = outputs = jax.random.normal(KEY, (3, 8, 8))
    for stage in model.stages:
        outputs = stage.apply(stage.own(params), outputs)
    np.testing.assert_array_equal(outputs, model.apply(params, inputs))
    numbers = jax.tree.unflatten(jax.tree.structure(params), range(len(jax.tree.leaves(params))))
    owned = [leaf for stage in model.stages for leaf in jax.tree.leaves(stage.own(numbers))]
    assert sorted(owned) == sorted(jax.tree.leaves(numbers))


def test_models_of_several_layers_have_a_stage_for_each():
    assert {name: len(model.stages) for name, model in STAGED.items()} == {
        "mlp": 3,
        "mlp_without_hidden": 1,
        "cnn": 4,
        "cnn_without_hidden": 3,
    }


def test_cross_entropy_and_correctness_of_known_logits():
    model = softmax_regression()
    outputs = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.6, 0.3]]))
    targets = jnp.array([0, 2, 2])
    np.testing.assert_allclose(model.loss(outputs, targets), -np.log([0.7, 0.5, 0.3]), rtol=1e-6)
    assert model.is_correct(outputs, targets).tolist() == [True, True, False]


def test_cross_entropy_of_huge_logits_stays_finite():
    loss = softmax_regression().loss(jnp.array([[1e4, -1e4], [-1e4, 1e4]]), jnp.array([0, 0]))
    np.testing.assert_allclose(loss, [0, 2e4])


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tanh", np.tanh),
        ("relu", lambda x: np.maximum(x, 0)),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("gelu", lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ],
)
def test_mlp_is_affine_layers_with_an_activation_between(name, function):
    model = mlp(hidden=(5,), activation=name)
    params = model.init(KEY, (2, 3), 4)
    first, last = params["layers"]
    assert (first["weight"].shape, last["weight"].shape) == ((6, 5), (5, 4))
    inputs = np.asarray(jax.random.normal(KEY, (7, 2, 3)))
    hidden = function(inputs.reshape(7, 6) @ np.asarray(first["weight"]) + 1.0)
    expected = hidden @ np.asarray(last["weight"]) - 2.0
    params = {"layers": [{**first, "bias": jnp.full(5, 1.0)}, {**last, "bias": jnp.full(4, -2.0)}]}
    np.testing.assert_allclose(model.apply(params, inputs), expected, rtol=2e-5, atol=2e-5)


def test_mlp_keeps_its_layers_in_order_beyond_ten():
    widths = tuple(range(2, 14))
    params = shapes_of(mlp(hidden=widths), (1,), 14)
    weights = [leaf.shape for name, leaf in trees.named_leaves(params) if name.endswith("weight")]
    assert weights == list(zip((1, *widths), (*widths, 14), strict=True))


def test_cnn_convolves_pools_and_takes_images_with_or_without_channels():
    model = cnn(channels=(1, 1), kernel_size=3, hidden=(), activation="relu")
    params = model.init(KEY, (9, 8), 1)
    assert params["dense"][0]["weight"].shape == (2 * 2, 1)
    blur = jnp.ones((3, 3, 1, 1))
    pick = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    conv = [{"bias": jnp.zeros(1), "weight": blur}, {"bias": jnp.full(1, 2.0), "weight": pick}]
    params = {"conv": conv, "dense": [{"bias": jnp.zeros(1), "weight": jnp.ones((4, 1))}]}
    image = jnp.zeros((1, 9, 8)).at[0, 0, 0].set(1.0)  # blurred onto pixels (0..1, 0..1): one pooled pixel
    assert model.apply(params, image).tolist() == [[1.0 + 4 * 2.0]]
    assert model.apply(params, image[..., None]).tolist() == [[9.0]]


def test_cnn_of_colour_images_has_one_input_per_channel():
    params = shapes_of(cnn(), (28, 28, 3), 10)
    shapes = [leaf.shape for _, leaf in trees.named_leaves(params)]
    assert shapes == [(8,), (5, 5, 3, 8), (16,), (5, 5, 8, 16), (128,), (784, 128), (10,), (128, 10)]


def test_linear_regression_loss_and_gradient():
    model = linear_regression()
    params = {"bias": jnp.array([1.0]), "weight": jnp.array([[2.0], [-1.0]])}
    inputs, targets = jnp.array([[1.0, 1.0], [0.0, 3.0]]), jnp.array([[0.0], [1.0]])
    assert model.apply(params, inputs).tolist() == [[2.0], [-2.0]]
    assert model.loss(model.apply(params, inputs), targets).tolist() == [2.0, 4.5]
    assert model.loss(model.apply(params, inputs), targets[:, 0]).tolist() == [2.0, 4.5]
    gradient = jax.grad(lambda at: mean_loss(model, at, inputs, targets))(params)
    assert gradient["weight"].tolist() == [[1.0], [-3.5]]
    assert gradient["bias"].tolist() == [-0.5]
    assert model.is_correct is None


def test_linear_regression_adds_up_the_losses_of_a_wide_target():
    loss = linear_regression().loss(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[0.0, 0.0, 1.0]]))
    assert loss.tolist() == [0.5 + 2.0 + 2.0]


def test_quadratic_without_noise_is_its_formula():
    model = quadratic(dim=2, curvature=(1.0, 4.0), optimum=(1.0, -1.0), start=3.0)
    params = model.init(KEY, (), 1)
    assert params["weight"].tolist() == [3.0, 3.0]
    ids, targets = jnp.arange(5, dtype=jnp.int32), jnp.zeros(5)
    assert model.loss(model.apply(params, ids), targets).tolist() == [0.5 * (4 + 4 * 16)] * 5
    gradient = jax.grad(lambda at: mean_loss(model, at, ids, targets))(params)
    assert gradient["weight"].tolist() == [2.0, 16.0]


def quadratic_gradients(model, weight, ids):
    def loss(at, sample):
        return model.loss(model.apply({"weight": at}, sample[None]), jnp.zeros(1))[0]

    return np.asarray(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(jnp.asarray(weight), jnp.asarray(ids, jnp.int32)))


def test_quadratic_noise_is_standard_normal_and_decided_by_the_id():
    model = quadratic(dim=2, curvature=2.0, noise=3.0)
    ids = np.arange(20_000)
    noise = (quadratic_gradients(model, [1.0, -1.0], ids) - [2.0, -2.0]) / 3.0
    assert np.abs(noise.mean(axis=0)).max() < 0.03
    np.testing.assert_allclose(np.cov(noise.T), np.eye(2), atol=0.03)
    again = quadratic_gradients(quadratic(dim=2, curvature=1.0, noise=1.0), [0.0, 0.0], ids[::-1][:7])
    np.testing.assert_allclose(again, noise[::-1][:7], atol=1e-5)


def test_quadratic_batch_gradient_is_the_mean_of_its_samples():
    model = quadratic(dim=3, noise=0.5)
    params, ids = model.init(KEY, (), 1), jnp.array([4, 9, 2, 7], jnp.int32)
    batch = jax.grad(lambda at: mean_loss(model, at, ids, jnp.zeros(4)))(params)["weight"]
    each = quadratic_gradients(model, params["weight"], ids)
    np.testing.assert_allclose(batch, each.mean(axis=0), rtol=1e-5)


def test_quadratic_reaches_the_stationary_variance_of_sgd():
    """On 0.5 a w^2, N ranks with one sample each: eta sigma^2 / (N a (2 - eta a)); here 0.0138889."""
    ranks, rate, steps, runs = 8, 0.2, 400, 50
    model = quadratic(curvature=1.0, noise=1.0, start=0.0)

    def step(weight, ids):
        gradient = jax.grad(lambda at: mean_loss(model, {"weight": at}, ids, jnp.zeros(ranks)))(weight)
        return weight - rate * gradient, weight

    ids = jnp.arange(runs * steps * ranks, dtype=jnp.int32).reshape(runs, steps, ranks)
    _, path = jax.jit(jax.vmap(lambda chosen: jax.lax.scan(step, jnp.zeros(1), chosen)))(ids)
    assert float((path[:, 50:] ** 2).mean()) == pytest.approx(0.0138889, rel=0.05)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quadratic(dim=3, curvature=(1.0, 2.0)), ["curvature", "3", "2"]),
        (lambda: quadratic(dim=2, optimum=(1.0,)), ["optimum", "2", "1"]),
        (
            lambda: mlp(activation="tahn").apply(mlp().init(KEY, (2,), 2), jnp.ones((1, 2))),
            ["'tahn'", "'tanh'"],
        ),
    ],
)
def test_impossible_parameters_are_named(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quadratic().init(KEY, (8, 8), 10), ["quadratic", "'none'", "(8, 8)"]),
        (lambda: mlp().init(KEY, (), 1), ["features", "'quadratic'"]),
        (lambda: cnn().init(KEY, (64,), 10), ["cnn", "(64,)"]),
        (lambda: cnn().init(KEY, (3, 8), 10), ["cnn", "at least 4", "(3, 8)"]),
        (lambda: mlp().loss(jnp.ones((2, 1)), jnp.ones((2, 1))), ["regression targets", "linear_regression"]),
        (
            lambda: linear_regression().loss(jnp.ones((2, 3)), jnp.array([0, 1])),
            ["classes", "softmax_regression"],
        ),
    ],
)
def test_data_that_does_not_fit_the_model_is_one_clear_error(call, words):
    with pytest.raises(ScenarioError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)


def accepts(part, name, value):
    annotation = next(p.annotation for p in models[part].parameters if p.name == name)
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("part", "name", "good", "bad"),
    [
        ("mlp", "hidden", [128, 128], [128, 0]),
        ("mlp", "activation", "gelu", "swish"),
        ("cnn", "channels", [6, 16], [6]),
        ("cnn", "kernel_size", 5, 0),
        ("quadratic", "dim", 1, 0),
        ("quadratic", "curvature", [1, 2.5], [1, 0]),
        ("quadratic", "optimum", -1.5, "nan"),
        ("quadratic", "noise", 0, -1),
    ],
)
def test_bounds_of_parameters_are_in_the_signature(part, name, good, bad):
    assert accepts(part, name, good)
    assert not accepts(part, name, bad)


def test_every_model_explains_itself():
    parts = [part for part in models if part.module.startswith("psgdsim.")]  # other tests register theirs
    assert [part.name for part in parts] == [
        "cnn",
        "linear_regression",
        "mlp",
        "quadratic",
        "softmax_regression",
    ]
    assert all(part.summary.endswith((".", "`.")) for part in parts)
    assert all(parameter.help for part in parts for parameter in part.parameters)


def test_listing_and_building_models_imports_no_numerics():
    code = (
        "import sys; from psgdsim.models import models; "
        "[part.build() for part in models]; [part.parameters for part in models]; "
        "print(sorted({'numpy', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
