"""Linear least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psgdsim.errors import ScenarioError
from psgdsim.models.base import Model, Params, register_model
from psgdsim.models.layers import first_dense, init_layer, num_features

if TYPE_CHECKING:
    import jax


@register_model("linear_regression")
def linear_regression() -> Model:
    """Fit y by x w + b on the flattened input; the loss of a row is 0.5 * ||x w + b - y||^2; convex.

    Parameters: `{"bias": (outputs,), "weight": (features, outputs)}`, float32; Glorot-uniform weight, zero
    bias.
    """

    def init(key: jax.Array, input_shape: tuple[int, ...], num_outputs: int) -> Params:
        return init_layer(key, (num_features(input_shape), num_outputs))

    return Model(init, first_dense, _half_squared_error)


def _half_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return half the squared distance of each row; targets are `(rows, width)`, or `(rows,)` of width 1."""
    import jax.numpy as jnp

    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ScenarioError(
            "model 'linear_regression' fits numbers, but the data has classes; use model 'softmax_regression'"
        )
    return 0.5 * jnp.sum((outputs - targets.reshape(outputs.shape)) ** 2, axis=-1)
