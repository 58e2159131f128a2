"""What a codec's `unpack` is given may be anything that a frame can hold: it comes back as it was, or is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from coding import normals
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim import codecs
from psgdsim.codecs import chain, compressed, dgc, error_feedback, layers, leafwise, threshold, top_k
from psgdsim.errors import CodecError

LIKE = {"bias": normals(30), "weight": normals((10, 9))}

PACKED = {
    **{f"top_k {coding}": top_k(0.1, coding) for coding in ("bitmap", "rice", "delta", "auto")},
    "threshold raw": threshold(1.0),
    "threshold auto": threshold(1.0, "auto"),
    "dgc": dgc(0.05, warmup_steps=2, index_coding="auto"),
    "error_feedback": error_feedback(top_k(0.1, "rice")),
    "leafwise": leafwise(top_k(0.1, "rice")),
    "layers": layers({"bias": codecs.identity(), "default": threshold(1.0, "delta")}),
    "chain": chain([top_k(0.1, "auto"), codecs.cast()]),
    "chain of packed codecs": chain([top_k(0.5, "rice"), codecs.qsgd(coding="elias", bucket_size=None)]),
    "qsgd": codecs.qsgd(coding="elias", levels=5, bucket_size=50),
    "compressed and larger than the update": compressed(codecs.count_sketch()),
    "compressed": compressed(codecs.sign()),
    "compressed and packed": compressed(threshold(1.0, "auto")),
}


def packed_by(codec):
    payload, _ = jax.jit(codec.encode)(LIKE, codec.init(LIKE), jax.random.key(0))
    payload = jax.tree.map(np.asarray, payload)
    return payload, jax.tree.map(np.asarray, codec.pack(payload, LIKE))


@pytest.fixture(scope="module")
def packed():
    return {name: packed_by(codec) for name, codec in PACKED.items()}


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


@pytest.mark.parametrize("name", PACKED)
def test_comes_back_as_it_was(packed, name):
    payload, sent = packed[name]
    received = PACKED[name].unpack(sent, LIKE)
    jax.tree.map(np.testing.assert_array_equal, received, payload)
    assert shapes(received) == shapes(payload)


def vectors_of(sent):
    """Return the places of the leaves that may be cut: vectors whose length depends on the values."""
    return [i for i, leaf in enumerate(jax.tree.leaves(sent)) if leaf.ndim == 1 and leaf.size]


@pytest.mark.parametrize("name", PACKED)
def test_what_is_cut_short_or_too_long_is_refused(packed, name):
    _, sent = packed[name]
    leaves, structure = jax.tree.flatten(sent)
    for place in vectors_of(sent):
        if name == "layers" and place == 0:
            continue  # the bias as it is: its length is checked with the payload's
        if name.startswith("chain") and leaves[place].dtype.itemsize != 1:
            continue  # what the second codec sends as it is; likewise
        for changed in (leaves[place][:-1], leaves[place][:0], np.append(leaves[place], leaves[place][:1])):
            damaged = jax.tree.unflatten(structure, [*leaves[:place], changed, *leaves[place + 1 :]])
            with pytest.raises(CodecError):
                PACKED[name].unpack(damaged, LIKE)


@pytest.mark.parametrize("name", PACKED)
@settings(max_examples=60)
@given(data=st.data())
def test_flipped_bits_are_refused_or_give_a_payload_of_the_right_shapes(packed, name, data):
    payload, sent = packed[name]
    leaves, structure = jax.tree.flatten(sent)
    place = data.draw(st.sampled_from(vectors_of(sent)))
    damaged = np.array(leaves[place])
    raw = damaged.view(np.uint8)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    leaves[place] = damaged
    try:
        received = PACKED[name].unpack(jax.tree.unflatten(structure, leaves), LIKE)
    except CodecError:
        return
    assert shapes(received) == shapes(payload)


HOSTILE = {
    np.dtype(np.float32): [np.nan, np.inf, -1e38, 0.0],
    np.dtype(np.int32): [2**31 - 1, -(2**31), -1, 0, 5, 119, 120],
    np.dtype(jax.numpy.bfloat16): [np.nan, 0.0],
    np.dtype(np.uint8): [0, 1, 2, 3, 127, 128, 255],
}


@pytest.mark.parametrize("name", PACKED)
@settings(max_examples=100)
@given(data=st.data())
def test_any_values_are_refused_or_give_a_payload_of_the_right_shapes(packed, name, data):
    payload, sent = packed[name]
    leaves, structure = jax.tree.flatten(sent)
    place = data.draw(st.sampled_from(vectors_of(sent)))
    kind = leaves[place].dtype
    size = data.draw(st.one_of(st.just(leaves[place].size), st.integers(0, 200)))
    few = st.lists(st.sampled_from(HOSTILE[kind]), min_size=1, max_size=8)
    other = st.sampled_from([None, np.zeros((), kind), np.zeros((2, 3), kind), np.zeros(size, np.int64)])
    leaves[place] = data.draw(st.one_of(few.map(lambda values: np.resize(np.asarray(values, kind), size)), other))
    try:
        received = PACKED[name].unpack(jax.tree.unflatten(structure, leaves), LIKE)
    except CodecError:
        return
    if not name.startswith(("layers", "chain")):  # what they send as it is comes back as it is, checked with the rest
        assert shapes(received) == shapes(payload)


def test_more_values_than_a_warm_up_sends_are_refused():
    codec = PACKED["dgc"]
    hostile = {"indices": np.arange(40, dtype=np.int32), "values": np.ones(40, np.float32)}
    with pytest.raises(CodecError, match="values: damaged: expected at most 30 of them; got 40"):
        dgc(0.05, warmup_steps=2).unpack(hostile, LIKE)
    with pytest.raises(CodecError):
        codec.unpack(hostile, LIKE)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize(
    "payload",
    [None, [], {}, 3, np.zeros(3, np.uint8), {"indices": np.zeros(1, np.uint8)}, {"values": 1.0, "indices": None}, "x"],
)
def test_anything_else_is_refused(name, payload):
    with pytest.raises(CodecError):
        PACKED[name].unpack(payload, LIKE)


def test_a_frame_that_says_it_is_huge_is_refused_before_anything_is_allocated():
    codec = compressed(codecs.sign())
    _, sent = packed_by(codec)
    huge = {**sent, "shapes": np.zeros((0, 2**45), np.uint8)}
    with pytest.raises(CodecError, match="expected at most"):
        codec.unpack(huge, LIKE)
    with pytest.raises(CodecError, match="it holds 16 bytes; expected 17"):
        codec.unpack({**sent, "shapes": np.zeros((0, 17), np.uint8)}, LIKE)


def test_compression_pays_where_values_repeat():
    codec, zeros = compressed(codecs.identity()), jax.tree.map(np.zeros_like, LIKE)
    assert len(codec.pack(zeros, LIKE)["frame"]) < 40


def test_without_the_library_the_codec_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"the package zstandard is missing; `pip install 'psgdsim\[zstd\]'`"):
        compressed(codecs.identity())
