"""Made data: drawn from the scenario's seed, the same on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from psgdsim import rng
from psgdsim.data.base import Dataset, DatasetPart, register_dataset

if TYPE_CHECKING:
    import numpy as np

Count = Annotated[int, Field(ge=1, le=10_000_000)]
CountOrNone = Annotated[int, Field(ge=0, le=10_000_000)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

MAX_VALUES = 2**28
"""Most numbers in one made array: 1 GiB of float32."""


@register_dataset("synthetic_linear")
def synthetic_linear(
    num_samples: Count = 1000,
    num_features: Count = 10,
    noise: NonNegative = 0.1,
    num_outputs: Annotated[int, Field(ge=1, le=65536)] = 1,
    num_test_samples: CountOrNone = 200,
) -> DatasetPart:
    """Draw a linear regression problem: y = x W + noise * z with x, z and the true W standard normal.

    The scenario's seed decides all of it. Inputs `(rows, num_features)`, targets `(rows, num_outputs)`,
    float32. The least mean loss 0.5 * ||x w + b - y||^2 tends to num_outputs * noise^2 / 2.

    Args:
        num_samples: rows to train on.
        num_features: length of an input.
        noise: standard deviation of the noise of a target.
        num_outputs: length of a target.
        num_test_samples: rows to test with.
    """
    total = num_samples + num_test_samples
    _check_size(total, num_features + num_outputs)

    def load(seed: int) -> Dataset:
        import numpy as np

        generator = rng.stream(seed, "synthetic_linear")
        weights = generator.standard_normal((num_features, num_outputs), np.float32)
        inputs = generator.standard_normal((total, num_features), np.float32)
        errors = generator.standard_normal((total, num_outputs), np.float32)
        targets = np.float32(noise) * errors
        # Not a matrix product: BLAS sums in another order on each kind of machine, and ranks must agree.
        for feature in range(num_features):
            targets += inputs[:, feature, None] * weights[feature]
        return _split(inputs, targets, num_samples, num_outputs)

    return DatasetPart(load)


@register_dataset("synthetic_classification")
def synthetic_classification(
    num_samples: Count = 1000,
    num_features: Count = 20,
    num_classes: Annotated[int, Field(ge=2, le=65536)] = 10,
    separation: NonNegative = 1.0,
    num_test_samples: CountOrNone = 200,
) -> DatasetPart:
    """Draw a classification problem: each class a standard normal cloud around its own centre.

    The scenario's seed decides all of it. Classes are uniform; a centre is separation times a standard
    normal vector, so two centres are about separation * sqrt(2 num_features) apart. Inputs `(rows,
    num_features)`, float32.

    Args:
        num_samples: rows to train on.
        num_features: length of an input.
        num_classes: number of classes.
        separation: how far apart the centres are; 0 makes the classes the same.
        num_test_samples: rows to test with.
    """
    total = num_samples + num_test_samples
    _check_size(max(total, num_classes), num_features)

    def load(seed: int) -> Dataset:
        import numpy as np

        generator = rng.stream(seed, "synthetic_classification")
        centres = np.float32(separation) * generator.standard_normal((num_classes, num_features), np.float32)
        targets = generator.integers(num_classes, size=total, dtype=np.int32)
        inputs = centres[targets] + generator.standard_normal((total, num_features), np.float32)
        return _split(inputs, targets, num_samples, num_classes)

    return DatasetPart(load)


@register_dataset("none")
def none(num_samples: Count = 100_000) -> DatasetPart:
    """Give sample ids only, for models that make their own data, such as quadratic; nothing to test with.

    An input is its id: int32, shape `()`. Targets are zeros.

    Args:
        num_samples: how many ids to train on.
    """

    def load(_seed: int) -> Dataset:
        import numpy as np

        ids = np.arange(num_samples, dtype=np.int32)
        return Dataset(ids, np.zeros(num_samples, np.float32), ids[:0], np.zeros(0, np.float32), num_outputs=1)

    return DatasetPart(load)


def _check_size(rows: int, width: int) -> None:
    if rows * width > MAX_VALUES:
        raise ValueError(f"{rows} rows of {width} numbers are too many: expected at most {MAX_VALUES} numbers")


def _split(inputs: np.ndarray, targets: np.ndarray, num_train: int, num_outputs: int) -> Dataset:
    """Take the first rows to train on, the others to test with."""
    return Dataset(inputs[:num_train], targets[:num_train], inputs[num_train:], targets[num_train:], num_outputs)
