"""What `psgdsim verify` computes agrees with theory."""

from __future__ import annotations

import functools
import re

import pytest

from psgdsim.errors import PsgdsimError
from psgdsim.strategies.base import Strategy, register_strategy, strategies
from psgdsim.testing import verify_codecs, verify_execution
from psgdsim.testing.checks import Check
from psgdsim.testing.codec_rows import ROWS
from psgdsim.testing.variants import Variant, built_in_variants
from psgdsim.testing.verify import SUBJECTS, verify
from psgdsim.testing.verify_accuracy import verify_codec_accuracy
from psgdsim.testing.verify_strategies import PARTS, SAMPLED, check_schedules

LENGTHS = {
    "k_sync": 9_600,
    "k_batch_sync": 9_600,
    "staleness": 2_400,
    "distribution of staleness": 24_000,
    "bounded staleness": 2_400,
}
"""Gradients in a run, of which there are 5,600 otherwise: `psgdsim verify strategies` takes more of them."""


@pytest.mark.parametrize("subject", sorted(SUBJECTS.keys() - {"codecs", "execution", "strategies"}))
def test_every_check_is_right(subject):
    checks = list(verify([subject]))
    assert checks
    assert [check for check in checks if not check.is_right] == []


@pytest.mark.parametrize("part", PARTS)
def test_every_check_of_strategies_is_right(part):
    checks = list(PARTS[part]())
    assert checks
    assert [check for check in checks if not check.is_right] == []


@pytest.mark.parametrize("part", SAMPLED)
def test_every_check_of_strategies_that_chance_decides_is_right(part):
    checks = list(SAMPLED[part].verify(LENGTHS.get(part, 5_600)))
    assert checks
    assert [check for check in checks if not check.is_right] == []


def test_the_more_updates_the_nearer_a_mean_must_be():
    few, many = ([check.tolerance for check in SAMPLED["k_sync"].verify(num)][::2] for num in (640, 2_560))
    assert many == pytest.approx([tolerance / 2 for tolerance in few])


def test_all_of_strategies_is_verified_and_every_built_in_one_goes_through_schedules(monkeypatch):
    asked = []

    def note(name, num):
        asked.append(num)
        yield Check(name, "", "", "")

    for name, sampled in SAMPLED.items():
        monkeypatch.setitem(SAMPLED, name, sampled._replace(verify=functools.partial(note, name)))
    for name in PARTS:
        monkeypatch.setitem(PARTS, name, lambda name=name: iter([Check(name, "", "", "")]))
    checks, names = list(verify(["strategies"], 1, 80_000)), [*SAMPLED, *PARTS]
    assert [check.name for check in checks[: len(names)]] == names
    assert asked == [10_000, 10_000, 10_000, 5_000, 80_000, 10_000, 80_000]
    built_in = {part.name for part in strategies if part.module.startswith("psgdsim.strategies.")}
    assert {check.name.split()[0].rstrip(",") for check in checks[len(names) :]} == built_in
    assert all(check.is_right for check in checks)


def test_all_codecs_are_verified(monkeypatch):
    monkeypatch.setattr(verify_codecs, "check_row", lambda row: iter([Check(row.label, "", "", "")]))
    monkeypatch.setattr(verify_codecs, "verify_numbers", lambda: iter([Check("numbers", "", "", "")]))
    monkeypatch.setattr(verify_codecs, "verify_codec_accuracy", lambda: iter([Check("accuracy", "", "", "")]))
    assert [check.name for check in verify(["codecs"])] == ["numbers", *(row.label for row in ROWS), "accuracy"]


def test_all_strategies_and_codecs_are_executed_both_ways(monkeypatch):
    monkeypatch.setattr(verify_execution, "check_executions", lambda name, *_: iter([Check(name, "", "", "")]))
    variants = [variant.label for variant in built_in_variants()]
    rows = [f"{row.label}, {sync}" for row in ROWS for sync in ("bsp", "async")]
    assert [check.name for check in verify(["execution"])] == variants + rows


def test_codecs_train_as_well_as_they_should():
    assert [check for check in verify_codec_accuracy() if not check.is_right] == []


@register_strategy("chatty_of_a_test")
def chatty() -> Strategy:
    """Do nothing but send what nobody reads."""

    async def worker(node, task):
        state = await node.compute(task.init, 0, None)
        for step in task.steps():
            if node.rank == 0:
                await node.send(1, None, tag="chat")
            if not await node.checkpoint(step, [state.params]):
                return

    return Strategy(worker)


def test_a_schedule_that_fails_is_named():
    check = check_schedules(Variant("chatty_of_a_test", world_size=3), 20)
    assert not check.is_right
    assert re.match(r"20 failed, first: schedule of seed 0: rank 1: 'chat' from rank 0 not received", check.got)


def test_an_unknown_subject_is_an_error():
    with pytest.raises(PsgdsimError, match="did you mean 'coded'"):
        list(verify(["codded"]))
