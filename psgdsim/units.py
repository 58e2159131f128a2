"""Quantities with units: always written in YAML, plain floats in base units inside.

`10 Gbit/s`, `50 us`, `25 MiB`. Bits and bytes are never guessed: a bare number, `Gbps` or `GB/s` is an error
that proposes the fix. Values are parsed exactly: `50 us` is the float 5e-5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from psgdsim.errors import shown

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S.*?)?\s*")


@dataclass(frozen=True)
class Dimension:
    """One kind of quantity.

    Args:
        name: what it is, for messages.
        units: each unit's size in the base unit, largest first.
        fixes: common mistakes and what to write instead.
        example: a value as one would write it.
    """

    name: str
    units: dict[str, Decimal]
    fixes: dict[str, str]
    example: str

    def parse(self, text: object) -> float:
        """Return the value in base units.

        Raises:
            ValueError: not a number and a unit of this dimension; the message proposes the fix.
        """
        if isinstance(text, int | float) and not isinstance(text, bool):
            raise ValueError(
                f"expected a {self.name} with its unit, such as '{self.example}'; got the bare number {text}"
            )
        match = _QUANTITY.fullmatch(text) if isinstance(text, str) and len(text) <= 64 else None
        if match is None:
            raise ValueError(f"expected a {self.name} such as '{self.example}'; got {shown(text)}")
        number, unit = match.groups()
        if unit not in self.units:
            raise ValueError(
                f"expected a {self.name} such as '{self.example}'; got {shown(text)}: {self._advice(number, unit)}"
            )
        try:
            value = float(Decimal(number) * self.units[unit])
        except (DecimalException, OverflowError):
            raise ValueError(f"expected a {self.name} such as '{self.example}'; got {shown(text)}") from None
        if not 0 <= value < float("inf"):
            raise ValueError(f"expected a {self.name} of at least 0, such as '{self.example}'; got {shown(text)}")
        return value

    def _advice(self, number: str, unit: str | None) -> str:
        if unit is None:
            return f"the unit is missing; one of {', '.join(self.units)}"
        if unit in self.fixes:
            try:
                bits = _plain(Decimal(number) * 8)
            except DecimalException:
                return "that is out of all bounds"
            return f"write '{self.fixes[unit].format(number=number, bits=bits)}'"
        same = [known for known in self.units if known.lower() == unit.lower()]
        if same:
            return f"write '{number} {same[0]}'"
        return f"no such unit; one of {', '.join(self.units)}"

    def format(self, value: float) -> str:
        """Write a value so that `parse` returns it exactly, in the unit that reads best."""
        exact = Decimal(repr(float(value)))
        for unit, scale in self.units.items():
            if exact >= scale and float(Decimal(_plain(exact / scale)) * scale) == value:
                return f"{_plain(exact / scale)} {unit}"
        base = next(unit for unit, scale in self.units.items() if scale == 1)
        return f"{_plain(exact)} {base}"


def _plain(number: Decimal) -> str:
    text = format(number.normalize(), "f")
    return text if len(text) <= 24 else str(number.normalize())


_SI = {
    "T": Decimal(10) ** 12,
    "G": Decimal(10) ** 9,
    "M": Decimal(10) ** 6,
    "k": Decimal(10) ** 3,
    "": Decimal(1),
}

TIME = Dimension(
    "time",
    {
        "h": Decimal(3600),
        "min": Decimal(60),
        "s": Decimal(1),
        "ms": Decimal("1e-3"),
        "us": Decimal("1e-6"),
        "ns": Decimal("1e-9"),
    },
    {
        "sec": "{number} s",
        "seconds": "{number} s",
        "second": "{number} s",
        "m": "{number} min' or '{number} ms",
        "µs": "{number} us",
        "μs": "{number} us",
        "minutes": "{number} min",
        "hours": "{number} h",
    },
    "50 us",
)

BANDWIDTH = Dimension(
    "bandwidth",
    {f"{prefix}bit/s": size for prefix, size in _SI.items()},
    {
        **{f"{prefix}bps": f"{{number}} {prefix}bit/s" for prefix in _SI},
        **{f"{prefix}b/s": f"{{number}} {prefix}bit/s" for prefix in _SI},
        **{f"{prefix}bit": f"{{number}} {prefix}bit/s" for prefix in _SI},
        **{f"{prefix}B/s": f"{{bits}} {prefix}bit/s" for prefix in _SI},
    },
    "10 Gbit/s",
)

SIZE = Dimension(
    "size",
    {
        **{f"{prefix}iB": Decimal(1024) ** power for prefix, power in (("T", 4), ("G", 3), ("M", 2), ("K", 1))},
        **{f"{prefix}B": size for prefix, size in _SI.items()},
    },
    {"KB": "{number} kB' or '{number} KiB", "Mb": "{number} MB", "bytes": "{number} B"},
    "25 MiB",
)

FLOP_RATE = Dimension(
    "rate",
    {"PFLOP/s": Decimal(10) ** 15, **{f"{prefix}FLOP/s": size for prefix, size in _SI.items()}},
    {
        **{f"{prefix}FLOPS": f"{{number}} {prefix}FLOP/s" for prefix in ("P", *_SI)},
        **{f"{prefix}FLOP": f"{{number}} {prefix}FLOP/s" for prefix in ("P", *_SI)},
        **{f"{prefix}flops": f"{{number}} {prefix}FLOP/s" for prefix in ("P", *_SI)},
    },
    "10 TFLOP/s",
)


THROUGHPUT = Dimension(
    "throughput",
    {f"{prefix}B/s": size for prefix, size in _SI.items()},
    {
        **{f"{prefix}bit/s": "{number} is in bits; write an eighth of it in " + f"{prefix}B/s" for prefix in _SI},
        **{f"{prefix}B": f"{{number}} {prefix}B/s" for prefix in _SI},
    },
    "2 GB/s",
)


def _quantity(dimension: Dimension) -> Any:
    """Return a pydantic type: a float in base units that reads and writes text with a unit."""
    schema = {"type": "string", "format": dimension.name, "examples": [dimension.example]}
    return Annotated[
        float,
        BeforeValidator(dimension.parse),
        PlainSerializer(dimension.format, return_type=str),
        WithJsonSchema(schema),
    ]


Duration = _quantity(TIME)
"""Seconds; written `50 us` in YAML."""

Bandwidth = _quantity(BANDWIDTH)
"""Bits per second; written `10 Gbit/s` in YAML."""

Size = _quantity(SIZE)
"""Bytes; written `25 MiB` in YAML."""

FlopRate = _quantity(FLOP_RATE)
"""Floating-point operations per second; written `10 TFLOP/s` in YAML."""

Throughput = _quantity(THROUGHPUT)
"""Bytes per second that a machine works through; written `2 GB/s` in YAML."""
