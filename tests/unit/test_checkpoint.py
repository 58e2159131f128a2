"""Trees come back from files bit for bit; whatever is damaged, or of another tree, is refused and said."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from psgdsim import trees
from psgdsim.checkpoint import load, save
from psgdsim.errors import CheckpointError
from psgdsim.optimizers import optimizers

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.safetensors"


def bits(dtype, shape=(2, 3)):
    """Return any bits at all, NaN with a payload and -0 among them."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    data = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, size, np.uint8)
    return data.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 2)])
def test_every_dtype_comes_back_bit_for_bit(file, dtype, shape):
    array = bits(np.dtype(dtype), shape)
    save(file, [array])
    (back,) = load(file, [np.zeros(shape, dtype)]).tree
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, shape, array.tobytes())
    assert back.flags.writeable


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32", "bfloat16", "float8_e4m3fn"])
def test_jax_arrays_come_back_as_such(file, dtype):
    array = jnp.asarray(bits(np.dtype(dtype)))
    save(file, {"x": array})
    back = load(file, {"x": jnp.zeros_like(array)}).tree["x"]
    assert isinstance(back, jax.Array)
    assert trees.digest(back) == trees.digest(array)


@pytest.mark.parametrize("value", [True, 3, -(2**63), 0.1, float("inf"), np.float32(0.1), np.int8(-3)])
def test_numbers_come_back_as_such(file, value):
    save(file, value)
    back = load(file, type(value)(0)).tree
    assert (type(back), back) == (type(value), value)


@pytest.mark.parametrize("tree", [(), [], {}, None, [None, ()], {"a": None, "b": 3}])
def test_what_is_empty_comes_back(file, tree):
    save(file, tree)
    assert load(file, tree).tree == tree


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_keys_come_back(file, impl):
    keys = jax.random.split(jax.random.key(7, impl=impl), 3)
    save(file, {"keys": keys})
    back = load(file, {"keys": jnp.zeros_like(keys)}).tree["keys"]
    assert back.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.bits(back[2], (4,)), jax.random.bits(keys[2], (4,)))


