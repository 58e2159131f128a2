"""The digits that come with scikit-learn: the default data set, there without any download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from psgdsim.data.base import Dataset, DatasetPart, register_dataset
from psgdsim.data.files import DataFile
from psgdsim.data.pixels import Scale, scale_pixels
from psgdsim.data.splits import split_rows_at
from psgdsim.errors import DatasetError

NUM_TRAIN = 1437
LARGEST_PIXEL = 16

FILE = DataFile("digits.csv", 264_712, "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8")


@register_dataset("digits")
def digits(scale: Scale = "unit") -> DatasetPart:
    """Load 1,797 handwritten digits of 8 x 8 pixels from scikit-learn's files; no download.

    A fixed permutation makes 1,437 rows (80 %) to train on and 360 to test with; 10 classes.
    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998 (its test set, as scikit-learn ships it).

    Args:
        scale: unit puts the pixels (0 to 16) in [0, 1], centered in [-0.5, 0.5].
    """

    def load(_seed: int) -> Dataset:
        import numpy as np

        content = FILE.read(_path())
        rows = np.loadtxt(content.decode("ascii").splitlines(), delimiter=",", dtype=np.uint8)
        images = scale_pixels(rows[:, :-1].reshape(-1, 8, 8), LARGEST_PIXEL, scale)
        return split_rows_at(images, rows[:, -1].astype(np.int32), NUM_TRAIN, num_outputs=10)

    return DatasetPart(load)


def _path() -> Path:
    """Return where scikit-learn keeps the file, without the seconds that importing scikit-learn takes."""
    spec = importlib.util.find_spec("sklearn")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise DatasetError("data 'digits' is a file of scikit-learn, which is not installed; install scikit-learn")
    return Path(folders[0], "datasets", "data", "digits.csv.gz")
