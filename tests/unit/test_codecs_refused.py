"""strategies: those that encode nothing refuse every codec but `identity`, also one whose payloads can be added."""

from __future__ import annotations

import dataclasses

import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.codecs import Codec, identity, register_codec
from psgdsim.errors import ScenarioError
from psgdsim.scenario import from_dict


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
    with pytest.raises(ScenarioError, match=r"codec: .*no array is left for the pattern '\*bais'"):
        psgdsim.run({**BASE, "codec": layers}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