def test_what_is_not_contiguous_comes_back(file):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    save(file, [array.T, array[:, ::2], array.astype(">f4")])
    back = load(file, [array.T, array[:, ::2], array]).tree
    for got, expected in zip(back, [array.T, array[:, ::2], array], strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("part", list(optimizers), ids=lambda part: part.name)
def test_an_optimizer_goes_on_as_if_nothing_had_been(file, part):
    transform = part.factory(learning_rate=0.1).transform()
    params = {"weight": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
    gradients = jax.tree.map(lambda leaf: leaf - 0.3, params)
    start = transform.init(params)
    _, state = transform.update(gradients, start, params)
    save(file, state)
    ends = [transform.update(gradients, each, params) for each in (state, load(file, start).tree)]
    assert trees.digest(ends[0]) == trees.digest(ends[1])


def test_names_and_metadata_are_for_everybody_to_read(file):
    save(file, {"error": [np.zeros(3, np.float32), {"bias": np.ones(2, np.float16)}]}, {"step": "7"})
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = json.loads(header.pop("__metadata__")["psgdsim"])["about"]
    assert about == {"format": 1, "keys": {}, "metadata": {"step": "7"}}
    assert {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()} == {
        "error/0": ("F32", [3]),
        "error/1/bias": ("F16", [2]),
    }
    assert load(file, {"error": [np.zeros(3, np.float32), {"bias": np.ones(2, np.float16)}]}).metadata == {"step": "7"}


def test_the_same_tree_gives_the_same_file(file):
    files = []
    for _ in range(2):
        save(file, {"b": 1, "a": [2.0, jax.random.key(0)]}, {"y": "1", "x": "2"})
        files.append(file.read_bytes())
    assert files[0] == files[1]


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({"name": "text"}, "name: cannot be saved: expected one of .*; got <U4: 'text'"),
        ([np.zeros(2, complex)], r"0: cannot be saved: expected one of .*; got complex128"),
        ([2**63], "0: cannot be saved: .*too (large|big)"),
        ([object()], "0: cannot be saved: expected one of .*; got object"),
        ([np.zeros(2, ml_dtypes.int4)], "0: cannot be saved: expected one of .*; got int4"),
        ({"a/b": 1, "a": {"b": 2}}, "a/b: expected another name; this one is taken"),
        ({"__metadata__": 1}, "__metadata__: expected another name; this one is taken"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_written(file, tree, why):
    file.write_bytes(b"before")
    with pytest.raises(CheckpointError, match=f"{file.name}: {why}"):
        save(file, tree)
    assert file.read_bytes() == b"before"


def test_metadata_is_text(file):
    with pytest.raises(CheckpointError, match=r"metadata: expected text by name; got \{'step': 7}"):
        save(file, {}, {"step": 7})


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written: No such file or directory"):
        save(tmp_path / "nowhere" / "a", {})
    with pytest.raises(CheckpointError, match="cannot be read: No such file or directory"):
        load(tmp_path / "nowhere" / "a", {})


SAVED = {"weight": np.ones((2, 3), np.float32), "count": 3, "key": jax.random.key(0)}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weight": np.ones((3, 2), np.float32)}, r"weight: expected float32\[3, 2\]; got float32\[2, 3\]"),
        ({"weight": np.ones((2, 3), np.float64)}, r"weight: expected float64\[2, 3\]; got float32\[2, 3\]"),
        ({"weight": np.ones((2, 3), ml_dtypes.bfloat16)}, r"weight: expected bfloat16\[2, 3\]; got float32\[2, 3\]"),
        ({"weight": None}, r"weight: expected no such tensor; got float32\[2, 3\]"),
        ({"bias": 1.0}, r"bias: expected float64\[\]; got no such tensor"),
        ({"count": 3.0}, r"count: expected float64\[\]; got int64\[\]"),
        (
            {"key": jax.random.key_data(jax.random.key(0))},
            r"key: expected uint32\[2\]; got uint32\[2\], a random key of threefry2x32",
        ),
        (
            {"key": jax.random.key(0, impl="rbg")},
            r"key: expected uint32\[4\], a random key of rbg; got uint32\[2\], a random key of threefry2x32",
        ),
    ],
)
def test_another_tree_is_refused(file, changes, why):
    save(file, SAVED)
    with pytest.raises(CheckpointError, match=f"{file.name}: {why}"):
        load(file, SAVED | changes)


def test_every_single_flipped_bit_and_every_truncation_is_found(file):
    save(file, SAVED, {"step": "7"})
    data = bytearray(file.read_bytes())
    for place in range(8 * len(data)):
        data[place // 8] ^= 1 << place % 8
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match=file.name):
            load(file, SAVED)
        data[place // 8] ^= 1 << place % 8
    for size in range(len(data)):
        file.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=f"{file.name}: damaged, or no checkpoint"):
            load(file, SAVED)
    file.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match="damaged, or no checkpoint"):
        load(file, SAVED)


def forged(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


ENTRY = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
ABOUT = {"about": {"format": 1, "keys": {}, "metadata": {}}, "sha256": ""}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no checkpoint"),
        (b"\x80\x04].", "no checkpoint"),
        (b"\xff" * 8 + b"{}", "header too large"),
        (forged({}), "no checkpoint"),
        (forged({"weight": ENTRY}), "no checkpoint"),
        (forged({"weight": {**ENTRY, "data_offsets": [0, 4]}}, b"\0" * 4), "no checkpoint"),
        (forged({"__metadata__": {"psgdsim": "["}}), "no checkpoint"),
        (forged({"__metadata__": {"psgdsim": "[" * 10**5}}), "no checkpoint"),
        (forged(b"[" * 10**5), "no checkpoint"),
        (forged({"__metadata__": {"psgdsim": json.dumps(ABOUT | {"x": 1})}}), "no checkpoint"),
        (forged({"__metadata__": {"psgdsim": json.dumps(ABOUT)}}), "damaged: expected the sha256 ''; got "),
        (forged({"__metadata__": {"psgdsim": json.dumps(ABOUT).replace("1", "2", 1)}}), "expected format 1; got 2"),
    ],
)
def test_what_is_forged_is_refused(file, data, why):
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{file.name}: .*{why}"):
        load(file, {"weight": np.zeros(2**10, np.float32)})


def test_a_file_that_is_far_too_large_is_not_read(file):
    with file.open("wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(CheckpointError, match="expected at most 100000012 bytes; there are more"):
        load(file, np.zeros(3, np.float32))
