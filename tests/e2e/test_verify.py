"""What `psgdsim verify` computes agrees with theory."""

from __future__ import annotations

import re

import pytest

from psgdsim.errors import PsgdsimError
from psgdsim.strategies.base import strategies
from psgdsim.testing.checks import Check
from psgdsim.testing.variants import Variant
from psgdsim.testing.verify import SUBJECTS, verify
from psgdsim.testing.verify_strategies import PARTS, check_schedules


@pytest.mark.parametrize("subject", sorted(SUBJECTS.keys() - {"strategies"}))
def test_every_check_is_right(subject):
    checks = list(verify([subject]))
    assert checks
    assert [check for check in checks if not check.is_right] == []


@pytest.mark.parametrize("part", PARTS)
def test_every_check_of_strategies_is_right(part):
    checks = list(PARTS[part]())
    assert checks
    assert [check for check in checks if not check.is_right] == []


def test_all_of_strategies_is_verified_and_every_built_in_one_goes_through_schedules(monkeypatch):
    for name in PARTS:
        monkeypatch.setitem(PARTS, name, lambda name=name: iter([Check(name, "", "", "")]))
    checks = list(verify(["strategies"], 1))
    assert [check.name for check in checks[: len(PARTS)]] == list(PARTS)
    built_in = {part.name for part in strategies if part.module.startswith("psgdsim.strategies.")}
    assert {check.name.split()[0].rstrip(",") for check in checks[len(PARTS) :]} == built_in
    assert all(check.is_right for check in checks)


def test_a_schedule_that_fails_is_named():
    late = Variant("parameter_server", {"sync": "k_sync", "k": 1}, world_size=3)  # what comes too late is not read
    check = check_schedules(late, 20)
    assert not check.is_right
    assert re.match(r"\d+ failed, first: schedule of seed \d+: rank 3: 'push' from rank ", check.got)


def test_an_unknown_subject_is_an_error():
    with pytest.raises(PsgdsimError, match="did you mean 'coded'"):
        list(verify(["codded"]))
