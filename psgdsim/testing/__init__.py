"""Conformance checks for users' own parts: the laws that every codec, strategy and driver obeys."""

from psgdsim.testing.codecs import check_codec as check_codec
from psgdsim.testing.strategies import check_strategy as check_strategy
