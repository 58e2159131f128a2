"""One comparison of what came out with what should."""

from __future__ import annotations

from typing import NamedTuple


class Check(NamedTuple):
    """One comparison.

    Attributes:
        name: what was measured.
        expected: what the law or the paper says.
        got: what came out.
        source: where the expectation is from.
        error: how far they are apart, relative to the expected value; None if they are compared as texts.
        tolerance: the largest error that is still right.
    """

    name: str
    expected: str
    got: str
    source: str
    error: float | None = None
    tolerance: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether they are equal, or near enough."""
        return self.expected == self.got if self.error is None else self.error <= self.tolerance


def compare(name: str, expected: float, got: float, source: str, tolerance: float = 1e-12) -> Check:
    """Compare two numbers.

    Args:
        name: what was measured, with its unit.
        expected: what the law says.
        got: what came out.
        source: where the expectation is from.
        tolerance: the largest relative error that is still right; absolute where 0 is expected.

    Example:
        >>> compare("time [s]", 2.0, 2.5, "a law").error
        0.25
    """
    error = abs(got - expected) / (abs(expected) or 1.0)
    return Check(name, f"{expected:.9g}", f"{got:.9g}", source, error, tolerance)


def at_most(name: str, limit: float, got: float, source: str) -> Check:
    """Compare a number with the largest that is right.

    Args:
        name: what was measured, with its unit.
        limit: what the law allows.
        got: what came out.
        source: where the expectation is from.

    Example:
        >>> at_most("messages", 3, 2, "a law").is_right
        True
    """
    return Check(name, f"at most {limit:.9g}", f"{got:.9g}", source, max(0.0, got - limit) / (abs(limit) or 1.0))


def at_least(name: str, limit: float, got: float, source: str) -> Check:
    """Compare a number with the smallest that is right.

    Args:
        name: what was measured, with its unit.
        limit: what the law asks for.
        got: what came out.
        source: where the expectation is from.

    Example:
        >>> at_least("points", 3, 2, "a law").is_right
        False
    """
    return Check(name, f"at least {limit:.9g}", f"{got:.9g}", source, max(0.0, limit - got) / (abs(limit) or 1.0))
