"""Multinomial logistic regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psgdsim.models.base import Model, Params, register_model
from psgdsim.models.layers import cross_entropy, first_dense, init_layer, is_argmax, num_features

if TYPE_CHECKING:
    import jax


@register_model("softmax_regression")
def softmax_regression() -> Model:
    """Classify with one linear layer on the flattened input: logits x W + b, cross-entropy loss; convex.

    Parameters: `{"bias": (classes,), "weight": (features, classes)}`, float32; Glorot-uniform weight, zero
    bias.
    """

    def init(key: jax.Array, input_shape: tuple[int, ...], num_outputs: int) -> Params:
        return init_layer(key, (num_features(input_shape), num_outputs))

    return Model(init, first_dense, cross_entropy, is_argmax)
