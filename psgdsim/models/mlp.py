"""Multi-layer perceptron."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psgdsim.models.base import Model, Params, compose, register_model
from psgdsim.models.layers import (
    Activation,
    Widths,
    cross_entropy,
    dense_stack,
    init_dense_stack,
    is_argmax,
    num_features,
)

if TYPE_CHECKING:
    import jax


@register_model("mlp")
def mlp(hidden: Widths = (128, 128), activation: Activation = "tanh") -> Model:
    """Classify with dense layers on the flattened input, cross-entropy loss.

    Parameters: `{"layers": [{"bias": (outputs,), "weight": (inputs, outputs)}, ...]}` from input to output,
    float32; Glorot-uniform weights, zero biases.

    Args:
        hidden: the widths of the hidden layers; none makes it a softmax regression.
        activation: applied after every hidden layer: tanh, relu, sigmoid or gelu.
    """

    def init(key: jax.Array, input_shape: tuple[int, ...], num_outputs: int) -> Params:
        return {"layers": init_dense_stack(key, (num_features(input_shape), *hidden, num_outputs))}

    stages = dense_stack("layers", len(hidden) + 1, activation)
    return Model(init, compose(stages), cross_entropy, is_argmax, stages)
