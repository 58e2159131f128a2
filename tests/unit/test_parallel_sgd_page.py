"""docs/parallel_sgd.md: every scenario on it, and every part of one, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from psgdsim import scenario
from psgdsim.scenario.experiment import build
from psgdsim.strategies.base import strategies
from psgdsim.testing.training import run_scenario

PAGE = (Path(__file__).parents[2] / "docs" / "parallel_sgd.md").read_text(encoding="utf-8")
SCENARIOS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PARTS = re.findall(r"`((?:strategy|codec): \{.*?\})`", PAGE)
STEPS = 2
SMALL = [f"max_steps={STEPS}", "model={kind: softmax_regression}", "execution=exact"]


def num_steps(text, overrides=()):
    experiment = build(scenario.loads(text, overrides=[*overrides, *SMALL]))
    outcome = run_scenario(experiment)
    return experiment.num_steps([row for report in outcome.reports for row in report.rows])


def test_the_page_has_examples():
    assert (len(SCENARIOS), len(PARTS)) == (3, 16)


@pytest.mark.parametrize("text", SCENARIOS, ids=lambda text: scenario.loads(text).name)
def test_scenarios_run(text):
    assert num_steps(text) == STEPS


@pytest.mark.parametrize("part", PARTS)
def test_parts_run_in_the_first_scenario(part):
    key, _, spec = part.partition(": ")
    assert num_steps(SCENARIOS[0], [f"{key}={spec}"]) == STEPS


@pytest.mark.parametrize(
    "name", ["ssgd", "asgd", "pa", "fast", "plain", "ccdc", "dc-asgd", "sgq", "tqn", "fed-avg", "laq", "GradDiffPS"]
)
def test_every_name_of_that_platform_has_a_row(name):
    assert re.search(rf"^\| `{name}`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", ["ssgd", "asgd", "pa", "fast"])
def test_the_strategies_are_what_the_page_says(name):
    [other] = re.findall(rf"^\| `{name}` \| .* \| `(\w+)` with .* \|$", PAGE, re.MULTILINE)
    assert other in strategies
    assert f"`{other}` with" in strategies[name].factory.__doc__
