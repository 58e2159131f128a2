"""Data sets: what they hold, and what is said when their files are missing."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from psgdsim import rng
from psgdsim.data import (
    datasets,
    digits,
    fashion_mnist,
    mnist,
    none,
    synthetic_classification,
    synthetic_linear,
)
from psgdsim.data.files import search_folders
from psgdsim.data.splits import choose_rows
from psgdsim.errors import DatasetError

MNIST_MODULE = importlib.import_module("psgdsim.data.mnist")
"""By its name, because the package shows the factory under it."""

SMALL = {"digits": {}, "none": {"num_samples": 7}, "synthetic_classification": {}, "synthetic_linear": {}}


def assert_sound(data):
    for inputs, targets in ((data.train_inputs, data.train_targets), (data.test_inputs, data.test_targets)):
        assert len(inputs) == len(targets)
        assert inputs.shape[1:] == data.input_shape
        assert targets.dtype in (np.int32, np.float32)
        if targets.dtype == np.int32 and len(targets):
            assert 0 <= targets.min() <= targets.max() < data.num_outputs


@pytest.mark.parametrize("name", SMALL)
def test_data_is_sound_and_the_same_in_a_second_instance(name):
    one, other = (datasets[name].build(**SMALL[name]).load(5) for _ in range(2))
    assert_sound(one)
    for field in ("train_inputs", "train_targets", "test_inputs", "test_targets"):
        assert (getattr(one, field) == getattr(other, field)).all()


def test_digits_are_scikit_learns():
    data = digits().load(0)
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((1437, 8, 8), (360, 8, 8))
    assert (data.train_inputs.dtype, data.num_outputs) == (np.float32, 10)
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0.0, 1.0)
    targets = np.concatenate([data.train_targets, data.test_targets])
    assert np.bincount(targets).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    inputs = np.concatenate([data.train_inputs, data.test_inputs])
    first = np.random.default_rng(123).permutation(1797).tolist().index(0)
    assert (inputs[first, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert targets[first] == 0


def test_digits_do_not_depend_on_the_seed_and_can_be_centered():
    one, other = digits().load(0), digits(scale="centered").load(1)
    np.testing.assert_array_equal(one.train_inputs - np.float32(0.5), other.train_inputs)
    np.testing.assert_array_equal(one.test_targets, other.test_targets)


def test_digits_without_scikit_learn_say_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(DatasetError, match="install scikit-learn"):
        digits().load(0)


def test_synthetic_linear_is_linear_up_to_its_noise():
    exact = synthetic_linear(num_samples=200, num_features=5, noise=0.0, num_outputs=2).load(3)
    solution, residuals, _, _ = np.linalg.lstsq(exact.train_inputs, exact.train_targets)
    assert residuals.max() < 1e-8
    np.testing.assert_allclose(exact.test_inputs @ solution, exact.test_targets, atol=1e-4)
    noisy = synthetic_linear(num_samples=20_000, num_features=5, noise=0.3).load(3)
    _, residuals, _, _ = np.linalg.lstsq(noisy.train_inputs, noisy.train_targets)
    assert residuals[0] / 20_000 == pytest.approx(0.09, rel=0.05)
    assert (noisy.train_targets.shape, noisy.train_targets.dtype) == ((20_000, 1), np.float32)


def test_synthetic_classification_has_clouds_around_centres():
    data = synthetic_classification(num_samples=6000, num_features=8, num_classes=3, separation=4.0).load(2)
    centres = np.array([data.train_inputs[data.train_targets == label].mean(axis=0) for label in range(3)])
    assert data.train_inputs.std(axis=0).min() > 1.0
    spread = data.train_inputs - centres[data.train_targets]
    assert spread.std() == pytest.approx(1.0, rel=0.02)
    distances = np.linalg.norm(data.test_inputs[:, None] - centres, axis=2)
    assert (distances.argmin(axis=1) == data.test_targets).mean() > 0.99
    same = synthetic_classification(num_samples=6000, num_features=8, num_classes=3, separation=0.0).load(2)
    assert same.train_inputs.std() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("name", ["synthetic_classification", "synthetic_linear"])
def test_synthetic_data_depends_on_the_seed(name):
    one, other = (datasets[name].build().load(seed) for seed in (1, 2))
    assert (one.train_inputs != other.train_inputs).mean() > 0.99


def test_synthetic_data_comes_from_the_seed_s_own_stream():
    generator = rng.stream(9, "synthetic_linear")
    weights = generator.standard_normal((4, 1), np.float32)
    data = synthetic_linear(num_samples=30, num_features=4, noise=0.0).load(9)
    np.testing.assert_allclose(data.train_inputs @ weights, data.train_targets, rtol=1e-4, atol=1e-5)


def test_synthetic_data_may_have_no_test_rows_but_not_too_many_numbers():
    assert synthetic_linear(num_test_samples=0).load(0).test_inputs.shape == (0, 10)
    with pytest.raises(ValueError, match="too many"):
        synthetic_linear(num_samples=1_000_000, num_features=1000)
    with pytest.raises(ValueError, match="too many"):
        synthetic_classification(num_samples=1_000_000, num_features=1000)


def test_none_is_sample_ids():
    data = none(num_samples=4).load(0)
    assert data.train_inputs.tolist() == [0, 1, 2, 3]
    assert data.train_inputs.dtype == np.int32
    assert (data.input_shape, len(data.test_inputs), data.num_outputs) == ((), 0, 1)
    assert data.train_targets.tolist() == [0.0] * 4


def idx(shape, values, element_type=8):
    header = bytes([0, 0, element_type, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + bytes(values)


def test_a_missing_file_names_itself_every_place_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PSGDSIM_DATA_DIR", str(tmp_path / "given"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DatasetError) as caught:
        mnist().load(0)
    message = str(caught.value)
    assert "no file t10k-images-idx3-ubyte.gz" in message
    for place in ("given", "given/mnist", "cache/psgdsim/mnist"):
        assert f"{tmp_path / place}\n" in message
    assert "copy its four idx.gz files" in message


def test_without_a_data_folder_the_message_says_that_it_is_not_set(tmp_path, monkeypatch):
    monkeypatch.delenv("PSGDSIM_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(MNIST_MODULE, "FOLDERS", {"fashion_mnist": ("/nowhere/fashion-mnist",)})
    with pytest.raises(DatasetError, match="dataset-fashion-mnist") as caught:
        fashion_mnist().load(0)
    assert "$PSGDSIM_DATA_DIR (not set)" in str(caught.value)
    assert "/nowhere/fashion-mnist" in str(caught.value)


def fake_mnist(monkeypatch, folder, num_train, num_test):
    """Put a tiny MNIST in a folder: image i is filled with i, its label is i modulo 10."""
    sha256 = {}
    for part, count in (("train", num_train), ("t10k", num_test)):
        images = np.repeat(np.arange(count) % 256, 784).astype(np.uint8)
        for kind, shape, values in (
            ("images-idx3", (count, 28, 28), images),
            ("labels-idx1", (count,), np.arange(count) % 10),
        ):
            content = idx(shape, values.astype(np.uint8).tobytes())
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content, 1))
            sha256[f"{part}-{kind[:-5]}"] = hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("PSGDSIM_DATA_DIR", str(folder))
    monkeypatch.setattr(MNIST_MODULE, "MNIST_SHA256", sha256)


def test_mnist_files_become_scaled_rows(tmp_path, monkeypatch):
    fake_mnist(monkeypatch, tmp_path, 300, 20)
    data = mnist().load(0)
    assert_sound(data)
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((300, 28, 28), (20, 28, 28))
    assert data.train_inputs.dtype == np.float32
    np.testing.assert_allclose(data.train_inputs[:, 5, 5], (np.arange(300) % 256) / 255, rtol=1e-6)
    assert data.train_targets.tolist() == [i % 10 for i in range(300)]
    centered = mnist(scale="centered").load(0)
    assert (centered.train_inputs.min(), centered.train_inputs.max()) == (-0.5, 0.5)


def test_subset_is_a_fixed_choice_of_training_rows_and_nested(tmp_path, monkeypatch):
    fake_mnist(monkeypatch, tmp_path, 200, 20)
    small, large = mnist(subset=10).load(1), mnist(subset=50).load(2)
    assert (len(small.train_inputs), len(large.train_inputs), len(small.test_inputs)) == (10, 50, 20)
    np.testing.assert_array_equal(small.train_inputs, large.train_inputs[:10])
    assert len(np.unique(large.train_inputs[:, 0, 0])) == 50
    with pytest.raises(DatasetError, match="mnist: subset: expected at most the 200 training rows; got 201"):
        mnist(subset=201).load(0)


def test_split_t10k_uses_only_the_test_files(tmp_path, monkeypatch):
    fake_mnist(monkeypatch, tmp_path, 1, 10_000)
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    data = mnist(split="t10k").load(0)
    order = np.random.default_rng(123).permutation(10_000)
    assert data.train_targets.tolist() == (order[:8000] % 10).tolist()
    assert data.test_targets.tolist() == (order[8000:] % 10).tolist()
    assert len(mnist(split="t10k", subset=100).load(0).train_inputs) == 100
    with pytest.raises(DatasetError, match="8000 training rows; got 8001"):
        mnist(split="t10k", subset=8001).load(0)


def test_choosing_all_rows_keeps_their_order():
    assert choose_rows(None, 4, "x").tolist() == [0, 1, 2, 3]
    assert sorted(choose_rows(4, 4, "x").tolist()) == [0, 1, 2, 3]


needs_mnist = pytest.mark.skipif("PSGDSIM_DATA_DIR" not in os.environ, reason="set PSGDSIM_DATA_DIR to test with MNIST")


@needs_mnist
def test_the_real_mnist():
    data = mnist(scale="centered").load(0)
    assert_sound(data)
    assert (data.train_inputs.shape, data.test_inputs.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert np.bincount(data.train_targets).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert data.train_targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert (data.train_inputs.min(), data.train_inputs.max()) == (-0.5, 0.5)
    assert float(data.train_inputs.mean()) == pytest.approx(0.1307 - 0.5, abs=1e-3)


@needs_mnist
def test_the_real_mnist_split_t10k():
    data = mnist(split="t10k").load(0)
    assert (len(data.train_inputs), len(data.test_inputs)) == (8000, 2000)
    counts = np.bincount(np.concatenate([data.train_targets, data.test_targets]))
    assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def has_fashion_mnist():
    places = search_folders("fashion_mnist", *MNIST_MODULE.FOLDERS["fashion_mnist"])
    return any((place / "t10k-images-idx3-ubyte.gz").exists() for place in places if "fashion" in place.name)


@pytest.mark.skipif(not has_fashion_mnist(), reason="install Debian's dataset-fashion-mnist to test with it")
def test_the_real_fashion_mnist():
    data = fashion_mnist(subset=1000).load(0)
    assert_sound(data)
    assert np.bincount(data.test_targets).tolist() == [1000] * 10
    assert float(data.test_inputs.mean()) == pytest.approx(0.2868, abs=1e-3)


def test_bounds_are_in_the_signature():
    annotations = {p.name: p.annotation for p in datasets["mnist"].parameters}
    for name, good, bad in (
        ("subset", 1, 0),
        ("subset", None, "all"),
        ("split", "t10k", "test"),
        ("scale", "unit", "255"),
    ):
        TypeAdapter(annotations[name]).validate_python(good)
        with pytest.raises(ValidationError):
            TypeAdapter(annotations[name]).validate_python(bad)


def test_every_data_set_explains_itself():
    names = ["digits", "fashion_mnist", "mnist", "none", "synthetic_classification", "synthetic_linear"]
    assert [part.name for part in datasets if part.module.startswith("psgdsim.")] == names
    assert all(re.fullmatch(r"[A-Z].*\.", part.summary) for part in datasets)
    assert all(parameter.help for part in datasets for parameter in part.parameters)


def test_listing_and_building_data_sets_imports_no_numerics():
    code = (
        "import sys; from psgdsim.data import datasets, partitions; "
        "[part.build() for part in datasets]; [part.parameters for part in [*datasets, *partitions]]; "
        "print(sorted({'numpy', 'jax', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_digits_does_not_import_scikit_learn():
    code = "import sys; from psgdsim.data import digits; digits().load(0); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
