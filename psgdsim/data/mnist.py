"""MNIST and Fashion-MNIST, read from idx files that are already on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from psgdsim.data.base import Dataset, DatasetPart, register_dataset
from psgdsim.data.files import DATA_DIR_VARIABLE, DataFile, load_file, search_folders
from psgdsim.data.idx import parse_idx
from psgdsim.data.pixels import Scale, scale_pixels
from psgdsim.data.splits import choose_rows, split_rows_at

if TYPE_CHECKING:
    import numpy as np

Subset = Annotated[int, Field(ge=1)] | None
Split = Literal["standard", "t10k"]

T10K_TRAIN = 8000
"""Rows to train on of the 10,000 that split `t10k` uses; the others are to test with."""

IMAGES_NBYTES = {"train": 16 + 60_000 * 28 * 28, "t10k": 16 + 10_000 * 28 * 28}
LABELS_NBYTES = {"train": 8 + 60_000, "t10k": 8 + 10_000}

MNIST_SHA256 = {
    "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_MNIST_SHA256 = {
    "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

FOLDERS = {"mnist": (), "fashion_mnist": ("/usr/share/datasets/fashion-mnist",)}
"""Where packages of the operating system put a data set; the second is Debian's."""

ADVICE = {
    "mnist": "to get MNIST: copy its four idx.gz files, from any mirror, into the folder mnist of "
    f"${DATA_DIR_VARIABLE}",
    "fashion_mnist": "to get Fashion-MNIST: install Debian's package dataset-fashion-mnist, or copy its "
    f"four idx.gz files, from any mirror, into the folder fashion_mnist of ${DATA_DIR_VARIABLE}",
}


@register_dataset("mnist")
def mnist(subset: Subset = None, split: Split = "standard", scale: Scale = "unit") -> DatasetPart:
    """Load 70,000 handwritten digits of 28 x 28 pixels from idx files on this machine; never downloads.

    The four files, gzipped or not, are looked for in `$PSGDSIM_DATA_DIR` and its folder `mnist`, and in
    `psgdsim/mnist` of the user's cache; each is checked by the sha256 of its uncompressed content. 10
    classes.
    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proc. IEEE 1998.

    Args:
        subset: train on a fixed random choice of so many rows; null for all.
        split: standard trains on 60,000 rows and tests with 10,000; t10k splits the latter into 8,000 and
            2,000.
        scale: unit puts the pixels in [0, 1], centered in [-0.5, 0.5].
    """
    return DatasetPart(lambda _seed: _load("mnist", MNIST_SHA256, subset, split, scale))


@register_dataset("fashion_mnist")
def fashion_mnist(subset: Subset = None, split: Split = "standard", scale: Scale = "unit") -> DatasetPart:
    """Load 70,000 pictures of clothes of 28 x 28 pixels from idx files on this machine; never downloads.

    The four files, gzipped or not, are looked for in `$PSGDSIM_DATA_DIR` and its folder `fashion_mnist` (or
    `fashion-mnist`), in `psgdsim/fashion_mnist` of the user's cache, and where Debian's package
    dataset-fashion-mnist puts them; each is checked by the sha256 of its uncompressed content. 10 classes.
    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST", arXiv 1708.07747.

    Args:
        subset: train on a fixed random choice of so many rows; null for all.
        split: standard trains on 60,000 rows and tests with 10,000; t10k splits the latter into 8,000 and
            2,000.
        scale: unit puts the pixels in [0, 1], centered in [-0.5, 0.5].
    """
    return DatasetPart(lambda _seed: _load("fashion_mnist", FASHION_MNIST_SHA256, subset, split, scale))


def _load(name: str, sha256: dict[str, str], subset: int | None, split: Split, scale: Scale) -> Dataset:
    test_images, test_labels = _read_pair(name, "t10k", sha256)
    if split == "t10k":
        data = split_rows_at(scale_pixels(test_images, 255, scale), test_labels, T10K_TRAIN, num_outputs=10)
        rows = choose_rows(subset, T10K_TRAIN, name)
        return Dataset(data.train_inputs[rows], data.train_targets[rows], data.test_inputs, data.test_targets, 10)
    images, labels = _read_pair(name, "train", sha256)
    rows = choose_rows(subset, len(images), name)
    train_inputs = scale_pixels(images[rows], 255, scale)
    return Dataset(train_inputs, labels[rows], scale_pixels(test_images, 255, scale), test_labels, 10)


def _read_pair(name: str, part: str, sha256: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (uint8) and labels (int32) of the files `part-images...` and `part-labels...`."""
    folders, advice = search_folders(name, *FOLDERS[name]), ADVICE[name]
    images = DataFile(f"{part}-images-idx3-ubyte", IMAGES_NBYTES[part], sha256[f"{part}-images"])
    labels = DataFile(f"{part}-labels-idx1-ubyte", LABELS_NBYTES[part], sha256[f"{part}-labels"])
    pixels = parse_idx(load_file(images, folders, advice), images.name)
    return pixels, parse_idx(load_file(labels, folders, advice), labels.name).astype("int32")
