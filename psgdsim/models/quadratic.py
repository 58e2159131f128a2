"""A quadratic bowl with known optimum and known noise: the model that tests can solve by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from psgdsim.errors import ScenarioError
from psgdsim.models.base import Model, Params, register_model

if TYPE_CHECKING:
    import jax

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

NOISE_SEED = 0
"""Seed of the noise; fixed, so that sample i has the same noise in every run."""


@register_model("quadratic")
def quadratic(
    dim: Annotated[int, Field(ge=1, le=10_000_000)] = 1,
    curvature: Positive | tuple[Positive, ...] = 1.0,
    optimum: Finite | tuple[Finite, ...] = 0.0,
    start: Finite | tuple[Finite, ...] = 1.0,
    noise: NonNegative = 0.0,
) -> Model:
    """Minimise a quadratic with known optimum and known gradient noise; needs `data: {kind: none}`.

    The loss of sample i is 0.5 * (w - w*)^T diag(a) (w - w*) + noise * <z_i, w - w*>, with z_i standard
    normal, drawn from the sample's id alone. So the gradient over a batch is a (w - w*) + noise * mean z_i;
    its standard deviation per coordinate is noise / sqrt(rows), and the stationary variance of SGD with
    learning rate eta is eta noise^2 / (rows a (2 - eta a)).

    Parameters: `{"weight": (dim,)}`, float32. A sample's loss may be negative.

    Note:
        Over a finite set of m ids the minimum lies at w* - noise * mean(z) / a, off w* by about
        noise / (a sqrt(m)) per coordinate.

    Args:
        dim: number of parameters.
        curvature: the diagonal a of the Hessian, one number or one per coordinate.
        optimum: the minimum w*, one number or one per coordinate.
        start: the initial w, one number or one per coordinate; the seed does not change it.
        noise: standard deviation of one sample's gradient, per coordinate.
    """
    a, goal, first = (
        _per_coordinate(name, value, dim)
        for name, value in (("curvature", curvature), ("optimum", optimum), ("start", start))
    )

    def init(_key: jax.Array, input_shape: tuple[int, ...], _num_outputs: int) -> Params:
        import jax.numpy as jnp

        if input_shape != ():
            raise ScenarioError(f"model 'quadratic' needs data 'none'; got rows of shape {input_shape}")
        return {"weight": jnp.broadcast_to(jnp.asarray(first, "float32"), (dim,))}

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        offset = params["weight"] - jnp.asarray(goal, "float32")
        bowl = 0.5 * jnp.sum(jnp.asarray(a, "float32") * offset**2)
        return bowl + _tilt(inputs, offset, noise)

    return Model(init, apply, loss=lambda outputs, _targets: outputs)


def _per_coordinate(name: str, value: float | tuple[float, ...], dim: int) -> float | tuple[float, ...]:
    """Return a number, or as many numbers as there are coordinates."""
    if isinstance(value, int | float):
        return value
    if len(value) != dim:
        raise ValueError(f"{name}: expected one number or {dim} of them (dim: {dim}); got {len(value)}")
    return tuple(value)


def _tilt(ids: jax.Array, offset: jax.Array, noise: float) -> jax.Array:
    """Return noise * <z_i, offset> for each sample id i, `(rows,)`."""
    import jax
    import jax.numpy as jnp

    if noise == 0:
        return jnp.zeros(ids.shape, "float32")
    root = jax.random.key(NOISE_SEED)

    def one(sample: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(root, sample), offset.shape, "float32")

    return noise * (jax.vmap(one)(ids) @ offset)
