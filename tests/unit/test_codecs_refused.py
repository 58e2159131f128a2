"""strategies: those that encode nothing refuse every codec but `identity`, also one whose payloads can be added."""

from __future__ import annotations

import dataclasses

import pytest
from fault_cases import BASE

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
