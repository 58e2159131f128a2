"""How small, how true and how quick codecs are, measured on a Gaussian vector: what `psgdsim codecs bench` prints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psgdsim import trees, wire
from psgdsim.codecs.base import Codec, codecs
from psgdsim.errors import ScenarioError
from psgdsim.registry import REQUIRED
from psgdsim.scenario import from_dict

if TYPE_CHECKING:
    import numpy as np

NUM_KEYS: Final = 8
"""Random keys, and so vectors, of a mean."""

REPEATS: Final = 5
"""Times that each duration is measured; the shortest counts."""

_SCENARIO: Final[dict[str, Any]] = {
    "name": "codec",
    "world_size": 2,
    "model": {"kind": "quadratic", "dim": 2},
    "data": {"kind": "none"},
    "batch_size": 1,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "strategy": {"kind": "all_reduce", "algorithm": "broadcast"},
    "topology": {"kind": "star", "bandwidth": "1 Gbit/s", "latency": "50 us"},
    "max_steps": 1,
}


@dataclass(frozen=True)
class Measurement:
    """What was measured of one codec.

    Attributes:
        codec: its spec.
        dim: values of the vector, D.
        bits: of a frame, per value.
        error: ||C(x) - x|| / ||x||, the root of the mean square.
        bias: ||E C(x) - x|| / ||x||, as well as a few keys can tell it from 0.
        encode_time: of one vector, host-side packing included [s].
        decode_time: of one vector [s].
        copy_time: that a copy of the vector in memory takes [s].
    """

    codec: str
    dim: int
    bits: float
    error: float
    bias: float
    encode_time: float
    decode_time: float
    copy_time: float

    @property
    def encode_rate(self) -> float:
        """Bytes of float32 values per second."""
        return 4 * self.dim / self.encode_time

    @property
    def decode_rate(self) -> float:
        """Bytes of float32 values per second."""
        return 4 * self.dim / self.decode_time

    @property
    def break_even(self) -> float:
        """On slower links than this one message is there sooner than float32 values [bit/s]; 0 if on none."""
        return max(0.0, 32 - self.bits) * self.dim / (self.encode_time + self.decode_time)

    def speedup(self, bandwidth: float) -> float:
        """Return how much sooner one message is there than float32 values.

        Args:
            bandwidth: of the link between [bit/s].
        """
        coded = self.encode_time + self.bits * self.dim / bandwidth + self.decode_time
        return 32 * self.dim / bandwidth / coded

    def document(self, bandwidth: float) -> dict[str, float | str]:
        """Return everything as plain data, for a link of so many bit/s."""
        plain: dict[str, float | str] = {"codec": self.codec, "dim": self.dim, "bits_per_value": self.bits}
        return {
            **plain,
            "relative_error": self.error,
            "relative_bias": self.bias,
            "encode_bytes_per_second": self.encode_rate,
            "decode_bytes_per_second": self.decode_rate,
            "encode_of_copy": self.copy_time / self.encode_time,
            "decode_of_copy": self.copy_time / self.decode_time,
            "link_bit_per_second": bandwidth,
            "speedup_on_link": self.speedup(bandwidth),
            "faster_below_bit_per_second": self.break_even,
        }


def built_in() -> list[str]:
    """Return the specs of all codecs whose parameters have defaults."""
    return [part.name for part in codecs if all(each.default is not REQUIRED for each in part.parameters)]


def read_codec(spec: str) -> Codec:
    """Make a codec.

    Args:
        spec: as a scenario has it, such as `{kind: qsgd, levels: 1}`; or a name alone.

    Raises:
        ScenarioError: there is no such codec.
    """
    text = spec if spec.lstrip().startswith("{") else f"{{kind: {spec}}}"
    try:
        codec: Codec = from_dict(_SCENARIO, [f"codec={text}"]).codec.build()
    except ScenarioError as error:
        raise ScenarioError(str(error).removeprefix("--set codec: ")) from None
    return codec


def measure_all(specs: Mapping[str, Codec], dim: int) -> Iterator[Measurement]:
    """Measure codecs, one after the other.

    Args:
        specs: the codecs by what they are called.
        dim: values of the vector.
    """
    import numpy as np

    vector = np.random.default_rng(0).standard_normal(dim).astype(np.float32)
    copy_time = _shortest(vector.copy)
    for spec, codec in specs.items():
        yield _measure(spec, codec, _as_matrix(vector) if codec.is_structured else vector, copy_time)


def _as_matrix(vector: np.ndarray) -> np.ndarray:
    """Return a vector as a matrix that is as square as its length allows, for codecs that look at shapes."""
    rows = max(each for each in range(1, math.isqrt(vector.size) + 1) if vector.size % each == 0)
    return vector.reshape(rows, -1)


def _measure(spec: str, codec: Codec, vector: np.ndarray, copy_time: float) -> Measurement:
    import jax
    import numpy as np

    update = jax.numpy.asarray(vector)
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    wait: Any = jax.block_until_ready
    start = jax.jit(codec.init)(update)

    def coded(seed: int) -> Any:
        payload, _ = encode(update, start, jax.random.key(seed))
        return wait(payload) if codec.pack is None else codec.pack(trees.numbers(payload), vector)

    def decoded(payload: Any) -> Any:
        received = payload if codec.unpack is None else codec.unpack(payload, vector)
        return wait(decode(received, start, update)[0])

    payloads = [coded(seed) for seed in range(NUM_KEYS)]
    frames = [len(wire.pack(trees.numbers(payload))) for payload in payloads]
    errors = [np.asarray(decoded(payload)) - vector for payload in payloads]
    error, bias = _error_and_bias(errors, vector)
    encode_time = _shortest(lambda: coded(0))
    decode_time = _shortest(lambda: decoded(payloads[0]))
    bits = 8 * sum(frames) / len(frames) / vector.size
    return Measurement(spec, vector.size, bits, error, bias, encode_time, decode_time, copy_time)


def _error_and_bias(errors: list[np.ndarray], vector: np.ndarray) -> tuple[float, float]:
    """Return the relative error and bias; what chance adds to the mean's square is taken off."""
    import numpy as np

    def square(values: np.ndarray) -> float:
        return float(np.sum(values.astype(np.float64) ** 2))

    whole = square(vector)
    mean_square = sum(map(square, errors)) / len(errors)
    square_of_mean = square(sum(errors[1:], start=errors[0]) / len(errors))
    by_chance = (mean_square - square_of_mean) / max(1, len(errors) - 1)
    return math.sqrt(mean_square / whole), math.sqrt(max(0.0, square_of_mean - by_chance) / whole)


def _shortest(call: Callable[[], Any]) -> float:
    """Return the shortest of some durations of a call [s]."""
    durations = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return min(durations)
