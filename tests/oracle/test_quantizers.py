"""codecs of a few bits per value: closed forms, examples worked by hand, known numbers, naive implementations."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from coding import coded, decoded, vector_of

from psgdsim import codecs, wire
from psgdsim.errors import CodecError
from psgdsim.testing.codec_laws import decode_many, z_score
from psgdsim.testing.codec_numbers import elias_bits, gaussian, verify_numbers
from psgdsim.testing.codec_rows import QUANTIZERS


def test_known_numbers():
    checks = list(verify_numbers())
    assert len(checks) > 20
    assert [check for check in checks if not check.is_right] == []


# --- QSGD and its kin -----------------------------------------------------------------------------------------


def test_qsgd_in_buckets_of_one_value_is_lossless():
    vector = np.concatenate([gaussian(50), vector_of(1e-30, -2e-38, 3e38, 0)])
    np.testing.assert_array_equal(decoded(codecs.qsgd(levels=3, bucket_size=1), vector), vector)


def test_qsgd_by_hand():
    # A norm of 5: with 5 levels 3 and 4 are levels themselves; with one, 1 stands for 5.
    vector = vector_of(3, -4, 0)
    np.testing.assert_allclose(decoded(codecs.qsgd(levels=5), vector), vector, rtol=1e-6)
    payload = coded(codecs.qsgd(levels=5), vector)
    assert payload["norms"] == pytest.approx([5.0])
    assert payload["codes"].tolist() == [3 | (4 + 8) << 4, 0]
    many = np.asarray(decode_many(codecs.qsgd(levels=1), vector, 4000))
    assert set(np.unique(many).tolist()) == {-5.0, 0.0, 5.0}
    np.testing.assert_allclose(np.mean(many != 0, axis=0), [0.6, 0.8, 0], atol=0.03)


def test_qsgd_sends_few_levels_above_0():
    vector = gaussian(1000)
    for levels in (1, 4, 16):
        many = np.asarray(decode_many(codecs.qsgd(levels=levels, bucket_size=None), vector, 500))
        mean = np.mean(np.sum(many != 0, axis=1))
        expected = np.sum(np.minimum(1, levels * np.abs(vector) / np.linalg.norm(vector)))
        assert mean == pytest.approx(expected, rel=0.02)
        assert mean <= levels * (levels + math.sqrt(1000))


def test_elias_codes_are_short():
    vector = gaussian()
    dense = wire.tensor_nbytes(coded(codecs.qsgd(levels=64, bucket_size=None), vector)) * 8
    assert elias_bits(vector, 64) <= 3 * vector.size + 32 < dense
    # (3 + 1.5 lg(2 (s^2 + n) / (s (s + sqrt n)))) s (s + sqrt n) + 32, without the o(1).
    assert elias_bits(vector, 1) <= (3 + 1.5 * math.log2(2 * 4097 / 65)) * 65 + 32


def test_elias_message_by_hand():
    codec = codecs.qsgd(levels=5, bucket_size=3, coding="elias")
    vector = vector_of(3, -4, 0, 0, 0, 2)
    packed = codec.pack(coded(codec, vector), vector)
    # Counts plus one 3, 2; distances 1, 1, 3; signs + - +; levels 3, 4, 5: omega codes of 1 bit for 1, 3 for 2 and 3,
    # and 6 for 4 to 7.
    assert len(packed["bits"]) == -(-((3 + 3) + (1 + 1 + 3) + 3 + (3 + 6 + 6)) // 8)
    assert packed["norms"] == pytest.approx([5.0, 2.0])


def test_what_is_not_finite_makes_its_block_so():
    vector = np.ones(64, np.float32)
    blockwise = codecs.qsgd(bucket_size=32), codecs.block_quantize(4, 32), codecs.natural_dithering(bucket_size=32)
    for bad in (np.nan, np.inf, -np.inf):
        vector[40] = bad
        for codec in blockwise:
            got = decoded(codec, vector)
            assert np.isfinite(got[:32]).all()
            assert np.isnan(got[32:]).all()


def test_blocks_keep_their_largest_value_exactly():
    vector = gaussian(1000)
    got = decoded(codecs.block_quantize(8, 100), vector)
    for start in range(0, 1000, 100):
        place = start + np.argmax(np.abs(vector[start : start + 100]))
        assert got[place] == vector[place]
        block = slice(start, start + 100)
        assert np.max(np.abs(got[block] - vector[block])) <= abs(vector[place]) / 254 * (1 + 1e-5)


@pytest.mark.parametrize("packing", ["bits", "base3"])
def test_terngrad_by_hand(packing):
    vector = vector_of(1, -0.5, 0.25, 0, -1)
    many = np.asarray(decode_many(codecs.terngrad(clip=None, packing=packing), vector, 4000))
    assert set(np.unique(many).tolist()) == {-1.0, 0.0, 1.0}
    np.testing.assert_allclose(np.mean(many, axis=0), vector, atol=0.03)
    np.testing.assert_array_equal(many[:, [0, 3, 4]], np.broadcast_to(vector[[0, 3, 4]], (4000, 3)))


def test_terngrad_is_qsgd_of_one_level_and_the_largest_magnitude():
    vector = gaussian(200)
    key = jax.random.key(3)
    tern, other = codecs.terngrad(clip=None), codecs.qsgd(levels=1, bucket_size=None, norm="max")
    one = tern.decode(tern.encode(vector, tern.init(vector), jax.random.key(3))[0], tern.init(vector), vector)[0]
    payload, _ = other.encode(vector, (), jax.random.fold_in(key, 0))
    np.testing.assert_array_equal(one, other.decode(payload, (), vector)[0])


def test_terngrad_clips_at_standard_deviations():
    vector = np.concatenate([np.tile(vector_of(1, -1), 500), vector_of(100)])
    scale = coded(codecs.terngrad(), vector)[0]["scale"]
    assert scale == pytest.approx(2.5 * math.sqrt(np.mean(vector.astype(float) ** 2)), rel=1e-5)
    assert decoded(codecs.terngrad(), vector_of(-7)).tolist() == [-7]


def test_laq_grid_is_off_by_half_a_step():
    vector = gaussian(1000)
    for bits in (1, 3, 8, 12):
        off = np.abs(decoded(codecs.laq_grid(bits), vector) - vector)
        assert off.max() <= np.max(np.abs(vector)) / (2**bits - 1) * (1 + 1e-5)


# --- fitted levels --------------------------------------------------------------------------------------------


def test_tqn_is_sgq_of_two_bits_and_one_round():
    vector = gaussian(300)
    one, other = coded(codecs.tqn(), vector), coded(codecs.sgq(bits=2, rounds=1), vector)
    assert jax.tree.map(lambda a: a.tobytes(), one) == jax.tree.map(lambda a: a.tobytes(), other)


@pytest.mark.parametrize(("codec", "top"), [(codecs.tqn(), 1), (codecs.sgq(bits=3), 1 / math.tan(math.pi / 12))])
def test_fitted_levels_have_the_mean_of_clipped_values(codec, top):
    vector = gaussian(50)

    @jax.jit
    @jax.vmap
    def scales_and_values(key):
        payload, _ = codec.encode(vector, codec.init(vector), key)
        return payload[0]["scale"], codec.decode(payload, codec.init(vector), vector)[0]

    scales, values = map(np.asarray, scales_and_values(jax.random.split(jax.random.key(5), 4000)))
    clipped = np.clip(vector, -scales[:, None] * top, scales[:, None] * top)
    assert z_score(values - clipped, vector) < 5
    assert np.std(scales) > 0


def test_sgq_by_hand():
    # Levels 0, 1, cot(pi / 6), cot(pi / 12); scaled exactly, nothing is rounded.
    codec = codecs.sgq(bits=3, rounds=1)
    levels = [0, 1, math.sqrt(3), 2 + math.sqrt(3)]
    vector = np.tile(np.asarray([*levels, -levels[2]], np.float32) * np.float32(0.7), 200)
    (payload,) = coded(codec, vector)
    # a = 0.7 ||b||^2 / (||b||^2 + 1), so values lie just above the levels, and almost all are rounded to them.
    square = 200 * sum(level**2 for level in [*levels, levels[2]])
    assert payload["scale"] == pytest.approx(0.7 * square / (square + 1), rel=1e-2)


# --- what is damaged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in QUANTIZERS if row.name != "cast"], ids=lambda row: row.label)
def test_truncated_payloads_are_refused(row):
    codec, vector = row.make(), gaussian(100)
    payload = coded(codec, vector)
    leaves, tree = jax.tree.flatten(payload)
    cut = 0
    for place, leaf in enumerate(leaves):
        if leaf.ndim != 1:
            continue
        cut += 1
        broken = jax.tree.unflatten(tree, [*leaves[:place], leaf[:-1], *leaves[place + 1 :]])
        with pytest.raises(CodecError, match="truncated or damaged: expected"):
            codec.decode(broken, codec.init(vector), vector)
    assert cut > 0


@pytest.mark.parametrize(
    "codec",
    [
        codecs.qsgd(levels=5, bucket_size=None),
        codecs.qsgd(levels=300, bucket_size=None, norm="max"),
        codecs.natural_dithering(levels=5, bucket_size=None),
    ],
)
def test_levels_above_the_highest_count_as_the_highest(codec):
    vector = gaussian(100)
    payload = coded(codec, vector)
    got = codec.decode({**payload, "codes": np.full_like(payload["codes"], 255)}, (), vector)[0]
    np.testing.assert_array_equal(got, np.broadcast_to(-payload["norms"], 100))


def test_damaged_elias_codes_are_refused_or_read_as_other_levels():
    codec, vector = codecs.qsgd(levels=7, bucket_size=16, coding="elias"), gaussian(100)
    payload = coded(codec, vector)
    packed = codec.pack(payload, vector)
    generator, refused = np.random.default_rng(0), 0
    for trial in range(300):
        bits = packed["bits"].copy()
        if trial % 3 == 0:
            bits = bits[: generator.integers(len(bits))]
        else:
            bits[generator.integers(len(bits), size=trial % 3)] = generator.integers(256, size=trial % 3)
        try:
            unpacked = codec.unpack({**packed, "bits": bits}, vector)
        except CodecError:
            refused += 1
        else:
            assert unpacked["codes"].shape == payload["codes"].shape
            assert np.isfinite(jax.jit(codec.decode)(unpacked, (), vector)[0]).all()
    assert refused > 150
    with pytest.raises(CodecError, match="expected norms and bits; got"):
        codec.unpack(payload, vector)
    with pytest.raises(CodecError, match="bits of levels: expected a vector of bytes; got None"):
        codec.unpack({**packed, "bits": None}, vector)
    for norms in (None, packed["norms"][1:], packed["norms"].astype(np.float16)):
        with pytest.raises(CodecError, match="norms: truncated or damaged: expected 7 of float32; got"):
            codec.unpack({**packed, "norms": norms}, vector)
