"""Conformance checks for users' own parts: the laws that every codec and every driver obeys."""

from psgdsim.testing.codecs import check_codec as check_codec
