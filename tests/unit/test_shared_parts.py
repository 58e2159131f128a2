"""Built-in models, optimizers and codecs that say the same are one object, compiled once for all runs of a process."""

from __future__ import annotations

import functools
import gc
import weakref
from dataclasses import replace

import pytest

import psgdsim
from psgdsim.codecs import codecs, register_codec, stateless, top_k
from psgdsim.compilation import compile_clock, jit_of, keep_jitted
from psgdsim.models import models
from psgdsim.optimizers import optimizers
from psgdsim.scenario.spec import read_spec

FACTOR = 2.0
"""What a codec of a test multiplies by; the test changes it, as a user does who tries out what is best."""


@register_codec("scaled_of_a_test")
def scaled():
    """Send the update times FACTOR, and do not divide by it."""
    return stateless(lambda update, _key: _times_factor(update), lambda payload, _like: payload)


def _times_factor(update):
    import jax

    return jax.tree.map(lambda leaf: FACTOR * leaf, update)


def built(family, **spec):
    return read_spec(family, spec).build()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": {"kind": "parameter_server"}, "codec": {"kind": "qsgd", "levels": 4}},
        {"strategy": {"kind": "all_reduce", "accumulation": 2}, "optimizer": {"kind": "adam"}},
        {"strategy": {"kind": "all_reduce", "algorithm": "ring", "bucket_size": "1 kB"}},
    ],
)
def test_a_second_run_compiles_nothing_and_ends_the_same(changes, tiny, tmp_path):
    clock, counts, results = compile_clock(), [], []
    for name in "ab":
        before = clock.num_programs
        results.append(psgdsim.run({**tiny, **changes, "execution": "exact"}, mode="sim", out=tmp_path / name))
        counts.append(clock.num_programs - before)
    assert counts[1] == 0
    assert results[0].summary["params_sha256"] == results[1].summary["params_sha256"]


def test_parts_that_say_the_same_are_one_object():
    assert built(models, kind="mlp", hidden=[8]) is built(models, kind="mlp", hidden=[8])
    assert built(optimizers, kind="sgd", learning_rate=0.1) is built(optimizers, kind="sgd", learning_rate=0.1)
    inner = {"kind": "top_k", "ratio": 0.25}
    assert built(codecs, kind="error_feedback", codec=inner) is built(codecs, kind="error_feedback", codec=inner)


@pytest.mark.parametrize("value", [0.1 + 1e-17 * 2**6, 0.2])
def test_parts_that_differ_in_the_last_digit_are_two(value):
    assert value != 0.1
    one, other = (built(optimizers, kind="sgd", learning_rate=rate) for rate in (0.1, value))
    assert (one.learning_rate, other.learning_rate) == (0.1, value)


def test_a_part_of_ones_own_is_built_anew_also_inside_of_others():
    own = {"kind": "scaled_of_a_test"}
    assert built(codecs, **own) is not built(codecs, **own)
    assert built(codecs, kind="error_feedback", codec=own) is not built(codecs, kind="error_feedback", codec=own)
    assert built(codecs, kind="chain", codecs=[own]) is not built(codecs, kind="chain", codecs=[own])


@pytest.mark.parametrize("wrap", [lambda own: own, lambda own: {"kind": "leafwise", "codec": own}])
def test_a_part_of_ones_own_does_what_it_says_now(wrap, tiny, tmp_path, monkeypatch):
    tiny["strategy"] = {"kind": "parameter_server"}
    tiny["codec"] = wrap({"kind": "scaled_of_a_test"})
    first = psgdsim.run(tiny, mode="sim", out=tmp_path / "first")
    monkeypatch.setattr(f"{__name__}.FACTOR", 3.0)
    second = psgdsim.run(tiny, mode="sim", out=tmp_path / "second")
    assert first.summary["params_sha256"] != second.summary["params_sha256"]


MINE = stateless(lambda update, _key: _times_factor(update), lambda payload, _like: payload)


@register_codec("constant_of_a_test")
def constant():
    """Return the same codec whenever it is asked for."""
    return MINE


@register_codec("partial_of_a_test")
def partial():
    """Begin with a function that has no name."""
    return replace(scaled(), init=functools.partial(lambda _number, _like: (), 1))


def test_a_codec_of_ones_own_may_be_one_object(tiny, tmp_path, monkeypatch):
    tiny |= {"strategy": {"kind": "parameter_server"}, "codec": {"kind": "constant_of_a_test"}}
    first = psgdsim.run(tiny, mode="sim", out=tmp_path / "first")
    monkeypatch.setattr(f"{__name__}.FACTOR", 3.0)
    second = psgdsim.run(tiny, mode="sim", out=tmp_path / "second")
    assert first.summary["params_sha256"] != second.summary["params_sha256"]


def test_a_codec_of_ones_own_may_consist_of_callables(tiny, tmp_path):
    tiny |= {"strategy": {"kind": "parameter_server"}, "codec": {"kind": "partial_of_a_test"}}
    assert psgdsim.run(tiny, mode="sim", out=tmp_path / "run").summary["status"] == "completed"


def test_a_part_that_wraps_a_built_in_one_is_ones_own():
    def wrapping(number):
        @register_codec("wrapping_of_a_test")
        @functools.wraps(top_k)
        def wrapper(**parameters):
            return replace(top_k(**parameters), init=lambda _like: number)

        return built(codecs, kind="wrapping_of_a_test", ratio=0.5)

    assert (wrapping(1).init(None), wrapping(2).init(None)) == (1, 2)


class Owner:
    """Anything that functions belong to."""

    def __init__(self) -> None:
        keep_jitted(self)


def test_a_function_is_jitted_once_for_its_owner_and_facts():
    def make(owner, number):
        def function(x):
            return x + number

        return jit_of(owner, function, number)

    one, other = Owner(), Owner()
    assert make(one, 1) is make(one, 1)
    assert make(one, 1) is not make(one, 2)
    assert make(one, 1) is not make(other, 1)
    assert int(make(one, 2)(3)) == 5
    assert make(object(), 1) is not make(object(), 1)


def test_what_is_jitted_goes_with_its_owner():
    class Big:
        """Something that a function holds."""

    def make(owner, held):
        def function(x):
            assert held is not None
            return x

        return jit_of(owner, function)

    owner, held = Owner(), Big()
    make(owner, held)(1)
    is_alive = weakref.ref(held)
    del owner, held
    gc.collect()
    assert is_alive() is None
