"""A codec per layer."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from psgdsim import trees
from psgdsim.codecs.base import Codec, Payload, register_codec
from psgdsim.errors import CodecError

if TYPE_CHECKING:
    import jax

DEFAULT: Final = "default"
"""The pattern of all arrays that no other matches."""


@register_codec("layers")
def layers(layers: Annotated[dict[str, Codec], Field(min_length=1)]) -> Codec:
    """Code different arrays of the model with different codecs.

    A pattern is compared with an array's whole name, such as `layers.0.weight`; `*` stands for any text, `?` for one
    letter, `[ab]` for one of these. The first that matches decides; `default` is for what no other matches. All arrays
    of one pattern go to its codec together, so that `top_k` takes the largest values of all of them. Wire size: those
    of the codecs. In a scenario, `codec: {layers: {...}}` is short for `codec: {kind: layers, layers: {...}}`.

    Args:
        layers: a codec for each pattern.
    """
    patterns = {pattern: codec for pattern, codec in layers.items() if pattern != DEFAULT}
    if DEFAULT in layers:
        patterns[DEFAULT] = layers[DEFAULT]

    def init(like: Any) -> dict[str, Any]:
        parts = _split(like, patterns)
        idle = [pattern for pattern in patterns if pattern not in parts and pattern != DEFAULT]
        if idle:
            names = ", ".join(name.replace("/", ".") for name, _ in trees.named_leaves(like))
            raise CodecError(f"codec layers: no array is left for the pattern {idle[0]!r}; there are {names}")
        return {pattern: patterns[pattern].init(part) for pattern, part in parts.items()}

    def encode(update: Any, state: dict[str, Any], key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        import jax

        coded = {
            pattern: patterns[pattern].encode(part, state[pattern], jax.random.fold_in(key, i))
            for i, (pattern, part) in enumerate(_split(update, patterns).items())
        }
        return _firsts(coded), _seconds(coded)

    def decode(payload: dict[str, Any], state: dict[str, Any], like: Any) -> tuple[Any, dict[str, Any]]:
        import jax

        decoded = {
            pattern: patterns[pattern].decode(payload[pattern], state[pattern], part)
            for pattern, part in _split(like, patterns).items()
        }
        left = {pattern: iter(leaves) for pattern, (leaves, _) in decoded.items()}
        leaves = [next(left[_pattern_of(name, patterns)]) for name, _ in trees.named_leaves(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), _seconds(decoded)

    is_summable = all(codec.is_summable for codec in patterns.values())
    packs = {pattern: codec.pack for pattern, codec in patterns.items()}
    unpacks = {pattern: codec.unpack for pattern, codec in patterns.items()}
    pack, unpack = (_each_part(functions, patterns) for functions in (packs, unpacks))
    is_ragged = any(codec.is_ragged for codec in patterns.values())
    return Codec(init, encode, decode, is_summable, pack=pack, unpack=unpack, is_structured=True, is_ragged=is_ragged)


def _split(tree: Any, patterns: dict[str, Codec]) -> dict[str, list[Any]]:
    """Return the leaves of each pattern."""
    parts: dict[str, list[Any]] = {}
    for name, leaf in trees.named_leaves(tree):
        parts.setdefault(_pattern_of(name, patterns), []).append(leaf)
    return parts


def _each_part(
    functions: dict[str, Callable[[Payload, Any], Payload] | None], patterns: dict[str, Codec]
) -> Callable[[Payload, Any], Payload] | None:
    """Return `pack` or `unpack` of all patterns together, or None if no codec has any."""
    if not any(functions.values()):
        return None

    def each_part(payload: Any, like: Any) -> dict[str, Any]:
        parts = _split(like, patterns)
        if not isinstance(payload, dict) or set(payload) != set(parts):
            raise CodecError(f"payload: expected a dict of {', '.join(map(repr, parts))}; got {payload!r:.80}")
        return {pattern: (functions[pattern] or _as_it_is)(payload[pattern], part) for pattern, part in parts.items()}

    return each_part


def _pattern_of(name: str, patterns: dict[str, Codec]) -> str:
    """Return the first pattern that matches a leaf's name."""
    dotted = name.replace("/", ".")
    for pattern in patterns:
        if pattern == DEFAULT or fnmatch.fnmatchcase(dotted, pattern):
            return pattern
    raise CodecError(
        f"codec layers: no pattern matches the array {dotted!r}; expected one that does, or {DEFAULT!r}; "
        f"got {', '.join(map(repr, patterns))}"
    )


def _as_it_is(payload: Any, _like: Any) -> Any:
    return payload


def _firsts(pairs: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {name: first for name, (first, _) in pairs.items()}


def _seconds(pairs: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {name: second for name, (_, second) in pairs.items()}
