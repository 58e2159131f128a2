"""codecs.feedback, codecs.differences, codecs.momentum: nothing is lost, and limits are what they should be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coding import Ends, normals

from psgdsim import codecs, wire
from psgdsim.codecs import dgc, diana, ef21, error_feedback, identity, momentum_correction, random_k, top_k
from psgdsim.errors import CodecError

STEPS = 40


@pytest.mark.parametrize(
    "inner", [top_k(ratio=0.1), random_k(ratio=0.1), codecs.scaled_sign(), codecs.power_sgd(rank=1), top_k(0.1, "auto")]
)
def test_what_was_sent_and_the_residual_are_all_updates(inner):
    tree = {"bias": normals(10), "weight": normals((10, 9))}
    ends = Ends(error_feedback(inner), tree)
    total = sent = jax.tree.map(lambda leaf: np.zeros(leaf.shape), tree)
    for step in range(STEPS):
        update = jax.tree.map(lambda leaf, step=step: normals(leaf.shape, step), tree)
        total, sent = (jax.tree.map(np.add, *pair) for pair in ((total, update), (sent, ends.send(update))))
    for name in tree:
        np.testing.assert_allclose(sent[name] + np.asarray(ends.encoder[0][name]), total[name], atol=3e-5)


def test_the_virtual_iterate_is_that_of_plain_sgd():
    """O26: x - mean(e) is plain SGD on the same gradients, to rounding in float64."""
    with jax.enable_x64(True):
        codec, num_ranks, rate = error_feedback(top_k(ratio=0.05)), 4, 0.1
        generator = np.random.default_rng(0)
        ends = [Ends(codec, np.zeros(100)) for _ in range(num_ranks)]
        iterate, plain = np.ones(100), np.ones(100)
        for _ in range(STEPS):
            gradients = [generator.standard_normal(100) + iterate for _ in range(num_ranks)]
            iterate = iterate - rate * np.mean([end.send(g) for end, g in zip(ends, gradients, strict=True)], axis=0)
            plain = plain - rate * np.mean(gradients, axis=0)
            residual = np.mean([np.asarray(end.encoder[0]) for end in ends], axis=0)
            np.testing.assert_allclose(iterate - rate * residual, plain, atol=1e-12)
        assert np.max(np.abs(iterate - plain)) > 1e-2


def test_error_feedback_of_what_adds_up_adds_up():
    codec = error_feedback(random_k(ratio=0.2))
    assert codec.is_summable
    assert not error_feedback(top_k()).is_summable


@pytest.mark.parametrize("make", [ef21, diana])
def test_differences_add_up_only_where_no_sum_is_rounded(make):
    assert make(identity()).is_summable
    assert not make(codecs.cast()).is_summable
    assert not make(random_k()).is_summable


def test_dgc_without_momentum_is_error_feedback():
    one, other = Ends(dgc(ratio=0.05, momentum=0), normals(100)), Ends(error_feedback(top_k(ratio=0.05)), normals(100))
    for step in range(STEPS):
        update = normals(100, step)
        np.testing.assert_array_equal(one.send(update), other.send(update))


def naive_dgc(updates, count, momentum, *, masking, nesterov):
    velocity = waiting = np.zeros_like(updates[0], float)
    for update in updates:
        if nesterov:
            velocity = momentum * (velocity + update)
            waiting = waiting + velocity + update
        else:
            velocity = momentum * velocity + update
            waiting = waiting + velocity
        places = np.argsort(-np.abs(waiting), kind="stable")[:count]
        sent = np.zeros_like(waiting)
        sent[places] = waiting[places]
        waiting[places] = 0
        if masking:
            velocity[places] = 0
        yield sent


@pytest.mark.parametrize("masking", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_dgc_follows_the_paper(masking, nesterov):
    updates = [normals(50, step) for step in range(STEPS)]
    ends = Ends(dgc(ratio=0.1, momentum=0.7, masking=masking, nesterov=nesterov), updates[0])
    expected = naive_dgc(updates, 5, 0.7, masking=masking, nesterov=nesterov)
    for update, sent in zip(updates, expected, strict=True):
        np.testing.assert_allclose(ends.send(update), sent, atol=2e-5)


def test_dgc_loses_no_momentum():
    ends = Ends(dgc(ratio=0.05, masking=False), normals(100))
    velocity, total, sent = np.zeros(100), np.zeros(100), np.zeros(100)
    for step in range(STEPS):
        velocity = 0.9 * velocity + normals(100, step)
        total += velocity
        sent += ends.send(normals(100, step))
    np.testing.assert_allclose(sent + np.asarray(ends.encoder.waiting), total, atol=2e-4)


@pytest.mark.parametrize(("masking", "momentum"), [(True, 0.0), (False, 0.9)])
def test_with_masking_everything_sent_leaves_no_momentum(masking, momentum):
    ends = Ends(momentum_correction(identity(), momentum=0.9, masking=masking), normals(20))
    velocity = np.zeros(20)
    for step in range(5):
        velocity = momentum * velocity + normals(20, step)
        np.testing.assert_allclose(ends.send(normals(20, step)), velocity, rtol=1e-5)


def test_dgc_clips_and_warms_up():
    update = normals(1000)
    norm = np.linalg.norm(update)
    codec = dgc(ratio=0.001, momentum=0, clip=0.5, warmup_steps=8, index_coding="rice")
    ends = Ends(codec, update)
    counts = []
    for step in range(10):
        decoded = ends.send(update)
        counts.append(np.count_nonzero(decoded))
        if step == 0:
            assert np.max(np.abs(decoded)) == pytest.approx(np.max(np.abs(update)) * 0.5 / norm, rel=1e-5)
            assert ends.payload["values"].shape == (250,)
    assert counts == [250, 250, 62, 62, 15, 15, 4, 4, 1, 1]
    np.testing.assert_allclose(Ends(dgc(ratio=1, momentum=0, clip=2 * norm), update).send(update), update, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "warmup_steps", "expected"),
    [(0.05, 4, [250, 62, 50, 50, 50, 50]), (0.3, 4, [300] * 6), (0.01, 2, [250, 15, 10, 10, 10, 10])],
)
def test_a_warm_up_sends_no_less_than_later(ratio, warmup_steps, expected):
    ends = Ends(dgc(ratio=ratio, momentum=0, warmup_steps=warmup_steps), normals(1000))
    assert [np.count_nonzero(ends.send(normals(1000, step))) for step in range(6)] == expected


def quadratics(num_ranks=5, size=20):
    """Return gradients of unlike quadratics, one per rank, and the smoothness of their mean."""
    generator = np.random.default_rng(0)
    curvature = generator.uniform(0.5, 2, (num_ranks, size))
    target = generator.standard_normal((num_ranks, size))
    optimum = np.sum(curvature * target, 0) / np.sum(curvature, 0)
    return lambda rank, x: (curvature[rank] * (x - target[rank])).astype(np.float32), optimum


def descend(make, rate, steps=600):
    gradient, optimum = quadratics()
    ends = [Ends(make(), np.zeros(20, np.float32)) for _ in range(5)]
    iterate = np.zeros(20)
    for _ in range(steps):
        iterate = iterate - rate * np.mean([ends[rank].send(gradient(rank, iterate)) for rank in range(5)], axis=0)
    return np.max(np.abs(iterate - optimum)), ends


def test_ef21_of_identity_is_gradient_descent():
    ends = Ends(ef21(identity()), normals(50))
    for step in range(5):
        np.testing.assert_allclose(ends.send(normals(50, step)), normals(50, step), atol=1e-6)


def test_ef21_converges_where_error_feedback_stalls():
    ef21_error, _ = descend(lambda: ef21(top_k(ratio=0.1)), rate=0.1)
    feedback_error, _ = descend(lambda: error_feedback(top_k(ratio=0.1)), rate=0.1)
    assert ef21_error < 1e-4
    assert feedback_error > 30 * ef21_error


def test_the_receiver_of_ef21_knows_the_sum_of_what_it_received():
    inner = top_k(ratio=0.1)
    ends = Ends(ef21(inner), normals(50))
    received = np.zeros(50)
    for step in range(10):
        known = ends.send(normals(50, step))
        received += np.asarray(inner.decode(ends.payload, inner.init(known), known)[0])
        np.testing.assert_allclose(known, received, atol=1e-5)
        np.testing.assert_array_equal(known, ends.encoder[0])


def test_the_variance_of_diana_vanishes_where_updates_settle():
    update = normals(100)
    ends = Ends(diana(random_k(ratio=0.5, scaled=True, shared=False), alpha=0.5), update)
    errors = [np.sum((ends.send(update) - update) ** 2) for _ in range(60)]
    assert errors[0] > 0.3 * np.sum(update**2)
    assert errors[-1] < 1e-6 * errors[0]


def test_diana_remembers_a_share_of_what_it_received():
    ends = Ends(diana(identity(), alpha=0.25), normals(10))
    np.testing.assert_allclose(ends.send(normals(10)), normals(10), rtol=1e-6)
    np.testing.assert_allclose(ends.encoder[0], 0.25 * normals(10), rtol=1e-6)


def test_signs_alone_drift_the_wrong_way_and_with_feedback_they_are_sgd():
    """O29: gradients of 4 in a quarter of the steps, else -1, have a mean of 1/4; their signs have one of -1/2."""
    gradients = np.where(np.random.default_rng(0).random(4000) < 0.25, 4.0, -1.0).astype(np.float32)
    ends = Ends(error_feedback(codecs.scaled_sign()), gradients[:1])
    plain = Ends(codecs.sign(), gradients[:1])
    with_feedback = [float(ends.send(gradients[i : i + 1])[0]) for i in range(200)]
    np.testing.assert_array_equal(with_feedback, gradients[:200])
    signs = [float(plain.send(gradients[i : i + 1])[0]) for i in range(200)]
    assert np.mean(gradients) == pytest.approx(0.25, abs=0.15)
    np.testing.assert_array_equal(signs, np.sign(gradients[:200]))
    assert np.mean(np.sign(gradients)) == pytest.approx(-0.5, abs=0.06)


def test_a_chain_sends_few_values_in_few_bits():
    vector = normals(10_000)
    ends = Ends(codecs.chain([top_k(ratio=0.01, index_coding="rice"), codecs.cast("float16")]), vector)
    top = Ends(top_k(ratio=0.01), vector).send(vector)
    np.testing.assert_array_equal(ends.send(vector), top.astype(np.float16).astype(np.float32))
    assert 8 * wire.tensor_nbytes(ends.payload) == pytest.approx(100 * (16 + 8.15), rel=0.02)


@pytest.mark.parametrize(
    "first",
    [
        codecs.threshold(2.5),
        error_feedback(codecs.threshold(2.5)),
        dgc(ratio=0.01, warmup_steps=4),
        codecs.layers({"default": codecs.leafwise(codecs.threshold(2.5))}),
        codecs.chain([identity(), codecs.threshold(2.5)]),
        codecs.compressed(top_k()),
    ],
)
def test_what_sends_now_more_and_now_fewer_floats_cannot_begin_a_chain(first):
    with pytest.raises(ValueError, match=r"send as many floats in each message, .*; got another as number 2 of 3"):
        codecs.chain([identity(), first, codecs.cast()])
    codecs.chain([identity(), first])


def test_a_chain_after_momenta_follows_them():
    ends = Ends(codecs.chain([dgc(ratio=0.01), codecs.cast("float16")]), normals(1000))
    other = Ends(dgc(ratio=0.01), normals(1000))
    for step in range(5):
        sent = other.send(normals(1000, step))
        np.testing.assert_array_equal(ends.send(normals(1000, step)), sent.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("structured", [codecs.power_sgd(), codecs.layers({"default": identity()})])
def test_codecs_made_of_one_that_looks_at_arrays_look_at_arrays(structured):
    assert structured.is_structured
    around = [error_feedback, ef21, diana, momentum_correction, codecs.leafwise, codecs.compressed]
    for make in around:
        assert make(structured).is_structured
        assert not make(top_k()).is_structured
    assert codecs.chain([structured, codecs.cast()]).is_structured
    assert codecs.chain([codecs.cast(), structured]).is_structured
    assert not codecs.flat(structured).is_structured


def test_unbiased_codecs_in_a_chain_multiply_their_variances():
    """U(a) after U(b) is U(ab + a + b); for random places and independent rounding of them it is met exactly."""
    vector = np.full(64, 1.5, np.float32)  # halfway between two powers of two: 1/9 of its square when rounded
    codec = codecs.chain([random_k(ratio=0.5, scaled=True, shared=False), codecs.natural()])

    @jax.jit
    @jax.vmap
    def decoded(key):
        payload, state = codec.encode(vector, codec.init(vector), key)
        return codec.decode(payload, state, vector)[0]

    found = np.asarray(decoded(jax.random.split(jax.random.key(0), 4000)))
    shares = np.sum((found - vector) ** 2, axis=1) / np.sum(vector**2)
    assert shares.mean() == pytest.approx(1 * 1 / 9 + 1 + 1 / 9, abs=5 * shares.std() / np.sqrt(4000))


def test_layers_have_codecs_of_their_own():
    tree = {"conv": {"weight": normals((4, 5))}, "dense": {"bias": normals(3), "weight": normals((6, 2))}}
    codec = codecs.layers({"conv*": identity(), "*.weight": top_k(ratio=0.5), "default": codecs.cast()})
    decoded = Ends(codec, tree).send(tree)
    np.testing.assert_array_equal(decoded["conv"]["weight"], tree["conv"]["weight"])
    assert np.count_nonzero(decoded["dense"]["weight"]) == 6
    np.testing.assert_array_equal(decoded["dense"]["bias"], jnp.asarray(tree["dense"]["bias"], jnp.bfloat16))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["conv*"], "no pattern matches the array 'dense.bias'; expected one that does, or 'default'"),
        (["conv*", "dens.*", "default"], "no array is left for the pattern 'dens.*'; there are conv, dense.bias"),
    ],
)
def test_patterns_that_fit_no_array_are_refused(patterns, message):
    codec = codecs.layers(dict.fromkeys(patterns, identity()))
    with pytest.raises(CodecError, match=message.replace("*", r"\*")):
        codec.init({"conv": normals(3), "dense": {"bias": normals(2)}})
