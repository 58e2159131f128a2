"""strategies: those that encode nothing refuse every codec but `identity`, also one whose payloads can be added."""

from __future__ import annotations

import dataclasses

import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.codecs import Codec, identity, register_codec
from psgdsim.errors import CodecError, ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.testing import check_codec


@register_codec("half_of_a_test")
def half() -> Codec:
    """Send half of an update."""
    codec = identity()

    def encode(update, state, key):
        import jax

        return jax.tree.map(lambda leaf: leaf / 2, update), state

    return dataclasses.replace(codec, encode=encode, is_identity=False)


REFUSALS = {
    "ad_psgd": ({}, "codec: ad_psgd sends parameters, as they are, not gradients; expected codec 'identity'"),
    "laq": ({}, "codec: laq rounds gradients by itself, to `bits` bits; expected codec 'identity'"),
    "coded_shuffle": (
        {"redundancy": 2},
        "codec: coded_shuffle XORs the raw bits of gradients; expected codec 'identity'",
    ),
}


@pytest.mark.parametrize("codec", ["half_of_a_test", "cast"])
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_codec_that_would_be_ignored_is_refused(kind, codec):
    parameters, message = REFUSALS[kind]
    scenario = {**BASE, "strategy": {"kind": kind, **parameters}}
    assert from_dict(scenario).codec.kind == "identity"
    with pytest.raises(ScenarioError, match=message):
        from_dict({**scenario, "codec": {"kind": codec}})


LAYERS = {"kind": "layers", "layers": {"*bias": {"kind": "identity"}, "default": {"kind": "cast"}}}


MATRICES = {"kind": "error_feedback", "codec": {"kind": "power_sgd"}}


@pytest.mark.parametrize("codec", [LAYERS, MATRICES], ids=["names", "shapes"])
def test_shards_refuse_codecs_that_look_at_single_arrays(codec):
    strategy = {"kind": "parameter_server", "servers": 2}
    with pytest.raises(ScenarioError, match=r"strategy\.servers: expected 1 with a codec that looks at single arrays"):
        from_dict({**BASE, "strategy": strategy, "codec": codec})


def test_buckets_refuse_codecs_that_look_at_single_arrays():
    strategy = {"kind": "all_reduce", "bucket_size": "1 KiB"}
    with pytest.raises(ScenarioError, match=r"strategy\.bucket_size: expected null with a codec that looks at single"):
        from_dict({**BASE, "strategy": strategy, "codec": LAYERS})


def test_a_pattern_that_fits_nothing_is_found_before_the_run_begins(tmp_path):
    layers = {"kind": "layers", "layers": {"*bais": {"kind": "identity"}, "default": {"kind": "cast"}}}
    with pytest.raises(ScenarioError, match=r"codec 'layers': .*no array is left for the pattern '\*bais'"):
        psgdsim.run({**BASE, "codec": layers}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _faulty(**functions) -> Codec:
    return dataclasses.replace(identity(), is_identity=False, **functions)


@register_codec("text_of_a_test")
def text() -> Codec:
    """Keep a text in mind, which is no array."""
    return _faulty(init=lambda like: {"text": "text"})


@register_codec("no_pair_of_a_test")
def no_pair() -> Codec:
    """Forget to return the state."""
    return _faulty(encode=lambda update, state, key: update)


@register_codec("no_key_of_a_test")
def no_key() -> Codec:
    """Take no random key."""
    return _faulty(encode=lambda update, state: (update, state))


@register_codec("growing_of_a_test")
def growing() -> Codec:
    """Return a state of another shape than it was given."""
    return _faulty(encode=lambda update, state, key: (update, update))


@register_codec("shrinking_of_a_test")
def shrinking() -> Codec:
    """Decode to less than what was encoded."""
    return _faulty(decode=lambda payload, state, like: ({"weight": payload["layers"]["0"]["weight"]}, state))


@register_codec("failing_of_a_test")
def failing() -> Codec:
    """Fail in a place of one's own."""

    def decode(payload, state, like):
        raise LookupError("no such table")

    return _faulty(decode=decode)


FAULTY = {
    "text": "init fails: TypeError: .*<class 'str'>",
    "no_pair": r"encode returns dict; expected \(payload, state\)",
    "no_key": r"encode fails: TypeError: .* takes 2 positional arguments but 3 were given",
    "growing": r"encode returns a state of \{.*\}; expected the shapes and dtypes that were given, \{\}",
    "shrinking": "(it decodes to|decode fails)",
    "failing": r"decode fails: LookupError: no such table \(.*test_codecs_refused\.py:\d+\)",
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_codec_whose_functions_are_not_as_they_should_be_is_refused_before_anything_runs(name):
    scenario = from_dict({**BASE, "codec": {"kind": f"{name}_of_a_test"}})
    with pytest.raises(ScenarioError, match=f"codec '{name}_of_a_test': {FAULTY[name]}"):
        psgdsim.run(scenario)


@pytest.mark.parametrize(("codec", "message"), [(no_pair, "encode returns"), (no_key, "encode fails: TypeError")])
def test_check_codec_says_which_function_is_wrong(codec, message):
    with pytest.raises(CodecError, match=message):
        check_codec(codec())
