"""QSGD's short messages: Elias omega codes of what is not zero, on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psgdsim.codecs.bits import BitReader, BitWriter
from psgdsim.codecs.entropy import read_omega, write_omega
from psgdsim.codecs.levels import level_bits, num_blocks
from psgdsim.codecs.packing import pack_on_host, unpack_on_host
from psgdsim.errors import CodecError

if TYPE_CHECKING:
    from psgdsim.codecs.bits import Integers


@dataclass(frozen=True)
class EliasLevels:
    """The codes of `levels.to_levels` as numbers of variable length.

    After one count for each bucket, how many levels are above 0, plus one, come the distances to the last such (to the
    place before the bucket, at first), then all signs, then all levels; counts, distances and levels in omega code.

    Args:
        levels: the highest level.
        bucket_size: values per bucket; None for one bucket.
    """

    levels: int
    bucket_size: int | None

    def pack(self, payload: Any, like: Any) -> dict[str, Any]:
        """Return `{"norms": ..., "bits": ...}` for what QSGD encodes."""
        import numpy as np

        bits = level_bits(self.levels)
        codes = unpack_on_host(np.asarray(payload["codes"]), bits, like.size)
        places = np.flatnonzero(codes)
        signed = codes[places]
        buckets = places // self._columns(like.size)
        before = np.maximum(np.append(-1, places[:-1]), buckets * self._columns(like.size) - 1)
        writer = BitWriter()
        write_omega(writer, 1 + np.bincount(buckets, minlength=num_blocks(like.size, self.bucket_size)))
        write_omega(writer, places - before)
        writer.write_bits(signed >> (bits - 1))
        write_omega(writer, signed & (2 ** (bits - 1) - 1))
        return {"norms": np.asarray(payload["norms"]), "bits": writer.finish()}

    def unpack(self, packed: Any, like: Any) -> dict[str, Any]:
        """Return what QSGD encoded.

        Raises:
            CodecError: this is nothing that `pack` makes for such a vector.
        """
        import numpy as np

        if not isinstance(packed, dict) or packed.keys() != {"norms", "bits"}:
            raise CodecError(f"a payload is damaged: expected norms and bits; got {packed!r:.60}")
        norms, num_norms = packed["norms"], num_blocks(like.size, self.bucket_size)
        if getattr(norms, "dtype", None) != np.float32 or norms.shape != (num_norms,):
            raise CodecError(f"norms: truncated or damaged: expected {num_norms} of float32; got {norms!r:.60}")
        bits = level_bits(self.levels)
        reader = BitReader(packed["bits"], "bits of levels")
        places = self._read_places(reader, like.size)
        signs = reader.read_bits(len(places))
        magnitudes = read_omega(reader, len(places))
        reader.finish()
        if len(magnitudes) and magnitudes.max() > self.levels:
            raise reader.fail(f"expected levels of at most {self.levels}; got {magnitudes.max()}")
        codes = np.zeros(like.size, np.uint8 if bits <= 8 else np.uint16)
        codes[places] = magnitudes + (signs.astype(np.int64) << (bits - 1))
        return {"norms": norms, "codes": pack_on_host(codes, bits)}

    def _read_places(self, reader: BitReader, size: int) -> Integers:
        """Return where levels above 0 are."""
        import numpy as np

        columns = self._columns(size)
        counts = read_omega(reader, num_blocks(size, self.bucket_size)) - 1
        lengths = np.minimum(columns, size - columns * np.arange(len(counts)))
        if (counts > lengths).any():
            raise reader.fail(f"expected at most {columns} levels above 0 in a bucket; got {counts.max()}")
        gaps = read_omega(reader, int(counts.sum()))
        if len(gaps) and gaps.max() > columns:
            raise reader.fail(f"expected distances of at most {columns}; got {gaps.max()}")
        sums = np.append(0, np.cumsum(gaps))
        ends = np.cumsum(counts)
        if (sums[ends] - sums[ends - counts] > lengths).any():
            raise reader.fail("a level lies beyond its bucket")
        shifts = columns * np.arange(len(counts)) - 1 - sums[ends - counts]
        places: Integers = sums[1:] + np.repeat(shifts, counts)
        return places

    def _columns(self, size: int) -> int:
        return size if self.bucket_size is None else min(self.bucket_size, size)
