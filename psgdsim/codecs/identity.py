"""No coding at all: the baseline that every codec is compared with."""

from __future__ import annotations

import dataclasses

from psgdsim.codecs.base import Codec, register_codec, stateless


@register_codec("identity")
def identity() -> Codec:
    """Send every value as it is.

    Wire size: the raw bytes of the update (32 bits per float32 value).

    Returns:
        A summable codec.
    """
    codec = stateless(lambda update, _key: update, lambda payload, _like: payload, is_summable=True)
    return dataclasses.replace(codec, is_identity=True)
