"""How long real runs wait for a sign of life where a test is not about that: a machine that is loaded is no failure."""

from __future__ import annotations

HEARTBEAT_TIMEOUT = "60 s"
PATIENT = {"real": {"heartbeat_timeout": HEARTBEAT_TIMEOUT}}
"""A part of a scenario."""
