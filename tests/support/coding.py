"""One codec used as two ends use it: what is decoded, and what is on the wire."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def normals(size: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


class Ends:
    """A sender and a receiver of one codec; `send` returns what is decoded."""

    def __init__(self, codec: Any, like: Any) -> None:
        self.codec, self.like = codec, like
        self.encoder = self.decoder = codec.init(like)
        self._encode, self._decode = jax.jit(codec.encode), jax.jit(codec.decode)
        self.num_sent = 0
        self.payload: Any = None

    def send(self, update: Any) -> Any:
        self.payload, self.encoder = self._encode(update, self.encoder, jax.random.key(self.num_sent))
        self.num_sent += 1
        received = self.payload
        if self.codec.pack is not None:
            packed = self.codec.pack(jax.tree.map(np.asarray, self.payload), self.like)
            self.payload, received = packed, self.codec.unpack(packed, self.like)
        decoded, self.decoder = self._decode(received, self.decoder, self.like)
        return jax.tree.map(np.asarray, decoded)


def vector_of(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


def coded(codec: Any, vector: np.ndarray, seed: int = 0) -> Any:
    payload, _ = jax.jit(codec.encode)(vector, codec.init(vector), jax.random.key(seed))
    return jax.tree.map(np.asarray, payload)


def decoded(codec: Any, vector: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.asarray(jax.jit(codec.decode)(coded(codec, vector, seed), codec.init(vector), vector)[0])
