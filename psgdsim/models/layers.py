"""What several models share: Glorot weights, dense layers, activations and the losses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from psgdsim.errors import ScenarioError, nearest
from psgdsim.models.base import Stage

if TYPE_CHECKING:
    import jax

Width = Annotated[int, Field(ge=1, le=65536)]
"""Number of units or channels of a layer."""

Widths = Annotated[tuple[Width, ...], Field(max_length=64)]
"""The widths of layers, in order; may be empty."""

Activation = Literal["tanh", "relu", "sigmoid", "gelu"]


def activation_function(name: Activation) -> Callable[[jax.Array], jax.Array]:
    """Return the function behind a name.

    `gelu` is the tanh approximation of Hendrycks and Gimpel, arXiv 1606.08415.

    Raises:
        ValueError: no activation has that name.
    """
    import jax

    functions: dict[str, Callable[[jax.Array], jax.Array]] = {
        "tanh": jax.numpy.tanh,
        "relu": jax.nn.relu,
        "sigmoid": jax.nn.sigmoid,
        "gelu": jax.nn.gelu,
    }
    if name not in functions:
        raise ValueError(f"no activation is called {name!r}; {nearest(name, functions)}")
    return functions[name]


def num_features(input_shape: tuple[int, ...]) -> int:
    """Return the length of one flattened input row.

    Raises:
        ScenarioError: the rows are bare sample ids.
    """
    if not input_shape:
        raise ScenarioError(
            "this model needs rows of features, but the data has only sample ids; use model 'quadratic', "
            "or data that has features, such as 'digits'"
        )
    return math.prod(input_shape)


def flatten(inputs: jax.Array) -> jax.Array:
    """Flatten each row: `(rows, *input_shape)` to `(rows, features)`."""
    return inputs.reshape(inputs.shape[0], -1)


def glorot_uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw float32 weights uniformly from [-L, L], L = sqrt(6 / (fan_in + fan_out)).

    Source: Glorot and Bengio, "Understanding the Difficulty of Training Deep Feedforward Neural Networks",
    AISTATS 2010, equation 16.

    Args:
        key: a jax random key.
        shape: `(*window, inputs, outputs)`; a fan is that side's units times the window's size.
    """
    import jax

    *window, inputs, outputs = shape
    limit = math.sqrt(6.0 / (math.prod(window) * (inputs + outputs)))
    return jax.random.uniform(key, shape, "float32", -limit, limit)


def init_layer(key: jax.Array, shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """Return a layer: a Glorot `weight`, `(*window, inputs, outputs)`, and a zero `bias`, `(outputs,)`."""
    import jax.numpy as jnp

    return {"bias": jnp.zeros(shape[-1], "float32"), "weight": glorot_uniform(key, shape)}


def init_dense_stack(key: jax.Array, widths: tuple[int, ...]) -> list[dict[str, jax.Array]]:
    """Return dense layers from each width to the next; layer i's key is `fold_in(key, i)`."""
    import jax

    shapes = list(itertools.pairwise(widths))
    return [init_layer(jax.random.fold_in(key, i), shape) for i, shape in enumerate(shapes)]


def dense(layer: dict[str, Any], inputs: jax.Array) -> jax.Array:
    """Return `inputs @ weight + bias`."""
    outputs: jax.Array = inputs @ layer["weight"] + layer["bias"]
    return outputs


def first_dense(layer: dict[str, Any], inputs: jax.Array) -> jax.Array:
    """Return `dense` of flattened rows."""
    return dense(layer, flatten(inputs))


def dense_stack(name: str, num: int, activation: Activation) -> tuple[Stage, ...]:
    """Return the stages of dense layers on flattened rows, with the activation between them but not after the last.

    Args:
        name: the parameters' key of the list of layers.
        num: how many layers.
        activation: what is between them.
    """

    def later(layer: dict[str, Any], inputs: jax.Array) -> jax.Array:
        return dense(layer, activation_function(activation)(inputs))

    return tuple(Stage((name, i), later if i else first_dense) for i in range(num))


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -log softmax(outputs)[target] of each row [nat].

    Args:
        outputs: logits, `(rows, classes)`.
        targets: class numbers, `(rows,)`.

    Returns:
        Losses, `(rows,)`.

    Raises:
        ScenarioError: the targets are not class numbers.
    """
    import jax
    import jax.numpy as jnp

    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ScenarioError("this model classifies, but the data has regression targets; use model 'linear_regression'")
    chosen = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    return -jnp.sum(chosen * jax.nn.log_softmax(outputs), axis=-1)


def is_argmax(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return for each row whether its largest logit is that of its class; ties go to the lowest class."""
    import jax.numpy as jnp

    return jnp.argmax(outputs, axis=-1) == targets
