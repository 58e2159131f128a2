"""A small convolutional network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from psgdsim.errors import ScenarioError
from psgdsim.models.base import Model, Params, Stage, compose, register_model
from psgdsim.models.layers import (
    Activation,
    Width,
    Widths,
    activation_function,
    cross_entropy,
    dense_stack,
    init_dense_stack,
    init_layer,
    is_argmax,
)

if TYPE_CHECKING:
    import jax

SMALLEST_SIDE = 4
"""Least height and width of an image: two pools halve them twice."""


@register_model("cnn")
def cnn(
    channels: tuple[Width, Width] = (8, 16),
    kernel_size: Annotated[int, Field(ge=1, le=31)] = 5,
    hidden: Widths = (128,),
    activation: Activation = "relu",
) -> Model:
    """Classify images with two convolutions, each followed by a 2 x 2 max pool, then dense layers.

    Inputs are `(height, width)` or `(height, width, channels)`, both sides at least 4; cross-entropy loss.
    Parameters: `{"conv": [2 layers, weight (k, k, inputs, outputs)], "dense": [layers as in mlp]}`, float32;
    Glorot-uniform weights, zero biases.
    After LeNet-5 (LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 1998).

    Note:
        Unlike LeNet-5: zero padding keeps an image's size, both convolutions see all channels, pools take the
        maximum, and the output is a softmax.

    Args:
        channels: number of outputs of either convolution.
        kernel_size: height and width k of a convolution's window.
        hidden: the widths of the dense layers before the output.
        activation: applied after every layer but the last: tanh, relu, sigmoid or gelu.
    """

    def init(key: jax.Array, input_shape: tuple[int, ...], num_outputs: int) -> Params:
        import jax

        height, width, depth = _image_shape(input_shape)
        window = (kernel_size, kernel_size)
        flat_width = (height // 4) * (width // 4) * channels[1]
        conv_key, dense_key = jax.random.split(key)
        return {
            "conv": [
                init_layer(jax.random.fold_in(conv_key, 0), (*window, depth, channels[0])),
                init_layer(jax.random.fold_in(conv_key, 1), (*window, channels[0], channels[1])),
            ],
            "dense": init_dense_stack(dense_key, (flat_width, *hidden, num_outputs)),
        }

    def first(layer: dict[str, Any], inputs: jax.Array) -> jax.Array:
        return _convolve(layer, inputs if inputs.ndim == 4 else inputs[..., None])

    def second(layer: dict[str, Any], images: jax.Array) -> jax.Array:
        return _convolve(layer, pooled(images))

    def pooled(images: jax.Array) -> jax.Array:
        return _max_pool(activation_function(activation)(images))

    def third(layer: dict[str, Any], images: jax.Array) -> jax.Array:
        return bottom.apply(layer, pooled(images))

    bottom, *top = dense_stack("dense", len(hidden) + 1, activation)
    stages = (Stage(("conv", 0), first), Stage(("conv", 1), second), Stage(bottom.path, third), *top)
    return Model(init, compose(stages), cross_entropy, is_argmax, stages)


def _image_shape(input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return height, width and channels of an input row."""
    if len(input_shape) not in (2, 3) or min(input_shape[:2]) < SMALLEST_SIDE:
        raise ScenarioError(
            f"model 'cnn' needs images (height, width) or (height, width, channels), each side at least "
            f"{SMALLEST_SIDE}; got rows of shape {input_shape}"
        )
    height, width, *depth = input_shape
    return height, width, depth[0] if depth else 1


def _convolve(layer: dict[str, Any], images: jax.Array) -> jax.Array:
    """Convolve `(rows, height, width, channels)`, padded with zeros to keep height and width."""
    import jax

    order = ("NHWC", "HWIO", "NHWC")
    convolved = jax.lax.conv_general_dilated(images, layer["weight"], (1, 1), "SAME", dimension_numbers=order)
    bias: jax.Array = layer["bias"]
    return convolved + bias


def _max_pool(images: jax.Array) -> jax.Array:
    """Halve height and width by the maximum of 2 x 2 pixels; an odd last row or column is left out."""
    rows, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(rows, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
