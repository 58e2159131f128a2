"""Save trees of arrays, and load them again bit for bit: parameters, and the states of optimizers and codecs.

A checkpoint is one safetensors file: a header of JSON, then raw little-endian numbers; nothing in it is ever executed.
Tensors are named by their place in the tree, such as `layers/0/weight` (see `trees.named_leaves`). The header's entry
`psgdsim` holds the metadata, what jax's random keys are of, and a sha256 over all of that and all tensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from psgdsim import trees
from psgdsim.errors import CheckpointError
from psgdsim.input_files import read_bounded
from psgdsim.whole_files import write_whole

if TYPE_CHECKING:
    import numpy as np

PyTree = Any

FORMAT: Final = 1
"""The version of what is in the header's entry."""

MAX_HEADER: Final = 100_000_000
"""A file may be so much larger than its tensors [byte]."""

_SIZES: Final = {"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64), "float": (16, 32, 64)}

_DTYPES: Final = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
    **{f"{kind[0].upper()}{size}": f"{kind}{size}" for kind, sizes in _SIZES.items() for size in sizes},
}
"""What can be saved: dtypes by their names in the file."""


class Checkpoint(NamedTuple):
    """What a file held.

    Attributes:
        tree: as it was saved.
        metadata: as it was saved.
    """

    tree: PyTree
    metadata: dict[str, str]


class _About(msgspec.Struct, forbid_unknown_fields=True):
    """What the header says besides names, dtypes and shapes; `keys` are the kinds of random keys by tensor."""

    format: int
    keys: dict[str, str]
    metadata: dict[str, str]


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    """`_About` and its sha256, tensors included."""

    about: _About
    sha256: str


class _Header(msgspec.Struct):
    entries: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


class _Leaf(NamedTuple):
    """A leaf of a tree as it is saved: its numbers and, if it is a random key, of what kind it is."""

    array: np.ndarray[Any, Any]
    kind: str | None


def save(path: str | os.PathLike[str], tree: PyTree, metadata: Mapping[str, str] | None = None) -> None:
    """Save a tree, so that the file is there whole or, after a crash, still the one before.

    Args:
        path: the file, replaced if it exists; its folder must exist.
        tree: a pytree of arrays of bool, integers, floats or complex64, of numbers, and of random keys. A place that
            holds None holds nothing.
        metadata: what else the file says.

    Raises:
        CheckpointError: a leaf cannot be saved, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> save(file, {"step": 3, "error": [1.5, None]}, {"scenario": "ring"})
        >>> load(file, {"step": 0, "error": [0.0, None]})
        Checkpoint(tree={'error': [1.5, None], 'step': 3}, metadata={'scenario': 'ring'})
    """
    from safetensors.numpy import save as serialize

    leaves = _leaves(path, tree)
    arrays = {name: leaf.array for name, leaf in leaves.items()}
    entries = dict(metadata or {})
    if not all(isinstance(text, str) for pair in entries.items() for text in pair):
        raise CheckpointError(f"{path}: metadata: expected text by name; got {entries!r:.60}")
    about = _About(FORMAT, _kinds(leaves), entries)
    header = {"psgdsim": msgspec.json.encode(_Sealed(about, _sha256(arrays, about))).decode()}
    try:
        write_whole(Path(path), lambda file: file.write(serialize(arrays, header)))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from None


def load(path: str | os.PathLike[str], like: PyTree) -> Checkpoint:
    """Load a tree, after everything about it has been checked.

    Takes memory for a few times the file's size, however much its header promises.

    Args:
        path: the file.
        like: a tree of the same structure, shapes, dtypes and kinds of random keys, such as a new state.

    Returns:
        The tree, its leaves of the same types as those of `like` (jax arrays on the default device, numpy arrays,
        numbers), and the metadata.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or holds another tree; the message says which tensor,
            what was found and what was expected.
    """
    import jax

    expected = _leaves(path, like)
    try:
        data = read_bounded(path, MAX_HEADER + sum(leaf.array.nbytes for leaf in expected.values()))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    arrays, about = _read(path, data)
    _check_same(path, arrays, about, expected)
    leaves = [_restored(arrays[name], leaf) for name, leaf in trees.named_leaves(like)]
    return Checkpoint(jax.tree.unflatten(jax.tree.structure(like), leaves), about.metadata)


def _leaves(path: str | os.PathLike[str], tree: PyTree) -> dict[str, _Leaf]:
    """Return all leaves by name, as they are saved."""
    leaves: dict[str, _Leaf] = {}
    for name, leaf in trees.named_leaves(tree):
        if name in leaves or name == "__metadata__":
            raise CheckpointError(f"{path}: {name}: expected another name; this one is taken")
        leaves[name] = _saved(f"{path}: {name}", leaf)
    return leaves


def _is_key(leaf: Any) -> bool:
    import jax

    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _saved(place: str, leaf: Any) -> _Leaf:
    import jax
    import numpy as np

    if _is_key(leaf):
        return _Leaf(np.asarray(jax.random.key_data(leaf)), str(jax.random.key_impl(leaf)))
    try:
        array = np.asarray(leaf, np.int64 if type(leaf) is int else None, order="C")
    except (OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"{place}: cannot be saved: {error}") from None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name not in _DTYPES.values():
        expected = ", ".join(sorted(_DTYPES.values()))
        raise CheckpointError(f"{place}: cannot be saved: expected one of {expected}; got {array.dtype}: {leaf!r:.60}")
    return _Leaf(array, None)


def _kinds(leaves: Mapping[str, _Leaf]) -> dict[str, str]:
    return {name: leaf.kind for name, leaf in sorted(leaves.items()) if leaf.kind is not None}


def _sha256(arrays: Mapping[str, np.ndarray[Any, Any]], about: _About) -> str:
    return trees.digest({"tensors": dict(arrays), "about": _bytes(msgspec.json.encode(about, order="deterministic"))})


def _bytes(data: bytes) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.frombuffer(data, np.uint8)


def _read(path: str | os.PathLike[str], data: bytes) -> tuple[dict[str, np.ndarray[Any, Any]], _About]:
    """Return the tensors in a file, in memory of its own, and what its header says."""
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(data)  # type: ignore[no-untyped-call]
        header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")], type=_Header)
        sealed = msgspec.json.decode(header.entries.get("psgdsim", ""), type=_Sealed)
    except (SafetensorError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, or no checkpoint: {error} ({len(data)} bytes)") from None
    if sealed.about.format != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT}; got {sealed.about.format}")
    arrays = {name: _array(f"{path}: {name}", tensor) for name, tensor in tensors}
    found = _sha256(arrays, sealed.about)
    if found != sealed.sha256:
        raise CheckpointError(f"{path}: damaged: expected the sha256 {sealed.sha256!r:.70}; got {found}")
    return arrays, sealed.about


def _array(place: str, tensor: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    import ml_dtypes  # noqa: F401 - names bfloat16 and the floats of 8 bits
    import numpy as np

    if tensor["dtype"] not in _DTYPES:
        raise CheckpointError(f"{place}: expected one of {', '.join(sorted(_DTYPES))}; got {tensor['dtype']}")
    return np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])


def _check_same(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    about: _About,
    expected: Mapping[str, _Leaf],
) -> None:
    """Compare what a file holds with what is expected, name by name."""
    found = {name: _described(array, about.keys.get(name)) for name, array in arrays.items()}
    wanted = {name: _described(leaf.array, leaf.kind) for name, leaf in expected.items()}
    for name in sorted(found | wanted):
        if found.get(name) != wanted.get(name):
            pair = f"expected {wanted.get(name, 'no such tensor')}; got {found.get(name, 'no such tensor')}"
            raise CheckpointError(f"{path}: {name}: {pair}")


def _described(array: np.ndarray[Any, Any], kind: str | None) -> str:
    return f"{array.dtype}{list(array.shape)}" + ("" if kind is None else f", a random key of {kind}")


def _restored(array: np.ndarray[Any, Any], like: Any) -> Any:
    """Return a tensor as what stands in its place."""
    import jax
    import numpy as np

    if isinstance(like, jax.Array):
        numbers = jax.numpy.asarray(array)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(like)) if _is_key(like) else numbers
    if isinstance(like, np.ndarray):
        return array.copy()
    return array[()] if isinstance(like, np.generic) else array.item()
